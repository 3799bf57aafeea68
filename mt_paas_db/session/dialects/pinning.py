"""What the pinned dialects share: when a message is sent, and what the connection then carries.

The driver is in its autocommit mode, in which it sends no BEGIN of its own; the dialect's
begin, commit and rollback send ours. They run inside SQLAlchemy's own begin, commit and rollback, so that
its error handling (disconnects, cancelled tasks, invalidation) applies to them as to any statement.

SQLAlchemy gives the dialect no Connection at begin. `guard.PinnedConnection` leaves the wanted pin in the
pool's record of the DBAPI connection just before, and the dialect takes it from there. Without it nothing
begins.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import PoolProxiedConnection

from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.errors import AutocommitError, ConfigurationError, ContextLostError, NoTenantError, TenantError
from mt_paas_db.session.pin import COMMIT, COMMIT_AND_SCRUB, LEVELS, ROLLBACK, Pin, restoring
from mt_paas_db.session.pool import wear_out
from mt_paas_db.telemetry.probe import Telemetry
from mt_paas_db.telemetry.sqlcomment import commented

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql.base import PGDialect

    _Base = PGDialect
else:
    _Base = object

# SQLSTATEs with which a server refuses a pin: the membership was revoked (suspended), the role or the
# schema is gone (deleted, or created anew), the role may not use the schema.
REFUSALS = frozenset({"42501", "22023", "3F000", "22012"})

Refused = Callable[[Pin, str | None], TenantError | None]
"""Called when the server refuses a pin, with it and the SQLSTATE: returns the error that says why, None for nothing
that the catalog knows of. Without an SQLSTATE it was the connection of a tenant's own login that was refused."""

PIN_OPTION = "mt_paas_pin"
"""The SQLAlchemy execution option that carries a tenant's `Pin` on a connection or engine."""

UNDEFINED_TABLE = "42P01"

# Possessive, so that no text takes longer to read than it is long.
_GAP = r"(?:\s|--[^\n]*+(?:\n|$)|/\*(?:[^*]|\*(?!/))*+\*/)"
# As PostgreSQL's grammar has them, alone; with AND CHAIN the server connection stays.
_ENDING = re.compile(
    rf"{_GAP}*+(?:(?P<keeps>COMMIT|END)|ROLLBACK|ABORT)(?:{_GAP}++(?:WORK|TRANSACTION))?"
    rf"(?:{_GAP}++AND{_GAP}++NO{_GAP}++CHAIN)?{_GAP}*+;?{_GAP}*+",
    re.IGNORECASE,
)

_INFO_KEY = "mt_paas_db"


@dataclass(slots=True)
class PinState:
    """What one DBAPI connection carries, as far as the client knows.

    Attributes:
        adapter: The DBAPI connection.
        driver: The driver's own connection; the same on blocking drivers.
        wanted: The pin that the coming begin shall send; taken by it.
        level: The isolation level of that begin, where it differs from the pin's.
        pinned: The pin of the open transaction; None between transactions.
        textual: Whether the open transaction ran SQL text, DDL or set_config, which can change what outlives
            it. Compiled SELECT, INSERT, UPDATE and DELETE cannot; leaving the scrub out for them saves 4 %.
        scrubbed: Whether our own COMMIT or ROLLBACK was the last thing sent since the check-out.
        handed_out: Whether somebody got the DBAPI connection since the check-out. What he sends there is not
            seen, now or until the check-in, so that each end of a transaction scrubs, and the check-in too.
        restored: What goes behind a scrub: a pooler's client gets back what RESET ALL took from it.
        verified: Pins whose schema this connection has seen. They are made anew with each look-up of the
            tenant, so that a schema is verified at least as often as the tenant is looked up.
        tenants: Generations of the tenants that this connection has served: the server's end keeps what it has
            read of each one's tables.
    """

    adapter: Any
    driver: Any
    wanted: Pin | None = None
    level: str | None = None
    pinned: Pin | None = None
    textual: bool = False
    scrubbed: bool = False
    handed_out: bool = False
    restored: bytes | None = None
    verified: WeakSet[Pin] = field(default_factory=WeakSet)
    tenants: set[int] = field(default_factory=set)


def pin_state(connection: PoolProxiedConnection) -> PinState:
    """Return the state of a pooled connection; a fresh one where the pool keeps none (its first probe)."""
    try:
        info = connection.info
    except (NotImplementedError, AttributeError):
        info = {}
    state: PinState | None = info.get(_INFO_KEY)  # the pool empties it when it connects anew
    if state is None:
        state = info[_INFO_KEY] = PinState(connection.dbapi_connection, connection.driver_connection)
    return state


