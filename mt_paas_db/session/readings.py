"""What there is to observe of a process's connections, when somebody collects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from mt_paas_db.session.engines import Engines
from mt_paas_db.telemetry import metrics
from mt_paas_db.telemetry.backend import BACKEND_BYTES, TABLE_BYTES
from mt_paas_db.telemetry.metrics import Reading


class PoolReadings:
    """The pools of a manager. `tables` returns how many a tenant has; None where that is not known."""

    def __init__(self, engines: Engines, *, tables: Callable[[], int] | None) -> None:
        self._engines = engines
        self._tables = tables

    observes = frozenset(
        {
            metrics.CONNECTIONS,
            metrics.CONNECTIONS_MAX,
            metrics.EVICTIONS,
            metrics.PENDING,
            metrics.TOUCHED,
            metrics.BACKEND_MEMORY,
        }
    )

    def readings(self) -> Iterator[Reading]:
        """Yield what the connections for tenants do, by login role. Takes the pool's lock for some microseconds."""
        status = self._engines.status()
        if status.budget is None:
            return
        yield Reading(metrics.CONNECTIONS_MAX, (), status.budget)
        yield Reading(metrics.EVICTIONS, (), status.evictions)
        for cell in status.cells:
            pool = (metrics.POOL, cell.cell)
            yield Reading(metrics.CONNECTIONS, (pool, (metrics.STATE, "used")), cell.in_use)
            yield Reading(metrics.CONNECTIONS, (pool, (metrics.STATE, "idle")), cell.idle)
            yield Reading(metrics.PENDING, (pool,), cell.waiting)
        yield from self._backends()

    def _backends(self) -> Iterator[Reading]:
        backends, touched = Counter[str](), Counter[str]()
        for cell, state in self._engines.served():
            backends[cell] += 1
            touched[cell] += len(state.tenants)
        for cell, number in backends.items():
            pool = (metrics.POOL, cell)
            yield Reading(metrics.TOUCHED, (pool,), touched[cell])
            if self._tables is not None:
                held = number * BACKEND_BYTES + touched[cell] * self._tables() * TABLE_BYTES
                yield Reading(metrics.BACKEND_MEMORY, (pool,), held)
