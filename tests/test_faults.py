"""Killed backends, restarts, cancelled tasks, exhausted pools: the next user is never in the old tenant."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session

from mt_paas_db.catalog.queries import queries
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    ContextLostError,
    LockedError,
    PlacementChangedError,
    PoolExhaustedError,
    SchemaMissingError,
    ServerUnavailableError,
    TenantNotReadyError,
    TenantSuspendedError,
    UnknownTenantError,
)
from mt_paas_db.session.engines import LOOK_UPS
from tests.conftest import bouncer_for
from tests.fleet import CONNECTION_LOST, PASSWORD, ROUTES, Route, Runner, Service
from tests.models import Note
from tests.servers import PostgresServer


def tenant_of(session: Session) -> str:
    row = session.execute(text("SELECT current_setting('mt_paas.tenant'), current_user, current_schema()")).one()
    assert row[1] == row[2]
    return str(row[0])


def kill_backends(service: Service) -> None:
    with service.superuser() as su:
        su.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (service.login,))


def test_a_killed_backend_costs_one_transaction(runner: Runner, fleet: Service) -> None:
    def scenario(session: Session) -> None:
        session.add(Note(body="lost"))
        session.flush()
        kill_backends(fleet)
        session.execute(text("SELECT 1"))

    with pytest.raises((DBAPIError, ServerUnavailableError)):
        runner.run("hallym", scenario)

    assert eventually(lambda: runner.run("korea", tenant_of)) == "korea"
    assert runner.run("hallym", lambda session: session.scalars(select(Note)).all()) == []


@pytest.mark.parametrize("savepoint", [False, True])
@pytest.mark.parametrize("chosen", [route for route in ROUTES if not route.pooled], ids=str)
def test_a_session_whose_backend_was_killed_gives_its_place_back(
    fleet: Service, chosen: Route, savepoint: bool
) -> None:
    """Also while somebody still holds the session: nothing waits for the garbage collector."""
    manager = fleet.manager(**chosen.options, pool_size=1, pool_timeout_s=5)
    lost = (LookupError, DBAPIError, ContextLostError, ServerUnavailableError)
    held: list[object] = []

    def begin(session: Session) -> None:
        held.append(session)
        if savepoint:
            held.append(session.begin_nested())
        tenant_of(session)
        kill_backends(fleet)

    async def leave_twice() -> None:
        for _ in range(2):
            with pytest.raises(lost):
                async with manager.get_session("hallym") as session:
                    await session.run_sync(begin)
                    await asyncio.sleep(0.2)  # the driver hears of it
                    raise LookupError
        await manager.aio.close()

    if chosen.is_async:
        asyncio.run(leave_twice())
        return
    for _ in range(2):
        with pytest.raises(lost), manager.get_session("hallym") as session:
            begin(session)
            raise LookupError
    manager.close()


@pytest.mark.parametrize("then", ["statement", "savepoint", "commit", "raw"])
@pytest.mark.parametrize("chosen", [route for route in ROUTES if not route.pooled and route.is_async], ids=str)
def test_a_backend_that_ends_between_statements_is_told(fleet: Service, chosen: Route, then: str) -> None:
    """A driver of asyncio may hear of it before anything is sent."""
    manager = fleet.manager(**chosen.options, pool_size=1)

    async def statements() -> None:
        async with manager.get_session("hallym") as session:
            if then == "savepoint":
                await session.begin_nested()
            await session.run_sync(tenant_of)
            kill_backends(fleet)
            await asyncio.sleep(0.2)
            if then != "commit":
                await session.execute(text("SELECT 1"))

    async def raw() -> None:
        async with manager.raw_connection("hallym") as connection:
            await connection.execute("SELECT 1")
            kill_backends(fleet)
            await asyncio.sleep(0.2)

    async def scenario() -> None:
        with pytest.raises(ServerUnavailableError, match="tenant 'hallym'"):
            await (raw() if then == "raw" else statements())
        async with manager.get_session("korea") as session:
            assert await session.run_sync(tenant_of) == "korea"
        await manager.aio.close()

    asyncio.run(scenario())


def test_a_backend_killed_at_rest_never_gives_a_wrong_answer(runner: Runner, fleet: Service) -> None:
    runner.run("hallym", tenant_of)
    kill_backends(fleet)

    assert eventually(lambda: runner.run("korea", tenant_of)) == "korea"


def eventually(work: Any, attempts: int = 10) -> Any:
    """Return what `work` returns once the dead connections have been noticed; each may cost one attempt."""
    for remaining in reversed(range(attempts)):
        try:
            return work()
        except CONNECTION_LOST:
            if not remaining:
                raise
    raise AssertionError


@pytest.mark.parametrize("immediately", [False, True], ids=["orderly", "crash"])
@pytest.mark.parametrize("chosen", ROUTES, ids=str)
def test_a_server_restart_is_survived(own_server: PostgresServer, chosen: Route, immediately: bool) -> None:
    service = Service(own_server)
    admin = service.manager()
    admin.init()
    for tenant_id in ("hallym", "korea"):
        admin.create(tenant_id)
    pooler = bouncer_for(service).__enter__() if chosen.pooled else None
    runner = Runner(service.manager(pooler=pooler, pool_size=1, **chosen.options), chosen)
    try:
        runner.run("hallym", lambda session: session.add(Note(body="kept")))
        own_server.restart(immediately=immediately)

        assert eventually(lambda: runner.run("korea", tenant_of)) == "korea"
        assert eventually(lambda: runner.run("hallym", lambda s: s.scalars(select(Note.body)).all())) == ["kept"]
    finally:
        runner.close()
        if pooler:
            pooler.__exit__(None, None, None)


@pytest.mark.parametrize("chosen", [route for route in ROUTES if not route.pooled], ids=str)
def test_look_ups_that_wait_in_vain_say_so_and_recover(fleet: Service, chosen: Route) -> None:
    """A catalog that answers no more: who is not remembered waits for a bounded time, and is told for what."""
    runner = Runner(fleet.manager(pool_timeout_s=0.2, **chosen.options), chosen)
    engines = runner.manager._door.engines
    assert runner.run("hallym", tenant_of) == "hallym"

    def refused() -> None:
        with pytest.raises(PoolExhaustedError, match="to look a tenant up in the catalog") as caught:
            runner.run("korea", tenant_of)
        assert (caught.value.cell, caught.value.limit) == (None, LOOK_UPS)
        assert runner.run("hallym", tenant_of) == "hallym"  # remembered

    if chosen.is_async:

        async def hold() -> AsyncConnection:
            return await engines.asyncio("main", "catalog").connect()

        held = [runner.await_(hold) for _ in range(LOOK_UPS)]
        refused()
        for connection in held:
            runner.await_(connection.close)
    else:
        with engines.blocking("main", "catalog").connect(), engines.blocking("main", "catalog").connect():
            refused()
    assert runner.run("korea", tenant_of) == "korea"
    runner.close()


def test_an_exhausted_pool_says_so_and_recovers(fleet: Service) -> None:
    manager = fleet.manager(pool_size=1, pool_timeout_s=0.2)
    with manager.get_session("hallym") as holder:
        tenant_of(holder)
        with (
            pytest.raises(PoolExhaustedError, match="all 1 of this process") as caught,
            manager.get_session("korea") as waiting,
        ):
            tenant_of(waiting)
        assert (caught.value.cell, caught.value.holders) == (fleet.login, ((fleet.login, 1),))

    with manager.get_session("korea") as session:
        assert tenant_of(session) == "korea"


@pytest.mark.parametrize("chosen", [r for r in ROUTES if r.is_async], ids=str)
def test_a_task_cancelled_anywhere_leaves_no_tenant_behind(fleet: Service, chosen: Route) -> None:
    """Cancel hallym's task ever later, from before it entered until it is through; look as korea after each."""
    pooler = bouncer_for(fleet).__enter__() if chosen.pooled else None
    manager = fleet.manager(pooler=pooler, pool_size=1, pool_timeout_s=10, **chosen.options)
    reached: set[str] = set()

    async def victim() -> None:
        async with manager.get_session("hallym") as session:
            reached.add("entered")
            await session.execute(text("INSERT INTO note (body, mood, tags) VALUES ('x', 'calm', '{}')"))
            reached.add("written")
            await session.commit()
            reached.add("committed")
            await session.execute(text("SELECT pg_sleep(0.01)"))
            reached.add("slept")

    async def scenario() -> None:
        async with manager.get_session("korea") as session:
            await session.run_sync(tenant_of)
        turns, delay_s = 0, 0.0
        while "slept" not in reached:
            task = asyncio.create_task(victim())
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.sleep(delay_s)
            task.cancel()
            turns, delay_s = (turns + 1, 0.0) if turns < 25 else (turns, max(0.0005, delay_s * 1.2))
            await asyncio.gather(task, return_exceptions=True)
            async with manager.get_session("korea") as session:
                assert await session.run_sync(tenant_of) == "korea"
                assert (await session.scalars(select(Note.body))).all() == []
        await manager.aio.close()

    try:
        asyncio.run(scenario())
    finally:
        # psycopg leaves a connection attempt that was cancelled to the collector. Until then the server waits for
        # its password, for a minute, and cannot drop a database meanwhile.
        gc.collect()
        if pooler:
            pooler.__exit__(None, None, None)
    assert reached == {"entered", "written", "committed", "slept"}