def state_in(record: Any) -> PinState | None:
    """Return the state of the connection in a pool's record, None where it has none yet."""
    state: PinState | None = record.info.get(_INFO_KEY) if record.dbapi_connection is not None else None
    return state


# As SQLAlchemy's own class answers it; ours notes who asks.
_checked_out: Callable[[Connection], PoolProxiedConnection] = vars(Connection)["connection"].fget


def state_of(connection: Connection) -> PinState:
    """Return the state of what `connection` has checked out. It counts as handed out to nobody."""
    return pin_state(_checked_out(connection))


class Pinning(_Base):
    """Mixin for a dialect class; the methods at the end are the driver's part.

    Attributes:
        refused: Whom to ask when the server refuses a pin.
        pooled: Whether a pooler stands before the server.
        max_tenants: How many tenants a connection serves before it is closed; None for any number.
        guard: Called before each statement with its Connection; raises to keep it from being sent.
        telemetry: Whom to tell how long a pin took, where somebody listens.
        comment: Returns what goes behind each statement of a pin's transaction; None where nothing does.
        doubled: Whether the driver reads ``%`` in a statement as a placeholder where there are parameters.
    """

    refused: Refused | None = None
    pooled: bool = False
    max_tenants: int | None = None
    guard: Callable[[Connection], None] | None = None
    telemetry: Telemetry | None = None
    comment: Callable[[Pin], str] | None = None
    doubled: bool = False
    _probe: Connection | None = None

    def initialize(self, connection: Connection) -> None:
        """SQLAlchemy's questions to a new server: asked outside a transaction, as the login without rights."""
        self._probe = connection
        try:
            with self._closed_on_failure(connection.connection.dbapi_connection):
                try:
                    super().initialize(connection)  # type: ignore[no-untyped-call]
                except BaseException:
                    if not connection.closed:
                        connection.invalidate()  # or SQLAlchemy rolls back on what is closed by then
                    raise
        finally:
            self._probe = None

    @contextmanager
    def _closed_on_failure(self, dbapi_connection: Any) -> Iterator[None]:
        """Close a new connection whose set-up failed or was cancelled: SQLAlchemy 2.0 would strand it."""
        try:
            yield
        except BaseException:
            self.do_terminate(dbapi_connection)  # type: ignore[no-untyped-call]
            raise

    def _check(self, statement: str, context: Any) -> None:
        if context is None or context.root_connection is self._probe:
            return
        connection = context.root_connection
        if self.guard is not None:
            self.guard(connection)
        if context.compiled is None or context.isddl or context.is_text or "set_config" in statement:
            state_of(connection).textual = True

    def _ends(self, statement: str, context: Any) -> bool:
        """Send a COMMIT or ROLLBACK that came as SQL text, with the scrub that ours has; False where it is no such.

        A scrub that comes later may meet another server connection: a pooler gives this one on at once. One that is
        stacked behind other statements is not noticed. Raises `ContextLostError`, before it is sent, where its answer
        shall come by a server-side cursor.
        """
        if context is None or not (context.compiled is None or context.is_text):
            return False
        ending = _ENDING.fullmatch(statement)
        if ending is None or context.root_connection is self._probe:
            return False
        state = state_of(context.root_connection)
        if context._is_server_side and state.pinned is not None:
            raise ContextLostError(state.pinned.tenant_id, "SQL text would end the transaction of a server-side cursor")
        self._send(state, self._scrubbing(state, COMMIT_AND_SCRUB if ending["keeps"] else ROLLBACK))
        return True

    def _commented(self, statement: str, context: Any, *, doubled: bool) -> str:
        """Return `statement` with the comment that names its tenant; what is not of a tenant's has none."""
        if context is None or context.root_connection is self._probe:
            return statement
        pinned = state_of(context.root_connection).pinned
        comment = self.comment(pinned) if self.comment is not None and pinned is not None else ""
        return commented(statement, comment.replace("%", "%%") if doubled else comment)

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._check(statement, context)
        if self._ends(statement, context):
            return
        if self.comment is not None:
            statement = self._commented(statement, context, doubled=self.doubled)
        try:
            super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]
        except self.loaded_dbapi.Error as error:
            self._doubt(context, error)
            raise

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._check(statement, context)
        if self.comment is not None:
            statement = self._commented(statement, context, doubled=self.doubled)
        super().do_executemany(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        self._check(statement, context)
        if self._ends(statement, context):
            return
        if self.comment is not None:
            statement = self._commented(statement, context, doubled=False)
        try:
            super().do_execute_no_params(cursor, statement, context)  # type: ignore[no-untyped-call]
        except self.loaded_dbapi.Error as error:
            self._doubt(context, error)
            raise

    def _doubt(self, context: Any, error: BaseException) -> None:
        """After "table does not exist", let the next transaction ask whether the schema does."""
        if context is not None and sqlstate_of(error) == UNDEFINED_TABLE:
            state_of(context.root_connection).verified.clear()

    def do_begin(self, dbapi_connection: PoolProxiedConnection) -> None:
        state = pin_state(dbapi_connection)
        pin, state.wanted = state.wanted, None
        state.pinned, state.scrubbed, state.textual = None, False, False
        if pin is None:
            raise NoTenantError("a transaction on an engine of tenants")
        self._enter(state, pin)
        unseen = pin not in state.verified
        probe = self.telemetry.probe if self.telemetry is not None else None
        started = time.perf_counter() if probe is not None else 0.0
        try:
            self._send(state, pin.begin_message(state.level, verify=unseen))
        except self.loaded_dbapi.Error as error:
            sqlstate = sqlstate_of(error)
            if sqlstate is None or sqlstate not in REFUSALS or self.refused is None:
                raise
            # Nothing but the pin has run. Leave its transaction, and ask the catalog why.
            self._send(state, self._scrubbing(state, ROLLBACK))
            state.scrubbed = True
            told = self.refused(pin, sqlstate)
            raise told or error from error
        state.pinned = pin
        if probe is not None:
            flavour = "asyncio" if self.is_async else "blocking"
            probe.pinned(pin.cell, flavour, time.perf_counter() - started, pin.tenant_id)
        if unseen:
            state.verified.add(pin)
            state.tenants.add(pin.generation)
            if self.max_tenants is not None and len(state.tenants) > self.max_tenants:
                wear_out(dbapi_connection)

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        state = pin_state(dbapi_connection)
        self._end(state, self._scrubbing(state, COMMIT_AND_SCRUB) if state.textual or state.handed_out else COMMIT)

    def do_rollback(self, dbapi_connection: PoolProxiedConnection) -> None:
        state = pin_state(dbapi_connection)
        self._end(state, self._scrubbing(state, ROLLBACK))

    def _end(self, state: PinState, message: bytes) -> None:
        if state.scrubbed and not state.handed_out and not self.in_transaction(state.driver):
            return  # the pool's reset after our own commit
        state.pinned = None
        self._send(state, message)
        state.scrubbed = True

    def set_engine_execution_options(self, engine: Engine, opts: Mapping[str, Any]) -> None:
        """Refuse a level at once: refused at a check-out, SQLAlchemy would never give the connection back."""
        if "isolation_level" in opts:
            _check_level(opts["isolation_level"])
        super().set_engine_execution_options(engine, opts)

    def set_isolation_level(self, dbapi_connection: DBAPIConnection, level: Any) -> None:
        """Refuse AUTOCOMMIT; other levels travel with BEGIN, which reads them from the execution options."""
        _check_level(level)

    def reset_isolation_level(self, dbapi_connection: DBAPIConnection) -> None:
        """Nothing to reset: the level never outlives its transaction."""

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        raise ConfigurationError("two-phase transactions cannot carry a tenant's pin; use an ordinary one")

    def take_over(self, state: PinState) -> None:
        """Note what a scrub has to leave as it is now, before anybody's SQL has run on the connection."""
        if state.restored is None:
            state.restored = restoring(self.reported(state.driver)) if self.pooled else b""

    def _scrubbing(self, state: PinState, message: bytes) -> bytes:
        self.take_over(state)
        return message + state.restored if state.restored else message

    def in_transaction(self, driver: Any) -> bool:
        """Whether the driver knows itself inside a transaction, as of the server's last answer."""
        raise NotImplementedError

    def gone(self, driver: Any) -> bool:
        """Whether the driver knows that the connection has ended: it sends nothing any more, and says so."""
        raise NotImplementedError

    def reported(self, driver: Any) -> Mapping[str, str]:
        """Return the settings of `TRACKED` that the server, or the pooler for it, has reported to the driver."""
        raise NotImplementedError

    def _enter(self, state: PinState, pin: Pin) -> None:
        """Tell the connection's statement cache whose transaction comes."""
        raise NotImplementedError

    def _send(self, state: PinState, message: bytes) -> None:
        """Send `message` in the simple protocol and wait; raise the DBAPI's error for the server's."""
        raise NotImplementedError


def _check_level(level: Any) -> None:
    if level == "AUTOCOMMIT":
        raise AutocommitError
    if level not in LEVELS:
        raise ConfigurationError(f"isolation_level {level!r} cannot be used; choose one of {sorted(LEVELS)}")
