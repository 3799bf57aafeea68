"""The service's models, as what one tenant gets and what all share.

A table without a schema is a tenant's own. A table in one of the installation's shared schemas is made once.
Any other schema is refused: it would put one tenant's rows where the next tenant's session cannot, or must
not, find them. The same holds for the types and sequences that tables use.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ARRAY, Column, Connection, Dialect, Enum, MetaData, Sequence, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.named_types import NamedType
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.exc import DBAPIError, NoReferenceError, SQLAlchemyError
from sqlalchemy.types import SchemaType, TypeDecorator

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.policies.review import tell
from mt_paas_db.policies.statements import clause, protect, sharing

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]  # says what a type is on this server

_writing = threading.RLock()
"""Held while DDL is written: SQLAlchemy 2.0 adds listeners to a MetaData even as it goes through them."""


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
    """The DDL of one service's models. `shared_schemas` and `guards` come from the settings.

    What the models leave unsaid, and what their keys give away, is logged once; where it must be `strict`, refused.

    Raises `ConfigurationError` where the models cannot be told apart into what is shared and what is not. The
    models are looked at once more when DDL is made of them: modules imported meanwhile may have added some.
    """

    def __init__(
        self, metadata: MetaData, *, shared_schemas: tuple[str, ...], guards: bool = False, strict: bool = False
    ) -> None:
        self._metadata = metadata
        self._guards = guards
        self._strict = strict
        self._shared_schemas = frozenset(shared_schemas)
        self._tenant_ddl: WeakKeyDictionary[Dialect, str] = WeakKeyDictionary()
        self._check()

    def _check(self) -> None:
        tables = list(self._metadata.tables.values())
        named = [part.schema for table in tables for column in table.columns for _, part in _parts(column)]
        self._check_declared({*(table.schema for table in tables), *named})
        for table in tables:
            if table.schema:
                self._check_shared(table)
        tell(self._metadata, strict=self._strict)

    def _check_declared(self, schemas: set[str | None]) -> None:
        strays = sorted({schema for schema in schemas if schema} - self._shared_schemas)
        if strays:
            raise ConfigurationError(
                f"the models name schemas that are not shared_schemas of this installation: {', '.join(strays)}; "
                "leave the schema out for a tenant's own table, or declare it shared"
            )

    def _check_shared(self, table: Table) -> None:
        """There is one of a shared table, and as many as there are tenants of what has no schema."""
        for column in table.columns:
            for kind, part in _parts(column):
                if not part.schema and getattr(part, "create_type", True):
                    raise ConfigurationError(
                        f"column {column.name!r} of the shared table {table.fullname!r} uses the {kind} "
                        f"{part.name!r}, which has no schema and so is each tenant's own; "
                        f'give it a shared one: schema="{table.schema}"'
                    )
        for key in table.foreign_keys:
            try:
                target = key.column.table
            except NoReferenceError:  # not imported yet, perhaps; if it never comes, the DDL cannot be made
                continue
            if not target.schema:
                raise ConfigurationError(
                    f"the shared table {table.fullname!r} has a foreign key to {target.name!r}, of which every "
                    "tenant has its own; share that table too, or make this one a tenant's own"
                )

    def count(self) -> int:
        """Return how many tables a tenant has, as of now."""
        return len(self._tables(shared=False))

    def own_types(self) -> list[str]:
        """Return what uses a type that exists once per tenant: ``note.mood uses the type mood``."""
        return [
            f"{table.name}.{column.name} uses the type {part.name}"
            for table in self._tables(shared=False)
            for column in table.columns
            for kind, part in _parts(column)
            if kind == "type" and not part.schema
        ]

    def _tables(self, *, shared: bool) -> list[Table]:
        return [table for table in self._metadata.sorted_tables if bool(table.schema) == shared]

    def tenant_ddl(self, dialect: Dialect) -> str:
        """Return what makes one tenant's tables and types, unqualified: the path decides where.

        `dialect` is that of a connection to the server: what is written depends on the server's version and
        on how it reads a backslash. Raises `ConfigurationError` where the models cannot be made into DDL.
        """
        with _writing:
            written = self._tenant_ddl.get(dialect)
            if written is None:
                self._check()
                # The separator is on a line of its own, as a statement may end in a comment.
                written = self._tenant_ddl[dialect] = "\n;\n".join(self._tenant_statements(dialect))
        return written

    def _tenant_statements(self, dialect: Dialect) -> list[str]:
        statements: list[str] = []

        def collect(element: Any, *_: Any, **__: Any) -> None:
            schema = getattr(getattr(element, "element", None), "schema", None)
            self._check_declared({schema})  # of a type that no table uses, say
            if not schema:
                statements.append(str(element.compile(dialect=dialect)).strip())

        with _faults_named():
            own = self._tables(shared=False)
            self._metadata.create_all(MockConnection(dialect, collect), tables=own, checkfirst=False)
        if self._guards:
            statements += [str(clause(protect(table.name)).compile(dialect=dialect)) for table in own]
        return statements

    def create_shared(self, connection: Connection) -> None:
        """Create the shared types and tables that do not exist yet, in the caller's transaction.

        Those that are declared, old and new, get the policies and grants that they are declared to have.

        Raises `ConfigurationError` where the models cannot be made into DDL.
        """
        self._check()
        with _faults_named():
            for part in self._shared_parts():
                part.create(connection, checkfirst=True)
            self._shared_copy().create_all(connection, checkfirst=True)
        for statement in filter(None, map(sharing, self._tables(shared=True))):
            connection.execute(clause(statement))

    def _shared_copy(self) -> MetaData:
        """Return the shared tables alone, because create_all makes every type of its MetaData, also the tenants'."""
        shared = MetaData(schema=self._metadata.schema, naming_convention=self._metadata.naming_convention)
        for table in self._tables(shared=True):
            copied = table.to_metadata(shared)
            for column in table.columns:
                # SQLAlchemy 2.1 moves the type of a copied column into the table's schema.
                if isinstance(column.type, SchemaType) and hasattr(column.type, "schema"):
                    copied.columns[column.key].type.schema = column.type.schema  # type: ignore[attr-defined]
        return shared

    def _shared_parts(self) -> list[Any]:
        """Return the shared types and sequences, also those that only a tenant's table uses."""
        found: dict[tuple[str, str, str], Any] = {}
        for table in self._metadata.sorted_tables:
            for column in table.columns:
                for kind, part in _parts(column):
                    if part.schema in self._shared_schemas and getattr(part, "create_type", True):
                        found.setdefault((kind, part.schema, part.name), part)
        return list(found.values())


