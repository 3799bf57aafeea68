"""The statements that bring about what is declared. Each is a call, the same text for every tenant, and idempotent."""

from __future__ import annotations

from sqlalchemy import Table, TextClause, text
from sqlalchemy.dialects import postgresql

from mt_paas_db.policies.declarations import declaration_of

DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # a percent sign stays single


def protect(table: str) -> str:
    """Guard a tenant's own table, which the path leads to."""
    return f"SELECT mt_paas.protect({_regclass(table, None)})"


def unprotect(table: str) -> str:
    """Take the guard away."""
    return f"SELECT mt_paas.unprotect({_regclass(table, None)})"


def share_rows(table: str, schema: str, column: str) -> str:
    """Open a shared table to all tenants, each to its own rows."""
    return f"SELECT mt_paas.share_rows({_regclass(table, schema)}, {_literal(column)})"


def share_read_only(table: str, schema: str) -> str:
    """Open all rows of a shared table to all tenants, to be read."""
    return f"SELECT mt_paas.share_read_only({_regclass(table, schema)})"


def sharing(table: Table) -> str | None:
    """Return what brings about that a table of a shared schema is what it is declared to be; None for no declaration.

    One that says nothing is left as it is: nothing that stands on the server is taken away by silence.
    """
    said = declaration_of(table)
    if said is None or table.schema is None:
        return None
    if said.column is not None:
        return share_rows(table.name, table.schema, said.column)
    return share_read_only(table.name, table.schema)


def clause(statement: str) -> TextClause:
    """Return a statement that SQLAlchemy sends, or writes down, as it is: colons name no parameters."""
    return text(statement.replace(":", "\\:"))


def qualified(table: str, schema: str | None) -> str:
    """Return a table's name as SQL writes it."""
    return ".".join(DIALECT.identifier_preparer.quote(part) for part in (schema, table) if part)


def _regclass(table: str, schema: str | None) -> str:
    return _literal(qualified(table, schema))


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
