"""What the doctor and the audit say of cells: their logins are held to what the first one's is."""

from __future__ import annotations

import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.core.checks import Finding, Report
from mt_paas_db.isolation.audit import audit
from tests.fleet import PASSWORD, Service
from tests.test_cell_moves import forget_after, login, role
from tests.test_cells import create


@pytest.fixture
def small(service: Service) -> TenantManager:
    """A manager with tenants a and b in the first cell, and c in another."""
    made = service.manager(cell_size=2)
    made.init()
    create(made, "a", "b", "c")
    return made


def execute(service: Service, statements: str) -> None:
    with service.superuser() as su:
        su.execute(statements.encode())


def of(report: Report, check: str) -> tuple[Finding, ...]:
    return next(result.findings for result in report.results if result.id == check)


FAULTS = {
    "ALTER ROLE {login} CREATEDB": "login.attributes",
    "ALTER ROLE {login} NOLOGIN": "login.attributes",
    "ALTER ROLE {login} SET search_path = public": "login.path",
    "GRANT USAGE ON SCHEMA {c} TO {login}": "login.rights",
    "GRANT SELECT ON mt_paas.tenant TO {login}": "login.rights",
    "GRANT TEMP ON DATABASE {database} TO {login}": "login.database",
    "REVOKE CONNECT ON DATABASE {database} FROM {login}": "login.database",
    "GRANT {owner} TO {login}": "login.memberships",
    "GRANT {c} TO {login} WITH ADMIN OPTION": "login.memberships",
    "REVOKE {c} FROM {login}": "tenants.server",
    "GRANT SELECT ON {a}.note TO {login}": "roles.rights",
}


def test_every_fault_of_a_further_login_is_told_and_its_mend_cures_it(service: Service, small: TenantManager) -> None:
    names = {
        "login": login(small, "c"),
        "a": role(small, "a"),
        "c": role(small, "c"),
        "owner": f"{service.name}_owner",
        "database": service.database,
    }
    assert small.doctor().ok
    for fault, check in FAULTS.items():
        execute(service, fault.format(**names))
        report = small.doctor()
        found = of(report, check)
        assert not report.ok, fault
        assert any(names["login"] in finding.message for finding in found), fault
        for finding in report.findings():
            if finding.mend and finding.mend.startswith(("ALTER", "GRANT", "REVOKE")):
                execute(service, finding.mend)
        assert small.doctor().ok, fault


def test_a_login_that_was_dropped_is_made_again_by_what_it_says(service: Service, small: TenantManager) -> None:
    lost = login(small, "c")
    execute(service, f"DROP OWNED BY {lost}; DROP ROLE {lost}")
    (finding,) = of(small.doctor(), "login.attributes")
    assert lost in finding.message
    assert finding.mend == "mt-paas-db init"
    small.init()
    (finding,) = of(small.doctor(), "tenants.server")
    assert finding.mend is not None
    execute(service, finding.mend)
    assert small.doctor().ok


def test_a_cell_beyond_the_size_is_named(service: Service, small: TenantManager) -> None:
    smaller = service.manager(cell_size=1)
    (finding,) = of(smaller.doctor(), "cells.size")
    assert "'default' has 2 tenants" in finding.message
    assert finding.mend == "mt-paas-db cell split default"
    assert of(small.doctor(), "cells.size") == ()


def test_a_full_cell_that_would_fill_a_process_is_named(service: Service, small: TenantManager) -> None:
    """Measured on a fresh connection where the admin may look, and estimated elsewhere."""
    (finding,) = of(service.manager(cell_size=100_000).doctor(), "cells.size")
    assert "measured" in finding.message
    took = float(finding.message.partition("one tenant takes ")[2].partition(" MB")[0])
    assert 0.005 < took < 1
    mend = finding.mend or ""
    fits = int(mend.partition("CELL_SIZE=")[2].partition(",")[0])
    assert of(service.manager(cell_size=fits).doctor(), "cells.size") == ()


def test_where_it_cannot_be_measured_it_is_estimated(service: Service) -> None:
    with service.managed() as admin:
        cluster = {
            "app_dsn": service.server.dsn(service.database, user=service.login, password=PASSWORD),
            "admin_dsn": service.server.dsn(service.database, user=admin, password=PASSWORD),
        }
        manager = service.manager(clusters={"main": cluster}, cell_size=100_000)
        manager.init()
        create(manager, "a")
        (finding,) = of(manager.doctor(), "cells.size")
        assert "estimated for" in finding.message


def test_connections_that_do_not_last_for_a_cell_are_named(service: Service, small: TenantManager) -> None:
    (finding,) = of(service.manager(cell_size=65).doctor(), "cells.connections")
    assert "closed after 64 tenants" in finding.message
    assert "MT_PAAS_DB_POOL_MAX_TENANTS=65" in (finding.mend or "")
    for lasting in ({"cell_size": 64}, {"cell_size": 65, "pool_max_tenants": 65}, {"cell_size": 65, "pooling": "none"}):
        assert of(service.manager(**lasting).doctor(), "cells.connections") == ()


def test_what_awaits_settling_is_named_when_it_is_due(service: Service, small: TenantManager) -> None:
    small.cells.move("a", wait=False)
    assert of(small.doctor(), "cells.settled") == ()
    forget_after(service, 1)
    execute(service, "UPDATE mt_paas.tenant SET placed_at = now() - interval '1 hour'")
    report = small.doctor()
    (finding,) = of(report, "cells.settled")
    assert (report.ok, finding.mend) == (True, "mt-paas-db cell settle")
    assert service.login in finding.message
    execute(service, "UPDATE mt_paas.tenant SET state = 'suspended' WHERE tenant_id = 'a'")
    assert not small.doctor().ok
    small.cells.settle()
    assert of(small.doctor(), "cells.settled") == ()


def test_the_audit_finds_a_login_outside_its_cell(service: Service, small: TenantManager) -> None:
    execute(service, "UPDATE mt_paas.tenant SET placed_at = now() - interval '1 hour'")
    names = {"login": login(small, "c"), "a": role(small, "a")}
    execute(service, "GRANT {a} TO {login}".format(**names))
    (finding,) = [found for found in audit(small).findings if found.id == "cell-member"]
    assert (finding.severity, finding.object) == ("high", "{login} in {a}".format(**names))
    execute(service, finding.mend or "")
    assert not [found for found in audit(small).findings if found.id == "cell-member"]


def test_the_audit_bears_with_a_move_under_way(service: Service, small: TenantManager) -> None:
    small.cells.move("a", wait=False)
    (finding,) = [f for f in audit(small).findings if f.id == "cell-member"]
    assert (finding.severity, finding.mend) == ("info", None)


def test_the_audit_looks_at_a_login_without_tenants_and_at_one_without_a_cell(
    service: Service, small: TenantManager
) -> None:
    empty = login(small, "c")
    small.archive("c")
    small.delete("c", confirm="c")
    execute(service, f"ALTER ROLE {empty} CREATEROLE")
    assert ("role-powers", empty) in {(f.id, f.object) for f in audit(small).findings}
    execute(service, f"UPDATE mt_paas.cell SET login_role = 'x' WHERE login_role = '{empty}'")
    found = {(f.id, f.object) for f in audit(small).findings}
    assert ("role-powers", empty) in found
    assert ("stray-role", empty) not in found  # it is known, and `cell settle` drops it
