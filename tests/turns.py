"""Which routes a test takes in the check of each change. The others are marked `every_route`: `make matrix` takes all.

Each test takes one direct route and one through the pooler, on another driver; the next test takes the next ones, so
that all routes are met by a third of the tests each. ``@pytest.mark.in_turn(direct=2, pooled=0)`` asks for others.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest

from mt_paas_db.isolation.route import Route as AttackRoute
from tests.fleet import Route

RouteT = TypeVar("RouteT", bound=Route | AttackRoute)


def chosen(routes: Sequence[RouteT], turn: int, *, direct: int = 1, pooled: int = 1) -> set[RouteT]:
    """Return so many of the direct and of the pooled routes, those whose turn it is."""
    ways = [route for route in routes if not route.pooled], [route for route in routes if route.pooled]
    taken: set[RouteT] = set()
    # The pooled turn is one ahead, so that its driver is another.
    for way, first, number in ((ways[0], turn, direct), (ways[1], turn + 1, pooled)):
        taken |= {way[(first + n) % len(way)] for n in range(number) if way}
    return taken


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that are on a route whose turn it is not."""
    tests: defaultdict[str, list[tuple[pytest.Item, Route | AttackRoute]]] = defaultdict(list)
    for item in items:
        values = getattr(item, "callspec", None)
        for route in values.params.values() if values is not None else ():
            if isinstance(route, Route | AttackRoute):
                tests[item.nodeid.replace(str(route), "")].append((item, route))
                break
    for name, variants in tests.items():
        asked = variants[0][0].get_closest_marker("in_turn")
        # By its name, so that the turn of a test does not change when another test is added.
        taken = chosen([route for _, route in variants], zlib.crc32(name.encode()), **(asked.kwargs if asked else {}))
        for item, route in variants:
            if route not in taken:
                item.add_marker(pytest.mark.every_route)
