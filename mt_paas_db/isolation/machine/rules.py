"""Which steps may come next: hypothesis draws one of those that the world is ready for.

What is drawn is a number that chooses among those to whom a step may happen: what is drawn next depends on the steps
before, and never on what a server answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mt_paas_db.isolation.machine import ready
from mt_paas_db.isolation.machine.reads import READS, WRITES
from mt_paas_db.isolation.machine.strays import STRAYS
from mt_paas_db.isolation.machine.tenants import COLORS

if TYPE_CHECKING:
    from mt_paas_db.isolation.machine.world import World

_which = st.integers(0, 5)
# How many steps there may be in a sequence that take long, or leave little for others to find: often none.
_deletions = st.sampled_from((0, 0, 1, 2))
_fills = st.sampled_from((0, 1, 2))
_shocks = st.integers(0, 3)
_colors = st.sampled_from(COLORS)
_reads = st.sampled_from(("orm", "orm", *sorted(READS)))  # its objects can be handed over
_writes = st.sampled_from(WRITES)


def _needs(name: str) -> Callable[[Any], Any]:
    """Let a rule wait until its step may come next."""
    return precondition(lambda self: bool(ready.choices(self.world, name)))


class Machine(RuleBasedStateMachine):
    """Draws steps for a world.

    Attributes:
        world: Where they are carried out; set by a subclass.
    """

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self._deletions = self._fills = self._shocks = 0
        self.world.begin()

    def teardown(self) -> None:
        """End the sequence, with the last checks if nothing has failed."""
        if self.world.failure is None:
            self.world.end()

    def _one(self, name: str, which: int) -> Any:
        """Return one of those to which the step may happen: a session's number or a tenant's colour."""
        found = ready.choices(self.world, name)
        return found[which % len(found)]

    # -- sessions

    @initialize(first=_colors, second=_colors, deletions=_deletions, fills=_fills, shocks=_shocks)
    def open_two(self, first: str, second: str, deletions: int, fills: int, shocks: int) -> None:
        self._deletions, self._fills, self._shocks = deletions, fills, shocks
        self.world.open(0, first)
        self.world.open(1, second)

    @precondition(lambda self: ready.may_open(self.world))
    @rule(color=_colors)
    def open(self, color: str) -> None:
        self.world.open(next(n for n in range(ready.SESSIONS) if n not in self.world.visits), color)

    @_needs("close")
    @rule(which=_which, how=st.sampled_from(("commit", "raise")))
    def close(self, which: int, how: str) -> None:
        self.world.close(self._one("close", which), how)

    @_needs("read")
    @rule(which=_which, via=_reads)
    def read(self, which: int, via: str) -> None:
        self.world.read(self._one("read", which), via)

    @_needs("insert")
    @rule(which=_which, via=_writes)
    def insert(self, which: int, via: str) -> None:
        self.world.insert(self._one("insert", which), via)

    @_needs("update")
    @rule(which=_which, row=_which, via=_writes)
    def update(self, which: int, row: int, via: str) -> None:
        self.world.update(self._one("update", which), row, via)

    @_needs("delete_row")
    @rule(which=_which, row=_which, via=_writes)
    def delete_row(self, which: int, row: int, via: str) -> None:
        self.world.delete_row(self._one("delete_row", which), row, via)

    @_needs("commit")
    @rule(which=_which)
    def commit(self, which: int) -> None:
        self.world.commit(self._one("commit", which))

    @_needs("rollback")
    @rule(which=_which)
    def rollback(self, which: int) -> None:
        self.world.rollback(self._one("rollback", which))

    @_needs("savepoint")
    @rule(which=_which)
    def savepoint(self, which: int) -> None:
        self.world.savepoint(self._one("savepoint", which))

    @_needs("release")
    @rule(which=_which)
    def release(self, which: int) -> None:
        self.world.release(self._one("release", which))

    @_needs("back")
    @rule(which=_which)
    def back(self, which: int) -> None:
        self.world.back(self._one("back", which))

    @_needs("violate")
    @rule(which=_which, row=_which, via=_writes)
    def violate(self, which: int, row: int, via: str) -> None:
        self.world.violate(self._one("violate", which), row, via)

    @_needs("stray")
    @rule(which=_which, name=st.sampled_from(sorted(STRAYS)), other=st.integers(1, 2))
    def stray(self, which: int, name: str, other: int) -> None:
        n = self._one("stray", which)
        own = COLORS.index(self.world.visits[n].life.color)
        self.world.stray(n, name, COLORS[(own + other) % len(COLORS)])

    @_needs("peek")
    @rule(which=_which)
    def peek(self, which: int) -> None:
        self.world.peek(self._one("peek", which))

    @_needs("hand_over")
    @rule(which=_which, giver=_which)
    def hand_over(self, which: int, giver: int) -> None:
        n = self._one("hand_over", which)
        givers = ready.givers(self.world, self.world.visits[n])
        self.world.hand_over(n, givers[giver % len(givers)])

    @_needs("read_under")
    @rule(which=_which, outer=_colors, inner=_colors)
    def read_under(self, which: int, outer: str, inner: str) -> None:
        self.world.read_under(self._one("read_under", which), outer, inner)

    @_needs("read_tables")
    @rule(which=_which)
    def read_tables(self, which: int) -> None:
        self.world.read_tables(self._one("read_tables", which))

    # -- accidents

    @_needs("kill")
    @rule(which=_which)
    def kill(self, which: int) -> None:
        self.world.kill(self._one("kill", which))

    @precondition(lambda self: self._shocks > 0)
    @precondition(lambda self: ready.may_kill_at_rest(self.world))
    @rule()
    def kill_at_rest(self) -> None:
        self._shocks -= 1
        self.world.kill_at_rest()

    @precondition(lambda self: ready.may_reconnect(self.world))
    @rule(hard=st.booleans())
    def reconnect(self, hard: bool) -> None:  # noqa: FBT001  # drawn
        self.world.reconnect(hard)

    @_needs("cancel")
    @rule(which=_which, turns=_which)
    def cancel(self, which: int, turns: int) -> None:
        self.world.cancel(self._one("cancel", which), turns)

    @_needs("cancel_closing")
    @rule(which=_which, turns=_which)
    def cancel_closing(self, which: int, turns: int) -> None:
        self.world.cancel_closing(self._one("cancel_closing", which), turns)

    # -- tenants

    @precondition(lambda self: self._shocks > 0)
    @_needs("suspend")
    @rule(which=_which)
    def suspend(self, which: int) -> None:
        self._shocks -= 1
        self.world.suspend(self._one("suspend", which))

    @_needs("resume")
    @rule(which=_which)
    def resume(self, which: int) -> None:
        self.world.resume(self._one("resume", which))

    @precondition(lambda self: self._deletions > 0)
    @_needs("delete")
    @rule(which=_which)
    def delete(self, which: int) -> None:
        self._deletions -= 1
        self.world.delete(self._one("delete", which))

    @_needs("create")
    @rule(which=_which)
    def create(self, which: int) -> None:
        self.world.create(self._one("create", which))

    @precondition(lambda self: self._shocks > 0)
    @_needs("migrate")
    @rule(which=_which)
    def migrate(self, which: int) -> None:
        self._shocks -= 1
        self.world.migrate(self._one("migrate", which))

    @precondition(lambda self: self._fills > 0)
    @_needs("fill")
    @rule(which=_which, commit=st.booleans())
    def fill(self, which: int, commit: bool) -> None:  # noqa: FBT001  # drawn
        self._fills -= 1
        self.world.fill(self._one("fill", which), commit)
