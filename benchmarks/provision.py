"""A new tenant with all its tables: `TenantManager.create` and `create_many` against the raw limit and django-tenants.

The raw limit is one message of bare libpq with the same DDL: role, schema, grants, tables and version row in one
transaction, entered nowhere. It has as many connections as ours, and opens them as often: `create` opens one for each
tenant, whose server process knows no catalog yet; `create_many` keeps its own. Both open them within the time measured.
Cases take turns of a few tenants on each connection; ratios are taken within the turn, and a bar is the median of the
turns' ratios. Tenants are kept, so that all cases meet catalogs of the same size. Bars are of rates: many tenants, on
connections that are kept. What one tenant takes with a connection of its own is shown beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.django_peer import VERSIONS, DjangoTenants, django_python
from benchmarks.fanout import positive
from benchmarks.fleet_ground import FleetGround, fleet_ground, fleet_server
from benchmarks.fleet_history import CHANGE
from benchmarks.raw_libpq import Libpq
from benchmarks.report import Bar, Result, Row, environment
from mt_paas_db.core.bulk import NewTenant

SUMMARY = "a new tenant with all its tables against bare libpq and django-tenants"

LIMIT = 0.8

OURS, RAW, DJANGO = "ours", "bare libpq", "django-tenants"

ALONE, ONE = ", a connection each", ", 1 connection"

Took = dict[str, list[list[float]]]
"""Seconds per tenant, one list for each turn, by case."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tables", type=positive, default=20, help="20 for each tenant")
    parser.add_argument("--turns", type=positive, help="5, or 20 with --full")
    parser.add_argument("--tenants", type=positive, default=12, help="12 in each turn of a case, on each connection")
    parser.add_argument("--jobs", type=positive, default=4, help="4 connections")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")
    parser.add_argument("--no-peers", action="store_true", help="leave out what is installed from PyPI")


def run(options: argparse.Namespace) -> Result:
    """Measure. Raises `LookupError` where there is no PostgreSQL."""
    turns = options.turns or (20 if options.full else 5)
    load = os.getloadavg()[0]
    remarks: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(fleet_server(options.pg))
        ground = stack.enter_context(fleet_ground(server, tables=options.tables, jobs=options.jobs, at=CHANGE))
        django = None
        if options.no_peers:
            remarks.append("  left out: django-tenants (--no-peers)")
        else:
            try:
                python = django_python()
            except LookupError as error:
                remarks.append(f"  left out: django-tenants, which cannot be installed ({error})")
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mt_paas_django_")))
                django = DjangoTenants.begin(
                    python, folder, ground.service, tables=options.tables, jobs=options.jobs, stage=2
                )
        took = measure(ground, django, turns=turns, tenants=options.tenants)
        facts = environment(postgresql=ground.version, packages=VERSIONS if django else None)
    alone = ratio(took, RAW + ALONE, OURS + ALONE)
    remarks.append(f"  with a connection opened for each tenant: {alone:.2f} of the rate of {RAW} (no bar)")
    remarks.append(f"  load of the machine before and after: {load:.1f}, {os.getloadavg()[0]:.1f}")
    if DJANGO in took:
        over = ratio(took, DJANGO, OURS + ALONE)
        remarks.append(f"  time per tenant: {DJANGO} {over:.2f} of ours, one after the other")
    return Result(
        name="provision",
        environment=facts,
        rows=[
            Row.of(case, [seconds * 1e3 for turn in values for seconds in turn], unit="ms")
            for case, values in took.items()
        ],
        bars=[
            Bar(f"rate: {OURS} / {RAW}{how}", ratio(took, RAW + how, OURS + how), LIMIT, better="higher")
            for how in (ONE, several(options.jobs))
        ],
        remarks=remarks,
    )


def several(jobs: int) -> str:
    """Return how a case with several connections is called."""
    return f", {jobs} connections"


def ratio(took: Took, one: str, other: str) -> float:
    """Return the median of the turns' ratios, each of its medians."""
    pairs = zip(took[one], took[other], strict=True)
    return round(statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs), 3)


def measure(ground: FleetGround, django: DjangoTenants | None, *, turns: int, tenants: int) -> Took:
    """Make `tenants` tenants on each connection in every case and turn; check one of ours against the reference."""
    manager = ground.manager()
    numbers = count()
    ids: list[str] = []

    def fresh(number: int) -> list[str]:
        made = [f"new-{next(numbers):05}" for _ in range(number)]
        ids.extend(made)
        return made

    def raw_messages(number: int) -> list[str]:
        statements = [*ground.base, *ground.change]
        generations = ground.ask(f"SELECT nextval('mt_paas.tenant_generation') FROM generate_series(1, {number})")
        return [ground.creation(ground.name("raw", generation), statements, CHANGE) for (generation,) in generations]

    def ours() -> list[float]:
        return [_timed(partial(manager.create, tenant_id)) for tenant_id in fresh(tenants)]

    def raw() -> list[float]:
        return [_timed(partial(_send, ground.dsn, [message], jobs=1)) for message in raw_messages(tenants)]

    def ours_in_bulk(jobs: int) -> list[float]:
        wanted = [NewTenant(tenant_id) for tenant_id in fresh(tenants * jobs)]
        began = time.perf_counter()
        made = manager.create_many(wanted, jobs=jobs)
        took_s = time.perf_counter() - began
        if made.failed:
            raise RuntimeError(f"not all were created: {made.failed[:3]}")
        return [took_s / len(wanted)]

    def raw_in_bulk(jobs: int) -> list[float]:
        messages = raw_messages(tenants * jobs)
        return [_timed(partial(_send, ground.dsn, messages, jobs=jobs)) / len(messages)]

    cases: dict[str, Callable[[], list[float]]] = {OURS + ALONE: ours, RAW + ALONE: raw}
    for how, jobs in ((ONE, 1), (several(ground.jobs), ground.jobs)):
        cases[OURS + how] = partial(ours_in_bulk, jobs)
        cases[RAW + how] = partial(raw_in_bulk, jobs)
    if django is not None:
        cases[DJANGO] = lambda: django.create(tenants)
    names = list(cases)
    for name in names:
        cases[name]()  # what is imported, rendered and remembered
    took: Took = defaultdict(list)
    for turn in range(turns):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            ground.settle()
            took[name].append(cases[name]())
    _check(ground, ids)
    return {name: took[name] for name in names}


def _check(ground: FleetGround, ids: list[str]) -> None:
    """Raise `RuntimeError` where one of ours is not what it should be: its time would be worth nothing."""
    for found in ground.fleet().verify(tuple(ids[-1:])):
        if not found.ok:
            raise RuntimeError(f"{found.tenant_id} is {found.verdict}: {found.detail} {found.differences[:3]}")


def _send(dsn: str, messages: Sequence[str], *, jobs: int) -> None:
    with Libpq(dsn, jobs=jobs) as libpq:
        libpq.send(messages)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
