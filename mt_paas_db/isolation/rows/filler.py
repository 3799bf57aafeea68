"""The filler: a few recognisable rows in every table of a tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, ForeignKeyConstraint, MetaData, Table, and_, select, text, update
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.rows.canary import Canary
from mt_paas_db.isolation.rows.candidates import Cell, choose
from mt_paas_db.isolation.rows.errors import Failure, RowsError, TableError, refusal_of
from mt_paas_db.isolation.rows.factories import Factory
from mt_paas_db.isolation.rows.ground import TABLE_KINDS, TableFacts, survey
from mt_paas_db.isolation.rows.links import Link, Row, ends, foreign_keys
from mt_paas_db.isolation.rows.order import Step, arrange
from mt_paas_db.isolation.rows.table import TableFiller

_KINDS = {"v": "a view", "m": "a materialized view"}


class Filled(dict[str, list[dict[str, Any]]]):
    """The rows that were inserted, by table (with the schema of a shared one): column name to value, as read back.

    Attributes:
        notes: What was not done, by table: views and read-only shared tables that were left alone, tables whose
            keys leave room for fewer rows than asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, str] = {}


class Filler:
    """Fills the tables of a service's models with rows that are recognised wherever they turn up.

    Args:
        metadata: The models', as `TenantManager` takes them.
        shared_schemas: Schemas that tenants share. Their tables are read, for foreign keys, and not written.
        factories: Values that cannot be guessed, by table name (`Factories`).
        writable: Shared tables, or whole shared schemas, in which a tenant may write rows of its own.
        skip: Tables to leave alone.

    Raises `ConfigurationError` where a table that is named is not among the models.
    """

    def __init__(
        self,
        metadata: MetaData,
        *,
        shared_schemas: Collection[str] = (),
        factories: Mapping[str, Factory] | None = None,
        writable: Collection[str] = (),
        skip: Collection[str] = (),
    ) -> None:
        self._metadata = metadata
        self._factories = dict(factories or {})
        self._skip = frozenset(skip)
        self._writable = frozenset(writable)
        known = {*metadata.tables, *shared_schemas}
        strays = sorted({*self._factories, *self._skip, *self._writable} - known)
        if strays:
            raise ConfigurationError(f"there is no table {', '.join(map(repr, strays))} among the models")
        declared = {table.schema for table in metadata.tables.values() if table.schema}
        if declared - set(shared_schemas):
            missing = ", ".join(sorted(declared - set(shared_schemas)))
            raise ConfigurationError(f"tables stand in schemas that were not named as shared_schemas: {missing}")

    def fill(self, session: Session | Connection, canary: Canary, *, rows: int = 3, first: int = 1) -> Filled:
        """Insert `rows` rows into every table, in the caller's transaction, and return them.

        Runs through the session's own connection, with no more rights than it has. Rows are numbered from `first`;
        to fill a tenant again, go on with higher numbers. Constraints that can be deferred are checked before this
        returns, and from then on at each statement of the transaction.

        Raises:
            RowsError: Some table cannot be filled. Nothing was left; the transaction can be used.
            ConfigurationError: A factory names a column that its table has not.
        """
        connection = session.connection() if isinstance(session, Session) else session
        with connection.begin_nested():
            return _Filling(self, connection, canary, range(first, first + rows)).run()

    def _filled_by_tenants(self, table: Table) -> bool:
        if table.fullname in self._skip:
            return False
        return table.schema is None or bool({table.schema, table.fullname} & self._writable)