def _parts(column: Column[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a column needs beside its table, as kind and thing: both have a name and perhaps a schema."""
    for type_ in _named_types(column.type):
        yield "type", type_
    for default in (column.default, getattr(getattr(column.server_default, "arg", None), "sequence", None)):
        if isinstance(default, Sequence):
            yield "sequence", default


def _named_types(type_: Any) -> Iterator[Any]:
    """Yield the type itself, or the one inside it, if the server knows it by a name: an enum or a domain."""
    type_ = type_._variant_mapping.get("postgresql", type_)
    if isinstance(type_, NamedType):
        yield type_
    elif isinstance(type_, TypeDecorator):
        yield from _named_types(type_.load_dialect_impl(_POSTGRESQL))
    elif isinstance(type_, ARRAY):
        yield from _named_types(type_.item_type)
    elif isinstance(type_, Enum):
        impl = type_.dialect_impl(_POSTGRESQL)
        if isinstance(impl, NamedType):  # and not a VARCHAR
            yield impl


@contextmanager
def _faults_named() -> Iterator[None]:
    """Say that the models are at fault where SQLAlchemy cannot write them down; the server's errors pass."""
    try:
        yield
    except DBAPIError:
        raise
    except SQLAlchemyError as error:
        raise ConfigurationError(f"the models cannot be made into DDL: {str(error).splitlines()[0]}") from error
