"""Family G, third part: the tenant in force, handed over to tasks, threads and generators; caches of the service."""

# attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.util import greenlet_spawn

from mt_paas_db.errors import NoTenantError, TenantMismatchError
from mt_paas_db.isolation.attack import Weakness, attack, not_promised
from mt_paas_db.isolation.channel import Channel
from mt_paas_db.isolation.client import Client
from mt_paas_db.isolation.ground import Party
from mt_paas_db.session import context

T = TypeVar("T")

_IN_MEMORY = not_promised("what a service has in its own memory is read without a statement, which could be refused")


def elsewhere(c: Channel, work: Callable[[], T]) -> T:
    """Run `work` in another task of the event loop, or in another thread, in a copy of the context."""
    if c.route.is_async:
        result: T = c.wait(asyncio.get_running_loop().create_task(greenlet_spawn(work), context=copy_context()))
        return result
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, work).result()


def for_me(c: Channel, client: Client, send: Callable[[str], list[Any]] | None = None) -> None:
    """Read in somebody's session while the attacker's tenant is in force; the rows are seen by the attacker."""
    with context.tenant_context(c.me.tenant_id):
        c.show(c.me, "rows", (send or client.send)(client.channel.read()))


@attack(
    "G3",
    "context-changed",
    title="Change the tenant in force while a session is open",
    sql="with tenant_context('attacker'): session_of_another.execute('SELECT * FROM note')",
    why_held="Before each statement the session's tenant is compared with the one in force.",
    source="Python documentation, contextvars; PEP 567.",
    broken=Weakness.NO_CONTEXT_CHECK,
)
def context_changed(c: Channel) -> None:
    """Code asks who is in force, and finds somebody else than the session that it goes on using."""
    for by in ("run", "send"):
        with c.trying(by, refusals=(TenantMismatchError,)), c.client(c.target) as them:
            them.send(c.read())
            for_me(c, them, getattr(them, by))
    with (
        c.trying("a session opened for another", refusals=(TenantMismatchError,)),
        context.tenant_context(c.me.tenant_id),
        c.client(c.target) as them,
    ):
        c.show(c.me, "rows", them.send(c.read()))


@attack(
    "G8",
    "session-in-another-task",
    title="Use another tenant's session, or connection, in one's own task or thread",
    sql="-- in a task or thread in which the attacker is in force: session_of_another.execute('SELECT * FROM note')",
    why_held="The same comparison: a session is its tenant's, wherever it is used.",
    source="SQLAlchemy documentation, Is the Session thread-safe? Is AsyncSession safe to share in concurrent tasks?",
    broken=Weakness.NO_CONTEXT_CHECK,
)
def session_in_another_task(c: Channel) -> None:
    """A session is shared by what runs at the same time: a gather, a pool of threads, a background task."""
    with c.trying("session", refusals=(TenantMismatchError,)), c.client(c.target) as them:
        elsewhere(c, lambda: for_me(c, them))
    with c.trying("connection", refusals=(TenantMismatchError,)), c.client(c.target) as them:
        connection = them.session.connection()

        def read(statement: str) -> list[Any]:
            return [tuple(row) for row in connection.execute(text(statement))]

        elsewhere(c, lambda: for_me(c, them, read))


@attack(
    "G8",
    "nobody-in-force",
    title="Use another tenant's session in a task in which no tenant is in force, or its raw cursor",
    sql="-- in any task: session_of_another.execute('SELECT * FROM note')",
    why_held="Nothing says for whom a task works in which no tenant_context is open; a raw cursor is not seen at all.",
    remains="Let a middleware or the task's first line open a tenant_context; then it is refused (G3).",
    source="SQLAlchemy documentation, Is the Session thread-safe? Is AsyncSession safe to share in concurrent tasks?",
    broken=Weakness.NONE,
    role=not_promised("a session that a program hands over is that tenant's, and there is nobody to compare it with"),
    login=not_promised("a session that a program hands over is that tenant's, and there is nobody to compare it with"),
)
def nobody_in_force(c: Channel) -> None:
    """The session is a global, and requests say by nothing but their code whose they are."""
    with c.trying("no tenant in force"), c.client(c.target) as them:
        c.show(c.me, "rows", elsewhere(c, lambda: them.send(c.read())))
    with c.trying("raw cursor"), c.client(c.target) as them:
        elsewhere(c, lambda: for_me(c, them, them.raw))


