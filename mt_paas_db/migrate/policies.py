"""Row policies in revisions: ``op.create_tenant_policy``, ``op.protect`` and their kin, written by autogenerate.

Each operation is one call of a function in the control schema, the same text for every tenant, compiled or online.
Autogenerate asks the server what differs from what the models declare. What they do not say takes nothing away: a
table that lost its declaration keeps its policies, and is named.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alembic import util
from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations, ops
from sqlalchemy import Connection, Table

from mt_paas_db.catalog.queries import query
from mt_paas_db.policies import statements
from mt_paas_db.policies.declarations import KEY, Declaration, declaration_of

_log = logging.getLogger("alembic.mt_paas_db")

OPTION = "mt_paas_db_policies"
"""Of ``context.configure``: a `Compared`. Without it nothing is compared."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What autogenerate is to compare. `guards` is the setting."""

    guards: bool


# -- operations


class PolicyOperation(MigrateOperation):
    """One call. `remarks` are written above it, and `undone_by` into the downgrade: None where nothing undoes it."""

    name: str

    def __init__(self, table_name: str, schema: str | None = None, column: str | None = None) -> None:
        self.table_name = table_name
        self.schema = schema
        self.column = column
        self.remarks: tuple[str, ...] = ()
        self.undone_by: PolicyOperation | None = None

    def statement(self) -> str:
        """Return the SQL."""
        raise NotImplementedError

    def reverse(self) -> MigrateOperation:
        return self.undone_by or Nothing(self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return (self.name, self.schema, self.table_name, *self.remarks)


@Operations.register_operation("create_tenant_policy")
class CreateTenantPolicy(PolicyOperation):
    name = "create_tenant_policy"

    @classmethod
    def create_tenant_policy(
        cls, operations: Operations, table_name: str, *, schema: str, column: str = "tenant"
    ) -> None:
        """Share a table by rows: each tenant sees and writes those that have its generation in `column`."""
        operations.invoke(cls(table_name, schema, column))

    def statement(self) -> str:
        assert self.schema is not None
        return statements.share_rows(self.table_name, self.schema, self.column or "tenant")


@Operations.register_operation("drop_tenant_policy")
class DropTenantPolicy(PolicyOperation):
    name = "drop_tenant_policy"

    @classmethod
    def drop_tenant_policy(
        cls, operations: Operations, table_name: str, *, schema: str, column: str = "tenant"
    ) -> None:
        """Undo `create_tenant_policy`. The table is then what one is that declares nothing: ALL tenants read ALL rows.

        `column` is for those who read the revision.
        """
        operations.invoke(cls(table_name, schema, column))

    def statement(self) -> str:
        assert self.schema is not None
        return statements.share_read_only(self.table_name, self.schema)

    def reverse(self) -> MigrateOperation:
        return CreateTenantPolicy(self.table_name, self.schema, self.column)


@Operations.register_operation("share_read_only")
class ShareReadOnly(PolicyOperation):
    name = "share_read_only"

    @classmethod
    def share_read_only(cls, operations: Operations, table_name: str, *, schema: str) -> None:
        """Share a table by all of its rows: all tenants read them, and none writes."""
        operations.invoke(cls(table_name, schema))

    def statement(self) -> str:
        assert self.schema is not None
        return statements.share_read_only(self.table_name, self.schema)


@Operations.register_operation("protect")
class Protect(PolicyOperation):
    name = "protect"

    @classmethod
    def protect(cls, operations: Operations, table_name: str) -> None:
        """Guard a tenant's own table: whatever was granted, no other tenant touches its rows."""
        operations.invoke(cls(table_name))

    def statement(self) -> str:
        return statements.protect(self.table_name)


@Operations.register_operation("unprotect")
class Unprotect(PolicyOperation):
    name = "unprotect"

    @classmethod
    def unprotect(cls, operations: Operations, table_name: str) -> None:
        """Take the guard away."""
        operations.invoke(cls(table_name))

    def statement(self) -> str:
        return statements.unprotect(self.table_name)

    def reverse(self) -> MigrateOperation:
        return Protect(self.table_name)


class Nothing(MigrateOperation):
    """What undoes an operation whose table goes along with it, or that only mended what had been changed by hand."""

    def __init__(self, schema: str | None) -> None:
        self.schema = schema

    def reverse(self) -> MigrateOperation:
        return self

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("nothing",)


def _carry_out(operations: Operations, operation: PolicyOperation) -> None:
    operations.execute(statements.clause(operation.statement()))


for _kind in (CreateTenantPolicy, DropTenantPolicy, ShareReadOnly, Protect, Unprotect):
    Operations.implementation_for(_kind)(_carry_out)


# -- what a revision says


def _render(context: AutogenContext, operation: PolicyOperation) -> list[str]:
    del context
    arguments = [repr(str(operation.table_name))]
    arguments += [f"{name}={getattr(operation, name)!r}" for name in ("schema", "column") if getattr(operation, name)]
    return [*(f"# {remark}" for remark in operation.remarks), f"op.{operation.name}({', '.join(arguments)})"]


def _render_nothing(context: AutogenContext, operation: Nothing) -> list[str]:
    del context, operation
    return []


for _kind in (CreateTenantPolicy, DropTenantPolicy, ShareReadOnly, Protect, Unprotect):
    renderers.dispatch_for(_kind)(_render)
renderers.dispatch_for(Nothing)(_render_nothing)


# -- what differs


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands on one table of the server."""

    tenant_column: str | None
    guarded: bool
    by_hand: tuple[str, ...]


def compare(context: AutogenContext, upgrade_ops: ops.UpgradeOps, _schemas: set[str | None]) -> None:
    """Alembic's comparator: add the operations that lead from what is on the server to what is declared."""
    wanted: Compared | None = context.opts.get(OPTION)
    connection = context.connection
    if wanted is None or connection is None:
        return
    tables = [t for t in context.sorted_tables if context.run_object_filters(t, t.name, "table", False, None)]  # noqa: FBT003
    home = connection.dialect.default_schema_name
    assert home is not None
    gone = [op for op in upgrade_ops.ops if isinstance(op, ops.DropTableOp)]
    schemas = {home, *(table.schema for table in tables), *(op.schema for op in gone)}
    found = _standing(connection, schemas)
    made = {(op.schema, op.table_name): op for op in upgrade_ops.ops if isinstance(op, ops.CreateTableOp)}
    for made_anew in made.values():
        made_anew.info.pop(KEY, None)  # Alembic would write it into the revision, where it says nothing
    for table in tables:
        new = made.get((table.schema, table.name))
        there = found.get((table.schema or home, table.name))
        if new is None and there is None:
            continue
        operation = _needed(connection, table, wanted, there)
        if operation is None:
            continue
        at = len(upgrade_ops.ops) if new is None else upgrade_ops.ops.index(new) + 1
        upgrade_ops.ops.insert(at, operation)
        for remark in operation.remarks:
            _log.info("Detected %s", remark)
    for dropped in gone:
        at = upgrade_ops.ops.index(dropped)
        upgrade_ops.ops[at:at] = _taken_away(dropped, found.get((dropped.schema or home, dropped.table_name)))


def _standing(connection: Connection, schemas: set[str | None]) -> dict[tuple[str, str], Standing]:
    rows = connection.execute(query("policies", "standing"), {"schemas": sorted(filter(None, schemas))})
    return {(row.nspname, row.relname): Standing(row.tenant_column, row.guarded, tuple(row.by_hand)) for row in rows}


def _needed(connection: Connection, table: Table, wanted: Compared, there: Standing | None) -> PolicyOperation | None:
    """Return what makes one table what it is declared to be; None where it is."""
    said = declaration_of(table)
    operation = _declared(table, said, wanted)
    if operation is None:
        if there is not None and (there.tenant_column is not None or there.guarded):
            _log.warning(
                "%s has policies that nothing declares any more; they stay: say what it is in the model%s",
                table.fullname,
                "" if table.schema else ", or set MT_PAAS_DB_GUARDS",
            )
        return None
    if there is None:  # it is about to be made
        return None if isinstance(operation, ShareReadOnly) else operation
    beside = tuple(f"policy {name!r} of {table.fullname}, beside ours, was written by hand" for name in there.by_hand)
    for remark in beside:
        _log.warning("%s, and stays", remark)
    faults = _faults(connection, operation)
    if not faults:
        return None
    operation.remarks = (*faults, *beside)
    operation.undone_by = _undoing(operation, there, never=any("row security is off" in fault for fault in faults))
    return operation


def _undoing(operation: PolicyOperation, there: Standing, *, never: bool) -> PolicyOperation | None:
    """Return what leads back to what the history had made of the table; what was changed by hand stays mended.

    `never` says that nothing of ours has been there before.
    """
    table, schema, before = operation.table_name, operation.schema, there.tenant_column
    if isinstance(operation, Protect):
        return Unprotect(table) if never else None
    if before is not None:
        return CreateTenantPolicy(table, schema, before) if before != operation.column else None
    if isinstance(operation, CreateTenantPolicy) and never:
        return DropTenantPolicy(table, schema, operation.column)
    return None


def _declared(table: Table, said: Declaration | None, wanted: Compared) -> PolicyOperation | None:
    if table.schema is None:
        return Protect(table.name) if wanted.guards else None
    if said is None:
        return None
    if said.column is not None:
        return CreateTenantPolicy(table.name, table.schema, said.column)
    return ShareReadOnly(table.name, table.schema)


_KINDS: dict[type[PolicyOperation], str] = {
    CreateTenantPolicy: "tenants",
    ShareReadOnly: "everyone",
    Protect: "guarded",
}


def _faults(connection: Connection, operation: PolicyOperation) -> list[str]:
    values = {
        "table": statements.qualified(operation.table_name, operation.schema),
        "kind": _KINDS[type(operation)],
        "tenant_column": operation.column,
    }
    return [str(row.fault) for row in connection.execute(query("policies", "changes"), values)]


def _taken_away(dropped: ops.DropTableOp, there: Standing | None) -> Iterator[PolicyOperation]:
    """Yield what the downgrade, which makes a dropped table again, must not forget."""
    if there is not None and there.tenant_column is not None:
        yield DropTenantPolicy(dropped.table_name, dropped.schema, there.tenant_column)
    elif there is not None and there.guarded:
        yield Unprotect(dropped.table_name)


# After Alembic's own comparison of tables, which from 1.18 on a priority decides, and before that the order of imports.
_priority = getattr(util, "DispatchPriority", None)
comparators.dispatch_for("schema", **({} if _priority is None else {"priority": _priority.LAST}))(compare)
