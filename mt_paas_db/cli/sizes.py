"""Sizes in bytes as people write and read them: 10GB is 10 times 1024 cubed, as in PostgreSQL."""

from __future__ import annotations

import re

import typer

_UNITS = ("B", "KB", "MB", "GB", "TB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", re.IGNORECASE)


def parse_size(value: str) -> int:
    """Return a size as bytes. Raises Typer's `BadParameter` for what is none."""
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise typer.BadParameter(f"{value!r} is no size; write it as 500MB or 10GB")
    return int(float(found[1]) * 1024 ** _UNITS.index((found[2] or "B").upper()))


def show_size(size: int) -> str:
    """Return a size with three digits or so, as 1.5 GB."""
    scaled, unit = float(size), 0
    while scaled >= 1024 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.0f} {_UNITS[unit]}" if unit == 0 or scaled >= 100 else f"{scaled:.1f} {_UNITS[unit]}"
