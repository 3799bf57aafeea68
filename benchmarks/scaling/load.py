"""Clients: in a closed loop each sends when it has its answer; in an open one they come when they come.

Every value that is read is looked at: one of another tenant ends the measurement.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from benchmarks.scaling.doors import Way
from benchmarks.workload import ROWS

SKEWED, UNIFORM = "skewed", "uniform"
"""The second tenant gets half of what the first gets, the third a third, and so on (Zipf); all get the same."""


class LeakError(Exception):
    """A value of another tenant was read."""


@dataclass
class Sample:
    """What clients saw within the time that counts.

    Attributes:
        seconds: How long it was.
        took_us: Each transaction's time; in an open loop from when it was due.
        errors: How many transactions failed, by SQLSTATE or the error's name.
        error: The first of them, in words.
    """

    seconds: float = 0.0
    took_us: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    error: str = ""

    def failed(self, error: BaseException) -> None:
        self.errors[kind_of(error)] += 1
        self.error = self.error or f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"

    def as_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "took_us": self.took_us, "errors": dict(self.errors), "error": self.error}


def kind_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of what the server said, else the name of the error.

    A connection that was refused has no SQLSTATE with every driver; then the server's words stand for it.
    """
    found = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        state = getattr(found, "sqlstate", None) or getattr(getattr(found, "orig", None), "sqlstate", None)
        if state:
            return str(state)
        if "too many clients" in str(found) or "remaining connection slots are reserved" in str(found):
            return "53300"
        found = getattr(found, "orig", None) or found.__cause__ or found.__context__
    return type(error).__name__


@dataclass(frozen=True)
class Picks:
    """Whom clients ask for: the first `tenants` of the fleet, `shape` says how often each; `names` is who they are.

    Popularity has nothing to do with the order in which tenants were made, so that no cell is popular as a whole.
    """

    names: Sequence[str]
    tenants: int
    shape: str

    def chooser(self, seed: int) -> Callable[[], tuple[int, int]]:
        """Return what chooses a tenant and a row, for one client."""
        order = list(range(self.tenants))
        random.Random(0).shuffle(order)
        weights = [1 / rank if self.shape == SKEWED else 1.0 for rank in range(1, self.tenants + 1)]
        heights = list(accumulate(weights))
        chance = random.Random(seed)

        def choose() -> tuple[int, int]:
            (tenant,) = chance.choices(order, cum_weights=heights)
            return tenant, chance.randrange(ROWS)

        return choose


async def sweep(way: Way, picks: Picks, *, clients: int, times: int) -> None:
    """Let `clients` visit all tenants together, so many times: after that hardly any table is new to a connection.

    A backend reads what the catalogs say of a table when it first meets it, which costs several times what a visit
    does, and keeps it for as long as it lives. A service that runs all day has met its tenants.
    """
    order = list(range(picks.tenants)) * times
    random.Random(1).shuffle(order)  # in their own order all clients would be in one cell at a time
    tenants = iter(order)

    async def client() -> None:
        for tenant in tenants:
            _check(await way.author(tenant, 0), picks.names[tenant])

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def closed_loop(
    way: Way,
    picks: Picks,
    *,
    clients: int,
    warm_up_s: float,
    seconds: float,
    seed: int,
    sweeps: int = 0,
    stop_at_error: bool = True,
) -> Sample:
    """Let `clients` read one row after the other; count what ends within `seconds` after the sweeps and the warm-up."""
    sample = Sample()
    if sweeps:
        try:
            await sweep(way, picks, clients=clients, times=sweeps)
        except ExceptionGroup as errors:
            sample.failed(errors.exceptions[0])
            return sample
    begins = time.perf_counter() + warm_up_s
    ends = begins + seconds
    failed = asyncio.Event()

    async def client(number: int) -> None:
        choose = picks.chooser(seed + number)
        while not failed.is_set() and (began := time.perf_counter()) < ends:
            tenant, row = choose()
            try:
                _check(await way.author(tenant, row), picks.names[tenant])
            except LeakError:
                raise
            except Exception as error:
                sample.failed(error)
                if stop_at_error:
                    failed.set()
                continue
            ended = time.perf_counter()
            if begins <= ended <= ends:
                sample.took_us.append(round((ended - began) * 1e6))

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    sample.seconds = seconds
    return sample


async def open_loop(way: Way, picks: Picks, *, rate: float, seconds: float, seed: int) -> Sample:
    """Begin `rate` transactions a second, whether those before have ended or not; wait for the last.

    A transaction's time counts from when it was due, not from when this process came to it: what is late because
    others were slow is as late for the one who waits (no coordinated omission).
    """
    sample = Sample(seconds=seconds)
    choose = picks.chooser(seed)
    began = time.perf_counter()

    async def client(due: float, tenant: int, row: int) -> None:
        try:
            _check(await way.author(tenant, row), picks.names[tenant])
        except LeakError:
            raise
        except Exception as error:
            sample.failed(error)
        else:
            sample.took_us.append(round((time.perf_counter() - due) * 1e6))

    async with asyncio.TaskGroup() as group:
        for number in range(math.floor(rate * seconds)):
            due = began + number / rate
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            group.create_task(client(due, *choose()))
    return sample


def _check(author: str, tenant_id: str) -> None:
    if author != tenant_id:
        raise LeakError(f"read a row of {author!r} as {tenant_id!r}")
