"""What the attacks need of a library: sessions of its tenants, as an application would open them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Address:
    """Where a tenant's rows are: a table of its own, or the rows of a shared one that bear its name in `column`."""

    table: str
    column: str | None = None
    value: str = ""

    @property
    def where(self) -> str:
        return f" WHERE {self.column} = {literal(self.value)}" if self.column else ""

    def select(self) -> str:
        """Return a query that names these rows."""
        return f"SELECT body FROM {self.table}{self.where}"

    def update(self, body: str) -> str:
        """Return a statement that overwrites these rows, and says what it has written."""
        return f"UPDATE {self.table} SET body = {literal(body)}{self.where} RETURNING body"

    def insert(self, row: int, body: str) -> str:
        """Return a statement that puts a row among these."""
        more_columns, more_values = (f", {self.column}", f", {literal(self.value)}") if self.column else ("", "")
        return f"INSERT INTO {self.table} (id, body{more_columns}) VALUES ({row}, {literal(body)}{more_values})"


@dataclass(frozen=True)
class Handles:
    """What SQL must name to act as another tenant. None where the library has nothing of the kind."""

    schema: str | None = None
    role: str | None = None
    setting: tuple[str, str] | None = None


class Session(Protocol):
    """A tenant's open session. Rows are returned as text."""

    def run(self, statement: str) -> list[str]:
        """Execute SQL text in the way that the library documents for it."""
        ...

    def raw(self, statement: str) -> list[str]:
        """Execute on a DBAPI cursor of the session's connection."""
        ...

    def kept(self) -> Callable[[str], list[str]]:
        """Return what executes on a connection or cursor that is taken now."""
        ...

    def notes(self) -> list[str]:
        """Read all rows by the ORM, which names no schema and no tenant."""
        ...

    def first(self, *, deferred: bool) -> Any:
        """Return the first row as an object, its body left out where `deferred`."""
        ...

    def save(self, note: Any) -> None:
        """Save an object that may come from elsewhere, and commit."""
        ...

    def attempt(self, statement: str) -> None:
        """Execute SQL text in a savepoint of the library, and go on if it fails."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


class Subject(Protocol):
    """A library in its documented best configuration, with one pooled connection that its tenants share.

    Attributes:
        filters: Whether it answers a foreign query with no rows, where others answer with an error.
        answers: Its own errors, and those of the libraries that it stands on.
        disclaims: Attacks by name that its documentation does not promise to stop, and what it says instead.
    """

    filters: bool
    answers: tuple[type[BaseException], ...]

    @property
    def disclaims(self) -> Mapping[str, str]: ...
    def create(self, tenant: str) -> None: ...
    def delete(self, tenant: str) -> None:
        """Delete a tenant with its data, as far as the library documents a way."""
        ...

    def session(self, tenant: str) -> AbstractContextManager[Session]:
        """Open a session as a request does: committed at the end."""
        ...

    def nobody(self) -> AbstractContextManager[Session]:
        """Give a session of the same pool to code that has forgotten the tenant."""
        ...

    def pool_connection(self) -> AbstractContextManager[Callable[[str], list[str]]]:
        """Take a DBAPI connection from the pool, below the library."""
        ...

    def address(self, tenant: str) -> Address: ...
    def handles(self, tenant: str) -> Handles: ...
    def look_alikes(self, tenant: str) -> list[str]:
        """Return ids of the library's own that might lead to `tenant`."""
        ...

    def twin(self, url: str, options: dict[str, Any]) -> Subject:
        """Return another process's view of the same tenants: a pool of its own, with driver options, at `url`."""
        ...

    def refresh(self) -> None:
        """Close all connections; the next session opens new ones."""
        ...


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def fetched(cursor: Any) -> list[str]:
    """Return what a DBAPI cursor holds, a text for each value."""
    return [str(value) for row in cursor.fetchall() for value in row] if cursor.description is not None else []
