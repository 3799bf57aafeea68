"""The service's models, as what one tenant gets and what all share.

A table without a schema is a tenant's own. A table in one of the installation's shared schemas is made once.
Any other schema is refused: it would put one tenant's rows where the next tenant's session cannot, or must
not, find them.
"""

from __future__ import annotations

import importlib
from typing import Any

from sqlalchemy import Connection, MetaData, Table, create_mock_engine
from sqlalchemy.types import SchemaType

from mt_paas_db.errors import ConfigurationError


def load_models(path: str) -> MetaData:
    """Return the `MetaData` at ``package.module:attribute``, which may be a declarative base.

    Raises `ConfigurationError` where there is none.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in (attribute or "Base").split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"models {path!r} cannot be loaded ({error}); write package.module:Base") from error
    return metadata_of(found)


def metadata_of(models: Any) -> MetaData:
    """Return `models` if it is a `MetaData`, else its ``metadata``. Raises `ConfigurationError`."""
    metadata = models if isinstance(models, MetaData) else getattr(models, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise ConfigurationError(f"models must be a MetaData or a declarative base, got {type(models).__name__}")
    return metadata


class Models:
    """The DDL of one service's models. Compiled once; `shared_schemas` come from the settings."""

    def __init__(self, metadata: MetaData, *, shared_schemas: tuple[str, ...]) -> None:
        strays = sorted({t.schema for t in metadata.tables.values() if t.schema} - set(shared_schemas))
        if strays:
            raise ConfigurationError(
                f"the models name schemas that are not shared_schemas of this installation: {', '.join(strays)}; "
                "leave the schema out for a tenant's own table, or declare it shared"
            )
        self._metadata = metadata
        self._shared_schemas = frozenset(shared_schemas)
        self._tenant_ddl: str | None = None

    def _tables(self, *, shared: bool) -> list[Table]:
        return [table for table in self._metadata.sorted_tables if bool(table.schema) == shared]

    def tenant_ddl(self) -> str:
        """Return what makes one tenant's tables and types, unqualified: the path decides where."""
        if self._tenant_ddl is None:
            statements: list[str] = []

            def collect(element: Any, *_: Any, **__: Any) -> None:
                owner = getattr(element, "element", None)
                if getattr(owner, "schema", None) not in self._shared_schemas:
                    statements.append(str(element.compile(dialect=engine.dialect)).strip())

            engine = create_mock_engine("postgresql+psycopg://", collect)
            self._metadata.create_all(engine, tables=self._tables(shared=False), checkfirst=False)
            self._tenant_ddl = ";\n".join(statements)
        return self._tenant_ddl

    def create_shared(self, connection: Connection) -> None:
        """Create the shared types and tables that do not exist yet, in the caller's transaction."""
        for type_ in self._shared_types():
            type_.create(connection, checkfirst=True)
        # A copy, because create_all makes every type of its MetaData, also the tenants' own.
        shared = MetaData()
        for table in self._tables(shared=True):
            table.to_metadata(shared)
        shared.create_all(connection, checkfirst=True)

    def _shared_types(self) -> list[Any]:
        found: dict[tuple[str, str], Any] = {}
        for table in self._metadata.sorted_tables:
            for column in table.columns:
                type_: Any = getattr(column.type, "item_type", column.type)
                if isinstance(type_, SchemaType) and type_.schema in self._shared_schemas:
                    found.setdefault((str(type_.schema), str(type_.name)), type_)
        return list(found.values())
