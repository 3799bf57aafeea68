"""Processes for revisions that are forked from one that has imported everything already.

To start one takes half a second of the processor, nearly all of it imports, and most tests of migrations start four.
A fork takes some milliseconds, and is the same from there on: the same loop on the same pipes, in a process that no
revision has been in. There is a nursery for each seed of hashes, as that cannot be changed later. Tests of how a
process starts and ends do without.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mt_paas_db.migrate import worker

_MAIN = "import sys; sys.path[:] = {path!r}; from tests.nursery import raise_children; raise_children({fd})"


class Nursery:
    """A process that forks others on demand. `close` it; those it has forked end by themselves."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN.format(path=sys.path, fd=other.fileno())],
                env=environment,
                pass_fds=[other.fileno()],
                process_group=0,
            )

    def fork(self, environment: dict[str, str]) -> Child:
        """Have a process forked that serves."""
        requests, answers, status = os.pipe(), os.pipe(), os.pipe()
        theirs = [requests[0], answers[1], 2, status[1]]
        said = json.dumps({"environment": environment, "folder": str(Path.cwd())}).encode()
        self._socket.sendmsg([said], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", theirs))])
        pid = int(self._socket.recv(100))
        for fd in (requests[0], answers[1], status[1]):
            os.close(fd)
        return Child(pid, os.fdopen(requests[1], "wb"), os.fdopen(answers[0], "rb"), status[0])

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)


class Child:
    """What `Worker` uses of a `Popen`, of a process that is another one's child."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], status: int) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._status: int | None = status
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._status is not None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            said = os.read(self._status, 20)
            self.returncode = int(said) if said else -signal.SIGKILL  # its nursery is gone
            os.close(self._status)
            self._status = None
        assert self.returncode is not None
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        if self._status is not None:
            os.close(self._status)


def raise_children(fd: int) -> None:
    """Fork until nobody asks any more. The nursery's main function."""
    import alembic.config  # noqa: F401

    from mt_paas_db.migrate import online, rendering  # noqa: F401

    asked = socket.socket(fileno=fd)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([asked.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1000)
            _report(statuses)
        if asked.fileno() in ready:
            said, ancillary, _, _ = asked.recvmsg(1_000_000, socket.CMSG_SPACE(16))
            if not said:
                return
            fds = array("i", ancillary[0][2])
            pid = os.fork()
            if pid == 0:
                for other in (asked.fileno(), woken, wake, *statuses.values(), fds[3]):
                    os.close(other)
                _live(json.loads(said), *fds[:3])
            for number in fds[:3]:
                os.close(number)
            statuses[pid] = fds[3]
            asked.send(str(pid).encode())


def _report(statuses: dict[int, int]) -> None:
    for pid in list(statuses):
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = statuses.pop(pid)
            with suppress(BrokenPipeError):
                os.write(status, str(os.waitstatus_to_exitcode(code)).encode())
            os.close(status)


def _live(said: dict[str, Any], *fds: int) -> None:
    """Be what the library would have started."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for place, number in enumerate(fds):
            os.dup2(number, place)
            os.close(number)
        os.environ.clear()
        os.environ.update(said["environment"])
        os.chdir(said["folder"])
        exec(worker._MAIN, {})
        code = 0
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@contextmanager
def nurseries() -> Iterator[Any]:
    """Yield what starts a process for revisions instead of `Worker._start`."""
    opened: dict[str, Nursery] = {}
    lock = threading.Lock()

    def start(environment: dict[str, str]) -> Child:
        seed = environment["PYTHONHASHSEED"]
        with lock:
            if seed not in opened:
                opened[seed] = Nursery(environment)
            return opened[seed].fork(environment)

    try:
        yield start
    finally:
        for nursery in opened.values():
            nursery.close()
