"""Engines: one per login role and flavour, over one budget of connections that all of them share.

Blocking engines belong to the process; asyncio engines also to their event loop, whose connections
cannot be used from another one.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

from sqlalchemy import URL, Engine, NullPool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import mt_paas_db.session.dialects  # noqa: F401  (registers the pinned dialects)
from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url, login_url
from mt_paas_db.catalog.identifiers import InstallationRoles, Tier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Placement
from mt_paas_db.errors import MissingExtraError, PoolExhaustedError
from mt_paas_db.session.dialects.pinning import PinState, Refused, state_in
from mt_paas_db.session.dialects.psycopg import check_libpq
from mt_paas_db.session.faults import connection_fault, server_fault
from mt_paas_db.session.forks import renew_in_children
from mt_paas_db.session.gate import Gate, PoolListener
from mt_paas_db.session.guard import EngineT, install
from mt_paas_db.session.naming import commenting, unique_texts
from mt_paas_db.session.places import Member, PoolStatus
from mt_paas_db.session.pool import BudgetPool
from mt_paas_db.session.pooler import Driver, PoolerProfile, login_unknown
from mt_paas_db.telemetry.probe import Telemetry

_Loop = asyncio.AbstractEventLoop  # in the class below, `asyncio` is a method

Role = Literal["tenant", "catalog"]

_Key = tuple[str, Role, str | None]
"""Credentials entry, what the engine is for, and the login role where it is not the first cell's."""

LOOK_UPS = 2
"""Connections for looking up where tenants live, of a process and of each event loop; beside the budget."""

LOOKING_UP = "look-ups"
"""What their pool is called, where that of a cell is called like its login role."""

MOST_UNUSED = 256
"""Beyond how many engines those without a connection are let go of: each keeps compiled statements of its own."""


