"""The named weakenings of `mt_paas_db.isolation.attack.Weakness`, carried out: what each layer holds, seen by its lack.

Each ground is an installation of its own that nobody mends again. What is done on the server stays until the service
is closed; what is done to our code holds only while an attack is carried out.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import Connection

from mt_paas_db.catalog.identifiers import parse_name
from mt_paas_db.errors import TenantError
from mt_paas_db.isolation.attack import Attack, Tier, Weakness
from mt_paas_db.isolation.attacks.c_residue import PGBOUNCER
from mt_paas_db.isolation.attacks.trials import GUARDS
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Finding
from mt_paas_db.session import context as session_context
from mt_paas_db.session import door, guard, orm
from mt_paas_db.session import pin as pin_module
from mt_paas_db.session.dialects import pinning
from tests.conftest import bouncer_for
from tests.fleet import Service
from tests.models import SHARED
from tests.servers import PgBouncer, PostgresServer

Patch = pytest.MonkeyPatch


class WeakGround:
    """A suite on an installation with one combination of weaknesses."""

    def __init__(
        self,
        server: PostgresServer,
        weakness: Weakness,
        stack: ExitStack,
        *,
        pooled: bool = False,
        guards: bool = False,
        prepare: Callable[[Service], None] = lambda _: None,
    ) -> None:
        self.weakness = weakness
        self.service = Service(server)
        stack.callback(self.service.close)
        manager = self.service.manager(shared_schemas=(SHARED,), guards=guards)
        manager.init()
        prepare(self.service)
        self._pooler: str | None = None
        if pooled:
            bouncer = stack.enter_context(bouncer_for(self.service))
            self._pooler = bouncer.dsn(self.service.database, user="", password="")
        self.suite = Suite(manager, self.service.models, pooler=self._pooler).__enter__()
        stack.callback(self._leave)
        for one in weakness:
            if one in ON_THE_SERVER:
                ON_THE_SERVER[one](self)

    def _leave(self) -> None:
        with suppress(Exception):  # what is weakened may not be deleted any more; the database goes as a whole
            self.suite.__exit__(None, None, None)

    def try_(self, attack: Attack) -> Finding:
        """Carry an attack out here."""
        with self._broken_code():
            return self.suite.try_(Case(attack, Route("psycopg", self._pooler is not None), "role"))

    @contextmanager
    def _broken_code(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for one in self.weakness:
                if one in IN_OUR_CODE:
                    IN_OUR_CODE[one](patch)
            yield

    # -- for the weakenings

    def execute(self, *statements: str, **names: str) -> None:
        """Execute as the superuser; ``{name}`` is filled in as an identifier."""
        identifiers = {key: sql.Identifier(value) for key, value in names.items()}
        with self.service.superuser() as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement).format(**identifiers))

    def on_shared(self, *statements: str) -> None:
        """Execute as the superuser on each of the suite's shared tables, partitions included: ``{table}``."""
        probe = self.suite.ground.shared
        assert probe is not None
        with self.service.superuser() as connection:
            for table in (*(each.name for each in probe.tables), probe.journal_part):
                for statement in statements:
                    connection.execute(statement.format(table=table).encode())

    @property
    def owner(self) -> str:
        """The role that owns all objects."""
        return f"{self.service.name}_owner"

    @property
    def parties(self) -> list[Any]:
        """The tenants that there are."""
        return [self.suite.ground.attacker, self.suite.ground.victim, self.suite.ground.heir]


# -- on the server


