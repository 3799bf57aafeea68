"""What each tier costs, with guards and without, against a plain session; what the audit and the suite take.

Measured as `benchmarks.session` measures: interleaved turns, ratios within a round, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cases import PLAIN, Case, place, reachable_routes
from benchmarks.cores import clients_apart
from benchmarks.fleet_ground import fleet_ground
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.session import Samples, at_least, measure
from benchmarks.tier_cases import WORKS, make_cases
from benchmarks.tier_ground import TierGround, tier_ground
from mt_paas_db.isolation.audit import audit
from tests.fleet import Route
from tests.servers import PostgresServer

SUMMARY = "each tier, with guards and without, against a plain session; the audit; the suite on the example"

AUDIT_LIMIT_S, SUITE_LIMIT_S = 10.0, 180.0

_ROUNDS, _FULL_ROUNDS = 20, 100
_BUDGET_S = 240.0
_PASSES, _VISITS_IN_A_TURN = 20, 5  # of each tenant
_ROWS = 10_000
_ROOT = Path(__file__).resolve().parent.parent
_ROUTES = ("psycopg-direct", "asyncpg-direct", "psycopg-pgbouncer")


def limit_of(way: str, work: str) -> float | None:
    """Return the bar of a way's ratio to plain; None at tier `login`, whose tenants share no connection."""
    if not way.startswith("role"):
        return None
    if "guards" in way:
        return 1.4 if work == "count" else 1.3
    return 1.15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tenants", type=at_least(2), nargs="?", default=10, help="how many tenants; 10, at least 2")
    parser.add_argument("--rows", type=at_least(200), default=_ROWS, help=f"rows of each table; {_ROWS:,}")
    parser.add_argument("--rounds", type=at_least(1), help=f"{_ROUNDS}, or {_FULL_ROUNDS} with --full")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")
    parser.add_argument("--routes", nargs="+", default=_ROUTES, metavar="ROUTE", help=", ".join(_ROUTES))
    parser.add_argument("--audited", type=int, default=1000, help="tenants in the audited installation; 0 for no audit")
    parser.add_argument("--tables", type=at_least(1), default=20, help="tables of each of those; 20")
    parser.add_argument("--no-suite", action="store_true", help="leave out the suite on the example's models")


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL."""
    load = os.getloadavg()[0]
    rows: list[Row] = []
    bars: list[Bar] = []
    remarks: list[str] = []
    with ExitStack() as stack:
        ground = stack.enter_context(tier_ground(tenants=options.tenants, rows=options.rows, major=options.pg))
        loop = stack.enter_context(asyncio.Runner())
        routes, missing = reachable_routes(pooled=ground.pooler is not None)
        routes = [route for route in routes if str(route) in options.routes]
        remarks += [f"  left out: {what}" for what in missing]
        _measure_ways(ground, routes, loop, options, rows, bars, remarks)
        if not options.no_suite:
            took_s = suite_s(ground.server)
            rows.append(Row.of("the suite on the example's models", [took_s], unit="s"))
            bars.append(Bar("the suite on the example's models, seconds", round(took_s, 1), SUITE_LIMIT_S))
        if options.audited:
            took_s = audit_s(ground.server, options.audited, options.tables)
            what = f"the audit of {options.audited:,} tenants of {options.tables} tables"
            rows.append(Row.of(what, [took_s], unit="s"))
            bars.append(Bar(f"{what}, seconds", round(took_s, 2), AUDIT_LIMIT_S))
        with ground.ways[0].service.superuser() as connection:
            found = connection.execute("SELECT current_setting('server_version')").fetchone()
        assert found is not None
        version = str(found[0]).split()[0]
        bouncer = ".".join(map(str, ground.pooler.version)) if ground.pooler else None
    remarks.append(f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}")
    return Result("isolation", environment(postgresql=version, pgbouncer=bouncer), rows, bars, remarks)


def _measure_ways(
    ground: TierGround,
    routes: Sequence[Route],
    loop: asyncio.Runner,
    options: argparse.Namespace,
    rows: list[Row],
    bars: list[Bar],
    remarks: list[str],
) -> None:
    groups = {(route, work): make_cases(ground, route, loop, work) for route in routes for work in WORKS}
    for (_, work), group in groups.items():
        _check(ground, work, group)
    rounds = options.rounds or (_FULL_ROUNDS if options.full else _ROUNDS)
    budget_s = math.inf if options.full or options.rounds else _BUDGET_S
    with clients_apart([]) as core:
        samples, done = measure(
            ground, list(groups.values()), rounds=rounds, budget_s=budget_s, server_core=core,
            passes=_PASSES, turn=_VISITS_IN_A_TURN * options.tenants,
        )  # fmt: skip
    remarks.append(f"  ratios to plain, median of {done} rounds, and the middle half of them:")
    for (route, work), group in groups.items():
        by_way = {case.way: samples[case] for case in group}
        rows += [Row.of(f"{work}: {case}", samples[case].all_us, unit="us") for case in group]
        for way, mine in by_way.items():
            limit = limit_of(way, work)
            if way != PLAIN and limit is not None:
                bars.append(Bar(f"{work}, {place(route)}: {way} / plain", round(mine.over(by_way[PLAIN]), 3), limit))
        parts = [f"{way} {_spread(mine, by_way[PLAIN])}" for way, mine in by_way.items() if way != PLAIN]
        parts += [
            f"guards / no guards ({way}) {_spread(by_way[f'{way}, guards'], mine)}"
            for way, mine in by_way.items() if f"{way}, guards" in by_way
        ]  # fmt: skip
        remarks.append(f"    {work + ', ' + place(route):<34} {'; '.join(parts)}")


def _spread(mine: Samples, base: Samples) -> str:
    ratios = [one / its for one, its in zip(mine.rounds_us, base.rounds_us, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def _check(ground: TierGround, work: str, group: Sequence[Case]) -> None:
    """Raise `RuntimeError` where a case does not read what it is asked for: it would be worth nothing."""
    for case in group:
        for number, tenant in enumerate(ground.tenants[:2]):
            wanted = str(ground.rows) if work == "count" else "nobody" if case.way == PLAIN else tenant
            found = case.author(number, 7)
            if found != wanted:
                raise RuntimeError(f"{work}: {case} found {found!r} as {tenant}, and not {wanted!r}")
        case.disconnect()


def audit_s(server: PostgresServer, tenants: int, tables: int) -> float:
    """Return the seconds that the audit of a fleet takes. Raises `RuntimeError` where it did not look at all of it."""
    with fleet_ground(server, tables=tables, jobs=2) as ground:
        ground.grow(tenants)
        manager = ground.manager()
        try:
            began = time.perf_counter()
            report = audit(manager)
            took_s = time.perf_counter() - began
        finally:
            manager.close()
    if sum(one.tenants for one in report.servers) < tenants:
        raise RuntimeError(f"the audit saw {[one.tenants for one in report.servers]} tenants, and not {tenants}")
    return took_s


def suite_s(server: PostgresServer) -> float:
    """Return the seconds of ``mt-paas-db isolation run`` on the example. Raises `RuntimeError` where it fails."""
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "examples")])
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mt_paas_db", "isolation", "run", "--dsn", server.dsn("postgres"),
         "--models", "llm_chatbot.models:Base"],
        cwd=_ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    took_s = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"the suite failed on the example's models:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return took_s