@attack(
    "G8",
    "next-job-of-a-thread",
    title="Find the tenant in force of the thread's last job",
    sql="executor.submit(lambda: current_tenant())  -- after a job for another tenant in the same thread",
    why_held="A tenant is put in force by a block, which takes it back; without one there is none, and no default.",
    source="Python documentation, contextvars: each thread has a context of its own, which its jobs share.",
    broken=Weakness.CONTEXT_KEPT,
)
def next_job_of_a_thread(c: Channel) -> None:
    """Threads of a pool, and what is set in them, outlive the job."""

    def job() -> str:
        with context.tenant_context(c.target.tenant_id):
            return context.current_tenant()

    def failing_job() -> None:
        with context.tenant_context(c.target.tenant_id):
            raise LookupError

    for first in (job, failing_job):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(first).exception()
            with c.trying(first.__name__, refusals=(NoTenantError,)):
                _ask_as(c, pool.submit(context.current_tenant).result())


def _ask_as(c: Channel, tenant_id: str) -> None:
    """Open a session of who is in force, as a request of the attacker's would."""
    with c.client(replace(c.me, tenant_id=tenant_id)) as client:
        client.send(c.read())


@attack(
    "G8",
    "generator-sets-context",
    title="Consume a generator that has put its own tenant in force",
    sql="for page in pages_of_another(): current_tenant()  -- inside: with tenant_context(...): yield page",
    why_held="Nothing holds it: a generator has no context of its own in Python.",
    remains="Open sessions in generators by the tenant's id, which puts nobody in force; close() them when done.",
    source="PEP 568, which is not accepted; Python documentation, contextvars.",
    broken=Weakness.NONE,
    role=not_promised("what a generator sets is set for who consumes it, until it goes on or is closed"),
    login=not_promised("what a generator sets is set for who consumes it, until it goes on or is closed"),
)
def generator_sets_context(c: Channel) -> None:
    """A streamed response is made in a block of its own; whoever pulls the next page is inside that block."""

    def pages() -> Generator[int, None, None]:
        with context.tenant_context(c.target.tenant_id):
            yield 1

    with c.trying("next(pages)"), closing(pages()) as stream:
        next(stream)
        _ask_as(c, context.current_tenant())


@attack(
    "G8",
    "stream-of-another",
    title="Pull the next page of another tenant's stream",
    sql="next(pages_of_another)  -- it was begun for its tenant, and sends its next statement in the attacker's task",
    why_held="The comparison is made at each statement, whoever began the stream.",
    source="Python documentation, contextvars: a generator runs in the context of who calls next().",
    broken=Weakness.NO_CONTEXT_CHECK,
)
def stream_of_another(c: Channel) -> None:
    """A streaming response is iterated by the server's task, when the request's own block is over."""

    def pages() -> Generator[list[Any], None, None]:
        with c.client(c.target) as them:
            while True:
                yield them.send(c.read())

    with c.trying("next(pages)", refusals=(TenantMismatchError,)), closing(pages()) as stream:
        next(stream)
        with context.tenant_context(c.me.tenant_id):
            c.show(c.me, "rows", next(stream))


@attack(
    "G8",
    "rows-of-an-open-result",
    title="Pull the next row of a result that was asked for before",
    sql="result = session_of_another.execute('SELECT * FROM note');  -- in the attacker's task: result.fetchone()",
    why_held="Nothing holds it: rows that were asked for come without a further statement.",
    source="SQLAlchemy documentation, Result; Using Server Side Cursors.",
    broken=Weakness.NONE,
    role=_IN_MEMORY,
    login=_IN_MEMORY,
)
def rows_of_an_open_result(c: Channel) -> None:
    """The same, where the stream is one result, whose rows are fetched as they are wanted."""
    with c.trying("fetchone"), c.client(c.target) as them:
        result = them.session.execute(text(c.read()))
        with context.tenant_context(c.me.tenant_id):
            row: Any = result.fetchone()
            c.show(c.me, "row", tuple(row))


@attack(
    "G9",
    "application-cache",
    title="Read from the service's own cache what was put there for another tenant",
    sql="@lru_cache def title_of(note_id): ...  -- the key says nothing of the tenant",
    why_held="Nothing holds it: the library keeps no rows, and does not see what a service keeps.",
    remains="Put the tenant's generation into every key: an id can belong to another tenant later.",
    source="Python documentation, functools.lru_cache; dogpile.cache documentation, Key Generation.",
    broken=Weakness.NONE,
    role=_IN_MEMORY,
    login=_IN_MEMORY,
)
def application_cache(c: Channel) -> None:
    """A function with a cache is called with a primary key, which other tenants have too."""
    asking: list[Party] = []

    @lru_cache
    def rows_of(_number: int) -> list[Any]:
        with c.client(asking[-1]) as client:
            return client.send(c.read())

    with c.trying("lru_cache"):
        for party in (c.target, c.me):
            asking.append(party)
            c.show(party, "cached", rows_of(1))
