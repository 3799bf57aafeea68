"""Checks of the cells: none holds more than it should, by number and by memory, and what has moved has settled."""

from __future__ import annotations

from collections.abc import Iterator

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.queries import query
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.core.checks import Finding, Severity, check
from mt_paas_db.core.patient import Patient
from mt_paas_db.core.placement import FIRST_VERSION

_MOST_MB = 48.0
"""What the tenants of a cell may add to each of its server processes."""

_MB_OF_A_TABLE = 0.53 / 20
"""Where it cannot be measured: the higher of 0.27 to 0.53 MB for 20 tables, on PostgreSQL 15 to 18."""

_MB = 1024 * 1024


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
    mb, how = _mb_of_a_tenant(patient, newest[0]["schema_name"])
    if size * mb > _MOST_MB:
        yield Finding(
            Severity.WARNING,
            f"a full cell of {size} tenants would add {size * mb:.0f} MB to each of its server processes: one tenant "
            f"takes {mb:.2f} MB ({how})",
            f"set MT_PAAS_DB_CELL_SIZE={max(1, int(_MOST_MB / mb))}, and split the cells that are over",
        )


def _mb_of_a_tenant(patient: Patient, schema: str) -> tuple[float, str]:
    """Return what a server process keeps of one tenant, in MB, and how that is known."""
    tables = [row["name"] for row in patient.ask("tables_of", schema=schema)]
    if not patient.ask("may_see_memory")[0]["may"]:
        return len(tables) * _MB_OF_A_TABLE, f"estimated for {len(tables)} tables"
    with patient.fresh() as step:
        # The first tables pay for what all have in common.
        took = 0
        for names in (["mt_paas.tenant", "mt_paas.event"], tables):
            before = _memory(step)
            with step.as_owner() as connection:
                for name in names:
                    connection.exec_driver_sql(f"SELECT FROM {name} LIMIT 0")
            took = _memory(step) - before
    return took / _MB, "measured"


def _memory(step: AdminTransaction) -> int:
    return int(step.connection.execute(query("checks", "backend_memory")).scalar_one())


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
