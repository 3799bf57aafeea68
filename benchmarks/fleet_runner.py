"""A process with one run of the fleet in it, and what it took: seconds, queries about tenants, and memory.

In a process of its own, because peak memory is a process's and never falls. Without the processes that render
revisions, which are the runner's children.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.fleet_ground import FleetGround


def run_apart(ground: FleetGround) -> dict[str, Any]:
    """Upgrade the fleet in a process of its own; return what `main` prints. Raises `RuntimeError` where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fleet_runner", ground.location, str(ground.jobs)],
        capture_output=True, text=True, env={**os.environ, **ground.service.environment()},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the runner's process failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def counted(word: str) -> Iterator[list[str]]:
    """Collect the statements that speak of `word`, of all blocking connections of this process."""
    found: list[str] = []
    original = psycopg.Cursor.execute

    def execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        said = query.decode() if isinstance(query, bytes) else str(query)
        if word in said:
            found.append(said)
        return original(self, query, *arguments, **options)

    psycopg.Cursor.execute = execute  # type: ignore[method-assign]
    try:
        yield found
    finally:
        psycopg.Cursor.execute = original  # type: ignore[method-assign]


def main(location: str, jobs: int) -> dict[str, Any]:
    """Upgrade the fleet of the environment's settings to the head."""
    from mt_paas_db.catalog.credentials import settings_credentials
    from mt_paas_db.catalog.settings import load_settings
    from mt_paas_db.migrate.fleet import Fleet
    from mt_paas_db.migrate.report import Options
    from mt_paas_db.migrate.scripts import Scripts

    settings = load_settings()
    fleet = Fleet(settings, settings_credentials(settings), Scripts(location))
    with counted("mt_paas.tenant") as queries:
        began = time.perf_counter()
        report = fleet.upgrade(options=Options(jobs=jobs))
        took_s = time.perf_counter() - began
    if not report.ok:
        raise SystemExit(f"{report.message}: {report.failures[:3]}")
    return {
        "run_id": report.run_id,
        "migrated": report.migrated,
        "unchanged": report.unchanged,
        "seconds": took_s,
        "queries": len(queries),
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    """Return the most memory that this process has held. Linux's ``ru_maxrss`` would begin with its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
