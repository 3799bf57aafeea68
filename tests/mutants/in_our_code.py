"""The weakenings of `mt_paas_db.isolation.attack.Weakness` that are made in our code, for as long as a patch lasts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection

from mt_paas_db.catalog.identifiers import parse_name
from mt_paas_db.errors import TenantError
from mt_paas_db.isolation.attack import Weakness
from mt_paas_db.session import context as session_context
from mt_paas_db.session import door, guard, orm
from mt_paas_db.session import pin as pin_module
from mt_paas_db.session.dialects import pinning

Patch = pytest.MonkeyPatch


def pin_sent_as(patch: Patch, change: Callable[[bytes], bytes]) -> None:
    """Let the message that begins a transaction be another."""
    original = pin_module.Pin.begin_message

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        return change(original(self, isolation_level, verify=verify))

    patch.setattr(pin_module.Pin, "begin_message", begin_message)


def without(*parts: bytes) -> Callable[[bytes], bytes]:
    """Return what takes statements out of a message."""
    return lambda message: b";".join(s for s in message.split(b";") if not any(part in s for part in parts))


def no_scrub(patch: Patch) -> None:
    patch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")
    patch.setattr(pinning, "ROLLBACK", b"ROLLBACK")


def lazy_pin(patch: Patch) -> None:
    """Send BEGIN alone, and the pin before the first statement that is no savepoint."""
    waiting: dict[int, tuple[Any, bytes]] = {}
    original_begin, original_check = pin_module.Pin.begin_message, pinning.Pinning._check

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        begin, _, rest = original_begin(self, isolation_level, verify=verify).partition(b";")
        waiting[id(self)] = (self, rest)
        return begin

    def check(self: pinning.Pinning, statement: str, context: Any) -> None:
        original_check(self, statement, context)
        if context is None or "SAVEPOINT" in statement:
            return
        state = pinning.state_of(context.root_connection)
        _, rest = waiting.pop(id(state.pinned), (None, b""))
        if rest:
            self._send(state, rest)

    patch.setattr(pin_module.Pin, "begin_message", begin_message)
    patch.setattr(pinning.Pinning, "_check", check)


def switch_in_transaction(patch: Patch) -> None:
    pin_sent_as(patch, lambda message: b"RESET ROLE;" + message.partition(b";")[2])
    patch.setattr(pinning.Pinning, "do_begin", _begin_once(pinning.Pinning.do_begin))
    for name in ("COMMIT", "COMMIT_AND_SCRUB", "ROLLBACK"):
        patch.setattr(pinning, name, b"SELECT 1")


def _begin_once(do_begin: Any) -> Any:
    """Return a begin that begins a transaction only where there is none."""

    def begin(self: pinning.Pinning, dbapi_connection: Any) -> None:
        state = pinning.pin_state(dbapi_connection)
        if not self.in_transaction(state.driver):
            self._send(state, b"BEGIN")
        do_begin(self, dbapi_connection)

    return begin


def role_back_before_commit(patch: Patch) -> None:
    patch.setattr(pinning, "COMMIT", b"RESET ROLE;COMMIT")
    patch.setattr(pinning, "COMMIT_AND_SCRUB", b"RESET ROLE;COMMIT")


def two_phase_allowed(patch: Patch) -> None:
    def begin(self: pinning.Pinning, connection: Any, _xid: Any) -> None:
        self._send(pinning.pin_state(connection.connection), b"BEGIN")

    patch.setattr(pinning.Pinning, "do_begin_twophase", begin)


def names_folded(patch: Patch) -> None:
    def kind(name: Any) -> Any:
        plain = unicodedata.normalize("NFKC", str(name)).strip().lower()
        return parse_name("".join(letter for letter in plain if letter.isascii()))

    patch.setattr(door, "_known_name", kind)


def names_cut(patch: Patch) -> None:
    """Look up the first 62 bytes of a name, with whatever letter leads to somebody."""

    def cut(name: Any) -> Any:
        parsed = parse_name(name)
        return parse_name(f"{parsed[:62]}b") if len(parsed) >= 63 else parsed

    patch.setattr(door, "_known_name", cut)


def refusal_swallowed(patch: Patch) -> None:
    original = pinning.Pinning.do_begin

    def do_begin(self: pinning.Pinning, dbapi_connection: Any) -> None:
        try:
            original(self, dbapi_connection)
        except TenantError:
            self._send(pinning.pin_state(dbapi_connection), b"BEGIN")

    patch.setattr(pinning.Pinning, "do_begin", do_begin)


def session_kept(patch: Patch) -> None:
    """Give every tenant the first one's session, on the tenant's own engine."""
    kept: list[Any] = []

    def once(bind: Any, *, pin: pin_module.Pin, **options: Any) -> Any:
        if not kept:
            kept.append(orm.TenantSession(bind, pin=pin, **options))
            patch.setattr(kept[0], "close", kept[0].rollback)  # which keeps what was committed
        session = kept[0]
        session.bind = session._tenant_engine = bind
        session._pin, session._stamp = pin, (pin.tenant_id, pin.generation)
        return session

    patch.setattr(door, "TenantSession", once)


def no_stamp(patch: Patch) -> None:
    original = orm.TenantSession.__init__

    def without_stamp(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._stamp = None

    patch.setattr(orm.TenantSession, "__init__", without_stamp)


def no_context_check(patch: Patch) -> None:
    for module in (guard, door):
        patch.setattr(module, "tenant_in_force", lambda: None)


def context_kept(patch: Patch) -> None:
    @contextmanager
    def kept(tenant_id: str) -> Iterator[Any]:
        parsed = parse_name(tenant_id)
        session_context._current.set(parsed)  # type: ignore[arg-type]
        yield parsed

    patch.setattr(session_context, "tenant_context", kept)


def autocommit_allowed(patch: Patch) -> None:
    """Take the level as SQLAlchemy would: no BEGIN is sent, and the pin's message is a transaction of its own."""
    original = pin_module.Pin.begin_message

    def begin_message(self: pin_module.Pin, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        if isolation_level != "AUTOCOMMIT":
            return original(self, isolation_level, verify=verify)
        return original(self, verify=verify).partition(b";")[2]

    patch.setattr(pinning, "_check_level", lambda _level: None)
    patch.setattr(pin_module.Pin, "begin_message", begin_message)


def default_tenant(patch: Patch) -> None:
    """Where nobody is named, the last one who was is meant."""
    last: list[pin_module.Pin] = []
    original, asked = pinning.Pinning.do_begin, session_context.current_tenant

    def do_begin(self: pinning.Pinning, dbapi_connection: Any) -> None:
        state = pinning.pin_state(dbapi_connection)
        if state.wanted is not None:
            last[:] = [state.wanted]
        elif last:
            (state.wanted,) = last
        original(self, dbapi_connection)

    patch.setattr(pinning.Pinning, "do_begin", do_begin)
    patch.setattr(session_context, "current_tenant", lambda: last[0].tenant_id if last else asked())


IN_OUR_CODE: dict[Weakness, Callable[[Patch], None]] = {
    Weakness.SEARCH_PATH_ONLY: lambda patch: pin_sent_as(patch, without(b"SET LOCAL ROLE")),
    Weakness.NO_PATH: lambda patch: pin_sent_as(patch, without(b"search_path", b"has_schema_privilege")),
    Weakness.PATH_WITHOUT_TEMP_LAST: lambda patch: pin_sent_as(patch, lambda m: m.replace(b",pg_temp", b"")),
    Weakness.SESSION_LEVEL: lambda patch: pin_sent_as(patch, lambda m: m.replace(b"SET LOCAL ", b"SET ")),
    Weakness.NO_CLIENT_GUARD: lambda patch: patch.setattr(guard, "check_pin", lambda _connection: None),
    Weakness.NO_SCRUB: no_scrub,
    Weakness.RAW_UNNOTED: lambda patch: patch.setattr(guard.PinnedConnection, "connection", Connection.connection),
    Weakness.LAZY_PIN: lazy_pin,
    Weakness.SWITCH_IN_TRANSACTION: switch_in_transaction,
    Weakness.ROLE_BACK_BEFORE_COMMIT: role_back_before_commit,
    Weakness.TWO_PHASE_ALLOWED: two_phase_allowed,
    Weakness.NAMES_FOLDED: names_folded,
    Weakness.NAMES_CUT: names_cut,
    Weakness.ANY_ENGINE: lambda patch: patch.setattr(
        orm.TenantSession, "get_bind", lambda self, *_, bind=None, **__: bind or self.bind
    ),
    Weakness.REFUSAL_SWALLOWED: refusal_swallowed,
    Weakness.SESSION_KEPT: session_kept,
    Weakness.NO_STAMP: no_stamp,
    Weakness.NO_CONTEXT_CHECK: no_context_check,
    Weakness.CONTEXT_KEPT: context_kept,
    Weakness.AUTOCOMMIT_ALLOWED: autocommit_allowed,
    Weakness.DEFAULT_TENANT: default_tenant,
    Weakness.PUBLIC_ON_PATH: lambda patch: pin_sent_as(patch, lambda m: m.replace(b",pg_temp", b",public,pg_temp")),
}
