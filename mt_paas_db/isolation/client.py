"""A tenant's open session, and the ways in which its code can send SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from mt_paas_db.errors import TenancyError
from mt_paas_db.isolation.ground import Party

if TYPE_CHECKING:
    from mt_paas_db.isolation.channel import Channel

T = TypeVar("T")

ANSWERS: tuple[type[Exception], ...] = (TenancyError, SQLAlchemyError, psycopg.Error, AsyncAdapt_asyncpg_dbapi.Error)
"""Errors that are the answer to an attack; any other is a fault of the attack itself."""

with suppress(ImportError):
    import asyncpg

    ANSWERS += (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Client:
    """A tenant's open session, and the ways in which its code can send SQL. Everything it receives is observed."""

    def __init__(self, channel: Channel, party: Party, session: Session) -> None:
        self.channel = channel
        self.party = party
        self.session = session

    def run(self, statement: str, **values: Any) -> list[Any]:
        """Execute by ``session.execute(text(...))``; return the rows."""
        return self._seen(lambda: _rows(self.session.execute(text(statement), values)))

    def send(self, statement: str) -> list[Any]:
        """Execute by ``exec_driver_sql``: the text goes to the driver as it is."""
        options = {"no_parameters": True}
        return self._seen(
            lambda: _rows(self.session.connection().exec_driver_sql(statement, execution_options=options))
        )

    def raw(self, statement: str) -> list[Any]:
        """Execute on a DBAPI cursor of the session's connection, below SQLAlchemy and its guard."""

        def execute() -> list[Any]:
            cursor: Any = self.session.connection().connection.cursor()
            cursor.execute(statement)
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description is not None else []
            while not self.channel.route.is_async and cursor.nextset():  # of stacked statements
                rows += cursor.fetchall() if cursor.description is not None else []
            return rows

        return self._seen(execute)

    def message(self, statements: str) -> list[Any]:
        """Send several statements in one message of the simple protocol; return the rows, where the driver keeps them.

        asyncpg keeps none: ask again with `raw`.
        """

        def exchange() -> list[Any]:
            wait, driver = self.channel.wait, self.driver
            if self.channel.route.driver == "asyncpg":
                wait(driver.execute(statements))
                return []
            cursor = wait(driver.execute(statements))
            rows: list[Any] = []
            more: bool | None = True
            while more:
                if cursor.description is not None:
                    rows += wait(cursor.fetchall())
                more = cursor.nextset()
            return rows

        return self._seen(exchange)

    def copy(self, query: str) -> list[Any]:
        """Read `query` by the COPY protocol, on the driver's connection."""
        chunks: list[bytes] = []
        driver = self.driver

        async def asyncpg_copy() -> None:
            async def write(chunk: bytes) -> None:
                chunks.append(bytes(chunk))

            await driver.copy_from_query(query, output=write)

        async def psycopg_copy() -> None:
            async with driver.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT") as copied:
                chunks.extend([bytes(chunk) async for chunk in copied])

        def exchange() -> list[Any]:
            if self.channel.route.is_async:
                self.channel.wait(asyncpg_copy() if self.channel.route.driver == "asyncpg" else psycopg_copy())
            else:
                with driver.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT") as copied:
                    chunks.extend(bytes(chunk) for chunk in copied)
            return chunks

        return self._seen(exchange)

    def call(self, function: Callable[[Session], Any]) -> Any:
        """Call `function` with the session, and observe what it returns."""
        return self._seen(lambda: function(self.session))

    @property
    def driver(self) -> Any:
        """The driver's own connection."""
        return self.session.connection().connection.driver_connection

    @property
    def backend(self) -> int:
        """The server process that serves this session."""
        return int(self.raw("SELECT pg_backend_pid()")[0][0])

    def _seen(self, act: Callable[[], T]) -> T:
        try:
            answer = act()
        except ANSWERS as error:
            self.channel.show_error(self.party, error)
            raise
        self.channel.show(self.party, "rows", answer)
        return answer

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Observe the server's notices and notifications on the session's connection."""
        driver, channel = self.driver, self.channel

        def notice(*said: Any) -> None:
            message = said[-1]
            parts = {name: getattr(message, name, None) for name in dir(message) if not name.startswith("_")}
            channel.show(self.party, "notice", {k: str(v) for k, v in parts.items() if v and not callable(v)})

        def notified(notification: Any) -> None:
            channel.show(self.party, "notification", (notification.channel, notification.payload))

        if channel.route.driver == "asyncpg":
            driver.add_log_listener(notice)
            try:
                yield
                await_only(asyncio.sleep(0))  # listeners are called in the event loop's next turn
            finally:
                if not driver.is_closed():
                    driver.remove_log_listener(notice)
            return
        driver.add_notice_handler(notice)
        driver.add_notify_handler(notified)
        try:
            yield
        finally:
            driver.remove_notice_handler(notice)
            driver.remove_notify_handler(notified)


def _rows(result: Any) -> list[Any]:
    return [tuple(row) for row in result] if result.returns_rows else []
