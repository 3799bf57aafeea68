"""One script, carried out on one tenant, on one connection.

A script of one transaction is one message, which holds the tenant's lock; several tenants' messages may be sent as one,
and stay a transaction each. A script of several steps holds the lock meanwhile, and leaves a mark on the version table
between two of them, in the same transactions, so that whoever comes after a kill goes on where it was, and applies
nothing twice.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from mt_paas_db.catalog.queries import queries
from mt_paas_db.migrate import message
from mt_paas_db.migrate.message import Label, Patience, Statement, Target
from mt_paas_db.migrate.script import Heads, Mark, Script, Step
from mt_paas_db.migrate.statements import concurrent_index, idempotent_outside_transaction, tokens

Record = Callable[[Heads], list[str]]
"""Returns SQL that copies that a tenant is at these heads, in the transaction that brings it there."""

DIVISION_BY_ZERO = "22012"

_NOT_THERE = ("23502", "42P01", "3F000")
"""A version that became null as it was another, a version table that is not there, a schema that is not."""

_IN_BLOCK = re.compile(r"\b(set|reset|discard|temp|temporary|execute|call|perform)\b", re.IGNORECASE)
_COPY = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)


class BusyError(Exception):
    """Another runner has the tenant."""


class MovedError(Exception):
    """The tenant does not stand where it was thought to."""


class StatementError(Exception):
    """A statement failed; its transaction was rolled back. `error` is the server's."""

    def __init__(self, label: Label, text: str, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.label = label
        self.text = text
        self.error = error


class Whereabouts(NamedTuple):
    """Where a tenant really stands. `heads` is None where there is no version table."""

    heads: Heads | None
    mark: Mark | None
    has_schema: bool


class Recorded(NamedTuple):
    """What the record yielded: how long the tenant's transaction took, and when it ended, in seconds since 1970."""

    seconds: float
    ended_at: float


class Tried(NamedTuple):
    """What became of one of several tenants that were sent together: what the record yielded, or what was raised."""

    recorded: Recorded | None
    error: Exception | None = None
    seconds: float = 0.0
    """How long the tenants up to this one took; of one that failed."""


def look(connection: psycopg.Connection[Any], target: Target) -> Whereabouts:
    """Return where the tenant stands: the truth, not the catalog's copy."""
    row = connection.execute(message.whereabouts(target).encode()).fetchone()
    assert row is not None
    comment, has_table, has_schema = row
    if not has_table:
        return Whereabouts(None, None, has_schema)
    heads = tuple(head for (head,) in connection.execute(message.heads(target).encode()))
    return Whereabouts(heads, Mark.parse(comment), has_schema)


def marks(connection: psycopg.Connection[Any], targets: Sequence[Target]) -> dict[int, Mark]:
    """Return the marks that interrupted revisions have left on `targets`, by generation: one query."""
    rows = connection.execute(message.comments(targets).encode())
    found = {generation: Mark.parse(comment) for generation, comment in rows}
    return {generation: mark for generation, mark in found.items() if mark is not None}


class Application:
    """The carrying out of scripts on one connection, which is in autocommit and acts as the owner."""

    def __init__(self, connection: psycopg.Connection[Any], *, owner: str, patience: Patience) -> None:
        self._connection = connection
        self._owner = owner
        self._patience = patience

    def carry_out(
        self, target: Target, script: Script, *, mark: Mark | None = None, record: Record | None = None
    ) -> Recorded | None:
        """Carry out what is left of `script` after `mark`; return what the last step's `record` yielded.

        Raises:
            BusyError: Another runner has the tenant; nothing was sent but the question.
            MovedError: The tenant is not at the script's start, or has another mark, or no version table.
            ValueError: What the mark says was begun must not be done again, or the revision was changed since.
            StatementError: The server refused a statement. What earlier steps committed is marked.
            psycopg.OperationalError: The connection was lost; whether the last step is done, the tenant knows.
        """
        # To stamp is to say that what the mark is of was seen to.
        steps = script.steps(None if script.action == "stamp" else mark)
        try:
            if len(steps) == 1:
                statements = self._transaction(target, steps[0], script.start, mark, record, takes_lock=True)
                return self._recorded(self._send(statements))
            self.take(target)
            try:
                return self._in_steps(target, steps, script.start, mark, record)
            finally:
                self.release(target)
        finally:
            if any(map(leaves_traces, script.statements())):
                self._connection.close()  # the next tenant must not find them

    @staticmethod
    def goes_together(script: Script) -> bool:
        """Return whether the script of one tenant may be sent with another's: it is one transaction, without traces."""
        return (
            script.action != "stamp"
            and script.way == "compiled"
            and bool(script.parts)
            and len(script.steps()) == 1
            and not any(map(leaves_traces, script.statements()))
        )

    def carry_out_each(
        self, targets: Sequence[Target], script: Script, records: Sequence[Record | None]
    ) -> list[Tried]:
        """Carry out a script that `goes_together` on each of some tenants: one message, a transaction for each.

        Return what became of them in their order, up to the first that failed: the server skips the rest of a message
        then.

        Raises:
            psycopg.OperationalError: The connection was lost; each tenant knows by itself whether it is done.
        """
        (step,) = script.steps()
        each = [
            self._transaction(target, step, script.start, None, record, takes_lock=True)
            for target, record in zip(targets, records, strict=True)
        ]
        began = time.monotonic()
        answers = _transactions(self._exchange([statement for statements in each for statement in statements]))
        tried: list[Tried] = []
        for statements, results in zip(each, answers, strict=False):
            try:
                tried.append(Tried(self._recorded(self._checked(statements, results))))
            except (BusyError, MovedError, StatementError) as error:
                return [*tried, Tried(None, error, time.monotonic() - began)]
        return tried

    def _in_steps(
        self, target: Target, steps: Sequence[Step], heads: Heads, mark: Mark | None, record: Record | None
    ) -> Recorded | None:
        recorded = None
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            if step.alone:
                again = mark is not None and mark == step.begun
                if not again:
                    self._send(message.begun(target, step, patience=self._patience, heads=heads, mark=mark))
                self._alone(target, step, again=again)
                mark = step.begun
            else:
                statements = self._transaction(target, step, heads, mark, record if last else None)
                recorded = self._recorded(self._send(statements))
                heads, mark = step.heads, step.mark
        return recorded

    def _transaction(
        self,
        target: Target,
        step: Step,
        heads: Heads,
        mark: Mark | None,
        record: Record | None,
        *,
        takes_lock: bool = False,
    ) -> list[Statement]:
        return message.transaction(
            target,
            step,
            patience=self._patience,
            heads=heads,
            mark=mark,
            record=record(step.heads) if record else (),
            takes_lock=takes_lock,
        )

    def _alone(self, target: Target, step: Step, *, again: bool) -> None:
        """Carry out a statement outside a transaction. `again`: it may have been carried out before a kill."""
        (item,) = step.items
        if again and not repeatable(item.text):
            raise ValueError(f"it was interrupted in {' '.join(item.text.split())[:80]!r}, which may be done or not")
        try:
            for statement in message.in_schema(target, self._owner, self._patience, item):
                self._connection.execute(statement.encode())
            self._drop_invalid_index(target, item.text)
            self._send([Statement("statement", item.text)])
        except StatementError as error:
            if not again or error.error.sqlstate not in idempotent_outside_transaction(item.text):
                raise
        finally:
            if not self._connection.closed:
                for statement in message.out_of_schema(self._owner):
                    self._connection.execute(statement.encode())

    def _drop_invalid_index(self, target: Target, statement: str) -> None:
        build = concurrent_index(statement)
        if build is None or build.name is None:
            return
        table = f"{message.identifier(build.schema or target.schema)}.{message.identifier(build.table)}"
        for index in invalid_indexes(self._connection, table, build.name):
            self._connection.execute(f"DROP INDEX CONCURRENTLY {index}".encode())

    def take(self, target: Target) -> None:
        """Take the tenant's lock. Raises `BusyError`."""
        self._send([message.lock(target)])

    def release(self, target: Target) -> None:
        """Give back the tenant's lock; a connection that was lost has given it back."""
        if not self._connection.closed:
            self._connection.execute(message.as_text([message.RESET, message.unlock(target)]))

    def _send(self, statements: Sequence[Statement]) -> list[pq.abc.PGresult]:
        """Send one message and return the result of each of its statements."""
        return self._checked(statements, self._exchange(statements))

    def _exchange(self, statements: Sequence[Statement]) -> list[pq.abc.PGresult]:
        connection = self._connection
        try:
            return exchange(connection.pgconn, message.as_text(statements))
        except BaseException:
            # Whatever stopped the waiting, the answer is still to come: this connection is of no more use.
            connection.close()
            raise

    def _checked(self, statements: Sequence[Statement], results: list[pq.abc.PGresult]) -> list[pq.abc.PGresult]:
        """Return the results of a transaction's statements. Raises for what the last one says."""
        connection = self._connection
        if results[-1].status in _COPY:
            connection.close()
            failed = statements[min(len(results), len(statements)) - 1]
            raise StatementError(failed.label, failed.text, psycopg.NotSupportedError("COPY has no rows to read here"))
        if results[-1].status != pq.ExecStatus.FATAL_ERROR:
            return results
        error = error_from_result(results[-1], encoding="utf-8")
        if connection.pgconn.status != pq.ConnStatus.OK or (error.sqlstate or "").startswith(("57P", "08")):
            connection.close()
            raise psycopg.OperationalError(str(error)) from error
        failed = statements[min(len(results), len(statements)) - 1]
        if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            connection.execute("ROLLBACK")
        if failed.label == "lock" and error.sqlstate == DIVISION_BY_ZERO:
            raise BusyError
        if failed.label == "record" and error.sqlstate == DIVISION_BY_ZERO:
            raise MovedError  # to or from read-only
        if failed.label in ("guard", "swap") and error.sqlstate in (DIVISION_BY_ZERO, *_NOT_THERE):
            raise MovedError
        raise StatementError(failed.label, failed.text, error)

    @staticmethod
    def _recorded(results: Sequence[pq.abc.PGresult]) -> Recorded | None:
        """Return what the record yielded: the last result of two columns named so."""
        for result in reversed(results):
            if [result.fname(n) for n in range(result.nfields)] == [b"seconds", b"ended_at"] and result.ntuples:
                return Recorded(float(result.get_value(0, 0) or 0), float(result.get_value(0, 1) or 0))
        return None


def exchange(pgconn: pq.abc.PGconn, text: bytes) -> list[pq.abc.PGresult]:
    """Send a message and return the result of each of its statements, up to the first that failed.

    As `psycopg.Connection.wait` does, without what that does for the main thread, which alone hears of Ctrl-C. Raises
    `psycopg.OperationalError` where the connection is lost.
    """
    pgconn.send_query(text)
    readable = select.poll()
    readable.register(pgconn.socket, select.POLLIN)
    results: list[pq.abc.PGresult] = []
    while True:
        while pgconn.is_busy():
            readable.poll()  # without Python's lock
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return results
        results.append(result)
        if result.status in _COPY:
            return results


def _transactions(results: Sequence[pq.abc.PGresult]) -> list[list[pq.abc.PGresult]]:
    """Divide results into those of each transaction. A revision's own statements end none."""
    parts: list[list[pq.abc.PGresult]] = [[]]
    for result in results:
        parts[-1].append(result)
        if result.command_status == b"COMMIT":
            parts.append([])
    return [part for part in parts if part]


def repeatable(statement: str) -> bool:
    """Return whether a statement outside a transaction may be sent again where it may have been carried out."""
    if idempotent_outside_transaction(statement):
        return True
    first = next((token.text for token in tokens(statement)), "")
    return first in ("vacuum", "analyze", "reindex", "cluster", "refresh")


@lru_cache(10_000)
def leaves_traces(statement: str) -> bool:
    """Return whether a statement may leave something on its connection when its transaction is over.

    Settings, temporary tables, locks: a revision has them for itself, as if the connection were its own.
    """
    words = [token.text for token in tokens(statement) if token.kind == "word"]
    match words[:2]:
        case ["set", "local" | "constraints" | "transaction"]:
            return False
        case ["set" | "reset" | "discard" | "deallocate" | "prepare" | "listen" | "load" | "call", *_]:
            return True
        case ["do", *_]:
            return _IN_BLOCK.search(statement) is not None
        case ["create" | "select" | "with", *_] if not {"temp", "temporary", "pg_temp"}.isdisjoint(words):
            return True
    return any("set_config" in word or "advisory_lock" in word for word in words)


def invalid_indexes(connection: psycopg.Connection[Any], table: str, name: str) -> list[str]:
    """Return the index of a table that a CREATE INDEX CONCURRENTLY left half made, as SQL names it."""
    found = connection.execute(
        queries("migrate")["invalid_indexes"].replace(":table", "%(table)s").replace(":name", "%(name)s").encode(),
        {"table": table, "name": name},
    )
    return [index for (index,) in found]
