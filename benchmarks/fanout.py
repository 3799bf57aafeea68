"""One upgrade for a whole fleet: ours against bare libpq, stock Alembic and django-tenants.

Every tenant has the same tables, and the change is one column and one index. Each repeat runs ours with verification
and without, and the raw limit, in an order that changes, and undoes the change in between; ratios are taken within the
repeat, and a bar is the median of the repeats' ratios.

*Tenants only* is from the first tenant's transaction to the last one's end, by the run's own log: that is what is
compared with the raw limit and, schema for schema, with Alembic, which works on a sample. The *whole run* has besides
what a run costs once, whatever the number of tenants: two processes that render the revisions, the plan, the entry in
the catalog; the remarks compare that, too.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.alembic_loop import upgrade_each
from benchmarks.django_peer import VERSIONS, DjangoTenants, django_python
from benchmarks.fleet_ground import FleetGround, fleet_ground, fleet_server
from benchmarks.fleet_history import CHANGE
from benchmarks.fleet_runner import run_apart
from benchmarks.plot import Chart, Line, svg
from benchmarks.report import Bar, Result, Row, environment
from mt_paas_db.migrate.report import Options
from tests.servers import PostgresServer

SUMMARY = "an upgrade of the whole fleet against bare libpq, stock Alembic and django-tenants"

OVER_ALEMBIC, OF_RAW, OF_RAW_VERIFIED, IDLE_S = 20.0, 0.7, 0.4, 1.0
STRETCH = 0.9
LINEAR, FLAT = 1.25, 1.1

VERIFIED, UNVERIFIED, RAW = "ours, verified", "ours, not verified", "bare libpq"
ALEMBIC, STANDARD, PROCESSES = "Alembic per schema", "django-tenants, standard", "django-tenants, multiprocessing"

_SIZES = (100, 300, 1000, 3000)
_ALEMBIC_SAMPLE, _DJANGO_SAMPLE = 40, 20
_IDLE, _IDLE_FEW = 3000, 100


@dataclass
class Figures:
    """Microseconds per tenant, one value for each repeat, by case.

    `server` and `client` are processor time, of which other work on the machine takes nothing away.
    """

    whole: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    tenants: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    server: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    client: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    once_ms: list[float] = field(default_factory=list)

    def ratio(self, one: Sequence[float], other: Sequence[float]) -> float:
        """Return the median of the repeats' ratios."""
        return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


@dataclass(frozen=True, slots=True)
class Grown:
    """What the runner took for a fleet of one size: seconds, and MiB of memory at most."""

    tenants: int
    whole_s: float
    tenants_s: float
    peak_mib: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenants", type=positive, default=1000, help="1000")
    parser.add_argument("--tables", type=positive, default=20, help="20 for each tenant")
    parser.add_argument("--jobs", type=positive, default=4, help="4 connections")
    parser.add_argument("--repeats", type=positive, default=3, help="3")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")
    parser.add_argument("--no-peers", action="store_true", help="leave out what is installed from PyPI")


def positive(value: str) -> int:
    """Parse a number of at least 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r}: a number is needed, at least 1")
    return int(value)


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL."""
    load = os.getloadavg()[0]
    remarks: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(fleet_server(options.pg))
        ground = stack.enter_context(fleet_ground(server, tables=options.tables, jobs=options.jobs))
        django = None if options.no_peers else _django(stack, ground, options, remarks)
        if options.no_peers:
            remarks.append("  left out: django-tenants (--no-peers)")
        idle_rows, idle_bars = idle_figures(server, jobs=options.jobs, repeats=options.repeats)
        sizes = sorted({*(size for size in _SIZES if size < options.tenants), options.tenants})
        grown = [growth(ground, size) for size in sizes]
        figures = compare(ground, django, repeats=options.repeats)
        if options.full:
            grown += [growth(ground, size) for size in _SIZES if size > options.tenants]
        facts = environment(postgresql=ground.version, packages=VERSIONS if django else None)
    remarks.append(f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}")
    remarks += _remarks(figures, options)
    return Result(
        name="fanout",
        environment=facts,
        rows=[*_rows(figures), *idle_rows, *(row for size in grown for row in _grown_rows(size))],
        bars=[*_bars(figures, jobs=options.jobs), *idle_bars, *_grown_bars(grown)],
        remarks=remarks,
    )


