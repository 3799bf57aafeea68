"""How an attack reaches the server: as a tenant's own code would, on one driver and route.

An attack is one blocking function. On asyncio drivers it runs inside SQLAlchemy's greenlet bridge, where the same
`Session` and the same calls reach the driver's coroutines.

What is tried stands in `Channel.trying` blocks. Each must prove that it reached what it attacks, or it counts as
astray: see `Trial`.
"""

# ruff: noqa: S608  # names and values in composed SQL pass quoted() and sql.Literal

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only, greenlet_spawn

from mt_paas_db.catalog.identifiers import InstallationRoles
from mt_paas_db.catalog.identifiers import Tier as TierOfTrust
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.isolation.attack import Attack, Tier
from mt_paas_db.isolation.client import ANSWERS, Client
from mt_paas_db.isolation.ground import Ground, Party, quoted
from mt_paas_db.isolation.observer import Observer
from mt_paas_db.isolation.route import NoRouteError, Route, manager_on
from mt_paas_db.session.door import TenantSessionContext

Refusal = str | type[BaseException]
"""An SQLSTATE, or a class of errors."""

_PATIENCE_S = 10.0
"""For one statement: who waits longer waits for another session of the attack's own."""

DENIED = "42501"
"""SQLSTATE of insufficient_privilege: the statement was understood, and refused."""


@dataclass
class Trial:
    """One thing that was tried. It counts only if it is proven to have reached what it attacks:

    - it ended without an error and brought the viewer's own canary; or
    - the same on the attacker's own tenant brought the attacker's own canary; or
    - it was refused in one of the ways of `refusals`; or
    - the attack said so, by `reach`.

    Attributes:
        viewer: Whose eyes the attack looks through: the attacker's, mostly.
    """

    name: str
    viewer: Party
    refusals: tuple[Refusal, ...]
    error: BaseException | None = None
    saw_own: bool = False
    proof: str = ""

    def reach(self, proof: str) -> None:
        """Say how it is known that the attacked place was reached."""
        self.proof = proof

    @property
    def proven(self) -> bool:
        """Whether this run alone shows that the attacked place was reached."""
        return bool(self.proof) or self.refused or (self.saw_own and self.error is None)

    @property
    def refused(self) -> bool:
        """Whether it ended in an error that is one of its refusals."""
        error = self.error
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            state = sqlstate_of(error) if isinstance(error, Exception) else None
            if any(state == kind if isinstance(kind, str) else isinstance(error, kind) for kind in self.refusals):
                return True
            error = getattr(error, "orig", None) or error.__cause__
        return False


@dataclass
class Trace:
    """What came of carrying an attack out once."""

    trials: list[Trial] = field(default_factory=list)
    crash: BaseException | None = None