def inherit(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        version = connection.info.server_version
    options = " WITH INHERIT TRUE" if version >= 160_000 else ""
    weak.execute("ALTER ROLE {login} INHERIT", login=weak.service.login)
    for party in weak.parties:
        weak.execute(f"GRANT {{role}} TO {{login}}{options}", role=party.role, login=weak.service.login)


def temp_allowed(weak: WeakGround) -> None:
    weak.execute("GRANT TEMP ON DATABASE {database} TO PUBLIC", database=weak.service.database)


def stray_grant(weak: WeakGround) -> None:
    for party in weak.parties[1:]:
        weak.execute(
            "GRANT USAGE ON SCHEMA {schema} TO PUBLIC",
            "GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO PUBLIC",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON TABLES TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON SEQUENCES TO PUBLIC",
            schema=party.schema,
            owner=weak.owner,
        )


def create_allowed(weak: WeakGround) -> None:
    for party in weak.parties:
        weak.execute("GRANT CREATE ON SCHEMA {schema} TO {role}", schema=party.schema, role=party.role)


def own_tables(weak: WeakGround) -> None:
    ground = weak.suite.ground
    for table in ground.tables:
        weak.execute(
            "ALTER TABLE {schema}.{table} OWNER TO {role}",
            "GRANT ALL ON {schema}.{table} TO {owner}",
            schema=ground.attacker.schema,
            table=table,
            role=ground.attacker.role,
            owner=weak.owner,
        )


def public_execute(weak: WeakGround) -> None:
    weak.execute("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT EXECUTE ON FUNCTIONS TO PUBLIC", owner=weak.owner)


def login_superuser(weak: WeakGround) -> None:
    weak.execute("ALTER ROLE {login} SUPERUSER", login=weak.service.login)


def login_path(weak: WeakGround) -> None:
    weak.execute(
        "ALTER ROLE {login} SET search_path = {schema}",
        login=weak.service.login,
        schema=weak.suite.ground.victim.schema,
    )


def definer_without_path(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        (written,) = connection.execute("SELECT pg_get_functiondef('mt_paas.resolve'::regproc)").fetchone() or ("",)
        weaker = written.replace("'pg_catalog', 'pg_temp'", "'mt_paas'").replace("mt_paas.tenant t", "tenant t")
        assert weaker.count("'mt_paas'") == 1
        assert "JOIN tenant t" in weaker
        connection.execute(weaker.encode())


def open_policy(weak: WeakGround) -> None:
    """Written into what policies are made from, so that it holds for tables that an attack makes."""
    with weak.service.superuser() as connection:
        (written,) = connection.execute(
            "SELECT pg_get_functiondef('mt_paas.declared_policies'::regproc)"
        ).fetchone() or ("",)
        predicate = "format('(%I = ( SELECT mt_paas.tenant() AS tenant))', coalesce(tenant_column, ''))"
        assert written.count(predicate) == 1
        connection.execute(written.replace(predicate, "'true'").encode())


def reused_schema(weak: WeakGround) -> None:
    ground = weak.suite.ground
    with ground.manager.get_session(ground.heir.tenant_id) as session:
        ground.fill(session, ground.canaries["former"])
    with weak.service.superuser() as connection:
        left = (ground.canaries["former"].text("large object", 1) or "").encode()
        connection.execute("SELECT lo_from_bytea(%s, %s)", (ground.former_large_object, left))
        connection.execute(f"GRANT SELECT ON LARGE OBJECT {ground.former_large_object} TO PUBLIC".encode())


def no_policy(weak: WeakGround) -> None:
    weak.on_shared("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


def no_force(weak: WeakGround) -> None:
    weak.on_shared("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")


def context_by_setting(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        connection.execute(
            b"CREATE OR REPLACE FUNCTION mt_paas.tenant() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER "
            b"RETURN (SELECT t.generation FROM mt_paas.tenant t WHERE current_setting('mt_paas.tenant', true) "
            b"IN (t.tenant_id, t.generation::text, t.role_name))"
        )


def unled_keys(weak: WeakGround) -> None:
    probe = weak.suite.ground.shared
    assert probe is not None
    account, ledger = (name.rpartition(".")[2].strip('"') for name in (probe.account, probe.ledger))
    with weak.service.superuser() as connection:
        connection.execute(
            f"ALTER TABLE {probe.ledger} DROP CONSTRAINT {ledger}_tenant_account_fkey, "
            f"DROP CONSTRAINT {ledger}_tenant_slot_key, DROP CONSTRAINT {ledger}_tenant_seat_excl, "
            "ADD UNIQUE (slot), ADD EXCLUDE USING btree (seat WITH =);"
            f"ALTER TABLE {probe.account} DROP CONSTRAINT {account}_pkey, ADD PRIMARY KEY (id);"
            f"ALTER TABLE {probe.ledger} ADD FOREIGN KEY (account) REFERENCES {probe.account} (id) ON DELETE CASCADE"
            .encode()
        )  # fmt: skip


def shared_rights(weak: WeakGround) -> None:
    weak.execute(
        "GRANT USAGE ON SCHEMA {schema} TO PUBLIC", "GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO PUBLIC",
        schema=SHARED,
    )  # fmt: skip


def no_guard(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        for party in weak.parties:
            for table in weak.suite.ground.tables:
                statement = sql.SQL("SELECT mt_paas.unprotect({}::regclass)").format(
                    sql.Literal(sql.Identifier(party.schema, table).as_string(None))
                )
                connection.execute(statement)


def monitoring(weak: WeakGround) -> None:
    for party in weak.parties:
        weak.execute("GRANT pg_read_all_stats TO {role}", role=party.role)


def large_objects_open(weak: WeakGround) -> None:
    weak.execute("ALTER DATABASE {database} SET lo_compat_privileges = on", database=weak.service.database)


ON_THE_SERVER: dict[Weakness, Callable[[WeakGround], None]] = {
    Weakness.INHERIT: inherit,
    Weakness.SEARCH_PATH_ONLY: inherit,
    Weakness.TEMP_ALLOWED: temp_allowed,
    Weakness.STRAY_GRANT: stray_grant,
    Weakness.CREATE_ALLOWED: create_allowed,
    Weakness.OWN_TABLES: own_tables,
    Weakness.PUBLIC_EXECUTE: public_execute,
    Weakness.LOGIN_SUPERUSER: login_superuser,
    Weakness.LOGIN_PATH: login_path,
    Weakness.DEFINER_WITHOUT_PATH: definer_without_path,
    Weakness.REUSED_SCHEMA: reused_schema,
    Weakness.OPEN_POLICY: open_policy,
    Weakness.NO_POLICY: no_policy,
    Weakness.NO_FORCE: no_force,
    Weakness.CONTEXT_BY_SETTING: context_by_setting,
    Weakness.UNLED_KEYS: unled_keys,
    Weakness.SHARED_RIGHTS: shared_rights,
    Weakness.NO_GUARD: no_guard,
    Weakness.MONITORING: monitoring,
    Weakness.LARGE_OBJECTS_OPEN: large_objects_open,
}

# -- in our code


def pin_sent_as(patch: Patch, change: Callable[[bytes], bytes]) -> None:
    """Let the message that begins a transaction be another."""
    original = pin_module.Pin.begin_message

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        return change(original(self, isolation_level, verify=verify))

    patch.setattr(pin_module.Pin, "begin_message", begin_message)


def without(*parts: bytes) -> Callable[[bytes], bytes]:
    """Return what takes statements out of a message."""
    return lambda message: b";".join(s for s in message.split(b";") if not any(part in s for part in parts))


def no_scrub(patch: Patch) -> None:
    patch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")
    patch.setattr(pinning, "ROLLBACK", b"ROLLBACK")


def lazy_pin(patch: Patch) -> None:
    """Send BEGIN alone, and the pin before the first statement that is no savepoint."""
    waiting: dict[int, tuple[Any, bytes]] = {}
    original_begin, original_check = pin_module.Pin.begin_message, pinning.Pinning._check

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        begin, _, rest = original_begin(self, isolation_level, verify=verify).partition(b";")
        waiting[id(self)] = (self, rest)
        return begin

    def check(self: pinning.Pinning, statement: str, context: Any) -> None:
        original_check(self, statement, context)
        if context is None or "SAVEPOINT" in statement:
            return
        state = pinning.state_of(context.root_connection)
        _, rest = waiting.pop(id(state.pinned), (None, b""))
        if rest:
            self._send(state, rest)

    patch.setattr(pin_module.Pin, "begin_message", begin_message)
    patch.setattr(pinning.Pinning, "_check", check)


def switch_in_transaction(patch: Patch) -> None:
    pin_sent_as(patch, lambda message: b"RESET ROLE;" + message.partition(b";")[2])
    patch.setattr(pinning.Pinning, "do_begin", _begin_once(pinning.Pinning.do_begin))
    for name in ("COMMIT", "COMMIT_AND_SCRUB", "ROLLBACK"):
        patch.setattr(pinning, name, b"SELECT 1")


def _begin_once(do_begin: Any) -> Any:
    """Return a begin that begins a transaction only where there is none."""

    def begin(self: pinning.Pinning, dbapi_connection: Any) -> None:
        state = pinning.pin_state(dbapi_connection)
        if not self.in_transaction(state.driver):
            self._send(state, b"BEGIN")
        do_begin(self, dbapi_connection)

    return begin


def role_back_before_commit(patch: Patch) -> None:
    patch.setattr(pinning, "COMMIT", b"RESET ROLE;COMMIT")
    patch.setattr(pinning, "COMMIT_AND_SCRUB", b"RESET ROLE;COMMIT")


def two_phase_allowed(patch: Patch) -> None:
    def begin(self: pinning.Pinning, connection: Any, _xid: Any) -> None:
        self._send(pinning.pin_state(connection.connection), b"BEGIN")

    patch.setattr(pinning.Pinning, "do_begin_twophase", begin)


def names_folded(patch: Patch) -> None:
    def kind(name: Any) -> Any:
        plain = unicodedata.normalize("NFKC", str(name)).strip().lower()
        return parse_name("".join(letter for letter in plain if letter.isascii()))

    patch.setattr(door, "_known_name", kind)


def names_cut(patch: Patch) -> None:
    """Look up the first 62 bytes of a name, with whatever letter leads to somebody."""

    def cut(name: Any) -> Any:
        parsed = parse_name(name)
        return parse_name(f"{parsed[:62]}b") if len(parsed) >= 63 else parsed

    patch.setattr(door, "_known_name", cut)


def refusal_swallowed(patch: Patch) -> None:
    original = pinning.Pinning.do_begin

    def do_begin(self: pinning.Pinning, dbapi_connection: Any) -> None:
        try:
            original(self, dbapi_connection)
        except TenantError:
            self._send(pinning.pin_state(dbapi_connection), b"BEGIN")

    patch.setattr(pinning.Pinning, "do_begin", do_begin)


def session_kept(patch: Patch) -> None:
    """Give every tenant the first one's session, on the tenant's own engine."""
    kept: list[Any] = []

    def once(bind: Any, *, pin: pin_module.Pin, **options: Any) -> Any:
        if not kept:
            kept.append(orm.TenantSession(bind, pin=pin, **options))
            patch.setattr(kept[0], "close", kept[0].rollback)  # which keeps what was committed
        session = kept[0]
        session.bind = session._tenant_engine = bind
        session._pin, session._stamp = pin, (pin.tenant_id, pin.generation)
        return session

    patch.setattr(door, "TenantSession", once)


def no_stamp(patch: Patch) -> None:
    original = orm.TenantSession.__init__

    def without_stamp(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._stamp = None

    patch.setattr(orm.TenantSession, "__init__", without_stamp)


def no_context_check(patch: Patch) -> None:
    for module in (guard, door):
        patch.setattr(module, "tenant_in_force", lambda: None)


def context_kept(patch: Patch) -> None:
    @contextmanager
    def kept(tenant_id: str) -> Iterator[Any]:
        parsed = parse_name(tenant_id)
        session_context._current.set(parsed)  # type: ignore[arg-type]
        yield parsed

    patch.setattr(session_context, "tenant_context", kept)


IN_OUR_CODE: dict[Weakness, Callable[[Patch], None]] = {
    Weakness.SEARCH_PATH_ONLY: lambda patch: pin_sent_as(patch, without(b"SET LOCAL ROLE")),
    Weakness.NO_PATH: lambda patch: pin_sent_as(patch, without(b"search_path", b"has_schema_privilege")),
    Weakness.PATH_WITHOUT_TEMP_LAST: lambda patch: pin_sent_as(patch, lambda m: m.replace(b",pg_temp", b"")),
    Weakness.SESSION_LEVEL: lambda patch: pin_sent_as(patch, lambda m: m.replace(b"SET LOCAL ", b"SET ")),
    Weakness.NO_CLIENT_GUARD: lambda patch: patch.setattr(guard, "check_pin", lambda _connection: None),
    Weakness.NO_SCRUB: no_scrub,
    Weakness.RAW_UNNOTED: lambda patch: patch.setattr(guard.PinnedConnection, "connection", Connection.connection),
    Weakness.LAZY_PIN: lazy_pin,
    Weakness.SWITCH_IN_TRANSACTION: switch_in_transaction,
    Weakness.ROLE_BACK_BEFORE_COMMIT: role_back_before_commit,
    Weakness.TWO_PHASE_ALLOWED: two_phase_allowed,
    Weakness.NAMES_FOLDED: names_folded,
    Weakness.NAMES_CUT: names_cut,
    Weakness.ANY_ENGINE: lambda patch: patch.setattr(
        orm.TenantSession, "get_bind", lambda self, *_, bind=None, **__: bind or self.bind
    ),
    Weakness.REFUSAL_SWALLOWED: refusal_swallowed,
    Weakness.SESSION_KEPT: session_kept,
    Weakness.NO_STAMP: no_stamp,
    Weakness.NO_CONTEXT_CHECK: no_context_check,
    Weakness.CONTEXT_KEPT: context_kept,
}


class WeakGrounds:
    """Weak grounds by weakness, made when they are first needed."""

    def __init__(self, server: PostgresServer, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._made: dict[tuple[Weakness, bool, bool], WeakGround] = {}

    def of(self, attack: Attack) -> WeakGround:
        """Return the ground on which `attack` gets through."""
        pooled, guards = PGBOUNCER in attack.needs, GUARDS in attack.needs
        key = (attack.broken, pooled, guards)
        if key not in self._made:
            self._made[key] = WeakGround(self._server, attack.broken, self._stack, pooled=pooled, guards=guards)
        return self._made[key]


@contextmanager
def standing_suite(
    server: PostgresServer,
    pooler_for: Callable[[Service], PgBouncer] | None,
    *,
    guards: bool = False,
    tier: Tier = "role",
) -> Iterator[Suite]:
    """Yield a suite on an intact installation, with a PgBouncer where there is one."""
    service = Service(server)
    with ExitStack() as stack:
        stack.callback(service.close)
        secret = secrets.token_urlsafe(32)
        manager = service.manager(shared_schemas=(SHARED,), guards=guards, tier=tier, login_secret=secret)
        manager.init()
        dsn = None
        if pooler_for is not None:
            pooler = stack.enter_context(pooler_for(service))
            dsn = pooler.dsn(service.database, user="", password="")
        yield stack.enter_context(Suite(manager, service.models, pooler=dsn))
