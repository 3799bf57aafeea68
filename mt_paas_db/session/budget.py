"""A budget of places, shared fairly by cells: who may have a connection, who must wait, whose idle one is given up.

It decides only: no driver, no lock, no clock of its own. What is decided is done by `gate`, which holds its lock around
each call, and closes what stands in `closing`. The same decisions serve a tenant's limit of sessions, with one cell.

How places are shared:

- An idle connection serves its own cell at once, the one used last first.
- Who finds no place, and whose cell holds none, has the connection closed that has been idle for longest: of the cells
  that hold others besides, or unused for `rest_s`. A cell's only one that was used just now is closed for it where all
  have but one, and else after `quantum_s`: by then one of a cell that holds more has mostly come back. Otherwise the
  cell that lost its only one would be the next to have none, and go round taking others' for ever.
- Where its cell holds some it waits for those, and for what others have left unused for `rest_s`: a busy cell has one
  idle now and then, and needs it again sooner than another is opened.
- A connection that comes back goes to its own cell's longest waiter, for nothing, unless another cell is owed one, and
  it has served its present cell for `quantum_s`: one that holds none, or got none for `stall_s`; or one that holds two
  fewer, and has waited for a quantum. Then it is closed, and the place handed on.
- Of those that wait for a place, the cell with the fewest comes first; where they are equal, the longest waiter.
- What only time changes (a quantum, a rest, a stall is over) nobody tells. One of those that wait looks out for it, for
  all: did each, with hundreds that wait they would be busy looking.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from mt_paas_db.session.places import CellStatus, Member, Place, PoolStatus, Slot, Standing, Waiter

OPENING_S = 0.01
"""What a new connection is taken to cost: twice the 5 ms that opening took, as a new backend knows no table yet."""


class Budget:
    """`limit` places and who has them. Not safe for threads; `now` is any clock that does not go back, in seconds.

    Args:
        limit: Most places that are taken at once.
        idle_s: After how long an idle connection is closed, at the next touch.
        quantum_s: How long a cell may keep a connection that another one waits for: ten times what opening one costs.
        rest_s: How long a cell that is busy leaves a connection unused before a cell that has others may have it.
        stall_s: How long a cell that has connections may go without one coming back.
        lost: Called when a slot was dropped; has `lost` called under the lock.
    """

    def __init__(
        self,
        limit: int,
        *,
        idle_s: float = float("inf"),
        quantum_s: float = 10 * OPENING_S,
        rest_s: float = 200 * OPENING_S,
        stall_s: float = 50 * OPENING_S,
        lost: Callable[[Place], None] = lambda _: None,
    ) -> None:
        self.limit = limit
        self.evictions = 0
        self.closing: deque[Slot] = deque()  # to be closed without the lock, and freed
        self._idle_s = idle_s
        self.quantum_s = quantum_s
        self.rest_s = rest_s
        self._stall_s = stall_s
        self._lost = lost
        self._sweep_at = float("-inf")
        self._places: dict[int, Place] = {}
        self._waiting: dict[Member, None] = {}
        self._lookout: Waiter | None = None
        self._standing: Standing | None = None  # what `_stand` has counted, until a place changes

    # -- taking

    def take(self, member: Member, now: float) -> Slot | None:
        """Return a slot of `member`: an idle connection, or an empty one where there is room; else None."""
        if now >= self._sweep_at:
            self._sweep(now)
        if member.idle:
            slot = member.idle.pop()
            slot.since = now
            return slot
        if len(self._places) < self.limit and not self._waiting:
            return self._open(member, now)
        return None

    def claim(self, waiter: Waiter, now: float) -> Slot | None:
        """Return what was given to `waiter`, or can be; else it waits on, and an idle connection goes for it."""
        if waiter.slot is None:
            member = waiter.member
            if waiter not in member.waiting:
                waiter.slot = self.take(member, now)
                if waiter.slot is not None:
                    self._pass_lookout_on(waiter)
                    return waiter.slot
                member.waiting.append(waiter)
            self._waiting[member] = None
            if len(self._places) >= self.limit:
                self._bury()
            self._hand_on(now)
            while self._relieve(now) and waiter is self._lookout:  # for all that wait, which do not look themselves
                pass
        return waiter.slot

    def patience_s(self, waiter: Waiter, now: float) -> float:
        """Return after how long `waiter` shall look again without being told; infinity where another looks out for all.

        Once a quantum is over for a cell that holds none, whatever comes back to anybody is looked at for it.
        """
        if not self._held()[waiter.member] and waiter is waiter.member.waiting[0]:
            left = waiter.since + self.quantum_s - now
            if left > 0:
                return left
        if self._lookout is None or self._lookout.member.gone():
            self._lookout = waiter
        return min(self.rest_s, self._stall_s) if self._lookout is waiter else float("inf")

    def withdraw(self, waiter: Waiter) -> Slot | None:
        """Let `waiter` wait no more; return what it had been given, which is the caller's to give back."""
        member = waiter.member
        if waiter in member.waiting:
            member.waiting.remove(waiter)
        if not member.waiting:
            self._waiting.pop(member, None)
        self._pass_lookout_on(waiter)
        slot, waiter.slot = waiter.slot, None
        return slot

    # -- giving back

    def put(self, slot: Slot, now: float) -> None:
        """Take back a slot whose connection is good: it is kept, handed to a waiter of its cell, or closed."""
        member = slot.member
        if not self._waiting and member.keeps:
            slot.since = now
            member.idle.append(slot)
            return
        if id(slot) not in self._places or not member.keeps:
            self.end(slot, now)
        elif self._owed(slot, now):
            self._evict_slot(slot, now)
        elif member.waiting:
            slot.since = now
            self._grant(member, slot, now)
        else:
            slot.since = now
            member.idle.append(slot)
            self._relieve(now)

    def end(self, slot: Slot, now: float) -> None:
        """Take back a slot whose connection, if it has one, shall be closed."""
        self._close(slot, now)
        self._relieve(now)

    def free(self, slot: Slot, now: float) -> None:
        """Free the place of a slot that holds no connection any more, and hand it on."""
        self._standing = None
        self._places.pop(id(slot), None)
        self._hand_on(now)
        self._relieve(now)

    def lost(self, place: Place, now: float) -> None:
        """Free the place of a slot that nobody gave back."""
        self._standing = None
        if self._places.get(place.key) is place:
            del self._places[place.key]
        self._hand_on(now)
        self._relieve(now)

    def resize(self, limit: int, now: float) -> None:
        """Set another limit."""
        self.limit = limit
        self._hand_on(now)

    def drop(self, member: Member, now: float) -> None:
        """Close what `member` has idle, and what comes back to it from now on."""
        member.keeps = False
        while member.idle:
            self._close(member.idle.pop(), now)

    def forget(self, keep: Callable[[Slot], None]) -> None:
        """Forget every place and waiter: they are another process's. Their slots go to `keep`, now or when put back."""
        for member in [*self._members(), *self._waiting]:
            member.keeps, member.close = False, keep
            self.closing.extend(member.idle)
            member.idle.clear()
            member.waiting.clear()
        self._places.clear()
        self._waiting.clear()
        self._lookout = self._standing = None

    # -- deciding

    def _owed(self, slot: Slot, now: float) -> bool:
        """Whether the place of a slot that came back is owed to another cell."""
        if slot.opened_at + self.quantum_s > now:
            return False
        member, covering, held = slot.member, self._covering(now), self._held()
        others = [other for other in self._demanding() if other is not member]
        needy = [other for other in others if self._counts(other, held, now) == 0]
        if len(needy) > covering and (held[member] > 1 or self._urgent(needy, now)):
            return True
        patient = [other for other in others if other.waiting[0].since + self.quantum_s <= now]
        return bool(member.waiting) and any(held[member] >= held[other] + covering + 2 for other in patient)

    def _urgent(self, needy: list[Member], now: float) -> bool:
        """Whether a cell's only connection goes for those without any: nobody has two, or one has waited for long."""
        return not self._stand().several or any(member.waiting[0].since + self.quantum_s <= now for member in needy)

    def _counts(self, member: Member, held: Counter[Member], now: float) -> int:
        """How many slots a waiting member holds; none where nothing of them has come back to it for long."""
        stalled = max(member.served_at, member.waiting[0].since) + self._stall_s <= now
        return 0 if stalled else held[member]

    def _hand_on(self, now: float) -> None:
        """Give free places to those who wait: to the cell with the fewest, and where equal, the longest waiter."""
        while self._waiting and len(self._places) < self.limit:
            demanding = self._demanding()
            if not demanding:
                return
            held = self._held()
            first = min(demanding, key=lambda member: (self._counts(member, held, now), member.waiting[0].since))
            self._grant(first, self._open(first, now), now)

    def _grant(self, member: Member, slot: Slot, now: float) -> None:
        """Give `slot` to the member's longest waiter that is still there.

        It is woken first: interrupted between the two, it finds nothing, and claims again.
        """
        while member.waiting:
            waiter = member.waiting[0]
            there = waiter.wake()
            member.waiting.popleft()
            if not member.waiting:
                self._waiting.pop(member, None)
            self._pass_lookout_on(waiter)
            if there:
                member.served_at = now
                waiter.slot = slot
                return
        self._waiting.pop(member, None)
        self._close(slot, now)

    def _pass_lookout_on(self, waiter: Waiter) -> None:
        """Have another look out where it was `waiter`, which leaves: the last in a line, as it stays for longest."""
        if self._lookout is waiter:
            self._lookout = None
            for other in (other for member in self._waiting for other in reversed(member.waiting)):
                if other.wake():
                    self._lookout = other
                    return

    def _open(self, member: Member, now: float) -> Slot:
        self._standing = None
        slot = member.make()
        slot.member, slot.since, slot.opened_at = member, now, now
        place = Place(slot, self._lost)
        place.key, place.member, place.closing_since = id(slot), member, None
        self._places[place.key] = place
        return slot

    def _relieve(self, now: float) -> bool:
        """Close an idle connection where somebody who waits may have its place; return whether there was one."""
        demanding = self._demanding()
        idle = [member for member in self._members() if member.idle] if demanding else []
        if not idle:
            return False
        held, covering = self._held(), self._covering(now)
        needy = [member for member in demanding if self._counts(member, held, now) == 0]
        rested = [member for member in idle if member.idle[0].since + self.rest_s <= now]
        if len(needy) <= covering:  # what has been used just now will be again, by its own cell, and sooner than opened
            idle = rested
        else:
            spare = [member for member in idle if held[member] > 1 or member in rested]
            idle = spare or (idle if self._urgent(needy, now) else [])
        if idle and sum(len(member.waiting) for member in demanding) > covering:
            quietest = min(idle, key=lambda member: member.idle[0].since)
            self._evict_slot(quietest.idle.pop(0), now)
            return True
        return False

    def _close(self, slot: Slot, now: float) -> None:
        self._standing = None
        place = self._places.get(id(slot))
        if place is not None:
            place.closing_since = now
        self.closing.append(slot)

    def _evict_slot(self, slot: Slot, now: float) -> None:
        slot.member.evictions += 1
        self.evictions += 1
        self._close(slot, now)

    def _sweep(self, now: float) -> None:
        """Close what has been idle for too long, and note when there can be more of it."""
        oldest = now
        for member in self._members():
            while member.idle and member.idle[0].since + self._idle_s <= now:
                self._close(member.idle.pop(0), now)
            if member.idle:
                oldest = min(oldest, member.idle[0].since)
        self._sweep_at = oldest + self._idle_s

    def _bury(self) -> None:
        """Free the places of members whose event loop is closed."""
        for member in self._members():
            if member.gone():
                self._standing = None
                member.keeps = False
                self.closing.extend(member.idle)
                member.idle.clear()
                for waiter in list(member.waiting):
                    self.withdraw(waiter)
                for key in [key for key, place in self._places.items() if place.member is member]:
                    del self._places[key]

    # -- counting; only where somebody waits, or asks

    def _demanding(self) -> list[Member]:
        """Return the members with somebody who waits."""
        for member in [member for member in self._waiting if not member.waiting]:
            del self._waiting[member]
        return list(self._waiting)

    def _stand(self) -> Standing:
        """Return who has how many. Counted anew after each change of a place, which forgets it before it is made."""
        if self._standing is None:
            self._standing = Standing.of(self._places.values())
        return self._standing

    def _members(self) -> list[Member]:
        return self._stand().members

    def _held(self) -> Counter[Member]:
        return self._stand().held

    def _covering(self, now: float) -> int:
        """How many places are about to be free. One that takes long to close is not waited for."""
        return sum(begun + self._stall_s > now for begun in self._stand().closing)

    def slots(self) -> list[Slot]:
        """Return the slots that are open, but for those that are being closed."""
        places = [place for place in self._places.values() if place.closing_since is None]
        return [slot for slot in (place() for place in places) if slot is not None]

    def held_by(self, member: Member) -> tuple[int, int]:
        """Return how many slots a member has in use, and idle."""
        return self._held()[member] - len(member.idle), len(member.idle)

    def status(self, now: float) -> PoolStatus:
        """Return who has how many, now."""
        open_, used = self._held(), Counter[str]()
        idle, waiting, evictions = Counter[str](), Counter[str](), Counter[str]()
        oldest: dict[str, float] = {}
        longest: dict[str, float] = {}
        for member in dict.fromkeys([*self._members(), *self._waiting]):
            cell = member.cell
            idle[cell] += len(member.idle)
            used[cell] += open_[member] - len(member.idle)
            waiting[cell] += len(member.waiting)
            evictions[cell] += member.evictions
            if member.waiting:
                longest[cell] = max(longest.get(cell, 0.0), now - member.waiting[0].since)
        resting = {id(slot) for member in open_ for slot in member.idle}
        for place in self._places.values():
            slot = place()
            if slot is not None and place.closing_since is None and place.key not in resting:
                oldest[place.member.cell] = max(oldest.get(place.member.cell, 0.0), now - slot.since)
        return PoolStatus(
            budget=self.limit,
            in_use=used.total(),
            idle=idle.total(),
            closing=len(self._places) - open_.total(),
            waiting=waiting.total(),
            evictions=self.evictions,
            cells=tuple(
                CellStatus(
                    cell=cell,
                    in_use=used[cell],
                    idle=idle[cell],
                    waiting=waiting[cell],
                    longest_wait_s=longest.get(cell, 0.0),
                    oldest_use_s=oldest.get(cell, 0.0),
                    evictions=evictions[cell],
                )
                for cell in sorted(idle)
            ),
        )
