"""Clients on one core, servers on another.

Where the scheduler happens to put a connection's server process, beside its client or on another core, changes a
round trip by up to twice, and it may favour one case in a whole run. So for the time of a measurement the
clients stay on the first core that this process may use, and the servers on the last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def can_be_told() -> bool:
    """Whether this system lets us choose, and there is more than one core to choose from."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


@contextmanager
def clients_apart(clients: Iterable[int]) -> Iterator[int | None]:
    """Keep this process and the processes `clients` on one core; yield the core for the servers, None for any."""
    if not can_be_told():
        yield None
        return
    before = os.sched_getaffinity(0)
    pids = (0, *clients)
    try:
        for pid in pids:
            os.sched_setaffinity(pid, {min(before)})
        yield max(before)
    finally:
        for pid in pids:
            os.sched_setaffinity(pid, before)


def keep_servers(pids: Iterable[int], core: int | None) -> None:
    """Keep processes, and those that they will start, on `core`."""
    if core is not None:
        for pid in pids:
            os.sched_setaffinity(pid, {core})
