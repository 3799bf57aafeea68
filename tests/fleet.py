"""What tests act on: a service of its own in a database of its own, and one way to run a scenario on any driver."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.catalog.settings import Settings, load_settings
from mt_paas_db.core import ClusterSettings, TenantManager
from mt_paas_db.errors import ServerUnavailableError
from tests.models import Base
from tests.servers import PgBouncer, PostgresServer

T = TypeVar("T")

PASSWORD = "not-a-secret"

CONNECTION_LOST: tuple[type[Exception], ...] = (DBAPIError, ServerUnavailableError)
"""What one attempt may cost after a backend was killed."""

with suppress(ImportError):
    from asyncpg import InternalClientError

    # asyncpg's answer between the server's last words and the end of the connection; SQLAlchemy passes it on as it is.
    CONNECTION_LOST += (InternalClientError,)


@dataclass
class Service:
    """One installation: a fresh name, a fresh database. `close` drops its database and roles."""

    server: PostgresServer
    name: str = field(default_factory=lambda: f"t{secrets.token_hex(4)}")
    models: Any = Base
    managers: list[TenantManager] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = f"{self.name}_db"
        with self.superuser("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))

    @property
    def login(self) -> str:
        return f"{self.name}_app"

    def superuser(self, database: str | None = None) -> psycopg.Connection[Any]:
        """Return an autocommitting superuser connection: the ground truth. Close it by `with`."""
        return psycopg.connect(self.server.dsn(database or self.database), autocommit=True)

    def settings(self, *, pooler: PgBouncer | None = None, **options: Any) -> Settings:
        app = (
            pooler.dsn(self.database, user=self.login, password=PASSWORD)
            if pooler
            else self.server.dsn(self.database, user=self.login, password=PASSWORD)
        )
        cluster = ClusterSettings.model_validate(
            {
                "app_dsn": app,
                "admin_dsn": self.server.dsn(self.database),
                "pooler": "pgbouncer" if pooler else "direct",
            }
        )
        return load_settings(**{"installation": self.name, "clusters": {"main": cluster}, **options})

    def environment(self) -> dict[str, str]:
        """Return the settings as the environment of a user's process has them."""
        (cluster,) = self.settings().clusters.values()
        assert cluster.app_dsn is not None
        assert cluster.admin_dsn is not None
        return {
            "MT_PAAS_DB_INSTALLATION": self.name,
            "MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN": cluster.app_dsn.get_secret_value(),
            "MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN": cluster.admin_dsn.get_secret_value(),
        }

    def manager(self, *, pooler: PgBouncer | None = None, models: Any = None, **options: Any) -> TenantManager:
        """Return a new manager, with a memory and pools of its own, as another process would have."""
        made = TenantManager(self.settings(pooler=pooler, **options), models=models or self.models)
        self.managers.append(made)
        return made

    def make_admin(self, name: str, words: str = "CREATEROLE CREATEDB") -> str:
        """Make a role that may log in, and what `words` say, and return its name."""
        role = f"{self.name}_{name}"
        with self.superuser("postgres") as su:
            su.execute(f"CREATE ROLE {role} LOGIN {words} PASSWORD '{PASSWORD}'".encode())
        return role

    @contextmanager
    def managed(self) -> Iterator[str]:
        """Give the database to an admin as managed servers have one, for the block; yield the role's name."""
        role = self.make_admin("x_dba")
        names = {"database": sql.Identifier(self.database), "role": sql.Identifier(role)}
        with self.superuser() as su:
            su.execute(sql.SQL("ALTER DATABASE {database} OWNER TO {role}").format(**names))
        try:
            yield role
        finally:
            with self.superuser() as su:  # the role itself goes with the service's others
                for statement in (
                    "ALTER DATABASE {database} OWNER TO postgres",
                    "REASSIGN OWNED BY {role} TO postgres",
                    "DROP OWNED BY {role} CASCADE",
                ):
                    su.execute(sql.SQL(statement).format(**names))

    def close(self) -> None:
        for manager in self.managers:
            manager.close()
        with self.superuser("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.database)))
            roles = connection.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (f"{self.name}_",)
            ).fetchall()
            for (role,) in roles:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@dataclass(frozen=True)
class Route:
    """A driver and a way to the server. `run` executes a scenario written for a blocking `Session` on any of them."""

    driver: str
    pooled: bool

    @property
    def is_async(self) -> bool:
        return self.driver != "psycopg"

    @property
    def options(self) -> dict[str, Any]:
        """The settings of a manager that takes this route."""
        return {"async_driver": "asyncpg" if self.driver == "asyncpg" else "psycopg"}

    def __str__(self) -> str:
        return f"{self.driver}-{'pgbouncer' if self.pooled else 'direct'}"


ROUTES = [Route(driver, pooled) for pooled in (False, True) for driver in ("psycopg", "psycopg_async", "asyncpg")]


def several_hosts(driver: str, *ports: int) -> str:
    """Return the part of a DSN's query that names several servers on this machine, as the driver wants it."""
    if driver == "asyncpg":
        return "&".join(f"host=127.0.0.1:{port}" for port in ports)
    return f"host={','.join(['127.0.0.1'] * len(ports))}&port={','.join(map(str, ports))}"


class Runner:
    """Runs scenarios of one manager on one route, all in one event loop so that pools are really shared."""

    def __init__(self, manager: TenantManager, route: Route) -> None:
        self.manager = manager
        self.route = route
        self._loop = asyncio.Runner() if route.is_async else None

    def run(self, tenant_id: str, scenario: Callable[[Session], T], **options: Any) -> T:
        """Run `scenario` in a session of the tenant and return what it returns."""
        if self._loop is None:
            with self.manager.get_session(tenant_id, **options) as session:
                return scenario(session)

        async def work() -> T:
            async with self.manager.get_session(tenant_id, **options) as session:
                return await session.run_sync(scenario)

        return self._loop.run(work())

    def await_(self, make: Callable[[], Any]) -> Any:
        """Run a coroutine function in this runner's event loop (asyncio routes only)."""
        assert self._loop is not None
        return self._loop.run(make())

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run(self.manager.aio.close())
            self._loop.close()
        self.manager.close()
