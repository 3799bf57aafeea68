"""The audit of releases and poolers, and how it reads predicates."""

from __future__ import annotations

import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.isolation.audit import Finding, Severity, audit
from mt_paas_db.isolation.audit.advisories import ADVISORIES, known_faults, known_pooler_faults
from mt_paas_db.isolation.audit.pooler import of_pooler
from mt_paas_db.isolation.audit.predicates import asked_once, calls_per_row, depends_on_context
from tests.fleet import Service
from tests.servers import PgBouncer

# -- releases


@pytest.mark.parametrize(
    ("version", "known"),
    [
        (150_002, {"CVE-2023-2455", "CVE-2023-39418", "CVE-2024-10976", "CVE-2024-10978", "CVE-2025-8713"}),
        (150_003, {"CVE-2023-39418", "CVE-2024-10976", "CVE-2024-10978", "CVE-2025-8713"}),
        (160_004, {"CVE-2024-10976", "CVE-2024-10978", "CVE-2025-8713"}),
        (170_005, {"CVE-2025-8713"}),
        (180_004, set()),
    ],
)
def test_a_release_has_the_faults_that_were_mended_after_it(version: int, known: set[str]) -> None:
    looked_for = {"CVE-2023-2455", "CVE-2023-39418", "CVE-2024-10976", "CVE-2024-10978", "CVE-2025-8713"}
    assert {one.id for one in known_faults(version)} & looked_for == known


@pytest.mark.parametrize("version", [150_020, 160_016, 170_012, 180_007, 190_000])
def test_the_newest_releases_have_none(version: int) -> None:
    assert list(known_faults(version)) == []


def test_each_advisory_says_where_it_is_to_be_read() -> None:
    assert len({one.id for one in ADVISORIES}) == len(ADVISORIES)
    assert all(one.source.startswith("https://www.postgresql.org/support/security/CVE-") for one in ADVISORIES)


def test_the_servers_release_is_compared(fleet: Service, manager: TenantManager) -> None:
    with fleet.superuser() as connection:
        version = connection.info.server_version
    report = audit(manager)
    told = {finding.object for finding in report.findings if finding.id == "server-advisory"}
    assert told == {one.id for one in known_faults(version)}
    doctor = [finding for finding in report.findings if finding.id == "server-release"]
    assert all(finding.severity is Severity.INFO for finding in doctor)


# -- poolers


def said(version: str, **config: str) -> set[tuple[str, str]]:
    return {(one.id, one.object) for one in of_pooler(version, config, "main")}


def test_a_pooler_in_session_mode_must_reset() -> None:
    sound = "PgBouncer 1.26.1"
    residue = {("pooler-residue", "server_reset_query")}
    assert said(sound, pool_mode="session", server_reset_query="") == residue
    assert said(sound, pool_mode="session", server_reset_query="RESET ALL") == residue
    assert said(sound, pool_mode="session", server_reset_query="discard all") == set()
    assert said(sound, pool_mode="transaction", server_reset_query="") == set()


def test_a_pooler_must_not_carry_the_path_over() -> None:
    tracks = ("pooler-tracks", "track_extra_parameters")
    assert said("PgBouncer 1.26.1", track_extra_parameters="IntervalStyle, search_path") == {tracks}
    assert said("PgBouncer 1.26.1", track_extra_parameters="IntervalStyle") == set()
    assert ("pooler-advisory", "CVE-2025-12819") in said("PgBouncer 1.25.0", track_extra_parameters="search_path")
    assert ("pooler-advisory", "CVE-2025-12819") not in said("PgBouncer 1.25.0", track_extra_parameters="")


def test_a_pooler_has_the_faults_that_were_mended_after_it() -> None:
    assert [one.id for one in known_pooler_faults((1, 26, 0))] == ["CVE-2026-107350"]
    assert [one.id for one in known_pooler_faults((1, 26, 1))] == []


def _about_the_pooler(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.id for finding in findings if finding.id.startswith("pooler")}


def test_the_console_is_asked(fleet: Service, pgbouncer: PgBouncer) -> None:
    report = audit(fleet.manager(pooler=pgbouncer))
    assert not report.blind
    known = known_pooler_faults(pgbouncer.version)
    expected = {one.id for one in known if one.id != "CVE-2025-12819"}
    assert {one.object for one in report.findings if one.id == "pooler-advisory"} == expected
    assert _about_the_pooler(report.findings) <= {"pooler-advisory"}


def test_a_pooler_that_the_settings_do_not_know_is_found(fleet: Service, pgbouncer: PgBouncer) -> None:
    app = fleet.settings(pooler=pgbouncer).clusters["main"]
    unaware = app.model_copy(update={"pooler": "direct"})
    report = audit(fleet.manager(clusters={"main": unaware}))
    assert "pooler" in _about_the_pooler(report.findings)


def test_a_console_that_does_not_answer_is_said(fleet: Service) -> None:
    direct = fleet.settings().clusters["main"]
    report = audit(fleet.manager(clusters={"main": direct.model_copy(update={"pooler": "pgbouncer"})}))
    assert [line for line in report.blind if line.startswith("pooler: the console of cluster 'main' does not answer")]


# -- predicates


@pytest.mark.parametrize(
    ("predicate", "calls"),
    [
        ("(tenant = mt_paas.tenant())", ["mt_paas.tenant()"]),
        ("(tenant = ( SELECT mt_paas.tenant() AS tenant))", []),
        (
            "(name = current_setting('mt_paas.tenant'::text, true))",
            ["current_setting('mt_paas.tenant'::text, true)"],
        ),
        ("(name = ( SELECT current_setting('a)('::text) AS current_setting))", []),
        ("((name = '('::text) AND (tenant = mt_paas.tenant()))", ["mt_paas.tenant()"]),
        ("(name = 'mt_paas.tenant()'::text)", []),
        ("(lower(name) = CURRENT_USER)", []),
        ("(other.tenant() = mt_paas.tenants())", []),
        ('("select" = mt_paas.tenant())', ["mt_paas.tenant()"]),
        ("((tenant = mt_paas.tenant()) OR (EXISTS ( SELECT 1 FROM t WHERE (t.a = mt_paas.tenant()))))",
         ["mt_paas.tenant()"]),
    ],
)  # fmt: skip
def test_calls_for_each_row_are_told_from_calls_for_the_query(predicate: str, calls: list[str]) -> None:
    functions = {"mt_paas.tenant"}
    assert calls_per_row(predicate, functions) == calls
    assert calls_per_row(asked_once(predicate, functions), functions) == []


@pytest.mark.parametrize(
    ("predicates", "asks"),
    [
        (("true",), False),
        (("(name = 'CURRENT_USER'::text)",), False),
        ((None, "(owner = CURRENT_USER)"), True),
        (("(a = ( SELECT mt_paas.tenant() AS tenant))", None), True),
        (("(a = current_setting('x'::text))",), True),
        ((None,), False),
    ],
)
def test_a_predicate_that_asks_who_is_asking_is_known(predicates: tuple[str | None, ...], asks: bool) -> None:
    assert depends_on_context(*predicates) is asks
