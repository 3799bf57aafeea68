"""asyncpg.

SQLAlchemy prepares every statement on asyncpg and keeps the result by its text. A statement over a type of the
tenant's own schema (an enum, a domain, a composite) would meet another tenant's type, so it belongs to a
schema. Any other could serve all tenants of a connection, but the server plans it anew whenever the path
has changed. So each tenant gets a copy of its own while there is room, and shares one when there is none: a
miss costs a round trip, which is more than planning anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.util import LRUCache, await_only

from mt_paas_db.session.dialects.pinning import Pinning, PinState
from mt_paas_db.session.pin import TRACKED, Pin

# Objects that initdb makes have lower OIDs (FirstNormalObjectId in PostgreSQL's access/transam.h).
_FIRST_USER_OID = 16384


class TenantStatementCache:
    """SQLAlchemy's prepared statements of one asyncpg connection, kept by schema and text."""

    def __init__(self, size: int) -> None:
        self.schema = ""
        self._size = size
        self._entries: LRUCache[Any, Any] = LRUCache(size)
        self._shared: LRUCache[str, tuple[str, str]] = LRUCache(size)

    def _key(self, operation: str) -> tuple[str, str]:
        """Return under which key `operation` is to be found, or would be kept."""
        own = (self.schema, operation)
        if own in self._entries or len(self._entries) < self._size:
            return own
        return self._shared.get(operation, own)

    def __contains__(self, operation: str) -> bool:
        return self._key(operation) in self._entries

    def __getitem__(self, operation: str) -> Any:
        return self._entries[self._key(operation)]

    def __setitem__(self, operation: str, entry: Any) -> None:
        own = (self.schema, operation)
        self._entries[own] = entry
        statement = entry[0]
        types = [*statement.get_parameters(), *(attribute.type for attribute in statement.get_attributes())]
        if all(type_.oid < _FIRST_USER_OID for type_ in types):
            self._shared[operation] = own


class PinnedAsyncpg(Pinning, PGDialect_asyncpg):
    """asyncpg behind SQLAlchemy's greenlet bridge."""

    supports_statement_cache = True

    def on_connect(self) -> Callable[[Any], None]:
        inherited = super().on_connect()  # type: ignore[no-untyped-call]

        def connect(connection: Any) -> None:
            if inherited is not None:
                with self._closed_on_failure(connection):
                    inherited(connection)
            # The adapter begins a transaction of its own at the first statement, unless it is in autocommit.
            connection.autocommit = True
            if connection._prepared_statement_cache is not None:
                connection._prepared_statement_cache = TenantStatementCache(
                    connection._prepared_statement_cache.capacity
                )

        return connect

    def in_transaction(self, driver: Any) -> bool:
        return not driver.is_closed() and bool(driver.is_in_transaction())

    def gone(self, driver: Any) -> bool:
        return bool(driver.is_closed())

    def reported(self, driver: Any) -> dict[str, str]:
        settings = driver.get_settings()
        return {name: getattr(settings, name) for name in TRACKED if hasattr(settings, name)}

    def _enter(self, state: PinState, pin: Pin) -> None:
        if state.adapter._prepared_statement_cache is not None:
            state.adapter._prepared_statement_cache.schema = pin.schema

    def _send(self, state: PinState, message: bytes) -> None:
        try:
            await_only(state.driver.execute(message.decode()))
        except Exception as error:
            state.adapter._handle_exception(error)
