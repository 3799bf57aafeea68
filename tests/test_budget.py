"""The budget's decisions, by themselves: a clock that stands still until it is moved, no driver, no thread.

What is closed takes as long as the machine likes: it is freed in a step of its own, as by another thread or loop.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mt_paas_db.session.budget import Budget
from mt_paas_db.session.places import Member, Slot, Waiter

LIMIT, QUANTUM_S, REST_S, STALL_S, IDLE_S = 3, 0.05, 0.2, 0.5, 60.0
LOOK_S = min(REST_S, STALL_S)


class Connection(Slot):
    """A slot with a connection in it, once it has been used."""


class Client(Waiter):
    """Somebody who waits, and is told to look again."""

    told = False
    looks_at = float("inf")  # when it looks again without being told

    def wake(self) -> bool:
        self.told = True
        return True


def member(cell: str, **options: Any) -> Member:
    return Member(cell, cluster="main", waits=Client, make=Connection, close=lambda _: None, **options)


def budget(limit: int = LIMIT, **options: Any) -> Budget:
    return Budget(limit, idle_s=IDLE_S, quantum_s=QUANTUM_S, rest_s=REST_S, stall_s=STALL_S, **options)


def free_all(shared: Budget, now: float) -> list[Slot]:
    """Close what is to be closed, at once."""
    closed = []
    while shared.closing:
        closed.append(shared.closing.popleft())
        shared.free(closed[-1], now)
    return closed


def taken(shared: Budget, cell: Member, now: float) -> Slot:
    slot = shared.take(cell, now)
    assert slot is not None
    return slot


def queue(shared: Budget, cell: Member, now: float) -> Client:
    client = Client(cell, now)
    assert shared.claim(client, now) is None
    return client


# -- single decisions


def test_an_idle_connection_serves_its_own_cell_the_last_one_first() -> None:
    shared, a = budget(), member("a")
    first, second = taken(shared, a, 0), taken(shared, a, 0)
    shared.put(first, 1)
    shared.put(second, 2)
    assert [shared.take(a, 3), shared.take(a, 3)] == [second, first]


def test_the_connection_idle_for_longest_goes_for_another_cell() -> None:
    shared, a, b, c = budget(2), member("a"), member("b"), member("c")
    old, young = taken(shared, a, 0), taken(shared, b, 0)
    shared.put(old, 1)
    shared.put(young, 2)
    client = queue(shared, c, 3)
    assert list(shared.closing) == [old]
    free_all(shared, 3)
    assert client.told
    assert client.slot is not None
    assert client.slot.member is c
    assert (a.evictions, b.evictions, shared.evictions) == (1, 0, 1)


def test_a_connection_in_use_is_never_closed_for_another() -> None:
    shared, a, b = budget(1), member("a"), member("b")
    used = taken(shared, a, 0)
    client = queue(shared, b, 1)
    assert used not in shared.closing
    assert client.slot is None


def test_no_place_is_closed_twice_over_for_one_who_waits() -> None:
    shared, a, b = budget(2), member("a"), member("b")
    slots = [taken(shared, a, 0), taken(shared, a, 0)]
    shared.put(slots[0], 1)
    queue(shared, b, 2)
    assert list(shared.closing) == [slots[0]]
    shared.put(slots[1], 2)
    assert list(shared.closing) == [slots[0]]
    assert a.idle == [slots[1]]


def test_busy_cells_keep_what_they_have_once_they_have_their_share() -> None:
    """8 and 7 of 15, each with more to do than connections: nothing is closed, however long it goes on."""
    shared, a, b = budget(15), member("a"), member("b")
    used = [taken(shared, a, 0) for _ in range(8)] + [taken(shared, b, 0) for _ in range(7)]
    for turn in range(1_000):
        now = turn * 0.001
        for cell in (a, b):
            while len(cell.waiting) < 5:
                queue(shared, cell, now)
        heir = used[turn % 15].member.waiting[0]
        shared.put(used[turn % 15], now)
        assert heir.slot is used[turn % 15]
    assert shared.evictions == 0


def test_a_cell_that_comes_later_gets_its_share() -> None:
    shared, a, b = budget(14), member("a"), member("b")
    used = [taken(shared, a, 0) for _ in range(14)]
    clients: list[Client] = []
    for turn in range(100):
        now = turn * 0.001
        for cell in (a, b):
            clients += [queue(shared, cell, now) for _ in range(14 - len(cell.waiting))]
        shared.put(used.pop(0), now)
        free_all(shared, now)
        used += [client.slot for client in clients if client.slot is not None]
        clients = [client for client in clients if client.slot is None]
    assert shared.held_by(a) == shared.held_by(b) == (7, 0)
    assert shared.evictions == 7


def test_a_cell_keeps_its_connection_for_a_quantum_where_others_wait() -> None:
    shared, a, b = budget(1), member("a"), member("b")
    slot = taken(shared, a, 0)
    other = queue(shared, b, 0)
    now = 0.0
    while now < QUANTUM_S:
        mine = queue(shared, a, now)
        shared.put(slot, now)
        assert mine.slot is slot
        now += 0.01
    queue(shared, a, now)
    shared.put(slot, now)
    assert free_all(shared, now) == [slot]
    assert other.slot is not None


def test_many_cells_on_one_connection_are_all_served_in_turn() -> None:
    shared, cells = budget(1), [member(str(number)) for number in range(5)]
    now, served = 0.0, list[str]()
    slot = taken(shared, cells[0], now)
    for cell in cells:
        queue(shared, cell, now)
    while len(served) < 400:
        now += 0.005
        queue(shared, slot.member, now)
        heads = [cell.waiting[0] for cell in cells]
        shared.put(slot, now)
        free_all(shared, now)
        (heir,) = (head for head in heads if head.slot is not None)
        assert heir.slot is not None
        slot = heir.slot
        served.append(slot.member.cell)
    turns = [cell for cell, before in zip(served, [None, *served], strict=False) if cell != before]
    assert turns[:10] == ["0", "1", "2", "3", "4"] * 2
    assert shared.evictions * 5 < len(served)  # opening one costs a small part of the time


def test_a_cell_whose_connections_do_not_come_back_is_served_from_others() -> None:
    shared, a, b = budget(2), member("a"), member("b")
    used = taken(shared, a, 0)
    stuck = taken(shared, b, 0)
    client = queue(shared, b, 0)
    now = 0.0
    while client.slot is None and now < 2:
        now += 0.01
        queue(shared, a, now)
        shared.put(used, now)
        free_all(shared, now)
    assert now == pytest.approx(STALL_S, abs=0.02)
    assert stuck not in b.idle


def test_a_dropped_slot_gives_its_place_to_who_waits() -> None:
    lost: list[Any] = []
    shared, a, b = budget(1, lost=lost.append), member("a"), member("b")
    slot: Slot | None = taken(shared, a, 0)
    client = queue(shared, b, 0)
    assert slot is not None
    slot = None
    gc.collect()
    shared.lost(lost.pop(), 1)
    assert client.slot is not None
    assert client.slot.member is b


def test_one_whose_loop_is_closed_gives_its_places_up() -> None:
    closed = False
    shared, a, b = budget(2), member("a", gone=lambda: closed), member("b")
    used, idle = taken(shared, a, 0), taken(shared, a, 0)
    shared.put(idle, 0)
    stays = taken(shared, a, 0)
    assert stays is idle
    closed = True
    assert shared.claim(Client(b, 1), 1) is not None or shared.claim(Client(b, 1), 1) is not None
    shared.put(used, 2)
    assert used in shared.closing
    assert used not in a.idle


def test_idle_ones_are_closed_when_somebody_touches_any() -> None:
    shared, a, b = budget(4), member("a"), member("b")
    old, young = taken(shared, a, 0), taken(shared, a, 0)
    shared.put(old, 0)
    shared.put(young, IDLE_S / 2)
    others = [taken(shared, b, IDLE_S - 1)]
    assert not shared.closing
    others.append(taken(shared, b, IDLE_S))
    assert list(shared.closing) == [old]
    assert a.idle == [young]


def test_one_disposed_of_keeps_nothing() -> None:
    shared, a = budget(), member("a")
    idle, used = taken(shared, a, 0), taken(shared, a, 0)
    shared.put(idle, 0)
    shared.drop(a, 1)
    shared.put(used, 2)
    assert free_all(shared, 2) == [idle, used]
    assert shared.status(2).cells == ()


def test_the_status_says_who_has_and_who_waits() -> None:
    shared, a, b = budget(2), member("a"), member("b")
    used = taken(shared, a, 0)
    shared.put(taken(shared, b, 1), 2)
    queue(shared, a, 3)
    status = shared.status(5)
    assert used.since == 0
    assert (status.budget, status.in_use, status.idle, status.closing, status.waiting) == (2, 1, 0, 1, 1)
    (cell,) = (cell for cell in status.cells if cell.cell == "a")
    assert (cell.in_use, cell.waiting, cell.longest_wait_s, cell.oldest_use_s) == (1, 1, 2, 5)


def test_a_cell_that_has_some_waits_for_its_own_while_others_were_used_just_now() -> None:
    """What was used a moment ago will be again: closed for a burst elsewhere, it is opened again."""
    shared, a, b = budget(2), member("a"), member("b")
    mine, others = taken(shared, a, 0), taken(shared, b, 0)
    shared.put(others, 1)
    client = queue(shared, a, 1 + REST_S / 2)
    assert not shared.closing
    shared.put(mine, 1 + REST_S / 2)
    assert client.slot is mine
    client.slot = None
    queue(shared, a, 1 + REST_S)
    assert list(shared.closing) == [others]


def crowded() -> tuple[Budget, list[Slot], Slot, Client, Member]:
    """Return a budget of 3: one cell uses two, another has one that it used just now, and a third waits."""
    shared, a, b, c = budget(3), member("a"), member("b"), member("c")
    used, only = [taken(shared, a, 0), taken(shared, a, 0)], taken(shared, b, 0)
    shared.put(only, 1)
    return shared, used, only, queue(shared, c, 1), b


def test_one_of_two_goes_for_a_cell_without_any_rather_than_an_only_one() -> None:
    shared, used, _, client, b = crowded()
    assert not shared.closing
    shared.put(used[0], 1 + QUANTUM_S / 2)
    assert free_all(shared, 1) == [used[0]]
    assert client.slot is not None
    assert (b.evictions, len(b.idle)) == (0, 1)


def test_an_only_one_is_not_handed_on_while_another_cell_has_two() -> None:
    shared, used, only, client, b = crowded()
    assert shared.take(b, 1) is only
    shared.put(only, 1.01)
    assert not shared.closing
    shared.put(used[0], 1.02)
    assert free_all(shared, 1.02) == [used[0]]
    assert client.slot is not None


def test_an_only_one_goes_after_a_quantum_where_nobody_gives_one_of_two_back() -> None:
    shared, _, only, client, _ = crowded()
    assert shared.patience_s(client, 1) == pytest.approx(QUANTUM_S)
    assert shared.patience_s(client, 1 + QUANTUM_S) == LOOK_S
    shared.claim(client, 1 + QUANTUM_S / 2)
    assert not shared.closing
    shared.claim(client, 1 + QUANTUM_S)
    assert list(shared.closing) == [only]


def test_what_has_rested_goes_before_one_of_several_that_was_used_just_now() -> None:
    shared, cold, hot, new = budget(4), member("cold"), member("hot"), member("new")
    rested = taken(shared, cold, 0)
    shared.put(rested, 0)
    used = [taken(shared, hot, 0) for _ in range(3)]
    shared.put(used[0], 3600)
    queue(shared, new, 3600)
    assert list(shared.closing) == [rested]


def test_who_waits_beside_a_stalled_connection_looks_again_when_it_counts_as_none() -> None:
    shared, stuck, other = Budget(2), member("stuck"), member("other")
    held, idle = taken(shared, stuck, 0), taken(shared, other, 0)
    shared.put(idle, 0.1)
    client = queue(shared, stuck, 0.1)
    later = 0.1 + shared.patience_s(client, 0.1)
    assert later < 0.1 + shared.rest_s
    assert not shared.closing
    shared.claim(client, later)
    assert free_all(shared, later) == [idle]
    assert client.slot not in (None, held)


def one_looks_out(make: type[Budget]) -> None:
    shared, a = make(1, quantum_s=QUANTUM_S, rest_s=REST_S, stall_s=STALL_S), member("a")
    held = taken(shared, a, 0)
    first, second, third = (queue(shared, a, 0) for _ in range(3))
    assert [shared.patience_s(client, 0) for client in (first, second, third)] == [LOOK_S, float("inf"), float("inf")]
    shared.put(held, 0)  # the first has it
    assert first.slot is held
    assert third.told
    assert [shared.patience_s(client, 0) for client in (second, third)] == [float("inf"), LOOK_S]
    shared.withdraw(third)
    assert second.told
    assert shared.patience_s(second, 0) == LOOK_S


class LosesItsLookout(Budget):
    """Who looked out for all that wait leaves, and nobody else does it."""

    def _pass_lookout_on(self, waiter: Waiter) -> None:
        pass


def test_one_looks_out_for_all_who_wait_and_another_when_it_leaves() -> None:
    one_looks_out(Budget)
    with pytest.raises(AssertionError):
        one_looks_out(LosesItsLookout)


def test_one_look_closes_what_rests_for_all_who_wait() -> None:
    shared, quiet, busy = budget(4), member("quiet"), member("busy")
    resting = [taken(shared, quiet, 0) for _ in range(2)]
    for slot in resting:
        shared.put(slot, 0)
    used = [taken(shared, busy, 0) for _ in range(2)]
    clients = [queue(shared, busy, 0) for _ in range(3)]
    assert not shared.closing
    assert shared.patience_s(clients[0], 0) == REST_S
    shared.claim(clients[0], REST_S)
    assert list(shared.closing) == resting
    assert not set(used) & set(shared.closing)


def test_who_has_forgotten_counts_nothing() -> None:
    shared, a = budget(2), member("a")
    held = taken(shared, a, 0)
    shared.forget(lambda _: None)
    assert shared.held_by(a) == (0, 0)
    assert shared.status(0).in_use == 0
    del held


def opened_by_as_many_cells_as_places(make: type[Budget]) -> float:
    """Return how many connections a thousand transactions open: 16 cells, popular and not, on 16 places."""
    chance, shared = Random(7), make(16)
    cells = [member(str(number)) for number in range(16)]
    popular = [1 / rank for rank in range(1, 17)]
    used: list[tuple[float, Slot]] = []
    clients: list[Client] = []
    opened = served = 0
    for turn in range(5_000):
        now = turn * 0.001
        while len(used) + len(clients) < 32:
            (cell,) = chance.choices(cells, popular)
            slot = shared.take(cell, now)
            if slot is not None:
                used.append((now + chance.expovariate(100), slot))
            else:
                clients.append(Client(cell, now))
                shared.claim(clients[-1], now)
        for ended in [one for one in used if one[0] <= now]:
            used.remove(ended)
            shared.put(ended[1], now)
            served += 1
        free_all(shared, now)
        for client in [client for client in clients if shared.claim(client, now) is not None]:
            clients.remove(client)
            assert client.slot is not None
            opened += client.slot.opened_at == now
            used.append((now + chance.expovariate(100), client.slot))
    return 1000 * opened / served


class TakesTheOnlyOne(Budget):
    """A cell's only connection goes as soon as another cell has none."""

    def _urgent(self, needy: list[Member], now: float) -> bool:
        return True