@dataclass
class _Filling:
    """One call of `Filler.fill`."""

    filler: Filler
    connection: Connection
    canary: Canary
    numbers: range

    def __post_init__(self) -> None:
        tables = list(self.filler._metadata.tables.values())
        self._facts = survey(self.connection, tables)
        self._links = {table: foreign_keys(table) for table in tables}
        self._rows: dict[Table, list[Row]] = {}
        self._failed: dict[Table, Failure] = {}
        self._filled = Filled()

    def run(self) -> Filled:
        chosen = [table for table in self.filler._metadata.tables.values() if self._is_chosen(table)]
        order = arrange(chosen, self._links, nullable=self._nullable, deferrable=lambda key: bool(key.deferrable))
        for table in order.stuck:
            reason = "it is in a cycle of foreign keys, or refers to one, and none may be NULL or DEFERRABLE"
            self._failed[table] = Failure(table.fullname, reason)
        later = [key for step in order.steps for key in step.postponed]
        deferred = [key for key in later if not self._nullable(key)]
        if deferred:
            self.connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        for step in order.steps:
            self._fill(step)
        if self._failed:
            raise RowsError(list(self._failed.values()))
        for key in later:
            self._connect(key)
        if deferred:
            self._check_now(deferred)
        for step in order.steps:
            rows = self._rows[step.table]
            self._filled[step.table.fullname] = [{column.name: row[column] for column in row} for row in rows]
        return self._filled

    def _is_chosen(self, table: Table) -> bool:
        """Return whether `table` is to be filled; note why not. What is left alone may still be referred to."""
        facts = self._facts.get(table)
        kind = facts.kind if facts else ""
        if not self.filler._filled_by_tenants(table):
            self._filled.notes[table.fullname] = (
                "left out" if table.fullname in self.filler._skip else "shared, read only"
            )
        elif kind in _KINDS:
            self._filled.notes[table.fullname] = f"{_KINDS[kind]}, shows what its tables hold"
        elif kind not in TABLE_KINDS:
            reason = "it is not there, or the tenant may not see it; migrate the tenant, or leave the table out"
            self._failed[table] = Failure(table.fullname, reason)
        else:
            return True
        return False

    # -- one table

    def _fill(self, step: Step) -> None:
        table, links, own, nulled, given = step.table, [], [], set[Column[Any]](), list[ForeignKeyConstraint]()
        for key in self._links[table]:
            columns, targets = ends(key)
            if key in step.postponed:
                if self._nullable(key):
                    nulled |= self._free(key)
                else:
                    given.append(key)
            elif key.referred_table is table:
                own.append((columns, targets))
                if len(columns) > 1 and self._nullable(key):
                    nulled |= self._free(key)
            elif rows := self._rows_of(key.referred_table, targets):
                links.append(Link(columns, targets, rows, frozenset(self._free(key))))
            elif self._nullable(key):
                nulled |= self._free(key)
            else:
                self._block(table, key)
                return
        live = {column for link in links for column in link.columns}
        filler = TableFiller(
            self.connection,
            table,
            self._facts[table],
            self.canary,
            # A composite key with a NULL in it refers to nothing, whatever its other columns hold.
            links=[link for link in links if not set(link.columns) & (nulled - live)],
            own=[its for its in own if not set(its[0]) & nulled],
            nulled=frozenset(nulled - live),
            given=lambda n: {column: value for key in given for column, value in self._predicted(key, n)},
            factory=self.filler._factories.get(table.fullname),
        )
        try:
            self._rows[table] = filler.fill(self.numbers)
        except TableError as error:
            self._failed[table] = error.failure
        if filler.note:
            self._filled.notes[table.fullname] = filler.note

    def _rows_of(self, table: Table, columns: Iterable[Column[Any]]) -> list[Row]:
        """Return the rows that were inserted, or some of those that are there of a table that is not filled."""
        if table in self._rows or table in self._failed or table not in self._facts:
            return self._rows.get(table, [])
        found = self.connection.execute(select(*dict.fromkeys(columns)).limit(len(self.numbers)))
        return [{column: row._mapping[column] for column in columns} for row in found]

    def _block(self, table: Table, key: ForeignKeyConstraint) -> None:
        target, names = key.referred_table, tuple(column.name for column in key.columns)
        if target in self._failed:
            failure = Failure(
                table.fullname, f"it refers to {target.fullname!r}, which has no rows", names, blocked=True
            )
        else:
            why = self._filled.notes.get(target.fullname, "not there")
            reason = f"it refers to {target.fullname!r}, which is empty and not filled here ({why}); fill it first"
            failure = Failure(table.fullname, reason, names)
        self._failed[table] = failure

    def _predicted(self, key: ForeignKeyConstraint, n: int) -> Iterable[tuple[Column[Any], Any]]:
        """Yield what the row that will be referred to will probably hold; what it does hold is written in the end."""
        for column, target in zip(*ends(key), strict=True):
            facts = self._facts[key.referred_table].columns[target.name]
            cell = Cell(
                self.canary, f"{target.table.name}.{target.name}", n, facts.base, self.connection.dialect,
                length=facts.length, precision=facts.precision, scale=facts.scale,
            )  # fmt: skip
            yield column, choose(target.type, cell).values[0]

    # -- foreign keys that had to wait

    def _connect(self, key: ForeignKeyConstraint) -> None:
        """Let rows refer to those that came after them; where a check forbids it, they stay as they are."""
        table, (columns, targets) = key.table, ends(key)
        identity = list(table.primary_key.columns)
        link = Link(columns, targets, self._rows.get(key.referred_table, []))
        nullable = self._nullable(key)
        for n, row in enumerate(self._rows[table], 1):
            for wanted in link.options(n) if identity else []:
                fixed = {
                    c: v for c, v in row.items() if c in wanted and (c.primary_key or (nullable and v is not None))
                }
                if any(wanted[column] != value for column, value in fixed.items()):
                    continue
                written = {column: value for column, value in wanted.items() if column not in fixed}
                where = and_(*(column == row[column] for column in identity))
                if self._sent(update(table).where(where).values(written)):
                    self._rows[table][n - 1] = {**row, **written}
                    break

    def _sent(self, statement: Any) -> bool:
        try:
            with self.connection.begin_nested():
                self.connection.execute(statement)
        except StatementError as error:
            refusal_of(error)
            return False
        return True

    def _check_now(self, keys: Iterable[ForeignKeyConstraint]) -> None:
        try:
            with self.connection.begin_nested():
                self.connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        except StatementError as error:
            refusal = refusal_of(error)
            failures = {
                key.table: Failure(
                    key.table.fullname,
                    f"its rows and those of {key.referred_table.fullname!r} refer to each other, and do not fit",
                    tuple(column.name for column in key.columns),
                    refusal.constraint,
                    refusal.said,
                )
                for key in keys
            }
            raise RowsError(list(failures.values())) from error

    # -- facts

    def _nullable(self, key: ForeignKeyConstraint) -> bool:
        return bool(self._free(key))

    def _free(self, key: ForeignKeyConstraint) -> set[Column[Any]]:
        """Return the columns of a foreign key that may be NULL."""
        facts = self._facts.get(key.table, TableFacts(""))
        return {c for c in key.columns if c.name in facts.columns and not facts.columns[c.name].not_null}
