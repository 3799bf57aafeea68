"""A budget behind a lock: threads and tasks take slots, wait for them, and give them back.

Nobody waits for the lock for longer than a decision takes. What is given back in the middle of one, by the garbage
collector in the same thread, stays in an inbox until that decision is made. Connections are closed without the lock.

An exception may come at any point, in threads too (KeyboardInterrupt). What was taken and not handed out yet is dropped
by it, and gives its place back by that; see `places`. The lock is only ever taken by `with`: between ``acquire()`` and
``try`` there is room for an interrupt, and the lock would be held for ever.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy.util import await_only

from mt_paas_db.errors import PoolExhaustedError
from mt_paas_db.session.budget import Budget
from mt_paas_db.session.forks import renew_in_children
from mt_paas_db.session.places import Member, PoolStatus, Slot, Waiter


class PoolListener(Protocol):
    """Who wants to hear of a pool's events. Called in the thread or task itself, without a lock; must not block."""

    def on_checkout(self, cell: str, waited_s: float) -> None:
        """A connection was given out, after `waited_s` seconds: 0 where nobody had to wait."""

    def on_timeout(self, cell: str, waited_s: float) -> None:
        """Nobody gave one back in time: `PoolExhaustedError` follows."""

    def on_close(self, cell: str) -> None:
        """A pooled connection was closed: for another cell, for its age, or as it was broken."""


class ThreadWaiter(Waiter):
    """A thread that waits."""

    def __init__(self, member: Member, since: float) -> None:
        super().__init__(member, since)
        self._barred = threading.Lock()
        self._barred.acquire()

    def wake(self) -> bool:
        if self._barred.locked():
            self._barred.release()
        return True

    def wait(self, timeout_s: float) -> None:
        self._barred.acquire(timeout=timeout_s)


class TaskWaiter(Waiter):
    """A task that waits, inside SQLAlchemy's greenlet bridge."""

    def __init__(self, member: Member, since: float) -> None:
        super().__init__(member, since)
        self._loop = asyncio.get_running_loop()
        self._woken = self._loop.create_future()

    def wake(self) -> bool:
        if asyncio._get_running_loop() is self._loop:
            self._wake()
            return True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed, its tasks with it
            return False
        return True

    def _wake(self) -> None:
        if not self._woken.done():  # nor cancelled, with the task that waits
            self._woken.set_result(None)

    def wait(self, timeout_s: float) -> None:
        timer = self._loop.call_later(timeout_s, self._wake)
        try:
            await_only(self._woken)
        finally:
            timer.cancel()
        self._woken = self._loop.create_future()


Explain = Callable[[Member, float, PoolStatus], PoolExhaustedError]
"""Returns the error for who waited so long, as the budget stood then."""


