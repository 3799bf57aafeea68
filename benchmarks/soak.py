"""A long mixed load, and all that can go wrong: no leak, nothing stuck, memory flat, errors of the known kinds only.

Processes with clients of their own (blocking psycopg, asyncio psycopg, asyncpg; direct and through PgBouncer) read and
write, roll back, time out and are cancelled, while backends are killed, statements cancelled, PgBouncer and PostgreSQL
restarted and crashed, and guests (tenants) created, closed, deleted and moved. Time is cut into slices; after each one
the clients stop for a moment, and then no connection may be in a transaction. In the last slice nothing goes wrong, and
nothing may fail. At the end every table is read by the superuser: each row must be its tenant's own.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import psycopg

from benchmarks.report import Bar, Result, Row, environment
from benchmarks.scaling.faults import RESTARTS, Faults
from benchmarks.scaling.ground import FleetInCells, fleet_in_cells, looking_up_pooler
from benchmarks.scaling.watch import private_mib, resident_mib
from benchmarks.scaling.worker import Worker
from benchmarks.session import at_least

SUMMARY = "a long mixed load with restarts, kills and cancellations: no leak, nothing stuck, memory flat"

FLAT = 1.15
BACKEND_MIB = 8
"""2 for a bare backend, 20 kB for each table of a cell's tenants and all guests, and as much again for statements."""

_GUESTS = 6
_SLICE_S, _SLICES_AT_LEAST = 30.0, 6
_PATIENCE_S = 10.0  # until an abandoned transaction must have ended

BUSY = (
    "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    " AND usename <> 'postgres' AND state <> 'idle'"
)
LEFT = (
    "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    " AND usename <> 'postgres'"
)


@dataclass
class Soaked:
    """What came of all slices."""

    visits: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    with_guests: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    stuck: int = 0
    calm: Counter[str] = field(default_factory=Counter)
    clients_mib: list[float] = field(default_factory=list)
    backends_mib: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = at_least(1)
    parser.add_argument("--minutes", type=float, help="2, or 30 with --full")
    parser.add_argument("--tenants", type=number, default=100, help="besides the guests; 100")
    parser.add_argument("--cell-size", type=number, default=16, help="tenants that share a login role; 16")
    parser.add_argument("--clients", type=number, default=8, help="of each process; 8")
    parser.add_argument("--connections", type=number, default=6, help="server connections of each process; 6")
    parser.add_argument("--seed", type=int, help="what chance begins with; another one each time")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")


def run(options: argparse.Namespace) -> Result:
    """Soak. Raises `LookupError` where there is no PostgreSQL."""
    seconds = 60 * (options.minutes or (30.0 if options.full else 2.0))
    seed = secrets.randbits(32) if options.seed is None else options.seed
    guests = [f"guest-{number}" for number in range(_GUESTS)]
    with ExitStack() as stack:
        fleet = stack.enter_context(
            fleet_in_cells(major=options.pg, tables=2, cell_size=options.cell_size, max_connections=150)
        )
        fleet.grow(options.tenants)
        pooler = looking_up_pooler(fleet, connections=12)
        if pooler is not None:
            stack.enter_context(pooler)
        faults = Faults(fleet, pooler, guests, random.Random(seed))
        routes = [
            (blocking, driver, pooled)
            for blocking, driver, pooled in (
                (True, "psycopg", False), (False, "psycopg", True), (False, "asyncpg", False), (False, "asyncpg", True)
            )
            if (pooler is not None or not pooled) and find_spec(driver) is not None
        ]  # fmt: skip
        clients = [stack.enter_context(Worker()) for _ in routes]
        for worker, (blocking, driver, pooled) in zip(clients, routes, strict=True):
            spec = {
                "blocking": blocking, "driver": driver, "pooler": "pgbouncer" if pooled else "direct",
                "dsn": fleet.dsn(fleet.service.login, pooler=pooler if pooled else None),
                "installation": fleet.service.name, "tenants": [place.tenant_id for place in fleet.places],
                "guests": guests,
                "settings": {
                    **fleet.settings, "pool_size": options.connections, "pool_timeout_s": 15, "cache_ttl_s": 2,
                },
            }  # fmt: skip
            worker.tell("open_clients", spec=spec)
            worker.hear()
        found = soak(fleet, clients, faults, seconds=seconds, clients=options.clients, seed=seed)
        for worker in clients:
            worker.tell("close_clients")
            worker.hear()
        if pooler is not None:
            pooler.shut_down()
        left = unsettled(fleet, LEFT)
        found.leaks += misplaced(fleet)
        facts = environment(postgresql=fleet.version, pgbouncer=".".join(map(str, pooler.version)) if pooler else None)
    return _result(found, faults, facts, left=left, seed=seed, seconds=seconds)


