"""A look at the server while it is loaded: how many connections it has, and what memory is theirs alone."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from tests.fleet import Service

_EVERY_S = 0.1
_GONE_S, _QUIET = 10.0, 5

_LEFT_S = 2.0
"""After how long sessions of before are ended: a client whose connecting was cancelled may never close its end."""

_SESSIONS = (
    "SELECT pid, usename FROM pg_catalog.pg_stat_activity"
    " WHERE datname = %s AND backend_type = 'client backend' AND usename <> 'postgres'"
)

_END = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.unnest(%s::integer[]) AS pid"

_BEGUN = "SELECT sessions FROM pg_catalog.pg_stat_database WHERE datname = %s"


def private_mib(pid: int) -> float:
    """Return the memory that only this process has, MiB; 0 where it is gone, or the system does not tell.

    Pages of mappings that are the process's own and no other process's. What lies in shared memory does not count,
    also where nobody else has touched the page yet: ``smaps_rollup`` would count that.
    """
    kib, own = 0, False
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            head, _, rest = line.partition(" ")
            if not head.endswith(":"):
                own = rest[3] == "p"
            elif own and head in ("Private_Clean:", "Private_Dirty:"):
                kib += int(rest.split()[0])
    return kib / 1024


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, MiB; 0 where it is gone, or the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Private memory of the server's sessions: each one's, MiB."""

    each_mib: tuple[float, ...]

    @property
    def total_mib(self) -> float:
        return sum(self.each_mib)

    @property
    def most_mib(self) -> float:
        return max(self.each_mib, default=0.0)


class Watch:
    """Counts the sessions of a service's database, but for those of the superuser, from `reset` on.

    Use it by ``with``. It has a connection of its own from the beginning: there may be none left later.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connection = service.superuser("postgres")
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._most = 0
        self._before = 0
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._connection.close()

    def _look(self) -> None:
        while not self._done.wait(_EVERY_S):
            with suppress(psycopg.Error):
                self.sessions()

    def sessions(self, *logins: str) -> list[int]:
        """Return the process ids of the sessions that there are now, of `logins` where some are named."""
        with self._lock:
            found = self._connection.execute(_SESSIONS, (self._service.database,)).fetchall()
            self._most = max(self._most, len(found))
        return [pid for pid, login in found if not logins or login in logins]

    def reset(self) -> None:
        """Begin to count anew, once the sessions of before have ended: the server takes its time over many."""
        began, quiet = time.monotonic(), 0
        while quiet < _QUIET:  # some that were refused a place have yet to be seen
            left, waited_s = self.sessions(), time.monotonic() - began
            if waited_s > _GONE_S:
                raise RuntimeError(f"{len(left)} sessions of before do not end")
            if left and waited_s > _LEFT_S:
                with self._lock:
                    self._connection.execute(_END, (left,))
            quiet = 0 if left else quiet + 1
            time.sleep(_EVERY_S)
        with self._lock:
            self._most = 0
            self._before = self._begun()

    @property
    def opened(self) -> int:
        """How many sessions were begun since `reset`, by the server's own count, which lags by up to a second."""
        with self._lock:
            return self._begun() - self._before

    def _begun(self) -> int:
        found = self._connection.execute(_BEGUN, (self._service.database,)).fetchone()
        assert found is not None
        return int(found[0])

    @property
    def most(self) -> int:
        """The most sessions that there were at once."""
        self.sessions()
        return self._most

    def memory(self, *logins: str) -> Memory:
        """Return the private memory of the sessions that there are now."""
        return Memory(tuple(private_mib(pid) for pid in self.sessions(*logins)))
