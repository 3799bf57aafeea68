"""Named SQL statements from ``sql/*.sql``.

A file holds statements, each under a line ``-- name: some_name``. In queries values are bound
with ``:value``; in DDL, which binds none, identifiers and literals stand as ``{part}`` and are quoted by `ddl`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from psycopg import sql
from sqlalchemy import TextClause, text

from mt_paas_db.catalog.identifiers import SqlName
from mt_paas_db.catalog.resources import resource_path

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def queries(file: str) -> Mapping[str, str]:
    """Return the statements of ``sql/<file>.sql`` by name. Raises `FileNotFoundError` for another file."""
    parts = _NAME.split(resource_path("sql", f"{file}.sql").read_text(encoding="utf-8"))
    return {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def query(file: str, name: str) -> TextClause:
    """Return a statement that holds no identifiers to fill, ready to execute with bound values."""
    return text(queries(file)[name])


def ddl(file: str, name: str, /, **parts: SqlName | str | sql.Composable) -> str:
    """Return a statement with its ``{parts}`` filled in: a string as a quoted identifier, all else as it composes.

    Execute it with `Connection.exec_driver_sql`: it binds no values.
    """
    composed = {key: part if isinstance(part, sql.Composable) else sql.Identifier(part) for key, part in parts.items()}
    return sql.SQL(queries(file)[name]).format(**composed).as_string(None)
