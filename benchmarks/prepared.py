"""What named prepared statements save behind a PgBouncer that follows them, and where.

A tenant's own login has its server connections to itself, so that nothing is planned anew; on a shared login tenants
take turns, and each turn is another path. One small query and one that is dear to plan. The two ways of a case take
turns of a few transactions, and the ratio is taken in each round.

Needs PgBouncer 1.22 or newer, installed or in the image of `MT_PAAS_TEST_IMAGE`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import aliased

from benchmarks.ground import Base, Note
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.session import at_least
from benchmarks.workload import Visit, notes, timed, timed_async, visits
from mt_paas_db.core import TenantManager
from tests.fleet import PASSWORD, Service
from tests.servers import PgBouncer
from tests.servers.supply import Supply

SUMMARY = "named prepared statements behind PgBouncer against unnamed ones"

FOLLOWS = (1, 22)
_SECRET = "a-secret-of-the-benchmark-of-32-characters-or-more"
_WARM_UP_PASSES, _PASSES = 8, 20
_ROUNDS, _FULL_ROUNDS = 6, 30
_OWN_LIMIT = 1.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tenants", type=at_least(2), nargs="?", default=20, help="how many share a login; 20")
    parser.add_argument("--rounds", type=at_least(1), help=f"{_ROUNDS}, or {_FULL_ROUNDS} with --full")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")


@dataclass(frozen=True, eq=False)
class _Pair:
    """One driver, kind of login and query, with both ways to run it."""

    driver: str
    login: str
    query: str
    ways: dict[str, Callable[[list[Visit]], list[int]]]

    def __str__(self) -> str:
        return f"{self.driver}, {self.login}, {self.query}"


def run(options: argparse.Namespace) -> Result:
    """Measure all pairs. Raises `LookupError` where there is no PostgreSQL, or no PgBouncer that follows statements."""
    rounds = options.rounds or (_FULL_ROUNDS if options.full else _ROUNDS)
    supply = Supply.look("auto", options.pg)
    if supply.choice is None:
        raise LookupError(supply.reason)
    with ExitStack() as stack:
        stack.callback(supply.close)
        server = stack.enter_context(supply.shared(fsync="off"))
        version = server.pooler(users={}).version
        if version < FOLLOWS:
            raise LookupError(f"PgBouncer 1.22 or newer is needed, and this is {'.'.join(map(str, version))}")
        service = Service(server, models=Base)
        stack.callback(service.close)
        shared, own = _fill(service, options.tenants)
        pooler = stack.enter_context(
            server.pooler(
                users={service.login: PASSWORD}, lookup="postgres", options={"max_prepared_statements": "200"}
            )
        )
        loop = stack.enter_context(asyncio.Runner())
        pairs = list(_pairs(service, pooler, loop, stack, {"shared login": shared, "own login": [own]}))
        took: dict[tuple[_Pair, str], list[float]] = {(pair, way): [] for pair in pairs for way in pair.ways}
        ratios: dict[_Pair, list[float]] = {pair: [] for pair in pairs}
        for number in range(rounds):
            for pair in pairs:
                _round(pair, number, len(shared) if pair.login == "shared login" else 1, took, ratios)
        with service.superuser() as su:
            (postgresql,) = su.execute("SHOW server_version").fetchone() or ("?",)
    medians = {pair: round(statistics.median(found), 3) for pair, found in ratios.items()}
    return Result(
        name="prepared",
        environment=environment(postgresql=str(postgresql).split()[0], pgbouncer=".".join(map(str, version))),
        rows=[Row.of(f"{way}, {pair}", values, unit="us") for (pair, way), values in took.items()],
        bars=[
            Bar(f"{pair}: named / unnamed", ratio, _OWN_LIMIT) for pair, ratio in medians.items() if _is_own(pair)
        ],
        remarks=[
            f"  {pair}: named / unnamed {ratio:g}" for pair, ratio in medians.items() if not _is_own(pair)
        ],
    )  # fmt: skip


def _is_own(pair: _Pair) -> bool:
    return pair.login == "own login"


def _fill(service: Service, tenants: int) -> tuple[list[str], str]:
    """Create the tenants, and their rows; return who share a login, and who has one of its own."""
    manager = service.manager(login_secret=_SECRET)
    manager.init()
    shared = [f"bench-{number}" for number in range(tenants)]
    for number, tenant_id in enumerate([*shared, "bench-own"]):
        manager.create(tenant_id, tier="login" if tenant_id == "bench-own" else "role")
        with manager.get_session(tenant_id) as session:
            session.execute(insert(Note), notes(number))
    return shared, "bench-own"


def _queries() -> dict[str, Callable[[int], Any]]:
    one, two, three, four, five = (aliased(Note) for _ in range(5))
    return {
        "one row": lambda row: select(Note.body).where(Note.id == row + 1),
        "a join of five": lambda row: (
            select(one.body)
            .join(two, two.id == one.id)
            .join(three, three.id == two.id)
            .join(four, four.id == three.id)
            .join(five, five.id == four.id)
            .where(one.id == row + 1)
        ),
    }


def _pairs(
    service: Service, pooler: PgBouncer, loop: asyncio.Runner, stack: ExitStack, logins: dict[str, list[str]]
) -> Iterator[_Pair]:
    for driver in ("psycopg", "asyncpg"):
        managers = {way: _manager(service, pooler, driver, way, stack) for way in ("unnamed", "named")}
        if driver == "asyncpg":
            for manager in managers.values():
                stack.callback(_close, manager, loop)
        for login, tenants in logins.items():
            for name, query in _queries().items():
                make = _asynchronous if driver == "asyncpg" else _blocking
                ways = {way: make(manager, tenants, query, loop) for way, manager in managers.items()}
                yield _Pair(driver, login, name, ways)


def _close(manager: TenantManager, loop: asyncio.Runner) -> None:
    loop.run(manager.aio.close())


def _manager(service: Service, pooler: PgBouncer, driver: str, way: str, stack: ExitStack) -> TenantManager:
    settings = service.settings(pooler=pooler, login_secret=_SECRET, async_driver=driver)
    told = {"pooler": "pgbouncer:1.24", "prepared_statements": "all" if way == "named" else "off"}
    cluster = settings.clusters["main"].model_copy(update=told)
    manager = TenantManager(settings.model_copy(update={"clusters": {"main": cluster}}), models=Base)
    stack.callback(manager.close)
    return manager


def _blocking(
    manager: TenantManager, tenants: list[str], query: Callable[[int], Any], _loop: asyncio.Runner
) -> Callable[[list[Visit]], list[int]]:
    def transaction(tenant: int, row: int) -> None:
        with manager.get_session(tenants[tenant]) as session:
            session.execute(query(row)).scalar_one()

    return lambda todo: timed(transaction, todo)


def _asynchronous(
    manager: TenantManager, tenants: list[str], query: Callable[[int], Any], loop: asyncio.Runner
) -> Callable[[list[Visit]], list[int]]:
    async def transaction(tenant: int, row: int) -> None:
        async with manager.get_session(tenants[tenant]) as session:
            (await session.execute(query(row))).scalar_one()

    return lambda todo: loop.run(timed_async(transaction, todo))


def _round(
    pair: _Pair,
    number: int,
    tenants: int,
    took: dict[tuple[_Pair, str], list[float]],
    ratios: dict[_Pair, list[float]],
) -> None:
    """Warm both ways up, let them take turns, and add what they took and their ratio."""
    passes = _PASSES if tenants > 1 else 10 * _PASSES
    if number == 0:
        for measure in pair.ways.values():
            measure(visits(tenants, passes=_WARM_UP_PASSES, seed=0))
    todo = visits(tenants, passes=passes, seed=1 + number)
    turns = [todo[start : start + 50] for start in range(0, len(todo), 50)]
    found: dict[str, list[float]] = {way: [] for way in pair.ways}
    for which, turn in enumerate(turns):
        for way in sorted(pair.ways, reverse=bool((number + which) % 2)):
            found[way] += [ns / 1000 for ns in pair.ways[way](turn)]
    for way, values in found.items():
        took[pair, way] += values
    ratios[pair].append(statistics.median(found["named"]) / statistics.median(found["unnamed"]))
