"""Attacks that tier `role` promises to stop, on every route; and each layer broken, to see the attack succeed.

An attack returns what it learned. `LEAKS` says what each layer is for: with the layer broken, the attack that
the layer stops must learn korea's canary, else the attack would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.errors import ContextLostError, NoTenantError, TenancyError
from mt_paas_db.session import pin as pin_module
from mt_paas_db.session.dialects import pinning
from tests.conftest import bouncer_for
from tests.fleet import ROUTES, Route, Runner, Service
from tests.models import Note
from tests.servers import PostgresServer

CANARY = "CANARY-of-korea"


def seed(runner: Runner) -> str:
    """Give korea a canary and hallym rows of its own, on one connection; return korea's schema."""
    runner.run("korea", lambda session: session.add(Note(body=CANARY)))
    runner.run("hallym", lambda session: session.add(Note(body="hallym's own")))
    return runner.manager.get("korea").placement.schema_name


@pytest.fixture
def korea(runner: Runner) -> str:
    return seed(runner)


@pytest.fixture(scope="module", params=ROUTES, ids=str)
def standing(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[tuple[Runner, str]]:
    """A fleet that stands for the whole module: attacks that fail leave it as it was, which each test checks."""
    route: Route = request.param
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    service = Service(server)
    with ExitStack() as stack:
        stack.callback(service.close)
        manager = service.manager()
        manager.init()
        for tenant_id in ("hallym", "korea"):
            manager.create(tenant_id)
        pooler = stack.enter_context(bouncer_for(service)) if route.pooled else None
        one = service.manager(pooler=pooler, pool_size=1, pool_timeout_s=5, **route.options)
        runner = Runner(one, route)
        stack.callback(runner.close)
        yield runner, seed(runner)


def attempt(runner: Runner, attack: Callable[[Session], object], **options: Any) -> str:
    """Run an attack in hallym's session; return everything it learned, errors included."""
    learned: list[str] = []

    def scenario(session: Session) -> None:
        learned.append(repr(attack(session)))

    try:
        runner.run("hallym", scenario, **options)
    except (DBAPIError, TenancyError) as error:
        learned.append(f"{type(error).__name__}: {error}")
    return "\n".join(learned)


def rows(session: Session, sql: str) -> list[Any]:
    return list(session.execute(text(sql)).all())


def statements(session: Session, *sqls: str) -> list[Any]:
    """Send statements one after the other; return the last one's rows."""
    for sql in sqls[:-1]:
        session.execute(text(sql))
    return rows(session, sqls[-1])


# Each takes a session of hallym and korea's schema. {k} is that schema.
ATTACKS: dict[str, tuple[str, ...]] = {
    "qualified name": ("SELECT body FROM {k}.note",),
    "search_path by SET": ("SET search_path = {k}", "SELECT body FROM note"),
    "search_path by SET LOCAL": ("SET LOCAL search_path = {k}, pg_temp", "SELECT body FROM note"),
    "search_path by set_config": ("SELECT set_config('search_path', '{k}', true)", "SELECT body FROM note"),
    "RESET ROLE": ("RESET ROLE", "SELECT body FROM {k}.note"),
    "RESET SESSION AUTHORIZATION": ("RESET SESSION AUTHORIZATION", "SELECT body FROM {k}.note"),
    "RESET ALL": ("RESET ALL", "SELECT body FROM {k}.note"),
    "DISCARD ALL": ("DISCARD ALL", "SELECT body FROM {k}.note"),
    "SET SESSION AUTHORIZATION": ("SET SESSION AUTHORIZATION {k}", "SELECT body FROM {k}.note"),
    "raw COMMIT": ("COMMIT", "SELECT body FROM {k}.note"),
    "raw COMMIT AND CHAIN": ("COMMIT AND CHAIN", "SELECT body FROM {k}.note"),
    "raw ROLLBACK": ("ROLLBACK", "SELECT body FROM {k}.note"),
    "raw END then path": ("END", "SET search_path = {k}", "SELECT body FROM note"),
    "query_to_xml": ("SELECT query_to_xml('SELECT body FROM {k}.note', true, false, '')",),
    "DO block": (
        "DO $$ BEGIN PERFORM set_config('mt.stolen', (SELECT body FROM {k}.note LIMIT 1), true); END $$",
        "SELECT current_setting('mt.stolen')",
    ),
    "function in own schema": (
        "CREATE FUNCTION steal() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT body FROM {k}.note LIMIT 1'",
        "SELECT steal()",
    ),
    "write to the neighbour": ("INSERT INTO {k}.note (body, mood, tags) VALUES ('x', 'calm', '{{}}') RETURNING body",),
    "truncate own table": ("TRUNCATE note", "SELECT 'CANARY-of-korea'"),
    "nextval of the neighbour": ("SELECT nextval('{k}.note_id_seq'), 'CANARY-of-korea'",),
    "temporary table": ("CREATE TEMP TABLE note AS SELECT 'CANARY-of-korea' AS body", "SELECT body FROM note"),
    "table in pg_temp": ("CREATE TABLE pg_temp.note (body text)", "SELECT 'CANARY-of-korea'"),
    "estimates of the neighbour": ("EXPLAIN SELECT body FROM {k}.note WHERE body = 'CANARY-of-korea'",),
    "statistics of the neighbour": ("SELECT most_common_vals::text FROM pg_stats WHERE schemaname = '{k}'",),
    "statements of others": (
        "SELECT query FROM pg_stat_activity WHERE query LIKE '%CANARY-of%' AND usename <> current_user",
    ),
    "privileges of the catalog": ("SELECT tenant_id FROM mt_paas.tenant",),
    "resolve as a tenant": ("SELECT * FROM mt_paas.resolve('korea')",),
    "grant to oneself": ("GRANT {k} TO CURRENT_USER", "SELECT body FROM {k}.note"),
    "foreign key to the neighbour": (
        "ALTER TABLE remark ADD FOREIGN KEY (note_id) REFERENCES {k}.note (id)",
        "SELECT 'CANARY-of-korea'",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_learns_nothing(standing: tuple[Runner, str], name: str) -> None:
    runner, korea = standing
    sqls = [sql.format(k=korea) for sql in ATTACKS[name]]

    learned = attempt(runner, lambda session: statements(session, *sqls))

    # The statement itself, which an error quotes, may hold the word; rows and server messages may not.
    for sql in sqls:
        learned = learned.replace(sql, "")
    assert CANARY not in learned
    seen = runner.run("hallym", lambda session: session.execute(text("SELECT body FROM note")).scalars().all())
    assert seen == ["hallym's own"]
    assert runner.run("korea", lambda session: rows(session, "SELECT body FROM note")) == [(CANARY,)]


@pytest.mark.parametrize("sql", ["SET ROLE {k}", "SELECT set_config('role', '{k}', true)"])
def test_set_role_is_not_stopped_at_this_tier_and_the_docs_say_so(runner: Runner, korea: str, sql: str) -> None:
    learned = attempt(
        runner, lambda session: statements(session, sql.format(k=korea), f"SELECT body FROM {korea}.note")
    )

    assert CANARY in learned
    assert runner.run("hallym", lambda session: rows(session, "SELECT body FROM note")) == [("hallym's own",)]


def test_several_statements_in_one_text_stay_inside(runner: Runner, korea: str) -> None:
    learned = attempt(
        runner, lambda session: rows(session, f"COMMIT; BEGIN; SET search_path = {korea}; SELECT body FROM note")
    )

    assert CANARY not in learned


def test_what_a_session_left_on_the_connection_is_gone(runner: Runner, korea: str) -> None:
    """Session-level role, path, timeout, a WITH HOLD cursor and a LISTEN, all committed by hallym."""

    def leave(session: Session) -> None:
        session.execute(text("DECLARE held CURSOR WITH HOLD FOR SELECT body FROM note"))
        session.execute(text("LISTEN hallym_channel"))
        session.execute(text("SET statement_timeout = '20s'"))
        session.execute(text(f"SET search_path = {korea}"))
        session.execute(text(f"SET ROLE {korea}"))
        session.commit()

    runner.run("hallym", leave)

    def look(session: Session) -> tuple[Any, ...]:
        return (
            rows(session, "SELECT name FROM pg_cursors WHERE is_holdable"),
            rows(session, "SELECT pg_listening_channels()"),
            rows(session, "SHOW statement_timeout"),
            rows(session, "SELECT body FROM note"),
        )

    assert runner.run("korea", look) == ([], [], [("0",)], [(CANARY,)])
    assert at_rest(runner, "SELECT current_user") == [(runner.manager.settings.installation + "_app",)]


def at_rest(runner: Runner, sql: str) -> list[Any]:
    """Run SQL on the pooled connection between transactions, past SQLAlchemy and the guard."""
    engines = runner.manager._door.engines
    if not runner.route.is_async:
        with engines.blocking("main").connect() as connection:
            driver: Any = connection.connection.driver_connection
            return list(driver.execute(sql).fetchall())

    async def look() -> list[Any]:
        async with engines.asyncio("main").connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            if runner.route.driver == "asyncpg":
                return [tuple(row) for row in await driver.fetch(sql)]
            return list(await (await driver.execute(sql)).fetchall())

    found: list[Any] = runner.await_(look)
    return found


# -- each layer broken: the attack it stops must succeed


def break_pin(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    original = pin_module.Pin.begin_message

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        return change(original(self, isolation_level, verify=verify))

    monkeypatch.setattr(pin_module.Pin, "begin_message", begin_message)


def without(part: bytes) -> Callable[[bytes], bytes]:
    return lambda message: b";".join(p for p in message.split(b";") if part not in p)


def test_twin_without_the_role_a_statement_has_no_rights_at_all(
    runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login role has nothing: even with the pin's role lost, the session fails closed."""
    break_pin(monkeypatch, without(b"SET LOCAL ROLE"))

    with pytest.raises((DBAPIError, TenancyError)):
        runner.run("hallym", lambda session: rows(session, "SELECT body FROM note"))


def test_twin_login_that_inherits_reads_the_neighbour_after_a_raw_commit(
    runner: Runner, korea: str, fleet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    unguarded(runner)
    inherit = "WITH INHERIT TRUE" if runner.manager._admin and server_version(fleet) >= 160_000 else ""
    with fleet.superuser() as su:
        su.execute(f"ALTER ROLE {fleet.login} INHERIT; GRANT {korea} TO {fleet.login} {inherit}")
    reopen(runner)

    learned = attempt(runner, lambda session: statements(session, "RESET ROLE", f"SELECT body FROM {korea}.note"))

    assert CANARY in learned


def test_twin_usage_granted_to_public_reads_the_neighbour(runner: Runner, korea: str, fleet: Service) -> None:
    with fleet.superuser() as su:
        su.execute(f"GRANT USAGE ON SCHEMA {korea} TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA {korea} TO PUBLIC")

    learned = attempt(runner, lambda session: rows(session, f"SELECT body FROM {korea}.note"))

    assert CANARY in learned


def test_twin_without_the_scrub_a_stray_role_stays_on_the_connection(
    runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")
    monkeypatch.setattr(pinning, "ROLLBACK", b"ROLLBACK")

    def leave(session: Session) -> None:
        session.execute(text(f"SET ROLE {korea}"))
        session.commit()

    runner.run("hallym", leave)

    # Behind PgBouncer the server connection keeps it, direct the client's.
    assert at_rest(runner, "SELECT current_user") == [(korea,)]


def test_twin_with_session_level_settings_the_tenant_stays_on_the_connection(
    runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_pin(monkeypatch, lambda message: message.replace(b"SET LOCAL ", b"SET "))
    monkeypatch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")

    runner.run("korea", lambda session: rows(session, "SELECT body FROM note"))

    assert at_rest(runner, "SELECT current_user") == [(korea,)]


def test_twin_without_the_schema_check_a_missing_schema_reads_another(
    runner: Runner, korea: str, fleet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path skips what does not exist: a shared schema behind the tenant's would answer for it."""
    schema = runner.manager.get("hallym").placement.schema_name
    fleet.manager(shared_schemas=("bystander",)).init()
    with fleet.superuser() as su:
        su.execute(f"SET ROLE {fleet.name}_owner; CREATE TABLE bystander.note (body varchar(200))")
        su.execute("INSERT INTO bystander.note VALUES ('a bystander')")
    runner.manager._door.resolver._known.clear()
    assert "hallym's own" in attempt(runner, lambda session: rows(session, "SELECT body FROM note"))
    with fleet.superuser() as su:
        su.execute(f"DROP SCHEMA {schema} CASCADE")

    assert "SchemaMissingError" in attempt(runner, lambda session: rows(session, "SELECT body FROM note"))

    break_pin(monkeypatch, without(b"has_schema_privilege"))
    assert "a bystander" in attempt(runner, lambda session: rows(session, "SELECT body FROM note"))


def test_twin_without_the_guard_the_server_is_asked_after_a_raw_commit(
    runner: Runner, korea: str, fleet: Service
) -> None:
    """The guard refuses first; where a client cannot see it, the login without rights does."""
    sqls = ("COMMIT", f"SELECT body FROM {korea}.note")
    assert "ContextLostError" in attempt(runner, lambda session: statements(session, *sqls))

    unguarded(runner)

    learned = attempt(runner, lambda session: statements(session, *sqls))
    assert "permission denied" in learned
    assert CANARY not in learned


def unguarded(runner: Runner) -> None:
    engines = runner.manager._door.engines
    if not runner.route.is_async:
        dialect: Any = engines.blocking("main").dialect
        dialect.guard = None
        return

    async def remove() -> None:
        dialect: Any = engines.asyncio("main").dialect
        dialect.guard = None

    runner.await_(remove)


def reopen(runner: Runner) -> None:
    """Close the pool's connections, so that the next one is new."""
    if runner.route.is_async:
        runner.await_(runner.manager.aio.close)
    else:
        runner.manager.close()


def server_version(fleet: Service) -> int:
    with fleet.superuser() as su:
        return su.info.server_version


# -- the guard and the engine


def test_a_connection_without_a_tenant_can_do_nothing(runner: Runner, korea: str) -> None:
    engines = runner.manager._door.engines
    if not runner.route.is_async:
        with engines.blocking("main").connect() as connection, pytest.raises(NoTenantError):
            connection.execute(text("SELECT 1"))
        return

    async def bare() -> None:
        async with engines.asyncio("main").connect() as connection:
            with pytest.raises(NoTenantError):
                await connection.execute(text("SELECT 1"))

    runner.await_(bare)


def test_a_raw_driver_connection_has_no_rights(runner: Runner, korea: str) -> None:
    with pytest.raises(Exception, match="permission denied"):
        at_rest(runner, f"SELECT body FROM {korea}.note")
    with pytest.raises(Exception, match="permission denied"):
        at_rest(runner, "CREATE TEMP TABLE x (y int)")


def test_autocommit_and_two_phase_are_refused(runner: Runner) -> None:
    def autocommit(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})

    assert "AutocommitError" in attempt(runner, autocommit)

    def engine_of_autocommit(session: Session) -> None:
        engine: Any = session.get_bind()
        engine.execution_options(isolation_level="AUTOCOMMIT").connect()

    for _ in range(3):  # the pool has fewer connections than that, and none is lost
        assert "AutocommitError" in attempt(runner, engine_of_autocommit)

    def two_phase(session: Session) -> None:
        engine: Any = session.get_bind()
        with engine.connect() as connection:
            connection.begin_twophase()

    if not runner.route.is_async:
        assert "two-phase" in attempt(runner, two_phase)
    assert runner.run("hallym", lambda session: rows(session, "SELECT 1")) == [(1,)]


def test_after_a_begin_hook_raised_nothing_runs_without_a_pin(runner: Runner, korea: str) -> None:
    def scenario(session: Session) -> str:
        engine: Any = session.get_bind()

        def explode(_connection: Any) -> None:
            raise LookupError("the hook")

        event.listen(engine, "begin", explode)
        connection = engine.connect()
        try:
            with pytest.raises(LookupError):
                connection.execute(text("SELECT 1"))
            event.remove(engine, "begin", explode)
            try:
                return str(connection.execute(text("SELECT current_setting('mt_paas.tenant')")).scalar())
            except ContextLostError as error:
                return type(error).__name__
        finally:
            connection.close()

    # With a pool of one, the session itself must not hold the connection.
    assert runner.run("hallym", scenario) in {"ContextLostError", "hallym"}
