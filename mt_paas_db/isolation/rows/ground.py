"""What the server knows of the tables that are to be filled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table

from mt_paas_db.catalog.queries import query

_FILE = "rows"
TABLE_KINDS = frozenset("rpf")
_SIZED = frozenset({"character varying", "bpchar", '"bit"', "bit varying"})
PARTITION_BOUND = "(partition bounds)"
"""The name of the check that a row of a partitioned table fits one of its partitions."""


@dataclass(frozen=True)
class ColumnFacts:
    """One column.

    Attributes:
        name: Its name.
        base: Its type, below domains and arrays and without length: ``character varying``.
        value_type: The same, but an array is one.
        length: Of a character or bit type that has one.
        precision: Of a numeric that has one; and its scale.
        not_null: Whether NULL is refused, also by a domain.
        identity: ``a`` for GENERATED ALWAYS, ``d`` for BY DEFAULT, else empty.
        generated: Whether the server computes it.
        expression: Its default, or what it is computed from.
    """

    name: str
    base: str
    value_type: str
    length: int | None
    precision: int | None
    scale: int
    not_null: bool
    identity: str
    generated: bool
    expression: str | None


@dataclass(frozen=True)
class Check:
    """A condition on rows as the server deparses it; one of a domain speaks of VALUE."""

    name: str
    columns: frozenset[str]
    expression: str
    of_domain: bool


@dataclass(frozen=True)
class TableFacts:
    """One table, view or other relation.

    Attributes:
        kind: ``pg_class.relkind``.
        columns: By name.
        checks: What rows must satisfy, domains' and partitions' conditions included.
        keys: The columns of each constraint and unique index, by its name.
    """

    kind: str
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    keys: dict[str, frozenset[str]] = field(default_factory=dict)


def survey(connection: Connection, tables: Iterable[Table]) -> dict[Table, TableFacts]:
    """Return what is there of `tables`, found on the search path; those that are not there are left out."""
    preparer = connection.dialect.identifier_preparer
    names = {preparer.format_table(table): table for table in tables}
    found = connection.execute(query(_FILE, "relations"), {"tables": list(names)}).all()
    facts = {row.oid: TableFacts(row.kind) for row in found}
    oids = {"oids": list(facts)}
    for row in connection.execute(query(_FILE, "columns"), oids):
        facts[row.oid].columns[row.name] = _column(row)
    for row in connection.execute(query(_FILE, "checks"), oids):
        facts[row.oid].checks.append(Check(row.name, frozenset(row.columns), row.expression, row.of_domain))
    for row in connection.execute(query(_FILE, "keys"), oids):
        facts[row.oid].keys[row.name] = frozenset(row.columns)
    for row in connection.execute(query(_FILE, "partitions"), oids):
        its = facts[row.oid]
        its.checks.append(
            Check(PARTITION_BOUND, mentioned(row.expression, its.columns), row.expression, of_domain=False)
        )
    return {names[row.name]: facts[row.oid] for row in found}


def mentioned(expression: str, columns: Mapping[str, Any]) -> frozenset[str]:
    """Return which of `columns` an expression mentions, or seems to."""
    quoted = {name: re.escape(name.replace('"', '""')) for name in columns}
    return frozenset(
        name for name, part in quoted.items() if re.search(rf'(?<![\w"]){part}(?![\w"])|"{part}"', expression)
    )


def _column(row: Any) -> ColumnFacts:
    sized = row.typmod >= 0
    numeric = sized and row.base == "numeric"
    with_length = sized and row.base in _SIZED
    scale = (row.typmod - 4) & 0x7FF if numeric else 0
    return ColumnFacts(
        name=row.name,
        base=row.base,
        value_type=row.value_type,
        length=(row.typmod - (0 if "bit" in row.base else 4)) if with_length else None,
        precision=(row.typmod - 4) >> 16 if numeric else None,
        scale=scale - 0x800 if scale >= 0x400 else scale,  # eleven bits with a sign
        not_null=row.not_null,
        identity=row.identity,
        generated=bool(row.generated),
        expression=row.expression,
    )
