"""Round trips that a transaction takes, counted on the wire between the client and the server or pooler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.cases import OURS, PLAIN, make_cases, place
from benchmarks.ground import Ground
from benchmarks.report import Bar, Row
from benchmarks.workload import visits
from tests.fleet import Route
from tests.servers.wire import Wire

_WARM_UP_PASSES = 8
_PASSES = 2


def round_trip_figures(ground: Ground, routes: Sequence[Route], loop: asyncio.Runner) -> tuple[list[Row], list[Bar]]:
    """Count on each route; return a row for each way, and the bar of ours less plain."""
    rows: list[Row] = []
    bars: list[Bar] = []
    for route in routes:
        pooler = ground.pooler
        with Wire(pooler.port if route.pooled and pooler else ground.service.server.port) as wire:
            trips = {}
            for case in make_cases(ground, route, loop, port=wire.port):
                case.measure(visits(len(ground.tenants), passes=_WARM_UP_PASSES, seed=1))
                counted = []
                for visit in visits(len(ground.tenants), passes=_PASSES, seed=2):
                    with wire.counting() as count:
                        case.measure([visit])
                    counted.append(count.round_trips)
                case.disconnect()
                trips[case.way] = counted
                rows.append(Row.of(f"round trips per transaction: {case}", counted, unit="round trips"))
        more = max(trips[OURS]) - max(trips[PLAIN])
        bars.append(Bar(f"{place(route)}: round trips, ours - plain", more, 0))
    return rows, bars
