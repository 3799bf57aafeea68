"""Installations to break: each with one combination of what is broken on its server, and none that anybody mends again.

What is broken in our code is so only while something is carried out, so that one ground serves many mutants.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from psycopg import sql

from mt_paas_db.isolation.attack import Attack, Tier, Weakness
from mt_paas_db.isolation.attacks.c_residue import PGBOUNCER
from mt_paas_db.isolation.attacks.trials import GUARDS
from mt_paas_db.isolation.audit import audit
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Finding
from tests.conftest import bouncer_for
from tests.fleet import Service
from tests.models import SHARED
from tests.mutants.in_our_code import IN_OUR_CODE
from tests.mutants.on_the_server import ON_THE_SERVER
from tests.servers import PgBouncer, PostgresServer

Break = Callable[[pytest.MonkeyPatch], None]
"""Breaks something in our code, for as long as the patch lasts."""


def server_part(weakness: Weakness) -> Weakness:
    """Return what of it is made on the server."""
    found = Weakness.NONE
    for one in weakness:
        if one in ON_THE_SERVER:
            found |= one
    return found


class WeakGround:
    """A suite on an installation of its own, with what `weakness` breaks on the server."""

    def __init__(
        self,
        server: PostgresServer,
        weakness: Weakness,
        stack: ExitStack,
        *,
        pooled: bool = False,
        guards: bool = False,
        prepare: Callable[[Service], None] = lambda _: None,
    ) -> None:
        self.service = Service(server)
        stack.callback(self._leave)
        stack.callback(self.service.close)  # first: the database goes as a whole, and the suite's tenants with it
        self.manager = self.service.manager(shared_schemas=(SHARED,), guards=guards)
        self.manager.init()
        prepare(self.service)
        self._pooler: str | None = None
        if pooled:
            bouncer = stack.enter_context(bouncer_for(self.service))
            self._pooler = bouncer.dsn(self.service.database, user="", password="")
        self.suite = Suite(self.manager, self.service.models, pooler=self._pooler).__enter__()
        for one in weakness:
            if one in ON_THE_SERVER:
                ON_THE_SERVER[one](self)
        self._rules: dict[tuple[Weakness, Break | None], frozenset[str]] = {}

    def _leave(self) -> None:
        with suppress(Exception):  # there is nothing left to clean up
            self.suite.__exit__(None, None, None)

    def _let_go(self) -> None:
        """Close what sessions run on: broken code may have left anything there."""
        channels, self.suite._channels = self.suite._channels, {}
        for channel in channels.values():
            channel.close()
        self.manager.close()

    def try_(self, attack: Attack, broken: Weakness = Weakness.NONE) -> Finding:
        """Carry an attack out here, with what `broken` breaks in our code."""
        with broken_code(broken):
            found = self.suite.try_(Case(attack, Route("psycopg", self._pooler is not None), "role"))
        self._let_go()
        return found

    def rules(self, broken: Weakness = Weakness.NONE, *, also: Break | None = None) -> frozenset[str]:
        """Return the rules by which the audit names what is wrong here, with what is broken in our code."""
        key = (broken & ~server_part(broken), also)
        if key not in self._rules:
            with broken_code(broken) as patch:
                if also is not None:
                    also(patch)
                report = audit(self.manager)
            self._rules[key] = frozenset(finding.id for finding in report.findings)
            self._let_go()
            # What could not be looked at is not silent. Broken code may keep the audit from looking any further.
            assert not report.blind or any(rule.startswith("client-") for rule in self._rules[key]), report.blind
        return self._rules[key]

    # -- for the weakenings

    def execute(self, *statements: str, **names: str) -> None:
        """Execute as the superuser; ``{name}`` is filled in as an identifier."""
        identifiers = {key: sql.Identifier(value) for key, value in names.items()}
        with self.service.superuser() as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement).format(**identifiers))

    def run(self, *statements: str) -> None:
        """Execute as the superuser."""
        with self.service.superuser() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def on_shared(self, *statements: str) -> None:
        """Execute as the superuser on each of the suite's shared tables, partitions included: ``{table}``."""
        probe = self.suite.ground.shared
        assert probe is not None
        for table in (*(each.name for each in probe.tables), probe.journal_part):
            self.run(*(statement.format(table=table) for statement in statements))

    @property
    def owner(self) -> str:
        """The role that owns all objects."""
        return f"{self.service.name}_owner"

    @property
    def parties(self) -> list[Any]:
        """The tenants that there are."""
        return [self.suite.ground.attacker, self.suite.ground.victim, self.suite.ground.heir]


@contextmanager
def broken_code(broken: Weakness) -> Iterator[pytest.MonkeyPatch]:
    """Break in our code what `broken` says, for the block."""
    with pytest.MonkeyPatch.context() as patch:
        for one in broken:
            if one in IN_OUR_CODE:
                IN_OUR_CODE[one](patch)
        yield patch


class WeakGrounds:
    """Weak grounds by what is broken on the server, made when they are first needed."""

    def __init__(self, server: PostgresServer, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._made: dict[tuple[Weakness, bool, bool], WeakGround] = {}

    def of(self, weakness: Weakness, attack: Attack | None = None) -> WeakGround:
        """Return the ground for `weakness`, as `attack` needs it."""
        needs = attack.needs if attack else ()
        pooled, guards = PGBOUNCER in needs, GUARDS in needs
        weakness = server_part(weakness)
        key = (weakness, pooled, guards)
        if key not in self._made:
            self._made[key] = WeakGround(self._server, weakness, self._stack, pooled=pooled, guards=guards)
        return self._made[key]


@contextmanager
def standing_suite(
    server: PostgresServer,
    pooler_for: Callable[[Service], PgBouncer] | None,
    *,
    guards: bool = False,
    tier: Tier = "role",
) -> Iterator[Suite]:
    """Yield a suite on an intact installation, with a PgBouncer where there is one."""
    service = Service(server)
    with ExitStack() as stack:
        stack.callback(service.close)
        secret = secrets.token_urlsafe(32)
        manager = service.manager(shared_schemas=(SHARED,), guards=guards, tier=tier, login_secret=secret)
        manager.init()
        dsn = None
        if pooler_for is not None:
            pooler = stack.enter_context(pooler_for(service))
            dsn = pooler.dsn(service.database, user="", password="")
        yield stack.enter_context(Suite(manager, service.models, pooler=dsn))
