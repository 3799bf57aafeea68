"""The tenant registry: reads and writes of the control schema, on a connection that the caller brings.

Nothing here begins or ends a transaction, and nothing decides: a write is what the lifecycle has decided.
All but `resolve` needs the owner role.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.identifiers import SqlName, TenantId, TenantName
from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.values import (
    CATALOG_VERSION,
    NO_LIMITS,
    Cell,
    CellLoad,
    Event,
    Installation,
    Limits,
    NameKind,
    Placement,
    Resolution,
    Tenant,
    TenantState,
)
from mt_paas_db.errors import CatalogMissingError, CatalogVersionError, NameReservedError, UnknownTenantError

_FILE = "registry"

LOGIN_OF_A_CELL = "mt_paas_db: login of a cell"
"""The comment on a role that was made for a cell, and may be dropped when no cell has it any more."""
_PAGE = 500

# No schema, no function, no table; or no right to use them.
_ABSENT = {
    "3F000": "the database has no tenant catalog",
    "42883": "the database has no tenant catalog",
    "42P01": "the database has no tenant catalog",
    "42501": "this role may not read the tenant catalog",
}


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of a driver's error, or of the SQLAlchemy error around it."""
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return state if isinstance(state, str) else None


def resolve(connection: Connection, name: TenantName, *, cluster: str) -> Resolution:
    """Return where the tenant called `name` lives. One query, which the login role may send.

    Raises:
        UnknownTenantError: No tenant has this id or alias.
        CatalogMissingError: There is no control schema, or the role may not use it.
        CatalogVersionError: The catalog is more than one version away from this code.
    """
    try:
        row = connection.execute(query(_FILE, "resolve"), {"name": name}).mappings().one_or_none()
    except DBAPIError as error:
        detail = _ABSENT.get(sqlstate_of(error) or "")
        if detail is None:
            raise
        raise CatalogMissingError(cluster, detail) from error
    if row is None:
        raise CatalogMissingError(cluster)
    check_version(row["catalog_version"], cluster=cluster)
    if row["generation"] is None:
        raise UnknownTenantError(name)
    return Resolution(placement=Placement(**row), limits=Limits(**row), **row)


def check_version(found: int, *, cluster: str) -> None:
    """Raise `CatalogVersionError` unless this code works with a catalog of version `found`.

    One version before and one after are allowed, so that code and catalog can be upgraded in any order
    while both old and new processes run.
    """
    if abs(found - CATALOG_VERSION) > 1:
        raise CatalogVersionError(cluster, found=found, expected=CATALOG_VERSION)


def installation(connection: Connection, *, cluster: str) -> Installation:
    """Return whose catalog this is. Raises `CatalogMissingError` and `CatalogVersionError`."""
    return Installation(**_whose(connection, "installation", cluster=cluster))


def _whose(connection: Connection, name: str, *, cluster: str, **values: Any) -> RowMapping:
    """Return the one row of a query that says, among other things, whose catalog this is."""
    try:
        row = connection.execute(query(_FILE, name), values).mappings().one_or_none()
    except DBAPIError as error:
        detail = _ABSENT.get(sqlstate_of(error) or "")
        if detail is None:
            raise
        raise CatalogMissingError(cluster, detail) from error
    if row is None:
        raise CatalogMissingError(cluster)
    check_version(row["catalog_version"], cluster=cluster)
    return row


def get(connection: Connection, name: TenantName, *, lock: bool = False) -> Tenant:
    """Return the tenant with this id or alias; `lock` holds its row until the transaction ends.

    Raises `UnknownTenantError`.
    """
    generation = connection.execute(
        query(_FILE, "lock_tenant" if lock else "find_tenant"), {"name": name}
    ).scalar_one_or_none()
    # Unless its row is locked, it may be deleted between the two queries.
    tenant = by_generation(connection, generation) if generation is not None else None
    if tenant is None:
        raise UnknownTenantError(name)
    return tenant


def by_generation(connection: Connection, generation: int) -> Tenant | None:
    """Return a tenant by its generation, or None where it was deleted."""
    return next(iter(_page(connection, generation=generation)), None)


def tenants(connection: Connection, *, state: TenantState | None = None, cell: str | None = None) -> Iterator[Tenant]:
    """Yield tenants in the order of their ids, read in pages of 500; memory stays flat."""
    after = ""
    while page := _page(connection, state=state, cell=cell, after=after):
        yield from page
        after = page[-1].tenant_id


def _page(
    connection: Connection,
    *,
    generation: int | None = None,
    state: TenantState | None = None,
    cell: str | None = None,
    after: str = "",
) -> list[Tenant]:
    rows = connection.execute(
        query(_FILE, "tenants"),
        {"generation": generation, "state": state, "cell": cell, "after": after, "page_size": _PAGE},
    ).mappings()
    return [_tenant(row) for row in rows]


def _tenant(row: RowMapping) -> Tenant:
    return Tenant(placement=Placement(**row), **row)


