"""How a cell is divided. Pure."""

from __future__ import annotations


def divide(tenants: int, size: int) -> list[int]:
    """Return how many of a cell's tenants each new cell gets, so that none has more than `size`; the rest stays.

    Two halves where that suffices. Nothing where there are fewer than two tenants.
    """
    if tenants < 2:
        return []
    parts = max(2, -(-tenants // size))
    least, more = divmod(tenants, parts)
    return [least + (1 if part < more else 0) for part in range(1, parts)]
