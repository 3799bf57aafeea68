"""The doctor: every fault that a check is for, planted on a real server, is found, and its mend cures it.

Longer than most: it is the list of what may be wrong, with one entry for each.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, select

from mt_paas_db.core import TenantManager, TenantState, checkup_connection, doctor
from mt_paas_db.core.checks import CHECKS, Finding, Report, Severity
from mt_paas_db.session.engines import LOOK_UPS
from tests.fleet import PASSWORD, Service
from tests.ground_truth import app_dsn, clusters, server_state
from tests.models import Note
from tests.servers import PgBouncer, PostgresServer
from tests.servers.processes import free_port


def found(report: Report, check_id: str | None = None) -> list[Finding]:
    """Return the findings of one check, or of all, but for the server's release, which is not ours to choose."""
    return [
        finding
        for result in report.results
        if result.id == check_id or (check_id is None and result.id != "server.version")
        for finding in result.findings
    ]


def looked(report: Report) -> list[str]:
    return [result.id for result in report.results if result.skipped is None]


def execute(service: Service, *statements: str) -> None:
    with service.superuser() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def major(service: Service) -> int:
    with service.superuser() as connection:
        return connection.info.server_version // 10_000


@dataclasses.dataclass(frozen=True)
class Names:
    """The names that a planted fault is about."""

    login: str
    owner: str
    group: str
    reference: str
    tenant: str
    neighbour: str
    database: str
    helper: str


@pytest.fixture
def names(fleet: Service, manager: TenantManager) -> Names:
    return Names(
        login=fleet.login,
        owner=f"{fleet.name}_owner",
        group=f"{fleet.name}_tenant",
        reference=f"{fleet.name}_reference",
        tenant=manager.get("hallym").placement.role_name,
        neighbour=manager.get("korea").placement.role_name,
        database=fleet.database,
        helper=f"{fleet.name}_helper",
    )


def plant(service: Service, names: Names, statements: str) -> None:
    execute(
        service, *(part.strip().format(**dataclasses.asdict(names)) for part in statements.split(";") if part.strip())
    )


# -- a sound installation


def test_a_sound_installation_has_no_finding(fleet: Service, manager: TenantManager) -> None:
    manager.suspend("korea")
    before = server_state(fleet)
    report = fleet.manager().doctor()
    assert report.ok
    assert found(report) == []
    assert looked(report) == list(CHECKS)
    assert server_state(fleet) == before


@pytest.mark.parametrize("verb", ["read_only", "maintenance", "archive"])
def test_a_tenant_that_is_not_active_is_no_finding(fleet: Service, manager: TenantManager, verb: str) -> None:
    getattr(manager, verb)("korea")
    assert found(manager.doctor()) == []


def test_a_fresh_installation_without_tenants_is_sound(manager: TenantManager) -> None:
    assert found(manager.doctor()) == []


def test_readiness_is_the_quick_part_and_needs_no_admin(fleet: Service) -> None:
    report = fleet.manager(clusters={"main": {"app_dsn": app_dsn(fleet)}}).readiness()
    assert report.ok
    assert [result.id for result in report.results] == ["server.reachable", "catalog.version"]


def test_a_report_is_plain_values(fleet: Service, names: Names, manager: TenantManager) -> None:
    plant(fleet, names, 'ALTER ROLE "{login}" CREATEDB')
    report = json.loads(json.dumps(manager.doctor().as_dict()))
    assert report["ok"] is False
    (result,) = [r for r in report["results"] if r["id"] == "login.attributes"]
    assert result["findings"] == [
        {
            "severity": "error",
            "message": f"role '{names.login}' has CREATEDB",
            "mend": f'ALTER ROLE "{names.login}" NOCREATEDB;',
        }
    ]
    assert PASSWORD not in json.dumps(report)


# -- faults, their findings and what mends them: check, what is done to the server, what the finding says

Fault = tuple[str, str, str]

