"""Memory of the server's backends over the tenants that were touched: ours in cells, and one pool for all.

A backend never forgets a table that it has seen. Each tenant in turn is read, all its tables, on every connection of a
way at once: no backend is spared, so this is the most that each way can come to. *One pool* is a login that is a member
of all tenants' roles, with the same pins; *ours* has as many connections, and gives those of a cell up for the next.
Both begin where the other begins, and take turns from size to size.
"""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.orm import Session

from benchmarks.plot import Chart, Line, svg
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.scaling.ground import FleetInCells, fleet_in_cells
from benchmarks.scaling.watch import Memory, Watch
from benchmarks.session import at_least

SUMMARY = "the memory of a server's backends over the tenants touched: ours in cells, and one pool for all"

LIMIT_MIB = 64
FLAT = 1.1

OURS, ONE_POOL = "ours", "one pool"

_SIZES, _FULL = (10, 64, 250, 500), (10, 64, 300, 1000, 3000)
_PATIENCE_S = 120

_PIN = text("SELECT set_config('role', :role, true), set_config('search_path', :path, true)")


@dataclass
class Grown:
    """What a way's backends had at each size, and the most that any of them had by then."""

    at: dict[int, Memory] = field(default_factory=dict)
    most: dict[int, float] = field(default_factory=dict)

    def add(self, tenants: int, memory: Memory, most_mib: float) -> None:
        self.at[tenants] = memory
        self.most[tenants] = max(most_mib, *self.most.values(), 0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = at_least(1)
    sizes, full = (" ".join(map(str, some)) for some in (_SIZES, _FULL))
    parser.add_argument("--tenants", type=number, nargs="+", metavar="N", help=f"{sizes}, or with --full {full}")
    parser.add_argument("--tables", type=number, default=20, help="20 for each tenant")
    parser.add_argument("--cell-size", type=number, help="tenants that share a login role; the setting's default")
    parser.add_argument("--connections", type=number, default=2, help="of each way; 2")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL, or the system does not tell a process's memory."""
    if not Path("/proc/self/smaps").exists():
        raise LookupError("this system has no /proc/PID/smaps, which says what memory is a process's own")
    load = os.getloadavg()[0]
    sizes = sorted(set(options.tenants or (_FULL if options.full else _SIZES)))
    with ExitStack() as stack:
        fleet = stack.enter_context(
            fleet_in_cells(major=options.pg, tables=options.tables, cell_size=options.cell_size)
        )
        fleet.grow(sizes[-1])
        watch = stack.enter_context(Watch(fleet.service))
        found = touch_all(fleet, watch, sizes, connections=options.connections)
        size = max(sum(place.login == cell for place in fleet.places) for cell in fleet.cells)
        facts = environment(postgresql=fleet.version)
        cells = len(fleet.cells)
    return Result(
        name="memory",
        environment=facts,
        rows=[row for way, grown in found.items() for row in _rows(way, grown)],
        bars=_bars(found[OURS], cell_size=size),
        remarks=[
            f"  {options.tables} tables each, {options.connections} connections of each way; {cells} cells of {size}",
            *_remarks(found, cell_size=size),
            f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}",
        ],
    )


Open = Callable[[int], AbstractContextManager[Session]]
"""Opens a session of a tenant, by its number."""


def touch_all(fleet: FleetInCells, watch: Watch, sizes: Sequence[int], *, connections: int) -> dict[str, Grown]:
    """Read every table of every tenant on every connection of both ways, size by size."""
    url = make_url(fleet.dsn(fleet.member)).set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_size=connections, max_overflow=0)
    manager = fleet.service.manager(**fleet.settings, pool_size=connections)

    def one_pool(tenant: int) -> Session:
        schema = fleet.places[tenant].schema
        session = Session(engine)
        session.execute(_PIN, {"role": schema, "path": f"{schema}, pg_temp"})
        return session

    ways: dict[str, tuple[Open, tuple[str, ...]]] = {
        OURS: (lambda tenant: manager.get_session(fleet.places[tenant].tenant_id), tuple(fleet.cells)),
        ONE_POOL: (one_pool, (fleet.member,)),
    }
    found = {way: Grown() for way in ways}
    begin = 0
    try:
        for size in sizes:
            for way, (open_session, logins) in ways.items():
                most = 0.0
                with Touch(fleet, open_session, connections) as touch:
                    for tenant in range(begin, size):
                        touch.tenant(tenant)
                        if tenant + 1 == size or fleet.places[tenant].login != fleet.places[tenant + 1].login:
                            most = max(most, watch.memory(*logins).most_mib)  # before the cell's are given up
                found[way].add(size, watch.memory(*logins), most)
            begin = size
    finally:
        engine.dispose()
    return found


