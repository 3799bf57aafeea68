"""Pool scaling: clients and tenants from 1 to 1,000, over five ways to keep connections.

A client is one that sends its next transaction when it has the answer to the last: a task of one of several loading
processes. A transaction reads one row by its primary key. At a point (so many clients, so many tenants) the ways take
turns, in an order that changes from round to round, each with new connections; ratios are taken within the round, and
a bar is the median of the rounds' ratios, at most tenants and where the server is busy. Bars use the skewed choice of
tenants (Zipf), which is what fleets are like; the even one is measured beside it.

Ours has as many server connections as the plain pool with which it is compared: of all its cells together. Before
PgBouncer clients are cheap, so that processes keep more connections to it than it has to the server, both ways alike.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.plot import Chart, Line, svg
from benchmarks.report import Bar, Result, Row, environment, table
from benchmarks.scaling.doors import OURS, OWN, PLAIN
from benchmarks.scaling.ground import FleetInCells, cells_pooler, fleet_in_cells, plain_pooler
from benchmarks.scaling.load import SKEWED, UNIFORM, Sample
from benchmarks.scaling.watch import Watch
from benchmarks.scaling.worker import Workers, workers
from benchmarks.session import at_least
from tests.servers import PgBouncer

SUMMARY = "clients and tenants from 1 to 1,000: an engine per tenant, one shared pool, ours; direct and pooled"

LIMIT = 0.85
BUSY = 100
"""From so many clients on there is a bar."""

_FAN_IN = 4  # clients' connections to PgBouncer for each of its own
_SOME, _FULL = (1, 100, 1000), (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Topology:
    """A way, and whether it goes through the pooler."""

    way: str
    pooled: bool

    def __str__(self) -> str:
        return f"{self.way}, pgbouncer" if self.pooled else self.way


TOPOLOGIES = (
    Topology(PLAIN, pooled=False),
    Topology(OURS, pooled=False),
    Topology(PLAIN, pooled=True),
    Topology(OURS, pooled=True),
    Topology(OWN, pooled=False),
)


@dataclass(frozen=True, slots=True)
class Point:
    """Where is measured."""

    clients: int
    tenants: int
    shape: str

    def __str__(self) -> str:
        return f"{self.clients:,} clients, {self.tenants:,} tenants, {self.shape}"


@dataclass
class Found:
    """What a topology did at a point, in every round."""

    rates: list[float] = field(default_factory=list)
    took_us: list[int] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    refused: str = ""

    def add(self, sample: Sample, *, connections: int, opened: int, memory_mib: float) -> None:
        self.rates.append(len(sample.took_us) / sample.seconds)
        self.took_us += sample.took_us
        self.p99_ms.append(percentile(sample.took_us, 99) / 1000)
        self.connections.append(connections)
        self.opened.append(opened)
        self.memory_mib.append(memory_mib)

    def rows(self, name: str) -> list[Row]:
        if self.refused or not self.took_us:
            return []
        return [
            Row.of(f"{name}: throughput", self.rates, unit="tx/s"),
            Row.of(f"{name}: latency", [us / 1000 for us in self.took_us], unit="ms"),
            Row.of(f"{name}: p99", self.p99_ms, unit="ms"),
            Row.of(f"{name}: server connections", self.connections, unit="connections"),
            Row.of(f"{name}: opened, warm-up included", self.opened, unit="connections"),
            Row.of(f"{name}: server memory", self.memory_mib, unit="MiB"),
        ]


Figures = dict[Point, dict[Topology, Found]]


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of `values` do not exceed; 0 where there are none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = at_least(1)
    parser.add_argument("--clients", type=number, nargs="+", metavar="N", help="1 100 1000; also 10 with --full")
    parser.add_argument("--tenants", type=number, nargs="+", metavar="N", help="as many")
    parser.add_argument("--cell-size", type=number, help="tenants that share a login role; the setting's default")
    parser.add_argument("--connections", type=number, default=32, help="server connections of a way, in all; 32")
    parser.add_argument("--max-connections", type=number, default=200, help="what the server allows; 200")
    parser.add_argument("--processes", type=number, default=2, help="that the clients are spread over; 2")
    parser.add_argument("--driver", choices=("psycopg", "asyncpg"), default="psycopg", help="both with asyncio")
    parser.add_argument("--seconds", type=float, help="of each measurement; 2, or 4 with --full")
    parser.add_argument("--warm-up", type=float, metavar="SECONDS", help="before each; 1, or 2 with --full")
    parser.add_argument("--sweeps", type=at_least(0), default=2, help="visits of all tenants before the warm-up; 2")
    parser.add_argument("--rounds", type=number, help="at the points of the bars; 5, or 9 with --full")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")


def points(clients: Sequence[int], tenants: Sequence[int], *, full: bool) -> list[Point]:
    """Return where to measure: all clients at most tenants, and all tenants at one number; all by all with `full`.

    The even choice is measured at most tenants.
    """
    clients, tenants = sorted(set(clients)), sorted(set(tenants))
    middle = max((n for n in clients if n <= BUSY), default=clients[0])
    return [
        Point(c, t, shape)
        for c, t, shape in product(clients, tenants, (SKEWED, UNIFORM))
        if (t == tenants[-1] and (shape == SKEWED or full or c == middle))
        or (shape == SKEWED and (full or c == middle))
    ]


def has_bar(point: Point, options: argparse.Namespace) -> bool:
    """Whether ours is held to a limit here."""
    return (
        point.shape == SKEWED
        and point.tenants == max(options.tenants)
        and point.clients >= min(BUSY, max(options.clients))
    )


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL."""
    load = os.getloadavg()[0]
    sizes = _FULL if options.full else _SOME
    options.clients, options.tenants = options.clients or sizes, options.tenants or sizes
    options.seconds = options.seconds or (4.0 if options.full else 2.0)
    options.warm_up = options.warm_up or (2.0 if options.full else 1.0)
    rounds = options.rounds or (9 if options.full else 5)
    remarks: list[str] = []
    figures: Figures = defaultdict(lambda: defaultdict(Found))
    with ExitStack() as stack:
        fleet = stack.enter_context(
            fleet_in_cells(
                major=options.pg, tables=1, cell_size=options.cell_size, max_connections=options.max_connections
            )
        )
        fleet.grow(max(options.tenants))
        fleet.give_own_logins()
        poolers: dict[str, PgBouncer] = {}
        try:
            for way, make in ((PLAIN, plain_pooler), (OURS, cells_pooler)):
                poolers[way] = stack.enter_context(make(fleet, connections=options.connections))
        except LookupError:
            remarks.append("  left out: everything through PgBouncer, which is not installed")
        bench = Bench(
            fleet, poolers, stack.enter_context(workers(options.processes)), stack.enter_context(Watch(fleet.service)),
            options,
        )  # fmt: skip
        for point in points(options.clients, options.tenants, full=options.full):
            bench.measure(point, figures[point], rounds=rounds if has_bar(point, options) else 1)
        bouncer = ".".join(map(str, poolers[OURS].version)) if poolers else None
        facts = environment(postgresql=fleet.version, pgbouncer=bouncer)
        remarks.append(
            f"  {options.driver}, {options.connections} server connections for each way in all, of {options.processes} "
            f"processes; {len(fleet.cells)} cells"
        )
    remarks += [
        f"  {point}: {topology}: no more after {found.refused}"
        for point, ways in figures.items()
        for topology, found in ways.items()
        if found.refused
    ]
    remarks.append(f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}")
    return Result(
        name="pool",
        environment=facts,
        rows=[
            row
            for point, ways in figures.items()
            for topology, found in ways.items()
            for row in found.rows(f"{topology}, {point}")
        ],
        bars=[bar for point in figures if has_bar(point, options) for bar in _bars(point, figures[point])],
        remarks=remarks,
        shown=list(_shown(figures)),
    )


