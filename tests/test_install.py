"""``init``: what it makes, that it makes it once, and that it leaves nothing behind when it fails.

Longer than most: each demand on the installation needs a server in a state of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import ForeignKey, Identity, MetaData, func, make_url, select, text
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mt_paas_db.catalog.values import CATALOG_VERSION
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    ConfigurationError,
    InstallationTakenError,
    InvalidIdentifierError,
    MissingRightsError,
    SchemaMissingError,
    ServerUnavailableError,
    TenancyError,
    TenantSuspendedError,
)
from tests.fleet import PASSWORD, Service
from tests.ground_truth import CLUSTER_STATE, app_dsn, clusters, server_state
from tests.models import Note
from tests.servers import PostgresServer
from tests.servers.processes import free_port

# -- what it makes


def test_roles_have_no_powers(service: Service, manager: TenantManager) -> None:
    with service.superuser() as connection:
        rows = connection.execute(
            "SELECT rolname, rolcanlogin, rolinherit, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
            " OR rolbypassrls FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY 1",
            (f"{service.name}_",),
        ).fetchall()
    assert rows == [
        (f"{service.name}_app", True, False, False),
        (f"{service.name}_owner", False, False, False),
        (f"{service.name}_reference", False, True, False),
        (f"{service.name}_tenant", False, False, False),
    ]


def test_the_owner_owns_everything_of_the_catalog(service: Service, manager: TenantManager) -> None:
    with service.superuser() as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'mt_paas'::regnamespace"
            " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'mt_paas'::regnamespace"
            " UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'mt_paas'"
        ).fetchall()
    assert owners == [(f"{service.name}_owner",)]


def test_it_returns_the_installation(service: Service) -> None:
    made = service.manager(shared_schemas=("reference",), opaque_names=True).init()
    assert (made.name, made.catalog_version, made.opaque_names) == (service.name, CATALOG_VERSION, True)
    assert made.shared_schemas == ("reference",)
    assert made.cache_bound_s > 0


def test_the_password_is_kept_as_a_scram_verifier_and_opens_the_door(service: Service, manager: TenantManager) -> None:
    with service.superuser() as connection:
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (service.login,)).fetchone()
    assert row is not None
    assert row[0].startswith("SCRAM-SHA-256$")
    assert PASSWORD not in row[0]
    with psycopg.connect(app_dsn(service)) as connection:
        assert connection.execute("SELECT session_user").fetchone() == (service.login,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(service.server.dsn(service.database, user=service.login, password="wrong"))


def test_the_password_never_reaches_the_servers_log_in_clear(own_server: PostgresServer) -> None:
    service = Service(own_server)
    with service.superuser("postgres") as connection:
        connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        connection.execute("SELECT pg_reload_conf()")
    with service.superuser() as connection:  # a new connection has the new setting
        assert connection.execute("SHOW log_statement").fetchone() == ("all",)
    service.manager().init()
    assert own_server._folder is not None
    log = (own_server._folder / "log").read_text()
    assert "SCRAM-SHA-256$" in log
    assert PASSWORD not in log


def test_public_loses_the_database_and_its_public_schema(service: Service, manager: TenantManager) -> None:
    stranger = f"{service.name}_stranger"
    with service.superuser() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(stranger)))
        assert connection.execute(
            "SELECT has_database_privilege(%(who)s, current_database(), 'CONNECT'),"
            " has_database_privilege(%(who)s, current_database(), 'TEMP'),"
            " has_database_privilege(%(who)s, current_database(), 'CREATE'),"
            " has_schema_privilege(%(who)s, 'public', 'USAGE'), has_schema_privilege(%(who)s, 'public', 'CREATE')",
            {"who": stranger},
        ).fetchone() == (False, False, False, False, False)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(service.server.dsn(service.database, user=stranger, password="x"))


# -- what the login role may do


_BEYOND_THE_LOGIN = """
CREATE TEMP TABLE t (a int)
CREATE TABLE t (a int)
CREATE TABLE public.t (a int)
CREATE SCHEMA s
CREATE ROLE r
SELECT * FROM note
SELECT * FROM {schema}.note
INSERT INTO {schema}.note (body) VALUES ('x')
SELECT * FROM public.note
SELECT * FROM mt_paas.tenant
SELECT * FROM mt_paas.tenant_name
SELECT * FROM mt_paas.installation
SELECT * FROM mt_paas.cluster
SELECT * FROM mt_paas.cell
SELECT * FROM mt_paas.event
SELECT * FROM mt_paas.alembic_version
UPDATE mt_paas.tenant SET state = 'active'
INSERT INTO mt_paas.event (actor, action, tenant_id, outcome) VALUES ('a', 'b', 'c', 'd')
DELETE FROM mt_paas.tenant_name
SELECT nextval('mt_paas.tenant_generation')
SELECT mt_paas.refuse_change()
CREATE FUNCTION mt_paas.f() RETURNS int LANGUAGE sql AS 'SELECT 1'
ALTER FUNCTION mt_paas.resolve(text) SECURITY INVOKER
SET ROLE {owner}
GRANT {schema} TO {login} WITH ADMIN OPTION
GRANT {group} TO {login}
"""


def test_the_login_role_is_refused_everything(fleet: Service, manager: TenantManager) -> None:
    roles = manager._admin.roles
    names = {
        "schema": manager.get("hallym").placement.schema_name,
        "owner": roles.owner,
        "group": roles.group,
        "login": roles.login,
    }
    before = server_state(fleet)
    with psycopg.connect(app_dsn(fleet), autocommit=True) as connection:
        for line in _BEYOND_THE_LOGIN.strip().splitlines():
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(line.format(**names))
                pytest.fail(f"allowed: {line}")
            # 42P01 and 3F000: nothing of that name is to be found; 42501 and 0LP01: it may not.
            assert caught.value.sqlstate in {"42501", "42P01", "3F000", "0LP01"}, line
    assert server_state(fleet) == before


def test_the_login_role_may_call_nothing_but_resolve(fleet: Service) -> None:
    with fleet.superuser() as connection:
        callable_ = connection.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')"
            "   AND has_function_privilege(%(who)s, p.oid, 'EXECUTE')"
            "   AND has_schema_privilege(%(who)s, n.oid, 'USAGE')",
            {"who": fleet.login},
        ).fetchall()
        readable = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
            "   AND c.relkind IN ('r', 'v', 'm', 'p')"
            "   AND has_any_column_privilege(%s, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')",
            (fleet.login,),
        ).fetchall()
    assert callable_ == [("mt_paas.resolve(text)",)]
    assert readable == []


def test_the_login_roles_path_resolves_nothing(fleet: Service) -> None:
    with psycopg.connect(app_dsn(fleet)) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ('pg_catalog, "$user", pg_temp',)
        assert connection.execute("SELECT current_schemas(false)").fetchone() == (["pg_catalog"],)


def test_resolve_answers_one_row_whatever_is_asked(fleet: Service) -> None:
    hostile = ["hallym", "nobody", "", "'; DROP TABLE mt_paas.tenant; --", "%", "한림", "x" * 10_000, None]
    with psycopg.connect(app_dsn(fleet)) as connection:
        for name in hostile:
            rows = connection.execute("SELECT tenant_id FROM mt_paas.resolve(%s)", (name,)).fetchall()
            assert rows == [("hallym" if name == "hallym" else None,)]


# -- twice


class Shop(DeclarativeBase):
    """Models with a shared table, a shared type, and a tenant's own that uses both."""

    metadata = MetaData()


