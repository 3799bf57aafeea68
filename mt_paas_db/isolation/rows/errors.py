"""What cannot be filled, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DBAPIError, StatementError

from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.errors import TenancyError


@dataclass(frozen=True)
class Failure:
    """Why one table has no rows.

    Attributes:
        table: Its name, with the schema of a shared one.
        reason: What was tried, for a person.
        columns: The columns at fault, as far as known.
        constraint: The constraint or index that refused, if one did.
        said: The server's own words, if it was asked.
        blocked: Whether the table fails only because one that it refers to does.
    """

    table: str
    reason: str
    columns: tuple[str, ...] = ()
    constraint: str | None = None
    said: str | None = None
    blocked: bool = False

    def __str__(self) -> str:
        where = ", ".join(f"{self.table}.{column}" for column in self.columns) or self.table
        constraint = f", constraint {self.constraint!r}" if self.constraint else ""
        said = f"; the server said: {self.said}" if self.said else ""
        return f"{where}{constraint}: {self.reason}{said}"


class RowsError(TenancyError):
    """Some tables could not be filled; nothing was left in any.

    ``failures`` holds one `Failure` for each table, those at fault first; ``table``, ``column``, ``constraint`` and
    ``said`` are of the first.
    """

    def __init__(self, failures: list[Failure]) -> None:
        failures = sorted(failures, key=lambda failure: failure.blocked)
        first = failures[0]
        column = first.columns[0] if first.columns else "some_column"
        lines = "".join(f"\n  {failure}" for failure in failures)
        super().__init__(
            f"no recognisable rows can be made for {len(failures)} table{'s' * (len(failures) > 1)}:{lines}\n"
            "Say what the values are like, and the rest is still made for you: "
            f'Filler(..., factories=Factories({{"{first.table}": lambda canary, n: {{"{column}": ...}}}})); '
            f'or leave it out: Filler(..., skip=("{first.table}",))'
        )
        self.failures = failures
        self.table = first.table
        self.column = first.columns[0] if first.columns else None
        self.constraint = first.constraint
        self.said = first.said


class TableError(Exception):
    """One table cannot be filled; goes no further than the `Filler`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True)
class Refusal:
    """What the server, or the binding of a value, said against a row.

    Attributes:
        state: The SQLSTATE; None where nothing was sent.
        constraint: The constraint or index it names.
        column: The column it names.
        said: The first line of its message.
    """

    state: str | None
    constraint: str | None
    column: str | None
    said: str


def refusal_of(error: StatementError) -> Refusal:
    """Return what an error says, from either driver. Raises the error itself where no other row would fare better."""
    state = sqlstate_of(error) or ""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        raise error
    stale = state == "0A000" and "cached plan" in str(error.orig)  # the tables changed under a prepared statement
    if state[:2] in ("08", "25", "40", "53", "57", "58", "XX") or state == "55P03" or stale:
        raise error
    # psycopg keeps the fields in `diag`; SQLAlchemy wraps asyncpg's error, which has them as attributes.
    source: Any = getattr(error.orig, "diag", None) or getattr(error.orig, "__cause__", None) or error.orig

    def fact(name: str) -> str | None:
        found = getattr(source, name, None)
        return found if isinstance(found, str) and found else None

    return Refusal(state or None, fact("constraint_name"), fact("column_name"), str(error.orig).strip().split("\n")[0])
