"""A client that says exactly what is sent, and waits no longer than it was told.

libpq's own functions: what a driver prepares, resets or asks by itself would be in the way of finding out what a
pooler does.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg import pq
from sqlalchemy import URL

Row = tuple[str | None, ...]


class RefusedError(Exception):
    """The server's, or the pooler's, error in answer to a message."""

    def __init__(self, message: str, sqlstate: str | None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class NoAnswerError(Exception):
    """The time was up, or the connection ended."""


@dataclass(frozen=True, slots=True)
class Clock:
    """When all must be done, in `time.monotonic` seconds, and the longest that one answer may take."""

    until: float
    each_s: float

    @classmethod
    def of(cls, timeout_s: float) -> Self:
        """Return a clock that starts now."""
        return cls(time.monotonic() + timeout_s, min(5.0, timeout_s / 4))

    def left(self, most_s: float | None = None) -> float:
        """Return the seconds that the next answer may take. Raises `NoAnswerError` when the time is up."""
        left = min(self.until - time.monotonic(), self.each_s if most_s is None else most_s)
        if left <= 0:
            raise NoAnswerError("the time is up")
        return left


def connect_arguments(url: URL) -> dict[str, Any]:
    """Return what libpq is told of `url`, by keywords: a rendered URL would be read in its own way."""
    told = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    return {**{key: value for key, value in told.items() if value is not None}, **dict(url.query)}


@dataclass(slots=True)
class Client:
    """A connection through the pooler. `ask` sends one message in the simple protocol."""

    clock: Clock
    connection: psycopg.Connection[Any]
    _names: int = field(default=0)

    @classmethod
    def open(cls, url: URL, clock: Clock, **options: Any) -> Self:
        """Connect. Raises `psycopg.OperationalError`."""
        arguments = {**connect_arguments(url), **options, "connect_timeout": max(2, round(clock.left()))}
        return cls(clock, psycopg.connect(**arguments, autocommit=True, prepare_threshold=None))

    @property
    def announced_pid(self) -> int:
        """The process that is said to serve this client: a pooler makes one up."""
        return self.connection.pgconn.backend_pid

    @property
    def in_transaction(self) -> bool:
        """What the other side said last."""
        return self.connection.pgconn.transaction_status == pq.TransactionStatus.INTRANS

    @property
    def closed(self) -> bool:
        """Whether it can be asked no more."""
        return self.connection.closed or self.connection.pgconn.status != pq.ConnStatus.OK

    def ask(self, message: str, *, most_s: float | None = None) -> list[list[Row]]:
        """Return the rows of each statement of the message.

        Raises `RefusedError` for the first error, `NoAnswerError` where none comes; then the client is closed.
        """
        return self._exchange(lambda conn: conn.send_query(message.encode()), most_s)

    def one(self, message: str, *, most_s: float | None = None) -> Row:
        """Return the only row of the last statement of the message."""
        (row,) = self.ask(message, most_s=most_s)[-1]
        return row

    def prepare(self, name: str, statement: str) -> None:
        """Parse a named statement, in the extended protocol. Raises as `ask`."""
        self._exchange(lambda conn: conn.send_prepare(name.encode(), statement.encode()))

    def execute_prepared(self, name: str) -> Row:
        """Execute it and return its only row. Raises as `ask`."""
        (row,) = self._exchange(lambda conn: conn.send_query_prepared(name.encode(), None))[-1]
        return row

    def close_prepared(self, name: str) -> None:
        """Close it by the protocol's own message, which a pooler that tracks statements sees. Raises as `ask`."""
        self._exchange(lambda conn: conn.send_close_prepared(name.encode()))

    def close(self) -> None:
        """Disconnect."""
        self.connection.close()

    def _exchange(self, send: Callable[[pq.abc.PGconn], None], most_s: float | None = None) -> list[list[Row]]:
        until = time.monotonic() + self.clock.left(most_s)
        conn = self.connection.pgconn
        results: list[list[Row]] = []
        error: RefusedError | None = None
        try:
            send(conn)
            while True:
                while conn.is_busy():
                    left = until - time.monotonic()
                    if left <= 0 or not select.select([conn.socket], [], [], left)[0]:
                        self.close()
                        raise NoAnswerError("no answer in time")
                    conn.consume_input()
                result = conn.get_result()
                if result is None:
                    break
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    state = result.error_field(pq.DiagnosticField.SQLSTATE)
                    error = error or RefusedError(
                        (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(),
                        state.decode() if state else None,
                    )
                else:
                    results.append([_row(result, number) for number in range(result.ntuples)])
        except psycopg.Error as lost:
            raise error or NoAnswerError(str(lost).strip()) from lost
        if error is not None:
            raise error
        return results


def _row(result: pq.abc.PGresult, number: int) -> Row:
    values = (result.get_value(number, column) for column in range(result.nfields))
    return tuple(None if value is None else value.decode(errors="replace") for value in values)