class Engines:
    """Makes engines when they are first needed, and disposes of them.

    `refused(flavour)` returns what explains a pin that the server refused, on that flavour of engine.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: CredentialProvider,
        *,
        refused: Callable[[str], Refused],
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._refused = refused
        self._telemetry = telemetry
        self._comment = commenting(settings)
        self._shared_login = InstallationRoles(settings.installation).login
        self._lock = threading.Lock()
        self._tiers: dict[tuple[str, str | None], Tier] = {}
        self._blocking: dict[_Key, Engine] = {}
        self._asyncio: dict[_Loop, dict[_Key, AsyncEngine]] = {}
        self._parents: list[Any] = []
        self.gate = Gate(
            settings.pool_size,
            timeout_s=settings.pool_timeout_s,
            idle_s=settings.pool_idle_s,
            explain=_exhausted,
        )
        self._gates = weakref.WeakSet([self.gate])
        renew_in_children(self)

    def listen(self, listener: PoolListener) -> None:
        """Have `listener` told of the events of all pools, those of look-ups too."""
        with self._lock:
            for gate in list(self._gates):
                gate.listener = listener

    def blocking(self, entry: str, role: Role = "tenant", login: str | None = None) -> Engine:
        """Return the blocking engine of a credentials entry, or of a login role there that is not the installation's.

        Raises `ConfigurationError` where the credentials are not known.
        """
        key = (entry, role, login)
        engine = self._blocking.get(key)
        if engine is None:
            with self._lock:
                engine = self._blocking.get(key)
                if engine is None:
                    engine = create_engine(self._url(key, "psycopg"), **self._options(key, "psycopg"))
                    self._equip(engine, key)
                    self._let_go(self._blocking)
                    self._blocking[key] = engine
        return engine

    def asyncio(self, entry: str, role: Role = "tenant", login: str | None = None) -> AsyncEngine:
        """Return the running event loop's engine; same errors as `blocking`."""
        loop = asyncio.get_running_loop()
        key = (entry, role, login)
        engines = self._asyncio.get(loop)
        engine = engines.get(key) if engines else None
        if engine is None:
            with self._lock:
                self._bury()
                engines = self._asyncio.setdefault(loop, {})
                engine = engines.get(key)
                if engine is None:
                    driver = self._settings.async_driver
                    try:
                        engine = create_async_engine(
                            self._url(key, driver, suffix="_async"), **self._options(key, driver, loop)
                        )
                    except ModuleNotFoundError as error:
                        if error.name != "asyncpg":
                            raise
                        raise MissingExtraError("async_driver='asyncpg'", "asyncpg") from None
                    self._equip(engine.sync_engine, key)
                    self._let_go(engines)
                    engines[key] = engine
        return engine

    def _let_go(self, engines: dict[_Key, EngineT]) -> None:
        """Let go of engines without connections, where there are many. Whoever holds one may go on with it."""
        if len(engines) < MOST_UNUSED:
            return
        for key, engine in list(engines.items()):
            pool = engine.pool
            if isinstance(pool, BudgetPool) and pool.unused:
                del engines[key]

    def _bury(self) -> None:
        """Let go of the engines of event loops that were closed without `aclose`."""
        for loop in [loop for loop in self._asyncio if loop.is_closed()]:
            for engine in self._asyncio.pop(loop).values():
                if isinstance(engine.pool, BudgetPool):
                    engine.pool.dispose()

    def status(self) -> PoolStatus:
        """Return what the connections for tenants are doing, now; not those that look tenants up in the catalog."""
        if self._settings.pooling == "none":
            return PoolStatus(budget=None)
        return self.gate.status()

    def served(self) -> Iterator[tuple[str, PinState]]:
        """Yield cell and state of each connection for tenants that is open, as far as it has served any."""
        for slot in self.gate.slots():
            state = state_in(slot)
            if state is not None:
                yield slot.member.cell, state

    def of(self, placement: Placement) -> Engine:
        """Return the blocking engine that serves a tenant."""
        return self.blocking(placement.credentials, login=self._own_login(placement))

    def asyncio_of(self, placement: Placement) -> AsyncEngine:
        """Return the running event loop's engine that serves a tenant."""
        return self.asyncio(placement.credentials, login=self._own_login(placement))

    def _own_login(self, placement: Placement) -> str | None:
        if placement.login_role == self._shared_login:
            return None
        self.know(placement.credentials, placement.login_role, placement.tier)
        return placement.login_role

    def know(self, entry: str, login: str, tier: Tier) -> None:
        """Say whose a login is, a cell's or one tenant's own: what its password follows from depends on it."""
        self._tiers[entry, login] = tier

    def _tier(self, entry: str, login: str | None) -> Tier:
        return Tier.ROLE if login is None else self._tiers.get((entry, login), Tier.LOGIN)

    def credentials(self, entry: str, login: str | None = None) -> URL:
        """Return the DSN of sessions, as it is now, as a URL whose driver is still open."""
        if login is None:
            return cluster_url(self._credentials, entry, "app")
        return login_url(self._settings, self._credentials, entry, login, tier=self._tier(entry, login))

    def _url(self, key: _Key, driver: Driver, *, suffix: str = "") -> URL:
        entry, role, login = key
        url = self.credentials(entry, login)
        if role == "catalog":
            return url.set(drivername=f"postgresql+{driver}")
        return url.set(drivername=f"postgresql+mt_{driver}{suffix if driver == 'psycopg' else ''}")

    def _options(self, key: _Key, driver: Driver, loop: _Loop | None = None) -> dict[str, Any]:
        entry, role, login = key
        settings = self._settings
        options: dict[str, Any] = {"pool_recycle": settings.pool_recycle_s, "pool_pre_ping": settings.pool_pre_ping}
        if role == "catalog":
            # Look-ups are rare and short: a cache stands before them. They autocommit, as they read one row.
            gate = Gate(LOOK_UPS, timeout_s=settings.pool_timeout_s, explain=_look_ups_exhausted)
            gate.listener = self.gate.listener
            self._gates.add(gate)
            options.update(poolclass=BudgetPool, gate=gate, cluster=entry, cell=LOOKING_UP, loop=loop)
            return {**options, "pool_pre_ping": True, "isolation_level": "AUTOCOMMIT"}
        if settings.pooling == "none":
            return {"poolclass": NullPool}
        options.update(poolclass=BudgetPool, gate=self.gate, cluster=entry, cell=login or self._shared_login, loop=loop)
        if self._tier(entry, login) is Tier.LOGIN:
            # The server ends a tenant's own connections when the tenant is closed, so ask first.
            options["pool_pre_ping"] = True
        return options

    def _connect_args(self, entry: str, driver: Driver, login: str | None) -> dict[str, Any]:
        seconds = self._settings.connect_timeout_s
        timeout = {"connect_timeout": max(1, round(seconds))} if driver == "psycopg" else {"timeout": seconds}
        profile, own = self._profile(entry), self._tier(entry, login) is Tier.LOGIN
        if driver == "psycopg" and profile.kind != "direct" and profile.named_statements(own=own):
            check_libpq()
        return {**profile.connect_args(driver, unnamed=unique_texts(self._settings), own=own), **timeout}

    def _profile(self, entry: str) -> PoolerProfile:
        return PoolerProfile.of(self._settings, entry)

    def _equip(self, engine: Engine, key: _Key) -> None:
        entry, role, login = key
        driver: Driver = "asyncpg" if engine.dialect.driver.endswith("asyncpg") else "psycopg"
        connect_args = self._connect_args(entry, driver, login)
        pool = LOOKING_UP if role == "catalog" else login or self._shared_login

        def connect(dialect: Any, _record: Any, arguments: Any, _options: Any) -> Any:
            # Credentials, and the address, may be others than when the engine was made.
            url = self.credentials(entry, login)
            probe = self._telemetry.probe
            started = time.perf_counter()
            try:
                made = dialect.connect(*arguments, **{**dialect.create_connect_args(url)[1], **connect_args})
            except Exception as error:  # whatever the driver raises here means: no connection
                unknown = login_unknown(self._profile(entry), login)
                raise connection_fault(error, cluster=entry, url=url, password_refused=unknown) from error
            if probe is not None:
                probe.on_open(pool, time.perf_counter() - started)
            return made

        event.listen(engine, "do_connect", connect)
        event.listen(
            engine,
            "handle_error",
            # A ping that fails is no error: the connection is replaced.
            lambda context: (
                None
                if context.is_pre_ping
                else server_fault(context.original_exception, cluster=entry, connection=context.connection)
            ),
            retval=True,
        )
        if role == "tenant":
            flavour = "asyncio" if engine.dialect.is_async else "blocking"
            pooled = self._profile(entry).kind != "direct"
            install(
                engine,
                self._refused(flavour),
                pooled=pooled,
                # Behind a pooler it is the server's connections that grow, and the pooler's to replace.
                max_tenants=None if pooled else self._settings.pool_max_tenants,
                telemetry=self._telemetry,
                comment=self._comment,
            )

    def close(self) -> None:
        """Close the idle connections of the blocking engines; those in use close when they come back."""
        with self._lock:
            self._bury()
            engines, self._blocking = list(self._blocking.values()), {}
        for engine in engines:
            engine.dispose()

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop's engines."""
        with self._lock:
            engines = self._asyncio.pop(asyncio.get_running_loop(), {})
        for engine in engines.values():
            await engine.dispose()

    def forked(self) -> None:
        """In a child: engines and their connections are the parent's. They are kept, unused; see `Gate.forked`."""
        self._lock = threading.Lock()
        self._parents.append((self._blocking, self._asyncio))
        self._blocking, self._asyncio = {}, {}


def _exhausted(member: Member, waited_s: float, status: PoolStatus) -> PoolExhaustedError:
    return _error(member, member.cell, waited_s, status)


def _look_ups_exhausted(member: Member, waited_s: float, status: PoolStatus) -> PoolExhaustedError:
    return _error(member, None, waited_s, status)


def _error(member: Member, cell: str | None, waited_s: float, status: PoolStatus) -> PoolExhaustedError:
    holders = sorted(((held.cell, held.in_use) for held in status.cells if held.in_use), key=lambda held: -held[1])
    return PoolExhaustedError(
        member.cluster,
        cell=cell,
        waited_s=waited_s,
        limit=status.budget or 0,
        holders=tuple(holders),
        waiting=status.waiting,
        oldest_use_s=max((held.oldest_use_s for held in status.cells), default=0.0),
    )