GRADE = ENUM("gold", "plain", name="grade", schema="reference", metadata=Shop.metadata)


class Country(Shop):
    __tablename__ = "country"
    __table_args__ = {"schema": "reference"}  # noqa: RUF012  (SQLAlchemy's own form)

    code: Mapped[str] = mapped_column(primary_key=True)
    grade: Mapped[str] = mapped_column(GRADE, server_default="plain")


class Customer(Shop):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    country: Mapped[str] = mapped_column(ForeignKey("reference.country.code"))
    grade: Mapped[str] = mapped_column(GRADE, server_default="gold")


def test_a_second_run_changes_nothing(service: Service) -> None:
    options: dict[str, Any] = {"models": Shop, "shared_schemas": ("reference",)}
    manager = service.manager(**options)
    first = manager.init()
    manager.create("hallym", aliases=["chat.hallym.ac.kr"])
    manager.create("korea")
    manager.suspend("korea", reason="payment", note="unpaid")
    before = server_state(service)
    assert manager.init() == first
    assert service.manager(**options).init() == first
    assert server_state(service) == before


def test_a_second_run_with_another_password_does_not_lock_out_the_first(
    service: Service, manager: TenantManager
) -> None:
    other = service.server.dsn(service.database, user=service.login, password="another")
    service.manager(clusters=clusters(other, service.server.dsn(service.database))).init()
    assert manager.readiness().ok