class Channel:
    """An attacker's way to the server. Close it after use.

    Attributes:
        ground: The suite's tenants.
        route: Driver and way.
        tier: The tier of trust in force.
        me: The attacker.
        target: Who is attacked: the victim, or, to see whether the attack works at all, the attacker itself.
        observer: What was seen.
    """

    def __init__(self, ground: Ground, route: Route, *, pooler: str | None = None) -> None:
        self.ground = ground
        self.route = route
        self.tier: Tier = ground.tier
        self.me = ground.attacker
        self.target = ground.victim
        self.manager = manager_on(ground.manager, route, pooler=pooler)
        self._beside = manager_on(ground.manager, route, pooler=pooler)
        self.observer = Observer(ground.canaries)
        self._trace = Trace()
        self._shown: BaseException | None = None
        if route.pooled and self.tier == "login":
            self._check_pooler()
        self._loop = asyncio.Runner() if route.is_async else None

    def _login(self, party: Party) -> str | None:
        """Return what a tenant connects as; None for the first cell's login."""
        settings = self.manager.settings
        if party.login == InstallationRoles(settings.installation).login:
            return None
        for manager in (self.manager, self._beside):
            manager._door.engines.know(settings.home_cluster, party.login, TierOfTrust(self.tier))
        return party.login

    def _check_pooler(self) -> None:
        """Raise `NoRouteError` where the pooler does not let the tenants' own logins in."""
        try:
            self._connected(self._login(self.me)).close()
        except psycopg.OperationalError as error:
            raise NoRouteError(
                "PgBouncer refuses the logins of the suite's tenants, which it has to look up by auth_query: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error

    # -- for the attacks

    def read(self, of: Party | None = None) -> str:
        """Return a query of rows that bear canaries: of one tenant by qualified name, else of what the path says."""
        prefix = f"{quoted(of.schema)}." if of else ""
        return f"SELECT t::text FROM {prefix}{quoted(self.ground.probe)} t"

    @contextmanager
    def trying(self, name: str, *, refusals: tuple[Refusal, ...] = (), viewer: Party | None = None) -> Iterator[Trial]:
        """Carry out one thing; whatever error answers it is shown to the observer, and ends the block."""
        trial = Trial(name, viewer or self.me, refusals)
        self._trace.trials.append(trial)
        before = len(self.observer.own)
        try:
            yield trial
        except ANSWERS as error:
            self.show_error(trial.viewer, error)
            trial.error = error
        trial.saw_own = any(sighting.viewer == trial.viewer.label for sighting in self.observer.own[before:])

    def trial(self, *statements: str, refusals: tuple[Refusal, ...] = (), by: str = "run", **options: Any) -> list[Any]:
        """Try `statements` one after the other in a new session of the attacker; return the last one's rows.

        `by` is the method of `Client` that sends them.
        """
        rows: list[Any] = []
        with self.trying("; ".join(statements), refusals=refusals), self.client(**options) as client:
            send: Callable[[str], list[Any]] = getattr(client, by)
            for statement in statements:
                rows = send(statement)
        return rows

    @contextmanager
    def client(self, party: Party | None = None, *, beside: bool = False, **options: Any) -> Iterator[Client]:
        """Open a session of `party`, the attacker where left out; rolled back at the end unless ``commit=True``.

        `beside` takes a second pool, for who must be there at the same time.
        """
        party = party or self.me
        manager = self._beside if beside else self.manager
        options = {"commit": False, "statement_timeout_s": _PATIENCE_S, **options}
        with self._opened(manager.get_session(party.tenant_id, **options)) as session:
            client = Client(self, party, session)
            with client.listening():
                yield client

    @contextmanager
    def _opened(self, door: TenantSessionContext) -> Iterator[Session]:
        if not self.route.is_async:
            with door as session:
                yield session
            return
        opened = await_only(door.__aenter__())
        try:
            yield opened.sync_session
        except BaseException as error:
            await_only(door.__aexit__(type(error), error, error.__traceback__))
            raise
        else:
            await_only(door.__aexit__(None, None, None))

    @contextmanager
    def at_rest(self) -> Iterator[Callable[[str], list[Any]]]:
        """Take the pool's connection, and give a way to ask it as the next user without a tenant would.

        At tier `login` it is the pool of the attacker's own login: others have none of it.
        What is asked runs below SQLAlchemy and outside any transaction of ours.
        """
        with self.client():
            pass
        with self.at_rest_as_left() as ask:
            yield ask

    @contextmanager
    def at_rest_as_left(self, *, beside: bool = False) -> Iterator[Callable[[str], list[Any]]]:
        """The same, without a session in between: the connection is as its last user has left it."""
        engines = (self._beside if beside else self.manager)._door.engines
        entry = self.manager.settings.home_cluster
        own = self._login(self.me)
        engine: Any = (
            engines.asyncio(entry, login=own).sync_engine if self.route.is_async else engines.blocking(entry, login=own)
        )
        connection = engine.raw_connection()
        try:
            yield lambda statement: _asked(self, connection, statement)
        finally:
            connection.close()

    def wait(self, value: Any) -> Any:
        """Return `value`, or on an asyncio driver what the awaitable yields."""
        return await_only(value) if self.route.is_async else value

    def show(self, party: Party, where: str, thing: Any) -> None:
        """Show the observer what a tenant has received."""
        self.observer.show(party.label, where, thing)

    def show_error(self, party: Party, error: BaseException) -> None:
        """Show the observer an error that a tenant has received; once."""
        if error is not self._shown:
            self._shown = error
            self.observer.show_error(party.label, error)

    def learned(self, fact: str, of: Party | None = None) -> None:
        """Say what the attacker learned of the target where no canary can show it."""
        self.observer.learned(self.me.label, (of or self.target).label, fact)

    # -- for the suite

    def carry_out(self, attack: Attack, target: Party) -> Trace:
        """Carry out an attack on `target`; what was seen is in `observer` afterwards. Leaves no connection behind."""
        self.target, self._trace = target, Trace()
        self.observer = Observer(self.ground.canaries)
        try:
            with self.observer.reading_logs(self.me.label):
                if self._loop is None:
                    attack.carry_out(self)
                else:
                    self._loop.run(greenlet_spawn(attack.carry_out, self))
        except Exception as error:
            self._trace.crash = error
            self.show_error(self.me, error)
        finally:
            self.rest()
        return self._trace

    def rest(self) -> None:
        """Close this channel's connections, and clear what an attack left on those of a pooler."""
        for manager in (self.manager, self._beside):
            if self._loop is not None:
                self._loop.run(manager.aio.close())
            manager.close()
        if self.route.pooled:
            for own in {self._login(self.me), self._login(self.target)}:
                self._discard(own)

    def _discard(self, own: str | None) -> None:
        """Clear the pooler's connection; wait where it has found the tenant closed, and does not try again yet."""
        patience = time.monotonic() + 2 * _PATIENCE_S
        while True:
            try:
                with self._connected(own) as connection:
                    connection.autocommit = True
                    connection.prepare_threshold = None
                    connection.execute("DISCARD ALL")
                return
            except psycopg.Error as error:
                if "server_login_retry" not in str(error) or time.monotonic() > patience:
                    return
                time.sleep(0.1)

    def _connected(self, own: str | None) -> psycopg.Connection[Any]:
        url = self.manager._door.engines.credentials(self.manager.settings.home_cluster, own)
        return psycopg.connect(url.render_as_string(hide_password=False))

    def close(self) -> None:
        """Close connections and the event loop."""
        self.rest()
        if self._loop is not None:
            self._loop.close()


def _asked(channel: Channel, connection: Any, statement: str) -> list[Any]:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        rows = [tuple(row) for row in cursor.fetchall()] if cursor.description is not None else []
    finally:
        cursor.close()
    channel.show(channel.me, "rows at rest", rows)
    return rows
