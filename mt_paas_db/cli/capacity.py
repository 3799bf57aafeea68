"""What `doctor --capacity` takes and shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import typer

from mt_paas_db.cli import screen

if TYPE_CHECKING:
    from mt_paas_db.core.capacity import Capacity, Limit

_UNITS = {"": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}


def parse_size(value: str | None) -> int | None:
    """Return bytes of a size as PostgreSQL writes them: ``16GB``, ``512MB``, or a number of bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,15}) ?([kmgt]b)?", value.lower())
    if not found or int(found[1]) == 0:
        raise typer.BadParameter(f"{value!r} is no size; write it as 16GB, 512MB, or in bytes")
    return int(found[1]) * _UNITS[found[2] or ""]


def show(found: Capacity) -> None:
    """Print the limits as a table, then what each follows from."""
    measured = found.measured
    screen.say(f"{measured.tenants:,} tenants, {measured.tables:,} tables, {measured.relations:,} relations")
    rows = [
        [limit.id, limit.title, _amount(limit.bound, limit), _amount(limit.used, limit), _more(limit)]
        for limit in found.limits
    ]
    screen.table(["LIMIT", "WHAT", "BOUND", "USE", "MORE TENANTS"], rows)
    for limit in found.limits:
        screen.say(f"{limit.id}: {limit.why}")
        screen.say(f"         to move it: {limit.change}")
    if found.passed:
        passed = ", ".join(limit.id for limit in found.passed)
        screen.say(f"no room left by {passed}: advisory, tenants are served nevertheless", style="yellow")
    if found.tightest is None:
        screen.say("none of the limits that are known and not advisory depends on the number of tenants", style="bold")
    else:
        screen.say(f"room for {found.more_tenants:,} more tenants, by {found.tightest.id}", style="bold")


def _amount(number: int | None, limit: Limit) -> str:
    if number is None:
        return "unknown"
    if limit.unit != "bytes":
        return f"{number:,} {limit.unit}"
    size, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1024 or unit == "TB":
            break
        size /= 1024
    return f"{size:.1f} {unit}"


def _more(limit: Limit) -> str:
    more = "any" if limit.more_tenants is None else f"{limit.more_tenants:,}"
    return (more if limit.known else "unknown") + (" (advisory)" if limit.advisory else "")
