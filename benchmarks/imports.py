"""What ``import mt_paas_db`` costs a process, and what it must not bring along."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Bar, Result, Row, environment

SUMMARY = "CPU time of `import mt_paas_db` over a bare Python, in fresh processes"

LIMIT_MS = 50.0
HEAVY = ("sqlalchemy", "alembic", "typer", "psycopg", "asyncpg", "opentelemetry")
"""What the import must not load."""

_PROCESSES = 10
_REPOSITORY = Path(__file__).resolve().parent.parent
_CHILD = "{}import sys, time; print([time.process_time_ns(), *sorted(sys.modules)])"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "processes", type=int, nargs="?", default=None, help=f"fresh processes of each kind; {_PROCESSES}"
    )


def run(options: argparse.Namespace) -> Result:
    """Start processes in turn, with and without the import."""
    processes = options.processes or (_PROCESSES * 5 if options.full else _PROCESSES)
    bare, ours = "", "import mt_paas_db; "
    for code in (bare, ours):  # the first import writes bytecode
        _child(code)
    cpu_ms: dict[str, list[float]] = {bare: [], ours: []}
    loaded: set[str] = set()
    for _ in range(processes):
        for code in (bare, ours):
            spent_ms, modules = _child(code)
            cpu_ms[code].append(spent_ms)
            if code == ours:
                loaded |= modules
    over_ms = statistics.median(cpu_ms[ours]) - statistics.median(cpu_ms[bare])
    heavy = sorted(loaded.intersection(HEAVY))
    return Result(
        name="imports",
        environment=environment(),
        rows=[
            Row.of("bare python", cpu_ms[bare], unit="ms"),
            Row.of("import mt_paas_db", cpu_ms[ours], unit="ms"),
        ],
        bars=[
            Bar("import mt_paas_db: CPU ms over bare python", round(over_ms, 2), LIMIT_MS),
            Bar(f"import mt_paas_db: loaded of {', '.join(HEAVY)}", len(heavy), 0),
        ],
        remarks=[f"  loaded although it should not be: {', '.join(heavy)}"] if heavy else [],
    )


def _child(code: str) -> tuple[float, set[str]]:
    """Run `code` in a fresh process; return its CPU time in ms until then, and the modules it has."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD.format(code)],
        cwd=_REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    spent_ns, *modules = json.loads(done.stdout.replace("'", '"'))
    return spent_ns / 1e6, set(modules)
