"""A tenant's connection for a library that wants the driver's own: pinned, for one transaction.

Vector stores and the like take a connection and run SQL of their own on it. They get one that is inside a pinned
transaction, and that nobody else gets afterwards: whatever they leave on it (a prepared statement, a setting) goes
with it. Behind PgBouncer the server's end lives on: at tier `role` a statement prepared by SQL stays there.

A library that commits by itself has left the tenant with that: from there on the connection is a login without rights
(at tier `login` still this tenant's), and the block ends with `ContextLostError`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from mt_paas_db.catalog.identifiers import TenantName
from mt_paas_db.errors import ConfigurationError, ContextLostError, TenantMismatchError
from mt_paas_db.session.context import tenant_in_force
from mt_paas_db.session.dialects.pinning import Pinning, pin_state
from mt_paas_db.session.door import Door
from mt_paas_db.session.limits import Seat
from mt_paas_db.session.pin import Pin, PinOptions


class RawConnectionContext:
    """What ``raw_connection(...)`` returns; used once, by ``with`` or by ``async with``.

    ``with`` gives a `psycopg.Connection`, ``async with`` a `psycopg.AsyncConnection` or an `asyncpg.Connection`, as
    the setting `async_driver` says; in autocommit mode as far as the driver knows, so that it begins and ends nothing
    by itself. On leaving, the transaction is committed, or rolled back after an exception; the connection is closed.
    """

    def __init__(self, door: Door, name: TenantName, options: PinOptions) -> None:
        self._door = door
        self._name = name
        self._options = options
        self._pin: Pin | None = None
        self._seat: Seat | None = None
        self._connection: Connection | AsyncConnection | None = None

    def __enter__(self) -> Any:
        resolved = self._door.resolve(self._name)
        pin, engine = resolved.bind(self._door.engines.of(resolved.resolution.placement), self._options)
        self._use(pin)
        self._seat = self._door.limits.take(resolved.resolution)
        try:
            connection = self._connection = engine.connect()
            try:
                connection.begin()
            except BaseException:
                connection.close()
                raise
            return self._handed_out(connection)
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(cast("Connection", self._connection), commit=kind is None)
        finally:
            self._leave()

    async def __aenter__(self) -> Any:
        resolved = await self._door.aresolve(self._name)
        pin, engine = resolved.bind(self._door.engines.asyncio_of(resolved.resolution.placement), self._options)
        self._use(pin)
        self._seat = await self._door.limits.atake(resolved.resolution)
        try:
            connection = self._connection = await engine.connect()
            try:
                await connection.begin()
            except BaseException:
                await connection.close()
                raise
            return await connection.run_sync(self._handed_out)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = cast("AsyncConnection", self._connection)
        finished = connection.run_sync(lambda blocking: self._finish(blocking, commit=kind is None))
        try:
            # A cancelled task must not leave the connection half closed.
            await asyncio.shield(asyncio.ensure_future(finished))
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._seat is not None:
            self._seat.leave()

    def _use(self, pin: Pin) -> None:
        if self._pin is not None:
            raise ConfigurationError("a raw_connection(...) is entered once; call it again for another connection")
        in_force = tenant_in_force()
        if in_force is not None and in_force not in (pin.tenant_id, pin.asked_as):
            raise TenantMismatchError("the connection asked for", expected=in_force, found=pin.tenant_id)
        self._pin = pin

    @staticmethod
    def _handed_out(connection: Connection) -> Any:
        state = pin_state(connection.connection)
        state.textual = True  # whatever is run here may change what outlives the transaction
        return state.driver

    def _finish(self, connection: Connection, *, commit: bool) -> None:
        """End the transaction, and the connection with it.

        Raises:
            ContextLostError: Somebody else has ended the transaction that shall be committed.
            ServerUnavailableError: The server has ended the connection.
        """
        state, dialect = pin_state(connection.connection), cast("Pinning", connection.dialect)
        pinned, gone = dialect.in_transaction(state.driver), dialect.gone(state.driver)
        try:
            transaction = connection.get_transaction()
            if transaction is not None and commit and (pinned or gone):  # of one that is gone the driver says so
                transaction.commit()
            elif transaction is not None and pinned:
                transaction.rollback()
        finally:
            with suppress(Exception):  # it goes either way
                connection.invalidate()
            connection.close()
        if commit and not pinned and not gone:
            assert self._pin is not None
            raise ContextLostError(self._pin.tenant_id, "the transaction was ended on the raw connection")
