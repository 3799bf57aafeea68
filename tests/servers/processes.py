"""What starting any server needs: a free port, an account that is not root, and a stop that is certain."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a TCP port that was free on 127.0.0.1 a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unprivileged() -> dict[str, Any]:
    """Return the `subprocess` arguments that run a server as another user where we are root.

    Neither PostgreSQL nor PgBouncer runs as root. ``postgres`` comes with Debian's packages, ``nobody``
    with every system.
    """
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise RuntimeError("running as root, and there is neither a user 'postgres' nor 'nobody' to run a server as")


def give(path: Path) -> None:
    """Make `path` belong to the account that the server runs as."""
    account = unprivileged()
    if account:
        os.chown(path, account["user"], account["group"])


def accepts(port: int) -> bool:
    """Whether 127.0.0.1:`port` accepts connections."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, log: Path, timeout_s: float = 30.0) -> None:
    """Return when 127.0.0.1:`port` accepts; raise with the log's tail when the process ends or time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if accepts(port):
            return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"
    raise RuntimeError(f"{process.args!r} does not accept on port {port}:\n{tail}")


def stop(process: subprocess.Popen[bytes] | None, *, signal: int, timeout_s: float = 20.0) -> None:
    """Send `signal` to a process of ours and wait; kill it if it does not end."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