def test_many_at_once_make_one_installation(service: Service) -> None:
    """As replicas do that all run ``init`` when they start."""
    managers = [service.manager() for _ in range(6)]
    for _ in range(3):  # the first round creates, the others find it there
        barrier = threading.Barrier(len(managers))

        def start(manager: TenantManager, barrier: threading.Barrier = barrier) -> str:
            barrier.wait(10)
            return manager.init().name

        with ThreadPoolExecutor(len(managers)) as pool:
            outcomes = [pool.submit(start, manager) for manager in managers]
        assert [outcome.exception() for outcome in outcomes] == [None] * len(managers)
    assert managers[0].doctor().ok


def test_a_database_whose_public_schema_was_dropped_will_do(service: Service) -> None:
    """As hardened servers have it."""
    with service.superuser() as connection:
        connection.execute("DROP SCHEMA public")
    manager = service.manager()
    manager.init()
    manager.create("hallym")
    _put(manager, "hallym", "here")
    assert manager.doctor().ok


@pytest.mark.parametrize("database", ["My Database", 'a"quote', "it's", "100%", "a%sb", "한글"])
def test_a_database_may_be_called_anything(service: Service, database: str) -> None:
    with service.superuser("postgres") as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    url = make_url(service.server.dsn()).set(database=database)
    app = url.set(username=service.login, password=PASSWORD)
    dsns = [part.render_as_string(hide_password=False) for part in (app, url)]
    manager = service.manager(clusters=clusters(*dsns))
    try:
        manager.init()
        manager.create("hallym")
        _put(manager, "hallym", "here")
        assert manager.doctor().ok
    finally:
        manager.close()
        with service.superuser("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))


# -- refusals


def test_a_name_that_another_database_has_is_refused(service: Service, manager: TenantManager) -> None:
    other = Service(service.server)
    try:
        admin = other.server.dsn(other.database)
        claimant = other.manager(
            installation=service.name,
            clusters=clusters(app_dsn(service, database=other.database), admin),
        )
        before = server_state(service), server_state(other)
        with pytest.raises(InstallationTakenError) as caught:
            claimant.init()
        assert caught.value.cluster == "main"
        assert f"{service.name}_owner" in str(caught.value)
        assert f"in database {service.database}" in str(caught.value)
        assert (server_state(service), server_state(other)) == before
    finally:
        other.close()


def test_a_name_whose_role_is_not_ours_is_refused(service: Service) -> None:
    with service.superuser() as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"{service.name}_owner")))
    before = server_state(service)
    with pytest.raises(InstallationTakenError, match="a role that mt_paas_db did not make"):
        service.manager().init()
    assert server_state(service) == before


def test_a_database_with_another_installations_catalog_is_refused(service: Service, manager: TenantManager) -> None:
    other = f"{service.name}x"
    login = f"{other}_app"
    claimant = service.manager(
        installation=other, clusters=clusters(app_dsn(service, user=login), service.server.dsn(service.database))
    )
    before = server_state(service)
    with pytest.raises(InstallationTakenError) as caught:
        claimant.init()
    assert f"{service.name}_owner" in str(caught.value)
    assert service.database in str(caught.value)
    assert server_state(service) == before


