"""A tenant's limit of sessions in this process: who finds none left waits for one, as for a connection."""

from __future__ import annotations

import asyncio
import threading
from weakref import WeakValueDictionary

from sqlalchemy.util import greenlet_spawn

from mt_paas_db.catalog.values import Resolution
from mt_paas_db.errors import PoolExhaustedError
from mt_paas_db.session.gate import Gate, TaskWaiter, ThreadWaiter
from mt_paas_db.session.places import Member, PoolStatus, Slot


class Seat(Slot):
    """One session of a tenant with a limit. Dropped, it is left."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def leave(self) -> None:
        """Let the next one have it. Never blocks."""
        self._gate.end(self)


class SessionLimits:
    """The limits of all tenants that have one. Safe for threads; one tenant's is kept while somebody uses it.

    `timeout_s` is how long a session waits for one of the others to end.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._gates: WeakValueDictionary[int, Gate] = WeakValueDictionary()

    def take(self, resolution: Resolution) -> Seat | None:
        """Return a seat of the tenant's, None where it has no limit. Raises `PoolExhaustedError`."""
        gate = self._gate(resolution)
        return None if gate is None else _seated(gate.take(_member(resolution, gate, None)))

    async def atake(self, resolution: Resolution) -> Seat | None:
        """Asyncio version of `take`."""
        gate = self._gate(resolution)
        return None if gate is None else await self._awaited(gate, resolution)

    async def _awaited(self, gate: Gate, resolution: Resolution) -> Seat:
        member = _member(resolution, gate, asyncio.get_running_loop())
        return _seated(gate.take_now(member) or await greenlet_spawn(gate.take, member))

    def _gate(self, resolution: Resolution) -> Gate | None:
        most = resolution.limits.max_sessions
        if most is None:
            return None
        with self._lock:
            gate = self._gates.get(resolution.generation)
            if gate is None:
                gate = self._gates[resolution.generation] = Gate(most, timeout_s=self._timeout_s, explain=_exhausted)
        gate.resize(most)
        return gate

    def forked(self) -> None:
        """In a child: another thread of the parent's may have held the lock."""
        self._lock = threading.Lock()


def _member(resolution: Resolution, gate: Gate, loop: asyncio.AbstractEventLoop | None) -> Member:
    """Return a part in the tenant's limit, one for each session: so that they come in turn, whatever they run on."""
    return Member(
        resolution.tenant_id,
        cluster=resolution.placement.cluster,
        waits=ThreadWaiter if loop is None else TaskWaiter,
        make=lambda: Seat(gate),
        close=gate.free,
        gone=(lambda: False) if loop is None else loop.is_closed,
    )


def _seated(slot: Slot | None) -> Seat:
    assert isinstance(slot, Seat)
    return slot


def _exhausted(member: Member, waited_s: float, status: PoolStatus) -> PoolExhaustedError:
    return PoolExhaustedError(
        member.cluster,
        cell=member.cell,
        tenant_id=member.cell,
        waited_s=waited_s,
        limit=status.budget or 0,
        holders=((member.cell, status.in_use),),
        waiting=status.waiting,
        oldest_use_s=max((cell.oldest_use_s for cell in status.cells), default=0.0),
    )
