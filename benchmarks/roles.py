"""What membership in roles costs a transaction: in cells, and with one login that is a member of all tenants' roles.

A backend that takes a role looks up all that its login is a member of, at its first transaction and again after any
grant. Timed is one transaction of a session, as libpq sends it: the pin, a row by its primary key, the commit; without
Python, and without connecting. *Fresh*: the first on a new connection. *After a creation*: the first on a connection
that is in use, after another tenant was created. *No tenancy* is the same without a pin, for what a fresh backend costs
anyway. All three take turns; the server is kept on a core of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg import pq
from sqlalchemy import create_engine, make_url

from benchmarks.cores import clients_apart, keep_servers
from benchmarks.plot import Chart, Line, svg
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.scaling.ground import PLAIN_SCHEMA, FleetInCells, Place, fleet_in_cells
from benchmarks.scaling.light import grow_light
from benchmarks.session import at_least
from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import TenantName
from mt_paas_db.migrate.message import literal
from mt_paas_db.session.pin import PinOptions, make_pin
from tests.servers.postgres import installed

SUMMARY = "a transaction's price of roles, fresh and after a creation: in cells, and with one login for all"

LIMIT_MS = 2.0
CELLS, ONE_LOGIN, NONE = "cells", "one login", "no tenancy"
FRESH, AFTER = "fresh", "after a creation"

_SIZES, _FULL = (100, 1000, 3000), (100, 1000, 10_000)


@dataclass(frozen=True, slots=True)
class Messages:
    """A way's transaction of one tenant: who connects, what is sent, and the value that must come of it."""

    login: str
    begin: bytes
    read: bytes
    expected: bytes


