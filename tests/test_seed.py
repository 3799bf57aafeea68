"""The first rows of a tenant: written as the tenant's own role, in the transaction that makes it active."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from mt_paas_db.catalog.values import Tenant, TenantState
from mt_paas_db.core import TenantManager, seed
from mt_paas_db.errors import ConfigurationError, ProvisioningError, UnknownTenantError
from tests.fingerprint import strays
from tests.fleet import PASSWORD, Service
from tests.models import Base, Note

INSERT = "INSERT INTO note (body, mood, tags) VALUES ('{}', 'calm', '{{}}')"


def welcome(session: Session, tenant: Tenant) -> None:
    session.add(Note(body=f"welcome, {tenant.display_name}"))


def identity(session: Session, _: Tenant) -> None:
    """Write down who the seed is, as the server sees it."""
    query = "SELECT current_user || ' ' || current_schema() || ' ' || current_setting('mt_paas.tenant')"
    session.add(Note(body=session.scalar(text(query))))


async def blocking_it_is_not(session: Session, tenant: Tenant) -> None: ...


class Asynchronous:
    async def __call__(self, session: Session, tenant: Tenant) -> None: ...


@pytest.fixture(params=["superuser", "createrole"])
def admin(request: pytest.FixtureRequest, service: Service) -> Iterator[str]:
    """The name of an admin role: a superuser, or one that owns the database and may create roles."""
    if request.param == "superuser":
        yield "postgres"
        return
    with service.managed() as role:
        yield role


@pytest.fixture
def opened(service: Service, admin: str) -> Callable[..., TenantManager]:
    """Return a manager of `admin` with a seed; its installation is made."""

    def open_manager(planted: Any = None) -> TenantManager:
        plain = service.settings()
        cluster = plain.clusters["main"].model_dump()
        if admin != "postgres":
            cluster["admin_dsn"] = service.server.dsn(service.database, user=admin, password=PASSWORD)
        settings = service.settings(clusters={"main": cluster})
        manager = TenantManager(settings, models=Base, seed=planted)
        service.managers.append(manager)
        manager.init()
        return manager

    return open_manager


def notes(manager: TenantManager, tenant_id: str = "hallym") -> list[str]:
    with manager.get_session(tenant_id) as session:
        return list(session.scalars(select(Note.body).order_by(Note.id)))


def file(folder: Path, *statements: str) -> Path:
    path = folder / "first.sql"
    path.write_text(";\n".join(statements) + ";\n", encoding="utf-8")
    return path


def memberships(service: Service, admin: str) -> list[str]:
    """The tenants' roles that `admin` may act as."""
    with service.superuser() as connection:
        able = "pg_has_role(%(admin)s, r.oid, 'USAGE') OR pg_has_role(%(admin)s, r.oid, %(take)s)"
        take = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
        query = f"SELECT rolname FROM pg_roles r JOIN mt_paas.tenant t ON t.role_name = r.rolname WHERE {able}"
        return [row[0] for row in connection.execute(query.encode(), {"admin": admin, "take": take}).fetchall()]


# -- what a seed may be


def test_a_callable(opened: Callable[..., TenantManager], service: Service, admin: str) -> None:
    manager = opened(identity)
    tenant = manager.create("hallym")
    name = tenant.placement.schema_name
    assert notes(manager) == [f"{name} {name} hallym"]
    assert tenant.state is TenantState.ACTIVE
    assert admin == "postgres" or memberships(service, admin) == []


def test_an_sql_file(opened: Callable[..., TenantManager], service: Service, admin: str, tmp_path: Path) -> None:
    path = file(tmp_path, "-- 100% :plain", INSERT.format("첫 행 100% :x %s"), INSERT.format("second"))
    manager = opened(str(path))
    manager.create("hallym")
    assert notes(manager) == ["첫 행 100% :x %s", "second"]
    assert admin == "postgres" or memberships(service, admin) == []


def test_a_function_by_its_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT_PAAS_DB_SEED", "tests.test_seed:welcome")
    manager = service.manager()
    manager.init()
    manager.create("hallym", display_name="한림대학교")
    assert notes(manager) == ["welcome, 한림대학교"]


@pytest.mark.parametrize("override", ["tests.test_seed:identity", identity])
def test_one_creations_own(service: Service, override: Any) -> None:
    manager = TenantManager(service.settings(), models=Base, seed=welcome)
    service.managers.append(manager)
    manager.init()
    manager.create("hallym", seed=override)
    manager.create("korea")
    assert notes(manager)[0].endswith(" hallym")
    assert notes(manager, "korea") == ["welcome, korea"]


def test_an_empty_file(service: Service, tmp_path: Path) -> None:
    manager = service.manager()
    manager.init()
    (tmp_path / "empty.sql").touch()
    assert manager.create("hallym", seed=tmp_path / "empty.sql").state is TenantState.ACTIVE


