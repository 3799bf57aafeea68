"""One table's rows: proposed, sent under a savepoint, and mended by what the server says against them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import Column, Connection, Table, insert
from sqlalchemy.exc import StatementError

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.rows.canary import Canary
from mt_paas_db.isolation.rows.candidates import Cell, Choice, choose
from mt_paas_db.isolation.rows.errors import Failure, Refusal, TableError, refusal_of
from mt_paas_db.isolation.rows.factories import Factory
from mt_paas_db.isolation.rows.ground import PARTITION_BOUND, ColumnFacts, TableFacts
from mt_paas_db.isolation.rows.links import Link, Row, joined
from mt_paas_db.isolation.rows.mining import mine
from mt_paas_db.isolation.rows.search import Search
from mt_paas_db.isolation.rows.solver import OMITTED, Slot, Solver, as_row

_ATTEMPTS = 250
_NEIGHBOURS = 150
_CONTEXT = re.compile(
    r"current_setting|current_user|session_user|current_role|current_schema|mt_paas\.tenant\(", re.IGNORECASE
)
_NAMED = re.compile(r'column "((?:[^"]|"")+)"')

# What no other values would change, and what to do instead.
_HOPELESS = {
    "42P01": "it is not in the tenant's schema; migrate the tenant, or leave the table out",
    "42703": "the tenant's table has other columns than the models; migrate the tenant",
    "42501": "the tenant's role may not write it",
    "0A000": "the server cannot insert into it",
    "55000": "it cannot be written",
}
_KEYS = frozenset({"23505", "23P01"})


@dataclass
class TableFiller:
    """Fills one table in one tenant.

    Attributes:
        connection: In the tenant's transaction.
        table: As the models have it.
        facts: As the server has it.
        canary: The tenant's.
        links: The foreign keys to rows that are there.
        own: The foreign keys to the table itself: the columns that refer, and those referred to.
        nulled: Columns that stay NULL at first, of foreign keys to what is not there (yet).
        given: Values for columns of foreign keys that are checked later, by row number.
        factory: The user's, if there is one.
    """

    connection: Connection
    table: Table
    facts: TableFacts
    canary: Canary
    links: Sequence[Link] = ()
    own: Sequence[tuple[tuple[Column[Any], ...], tuple[Column[Any], ...]]] = ()
    nulled: frozenset[Column[Any]] = frozenset()
    given: Callable[[int], Mapping[Column[Any], Any]] = field(default=lambda _: {})
    factory: Factory | None = None
    made: list[Row] = field(default_factory=list, init=False)
    note: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._solver = Solver(self.connection, self.facts)
        self._taken: dict[str, tuple[list[int], list[int]]] = {}
        self._plain: frozenset[str] = frozenset()

    def fill(self, numbers: range) -> list[Row]:
        """Insert a row for each number; fewer where a key has no room for more. Raises `TableError`."""
        for n in numbers:
            slots = self._solver.solve(list(self._slots(n)))
            try:
                self.made.append(self._insert(slots))
            except _KeyExhaustedError as exhausted:
                if not self.made:
                    raise TableError(exhausted.failure) from exhausted
                self.note = f"{len(self.made)} of {len(numbers)} rows: {exhausted.failure}"
                break
        return self.made

    # -- proposals

    def _slots(self, n: int) -> Iterator[Slot]:
        settled: dict[Column[Any], Any] = {**dict.fromkeys(self.nulled), **self.given(n), **self._from_factory(n)}
        yield from (Slot((column,), [(value,)]) for column, value in settled.items())
        free = [link for link in self.links if not set(link.columns) & settled.keys()]
        for slot in joined(free, n):
            if not slot.options:
                raise self._failed("there is no row that all its foreign keys can refer to", tuple(slot.names))
            settled.update(dict.fromkeys(slot.columns))
            yield slot
        for columns, targets in self.own:
            if not set(columns) & settled.keys():
                slot = self._to_own(columns, targets, n, frozenset(settled))
                settled.update(dict.fromkeys(slot.columns))
                yield slot
        for column in self.table.columns:
            facts = self.facts.columns.get(column.name)
            if column not in settled and facts is not None and not facts.generated and facts.identity != "a":
                yield self._slot(column, facts, n)

    def _from_factory(self, n: int) -> dict[Column[Any], Any]:
        if self.factory is None:
            return {}
        made, found = self.factory(self.canary, n), {}
        for name, value in made.items():
            column = next((c for c in self.table.columns if name in (c.name, c.key)), None)
            if column is None:
                raise ConfigurationError(
                    f"the factory of {self.table.fullname!r} gives a value for {name!r}, and there is no such column"
                )
            found[column] = value
        return found

    def _to_own(
        self,
        columns: tuple[Column[Any], ...],
        targets: tuple[Column[Any], ...],
        n: int,
        settled: frozenset[Column[Any]],
    ) -> Slot:
        """Let a row refer to an earlier one, to none, or to itself."""
        earlier = [tuple(values.values()) for values in Link(columns, targets, self.made).options(n - 1)]
        free = [column for column in columns if not self.facts.columns[column.name].not_null]
        if free and len(columns) == 1:
            return Slot(columns, [*earlier, (None,)])
        if earlier:
            return Slot(columns, earlier)
        choices = {
            target: self._slot(target, self.facts.columns[target.name], n).options
            for target in dict.fromkeys(targets)
            if target not in settled and self.facts.columns[target.name].identity != "a"
        }
        if len(choices) < len(set(targets)):
            raise self._failed("its first row must refer to itself, and its key is not known before", _names(columns))
        options = []
        for i in range(min(len(its) for its in choices.values())):
            values = {target: its[i][0] for target, its in choices.items()}
            values.update({column: values[target] for column, target in zip(columns, targets, strict=True)})
            options.append(values)
        together = tuple(options[0])
        return Slot(together, [tuple(its.values()) for its in options if OMITTED not in its.values()])

    def _slot(self, column: Column[Any], facts: ColumnFacts, n: int) -> Slot:
        checks = [check.expression for check in self.facts.checks if column.name in self._solver.needed(check)]
        cell = Cell(
            self.canary, f"{self.table.name}.{column.name}", n, facts.base, self.connection.dialect,
            length=facts.length, precision=facts.precision, scale=facts.scale, hints=mine(checks),
        )  # fmt: skip
        choice = self._certain(column, choose(column.type, cell))
        defaulted = column.default is not None or facts.expression is not None or bool(facts.identity)
        fallback: list[Any] = [OMITTED] if defaulted else []
        if not facts.not_null:
            fallback.append(None)
        # A default that asks for the context knows better: the tenant's id in a shared table, say.
        first = [OMITTED] if _CONTEXT.search(facts.expression or "") else []
        values = [*first, *choice.values, *fallback]
        if not values:
            raise self._failed(f"no value is known for the type {facts.base!r} ({column.type!r})", (column.name,))
        return Slot((column,), [(value,) for value in values], plain=len(first) + len(choice.bearing))

    def _certain(self, column: Column[Any], choice: Choice) -> Choice:
        """Leave out what the server does not take for the type; asked once, for the first row."""
        if choice.certain:
            return choice
        if column.name not in self._taken:
            self._taken[column.name] = (
                [i for i, value in enumerate(choice.bearing) if self._solver.takes(column, value)],
                [i for i, value in enumerate(choice.plain) if self._solver.takes(column, value)],
            )
        bearing, plain = self._taken[column.name]
        return Choice(
            tuple(choice.bearing[i] for i in bearing if i < len(choice.bearing)),
            tuple(choice.plain[i] for i in plain if i < len(choice.plain)),
        )

    # -- attempts

    def _insert(self, slots: Sequence[Slot]) -> Row:
        search = Search(slots, [slot.without_canary if slot.names <= self._plain else 0 for slot in slots])
        felt = False
        for attempt in range(1, _ATTEMPTS + 1):
            outcome = self._attempt(slots, search.indexes)
            if not isinstance(outcome, Refusal):
                return outcome
            columns = self._blamed(outcome)
            if columns is None and not felt:
                felt = True
                search.indexes = self._felt(search, slots, outcome)
                continue
            if columns is None or attempt == _ATTEMPTS or not search.turn(columns):
                raise self._given_up(outcome, columns or frozenset())
        raise AssertionError("the last attempt succeeds or gives up")

    def _attempt(self, slots: Sequence[Slot], indexes: Sequence[int], *, keep: bool = True) -> Row | Refusal:
        statement = insert(self.table).values(dict(as_row(slots, indexes))).returning(*self.table.columns)
        try:
            savepoint = self.connection.begin_nested()
            with savepoint:
                returned = self.connection.execute(statement).one()._mapping
                row = {column: returned[column] for column in self.table.columns}
                if not keep:
                    savepoint.rollback()
        except StatementError as error:
            return refusal_of(error)
        return row

    def _blamed(self, refusal: Refusal) -> frozenset[str] | None:
        """Return the columns that a refusal speaks of; None where it speaks of none. Raises for hopeless ones."""
        named = _NAMED.search(refusal.said)
        if refusal.state == "42501" and "row-level security" in refusal.said:
            return frozenset(name for name, column in self.facts.columns.items() if column.expression)
        if refusal.state in _HOPELESS:
            raise self._failed(_HOPELESS[refusal.state], (), refusal)
        if refusal.constraint in self.facts.keys:
            return self._through_computed(self.facts.keys[refusal.constraint])
        for check in self.facts.checks:
            if check.name == refusal.constraint or (
                check.name == PARTITION_BOUND and refusal.state == "23514" and refusal.constraint is None
            ):
                return self._through_computed(check.columns)
        if refusal.column or (named and refusal.state in ("23502", "428C9")):
            return frozenset({refusal.column or str(named and named[1])})
        return None

    def _through_computed(self, columns: frozenset[str]) -> frozenset[str]:
        return frozenset().union(*(self._solver.sources(name) for name in columns))

    def _felt(self, search: Search, slots: Sequence[Slot], refusal: Refusal) -> list[int]:
        """Find out which columns a refusal without a name is about: do without canaries, then add them one by one."""
        base = search.plain()
        found = self._attempt(slots, base, keep=False)
        if isinstance(found, Refusal) and self._blamed(found) is None:
            around = (
                *islice(search.neighbours(base), _NEIGHBOURS),
                *islice(search.neighbours(search.indexes), _NEIGHBOURS),
            )
            passing = (near for near in around if not isinstance(self._attempt(slots, near, keep=False), Refusal))
            base = next(passing, [])
            if not base:
                raise self._given_up(refusal, frozenset())
        for i, index in enumerate(search.indexes):
            richer = [*base[:i], index, *base[i + 1 :]]
            if richer != base and not isinstance(self._attempt(slots, richer, keep=False), Refusal):
                base = richer
        self._plain |= frozenset().union(
            *(slot.names for slot, kept, wanted in zip(slots, base, search.indexes, strict=True) if kept != wanted)
        )
        return base

    # -- giving up

    def _given_up(self, refusal: Refusal, columns: frozenset[str]) -> Exception:
        reason = "no value that was tried satisfies it" if columns else "no values that were tried satisfy the server"
        failed = self._failed(reason, tuple(sorted(columns)), refusal)
        return _KeyExhaustedError(failed.failure) if refusal.state in _KEYS else failed

    def _failed(self, reason: str, columns: tuple[str, ...], refusal: Refusal | None = None) -> TableError:
        said, constraint = (refusal.said, refusal.constraint) if refusal else (None, None)
        return TableError(Failure(self.table.fullname, reason, columns, constraint, said))


class _KeyExhaustedError(TableError):
    """A unique key or an exclusion has no room for one more row."""


def _names(columns: Sequence[Column[Any]]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)
