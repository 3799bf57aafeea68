"""The tenants of one wave that are still to be migrated, and how many of them are sent at once."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mt_paas_db.migrate.plan import Move

_MOST = 8
_LONGEST_S = 0.05


@dataclass(slots=True)
class Job:
    """A tenant to migrate, by its `number` in the wave.

    `since` is when something other than the tenant itself first stood in the way.
    """

    number: int
    move: Move
    attempts: int = 1
    since: float | None = None


class Queue:
    """The jobs of one wave, each with the time from which it may be taken, for `takers` at a time."""

    def __init__(self, moves: Iterable[Move], *, takers: int) -> None:
        self._waiting = [(0.0, number, Job(number, move)) for number, move in enumerate(moves)]
        self._takers = takers
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = False

    def take(self, most: int = 1, *, wait: bool) -> list[Job]:
        """Return the next jobs, up to `most`, which start from one place on one server.

        None of them where there are no more, now or later; or none now, where one does not `wait`. Towards the end
        there are fewer, so that nobody is left with many while others have nothing to do.
        """
        with self._changed:
            while not self._closed:
                if self._waiting:
                    wait_s = self._waiting[0][0] - time.monotonic()
                    if wait_s <= 0:
                        return self._some(min(most, 1 + len(self._waiting) // (2 * self._takers)))
                    if not wait:
                        return []
                    self._changed.wait(wait_s)
                elif self._under_way and wait:
                    self._changed.wait()
                else:
                    return []
            return []

    def _some(self, most: int) -> list[Job]:
        """Take jobs that are alike, of which the first may be taken now."""
        waiting, now = self._waiting, time.monotonic()
        taken = [heapq.heappop(waiting)[2]]
        first = taken[0].move
        while waiting and len(taken) < most and waiting[0][0] <= now:
            target, heads, _wave = waiting[0][2].move
            if heads != first.heads or target.entry != first.target.entry:
                break
            taken.append(heapq.heappop(waiting)[2])
        self._under_way += len(taken)
        return taken

    def done(self) -> None:
        """Say that a job that was taken is done."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def again(self, job: Job, after_s: float) -> None:
        """Put a job back that was tried."""
        self._put_back([job], time.monotonic() + after_s)

    def untried(self, jobs: Sequence[Job]) -> None:
        """Put jobs back that were taken and not tried: they are the next ones again."""
        self._put_back(jobs, 0.0)

    def _put_back(self, jobs: Sequence[Job], at: float) -> None:
        with self._changed:
            self._under_way -= len(jobs)
            for job in jobs:
                heapq.heappush(self._waiting, (at, job.number, job))
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody take another job."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Pace:
    """How many tenants are sent at once: the first alone, then two, then four; one by one where each takes long.

    What is wrong with all is seen at the first, and whoever waits for one tenant holds up few others.
    """

    def __init__(self) -> None:
        self._most = 1

    @property
    def most(self) -> int:
        """How many may be taken next."""
        return self._most

    def took(self, tenants: int, seconds: float) -> None:
        """Learn how long some have taken together."""
        if seconds * self._most > _LONGEST_S * tenants:
            self._most = max(1, int(_LONGEST_S * tenants / seconds))
        elif tenants >= self._most:
            self._most = min(2 * self._most, _MOST)

    def stumbled(self) -> None:
        """Learn that one stood in the way of others, or that they cannot be sent together: the next goes alone."""
        self._most = 1
