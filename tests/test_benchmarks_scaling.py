"""The scaling benchmarks at the smallest size: what they print, write and draw, and that they notice what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, InvalidRequestError, OperationalError, ProgrammingError

from benchmarks import soak
from benchmarks.__main__ import main
from benchmarks.plot import Chart, Line, powers, svg
from benchmarks.pool import Point, percentile, points
from benchmarks.scaling.ground import FleetInCells, make_models
from benchmarks.scaling.load import SKEWED, UNIFORM, LeakError, Picks, closed_loop, kind_of, open_loop
from benchmarks.scaling.visits import Clients, Seen, allowed
from benchmarks.scaling.watch import private_mib, resident_mib
from mt_paas_db.errors import (
    PlacementChangedError,
    ServerUnavailableError,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.servers import PostgresServer, find_pgbouncer
from tests.test_benchmarks import check_document

SVG = "{http://www.w3.org/2000/svg}"


def run(name: str, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], ElementTree.Element]:
    """Run a benchmark; return its exit status, its document and its picture."""
    document, picture = folder / f"{name}.json", folder / f"{name}.svg"
    status = main([name, *arguments, "--json", str(document), "--plot", str(picture)])
    found = json.loads(document.read_text())
    check_document(found, name)
    assert status == (0 if all(bar["holds"] for bar in found["bars"]) else 1)
    return status, found, ElementTree.parse(picture).getroot()


def test_pool_runs_end_to_end(major: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--clients", "12", "--tenants", "2", "16", "--cell-size", "8", "--connections", "4", "--rounds", "1"]
    quick = ["--seconds", "0.4", "--warm-up", "0.3", "--processes", "1", "--max-connections", "16"]
    _, document, picture = run("pool", tmp_path, *sizes, *quick, "--pg", major)
    out = capsys.readouterr().out
    try:
        find_pgbouncer()
    except LookupError:
        pooled = False
    else:
        pooled = True
    assert document["environment"]["pgbouncer"] or not pooled
    rows = {row["case"]: row for row in document["rows"]}
    assert len(document["bars"]) == (2 if pooled else 1)
    for way in ("plain", "ours", *(("plain, pgbouncer", "ours, pgbouncer") if pooled else ())):
        for shape in (SKEWED, UNIFORM):
            case = f"{way}, 12 clients, 16 tenants, {shape}"
            assert rows[f"{case}: throughput"]["median"] > 0
            assert rows[f"{case}: latency"]["n"] > 0
            assert 1 <= rows[f"{case}: server connections"]["median"] <= 4 + 5  # and those of look-ups
            assert rows[f"{case}: opened, warm-up included"]["median"] >= 0
            assert rows[f"{case}: server memory"]["median"] > 0.1
    # With an engine for each tenant the server runs out of connections, which is found and no error.
    assert "engine per tenant, 12 clients, 16 tenants, uniform: latency" not in rows
    assert "12 clients, 16 tenants, uniform: engine per tenant: no more after" in out
    assert "53300" in out
    assert len(picture.findall(f"{SVG}g")) == 5


def test_memory_runs_end_to_end(major: str, tmp_path: Path) -> None:
    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc/PID/smaps")
    sizes = ["--tenants", "2", "8", "--tables", "2", "--cell-size", "4", "--connections", "2"]
    _, document, picture = run("memory", tmp_path, *sizes, "--pg", major)
    rows = {row["case"]: row for row in document["rows"]}
    for way in ("ours", "one pool"):
        few, many = (rows[f"{way}, {tenants} tenants: the largest so far"]["median"] for tenants in (2, 8))
        assert 0.5 < few <= many < 64
        assert rows[f"{way}, 8 tenants: per backend"]["n"] >= 2
    assert rows["one pool, 8 tenants: per backend"]["n"] == 2
    assert len(picture.findall(f".//{SVG}polyline")) == 4


def test_roles_runs_end_to_end(major: str, tmp_path: Path) -> None:
    sizes = ["--tenants", "3", "9", "--cell-size", "3", "--repeats", "2", "--pg", major]
    _, document, picture = run("roles", tmp_path, *sizes)
    rows = {row["case"]: row for row in document["rows"]}
    for way in ("cells", "one login", "no tenancy"):
        for when in ("fresh", "after a creation"):
            assert rows[f"PostgreSQL {major}, 9 tenants: {way}, {when}"]["n"] == 2
    assert [bar["limit"] for bar in document["bars"]] == [2.0, 2.0]
    assert len(picture.findall(f".//{SVG}polyline")) == 6


def test_churn_runs_end_to_end(major: str, tmp_path: Path) -> None:
    sizes = ["--tenants", "4", "--tables", "1", "--cell-size", "4", "--pairs", "1", "--seconds", "0.6"]
    _, document, picture = run("churn", tmp_path, *sizes, "--rate", "5", "--connections", "4", "--pg", major)
    rows = {row["case"]: row for row in document["rows"]}
    assert [rows[f"{verb} under load"]["n"] for verb in ("create", "suspend", "delete")] == [3, 3, 3]
    assert rows["without churn: latency"]["n"] == rows["with churn: latency"]["n"] > 0
    assert document["bars"][1]["value"] == 0
    assert len(picture.findall(f".//{SVG}polyline")) == 2


def test_soak_runs_end_to_end(major: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "soak.json"
    sizes = ["--minutes", "0.06", "--tenants", "4", "--cell-size", "2", "--clients", "3", "--seed", "7"]
    status = main(["soak", *sizes, "--pg", major, "--json", str(target)])
    document = json.loads(target.read_text())
    check_document(document, "soak")
    out = capsys.readouterr().out
    holds = {bar["name"]: bar["holds"] for bar in document["bars"]}
    assert status == (0 if all(holds.values()) else 1)
    # A run of seconds is all warm-up, in which memory grows.
    assert [name for name, held in holds.items() if not held and "last quarter" not in name] == [], out
    for fault in ("postgresql restarts", "postgresql crashes"):
        assert fault in out


def test_the_soak_tells_what_grows_from_what_has_warmed_up() -> None:
    warm = [3.0, 7.0, 9.0] + [10.0] * 13
    assert soak.growth([*warm, 1.0]) == pytest.approx(1)  # the last: all are closed by then
    assert soak.growth([10.0 + number for number in range(16)] + [1.0]) > soak.FLAT


@pytest.fixture
def few(server: PostgresServer) -> Iterator[FleetInCells]:
    made = FleetInCells(Service(server, models=make_models(1)), tables=1)
    made.begin()
    made.grow(2)
    yield made
    made.close()
    made.service.close()


def test_the_soak_finds_a_row_at_the_wrong_tenant_and_a_transaction_that_stays(few: FleetInCells) -> None:
    assert soak.misplaced(few) == []
    with few.service.superuser() as su:
        su.execute(f"INSERT INTO \"{few.places[0].schema}\".note (author, body) VALUES ('bench-00001', '')".encode())
    assert soak.misplaced(few) == ["bench-00000 holds a row of bench-00001"]
    with pytest.MonkeyPatch.context() as patch, psycopg.connect(few.dsn(few.plain)) as stays:
        patch.setattr(soak, "_PATIENCE_S", 0.3)
        stays.execute("SELECT 1")
        assert soak.unsettled(few, soak.BUSY) == 1
        stays.rollback()
        assert soak.unsettled(few, soak.BUSY) == 0
        assert soak.unsettled(few, soak.LEFT) == 1


def test_a_visit_that_meets_another_tenants_row_is_a_leak(few: FleetInCells) -> None:
    own, other = few.places
    few.ask(f'INSERT INTO "{own.schema}".note (author, body) VALUES (%s, %s)', other.tenant_id, "")
    few.ask(f'DELETE FROM "{own.schema}".note WHERE author <> %s', other.tenant_id)
    spec = {
        "blocking": True, "driver": "psycopg", "pooler": "direct", "dsn": few.dsn(few.service.login),
        "installation": few.service.name, "tenants": [own.tenant_id], "guests": [own.tenant_id], "settings": {},
    }  # fmt: skip

    async def visit() -> Seen:
        clients = Clients(spec)
        seen = await clients.visit(clients=1, seconds=0.2, seed=1)
        await clients.close()
        return seen

    seen = asyncio.run(visit())
    assert f"{own.tenant_id} read rows of {other.tenant_id}" in seen.leaks
    assert not seen.unexpected


def broken(error: type[DBAPIError], sqlstate: str | None, *, lost: bool = False) -> DBAPIError:
    original = Exception("the driver's")
    original.sqlstate = sqlstate  # type: ignore[attr-defined]
    return error("SELECT 1", None, original, connection_invalidated=lost)


@pytest.mark.parametrize(
    ("error", "with_own", "with_guest"),
    [
        (ServerUnavailableError("main", "down"), True, True),
        (PlacementChangedError("a"), True, True),
        (UnknownTenantError("a"), False, True),
        (TenantSuspendedError("a", state="suspended"), False, True),
        (TenantMismatchError("x", expected="a", found="b"), False, False),
        (broken(OperationalError, None), True, True),
        (broken(OperationalError, "57P01"), True, True),
        (broken(ProgrammingError, None), False, False),
        (broken(ProgrammingError, "42501"), False, True),
        (broken(ProgrammingError, "42P01"), False, False),
        (broken(ProgrammingError, "42P01", lost=True), True, True),
        (psycopg.errors.AdminShutdown("the raw driver's"), True, True),
        (psycopg.OperationalError("the raw driver's"), True, True),
        (psycopg.errors.UndefinedTable("the raw driver's"), False, False),
        (ValueError("x"), False, False),
        (InvalidRequestError("x"), False, False),
    ],
)
def test_errors_of_an_unknown_kind_are_not_let_through(error: Exception, with_own: bool, with_guest: bool) -> None:
    assert (allowed(error, guest=False), allowed(error, guest=True)) == (with_own, with_guest)


# -- clients


class FakeWay:
    """Answers after `delay_s`, one at a time; `wrong` says whose rows it gives instead."""

    def __init__(self, names: list[str], *, delay_s: float = 0.0, wrong: str | None = None) -> None:
        self._names = names
        self._delay_s = delay_s
        self._wrong = wrong
        self._turn = asyncio.Semaphore(1)
        self.asked: list[int] = []

    async def author(self, tenant: int, row: int) -> str:
        self.asked.append(tenant)
        async with self._turn:
            await asyncio.sleep(self._delay_s)
        return self._wrong or self._names[tenant]

    async def close(self) -> None: ...


NAMES = [f"t{number}" for number in range(50)]


def test_an_open_loop_counts_from_when_a_transaction_was_due() -> None:
    """A way that takes 20 ms cannot serve 100 a second: the later ones wait, and a closed loop would not see it."""
    picks = Picks(NAMES, 50, UNIFORM)
    slow = asyncio.run(open_loop(FakeWay(NAMES, delay_s=0.02), picks, rate=100, seconds=0.5, seed=1))
    assert len(slow.took_us) == 50
    assert max(slow.took_us) > 300_000
    closed = closed_loop(FakeWay(NAMES, delay_s=0.02), picks, clients=1, warm_up_s=0, seconds=0.3, seed=1)
    assert percentile(asyncio.run(closed).took_us, 50) < 100_000


def test_what_belongs_to_the_warm_up_does_not_count() -> None:
    way = FakeWay(NAMES, delay_s=0.01)
    found = asyncio.run(closed_loop(way, Picks(NAMES, 50, UNIFORM), clients=1, warm_up_s=0.2, seconds=0.1, seed=1))
    assert 0 < len(found.took_us) <= 11 < len(way.asked)


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_a_value_of_another_tenant_ends_the_measurement(loop: str) -> None:
    way, picks = FakeWay(NAMES, wrong="somebody"), Picks(NAMES, 50, SKEWED)
    with pytest.raises(ExceptionGroup) as caught:
        if loop == "open":
            asyncio.run(open_loop(way, picks, rate=50, seconds=0.1, seed=1))
        else:
            asyncio.run(closed_loop(way, picks, clients=1, warm_up_s=0, seconds=0.1, seed=1))
    assert caught.group_contains(LeakError, match="somebody")


def test_the_skewed_choice_is_skewed_and_not_by_age() -> None:
    choose = Picks(NAMES, 50, SKEWED).chooser(1)
    counts = [0] * 50
    for _ in range(20_000):
        counts[choose()[0]] += 1
    first, second, *_, last = sorted(counts, reverse=True)
    assert 1.7 < first / second < 2.3
    assert first > 20 * last
    assert counts.index(first) != 0
    even = Picks(NAMES, 50, UNIFORM).chooser(1)
    assert {even()[0] for _ in range(2000)} == set(range(50))


def test_an_error_is_known_by_its_sqlstate() -> None:
    class RefusedError(Exception):
        sqlstate = "53300"

    error = ValueError("no connection")
    error.__cause__ = RefusedError()
    assert kind_of(error) == "53300"
    assert kind_of(OSError("FATAL: sorry, too many clients already")) == "53300"
    assert kind_of(ValueError("x")) == "ValueError"


def test_all_clients_meet_most_tenants_and_all_tenants_one_number_of_clients() -> None:
    some = points([1, 100, 1000], [1, 1000], full=False)
    assert set(some) == {
        Point(1, 1000, SKEWED),
        Point(100, 1000, SKEWED),
        Point(1000, 1000, SKEWED),
        Point(100, 1, SKEWED),
        Point(100, 1000, UNIFORM),
    }
    assert len(points([1, 100, 1000], [1, 1000], full=True)) == 6 + 3


# -- memory and pictures


def test_private_memory_is_what_nobody_else_has() -> None:
    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc/PID/smaps")
    import mmap

    before = private_mib(os.getpid())
    own = bytearray(b"x" * (16 << 20))
    with mmap.mmap(-1, 32 << 20, flags=mmap.MAP_SHARED) as shared:  # as PostgreSQL has its buffers
        shared.write(b"x" * (32 << 20))
        grown = private_mib(os.getpid()) - before
    assert len(own) == 16 << 20
    assert 12 < grown < 24
    assert resident_mib(os.getpid()) > 16
    assert private_mib(2**22 + 1) == resident_mib(2**22 + 1) == 0


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [(1, 1000, [1, 10, 100, 1000]), (3, 40, [1, 10, 100]), (0.2, 0.3, [0.1, 1]), (10, 10, [10, 100])],
)
def test_a_logarithmic_axis_has_powers_of_ten(lowest: float, highest: float, expected: list[float]) -> None:
    assert powers(lowest, highest) == pytest.approx(expected)


def test_a_logarithmic_chart_has_equal_steps_and_labels_apart() -> None:
    lines = [Line(name, [(1, 5), (10, 50), (100, 500)]) for name in ("one", "two", "three")]
    root = ElementTree.fromstring(svg([Chart("growth", "tenants", "ms", lines, log_x=True, log_y=True)]))
    (x0, y0), (x1, y1), (x2, y2) = [
        tuple(map(float, point.split(",")))
        for point in root.findall(f".//{SVG}polyline")[0].attrib["points"].split()
    ]  # fmt: skip
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y1 - y2 > 20
    heights = sorted(
        float(text.attrib["y"]) for text in root.iter(f"{SVG}text") if text.text in ("one", "two", "three")
    )
    assert all(lower - upper >= 14 for upper, lower in pairwise(heights))
