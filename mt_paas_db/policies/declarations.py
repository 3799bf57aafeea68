"""What a model says of its table: whose rows they are. It stands in the table's ``info``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import BigInteger, Table, text

from mt_paas_db.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.orm import MappedColumn

KEY = "mt_paas_db"
"""Of the declaration in a table's ``info``. Its value is plain, as Alembic writes it into revisions."""

Kind = Literal["tenants", "everyone", "own"]
"""Shared, each tenant its own rows; shared, to be read by all; each tenant its own table."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one table is. `column` is the tenant column of rows that tenants share a table for."""

    kind: Kind
    column: str | None = None


def shared(column: str = "tenant") -> dict[str, Any]:
    """Say that a table of a shared schema holds rows of all tenants, of which each sees, and writes, its own.

    The ``info`` of a table, as in ``__table_args__ = {"schema": "shared", "info": shared()}``; to be merged with
    other entries, if there are any. `column` is the one that says whose a row is: see `tenant_column`.
    """
    return {KEY: {"kind": "tenants", "column": column}}


def reference() -> dict[str, Any]:
    """Say that all tenants read all rows of a shared schema's table, and none writes them: plans, languages ..."""
    return {KEY: {"kind": "everyone"}}


def own() -> dict[str, Any]:
    """Say that each tenant has a table of its own; what a table without a schema is that says nothing."""
    return {KEY: {"kind": "own"}}


def tenant_column(**options: Any) -> MappedColumn[int]:
    """Return the column that says whose a row is: the tenant's generation, which no other tenant will ever have.

    The server fills it in, and keeps it as it is, so that a model need not know it. `options` are passed on to
    `mapped_column`; the name is the attribute's, and `shared` must be told any other than ``tenant``.
    """
    from sqlalchemy.orm import mapped_column  # a fifth of the time that a process for revisions takes to start

    return mapped_column(BigInteger, server_default=text("mt_paas.tenant()"), nullable=False, **options)


def declaration_of(table: Table) -> Declaration | None:
    """Return what was said of a table; None where nothing was.

    Raises `ConfigurationError` where it cannot be so.
    """
    plain = table.info.get(KEY)
    if plain is None:
        return None
    try:
        said = Declaration(**plain)
    except TypeError:
        raise ConfigurationError(
            f"table {table.fullname!r}: info[{KEY!r}] is for shared(), reference() and own() of mt_paas_db.policies"
        ) from None
    if said.kind == "own" and table.schema:
        raise ConfigurationError(
            f"table {table.fullname!r} is declared as each tenant's own, and names a schema; leave the schema out"
        )
    if said.kind != "own" and not table.schema:
        raise ConfigurationError(
            f"table {table.fullname!r} is declared as shared, and names no schema; name one of shared_schemas"
        )
    if said.column is not None:
        _check_column(table, said.column)
    return said


def _check_column(table: Table, name: str) -> None:
    column = next((column for column in table.columns if column.name == name), None)
    if column is None:
        raise ConfigurationError(
            f"table {table.fullname!r} is shared by tenants, and has no column {name!r} that says whose a row is; "
            f"add `{name}: Mapped[int] = tenant_column()`, or name another with shared(...)"
        )
    if not isinstance(column.type, BigInteger) or column.nullable:
        raise ConfigurationError(
            f"column {name!r} of {table.fullname!r} says whose a row is, and must be BIGINT NOT NULL; "
            "declare it with tenant_column()"
        )
