"""A PgBouncer of our own, in front of a server of our own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.processes import free_port, give, stop, unprivileged, wait_for_port

_AUTH_QUERY = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1"

DEBIAN_PATH = Path("/usr/sbin/pgbouncer")


def find_pgbouncer() -> Path:
    """Return the binary. Raises `LookupError` where there is none."""
    found = shutil.which("pgbouncer") or (str(DEBIAN_PATH) if DEBIAN_PATH.exists() else None)
    if found is None:
        raise LookupError("no PgBouncer: apt-get install pgbouncer")
    return Path(found)


class PgBouncer:
    """A pooler on a free loopback port.

    Args:
        server_port: PostgreSQL's port on 127.0.0.1.
        users: Passwords by role, in clear; PgBouncer logs in with them and asks clients for them.
        lookup: A role of the server that may read ``pg_authid``, and needs no password there: PgBouncer looks up with
            it whoever is not among `users`. None for nobody.
        pool_mode: ``transaction``, ``session`` or ``statement``.
        pool_size: Server connections for each pair of user and database. One, so that every tenant shares
            it and a leak must show.
        admins: Users of its console who may change something there.
        options: More of the section ``[pgbouncer]``, over what stands there.
        configure: Writes the files into a folder instead, which the pooler sees as the second; all else but the port
            is then theirs.
    """

    def __init__(
        self,
        server_port: int,
        *,
        users: dict[str, str],
        lookup: str | None = None,
        pool_mode: str = "transaction",
        pool_size: int = 1,
        admins: tuple[str, ...] = (),
        options: Mapping[str, str] | None = None,
        configure: Callable[[Path, Path], None] | None = None,
        binary: Path | None = None,
    ) -> None:
        self.port = free_port()
        self._server_port = server_port
        self._users = users
        self._lookup = lookup
        self._pool_mode = pool_mode
        self._pool_size = pool_size
        self._admins = admins
        self._options = options or {}
        self._written_by = configure
        self._binary = binary or find_pgbouncer()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        assert self._folder is not None
        return self._folder

    @property
    def pid(self) -> int:
        """The pooler's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def version(self) -> tuple[int, ...]:
        """The version that the binary says it has."""
        answer = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=True).stdout
        return tuple(int(part) for part in answer.split()[1].split("."))

    def dsn(self, database: str, *, user: str, password: str) -> str:
        """Return a URL through the pooler, without a driver."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="mt_paas_pgb_", dir="/tmp"))
        give(self._folder)
        try:
            self._configure(self._folder)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _configure(self, seen_as: Path) -> None:
        """Write the files of the folder, which the pooler sees as `seen_as`."""
        assert self._folder is not None
        if self._written_by is not None:
            self._written_by(self._folder, seen_as)
            return
        listed = {**self._users, **({self._lookup: ""} if self._lookup else {})}
        (self._folder / "userlist.txt").write_text(
            "".join(f'"{name}" "{password}"\n' for name, password in listed.items())
        )
        lookup = {"auth_user": self._lookup, "auth_query": _AUTH_QUERY} if self._lookup else {}
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(seen_as / "userlist.txt"),
            "stats_users": ",".join(self._users),
            "admin_users": ",".join(self._admins),
            "pool_mode": self._pool_mode,
            "default_pool_size": str(self._pool_size),
            "max_client_conn": "500",
            "query_wait_timeout": "20",
            "server_login_retry": "1",
            **lookup,
            **self._options,
        }
        lines = "\n".join(f"{name} = {value}" for name, value in options.items())
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server_port}\n\n[pgbouncer]\n{lines}\n"
        )

    def start(self) -> None:
        """Start the pooler on its port; returns when it accepts."""
        assert self._folder is not None
        log = self._folder / "log"
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [self._binary, self._folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/", **unprivileged(),
            )  # fmt: skip
        wait_for_port(self.port, self._process, log=log)

    def restart(self) -> None:
        """Stop at once and start again on the same port; clients lose their connections."""
        self.shut_down()
        self.start()

    def shut_down(self) -> None:
        """Stop at once; clients lose their connections."""
        stop(self._process, signal=self._at_once)

    @property
    def _at_once(self) -> signal.Signals:
        # From 1.23 on, SIGTERM waits until the clients have gone.
        return signal.SIGQUIT if self.version >= (1, 23) else signal.SIGTERM

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.shut_down()
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
