"""Checks of the cells: none holds more than it should, by number, memory and connection; what has moved has settled."""

from __future__ import annotations

from collections.abc import Iterator

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.queries import query
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.core.checks import Finding, Severity, check
from mt_paas_db.core.patient import Patient
from mt_paas_db.core.placement import FIRST_VERSION
from mt_paas_db.session.pooler import PoolerProfile
from mt_paas_db.telemetry.backend import CELL_BYTES, MB, TABLE_BYTES_AT_MOST


@check("cells.size", "no cell has more tenants than fit, and none that is full would fill a server process")
def _size(patient: Patient) -> Iterator[Finding]:
    size = patient.settings.cell_size
    with patient.catalog():
        beyond = patient.ask("cells_beyond", cluster=patient.cluster, size=size)
        newest = patient.ask("newest_tenant")
    for row in beyond:
        yield Finding(
            Severity.WARNING,
            f"cell {row['name']!r} has {row['tenants']} tenants, more than {size}: each of its server processes may "
            "come to keep what it has read of all of them",
            f"mt-paas-db cell split {row['name']}",
        )
    if not newest:
        return
    each, how = _bytes_of_a_tenant(patient, newest[0]["schema_name"])
    if size * each > CELL_BYTES:
        yield Finding(
            Severity.WARNING,
            f"a full cell of {size} tenants would add {size * each / MB:.0f} MB to each of its server processes: one "
            f"tenant takes {each / MB:.2f} MB ({how})",
            f"set MT_PAAS_DB_CELL_SIZE={max(1, CELL_BYTES // each)}, and split the cells that are over",
        )


def _bytes_of_a_tenant(patient: Patient, schema: str) -> tuple[int, str]:
    """Return what a server process keeps of one tenant, and how that is known."""
    tables = [row["name"] for row in patient.ask("tables_of", schema=schema)]
    if not patient.ask("may_see_memory")[0]["may"]:
        return len(tables) * TABLE_BYTES_AT_MOST, f"estimated for {len(tables)} tables"
    with patient.fresh() as step:
        # The first tables pay for what all have in common.
        took = 0
        for names in (["mt_paas.tenant", "mt_paas.event"], tables):
            before = _memory(step)
            with step.as_owner() as connection:
                for name in names:
                    connection.exec_driver_sql(f"SELECT FROM {name} LIMIT 0")
            took = _memory(step) - before
    return took, "measured"


def _memory(step: AdminTransaction) -> int:
    return int(step.connection.execute(query("checks", "backend_memory")).scalar_one())


@check("cells.connections", "a connection lasts for all tenants of a full cell")
def _connections(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    size, most = settings.cell_size, settings.pool_max_tenants
    if settings.pooling == "none" or PoolerProfile.of(settings, patient.cluster).kind != "direct":
        return  # no connection is kept, or the pooler's last, whoever they serve
    if most < size:
        yield Finding(
            Severity.WARNING,
            f"a connection is closed after {most} tenants, and a full cell has {size}: its connections are closed and "
            "opened again and again",
            f"set MT_PAAS_DB_POOL_MAX_TENANTS={size}, or a smaller MT_PAAS_DB_CELL_SIZE",
        )


@check("cells.settled", "who was moved to another cell is reached by the new login alone")
def _settled(patient: Patient) -> Iterator[Finding]:
    login = patient.roles.login
    with patient.catalog():
        if registry.installation(patient.admin.connection, cluster=patient.cluster).catalog_version < FIRST_VERSION:
            return
        rows = patient.ask("settling", login=login)
        unused = registry.unused_logins(patient.admin.connection, login=login)
    for row in rows:
        if row["closed"]:
            yield Finding(
                Severity.ERROR,
                f"{row['login']!r} may still take the roles of {row['closed']} tenants of other cells that are closed",
                "mt-paas-db cell settle",
            )
        if row["due"]:
            yield Finding(
                Severity.WARNING,
                f"{row['login']!r} may still take the roles of {row['due']} tenants that are in other cells now",
                "mt-paas-db cell settle",
            )
    for name in unused:
        yield Finding(Severity.WARNING, f"login {name!r} is of no cell any more", "mt-paas-db cell settle")
