"""SQLAlchemy's pool over the budget: threads, tasks, interrupts anywhere; with connections that reach nothing."""

from __future__ import annotations

import asyncio
import dis
import gc
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import sqlalchemy.pool.base
from sqlalchemy import event
from sqlalchemy.util import greenlet_spawn

from mt_paas_db.errors import PoolExhaustedError
from mt_paas_db.session import budget, gate, places, pool
from mt_paas_db.session.gate import Gate, TaskWaiter
from mt_paas_db.session.limits import Seat
from mt_paas_db.session.places import Member, PoolStatus
from mt_paas_db.session.pool import BudgetPool, wear_out


class Driver:
    """A connection that counts how many of its kind are open."""

    open = 0
    most = 0

    def __init__(self) -> None:
        self.closed = False
        Driver.open += 1
        Driver.most = max(Driver.most, Driver.open)

    def rollback(self) -> None:
        if self.closed:
            raise RuntimeError("closed")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            Driver.open -= 1

    def __del__(self) -> None:
        self.close()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    gc.collect()
    Driver.open = Driver.most = 0
    yield
    gc.collect()


def exhausted(member: Member, waited_s: float, status: PoolStatus) -> PoolExhaustedError:
    return PoolExhaustedError(member.cluster, cell=member.cell, waited_s=waited_s, limit=status.budget or 0)


def shared(limit: int, **options: Any) -> Gate:
    return Gate(limit, **{"timeout_s": 5.0, "explain": exhausted, **options})


def pool_of(gate: Gate, cell: str = "a", **options: Any) -> BudgetPool:
    return BudgetPool(Driver, gate, "main", cell, **options)


# -- as SQLAlchemy's own pools


def test_a_connection_is_used_again() -> None:
    a = pool_of(shared(2))
    with closing(a.connect()) as one:
        first = one.dbapi_connection
        assert (a.checkedout(), a.checkedin()) == (1, 0)
    with closing(a.connect()) as again:
        assert again.dbapi_connection is first
    assert (a.checkedout(), a.checkedin(), Driver.open) == (0, 1, 1)
    assert "in pool: 1" in a.status()


def test_events_are_those_of_any_pool() -> None:
    a, heard = pool_of(shared(1)), []
    for name in ("connect", "first_connect", "checkout", "checkin", "close", "invalidate", "detach", "reset"):
        event.listen(a, name, lambda *_, name=name: heard.append(name))
    with closing(a.connect()):
        pass
    a.connect().invalidate()
    with closing(a.connect()):
        pass
    a.dispose()
    assert heard == [
        *("first_connect", "connect", "checkout", "reset", "checkin"),
        *("checkout", "invalidate", "close", "checkin"),
        *("connect", "checkout", "reset", "checkin", "close"),
    ]
    assert Driver.open == 0


def test_a_failed_connect_gives_its_place_back() -> None:
    def refuse() -> Any:
        raise OSError("refused")

    one = shared(1)
    broken, a = BudgetPool(refuse, one, "main", "b"), pool_of(one)
    for _ in range(3):
        with pytest.raises(OSError, match="refused"):
            broken.connect()
    with closing(a.connect()):
        assert one.status().in_use == 1


def test_a_detached_connection_counts_no_more_and_is_closed_by_its_owner() -> None:
    a = pool_of(shared(1))
    taken = a.connect()
    taken.detach()
    with closing(a.connect()):
        assert Driver.open == 2
    taken.close()
    assert Driver.open == 1


def test_one_that_is_too_old_is_replaced() -> None:
    a = pool_of(shared(1), recycle=0)
    with closing(a.connect()) as one:
        first = one.dbapi_connection
    time.sleep(0.01)
    with closing(a.connect()) as other:
        assert other.dbapi_connection is not first
    assert Driver.open == 1


def test_one_that_is_worn_out_is_closed_when_it_comes_back() -> None:
    a = pool_of(shared(1))
    with closing(a.connect()) as one:
        wear_out(one)
    assert Driver.open == 0
    with closing(a.connect()):
        assert Driver.open == 1


