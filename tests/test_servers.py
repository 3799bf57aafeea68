"""Where a run's server comes from, and that a container is as good a server as a process of our own."""

from __future__ import annotations

import gc
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from mt_paas_db.core import TenantManager
from tests.fleet import Service
from tests.servers import PostgresBinaries, PostgresServer, find_postgres, postgres
from tests.servers.choice import Asked, Choice, Machine, choose, survey, wanted_image
from tests.servers.container import ContainerServer
from tests.servers.engine import RUN_LABEL, Image, connected, find_image, new_run, remove_containers
from tests.servers.supply import Supply

ROOT = Path(__file__).resolve().parents[1]

TRIXIE = Image("mt-paas-test:trixie", 17, "1.24.1")
ALL = Machine(dsn=True, image=TRIXIE, local=(15, 16), embedded=(16, 18))


def without(**less: Any) -> Machine:
    return Machine(**{field: getattr(ALL, field) for field in Machine.__slots__} | less)


NO_DSN = without(dsn=False)
NO_ENGINE = without(dsn=False, image=None, no_image="no Docker engine answers")


@pytest.mark.parametrize(
    ("machine", "asked", "major", "expected"),
    [
        (ALL, "auto", None, Choice("dsn")),
        (ALL, "auto", 16, Choice("dsn")),
        (NO_DSN, "auto", None, Choice("container", 17, TRIXIE)),
        (NO_DSN, "auto", 17, Choice("container", 17, TRIXIE)),
        (NO_DSN, "auto", 15, Choice("local", 15)),
        (without(dsn=False, image=Image("mine")), "auto", None, Choice("container", None, Image("mine"))),
        (without(dsn=False, image=Image("mine")), "auto", 18, Choice("embedded", 18)),
        (NO_ENGINE, "auto", None, Choice("embedded", 18)),
        (NO_ENGINE, "auto", 15, Choice("local", 15)),
        (NO_ENGINE, "auto", 16, Choice("local", 16)),
        (ALL, "container", None, Choice("container", 17, TRIXIE)),
        (ALL, "local", None, Choice("local", 16)),
        (ALL, "local", 15, Choice("local", 15)),
        (ALL, "embedded", None, Choice("embedded", 18)),
        (ALL, "embedded", 16, Choice("embedded", 16)),
    ],
)
def test_the_order(machine: Machine, asked: Asked, major: int | None, expected: Choice) -> None:
    assert choose(machine, asked=asked, major=major) == expected


INSTALLED = "there is 15 (local), 16 (local), 18 (embedded)"


@pytest.mark.parametrize(
    ("machine", "asked", "major", "message"),
    [
        (Machine(no_image="no engine"), "auto", None, "no PostgreSQL here; there is none; container: no engine. pip "),
        (NO_ENGINE, "auto", 14, f"no PostgreSQL 14 here; {INSTALLED}; container: no Docker engine answers. pip"),
        (NO_DSN, "auto", 14, f"no PostgreSQL 14 here; {INSTALLED}; container: mt-paas-test:trixie has PostgreSQL 17."),
        (NO_ENGINE, "container", None, "no PostgreSQL in a container: no Docker engine answers"),
        (ALL, "container", 18, "no PostgreSQL 18 in a container: mt-paas-test:trixie has PostgreSQL 17"),
        (without(image=Image("mine")), "container", 18, "mine has no known version"),
        (ALL, "local", 18, "no local PostgreSQL 18 here; there is 15 (local), 16 (local). apt-get"),
        (ALL, "embedded", 15, "no embedded PostgreSQL 15 here; there is 16 (embedded), 18 (embedded). pip"),
    ],
    ids=["nothing", "not-installed", "other-image", "no-engine", "image-too-old", "image-unknown", "local", "embedded"],
)
def test_what_is_not_to_be_had_is_named(machine: Machine, asked: Asked, major: int | None, message: str) -> None:
    with pytest.raises(LookupError) as refused:
        choose(machine, asked=asked, major=major)
    assert message in str(refused.value)