_FAULTS: dict[str, Fault] = {
    **{
        f"login has {word}": ("login.attributes", f'ALTER ROLE "{{login}}" {word}', f"has {word}")
        for word in ("SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "BYPASSRLS", "REPLICATION")
    },
    "login may not log in": ("login.attributes", 'ALTER ROLE "{login}" NOLOGIN', "cannot log in"),
    "login without a path": ("login.path", 'ALTER ROLE "{login}" RESET search_path', "'of the server'"),
    "login with public on its path": (
        "login.path",
        'ALTER ROLE "{login}" SET search_path = public, "$user"',
        "public",
    ),
    "login with a path that has pg_temp first": (
        "login.path",
        'ALTER ROLE "{login}" SET search_path = "$user"',
        "could find tables",
    ),
    "public is open to PUBLIC": ("login.rights", "GRANT USAGE ON SCHEMA public TO PUBLIC", "'public'"),
    "login may create in public": ("login.rights", 'GRANT CREATE ON SCHEMA public TO "{login}"', "'public'"),
    "login may use a tenant's schema": (
        "login.rights",
        'GRANT USAGE ON SCHEMA "{tenant}" TO "{login}"',
        "hallym",
    ),
    "a tenant's schema is open to PUBLIC": ("login.rights", 'GRANT USAGE ON SCHEMA "{tenant}" TO PUBLIC', "hallym"),
    "TEMP for PUBLIC": ("login.database", 'GRANT TEMP ON DATABASE "{database}" TO PUBLIC', "TEMP"),
    "TEMP for the login": ("login.database", 'GRANT TEMP ON DATABASE "{database}" TO "{login}"', "TEMP"),
    "CREATE for the login": ("login.database", 'GRANT CREATE ON DATABASE "{database}" TO "{login}"', "CREATE"),
    "no CONNECT for the login": (
        "login.database",
        'REVOKE CONNECT ON DATABASE "{database}" FROM "{login}"',
        "may not connect",
    ),
    "login administers a tenant's role": (
        "login.memberships",
        'GRANT "{tenant}" TO "{login}" WITH ADMIN OPTION',
        "may grant",
    ),
    "a tenant's schema belongs to another": (
        "tenants.server",
        'ALTER SCHEMA "{tenant}" OWNER TO postgres',
        "belongs to 'postgres'",
    ),
    "a tenant may not use its schema": (
        "tenants.server",
        'REVOKE USAGE ON SCHEMA "{tenant}" FROM "{tenant}"',
        "may not use its schema",
    ),
    "a tenant may create in its schema": (
        "tenants.server",
        'GRANT CREATE ON SCHEMA "{tenant}" TO "{tenant}"',
        "may create objects",
    ),
    "login may not take an active tenant's role": (
        "tenants.server",
        'REVOKE "{tenant}" FROM "{login}"',
        "may not take its role",
    ),
    "login may take a suspended tenant's role": (
        "tenants.server",
        "UPDATE mt_paas.tenant SET state = 'suspended' WHERE tenant_id = 'hallym'",
        "may still take its role",
    ),
    # What follows is not one tenant's fault but the end of isolation: to call it sound is worse than not to look.
    "login may take the owner's role": ("login.memberships", 'GRANT "{owner}" TO "{login}"', "no tenant's role"),
    "login may read everything": ("login.memberships", 'GRANT pg_read_all_data TO "{login}"', "pg_read_all_data"),
    "login may take the group's role": ("login.memberships", 'GRANT "{group}" TO "{login}"', "no tenant's role"),
    "login has a path of its own in this database": (
        "login.path",
        'ALTER ROLE "{login}" IN DATABASE "{database}" SET search_path = "{tenant}"',
        "in database",
    ),
    "login has a role of its own from the start": (
        "login.path",
        'ALTER ROLE "{login}" SET role = "{tenant}"',
        "setting role",
    ),
    "login may read the catalog": ("login.rights", 'GRANT SELECT ON mt_paas.tenant TO "{login}"', "SELECT on table"),
    "login may read a column of the catalog": (
        "login.rights",
        'GRANT SELECT (tenant_id) ON mt_paas.tenant TO "{login}"',
        "SELECT on table",
    ),
    "everybody may draw a generation": (
        "login.rights",
        "GRANT USAGE ON SEQUENCE mt_paas.tenant_generation TO PUBLIC",
        "USAGE on sequence",
    ),
    "login may create in the catalog": ("login.rights", 'GRANT CREATE ON SCHEMA mt_paas TO "{login}"', "CREATE on"),
    "login may take the reference's role": (
        "roles.reference",
        'GRANT "{reference}" TO "{login}"',
        "may take the reference's role",
    ),
    "login may take the reference's role by way of a tenant's": (
        "roles.reference",
        'GRANT "{reference}" TO "{tenant}"',
        "through another role",
    ),
    "the reference's schema belongs to another": (
        "roles.reference",
        'ALTER SCHEMA "{reference}" OWNER TO postgres',
        "belongs to 'postgres'",
    ),
    "the reference's role is a superuser": ("roles.attributes", 'ALTER ROLE "{reference}" SUPERUSER', "has SUPERUSER"),
    "the reference inherits from a tenant": ("roles.memberships", 'GRANT "{tenant}" TO "{reference}"', "hallym"),
    "a tenant's role is a superuser": ("roles.attributes", 'ALTER ROLE "{tenant}" SUPERUSER', "has SUPERUSER"),
    "the owner's role is a superuser": ("roles.attributes", 'ALTER ROLE "{owner}" SUPERUSER', "has SUPERUSER"),
    "the group's role passes by row policies": (
        "roles.attributes",
        'ALTER ROLE "{group}" BYPASSRLS CREATEDB',
        "CREATEDB, BYPASSRLS",
    ),
    "a tenant inherits from its neighbour": ("roles.memberships", 'GRANT "{neighbour}" TO "{tenant}"', "korea"),
    "a tenant inherits from the owner": ("roles.memberships", 'GRANT "{owner}" TO "{tenant}"', "_owner"),
    "the group may read everything": ("roles.memberships", 'GRANT pg_read_all_data TO "{group}"', "pg_read_all_data"),
    "a tenant may grant the group": (
        "roles.memberships",
        'GRANT "{group}" TO "{tenant}" WITH ADMIN OPTION',
        "may grant",
    ),
    "a tenant may read its neighbour's tables": (
        "roles.rights",
        """GRANT USAGE ON SCHEMA "{neighbour}" TO "{tenant}";
        GRANT SELECT ON ALL TABLES IN SCHEMA "{neighbour}" TO "{tenant}" """,
        "SELECT on table",
    ),
    "a tenant may use its neighbour's schema": (
        "roles.rights",
        'GRANT USAGE ON SCHEMA "{neighbour}" TO "{tenant}"',
        "USAGE on schema",
    ),
    "every tenant may use the catalog": ("roles.rights", 'GRANT USAGE ON SCHEMA mt_paas TO "{group}"', "mt_paas"),
    "everybody may use the catalog": ("roles.rights", "GRANT USAGE ON SCHEMA mt_paas TO PUBLIC", "PUBLIC has USAGE"),
    "a tenant may read a table of the catalog": (
        "roles.rights",
        'GRANT SELECT ON mt_paas.event TO "{tenant}"',
        "mt_paas.event",
    ),
    "everybody may write a tenant's table": (
        "roles.rights",
        'GRANT INSERT ON "{tenant}".note TO PUBLIC',
        "PUBLIC has INSERT",
    ),
    "a tenant will read its neighbour's tables": (
        "roles.rights",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA "{neighbour}" GRANT SELECT ON TABLES TO "{tenant}"',
        "that will be made in schema",
    ),
    "every tenant will read every table": (
        "roles.rights",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" GRANT SELECT ON TABLES TO "{group}"',
        "that will be made in any schema",
    ),
    "a tenant has left the group": ("tenants.server", 'REVOKE "{group}" FROM "{tenant}"', "shared tables are closed"),
    "a tenant may not use a table": (
        "tenants.rights",
        'REVOKE ALL ON "{tenant}".note FROM "{tenant}"',
        "may not use table",
    ),
    "a tenant may not use a sequence": (
        "tenants.rights",
        """SET ROLE "{owner}";
        CREATE SEQUENCE "{tenant}".ticket;
        REVOKE ALL ON SEQUENCE "{tenant}".ticket FROM "{tenant}" """,
        "may not use sequence",
    ),
    "a tenant will not be able to use a table": (
        "tenants.rights",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA "{tenant}" REVOKE DELETE ON TABLES FROM "{tenant}"',
        "tables that are made",
    ),
}

# Only from PostgreSQL 16 on a membership has these options.
_FAULTS_16: dict[str, Fault] = {
    "login inherits from a tenant": (
        "login.memberships",
        'GRANT "{tenant}" TO "{login}" WITH INHERIT TRUE',
        "has the rights of",
    ),
    "login may not set a tenant's role": (
        "login.memberships",
        'GRANT "{tenant}" TO "{login}" WITH SET FALSE',
        "may not take",
    ),
    "a dba let the login inherit from a tenant": (
        "login.memberships",
        """CREATE ROLE "{helper}";
        GRANT "{tenant}" TO "{helper}" WITH ADMIN OPTION;
        SET ROLE "{helper}";
        GRANT "{tenant}" TO "{login}" WITH INHERIT TRUE""",
        "has the rights of",
    ),
    "a dba let the login take a suspended tenant's role": (
        "tenants.server",
        """CREATE ROLE "{helper}";
        GRANT "{tenant}" TO "{helper}" WITH ADMIN OPTION;
        UPDATE mt_paas.tenant SET state = 'suspended' WHERE tenant_id = 'hallym';
        REVOKE "{tenant}" FROM "{login}";
        SET ROLE "{helper}";
        GRANT "{tenant}" TO "{login}" WITH INHERIT FALSE""",
        "may still take its role",
    ),
}


@pytest.mark.parametrize("fault", [*_FAULTS, *_FAULTS_16])
def test_a_fault_is_found_and_its_mend_cures_it(fleet: Service, names: Names, fault: str) -> None:
    check_id, statements, message = {**_FAULTS, **_FAULTS_16}[fault]
    if fault in _FAULTS_16 and major(fleet) < 16:
        # The statement is of no meaning there, so nothing is left unseen.
        return
    plant(fleet, names, statements)
    try:
        report = fleet.manager().doctor()
        assert not report.ok
        findings = found(report, check_id)
        assert any(message in finding.message for finding in findings), list(report.findings())
        assert all(finding.severity is Severity.ERROR for finding in findings)
        execute(fleet, *(finding.mend for finding in found(report) if finding.mend))
        cured = fleet.manager().doctor()
        assert found(cured) == []
        assert cured.ok
    finally:
        if "{helper}" in statements:  # else the roles depend on each other when they are dropped
            plant(fleet, names, 'REVOKE "{tenant}" FROM "{helper}" CASCADE')


def test_a_role_that_the_database_sets_is_found_and_mended_from_another_database(fleet: Service, names: Names) -> None:
    """In this database every connection starts as that role, the one that would mend it too."""
    plant(fleet, names, 'ALTER DATABASE "{database}" SET role = "{tenant}"')
    (finding,) = found(fleet.manager().doctor(), "login.path")
    assert "setting role" in finding.message
    assert finding.mend is not None
    with fleet.superuser("postgres") as connection:
        connection.execute(finding.mend.encode())
    assert found(fleet.manager().doctor()) == []


def test_a_table_that_a_tenant_may_only_append_to_is_a_warning(fleet: Service, names: Names) -> None:
    plant(fleet, names, 'REVOKE UPDATE, DELETE ON "{tenant}".note FROM "{tenant}"')
    report = fleet.manager().doctor()
    (finding,) = found(report)
    assert finding.severity is Severity.WARNING
    assert "only partly" in finding.message
    assert report.ok
    execute(fleet, finding.mend or "")
    assert found(fleet.manager().doctor()) == []


def test_a_catalog_without_its_only_row_is_a_finding(fleet: Service) -> None:
    for table in ("installation", "alembic_version"):
        with fleet.superuser() as connection:
            connection.execute(
                f"ALTER TABLE mt_paas.{table} RENAME TO kept; CREATE TABLE mt_paas.{table} (LIKE mt_paas.kept)"
            )
            connection.execute(f'ALTER TABLE mt_paas.{table} OWNER TO "{fleet.name}_owner"')
            for report in (fleet.manager().readiness(), fleet.manager().doctor()):
                assert not report.ok
            connection.execute(f"DROP TABLE mt_paas.{table}; ALTER TABLE mt_paas.kept RENAME TO {table}")
    assert fleet.manager().doctor().ok


def test_what_cannot_be_mended_by_sql_says_what_to_do(fleet: Service, names: Names) -> None:
    plant(fleet, names, 'DROP SCHEMA "{tenant}" CASCADE')
    (finding,) = found(fleet.manager().doctor())
    assert finding.severity is Severity.ERROR
    assert repr(names.tenant) in finding.message
    assert finding.mend == "restore it from a backup"


@pytest.mark.parametrize(
    ("loss", "missing"),
    [
        ('DROP SCHEMA "{reference}"', "schema"),
        ('DROP OWNED BY "{reference}"; DROP ROLE "{reference}"', "role"),
        ('DROP SCHEMA "{reference}"; DROP OWNED BY "{reference}"; DROP ROLE "{reference}"', "role and schema"),
    ],
)
def test_init_makes_a_lost_reference_again(
    fleet: Service, names: Names, manager: TenantManager, loss: str, missing: str
) -> None:
    before = server_state(fleet)
    plant(fleet, names, loss)
    (finding,) = found(manager.doctor())
    assert f"the reference's {missing} " in finding.message
    assert (finding.severity, finding.mend) == (Severity.ERROR, "mt-paas-db init")
    manager.init()
    assert found(manager.doctor()) == []
    assert server_state(fleet) == before


def test_a_lost_role_can_be_mended_until_the_tenant_is_served_again(
    fleet: Service, names: Names, manager: TenantManager
) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="kept"))
    plant(fleet, names, 'DROP OWNED BY "{tenant}"; DROP ROLE "{tenant}"')
    report = fleet.manager().doctor()
    assert any(f"role '{names.tenant}' is missing" in finding.message for finding in found(report, "tenants.server"))
    for _ in range(4):  # one mend may uncover the next fault
        if not found(report):
            break
        execute(fleet, *(finding.mend for finding in found(report) if finding.mend))
        report = fleet.manager().doctor()
    assert report.ok
    # A report without a finding promises that sessions work.
    with fleet.manager().get_session("hallym") as session:
        assert session.scalars(select(Note.body)).all() == ["kept"]
        session.add(Note(body="more"))


