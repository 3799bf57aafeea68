"""What tenancy costs a transaction: a primary-key SELECT in its own transaction, tenants in turn.

Clients and servers are kept on cores of their own (`benchmarks.cores`), and, as a machine is never quite idle, the
time is cut small. In each round every case gets new connections and the same warm-up,
and then the cases of a route take turns of a few transactions, in an order that changes. A round gives one
median to each case; ratios are taken within the round, and a bar is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.cases import OURS, PLAIN, Case, make_cases, place, reachable_routes
from benchmarks.cores import clients_apart, keep_servers
from benchmarks.ground import Ground, prepared_ground
from benchmarks.peers import PEERS, PeerWorker, peer_cases, peer_python
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.round_trips import round_trip_figures
from benchmarks.workload import visits
from tests.servers import PgBouncer, PostgresServer

SUMMARY = "a tenant's transaction against one without tenancy, the naive way and the peers"

LIMIT = 1.15
STRETCH = 1.05

_ROUNDS, _FULL_ROUNDS = 30, 150
_BUDGET_S = 210.0  # a default run on a busy machine stops here, with fewer rounds
# psycopg prepares a statement when it is used for the sixth time, ours once a tenant; the server then plans the
# first five uses of a prepared statement each time, and may keep a generic plan after that.
_WARM_UP_PASSES = 13
_PASSES = 10
# Transactions that a case runs before the next one has its turn: few enough that what disturbs the machine disturbs
# all alike, and enough for five visits to each of 20 tenants. With fewer, a case that has a table for each tenant
# would find what it needs evicted from the processor's caches by the case before, as it never is in a service.
_TURN = 100


@dataclass
class Samples:
    """What a case took, in microseconds: every transaction, and the median of each round."""

    all_us: list[float] = field(default_factory=list)
    rounds_us: list[float] = field(default_factory=list)

    def add_round(self, took_ns: Sequence[int]) -> None:
        took_us = [ns / 1000 for ns in took_ns]
        self.all_us += took_us
        self.rounds_us.append(statistics.median(took_us))

    def over(self, base: Samples) -> float:
        """Return the median of the rounds' ratios to `base`."""
        ratios = [mine / its for mine, its in zip(self.rounds_us, base.rounds_us, strict=True)]
        return statistics.median(ratios)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tenants", type=at_least(2), nargs="?", default=20, help="how many tenants; 20, at least 2")
    parser.add_argument("--rounds", type=at_least(1), help=f"{_ROUNDS}, or {_FULL_ROUNDS} with --full")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")
    parser.add_argument("--no-peers", action="store_true", help="leave out what is installed from PyPI")


def at_least(least: int) -> Callable[[str], int]:
    """Return what parses an argument that is a number, and `least` or more."""

    def parse(value: str) -> int:
        if not value.isdecimal() or int(value) < least:
            raise argparse.ArgumentTypeError(f"{value!r}: a number is needed, at least {least}")
        return int(value)

    return parse


def run(options: argparse.Namespace) -> Result:
    """Measure all cases. Raises `LookupError` where there is no PostgreSQL."""
    rounds = options.rounds or (_FULL_ROUNDS if options.full else _ROUNDS)
    budget_s = math.inf if options.full or options.rounds else _BUDGET_S
    load = os.getloadavg()[0]
    remarks: list[str] = []
    with ExitStack() as stack:
        worker = None
        if options.no_peers:
            remarks.append("  left out: the peers (--no-peers)")
        else:
            try:
                worker = stack.enter_context(PeerWorker(peer_python()))
            except LookupError as error:
                remarks.append(f"  left out: the peers, which cannot be installed ({error})")
        ground = stack.enter_context(
            prepared_ground(tenants=options.tenants, major=options.pg, peers=tuple(PEERS) if worker else ())
        )
        loop = stack.enter_context(asyncio.Runner())
        routes, missing = reachable_routes(pooled=ground.pooler is not None)
        remarks += [f"  left out: {what}" for what in missing]
        groups = [make_cases(ground, route, loop) for route in routes]
        if worker is not None:
            for case in peer_cases(ground, worker, routes):
                groups[routes.index(case.route)].append(case)
        check_reads(groups)
        trips, trip_bars = round_trip_figures(ground, routes, loop)
        with clients_apart([worker.pid] if worker else []) as core:
            samples, done = measure(ground, groups, rounds=rounds, budget_s=budget_s, server_core=core)
        facts = environment(
            postgresql=server_version(ground),
            pgbouncer=".".join(map(str, ground.pooler.version)) if ground.pooler else None,
            packages=PEERS if worker else None,
        )
    remarks.append(f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}")
    remarks.append(f"  ratios to plain, median of {done} rounds (stretch for ours: {STRETCH}):")
    remarks += ratio_lines(groups, samples)
    return Result(
        name="session",
        environment=facts,
        rows=[Row.of(str(case), samples[case].all_us, unit="us") for group in groups for case in group] + trips,
        bars=ratio_bars(groups, samples) + trip_bars,
        remarks=remarks,
    )


