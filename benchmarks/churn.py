"""What the others feel while tenants are created, suspended and deleted.

The load is an open loop: transactions begin at a fixed rate, half of what a closed loop reached before, whether those
before them have ended or not, and each counts from when it was due (no coordinated omission). Phases with churn and
without take turns, in pairs whose order changes; the bar is the median of the pairs' ratios.

Clients and churn are processes of their own, and so that it is the server in which they meet, clients have one core and
the server another (`benchmarks.cores`). The process that churns stands for an operator's, on another machine: it shares
the server's core, and lets the server go first.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cores import clients_apart, keep_servers
from benchmarks.plot import Chart, Line, svg
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.scaling.doors import OURS
from benchmarks.scaling.ground import FleetInCells, fleet_in_cells
from benchmarks.scaling.load import SKEWED, Sample
from benchmarks.scaling.worker import Worker, Workers, workers
from benchmarks.session import at_least

SUMMARY = "what the others feel while tenants are created, suspended and deleted"

LIMIT = 1.5
QUIET, CHURN = "without churn", "with churn"
_ONE_IN = (2, 10, 100, 1000)
_YIELDS = 10  # to what has 0, of -20 to 19
_CLIENTS = 32  # of the closed loop that finds the capacity: more than there are connections


@dataclass
class Phases:
    """What was seen with churn, or without: what one in 2, 10, 100, 1,000 exceeds in each phase, and all of it."""

    exceeded_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    took_ms: list[float] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        took_ms = [us / 1000 for us in sample.took_us]
        self.took_ms += took_ms
        for one_in in _ONE_IN:
            self.exceeded_ms[one_in].append(exceeded(took_ms, one_in))

    def rows(self, when: str) -> list[Row]:
        exceeded = self.exceeded_ms.items()
        return [
            Row.of(f"{when}: latency", self.took_ms, unit="ms"),
            *(Row.of(f"{when}: one in {one_in:,} takes longer than", ms, unit="ms") for one_in, ms in exceeded),
        ]


def exceeded(values: Sequence[float], one_in: int) -> float:
    """Return what one of `one_in` values exceeds. Raises `ValueError` where there are none."""
    if not values:
        raise ValueError("nothing was measured")
    return sorted(values)[math.ceil(len(values) * (1 - 1 / one_in)) - 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = at_least(1)
    parser.add_argument("--tenants", type=number, help="200, or 1,000 with --full")
    parser.add_argument("--tables", type=number, default=20, help="20 for each tenant")
    parser.add_argument("--cell-size", type=number, help="tenants that share a login role; the setting's default")
    parser.add_argument("--rate", type=float, default=2.0, help="tenants created, suspended, deleted in a second; 2")
    parser.add_argument("--load", type=float, default=0.5, help="part of the capacity at which transactions come; 0.5")
    parser.add_argument("--pairs", type=number, help="of phases; 9, or 20 with --full")
    parser.add_argument("--seconds", type=float, help="of a phase; 10, or 15 with --full")
    parser.add_argument("--connections", type=number, default=16, help="server connections of the clients, in all; 16")
    parser.add_argument("--processes", type=number, default=2, help="that the clients are spread over; 2")
    parser.add_argument("--driver", choices=("psycopg", "asyncpg"), default="psycopg", help="both with asyncio")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL."""
    load = os.getloadavg()[0]
    pairs = options.pairs or (20 if options.full else 9)
    seconds = options.seconds or (15.0 if options.full else 10.0)
    with ExitStack() as stack:
        fleet = stack.enter_context(
            fleet_in_cells(major=options.pg, tables=options.tables, cell_size=options.cell_size)
        )
        fleet.grow(options.tenants or (1000 if options.full else 200))
        loaders = stack.enter_context(workers(options.processes))
        churner = stack.enter_context(Worker())
        core = stack.enter_context(clients_apart(loaders.pids))
        keep_servers([fleet.server.pid, churner.pid], core)
        os.setpriority(os.PRIO_PROCESS, churner.pid, _YIELDS)
        bench = Bench(fleet, loaders, churner, options, seconds)
        capacity = bench.begin()
        for pair in range(pairs):
            for churns in (pair % 2 == 1, pair % 2 == 0):
                bench.phase(capacity * options.load, churns=churns, seed=pair)
        loaders.all("close")
        facts = environment(postgresql=fleet.version)
    quiet, churned = bench.phases[QUIET], bench.phases[CHURN]
    pairs_ms = zip(churned.exceeded_ms[100], quiet.exceeded_ms[100], strict=True)
    ratio = statistics.median(a / b for a, b in pairs_ms)
    steps = ", ".join(f"{verb} {len(took)}" for verb, took in bench.churned.items())
    size = f"{len(fleet.places):,} tenants of {options.tables} tables in {len(fleet.cells)} cells"
    return Result(
        name="churn",
        environment=facts,
        rows=[
            Row.of("capacity, closed loop", [capacity], unit="tx/s"),
            *(row for when, found in bench.phases.items() for row in found.rows(when)),
            *(Row.of(f"{verb} under load", took, unit="ms") for verb, took in bench.churned.items()),
        ],
        bars=[
            Bar(f"p99 of the others: {CHURN} / {QUIET}", round(ratio, 3), LIMIT),
            Bar("transactions and steps that failed", sum(bench.errors.values()), 0),
        ],
        remarks=[
            f"  {size}; {options.driver}; {capacity * options.load:,.0f} transactions a second; steps: {steps}",
            *(f"  failed: {kind}, {count}" for kind, count in bench.errors.items()),
            *([f"  the first: {bench.error}"] if bench.error else []),
            f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}",
        ],
    )


