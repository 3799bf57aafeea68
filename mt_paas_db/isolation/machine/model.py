"""The model: a dictionary per tenant of what it wrote, and what its open sessions wrote on top. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

State = Literal["active", "suspended", "gone"]


class Row(NamedTuple):
    """A row of the machine's table, without its key."""

    body: str
    mood: str


@dataclass(eq=False)
class Life:
    """One tenant from its creation to its deletion. Who is created anew under the same id lives another.

    Attributes:
        color: Which of the machine's ids it has: ``red``, say.
        number: Which life of that id, from 1.
        generation: The catalog's number of it.
        schema: Its schema, which is also its role.
        rows: What it has committed to the machine's table, by key.
        tables: What it has in the service's own tables, written as text.
        migrations: How many migrations its schema has had.
    """

    color: str
    number: int
    tenant_id: str
    generation: int
    schema: str
    state: State = "active"
    rows: dict[int, Row] = field(default_factory=dict)
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    migrations: int = 0

    @property
    def label(self) -> str:
        """That of its canary."""
        return f"{self.color}-{self.number}"

    def __str__(self) -> str:
        return f"{self.color} (life {self.number}, {self.state})"


class Draft:
    """What a transaction has written and not committed: a layer for itself, and one for each savepoint."""

    def __init__(self) -> None:
        self._layers: list[dict[int, Row | None]] = [{}]

    def write(self, key: int, row: Row | None) -> None:
        """Write a row, or None for one that was deleted."""
        self._layers[-1][key] = row

    def over(self, rows: Mapping[int, Row]) -> dict[int, Row]:
        """Return what the transaction sees, over what is committed."""
        seen: dict[int, Row | None] = dict(rows)
        for layer in self._layers:
            seen.update(layer)
        return {key: row for key, row in seen.items() if row is not None}

    @property
    def touched(self) -> set[int]:
        """Keys of rows that the transaction may have locked, also in savepoints that were rolled back to."""
        return {key for layer in self._layers for key in layer}

    def save(self) -> None:
        """Set a savepoint."""
        self._layers.append({})

    def release(self) -> None:
        """Release the innermost savepoint."""
        layer = self._layers.pop()
        self._layers[-1].update(layer)

    def back(self) -> None:
        """Roll back to the innermost savepoint, and leave it."""
        self._layers.pop()

    def commit(self, life: Life) -> None:
        """Commit everything, and begin anew."""
        life.rows = self.over(life.rows)
        self.drop()

    def drop(self) -> None:
        """Roll everything back."""
        self._layers = [{}]