@pytest.mark.parametrize(
    "wrong",
    [
        blocking_it_is_not,
        "tests.test_seed:blocking_it_is_not",
        "absent.sql",
        Path("absent.sql"),
        Path("/"),
        "/",
        "tests.test_seed",
        "tests.test_seed:absent",
        "no_such_module:seed",
        42,
    ],
    ids=lambda wrong: wrong.__name__ if callable(wrong) else repr(wrong),
)
def test_what_is_no_seed(service: Service, wrong: Any) -> None:
    manager = TenantManager(service.settings(), models=Base, seed=wrong)
    service.managers.append(manager)
    manager.init()
    plain = service.manager()
    with pytest.raises(ConfigurationError, match="seed"):
        manager.create("hallym")
    with pytest.raises(ConfigurationError, match="seed"):
        plain.create("hallym", seed=wrong)
    assert strays(service) == set()
    assert manager.list() == []


# -- what a seed may do: what a session may


@contextmanager
def as_owner_instead(step: Any, tenant: Tenant, _: Any) -> Iterator[None]:
    """The broken twin of acting as the tenant."""
    step.run("tenant_path", schema=tenant.placement.schema_name)
    yield
    step.run("admin_path")


TRESPASSES = ["SELECT * FROM {neighbour}.note", "CREATE TABLE planted (id int)", "SELECT * FROM mt_paas.tenant"]


@pytest.mark.parametrize("trespass", TRESPASSES)
def test_a_seed_is_refused_what_a_session_is(
    opened: Callable[..., TenantManager], trespass: str, service: Service
) -> None:
    manager = opened()
    statement = trespass.format(neighbour=manager.create("korea").placement.schema_name)
    with pytest.raises(ProvisioningError, match="permission denied") as caught:
        manager.create("hallym", seed=lambda session, _: session.execute(text(statement)))
    assert "korea" not in caught.value.tenant_id
    assert [tenant.tenant_id for tenant in manager.list()] == ["korea"]
    assert strays(service) == set()


@pytest.mark.parametrize("trespass", TRESPASSES)
def test_a_seed_run_as_the_owner_would_not_be(service: Service, monkeypatch: pytest.MonkeyPatch, trespass: str) -> None:
    manager = service.manager()
    manager.init()
    statement = trespass.format(neighbour=manager.create("korea").placement.schema_name)
    monkeypatch.setattr(seed, "_as_tenant", as_owner_instead)
    manager.create("hallym", seed=lambda session, _: session.execute(text(statement)))


# -- whose transaction it is


def test_its_commits_and_rollbacks_are_its_own(opened: Callable[..., TenantManager]) -> None:
    def wilful(session: Session, _: Tenant) -> None:
        session.add(Note(body="kept"))
        session.commit()
        session.add(Note(body="dropped"))
        session.flush()
        session.rollback()
        session.add(Note(body="last"))

    manager = opened(wilful)
    assert manager.create("hallym").state is TenantState.ACTIVE
    assert notes(manager) == ["kept", "last"]


def raises_late(session: Session, _: Tenant) -> None:
    session.add(Note(body="lost"))
    session.commit()
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("failing", "what"),
    [
        (raises_late, "KeyError: 'oops'"),
        (lambda session, _: session.execute(text("SELECT 1/0")), "division by zero"),
        (lambda session, _: session.add(Note(body=None)), "null value"),
        (Asynchronous(), "coroutine"),
    ],
    ids=["python", "sql", "flush", "coroutine"],
)
def test_a_seed_that_fails_leaves_nothing(
    opened: Callable[..., TenantManager], service: Service, admin: str, failing: Any, what: str
) -> None:
    manager = opened(failing)
    with pytest.raises(ProvisioningError, match=what):
        manager.create("hallym")
    with pytest.raises(UnknownTenantError):
        manager.get("hallym")
    assert strays(service) == set()
    assert [(event.action, event.outcome) for event in manager.events("hallym")] == [("create", "failed")]
    manager.create("hallym", seed=welcome)
    assert notes(manager) == ["welcome, hallym"]
    assert admin == "postgres" or memberships(service, admin) == []


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"])
def test_an_sql_file_that_ends_the_transaction(
    opened: Callable[..., TenantManager], service: Service, admin: str, tmp_path: Path, end: str
) -> None:
    # Behind a COMMIT the admin would act as itself.
    manager = opened(file(tmp_path, INSERT.format("first"), end, "CREATE TABLE public.trespass (id int)"))
    with pytest.raises(ProvisioningError, match="would end the transaction"):
        manager.create("hallym")
    assert strays(service) == set()
    assert manager.list() == []
    with service.superuser() as su:
        assert su.execute("SELECT to_regclass('public.trespass')").fetchone() == (None,)
    manager.create("hallym", seed=welcome)
    assert notes(manager) == ["welcome, hallym"]
    assert admin == "postgres" or memberships(service, admin) == []


def test_a_callable_that_ends_the_transaction(opened: Callable[..., TenantManager], service: Service) -> None:
    manager = opened(lambda session, _: session.execute(text("COMMIT")))
    with pytest.raises(ProvisioningError, match="would end the transaction"):
        manager.create("hallym")
    assert strays(service) == set()
    assert manager.list() == []
    manager.create("hallym", seed=welcome)
    assert notes(manager) == ["welcome, hallym"]
