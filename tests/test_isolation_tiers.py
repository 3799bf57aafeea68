"""The suite at each tier: chosen by the caller or by the settings, on tenants of that tier, named in the report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.attacks.a_escape import set_role
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Verdict
from tests.fleet import Service
from tests.ground_truth import state_but_for_the_log
from tests.test_isolation_suite import PLUGIN, command, run_cli
from tests.test_tier_login import SECRET

DIRECT = Route("psycopg")


@pytest.fixture
def manager(service: Service) -> TenantManager:
    made = service.manager(login_secret=SECRET)
    made.init()
    return made


def test_both_tiers_in_one_run_have_tenants_of_their_own(service: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(service)
    with Suite(manager, service.models, routes=[DIRECT], tiers=["role", "login"]) as suite:
        assert {tenant.placement.tier for tenant in manager.list()} == {"role", "login"}
        assert suite.ground_of("role").run != suite.ground_of("login").run
        report = suite.run([set_role])
    assert {f.tier: f.verdict for f in report.findings if f.key == set_role.key} == {
        "role": Verdict.OPEN,
        "login": Verdict.HELD,
    }
    assert state_but_for_the_log(service) == before


def test_the_tier_is_the_settings_where_none_is_named(service: Service, manager: TenantManager) -> None:
    assert Suite(manager, service.models).tiers == ("role",)
    assert Suite(service.manager(login_secret=SECRET, tier="login"), service.models).tiers == ("login",)


def test_a_tier_that_is_not_there_is_refused(service: Service, manager: TenantManager) -> None:
    with pytest.raises(ConfigurationError, match="no installation has the tier sealed"):
        Suite(manager, service.models, tiers=["sealed"])  # type: ignore[list-item]
    with Suite(manager, service.models) as suite, pytest.raises(ConfigurationError, match="no tenants of tier 'login'"):
        suite.try_(Case(set_role, DIRECT, "login"))


def test_without_credentials_nothing_is_left(service: Service) -> None:
    manager = service.manager()
    manager.init()
    before = state_but_for_the_log(service)
    with (
        pytest.raises(ConfigurationError, match="MT_PAAS_DB_LOGIN_SECRET"),
        Suite(manager, service.models, tiers=["role", "login"]),
    ):
        pass
    assert state_but_for_the_log(service) == before


def test_a_pooler_that_does_not_know_the_logins_is_named(service: Service, manager: TenantManager) -> None:
    try:
        pooler = service.server.pooler(users={service.login: "not-a-secret"})
    except LookupError as error:
        pytest.skip(str(error))
    with pooler, Suite(manager, service.models, tiers=["login"], pooler=pooler.dsn("", user="", password="")) as suite:
        finding = suite.try_(Case(set_role, Route("psycopg", pooled=True), "login"))
    assert finding.verdict is Verdict.NOT_RUN
    assert "auth_query" in finding.reason


def test_the_command_takes_tiers(service: Service) -> None:
    """On a server that is not prepared: its own installation has a login secret."""
    done = run_cli(
        *("--dsn", service.server.dsn("postgres"), "--models", "tests.models:Base", "--only", "A2", "--json"),
        *("--tier", "role", "--tier", "login", "--off", "asyncpg=not needed", "--off", "pgbouncer=not needed"),
    )
    assert done.returncode == 0, done.stderr
    findings = [
        f for f in json.loads(done.stdout)["findings"] if f["key"] == "A2-set-role" and f["verdict"] != "not run"
    ]
    assert {(f["tier"], f["verdict"]) for f in findings} == {("role", "open"), ("login", "held")}


def test_pytest_takes_the_tier_of_the_settings(
    service: Service, manager: TenantManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MODELS": "tests.models:Base", "TIER": "login", "LOGIN_SECRET": SECRET}.items():
        monkeypatch.setitem(os.environ, f"MT_PAAS_DB_{name}", value)
    done = command(*PLUGIN, "--mt-isolation", "-k", "A2", "-vv", service=service, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_attack[A2-set-role-psycopg-direct-login] PASSED" in done.stdout
    assert "open: " not in done.stdout