# -- the comparison


def compare(ground: FleetGround, django: DjangoTenants | None, *, repeats: int) -> Figures:
    """Run every case `repeats` times, each from the base."""
    figures = Figures()
    number = len(ground.schemas)

    def ours(case: str, *, verify: bool) -> None:
        report = ground.fleet().upgrade(options=Options(jobs=ground.jobs, verify=verify))
        if not report.ok or report.migrated != number:
            raise RuntimeError(f"{case}: {report.state}, {report.message}, {report.failures[:3]}")
        tenants_s = ground.tenants_s(report.run_id)
        figures.whole[case].append(report.seconds * 1e6 / number)
        figures.tenants[case].append(tenants_s * 1e6 / number)
        figures.once_ms.append((report.seconds - tenants_s) * 1e3)

    def raw() -> None:
        messages = [ground.migration(schema) for schema in ground.schemas]
        with ground.libpq() as libpq:
            took_s = libpq.send(messages)
        for table in (figures.whole, figures.tenants):
            table[RAW].append(took_s * 1e6 / number)

    cases: list[tuple[str, Callable[[], None]]] = [
        (VERIFIED, lambda: ours(VERIFIED, verify=True)),
        (RAW, raw),
        (UNVERIFIED, lambda: ours(UNVERIFIED, verify=False)),
    ]
    for repeat in range(repeats):
        first = repeat % len(cases)
        for name, case in [*cases[first:], *cases[:first]]:
            server_s, client_s = ground.server_cpu_s(), time.process_time()
            case()
            figures.client[name].append((time.process_time() - client_s) * 1e6 / number)
            figures.server[name].append((ground.server_cpu_s() - server_s) * 1e6 / number)
            ground.reset()
        sample = ground.schemas[:_ALEMBIC_SAMPLE]
        took_s = upgrade_each(ground.location, ground.dsn, sample)
        figures.whole[ALEMBIC].append(statistics.median(took_s) * 1e6)
        ground.reset(sample)
        for name, executor in ((STANDARD, "standard"), (PROCESSES, "multiprocessing")):
            if django is not None:
                figures.whole[name].append(django.migrate(executor) * 1e6 / len(django.schemas))
                django.reset()
    return figures


def _django(
    stack: ExitStack, ground: FleetGround, options: argparse.Namespace, remarks: list[str]
) -> DjangoTenants | None:
    try:
        python = django_python()
    except LookupError as error:
        remarks.append(f"  left out: django-tenants, which cannot be installed ({error})")
        return None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mt_paas_django_")))
    peer = DjangoTenants.begin(python, folder, ground.service, tables=options.tables, jobs=options.jobs)
    peer.create(min(_DJANGO_SAMPLE, options.tenants))
    peer.change()
    return peer


def _rows(figures: Figures) -> list[Row]:
    rows = [Row.of(f"per tenant, whole run: {case}", took, unit="us") for case, took in figures.whole.items()]
    rows += [Row.of(f"per tenant, tenants only: {case}", took, unit="us") for case, took in figures.tenants.items()]
    rows += [Row.of(f"per tenant, server's processor time: {case}", t, unit="us") for case, t in figures.server.items()]
    rows += [Row.of(f"per tenant, client's processor time: {case}", t, unit="us") for case, t in figures.client.items()]
    return [*rows, Row.of("once per run, whatever the fleet", figures.once_ms, unit="ms")]


def _bars(figures: Figures, *, jobs: int) -> list[Bar]:
    whole, tenants = figures.whole, figures.tenants
    return [
        *(
            Bar(f"time per tenant: {ALEMBIC} / {ours}, {jobs} connections",
                figures.ratio(whole[ALEMBIC], tenants[ours]), OVER_ALEMBIC, better="higher")
            for ours in (VERIFIED, UNVERIFIED)
        ),
        Bar(f"rate, tenants only: {UNVERIFIED} / {RAW}",
            figures.ratio(tenants[RAW], tenants[UNVERIFIED]), OF_RAW, better="higher"),
        Bar(f"rate, tenants only: {VERIFIED} / {RAW}",
            figures.ratio(tenants[RAW], tenants[VERIFIED]), OF_RAW_VERIFIED, better="higher"),
    ]  # fmt: skip


