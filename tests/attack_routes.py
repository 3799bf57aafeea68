"""Which attack goes which ways. Ways beyond those that the check of each change takes are marked `every_route`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.route import Route


def attacks_on(routes: Sequence[Route], *, direct: int, pooled: int) -> list[Any]:
    """Return each attack with each of `routes`. So many of each kind, in turn, belong to the check of each change."""
    pairs = []
    ways = [route for route in routes if not route.pooled], [route for route in routes if route.pooled]
    for number, attack in enumerate(CATALOGUE):
        chosen = {ways[0][(number + n) % len(ways[0])] for n in range(direct)}
        # Not the same driver as direct.
        chosen |= {ways[1][(number + 1 + n) % len(ways[1])] for n in range(pooled)}
        for route in routes:
            marks = () if route in chosen else (pytest.mark.every_route,)
            pairs.append(pytest.param(attack, route, id=f"{attack.key}-{route}", marks=marks))
    return pairs
