"""PostgreSQL and PgBouncer out of an image: the same servers as from binaries, for the tests that use them."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.servers.engine import RUN_LABEL, Image, new_container
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer, access_rules
from tests.servers.processes import accepts

INSIDE = "/mt_paas_db"  # where a container finds the server's folder


class Container:
    """A container in the host's network with `folder` at `INSIDE`, all its output in the folder's ``log``.

    It outlives its process: `start` runs the command again on the same files. `remove` ends it for good, and may
    be called whatever became of it.
    """

    def __init__(
        self,
        image: Image,
        command: list[str],
        *,
        folder: Path,
        run: str,
        user: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._image = image
        self._command = command
        self._folder = folder
        self._options: dict[str, Any] = {"user": user} if user else {}
        self._run = run
        self._environment = environment or {}
        self._made: Any = None

    @property
    def pid(self) -> int:
        """The command's process, as this machine counts."""
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    @property
    def running(self) -> bool:
        """Whether the command runs; False too where it never started, or the container is gone."""
        from docker.errors import NotFound  # type: ignore[import-untyped]
        from testcontainers.core.exceptions import ContainerStartException

        if self._made is None:
            return False
        try:
            self._container.reload()
        except (ContainerStartException, NotFound):
            return False
        return bool(self._container.status == "running")

    @property
    def _container(self) -> Any:
        assert self._made is not None
        return self._made.get_wrapped_container()

    def start(self) -> None:
        """Start the command, for the first time or after it ended."""
        if self._made is not None:
            self._container.start()
            return
        log = self._folder / "log"
        log.touch()
        log.chmod(0o666)
        self._folder.chmod(0o755)
        self._made = (
            new_container(self._image.name)
            .with_command(self._command)
            .with_envs(**self._environment)
            .with_volume_mapping(self._folder, INSIDE, "rw")
            .with_kwargs(
                # The shell gives way to the command, which so is the first process and gets the signals.
                entrypoint=["sh", "-c", f'exec "$@" >>{INSIDE}/log 2>&1', "sh"],
                network="host",
                labels={RUN_LABEL: self._run},
                shm_size="256m",
                **self._options,
            )
        )
        self._made.start()

    def stop(self, *, signal: str, timeout_s: float = 20.0) -> None:
        """Send `signal` to the command and wait; kill it if it does not end."""
        if not self.running:
            return
        self._container.kill(signal)
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() > deadline:
                self._container.kill()
                self._container.wait(timeout=timeout_s)
                return
            time.sleep(0.02)

    def wait_for_port(self, port: int, *, timeout_s: float = 60.0) -> None:
        """Return when 127.0.0.1:`port` accepts; raise with the log's tail when the command ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.running:
            if accepts(port):
                return
            time.sleep(0.05)
        tail = (self._folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"a container of {self._image.name} does not accept on port {port}:\n{tail}")

    def remove(self) -> None:
        """Kill the command and remove what it wrote."""
        from docker.errors import NotFound

        if self._made is not None:
            with suppress(NotFound):
                self._made.stop()
            self._made.get_docker_client().client.close()
            self._made = None


class ContainerServer(PostgresServer):
    """A PostgreSQL of its own from an image that starts like the official one.

    Args:
        image: Which.
        run: The label by which what is left over can be removed.
        settings: Configuration, as ``{"fsync": "off"}``.
        password_for_others: Ask roles other than ``postgres`` for a SCRAM password, as real servers do.
    """

    def __init__(
        self, image: Image, *, run: str, settings: dict[str, str] | None = None, password_for_others: bool = True
    ) -> None:
        super().__init__(None, settings=settings, password_for_others=password_for_others)
        self.image = image
        self._run = run
        self._container: Container | None = None

    @property
    def pid(self) -> int:
        assert self._container is not None
        return self._container.pid

    def pooler(self, **options: Any) -> PgBouncer:
        if self.image.pgbouncer is None:
            return super().pooler(**options)
        return ContainerPgBouncer(self.image, self.port, run=self._run, **options)

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="mt_paas_pg_", dir="/tmp"))
        try:
            (self._folder / "pg_hba.conf").write_text(access_rules(password_for_others=self._password_for_others))
            options = self._options(hba_file=f"{INSIDE}/pg_hba.conf")
            self._container = Container(
                self.image,
                ["docker-entrypoint.sh", "postgres", *options],
                folder=self._folder,
                run=self._run,
                environment={
                    "POSTGRES_HOST_AUTH_METHOD": "trust",
                    "POSTGRES_INITDB_ARGS": "--encoding=UTF8 --locale=C.UTF-8 --no-sync",
                },
            )
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def start(self) -> None:
        assert self._folder is not None
        assert self._container is not None
        self._container.start()
        self._container.wait_for_port(self.port)
        self._wait_until_it_answers(self._folder / "log")

    def shut_down(self, *, immediately: bool = False) -> None:
        if self._container is not None:
            self._container.stop(signal="SIGQUIT" if immediately else "SIGINT")

    def _clean_up(self) -> None:
        if self._container is not None:
            self._container.remove()
        super()._clean_up()


class ContainerPgBouncer(PgBouncer):
    """The pooler of an image that has one, as its ``mt_paas_db.pgbouncer`` label says."""

    def __init__(self, image: Image, server_port: int, *, run: str, **options: Any) -> None:
        super().__init__(server_port, binary=Path("pgbouncer"), **options)
        self._image = image
        self._run = run
        self._container: Container | None = None

    @property
    def pid(self) -> int:
        assert self._container is not None
        return self._container.pid

    @property
    def version(self) -> tuple[int, ...]:
        assert self._image.pgbouncer is not None
        return tuple(int(part) for part in self._image.pgbouncer.split("."))

    def start(self) -> None:
        assert self._folder is not None
        if self._container is None:
            self._configure(Path(INSIDE))
            self._container = Container(
                self._image,
                [str(self._binary), f"{INSIDE}/pgbouncer.ini"],
                folder=self._folder,
                run=self._run,
                user="postgres",
            )
        self._container.start()
        self._container.wait_for_port(self.port)

    def shut_down(self) -> None:
        if self._container is not None:
            self._container.stop(signal=self._at_once.name)

    def _clean_up(self) -> None:
        if self._container is not None:
            self._container.remove()
        super()._clean_up()
