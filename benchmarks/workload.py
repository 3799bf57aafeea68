"""The work that is timed, and the clock: the same for our cases and for the peers, in a process of their own.

Imports nothing but the standard library, so that a peer's environment can use it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

ROWS = 100
"""Rows of each tenant."""

Visit = tuple[int, int]
"""A tenant's number, and the number of the row to read there, both from 0."""


def notes(tenant: int, *, first_id: int = 1) -> list[dict[str, Any]]:
    """Return the rows of one tenant, with consecutive ids."""
    return [
        {"id": first_id + row, "author": f"tenant {tenant}", "body": f"note {row} of tenant {tenant}. " * 8}
        for row in range(ROWS)
    ]


def shared_id(tenant: int, row: int) -> int:
    """Return the id of a row in a table that holds the rows of all tenants."""
    return 1 + tenant * ROWS + row


def visits(tenants: int, *, passes: int, seed: int) -> list[Visit]:
    """Return `passes` over all tenants, each in an order of its own, with a row by chance.

    Every tenant is visited once in a pass. The same arguments give the same visits.
    """
    chance = random.Random(seed)
    made: list[Visit] = []
    for _ in range(passes):
        order = list(range(tenants))
        chance.shuffle(order)
        made += [(tenant, chance.randrange(ROWS)) for tenant in order]
    return made


def timed(transaction: Callable[[int, int], object], todo: Iterable[Visit]) -> list[int]:
    """Return what each transaction took, in nanoseconds."""
    clock = time.perf_counter_ns
    took: list[int] = []
    for tenant, row in todo:
        began = clock()
        transaction(tenant, row)
        took.append(clock() - began)
    return took


async def timed_async(transaction: Callable[[int, int], Awaitable[object]], todo: Iterable[Visit]) -> list[int]:
    """Asyncio version of `timed`."""
    clock = time.perf_counter_ns
    took: list[int] = []
    for tenant, row in todo:
        began = clock()
        await transaction(tenant, row)
        took.append(clock() - began)
    return took
