"""What a schema is made of, to compare with another, and in one text: its fingerprint.

Two schemas have the same fingerprint exactly when they are structurally equal. Compared are tables, columns,
constraints, indexes, sequences, views, types, functions, triggers, rules, policies, extended statistics, what was
granted on each, and default privileges; names count, those of constraints and indexes too. Not compared are

- the *order* of a table's columns: one that a revision added stands at the end, where a schema that was made from
  models may have it elsewhere (the columns of a composite type are compared in order);
- rows, a sequence's position, statistics and their targets, comments, storage, compression, tablespaces;
- Alembic's version table, what belongs to an extension, and who owns an object that cannot be granted;
- the inside of operator classes and families, conversions and text search objects: only that they are there.

The schema's own name and its tenant's role count as ``<schema>`` and ``<role>``, also in a function's body or a
literal, as whole words: a body that names its own schema equals the one that names its own, and differs from one
that names another's and from one that names none. So a schema that is called like one of its own tables or columns
shows differences to others that are none; the names this library derives are never such a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from sqlalchemy import Connection, text

from mt_paas_db.catalog.queries import queries, query

VERSION_TABLE = "alembic_version"

_PARAMETER = re.compile(r"(?<![:\w]):(schema|role|version_table)\b")

_GRANTS = re.compile(r"(?:^| )GRANTS [^\n]*\Z")

Structure = Mapping[tuple[str, str], str]
"""Definitions by kind and name, as ``("column", "note.body")``."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not as expected. What is missing was not found, what is unexpected was found."""

    kind: str
    name: str
    change: Literal["missing", "unexpected", "different"]
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.change == "different":
            return f"{self.kind} {self.name} is different\n{_quoted('expected', self.expected)}\n" + _quoted(
                "found", self.found
            )
        definition = self.expected or self.found
        return f"{self.kind} {self.name} is {self.change}" + (f"\n{_quoted('it is', definition)}" if definition else "")


def _quoted(title: str, definition: str | None) -> str:
    margin = f"  {title}: ".ljust(len("  expected: "))
    return margin + (definition or "nothing more to say").replace("\n", "\n" + " " * len(margin))


def prepare_statement(name: str, *, version_table: str = VERSION_TABLE) -> str:
    """Return ``PREPARE <name>(text, text) AS ...``; ``EXECUTE <name>('schema', 'role')`` yields one text.

    That is the fingerprint, or null where there is no such schema. It may be executed in a transaction or outside,
    by any role that may connect. It sets ``search_path`` while it runs and leaves it as it was.

    Keep the *session's* path the same from one execution to the next, and set no other by ``SET``: the server plans
    a prepared statement anew, which takes longer than executing it, when it meets another path than before.
    ``SET plan_cache_mode = force_generic_plan`` on the connection saves the first four plans.
    """
    statement = fingerprint_sql(schema="$1", role="$2", version_table=version_table)
    return f"PREPARE {sql.Identifier(name).as_string(None)}(text, text) AS {statement}"


def fingerprint_sql(*, schema: str, role: str, version_table: str = VERSION_TABLE) -> str:
    """Return the query whose one value is the fingerprint. `schema` and `role` are SQL of type text."""
    return _filled(_fingerprint_query(), schema=schema, role=role, version_table=version_table)


def _filled(statement: str, *, schema: str, role: str, version_table: str) -> str:
    values = {"schema": schema, "role": role, "version_table": sql.Literal(version_table).as_string(None)}
    return _PARAMETER.sub(lambda match: values[match[1]], statement)


def _literals(schema: str, role: str) -> dict[str, str]:
    return {"schema": sql.Literal(schema).as_string(None), "role": sql.Literal(role).as_string(None)}


def fingerprint_on(connection: psycopg.Connection[Any], schema: str, role: str) -> str | None:
    """`fingerprint`, on a connection of the driver's."""
    row = connection.execute(fingerprint_sql(**_literals(schema, role)).encode()).fetchone()
    return row[0] if row else None


def objects_on(connection: psycopg.Connection[Any], schema: str, role: str) -> dict[tuple[str, str], str]:
    """`objects`, on a connection of the driver's."""
    statement = _filled(queries("structure")["objects"], **_literals(schema, role), version_table=VERSION_TABLE)
    return {(kind, name): definition for kind, name, definition in connection.execute(statement.encode())}


def fingerprint(connection: Connection, schema: str, role: str, *, version_table: str = VERSION_TABLE) -> str | None:
    """Return the schema's fingerprint, 64 hexadecimal digits, or None where there is no such schema.

    One statement, in the connection's transaction; reads the catalogs only.
    """
    parameters = {"schema": schema, "role": role, "version_table": version_table}
    found: str | None = connection.execute(text(_fingerprint_query()), parameters).scalar_one()
    return found


def objects(
    connection: Connection, schema: str, role: str, *, version_table: str = VERSION_TABLE
) -> dict[tuple[str, str], str]:
    """Return the definitions of all that the fingerprint is made of; nothing where there is no such schema.

    One statement, in the connection's transaction; reads the catalogs only.
    """
    parameters = {"schema": schema, "role": role, "version_table": version_table}
    rows = connection.execute(query("structure", "objects"), parameters)
    return {(row.kind, row.name): row.definition for row in rows}


def differences(expected: Structure, found: Structure) -> list[Difference]:
    """Return what `found` has not, has besides, and has otherwise than `expected`; sorted by kind and name."""
    unlike = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    return [_difference(key, expected.get(key), found.get(key)) for key in unlike]


def without_grants(structure: Structure) -> dict[tuple[str, str], str]:
    """Return definitions without what is granted: a read-only tenant's role has less, and that is no drift."""
    return {key: _GRANTS.sub("", definition) for key, definition in structure.items()}


def _difference(key: tuple[str, str], expected: str | None, found: str | None) -> Difference:
    if found is None:
        return Difference(*key, "missing", expected, None)
    return Difference(*key, "unexpected" if expected is None else "different", expected, found)


def _fingerprint_query() -> str:
    named = queries("structure")
    return named["fingerprint"].replace("{objects}", named["objects"])
