"""The user's manager on one route, with a pool of few connections, and those of them that are at rest.

A connection at rest is asked through the driver itself, without taking it from the pool: to take it and give it back
would clean it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import psycopg
from sqlalchemy.util import await_only, greenlet_spawn

from mt_paas_db.catalog.credentials import cluster_url
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.ground import Ground
from mt_paas_db.isolation.route import NoRouteError, Route, manager_on

T = TypeVar("T")

CONNECTIONS = 2
"""Fewer than tenants, so that they meet on each; two, so that sessions are interleaved."""

_BEARING = (
    "SELECT pg_catalog.pg_backend_pid()::text, current_user::text, current_setting('role'), "
    "current_setting('search_path'), "
    "coalesce(current_setting('mt_paas.tenant', true), ''), current_setting('statement_timeout'), "
    "(SELECT count(*)::text FROM pg_catalog.pg_cursors WHERE name <> ''), "
    "(SELECT count(*)::text FROM pg_catalog.pg_listening_channels())"
)
_WHAT = (
    "backend",
    "user",
    "role",
    "search_path",
    "mt_paas.tenant",
    "statement_timeout",
    "cursors",
    "channels listened to",
)


class Rest(NamedTuple):
    """A connection at rest: its backend, and what it bears that it must not."""

    pid: int
    residue: tuple[str, ...]


class Pool:
    """A route's connections. `renew` them for each sequence of steps; `close` them in the end.

    Raises `NoRouteError` where the route cannot be taken, or its PgBouncer has too few connections to the server.
    """

    def __init__(self, ground: Ground, route: Route, *, pooler: str | None) -> None:
        self.route = route
        self._ground = ground
        self._pooler = pooler
        self._loop = asyncio.Runner() if route.is_async else None
        self.manager = self._manager()
        self._plain = cluster_url(self.manager._credentials, self._home, "app").set(drivername="postgresql")
        if route.pooled:
            _check_room(self._plain.render_as_string(hide_password=False))
        self._clean = self._bearing_of_a_new_one()

    def _manager(self) -> TenantManager:
        return manager_on(self._ground.manager, self.route, pooler=self._pooler, connections=CONNECTIONS)

    @property
    def _home(self) -> str:
        return self._ground.manager.settings.home_cluster

    def run(self, act: Callable[[], T]) -> T:
        """Call a blocking function where the route's sessions can be used: on asyncio drivers, in the bridge."""
        return act() if self._loop is None else self._loop.run(greenlet_spawn(act))

    def wait(self, value: Any) -> Any:
        """Return `value`, or on an asyncio driver what the awaitable yields. Inside `run` only."""
        return await_only(value) if self.route.is_async else value

    def renew(self) -> None:
        """Close all connections, and forget what the manager remembers."""
        self._close_manager()
        self.manager = self._manager()

    def at_rest(self) -> list[Any]:
        """Return the drivers' connections that nobody uses. Inside `run` only."""
        engines = self.manager._door.engines
        engine: Any = engines.asyncio(self._home).sync_engine if self.route.is_async else engines.blocking(self._home)
        return [record.driver_connection for record in engine.pool.resting() if record.driver_connection is not None]

    def rest(self) -> Iterator[Rest]:
        """Yield each connection at rest, and what it bears that a new one does not; not those that are dead.

        Inside `run` only.
        """
        for connection in self.at_rest():
            try:
                pid, *found = self._ask(connection, _BEARING)
            except ANSWERS:
                continue
            residue = [
                f"{what} {now!r} instead of {clean!r}"
                for what, now, clean in zip(_WHAT[1:], found, self._clean[1:], strict=True)
                if now != clean
            ]
            yield Rest(int(pid), tuple(residue))

    def _ask(self, connection: Any, statement: str) -> tuple[str, ...]:
        if self.route.driver == "asyncpg":
            return tuple(self.wait(connection.fetchrow(statement)))
        cursor = self.wait(connection.execute(statement, prepare=False))
        return tuple(self.wait(cursor.fetchone()))

    def _bearing_of_a_new_one(self) -> tuple[str, ...]:
        dsn = self._plain.render_as_string(hide_password=False)
        with psycopg.connect(dsn, autocommit=True) as connection:
            return tuple(connection.execute(_BEARING, prepare=False).fetchone() or ())

    def close(self) -> None:
        """Close connections and the event loop."""
        self._close_manager()
        if self._loop is not None:
            self._loop.close()

    def _close_manager(self) -> None:
        if self._loop is not None:
            self._loop.run(self.manager.aio.close())
        self.manager.close()


def _check_room(dsn: str, *, patience_s: float = 2.0) -> None:
    """Raise `NoRouteError` unless a PgBouncer serves as many transactions at once as the machine has open."""
    needed = CONNECTIONS + 1  # one to look tenants up with, and to look at connections at rest

    async def begin(opened: list[psycopg.AsyncConnection[Any]]) -> None:
        connection = await psycopg.AsyncConnection.connect(dsn)
        opened.append(connection)
        await connection.execute("SELECT 1", prepare=False)

    async def begin_all() -> int:
        opened: list[psycopg.AsyncConnection[Any]] = []
        tasks = [asyncio.ensure_future(begin(opened)) for _ in range(needed)]
        try:
            done, waiting = await asyncio.wait(tasks, timeout=patience_s)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return sum(task.exception() is None for task in done)
        finally:
            for connection in opened:
                await connection.close()

    served = asyncio.run(begin_all())
    if served < needed:
        raise NoRouteError(
            f"the PgBouncer serves {served} transactions of the login at once, and the state machine needs {needed}; "
            "raise its default_pool_size"
        )
