"""The suite's frame: its ground, how it judges, what may be left out, and its faces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, MissingRightsError
from mt_paas_db.isolation import page
from mt_paas_db.isolation.attack import FAMILIES, HELD, Attack, Weakness, attack
from mt_paas_db.isolation.catalogue import CATALOGUE, NOT_APPLICABLE
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import leftovers, quoted
from mt_paas_db.isolation.requirements import off
from mt_paas_db.isolation.route import ROUTES, Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Verdict
from tests.fleet import PASSWORD, Service
from tests.ground_truth import app_dsn, clusters, server_state, state_but_for_the_log, tenant_roles, tenant_schemas
from tests.mutants.in_our_code import IN_OUR_CODE
from tests.mutants.on_the_server import ON_THE_SERVER
from tests.servers import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
DIRECT = Route("psycopg")


@pytest.fixture(scope="module")
def suite(server: PostgresServer) -> Iterator[Suite]:
    """A suite on an installation that also has a tenant of its own."""
    service = Service(server)
    with ExitStack() as stack:
        stack.callback(service.close)
        manager = service.manager()
        manager.init()
        manager.create("hallym")
        yield stack.enter_context(Suite(manager, service.models))


def tried(suite: Suite, carry_out: Any, *, route: Route = DIRECT, **options: Any) -> Any:
    """Return the finding on an attack that is made for the occasion."""
    texts = dict.fromkeys(("title", "sql", "why_held", "source"), "-")
    made: Attack = attack("A99", "made", broken=Weakness.NONE, **{**texts, **options})(carry_out)
    return suite.try_(Case(made, route, "role"))


# -- judging


def test_a_slip_of_the_pen_is_not_held(suite: Suite) -> None:
    def misspelt(c: Channel) -> None:
        c.trial(f"SELEKT * FROM {quoted(c.target.schema)}.note")

    def wrong_column(c: Channel) -> None:
        c.trial(f"SELECT bodi FROM {quoted(c.target.schema)}.note", refusals=("42P01",))

    def nothing(c: Channel) -> None:
        pass

    def bug(c: Channel) -> None:
        raise KeyError("the attack's own fault")

    for mistake in (misspelt, wrong_column, nothing, bug):
        finding = tried(suite, mistake)
        assert finding.verdict is Verdict.ASTRAY, str(finding)
        assert finding.failed


def test_one_trial_astray_is_not_hidden_by_others(suite: Suite) -> None:
    def half(c: Channel) -> None:
        c.trial(c.read(c.target), refusals=(DENIED,))
        c.trial("SELECT nothing_at_all")

    finding = tried(suite, half)
    assert finding.verdict is Verdict.ASTRAY
    assert "nothing_at_all" in finding.reason


def test_what_works_on_ones_own_tenant_and_not_on_the_victims_is_held(suite: Suite) -> None:
    finding = tried(suite, lambda c: c.trial(c.read(c.target)))
    assert finding.verdict is Verdict.HELD, str(finding)


@pytest.mark.parametrize("route", [Route("psycopg"), Route("psycopg_async"), Route("asyncpg")], ids=str)
@pytest.mark.parametrize("through", ["rows", "notice", "error", "bytes", "nested"])
def test_a_canary_is_seen_wherever_it_comes_out(suite: Suite, route: Route, through: str) -> None:
    """The victim's own words reach the attacker by each way that there is."""
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    secret = suite.ground.canaries["victim"].text("note.body", 1) or ""
    half = len(secret) // 2  # so that the statement's own text, which an error quotes, shows none
    composed = f"'{secret[:half]}' || '{secret[half:]}'"
    statement = {
        "rows": f"SELECT {composed}",
        "notice": f"DO $$ BEGIN RAISE NOTICE '%', {composed}; END $$",
        "error": f"DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = {composed}; END $$",
        "bytes": f"SELECT convert_to({composed}, 'UTF8')",
        "nested": f"SELECT jsonb_build_object('a', jsonb_build_array({composed}))",
    }[through]
    split = suite.ground.canaries.found_in(statement)
    assert not split

    finding = tried(suite, lambda c: c.trial(statement, by="send"), route=route)
    assert finding.verdict is Verdict.LEAKED, str(finding)
    assert any("saw victim's" in line for line in finding.seen)


