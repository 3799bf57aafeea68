"""One budget of connections for all cells of a process, on real servers: who gets them, who waits, what goes wrong.

Longer than most: each refusal of a server or a pooler has to be brought about on one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.core import NewTenant, TenantManager
from mt_paas_db.errors import (
    ConnectionLimitError,
    LoginRefusedError,
    PoolExhaustedError,
    ReadOnlyServerError,
    ServerUnavailableError,
)
from tests.conftest import bouncer_for
from tests.fleet import PASSWORD, Route, Runner, Service, several_hosts
from tests.servers import PgBouncer, PostgresServer
from tests.servers.processes import free_port
from tests.test_faults import eventually, kill_backends, tenant_of

# psycopg's asyncio flavour has the words of its blocking one, and the event loop of asyncpg.
DIRECT = [Route("psycopg", pooled=False), Route("asyncpg", pooled=False)]


@pytest.fixture(params=DIRECT, ids=str)
def direct(request: pytest.FixtureRequest) -> Route:
    """Each driver, without a pooler."""
    if request.param.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    assert isinstance(request.param, Route)
    return request.param


@pytest.fixture
def cells(service: Service) -> list[str]:
    """Three tenants, each in a cell of its own; and how they are called."""
    admin = service.manager(cell_size=1)
    admin.init()
    for name in "abc":  # in turn, so that it is a's cell whose login looks tenants up, too
        admin.create(name)
    return list("abc")


def connections(service: Service) -> dict[str, int]:
    """Return how many connections each login has, as the server sees it, but for look-ups."""
    with service.superuser() as su:
        rows = su.execute(
            "SELECT usename, count(*) FROM pg_stat_activity"
            " WHERE starts_with(usename, %s) AND query NOT LIKE %s GROUP BY usename",
            (f"{service.name}_app", "%mt_paas.resolve%"),
        ).fetchall()
    return dict(rows)


def pid_of(session: Session) -> int:
    return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def limit(service: Service, tenant_id: str, **limits: float) -> None:
    with service.superuser() as su:
        su.execute(
            "INSERT INTO mt_paas.tenant_limit (generation, max_sessions, statement_timeout_s)"
            " SELECT generation, %s, %s FROM mt_paas.tenant WHERE tenant_id = %s",
            (limits.get("max_sessions"), limits.get("statement_timeout_s"), tenant_id),
        )


# -- who gets them


def test_cells_share_one_budget(service: Service, cells: list[str], direct: Route) -> None:
    runner = Runner(service.manager(cell_size=1, pool_size=2, **direct.options), direct)
    for name in cells * 2:
        assert runner.run(name, tenant_of) == name
        assert sum(connections(service).values()) <= 2
    status = runner.manager.pool_status()
    assert (status.budget, status.in_use, status.waiting) == (2, 0, 0)
    assert status.evictions >= 4
    runner.close()
    assert eventually_true(lambda: not connections(service))


def test_threads_and_tasks_share_it_too(service: Service, cells: list[str]) -> None:
    """What a task has idle is closed in its loop for a thread, and the other way."""
    manager = service.manager(cell_size=1, pool_size=1, pool_timeout_s=10)

    async def visit(name: str) -> str:
        async with manager.get_session(name) as session:
            return await session.run_sync(tenant_of)

    def visit_in_thread(name: str) -> str:
        with manager.get_session(name) as session:
            return tenant_of(session)

    async def scenario() -> None:
        for _ in range(2):
            for name in cells:
                assert await visit(name) == name
                assert await asyncio.to_thread(visit_in_thread, name) == name
                assert sum(connections(service).values()) <= 1
        await manager.aio.close()

    asyncio.run(scenario())
    manager.close()


def test_a_busy_cell_starves_nobody(service: Service, cells: list[str]) -> None:
    manager = service.manager(cell_size=1, pool_size=1, pool_timeout_s=10)
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            with manager.get_session("a") as session:
                pid_of(session)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for name in "bcb":
            begun = time.monotonic()
            with manager.get_session(name) as session:
                assert tenant_of(session) == name
            assert time.monotonic() - begun < 5
    finally:
        over.set()
        for thread in threads:
            thread.join()
    manager.close()


def test_without_a_pool_each_session_connects_anew(fleet: Service, route: Route) -> None:
    pooler = bouncer_for(fleet).__enter__() if route.pooled else None
    try:
        runner = Runner(fleet.manager(pooler=pooler, pooling="none", **route.options), route)
        for name in ("hallym", "korea", "hallym"):
            assert runner.run(name, tenant_of) == name
        assert runner.manager.pool_status().budget is None
        if not route.pooled:
            assert eventually_true(lambda: not connections(fleet))
        runner.close()
    finally:
        if pooler:
            pooler.__exit__(None, None, None)


# -- how long they live


def test_one_that_has_served_too_many_tenants_is_closed(
    service: Service, manager: TenantManager, direct: Route
) -> None:
    manager.create_many([NewTenant(name) for name in "abc"])
    runner = Runner(service.manager(pool_size=1, pool_max_tenants=2, **direct.options), direct)
    first = {runner.run(name, pid_of) for name in "abab"}
    assert len(first) == 1
    assert {runner.run("c", pid_of)} == first  # one too many: closed when it came back
    second = {runner.run(name, pid_of) for name in "ca"}
    assert len(second) == 1
    assert not first & second
    runner.close()


def test_one_that_nobody_used_is_closed_at_the_next_touch(service: Service, cells: list[str], direct: Route) -> None:
    runner = Runner(service.manager(cell_size=1, pool_size=3, pool_idle_s=0.3, **direct.options), direct)
    runner.run("a", tenant_of)
    runner.run("b", tenant_of)
    time.sleep(0.4)
    runner.run("c", tenant_of)
    assert [cell.idle for cell in runner.manager.pool_status().cells] == [1]
    runner.close()


# -- limits of a tenant


def test_a_tenant_has_no_more_sessions_than_its_limit(fleet: Service, direct: Route) -> None:
    limit(fleet, "hallym", max_sessions=1)
    runner = Runner(fleet.manager(pool_timeout_s=0.2, **direct.options), direct)
    manager = runner.manager

    async def more() -> PoolExhaustedError:
        async with manager.get_session("hallym") as session:
            await session.run_sync(tenant_of)
            with pytest.raises(PoolExhaustedError) as caught:
                async with manager.get_session("hallym"):
                    pass
            with pytest.raises(PoolExhaustedError):
                async with manager.raw_connection("hallym"):
                    pass
            async with manager.get_session("korea") as other:
                assert await other.run_sync(tenant_of) == "korea"
        return caught.value

    def blocking() -> PoolExhaustedError:
        with manager.get_session("hallym") as session:
            tenant_of(session)
            with pytest.raises(PoolExhaustedError) as caught, manager.get_session("hallym"):
                pass
            with pytest.raises(PoolExhaustedError), manager.raw_connection("hallym"):
                pass
            with manager.get_session("korea") as other:
                assert tenant_of(other) == "korea"
        return caught.value

    error = runner.await_(more) if direct.is_async else blocking()
    assert (error.tenant_id, error.limit) == ("hallym", 1)
    assert "max_sessions" in str(error)
    for _ in range(3):
        assert runner.run("hallym", tenant_of) == "hallym"
    runner.close()


def test_a_session_that_waits_for_another_of_its_tenant_gets_its_turn(fleet: Service) -> None:
    limit(fleet, "hallym", max_sessions=1)
    manager = fleet.manager(pool_timeout_s=10)
    open_, most, lock = 0, 0, threading.Lock()

    def visit() -> None:
        nonlocal open_, most
        for _ in range(5):
            with manager.get_session("hallym") as session:
                with lock:
                    open_ += 1
                    most = max(most, open_)
                tenant_of(session)
                with lock:
                    open_ -= 1

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    manager.close()


def test_a_limit_of_a_statements_time_cannot_be_raised_by_a_session(fleet: Service) -> None:
    limit(fleet, "hallym", statement_timeout_s=5)
    manager = fleet.manager()

    def timeout(**options: Any) -> str:
        with manager.get_session("hallym", **options) as session:
            return str(session.execute(text("SHOW statement_timeout")).scalar_one())

    assert timeout() == "5s"
    assert timeout(statement_timeout_s=60) == "5s"
    assert timeout(statement_timeout_s=2) == "2s"
    manager.close()


# -- processes and loops


def test_a_fork_leaves_the_parents_connections_alone(fleet: Service) -> None:
    manager = fleet.manager(pool_size=1)
    with manager.get_session("hallym") as session:
        before = pid_of(session)
    child = os.fork()
    if child == 0:  # pragma: no cover  (another process)
        code = 1
        try:
            status = manager.pool_status()
            with manager.get_session("korea") as session:
                seen = (tenant_of(session), pid_of(session) != before, status.in_use, status.idle, status.closing)
                code = 0 if seen == ("korea", True, 0, 0, 0) else 2
            manager.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with manager.get_session("hallym") as session:
        assert pid_of(session) == before
    manager.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ended_without_closing_leaves_room(service: Service, cells: list[str], direct: Route) -> None:
    manager = service.manager(cell_size=1, pool_size=1, pool_timeout_s=2, **direct.options)

    async def visit(name: str) -> str:
        async with manager.get_session(name) as session:
            return await session.run_sync(tenant_of)

    for name in cells:
        assert asyncio.run(visit(name)) == name
    with manager.get_session("a") as session:
        assert tenant_of(session) == "a"
    manager.close()
    gc.collect()  # asyncpg warns of what it cannot close any more


# -- what servers and poolers refuse


def refused(runner: Runner, tenant_id: str, error: type[ServerUnavailableError], *words: str) -> None:
    with pytest.raises(error) as caught:
        runner.run(tenant_id, tenant_of)
    assert caught.value.cluster == "main"
    assert [word for word in words if word not in str(caught.value)] == []


SPOILT: dict[str, tuple[str, type[ServerUnavailableError], str]] = {
    "limit": ("ALTER ROLE {} CONNECTION LIMIT 0", ConnectionLimitError, "CONNECTION LIMIT"),
    "password": ("ALTER ROLE {} PASSWORD 'another'", LoginRefusedError, "credentials"),
    "nologin": ("ALTER ROLE {} NOLOGIN", LoginRefusedError, "doctor"),
    "dropped": ("DROP OWNED BY {0}; DROP ROLE {0}", LoginRefusedError, "doctor"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_cell_leaves_the_others_alone(service: Service, cells: list[str], direct: Route, how: str) -> None:
    statement, error, word = SPOILT[how]
    runner = Runner(service.manager(cell_size=1, pool_size=2, pool_timeout_s=5, **direct.options), direct)
    login = runner.manager.get("b").placement.login_role
    with service.superuser() as su:
        su.execute(sql.SQL(statement).format(sql.Identifier(login)))
    for _ in range(3):  # a failed attempt keeps no place
        refused(runner, "b", error, login, word)
    assert runner.run("a", tenant_of) == "a"
    assert runner.run("c", tenant_of) == "c"
    assert runner.manager.pool_status().in_use == 0
    runner.close()


def test_a_full_database_is_told(fleet: Service, direct: Route) -> None:
    runner = Runner(fleet.manager(**direct.options), direct)
    runner.run("hallym", lambda _: None)
    with fleet.superuser("postgres") as su:
        su.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 1").format(sql.Identifier(fleet.database)))
    refused(runner, "hallym", ConnectionLimitError, "too many connections for database", fleet.login)
    runner.close()


@pytest.mark.parametrize(
    ("host", "word"), [("no-such-host.invalid", "DNS"), ("127.0.0.1:{closed}", "check the app DSN")]
)
def test_a_server_that_is_not_there_is_told(fleet: Service, direct: Route, host: str, word: str) -> None:
    manager = _elsewhere(fleet, direct, lambda: host.format(closed=free_port()))
    runner = Runner(manager, direct)
    refused(runner, "hallym", ServerUnavailableError, word, host.partition(":")[0])
    runner.close()


def test_another_address_is_followed(fleet: Service, direct: Route) -> None:
    """A provider that gives another address than before is believed for new connections."""
    url = make_url(fleet.server.dsn(fleet.database))
    home = f"{url.host}:{url.port}"
    where = home
    runner = Runner(_elsewhere(fleet, direct, lambda: where, pool_idle_s=0.1), direct)
    assert runner.run("hallym", tenant_of) == "hallym"
    where = f"127.0.0.1:{free_port()}"
    time.sleep(0.2)
    refused(runner, "hallym", ServerUnavailableError, where)
    where = home
    assert runner.run("hallym", tenant_of) == "hallym"
    runner.close()


def test_a_server_that_ends_a_connection_is_told_apart(fleet: Service, direct: Route) -> None:
    runner = Runner(fleet.manager(pool_size=1, **direct.options), direct)

    def scenario(session: Session) -> None:
        tenant_of(session)
        kill_backends(fleet)
        session.execute(text("SELECT 1"))

    with pytest.raises(ServerUnavailableError, match="tenant 'hallym': the server ended the connection"):
        runner.run("hallym", scenario)
    assert eventually(lambda: runner.run("korea", tenant_of)) == "korea"
    runner.close()


@pytest.mark.parametrize("words", ["connection is closed", "query_wait_timeout", "terminating connection due to"])
def test_what_a_tenant_has_written_is_no_news_of_the_connection(fleet: Service, direct: Route, words: str) -> None:
    """A server's error quotes values: whoever tries again after a lost connection would do so for ever."""
    runner = Runner(fleet.manager(pool_size=1, **direct.options), direct)
    with pytest.raises(DBAPIError, match="invalid input syntax"):
        runner.run("hallym", lambda session: session.execute(text(f"SELECT ('{words}' || current_user)::int")))
    runner.close()


