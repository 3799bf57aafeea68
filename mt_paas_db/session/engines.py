"""Engines: one per login role and flavour, shared by all tenants that it serves; a tenant may have one of its own.

Blocking engines belong to the process; asyncio engines also to their event loop, whose connections
cannot be used from another one.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import URL, Engine, QueuePool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import mt_paas_db.session.dialects  # noqa: F401  (registers the pinned dialects)
from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url, login_url
from mt_paas_db.catalog.identifiers import InstallationRoles, Tier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Placement
from mt_paas_db.errors import MissingExtraError, ServerUnavailableError
from mt_paas_db.session.dialects.pinning import Refused
from mt_paas_db.session.guard import EngineT, install
from mt_paas_db.session.pooler import Driver, PoolerProfile, pooler_fault, when_refused

Role = Literal["tenant", "catalog"]

_Key = tuple[str, Role, str | None]
"""Credentials entry, what the engine is for, and the login role where it is not the first cell's."""

MOST_OWN = 32
"""Of how many tenants with a login of their own a process, or an event loop, keeps connections."""


def _idle(engine: Engine | AsyncEngine) -> bool:
    pool = engine.pool
    return not isinstance(pool, QueuePool) or pool.checkedout() == 0


class Engines:
    """Makes engines when they are first needed, and disposes of them.

    `refused(flavour)` returns what explains a pin that the server refused, on that flavour of engine.
    """

    def __init__(
        self, settings: Settings, credentials: CredentialProvider, *, refused: Callable[[str], Refused]
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._refused = refused
        self._shared_login = InstallationRoles(settings.installation).login
        self._lock = threading.Lock()
        self._used: dict[_Key, float] = {}
        self._tiers: dict[tuple[str, str | None], Tier] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._blocking: dict[_Key, Engine] = {}
        self._asyncio: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, AsyncEngine]]
        self._asyncio = weakref.WeakKeyDictionary()

    def blocking(self, entry: str, role: Role = "tenant", login: str | None = None) -> Engine:
        """Return the blocking engine of a credentials entry, or of a tenant's own login there.

        Raises `ConfigurationError` where the credentials are not known.
        """
        key = (entry, role, login)
        engine = self._blocking.get(key)
        if engine is None:
            surplus: list[Engine] = []
            with self._lock:
                engine = self._blocking.get(key)
                if engine is None:
                    engine = create_engine(self._url(key, "psycopg"), **self._options(key, "psycopg"))
                    self._equip(engine, key)
                    self._blocking[key] = engine
                    surplus = self._surplus(self._blocking, key)
            for unused in surplus:
                unused.dispose()
        return engine

    def asyncio(self, entry: str, role: Role = "tenant", login: str | None = None) -> AsyncEngine:
        """Return the running event loop's engine; same errors as `blocking`."""
        loop = asyncio.get_running_loop()
        key = (entry, role, login)
        engines = self._asyncio.get(loop)
        engine = engines.get(key) if engines else None
        if engine is None:
            surplus: list[AsyncEngine] = []
            with self._lock:
                engines = self._asyncio.setdefault(loop, {})
                engine = engines.get(key)
                if engine is None:
                    driver = self._settings.async_driver
                    try:
                        engine = create_async_engine(
                            self._url(key, driver, suffix="_async"), **self._options(key, driver)
                        )
                    except ModuleNotFoundError as error:
                        if error.name != "asyncpg":
                            raise
                        raise MissingExtraError("async_driver='asyncpg'", "asyncpg") from None
                    self._equip(engine.sync_engine, key)
                    engines[key] = engine
                    surplus = self._surplus(engines, key)
            for unused in surplus:
                task = loop.create_task(unused.dispose())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        return engine

    def _surplus(self, engines: dict[_Key, EngineT], new: _Key) -> list[EngineT]:
        """Take out engines of tenants' own logins beyond the most that are kept, those unused for longest first.

        One with a connection in use stays. Whoever holds one that is taken out may go on with it.
        """
        own = sorted(
            (key for key in engines if key[2] is not None and key != new), key=lambda key: self._used.get(key, 0)
        )
        surplus = [key for key in own if _idle(engines[key])][: max(0, len(own) + 1 - MOST_OWN)]
        for key in surplus:
            self._used.pop(key, None)
        return [engines.pop(key) for key in surplus]

    def of(self, placement: Placement) -> Engine:
        """Return the blocking engine that serves a tenant."""
        return self.blocking(placement.credentials, login=self._own_login(placement))

    def asyncio_of(self, placement: Placement) -> AsyncEngine:
        """Return the running event loop's engine that serves a tenant."""
        return self.asyncio(placement.credentials, login=self._own_login(placement))

    def _own_login(self, placement: Placement) -> str | None:
        if placement.login_role == self._shared_login:
            return None
        self._tiers[placement.credentials, placement.login_role] = placement.tier
        self._used[placement.credentials, "tenant", placement.login_role] = time.monotonic()
        return placement.login_role

    def credentials(self, entry: str, login: str | None = None) -> URL:
        """Return the DSN of sessions, as it is now, as a URL whose driver is still open."""
        if login is None:
            return cluster_url(self._credentials, entry, "app")
        tier = self._tiers.get((entry, login), Tier.LOGIN)
        return login_url(self._settings, self._credentials, entry, login, tier=tier)

    def _url(self, key: _Key, driver: Driver, *, suffix: str = "") -> URL:
        entry, role, login = key
        url = self.credentials(entry, login)
        if role == "catalog":
            return url.set(drivername=f"postgresql+{driver}")
        return url.set(drivername=f"postgresql+mt_{driver}{suffix if driver == 'psycopg' else ''}")

    def _options(self, key: _Key, driver: Driver) -> dict[str, Any]:
        entry, role, login = key
        settings = self._settings
        profile = self._profile(entry)
        timeout = "connect_timeout" if driver == "psycopg" else "timeout"
        seconds = settings.connect_timeout_s
        options: dict[str, Any] = {
            "connect_args": {
                **profile.connect_args(driver),
                timeout: max(1, round(seconds)) if driver == "psycopg" else seconds,
            },
            "pool_pre_ping": settings.pool_pre_ping,
            "pool_recycle": settings.pool_recycle_s,
            "pool_timeout": settings.pool_timeout_s,
        }
        if role == "catalog":
            # Look-ups are rare and short: a cache stands before them. They autocommit, as they read one row.
            return {
                **options,
                "pool_size": 1,
                "max_overflow": 4,
                "pool_pre_ping": True,
                "isolation_level": "AUTOCOMMIT",
            }
        if login is not None:
            # What one tenant keeps open serves nobody else. The server ends it when the tenant is closed, so ask first.
            most = settings.pool_size + settings.max_overflow
            return {**options, "pool_size": 1, "max_overflow": most - 1, "pool_pre_ping": True}
        return {**options, "pool_size": settings.pool_size, "max_overflow": settings.max_overflow}

    def _profile(self, entry: str) -> PoolerProfile:
        cluster = self._settings.clusters.get(entry)
        return PoolerProfile.parse(cluster.pooler if cluster else "direct")

    def _equip(self, engine: Engine, key: _Key) -> None:
        entry, role, login = key

        def connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
            # Credentials may have been rotated since the engine was made.
            options.update(dialect.create_connect_args(self.credentials(entry, login))[1])
            try:
                return dialect.connect(*arguments, **options)
            except Exception as error:  # whatever the driver raises here means: no connection
                line = str(error).strip().splitlines()
                raise ServerUnavailableError(
                    entry,
                    f"cannot connect as {engine.url.username!r} to database {engine.url.database!r} "
                    f"at {engine.url.host or engine.url.query.get('host') or 'the default host'}: "
                    f"{line[0] if line else type(error).__name__}; {when_refused(self._profile(entry), login)}",
                ) from error

        event.listen(engine, "do_connect", connect)
        event.listen(
            engine, "handle_error", lambda context: pooler_fault(context.original_exception, entry), retval=True
        )
        if role == "tenant":
            flavour = "asyncio" if engine.dialect.is_async else "blocking"
            install(engine, self._refused(flavour), pooled=self._profile(entry).kind != "direct")

    def close(self) -> None:
        """Close the idle connections of the blocking engines; those in use close when they come back."""
        with self._lock:
            engines, self._blocking = list(self._blocking.values()), {}
        for engine in engines:
            engine.dispose()

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop's engines."""
        with self._lock:
            engines = self._asyncio.pop(asyncio.get_running_loop(), {})
        for engine in engines.values():
            await engine.dispose()