def test_a_log_record_is_seen(suite: Suite, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    def log(c: Channel) -> None:
        with c.trying("log"):
            logging.getLogger("app").warning("for %s", c.ground.canaries["victim"].text("x", 1))

    assert tried(suite, log).verdict is Verdict.LEAKED


def test_what_was_changed_is_seen_and_mended(suite: Suite) -> None:
    """Also where nothing came back."""
    ground = suite.ground
    before = ground.truth(ground.victim)
    table = f"{quoted(ground.victim.schema)}.remark"

    def write(c: Channel) -> None:
        with c.trying("delete") as trial:
            c.ground.as_owner(
                f"DELETE FROM {table}", f"CREATE FUNCTION {quoted(c.target.schema)}.f() RETURNS int RETURN 1"
            )
            trial.reach("done")

    finding = tried(suite, write)
    assert finding.verdict is Verdict.LEAKED
    assert any("rows of remark" in line for line in finding.seen)
    assert any("new: function" in line for line in finding.seen)
    ground.as_owner(f"DROP FUNCTION {quoted(ground.victim.schema)}.f()")
    assert {name: count for name, count, _ in ground.truth(ground.victim).rows} == {
        name: count for name, count, _ in before.rows
    }


def test_what_is_not_promised_is_open(suite: Suite) -> None:
    from mt_paas_db.isolation.attack import not_promised

    def role(c: Channel) -> None:
        c.trial(f"SET ROLE {quoted(c.target.role)}", c.read(c.target))

    open_ = tried(suite, role, role=not_promised("roles can be taken"))
    assert open_.verdict is Verdict.OPEN
    assert not open_.failed
    assert "roles can be taken" in open_.reason
    assert tried(suite, role, role=HELD).verdict is Verdict.LEAKED


# -- requirements


def test_what_is_switched_off_is_not_run_and_says_why(service: Service, manager: TenantManager) -> None:
    requirements = {"asyncpg": off("we have psycopg"), "A2": off("known"), "A1-qualified-writes": off("slow")}
    with Suite(manager, service.models, requirements=requirements, routes=[DIRECT, Route("asyncpg")]) as suite:
        report = suite.run([attack for attack in CATALOGUE if attack.id in {"A1", "A2"}])
    assert report.ok
    assert dict(report.switched_off) == {name: switched.reason for name, switched in requirements.items()}
    by_case = {(f.key, str(f.route)): f for f in report.findings if f.route}
    assert {f.verdict for (_, route), f in by_case.items() if route == "asyncpg-direct"} == {Verdict.NOT_RUN}
    assert "we have psycopg" in by_case["A1-qualified-names", "asyncpg-direct"].reason
    assert "known" in by_case["A2-set-role", "psycopg-direct"].reason
    assert "slow" in by_case["A1-qualified-writes", "psycopg-direct"].reason
    assert by_case["A1-qualified-names", "psycopg-direct"].verdict is Verdict.HELD


def test_a_requirement_has_a_name_and_a_reason(service: Service, manager: TenantManager) -> None:
    with pytest.raises(ConfigurationError, match="with a reason"):
        off(" ")
    with pytest.raises(ConfigurationError, match="did you mean 'pgbouncer'"):
        Suite(manager, service.models, requirements={"pgbounce": off("typo")})


def test_a_way_that_is_not_there_is_not_run(suite: Suite) -> None:
    finding = suite.try_(Case(CATALOGUE[0], Route("psycopg", pooled=True), "role"))
    assert finding.verdict is Verdict.NOT_RUN
    assert "no PgBouncer is known" in finding.reason


# -- the ground


def test_it_leaves_nothing_and_touches_nobody(service: Service, manager: TenantManager) -> None:
    manager.create("hallym", display_name="mt_paas_db isolation suite")  # not by its id
    manager.create("mt-isolation-0123abcd-victim")  # not by its display name
    before = state_but_for_the_log(service)
    with Suite(manager, service.models) as suite:
        assert len(tenant_roles(service)) == 5
        suite.try_(Case(CATALOGUE[0], DIRECT, "role"))
    assert state_but_for_the_log(service) == before


def test_it_cleans_up_after_an_error(service: Service, manager: TenantManager) -> None:
    with pytest.raises(ZeroDivisionError), Suite(manager, service.models):
        raise ZeroDivisionError
    assert tenant_schemas(service) == tenant_roles(service) == []


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from mt_paas_db import TenantManager
from mt_paas_db.isolation.run import Suite
from tests.models import Base
with Suite(TenantManager(models=Base), Base):
    print("laid", flush=True)
    if {live!r}:
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(service: Service, *, live: bool = False) -> subprocess.Popen[str]:
    code = KILLED.format(path=[str(ROOT)], live=live)
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **service.environment()}, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "laid\n"
    return process


