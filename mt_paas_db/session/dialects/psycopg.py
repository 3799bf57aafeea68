"""psycopg 3, blocking and asyncio.

psycopg keys its prepared statements by their text. Where a type exists once per tenant (an enum, a
domain), the same text means another type for the next tenant, and the server refuses the old plan
("cached plan must not change result type"). So the key here holds the schema too. A statement that is not
prepared yet costs psycopg no extra round trip, and one that is need not be planned anew for each change
of the path.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg._preparing import Key, PrepareManager
from psycopg._queries import PostgresQuery
from psycopg.errors import error_from_result
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.util import await_only

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.session.dialects.pinning import Pinning, PinState
from mt_paas_db.session.pin import TRACKED, Pin

_NO_TRANSACTION = (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)


class TenantPrepareManager(PrepareManager):
    """psycopg's prepared statements, kept apart by schema."""

    schema: str = ""

    def key(self, query: PostgresQuery) -> Key:  # type: ignore[override]
        return (self.schema, query.query, query.types)  # type: ignore[return-value]  # only ever compared


def check_libpq() -> None:
    """Raise `ConfigurationError` where psycopg would end named statements by SQL, which PgBouncer does not follow."""
    if not psycopg.capabilities.has_send_close_prepared():
        raise ConfigurationError(
            f"prepared_statements behind PgBouncer needs libpq 17 or later with psycopg, and this is "
            f"{pq.version() // 10_000}: pip install 'mt_paas_db[binary]', or leave it off"
        )


def _exchange(pgconn: pq.abc.PGconn, message: bytes) -> Generator[Any, Any, None]:
    """Send several statements as one simple query; psycopg's own BEGIN path takes a single result only."""
    pgconn.send_query(message)
    results = yield from generators.execute(pgconn)
    if results[-1].status == pq.ExecStatus.FATAL_ERROR:  # an error ends a simple query, so it is the last
        raise error_from_result(results[-1], encoding="utf-8")


class _PinnedPsycopg(Pinning, PGDialect_psycopg):
    supports_statement_cache = True
    doubled = True

    def create_connect_args(self, url: Any) -> Any:
        args, options = super().create_connect_args(url)  # type: ignore[no-untyped-call]
        return args, {**options, "autocommit": True}

    def on_connect(self) -> Callable[[Any], None]:
        inherited = super().on_connect()  # type: ignore[no-untyped-call]

        def connect(connection: Any) -> None:
            if inherited is not None:
                with self._closed_on_failure(connection):
                    inherited(connection)
            driver = self.get_driver_connection(connection)
            manager = TenantPrepareManager()
            manager.prepare_threshold = driver.prepare_threshold
            manager.prepared_max = driver.prepared_max or manager.prepared_max
            driver._prepared = manager

        return connect

    def in_transaction(self, driver: Any) -> bool:
        return driver.pgconn.transaction_status not in _NO_TRANSACTION

    def gone(self, driver: Any) -> bool:
        return bool(driver.closed)

    def reported(self, driver: Any) -> dict[str, str]:
        values = {name: driver.pgconn.parameter_status(name.encode()) for name in TRACKED}
        return {name: value.decode() for name, value in values.items() if value is not None}

    def _enter(self, state: PinState, pin: Pin) -> None:
        state.driver._prepared.schema = pin.schema


class PinnedPsycopg(_PinnedPsycopg):
    """The blocking driver."""

    supports_statement_cache = True

    def _send(self, state: PinState, message: bytes) -> None:
        driver: psycopg.Connection[Any] = state.driver
        with driver.lock:
            driver.wait(_exchange(driver.pgconn, message))


class PinnedPsycopgAsync(_PinnedPsycopg, PGDialectAsync_psycopg):
    """The asyncio driver, behind SQLAlchemy's greenlet bridge."""

    is_async = True
    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> Any:
        return cls  # the inherited one names SQLAlchemy's own dialect, which pins nothing

    def _send(self, state: PinState, message: bytes) -> None:
        driver: psycopg.AsyncConnection[Any] = state.driver

        async def exchange() -> None:
            async with driver.lock:
                await driver.wait(_exchange(driver.pgconn, message))

        await_only(exchange())
