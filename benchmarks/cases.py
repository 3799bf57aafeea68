"""The ways to read one row of one tenant in a transaction of its own: without tenancy, naively, and ours.

All have a pool of one connection, which all tenants share, and commit; none expires what it has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from benchmarks.ground import Ground, Note
from benchmarks.workload import Visit, shared_id, timed, timed_async
from mt_paas_db.core import TenantManager
from mt_paas_db.session.pooler import PoolerProfile
from tests.fleet import ROUTES, Route

POOL: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}

PLAIN, NAIVE, OURS = "plain", "naive", "ours"

_NAIVE_PIN = text("SELECT set_config('role', :role, true), set_config('search_path', :path, true)")


@dataclass(frozen=True)
class Case:
    """One way on one route.

    Attributes:
        way: What it is called in the report.
        route: The driver, and whether it goes through the pooler.
        measure: Runs the visits and returns what each transaction took, in nanoseconds.
        author: Returns the author of one row, read in the same way: a check that it is the tenant's.
        disconnect: Closes its connections; the next visit opens new ones.
    """

    way: str
    route: Route
    measure: Callable[[Sequence[Visit]], list[int]]
    author: Callable[[int, int], str]
    disconnect: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.way}, {place(self.route)}"


def place(route: Route) -> str:
    """Return how a route is called in the report: ``asyncpg, direct``."""
    return f"{route.driver}, {'pgbouncer' if route.pooled else 'direct'}"


def reachable_routes(*, pooled: bool) -> tuple[list[Route], list[str]]:
    """Return the routes that this process can take, and what they lack."""
    asyncpg = find_spec("asyncpg") is not None
    missing = [] if asyncpg else ["everything on asyncpg, which is not installed"]
    missing += [] if pooled else ["everything through PgBouncer, which is not installed"]
    return [r for r in ROUTES if (asyncpg or r.driver != "asyncpg") and (pooled or not r.pooled)], missing


def make_cases(ground: Ground, route: Route, loop: asyncio.Runner, *, port: int | None = None) -> list[Case]:
    """Return plain, naive and ours on one route; `port` overrides the port that clients connect to."""
    plain = _engine_url(ground.dsn(ground.plain_login, pooled=route.pooled, port=port), route)
    login = _engine_url(ground.dsn(ground.service.login, pooled=route.pooled, port=port), route)
    manager = ground.manager(route, port=port, pool_size=POOL["pool_size"])
    if route.is_async:
        return [
            _async_case(PLAIN, route, loop, *_plain_async(plain, route)),
            _async_case(NAIVE, route, loop, *_naive_async(login, route, ground)),
            _async_case(OURS, route, loop, *_ours_async(manager, ground)),
        ]
    return [
        _blocking_case(PLAIN, route, *_plain(plain, route)),
        _blocking_case(NAIVE, route, *_naive(login, route, ground)),
        _blocking_case(OURS, route, *_ours(manager, ground)),
    ]


def _row(key: int) -> Any:
    return select(Note).where(Note.id == key)  # its static type differs between SQLAlchemy 2.0 and 2.1


def _engine_url(dsn: str, route: Route) -> Any:
    driver = "asyncpg" if route.driver == "asyncpg" else "psycopg"
    return make_url(dsn).set(drivername=f"postgresql+{driver}")


def _driver_options(route: Route) -> dict[str, Any]:
    """The options that our own engines have on this route: a pooler needs them with or without tenancy."""
    profile = PoolerProfile.parse("pgbouncer" if route.pooled else "direct")
    return {**POOL, "connect_args": profile.connect_args("asyncpg" if route.driver == "asyncpg" else "psycopg")}


# -- blocking

_Transaction = Callable[[int, int], Note]


def _plain(url: Any, route: Route) -> tuple[_Transaction, Callable[[], None]]:
    engine = create_engine(url, **_driver_options(route))

    def transaction(tenant: int, row: int) -> Note:
        with Session(engine, expire_on_commit=False) as session:
            note: Note = session.scalars(_row(shared_id(tenant, row))).one()
            session.commit()
        return note

    return transaction, engine.dispose


def _naive(url: Any, route: Route, ground: Ground) -> tuple[_Transaction, Callable[[], None]]:
    engine = create_engine(url, **_driver_options(route))

    def transaction(tenant: int, row: int) -> Note:
        schema = ground.schemas[tenant]
        with Session(engine, expire_on_commit=False) as session:
            session.execute(_NAIVE_PIN, {"role": schema, "path": f"{schema}, pg_temp"})
            note: Note = session.scalars(_row(1 + row)).one()
            session.commit()
        return note

    return transaction, engine.dispose


def _ours(manager: TenantManager, ground: Ground) -> tuple[_Transaction, Callable[[], None]]:
    def transaction(tenant: int, row: int) -> Note:
        with manager.get_session(ground.tenants[tenant]) as session:
            note: Note = session.scalars(_row(1 + row)).one()
        return note

    return transaction, manager.close


def _blocking_case(way: str, route: Route, transaction: _Transaction, close: Callable[[], None]) -> Case:
    return Case(
        way,
        route,
        lambda todo: timed(transaction, todo),
        lambda tenant, row: transaction(tenant, row).author,
        close,
    )


# -- asyncio

_AsyncTransaction = Callable[[int, int], Coroutine[Any, Any, Note]]


def _plain_async(url: Any, route: Route) -> tuple[_AsyncTransaction, Callable[[], Any]]:
    engine = create_async_engine(url, **_driver_options(route))

    async def transaction(tenant: int, row: int) -> Note:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            note: Note = (await session.scalars(_row(shared_id(tenant, row)))).one()
            await session.commit()
        return note

    return transaction, engine.dispose


def _naive_async(url: Any, route: Route, ground: Ground) -> tuple[_AsyncTransaction, Callable[[], Any]]:
    engine = create_async_engine(url, **_driver_options(route))

    async def transaction(tenant: int, row: int) -> Note:
        schema = ground.schemas[tenant]
        async with AsyncSession(engine, expire_on_commit=False) as session:
            await session.execute(_NAIVE_PIN, {"role": schema, "path": f"{schema}, pg_temp"})
            note: Note = (await session.scalars(_row(1 + row))).one()
            await session.commit()
        return note

    return transaction, engine.dispose


def _ours_async(manager: TenantManager, ground: Ground) -> tuple[_AsyncTransaction, Callable[[], Any]]:
    async def transaction(tenant: int, row: int) -> Note:
        async with manager.get_session(ground.tenants[tenant]) as session:
            note: Note = (await session.scalars(_row(1 + row))).one()
        return note

    return transaction, manager.aio.close


def _async_case(
    way: str, route: Route, loop: asyncio.Runner, transaction: _AsyncTransaction, close: Callable[[], Any]
) -> Case:
    return Case(
        way,
        route,
        lambda todo: loop.run(timed_async(transaction, todo)),
        lambda tenant, row: loop.run(transaction(tenant, row)).author,
        lambda: loop.run(close()),
    )