class Gate:
    """Shares a budget's places among threads and tasks.

    Args:
        limit, idle_s: As `Budget`.
        timeout_s: How long who finds no place waits for one.
        explain: Makes the error then.
    """

    def __init__(
        self,
        limit: int,
        *,
        timeout_s: float,
        explain: Explain,
        idle_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.listener: PoolListener | None = None
        self._timeout_s = timeout_s
        self._explain = explain
        self._clock = clock
        self._lock = threading.RLock()
        self._busy = False  # inside a decision: who comes in the same thread leaves things in the inbox
        self._inbox: deque[tuple[Callable[[Any, float], None], Any]] = deque()
        self._parents: list[Slot] = []
        # A place's end is told to the gate while there is one.
        itself = weakref.ref(self)

        def lost(place: Any) -> None:
            gate = itself()
            if gate is not None:
                gate._receive(gate._budget.lost, place)

        self._budget = Budget(limit, idle_s=idle_s, lost=lost)
        renew_in_children(self)

    def take(self, member: Member) -> Slot:
        """Return a slot of `member`, waiting for it if need be. In a task, only inside the greenlet bridge.

        Raises `PoolExhaustedError` after `timeout_s`.
        """
        slot = self.take_now(member)
        waited_s = 0.0
        if slot is None:
            slot, waited_s = self._wait(member)
        if self.listener is not None:
            self.listener.on_checkout(member.cell, waited_s)
        return slot

    def take_now(self, member: Member) -> Slot | None:
        """Return a slot of `member`, None where it would have to wait for one."""
        with self._lock:
            self._busy = True
            try:
                slot = self._budget.take(member, self._clock())
            finally:
                self._busy = False
        if self._inbox or self._budget.closing:
            self._settle()
        return slot

    def _wait(self, member: Member) -> tuple[Slot, float]:
        waiter = member.waits(member, self._clock())
        deadline = waiter.since + self._timeout_s
        try:
            while True:
                now = self._clock()
                with self._lock:
                    self._busy = True
                    try:
                        # At the end nothing is closed for who would not wait for it any more.
                        expired = now >= deadline
                        slot = self._budget.withdraw(waiter) if expired else self._budget.claim(waiter, now)
                        if slot is None:
                            if expired:
                                status = self._budget.status(now)
                                break
                            patience_s = self._budget.patience_s(waiter, now)
                    finally:
                        self._busy = False
                if self._inbox or self._budget.closing:
                    self._settle()
                if slot is not None:
                    return slot, now - waiter.since
                waiter.wait(min(deadline - now, patience_s))
        except BaseException:
            self._withdraw(waiter)
            raise
        if self.listener is not None:
            self.listener.on_timeout(member.cell, now - waiter.since)
        raise self._explain(member, now - waiter.since, status)

    @contextmanager
    def _decision(self) -> Iterator[None]:
        with self._lock:
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _withdraw(self, waiter: Waiter) -> None:
        with self._decision():
            slot = self._budget.withdraw(waiter)
        if slot is not None:
            self._receive(self._budget.put if slot.filled else self._budget.end, slot)
        else:
            self._settle()

    def put(self, slot: Slot) -> None:
        """Take back a slot whose connection is good."""
        self._receive(self._budget.put, slot)

    def end(self, slot: Slot) -> None:
        """Take back a slot whose connection shall be closed, if it has one."""
        self._receive(self._budget.end, slot)

    def free(self, slot: Slot) -> None:
        """Free the place of a slot whose connection has been closed."""
        self._receive(self._budget.free, slot)

    def drop(self, member: Member) -> None:
        """Close what `member` has idle, and what comes back to it from now on."""
        self._receive(self._budget.drop, member)

    def resize(self, limit: int) -> None:
        """Set another limit. Who has more than it keeps them until they come back."""
        if limit != self._budget.limit:
            self._receive(self._budget.resize, limit)

    def status(self) -> PoolStatus:
        """Return who has how many, now."""
        with self._decision():
            status = self._budget.status(self._clock())
        self._settle()
        return status

    def slots(self) -> list[Slot]:
        """Return the slots that are open, in use or idle."""
        with self._lock:
            slots = self._budget.slots()
        self._settle()
        return slots

    def held(self, member: Member) -> tuple[int, int]:
        """Return how many slots `member` has in use, and idle."""
        with self._decision():
            counts = self._budget.held_by(member)
        self._settle()
        return counts

    def _receive(self, act: Callable[[Any, float], None], what: Any) -> None:
        self._inbox.append((act, what))
        self._settle()

    def _settle(self) -> None:
        """Empty the inbox and close what is to be closed; inside a decision, leave it to those who made that."""
        inbox, closing = self._inbox, self._budget.closing
        while inbox or closing:
            with self._lock:
                if self._busy:
                    return
                self._busy = True
                try:
                    now = self._clock()
                    while inbox:
                        act, what = inbox.popleft()
                        act(what, now)
                finally:
                    self._busy = False
            while closing:
                try:
                    slot = closing.popleft()
                except IndexError:  # another thread took it
                    break
                if self.listener is not None and slot.filled:
                    self.listener.on_close(slot.member.cell)
                slot.member.close(slot)

    def forked(self) -> None:
        """In a child: what is open is the parent's. It is kept, unused: closing it here would speak on its socket."""
        self._lock, self._busy = threading.RLock(), False
        self._inbox.clear()
        self._budget.forget(self._parents.append)
        self._parents.extend(self._budget.closing)
        self._budget.closing.clear()