# -- tenants in other states


def test_a_tenant_in_any_state_that_takes_no_sessions_must_have_lost_its_login(
    fleet: Service, names: Names, manager: TenantManager
) -> None:
    for state in TenantState:
        execute(fleet, f"UPDATE mt_paas.tenant SET state = '{state}' WHERE tenant_id = 'hallym'")
        open_ = state in (TenantState.ACTIVE, TenantState.READ_ONLY)
        findings = found(manager.doctor(), "tenants.server")
        assert bool(findings) is not open_
        if findings:
            assert f"is {state}, but" in findings[0].message


# -- releases


@pytest.mark.parametrize(("newest_vulnerable", "warned"), [(0, True), (-1, False)])
def test_a_release_with_known_faults_is_a_warning(
    manager: TenantManager,
    server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    newest_vulnerable: int,
    warned: bool,
) -> None:
    """As if the last vulnerable minor release were the one that runs here, or the one before."""
    with psycopg.connect(server.dsn()) as connection:
        this, minor = divmod(connection.info.server_version, 10_000)
    monkeypatch.setattr(checkup_connection, "_LAST_VULNERABLE_MINOR", {this: minor + newest_vulnerable})
    report = manager.doctor()
    assert report.ok
    findings = found(report, "server.version")
    assert [finding.severity for finding in findings] == ([Severity.WARNING] if warned else [])
    assert not warned or f"{this}.{minor}" in findings[0].message


