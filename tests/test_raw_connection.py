"""`raw_connection`: the driver's own connection for a library, inside one pinned transaction, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    ConfigurationError,
    ContextLostError,
    InvalidIdentifierError,
    TenantMismatchError,
    TenantSuspendedError,
    UnknownTenantError,
)
from mt_paas_db.session.context import tenant_context
from tests.conftest import bouncer_for
from tests.fleet import Route, Runner, Service
from tests.models import Note
from tests.test_tier_login import SECRET, password_of


@pytest.fixture(params=["role", "login"])
def manager(service: Service, request: pytest.FixtureRequest) -> TenantManager:
    made = service.manager(login_secret=SECRET, tier=request.param)
    made.init()
    return made


@pytest.fixture
def runner(fleet: Service, manager: TenantManager, route: Route) -> Iterator[Runner]:
    options = {"login_secret": SECRET, "pool_size": 1, "pool_timeout_s": 5, **route.options}
    own = {t.placement.login_role for t in manager.list()} - {fleet.login}
    passwords = {login: password_of(login) for login in own}
    with bouncer_for(fleet, also=passwords) if route.pooled else nullcontext() as pooler:
        made = Runner(fleet.manager(pooler=pooler, **options), route)
        yield made
        made.close()


class Library:
    """What a library does with the connection that it was given, on any of the drivers."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def use(self, tenant_id: str, *statements: str, fail: bool = False, **options: Any) -> list[Any]:
        """Run statements on a raw connection; return the last one's rows. `fail` raises in the block."""
        door = self._runner.manager.raw_connection(tenant_id, **options)
        if not self._runner.route.is_async:
            with door as connection:
                rows = [self._blocking(connection, statement) for statement in statements][-1]
                if fail:
                    raise ZeroDivisionError
            return rows

        async def use() -> list[Any]:
            rows: list[Any] = []
            async with door as connection:
                for statement in statements:
                    rows = await self._asyncio(connection, statement)
                if fail:
                    raise ZeroDivisionError
            return rows

        result: list[Any] = self._runner.await_(use)
        return result

    @staticmethod
    def _blocking(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description is not None else []

    async def _asyncio(self, connection: Any, statement: str) -> list[Any]:
        if self._runner.route.driver == "asyncpg":
            return [tuple(row) for row in await connection.fetch(statement)]
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description is not None else []


@pytest.fixture
def library(runner: Runner) -> Library:
    return Library(runner)


INSERT = "INSERT INTO note (body, mood, tags) VALUES ('by a library', 'calm', '{}')"


def bodies(manager: TenantManager, tenant_id: str = "hallym") -> list[str]:
    with manager.get_session(tenant_id) as session:
        return list(session.scalars(select(Note.body)))


def test_what_it_writes_is_the_tenants_and_committed(library: Library, manager: TenantManager) -> None:
    placement = manager.get("hallym").placement
    rows = library.use("hallym", INSERT, "SELECT current_user::text, session_user::text, body FROM note")
    assert rows == [(placement.role_name, placement.login_role, "by a library")]
    assert bodies(manager) == ["by a library"]
    assert bodies(manager, "korea") == []


def test_an_exception_rolls_back(library: Library, manager: TenantManager) -> None:
    with pytest.raises(ZeroDivisionError):
        library.use("hallym", INSERT, fail=True)
    assert bodies(manager) == []


def test_an_error_of_the_server_rolls_back_and_passes_through(library: Library, manager: TenantManager) -> None:
    with pytest.raises(Exception, match="division by zero"):
        library.use("hallym", INSERT, "SELECT 1/0")
    assert bodies(manager) == []
    assert library.use("hallym", "SELECT 1") == [(1,)]


def test_nobody_gets_the_connection_afterwards(library: Library, runner: Runner, manager: TenantManager) -> None:
    """On a pool of one: whatever was left on it, a setting or a prepared statement, went with it.

    A pooler keeps its connections to the server: there the scrub behind COMMIT clears all but what was
    prepared by SQL, which at tier `login` nobody else can meet.
    """
    setting = "SELECT current_setting('app.left', true)"
    library.use("hallym", "SELECT set_config('app.left', 'x', false)", "PREPARE kept AS SELECT 1")
    for tenant_id in ("korea", "hallym"):
        assert library.use(tenant_id, setting)[0][0] in (None, "")
        (prepared,) = library.use(tenant_id, "SELECT count(*) FROM pg_prepared_statements WHERE name = 'kept'")
        stays = runner.route.pooled and (manager.settings.tier == "role" or tenant_id == "hallym")
        assert prepared == (1 if stays else 0,)
        assert runner.run(tenant_id, lambda session: session.connection().exec_driver_sql(setting).scalar()) in (
            None,
            "",
        )


def test_a_library_that_commits_is_told_and_has_no_neighbour(library: Library, manager: TenantManager) -> None:
    """At tier `role` the login that is left has no rights; at tier `login` it is still this tenant."""
    with pytest.raises(ContextLostError, match="hallym"):
        library.use("hallym", INSERT, "COMMIT")
    assert bodies(manager) == ["by a library"]
    neighbour = manager.get("korea").placement.schema_name
    with pytest.raises(Exception, match="permission denied"):
        library.use("hallym", "COMMIT", f"SELECT body FROM {neighbour}.note")
    if manager.settings.tier == "role":
        with pytest.raises(Exception, match='relation "note" does not exist'):
            library.use("hallym", "COMMIT", "SELECT body FROM note")


def test_options_hold(library: Library) -> None:
    with pytest.raises(Exception, match="read-only transaction"):
        library.use("hallym", INSERT, read_only=True)
    assert library.use("hallym", "SHOW transaction_isolation", isolation_level="SERIALIZABLE") == [("serializable",)]
    with pytest.raises(Exception, match="statement timeout"):
        library.use("hallym", "SELECT pg_sleep(5)", statement_timeout_s=0.05)


def test_a_closed_tenant_has_none(library: Library, runner: Runner, manager: TenantManager) -> None:
    assert library.use("hallym", "SELECT 1") == [(1,)]
    manager.suspend("hallym")
    with pytest.raises(TenantSuspendedError):
        library.use("hallym", "SELECT 1")
    with pytest.raises(UnknownTenantError):
        library.use("nobody", "SELECT 1")


@contextmanager
def entered(manager: TenantManager) -> Iterator[Callable[[], Any]]:
    door = manager.raw_connection("hallym")
    with door:
        yield door.__enter__


def test_another_tenant_than_the_one_in_force_is_refused(fleet: Service, manager: TenantManager) -> None:
    with pytest.raises(TenantMismatchError), tenant_context("hallym"), manager.raw_connection("korea"):
        pass


def test_bad_arguments_are_refused_at_once(fleet: Service, manager: TenantManager) -> None:
    with pytest.raises(InvalidIdentifierError):
        manager.raw_connection("Hallym!")
    with pytest.raises(ConfigurationError):
        manager.raw_connection("hallym", isolation_level="AUTOCOMMIT")  # type: ignore[arg-type]
    with entered(manager) as again, pytest.raises(ConfigurationError, match="entered once"):
        again()


def test_psycopgs_own_blocks_are_savepoints(fleet: Service, manager: TenantManager) -> None:
    with manager.raw_connection("hallym") as connection:
        with suppress(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute(INSERT)
            connection.execute("SELECT 1/0")
        with connection.transaction():
            connection.execute(INSERT)
    assert bodies(manager) == ["by a library"]


def test_a_killed_backend_is_told_and_the_next_connection_works(fleet: Service, manager: TenantManager) -> None:
    with (
        pytest.raises((ContextLostError, psycopg.OperationalError)),
        manager.raw_connection("hallym") as connection,
        fleet.superuser() as su,
    ):
        su.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
        connection.execute("SELECT 1")
    with manager.raw_connection("hallym") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_cancelled_task_leaves_no_connection(fleet: Service, manager: TenantManager) -> None:
    async def scenario() -> int:
        async def hold() -> None:
            async with manager.aio.raw_connection("hallym") as connection:
                await connection.execute(INSERT)
                await connection.execute("SELECT pg_sleep(10)")

        task = asyncio.create_task(hold())
        await asyncio.sleep(0.5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        engine = manager._door.engines.asyncio_of(manager._door.resolver.remembered("hallym").resolution.placement)  # type: ignore[union-attr,arg-type]
        checked_out: int = engine.pool.checkedout()  # type: ignore[attr-defined]
        await manager.aio.close()
        return checked_out

    assert asyncio.run(scenario()) == 0
    assert bodies(manager) == []


def test_the_dsn_over_asyncio(service: Service) -> None:
    manager = service.manager(login_secret=SECRET, tier="login")
    manager.init()
    manager.create("hallym")

    async def both() -> tuple[str, str]:
        try:
            return await manager.aio.dsn("hallym"), manager.dsn("hallym")
        finally:
            await manager.aio.close()

    first, second = asyncio.run(both())
    assert first == second
