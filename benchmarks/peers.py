"""The peers from PyPI: an environment of their own, made once, and a process in it that runs them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import make_url

from benchmarks.cases import Case
from benchmarks.ground import Ground
from benchmarks.workload import Visit
from mt_paas_db.session.pooler import PoolerProfile
from tests.fleet import Route

PEERS = {"fastapi-tenancy": "0.5.0", "sqlalchemy-tenants": "0.2.0"}
"""The versions that are compared with."""

_REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = _REPOSITORY / ".cache" / "benchmarks"
INSTALL = ("-m", "pip", "install", "--quiet", "--retries", "1")
_INSTALL_TIMEOUT_S = 240


def peer_python() -> Path:
    """Return the interpreter of the peers' environment; make it where it is missing.

    It has the peers, and the SQLAlchemy, psycopg and asyncpg versions of this process. Raises `LookupError`
    where the packages cannot be had.
    """
    wanted = [f"sqlalchemy=={metadata.version('sqlalchemy')}", f"psycopg[binary]=={metadata.version('psycopg')}"]
    if find_spec("asyncpg") is not None:
        wanted.append(f"asyncpg=={metadata.version('asyncpg')}")
    wanted += [f"{name}=={version}" for name, version in PEERS.items()]
    return python_with(wanted)


def python_with(wanted: Sequence[str]) -> Path:
    """Return the interpreter of an environment that has the requirements `wanted`; make it where it is missing.

    Raises `LookupError` where the packages cannot be had.
    """
    folder = _folder(wanted)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "complete"
    if done.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    try:
        installed = subprocess.run(
            [python, *INSTALL, *wanted],
            capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LookupError(f"pip did not finish within {_INSTALL_TIMEOUT_S} s") from None
    if installed.returncode:
        lines = [line for line in installed.stderr.splitlines() if line.startswith("ERROR")]
        raise LookupError((lines or ["pip failed"])[-1])
    done.touch()
    return python


def is_made(wanted: Sequence[str]) -> bool:
    """Return whether `python_with` has made an environment with `wanted`."""
    return (_folder(wanted) / "complete").exists()


def _folder(wanted: Sequence[str]) -> Path:
    key = hashlib.sha256(repr((sys.version, list(wanted))).encode()).hexdigest()[:12]
    return CACHE / f"peers-{key}"


class PeerWorker:
    """The peers' process. Orders and answers are lines of JSON; `benchmarks.peer_worker` is the other side."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The process that the peers run in."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [self._python, "-m", "benchmarks.peer_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()  # its loop ends with its input
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def ask(self, what: str, case: str, **details: Any) -> Any:
        """Give an order and return the answer. Raises `RuntimeError` where the process has ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": what, "case": case, **details}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' process ended at {what!r} of {case!r}; its error stands above")
        return json.loads(line)


def peer_cases(ground: Ground, worker: PeerWorker, routes: Sequence[Route]) -> list[Case]:
    """Fill each peer's database like ours; return its cases on those of `routes` that it can take.

    sqlalchemy-tenants is left out behind PgBouncer: its SET SESSION ROLE outlives the transaction, so that
    the next client of the server connection would run as this tenant.
    """
    cases = []
    for route in routes:
        if route.driver == "asyncpg":
            cases.append(_open(ground, worker, "fastapi-tenancy", route, fill=not route.pooled))
        if not route.pooled:
            cases.append(_open(ground, worker, "sqlalchemy-tenants", route, fill=route.driver == "psycopg"))
    return cases


def _open(ground: Ground, worker: PeerWorker, peer: str, route: Route, *, fill: bool) -> Case:
    login = ground.peers[peer]
    driver = "asyncpg" if route.driver == "asyncpg" else "psycopg"
    url = make_url(ground.dsn(login, pooled=route.pooled)).set(drivername=f"postgresql+{driver}", database=login)
    profile = PoolerProfile.parse("pgbouncer" if route.pooled else "direct")
    name = f"{peer} {route}"
    worker.ask(
        "open", name, peer=peer, is_async=route.is_async,
        url=url.render_as_string(hide_password=False), tenants=list(ground.tenants), fill=fill,
        connect_args=profile.connect_args("asyncpg" if driver == "asyncpg" else "psycopg"),
    )  # fmt: skip

    def measure(todo: Sequence[Visit]) -> list[int]:
        took: list[int] = worker.ask("measure", name, visits=list(todo))
        return took

    def author(tenant: int, row: int) -> str:
        return str(worker.ask("read", name, tenant=tenant, row=row))

    return Case(peer, route, measure, author, lambda: worker.ask("disconnect", name))
