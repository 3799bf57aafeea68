"""How many more tenants a server and a budget bear, and which limit comes first. Pure: figures in, limits out.

What is not known is said to be so: a limit whose figures are missing has neither a bound nor a number of tenants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mt_paas_db.telemetry.backend import BACKEND_BYTES

MEMBERSHIP_S = {15: 5e-6, 16: 3e-6}
"""What each role that a login is a member of adds to its first SET ROLE, from a major version on: 4 to 6 ms at 1,000
on PostgreSQL 15, 30 ms at 10,000 on 16 and 18, measured."""

PATIENCE_S = 0.002
"""What a first transaction may pay for its login's memberships."""

CELL_BYTES = 48_000_000
"""What the tenants of one cell may take of each backend."""

REMEMBERED = 50_000
"""How many names a process remembers; beyond, its look-ups are asked of the catalog again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures. None is what could not be asked or measured; `unknown` says why, by the figure's name.

    Attributes:
        tenants: All in the catalog; `largest_cell` those in the fullest cell that is shared.
        version: PostgreSQL's major version.
        connections: Of all clients, now, of which there can be `max_connections` less `reserved`.
        pool_size, cell_size, max_tenants: The settings; `max_tenants` is how many a connection serves before it is
            closed (pool_max_tenants).
        processes: How many processes of the service there are.
        locks: Places in the server's lock table.
        tables, relations, bytes: Of all tenants' schemas together.
        tenant_bytes: What one tenant takes of a backend that has served it.
        catalogs_bytes: The system catalogs of the database.
        memory_bytes, shared_buffers_bytes: The machine's, and what of it is PostgreSQL's cache.
        disk_bytes: What tenants may take on disk altogether.
    """

    tenants: int
    largest_cell: int
    version: int
    connections: int
    max_connections: int
    reserved: int
    pool_size: int
    cell_size: int
    max_tenants: int | None
    locks: int
    tables: int
    relations: int
    bytes: int
    database_bytes: int | None
    catalogs_bytes: int
    shared_buffers_bytes: int
    processes: int | None = None
    tenant_bytes: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    unknown: tuple[tuple[str, str], ...] = ()

    @property
    def usable_connections(self) -> int:
        """How many connections are not reserved for superusers."""
        return self.max_connections - self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit.

    Attributes:
        id, title: What it is.
        bound, used, unit: Where it is, and how far it is used now; None where that is not known.
        more_tenants: How many more tenants it bears; None where it does not depend on their number, or is not known.
        known: Whether all of its figures are.
        why: How it follows from the figures, or which are missing.
        change: What moves it.
    """

    id: str
    title: str
    bound: int | None
    used: int | None
    unit: str
    more_tenants: int | None
    known: bool
    why: str
    change: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits, the tightest first, and the figures they follow from."""

    limits: tuple[Limit, ...]
    measured: Measured

    @property
    def more_tenants(self) -> int | None:
        """How many more tenants the tightest of the known limits bears; None where none of them depends on it."""
        return min((limit.more_tenants for limit in self.limits if limit.more_tenants is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "more_tenants": self.more_tenants,
            "limits": [asdict(limit) for limit in self.limits],
            "measured": {**asdict(self.measured), "unknown": dict(self.measured.unknown)},
        }


def capacity(measured: Measured) -> Capacity:
    """Return the limits that follow from the figures: those that bear the fewest tenants first, the unknown last."""
    limits = sorted(_limits(measured), key=lambda limit: (not limit.known, _many(limit.more_tenants)))
    return Capacity(tuple(limits), measured)


def _many(number: int | None) -> float:
    return float("inf") if number is None else number


def _limits(m: Measured) -> Iterator[Limit]:
    yield _locks(m)
    yield _memberships(m)
    yield _remembered(m)
    yield _connections(m)
    yield _cell(m)
    yield _memory(m)
    yield _disk(m)


def _locks(m: Measured) -> Limit:
    each = _ceil(m.tables, m.tenants)
    return Limit(
        id="locks",
        title="one pg_dump of the whole database",
        bound=m.locks,
        used=m.tables,
        unit="tables",
        more_tenants=max(0, m.locks - m.tables) // each if each else None,
        known=True,
        why=f"it holds a lock on each table until it ends; a tenant has {each}. Our own verbs lock one tenant at a time"
        if each
        else "no tenant has a table yet",
        change="raise max_locks_per_transaction (a restart), or dump tenant by tenant",
    )


def _memberships(m: Measured) -> Limit:
    each_s = next(cost for major, cost in sorted(MEMBERSHIP_S.items(), reverse=True) if m.version >= major)
    bound = int(PATIENCE_S / each_s)
    return Limit(
        id="memberships",
        title="roles that one login may take",
        bound=bound,
        used=m.largest_cell,
        unit="tenants in a cell",
        more_tenants=None if m.cell_size <= bound else max(0, bound - m.largest_cell),
        known=True,
        why=f"each adds {each_s * 1e6:.0f} us to a backend's first transaction, and again after each new grant; "
        f"{PATIENCE_S * 1000:.0f} ms are allowed. "
        + (
            f"A cell never has more than cell_size, {m.cell_size}"
            if m.cell_size <= bound
            else f"cell_size, {m.cell_size}, lets a cell outgrow it"
        ),
        change=f"keep MT_PAAS_DB_CELL_SIZE at {bound} or less",
    )


def _remembered(m: Measured) -> Limit:
    return Limit(
        id="remembered",
        title="tenants that a process remembers",
        bound=REMEMBERED,
        used=m.tenants,
        unit="tenants",
        more_tenants=max(0, REMEMBERED - m.tenants),
        known=True,
        why="beyond, sessions of tenants that were forgotten pay one query of the catalog more; nothing breaks",
        change="send each tenant's requests to the same few processes",
    )


def _connections(m: Measured) -> Limit:
    free = m.usable_connections - m.connections
    more = max(0, free) // m.pool_size
    return Limit(
        id="connections",
        title="connections of the server",
        bound=m.usable_connections,
        used=m.connections,
        unit="connections",
        more_tenants=None,
        known=True,
        why=f"a process has pool_size, {m.pool_size}, at most, however many tenants there are: "
        f"room for {more} more processes that use all of theirs",
        change="raise max_connections, lower MT_PAAS_DB_POOL_SIZE, or put PgBouncer in front",
    )


def _served(m: Measured) -> int:
    """How many tenants one backend may come to serve."""
    return m.cell_size if m.max_tenants is None else min(m.cell_size, m.max_tenants)


def _cell(m: Measured) -> Limit:
    title, change = "a full cell's share of a backend", "lower MT_PAAS_DB_CELL_SIZE, or MT_PAAS_DB_POOL_MAX_TENANTS"
    if m.tenant_bytes is None:
        return _unknown(m, "cell", title, "bytes", ["tenant_bytes"], change)
    need = _served(m) * m.tenant_bytes
    fits = CELL_BYTES // max(1, m.tenant_bytes)
    return Limit(
        id="cell",
        title=title,
        bound=CELL_BYTES,
        used=need,
        unit="bytes",
        more_tenants=None if need <= CELL_BYTES else max(0, fits - m.largest_cell),
        known=True,
        why=f"a backend comes to serve up to {_served(m)} tenants, with {m.tenant_bytes:,} bytes of each, measured; "
        f"{fits:,} would fill it",
        change=change,
    )


def _memory(m: Measured) -> Limit:
    title, change = "memory of the machine", "more memory, fewer connections, or a smaller MT_PAAS_DB_CELL_SIZE"
    missing = [name for name in ("tenant_bytes", "memory_bytes") if getattr(m, name) is None]
    if m.tenant_bytes is None or m.memory_bytes is None:
        return _unknown(m, "memory", title, "bytes", missing, change)
    most = m.usable_connections if m.processes is None else min(m.usable_connections, m.processes * m.pool_size)
    available = m.memory_bytes - m.shared_buffers_bytes
    need = most * (BACKEND_BYTES + _served(m) * m.tenant_bytes)
    fits = max(0, available // max(1, most) - BACKEND_BYTES) // max(1, m.tenant_bytes)
    return Limit(
        id="memory",
        title=title,
        bound=available,
        used=need,
        unit="bytes",
        more_tenants=None if fits >= _served(m) else max(0, fits - m.largest_cell),
        known=True,
        why=f"{most} backends ("
        + ("all the server allows" if m.processes is None else f"{m.processes} processes of {m.pool_size}")
        + f"), each at its fullest with {_served(m)} tenants; shared_buffers is not counted as free. "
        + (
            "It does not grow with the fleet past a full cell"
            if fits >= _served(m)
            else f"{fits} tenants each would fit"
        ),
        change=change,
    )


def _disk(m: Measured) -> Limit:
    title, change = "disk", "a larger disk, or tenants moved to another server"
    missing = [name for name in ("disk_bytes", "database_bytes") if getattr(m, name) is None]
    if m.disk_bytes is None or m.database_bytes is None:
        return _unknown(m, "disk", title, "bytes", missing, change)
    each = _ceil(max(m.database_bytes, m.bytes), m.tenants)
    return Limit(
        id="disk",
        title=title,
        bound=m.disk_bytes,
        used=m.database_bytes,
        unit="bytes",
        more_tenants=max(0, m.disk_bytes - m.database_bytes) // each if each else None,
        known=bool(each),
        why=f"the database takes {each:,} bytes for each tenant now, {_ceil(m.catalogs_bytes, m.tenants):,} of them in "
        "the system catalogs; tenants that have hardly begun to write will take more"
        if each
        else "there is no tenant yet to go by",
        change=change,
    )


def _unknown(m: Measured, id_: str, title: str, unit: str, missing: list[str], change: str) -> Limit:
    reasons = dict(m.unknown)
    return Limit(
        id=id_,
        title=title,
        bound=None,
        used=None,
        unit=unit,
        more_tenants=None,
        known=False,
        why="not known: " + "; ".join(reasons.get(name, f"{name} was not given") for name in missing),
        change=change,
    )


def _ceil(number: int, parts: int) -> int:
    return -(-number // parts) if parts else 0
