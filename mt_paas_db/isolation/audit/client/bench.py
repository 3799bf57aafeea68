"""A tenant's session under examination: opened by the door that the service uses, and looked at from below it.

What stands on the server is asked of the driver itself, past the layers that are examined. On asyncio drivers the same
code runs inside SQLAlchemy's greenlet bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from sqlalchemy import Engine, literal, select
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from mt_paas_db.catalog.identifiers import InstallationRoles, Tier, parse_name
from mt_paas_db.catalog.values import Resolution, Tenant
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.errors import TenancyError
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.session.dialects.pinning import Pinning, state_of
from mt_paas_db.session.pin import Pin, PinOptions, make_pin

NOBODY = "mt-paas-nobody"
"""An id that leads nowhere: nothing on the server is called like it."""

PATIENCE_S = 10.0

LEFT = "mt_paas_probe.left"
"""What a check leaves on a connection as a session's own SQL could: a setting that means nothing to anybody."""

_STANDING = """
    SELECT current_user::text, session_user::text, pg_catalog.current_setting('search_path'),
           coalesce(pg_catalog.current_setting('mt_paas.tenant', true), ''),
           coalesce(pg_catalog.current_setting('mt_paas_probe.left', true), ''),
           (SELECT CAST(setting AS int) FROM pg_catalog.pg_settings WHERE name = 'statement_timeout')
"""

Examined = Iterator[tuple[str, str]]
"""What a check yields: the rule that does not hold, and what was seen."""

ONE = select(literal(1))


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands on a connection, as the server says; `timeout` is that of statements, in milliseconds."""

    role: str
    login: str
    path: str
    tenant: str
    left: str
    timeout: int

    @property
    def names(self) -> list[str]:
        """The names on the path."""
        return [name.strip().strip('"') for name in self.path.split(",") if name.strip()]


class Seen:
    """An open session, seen from below."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self.bench = bench
        self.session = session

    @property
    def engine(self) -> Engine:
        """The session's engine, which pins this tenant."""
        return cast("Engine", self.session.get_bind())

    @property
    def driver(self) -> Any:
        """The driver's connection, taken past the note that somebody has it. Begins where nothing is begun."""
        return state_of(self.session.connection()).driver

    def standing(self, driver: Any = None) -> Standing:
        """Ask the server; of the session's transaction, which is begun, or of a connection that it had."""
        return Standing(*self.bench.ask(driver or self.driver, _STANDING))

    def in_transaction(self, driver: Any) -> bool:
        """Return whether the driver knows itself inside a transaction."""
        return cast("Pinning", self.engine.dialect).in_transaction(driver)

    def leave(self, send: Callable[[str], Any]) -> None:
        """Leave something on the connection, inside the transaction, but for the session's life."""
        send(f"SELECT pg_catalog.set_config('{LEFT}', 'yes', false)")

    @contextmanager
    def sent(self, driver: Any) -> Iterator[list[bytes]]:
        """Note the messages that begin and end this session's transactions, as they are given to the driver."""
        messages: list[bytes] = []
        dialect: Any = self.engine.dialect
        send = dialect._send

        def note(state: Any, message: bytes) -> None:
            if state.driver is driver:  # the dialect serves the whole pool
                messages.append(message)
            send(state, message)

        dialect._send = note
        try:
            yield messages
        finally:
            del dialect._send


class Bench:
    """One tenant's sessions on one kind of engine. Everything is read only, and reads no table.

    Attributes:
        tenant: As the catalog says.
        shared: The installation's shared schemas.
        is_async: Whether it is the asyncio engine that is looked at; the caller is inside the greenlet bridge then.
    """

    def __init__(self, manager: TenantManager, tenant: Tenant, shared: tuple[str, ...], *, is_async: bool) -> None:
        self.manager = manager
        self.tenant = tenant
        self.shared = shared
        self.is_async = is_async

    @cached_property
    def own_login(self) -> bool:
        """Whether the login is this tenant's alone: what stands on its connections at rest is its own."""
        return self.tenant.placement.tier is Tier.LOGIN

    @property
    def engine(self) -> Engine:
        """The engine of the tenant's sessions, without a tenant."""
        engines, placement = self.manager._door.engines, self.resolution.placement
        return engines.asyncio_of(placement).sync_engine if self.is_async else engines.of(placement)

    @cached_property
    def resolution(self) -> Resolution:
        """Where the tenant lives, as this process has it."""
        name, door = parse_name(self.tenant.tenant_id), self.manager._door
        return (await_only(door.aresolve(name)) if self.is_async else door.resolve(name)).resolution

    @cached_property
    def patience_s(self) -> float:
        """How long a statement may run here."""
        return min(PATIENCE_S, self.resolution.limits.statement_timeout_s or PATIENCE_S)

    @cached_property
    def stranger(self) -> Pin:
        """The pin of a tenant that there is not."""
        role = f"{InstallationRoles(self.manager.settings.installation).installation}_nobody_0"
        placement = self.resolution.placement.model_copy(update={"role_name": role, "schema_name": role})
        nobody = {"tenant_id": NOBODY, "generation": 0, "placement": placement}
        return make_pin(self.resolution.model_copy(update=nobody), asked_as=NOBODY, options=PinOptions())

    @contextmanager
    def session(self, **options: Any) -> Iterator[Seen]:
        """Open a session, read only; it is rolled back at the end."""
        options = {"read_only": True, "commit": False, "statement_timeout_s": self.patience_s, **options}
        door = self.manager.get_session(self.tenant.tenant_id, **options)
        if not self.is_async:
            with door as blocking:
                yield Seen(self, blocking)
            return
        opened = await_only(door.__aenter__())
        try:
            yield Seen(self, opened.sync_session)
        finally:
            await_only(door.__aexit__(None, None, None))

    def ask(self, driver: Any, statement: str) -> tuple[Any, ...]:
        """Execute on the driver's connection; return the first row."""
        if hasattr(driver, "fetchrow"):
            return tuple(await_only(driver.fetchrow(statement)))
        if self.is_async:
            cursor = await_only(driver.execute(statement, prepare=False))
            return tuple(await_only(cursor.fetchone()))
        return tuple(driver.execute(statement, prepare=False).fetchone())

    def send(self, driver: Any, statement: str) -> None:
        """Execute on the driver's connection."""
        sent = driver.execute(statement)
        if self.is_async:
            await_only(sent)

    def cut(self, driver: Any) -> None:
        """Close the client's end, as a lost connection is closed."""
        if hasattr(driver, "terminate"):
            driver.terminate()
        elif self.is_async:
            await_only(driver.close())
        else:
            driver.close()


def refused(act: Callable[[], Any]) -> bool:
    """Return whether this library refuses `act` by itself. An error of the server's says that it was asked."""
    try:
        act()
    except TenancyError:
        return True
    except ANSWERS:
        return False
    return False