def test_nothing_is_done_on_another_installations_catalog(service: Service, manager: TenantManager) -> None:
    with closing(Service(service.server)) as other:
        other.manager().init()
        dsns = clusters(app_dsn(service, user=other.login), service.server.dsn(service.database))
        astray = service.manager(installation=other.name, clusters=dsns)
        with pytest.raises(ConfigurationError) as caught:
            astray.create("hallym")
    assert f"{service.name}_owner" in str(caught.value)
    assert service.database in str(caught.value)
    assert manager.list() == []


@pytest.mark.parametrize("user", ["postgres", "somebody", None])
def test_an_app_dsn_of_another_role_is_refused(service: Service, user: str | None) -> None:
    app = service.server.dsn(service.database, user=user or "nobody", password=PASSWORD)
    if user is None:
        app = app.replace(f"nobody:{PASSWORD}@", "")
    before = server_state(service)
    with pytest.raises(ConfigurationError) as caught:
        service.manager(clusters=clusters(app, service.server.dsn(service.database))).init()
    assert repr(service.login) in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert server_state(service) == before


def test_an_admin_without_rights_changes_nothing(service: Service) -> None:
    clerk = f"{service.name}_clerk"
    with service.superuser() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(clerk)))
    before = server_state(service)
    admin = service.server.dsn(service.database, user=clerk, password="x")
    with pytest.raises(MissingRightsError) as caught:
        service.manager(clusters=clusters(app_dsn(service), admin)).init()
    assert "permission denied" in str(caught.value)
    assert server_state(service) == before


def test_a_server_that_is_down_is_named(service: Service) -> None:
    port = free_port()
    down = f"postgresql://{{}}:{PASSWORD}@127.0.0.1:{port}/{service.database}"
    manager = service.manager(clusters=clusters(down.format(service.login), down.format("postgres")))
    with pytest.raises(ServerUnavailableError) as caught:
        manager.init()
    assert caught.value.cluster == "main"
    assert str(port) in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_database_that_does_not_exist_is_named(service: Service) -> None:
    admin = service.server.dsn("no_such_database")
    with pytest.raises(ServerUnavailableError, match="no_such_database"):
        service.manager(clusters=clusters(app_dsn(service), admin)).init()


# -- a failing run leaves nothing


def _conflicting_schema(connection: psycopg.Connection[Any], service: Service) -> None:
    connection.execute("CREATE SCHEMA reference")


def _foreign_control_schema(connection: psycopg.Connection[Any], service: Service) -> None:
    connection.execute("CREATE SCHEMA mt_paas")


@pytest.mark.parametrize("sabotage", [_conflicting_schema, _foreign_control_schema])
def test_a_conflict_leaves_nothing_behind(
    service: Service, sabotage: Callable[[psycopg.Connection[Any], Service], None]
) -> None:
    with service.superuser() as connection:
        sabotage(connection, service)
    before = server_state(service)
    with pytest.raises(InstallationTakenError, match="postgres"):
        service.manager(models=Shop, shared_schemas=("reference",)).init()
    assert server_state(service) == before


def test_shared_models_that_fail_leave_nothing_behind(service: Service) -> None:
    class Broken(DeclarativeBase):
        metadata = MetaData()

    class Row(Broken):
        __tablename__ = "row"
        __table_args__ = {"schema": "reference"}  # noqa: RUF012

        id: Mapped[int] = mapped_column(primary_key=True, server_default=func.no_such_function())

    before = server_state(service)
    with pytest.raises((TenancyError, DBAPIError)):
        service.manager(models=Broken, shared_schemas=("reference",)).init()
    assert server_state(service) == before