@dataclass
class Took:
    """Milliseconds by way and occasion."""

    ms: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = at_least(1)
    sizes, full = (" ".join(map(str, some)) for some in (_SIZES, _FULL))
    parser.add_argument("--tenants", type=number, nargs="+", metavar="N", help=f"{sizes}, or with --full {full}")
    parser.add_argument("--cell-size", type=number, default=64, help="tenants that share a login role; 64")
    parser.add_argument("--repeats", type=number, help="15, or 40 with --full")
    parser.add_argument(
        "--pg", type=int, nargs="+", metavar="MAJOR", help="PostgreSQL's versions; the oldest and the newest there are"
    )


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL."""
    load = os.getloadavg()[0]
    sizes = sorted(set(options.tenants or (_FULL if options.full else _SIZES)))
    repeats = options.repeats or (40 if options.full else 15)
    there = [binaries.major for binaries in installed()]
    majors = options.pg or sorted({min(there), max(there)}) if there else [None]
    rows: list[Row] = []
    bars: list[Bar] = []
    versions = []
    for major in majors:
        with ExitStack() as stack:
            fleet = stack.enter_context(fleet_in_cells(major=major, tables=1, cell_size=options.cell_size))
            versions.append(fleet.version)
            for size in sizes:
                grow_light(fleet, size, cell_size=options.cell_size)
                took = measure(fleet, repeats=repeats)
                name = f"PostgreSQL {fleet.version.split('.')[0]}, {size:,} tenants"
                rows += [Row.of(f"{name}: {way}, {when}", ms, unit="ms") for (way, when), ms in took.ms.items()]
                if size == sizes[-1]:
                    bars += [
                        Bar(f"{name}: {CELLS}, {when}, ms", round(statistics.median(took.ms[CELLS, when]), 2), LIMIT_MS)
                        for when in (FRESH, AFTER)
                    ]
    return Result(
        name="roles",
        environment=environment(postgresql=", ".join(versions)),
        rows=rows,
        bars=bars,
        remarks=[
            f"  cells of {options.cell_size}, {repeats} repeats",
            f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}",
        ],
    )


def measure(fleet: FleetInCells, *, repeats: int) -> Took:
    """Time all ways, in turn, each repeat with other tenants, and with a tenant that is created meanwhile."""
    took = Took()
    chance = random.Random(1)
    fleet.ask(f"INSERT INTO {PLAIN_SCHEMA}.note (id, author, body) VALUES (1, 'nobody', '') ON CONFLICT DO NOTHING")
    with clients_apart([]) as core:
        keep_servers([fleet.server.pid], core)
        for repeat in range(repeats + 1):
            place = chance.choice(fleet.places)
            ways = dict(_ways(fleet, place))
            names = list(ways)
            names = names[repeat % len(names) :] + names[: repeat % len(names)]
            with ExitStack() as stack:
                connections = {name: stack.enter_context(_connected(fleet, ways[name].login)) for name in names}
                time.sleep(0.02)  # until the backends have nothing left to do of their start
                fresh = {name: _timed_ms(connections[name], ways[name]) for name in names}
                _create_another(fleet)
                after = {name: _timed_ms(connections[name], ways[name]) for name in names}
            if repeat:  # what the first finds, it is the first of the server's, too
                for name in names:
                    took.ms[name, FRESH].append(fresh[name])
                    took.ms[name, AFTER].append(after[name])
    return took


def _ways(fleet: FleetInCells, place: Place) -> Iterator[tuple[str, Messages]]:
    engine = create_engine(make_url(fleet.server.dsn(fleet.service.database)).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            resolution = registry.resolve(connection, TenantName(place.tenant_id), cluster="main")
    finally:
        engine.dispose()
    begin = make_pin(resolution, asked_as=place.tenant_id, options=PinOptions()).begin_message()
    read, expected = b"SELECT author FROM note WHERE id = 1", place.tenant_id.encode()
    yield CELLS, Messages(place.login, begin, read, expected)
    yield ONE_LOGIN, Messages(fleet.member, begin, read, expected)
    yield NONE, Messages(fleet.plain, b"BEGIN", read, b"nobody")


def _create_another(fleet: FleetInCells) -> None:
    """Create a tenant, and let the login of all become a member of its role, as the one-login way does."""
    ((number,),) = fleet.ask("SELECT nextval('mt_paas.tenant_generation')")
    tenant = fleet.admin.create(f"another-{number}")
    schema = tenant.placement.schema_name
    fleet.ask(f'GRANT "{schema}" TO "{fleet.member}"')
    fleet.ask(f"INSERT INTO \"{schema}\".note (author, body) VALUES ({literal(tenant.tenant_id)}, '')")


@contextmanager
def _connected(fleet: FleetInCells, login: str) -> Iterator[pq.abc.PGconn]:
    connection = pq.PGconn.connect(fleet.dsn(login).encode())
    try:
        if connection.status != pq.ConnStatus.OK:
            raise RuntimeError(connection.get_error_message())
        yield connection
    finally:
        connection.finish()


def _timed_ms(connection: pq.abc.PGconn, messages: Messages) -> float:
    execute: Callable[[bytes], pq.abc.PGresult] = connection.exec_
    began = time.perf_counter()
    pinned = execute(messages.begin)
    found = execute(messages.read)
    execute(b"COMMIT")
    took_ms = (time.perf_counter() - began) * 1000
    for result in (pinned, found):
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise RuntimeError(f"{messages.login}: {result.get_error_message()}")
    if found.get_value(0, 0) != messages.expected:
        raise RuntimeError(f"{messages.login} read {found.get_value(0, 0)!r}, not {messages.expected!r}")
    return took_ms


_CASE = re.compile(r"(PostgreSQL \d+), ([\d,]+) tenants: (.+), (fresh|after a creation)")


def plot(result: Result, path: Path) -> None:
    """Draw each occasion: milliseconds over tenants, both logarithmic, a curve for each version and way."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in result.rows:
        if case := _CASE.fullmatch(row.case):
            found[case[4]][f"{case[3]}, {case[1]}"].append((float(case[2].replace(",", "")), row.median))
    titles = {
        FRESH: "First transaction on a fresh backend",
        AFTER: "First transaction after another tenant was created",
    }
    charts = [
        Chart(titles[when], "tenants", "ms", _lines(curves), log_x=True, log_y=True) for when, curves in found.items()
    ]
    path.write_text(svg(charts), encoding="utf-8")


def _lines(curves: dict[str, list[tuple[float, float]]]) -> Sequence[Line]:
    return [Line(name, points) for name, points in curves.items()]
