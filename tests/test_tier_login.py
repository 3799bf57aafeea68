"""Tier `login`: a tenant's own login and connections over the same API, on every driver, direct and pooled."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.catalog.credentials import CredentialProvider, settings_credentials
from mt_paas_db.core import TenantManager, TenantState, lifecycle
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.core.bulk import NewTenant
from mt_paas_db.errors import (
    ConfigurationError,
    InvalidIdentifierError,
    MissingRightsError,
    NoOwnLoginError,
    PlacementChangedError,
    TenantSuspendedError,
)
from tests.conftest import bouncer_for
from tests.fleet import CONNECTION_LOST, PASSWORD, Route, Runner, Service
from tests.ground_truth import state_but_for_the_log
from tests.models import Note

SECRET = "a-secret-of-the-installation-of-32-characters-or-more"


def login_of(manager: TenantManager, tenant_id: str = "hallym") -> str:
    return manager.get(tenant_id).placement.login_role


def password_of(login: str) -> str:
    digest = hmac.new(SECRET.encode(), login.encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(digest).decode().rstrip("=")


def ask(service: Service, statement: str, *values: Any) -> Any:
    with service.superuser() as su:
        row = su.execute(statement.encode(), values).fetchone()
        return row[0] if row and len(row) == 1 else row


@pytest.fixture
def manager(service: Service) -> TenantManager:
    """A manager that makes tenants with a login of their own, if it is not told otherwise."""
    made = service.manager(login_secret=SECRET, tier="login")
    made.init()
    return made


@pytest.fixture
def fleet(service: Service, manager: TenantManager) -> Service:
    """hallym and korea have logins of their own, snu takes the shared one."""
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    manager.create("snu", tier="role")
    for tenant_id in ("hallym", "korea", "snu"):
        with manager.get_session(tenant_id) as session:
            session.add(Note(body=f"of {tenant_id}"))
    return service


@pytest.fixture
def runner(fleet: Service, manager: TenantManager, route: Route) -> Iterator[Runner]:
    if not route.pooled:
        made = Runner(fleet.manager(login_secret=SECRET, pool_size=1, **route.options), route)
        yield made
        made.close()
        return
    with bouncer_for(fleet, also={login: password_of(login) for login in logins(manager)}) as pooler:
        made = Runner(fleet.manager(pooler=pooler, login_secret=SECRET, pool_size=1, **route.options), route)
        yield made
        made.close()


def who(session: Session) -> tuple[str, str]:
    """Return who has connected, and who acts."""
    connected, acting = session.execute(text("SELECT session_user::text, current_user::text")).one()
    return connected, acting


def logins(manager: TenantManager) -> list[str]:
    return [tenant.placement.login_role for tenant in manager.list() if tenant.placement.tier == "login"]


def test_each_tenant_connects_as_itself_and_reads_its_own(runner: Runner, manager: TenantManager) -> None:
    for _ in range(2):
        for tenant_id in ("hallym", "snu", "korea"):
            placement = manager.get(tenant_id).placement
            assert runner.run(tenant_id, who) == (placement.login_role, placement.role_name)
            assert runner.run(tenant_id, lambda s: list(s.scalars(select(Note.body)))) == [f"of {tenant_id}"]
            runner.run(tenant_id, lambda s: s.add(Note(body="more")))
            runner.run(tenant_id, lambda s: s.execute(text("DELETE FROM note WHERE body = 'more'")) and None)
    assert len({manager.get(t).placement.login_role for t in ("hallym", "korea", "snu")}) == 3


def test_whatever_role_it_asks_for_it_reaches_no_neighbour(runner: Runner, manager: TenantManager) -> None:
    neighbour = manager.get("korea").placement
    for statement in (
        f"SET ROLE {neighbour.role_name}",
        f"SET ROLE {neighbour.login_role}",
        f"SELECT set_config('role', '{neighbour.role_name}', true)",
        f"SELECT * FROM {neighbour.schema_name}.note",
        f"SET ROLE {runner.manager._admin.roles.login}",
        f"SET ROLE {runner.manager._admin.roles.owner}",
    ):
        with pytest.raises(DBAPIError) as caught:
            runner.run("hallym", partial(Session.execute, statement=text(statement)))
        assert "permission denied" in str(caught.value)


def test_the_shared_login_cannot_be_such_a_tenant(fleet: Service, manager: TenantManager) -> None:
    for tenant_id in ("hallym", "korea"):
        role = manager.get(tenant_id).placement.role_name
        assert not ask(fleet, "SELECT pg_has_role(%s, %s, 'MEMBER')", fleet.login, role)
    assert ask(fleet, "SELECT pg_has_role(%s, %s, 'MEMBER')", fleet.login, manager.get("snu").placement.role_name)


def test_the_database_does_not_remember_each_login(fleet: Service, manager: TenantManager) -> None:
    """CONNECT comes by the group: a list of rights that grows with each tenant makes every connection slower."""
    rights = ask(fleet, "SELECT datacl::text FROM pg_database WHERE datname = current_database()")
    assert not any(login in rights for login in logins(manager))


def test_the_tier_is_chosen_for_each_tenant_and_shown(fleet: Service, manager: TenantManager) -> None:
    placement = manager.get("hallym").placement
    assert placement.tier == "login"
    assert placement.cell == placement.login_role == f"{fleet.name}_app_{manager.get('hallym').generation}"
    assert manager.get("snu").placement.tier == "role"
    assert manager.get("snu").model_dump(mode="json")["placement"]["tier"] == "role"
    made = fleet.manager(login_secret=SECRET).create_many([NewTenant("kaist"), NewTenant("yonsei")], tier="login")
    assert {tenant.placement.tier for tenant in made.created} == {"login"}
    with pytest.raises(InvalidIdentifierError, match="role and login"):
        manager.create("pnu", tier="sealed")


def test_many_are_created_at_once(manager: TenantManager) -> None:
    made = manager.create_many([NewTenant(f"t{number}") for number in range(12)], jobs=4)
    assert made.ok, made.failed


def test_without_credentials_nothing_is_created(service: Service) -> None:
    manager = service.manager()
    manager.init()
    before = state_but_for_the_log(service)
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_LOGIN_SECRET"):
        manager.create("hallym", tier="login")
    assert state_but_for_the_log(service) == before


def test_the_provider_may_know_the_credentials(service: Service) -> None:
    known: dict[str, str] = {}
    default = settings_credentials(service.settings())

    def provide(entry: str, purpose: Any, /) -> str | None:
        cluster, _, login = entry.partition("/")
        if not login:
            return default(entry, purpose)
        app = make_url(default(cluster, "app") or "")
        return known.setdefault(entry, app.set(username=login, password="kept-elsewhere").render_as_string(False))

    provider: CredentialProvider = provide
    manager = TenantManager(service.settings(), models=service.models, credentials=provider)
    service.managers.append(manager)
    manager.init()
    manager.create("hallym", tier="login")
    assert list(known) == [f"main/{login_of(manager)}"]
    with psycopg.connect(manager.dsn("hallym")) as connection:
        assert connection.info.password == "kept-elsewhere"
    with manager.get_session("hallym") as session:
        assert session.execute(text("SELECT session_user")).scalar_one() == login_of(manager)


def test_a_provider_that_answers_with_another_login_is_refused(service: Service) -> None:
    default = settings_credentials(service.settings())
    manager = TenantManager(
        service.settings(login_secret=SECRET),
        models=service.models,
        credentials=lambda entry, purpose: default("main", purpose),
    )
    service.managers.append(manager)
    manager.init()
    with pytest.raises(ConfigurationError, match=f"logs in as '{service.login}'"):
        manager.create("hallym", tier="login")


@pytest.mark.parametrize("secret", ["short", ""])
def test_a_short_secret_is_refused_and_not_shown(service: Service, secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        service.settings(login_secret=secret)
    assert "MT_PAAS_DB_LOGIN_SECRET" in str(caught.value)


# -- a DSN for a library


def test_a_library_that_connects_by_itself_is_the_tenant(fleet: Service, manager: TenantManager) -> None:
    placement = manager.get("hallym").placement
    dsn = manager.dsn("hallym")
    assert make_url(dsn).password == password_of(placement.login_role)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (placement.role_name,)
        assert connection.execute("SELECT body FROM note").fetchall() == [("of hallym",)]
        connection.execute("INSERT INTO note (body, mood, tags) VALUES ('by a library', 'calm', '{}')")
        connection.commit()
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (2,)
        connection.execute("RESET ALL")
        connection.execute("RESET ROLE")
        assert connection.execute("SELECT current_user").fetchone() == (placement.role_name,)
        connection.commit()
        for statement in (
            f"SELECT * FROM {manager.get('korea').placement.schema_name}.note",
            f"SET ROLE {manager.get('korea').placement.role_name}",
            "SELECT * FROM mt_paas.tenant",
            "SELECT * FROM mt_paas.resolve('korea')",
            "CREATE TEMP TABLE t (a int)",
            "CREATE TABLE t (a int)",
            "TRUNCATE note",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
            connection.rollback()
    engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"))
    with engine.connect() as connected:
        assert connected.execute(text("SELECT current_schema()")).scalar_one() == placement.schema_name
    engine.dispose()


def test_there_is_no_dsn_at_tier_role(fleet: Service, manager: TenantManager) -> None:
    with pytest.raises(NoOwnLoginError, match="raw_connection") as caught:
        manager.dsn("snu")
    assert caught.value.tenant_id == "snu"


# -- the lifecycle


@pytest.mark.parametrize("verb", ["suspend", "maintenance", "archive"])
def test_a_closed_tenant_has_no_connection_and_gets_none(fleet: Service, manager: TenantManager, verb: str) -> None:
    dsn, login = manager.dsn("hallym"), login_of(manager)
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT 1")
        getattr(manager, verb)("hallym")
        assert not ask(fleet, "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", login)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT body FROM note")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        psycopg.connect(dsn)
    with fleet.superuser() as su:  # each of the two locks holds alone
        su.execute(f"ALTER ROLE {login} LOGIN".encode())
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(dsn)


def test_without_ending_its_backends_a_closed_tenant_reads_on(
    fleet: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: a role that was taken at connecting is not asked for again."""
    monkeypatch.setattr(lifecycle, "end_backends", lambda step, tenant: None)
    with psycopg.connect(manager.dsn("hallym")) as connection:
        connection.execute("SELECT 1")
        manager.suspend("hallym")
        assert connection.execute("SELECT body FROM note").fetchall() == [("of hallym",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # it cannot come back once it has left
            connection.execute(f"SET ROLE NONE; SET ROLE {manager.get('hallym').placement.role_name}".encode())


@pytest.mark.parametrize("locks", [{"own_login_closes"}, {"login_leaves", "login_leaves_15"}])
def test_each_of_the_two_locks_keeps_a_closed_tenant_out(
    fleet: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch, locks: set[str]
) -> None:
    """With one of them taken out, the other holds, or the change is refused."""
    run = AdminTransaction.run

    def broken(step: AdminTransaction, name: str, /, **parts: Any) -> None:
        if name not in locks:
            run(step, name, **parts)

    dsn = manager.dsn("hallym")
    with monkeypatch.context() as patch:
        patch.setattr(AdminTransaction, "run", broken)
        if locks == {"own_login_closes"}:
            manager.suspend("hallym")
        else:
            with pytest.raises(MissingRightsError, match="still a member"):
                manager.suspend("hallym")
    if locks == {"own_login_closes"}:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(dsn)
    else:
        assert manager.get("hallym").state is TenantState.ACTIVE


def test_a_warm_process_is_told_why(runner: Runner, fleet: Service, manager: TenantManager) -> None:
    def read() -> Any:
        return runner.run("hallym", lambda session: list(session.scalars(select(Note.body))))

    assert read() == ["of hallym"]
    manager.suspend("hallym", reason="payment")
    with pytest.raises(TenantSuspendedError) as caught:
        read()
    assert caught.value.reason == "payment"
    manager.resume("hallym")
    for _ in range(20):  # PgBouncer tries a login that failed again after `server_login_retry`
        with suppress(*CONNECTION_LOST):
            assert read() == ["of hallym"]
            break
        assert runner.route.pooled
        time.sleep(0.2)
    else:
        pytest.fail("the pooler did not try again")


def test_resuming_mends_what_a_tenant_did_to_its_login(fleet: Service, manager: TenantManager) -> None:
    dsn, login = manager.dsn("hallym"), login_of(manager)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET ROLE NONE")
        connection.execute(f"ALTER ROLE {login} PASSWORD 'mine'".encode())
        connection.execute(f"ALTER ROLE {login} SET search_path = pg_catalog".encode())
        connection.execute(f"ALTER ROLE {login} IN DATABASE {fleet.database} SET search_path = pg_catalog".encode())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    manager.maintenance("hallym")
    manager.resume("hallym")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT body FROM note").fetchall() == [("of hallym",)]


def test_opening_it_again_does_not_change_the_verifier(fleet: Service, manager: TenantManager) -> None:
    """PgBouncer keeps the keys that it made of the first one, and would be locked out by another."""
    query, login = "SELECT rolpassword FROM pg_authid WHERE rolname = %s", login_of(manager)
    before = ask(fleet, query, login)
    manager.suspend("hallym")
    manager.resume("hallym")
    assert ask(fleet, query, login) == before
    assert ask(fleet, query, login_of(manager, "korea")) != before


def test_read_only_holds_for_its_own_login(fleet: Service, manager: TenantManager) -> None:
    with psycopg.connect(manager.dsn("hallym"), autocommit=True) as connection:
        manager.read_only("hallym")
        assert connection.execute("SELECT body FROM note").fetchall() == [("of hallym",)]
        for leave in ("RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION"):
            connection.execute(leave.encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM note")
    manager.resume("hallym")
    with psycopg.connect(manager.dsn("hallym"), autocommit=True) as connection:
        assert connection.execute("DELETE FROM note").rowcount == 1


def test_a_renamed_tenant_keeps_its_login(fleet: Service, manager: TenantManager) -> None:
    dsn = manager.dsn("hallym")
    manager.rename("hallym", "hallym-uni")
    assert manager.dsn("hallym-uni") == dsn == manager.dsn("hallym")
    with manager.get_session("hallym-uni") as session:
        assert list(session.scalars(select(Note.body))) == ["of hallym"]


def test_a_deleted_tenant_leaves_no_login_and_a_new_one_has_another(fleet: Service, manager: TenantManager) -> None:
    warm = fleet.manager(login_secret=SECRET)
    with warm.get_session("hallym") as session:
        session.execute(text("SELECT lo_from_bytea(0, 'x')"))
    login, dsn = login_of(manager), manager.dsn("hallym")
    before = manager.list(state=TenantState.ACTIVE)
    with psycopg.connect(dsn, autocommit=True) as connection:  # something of the login itself
        connection.execute("SET ROLE NONE")
        connection.execute("SELECT lo_from_bytea(0, 'x')")
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    assert ask(fleet, "SELECT count(*) FROM pg_roles WHERE rolname = %s", login) == 0
    assert ask(fleet, "SELECT count(*) FROM mt_paas.cell") == 2  # the default one, and korea's
    assert ask(fleet, "SELECT count(*) FROM pg_largeobject_metadata") == 0
    manager.create("hallym")
    assert login_of(manager) != login
    assert len(manager.list(state=TenantState.ACTIVE)) == len(before)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    with pytest.raises(PlacementChangedError), warm.get_session("hallym") as session:
        session.scalars(select(Note.body)).all()
    with warm.get_session("hallym") as session:
        assert list(session.scalars(select(Note.body))) == []


def test_what_another_creation_left_keeps_its_tier(service: Service, manager: TenantManager) -> None:
    manager.create("hallym")
    with service.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET state = 'provisioning'")
    before = state_but_for_the_log(service)
    with pytest.raises(ConfigurationError, match="left provisioning at tier 'login'"):
        manager.create("hallym", tier="role")
    assert state_but_for_the_log(service) == before
    assert manager.create("hallym").placement.tier == "login"
    with manager.get_session("hallym") as session:
        session.add(Note(body="complete"))


def test_the_app_password_is_none_of_theirs(fleet: Service, manager: TenantManager) -> None:
    url = make_url(manager.dsn("korea")).set(password=PASSWORD)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.render_as_string(hide_password=False))


# -- connections


@pytest.mark.parametrize("flavour", ["blocking", "asyncio"])
def test_connections_are_kept_of_those_who_were_served_last(
    service: Service, manager: TenantManager, flavour: str
) -> None:
    """One that is in use stays whatever comes; the others would fill the server, one for each tenant."""
    names = [f"t{number}" for number in range(6)]
    manager.create_many([NewTenant(name) for name in names])
    runner = Runner(
        service.manager(login_secret=SECRET, pool_size=3),
        Route("psycopg" if flavour == "blocking" else "asyncpg", False),
    )
    if flavour == "asyncio":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
        runner.await_(lambda: _serve_all(runner, names))
    else:
        with runner.manager.get_session(names[0]) as busy:
            busy.execute(text("SELECT 1"))
            for name in names[1:]:
                assert runner.run(name, who)[0] == login_of(manager, name)
            assert busy.execute(text("SELECT 1")).scalar_one() == 1
    connected = {
        name
        for name in names
        if ask(service, "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", login_of(manager, name))
    }
    assert connected == {names[0], *names[-2:]}
    runner.close()


async def _serve_all(runner: Runner, names: list[str]) -> None:
    async with runner.manager.get_session(names[0]) as busy:
        await busy.execute(text("SELECT 1"))
        for name in names[1:]:
            async with runner.manager.get_session(name) as session:
                await session.run_sync(who)
        assert (await busy.execute(text("SELECT 1"))).scalar_one() == 1
    await asyncio.sleep(0.2)  # those that are taken out are closed beside