def claim(connection: Connection, name: TenantName | TenantId, generation: int, kind: NameKind) -> None:
    """Give `name` to a tenant.

    Raises `NameReservedError` where it belongs to another one, is a former id, or was released less than
    twice the cache bound ago, while some process may still remember where it led.
    """
    values = {"name": name, "generation": generation, "kind": kind}
    if connection.execute(query(_FILE, "claim_name"), values).scalar_one_or_none() is not None:
        return
    holder = connection.execute(query(_FILE, "name_holder"), {"name": name}).mappings().one()
    if holder["released_at"] is not None:
        why = (
            f"it was released at {holder['released_at']:%Y-%m-%d %H:%M:%S %Z}, "
            f"and may be claimed from {holder['free_at']:%H:%M:%S %Z} on"
        )
    else:
        what = {"id": "the id", "former_id": "a former id, kept for ever,", "alias": "an alias"}[holder["kind"]]
        whose = f"tenant {holder['tenant_id']!r}" if holder["tenant_id"] else "a tenant that was deleted"
        why = f"it is {what} of {whose}"
    raise NameReservedError(name, why)


def limits(connection: Connection, generation: int) -> Limits:
    """Return what a tenant may use at most."""
    row = connection.execute(query(_FILE, "limits"), {"generation": generation}).mappings().one_or_none()
    return NO_LIMITS if row is None else Limits(**row)


def usage(connection: Connection, generation: int | None = None) -> Sequence[RowMapping]:
    """Return for one tenant, or all, the bytes that its schema takes, and its quota."""
    return connection.execute(query(_FILE, "usage"), {"generation": generation}).mappings().all()


def is_tenant_schema(connection: Connection, schema: str) -> bool:
    """Return whether `schema` is some tenant's own."""
    return bool(connection.execute(query(_FILE, "is_tenant_schema"), {"schema": schema}).scalar_one())


def withheld(connection: Connection, generation: int) -> list[dict[str, Any]]:
    """Return what was withheld from a tenant's role; see `mt_paas_db.core.standing`."""
    return list(connection.execute(query(_FILE, "withheld"), {"generation": generation}).scalar_one() or [])


def lock(connection: Connection, generation: int, *, nowait: bool = False) -> bool:
    """Hold a tenant's row until the transaction ends; return whether it is still there."""
    name = "lock_generation_nowait" if nowait else "lock_generation"
    return connection.execute(query(_FILE, name), {"generation": generation}).scalar_one_or_none() is not None


def find(connection: Connection, name: TenantName) -> Tenant | None:
    """Return the tenant with this id or alias, or None."""
    generation = connection.execute(query(_FILE, "find_tenant"), {"name": name}).scalar_one_or_none()
    return by_generation(connection, generation) if generation is not None else None


def begin_tenant(connection: Connection, wanted: TenantName, *, cluster: str) -> tuple[Installation, int | None, int]:
    """Return whose catalog this is, the generation of the tenant called `wanted` or None, and one for a new tenant.

    The last is 0 where there is such a tenant. One query. Raises as `installation`.
    """
    row = _whose(connection, "begin_tenant", cluster=cluster, wanted=wanted)
    return Installation(**row), row["found"], row["fresh"] or 0


def cell(connection: Connection, name: str) -> Cell | None:
    """Return a cell by its name, or None."""
    row = connection.execute(query(_FILE, "cell"), {"name": name}).mappings().one_or_none()
    return None if row is None else Cell(**row)


def cell_loads(connection: Connection, *, login: str, name: str | None = None) -> list[CellLoad]:
    """Return all cells, or one, the oldest first. `login` is the first cell's."""
    rows = connection.execute(query(_FILE, "cell_loads"), {"login": login, "name": name}).mappings()
    return [CellLoad(cell=Cell(**row), **row) for row in rows]


def tenants_in(connection: Connection, cell: str) -> int:
    """Return how many tenants a cell has, in whatever state."""
    return int(connection.execute(query(_FILE, "tenants_in"), {"cell": cell}).scalar_one())


def lock_all(connection: Connection, generations: Sequence[int]) -> None:
    """Hold tenants' rows until the transaction ends. The driver's error 55P03 where somebody else holds one."""
    connection.execute(query(_FILE, "lock_all"), {"generations": list(generations)}).all()


def record_moved(
    connection: Connection, generations: Sequence[int], *, action: str, actor: str, detail: dict[str, Any]
) -> None:
    """Append a line for each of these tenants to the log, with the cell and login that it has now."""
    values = {"generations": list(generations), "action": action, "actor": actor}
    run(connection, "record_moved", **values, detail=json.dumps(detail))


def strays(connection: Connection, *, login: str, generations: Sequence[int] | None = None) -> Sequence[RowMapping]:
    """Return the logins that may take the role of a tenant that has left their cell. `login` is the first cell's."""
    values = {"login": login, "generations": None if generations is None else list(generations)}
    return connection.execute(query(_FILE, "strays"), values).mappings().all()