# -- what cannot be reached


def test_a_server_that_is_down_is_a_finding(service: Service) -> None:
    port = free_port()
    down = f"postgresql://{{}}:{PASSWORD}@127.0.0.1:{port}/x"
    manager = service.manager(clusters=clusters(down.format(service.login), down.format("postgres")))
    for report in (manager.readiness(), manager.doctor()):
        assert not report.ok
        assert report.results[0].id == "server.reachable"
        assert str(port) in report.results[0].findings[0].message
        assert PASSWORD not in json.dumps(report.as_dict())


def test_a_server_that_stops_and_comes_back(own_server: PostgresServer) -> None:
    service = Service(own_server)
    manager = service.manager()
    manager.init()
    manager.create("hallym")
    assert manager.readiness().ok
    own_server.shut_down(immediately=True)
    assert not manager.readiness().ok
    assert not manager.doctor().ok
    own_server.start()
    assert manager.readiness().ok
    assert manager.doctor().ok
    manager.close()


def test_without_an_app_dsn(service: Service, manager: TenantManager) -> None:
    bare = service.manager(clusters={"main": {"admin_dsn": service.server.dsn(service.database)}})
    for report in (bare.readiness(), bare.doctor()):
        assert not report.ok
        assert any("MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN" in finding.message for finding in report.findings())


