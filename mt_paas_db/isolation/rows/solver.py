"""Combinations of values that satisfy the checks, by asking the server.

No expression is understood here: the server evaluates its own CHECK constraints over the candidates, a hundred rows
at a time, and no row is written.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from sqlalchemy import Column, Connection, bindparam, cast, literal_column, null, select, union_all
from sqlalchemy.exc import StatementError
from sqlalchemy.types import UserDefinedType

from mt_paas_db.isolation.rows.errors import refusal_of
from mt_paas_db.isolation.rows.ground import Check, TableFacts, mentioned

_BATCHES = (10, 100)  # the first few pass, mostly
_MOST = 3_000
_ORDINAL = "mt_paas_candidate"

Values = tuple[Any, ...]


class _Omitted:
    def __repr__(self) -> str:
        return "OMITTED"


OMITTED: Final = _Omitted()
"""Stands for a value that is left to the column's default."""


@dataclass(eq=False)
class Slot:
    """Columns that get their values together.

    Attributes:
        columns: One, or those of a foreign key or a check.
        options: What they may get, best first.
        plain: The first option without a canary.
    """

    columns: tuple[Column[Any], ...]
    options: list[Values]
    plain: int = field(default=0)

    @property
    def without_canary(self) -> int:
        """The first option without a canary; the last, where each bears one."""
        return min(self.plain, len(self.options) - 1)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.columns)


def by_preference(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield all tuples of indexes below `sizes`, those with the smallest sum first."""
    if not all(sizes):
        return
    start = (0,) * len(sizes)
    heap, seen = [(0, start)], {start}
    while heap:
        total, indexes = heapq.heappop(heap)
        yield indexes
        for position, size in enumerate(sizes):
            following = (*indexes[:position], indexes[position] + 1, *indexes[position + 1 :])
            if indexes[position] + 1 < size and following not in seen:
                seen.add(following)
                heapq.heappush(heap, (total + 1, following))


class Solver:
    """Joins slots that checks connect into slots whose options satisfy these checks."""

    def __init__(self, connection: Connection, facts: TableFacts) -> None:
        self._connection = connection
        self._facts = facts

    def solve(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return slots of which any options go together, as far as checks are concerned and could be evaluated."""
        filled = frozenset[str]().union(*(slot.names for slot in slots))
        needs = {check: self.needed(check) for check in self._facts.checks}
        known = [check for check, columns in needs.items() if columns and columns <= filled]
        groups: list[list[Slot]] = [[slot] for slot in slots]
        for check in known:
            touched = [group for group in groups if any(slot.names & needs[check] for slot in group)]
            groups = [group for group in groups if group not in touched]
            groups.append([slot for group in touched for slot in group])
        solved = []
        for group in groups:
            names = frozenset[str]().union(*(slot.names for slot in group))
            checks = [check for check in known if needs[check] <= names]
            solved.append(self._joined(group, checks) if checks else group[0])
        return solved

    def sources(self, name: str) -> frozenset[str]:
        """Return the column itself, or those that the server computes it from."""
        column = self._facts.columns[name]
        return mentioned(column.expression or "", self._facts.columns) if column.generated else frozenset({name})

    def needed(self, check: Check) -> frozenset[str]:
        """Return the columns that decide a check, those that the server computes replaced by their sources."""
        return frozenset().union(*map(self.sources, check.columns))

    def _joined(self, group: Sequence[Slot], checks: Sequence[Check]) -> Slot:
        columns = tuple(column for slot in group for column in slot.columns)
        unknown: list[Values] = []
        passed: list[Values] = []
        looked_at: list[Values] = []
        combinations = by_preference([len(slot.options) for slot in group])
        while not passed and len(looked_at) < _MOST:
            indexes = list(islice(combinations, _BATCHES[bool(looked_at)]))
            if not indexes:
                break
            batch = [
                tuple(value for slot, i in zip(group, chosen, strict=True) for value in slot.options[i])
                for chosen in indexes
            ]
            looked_at += batch
            unknown += (values for values in batch if OMITTED in values)
            passed += self.accepted(columns, [values for values in batch if OMITTED not in values], checks)
        # If none passes, the insertion is refused by name, and that is what the user is told.
        options = passed + unknown or looked_at[:1]
        return Slot(columns, options, plain=max(len(passed) - 1, 0))

    def accepted(
        self, columns: Sequence[Column[Any]], batch: Sequence[Values], checks: Iterable[Check]
    ) -> list[Values]:
        """Return those of `batch` that satisfy `checks`. Where one cannot be evaluated, it is left out."""
        checks = list(checks)
        verdict = self._evaluated(columns, batch, checks) if batch else []
        if verdict is None and len(batch) > 1:  # one of them fails, a division by zero say
            middle = len(batch) // 2
            return [v for half in (batch[:middle], batch[middle:]) for v in self.accepted(columns, half, checks)]
        return verdict or []

    def _evaluated(
        self, columns: Sequence[Column[Any]], batch: Sequence[Values], checks: Sequence[Check]
    ) -> list[Values] | None:
        candidates: Any = union_all(
            *(
                select(
                    literal_column(str(ordinal)).label(_ORDINAL),
                    *(self._cell(column, value) for column, value in zip(columns, values, strict=True)),
                )
                for ordinal, values in enumerate(batch)
            )
        ).subquery()
        names = {column.name for column in columns}
        computed: list[Any] = [
            literal_column(f"({facts.expression})").label(name)
            for name, facts in self._facts.columns.items()
            if facts.generated and mentioned(facts.expression or "", self._facts.columns) <= names
        ]
        candidates = select(candidates, *computed).subquery() if computed else candidates
        conditions: list[Any] = [literal_column(f"({self._condition(check)}) IS NOT FALSE") for check in checks]
        query = select(candidates.c[_ORDINAL]).where(*conditions)
        try:
            with self._connection.begin_nested():
                found = set(self._connection.execute(query).scalars())
        except StatementError as error:
            refusal_of(error)
            return None
        return [values for ordinal, values in enumerate(batch) if ordinal in found]

    def _condition(self, check: Check) -> str:
        if not check.of_domain:
            return check.expression
        (name,) = check.columns
        quoted = self._connection.dialect.identifier_preparer.quote(name)
        return f"SELECT ({check.expression}) FROM (SELECT {quoted} AS value) AS mt_paas_domain"  # noqa: S608

    def _cell(self, column: Column[Any], value: Any) -> Any:
        type_ = _ServerType(self._facts.columns[column.name].value_type)
        bound = null() if value is None else bindparam(None, value, type_=column.type, unique=True)
        return cast(bound, type_).label(column.name)

    def takes(self, column: Column[Any], value: Any) -> bool:
        """Return whether the server takes `value` for the column's type."""
        quoted = self._connection.dialect.identifier_preparer.quote(column.name)
        # Without a condition on it the value would not even be computed.
        looked_at = Check("", frozenset({column.name}), f"{quoted} IS NOT NULL", of_domain=False)
        return self._evaluated([column], [(value,)], [looked_at]) is not None


class _ServerType(UserDefinedType[Any]):
    """A type by the server's own name for it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def as_row(slots: Iterable[Slot], indexes: Iterable[int]) -> Mapping[Column[Any], Any]:
    """Return the values that `indexes` choose, those left to defaults left out."""
    return {
        column: value
        for slot, index in zip(slots, indexes, strict=True)
        for column, value in zip(slot.columns, slot.options[index], strict=True)
        if value is not OMITTED
    }