def recording(connect: Callable[..., Any], opened: list[Any]) -> Callable[..., Any]:
    def connect_and_tell(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        opened.append(getattr(connection, "driver_connection", connection))
        return connection

    return connect_and_tell


def is_closed(driver: Any) -> bool:
    return bool(driver.is_closed() if hasattr(driver, "is_closed") else driver.closed)


@pytest.mark.parametrize("step", ["on_connect", "initialize"])
@pytest.mark.parametrize("chosen", [r for r in ROUTES if not r.pooled], ids=str)
def test_a_new_connection_whose_set_up_was_cancelled_is_closed(
    fleet: Service, monkeypatch: pytest.MonkeyPatch, chosen: Route, step: str
) -> None:
    dialect = {
        "psycopg": PGDialect_psycopg,
        "psycopg_async": PGDialectAsync_psycopg,
        "asyncpg": PGDialect_asyncpg,
    }[chosen.driver]
    armed = False

    def cancelled(*_: object) -> None:
        if armed:
            raise asyncio.CancelledError

    monkeypatch.setattr(dialect, step, (lambda _: cancelled) if step == "on_connect" else cancelled)
    runner = Runner(fleet.manager(**chosen.options), chosen)
    runner.run("hallym", lambda _: None)  # connects to the catalog only
    armed = True
    opened: list[Any] = []
    monkeypatch.setattr(dialect, "connect", recording(DefaultDialect.connect, opened))

    with pytest.raises(asyncio.CancelledError):
        runner.run("hallym", tenant_of)

    assert [is_closed(driver) for driver in opened] == [True]
    runner.close()


def test_pgbouncer_restarted_under_us(fleet: Service) -> None:
    with bouncer_for(fleet) as pooler:
        manager = fleet.manager(pooler=pooler, pool_size=1)
        with manager.get_session("hallym") as session:
            tenant_of(session)
        pooler.restart()

        def look() -> str:
            with manager.get_session("korea") as session:
                return tenant_of(session)

        assert eventually(look) == "korea"
        manager.close()


def test_a_dropped_schema_is_an_error_that_names_it(runner: Runner, fleet: Service) -> None:
    schema = runner.manager.get("hallym").placement.schema_name
    runner.run("hallym", tenant_of)
    with fleet.superuser() as su:
        su.execute(f"DROP SCHEMA {schema} CASCADE")

    # A connection that has seen the schema learns from the server that its tables are gone, and then asks.
    with pytest.raises(DBAPIError, match="does not exist"):
        runner.run("hallym", lambda session: session.execute(text("SELECT body FROM note")))
    with pytest.raises(SchemaMissingError) as refused:
        runner.run("hallym", lambda session: session.execute(text("SELECT 1")))

    assert (refused.value.tenant_id, refused.value.schema) == ("hallym", schema)
    assert runner.run("korea", tenant_of) == "korea"


def test_a_lost_right_on_the_schema_is_an_error(runner: Runner, fleet: Service) -> None:
    schema = runner.manager.get("hallym").placement.schema_name
    with fleet.superuser() as su:
        su.execute(f"REVOKE USAGE ON SCHEMA {schema} FROM {schema}")

    # The runner's connection has not met hallym yet, so it asks at once.
    with pytest.raises(SchemaMissingError, match="may not use its schema"):
        runner.run("hallym", lambda session: session.execute(text("SELECT 1")))


def test_a_warm_process_never_meets_the_new_tenant_of_an_old_id_in_an_old_session(
    runner: Runner, fleet: Service, manager: Any
) -> None:
    def scenario(session: Session) -> None:
        tenant_of(session)
        session.commit()
        manager.archive("hallym")
        manager.delete("hallym", confirm="hallym")
        manager.create("hallym")
        with pytest.raises(PlacementChangedError):
            tenant_of(session)

    runner.run("hallym", scenario)

    assert runner.run("hallym", lambda session: session.scalars(select(Note)).all()) == []


def test_a_deleted_tenant_is_unknown_to_a_warm_process(runner: Runner, manager: Any) -> None:
    runner.run("hallym", tenant_of)
    manager.suspend("hallym")
    with pytest.raises(TenantSuspendedError):
        runner.run("hallym", tenant_of)
    manager.archive("hallym")
    with pytest.raises(TenantNotReadyError):
        runner.run("hallym", tenant_of)
    manager.delete("hallym", confirm="hallym")

    with pytest.raises(UnknownTenantError):
        runner.run("hallym", tenant_of)


@pytest.mark.parametrize("state", ["provisioning", "maintenance", "archived", "deleting"])
def test_a_tenant_that_is_not_ready_takes_no_session(runner: Runner, fleet: Service, state: str) -> None:
    with fleet.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET state = %s WHERE tenant_id = 'hallym'", (state,))

    with pytest.raises(TenantNotReadyError) as refused:
        runner.run("hallym", tenant_of)

    assert (refused.value.tenant_id, refused.value.state) == ("hallym", state)


def test_a_lifecycle_step_does_not_wait_for_ever(fleet: Service, manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(queries("roles"), "admin_patience", "SET LOCAL lock_timeout = '100ms'")
    with fleet.superuser() as su, su.transaction():
        su.execute("SELECT FROM mt_paas.tenant FOR UPDATE")
        with pytest.raises(LockedError, match="nothing was changed"):
            manager.suspend("hallym")

    assert manager.get("hallym").state == "active"


def test_rotated_credentials_are_used_for_the_next_connection(fleet: Service) -> None:
    password = PASSWORD

    def provider(_entry: str, purpose: str, /) -> str | None:
        user = fleet.login if purpose == "app" else "postgres"
        return fleet.server.dsn(fleet.database, user=user, password=password if purpose == "app" else None)

    manager = TenantManager(fleet.settings(), models=fleet.models, credentials=provider)
    fleet.managers.append(manager)
    with manager.get_session("hallym") as session:
        assert tenant_of(session) == "hallym"
    password = "rotated"
    with fleet.superuser() as su:
        su.execute(f"ALTER ROLE {fleet.login} PASSWORD 'rotated'")
    manager.close()

    with manager.get_session("korea") as session:
        assert tenant_of(session) == "korea"
