"""A plan carried out: wave after wave, several tenants at a time, until all are done or too many have failed."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mt_paas_db.errors import ServerUnavailableError
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.ledger import Expected, Outcome, RunState
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.migrator import Assignment, Migrator, TryAgainError
from mt_paas_db.migrate.plan import Move, Plan
from mt_paas_db.migrate.report import Failure, Listener, Standing
from mt_paas_db.migrate.script import Script

_KEPT_FAILURES = 100
_TELL_EVERY_S = 0.2
_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0


@dataclass(slots=True)
class _Job:
    """A tenant to migrate. `since` is when something other than the tenant itself first stood in the way."""

    move: Move
    attempts: int = 1
    since: float | None = None


class _Queue:
    """The jobs of one wave, each with the time from which it may be taken."""

    def __init__(self, jobs: Iterable[_Job]) -> None:
        self._numbers = itertools.count()
        self._waiting = [(0.0, next(self._numbers), job) for job in jobs]
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = False

    def take(self, *, wait: bool) -> _Job | None:
        """Return the next job; None where there are no more, now or later; or none now, where one does not `wait`."""
        with self._changed:
            while not self._closed:
                if self._waiting:
                    wait_s = self._waiting[0][0] - time.monotonic()
                    if wait_s <= 0:
                        self._under_way += 1
                        return heapq.heappop(self._waiting)[2]
                    if not wait:
                        return None
                    self._changed.wait(wait_s)
                elif self._under_way and wait:
                    self._changed.wait()
                else:
                    return None
            return None

    def done(self) -> None:
        """Say that a job that was taken is done."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def again(self, job: _Job, after_s: float) -> None:
        """Put a job back that was taken."""
        with self._changed:
            self._under_way -= 1
            heapq.heappush(self._waiting, (time.monotonic() + after_s, next(self._numbers), job))
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody take another job."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass
class Tally:
    """What a run has come to so far."""

    states: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    lost: BaseException | None = None
    interrupted: bool = False
    stopped: str | None = None
    under_way: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> RunState:
        """How the run ended, if it ends now."""
        if self.lost is not None:
            return "failed"
        if self.interrupted:
            return "interrupted"
        if self.stopped is not None:
            return "stopped"
        return "failed" if self.states["failed"] or self.states["not_attempted"] else "succeeded"