@dataclass
class Bench:
    """What measures, phase by phase."""

    fleet: FleetInCells
    loaders: Workers
    churner: Worker
    options: argparse.Namespace
    seconds: float
    phases: dict[str, Phases] = field(default_factory=lambda: {QUIET: Phases(), CHURN: Phases()})
    churned: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    error: str = ""
    _round: int = 0

    def begin(self) -> float:
        """Open the clients' connections and let churn begin once, unmeasured; return the capacity, in tx/s."""
        fleet, driver = self.fleet, self.options.driver
        self.loaders.all("open", spec={
            "way": OURS, "driver": driver, "pooler": "direct", "dsn": fleet.dsn(fleet.service.login),
            "installation": fleet.service.name, "tenants": [place.tenant_id for place in fleet.places],
            "settings": {**fleet.settings, "pool_size": max(1, self.options.connections // len(self.loaders))},
        })  # fmt: skip
        self.churner.tell("open_admin", spec={
            "app_dsn": fleet.dsn(fleet.service.login), "admin_dsn": fleet.server.dsn(fleet.service.database),
            "installation": fleet.service.name, "tables": fleet.tables, "settings": fleet.settings,
        })  # fmt: skip
        self.churner.hear()
        self._churn(1.0)
        self.churner.hear()
        sample = self.loaders.load(
            "closed_loop", share={"clients": self.loaders.shares(_CLIENTS)}, seed=0, picks=self._picks,
            warm_up_s=self.seconds, seconds=self.seconds / 2,
        )  # fmt: skip
        if sample.errors:
            raise RuntimeError(f"the closed loop failed: {dict(sample.errors)}; {sample.error}")
        return len(sample.took_us) / sample.seconds

    def phase(self, rate: float, *, churns: bool, seed: int) -> None:
        """Let transactions come at `rate` for a phase."""
        if churns:
            self._churn(self.seconds)
        share = {"rate": [rate / len(self.loaders)] * len(self.loaders)}
        sample = self.loaders.load("open_loop", share=share, seed=seed, picks=self._picks, seconds=self.seconds)
        self.phases[CHURN if churns else QUIET].add(sample)
        self._note(sample.errors, sample.error)
        if churns:
            found = self.churner.hear()
            for verb, took in found["took_ms"].items():
                self.churned[verb] += took
            self._note(found["errors"], found["error"])

    def _churn(self, seconds: float) -> None:
        self._round += 1
        self.churner.tell("churn", prefix=f"churn-{self._round}", rate=self.options.rate, seconds=seconds)

    def _note(self, errors: dict[str, int], error: str) -> None:
        self.errors.update(errors)
        self.error = self.error or error

    @property
    def _picks(self) -> dict[str, Any]:
        names = [place.tenant_id for place in self.fleet.places]
        return {"names": names, "tenants": len(names), "shape": SKEWED}


def plot(result: Result, path: Path) -> None:
    """Draw how long the slow ones take, with churn and without."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in result.rows:
        if case := re.fullmatch(r"(.+): one in ([\d,]+) takes longer than", row.case):
            found[case[1]].append((float(case[2].replace(",", "")), row.median))
    lines = [Line(when, points) for when, points in found.items()]
    chart = Chart("Of so many transactions one takes longer", "transactions", "ms", lines, log_x=True, log_y=True)
    path.write_text(svg([chart]), encoding="utf-8")
