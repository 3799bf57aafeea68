"""Figures of the whole fleet, asked of the home cluster in one transaction: what no process knows alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mt_paas_db.catalog.queries import query
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.telemetry.exposition import Family

FLEET: dict[str, tuple[str, tuple[str, ...]]] = {
    "mt_paas_db_tenants": ("Tenants by cell and lifecycle state.", ("cell", "tier", "state")),
    "mt_paas_db_cell_size": ("Tenants that a shared cell may have (setting cell_size).", ()),
    "mt_paas_db_revision_tenants": ("Tenants by the Alembic heads that the catalog has recorded.", ("heads",)),
    "mt_paas_db_revision_behind": (
        "Revisions that the tenants who are furthest have applied and those at these heads have not.",
        ("heads",),
    ),
    "mt_paas_db_runs": ("Runs of migrations in the catalog, by state.", ("state",)),
    "mt_paas_db_last_run_tenants": ("Tenants of the last run, by outcome.", ("outcome",)),
    "mt_paas_db_last_run_started_seconds": ("When the last run began, in seconds since 1970.", ()),
    "mt_paas_db_last_run_ended_seconds": ("When the last run ended; absent while it has not.", ()),
    "mt_paas_db_connections": (
        "Connections that the server has of each cell's login, a pooler's included.",
        ("cell", "login_role"),
    ),
    "mt_paas_db_server_connections": ("Connections of all clients of the server.", ()),
    "mt_paas_db_server_connections_max": ("The server's max_connections.", ()),
    "mt_paas_db_database_size_bytes": ("Size of the database.", ()),
    "mt_paas_db_roles": ("Roles of this installation.", ()),
    "mt_paas_db_server_roles": ("Roles of the server, all installations'.", ()),
    "mt_paas_db_membership_strays": (
        "Roles that a cell's login may take although no tenant of the cell that takes sessions has them.",
        (),
    ),
    "mt_paas_db_catalog_version": ("Version of the catalog.", ()),
    "mt_paas_db_tenant_size_bytes": ("Size of the largest tenants, with `--tenants`.", ("tenant",)),
    "mt_paas_db_scrape_duration_seconds": ("How long it took to ask for all this.", ()),
}
"""Each metric: what it says, and its labels. All are gauges. docs/reference/metrics.md is held to it."""


def fleet_metrics(admin: Admin, *, cell_size: int, largest: int = 0) -> tuple[Family, ...]:
    """Return the figures of the fleet, with the sizes of the `largest` tenants. One transaction; reads only.

    Raises as `Admin.transaction`.
    """
    started = time.monotonic()
    with admin.transaction(as_owner=True) as transaction:
        known = dict(_asked(transaction, largest))
    known["mt_paas_db_cell_size"] = [({}, cell_size)]
    known["mt_paas_db_scrape_duration_seconds"] = [({}, time.monotonic() - started)]
    return tuple(Family.of(name, _KIND, says, known.get(name, ())) for name, (says, _) in FLEET.items())


_KIND: Literal["gauge"] = "gauge"
_Samples = list[tuple[Mapping[str, str], float]]


def _asked(transaction: AdminTransaction, largest: int) -> Iterable[tuple[str, _Samples]]:
    def rows(name: str, **values: Any) -> list[Any]:
        return list(transaction.connection.execute(query("metrics", name), values).mappings())

    def samples(asked: list[Any], value: str, **labels: str) -> _Samples:
        return [
            ({label: str(row[column]) for label, column in labels.items()}, row[value])
            for row in asked
            if row[value] is not None
        ]

    yield "mt_paas_db_tenants", samples(rows("tenants"), "tenants", cell="cell", tier="tier", state="state")
    revisions = rows("revisions")
    yield "mt_paas_db_revision_tenants", samples(revisions, "tenants", heads="heads")
    yield "mt_paas_db_revision_behind", samples(revisions, "behind", heads="heads")
    yield "mt_paas_db_runs", samples(rows("runs"), "runs", state="state")
    last = rows("last_run")
    yield "mt_paas_db_last_run_started_seconds", samples(last, "started_at")
    yield "mt_paas_db_last_run_ended_seconds", samples(last, "ended_at")
    yield "mt_paas_db_last_run_tenants", [({"outcome": o}, n) for run in last for o, n in run["outcomes"].items()]
    connections = rows("connections")
    yield "mt_paas_db_connections", samples(connections, "connections", cell="cell", login_role="login_role")
    with transaction.as_oneself():
        server = rows("server", installation=transaction.roles.installation)
    yield "mt_paas_db_server_connections", samples(server, "connections")
    yield "mt_paas_db_server_connections_max", samples(server, "max_connections")
    yield "mt_paas_db_database_size_bytes", samples(server, "database_bytes")
    yield "mt_paas_db_roles", samples(server, "own_roles")
    yield "mt_paas_db_server_roles", samples(server, "roles")
    yield "mt_paas_db_catalog_version", samples(rows("catalog_version"), "catalog_version")
    yield "mt_paas_db_membership_strays", samples(rows("strays"), "count")
    if largest:
        yield "mt_paas_db_tenant_size_bytes", samples(rows("largest", most=largest), "bytes", tenant="tenant_id")