@dataclass(frozen=True)
class Bench:
    """What measures: one topology at a time, all at each point."""

    fleet: FleetInCells
    poolers: Mapping[str, PgBouncer]
    loaders: Workers
    watch: Watch
    options: argparse.Namespace

    def measure(self, point: Point, found: dict[Topology, Found], *, rounds: int) -> None:
        """Measure all topologies at a point, in turn."""
        ways = [topology for topology in TOPOLOGIES if self.poolers or not topology.pooled]
        for number in range(rounds):
            first = number % len(ways)
            for topology in [*ways[first:], *ways[:first]]:
                if not found[topology].refused:
                    self._measure(point, topology, found[topology], seed=number)

    def _measure(self, point: Point, topology: Topology, found: Found, *, seed: int) -> None:
        self.watch.reset()
        self.loaders.all("open", spec=self._spec(topology))
        names = [place.tenant_id for place in self.fleet.places[: point.tenants]]
        sample = self.loaders.load(
            "closed_loop",
            share={"clients": self.loaders.shares(point.clients)},
            seed=seed,
            picks={"names": names, "tenants": point.tenants, "shape": point.shape},
            sweeps=self.options.sweeps,
            warm_up_s=self.options.warm_up,
            seconds=self.options.seconds,
        )
        memory = self.watch.memory()
        connections, opened = self.watch.most, self.watch.opened
        self.loaders.all("close")
        if topology.way == OWN and set(sample.errors) == {"53300"}:
            found.refused = f"{connections} connections (SQLSTATE 53300, too many connections)"
        elif sample.errors:
            raise RuntimeError(f"{topology}, {point}: {dict(sample.errors)}; {sample.error}")
        else:
            found.add(sample, connections=connections, opened=opened, memory_mib=memory.total_mib)
        if topology.pooled:
            self.poolers[topology.way].restart()  # so that the next way begins without its connections

    def _spec(self, topology: Topology) -> dict[str, Any]:
        pooler = self.poolers[topology.way] if topology.pooled else None
        fleet, options = self.fleet, self.options
        each = max(1, options.connections * (_FAN_IN if pooler else 1) // len(self.loaders))
        spec: dict[str, Any] = {
            "way": topology.way,
            "driver": options.driver,
            "pooler": "pgbouncer" if pooler else "direct",
            "connections": each,
        }
        match topology.way:
            case "plain":
                return {**spec, "dsn": fleet.dsn(fleet.plain, pooler=pooler)}
            case "engine per tenant":
                return {**spec, "dsns": [fleet.dsn(fleet.own_login(place.schema)) for place in fleet.places]}
            case _:
                return {
                    **spec,
                    "dsn": fleet.dsn(fleet.service.login, pooler=pooler),
                    "installation": fleet.service.name,
                    "tenants": [place.tenant_id for place in fleet.places],
                    "settings": {**fleet.settings, "pool_size": each},
                }


def _bars(point: Point, ways: dict[Topology, Found]) -> Iterator[Bar]:
    for pooled in (False, True):
        ours, plain = (ways.get(Topology(way, pooled=pooled), Found()).rates for way in (OURS, PLAIN))
        if ours and plain:
            ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
            route = "pgbouncer" if pooled else "direct"
            yield Bar(f"throughput, {route}, {point}: ours / plain", round(ratio, 3), LIMIT, better="higher")


def _shown(figures: Figures) -> Iterator[str]:
    """Yield a table for a person, a line for each point and topology."""
    head = ("where", "tx/s", "p50 ms", "p95 ms", "p99 ms", "connections", "opened", "MiB", "")
    lines: list[tuple[str, ...]] = []
    for point, ways in figures.items():
        for topology, found in ways.items():
            if found.refused:
                lines.append((f"{point}: {topology}", *["-"] * 7, "refused"))
            elif found.took_us:
                spread = (percentile(found.took_us, percent) / 1000 for percent in (50, 95, 99))
                facts = (statistics.median(found.rates), *spread)
                lines.append(
                    (
                        f"{point}: {topology}",
                        *(f"{fact:,.1f}" for fact in facts),
                        str(max(found.connections)),
                        f"{statistics.median(found.opened):,.0f}",
                        f"{max(found.memory_mib):,.0f}",
                        "",
                    )
                )
    yield from table(head, lines)


_CASE = re.compile(r"(.+), ([\d,]+) clients, ([\d,]+) tenants, skewed: (.+)")


def plot(result: Result, path: Path) -> None:
    """Draw what is over clients at most tenants, and what is over tenants at one number of clients."""
    found: dict[str, dict[str, dict[tuple[int, int], float]]] = defaultdict(lambda: defaultdict(dict))
    for row in result.rows:
        if case := _CASE.fullmatch(row.case):
            clients, tenants = (int(number.replace(",", "")) for number in case.group(2, 3))
            found[case[4]][case[1]][clients, tenants] = row.median
    at = [point for ways in found.values() for values in ways.values() for point in values]
    most = max(tenants for _, tenants in at)
    middle = max((clients for clients, _ in at if clients <= BUSY), default=min(clients for clients, _ in at))

    def over_clients(what: str) -> list[Line]:
        return [
            Line(way, [(clients, value) for (clients, tenants), value in sorted(values.items()) if tenants == most])
            for way, values in found[what].items()
        ]

    def over_tenants(what: str) -> list[Line]:
        return [
            Line(way, [(tenants, value) for (clients, tenants), value in sorted(values.items()) if clients == middle])
            for way, values in found[what].items()
        ]

    many, busy = f"{most:,} tenants", f"{middle:,} clients"
    charts = [
        Chart(f"Throughput, {many}", "clients", "transactions per second", over_clients("throughput"), log_x=True),
        Chart(f"99 of 100 are faster, {many}", "clients", "ms", over_clients("p99"), log_x=True, log_y=True),
        Chart(f"Throughput, {busy}", "tenants", "transactions per second", over_tenants("throughput"), log_x=True),
        Chart(f"Server connections, {busy}", "tenants", "connections", over_tenants("server connections"), log_x=True),
        Chart(f"Server memory, {busy}", "tenants", "MiB, private", over_tenants("server memory"), log_x=True),
    ]
    path.write_text(svg(charts), encoding="utf-8")
