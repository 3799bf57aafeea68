"""The search for a row that the server takes: what it refuses is not tried again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mt_paas_db.isolation.rows.solver import Slot, by_preference


class Search:
    """Which option of each slot is in use, and which combinations were refused.

    Attributes:
        indexes: The option of each slot that is tried now.
    """

    def __init__(self, slots: Sequence[Slot], indexes: Sequence[int]) -> None:
        self._slots = slots
        self._refused: set[tuple[int, ...]] = set()
        self._turns: dict[tuple[int, ...], Iterator[tuple[int, ...]]] = {}
        self.indexes = list(indexes)

    def turn(self, columns: frozenset[str]) -> bool:
        """Choose other options for the slots of `columns`; return whether there was a combination left."""
        self._refused.add(tuple(self.indexes))
        involved = tuple(i for i, slot in enumerate(self._slots) if slot.names & columns)
        if involved not in self._turns:
            self._turns[involved] = by_preference([len(self._slots[i].options) for i in involved])
        for chosen in self._turns[involved] if involved else ():
            for i, index in zip(involved, chosen, strict=True):
                self.indexes[i] = index
            if tuple(self.indexes) not in self._refused:
                return True
        return False

    def plain(self) -> list[int]:
        """Return the indexes with which no slot bears a canary that can do without."""
        return [slot.without_canary for slot in self._slots]

    def neighbours(self, base: Sequence[int]) -> Iterator[list[int]]:
        """Yield `base` with one slot's option replaced by another of its options, slot after slot."""
        for i, slot in enumerate(self._slots):
            for index in range(len(slot.options)):
                if index != base[i]:
                    yield [*base[:i], index, *base[i + 1 :]]