def test_a_ping_replaces_what_the_server_has_ended(fleet: Service, direct: Route) -> None:
    runner = Runner(fleet.manager(pool_size=1, pool_pre_ping=True, **direct.options), direct)
    assert runner.run("hallym", tenant_of) == "hallym"
    kill_backends(fleet)
    time.sleep(0.1)
    assert runner.run("hallym", tenant_of) == "hallym"
    runner.close()


def test_a_standby_reached_by_mistake_is_told(own_server: PostgresServer) -> None:
    if own_server.binaries is None:
        pytest.skip("the server's files are not ours")
    service = Service(own_server)
    admin = service.manager()
    admin.init()
    admin.create("hallym")
    admin.close()
    own_server.become_standby()

    def at_home() -> str:
        return f"127.0.0.1:{own_server.port}"

    write = text("INSERT INTO note (body, mood, tags) VALUES ('x', 'calm', '{}')")

    def scenario(session: Session) -> None:
        session.execute(write)

    for direct in DIRECT:
        if direct.driver == "asyncpg":
            pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
        runner = Runner(service.manager(**direct.options), direct)
        assert runner.run("hallym", tenant_of) == "hallym"
        with pytest.raises(ReadOnlyServerError, match=r"tenant 'hallym': this server is a standby"):
            runner.run("hallym", scenario)
        with pytest.raises(DBAPIError, match="read-only"):  # as was asked for
            runner.run("hallym", scenario, read_only=True)
        runner.close()
        picky = Runner(_elsewhere(service, direct, at_home, "?target_session_attrs=read-write"), direct)
        refused(picky, "hallym", ServerUnavailableError, "failover")
        picky.close()