def test_the_next_run_removes_what_a_killed_one_left(service: Service, manager: TenantManager) -> None:
    manager.create("hallym")
    with killed(service) as process:
        process.wait()
    assert len(leftovers(manager.list())) == 1
    with Suite(manager, service.models) as suite:
        assert set(leftovers(manager.list())) == {suite.ground.run}
    assert [tenant.tenant_id for tenant in manager.list()] == ["hallym"]


def test_a_run_beside_is_left_alone(service: Service, manager: TenantManager) -> None:
    with killed(service, live=True) as process:
        (other,) = leftovers(manager.list())
        with Suite(manager, service.models):
            assert other in leftovers(manager.list())
        assert len(leftovers(manager.list())[other]) == 3
        process.kill()


def test_an_admin_who_may_not_create_roles_is_refused(service: Service, manager: TenantManager) -> None:
    role = service.make_admin("reader", "NOCREATEROLE")
    admin = service.server.dsn(service.database, user=role, password=PASSWORD)
    with service.superuser() as su:
        su.execute(f"GRANT CONNECT ON DATABASE {service.database} TO {role}".encode())
    before = server_state(service)
    limited = service.manager(clusters=clusters(app_dsn(service), admin))
    with pytest.raises(MissingRightsError, match="may not create roles"), Suite(limited, service.models):
        pass
    assert server_state(service) == before


# -- the catalogue


def test_every_id_of_the_families_here_is_an_entry() -> None:
    ids = {entry.id for entry in CATALOGUE} | {entry.id for entry in NOT_APPLICABLE}
    lengths = {"A": 21, "B": 17, "C": 12, "D": 12, "E": 5, "F": 7, "G": 9}
    wanted = {f"{family}{n}" for family, length in lengths.items() for n in range(1, length + 1)}
    assert wanted - ids == set()
    assert {attack.id for attack in CATALOGUE} & {entry.id for entry in NOT_APPLICABLE} == set()


def test_keys_are_unique_and_texts_are_there() -> None:
    keys = [attack.key for attack in CATALOGUE]
    assert len(keys) == len(set(keys))
    for one in CATALOGUE:
        assert one.family in FAMILIES
        assert all(text.strip() for text in (one.title, one.does, one.sql, one.why_held, one.source)), one.key


def test_every_weakness_is_carried_out() -> None:
    assert {*ON_THE_SERVER, *IN_OUR_CODE} == set(Weakness)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/reference/attacks.md").read_text(encoding="utf-8") == page.page(), (
        "run: python -m mt_paas_db.isolation.page docs/reference/attacks.md"
    )


# -- faces


def command(*arguments: str, service: Service | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(service.environment() if service else {})}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=200
    )


def run_cli(*arguments: str, service: Service | None = None) -> subprocess.CompletedProcess[str]:
    return command("-m", "mt_paas_db", "isolation", "run", *arguments, service=service)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_command_reports_in_every_form(service: Service, manager: TenantManager, tmp_path: Path) -> None:
    html, junit = tmp_path / "report.html", tmp_path / "report.xml"
    done = run_cli(
        "--models", "tests.models:Base", "--only", "A2", "--off", "asyncpg=not used here",
        "--html", str(html), "--junit", str(junit), "--json", service=service,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["switched_off"] == {"asyncpg": "not used here"}
    assert report["counts"]["held"] >= 2
    assert report["counts"]["open"] >= 1

    cases = ET.parse(junit).getroot().findall("testsuite/testcase")
    assert len(cases) == len(report["findings"])
    assert {case.get("name") for case in cases} >= {"A2-set-role[psycopg-direct]"}
    shown = html.read_text(encoding="utf-8")
    parser = _Page()
    parser.feed(shown)
    assert parser.links == []
    for word in ("A2-reset-role", "psycopg-direct", "not used here", "whoever controls SQL text"):
        assert word in shown
    assert tenant_roles(service) == []


def test_the_command_fails_where_something_leaks(service: Service, manager: TenantManager, tmp_path: Path) -> None:
    manager.create("hallym")
    junit = tmp_path / "report.xml"
    with service.superuser() as su:  # what the suite creates later is granted to everybody
        su.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {service.name}_owner GRANT ALL ON TABLES TO PUBLIC;"
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {service.name}_owner GRANT ALL ON SCHEMAS TO PUBLIC".encode()
        )
    done = run_cli("--models", "tests.models:Base", "--only", "A1", "--junit", str(junit), service=service)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT HELD" in done.stdout
    assert "saw victim's" in done.stderr
    assert ET.parse(junit).getroot().findall("testsuite/testcase/failure") != []


def test_a_wrong_name_is_a_usage_error(service: Service) -> None:
    assert run_cli("--only", "Z9", service=service).returncode == 2
    assert run_cli("--off", "pgbouncer", service=service).returncode == 2


