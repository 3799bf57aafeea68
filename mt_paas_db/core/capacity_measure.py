"""Asks a server for the figures that its capacity follows from, and measures what a tenant takes of a backend."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.queries import ddl, query
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.core.capacity import Measured
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.session.pooler import PoolerProfile

_SAMPLE = 8
"""How many tenants are touched to see what one takes."""


def measure(
    admin: Admin,
    settings: Settings,
    *,
    budget: int | None = None,
    processes: int | None = None,
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
) -> Measured:
    """Return the figures of the home cluster. One transaction on a connection of its own; reads only.

    What is given goes before what the server says. Raises as `Admin.transaction`, and `ConfigurationError` for a
    budget of a PgBouncer that the settings do not know of.
    """
    pooler = PoolerProfile.of(settings, admin.cluster).kind
    if budget is not None and pooler == "direct":
        raise ConfigurationError(
            "a budget of server connections is a PgBouncer's, and the settings know of none; "
            f"set MT_PAAS_DB_CLUSTERS__{admin.cluster.upper()}__POOLER=pgbouncer"
        )
    unknown: dict[str, str] = {}
    if disk_bytes is None:
        unknown["disk_bytes"] = "a server does not tell how large its disk is (--disk)"
    with admin.transaction() as transaction:
        server = _row(transaction, "server")
        if server["database_bytes"] is None:
            unknown["database_bytes"] = "the admin may not connect to the database"
        # First of all: what the other questions load is not to be counted.
        tenant_bytes = _tenant_bytes(transaction, unknown)
        if memory_bytes is None:
            memory_bytes = _machine_bytes(transaction, unknown)
        with transaction.as_owner():
            cells = [dict(row) for row in transaction.connection.execute(query("capacity", "cells")).mappings()]
            tables = _row(transaction, "tables")
    return Measured(
        tenants=sum(cell["tenants"] for cell in cells),
        largest_cell=max((cell["tenants"] for cell in cells if not cell["own_login"]), default=0),
        cells=sum(cell["tenants"] > 0 for cell in cells),
        own_logins=sum(cell["tenants"] > 0 for cell in cells if cell["own_login"]),
        version=server["version"] // 10_000,
        connections=server["connections"],
        max_connections=server["max_connections"],
        reserved=server["reserved"],
        pooler=pooler,
        pooling=settings.pooling,
        tier=settings.tier.value,
        pool_size=settings.pool_size,
        cell_size=settings.cell_size,
        max_tenants=_max_tenants(settings) if pooler == "direct" else None,
        locks=server["locks"],
        tables=tables["tables"],
        relations=tables["relations"],
        bytes=int(tables["bytes"]),
        database_bytes=server["database_bytes"],
        catalogs_bytes=server["catalogs_bytes"],
        shared_buffers_bytes=server["shared_buffers_bytes"],
        budget=budget,
        processes=processes,
        tenant_bytes=tenant_bytes,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        unknown=tuple(unknown.items()),
    )


def _row(transaction: AdminTransaction, name: str) -> dict[str, Any]:
    return dict(transaction.connection.execute(query("capacity", name)).mappings().one())


def _ask(transaction: AdminTransaction, name: str) -> Any:
    return transaction.connection.execute(query("capacity", name)).scalar_one()


def _tenant_bytes(transaction: AdminTransaction, unknown: dict[str, str]) -> int | None:
    """Return what a backend holds on to of a tenant, all of whose tables it has planned a query over.

    Triggers and statements that a service prepares come on top.
    """
    connection = transaction.connection
    if not _ask(transaction, "may_measure"):
        unknown["tenant_bytes"] = "a backend's memory is told to superusers and to members of pg_read_all_stats only"
        return None
    with transaction.as_owner():
        sample = [tuple(row) for row in connection.execute(query("capacity", "sample"), {"most": _SAMPLE})]
    tenants = [
        [(schema, table) for _, schema, table in tables] for _, tables in groupby(sample, key=lambda row: row[0])
    ]
    if not tenants:
        unknown["tenant_bytes"] = "no tenant has a table yet"
        return None
    _ask(transaction, "backend_bytes")
    first, *others = tenants  # the first also loads what is common to all
    try:
        with connection.begin_nested(), transaction.as_owner():
            _touch(transaction, first)
            with transaction.as_oneself():
                before = _ask(transaction, "backend_bytes")
            for tables in others:
                _touch(transaction, tables)
            with transaction.as_oneself():
                after = _ask(transaction, "backend_bytes")
    except DBAPIError as error:
        line = str(error.orig).strip().splitlines()[0]
        unknown["tenant_bytes"] = f"the owner could not plan a query over a tenant's tables ({line})"
        return None
    if not others:
        unknown["tenant_bytes"] = "it takes two tenants to see what one more adds"
        return None
    return max(0, int(after) - int(before)) // len(others)


def _max_tenants(settings: Settings) -> int:
    """Return how many tenants a connection of ours serves; one that is not pooled ends with its session."""
    return 1 if settings.pooling == "none" else settings.pool_max_tenants


def _touch(transaction: AdminTransaction, tables: list[tuple[str, str]]) -> None:
    for schema, table in tables:
        transaction.connection.exec_driver_sql(ddl("capacity", "touch", schema=schema, table=table))


def _machine_bytes(transaction: AdminTransaction, unknown: dict[str, str]) -> int | None:
    """Return the memory of the server's machine, where the admin may read its files and it runs on Linux."""
    told = None
    if _ask(transaction, "may_read_files"):
        try:
            with transaction.connection.begin_nested():
                told = _ask(transaction, "machine_bytes")
        except DBAPIError:
            told = None  # no such file, or no Linux
    if told is None:
        unknown["memory_bytes"] = "the server does not tell the memory of its machine (--memory)"
    return None if told is None else int(told)
