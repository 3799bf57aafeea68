"""What a benchmark hands back, and its two forms: a table for a person, JSON for a program."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

_PACKAGES = ("sqlalchemy", "psycopg", "asyncpg", "greenlet", "alembic", "pydantic")


@dataclass(frozen=True, slots=True)
class Row:
    """What one case took: `n` values in `unit`."""

    case: str
    median: float
    p95: float
    n: int
    unit: str

    @classmethod
    def of(cls, case: str, values: Sequence[float], *, unit: str) -> Row:
        """Return the row of measured values. Raises `ValueError` where there are none."""
        if not values:
            raise ValueError(f"{case}: nothing was measured")
        p95 = statistics.quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else values[0]
        return cls(case, round(statistics.median(values), 1), round(p95, 1), len(values), unit)


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit that a value must keep."""

    name: str
    value: float
    limit: float
    better: Literal["lower", "higher"] = "lower"

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.better == "lower" else self.value >= self.limit


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark's outcome. `remarks` are lines for a person: what was left out, how to read it.

    `shown` are lines that a person reads instead of the rows, where there are too many of these.
    """

    name: str
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    bars: Sequence[Bar]
    remarks: Sequence[str] = field(default=())
    shown: Sequence[str] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every bar holds."""
        return all(bar.holds for bar in self.bars)

    def as_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            "name": self.name,
            "environment": dict(self.environment),
            "rows": [{"case": r.case, "median": r.median, "p95": r.p95, "n": r.n, "unit": r.unit} for r in self.rows],
            "bars": [
                {"name": b.name, "value": b.value, "limit": b.limit, "better": b.better, "holds": b.holds}
                for b in self.bars
            ],
        }

    def as_text(self) -> str:
        """Return the table for a person."""
        facts = dict(self.environment)
        packages = facts.pop("packages", {})
        lines = [f"benchmark {self.name}", ""]
        lines += [f"  {key:<11} {value}" for key, value in facts.items() if value is not None]
        lines += [f"  {'packages':<11} " + ", ".join(f"{k} {v}" for k, v in packages.items()), ""]
        lines += self.shown or table(
            ("case", "median", "p95", "n", "unit"),
            [(r.case, f"{r.median:,.1f}", f"{r.p95:,.1f}", f"{r.n:,}", r.unit) for r in self.rows],
        )
        lines += ["", *self.remarks, ""]
        lines += table(
            ("bar", "value", "limit", "better", ""),
            [
                (b.name, f"{b.value:g}", f"{b.limit:g}", b.better, "holds" if b.holds else "DOES NOT HOLD")
                for b in self.bars
            ],
        )
        return "\n".join(lines)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return aligned lines: the first and the last column to the left, numbers to the right."""
    cells = [head, *rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    last = len(head) - 1

    def render(line: tuple[str, ...]) -> str:
        parts = [
            c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        return ("  " + "  ".join(parts)).rstrip()

    return [render(head), "  " + "-" * (sum(widths) + 2 * last), *map(render, cells[1:])]


def environment(
    *,
    postgresql: str | None = None,
    pgbouncer: str | None = None,
    packages: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what the figures depend on. `packages` are added to those of this process; None is not there."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "postgresql": postgresql,
        "pgbouncer": pgbouncer,
        "python": platform.python_version(),
        "packages": {**found, **(packages or {})},
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