@pytest.mark.parametrize("wanted", ["read-write", "primary"])
def test_several_hosts_are_tried_in_turn(fleet: Service, direct: Route, wanted: str) -> None:
    hosts = several_hosts(direct.driver, free_port(), fleet.server.port)
    query = f"?{hosts}&target_session_attrs={wanted}"
    runner = Runner(_elsewhere(fleet, direct, lambda: "", query), direct)
    assert runner.run("hallym", tenant_of) == "hallym"
    runner.close()


def _elsewhere(
    service: Service, route: Route, where: Callable[[], str], query: str = "", **options: Any
) -> TenantManager:
    """Return a manager that connects to where `where` says at that moment."""

    def provider(_entry: str, purpose: str, /) -> str | None:
        if purpose != "app":
            return service.server.dsn(service.database)
        return f"postgresql://{service.login}:{PASSWORD}@{where()}/{service.database}{query}"

    settings = service.settings(pool_size=1, **route.options, **options)
    made = TenantManager(settings, models=service.models, credentials=provider)
    service.managers.append(made)
    return made


def crowded(service: Service, *, connections: int, **options: str) -> PgBouncer:
    try:
        return service.server.pooler(users={service.login: PASSWORD}, pool_size=connections, options=options)
    except LookupError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_pooler_without_a_server_connection_to_give_is_told(fleet: Service, driver: str) -> None:
    route = Route(driver, pooled=True)
    with crowded(fleet, connections=1, query_wait_timeout="1") as pooler:
        runner = Runner(fleet.manager(pooler=pooler, **route.options), route)
        runner.run("hallym", lambda _: None)  # is looked up
        holder = fleet.manager(pooler=pooler)
        with holder.get_session("korea") as session:
            tenant_of(session)
            with pytest.raises(ConnectionLimitError, match="default_pool_size"):
                runner.run("hallym", tenant_of)
        assert eventually(lambda: runner.run("hallym", tenant_of)) == "hallym"
        runner.close()
        holder.close()


def test_a_pooler_without_room_for_clients_is_told(fleet: Service) -> None:
    with crowded(fleet, connections=4, max_client_conn="3") as pooler:
        manager = fleet.manager(pooler=pooler)
        with manager.get_session("hallym") as one, manager.get_session("korea") as two:
            assert (tenant_of(one), tenant_of(two)) == ("hallym", "korea")  # and one connection looks tenants up
            with pytest.raises(ConnectionLimitError, match="max_client_conn"), manager.get_session("korea") as three:
                tenant_of(three)
        with manager.get_session("hallym") as one:
            assert tenant_of(one) == "hallym"
        manager.close()


def eventually_true(question: Callable[[], bool]) -> bool:
    for _ in range(100):
        if question():
            return True
        time.sleep(0.02)
    return False