def check_reads(groups: Sequence[Sequence[Case]]) -> None:
    """Raise `RuntimeError` where a case does not read the tenant that it is asked for: it would be worth nothing."""
    for case in (case for group in groups for case in group):
        for tenant in (0, 1):
            author = case.author(tenant, 7)
            if author != f"tenant {tenant}":
                raise RuntimeError(f"{case} read a row of {author!r} as tenant {tenant}")
        case.disconnect()


class Measured(Protocol):
    """What `measure` needs to know of the ground: `server` is kept on a core of its own."""

    @property
    def tenants(self) -> tuple[str, ...]: ...
    @property
    def server(self) -> PostgresServer: ...
    @property
    def pooler(self) -> PgBouncer | None: ...


def measure(
    ground: Measured,
    groups: Sequence[Sequence[Case]],
    *,
    rounds: int,
    budget_s: float,
    server_core: int | None = None,
    passes: int = _PASSES,
    turn: int = _TURN,
) -> tuple[dict[Case, Samples], int]:
    """Run all cases `rounds` times, or until `budget_s` are over; return the samples and how many rounds it were.

    `groups` hold the cases that are compared with each other. The servers are kept on `server_core`. In a round each
    case visits each tenant `passes` times, in turns of `turn` transactions.
    """
    samples = {case: Samples() for group in groups for case in group}
    tenants = len(ground.tenants)
    began = time.monotonic()
    done = 0
    keep_servers([ground.server.pid], server_core)
    while done < rounds and (done == 0 or time.monotonic() - began < budget_s):
        number, done = done, done + 1
        if ground.pooler is not None:
            ground.pooler.restart()  # so that it connects anew as well
            keep_servers([ground.pooler.pid], server_core)
        warm_up = visits(tenants, passes=_WARM_UP_PASSES, seed=number)
        todo = visits(tenants, passes=passes, seed=rounds + number)
        turns = [todo[start : start + turn] for start in range(0, len(todo), turn)]
        for group in groups:
            for case in group:
                case.measure(warm_up)
            took: dict[Case, list[int]] = {case: [] for case in group}
            for which, part in enumerate(turns):
                first = (number + which) % len(group)
                for case in [*group[first:], *group[:first]]:
                    took[case] += case.measure(part)
            for case in group:
                case.disconnect()
                samples[case].add_round(took[case])
    return samples, done


def _by_way(group: Sequence[Case]) -> dict[str, Case]:
    return {case.way: case for case in group}


def ratio_bars(groups: Sequence[Sequence[Case]], samples: dict[Case, Samples]) -> list[Bar]:
    """Return the bar of ours over plain on each route."""
    bars = []
    for group in groups:
        ways = _by_way(group)
        value = samples[ways[OURS]].over(samples[ways[PLAIN]])
        bars.append(Bar(f"{place(group[0].route)}: ours / plain", round(value, 3), LIMIT))
    return bars


def ratio_lines(groups: Sequence[Sequence[Case]], samples: dict[Case, Samples]) -> list[str]:
    """Return a line for each route, with every way's ratio to plain."""
    lines = []
    for group in groups:
        ways = _by_way(group)
        base = samples[ways[PLAIN]]
        parts = [
            f"{way} {samples[case].over(base):.2f}"
            for way, case in ways.items()
            if way != PLAIN
        ]  # fmt: skip
        lines.append(f"    {place(group[0].route):<26} {', '.join(parts)}")
    return lines


def server_version(ground: Ground) -> str:
    with ground.service.superuser() as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
    assert row is not None
    return str(row[0]).split()[0]
