"""What the suite's tenants share: rows in the user's own shared tables, and tables of the suite's own beside them.

The user's shared tables are filled like the others, and show whether *they* let rows through. What keys, partitions
and statistics give away needs tables whose columns are known: the *probe*, made in the installation's first shared
schema by the same calls that a user's tables get their policies from, and dropped with the run.
"""

# ruff: noqa: S608  # names in composed SQL pass sql.Identifier

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.orm import Session

from mt_paas_db.catalog.queries import ddl, query
from mt_paas_db.isolation.rows import Canary
from mt_paas_db.policies.declarations import declaration_of
from mt_paas_db.policies.statements import share_read_only, share_rows

_RUN = re.compile(r"mt_isolation_([0-9a-f]{8})_\w+")
_KINDS = ("account", "ledger", "journal", "journal_part", "plan")
_BY_ROWS = ("account", "ledger", "journal")

JOURNAL_ROWS = 100
"""Of each tenant: enough for the planner to estimate more than one row."""


@dataclass(frozen=True, slots=True)
class SharedTable:
    """A table whose rows belong to one tenant each; names as SQL writes them."""

    name: str
    column: str

    def of(self, generation: int) -> str:
        """Return the condition on the rows of one tenant."""
        return f"{self.column} = {generation}"


@dataclass(frozen=True, slots=True)
class SharedProbe:
    """The suite's own tables in a shared schema. All names are as SQL writes them.

    Attributes:
        account: Parents of the ledger's rows.
        ledger: A row per tenant, with keys, an exclusion and a foreign key; all lead with the tenant column. Its
            columns `account`, `slot` and `seat` hold the tenant's generation, so that one can ask for another's.
        journal: `JOURNAL_ROWS` rows per tenant, partitioned; its column `kind` holds the generation.
        journal_part: The one partition.
        plan: To be read by all.
    """

    schema: str
    account: str
    ledger: str
    journal: str
    journal_part: str
    plan: str

    @property
    def tables(self) -> tuple[SharedTable, ...]:
        """Those with rows of tenants, children last."""
        return tuple(SharedTable(getattr(self, kind), "tenant") for kind in _BY_ROWS)

    def fill(self, session: Session, canary: Canary, generation: int) -> None:
        """Write a tenant's rows, as the tenant; the server says whose they are."""
        values = {"mark": generation, "rows": JOURNAL_ROWS, "body": canary.text("shared", 1)}
        for statement in (
            f"INSERT INTO {self.account} (id) VALUES (:mark)",
            f"INSERT INTO {self.ledger} (account, slot, seat, body) VALUES (:mark, :mark, :mark, :body)",
            f"INSERT INTO {self.journal} (kind, body) SELECT :mark, :body FROM generate_series(1, :rows)",
        ):
            session.execute(text(statement), values)


def shared_schemas(owner: Connection) -> tuple[str, ...]:
    """Return the installation's shared schemas, as its catalog has them."""
    return tuple(owner.execute(query("isolation", "shared_schemas")).scalar_one())


def make_probe(owner: Connection, schema: str, run: str) -> SharedProbe:
    """Make a run's probe, as the owner."""
    owner.exec_driver_sql(ddl("isolation", "shared_probe", schema=schema, **_names(run)))
    bare = _names(run)
    for kind in _BY_ROWS:
        owner.exec_driver_sql(share_rows(bare[kind], schema, "tenant"))
    owner.exec_driver_sql(share_read_only(bare["plan"], schema))
    written = {kind: sql.Identifier(schema, name).as_string(None) for kind, name in bare.items()}
    return SharedProbe(schema=sql.Identifier(schema).as_string(None), **written)


def drop_probe(owner: Connection, schemas: Iterable[str], run: str) -> None:
    """Drop a run's probe, as the owner, with whatever an attack has hung on it."""
    for schema in schemas:
        for name in _names(run).values():
            dropped = sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(schema, name))
            owner.exec_driver_sql(dropped.as_string(None))


def runs_with_probes(owner: Connection, schemas: Iterable[str]) -> set[str]:
    """Return the runs whose probes are there."""
    names = owner.execute(query("isolation", "tables_of"), {"schemas": list(schemas)}).scalars()
    return {match[1] for match in map(_RUN.fullmatch, names) if match}


def declared_tables(metadata: MetaData) -> dict[str, SharedTable]:
    """Return the user's tables of shared rows by their names in the metadata, parents first."""
    found = {}
    for table in metadata.sorted_tables:
        said = declaration_of(table)
        if said is not None and said.column is not None and table.schema is not None:
            name = sql.Identifier(table.schema, table.name).as_string(None)
            found[table.fullname] = SharedTable(name, sql.Identifier(said.column).as_string(None))
    return found


def delete_rows(owner: Connection, tables: Iterable[SharedTable], generation: int) -> None:
    """Delete a tenant's rows, as the owner, from those tables that are there. `tables` come parents first."""
    for table in reversed(list(tables)):
        if owner.execute(query("isolation", "is_there"), {"table": table.name}).scalar_one():
            owner.exec_driver_sql(f"DELETE FROM {table.name} WHERE {table.of(generation)}")


def _names(run: str) -> dict[str, str]:
    return {kind: f"mt_isolation_{run}_{kind}" for kind in _KINDS}