def test_a_run_that_is_killed_leaves_nothing_behind(service: Service) -> None:
    """It is held where the roles are made already, by a lock on the database's row, and its backend killed."""
    before = server_state(service)
    with service.superuser() as connection:
        killer = service.superuser()
        with connection.transaction(force_rollback=True), killer, ThreadPoolExecutor(1) as pool:
            connection.execute(
                sql.SQL("GRANT TEMP ON DATABASE {} TO postgres").format(sql.Identifier(service.database))
            )
            outcome = pool.submit(service.manager().init)
            _terminate_when_blocked(killer, connection.info.backend_pid)
            assert isinstance(outcome.exception(30), (TenancyError, DBAPIError))
    assert server_state(service) == before
    service.manager().init()


def _terminate_when_blocked(killer: psycopg.Connection[Any], by: int) -> None:
    for _ in range(3_000):
        killed = killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
            (by,),
        ).fetchall()
        if killed:
            return
        killer.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("init was never blocked")


# -- roles that were there before


@pytest.mark.parametrize("power", ["SUPERUSER NOINHERIT", "BYPASSRLS NOINHERIT", "CREATEROLE NOINHERIT", "INHERIT"])
def test_a_login_role_with_powers_is_not_taken_over(service: Service, power: LiteralString) -> None:
    """Either it is refused, or it loses the power: an app that is a superuser isolates nobody."""
    with service.superuser() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN {}").format(sql.Identifier(service.login), sql.SQL(power)))
    manager = service.manager()
    try:
        manager.init()
    except TenancyError:
        return
    with service.superuser() as connection:
        row = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolinherit FROM pg_roles WHERE rolname = %s",
            (service.login,),
        ).fetchone()
    assert row == (False, False, False, False)


def test_a_group_role_with_rights_is_not_taken_over(service: Service) -> None:
    """Every tenant role inherits the group's rights: a foreign one would let each read all."""
    with service.superuser() as connection:
        group = sql.Identifier(f"{service.name}_tenant")
        connection.execute(sql.SQL("CREATE ROLE {}").format(group))
        connection.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(group))
    manager = service.manager()
    try:
        manager.init()
    except TenancyError:
        return
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    schema = manager.get("korea").placement.schema_name
    with manager.get_session("hallym") as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(text(f'SELECT count(*) FROM "{schema}".note'))


# -- shared schemas


@pytest.fixture
def shop(service: Service) -> TenantManager:
    """Two tenants with a shared table and type; the owner has put two countries into it."""
    manager = service.manager(models=Shop, shared_schemas=("reference",))
    manager.init()
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    with service.superuser() as connection:
        connection.execute("INSERT INTO reference.country VALUES ('kr', 'gold'), ('jp', 'plain')")
    return manager


def test_shared_tables_and_types_are_made_once(service: Service, shop: TenantManager) -> None:
    with service.superuser() as connection:
        tables = connection.execute(
            "SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'country'"
        ).fetchall()
        types = connection.execute(
            "SELECT typnamespace::regnamespace::text, pg_get_userbyid(typowner) FROM pg_type WHERE typname = 'grade'"
        ).fetchall()
    assert tables == types == [("reference", f"{service.name}_owner")]


def test_every_tenant_reads_what_is_shared_and_writes_none_of_it(shop: TenantManager) -> None:
    for tenant_id in ("hallym", "korea"):
        with shop.get_session(tenant_id) as session:
            assert session.execute(text("SELECT count(*) FROM country")).scalar_one() == 2
            assert session.scalars(select(Country.code).order_by(Country.code)).all() == ["jp", "kr"]
        for statement in (
            "INSERT INTO country VALUES ('us', 'plain')",
            "UPDATE country SET grade = 'gold'",
            "DELETE FROM country",
            "TRUNCATE country",
            "CREATE TABLE reference.mine (a int)",
            "ALTER TYPE reference.grade ADD VALUE 'mine'",
        ):
            with shop.get_session(tenant_id, commit=False) as session, pytest.raises(DBAPIError) as caught:
                session.execute(text(statement))
            assert getattr(caught.value.orig, "sqlstate", None) == "42501", statement