def test_cells_do_not_go_round_taking_each_others_only_connection() -> None:
    kept, taken_away = opened_by_as_many_cells_as_places(Budget), opened_by_as_many_cells_as_places(TakesTheOnlyOne)
    assert kept < 10
    assert kept * 4 < taken_away


def test_cells_whose_turns_come_at_random_seldom_open_connections() -> None:
    """As many clients as connections, on cells of chance: each is short of one now and then."""
    chance, shared, cells = Random(7), budget(16), [member(str(number)) for number in range(4)]
    used: list[Slot] = []
    clients: list[Client] = []
    opened = 0
    for turn in range(4_000):
        now = turn * 0.001
        while len(used) + len(clients) < 16:
            cell = chance.choice(cells)
            slot = shared.take(cell, now)
            if slot is not None:
                used.append(slot)
            else:
                clients.append(Client(cell, now))
                shared.claim(clients[-1], now)
        free_all(shared, now)
        shared.put(used.pop(chance.randrange(len(used))), now)
        given = [client for client in clients if client.slot is not None]
        clients = [client for client in clients if client.slot is None]
        for client in given:
            assert client.slot is not None
            opened += client.slot.opened_at == now
            used.append(client.slot)
    assert opened < 0.02 * turn


# -- any order of steps


class Machine(RuleBasedStateMachine):
    """Clients of four cells take, wait, give up, give back and lose; closing takes its time."""

    make: Callable[..., Budget] = staticmethod(budget)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lost: list[Any] = []
        self.shared = self.make(lost=self.lost.append)
        self.cells = [member(name) for name in "abcd"]
        self.used: list[Slot] = []
        self.clients: list[Client] = []
        self.closing: list[Slot] = []

    def settle(self) -> None:
        """Have those who were told look again."""
        while self.lost:
            self.shared.lost(self.lost.pop(), self.now)
        for client in [client for client in self.clients if client.told]:
            client.told = False
            slot = self.shared.claim(client, self.now)
            if slot is None:
                client.looks_at = self.now + self.shared.patience_s(client, self.now)
            else:
                self.clients.remove(client)
                client.slot = None
                self.used.append(slot)
        self.closing += self.shared.closing
        self.shared.closing.clear()

    @rule(cell=st.integers(0, 3))
    def come(self, cell: int) -> None:
        self.arrive(cell)

    def arrive(self, cell: int) -> None:
        slot = self.shared.take(self.cells[cell], self.now)
        if slot is not None:
            assert slot not in self.used
            self.used.append(slot)
        else:
            client = Client(self.cells[cell], self.now)
            client.told = True
            self.clients.append(client)
        self.settle()

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99), good=st.booleans())
    def give_back(self, which: int, *, good: bool) -> None:
        slot = self.used.pop(which % len(self.used))
        (self.shared.put if good else self.shared.end)(slot, self.now)
        del slot
        self.settle()

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99))
    def lose(self, which: int) -> None:
        """An exception in the wrong moment: nobody has the slot any more."""
        self.used.pop(which % len(self.used))
        self.settle()

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        slot = self.shared.withdraw(self.clients.pop(which % len(self.clients)))
        if slot is not None:
            self.shared.put(slot, self.now)
        del slot
        self.settle()

    @precondition(lambda self: self.closing)
    @rule(which=st.integers(0, 99))
    def closed(self, which: int) -> None:
        self.shared.free(self.closing.pop(which % len(self.closing)), self.now)
        self.settle()

    @rule(seconds=st.sampled_from([0.001, 0.01, QUANTUM_S, REST_S, STALL_S, IDLE_S]))
    def tick(self, seconds: float) -> None:
        """Who waits looks again when its patience is over, without being told."""
        ends = self.now + seconds
        while (due := min((client.looks_at for client in self.clients), default=ends + 1)) <= ends:
            self.now = max(self.now, due)
            for client in self.clients:
                client.told = client.looks_at <= self.now
            self.settle()
        self.now = ends

    @invariant()
    def never_over_budget(self) -> None:
        slots = {id(slot) for slot in [*self.used, *self.closing, *(s for cell in self.cells for s in cell.idle)]}
        assert len(slots) <= LIMIT
        status = self.shared.status(self.now)
        assert (status.in_use, status.closing) == (len(self.used), len(self.closing))
        assert status.in_use + status.idle + status.closing == len(slots)

    @invariant()
    def nothing_rests_for_long_while_somebody_waits(self) -> None:
        rested = any(slot.since + REST_S + LOOK_S <= self.now for cell in self.cells for slot in cell.idle)
        assert not rested or len(self.clients) <= len(self.closing)

    @invariant()
    def nobody_has_idle_ones_while_a_cell_without_any_waits(self) -> None:
        """Except for a cell's only one, within the first quantum and a look, where somebody has two."""
        held = Counter(id(slot.member) for slot in [*self.used, *(slot for cell in self.cells for slot in cell.idle)])
        bare = [cell for cell in self.cells if cell.waiting and not held[id(cell)]]
        urgent = max(held.values(), default=0) < 2 or any(
            c.waiting[0].since + QUANTUM_S + LOOK_S <= self.now for c in bare
        )
        idle = any(cell.idle and (urgent or held[id(cell)] > 1) for cell in self.cells)
        assert not idle or len(bare) <= len(self.closing)

    @invariant()
    def no_place_is_free_while_somebody_waits(self) -> None:
        idle = sum(len(cell.idle) for cell in self.cells)
        assert not self.clients or len(self.used) + len(self.closing) + idle == LIMIT

    @invariant()
    def each_who_waits_stands_in_line(self) -> None:
        assert sorted(map(id, self.clients)) == sorted(id(c) for cell in self.cells for c in cell.waiting)

    def teardown(self) -> None:
        """Whoever waits now is served, though others keep coming, after a bounded number of connections came back."""
        owed = list(self.clients)
        for _ in range(40 * (len(owed) + 1)):
            self.now += QUANTUM_S / 2
            if self.used:  # each has somebody of its own cell waiting when it comes back
                self.arrive(self.cells.index(self.used[0].member))
            for slot in list(self.closing):
                self.closing.remove(slot)
                self.shared.free(slot, self.now)
            self.settle()
            if self.used:
                self.shared.put(self.used.pop(0), self.now)
                self.settle()
        assert [client for client in owed if client in self.clients] == []


