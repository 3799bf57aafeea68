"""One pair of hands of a run: migrates one tenant after another, on connections and in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from mt_paas_db.errors import RevisionError, ServerUnavailableError, TenancyError
from mt_paas_db.migrate import ledger, structure
from mt_paas_db.migrate.apply import Application, BusyError, MovedError, Recorded, StatementError, look
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.direct import Direct
from mt_paas_db.migrate.ledger import Outcome
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.online import Order, run_online
from mt_paas_db.migrate.report import Options
from mt_paas_db.migrate.script import Action, Heads, Script
from mt_paas_db.migrate.worker import Worker, WorkerLostError

TRY_AGAIN = frozenset({"55P03", "40P01", "40001"})
"""A lock was not to be had in time, a deadlock, a serialization failure: another time it may work."""

_MOVES = 5


class TryAgainError(Exception):
    """Not now. `counts` says whether it counts as an attempt; else another runner has the tenant."""

    def __init__(self, outcome: Outcome, *, counts: bool) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome
        self.counts = counts


@dataclass(frozen=True)
class Assignment:
    """What all hands of a run have in common. `expected` is the reference's fingerprint where it leads to `at`."""

    action: Action
    destination: str
    run_id: int
    home: str
    direct: Direct
    options: Options
    shared_schemas: tuple[str, ...]
    expected: str | None = None
    expected_at: Heads | None = None