def test_a_tenants_table_may_refer_to_a_shared_one(shop: TenantManager) -> None:
    with shop.get_session("hallym") as session:
        session.add(Customer(country="kr"))
    with shop.get_session("korea") as session:
        assert session.scalars(select(Customer)).all() == []
    with shop.get_session("hallym", commit=False) as session, pytest.raises(DBAPIError, match="foreign key"):
        session.add(Customer(country="xx"))
        session.flush()


def test_a_shared_table_made_later_is_readable_through_the_group_alone(service: Service, shop: TenantManager) -> None:
    with service.superuser() as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"{service.name}_owner")))
        connection.execute("CREATE TABLE reference.later AS SELECT 1 AS a")
        connection.execute("RESET ROLE")
        grantees = connection.execute(
            "SELECT DISTINCT grantee::regrole::text, privilege_type FROM pg_class, aclexplode(relacl)"
            " WHERE relnamespace = 'reference'::regnamespace AND grantee <> relowner"
        ).fetchall()
    assert grantees == [(f"{service.name}_tenant", "SELECT")]
    with shop.get_session("korea") as session:
        assert session.execute(text("SELECT a FROM later")).scalar_one() == 1


def test_a_tenants_schema_cannot_be_declared_shared(service: Service, fleet: Service, manager: TenantManager) -> None:
    """It belongs to the owner, as a shared schema does; sharing it would open one tenant to all."""
    schema = manager.get("hallym").placement.schema_name
    before = server_state(service)
    with pytest.raises(TenancyError):
        service.manager(shared_schemas=(schema,)).init()
    assert server_state(service) == before


def test_models_of_an_undeclared_schema_are_refused(service: Service) -> None:
    with pytest.raises(ConfigurationError, match="reference"):
        service.manager(models=Shop)


@pytest.mark.parametrize("name", ["pg_shared", "public", "mt_paas"])
def test_a_reserved_schema_cannot_be_declared_shared(service: Service, name: str) -> None:
    with pytest.raises((ConfigurationError, InvalidIdentifierError)):
        service.manager(shared_schemas=(name,))


# -- several installations on one server


@pytest.fixture
def neighbours(server: PostgresServer) -> Iterator[tuple[Service, Service]]:
    """Two services whose names are such that a name of one may be a name of the other: x and x_b."""
    outer = Service(server)
    inner = Service(server, name=f"{outer.name}_b")
    yield outer, inner
    for made in [*outer.managers, *inner.managers]:
        made.close()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for service in (outer, inner):
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(service.database)))
        # Also inner's roles begin with outer's name.
        for (role,) in connection.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (f"{outer.name}_",)
        ).fetchall():
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _put(manager: TenantManager, tenant_id: str, body: str) -> None:
    with manager.get_session(tenant_id) as session:
        session.add(Note(body=body))


def _bodies(session: Session) -> list[str]:
    return list(session.scalars(select(Note.body).order_by(Note.id)))


def test_two_installations_with_the_same_tenant_do_not_touch_each_other(neighbours: tuple[Service, Service]) -> None:
    one, two = (service.manager() for service in neighbours)
    for manager in (one, two):
        manager.init()
        manager.create("hallym")
        _put(manager, "hallym", f"of {manager.settings.installation}")
    names = {manager.get("hallym").placement.role_name for manager in (one, two)}
    assert len(names) == 2

    one.suspend("hallym")
    with pytest.raises((TenantSuspendedError, SchemaMissingError)), one.get_session("hallym") as session:
        _bodies(session)
    with two.get_session("hallym") as session:
        assert _bodies(session) == [f"of {two.settings.installation}"]

    one.archive("hallym")
    before = server_state(neighbours[1])
    one.delete("hallym", confirm="hallym")
    after = server_state(neighbours[1])
    gone = {row[0] for row in before["roles"]} - {row[0] for row in after["roles"]}
    assert gone == {f"{one.settings.installation}_hallym_1"}
    for what in before.keys() - CLUSTER_STATE.keys():
        assert after[what] == before[what]
    with two.get_session("hallym") as session:
        assert _bodies(session) == [f"of {two.settings.installation}"]
    assert two.doctor().ok

    # A login of one cannot even connect to the other's database.
    stranger, home = neighbours
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(home.server.dsn(home.database, user=stranger.login, password=PASSWORD))


