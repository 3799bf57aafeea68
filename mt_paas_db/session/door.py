"""The door to a tenant: ``with`` gives a `TenantSession`, ``async with`` an `AsyncTenantSession`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.identifiers import TenantName, Tier, parse_name, parse_revisions
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import ConfigurationError, InvalidIdentifierError, NoOwnLoginError, TenantMismatchError
from mt_paas_db.session.context import tenant_in_force
from mt_paas_db.session.dialects.pinning import Refused
from mt_paas_db.session.engines import Engines
from mt_paas_db.session.forks import renew_in_children
from mt_paas_db.session.limits import Seat, SessionLimits
from mt_paas_db.session.orm import AsyncTenantSession, TenantSession
from mt_paas_db.session.pin import IsolationLevel, Pin, PinOptions
from mt_paas_db.session.readings import PoolReadings
from mt_paas_db.session.resolver import Resolved, Resolver, check_open, check_window
from mt_paas_db.telemetry.probe import SessionWatch, Telemetry

if TYPE_CHECKING:
    from mt_paas_db.errors import TenantError

# A service asks for the same tenants, with the same few options, all day.
_known_name = lru_cache(maxsize=50_000)(parse_name)
_known_options = lru_cache(maxsize=256)(PinOptions)


def _revisions(requires: str | Collection[str]) -> tuple[str, ...] | None:
    """Return what a caller requires, None for nothing. Raises `ConfigurationError` for what is no revision id."""
    try:
        return parse_revisions(requires) or None
    except InvalidIdentifierError as error:
        raise ConfigurationError(f"requires: {error}") from None


_known_revision = lru_cache(maxsize=256)(_revisions)


class Door:
    """Opens sessions: the resolver's memory and the engines, shared by all sessions of a manager.

    `tables` returns how many tables a tenant has, where that is known; for the estimate of the server's memory.
    """

    def __init__(
        self, settings: Settings, credentials: CredentialProvider, *, tables: Callable[[], int] | None = None
    ) -> None:
        self._home = settings.home_cluster
        self.requires = settings.requires or None
        self.telemetry = Telemetry(installation=settings.installation, tenant_label=settings.metrics_tenant_label)
        self.resolver = Resolver(
            cluster=self._home, ttl_s=settings.cache_ttl_s, named=settings.name_tenant == "application_name"
        )
        self.engines = Engines(settings, credentials, refused=self._refused, telemetry=self.telemetry)
        self.telemetry.observe(self.resolver)
        self.telemetry.observe(PoolReadings(self.engines, tables=tables))
        self.telemetry.when_watching(self.engines.listen)
        self.limits = SessionLimits(settings.pool_timeout_s)
        renew_in_children(self)

    def _refused(self, flavour: str) -> Refused:
        def explain(pin: Pin, sqlstate: str | None) -> TenantError | None:
            catalog = (
                self.engines.asyncio(self._home, "catalog").sync_engine
                if flavour == "asyncio"
                else self.engines.blocking(self._home, "catalog")
            )
            told = self.resolver.explain(catalog, pin, sqlstate)
            if told is not None and self.telemetry.probe is not None:
                self.telemetry.probe.refused(told, pin.tenant_id)
            return told

        return explain

    def resolve(self, name: TenantName, requires: tuple[str, ...] | None = None) -> Resolved:
        """Return where the tenant lives, remembered or asked.

        What says that the tenant lacks a revision in `requires` is asked again: it may have been migrated since.
        Raises as `Resolver.ask`, `check_open` and `check_window`, and `PoolExhaustedError` where others take all the
        connections for look-ups for too long.
        """
        resolved = self._remembered(name, requires)
        if resolved is None:
            with self.engines.blocking(self._home, "catalog").connect() as connection:
                resolved = self.resolver.ask(connection, name)
            _check(resolved, requires)
        return resolved

    async def aresolve(self, name: TenantName, requires: tuple[str, ...] | None = None) -> Resolved:
        """Asyncio version of `resolve`."""
        resolved = self._remembered(name, requires)
        if resolved is None:
            async with self.engines.asyncio(self._home, "catalog").connect() as connection:
                resolved = await connection.run_sync(self.resolver.ask, name)
            _check(resolved, requires)
        return resolved

    def dsn(self, resolved: Resolved) -> str:
        """Return the DSN of a tenant's own login, its password in it.

        Raises `NoOwnLoginError` at tier `role`, `ConfigurationError` where its credentials are not known.
        """
        placement = resolved.resolution.placement
        if placement.tier is not Tier.LOGIN:
            raise NoOwnLoginError(resolved.name)
        return self.engines.credentials(placement.credentials, placement.login_role).render_as_string(
            hide_password=False
        )

    def _remembered(self, name: TenantName, requires: tuple[str, ...] | None) -> Resolved | None:
        """Return a remembered answer that opens the door. A closed tenant is never remembered."""
        resolved = self.resolver.remembered(name)
        if resolved is not None and requires is not None and not resolved.has(requires):
            resolved = None
        if self.telemetry.probe is not None:
            self.telemetry.probe.looked_up(hit=resolved is not None)
        return resolved

    def forked(self) -> None:
        """In a child: see `Telemetry.forked`, `Resolver.forked` and `SessionLimits.forked`."""
        self.telemetry.forked()
        self.resolver.forked()
        self.limits.forked()


def _check(resolved: Resolved, requires: tuple[str, ...] | None) -> None:
    check_open(resolved)
    if requires is not None:
        check_window(resolved, requires)


class TenantSessionContext:
    """What ``tenant_session(...)`` returns; used once, by ``with`` or by ``async with``.

    Nothing is sent before the first statement of the session, but for the look-up of a tenant that this
    process does not remember. On leaving, the transaction is committed, or rolled back after an exception
    or where ``commit=False`` was asked for; the session is closed either way, and its objects stay readable.
    """

    __slots__ = (
        "_commit",
        "_door",
        "_expire_on_commit",
        "_name",
        "_options",
        "_requires",
        "_seat",
        "_session",
        "_watch",
    )

    def __init__(
        self,
        door: Door,
        tenant_id: str,
        *,
        read_only: bool,
        isolation_level: IsolationLevel | None,
        statement_timeout_s: float | None,
        expire_on_commit: bool,
        commit: bool,
        requires: str | Collection[str] | None = None,
    ) -> None:
        self._door = door
        self._name = _known_name(tenant_id) if type(tenant_id) is str else parse_name(tenant_id)
        self._options = _known_options(
            read_only=read_only, isolation_level=isolation_level, statement_timeout_s=statement_timeout_s
        )
        if requires is None:
            self._requires = door.requires
        else:
            self._requires = _known_revision(requires) if type(requires) is str else _revisions(requires)
        self._expire_on_commit = expire_on_commit
        self._commit = commit
        self._seat: Seat | None = None
        self._session: TenantSession | AsyncTenantSession | None = None
        self._watch: SessionWatch | None = None

    def __enter__(self) -> TenantSession:
        self._use_once()
        probe = self._door.telemetry.watching()
        if probe is None:
            return self._open()
        watch = self._watch = probe.session(self._name, "blocking")
        try:
            session = self._open()
        except BaseException as error:
            watch.refused(error)
            raise
        watch.opened(session._pin)
        return session

    def _open(self) -> TenantSession:
        resolved = self._door.resolve(self._name, self._requires)
        engine = self._door.engines.of(resolved.resolution.placement)
        pin, bound = resolved.bind(engine, self._options)
        self._check_context(pin)
        if resolved.resolution.limits.max_sessions is not None:
            self._seat = self._door.limits.take(resolved.resolution)
        session = TenantSession(bound, pin=pin, expire_on_commit=self._expire_on_commit)
        self._session = session
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is None:
            self._leave(commit=kind is None and self._commit)
        else:
            with self._watch.ending(error, commit=self._commit):
                self._leave(commit=kind is None and self._commit)

    def _leave(self, *, commit: bool) -> None:
        session: Any = self._session
        try:
            if commit:
                session.expire_on_commit = False
                session.commit()
        finally:
            try:
                session.close()
            finally:
                if self._seat is not None:
                    self._seat.leave()

    async def __aenter__(self) -> AsyncTenantSession:
        self._use_once()
        probe = self._door.telemetry.watching()
        if probe is None:
            return await self._aopen()
        watch = self._watch = probe.session(self._name, "asyncio")
        try:
            session = await self._aopen()
        except BaseException as error:
            watch.refused(error)
            raise
        watch.opened(session.sync_session._pin)
        return session

    async def _aopen(self) -> AsyncTenantSession:
        resolved = await self._door.aresolve(self._name, self._requires)
        engine = self._door.engines.asyncio_of(resolved.resolution.placement)
        pin, bound = resolved.bind(engine, self._options)
        self._check_context(pin)
        if resolved.resolution.limits.max_sessions is not None:
            self._seat = await self._door.limits.atake(resolved.resolution)
        session = AsyncTenantSession(bound, pin=pin, expire_on_commit=self._expire_on_commit)
        self._session = session
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is None:
            await self._aleave(commit=kind is None and self._commit)
        else:
            with self._watch.ending(error, commit=self._commit):
                await self._aleave(commit=kind is None and self._commit)

    async def _aleave(self, *, commit: bool) -> None:
        session: Any = self._session
        try:
            if commit:
                session.sync_session.expire_on_commit = False
                await session.commit()
        finally:
            try:
                if session.sync_session.in_transaction():
                    # A cancelled task must not leave the connection half closed.
                    await asyncio.shield(asyncio.ensure_future(session.close()))
                else:  # it has no connection: nothing is sent, and nothing is waited for
                    session.sync_session.close()
            finally:
                if self._seat is not None:
                    self._seat.leave()

    def _use_once(self) -> None:
        if self._session is not None:
            raise ConfigurationError("a tenant_session(...) is entered once; call it again for another session")

    def _check_context(self, pin: Pin) -> None:
        in_force = tenant_in_force()
        if in_force is not None and in_force not in (pin.tenant_id, pin.asked_as):
            raise TenantMismatchError("the session asked for", expected=in_force, found=pin.tenant_id)
