"""The client's guard: before each statement, the connection must carry this session's pin, in a transaction.

The server's roles are the wall; this is the railing in front of it. It turns what would end at a login
without rights (a textual COMMIT, a begin hook that raised, a session handed to another tenant's task)
into an error that says so, before anything is sent. Its cost is a few attribute look-ups per statement.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import PoolProxiedConnection

from mt_paas_db.errors import ContextLostError, NoTenantError, TenantMismatchError
from mt_paas_db.session.context import tenant_in_force
from mt_paas_db.session.dialects.pinning import Pinning, Refused, pin_state
from mt_paas_db.session.pin import Pin

PIN_OPTION = "mt_paas_pin"
"""The SQLAlchemy execution option that carries a tenant's `Pin` on a connection or engine."""


def install(engine: Engine, refused: Refused) -> None:
    """Make `engine` pin every transaction and guard every statement; `refused` explains a refused pin."""

    def want_pin(connection: Connection) -> None:
        state = pin_state(connection.connection)
        options = connection.get_execution_options()
        state.wanted = options.get(PIN_OPTION)
        state.level = cast("str | None", options.get("isolation_level"))
        state.refused = refused

    def suspect(_connection: Any, _record: Any, proxy: PoolProxiedConnection) -> None:
        # Whoever takes the connection may use it without a transaction of ours; the check-in scrubs it then.
        pin_state(proxy).scrubbed = False

    event.listen(engine, "checkout", suspect)
    event.listen(engine, "begin", want_pin)
    event.listen(engine, "before_cursor_execute", check_pin)


def check_pin(connection: Connection, *_: Any) -> None:
    """Raise unless `connection` is inside a transaction pinned to its own tenant, which is the one in force.

    Raises:
        NoTenantError: The connection was taken from the engine without a tenant.
        ContextLostError: The pinned transaction is over, or was never begun.
        TenantMismatchError: Another tenant's pin, or another tenant in force in this task.
    """
    pin: Pin | None = connection.get_execution_options().get(PIN_OPTION)
    if pin is None:
        raise NoTenantError("a statement on an engine of tenants")
    pinned = pin_state(connection.connection).pinned
    if pinned is None:
        raise ContextLostError(pin.tenant_id, "no pinned transaction was begun on this connection")
    if pinned is not pin:
        raise TenantMismatchError("this connection", expected=pin.tenant_id, found=pinned.tenant_id)
    if not cast("Pinning", connection.dialect).in_transaction(connection.connection):
        raise ContextLostError(pin.tenant_id, "the transaction was ended by SQL text")
    in_force = tenant_in_force()
    if in_force is not None and in_force not in (pin.tenant_id, pin.asked_as):
        raise TenantMismatchError("this session", expected=in_force, found=pin.tenant_id)