def test_without_an_admin_dsn_it_says_what_it_could_not_look_at(fleet: Service) -> None:
    report = fleet.manager(clusters={"main": {"app_dsn": app_dsn(fleet)}}).doctor()
    assert report.ok
    assert looked(report) == [
        "server.reachable", "catalog.version", "pooler.mode", "pooler.types", "cells.connections",
    ]  # fmt: skip
    for result in report.results:
        if result.skipped is not None:
            assert "MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN" in result.skipped
            assert result.findings == ()


def test_an_admin_dsn_that_is_no_url_is_an_error_and_told_once(fleet: Service) -> None:
    report = fleet.manager(clusters=clusters(app_dsn(fleet), "host=localhost password=hunter2")).doctor()
    (finding,) = found(report)
    assert "is not a URL" in finding.message
    assert "hunter2" not in json.dumps(report.as_dict())


def test_an_admin_dsn_that_is_wrong_is_an_error(fleet: Service) -> None:
    wrong = fleet.server.dsn(fleet.database, user=fleet.login, password="hunter2")
    report = fleet.manager(clusters=clusters(app_dsn(fleet), wrong)).doctor()
    assert not report.ok
    assert any("admin DSN" in finding.message for finding in report.findings())
    assert "hunter2" not in json.dumps(report.as_dict())


