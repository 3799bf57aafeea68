"""The client's guard: before each statement, the connection must carry this session's pin, in a transaction.

The server's roles are the wall; this is the railing in front of it. It turns what would end at a login
without rights (a textual COMMIT, a begin hook that raised, a session handed to another tenant's task)
into an error that says so, before anything is sent.

SQLAlchemy's events could carry both the pin and the guard, but each Connection of an engine with listeners
joins all its dispatchers anew: about 40 us a transaction, measured, a third of what tenancy may cost. So the
wanted pin is left by a `Connection` subclass, and the guard is called by the dialect, at the same point as
``before_cursor_execute`` would be. Should a release of SQLAlchemy no longer call `_begin_impl`, no pin is
wanted, and the dialect refuses to begin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.errors import ContextLostError, NoTenantError, ServerUnavailableError, TenantMismatchError
from mt_paas_db.session.context import tenant_in_force
from mt_paas_db.session.dialects.pinning import PIN_OPTION, Pinning, Refused, pin_state, state_of
from mt_paas_db.telemetry.probe import Telemetry

if TYPE_CHECKING:
    from mt_paas_db.session.pin import Pin

EngineT = TypeVar("EngineT", Engine, AsyncEngine)


class PinnedConnection(Connection):
    """A Connection that tells its dialect, at each begin, which pin to send, and notes who takes what is below it.

    SQLAlchemy itself reads `connection` once to begin and once to end a transaction. Whoever else does can send
    what the dialect does not see, so that everything that SQL leaves behind must be expected.
    """

    _unnoted = False  # whether the next to read `connection` is SQLAlchemy

    def __init__(self, engine: Engine, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(engine, *arguments, **options)
        except ServerUnavailableError as error:
            _explain(engine, error)
            raise

    @property
    def connection(self) -> PoolProxiedConnection:
        """The pool's proxy of the DBAPI connection, noted as handed out until it is checked in."""
        taken = super().connection
        if self._unnoted:
            self._unnoted = False  # an event's listener that came first had this turn: SQLAlchemy's is noted instead
        else:
            pin_state(taken).handed_out = True
        return taken

    def _begin_impl(self, transaction: Any) -> None:
        state = state_of(self)
        options = self._execution_options
        state.wanted = options.get(PIN_OPTION)
        state.level = options.get("isolation_level")
        try:
            self._unseen(super()._begin_impl, transaction)
        except (DBAPIError, ServerUnavailableError) as error:
            _explain(self.engine, error)
            raise

    def _commit_impl(self) -> None:
        self._unseen(super()._commit_impl)

    def _rollback_impl(self) -> None:
        self._unseen(super()._rollback_impl)

    def _unseen(self, act: Callable[..., None], *arguments: Any) -> None:
        self._unnoted = True
        try:
            act(*arguments)
        finally:
            self._unnoted = False


def _explain(engine: Engine, error: Exception) -> None:
    """Raise what the catalog says of a tenant whose own login cannot connect, now or any more, if it is closed.

    Servers and poolers say that in many ways, some of them only at the first statement.
    """
    pin: Pin | None = engine.get_execution_options().get(PIN_OPTION)
    refused = cast("Pinning", engine.dialect).refused
    if pin is None or pin.tier is not Tier.LOGIN or refused is None:
        return
    told = refused(pin, None)
    if told is not None:
        raise told from error


def install(
    engine: Engine,
    refused: Refused,
    *,
    pooled: bool = False,
    max_tenants: int | None = None,
    telemetry: Telemetry | None = None,
    comment: Callable[[Pin], str] | None = None,
) -> None:
    """Guard `engine` and all engines bound from it; `refused` explains a pin that the server refused.

    `pooled` says that a pooler in transaction mode stands before the server, `max_tenants` how many tenants a
    connection serves before it is closed. `telemetry` is told how long pins take; `comment` says what goes behind each
    statement.
    """
    dialect = cast("Pinning", engine.dialect)
    dialect.refused = refused
    dialect.guard = check_pin
    dialect.pooled = pooled
    dialect.max_tenants = max_tenants
    dialect.telemetry = telemetry
    dialect.comment = comment
    engine._connection_cls = PinnedConnection

    def suspect(_connection: Any, _record: Any, proxy: PoolProxiedConnection) -> None:
        # Whoever takes the connection may use it without a transaction of ours; the check-in scrubs it then.
        state = pin_state(proxy)
        state.scrubbed = state.handed_out = False
        dialect.take_over(state)

    event.listen(engine, "checkout", suspect)


def bind(engine: EngineT, pin: Pin) -> EngineT:
    """Return `engine` with `pin`: an engine on the same pool whose every transaction is this tenant's."""
    bound = engine.execution_options(**{PIN_OPTION: pin})
    blocking = bound.sync_engine if isinstance(bound, AsyncEngine) else bound
    blocking._connection_cls = PinnedConnection
    return bound


def check_pin(connection: Connection) -> None:
    """Raise unless `connection` is inside a transaction pinned to its own tenant, which is the one in force.

    Raises:
        NoTenantError: The connection was taken from the engine without a tenant.
        ContextLostError: The pinned transaction is over, or was never begun.
        TenantMismatchError: Another tenant's pin, or another tenant in force in this task.
    """
    pin: Pin | None = connection._execution_options.get(PIN_OPTION)
    if pin is None:
        raise NoTenantError("a statement on an engine of tenants")
    state = state_of(connection)
    pinned = state.pinned
    if pinned is None:
        raise ContextLostError(pin.tenant_id, "no pinned transaction was begun on this connection")
    if pinned is not pin:
        raise TenantMismatchError("this connection", expected=pin.tenant_id, found=pinned.tenant_id)
    dialect = cast("Pinning", connection.dialect)
    if not dialect.in_transaction(state.driver):
        if dialect.gone(state.driver):
            return  # the driver refuses the statement, and SQLAlchemy learns from its error to let go of the connection
        raise ContextLostError(pin.tenant_id, "the transaction was ended by SQL text")
    in_force = tenant_in_force()
    if in_force is not None and in_force not in (pin.tenant_id, pin.asked_as):
        raise TenantMismatchError("this session", expected=in_force, found=pin.tenant_id)