STEPS = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_any_order_of_steps_keeps_the_budget() -> None:
    run_state_machine_as_test(Machine, settings=STEPS)


# -- broken twins: the machine sees each


class ForgetsTheFailed(Budget):
    """What could not be connected keeps its place."""

    def end(self, slot: Slot, now: float) -> None:
        kept.append(slot)


class ClosesWhatIsUsed(Budget):
    """Closes the connection taken first for who waits, in use or not."""

    def _relieve(self, now: float) -> bool:
        slots = [slot for place in self._places.values() if (slot := place()) and place.closing_since is None]
        if slots:
            self._evict_slot(slots[0], now)
        return False


class WakesNobody(Budget):
    """A free place is handed on without a word."""

    def _hand_on(self, now: float) -> None:
        pass


class KeepsForItself(Budget):
    """A connection stays with its cell as long as that has somebody waiting."""

    def _owed(self, slot: Slot, now: float) -> bool:
        return not slot.member.waiting and super()._owed(slot, now)


class CountsOneMore(Budget):
    """One place too many."""

    def __init__(self, limit: int, **options: Any) -> None:
        super().__init__(limit + 1, **options)


class KeepsIdle(Budget):
    """An idle connection is kept, whoever waits."""

    def _relieve(self, now: float) -> bool:
        return False


kept: list[Slot] = []


@pytest.mark.parametrize(
    "twin", [ForgetsTheFailed, ClosesWhatIsUsed, WakesNobody, KeepsForItself, CountsOneMore, KeepsIdle]
)
def test_the_machine_sees_a_broken_twin(twin: type[Budget]) -> None:
    def make(**options: Any) -> Budget:
        return twin(LIMIT, idle_s=IDLE_S, quantum_s=QUANTUM_S, rest_s=REST_S, stall_s=STALL_S, **options)

    broken = type(f"{twin.__name__}Machine", (Machine,), {"make": staticmethod(make)})
    with pytest.raises((AssertionError, IndexError, ExceptionGroup)):
        run_state_machine_as_test(
            broken, settings=settings(STEPS, max_examples=1000, phases=[Phase.generate], database=None)
        )
    kept.clear()
