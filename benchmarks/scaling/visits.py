"""What the clients of the soak do with a tenant: visits of every kind, and what each may come to.

A visit is written once, for a blocking `Session`, and runs on every driver. Every value that it reads is looked at.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.orm import Session

from benchmarks.ground import Note
from benchmarks.scaling.doors import manager_of
from benchmarks.scaling.load import LeakError, kind_of
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    PlacementChangedError,
    PoolExhaustedError,
    SchemaMissingError,
    ServerUnavailableError,
    TenancyError,
    TenantUnavailableError,
    UnknownTenantError,
)

_KINDS = {
    "read": 50, "write": 25, "two transactions": 10, "roll back": 8, "time out": 2, "cancelled": 3, "raw connection": 2,
}  # fmt: skip

_SHORT_S = 0.03

# What the server says when it ends a connection or a statement from outside, or is about to go or to come.
_ENDED = ("08", "57P", "57014", "25P03")

# The drivers' own words for a connection that broke, which have no SQLSTATE.
_BROKEN: tuple[type[Exception], ...] = (
    OperationalError, InterfaceError, InternalError, psycopg.OperationalError, ConnectionError,
)  # fmt: skip

with suppress(ImportError):
    import asyncpg

    _BROKEN += (asyncpg.InterfaceError, asyncpg.InternalClientError)


class _TurnedBackError(Exception):
    """A caller leaves a session by an error of its own, and so rolls back."""


@dataclass
class Seen:
    """What clients saw: visits that went through, errors of the kinds that are allowed, and what is not allowed.

    Of allowed errors those with guests are counted apart; `words` has one of each kind.
    """

    visits: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    with_guests: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "visits": dict(self.visits),
            "errors": dict(self.errors),
            "with_guests": dict(self.with_guests),
            "words": self.words,
            "leaks": self.leaks[:20],
            "unexpected": self.unexpected[:20],
        }

    def failed(self, error: BaseException, *, guest: bool) -> None:
        """Count an error, or keep it in words where it is of no allowed kind."""
        if isinstance(error, LeakError):
            self.leaks.append(str(error))
        elif allowed(error, guest=guest):
            kind = type(error).__name__ if isinstance(error, TenancyError) else kind_of(error)
            (self.with_guests if guest else self.errors)[kind] += 1
            self.words.setdefault(kind, str(error).strip()[:300])
        else:
            self.unexpected.append("".join(traceback.format_exception(error))[-3000:])


def allowed(error: BaseException, *, guest: bool) -> bool:
    """Whether an error is of a kind that faults may lead to; for a guest also that it is not there, or closed.

    A tenant that nobody touches must never be called unknown or closed.
    """
    if isinstance(error, TenancyError):
        if isinstance(error, (UnknownTenantError, TenantUnavailableError, SchemaMissingError)):
            return guest
        return isinstance(error, (ServerUnavailableError, PoolExhaustedError, PlacementChangedError))
    # At a raw connection it is the driver's own error, without SQLAlchemy's around it.
    state = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)
    if state is not None:
        read_only = guest and state in ("25006", "42501")  # it may have become so in the middle
        return read_only or state.startswith(_ENDED) or getattr(error, "connection_invalidated", False)
    return isinstance(error, _BROKEN)


class Clients:
    """A manager on one route, and clients that visit its tenants. It lives over many slices of time."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._manager = manager_of(spec)
        self._blocking = bool(spec["blocking"])
        self._tenants: Sequence[str] = spec["tenants"]
        self._guests: Sequence[str] = spec["guests"]

    async def visit(self, *, clients: int, seconds: float, seed: int) -> Seen:
        """Let `clients` visit tenants for so long; all have left when this returns."""
        seen, ends = Seen(), time.monotonic() + seconds
        if self._blocking:
            lock = threading.Lock()
            with ThreadPoolExecutor(clients) as threads:
                loop = asyncio.get_running_loop()
                work = [
                    loop.run_in_executor(threads, self._blocking_client, random.Random(seed + n), ends, seen, lock)
                    for n in range(clients)
                ]
                await asyncio.gather(*work)
        else:
            async with asyncio.TaskGroup() as group:
                for number in range(clients):
                    group.create_task(self._asyncio_client(random.Random(seed + number), ends, seen))
        return seen

    async def close(self) -> None:
        """Close the idle connections; later visits open new ones."""
        if self._blocking:
            self._manager.close()
        else:
            await self._manager.aio.close()

    def _choose(self, chance: random.Random) -> tuple[str, bool, str]:
        guest = chance.random() < 0.15
        tenant_id = chance.choice(self._guests if guest else self._tenants)
        (kind,) = chance.choices(list(_KINDS), weights=list(_KINDS.values()))
        return tenant_id, guest, kind

    def _blocking_client(self, chance: random.Random, ends: float, seen: Seen, lock: threading.Lock) -> None:
        while time.monotonic() < ends:
            tenant_id, guest, kind = self._choose(chance)
            try:
                _visit_blocking(self._manager, tenant_id, kind, chance)
            except Exception as error:
                with lock:
                    seen.failed(error, guest=guest)
                time.sleep(0.01)
            else:
                with lock:
                    seen.visits[kind] += 1

    async def _asyncio_client(self, chance: random.Random, ends: float, seen: Seen) -> None:
        while time.monotonic() < ends:
            tenant_id, guest, kind = self._choose(chance)
            try:
                await _visit_asyncio(self._manager, tenant_id, kind, chance)
            except Exception as error:
                seen.failed(error, guest=guest)
                await asyncio.sleep(0.01)
            else:
                seen.visits[kind] += 1


