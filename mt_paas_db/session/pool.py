"""SQLAlchemy's pool of one cell, over the budget that all cells of the process share.

SQLAlchemy's own record of a pooled connection is the budget's slot: it is made empty, SQLAlchemy connects it as it
would connect one anew whose connection was lost, and gives it back in either case. All else (reset, pre-ping, recycling
by age, invalidation, events) is SQLAlchemy's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from sqlalchemy import Pool
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from mt_paas_db.session.gate import Gate, TaskWaiter, ThreadWaiter
from mt_paas_db.session.places import Member, Slot


class PooledRecord(_ConnectionRecord, Slot):
    """A pooled connection, or the place for one.

    Attributes:
        worn: Whether it has served too many tenants, and is closed when it comes back.
    """

    worn: bool = False

    @property
    def filled(self) -> bool:
        return self.dbapi_connection is not None


def wear_out(connection: PoolProxiedConnection) -> None:
    """Have a pooled connection closed when it comes back."""
    record: Any = getattr(connection, "_connection_record", None)
    if record is not None:
        record.worn = True


class BudgetPool(Pool):
    """One cell's connections.

    Args:
        gate: The budget they count against.
        cluster, cell: Whose they are, and where.
        loop: The event loop of an asyncio engine's connections; None for a blocking engine.
    """

    def __init__(
        self,
        creator: Any,
        gate: Gate,  # by name, too: create_engine hands on what it finds by the names of these
        cluster: str,
        cell: str,
        loop: asyncio.AbstractEventLoop | None = None,
        **options: Any,
    ) -> None:
        super().__init__(creator, **options)
        self._gate = gate
        self._cluster = cluster
        self._cell = cell
        self._loop = loop
        self._closing: set[asyncio.Task[None]] = set()
        self._member = Member(
            cell,
            cluster=cluster,
            waits=ThreadWaiter if loop is None else TaskWaiter,
            make=lambda: PooledRecord(self, connect=False),
            close=self._shut,
            gone=(lambda: False) if loop is None else loop.is_closed,
        )

    def _do_get(self) -> ConnectionPoolEntry:
        return cast("PooledRecord", self._gate.take(self._member))

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        slot = cast("PooledRecord", record)
        if slot.dbapi_connection is None or slot.worn:
            self._gate.end(slot)
        else:
            self._gate.put(slot)

    def _shut(self, slot: Slot) -> None:
        """Close a connection nobody uses, in its own event loop; then its place is free."""
        record, loop = cast("PooledRecord", slot), self._loop
        if loop is None or record.dbapi_connection is None:
            self._shut_here(record)
        elif loop.is_closed():
            self._cut_off(record)
        elif asyncio._get_running_loop() is loop:
            self._shut_in_loop(record)
        else:
            try:
                loop.call_soon_threadsafe(self._shut_in_loop, record)
            except RuntimeError:  # closed meanwhile
                self._cut_off(record)

    def _shut_here(self, record: PooledRecord) -> None:
        connection = record.dbapi_connection
        try:
            if connection is not None:
                record.finalize_callback.clear()
                if self.dispatch.close:
                    self.dispatch.close(connection, record)
                self._close_connection(connection, terminate=self._loop is not None)
        finally:
            record.dbapi_connection = None
            self._gate.free(record)

    def _shut_in_loop(self, record: PooledRecord) -> None:
        task = asyncio.ensure_future(greenlet_spawn(self._shut_here, record))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _cut_off(self, record: PooledRecord) -> None:
        """Let go of a connection whose event loop is closed: nothing can be sent on it any more."""
        connection: Any = record.dbapi_connection
        record.dbapi_connection = None
        driver: Any = getattr(connection, "driver_connection", None)
        with suppress(Exception):  # the socket goes with its objects, if not by this
            driver.pgconn.finish() if hasattr(driver, "pgconn") else driver.terminate()
        self._gate.free(record)

    def recreate(self) -> BudgetPool:
        self.logger.info("Pool recreating")
        return self.__class__(
            self._creator,
            gate=self._gate,
            cluster=self._cluster,
            cell=self._cell,
            loop=self._loop,
            pre_ping=self._pre_ping,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        """Close what is idle, and what comes back from now on."""
        self._gate.drop(self._member)
        if self._loop is not None and in_greenlet():
            while self._closing:
                await_only(asyncio.wait(self._closing))
        self.logger.info("Pool disposed. %s", self.status())

    def status(self) -> str:
        return f"Connections of {self._cell} in pool: {self.checkedin()} Checked out connections: {self.checkedout()}"

    def resting(self) -> list[PooledRecord]:
        """Return the connections that are idle, the one used last at the end."""
        return [cast("PooledRecord", slot) for slot in self._member.idle]

    def checkedin(self) -> int:
        """Return how many connections are idle."""
        return self._gate.held(self._member)[1]

    def checkedout(self) -> int:
        """Return how many connections are in use."""
        return self._gate.held(self._member)[0]

    @property
    def unused(self) -> bool:
        """Whether it has no connection, and nobody waits for one."""
        return self._gate.held(self._member) == (0, 0) and not self._member.waiting
