"""The audit: every fault of tests/audit_faults.py, planted on a real server, is found, and its mend cures it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.isolation.audit import RULES, Finding, Report, Severity
from mt_paas_db.isolation.audit import audit as audit_all
from tests.audit_faults import FAULTS, RULED
from tests.fleet import PASSWORD, Service
from tests.ground_truth import server_state
from tests.models import Note
from tests.servers import PostgresServer

SHARED = "mt_test_audit"
OF_RELEASE = {"server-advisory", "server-release"}
"""Not ours to choose: the server's release."""

audit = functools.partial(audit_all, sessions=False)
"""Of the server alone: what sessions do is the same in all of these."""

COUNTER = itertools.count(1)


def found(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.id not in OF_RELEASE and f.severity is not Severity.INFO]


@dataclasses.dataclass(frozen=True)
class Names:
    """The names that a planted fault is about."""

    name: str
    login: str
    owner: str
    group: str
    reference: str
    tenant: str
    neighbour: str
    apart: str
    cell_login: str
    database: str
    shared: str
    x: str
    n: int

    def fill(self, text: str) -> str:
        return text.format(**dataclasses.asdict(self))


def names_of(service: Service) -> Names:
    number = next(COUNTER)
    manager = service.manager()
    return Names(
        name=service.name,
        login=service.login,
        owner=f"{service.name}_owner",
        group=f"{service.name}_tenant",
        reference=f"{service.name}_reference",
        tenant=manager.get("hallym").placement.role_name,
        neighbour=manager.get("korea").placement.role_name,
        apart=manager.get("apart").placement.role_name,
        cell_login=manager.get("apart").placement.login_role,
        database=service.database,
        shared=SHARED,
        x=f"x{number}",
        n=700_000 + number,
    )


def execute(service: Service, statements: str) -> None:
    with service.superuser() as connection:
        connection.execute(statements.encode())


@dataclasses.dataclass
class Stage:
    """An installation that one fault after the other is planted in. One that was not mended takes it away."""

    server: PostgresServer
    clean: bool = False
    service: Service | None = None
    manager: TenantManager | None = None

    def set(self) -> tuple[Service, TenantManager]:
        if self.service is None or self.manager is None or not self.clean:
            self.strike()
            self.service = Service(self.server)
            self.manager = self.service.manager(shared_schemas=(SHARED,), cell_size=2)
            self.manager.init()
            for tenant in ("hallym", "korea", "apart"):  # the last one in a cell of another login
                self.manager.create(tenant)
        self.clean = False
        return self.service, self.manager

    def strike(self) -> None:
        if self.service is not None:
            with self.service.superuser() as connection:  # what a mend has left of memberships and large objects
                connection.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
            service, self.service = self.service, None
            service.close()


@pytest.fixture(scope="module")
def stage(server: PostgresServer) -> Iterator[Stage]:
    made = Stage(server)
    yield made
    made.strike()


# -- a sound installation


@pytest.mark.parametrize("admin", ["superuser", "managed"])
def test_a_fresh_installation_is_clean(service: Service, admin: str) -> None:
    if admin == "managed":
        with service.managed() as role:
            _is_clean(service, role)
    else:
        _is_clean(service, None)


def _is_clean(service: Service, admin: str | None) -> None:
    options: dict[str, Any] = {}
    if admin is not None:
        cluster = service.settings().clusters["main"].model_dump()
        dsn = service.server.dsn(service.database, user=admin, password=PASSWORD)
        options = {"clusters": {"main": {"app_dsn": cluster["app_dsn"].get_secret_value(), "admin_dsn": dsn}}}
    manager = service.manager(shared_schemas=(SHARED,), **options)
    manager.init()
    assert found(audit(manager)) == []
    for tenant in ("hallym", "korea", "snu", "gone"):
        manager.create(tenant)
    manager.suspend("korea")
    manager.read_only("snu")
    manager.suspend("gone")
    manager.archive("gone")
    manager.delete("gone", confirm="gone")
    before = server_state(service)
    report = audit_all(manager)
    assert found(report) == []
    assert [server.tenants for server in report.servers] == [3]
    assert not report.blind
    assert server_state(service) == before


