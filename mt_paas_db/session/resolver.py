"""From a name to a tenant: one look-up in the catalog, remembered for a bounded time.

The look-up goes through ``mt_paas.resolve(name)``, the only thing of the catalog that the login role may
use. A process may remember an answer for the shorter of its own setting and the catalog's bound, counted
from before it asked. Nothing that a stale answer could hurt rests on it: a suspended, deleted or re-created
tenant's old role is refused by the server, and a released alias rests for twice the bound.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Engine

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import TenantName
from mt_paas_db.catalog.values import Resolution, TenantState
from mt_paas_db.errors import (
    PlacementChangedError,
    SchemaMissingError,
    TenantBehindError,
    TenantError,
    TenantNotReadyError,
    TenantSuspendedError,
    TenantUnavailableError,
)
from mt_paas_db.session.guard import EngineT, bind
from mt_paas_db.session.pin import Pin, PinOptions, make_pin
from mt_paas_db.telemetry import metrics
from mt_paas_db.telemetry.metrics import Reading

_MAX_ENTRIES = 50_000
_MAX_PINS = 64  # of one tenant: a caller may compute its time-outs


@dataclass(slots=True)
class Resolved:
    """A remembered answer, with the pins made from it."""

    name: TenantName
    resolution: Resolution
    expires_at: float
    named: bool = False
    _bound: dict[tuple[PinOptions, int], tuple[Pin, Any, Any]] = field(default_factory=dict)

    def has(self, revisions: Collection[str]) -> bool:
        """Return whether all of `revisions` were applied to the tenant; False where the catalog does not know."""
        applied = self.resolution.applied
        return not revisions or (applied is not None and applied.issuperset(revisions))

    def bind(self, engine: EngineT, options: PinOptions) -> tuple[Pin, EngineT]:
        """Return a pin and `engine` with it: an engine whose every transaction is this tenant's."""
        if self.resolution.state is TenantState.READ_ONLY:
            options = replace(options, read_only=True)
        key = (options, id(engine))
        bound = self._bound.get(key)
        if bound is None:
            if len(self._bound) >= _MAX_PINS:
                self._bound.clear()
            pin = make_pin(self.resolution, asked_as=self.name, options=options, named=self.named)
            # The engine is kept beside, so that its id cannot become another's while the key lives.
            bound = self._bound[key] = (pin, bind(engine, pin), engine)
        return bound[0], bound[1]


class Resolver:
    """The process's memory of where tenants live. Safe for threads.

    Where `named`, the pins made from it name the tenant as the connection's ``application_name``.
    """

    observes = frozenset({metrics.REMEMBERED})

    def __init__(self, *, cluster: str, ttl_s: float, named: bool = False) -> None:
        self._cluster = cluster
        self._ttl_s = ttl_s
        self._named = named
        self._lock = threading.Lock()
        self._known: OrderedDict[TenantName, Resolved] = OrderedDict()

    def remembered(self, name: TenantName) -> Resolved | None:
        """Return the remembered answer for `name`, if it is still good. Sends nothing."""
        known = self._known.get(name)
        return known if known is not None and time.monotonic() < known.expires_at else None

    def ask(self, connection: Connection, name: TenantName) -> Resolved:
        """Ask the catalog; return the answer, and remember it if the tenant takes sessions.

        A closed tenant is asked for anew each time, so that one that is resumed is served at once.

        Raises:
            UnknownTenantError, CatalogMissingError, CatalogVersionError: As `registry.resolve` says.
        """
        asked_at = time.monotonic()
        resolution = registry.resolve(connection, name, cluster=self._cluster)
        bound_s = min(self._ttl_s, resolution.cache_bound_s)
        resolved = Resolved(name=name, resolution=resolution, expires_at=asked_at + bound_s, named=self._named)
        if not resolution.state.serves:
            with self._lock:
                self._known.pop(name, None)
            return resolved
        with self._lock:
            self._known[name] = resolved
            self._known.move_to_end(name)
            if len(self._known) > _MAX_ENTRIES:
                self._known.popitem(last=False)
        return resolved

    def readings(self) -> Iterator[Reading]:
        """Yield how many tenants this process remembers, by cell."""
        now = time.monotonic()
        with self._lock:
            known = {r.resolution.generation: r for r in self._known.values() if now < r.expires_at}
        cells = Counter(resolved.resolution.placement.cell for resolved in known.values())
        for cell, tenants in cells.items():
            yield Reading(metrics.REMEMBERED, ((metrics.CELL, cell),), tenants)

    def forked(self) -> None:
        """In a child: another thread of the parent's may have held the lock. What is remembered stays good."""
        self._lock = threading.Lock()

    def forget(self, generation: int) -> None:
        """Forget every answer that led to this tenant."""
        with self._lock:
            for name in [n for n, known in self._known.items() if known.resolution.generation == generation]:
                del self._known[name]

    def explain(self, catalog: Engine, pin: Pin, sqlstate: str | None) -> TenantError | None:
        """Return why the server refused `pin`, after asking the catalog anew.

        Without an SQLSTATE there was no connection: None where the catalog knows of nothing that forbids it.
        """
        self.forget(pin.generation)
        with catalog.connect() as connection:
            try:
                resolved = self.ask(connection, TenantName(pin.asked_as))
                check_open(resolved)
            except TenantError as error:
                return error
        now = resolved.resolution
        is_now = (now.generation, now.placement.schema_name, now.placement.login_role)
        if is_now != (pin.generation, pin.schema, pin.login_role):
            return PlacementChangedError(pin.asked_as)
        if sqlstate is None:
            return None
        detail = {
            "22023": "its role does not exist",
            "3F000": "its schema does not exist",
            "22012": "its role may not use its schema",
        }.get(sqlstate, "the login role may not take its role, although it is active")
        return SchemaMissingError(pin.tenant_id, pin.schema, detail)


def check_open(resolved: Resolved) -> None:
    """Raise `TenantSuspendedError` or `TenantNotReadyError` unless the tenant takes sessions."""
    resolution = resolved.resolution
    if resolution.state.serves:
        return
    error: type[TenantUnavailableError] = (
        TenantSuspendedError if resolution.state is TenantState.SUSPENDED else TenantNotReadyError
    )
    raise error(resolved.name, state=resolution.state, reason=resolution.state_reason)


def check_window(resolved: Resolved, requires: Collection[str]) -> None:
    """Raise `TenantBehindError` unless all of the revisions in `requires` were applied to the tenant."""
    if resolved.has(requires):
        return
    resolution = resolved.resolution
    heads = resolution.heads if resolution.applied is not None else None
    raise TenantBehindError(resolved.name, required=tuple(requires), heads=heads, state=resolution.state)
