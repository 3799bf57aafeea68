"""The benchmarks' form: what they print, write and return. How fast anything is, is not asserted here."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.session import Samples
from benchmarks.workload import ROWS, notes, shared_id, visits

ROOT = Path(__file__).resolve().parents[1]


def check_document(document: dict[str, Any], name: str) -> None:
    """Fail unless `document` has the form that every benchmark's JSON has, and no more."""
    assert list(document) == ["name", "environment", "rows", "bars"]
    assert document["name"] == name
    facts = document["environment"]
    assert set(facts) == {"cpu", "cores", "postgresql", "pgbouncer", "python", "packages"}
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["packages"]["sqlalchemy"]
    assert document["rows"]
    for row in document["rows"]:
        assert set(row) == {"case", "median", "p95", "n", "unit"}
        assert 0 <= row["median"] <= row["p95"]
        assert row["n"] >= 1
        assert row["unit"] in ("us", "ms", "s", "round trips", "MiB", "tx/s", "connections")
    assert document["bars"]
    for bar in document["bars"]:
        assert set(bar) == {"name", "value", "limit", "better", "holds"}
        assert bar["better"] in ("lower", "higher")
        assert bar["holds"] is (
            bar["value"] <= bar["limit"] if bar["better"] == "lower" else bar["value"] >= bar["limit"]
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that adds a benchmark ``fake`` whose result has these bars."""

    def add(*bars: Bar) -> None:
        rows = [Row.of("a case", [1.0, 2.0, 3.0], unit="us")]
        module: Any = ModuleType("benchmarks.fake")
        module.SUMMARY = "a fake"
        module.add_arguments = lambda parser: parser.add_argument("sizes", type=int, nargs="*")
        module.run = lambda _: Result("fake", environment(), rows, bars, ["  a remark"])
        monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
        monkeypatch.setitem(BENCHMARKS, "fake", "benchmarks.fake")

    return add


def test_a_bar_that_holds_gives_0_and_one_that_does_not_gives_1(
    fake: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake(Bar("at the limit", 1.15, 1.15), Bar("enough", 3, 2, better="higher"))
    assert main(["fake", "3", "4"]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    fake(Bar("holds", 1, 2), Bar("over the limit", 1.151, 1.15))
    assert main(["fake", "--json", str(tmp_path / "fake.json")]) == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "DOES NOT HOLD" in line] == ["over"]
    assert "a remark" in out
    assert "a case" in out
    document = json.loads((tmp_path / "fake.json").read_text())
    check_document(document, "fake")
    assert [bar["holds"] for bar in document["bars"]] == [True, False]
    fake(Bar("too few", 1, 2, better="higher"))
    assert main(["fake"]) == 1


def test_without_a_name_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in BENCHMARKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nonsense"],
            "no benchmark 'nonsense'; there is churn, fanout, imports, isolation, memory, peers_isolation",
        ),
        (["imports", "--nonsense"], "--nonsense"),
        (["imports", "--plot", "x.svg"], "no plot"),
        (["imports", "--json", "/no/such/folder/x.json"], "/no/such/folder"),
        (["session", "one"], "one"),
        (["session", "1"], "at least 2"),
        (["session", "--rounds", "0"], "--rounds"),
        (["session", "--pg", "7", "--no-peers"], "no PostgreSQL 7 here"),
        (["fanout", "--tenants", "0"], "at least 1"),
        (["fanout", "--pg", "7"], "no PostgreSQL 7 here"),
        (["provision", "--turns", "many"], "at least 1"),
        (["isolation", "1"], "at least 2"),
        (["pool", "--clients", "0"], "at least 1"),
        (["memory", "--pg", "7"], "no PostgreSQL 7 here"),
        (["roles", "--pg", "7"], "no PostgreSQL 7 here"),
        (["prepared", "1"], "at least 2"),
        (["peers_isolation", "--only", "somebody else"], "nobody is called somebody else"),
    ],
)
def test_a_wrong_call_gives_2_and_says_why(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    try:
        status: object = main(arguments)
    except SystemExit as error:  # as argparse ends
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_imports_runs_as_a_command(tmp_path: Path) -> None:
    target = tmp_path / "imports.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "imports", "3", "--json", target],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    document = json.loads(target.read_text())
    check_document(document, "imports")
    assert done.returncode == (0 if all(bar["holds"] for bar in document["bars"]) else 1), done.stderr
    (heavy,) = [bar for bar in document["bars"] if "sqlalchemy" in bar["name"]]
    assert heavy["holds"], done.stdout
    assert [row["n"] for row in document["rows"]] == [3, 3]


def test_session_runs_end_to_end(
    pytestconfig: pytest.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.cases import reachable_routes
    from tests.servers import find_pgbouncer, find_postgres

    try:
        binaries = find_postgres(pytestconfig.getoption("--pg"))
    except LookupError as error:
        pytest.skip(str(error))
    try:
        find_pgbouncer()
    except LookupError:
        pooled = False
    else:
        pooled = True
    target = tmp_path / "session.json"
    arguments = ["session", "2", "--rounds", "2", "--no-peers", "--pg", str(binaries.major), "--json", str(target)]
    status = main(arguments)
    document = json.loads(target.read_text())
    check_document(document, "session")
    assert status == (0 if all(bar["holds"] for bar in document["bars"]) else 1)
    out = capsys.readouterr().out
    assert "left out: the peers (--no-peers)" in out
    assert document["environment"]["postgresql"].startswith(str(binaries.major))
    assert bool(document["environment"]["pgbouncer"]) is pooled
    assert pooled or "left out: everything through PgBouncer" in out
    routes, _ = reachable_routes(pooled=pooled)
    timed = [row for row in document["rows"] if row["unit"] == "us"]
    trips = [row for row in document["rows"] if row["unit"] == "round trips"]
    assert len(timed) == len(trips) == 3 * len(routes)
    assert len(document["bars"]) == 2 * len(routes)
    by_case = {row["case"]: row["median"] for row in trips}
    for bar in (bar for bar in document["bars"] if "round trips" in bar["name"]):
        assert bar["holds"], bar
    for case, count in by_case.items():
        if "naive" in case:
            assert count > by_case[case.replace("naive", "plain")]


def test_ratios_are_taken_within_a_round() -> None:
    base, mine = Samples(), Samples()
    # The machine was slow in the second round, for both; over all transactions mine would look faster.
    for base_us, mine_us in ((100, 110), (1000, 1100), (100, 120)):
        base.add_round([base_us * 1000] * 3)
        mine.add_round([mine_us * 1000] * 3)
    assert mine.over(base) == pytest.approx(1.1)
    assert base.all_us == [100.0] * 3 + [1000.0] * 3 + [100.0] * 3


def test_visits_are_the_same_for_all_cases_and_fair_to_all_tenants() -> None:
    made = visits(20, passes=7, seed=3)
    assert made == visits(20, passes=7, seed=3)
    assert made != visits(20, passes=7, seed=4)
    assert sorted(tenant for tenant, _ in made) == sorted(list(range(20)) * 7)
    assert {tenant for tenant, _ in made[:20]} == set(range(20))
    assert notes(3, first_id=shared_id(3, 0))[5]["id"] == shared_id(3, 5) == 3 * ROWS + 6


def test_a_row_needs_a_value() -> None:
    assert Row.of("one", [5.0], unit="ms") == Row("one", 5.0, 5.0, 1, "ms")
    with pytest.raises(ValueError, match="nothing was measured"):
        Row.of("none", [], unit="ms")


def test_the_peers_say_why_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks import peers

    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setattr(peers, "INSTALL", ("-c", "import sys; sys.exit('ERROR: no index can be reached')"))
    with pytest.raises(LookupError, match="no index can be reached"):
        peers.peer_python()
    assert not list(tmp_path.glob("*/complete"))


def test_arguments_are_parsed_as_documented() -> None:
    from benchmarks import session

    parser = argparse.ArgumentParser()
    session.add_arguments(parser)
    assert parser.parse_args([]).tenants == 20
    assert parser.parse_args(["7", "--pg", "15"]).pg == 15


def test_a_case_that_reads_another_tenants_row_stops_the_benchmark() -> None:
    from benchmarks.cases import Case
    from benchmarks.session import check_reads
    from tests.fleet import ROUTES

    closed: list[str] = []

    def case(way: str, author: str) -> Case:
        return Case(way, ROUTES[0], lambda _: [], lambda tenant, _: author.format(tenant), lambda: closed.append(way))

    check_reads([[case("right", "tenant {}")]])
    assert closed == ["right"]
    with pytest.raises(RuntimeError, match="read a row of 'tenant 0' as tenant 1"):
        check_reads([[case("wrong", "tenant 0")]])


def test_fanout_runs_end_to_end(major: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, plot = tmp_path / "fanout.json", tmp_path / "fanout.svg"
    sizes = ["--tenants", "4", "--tables", "2", "--jobs", "2", "--repeats", "2", "--no-peers"]
    status = main(["fanout", *sizes, "--pg", major, "--json", str(json_file), "--plot", str(plot)])
    document = json.loads(json_file.read_text())
    check_document(document, "fanout")
    assert status == (0 if all(bar["holds"] for bar in document["bars"]) else 1)
    assert "left out: django-tenants (--no-peers)" in capsys.readouterr().out
    assert document["environment"]["postgresql"].startswith(major)
    rows = {row["case"]: row for row in document["rows"]}
    for part in ("whole run", "tenants only"):
        for case in ("ours, verified", "ours, not verified", "bare libpq"):
            assert rows[f"per tenant, {part}: {case}"]["n"] == 2
    for case in ("ours, verified", "ours, not verified"):
        assert rows[f"per tenant, tenants only: {case}"]["median"] < rows[f"per tenant, whole run: {case}"]["median"]
    assert rows["growth, 4 tenants: whole run"]["unit"] == "s"
    (queries,) = [bar for bar in document["bars"] if "queries" in bar["name"]]
    assert queries["value"] == 1
    drawn = ElementTree.parse(plot)
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 3


def test_provision_runs_end_to_end(major: str, tmp_path: Path) -> None:
    target = tmp_path / "provision.json"
    sizes = ["--tables", "2", "--turns", "2", "--tenants", "2", "--jobs", "2", "--no-peers"]
    status = main(["provision", *sizes, "--pg", major, "--json", str(target)])
    document = json.loads(target.read_text())
    check_document(document, "provision")
    assert status == (0 if all(bar["holds"] for bar in document["bars"]) else 1)
    assert {row["case"]: row["n"] for row in document["rows"]} == {
        "ours, a connection each": 4,
        "bare libpq, a connection each": 4,
        "ours, 1 connection": 2,
        "bare libpq, 1 connection": 2,
        "ours, 2 connections": 2,
        "bare libpq, 2 connections": 2,
    }


@pytest.fixture
def fleet(major: str) -> Iterator[Any]:
    from benchmarks.fleet_ground import fleet_ground, fleet_server

    with fleet_server(int(major)) as server, fleet_ground(server, tables=2, jobs=2) as ground:
        yield ground


def test_tenants_made_in_bulk_are_like_the_reference(fleet: Any) -> None:
    """Else a verified run would fail, or nothing would be compared."""
    from benchmarks.fleet_history import BASE, CHANGE

    fleet.grow(2)
    fleet.grow(3)
    found = list(fleet.fleet().verify())
    assert [(one.verdict, one.heads) for one in found] == [("same", (BASE,))] * 3
    with fleet.libpq() as libpq:
        libpq.send([fleet.migration(schema) for schema in fleet.schemas])
    assert [(one.verdict, one.heads) for one in fleet.fleet().verify()] == [("elsewhere", (CHANGE,))] * 3
    assert fleet.fleet().upgrade().ok  # the reference, which the raw limit leaves where it is
    assert [one.verdict for one in fleet.fleet().verify()] == ["same"] * 3
    fleet.reset()
    assert fleet.fleet().status().behind == 3


def test_a_baseline_that_fails_stops_the_benchmark(fleet: Any) -> None:
    fleet.grow(2)
    with pytest.raises(RuntimeError, match="does not exist"):
        fleet.reset()  # there is no change to undo
    with fleet.libpq() as libpq, pytest.raises(RuntimeError, match=r"no_such_table(?s:.*)in: SELECT"):
        libpq.send(["SELECT FROM no_such_table"])


def test_a_run_apart_counts_what_it_asks_about_tenants(fleet: Any) -> None:
    from benchmarks.fleet_history import CHANGE
    from benchmarks.fleet_runner import counted, run_apart

    fleet.grow(2)
    found = run_apart(fleet)
    assert (found["migrated"], found["unchanged"]) == (2, 0)
    assert found["peak_mib"] > 10
    assert fleet.tenants_s(found["run_id"]) < found["seconds"]
    assert run_apart(fleet)["queries"] == 1
    fleet.enter(5, CHANGE)
    assert run_apart(fleet)["unchanged"] == 7
    with counted("mt_paas.tenant") as queries:
        fleet.fleet().status()
        fleet.ask("SELECT 1")
        fleet.ask("SELECT count(*) FROM mt_paas.tenant")
    assert len(queries) == 2


@pytest.mark.parametrize(
    ("highest", "expected"),
    [(0, [0, 1]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (3000, [0, 1000, 2000, 3000]), (0.83, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_an_axis_has_round_numbers(highest: float, expected: list[float]) -> None:
    from benchmarks.plot import ticks

    assert ticks(highest) == expected


def test_a_chart_is_drawn_to_scale() -> None:
    from benchmarks.plot import Chart, Line, svg

    text = svg([Chart("a < b", "tenants", "seconds", [Line("ours", [(0, 0), (50, 1), (100, 2)])])])
    root = ElementTree.fromstring(text)
    (line,) = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert y0 > y2, "more is higher, and an SVG counts downwards"
    assert "prefers-color-scheme: dark" in text
    with pytest.raises(ValueError, match="nothing to draw"):
        svg([Chart("empty", "x", "y", [])])


def test_isolation_runs_end_to_end(major: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.tier_cases import WORKS
    from benchmarks.tier_ground import tiers_here

    target = tmp_path / "isolation.json"
    sizes = ["2", "--rows", "200", "--rounds", "1", "--routes", "psycopg-direct", "--audited", "2", "--tables", "1"]
    status = main(["isolation", *sizes, "--no-suite", "--pg", major, "--json", str(target)])
    document = json.loads(target.read_text())
    check_document(document, "isolation")
    assert status == (0 if all(bar["holds"] for bar in document["bars"]) else 1)
    ways = 1 + 2 * len(tiers_here())
    assert len([row for row in document["rows"] if row["unit"] == "us"]) == ways * len(WORKS)
    assert "guards / no guards (role)" in capsys.readouterr().out
    limits = {bar["name"]: bar["limit"] for bar in document["bars"]}
    assert limits["one SELECT, psycopg, direct: role / plain"] == 1.15
    assert limits["one SELECT, psycopg, direct: role, guards / plain"] == 1.3
    assert limits["count, psycopg, direct: role, guards / plain"] == 1.4
    assert limits["the audit of 2 tenants of 1 tables, seconds"] == 10


LEAKS_OF_A_PATH = {
    "named-read", "named-write", "raw-cursor", "injected-select", "path-by-statement", "path-by-function", "at-rest",
    "left-setting", "temporary-table", "held-cursor", "no-tenant-by-name", "raw-connection", "object-handed-over",
    "long-ids",
}  # fmt: skip
"""What nothing can stop that only chooses a path."""


def test_the_attacks_reach_what_is_open_and_not_what_is_closed(major: str, tmp_path: Path) -> None:
    """A path alone is the broken twin: an attack that it holds, too, would say nothing about anybody."""
    target, page = tmp_path / "peers.json", tmp_path / "peers.md"
    only = ["--only", "SET search_path", "--only", "tier role, guards"]
    assert main(["peers_isolation", *only, "--pg", major, "--json", str(target), "--markdown", str(page)]) == 0
    document = json.loads(target.read_text())
    ours, path = (
        {finding["attack"]: finding for finding in one["findings"]} for one in document["contestants"]
    )  # fmt: skip
    assert 15 <= len(ours) == len(path)
    leaked = {name for name, finding in ours.items() if finding["verdict"] == "leaked"}
    assert leaked == {"injected-select", "role-by-statement"}
    assert all(ours[name]["disclaimed"] for name in leaked)
    assert {name for name, finding in path.items() if finding["verdict"] == "leaked"} >= LEAKS_OF_A_PATH
    assert path["no-tenant"]["verdict"] == path["commit-and-go-on"]["verdict"] == "held"
    assert path["role-by-statement"]["verdict"] == "not applicable"
    for finding in (*ours.values(), *path.values()):
        assert finding["evidence"]
        assert all("canary_" in text for text in finding["evidence"]) or finding["verdict"] != "leaked"
    assert "| Name the neighbour's rows in a query | held | **leaked** |" in page.read_text()


@pytest.mark.parametrize("name", ["fastapi-tenancy, rls", "sqlalchemy-tenants", "django-tenants"])
def test_a_peer_is_attacked_where_its_environment_is(major: str, tmp_path: Path, name: str) -> None:
    from benchmarks.contestants import contestants

    (peer,) = [one for one in contestants() if one.name == name]
    if not peer.made:
        pytest.skip(f"no environment of {name}: `make peers` makes it, from PyPI")
    target = tmp_path / "peer.json"
    assert main(["peers_isolation", "--only", name, "--pg", major, "--json", str(target)]) == 0
    (column,) = json.loads(target.read_text())["contestants"]
    assert column["versions"][name.partition(",")[0]]
    verdicts = {finding["verdict"] for finding in column["findings"]}
    assert verdicts == {"held", "leaked", "not applicable"}


@pytest.mark.parametrize(
    ("seen", "error", "verdict"),
    [
        (["canary_acme_1"], None, "held"),
        (["canary_acme_1", "canary_beta_1"], None, "leaked"),
        ([], ValueError("a value: canary_beta_2"), "leaked"),
        ([], ValueError("there is no such table"), "unclear"),
        ([], PermissionError("you may not"), "held"),
        ([], None, "unclear"),
    ],
)
def test_a_verdict_rests_on_what_was_seen(seen: list[str], error: Exception | None, verdict: str) -> None:
    from benchmarks.attacked.judge import judge
    from benchmarks.attacked.script import Attack
    from benchmarks.attacked.stage import Stage
    from benchmarks.attacked.subject import Address

    class Truth:
        def execute(self, _statement: bytes) -> Any:
            return self

        def fetchall(self) -> list[Any]:
            return []

    class Subject:
        filters, disclaims = False, dict[str, str]()
        answers = (PermissionError, ValueError) if verdict == "leaked" else (PermissionError,)

        def refresh(self) -> None: ...

        def address(self, tenant: str) -> Address:
            return Address(tenant)

    def carry_out(stage: Stage) -> None:
        with stage.trying():
            stage.see(seen)
            if error is not None:
                raise error

    stage: Any = Stage(Subject(), Truth())  # type: ignore[arg-type]
    finding = judge(stage, Attack("an-attack", "an attack", aimed=False, carry_out=carry_out))
    assert finding.verdict == verdict, finding.evidence