def test_declared_shared_tables_and_guards_are_clean(stage: Stage) -> None:
    service, manager = stage.set()
    names = names_of(service)
    execute(
        service,
        names.fill(
            RULED
            + "CREATE TABLE {shared}.{x}r (name text PRIMARY KEY); SELECT mt_paas.share_read_only('{shared}.{x}r')"
        ),
    )
    assert found(audit(manager)) == []
    stage.clean = True


# -- faults


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_its_mend_cures_it(stage: Stage, fault: str) -> None:
    said = FAULTS[fault]
    service, manager = stage.set()
    if not _exists(service, fault):
        stage.clean = True
        return  # the statement is of no meaning there, so nothing is left unseen
    names = names_of(service)
    execute(service, names.fill(said.plant))
    findings = found(audit(manager))
    assert [(f.id, f.object) for f in findings] == [(rule, names.fill(object_)) for rule, object_ in said.found]
    assert all(f.mend and f.message and "{" not in f.message for f in findings)
    assert all(f.severity in (RULES[f.id].severity, Severity.CRITICAL, Severity.HIGH) for f in findings)
    for finding in findings:
        execute(service, finding.mend or "")
    left = found(audit(manager))
    if said.tidy:
        execute(service, names.fill(said.tidy))
    assert [f for f in left if (f.id, f.object) in {(g.id, g.object) for g in findings}] == []
    assert left == [] or (said.tidy and found(audit(manager)) == [])
    stage.clean = True


def _exists(service: Service, fault: str) -> bool:
    said = FAULTS[fault]
    with service.superuser() as connection:
        major = connection.info.server_version // 10_000
        available = connection.execute("SELECT FROM pg_available_extensions WHERE name = %s", (said.needs,)).fetchone()
    return said.since <= major <= said.until and (said.needs is None or available is not None)


def test_every_rule_has_a_fault() -> None:
    planted = {rule for fault in FAULTS.values() for rule, _ in fault.found}
    elsewhere = {
        "tenant-missing": test_a_lost_schema_and_role_are_found,
        "tenant-login": test_what_is_information_leaves_the_report_clean,
        **dict.fromkeys(
            ("own-login-member", "own-login-setting", "inactive-login"), "tests/test_tier_login_checked.py"
        ),
        "statement-log": test_what_is_information_leaves_the_report_clean,
        "guard-missing": test_a_table_without_a_guard_is_found_where_others_have_one,
        **dict.fromkeys((rule for rule in RULES if rule.startswith("client-")), "tests/test_mutants.py"),
        **dict.fromkeys(OF_RELEASE, "tests/test_audit_server.py"),
        **dict.fromkeys(("pooler", "pooler-advisory", "pooler-residue", "pooler-tracks"), "tests/test_audit_server.py"),
    }
    assert planted | set(elsewhere) == set(RULES)
    assert not planted & set(elsewhere)


def test_noinherit_after_the_grant_holds_before_16(stage: Stage) -> None:
    """There the role's attribute decides at once; the same statements leak from 16 on."""
    service, manager = stage.set()
    names = names_of(service)
    plant = FAULTS["NOINHERIT came after the GRANT"].plant
    execute(service, names.fill(plant))
    findings = found(audit(manager))
    if _exists(service, "NOINHERIT came after the GRANT"):
        assert [f.severity for f in findings] == [Severity.CRITICAL]
        execute(service, findings[0].mend or "")
    assert found(audit(manager)) == []
    stage.clean = True


@pytest.mark.parametrize(
    "plant",
    [
        "GRANT USAGE ON SCHEMA {neighbour} TO {tenant}; GRANT SELECT ON {neighbour}.note TO {tenant}",
        "GRANT USAGE ON SCHEMA {neighbour} TO PUBLIC; GRANT SELECT ON {neighbour}.note TO PUBLIC",
        "GRANT USAGE ON SCHEMA {neighbour} TO {login}; GRANT SELECT (body) ON {neighbour}.note TO {login}",
        "ALTER SCHEMA {tenant} OWNER TO {tenant}",
        RULED + "CREATE VIEW {shared}.{x}v AS SELECT name FROM {shared}.{x}",
    ],
)
def test_where_tenants_reach_each_other_it_is_critical(stage: Stage, plant: str) -> None:
    service, manager = stage.set()
    names = names_of(service)
    execute(service, names.fill(plant))
    findings = found(audit(manager))
    assert findings
    assert findings[0].severity is Severity.CRITICAL
    assert all(f.severity is Severity.CRITICAL for f in findings if f.id != "tenant-create")