def _visit_blocking(manager: TenantManager, tenant_id: str, kind: str, chance: random.Random) -> None:
    if kind == "raw connection":
        with manager.raw_connection(tenant_id) as connection:
            _own(tenant_id, [row[0] for row in connection.execute("SELECT author FROM note LIMIT 20")])
        return
    try:
        with manager.get_session(tenant_id, **_options(kind)) as session:
            _carry_out(session, tenant_id, kind, chance)
    except _TurnedBackError:
        pass


async def _visit_asyncio(manager: TenantManager, tenant_id: str, kind: str, chance: random.Random) -> None:
    if kind == "raw connection":
        async with manager.raw_connection(tenant_id) as connection:
            if hasattr(connection, "fetch"):  # asyncpg
                rows = await connection.fetch("SELECT author FROM note LIMIT 20")
            else:
                rows = await (await connection.execute("SELECT author FROM note LIMIT 20")).fetchall()
        _own(tenant_id, [row[0] for row in rows])
        return

    async def work() -> None:
        async with manager.get_session(tenant_id, **_options(kind)) as session:
            await session.run_sync(_carry_out, tenant_id, kind, chance)

    try:
        if kind == "cancelled":
            await asyncio.wait_for(work(), _SHORT_S * chance.random() * 2)
        else:
            await work()
    except _TurnedBackError:
        pass
    except TimeoutError:
        if kind != "cancelled":
            raise


def _options(kind: str) -> dict[str, Any]:
    return {"statement_timeout_s": _SHORT_S} if kind == "time out" else {}


def _carry_out(session: Session, tenant_id: str, kind: str, chance: random.Random) -> None:
    match kind:
        case "write" | "two transactions" | "roll back":
            mark = f"{kind} {chance.getrandbits(64)}"
            session.execute(insert(Note).values(author=tenant_id, body=mark))
            if kind == "two transactions":
                session.commit()
            _own(tenant_id, session.scalars(select(Note.author).where(Note.body == mark)).all(), exactly=1)
            if kind == "roll back":
                raise _TurnedBackError
            # So that tables stay as small as they are.
            session.execute(text("DELETE FROM note WHERE id < (SELECT max(id) FROM note) - 200"))
        case "time out":
            try:
                session.execute(text("SELECT pg_sleep(2)"))
            except DBAPIError as error:
                if kind_of(error) != "57014":
                    raise
                raise _TurnedBackError from error
        case "cancelled":
            _own(tenant_id, session.scalars(select(Note.author).limit(20)).all())
            session.execute(text("SELECT pg_sleep(0.1)"))
        case _:
            _own(tenant_id, session.scalars(select(Note.author).order_by(func.random()).limit(20)).all())


def _own(tenant_id: str, authors: Sequence[str], *, exactly: int | None = None) -> None:
    """Raise `LeakError` where a value is not the tenant's own, or its own is not there."""
    if foreign := set(authors) - {tenant_id}:
        raise LeakError(f"{tenant_id} read rows of {', '.join(sorted(foreign))}")
    if exactly is not None and len(authors) != exactly:
        raise LeakError(f"{tenant_id} read {len(authors)} rows of its own, not {exactly}")
