"""How many more tenants a server and a budget bear, and which limit comes first. Pure: figures in, limits out.

What is not known is said to be so: a limit whose figures are missing has neither a bound nor a number of tenants.
Beyond an advisory limit tenants are served nevertheless, so that it does not say how many there is room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mt_paas_db.telemetry.backend import BACKEND_BYTES, CELL_BYTES

MEMBERSHIP_S = {15: 5e-6, 16: 3e-6}
"""What each role that a login is a member of adds to its first SET ROLE, from a major version on: 3 to 6 ms at 1,000
on PostgreSQL 15, 30 to 60 ms at 10,000 on 16 and 18, measured."""

PATIENCE_S = 0.002
"""What a first transaction may pay for its login's memberships."""

REMEMBERED = 50_000
"""How many names a process remembers; beyond, its look-ups are asked of the catalog again."""

_ADMIN = 5
"""Connections left for the admin, migrations and whoever looks at the server, on top of those it reserves itself."""


def default_budget(*, max_connections: int, reserved: int) -> int:
    """Return what a server can give to one PgBouncer: what it neither reserves nor needs for its admin; 1 at least."""
    return max(1, max_connections - reserved - _ADMIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures. None is what could not be asked or measured; `unknown` says why, by the figure's name.

    Attributes:
        tenants: All in the catalog; `largest_cell` those in the fullest cell that is shared.
        cells: Those that have tenants; `own_logins` of them are one tenant's each.
        version: PostgreSQL's major version.
        connections: Of all clients, now, of which there can be `max_connections` less `reserved`.
        pooler, pooling, tier, pool_size, cell_size: The settings.
        max_tenants: How many a connection serves before it is closed; None where that is the pooler's affair.
        budget: The server connections that PgBouncer was given.
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
    cells: int
    own_logins: int
    version: int
    connections: int
    max_connections: int
    reserved: int
    pooler: Literal["direct", "pgbouncer"]
    pooling: Literal["process", "none"]
    tier: Literal["role", "login"]
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
    budget: int | None = None
    processes: int | None = None
    tenant_bytes: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    unknown: tuple[tuple[str, str], ...] = ()

    @property
    def usable_connections(self) -> int:
        """How many connections are not reserved for superusers."""
        return self.max_connections - self.reserved

    @property
    def pooler_connections(self) -> int:
        """How many server connections PgBouncer has: what it was given, or else takes by `pgbouncer config`."""
        return self.budget or default_budget(max_connections=self.max_connections, reserved=self.reserved)


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
        advisory: Whether tenants are served beyond it, too: a tool fails there, or something takes longer.
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
    advisory: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits, the tightest first and the advisory ones after the others, and the figures they follow from."""

    limits: tuple[Limit, ...]
    measured: Measured

    @property
    def tightest(self) -> Limit | None:
        """The limit that decides. None where none that is known, and not advisory, depends on the number of tenants."""
        first = self.limits[0]
        return None if first.advisory or first.more_tenants is None else first

    @property
    def more_tenants(self) -> int | None:
        """How many more tenants the tightest limit bears; None where there is none."""
        return None if self.tightest is None else self.tightest.more_tenants

    @property
    def passed(self) -> tuple[Limit, ...]:
        """The advisory limits that bear no more tenants."""
        return tuple(limit for limit in self.limits if limit.advisory and limit.more_tenants == 0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "more_tenants": self.more_tenants,
            "limits": [asdict(limit) for limit in self.limits],
            "measured": {**asdict(self.measured), "unknown": dict(self.measured.unknown)},
        }


def capacity(measured: Measured) -> Capacity:
    """Return the limits that follow from the figures.

    Those that bear the fewest tenants come first, the advisory ones after them, the unknown last.
    """
    limits = sorted(_limits(measured), key=lambda limit: (not limit.known, limit.advisory, _many(limit.more_tenants)))
    return Capacity(tuple(limits), measured)


def _many(number: int | None) -> float:
    return float("inf") if number is None else number


def _limits(m: Measured) -> Iterator[Limit]:
    yield _locks(m)
    yield _memberships(m)
    yield _remembered(m)
    yield _connections(m)
    yield from _places(m)
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
        advisory=True,
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
        advisory=True,
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
        advisory=True,
    )


def _connections(m: Measured) -> Limit:
    free = max(0, m.usable_connections - m.connections)
    change = "raise max_connections, or put PgBouncer in front"
    if m.pooler == "pgbouncer":
        why = (
            f"PgBouncer has {m.pooler_connections}, {_told(m)}, for all processes and tenants: "
            "one process more takes none of the server's"
        )
        if m.pooler_connections > m.usable_connections:
            why += ". That is more than the server gives"
        change = "raise max_connections, then `--budget` of `mt-paas-db pgbouncer config`"
    elif m.pooling == "none":
        why = f"without pools each open session has its own, and no setting bounds them: room for {free} more"
    else:
        why = (
            f"a process has pool_size, {m.pool_size}, at most, however many tenants there are: "
            f"room for {free // m.pool_size} more processes that use all of theirs"
        )
        change = "raise max_connections, lower MT_PAAS_DB_POOL_SIZE, or put PgBouncer in front"
    return Limit(
        id="connections",
        title="connections of the server",
        bound=m.usable_connections,
        used=m.connections,
        unit="connections",
        more_tenants=None,
        known=True,
        why=why,
        change=change,
    )


def _told(m: Measured) -> str:
    return "as given" if m.budget else "what `mt-paas-db pgbouncer config` takes without --budget"


def _places(m: Measured) -> Iterator[Limit]:
    """Yield how many cells have a connection at once, of a process or PgBouncer; nothing where neither has a pool."""
    pools = []
    if m.pooling == "process":
        change = "raise MT_PAAS_DB_POOL_SIZE{}, or send each tenant's requests to the same few processes"
        pools.append((m.pool_size, f"a process has pool_size, {m.pool_size}, connections", change))
    if m.pooler == "pgbouncer":
        change = "raise `--budget` of `mt-paas-db pgbouncer config`{}"
        pools.append((m.pooler_connections, f"PgBouncer has {m.pooler_connections} connections, {_told(m)}", change))
    if not pools:
        return
    places, why, change = min(pools, key=lambda pool: pool[0])
    in_a_new_cell = 1 if m.tier == "login" else m.cell_size
    room = 0 if m.tier == "login" else (m.cells - m.own_logins) * m.cell_size - (m.tenants - m.own_logins)
    yield Limit(
        id="places",
        title="cells that have a connection at once",
        bound=places,
        used=m.cells,
        unit="cells",
        more_tenants=(places - m.cells) * in_a_new_cell + max(0, room) if m.cells <= places else 0,
        known=True,
        why=f"{why}, each of which serves one cell at a time: {places} cells of {in_a_new_cell} are "
        f"{places * in_a_new_cell:,} tenants. Beyond, cells that are busy at once take connections from each other, "
        "each of which is opened anew; nobody is refused",
        change=change.format("" if m.tier == "login" else " or MT_PAAS_DB_CELL_SIZE"),
        advisory=True,
    )


def _served(m: Measured) -> int:
    """How many tenants one backend may come to serve."""
    return m.cell_size if m.max_tenants is None else min(m.cell_size, m.max_tenants)


def _cell(m: Measured) -> Limit:
    title, change = "a full cell's share of a backend", "lower MT_PAAS_DB_CELL_SIZE, or MT_PAAS_DB_POOL_MAX_TENANTS"
    if m.tenant_bytes is None:
        return _unknown(m, "cell", title, "bytes", ["tenant_bytes"], change, advisory=True)
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
        advisory=True,
    )


def _memory(m: Measured) -> Limit:
    title, change = "memory of the machine", "more memory, fewer connections, or a smaller MT_PAAS_DB_CELL_SIZE"
    missing = [name for name in ("tenant_bytes", "memory_bytes") if getattr(m, name) is None]
    if m.tenant_bytes is None or m.memory_bytes is None:
        return _unknown(m, "memory", title, "bytes", missing, change)
    most, whose = _backends(m)
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
        why=f"{most} backends ({whose}), each at its fullest with {_served(m)} tenants; shared_buffers is not counted "
        "as free. "
        + (
            "It does not grow with the fleet past a full cell"
            if fits >= _served(m)
            else f"{fits} tenants each would fit"
        ),
        change=change,
    )


def _backends(m: Measured) -> tuple[int, str]:
    """Return how many backends there may come to be, and why."""
    most, whose = m.usable_connections, "all the server allows"
    if m.pooler == "pgbouncer":
        most, whose = m.pooler_connections, f"PgBouncer's budget, {_told(m)}"
    elif m.pooling == "process" and m.processes is not None:
        most, whose = m.processes * m.pool_size, f"{m.processes} processes of {m.pool_size}"
    return min(m.usable_connections, most), whose


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


def _unknown(
    m: Measured, id_: str, title: str, unit: str, missing: list[str], change: str, *, advisory: bool = False
) -> Limit:
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
        advisory=advisory,
    )


def _ceil(number: int, parts: int) -> int:
    return -(-number // parts) if parts else 0
