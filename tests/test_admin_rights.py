"""The whole lifecycle with each kind of admin: a superuser, and one as managed servers give it.

That one is no superuser. It has CREATEROLE and CREATEDB, and it has made the database itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from mt_paas_db.core import ClusterSettings, Tenant, TenantManager, TenantState
from mt_paas_db.core.checks import Finding, Report
from mt_paas_db.errors import MissingRightsError, TenantNotReadyError, TenantSuspendedError
from tests.fleet import PASSWORD, Service
from tests.ground_truth import server_state
from tests.models import Note

ManagerAs = Callable[[str], TenantManager]


@pytest.fixture
def dba(service: Service) -> Iterator[str]:
    """An admin that is no superuser, and owns the service's database."""
    with service.managed() as role:
        yield role


@pytest.fixture
def manager_as(service: Service) -> ManagerAs:
    """Makes a manager whose admin DSN logs in as a role."""

    def make(admin: str) -> TenantManager:
        settings = service.settings()
        dsn = service.server.dsn(service.database, user=admin, password=None if admin == "postgres" else PASSWORD)
        cluster: ClusterSettings = settings.clusters["main"].model_copy(update={"admin_dsn": SecretStr(dsn)})
        manager = TenantManager(settings.model_copy(update={"clusters": {"main": cluster}}), models=service.models)
        service.managers.append(manager)
        return manager

    return make


@pytest.fixture(params=["superuser", "managed"])
def manager(request: pytest.FixtureRequest, manager_as: ManagerAs) -> TenantManager:
    return manager_as("postgres" if request.param == "superuser" else request.getfixturevalue("dba"))


def findings(report: Report) -> list[Finding]:
    return [f for result in report.results if result.id != "server.version" for f in result.findings]


def first_note(session: Session, tenant: Tenant) -> None:
    session.add(Note(body=f"welcome to {tenant.display_name}"))


def bodies(manager: TenantManager, tenant_id: str) -> list[str]:
    with manager.get_session(tenant_id) as session:
        return list(session.scalars(select(Note.body)))


def test_a_whole_life(manager: TenantManager, service: Service) -> None:
    first = manager.init()
    assert manager.init() == first
    manager.create("hallym", display_name="Hallym", seed=first_note)
    manager.create("korea")
    assert bodies(manager, "hallym") == ["welcome to Hallym"]
    assert findings(manager.doctor()) == []

    manager.suspend("hallym", reason="payment")
    with pytest.raises(TenantSuspendedError, match="payment"):
        bodies(manager, "hallym")
    manager.read_only("hallym")
    assert bodies(manager, "hallym") == ["welcome to Hallym"]
    manager.maintenance("hallym")
    with pytest.raises(TenantNotReadyError):
        bodies(manager, "hallym")
    manager.resume("hallym")
    with manager.get_session("hallym") as session:
        session.add(Note(body="again"))
    manager.rename("hallym", "hallym-univ")
    manager.archive("hallym-univ")
    assert findings(manager.doctor()) == []
    manager.restore("hallym-univ")
    assert sorted(bodies(manager, "hallym")) == ["again", "welcome to Hallym"]

    manager.archive("hallym-univ")
    manager.delete("hallym-univ", confirm="hallym-univ")
    manager.create("hallym-univ")
    assert bodies(manager, "hallym-univ") == []
    assert bodies(manager, "korea") == []
    assert findings(manager.doctor()) == []
    assert [tenant.state for tenant in manager.list()] == [TenantState.ACTIVE] * 2


def test_an_admin_is_left_with_no_tenants_role(dba: str, manager_as: ManagerAs, service: Service) -> None:
    manager = manager_as(dba)
    manager.init()
    role = manager.create("hallym", seed=first_note).placement.role_name
    usable = "SET" if server_version(service) >= 160_000 else "MEMBER"
    with service.superuser() as su:
        taken = su.execute("SELECT pg_has_role(%s, %s, %s)", (dba, role, usable)).fetchone()
    assert taken == (False,)


def test_init_by_one_that_may_create_no_roles_changes_nothing(service: Service, manager_as: ManagerAs) -> None:
    admin = service.make_admin("x_dba", "CREATEDB")
    before = server_state(service)
    with pytest.raises(MissingRightsError, match="CREATEROLE"):
        manager_as(admin).init()
    assert server_state(service) == before


# -- an admin other than the one that ran init


@pytest.mark.parametrize("words", ["CREATEROLE CREATEDB", "CREATEDB"])
def test_the_doctor_says_what_another_admin_lacks_and_what_gives_it(
    dba: str, manager_as: ManagerAs, service: Service, words: str
) -> None:
    first = manager_as(dba)
    first.init()
    first.create("hallym")
    other = service.make_admin("y_dba", words)
    with service.superuser() as su:
        grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
        su.execute(grant.format(sql.Identifier(service.database), sql.Identifier(other)))
    second = manager_as(other)
    with pytest.raises(MissingRightsError, match="lacks a right"):
        second.suspend("hallym")
    assert first.get("hallym").state is TenantState.ACTIVE

    for _ in range(3):  # the tenants can be looked at once the owner's role can be taken
        mends = [finding.mend for finding in findings(second.doctor()) if finding.mend and other in finding.mend]
        if not mends:
            break
        with service.superuser() as su:
            for mend in mends:
                su.execute(mend.encode())

    assert findings(second.doctor()) == []
    second.suspend("hallym")
    second.resume("hallym")
    second.create("korea")
    for tenant_id in ("hallym", "korea"):
        second.archive(tenant_id)
        second.delete(tenant_id, confirm=tenant_id)
    assert second.list() == []


def server_version(service: Service) -> int:
    with service.superuser() as su:
        return su.info.server_version