def test_a_server_without_an_installation_is_told_to_make_one(service: Service) -> None:
    """The login role does not exist yet, so that the app DSN cannot connect; but the admin's can."""
    manager = service.manager()
    assert not manager.readiness().ok
    report = manager.doctor()
    assert not report.ok
    shown = json.dumps(report.as_dict())
    assert "mt-paas-db init" in shown


def test_a_database_without_a_catalog_is_a_finding(service: Service, manager: TenantManager) -> None:
    execute(service, "DROP SCHEMA mt_paas CASCADE")
    cold = service.manager()
    for report in (cold.readiness(), cold.doctor()):
        assert not report.ok
        assert any("mt-paas-db init" in finding.message for finding in report.findings())
    # The checks after it were not dragged down.
    assert {result.id for result in cold.doctor().results} == set(CHECKS)
    assert found(cold.doctor(), "pooler.mode") == found(cold.doctor(), "login.attributes") == []


def test_one_failing_check_does_not_drag_down_the_next(
    fleet: Service, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All checks share the admin's transaction: a statement that fails must not make the others look ill."""
    plant(fleet, names, 'REVOKE SELECT ON mt_paas.tenant FROM "{owner}"; ALTER ROLE "{login}" RESET search_path')
    order = ["server.reachable", "tenants.server", "login.path", "login.attributes"]
    chosen = {check_id: CHECKS[check_id] for check_id in order}
    monkeypatch.setattr(doctor, "CHECKS", chosen)
    report = fleet.manager().doctor()
    assert len(found(report, "tenants.server")) == 1
    assert [finding.mend is not None for finding in found(report, "login.path")] == [True]
    assert found(report, "login.attributes") == []


def test_a_busy_process_is_asked_whether_it_is_ready(fleet: Service, manager: TenantManager) -> None:
    """Every connection that look-ups may use is taken: the answer may be no, but it must be an answer."""
    busy = fleet.manager(pool_timeout_s=0.2)
    engine = busy._door.engines.blocking("main", "catalog")
    held = [engine.connect() for _ in range(LOOK_UPS)]
    try:
        report = busy.readiness()
        assert not report.ok
        assert not busy.doctor().ok
    finally:
        for connection in held:
            connection.close()
    assert busy.readiness().ok


@pytest.mark.parametrize(("state", "verb"), [("provisioning", "create"), ("deleting", "delete")])
def test_what_was_left_half_done_is_a_warning_that_says_how_to_go_on(
    fleet: Service, manager: TenantManager, state: str, verb: str
) -> None:
    manager.archive("hallym")  # so that the roles fit the state
    execute(fleet, f"UPDATE mt_paas.tenant SET state = '{state}' WHERE tenant_id = 'hallym'")
    (finding,) = found(manager.doctor())
    assert (finding.severity, finding.mend) == (Severity.WARNING, f"mt-paas-db tenant {verb} hallym")
    assert f"'hallym' is {state} since" in finding.message


def test_a_tenant_called_as_the_probe_is_a_warning(manager: TenantManager) -> None:
    manager.create("mt-paas-readiness-probe")
    report = manager.readiness()
    assert report.ok
    assert [finding.severity for finding in report.findings()] == [Severity.WARNING]


def test_readiness_is_lost_with_the_login_and_comes_back_with_it(fleet: Service, names: Names) -> None:
    for ill, well in (
        ('ALTER ROLE "{login}" NOLOGIN', 'ALTER ROLE "{login}" LOGIN'),
        (
            'REVOKE EXECUTE ON FUNCTION mt_paas.resolve(text) FROM "{login}"',
            'GRANT EXECUTE ON FUNCTION mt_paas.resolve(text) TO "{login}"',
        ),
        ('REVOKE USAGE ON SCHEMA mt_paas FROM "{login}"', 'GRANT USAGE ON SCHEMA mt_paas TO "{login}"'),
    ):
        plant(fleet, names, ill)
        assert not fleet.manager().readiness().ok
        plant(fleet, names, well)
        assert fleet.manager().readiness().ok


# -- poolers


@pytest.fixture
def console(pgbouncer: PgBouncer, service: Service) -> Iterator[psycopg.Connection[Any]]:
    dsn = pgbouncer.dsn("pgbouncer", user=service.login, password=PASSWORD)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def through(service: Service, pooler: PgBouncer, told: str) -> TenantManager:
    """Return a manager whose app DSN leads through `pooler`, and whose settings say `told`."""
    app = pooler.dsn(service.database, user=service.login, password=PASSWORD)
    cluster = {"app_dsn": app, "admin_dsn": service.server.dsn(service.database), "pooler": told}
    return service.manager(clusters={"main": cluster})


def test_a_pooler_that_the_settings_name_is_sound(fleet: Service, pgbouncer: PgBouncer) -> None:
    version = ".".join(map(str, pgbouncer.version[:2]))
    for told in ("pgbouncer", f"pgbouncer:{version}"):
        report = through(fleet, pgbouncer, told).doctor()
        assert found(report) == []
        assert report.ok
        assert through(fleet, pgbouncer, told).readiness().ok


def test_a_pooler_that_the_settings_do_not_name_is_an_error(fleet: Service, pgbouncer: PgBouncer) -> None:
    report = through(fleet, pgbouncer, "direct").doctor()
    (finding,) = found(report)
    assert finding.severity is Severity.ERROR
    assert "pooler stands between" in finding.message
    assert finding.mend == "set MT_PAAS_DB_CLUSTERS__MAIN__POOLER=pgbouncer"
    assert not report.ok


def test_a_pooler_of_another_version_is_a_warning(fleet: Service, pgbouncer: PgBouncer) -> None:
    report = through(fleet, pgbouncer, "pgbouncer:1.99").doctor()
    (finding,) = found(report)
    assert finding.severity is Severity.WARNING
    assert "1.99" in finding.message
    assert ".".join(map(str, pgbouncer.version)) in finding.message
    assert report.ok


def test_a_pooler_that_does_not_exist_is_told(fleet: Service) -> None:
    report = fleet.manager(
        clusters={"main": {**clusters(app_dsn(fleet), fleet.server.dsn(fleet.database))["main"], "pooler": "pgbouncer"}}
    ).doctor()
    (finding,) = found(report, "pooler.mode")
    assert finding.severity is Severity.INFO
    assert report.ok


def test_a_pooler_that_does_not_tell_its_version_is_told(fleet: Service, pgbouncer: PgBouncer) -> None:
    assert pgbouncer._folder is not None
    settings = pgbouncer._folder / "pgbouncer.ini"
    settings.write_text(re.sub(r"^stats_users.*$", "", settings.read_text(), flags=re.MULTILINE))
    pgbouncer.restart()
    report = through(fleet, pgbouncer, "pgbouncer").doctor()
    (finding,) = found(report)
    assert finding.severity is Severity.INFO
    assert finding.mend is not None
    assert "stats_users" in finding.mend
    assert report.ok


def test_a_pooler_in_statement_mode_is_an_error(fleet: Service) -> None:
    with fleet.server.pooler(users={fleet.login: PASSWORD}, pool_mode="statement") as pooler:
        for told in ("pgbouncer", "direct"):
            report = through(fleet, pooler, told).doctor()
            assert not report.ok
            mends = [finding.mend for finding in report.findings() if finding.severity is Severity.ERROR]
            assert "set pool_mode = transaction in pgbouncer.ini" in mends
            assert not through(fleet, pooler, told).readiness().ok


def test_a_pooler_in_session_mode_is_a_warning(fleet: Service) -> None:
    """It works, and pools nothing."""
    with fleet.server.pooler(users={fleet.login: PASSWORD}, pool_mode="session", pool_size=5) as pooler:
        report = through(fleet, pooler, "pgbouncer").doctor()
    (finding,) = found(report)
    assert finding.severity is Severity.WARNING
    assert finding.mend == "set pool_mode = transaction in pgbouncer.ini"
    assert report.ok


def test_a_pooler_that_is_gone_is_a_finding(fleet: Service, pgbouncer: PgBouncer) -> None:
    manager = through(fleet, pgbouncer, "pgbouncer")
    assert manager.readiness().ok
    pgbouncer.__exit__(None, None, None)
    for report in (manager.readiness(), manager.doctor()):
        assert not report.ok
        assert str(pgbouncer.port) in json.dumps(report.as_dict())


def test_a_pooler_asked_with_an_odd_password(service: Service) -> None:
    """The console is reached by the same URL with another database; nothing of it may be lost on the way."""
    password = "p@ss:w/ö rd%'\\?#"
    url = make_url(service.server.dsn(service.database)).set(username=service.login, password=password)
    service.manager(
        clusters=clusters(url.render_as_string(hide_password=False), service.server.dsn(service.database))
    ).init()
    with service.server.pooler(users={service.login: password}) as pooler:
        pooled = url.set(port=pooler.port).render_as_string(hide_password=False)
        report = service.manager(
            clusters={"main": {**clusters(pooled, service.server.dsn(service.database))["main"], "pooler": "pgbouncer"}}
        ).doctor()
        assert found(report) == []


def test_the_console_of_the_fixture_answers(console: psycopg.Connection[Any], pgbouncer: PgBouncer) -> None:
    """The tests above rest on it: the version that the doctor compares with is the real one."""
    row = console.execute("SHOW VERSION").fetchone()
    assert row == (f"PgBouncer {'.'.join(map(str, pgbouncer.version))}",)


def test_every_check_has_a_planted_fault() -> None:
    """A new check needs a new entry above."""
    elsewhere = {
        *("server.reachable", "admin.reachable", "catalog.version", "server.version", "pooler.mode"),
        "tenants.logins",  # test_tier_login_checked
        *("cells.size", "cells.connections", "cells.settled"),  # test_cells_doctor
        "pooler.types",  # test_pooler_prepared
        *("tenants.unfinished", "admin.rights", "admin.tenants"),  # the last two: test_admin_rights
    }
    assert {fault[0] for fault in {**_FAULTS, **_FAULTS_16}.values()} | elsewhere == set(CHECKS)
