"""A plan carried out: wave after wave, several tenants at a time, until all are done or too many have failed."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mt_paas_db.errors import ServerUnavailableError
from mt_paas_db.migrate.apply import Tried
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.ledger import Expected, Outcome, RunState
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.migrator import Assignment, Migrator, TryAgainError
from mt_paas_db.migrate.plan import Move, Plan
from mt_paas_db.migrate.queue import Job, Pace, Queue
from mt_paas_db.migrate.report import Failure, Listener, Standing
from mt_paas_db.migrate.script import Script

_KEPT_FAILURES = 100
_TELL_EVERY_S = 0.2
_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0


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
        queue = Queue(moves, takers=jobs)
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

    def _wait(self, ends: list[threading.Event], queue: Queue, phase: str) -> None:
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

    def _work(self, migrator: Migrator, end: threading.Event, queue: Queue, compiler: Compiler) -> None:
        try:
            self._take_all(migrator, queue, compiler)
        finally:
            end.set()

    def _take_all(self, migrator: Migrator, queue: Queue, compiler: Compiler) -> None:
        pace = Pace()
        while jobs := self._next(migrator, queue, pace.most):
            began = time.monotonic()
            with self.tally.lock:
                self.tally.under_way.update((job.move.target.tenant_id, began) for job in jobs)
            try:
                tried = self._try_together(migrator, jobs, compiler, queue)
            except BaseException as error:  # nobody else would hear of it
                self._lose(error, queue)
                return
            with self.tally.lock:
                for job in jobs:
                    self.tally.under_way.pop(job.move.target.tenant_id, None)
            if tried == len(jobs):
                pace.took(tried, time.monotonic() - began)
            else:
                pace.stumbled()
            if migrator.must_settle:
                self._settle(migrator, queue)

    def _try_together(self, migrator: Migrator, jobs: list[Job], compiler: Compiler, queue: Queue) -> int:
        """Try some tenants, in one message if that can be; put back those behind one that failed. Return how many."""
        answers: Sequence[Tried | None] = migrator.try_together([job.move for job in jobs], compiler)
        answers = answers or [None]
        queue.untried(jobs[len(answers) :])
        for job, answer in zip(jobs, answers, strict=False):
            again_after_s = self._attempt(migrator, job, compiler, queue, answer)
            if again_after_s is None:
                queue.done()
            else:
                queue.again(job, again_after_s)
        return len(answers)

    def _lose(self, error: BaseException, queue: Queue) -> None:
        self.tally.lost = error
        queue.close()

    def _next(self, migrator: Migrator, queue: Queue, most: int) -> list[Job]:
        """Return the next jobs; what waits to be settled does not wait for one that is to come."""
        jobs = queue.take(most, wait=False)
        if not jobs:
            self._settle(migrator, queue)
            jobs = queue.take(most, wait=True)
        return jobs

    def _settle(self, migrator: Migrator, queue: Queue) -> None:
        try:
            for target, outcome in migrator.settle():
                self._count(target, outcome, queue)
        except BaseException as error:  # nobody else would hear of it
            self._lose(error, queue)

    def _attempt(
        self, migrator: Migrator, job: Job, compiler: Compiler, queue: Queue, tried: Tried | None
    ) -> float | None:
        """Try a tenant once, unless it was `tried`; return after how many seconds to try it again.

        None: it is done with.
        """
        try:
            return self._try(migrator, job, compiler, queue, tried)
        except ServerUnavailableError:
            job.since = job.since or time.monotonic()
            if self._waited(job, self._options.reconnect_s):
                raise
            return _BACKOFF_S * 5

    def _try(self, migrator: Migrator, job: Job, compiler: Compiler, queue: Queue, tried: Tried | None) -> float | None:
        target, heads, _wave = job.move
        try:
            outcome = migrator.migrate(target, heads, compiler, attempts=job.attempts, tried=tried)
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
    def _waited(job: Job, limit_s: float) -> bool:
        return time.monotonic() - (job.since or 0.0) >= limit_s

    def _count(self, target: Target, outcome: Outcome, queue: Queue) -> None:
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
