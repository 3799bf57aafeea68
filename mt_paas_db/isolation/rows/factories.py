"""Factories: what the user knows of a table's values and no introspection can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mt_paas_db.isolation.rows.canary import Canary

Factory = Callable[[Canary, int], Mapping[str, Any]]
"""Called with the tenant's canary and the row's number, from 1; returns values by column name, some or all."""


class Factories(Mapping[str, Factory]):
    """Factories by table name, with the schema of a shared table; ``a | b`` has those of both, b's first."""

    def __init__(self, by_table: Mapping[str, Factory] | None = None) -> None:
        self._by_table = dict(by_table or {})

    def __getitem__(self, table: str) -> Factory:
        return self._by_table[table]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_table)

    def __len__(self) -> int:
        return len(self._by_table)

    def __or__(self, other: Mapping[str, Factory]) -> Factories:
        return Factories({**self._by_table, **other})


def factory(table: str, make: Factory) -> Factories:
    """Return the factory of one table, to be joined to others by ``|``."""
    return Factories({table: make})
