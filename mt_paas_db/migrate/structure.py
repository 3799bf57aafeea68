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
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql

from mt_paas_db.catalog.queries import queries

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

    @property
    def kind_and_name(self) -> tuple[str, str]:
        """Its key in a `Structure`."""
        return self.kind, self.name

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


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a schema is compared definition by definition. Of all else in the schema the names are.

    Attributes:
        relations: Names of tables, views and sequences, with all that belongs to them; None is all there are.
        besides: What is in no relation: types, functions, default privileges.
    """

    relations: tuple[str, ...] | None = None
    besides: bool = True


WHOLE = Scope()


class Snapshot(NamedTuple):
    """What a schema is made of, and the relation that each of the objects belongs to."""

    objects: Structure
    relations: Mapping[tuple[str, str], str | None]


def changed(before: Snapshot, after: Snapshot) -> Scope:
    """Return what must be compared to know that another schema was changed likewise. Pure."""
    keys = {d.kind_and_name for d in differences(before.objects, after.objects)}
    relations = {snapshot.relations.get(key) for snapshot in (before, after) for key in keys if key in snapshot.objects}
    return Scope(tuple(sorted(filter(None, relations))), besides=None in relations)


def fingerprint_sql(
    *, schema: str, role: str, besides: bool = True, relations: str | None = None, version_table: str = VERSION_TABLE
) -> str:
    """Return the query whose one value is the fingerprint, or null where there is no such schema.

    `schema` and `role` are SQL of type text, `relations` of type text[]; None is all. It may be executed in a
    transaction or outside, by any role that may connect, sets ``search_path`` while it runs and leaves it as it was.

    Prepare it, and keep the *session's* path the same from one execution to the next, setting no other by ``SET``:
    the server plans a prepared statement anew, which takes longer than executing it, when it meets another path than
    before. ``SET plan_cache_mode = force_generic_plan`` on the connection saves the first four plans.
    """
    statement = queries("structure")["fingerprint"].replace(
        "{objects}", _objects_sql(besides=besides, relations=relations)
    )
    return _filled(statement, schema=schema, role=role, version_table=version_table)


def _objects_sql(*, besides: bool, relations: str | None) -> str:
    named = queries("structure")
    return (
        named["objects"]
        .replace("{in_relations}", named["in_relations"])
        .replace("{besides}", named["besides" if besides else "contents"])
        .replace("{in_scope}", "true" if relations is None else f"n.relname = ANY ({relations})")
    )


def _filled(statement: str, *, schema: str, role: str, version_table: str) -> str:
    values = {"schema": schema, "role": role, "version_table": _literal(version_table)}
    return _PARAMETER.sub(lambda match: values[match[1]], statement)


def _literal(value: str | list[str]) -> str:
    return sql.Literal(value).as_string(None)


def fingerprint(
    connection: psycopg.Connection[Any],
    schema: str,
    role: str,
    scope: Scope = WHOLE,
    *,
    version_table: str = VERSION_TABLE,
) -> str | None:
    """Return the fingerprint, 64 hexadecimal digits, of what is in the scope; None where there is no such schema.

    One statement, in the connection's transaction; reads the catalogs only.
    """
    relations = None if scope.relations is None else f"{_literal(list(scope.relations))}::text[]"
    statement = fingerprint_sql(
        schema=_literal(schema),
        role=_literal(role),
        besides=scope.besides,
        relations=relations,
        version_table=version_table,
    )
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def snapshot(
    connection: psycopg.Connection[Any], schema: str, role: str, *, version_table: str = VERSION_TABLE
) -> Snapshot:
    """Return the definitions of all that the fingerprint is made of; nothing where there is no such schema.

    One statement, in the connection's transaction; reads the catalogs only.
    """
    statement = _filled(
        _objects_sql(besides=True, relations=None),
        schema=_literal(schema),
        role=_literal(role),
        version_table=version_table,
    )
    found = connection.execute(statement.encode()).fetchall()
    return Snapshot({(k, name): d for k, name, d, _ in found}, {(k, name): relation for k, name, _, relation in found})


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
