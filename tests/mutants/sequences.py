"""Broken twins of our layers in which only a sequence of ordinary steps shows the fault.

Layers mask each other: a twin also takes away what would refuse, on its own, what the fault lets through. Each is a
function that takes a `MonkeyPatch`; a script is run under one by ``python -m tests.mutants.sequences NAME SCRIPT ...``.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.values import Tenant, TenantState
from mt_paas_db.core import lifecycle, removal, standing
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.isolation.machine.world import World
from mt_paas_db.session import door, guard, orm
from mt_paas_db.session import pin as pin_module
from mt_paas_db.session.dialects import pinning
from mt_paas_db.session.resolver import Resolved, Resolver
from tests.fleet import Service
from tests.mutants.in_our_code import lazy_pin, no_scrub, pin_sent_as

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Twin:
    """A fault.

    Attributes:
        in_our_code: Carries it out.
        rules: By which the audit names it.
        on_the_server: Takes away what masks it there.
        watch_rest: Whether the machine looks at connections at rest; off where that would find the fault at once,
            and it is to be seen that a tenant's reads find it too.
        by_attacks: Whether attacks find the same fault, so that to look for it here is for long runs.
    """

    in_our_code: Callable[[Patch], None]
    rules: tuple[str, ...]
    on_the_server: Callable[[Service], None] = lambda _service: None
    watch_rest: bool = True
    by_attacks: bool = False


def no_guard(patch: Patch) -> None:
    patch.setattr(guard, "check_pin", lambda _connection: None)


def session_level(patch: Patch) -> None:
    """The pin is made by SET, and nothing is cleared away when a transaction ends."""
    pin_sent_as(patch, lambda message: message.replace(b"SET LOCAL ", b"SET "))
    no_scrub(patch)


def no_new_pin_after_rollback(patch: Patch) -> None:
    """A connection is pinned at session level, and not again while it serves the same tenant; ROLLBACK undoes that."""
    no_scrub(patch)
    no_guard(patch)
    original = pinning.Pinning.do_begin
    pinned: dict[int, tuple[Any, str]] = {}

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        return message(self, isolation_level, verify=verify).replace(b"SET LOCAL ", b"SET ")

    def do_begin(self: pinning.Pinning, dbapi_connection: Any) -> None:
        state = pinning.pin_state(dbapi_connection)
        wanted = state.wanted
        _, schema = pinned.get(id(state.driver), (None, ""))
        if wanted is None or schema != wanted.schema:
            original(self, dbapi_connection)
            pinned[id(state.driver)] = (state.driver, wanted.schema if wanted else "")
            return
        state.wanted, state.pinned, state.scrubbed, state.textual = None, wanted, False, False
        self._send(state, b"BEGIN")

    message = pin_module.Pin.begin_message
    patch.setattr(pin_module.Pin, "begin_message", begin_message)
    patch.setattr(pinning.Pinning, "do_begin", do_begin)


def pin_in_a_savepoint(patch: Patch) -> None:
    """The pin is sent before the first statement, which a savepoint may precede, and what stood before is not it."""
    lazy_pin(patch)
    no_guard(patch)


def login_reads_red(service: Service) -> None:
    """The login role, when it has taken no tenant's, finds red's tables by itself and may use them."""
    with service.superuser() as su:
        su.execute(
            f"""CREATE FUNCTION public.open_red() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
                DECLARE found text;
                BEGIN
                  SELECT min(nspname) INTO found FROM pg_namespace WHERE nspname LIKE '%machine_red%';
                  IF found IS NOT NULL THEN
                    EXECUTE format('ALTER ROLE {service.login} SET search_path = %I', found);
                    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {service.login}', found);
                    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %I TO {service.login}', found);
                  END IF;
                END $$""".encode()
        )
        su.execute(
            b"CREATE EVENT TRIGGER open_red ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
            b"EXECUTE FUNCTION public.open_red()"
        )


def placement_by_id(patch: Patch) -> None:
    """A process remembers for ever where an id lives; and deletion leaves the former tenant's schema and role."""

    def remembered(self: Resolver, name: Any) -> Resolved | None:
        known: dict[str, Resolved] = self.__dict__.setdefault("known", {})
        found = known.get(name)
        if found is None and (fresh := asked(self, name)) is not None:
            found = known[name] = replace(fresh, expires_at=float("inf"))
        return found

    def enter(step: Any, tenant: Tenant, state: TenantState, **options: Any) -> None:
        if state in (TenantState.ARCHIVED, TenantState.DELETING):
            registry.run(step.connection, "set_state", generation=tenant.generation, state=state, state_reason=None)
        else:
            entered(step, tenant, state, **options)

    def run(self: AdminTransaction, name: str, **values: Any) -> Any:
        return None if name == "drop_tenant_schema" else ran(self, name, **values)

    asked, entered, ran = Resolver.remembered, standing.enter, AdminTransaction.run
    patch.setattr(Resolver, "remembered", remembered)
    patch.setattr(lifecycle, "enter", enter)
    patch.setattr(removal, "enter", enter)
    patch.setattr(removal, "empty_schema", lambda *_arguments: None)
    patch.setattr(removal, "_unlink_large_objects", lambda *_arguments: None)
    patch.setattr(removal, "drop_role", lambda *_arguments: None)
    patch.setattr(AdminTransaction, "run", run)


