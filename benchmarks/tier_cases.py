"""One PK SELECT, four of them, and a count over the whole table, each a transaction in a session of its own.

Without tenancy and at each tier alike: the same driver, the same mapped class, a pool of one connection; at tier
`login` of one for each tenant, as no two can share any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import create_engine, func, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from benchmarks.cases import PLAIN, POOL, Case
from benchmarks.tier_ground import Note, TierGround, Way
from benchmarks.workload import timed, timed_async
from mt_paas_db.session.pooler import PoolerProfile
from tests.fleet import Route

_SELECTS = 4

Work = Callable[[Any, int], Any]
"""What is done in a session, given the row's number. It returns the author of a row, or how many rows there are."""


def one(session: Any, row: int) -> Any:
    """Read one row by its key."""
    return session.scalars(select(Note).where(Note.id == 1 + row)).one().author


def four(session: Any, row: int) -> Any:
    """Read four rows, one after the other."""
    return [one(session, row + number) for number in range(_SELECTS)][-1]


def scan(session: Any, _row: int) -> Any:
    """Count all rows."""
    return session.scalar(select(func.count()).select_from(Note))


async def _one(session: Any, row: int) -> Any:
    return (await session.scalars(select(Note).where(Note.id == 1 + row))).one().author


async def _four(session: Any, row: int) -> Any:
    return [await _one(session, row + number) for number in range(_SELECTS)][-1]


async def _scan(session: Any, _row: int) -> Any:
    return await session.scalar(select(func.count()).select_from(Note))


WORKS: dict[str, tuple[Work, Work]] = {"one SELECT": (one, _one), "four SELECTs": (four, _four), "count": (scan, _scan)}
"""Blocking and asyncio."""


def make_cases(ground: TierGround, route: Route, loop: asyncio.Runner, work: str) -> list[Case]:
    """Return plain, and each way, on one route."""
    blocking, coroutine = WORKS[work]
    # Behind the pooler at tier `login`, it would have to know each tenant's password.
    ways = [way for way in ground.ways if way.tier == "role" or not route.pooled]
    if route.is_async:
        return [
            _plain_async(ground, route, loop, coroutine),
            *(_async(ground, way, route, loop, coroutine) for way in ways),
        ]
    return [_plain(ground, route, blocking), *(_blocking(ground, way, route, blocking) for way in ways)]


def _connections(ground: TierGround, way: Way) -> int:
    """Return one where all tenants share it; one for each where each has a login of its own."""
    return int(POOL["pool_size"]) * (len(ground.tenants) if way.tier == "login" else 1)


def _engine_arguments(ground: TierGround, route: Route) -> tuple[Any, dict[str, Any]]:
    driver = "asyncpg" if route.driver == "asyncpg" else "psycopg"
    profile = PoolerProfile.parse("pgbouncer" if route.pooled else "direct")
    url = make_url(ground.plain_url(route)).set(drivername=f"postgresql+{driver}")
    return url, {**POOL, "connect_args": profile.connect_args("asyncpg" if route.driver == "asyncpg" else "psycopg")}


def _case(way: str, route: Route, transaction: Callable[[int, int], Any], close: Callable[[], Any]) -> Case:
    return Case(
        way, route, lambda todo: timed(transaction, todo), lambda tenant, row: str(transaction(tenant, row)), close
    )


def _plain(ground: TierGround, route: Route, work: Work) -> Case:
    url, options = _engine_arguments(ground, route)
    engine = create_engine(url, **options)

    def transaction(_tenant: int, row: int) -> Any:
        with Session(engine, expire_on_commit=False) as session:
            answer = work(session, row)
            session.commit()
        return answer

    return _case(PLAIN, route, transaction, engine.dispose)


def _blocking(ground: TierGround, way: Way, route: Route, work: Work) -> Case:
    manager = ground.manager(way, route, pool_size=_connections(ground, way))

    def transaction(tenant: int, row: int) -> Any:
        with manager.get_session(ground.tenants[tenant]) as session:
            return work(session, row)

    return _case(str(way), route, transaction, manager.close)


def _async_case(
    way: str, route: Route, loop: asyncio.Runner, transaction: Callable[[int, int], Any], close: Callable[[], Any]
) -> Case:
    return Case(
        way,
        route,
        lambda todo: loop.run(timed_async(transaction, todo)),
        lambda tenant, row: str(loop.run(transaction(tenant, row))),
        lambda: loop.run(close()),
    )


def _plain_async(ground: TierGround, route: Route, loop: asyncio.Runner, work: Work) -> Case:
    url, options = _engine_arguments(ground, route)
    engine = create_async_engine(url, **options)

    async def transaction(_tenant: int, row: int) -> Any:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            answer = await work(session, row)
            await session.commit()
        return answer

    return _async_case(PLAIN, route, loop, transaction, engine.dispose)


def _async(ground: TierGround, way: Way, route: Route, loop: asyncio.Runner, work: Work) -> Case:
    manager = ground.manager(way, route, pool_size=_connections(ground, way))

    async def transaction(tenant: int, row: int) -> Any:
        async with manager.get_session(ground.tenants[tenant]) as session:
            return await work(session, row)

    return _async_case(str(way), route, loop, transaction, manager.aio.close)