def test_a_name_that_both_would_derive_is_used_once(neighbours: tuple[Service, Service]) -> None:
    """``x`` with ``b-c`` and ``x_b`` with ``c`` at equal generations."""
    outer, inner = (service.manager() for service in neighbours)
    for manager in (outer, inner):
        manager.init()
    first = outer.create("b-c").placement.role_name
    second = inner.create("c").placement.role_name
    assert first == f"{outer.settings.installation}_b_c_1"
    assert second == f"{inner.settings.installation}_c_2"
    _put(outer, "b-c", "outer")
    _put(inner, "c", "inner")
    with outer.get_session("b-c") as session:
        assert _bodies(session) == ["outer"]
    with inner.get_session("c") as session:
        assert _bodies(session) == ["inner"]
    inner.archive("c")
    inner.delete("c", confirm="c")
    with outer.get_session("b-c") as session:
        assert _bodies(session) == ["outer"]
    assert outer.doctor().ok


def test_a_name_that_both_derive_at_the_same_time_is_used_once(neighbours: tuple[Service, Service]) -> None:
    """The other's role is not committed yet when ours is made: the server then says 'duplicate key'."""
    outer, inner = neighbours
    manager = inner.manager()
    manager.init()
    taken = f"{inner.name}_c_1"
    with outer.superuser() as connection, outer.superuser() as watcher, ThreadPoolExecutor(1) as pool:
        with connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(taken)))
            outcome = pool.submit(manager.create, "c")
            _wait_until_blocked(watcher, connection.info.backend_pid)
        created = outcome.result(30)
    assert created.placement.role_name == f"{inner.name}_c_2"


def _wait_until_blocked(watcher: psycopg.Connection[Any], by: int) -> None:
    for _ in range(3_000):
        if watcher.execute("SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))", (by,)).fetchone():
            return
        watcher.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nothing was ever blocked")


# -- an admin that is no superuser


@pytest.fixture
def dba(server: PostgresServer) -> Iterator[str]:
    """A role that may create roles and owns the service's database, as managed servers give one."""
    name = "mt_test_dba"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'x'").format(sql.Identifier(name)))
    yield name
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_an_admin_that_owns_the_database_and_may_create_roles_suffices(dba: str, service: Service) -> None:
    with service.superuser() as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(service.database), sql.Identifier(dba))
        )
    admin = service.server.dsn(service.database, user=dba, password="x")
    manager = service.manager(clusters=clusters(app_dsn(service), admin), models=Shop, shared_schemas=("reference",))
    first = manager.init()
    assert manager.init() == first
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    manager.rename("korea", "korea-univ")
    manager.add_alias("hallym", "chat.hallym.ac.kr")
    with manager.get_session("chat.hallym.ac.kr") as session:
        assert session.scalars(select(Customer)).all() == []
    assert manager.doctor().ok
    manager.suspend("hallym")
    with pytest.raises(TenantSuspendedError), service.manager(shared_schemas=("reference",)).get_session("hallym"):
        pass
    manager.resume("hallym")
    with manager.get_session("hallym") as session:
        assert session.scalars(select(Customer)).all() == []
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    assert [tenant.tenant_id for tenant in manager.list()] == ["korea-univ"]
    manager.archive("korea-univ")
    manager.delete("korea-univ", confirm="korea-univ")
    with service.superuser() as connection:
        left = connection.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY 1", (f"{service.name}_",)
        ).fetchall()
    assert left == [(f"{service.name}_{kind}",) for kind in ("app", "owner", "reference", "tenant")]