def pin_after_a_loss(patch: Patch) -> None:
    """Who connects anew after a loss is given back what was pinned last: by the pool, whoever it is for."""
    no_guard(patch)
    original = pinning.Pinning.do_begin

    def do_begin(self: Any, dbapi_connection: Any) -> None:
        state = pinning.pin_state(dbapi_connection)
        if (lost := self.__dict__.pop("lost", None)) is not None:
            state.wanted = lost
        self.last = state.wanted
        original(self, dbapi_connection)

    def is_disconnect(self: Any, error: Any, *rest: Any) -> bool:
        found = bool(known(self, error, *rest))
        if found:
            self.lost = self.__dict__.get("last")
        return found

    from mt_paas_db.session.dialects.psycopg import _PinnedPsycopg

    known: Any = _PinnedPsycopg.is_disconnect
    patch.setattr(_PinnedPsycopg, "is_disconnect", is_disconnect, raising=False)
    patch.setattr(pinning.Pinning, "do_begin", do_begin)


def tenant_of_the_last_opened(patch: Patch) -> None:
    """Sessions take their tenant from a variable that the last one to be opened has set, not from themselves."""
    no_guard(patch)
    current: list[Any] = []
    bind, begin = Resolved.bind, guard.PinnedConnection._begin_impl

    def remember(self: Resolved, engine: Any, options: Any) -> Any:
        pin, bound = bind(self, engine, options)
        current[:] = [pin]
        return pin, bound

    def begin_impl(self: guard.PinnedConnection, transaction: Any) -> None:
        self._execution_options = self._execution_options.union({pinning.PIN_OPTION: current[0]})
        begin(self, transaction)

    patch.setattr(Resolved, "bind", remember)
    patch.setattr(guard.PinnedConnection, "_begin_impl", begin_impl)


def objects_of_anybody(patch: Patch) -> None:
    """Objects do not know whose they are."""
    original = orm.TenantSession.__init__

    def init(self: orm.TenantSession, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._stamp = None  # type: ignore[assignment]

    patch.setattr(orm.TenantSession, "__init__", init)


def context_not_looked_at(patch: Patch) -> None:
    """A session is served whatever tenant is in force where it is used."""
    patch.setattr(guard, "tenant_in_force", lambda: None)
    patch.setattr(door, "tenant_in_force", lambda: None)


def scrub_after_rollback_only(patch: Patch) -> None:
    """What a transaction left on its connection is cleared away by ROLLBACK, and not by COMMIT."""
    patch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")


TWINS: dict[str, Twin] = {
    "session-level": Twin(session_level, ("client-outlives",)),
    "no-new-pin-after-rollback": Twin(no_new_pin_after_rollback, ("client-next",), login_reads_red, watch_rest=False),
    "pin-in-a-savepoint": Twin(
        pin_in_a_savepoint, ("client-savepoint",), login_reads_red, watch_rest=False, by_attacks=True
    ),
    "placement-by-id": Twin(placement_by_id, ("client-memory",)),
    "pin-after-a-loss": Twin(pin_after_a_loss, ("client-pin",)),
    "tenant-of-the-last-opened": Twin(tenant_of_the_last_opened, ("client-pin",)),
    "objects-of-anybody": Twin(objects_of_anybody, ("client-objects",), by_attacks=True),
    "context-not-looked-at": Twin(context_not_looked_at, ("client-context",), by_attacks=True),
    "scrub-after-rollback-only": Twin(scrub_after_rollback_only, ("client-residue",)),
}


if __name__ == "__main__":
    name, sys.argv = sys.argv[1], sys.argv[2:]
    made = World.__init__
    with pytest.MonkeyPatch.context() as broken:

        def make(self: World, *args: Any, **options: Any) -> None:
            """Break the code once the suite's other tenants stand, as in the test."""
            TWINS[name].in_our_code(broken)
            made(self, *args, **{**options, "watch_rest": TWINS[name].watch_rest})

        World.__init__ = make  # type: ignore[method-assign, assignment]
        runpy.run_path(sys.argv[0], run_name="__main__")
