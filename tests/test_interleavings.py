"""Random interleavings of sessions over several tenants, on few connections, with everything that goes wrong.

The model is a dictionary: what each tenant committed. Whatever happens to the others' sessions, a tenant reads
its own rows, and nobody else's.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ContextError
from mt_paas_db.session import pin as pin_module
from mt_paas_db.session.dialects import pinning
from tests.conftest import bouncer_for
from tests.fleet import CONNECTION_LOST, ROUTES, Route, Service
from tests.servers import PostgresServer

TENANTS = ("hallym", "korea", "snu")

# What one step does to a session that is open, or to the world around it.
STEPS = (
    "write",
    "read",
    "commit",
    "rollback",
    "savepoint lost",
    "raw COMMIT",
    "raw ROLLBACK",
    "RESET ROLE",
    "SET search_path",
    "SET statement",
    "SET ROLE own",
    "error",
    "cancel",
    "kill",
    "leave",
    "raise",
)

programs = st.lists(st.tuples(st.sampled_from(TENANTS), st.sampled_from(STEPS)), min_size=4, max_size=30)


@pytest.fixture(scope="module")
def standing(server: PostgresServer) -> Iterator[Service]:
    service = Service(server)
    manager = service.manager()
    manager.init()
    for tenant_id in TENANTS:
        manager.create(tenant_id)
    yield service
    service.close()


class World:
    """Runs a program; one task per tenant step, all sharing a pool of two connections."""

    def __init__(self, manager: TenantManager, service: Service) -> None:
        self.manager = manager
        self.service = service
        self.counter = 0

    async def run(self, program: list[tuple[str, str]]) -> None:
        self.committed: dict[str, set[str]] = {tenant: set() for tenant in TENANTS}
        with self.service.superuser() as su:
            for tenant in TENANTS:
                su.execute(f"TRUNCATE {self.schema(tenant)}.note CASCADE")
        try:
            # Each tenant's steps are split over sessions that run one after the other, the tenants' at once.
            async with asyncio.TaskGroup() as tasks:
                for tenant in TENANTS:
                    tasks.create_task(self.tenant(tenant, [step for who, step in program if who == tenant]))
            for tenant in TENANTS:
                assert await self.read(tenant) == self.committed[tenant]
        finally:
            await self.manager.aio.close()

    def schema(self, tenant: str) -> str:
        return self.manager.get(tenant).placement.schema_name

    async def read(self, tenant: str) -> set[str]:
        for _ in range(12):  # connections killed while at rest are noticed at their next use
            with suppress(*CONNECTION_LOST):
                async with self.manager.get_session(tenant) as session:
                    return set((await session.execute(text("SELECT body FROM note"))).scalars())
        raise AssertionError("the server does not answer")

    async def tenant(self, tenant: str, steps: list[str]) -> None:
        while steps:
            async with AsyncExitStack() as stack:
                stack.enter_context(suppress(*CONNECTION_LOST, ContextError, LookupError))
                await self.session(tenant, steps)

    async def session(self, tenant: str, steps: list[str]) -> None:
        pending: set[str] = set()
        async with self.manager.get_session(tenant, commit=False) as session:
            while steps:
                step = steps.pop(0)
                await asyncio.sleep(0)
                if step == "write":
                    self.counter += 1
                    body = f"{tenant}-{self.counter}"
                    await session.execute(
                        text("INSERT INTO note (body, mood, tags) VALUES (:b, 'calm', '{}')"), {"b": body}
                    )
                    pending.add(body)
                elif step == "read":
                    seen = set((await session.execute(text("SELECT body FROM note"))).scalars())
                    assert seen == self.committed[tenant] | pending
                elif step == "commit":
                    # A commit whose answer is lost may or may not have happened; the model must ask.
                    try:
                        await session.commit()
                    except DBAPIError:
                        self.committed[tenant] = await self.read(tenant)
                        raise
                    self.committed[tenant] |= pending
                    pending = set()
                elif step == "rollback":
                    await session.rollback()
                    pending = set()
                elif step == "savepoint lost":
                    with suppress(DBAPIError):
                        async with session.begin_nested():
                            await session.execute(text("SELECT 1/0"))
                elif step == "raw COMMIT":
                    await session.execute(text("SELECT 1"))
                    await session.execute(text("COMMIT"))
                    self.committed[tenant] |= pending
                    pending = set()
                elif step == "raw ROLLBACK":
                    await session.execute(text("SELECT 1"))
                    await session.execute(text("ROLLBACK"))
                    pending = set()
                elif step == "RESET ROLE":
                    await session.execute(text("RESET ROLE"))
                elif step == "SET search_path":
                    await session.execute(text("SET search_path = pg_catalog"))
                elif step == "SET statement":
                    await session.execute(text("SET statement_timeout = '50ms'"))
                elif step == "SET ROLE own":
                    await session.execute(text(f"SET ROLE {self.schema(tenant)}"))
                elif step == "error":
                    await session.execute(text("SELECT 1/0"))
                elif step == "cancel":
                    task = asyncio.ensure_future(session.execute(text("SELECT pg_sleep(1)")))
                    await asyncio.sleep(0.005)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    return
                elif step == "kill":
                    pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
                    with self.service.superuser() as su:
                        su.execute("SELECT pg_terminate_backend(%s)", (pid,))
                elif step == "leave":
                    return
                elif step == "raise":
                    raise LookupError


@pytest.mark.parametrize("route", [r for r in ROUTES if r.is_async], ids=str)
def test_whatever_happens_each_tenant_reads_what_it_wrote(standing: Service, route: Route) -> None:
    pooler = bouncer_for(standing).__enter__() if route.pooled else None
    manager = standing.manager(pooler=pooler, pool_size=2, pool_timeout_s=20, **route.options)

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(program=programs)
    def holds(program: list[tuple[str, str]]) -> None:
        asyncio.run(World(manager, standing).run(program))

    try:
        holds()
    finally:
        if pooler:
            pooler.__exit__(None, None, None)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_twin_with_session_level_settings_the_property_fails(
    standing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pin once and at session level, as a cache of "already set" would: the property must notice."""
    original = pin_module.Pin.begin_message
    pinned: set[str] = set()

    def lazy(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        if self.schema in pinned:
            return b"BEGIN"
        pinned.add(self.schema)
        return original(self, isolation_level, verify=verify).replace(b"SET LOCAL ", b"SET ")

    monkeypatch.setattr(pin_module.Pin, "begin_message", lazy)
    monkeypatch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")
    manager = standing.manager(pool_size=1, pool_timeout_s=20)
    program = [(tenant, step) for _ in range(2) for tenant in TENANTS for step in ("write", "commit", "read")]

    with pytest.raises(BaseException):  # noqa: B017, PT011  (a wrong read, or an error of the server)
        asyncio.run(World(manager, standing).run(program))
    gc.collect()  # what the broken sessions left open must not trouble another test
