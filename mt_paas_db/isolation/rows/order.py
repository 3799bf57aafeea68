"""The order in which tables are filled: those referred to before those that refer to them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ForeignKeyConstraint, Table

Links = Mapping[Table, Sequence[ForeignKeyConstraint]]


@dataclass(frozen=True)
class Step:
    """One table's turn. The foreign keys of `postponed` refer to tables that are filled later."""

    table: Table
    postponed: frozenset[ForeignKeyConstraint] = frozenset()


@dataclass(frozen=True)
class Order:
    """The steps, and the tables of a cycle of foreign keys of which none may be NULL or checked later."""

    steps: tuple[Step, ...]
    stuck: tuple[Table, ...]


def arrange(
    tables: Iterable[Table],
    links: Links,
    *,
    nullable: Callable[[ForeignKeyConstraint], bool],
    deferrable: Callable[[ForeignKeyConstraint], bool],
) -> Order:
    """Put `tables` in order. A cycle is cut where a key may be NULL at first, else where it may be checked later."""
    pending, steps = list(tables), []
    waiting = set(pending)

    def postponed(table: Table) -> list[ForeignKeyConstraint]:
        return [key for key in links[table] if key.referred_table in waiting and key.referred_table is not table]

    def cheapest(tolerated: Callable[[ForeignKeyConstraint], bool]) -> Table | None:
        ready = [table for table in pending if all(map(tolerated, postponed(table)))]
        return min(ready, key=lambda table: len(postponed(table)), default=None)

    while pending:
        tolerances = (lambda _: False, nullable, lambda key: nullable(key) or deferrable(key))
        chosen = next((table for table in map(cheapest, tolerances) if table is not None), None)
        if chosen is None:
            break
        steps.append(Step(chosen, frozenset(postponed(chosen))))
        pending.remove(chosen)
        waiting.remove(chosen)
    return Order(tuple(steps), tuple(pending))