def soak(
    fleet: FleetInCells, workers: list[Worker], faults: Faults, *, seconds: float, clients: int, seed: int
) -> Soaked:
    """Let all processes visit tenants while faults happen, slice by slice."""
    found = Soaked()
    slices = max(_SLICES_AT_LEAST, round(seconds / _SLICE_S))
    for number in range(slices):
        calm = number == slices - 1
        if calm:  # an idle connection that was killed shows that at its next use
            for worker in workers:
                worker.tell("close_clients")
                worker.hear()
        for which, worker in enumerate(workers):
            chance = seed + number * 10_000 + which * 1000
            worker.tell("visit", clients=clients, seconds=seconds / slices, seed=chance)
        if not calm:
            faults.go_on(seconds / slices * 0.9, RESTARTS[number % 4] if number % 4 < len(RESTARTS) else None)
        answers = [worker.hear() for worker in workers]
        for answer in answers:
            found.visits.update(answer["visits"])
            found.errors.update(answer["errors"])
            found.with_guests.update(answer["with_guests"])
            found.words = {**answer["words"], **found.words}
            found.leaks += answer["leaks"]
            found.unexpected += answer["unexpected"]
            if calm:
                found.calm.update(answer["errors"])
        found.rates.append(sum(sum(answer["visits"].values()) for answer in answers) / (seconds / slices))
        found.stuck += unsettled(fleet, BUSY)
        found.clients_mib.append(sum(resident_mib(worker.pid) for worker in workers))
        found.backends_mib.append(_largest_backend(fleet))
    return found


def unsettled(fleet: FleetInCells, query: str) -> int:
    """Return what is left of what `query` counts when patience ends; 0 as soon as nothing is.

    A server that restarts is waited for.
    """
    deadline = time.monotonic() + _PATIENCE_S
    count = 0
    while time.monotonic() < deadline:
        try:
            ((count,),) = fleet.ask(query, fleet.service.database)
        except psycopg.OperationalError:
            count = -1
        if count == 0:
            break
        time.sleep(0.1)
    return abs(count)


def _largest_backend(fleet: FleetInCells) -> float:
    sessions = fleet.ask(LEFT.replace("count(*)", "pid"), fleet.service.database)
    return max((private_mib(pid) for (pid,) in sessions), default=0.0)


def misplaced(fleet: FleetInCells) -> list[str]:
    """Return a line for every tenant whose table holds a row of another, by the superuser's eyes."""
    found = []
    for tenant in fleet.admin.list():
        schema, tenant_id = tenant.placement.schema_name, tenant.tenant_id
        foreign = fleet.ask(f'SELECT DISTINCT author FROM "{schema}".note WHERE author <> %s', tenant_id)
        found += [f"{tenant_id} holds a row of {author}" for (author,) in foreign]
    return found


def growth(samples: Sequence[float]) -> float:
    """Return how much more the last quarter of the slices shows than the second: the first one warms up.

    Without the calm slice at the end, before which all clients are closed. Medians: a server that has just been
    restarted has fresh backends.
    """
    open_ = samples[:-1]
    quarter = max(1, len(open_) // 4)
    return statistics.median(open_[-quarter:]) / statistics.median(open_[quarter : 2 * quarter])


def _result(found: Soaked, faults: Faults, facts: dict[str, Any], *, left: int, seed: int, seconds: float) -> Result:
    unexpected = [*found.unexpected, *faults.unexpected]
    return Result(
        name="soak",
        environment=facts,
        rows=[
            Row.of("visits", found.rates, unit="tx/s"),
            Row.of("clients, resident", found.clients_mib, unit="MiB"),
            Row.of("the largest backend, private", found.backends_mib, unit="MiB"),
        ],
        bars=[
            Bar("values of another tenant, or own ones lost", len(found.leaks), 0),
            Bar("errors of an unknown kind", len(unexpected), 0),
            Bar("connections in a transaction while all clients rest", found.stuck, 0),
            Bar("connections left when all clients are closed", left, 0),
            Bar("errors while nothing goes wrong", sum(found.calm.values()), 0),
            Bar("clients' memory, last quarter / second", round(growth(found.clients_mib), 3), FLAT),
            Bar("the largest backend's, last quarter / second", round(growth(found.backends_mib), 3), FLAT),
            Bar("the largest backend, MiB", round(max(found.backends_mib), 1), BACKEND_MIB),
            Bar("faults", sum(faults.done.values()), 1, better="higher"),
        ],
        remarks=[
            f"  {seconds / 60:g} minutes; --seed {seed} begins with the same chances",
            f"  visits: {_counts(found.visits)}",
            f"  faults: {_counts(faults.done)}",
            f"  errors: {_counts(found.errors)}; with guests: {_counts(found.with_guests)}",
            *(f"    {kind}: {' '.join(words.split())[:150]}" for kind, words in sorted(found.words.items())),
            *(f"  LEAK: {line}" for line in found.leaks[:20]),
            *(f"  UNEXPECTED: {words}" for words in unexpected[:5]),
            *([f"  while nothing went wrong: {_counts(found.calm)}"] if found.calm else []),
            f"  load of the machine: {os.getloadavg()[0]:.1f}; visits a second: {statistics.fmean(found.rates):,.0f}",
        ],
    )


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"