def test_one_in_use_while_its_pool_is_disposed_of_closes_when_it_comes_back() -> None:
    one = shared(2)
    a = pool_of(one)
    taken = a.connect()
    a.dispose()
    again = a.recreate()
    with closing(again.connect()):
        assert Driver.open == 2
    taken.close()
    assert (Driver.open, one.status().idle) == (1, 1)


def test_one_that_nobody_gave_back_is_collected() -> None:
    one = shared(1)
    a = pool_of(one)
    taken = a.connect()
    assert taken.is_valid
    del taken
    gc.collect()
    with closing(a.connect()):
        assert one.status().in_use == 1


# -- threads


def test_threads_of_many_cells_never_have_more_than_the_budget() -> None:
    one = shared(3)
    pools = [pool_of(one, cell) for cell in "abcde"]
    done = dict.fromkeys("abcde", 0)
    until = time.monotonic() + 0.8

    def work(mine: BudgetPool, cell: str) -> None:
        while time.monotonic() < until:
            with closing(mine.connect()):
                time.sleep(0.0005)
            done[cell] += 1

    threads = [threading.Thread(target=work, args=(mine, cell)) for mine, cell in zip(pools, done, strict=True)] * 1
    threads += [threading.Thread(target=work, args=(mine, cell)) for mine, cell in zip(pools, done, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert Driver.most <= 3
    assert min(done.values()) * 4 > max(done.values()) > 0, done
    status = one.status()
    assert (status.in_use, status.waiting, status.closing) == (0, 0, 0)


def test_who_waits_for_too_long_is_told_who_has_them() -> None:
    one = shared(1, timeout_s=0.05)
    a = pool_of(one)
    with closing(a.connect()), pytest.raises(PoolExhaustedError) as caught:
        pool_of(one, "b").connect()
    assert (caught.value.cell, caught.value.limit) == ("b", 1)
    assert caught.value.waited_s >= 0.05
    assert one.status().waiting == 0


def test_what_is_given_back_in_the_middle_of_anything_waits_for_nobody() -> None:
    """As from the garbage collector, inside a step of the very same thread."""
    one = shared(1)
    a = pool_of(one)
    taken = a.connect()
    with one._lock:
        taken.close()
    with closing(a.connect()):
        assert one.status().in_use == 1


def test_a_listener_hears_who_waited() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[tuple[str, str]] = []

        def on_checkout(self, cell: str, waited_s: float) -> None:
            self.heard.append(("waited" if waited_s else "checkout", cell))

        def on_timeout(self, cell: str, waited_s: float) -> None:
            assert waited_s >= 0.05
            self.heard.append(("timeout", cell))

        def on_close(self, cell: str) -> None:
            self.heard.append(("close", cell))

    one = shared(1, timeout_s=0.05)
    one.listener = listener = Listener()
    a, b = pool_of(one), pool_of(one, "b")
    with closing(a.connect()), pytest.raises(PoolExhaustedError):
        b.connect()
    with closing(b.connect()):
        pass
    assert listener.heard == [("checkout", "a"), ("timeout", "b"), ("close", "a"), ("waited", "b")]


OURS = {module.__file__ for module in (budget, gate, places, pool, sqlalchemy.pool.base)}


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place where Python itself could: after a call, or on entering a function.

    So says CPython's evaluation loop, which looks for signals there and at jumps backward.
    """

    def __init__(self, place: int) -> None:
        self.left = place
        self._last: dict[Any, str] = {}

    def __call__(self, frame: Any, kind: str, _: object) -> Any:
        if frame.f_code.co_filename not in OURS:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if kind == "call" or (kind == "opcode" and self._last.get(frame, "").startswith(("CALL", "JUMP_BACKWARD"))):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        self._last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]] if kind == "opcode" else ""
        return self


@pytest.fixture
def little_garbage() -> Iterator[None]:
    """Collecting looks at what the test makes only, and no captured log keeps a traceback and what is in its frames."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("waits", [False, True], ids=["free", "waiting"])
@pytest.mark.usefixtures("little_garbage")
def test_ctrl_c_anywhere_loses_no_place(waits: bool) -> None:
    interrupt_everywhere(waits=waits)


@pytest.mark.usefixtures("little_garbage")
def test_a_budget_that_does_not_see_what_is_dropped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.Budget, "lost", lambda *_: None)
    with pytest.raises((AssertionError, PoolExhaustedError)):
        interrupt_everywhere(waits=False)


def interrupt_everywhere(*, waits: bool) -> None:
    """In a check-out that finds a place, or waits for one; in the check-in, and in the end of the pool."""
    for place in range(1, 2_000):
        one = shared(1, timeout_s=1.0)
        a, b = pool_of(one), pool_of(one, "b")
        releasing = threading.Timer(0.002, b.connect().close) if waits else None
        if releasing is not None:
            releasing.start()
        interrupt, before = Interrupt(place), sys.gettrace()
        sys.settrace(interrupt)
        try:
            with closing(a.connect()):
                pass
            a.dispose()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        through = interrupt.left > 0
        if releasing is not None:
            releasing.join()
        del interrupt, releasing
        gc.collect()
        with closing(b.connect()):  # there is a place, at once
            status = one.status()
            assert (status.in_use, status.idle, status.waiting, status.closing) == (1, 0, 0, 0), (place, status)
        if through:
            break
    assert 60 < place < 1_999


# -- tasks


class AsyncDriver(Driver):
    """One whose opening and closing take a turn of the loop."""


def seats(one: Gate, cell: str = "a") -> Member:
    loop = asyncio.get_running_loop()
    return Member(cell, cluster="main", waits=TaskWaiter, make=lambda: Seat(one), close=one.free, gone=loop.is_closed)


async def taken(one: Gate, member: Member) -> Seat:
    slot = await greenlet_spawn(one.take, member)
    assert isinstance(slot, Seat)
    return slot


def test_a_task_cancelled_at_any_turn_loses_no_place() -> None:
    async def scenario() -> None:
        one = shared(1)
        a, b = seats(one), seats(one, "b")
        for turns in range(12):
            held = await taken(one, b)

            async def visit() -> None:
                seat = await taken(one, a)
                try:
                    await asyncio.sleep(0)
                finally:
                    seat.leave()

            task = asyncio.create_task(visit())
            for turn in range(turns):
                await asyncio.sleep(0)
                if turn == 3:
                    held.leave()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if turns <= 3:
                held.leave()
            status = one.status()
            assert (status.in_use, status.waiting, status.closing) == (0, 0, 0), turns

    asyncio.run(scenario())


def test_tasks_and_threads_share_one_budget() -> None:
    one = shared(2)
    a = pool_of(one)
    until = time.monotonic() + 0.4
    counts = {"thread": 0, "task": 0}

    def work() -> None:
        while time.monotonic() < until:
            with closing(a.connect()):
                time.sleep(0.001)
            counts["thread"] += 1

    async def tasks() -> None:
        b = seats(one, "b")

        async def visit() -> None:
            while time.monotonic() < until:
                seat = await taken(one, b)
                assert one.status().in_use <= 2
                await asyncio.sleep(0.001)
                seat.leave()
                counts["task"] += 1

        await asyncio.gather(*(visit() for _ in range(3)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join(5)
    assert min(counts.values()) > 5, counts


def test_a_loop_that_was_closed_gives_its_places_back() -> None:
    one = shared(1, timeout_s=1.0)
    kept: list[Any] = []

    async def leave_open() -> None:
        kept.append(await taken(one, seats(one, "b")))

    asyncio.run(leave_open())
    with closing(pool_of(one).connect()):
        assert one.status().in_use == 1


def test_who_waited_in_a_loop_that_was_closed_gets_nothing() -> None:
    one = shared(1, timeout_s=1.0)
    a = pool_of(one)
    loop = asyncio.new_event_loop()
    holder = a.connect()

    async def wait() -> None:
        await taken(one, seats(one, "b"))

    task = loop.create_task(wait())
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert one.status().waiting == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    holder.close()
    with closing(a.connect()):
        assert one.status().in_use == 1
    with suppress(RuntimeError):
        task.get_coro().close()