@pytest.mark.parametrize("choice", [Choice("dsn"), Choice("local", 15), Choice("container", 17, TRIXIE), None])
def test_workers_are_told_the_choice(choice: Choice | None) -> None:
    supply = Supply("auto", None, "run", choice, "reason")
    assert Supply.of(json.loads(json.dumps(supply.as_dict()))) == supply


def test_the_image_follows_the_version_unless_it_is_named() -> None:
    assert wanted_image(None, {}) == "postgres"
    assert wanted_image(16, {}) == "postgres:16"
    assert wanted_image(16, {"MT_PAAS_TEST_IMAGE": "mine"}) == "mine"


def test_nobody_waits_for_an_engine_that_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.choice.find_image", lambda name: pytest.fail("looked for an image"))
    assert survey("auto", None, environment={"MT_PAAS_TEST_DSN": "postgresql://"}).dsn
    assert survey("local", None, environment={}).image is None
    assert survey("embedded", 18, environment={}).image is None


def test_of_one_version_the_systems_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [PostgresBinaries(16, Path("/wheel"), "embedded"), PostgresBinaries(16, Path("/usr"), "local")]
    monkeypatch.setattr(postgres, "_embedded", lambda: both[:1])
    monkeypatch.setattr(postgres, "_local", lambda: both[1:])
    assert find_postgres(16).source == "local"
    assert find_postgres(source="embedded").source == "embedded"


def test_a_run_that_insists_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--server", "container", "tests/test_identifiers.py", "-k", "nothing"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none"},
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--server container: no PostgreSQL in a container: " in done.stderr


# -- what an engine may do to us, played by one of our own


class Engine(BaseHTTPRequestHandler):
    """Answers as a Docker engine without images, whose pulls never end."""

    protocol_version = "HTTP/1.1"
    system = "Debian GNU/Linux"
    refusal: str | None = None

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/version"):
            self._answer({"ApiVersion": "1.41", "MinAPIVersion": "1.12"})
        elif path.endswith("/info"):
            self._answer({"OSType": "linux", "OperatingSystem": self.system})
        else:
            self._answer({"message": "No such image"}, status=404)

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            if self.refusal:
                self._report({"error": self.refusal})
            while not self.refusal:
                self._report({"status": "Downloading"})
                time.sleep(0.05)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # they hung up

    def _report(self, event: dict[str, str]) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _answer(self, document: dict[str, str], *, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> Iterator[None]:
    class Socket(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    pytest.importorskip("testcontainers")
    with Socket(str(folder / "s"), type("Played", (Engine,), attributes)) as running:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder / 's'}")
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            running.shutdown()
            gc.collect()  # a socket left open would fail the next test instead


def test_a_pull_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with (
        engine(tmp_path, monkeypatch),
        pytest.raises(LookupError, match="no image postgres:17 and cannot pull it: it takes too long"),
    ):
        find_image("postgres:17", pull_timeout_s=0.5)
    assert time.monotonic() - began < 10


def test_a_pull_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path, monkeypatch, refusal="denied"), pytest.raises(LookupError, match="cannot pull it: denied"):
        find_image("postgres")


def test_an_engine_with_a_network_of_its_own_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path, monkeypatch, system="Docker Desktop"), pytest.raises(LookupError, match="its own network"):
        find_image("postgres")


def test_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(LookupError, match="no Docker engine answers"):
        find_image("postgres")
    gc.collect()  # a socket left open would fail the next test instead