class Migrator:
    """Migrates tenants. One thread at a time may use it. `close` it."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self._workers: dict[int, Worker] = {}

    def close(self) -> None:
        """Close the connections, and end the process."""
        for connection in self._connections.values():
            connection.close()
        for worker in self._workers.values():
            worker.close()
        self._connections.clear()
        self._workers.clear()

    def cancel(self) -> None:
        """Ask the server to cancel what is under way. May be called from another thread."""
        for connection in list(self._connections.values()):
            if not connection.closed:
                connection.cancel_safe(timeout=5)

    def migrate(self, target: Target, heads: Heads, compiler: Compiler, *, attempts: int) -> Outcome:
        """Bring a tenant from `heads`, where it is thought to stand, to the destination; record and return how it went.

        Raises:
            TryAgainError: A lock stood in the way.
            ServerUnavailableError: The server was lost, and is not back; what the tenant knows decides later.
        """
        outcome = self._outcome(target, heads, compiler, attempts)
        if outcome.state != "migrated" or outcome.seconds is None or target.entry != self.assignment.home:
            self._write(target, outcome)
        return outcome

    def give_up(self, target: Target, outcome: Outcome) -> None:
        """Record what became of a tenant that is not tried again."""
        self._write(target, outcome)

    # -- the attempt

    def _outcome(self, target: Target, heads: Heads, compiler: Compiler, attempts: int) -> Outcome:
        began = time.monotonic()
        try:
            return self._towards(target, heads, compiler, attempts)
        except BusyError:
            outcome = Outcome("not_attempted", heads, attempts, message="another runner has this tenant")
            raise TryAgainError(outcome, counts=False) from None
        except StatementError as error:
            failed = self._failed(target, heads, attempts, began, error.error.sqlstate, error.text, str(error.error))
            if error.error.sqlstate in TRY_AGAIN:
                raise TryAgainError(failed, counts=True) from error
            return failed
        except psycopg.OperationalError as error:
            raise ServerUnavailableError(target.entry, f"lost while {target.tenant_id!r} was migrated: {_line(error)}") from error
        except (psycopg.Error, TenancyError) as error:
            if isinstance(error, ServerUnavailableError):
                raise
            return self._failed(target, heads, attempts, began, getattr(error, "sqlstate", None), None, str(error))

    def _towards(self, target: Target, heads: Heads, compiler: Compiler, attempts: int) -> Outcome:
        """Go on from wherever the tenant turns out to stand, until it is at the destination."""
        assignment = self.assignment
        mark, moved = None, 0
        while True:
            script = compiler.compile(assignment.action, heads, assignment.destination)
            try:
                if mark is not None and mark.done is not None and script.parts:
                    first = script.first()
                    if first.way == "online":
                        raise ValueError(f"revision {mark.revision} was changed since a part of it was carried out")
                    self._application(target.entry).carry_out(target, first, mark=mark)
                    heads, mark = first.end, None
                    continue
                if not script.parts:
                    return Outcome("unchanged", heads, attempts)
                recorded = self._carry_out(target, script, compiler, attempts)
                return self._migrated(target, script, recorded, attempts)
            except ValueError as error:
                raise RevisionError(
                    f"{error}; finish revision {mark.revision if mark else ''} by hand, then stamp the tenant"
                ) from error
            except MovedError:
                moved += 1
                found = look(self._connection(target.entry), target)
                if not found.has_schema:
                    raise RevisionError(f"schema {target.schema!r} does not exist; restore it from a backup") from None
                there = found.heads or ()
                if moved == _MOVES or (there == heads and found.mark == mark):
                    raise RevisionError(
                        f"the tenant stands at {', '.join(there) or 'no revision'}, and its version table cannot be used"
                    ) from None
                if not compiler.scripts.knows(there):
                    raise RevisionError(f"the tenant is at {', '.join(there)}, which is not in the history") from None
                heads, mark = there, found.mark

    def _carry_out(self, target: Target, script: Script, compiler: Compiler, attempts: int) -> Recorded | None:
        assignment = self.assignment
        expected = assignment.expected if script.end == assignment.expected_at else None
        at_home = target.entry == assignment.home
        if script.way == "online":
            return self._online(target, script, compiler, attempts, expected if at_home else None, at_home=at_home)
        record: Callable[[Heads], str] | None = None
        if at_home:

            def record(heads: Heads) -> str:
                return ledger.record(assignment.run_id, target, heads, attempts, expected)

        return self._application(target.entry).carry_out(target, script, record=record)

    def _online(
        self,
        target: Target,
        script: Script,
        compiler: Compiler,
        attempts: int,
        expected: str | None,
        *,
        at_home: bool,
    ) -> Recorded | None:
        assignment = self.assignment
        order = Order(
            dsn=assignment.direct.dsn(target.entry),
            owner=assignment.direct.roles.owner,
            target=target,
            action=script.action,
            start=script.start,
            destination=assignment.destination,
            end=script.end,
            patience=assignment.options.patience,
            per_revision=script.per_revision,
            allow_destructive=assignment.options.allow_destructive,
            shared_schemas=assignment.shared_schemas,
            run_id=assignment.run_id if at_home else None,
            attempts=attempts,
            expected=expected,
        )
        key = id(compiler)
        worker = self._workers.get(key) or Worker(compiler.setup())
        self._workers[key] = worker
        try:
            answer = worker.ask(run_online, order=order)
        except WorkerLostError as error:
            self._workers.pop(key).close()
            raise psycopg.OperationalError(str(error)) from error
        match answer.failure:
            case None:
                return Recorded(*answer.recorded) if answer.recorded else None
            case "busy":
                raise BusyError
            case "moved":
                raise MovedError
            case "lost":
                raise psycopg.OperationalError(answer.message)
            case "refused" | "interrupted":
                raise RevisionError(answer.message)
        kind = psycopg.errors.lookup(answer.sqlstate) if answer.sqlstate else psycopg.Error
        raise StatementError("statement", answer.statement or "", kind(answer.message))

    def _migrated(self, target: Target, script: Script, recorded: Recorded | None, attempts: int) -> Outcome:
        if recorded is not None:
            state: Any = recorded.state
            return Outcome(state, script.end, attempts, recorded.seconds, recorded.verified, message=recorded.message)
        assignment = self.assignment
        if assignment.expected is None or script.end != assignment.expected_at:
            return Outcome("migrated", script.end, attempts)
        found = structure.fingerprint_on(self._connection(target.entry), target.schema, target.role or target.schema)
        if found == assignment.expected:
            return Outcome("migrated", script.end, attempts, verified=True)
        return Outcome("failed", script.end, attempts, verified=False, message=NOT_LIKE_REFERENCE.format(target.tenant_id))

    def _failed(
        self,
        target: Target,
        heads: Heads,
        attempts: int,
        began: float,
        sqlstate: str | None,
        statement: str | None,
        said: str,
    ) -> Outcome:
        """Return a failure, with where the tenant really stands now."""
        try:
            heads = look(self._connection(target.entry), target).heads or ()
        except psycopg.Error as error:
            raise ServerUnavailableError(target.entry, f"lost after a failure: {_line(error)}") from error
        return Outcome(
            "failed", heads, attempts, time.monotonic() - began, None, sqlstate, statement, said.strip() or "no message"
        )

    # -- connections

    def _application(self, entry: str) -> Application:
        assignment = self.assignment
        return Application(
            self._connection(entry), owner=assignment.direct.roles.owner, patience=assignment.options.patience
        )

    def _connection(self, entry: str) -> psycopg.Connection[Any]:
        connection = self._connections.get(entry)
        if connection is None or connection.closed:
            connection = self.assignment.direct.connect(entry)
            if entry == self.assignment.home:
                ledger.prepare(connection)
            self._connections[entry] = connection
        return connection

    def _write(self, target: Target, outcome: Outcome) -> None:
        """Write an outcome, and where the tenant stands, to the catalog."""
        home = self._connection(self.assignment.home)
        try:
            with home.transaction():
                ledger.write_outcome(home, self.assignment.run_id, target, outcome)
                if target.generation > 0:
                    ledger.record_heads(home, target.generation, outcome.heads)
        except psycopg.OperationalError as error:
            raise ServerUnavailableError(
                self.assignment.home, f"lost while the outcome of {target.tenant_id!r} was recorded: {_line(error)}"
            ) from error


NOT_LIKE_REFERENCE = "migrated, but its structure is not the reference's; `mt-paas-db migrate verify {}` says what differs"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