def settles_in(connection: Connection, generations: Sequence[int]) -> float:
    """Return the seconds until no process can remember where these tenants were before; 0 or less if none can."""
    return float(connection.execute(query(_FILE, "settles_in"), {"generations": list(generations)}).scalar_one())


def unused_logins(connection: Connection, *, login: str) -> list[str]:
    """Return the logins that were made for a cell, and that no cell has and no tenant's role was granted to."""
    values = {"login": login, "description": LOGIN_OF_A_CELL}
    return list(connection.execute(query(_FILE, "unused_logins"), values).scalars())


def all_logins(connection: Connection, *, login: str) -> list[str]:
    """Return the logins of cells that tenants share, and of those that a cell had and that are not dropped yet."""
    values = {"login": login, "description": LOGIN_OF_A_CELL}
    return list(connection.execute(query(_FILE, "all_logins"), values).scalars())


def moving(connection: Connection) -> list[str]:
    """Return the roles of tenants whose former placement some process may still remember."""
    return list(connection.execute(query(_FILE, "moving")).scalars())


def shared_cells(connection: Connection, *, cluster: str) -> list[Cell]:
    """Return the cells that tenants share on a cluster, in the order of their names."""
    rows = connection.execute(query(_FILE, "shared_cells"), {"cluster": cluster}).mappings()
    return [Cell(**row) for row in rows]


def place_tenant(connection: Connection, generation: int, *, cluster: str, size: int) -> Cell | None:
    """Put a tenant into the newest cell that tenants share and that has fewer than `size` of them without it.

    Return the cell, or None where none has room. The caller holds the lock of placement.
    """
    values = {"generation": generation, "cluster": cluster, "size": size}
    row = connection.execute(query(_FILE, "place_tenant"), values).mappings().one_or_none()
    return None if row is None else Cell(**row)


def next_generation(connection: Connection) -> int:
    """Draw a generation. Never drawn again, even if the transaction rolls back."""
    return int(connection.execute(query(_FILE, "next_generation")).scalar_one())


def insert_tenant(
    connection: Connection,
    *,
    tenant_id: TenantId,
    generation: int,
    display_name: str,
    state: TenantState,
    cell: str,
    sql_name: SqlName,
    actor: str | None,
    outcome: str,
    heads: Sequence[str] | None = None,
    applied: Sequence[str] = (),
) -> tuple[Tenant, bool]:
    """Record a new tenant, its creation in the lifecycle log, and claim its id. It has no aliases yet.

    Return the tenant, and whether it is recorded to stand at `heads` already: so it is where somebody has recorded
    before what was `applied` there. If not, `record_revisions` is to follow, last. One query.

    Raises SQLAlchemy's `IntegrityError` where the id is in use, `NameReservedError` as `claim`.
    """
    made = connection.execute(
        query(_FILE, "insert_tenant"),
        {
            "generation": generation,
            "tenant_id": tenant_id,
            "display_name": display_name,
            "state": state,
            "cell": cell,
            "schema_name": sql_name,
            "role_name": sql_name,
            "actor": actor,
            "outcome": outcome,
            "heads": None if heads is None else sorted(heads),
            "applied": sorted(applied),
        },
    )
    row = made.mappings().one()
    if not row["is_named"]:  # a name that is taken, or was released long enough ago
        claim(connection, tenant_id, generation, NameKind.ID)
    return _tenant(row), row["stands"]


def record_revisions(connection: Connection, generation: int, heads: Sequence[str], applied: Sequence[str]) -> None:
    """Record where a tenant stands in the service's Alembic history, in the caller's transaction. One query.

    `applied` is all that was applied to reach `heads`, the heads included. Call it last: a closure that nobody has
    recorded yet makes others who record it wait until this transaction has ended.

    Raises SQLAlchemy's `IntegrityError` where the tenant was deleted meanwhile.
    """
    run(connection, "record_revisions", generation=generation, heads=sorted(heads), applied=sorted(applied))


def run(connection: Connection, name: str, /, **values: Any) -> bool:
    """Execute a named write of ``sql/registry.sql``; return whether it touched a row."""
    return connection.execute(query(_FILE, name), values).rowcount > 0


def record(
    connection: Connection,
    *,
    action: str,
    tenant_id: str,
    generation: int | None,
    actor: str | None = None,
    outcome: str = "done",
    detail: dict[str, Any] | None = None,
) -> None:
    """Append a line to the lifecycle log, in the caller's transaction. `actor` defaults to the session's user."""
    run(
        connection,
        "insert_event",
        actor=actor,
        action=action,
        tenant_id=tenant_id,
        generation=generation,
        outcome=outcome,
        detail=json.dumps(detail or {}, ensure_ascii=False),
    )


def events(connection: Connection, *, name: TenantName | None = None, limit: int = 100) -> list[Event]:
    """Return the newest lines of the lifecycle log, newest first: all, or those of the tenant called `name`."""
    rows = connection.execute(query(_FILE, "events"), {"name": name, "page_size": limit}).mappings()
    return [Event(**row) for row in rows]