class Touch:
    """As many threads as connections, which are in sessions of the same tenant at the same time."""

    def __init__(self, fleet: FleetInCells, open_session: Open, connections: int) -> None:
        self._fleet = fleet
        self._open = open_session
        self._together = threading.Barrier(connections, timeout=_PATIENCE_S)
        self._threads = ThreadPoolExecutor(connections)
        self._connections = connections

    def __enter__(self) -> Touch:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def tenant(self, tenant: int) -> None:
        """Read all its tables on every connection. Raises `RuntimeError` where a row is another's."""
        for done in [self._threads.submit(self._read, tenant) for _ in range(self._connections)]:
            done.result()

    def _read(self, tenant: int) -> None:
        expected = self._fleet.places[tenant].tenant_id
        with self._open(tenant) as session:
            for table in self._fleet.service.models.sorted_tables:
                author = session.scalar(select(table.c.author).limit(1))
                if author != (expected if table.name == "note" else None):
                    raise RuntimeError(f"read a row of {author!r} as {expected!r}, in {table.name}")
            self._together.wait()  # until the other threads have a connection too


def _rows(way: str, grown: Grown) -> list[Row]:
    rows = []
    for tenants, memory in grown.at.items():
        rows.append(Row.of(f"{way}, {tenants:,} tenants: per backend", memory.each_mib, unit="MiB"))
        total, most = round(memory.total_mib, 1), round(grown.most[tenants], 1)
        rows.append(Row(f"{way}, {tenants:,} tenants: all backends", total, total, 1, "MiB"))
        rows.append(Row(f"{way}, {tenants:,} tenants: the largest so far", most, most, 1, "MiB"))
    return rows


def _bars(ours: Grown, *, cell_size: int) -> list[Bar]:
    largest = max(ours.most)
    bars = [Bar(f"ours, {largest:,} tenants: MiB of the largest backend", round(ours.most[largest], 1), LIMIT_MIB)]
    full = min((tenants for tenants in ours.most if tenants >= cell_size), default=largest)
    if full < largest:
        ratio = ours.most[largest] / ours.most[full]
        bars.append(Bar(f"ours: the largest backend, {largest:,} tenants / {full:,}", round(ratio, 3), FLAT))
    return bars


def _remarks(found: dict[str, Grown], *, cell_size: int) -> list[str]:
    least, largest = min(found[ONE_POOL].most), max(found[ONE_POOL].most)
    if least == largest:
        return []
    lines = []
    for way, grown in found.items():
        each = (grown.most[largest] - grown.most[least]) / (largest - least)
        lines.append(
            f"  {way}: {each * 1024:.0f} KiB more in the largest backend for each tenant from {least} to {largest:,}"
        )
    return lines


_CASE = re.compile(r"(.+), ([\d,]+) tenants: the largest so far")


def plot(result: Result, path: Path) -> None:
    """Draw the largest backend of each way over the tenants touched: as it is, and with both axes logarithmic."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in result.rows:
        if case := _CASE.fullmatch(row.case):
            found[case[1]].append((float(case[2].replace(",", "")), row.median))
    lines: list[Any] = [Line(way, values) for way, values in found.items()]
    name, y = "Private memory of the largest backend", "MiB"
    path.write_text(
        svg([
            Chart(name, "tenants touched", y, lines),
            Chart(f"{name}, logarithmic", "tenants touched", y, lines, log_x=True, log_y=True),
        ]),
        encoding="utf-8",
    )  # fmt: skip