def _remarks(figures: Figures, options: argparse.Namespace) -> list[str]:
    whole = figures.whole
    size = f"{options.tenants} tenants of {options.tables} tables, {options.jobs} connections"
    lines = [f"  {size}; stretch of the raw rate, not verified: {STRETCH}"]
    for part, base in (("whole run", figures.whole), ("tenants only", figures.tenants)):
        for case in (ALEMBIC, STANDARD, PROCESSES):
            if case in whole:
                over = [f"{figures.ratio(whole[case], base[ours]):.2f} of {ours}" for ours in (VERIFIED, UNVERIFIED)]
                lines.append(f"    time per tenant, our {part}: {case:<32} {', '.join(over)}")
    return lines


# -- nothing to do


def idle_figures(server: PostgresServer, *, jobs: int, repeats: int) -> tuple[list[Row], list[Bar]]:
    """Measure an upgrade of 3,000 tenants that are all at the head, by the catalog, which is all that is asked."""
    with fleet_ground(server, tables=1, jobs=jobs, at=CHANGE) as ground:
        ground.enter(_IDLE_FEW, CHANGE)
        few = run_apart(ground)
        ground.enter(_IDLE, CHANGE)
        runs = [run_apart(ground) for _ in range(repeats)]
    if any(found["unchanged"] != _IDLE or found["run_id"] is not None for found in runs):
        raise RuntimeError(f"there was something to do: {runs}")
    name = f"nothing to do, {_IDLE:,} tenants"
    took_s = [found["seconds"] for found in runs]
    memory = [found["peak_mib"] for found in runs]
    rows = [
        Row.of(name, [seconds * 1e3 for seconds in took_s], unit="ms"),
        Row.of(f"{name}: peak memory", memory, unit="MiB"),
    ]
    bars = [
        Bar(f"{name}: seconds", round(statistics.median(took_s), 3), IDLE_S),
        Bar(f"{name}: queries about tenants", max(found["queries"] for found in runs), 1),
        Bar(f"{name}: peak memory / with {_IDLE_FEW}", round(statistics.median(memory) / few["peak_mib"], 3), FLAT),
    ]
    return rows, bars


# -- growth


def growth(ground: FleetGround, tenants: int) -> Grown:
    """Measure a verified run of a fleet of this size, in a process of its own, and undo it."""
    ground.grow(tenants)
    found = run_apart(ground)
    grown = Grown(tenants, found["seconds"], ground.tenants_s(found["run_id"]), found["peak_mib"])
    if found["migrated"] != tenants:
        raise RuntimeError(f"of {tenants} tenants {found['migrated']} were migrated")
    ground.reset()
    return grown


def _grown_rows(grown: Grown) -> list[Row]:
    name = f"growth, {grown.tenants} tenants"
    return [
        Row(f"{name}: whole run", *2 * (round(grown.whole_s, 2),), 1, "s"),
        Row(f"{name}: tenants only", *2 * (round(grown.tenants_s, 2),), 1, "s"),
        Row(f"{name}: peak memory", *2 * (round(grown.peak_mib, 1),), 1, "MiB"),
    ]


def _grown_bars(grown: Sequence[Grown]) -> list[Bar]:
    """Compare the largest fleet with the smallest."""
    if len(grown) < 2:
        return []
    small, large = grown[0], grown[-1]
    what = f"{large.tenants} tenants / {small.tenants}"
    per_tenant = large.tenants_s / large.tenants / (small.tenants_s / small.tenants)
    return [
        Bar(f"growth: time per tenant, {what}", round(per_tenant, 3), LINEAR),
        Bar(f"growth: peak memory, {what}", round(large.peak_mib / small.peak_mib, 3), FLAT),
    ]


def plot(result: Result, path: Path) -> None:
    """Draw the growth: time and memory by the number of tenants."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in result.rows:
        if grown := re.fullmatch(r"growth, (\d+) tenants: (.*)", row.case):
            found[grown[2]].append((float(grown[1]), row.median))
    times = [Line(name, found[name]) for name in ("whole run", "tenants only")]
    memory = Line("runner", found["peak memory"])
    path.write_text(
        svg([
            Chart("An upgrade of the whole fleet, verified", "tenants", "seconds", times),
            Chart("The runner's peak memory", "tenants", "MiB", [memory]),
        ]),
        encoding="utf-8",
    )  # fmt: skip
