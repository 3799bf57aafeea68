"""Processes that run the service's revisions: Alembic's context is a global of its process, so each has one of its own.

A worker stays alive and answers one request after another, on pipes, in pickles. It renders revisions to SQL, or runs
them on a connection of its own. What a revision prints goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mt_paas_db.errors import ConfigurationError, TenancyError

# Requests come on a copy of stdin, and stdin itself is empty: a revision that asks for input() must not wait for it.
_MAIN = (
    "import os, pickle, sys; stdin = os.fdopen(os.dup(0), 'rb'); os.dup2(os.open(os.devnull, os.O_RDONLY), 0); "
    "sys.path[:] = pickle.load(stdin); from mt_paas_db.migrate.worker import serve; serve(stdin)"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is made for: one history, under one clock."""

    location: str
    files: tuple[str | None, str | None]
    section: str
    options: tuple[tuple[str, str], ...]
    folder: Path | None
    version_table: str
    shifted: bool = False


class WorkerLostError(Exception):
    """The process ended without an answer. What it was doing may be done or not."""


class Worker:
    """A process that runs revisions. One thread at a time may ask it."""

    def __init__(self, setup: Setup) -> None:
        # Another order of sets and dicts in each kind, so that text that depends on it shows.
        self._process = self._start({**os.environ, "PYTHONHASHSEED": "2" if setup.shifted else "1"})
        self._lock = threading.Lock()
        self._send([*sys.path])
        self._send(setup)

    @staticmethod
    def _start(environment: dict[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  this interpreter, and a text of ours
            [sys.executable, "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # Ctrl-C is the parent's to handle
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, work: Callable[..., Any], /, **values: Any) -> Any:
        """Return what `work(scripts, **values)` returns in the process. `work` is found there by its name.

        Raises what it raises, if that is one of the library's errors; `WorkerLostError` where the process ended.
        """
        with self._lock:
            try:
                self._send((work, values))
                assert self._process.stdout is not None
                answer = pickle.load(self._process.stdout)  # noqa: S301  our own child
            except (EOFError, BrokenPipeError, ConnectionError) as error:
                raise WorkerLostError(f"a process that ran revisions ended with {self._process.wait()}") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin)
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def cancel(self) -> None:
        """Ask for what is under way to be cancelled. May be called from another thread."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        """End the process; one that is in the middle of something ends when it is done, or after 5 s."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(requests: Any) -> None:
    """Answer requests until there are no more. The process's main function."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGUSR1, _cancel)
    setup: Setup = pickle.load(requests)  # noqa: S301  our own parent
    scripts: Any = None
    while True:
        try:
            work, values = pickle.load(requests)  # noqa: S301
        except EOFError:
            return
        try:
            if scripts is None:
                scripts = _scripts(setup)
            answer = work(scripts, **values)
        except TenancyError as error:
            answer = error
        except BaseException as error:
            answer = ConfigurationError(f"a revision cannot be run: {type(error).__name__}: {error}")
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:
            return  # the parent was killed; what was done is done


_cancellations: list[Callable[[], object]] = []


def on_cancel(action: Callable[[], object]) -> None:
    """In the process: have `action` called when the parent asks to cancel."""
    _cancellations.append(action)


def _cancel(_signal: int, _frame: Any) -> None:
    for action in _cancellations:
        action()


def _scripts(setup: Setup) -> Any:
    from alembic.config import Config

    from mt_paas_db.migrate import rendering  # noqa: F401  with all it imports, before the clock is shifted
    from mt_paas_db.migrate.clock import shift
    from mt_paas_db.migrate.scripts import Scripts

    if setup.shifted:
        shift()
    ini, toml = setup.files
    config = Config(ini, toml_file=toml, ini_section=setup.section)
    for name, value in setup.options:
        config.set_main_option(name, value.replace("%", "%%"))
    return Scripts(
        setup.location,
        config=config,
        folder=setup.folder,
        version_table=setup.version_table,
    )