def test_on_a_bare_server_it_makes_an_installation_of_its_own(service: Service, server: PostgresServer) -> None:
    """Also for an admin who is no superuser; what a killed run has left is removed."""
    admin = service.make_admin("ci")
    dsn = server.dsn("postgres", user=admin, password=PASSWORD)
    left = "mt_isolation_0123abcd"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {left}".encode())
        connection.execute(f"COMMENT ON DATABASE {left} IS 'mt_paas_db isolation suite'".encode())
        connection.execute(b"CREATE ROLE iso_0123abcd_owner")
    before = _names(service) - {left, "iso_0123abcd_owner"}
    done = run_cli("--dsn", dsn, "--only", "A1", "--off", "asyncpg=x", "--off", "psycopg_async=x")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _names(service) == before


def _names(service: Service) -> set[str]:
    with service.superuser("postgres") as su:
        found = su.execute("SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles").fetchall()
    return {name for (name,) in found}


def test_an_admin_dsn_without_rights_is_refused(service: Service, server: PostgresServer) -> None:
    role = service.make_admin("poor", "CREATEDB")
    done = run_cli("--dsn", server.dsn("postgres", user=role, password=PASSWORD))
    assert done.returncode == 1
    assert "needs CREATEROLE and CREATEDB" in done.stderr


PLUGIN = ("-m", "pytest", "-p", "no:cacheprovider", "-q")  # an installed package brings the plugin along


def test_pytest_runs_nothing_of_it_without_the_flag(service: Service, manager: TenantManager, tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    before = server_state(service)
    done = command(*PLUGIN, service=service, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert server_state(service) == before


def test_pytest_runs_the_suite_that_the_settings_name(service: Service, manager: TenantManager, tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    environment = {"MT_PAAS_DB_MODELS": "tests.models:Base"}
    os.environ.update(environment)
    try:
        done = command(*PLUGIN, "--mt-isolation", "-rs", "-k", "A2 or own", "-vv", service=service, cwd=tmp_path)
    finally:
        for name in environment:
            del os.environ[name]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_own.py::test_own PASSED" in done.stdout
    assert "test_attack[A2-reset-role-psycopg-direct] PASSED" in done.stdout
    assert "no PgBouncer is known" in done.stdout
    assert "open: A2-set-role" in done.stdout
    assert tenant_roles(service) == []


MODULE = """
from mt_paas_db import TenantManager
from mt_paas_db.isolation.suite import IsolationSuite, off
from tests.models import Base

class TestOurs(IsolationSuite):
    manager = lambda: TenantManager(models=Base)
    requirements = {"pgbouncer": off("we connect directly")}
"""


@pytest.mark.parametrize("leaks", [False, True])
def test_the_suite_in_a_module_of_ones_own(
    service: Service, manager: TenantManager, tmp_path: Path, *, leaks: bool
) -> None:
    (tmp_path / "test_isolation.py").write_text(MODULE)
    if leaks:
        with service.superuser() as su:
            su.execute(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {service.name}_owner GRANT ALL ON TABLES TO PUBLIC;"
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {service.name}_owner GRANT ALL ON SCHEMAS TO PUBLIC".encode()
            )
    done = command(*PLUGIN, "-rs", "-k", "A1 and psycopg", service=service, cwd=tmp_path)
    assert done.returncode == (1 if leaks else 0), done.stdout + done.stderr
    assert "we connect directly" in done.stdout
    assert ("saw victim's" in done.stdout) == leaks


def test_importing_the_suite_loads_no_pytest() -> None:
    code = (
        "import sys, mt_paas_db.isolation, mt_paas_db.isolation.run, mt_paas_db.cli.isolation;"
        "print([m for m in ('pytest', 'hypothesis') if m in sys.modules])"
    )
    done = command("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_all_routes_are_named() -> None:
    assert [str(route) for route in ROUTES] == [
        "psycopg-direct", "psycopg_async-direct", "asyncpg-direct",
        "psycopg-pgbouncer", "psycopg_async-pgbouncer", "asyncpg-pgbouncer",
    ]  # fmt: skip


def test_the_victim_is_there_for_its_own_session(suite: Suite) -> None:
    """The ground is no empty stage: each tenant reads its own canary, and no other."""
    ground = suite.ground
    for party in (ground.attacker, ground.victim, ground.heir):
        with ground.manager.get_session(party.tenant_id) as session:
            rows = session.execute(text("SELECT t::text FROM note t")).all()
        assert ground.canaries.found_in([tuple(row) for row in rows]) == {party.label}