@pytest.mark.parametrize("host", ["tcp://192.0.2.1:2375", "ssh://build.example"])
def test_an_engine_elsewhere_does_not_serve(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(LookupError, match="another machine"):
        find_image("postgres")


# -- real containers


@pytest.fixture(scope="module")
def image() -> Image:
    try:
        return find_image(wanted_image(None))
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def run() -> Iterator[str]:
    """A run of its own, after which nothing may be left."""
    made = new_run()
    yield made
    assert remove_containers(made) == 0, "a container was left behind"


def one(server: PostgresServer, statement: str, **login: Any) -> Any:
    with psycopg.connect(server.dsn(**login), autocommit=True) as connection:
        row = connection.execute(sql.SQL(statement)).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.container
def test_a_server_in_a_container(image: Image, run: str) -> None:
    with ContainerServer(image, run=run, settings={"work_mem": "5MB"}) as server:
        assert one(server, "SHOW work_mem") == "5MB"
        if image.major is not None:
            assert one(server, "SHOW server_version").startswith(f"{image.major}.")
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'it is here'::text AS word")
            connection.execute("CREATE ROLE someone LOGIN PASSWORD 'right'")
        assert one(server, "SELECT session_user", user="someone", password="right") == "someone"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            one(server, "SELECT 1", user="someone", password="wrong")

        for immediately in (False, True):
            before = server.pid
            server.restart(immediately=immediately)
            assert server.pid != before
            assert one(server, "SELECT word FROM kept") == "it is here"
        server.shut_down()
        with pytest.raises(psycopg.OperationalError):
            one(server, "SELECT 1")
        folder = server._folder
    assert folder is not None
    assert not folder.exists()


@pytest.mark.container
def test_the_images_pgbouncer(image: Image, run: str) -> None:
    if image.pgbouncer is None:
        pytest.skip(f"{image.name} has no PgBouncer")
    with ContainerServer(image, run=run) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE someone LOGIN PASSWORD 'right'")
        with server.pooler(users={"someone": "right"}) as pooler:
            for _ in range(2):
                with psycopg.connect(pooler.dsn("postgres", user="someone", password="right")) as connection:
                    assert connection.execute("SELECT session_user").fetchone() == ("someone",)
                with psycopg.connect(
                    pooler.dsn("pgbouncer", user="someone", password="right"), autocommit=True
                ) as console:
                    answer = console.execute("SHOW VERSION").fetchone()
                assert answer == (f"PgBouncer {image.pgbouncer}",)
                with psycopg.connect(pooler.dsn("postgres", user="someone", password="right")) as connection:
                    began = time.monotonic()
                    pooler.restart()  # does not wait for the client
                    assert time.monotonic() - began < 10
                    with pytest.raises(psycopg.OperationalError):
                        connection.execute("SELECT 1")
            assert pooler.version >= (1, 18)


@pytest.mark.container
def test_a_start_that_fails_leaves_nothing_and_says_why(image: Image, run: str) -> None:
    with (
        pytest.raises(RuntimeError, match="unrecognized configuration parameter"),
        ContainerServer(image, run=run, settings={"no_such_setting": "1"}),
    ):
        pass


@pytest.mark.container
def test_an_image_that_is_gone(image: Image, run: str) -> None:
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1"), ContainerServer(Image("127.0.0.1:1/gone"), run=run):
        pass


@pytest.mark.container
def test_a_start_that_is_interrupted_leaves_nothing(image: Image, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ContainerServer, "_wait_until_it_answers", interrupt)
    with pytest.raises(KeyboardInterrupt), ContainerServer(image, run=run):
        pass


@pytest.mark.container
def test_what_is_left_of_a_run_is_removed_and_no_other(image: Image) -> None:
    left, other = new_run(), new_run()
    with ContainerServer(image, run=other) as server:
        with ContainerServer(image, run=left):
            assert remove_containers(left) == 1
        assert one(server, "SELECT 1") == 1
    with connected() as client:
        assert client.containers.list(all=True, filters={"label": [f"{RUN_LABEL}={left}"]}) == []


@pytest.mark.container
def test_a_tenant_in_a_container(image: Image, run: str) -> None:
    with ContainerServer(image, run=run) as server:
        service = Service(server)
        manager: TenantManager = service.manager()
        manager.init()
        manager.create("hallym")
        with manager.get_session("hallym") as session:
            assert session.connection().exec_driver_sql("SELECT session_user").scalar_one() == service.login
        service.close()