def test_a_lost_schema_and_role_are_found(stage: Stage) -> None:
    service, manager = stage.set()
    names = names_of(service)
    execute(service, names.fill("DROP SCHEMA {tenant} CASCADE; DROP OWNED BY {tenant}; DROP ROLE {tenant}"))
    (finding,) = found(audit(manager))
    assert (finding.id, finding.object, finding.mend) == ("tenant-missing", "hallym", None)
    assert f"role {names.tenant} and schema {names.tenant}" in finding.message


def test_a_table_without_a_guard_is_found_where_others_have_one(stage: Stage) -> None:
    service, manager = stage.set()
    names = names_of(service)
    execute(service, names.fill("SET ROLE {owner}; SELECT mt_paas.protect('{tenant}.note')"))
    findings = found(audit(manager))
    assert {(f.id, f.object) for f in findings} == {
        ("guard-missing", names.fill(table))
        for table in (
            *("{tenant}.remark", "{neighbour}.note", "{neighbour}.remark"),
            *("{apart}.note", "{apart}.remark"),
        )
    }
    for finding in findings:
        execute(service, finding.mend or "")
    assert found(audit(manager)) == []


def test_what_is_information_leaves_the_report_clean(stage: Stage) -> None:
    service, manager = stage.set()
    names = names_of(service)
    execute(service, names.fill("ALTER ROLE {tenant} LOGIN; ALTER DATABASE {database} SET log_statement = 'all'"))
    report = audit(manager)
    said = [f.id for f in report.findings if f.id not in OF_RELEASE]
    assert said == ["statement-log", "tenant-login"]
    assert found(report) == []


def test_a_declared_tenant_column_is_looked_at(stage: Stage) -> None:
    service, manager = stage.set()
    names = names_of(service)
    table = names.fill("{shared}.{x}")
    execute(service, names.fill("SET ROLE {owner}; CREATE TABLE {shared}.{x} (customer int, name text)"))
    assert found(audit(manager)) == []
    columns = {(names.shared, names.x): "customer"}
    assert [(f.id, f.object) for f in found(audit(manager, tenant_columns=columns))] == [("rls-off", table)]
    stage.clean = True


def test_a_table_that_is_open_to_all_for_reading_has_no_tenants_rows(stage: Stage) -> None:
    service, manager = stage.set()
    names = names_of(service)
    execute(
        service,
        names.fill(
            "SET ROLE {owner}; CREATE TABLE {shared}.{x} (name text PRIMARY KEY); "
            "ALTER TABLE {shared}.{x} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
            "CREATE POLICY everybody ON {shared}.{x} FOR SELECT USING (true)"
        ),
    )
    assert found(audit(manager)) == []
    stage.clean = True


def test_another_installation_whose_name_begins_with_ours_is_no_stray(server: PostgresServer) -> None:
    services = [Service(server, name="t9a"), Service(server, name="t9a_b")]
    try:
        managers = [service.manager() for service in services]
        for manager in managers:
            manager.init()
            manager.create("c")
        assert [found(audit(manager)) for manager in managers] == [[], []]
    finally:
        for service in reversed(services):  # the longer name first: closing goes by the beginning of role names
            service.close()


def test_no_row_is_read_out(stage: Stage) -> None:
    """Nothing of what tenants have written is in a report, also where everything is wrong with their table."""
    service, manager = stage.set()
    names = names_of(service)
    with manager.get_session("hallym") as session:
        session.add(Note(body="CANARY-hallym"))
    execute(
        service,
        names.fill(
            "GRANT ALL ON {tenant}.note TO PUBLIC; ALTER TABLE {tenant}.note OWNER TO {neighbour}; "
            "ANALYZE {tenant}.note; CREATE MATERIALIZED VIEW {shared}.{x} AS SELECT body FROM {tenant}.note"
        ),
    )
    report = audit(manager)
    assert len(found(report)) > 2
    assert "CANARY" not in json.dumps(report.as_dict())
