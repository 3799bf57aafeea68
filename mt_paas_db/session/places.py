"""What a budget shares out: places, whose they are, who waits for one; and how it all stands, for who asks.

A place is taken as long as its `Slot` is open or alive: one that is dropped by whoever was interrupted at the wrong
moment gives its place back by that. So there is no count that an exception could leave wrong.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass


class Slot:
    """A place, and what fills it. Subclasses add the connection.

    Attributes:
        member: Whose it is, for as long as it lives.
        since: When it was taken; while it is idle, when it came back.
        opened_at: When its member got it.
    """

    member: Member
    since: float
    opened_at: float

    @property
    def filled(self) -> bool:
        """Whether there is a connection in it."""
        return False


class Member:
    """One cell's part in a budget, as one pool of it has it.

    Attributes:
        cell: Its name, as messages and statistics show it.
        cluster: The settings' entry of its server.
        make: Makes an empty slot.
        close: Closes what fills a slot, and then has it freed; called without the lock.
        waits: Makes a waiter of it.
        keeps: Whether connections that come back are kept. Not those of a pool that was disposed of.
        gone: Whether nobody can use its connections any more: its event loop is closed.
        evictions: How many of its connections were closed for other cells.
    """

    __slots__ = (
        "__weakref__",
        "cell",
        "close",
        "cluster",
        "evictions",
        "gone",
        "idle",
        "keeps",
        "make",
        "served_at",
        "waiting",
        "waits",
    )

    def __init__(
        self,
        cell: str,
        *,
        cluster: str,
        waits: Callable[[Member, float], Waiter],
        make: Callable[[], Slot],
        close: Callable[[Slot], None],
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cell = cell
        self.cluster = cluster
        self.waits = waits
        self.make = make
        self.close = close
        self.gone = gone
        self.keeps = True
        self.evictions = 0
        self.idle: list[Slot] = []
        self.waiting: deque[Waiter] = deque()
        self.served_at = float("-inf")  # when one who waited was last given a slot


class Waiter:
    """One who waits. `slot` is what was given to it meanwhile."""

    def __init__(self, member: Member, since: float) -> None:
        self.member = member
        self.since = since
        self.slot: Slot | None = None

    def wake(self) -> bool:
        """Have it look again; False where nobody is there any more to do so."""
        raise NotImplementedError

    def wait(self, timeout_s: float) -> None:
        """Wait until woken, or for so long."""
        raise NotImplementedError


class Place(weakref.ref[Slot]):
    """A taken place: it ends with its slot, at the latest."""

    __slots__ = ("closing_since", "key", "member")

    key: int
    member: Member
    closing_since: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Places, counted.

    Attributes:
        members: Who has any.
        held: How many that are not being closed.
        several: Whether anybody has two of those.
        closing: Since when the others are being closed.
    """

    members: list[Member]
    held: Counter[Member]
    several: bool
    closing: list[float]

    @classmethod
    def of(cls, places: Collection[Place]) -> Standing:
        """Count them."""
        held = Counter(place.member for place in places if place.closing_since is None)
        return cls(
            members=list(dict.fromkeys(place.member for place in places)),
            held=held,
            several=any(number > 1 for number in held.values()),
            closing=[place.closing_since for place in places if place.closing_since is not None],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStatus:
    """One cell's connections: `longest_wait_s` is of those who wait now, `oldest_use_s` of those in use now."""

    cell: str
    in_use: int
    idle: int
    waiting: int
    longest_wait_s: float
    oldest_use_s: float
    evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """A process's connections for tenants, now. `evictions` counts since the process began, `cells` are those with any.

    `budget` is None where nothing is pooled.
    """

    budget: int | None
    in_use: int = 0
    idle: int = 0
    closing: int = 0
    waiting: int = 0
    evictions: int = 0
    cells: tuple[CellStatus, ...] = ()
