"""The Docker engine, if one answers: which image it has or can get, and what a run leaves behind in it.

Containers share the host's network, so that a server keeps its port over a restart, sees clients come from
127.0.0.1 and needs no bridge. That takes an engine on this very machine.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

DEFAULT_HOST = "unix:///var/run/docker.sock"
SILENCE_S = 30.0  # an engine that says nothing for so long is as good as none
PULL_S = 180.0

# On every container of a run, so that one who ends the run can remove them all.
RUN_LABEL = "mt_paas_db.run"


def new_run() -> str:
    """Return a name for a run, unlike that of any other."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has.

    `major` is the PostgreSQL in it, where it says so as the official one does; `pgbouncer` the pooler's version.
    """

    name: str
    major: int | None = None
    pgbouncer: str | None = None


def find_image(name: str, *, pull_timeout_s: float = PULL_S) -> Image:
    """Return the image `name`, pulled if the engine lacks it.

    Raises `LookupError` that says why there is none: no engine that could serve, or no image to be had in time.
    """
    with connected() as client:
        described = client.info()
        if described.get("OSType") != "linux" or "Desktop" in described.get("OperatingSystem", ""):
            raise LookupError(f"the Docker engine is {described['OperatingSystem']}, which keeps its own network")
        try:
            config = _config(client, name)
            if config is None:
                _pull(client, name, deadline=time.monotonic() + pull_timeout_s)
                config = _config(client, name)
        except Exception as error:  # of the client, of its HTTP library, of the system
            raise LookupError(f"the Docker engine has no image {name} and cannot pull it: {error}") from error
        return _describe(name, config or {})


def _config(client: Any, name: str) -> dict[str, Any] | None:
    from docker.errors import ImageNotFound  # type: ignore[import-untyped]

    try:
        config: dict[str, Any] = client.images.get(name).attrs["Config"]
    except ImageNotFound:
        return None
    return config


def _describe(name: str, config: dict[str, Any]) -> Image:
    environment = dict(setting.partition("=")[::2] for setting in config.get("Env") or [])
    major = environment.get("PG_MAJOR", "")
    labels = config.get("Labels") or {}
    return Image(name, int(major) if major.isdigit() else None, labels.get("mt_paas_db.pgbouncer"))


def _pull(client: Any, name: str, *, deadline: float) -> None:
    """Pull while something comes in; raises `OSError` at the deadline, or as soon as the engine reports a failure."""
    repository, separator, tag = name.rpartition(":")
    if not separator or "/" in tag:
        repository, tag = name, "latest"
    for event in client.api.pull(repository, tag=tag, stream=True, decode=True):
        if "error" in event:
            raise OSError(event["error"])
        if time.monotonic() > deadline:
            raise TimeoutError("it takes too long")


@contextmanager
def connected() -> Iterator[Any]:
    """Yield a client of the engine that testcontainers finds. Raises `LookupError` where none answers."""
    try:
        from docker.errors import DockerException
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ImportError:
        raise LookupError("testcontainers is not installed") from None
    host = get_docker_host() or DEFAULT_HOST
    scheme, _, path = host.partition("://")
    if scheme not in ("unix", "http+unix"):
        raise LookupError(f"the Docker engine at {host} may be on another machine")
    try:
        # First a socket of our own, because the client forgets to close one that does not connect.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
        client = DockerClient(timeout=SILENCE_S).client
    except (DockerException, OSError) as error:
        raise LookupError(f"no Docker engine answers at {host}: {error}") from error
    try:
        yield client
    finally:
        client.close()


def new_container(image: str) -> Any:
    """Return a testcontainers' `DockerContainer`, which its maker must stop: no Ryuk watches over it."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True
    return DockerContainer(image)


def remove_containers(run: str) -> int:
    """Remove what is left of `run`'s containers, as after Ctrl-C in the middle of a start; return how many."""
    try:
        with connected() as client:
            left = client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={run}"}, ignore_removed=True)
            for container in left:
                container.remove(force=True, v=True)
            return len(left)
    except LookupError:
        return 0
