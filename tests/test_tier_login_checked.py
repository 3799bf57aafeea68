"""`doctor` and `audit` know the logins of tier `login`: no false finding, and what is wrong with one is found."""

from __future__ import annotations

import dataclasses

import psycopg
import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.isolation.audit import Severity, audit
from tests.fleet import Service
from tests.test_tier_login import SECRET

OF_RELEASE = {"server-advisory", "server-release"}


@dataclasses.dataclass(frozen=True)
class Names:
    app: str
    group: str
    login: str
    tenant: str
    neighbour: str
    neighbours_login: str
    database: str


@pytest.fixture
def manager(service: Service) -> TenantManager:
    """hallym, korea and snu at tier `login`, with snu suspended, and pnu with the shared login."""
    made = service.manager(login_secret=SECRET, shared_schemas=("mt_test_shared",))
    made.init()
    for tenant_id in ("hallym", "korea", "snu"):
        made.create(tenant_id, tier="login")
    made.create("pnu")
    made.suspend("snu")
    return made


@pytest.fixture
def names(service: Service, manager: TenantManager) -> Names:
    ours, theirs = (manager.get(tenant_id).placement for tenant_id in ("hallym", "korea"))
    return Names(
        service.login,
        f"{service.name}_tenant",
        ours.login_role,
        ours.role_name,
        theirs.role_name,
        theirs.login_role,
        service.database,
    )


def told(manager: TenantManager) -> list[str]:
    return [
        finding.message
        for result in manager.doctor().results
        if result.id != "server.version"
        for finding in result.findings
    ]


def audited(manager: TenantManager) -> list[str]:
    return [f.id for f in audit(manager).findings if f.id not in OF_RELEASE and f.severity is not Severity.INFO]


def test_a_sound_fleet_has_no_finding(manager: TenantManager) -> None:
    manager.read_only("korea")
    assert told(manager) == []
    assert audited(manager) == []
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    assert told(manager) == []
    assert audited(manager) == []


_FAULTS: dict[str, tuple[str, str, set[str]]] = {
    "it has a power": ("ALTER ROLE {login} CREATEROLE", "has CREATEROLE", {"role-powers"}),
    "it bypasses policies": ("ALTER ROLE {login} BYPASSRLS", "has BYPASSRLS", {"role-powers"}),
    "it may take a neighbour's role": (
        "GRANT {neighbour} TO {login}",
        "is a member of '{neighbour}'",
        {"own-login-member"},
    ),
    "it may take a neighbour's login": (
        "GRANT {neighbours_login} TO {login}",
        "is a member of '{neighbours_login}'",
        {"own-login-member"},
    ),
    "it may act as the shared login": ("GRANT {app} TO {login}", "is a member of '{app}'", {"own-login-member"}),
    "it reads everything": (
        "GRANT pg_read_all_data TO {login}",
        "is a member of 'pg_read_all_data'",
        {"predefined-role"},
    ),
    "it may let others in": (
        "GRANT {tenant} TO {login} WITH ADMIN OPTION",
        "may grant it to others",
        {"login-admin"},
    ),
    "the shared login may take its tenant's role": (
        "GRANT {tenant} TO {app}",
        "is a member of '{tenant}', which is no tenant's role",
        {"login-member"},
    ),
    "it has rights in a neighbour's schema": (
        "GRANT USAGE ON SCHEMA {neighbour} TO {login}",
        "{login} ",
        {"foreign-rights"},
    ),
    "it starts as itself": ("ALTER ROLE {login} RESET role", "starts with role = 'nothing'", set()),
    "it starts as a neighbour": (
        "ALTER ROLE {login} SET role = {neighbour}",
        "starts with role = '{neighbour}'",
        {"own-login-setting"},
    ),
    "it starts on another path": (
        "ALTER ROLE {login} SET search_path = public",
        "starts with search_path = 'public'",
        {"own-login-setting"},
    ),
    "it starts on another path in this database": (
        "ALTER ROLE {login} IN DATABASE {database} SET search_path = public",
        "has a search_path of its own in database",
        {"own-login-setting"},
    ),
    "it may not log in": ("ALTER ROLE {login} NOLOGIN", "cannot log in", set()),
    "it does not inherit": ("ALTER ROLE {login} NOINHERIT", "is NOINHERIT", set()),
    "the group may not connect": (
        "REVOKE CONNECT ON DATABASE {database} FROM {group}",
        "may not connect",
        set(),
    ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_what_is_wrong_with_a_login_is_found(
    service: Service, manager: TenantManager, names: Names, fault: str
) -> None:
    plant, said, rules = _FAULTS[fault]
    values = dataclasses.asdict(names)
    with service.superuser() as su:
        su.execute(plant.format(**values).encode())
    messages = told(manager)
    assert any(said.format(**values).strip() in message for message in messages), messages
    assert rules <= set(audited(manager))


def test_a_closed_tenants_open_login_is_found_and_the_mend_closes_it(service: Service, manager: TenantManager) -> None:
    login = manager.get("snu").placement.login_role
    with service.superuser() as su:
        su.execute(f"ALTER ROLE {login} LOGIN".encode())
        assert any("may still log in" in message for message in told(manager))
        (finding,) = [f for f in audit(manager).findings if f.id not in OF_RELEASE]
        assert (finding.id, finding.object) == ("inactive-login", login)
        su.execute((finding.mend or "").encode())
    assert told(manager) == []
    assert audited(manager) == []


def test_a_closed_tenants_connection_is_found(service: Service, manager: TenantManager) -> None:
    """What a process killed between the two steps of a suspension leaves."""
    with psycopg.connect(manager.dsn("hallym")), service.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET state = 'suspended' WHERE tenant_id = 'hallym'")
        assert any("is still connected" in message for message in told(manager))
        su.execute("UPDATE mt_paas.tenant SET state = 'active' WHERE tenant_id = 'hallym'")


def test_a_lost_login_is_found(service: Service, manager: TenantManager) -> None:
    with service.superuser() as su:
        su.execute(f"DROP ROLE {manager.get('hallym').placement.login_role}".encode())
    assert any("is missing" in message for message in told(manager))
