"""Foreign keys: which rows a new row may refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Column, ForeignKeyConstraint, Table
from sqlalchemy.exc import NoReferenceError

from mt_paas_db.isolation.rows.solver import Slot, Values, by_preference

Row = Mapping[Column[Any], Any]

_MOST = 200


@dataclass(frozen=True, eq=False)
class Link:
    """A foreign key: the columns that refer, those referred to, the rows that can be, and columns that may be NULL."""

    columns: tuple[Column[Any], ...]
    targets: tuple[Column[Any], ...]
    rows: Sequence[Row]
    free: frozenset[Column[Any]] = frozenset()

    def options(self, n: int) -> list[dict[Column[Any], Any]]:
        """Return what its columns may hold: the row of the same number first, so that unique keys are kept.

        The last is NULL, where that may be. In a composite key one NULL is enough, and says nothing of the rest.
        """
        start = (n - 1) % len(self.rows) if self.rows else 0
        rows = [*self.rows[start:], *self.rows[:start]]
        pairs = list(zip(self.columns, self.targets, strict=True))
        found = [{column: row[target] for column, target in pairs} for row in rows]
        referring = [values for values in found if None not in values.values()]
        return [*referring, dict.fromkeys(self.free)] if self.free else referring


def foreign_keys(table: Table) -> list[ForeignKeyConstraint]:
    """Return the table's foreign keys to tables that the metadata knows."""
    return [key for key in table.foreign_key_constraints if _resolves(key)]


def ends(key: ForeignKeyConstraint) -> tuple[tuple[Column[Any], ...], tuple[Column[Any], ...]]:
    """Return the columns that refer, and those that they refer to."""
    return tuple(element.parent for element in key.elements), tuple(element.column for element in key.elements)


def joined(links: Iterable[Link], n: int) -> Iterator[Slot]:
    """Yield slots of the links' columns; links that share a column are one slot, and agree in it.

    A slot without options is one of links that cannot agree, or lead to a table without rows.
    """
    groups: list[list[Link]] = []
    for link in links:
        touched = [group for group in groups if any(set(other.columns) & set(link.columns) for other in group)]
        groups = [group for group in groups if group not in touched]
        groups.append([*(other for group in touched for other in group), link])
    for group in groups:
        columns = tuple(dict.fromkeys(column for link in group for column in link.columns))
        options = [link.options(n) for link in group]
        found: list[Values] = []
        for indexes in islice(by_preference([len(its) for its in options]), 20 * _MOST):
            values: dict[Column[Any], Any] = {}
            pairs = (pair for its, index in zip(options, indexes, strict=True) for pair in its[index].items())
            agree = all(values.setdefault(column, value) == value for column, value in pairs)
            if agree and len(values) == len(columns):
                found.append(tuple(values[column] for column in columns))
            if len(found) == _MOST:
                break
        yield Slot(columns, found)


def _resolves(key: ForeignKeyConstraint) -> bool:
    try:
        return all(element.column is not None for element in key.elements)
    except NoReferenceError:
        return False