class Runner:
    """Carries out one plan. `close` it."""

    def __init__(self, assignment: Assignment, plan: Plan, *, listener: Listener) -> None:
        self.tally = Tally()
        self._assignment = assignment
        self._options = assignment.options
        self._plan = plan
        self._listener = listener
        self._migrators: list[Migrator] = []
        self._began = time.monotonic()
        self._total = len(plan.moves)

    def close(self) -> None:
        """Close all connections."""
        for migrator in self._migrators:
            migrator.close()

    def first(self, move: Move, script: Script, compiler: Compiler, destination: str) -> bool:
        """Carry out what goes before the tenants, by its own script; return whether it succeeded."""
        tenants = self._assignment
        self._assign(replace(tenants, action=script.action, destination=destination))
        try:
            return self._wave([move], compiler, jobs=1, phase=move.target.tenant_id)
        finally:
            self._assign(tenants)

    def _assign(self, assignment: Assignment) -> None:
        self._assignment = assignment
        for migrator in self._migrators:
            migrator.assignment = assignment

    def expect(self, expected: Expected) -> None:
        """Compare tenants that come to where the reference stands with it, from now on."""
        self._assign(replace(self._assignment, expected=expected))

    def tenants(self, compiler: Compiler) -> None:
        """Carry out the waves, one after the other, until the error budget is spent."""
        for wave, moves in itertools.groupby(self._plan.moves, key=lambda move: move.wave):
            canary = wave == 1 and self._plan.canaries > 0
            failed_before = self.tally.states["failed"]
            if not self._wave(list(moves), compiler, jobs=self._options.jobs, phase=f"wave {wave}"):
                return
            if canary and self.tally.states["failed"] > failed_before:
                self.tally.stopped = "a canary failed"
                return

    # -- one wave

    def _wave(self, moves: list[Move], compiler: Compiler, *, jobs: int, phase: str) -> bool:
        """Return whether all of it was tried and the run may go on."""
        queue = _Queue(_Job(move) for move in moves)
        while len(self._migrators) < min(jobs, len(moves)):
            self._migrators.append(Migrator(self._assignment))
        working = self._migrators[: min(jobs, len(moves))]
        ends = [threading.Event() for _ in working]
        threads = [
            threading.Thread(target=self._work, args=(*both, queue, compiler), name=f"migrate-{number}", daemon=True)
            for number, both in enumerate(zip(working, ends, strict=True))
        ]
        for thread in threads:
            thread.start()
        self._wait(ends, queue, phase)
        if self.tally.lost is not None:
            return False
        return not self.tally.interrupted and self.tally.stopped is None

    def _wait(self, ends: list[threading.Event], queue: _Queue, phase: str) -> None:
        """Wait for the wave. The first Ctrl-C lets what is under way finish, the second has it cancelled."""
        # Not Thread.join: interrupted by Ctrl-C, it takes a thread that is at work for ended (Python 3.11).
        working = True
        while working:
            try:
                working = sum(end.wait(_TELL_EVERY_S / len(ends)) for end in ends) < len(ends)
                self._tell(phase)
            except KeyboardInterrupt:
                queue.close()
                if self.tally.interrupted:
                    threading.Thread(target=self._cancel, daemon=True).start()  # the next Ctrl-C must find us here
                self.tally.interrupted = True

    def _cancel(self) -> None:
        for migrator in list(self._migrators):
            migrator.cancel()

    def _tell(self, phase: str) -> None:
        now = time.monotonic()
        with self.tally.lock:
            states = Counter(self.tally.states)
            longest = sorted(((now - since, who) for who, since in self.tally.under_way.items()), reverse=True)[:3]
        failed = states["failed"] + states["not_attempted"]
        done = states["migrated"] + states["unchanged"]
        slow = tuple((who, seconds) for seconds, who in longest if seconds > 1)
        self._listener(Standing(phase, self._total, done, failed, now - self._began, slow))

    def _work(self, migrator: Migrator, end: threading.Event, queue: _Queue, compiler: Compiler) -> None:
        try:
            self._take_all(migrator, queue, compiler)
        finally:
            end.set()

    def _take_all(self, migrator: Migrator, queue: _Queue, compiler: Compiler) -> None:
        while (job := self._next(migrator, queue)) is not None:
            target = job.move.target
            with self.tally.lock:
                self.tally.under_way[target.tenant_id] = time.monotonic()
            try:
                again_after_s = self._attempt(migrator, job, compiler, queue)
            except BaseException as error:  # nobody else would hear of it
                self.tally.lost = error
                queue.close()
                again_after_s = None
            with self.tally.lock:
                self.tally.under_way.pop(target.tenant_id, None)
            if again_after_s is None:
                queue.done()
            else:
                queue.again(job, again_after_s)
            if migrator.must_compare:
                self._compare(migrator, queue)

    def _next(self, migrator: Migrator, queue: _Queue) -> _Job | None:
        """Return the next job; what waits to be compared does not wait for one that is to come."""
        job = queue.take(wait=False)
        if job is None:
            self._compare(migrator, queue)
            job = queue.take(wait=True)
        return job

    def _compare(self, migrator: Migrator, queue: _Queue) -> None:
        try:
            for target, outcome in migrator.compare():
                self._count(target, outcome, queue)
        except BaseException as error:  # nobody else would hear of it
            self.tally.lost = error
            queue.close()

    def _attempt(self, migrator: Migrator, job: _Job, compiler: Compiler, queue: _Queue) -> float | None:
        """Try a tenant once; return after how many seconds to try it again, or None where it is done with."""
        try:
            return self._try(migrator, job, compiler, queue)
        except ServerUnavailableError:
            job.since = job.since or time.monotonic()
            if self._waited(job, self._options.reconnect_s):
                raise
            return _BACKOFF_S * 5

    def _try(self, migrator: Migrator, job: _Job, compiler: Compiler, queue: _Queue) -> float | None:
        target, heads, _wave = job.move
        try:
            outcome = migrator.migrate(target, heads, compiler, attempts=job.attempts)
        except TryAgainError as error:
            job.since = job.since or time.monotonic()
            spent = job.attempts >= self._options.attempts if error.counts else self._waited(job, self._options.busy_s)
            if not spent and not self.tally.interrupted:
                job.attempts += error.counts
                job.since = None if error.counts else job.since
                return _backoff_s(job.attempts)
            outcome = error.outcome
            migrator.give_up(target, outcome)
        if outcome is not None:
            self._count(target, outcome, queue)
        return None

    @staticmethod
    def _waited(job: _Job, limit_s: float) -> bool:
        return time.monotonic() - (job.since or 0.0) >= limit_s

    def _count(self, target: Target, outcome: Outcome, queue: _Queue) -> None:
        tally = self.tally
        with tally.lock:
            if target.generation > 0:
                tally.states[outcome.state] += 1
            bad = outcome.state in ("failed", "not_attempted")
            if bad and len(tally.failures) < _KEPT_FAILURES:
                tally.failures.append(Failure(target.tenant_id, outcome.sqlstate, outcome.statement, outcome.message))
            if bad and target.generation <= 0:
                tally.stopped = f"{target.tenant_id} failed, and no tenant was touched"
                queue.close()
            elif tally.states["failed"] > self._options.max_failures and tally.stopped is None:
                allowed = self._options.max_failures
                tally.stopped = (
                    "a tenant failed" if allowed == 0 else f"more than {allowed} tenants failed"
                ) + "; the others were left as they are"
                queue.close()


def _backoff_s(attempts: int) -> float:
    """Return a pause that doubles with each attempt, up to 5 s, give or take half."""
    pause = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0**attempts)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311  not a secret
