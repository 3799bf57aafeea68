"""One pair of hands of a run: migrates one tenant after another, on connections and in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from mt_paas_db.catalog.values import TenantState
from mt_paas_db.errors import RevisionError, ServerUnavailableError, TenancyError
from mt_paas_db.migrate import ledger
from mt_paas_db.migrate.apply import (
    Application,
    BusyError,
    MovedError,
    Record,
    Recorded,
    StatementError,
    Tried,
    Whereabouts,
    look,
)
from mt_paas_db.migrate.comparison import Migrated, Waiting, look_closely
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.direct import Direct
from mt_paas_db.migrate.ledger import Expected, Likeness, Outcome
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.online import Order, run_online
from mt_paas_db.migrate.plan import Move
from mt_paas_db.migrate.report import Options
from mt_paas_db.migrate.script import Action, Heads, Mark, Script, depends_on_place
from mt_paas_db.migrate.worker import Worker, WorkerLostError

TRY_AGAIN = frozenset({"55P03", "40P01", "40001"})
"""A lock was not to be had in time, a deadlock, a serialization failure: another time it may work."""

_MOVES = 5
_PAUSE_S = 0.5


class TryAgainError(Exception):
    """Not now. `counts` says whether it counts as an attempt; else another runner has the tenant."""

    def __init__(self, outcome: Outcome, *, counts: bool) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome
        self.counts = counts


@dataclass(frozen=True)
class Assignment:
    """What all hands of a run have in common. `expected` is what the reference is like, once it is known."""

    action: Action
    destination: str
    run_id: int
    home: str
    direct: Direct
    options: Options
    shared_schemas: tuple[str, ...]
    expected: Expected | None = None


class Migrator:
    """Migrates tenants. One thread at a time may use it. `close` it."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self._workers: dict[int, Worker] = {}
        self._prepared: set[str] = set()  # on the connection to the catalog's database
        self._waiting = Waiting()

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
        for worker in list(self._workers.values()):
            worker.cancel()
        for connection in list(self._connections.values()):
            if not connection.closed:
                with suppress(psycopg.Error):  # it is going anyway
                    connection.cancel_safe(timeout=5)

    def try_together(self, tenants: Sequence[Move], compiler: Compiler) -> list[Tried]:
        """Send several tenants, which start from one place on one server, in one message.

        Return what became of them, for `migrate`, up to the first that failed; nothing where they cannot be sent
        together, or one of them is alone.
        """
        if len(tenants) < 2:
            return []
        first, heads, _wave = tenants[0]
        try:
            script = compiler.compile(self.assignment.action, heads, self._fixed(heads, compiler))
        except TenancyError:
            return []  # by itself each hears why
        if not Application.goes_together(script):
            return []
        try:
            application = self._application(first.entry)
            targets = [move.target for move in tenants]
            return application.carry_out_each(targets, script, [self._record(target) for target in targets])
        except (ServerUnavailableError, psycopg.OperationalError) as error:
            return [Tried(None, error)] * len(tenants)

    def migrate(
        self, target: Target, heads: Heads, compiler: Compiler, *, attempts: int, tried: Tried | None = None
    ) -> Outcome | None:
        """Bring a tenant from `heads`, where it is thought to stand, to the destination; record and return how it went.

        None: it was migrated, and is settled by `settle`, which returns its outcome. `tried` is what came of it when
        it was sent together with others: what is to be done then is the same.

        Raises:
            TryAgainError: A lock stood in the way, or the process that ran the revisions was lost.
            ServerUnavailableError: The server was lost, and is not back; what the tenant knows decides later.
        """
        outcome, likeness = self._outcome(target, heads, compiler, attempts, tried)
        if outcome.ended_at is not None:
            self._waiting.add(Migrated(target, outcome), likeness)
            return None
        self._write(target, outcome)
        return outcome

    @property
    def must_settle(self) -> bool:
        """Whether it is time for `settle`."""
        return self._waiting.due

    def settle(self) -> list[Migrated]:
        """Compare what has been migrated, where it is to be compared; write down and return how each came out.

        Raises `ServerUnavailableError` where the server was lost, and did not come back in time.
        """
        groups = self._waiting.take()
        return [done for likeness, group in groups for done in self._persistently(self._settle, group, likeness)]

    def give_up(self, target: Target, outcome: Outcome) -> None:
        """Record what became of a tenant that is not tried again. Raises `ServerUnavailableError`."""
        self._write(target, outcome)

    # -- the attempt

    def _outcome(
        self, target: Target, heads: Heads, compiler: Compiler, attempts: int, tried: Tried | None
    ) -> tuple[Outcome, Likeness | None]:
        """Return how it went, and what the tenant is yet to be compared with."""
        began = time.monotonic() - (tried.seconds if tried else 0.0)

        def failed(sqlstate: str | None, statement: str | None, said: str) -> Outcome:
            seconds = time.monotonic() - began
            said = said.strip() or "no message"
            return self._as_it_is(Outcome("failed", heads, attempts, seconds, None, sqlstate, statement, said), target)

        try:
            return self._towards(target, heads, compiler, attempts, tried)
        except BusyError:
            outcome = Outcome("not_attempted", heads, attempts, message="another runner has this tenant")
            raise TryAgainError(outcome, counts=False) from None
        except WorkerLostError as error:
            raise TryAgainError(failed(None, None, str(error)), counts=True) from error
        except StatementError as error:
            outcome = failed(error.error.sqlstate, error.text or None, str(error.error))
        except psycopg.Error as error:
            if is_lost(error):
                said = f"lost while {target.tenant_id!r} was migrated: {_line(error)}"
                raise ServerUnavailableError(target.entry, said) from error
            outcome = failed(error.sqlstate, None, str(error))
        except ServerUnavailableError:
            raise
        except TenancyError as error:
            outcome = failed(None, None, str(error))
        if outcome.state == "failed" and outcome.sqlstate in TRY_AGAIN:
            raise TryAgainError(outcome, counts=True)
        return outcome, None

    def _towards(
        self, target: Target, heads: Heads, compiler: Compiler, attempts: int, tried: Tried | None
    ) -> tuple[Outcome, Likeness | None]:
        """Go on from wherever the tenant turns out to stand, until it is at the destination."""
        action = self.assignment.action
        destination = self._fixed(heads, compiler)
        mark, moved = None, 0
        while True:
            script = compiler.compile(action, heads, destination)
            if not script.parts:
                if mark is not None:
                    raise RevisionError(f"a run was stopped inside revision {mark.revision}, which is not on the way")
                return Outcome("unchanged", heads, attempts), None
            stretch = script if action == "stamp" else script.stretch(mark)
            final = stretch.end == script.end
            try:
                if tried is None:
                    recorded = self._carry_out(target, stretch, compiler, mark=mark, final=final)
                else:
                    answer, tried = tried, None
                    if answer.error is not None:
                        raise answer.error
                    recorded = answer.recorded
            except ValueError as error:
                what = f"revision {mark.revision}" if mark else "it"
                raise RevisionError(f"{error}; finish {what} by hand, then stamp the tenant") from error
            except MovedError:
                moved += 1
                found = look(self._connection(target.entry), target)
                if (not found.has_schema or found.heads is None) and self._is_deleted(target):
                    return Outcome("unchanged", heads, attempts, message="it was deleted meanwhile"), None
                there = self._checked(target, found, heads, compiler)
                known, target = target, self._in_its_state(target)
                if moved == _MOVES or (there == heads and found.mark == mark and target == known):
                    where = ", ".join(there) or "no revision"
                    raise RevisionError(f"the tenant is at {where}, and its version table cannot be used") from None
                heads, mark = there, found.mark
            else:
                if final:
                    return self._migrated(target, stretch, recorded, attempts)
                heads, mark = stretch.end, None

    def _in_its_state(self, target: Target) -> Target:
        """Return a tenant as it is now: read-only, or not any more."""
        if target.generation <= 0:
            return target
        state = ledger.state_of(self._home(), target.generation)
        return replace(target, state=state or target.state)

    def _fixed(self, heads: Heads, compiler: Compiler) -> str:
        """Return the destination, or where it leads from `heads`: it must not lead further next time."""
        assignment = self.assignment
        if assignment.action != "downgrade" and not depends_on_place(assignment.destination):
            return assignment.destination
        return compiler.compile(assignment.action, heads, assignment.destination).destination

    def _checked(self, target: Target, found: Whereabouts, heads: Heads, compiler: Compiler) -> Heads:
        """Return where a tenant was found. Raises `RevisionError` where nothing can be done from there."""
        if not found.has_schema:
            raise RevisionError(f"schema {target.schema!r} does not exist; restore it from a backup")
        if found.heads is None and heads and self.assignment.action != "stamp":
            raise RevisionError(
                f"schema {target.schema!r} has lost its version table, which said {', '.join(heads)}; stamp the tenant"
            )
        there = found.heads or ()
        if not compiler.scripts.knows(there):
            raise RevisionError(f"the tenant is at {', '.join(there)}, which is not in the history")
        return there

    def _carry_out(
        self, target: Target, script: Script, compiler: Compiler, *, mark: Mark | None, final: bool
    ) -> Recorded | None:
        """Carry out a stretch of the way; with the `final` one is copied where it leads."""
        assignment = self.assignment
        if script.way == "online":
            order = Order(
                dsn=assignment.direct.dsn(target.entry),
                owner=assignment.direct.roles.owner,
                target=target,
                action=script.action,
                start=script.start,
                destination=script.destination,
                end=script.end,
                patience=assignment.options.patience,
                per_revision=script.per_revision,
                allow_destructive=assignment.options.allow_destructive,
                shared_schemas=assignment.shared_schemas,
                at_home=target.entry == assignment.home,
                final=final,
            )
            return self._online(order, compiler)
        record = self._record(target) if final else None
        return self._application(target.entry).carry_out(target, script, mark=mark, record=record)

    def _record(self, target: Target) -> Record | None:
        """Return what copies where a tenant stands; None where its transaction cannot, or it is no tenant."""
        if target.entry != self.assignment.home or target.generation <= 0:
            return None
        return lambda heads: ledger.record(target, heads)

    def _online(self, order: Order, compiler: Compiler) -> Recorded | None:
        key = id(compiler)
        worker = self._workers.get(key) or Worker(compiler.setup())
        self._workers[key] = worker
        try:
            answer = worker.ask(run_online, order=order)
        except WorkerLostError:
            self._workers.pop(key).close()
            raise
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
        error = psycopg.Error(answer.message)
        error.sqlstate = answer.sqlstate
        raise StatementError("statement", answer.statement or "", error)

    def _expected(self, script: Script) -> Expected | None:
        """Return what a tenant must be like at the script's end; None where there is nothing to compare it with."""
        expected = self.assignment.expected
        return expected if expected is not None and expected.heads == script.end else None

    def _migrated(
        self, target: Target, script: Script, recorded: Recorded | None, attempts: int
    ) -> tuple[Outcome, Likeness | None]:
        """Return how it went, and what the tenant is yet to be compared with: as a rule it is, with others."""
        outcome = Outcome("migrated", script.end, attempts)
        if recorded is not None:
            outcome = outcome._replace(seconds=recorded.seconds, ended_at=recorded.ended_at)
        expected = self._expected(script)
        if expected is None:
            return outcome, None
        likeness = expected.of_one_from(script.start)
        # A read-only tenant has less rights than the reference. What another server says is written here.
        if recorded is not None and target.state != TenantState.READ_ONLY:
            return outcome, likeness
        found = look_closely(self._connection(target.entry), Migrated(target, outcome), expected, likeness)
        return found._replace(ended_at=None), None

    def _settle(self, group: Sequence[Migrated], likeness: Likeness | None) -> list[Migrated]:
        try:
            alike = ledger.write_migrated(self._home(), self._prepared, self.assignment.run_id, group, likeness)
        except psycopg.Error as error:
            self._raise_if_lost(error, "while the outcomes of tenants were recorded")
            if likeness is None:
                raise
            alike = frozenset()  # one may be on its way out, and is no reason not to look at the others
        if likeness is None:
            return list(group)
        return [
            one._replace(outcome=one.outcome._replace(verified=True))
            if one.target.generation in alike
            else self._look_closely(one, likeness)
            for one in group
        ]

    def _look_closely(self, one: Migrated, likeness: Likeness) -> Migrated:
        """Compare a tenant by itself, as it is by now; record how it came out."""
        expected = self.assignment.expected
        assert expected is not None
        try:
            now = Migrated(self._in_its_state(one.target), one.outcome)
            outcome = look_closely(self._connection(one.target.entry), now, expected, likeness)
        except psycopg.Error as error:
            self._raise_if_lost(error, f"while {one.target.tenant_id!r} was compared")
            said = f"migrated, but its structure could not be compared: {_line(error)}"
            outcome = one.outcome._replace(state="failed", sqlstate=error.sqlstate, message=said)
        if outcome.state == "failed":
            outcome = self._as_it_is(outcome, one.target)
        self._write(one.target, outcome)
        return Migrated(one.target, outcome)

    def _persistently(self, ask: Callable[..., list[Migrated]], *about: Any) -> list[Migrated]:
        """Ask the server; one that was lost, until it is back."""
        deadline = time.monotonic() + self.assignment.options.reconnect_s
        while True:
            try:
                return ask(*about)
            except ServerUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def _as_it_is(self, failed: Outcome, target: Target) -> Outcome:
        """Return a failure with where the tenant really stands; it is none where the tenant was deleted meanwhile."""
        try:
            found = look(self._connection(target.entry), target)
            if self._is_deleted(target):
                return Outcome("unchanged", failed.heads, failed.attempts, message="it was deleted meanwhile")
        except psycopg.Error as error:
            if is_lost(error):
                raise ServerUnavailableError(target.entry, f"lost after a failure: {_line(error)}") from error
            return failed  # the version table cannot be read
        return failed._replace(heads=found.heads or ())

    def _is_deleted(self, target: Target) -> bool:
        home = self._home()
        return target.generation > 0 and ledger.is_deleted(home, target.generation)

    # -- connections

    def _home(self) -> psycopg.Connection[Any]:
        return self._connection(self.assignment.home)

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
                self._prepared.clear()
                ledger.prepare(connection)
                ledger.hold_run(connection, self.assignment.run_id)
            self._connections[entry] = connection
        return connection

    def _write(self, target: Target, outcome: Outcome) -> None:
        """Write an outcome, and where the tenant stands, to the catalog."""
        home = self._home()
        try:
            ledger.write_outcome(home, self.assignment.run_id, target, outcome)
            if target.generation > 0:
                self._copy(home, target, outcome)
        except psycopg.Error as error:
            self._raise_if_lost(error, f"while the outcome of {target.tenant_id!r} was recorded")
            raise

    def _raise_if_lost(self, error: psycopg.Error, when: str) -> None:
        if is_lost(error):
            raise ServerUnavailableError(self.assignment.home, f"lost {when}: {_line(error)}") from error

    def _copy(self, home: psycopg.Connection[Any], target: Target, outcome: Outcome) -> None:
        """Write down where the tenant stands, under its lock: what another runner writes meanwhile must stay."""
        if outcome.state == "migrated":
            ledger.record_heads(home, target.generation, outcome.heads)
            return
        application = self._application(target.entry)
        try:
            application.take(target)
        except BusyError:
            return  # who has it writes it down
        try:
            found = look(self._connection(target.entry), target)
            if found.heads is not None:
                ledger.record_heads(home, target.generation, found.heads)
        except psycopg.Error as error:
            if is_lost(error):
                raise
        finally:
            application.release(target)


def is_lost(error: psycopg.Error) -> bool:
    """Return whether an error says that the connection is gone, and not that the server refused something."""
    state = error.sqlstate
    return isinstance(error, psycopg.OperationalError) and (state is None or state.startswith(("57P", "08")))


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
