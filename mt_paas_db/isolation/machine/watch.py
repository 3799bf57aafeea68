"""An admin's connection beside the sessions: the server's view of theirs, and the end of some."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy import NullPool, create_engine, make_url

from mt_paas_db.catalog.credentials import cluster_url
from mt_paas_db.catalog.queries import query
from mt_paas_db.core.manager import TenantManager

_PATIENCE_S = 5.0


class Watch:
    """What the server says of the sessions' connections.

    Attributes:
        lacking: What cannot be done and why: ``terminate`` backends, let the pooler ``reconnect``.
    """

    def __init__(self, manager: TenantManager, *, pooler: str | None) -> None:
        credentials, home = manager._credentials, manager.settings.home_cluster
        admin = cluster_url(credentials, home, "admin").set(drivername="postgresql+psycopg")
        app = cluster_url(credentials, home, "app")
        self._connection = create_engine(admin, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
        self._console = _console(pooler, str(app.database))
        self.lacking: dict[str, str] = {}
        if not self._ask("may_terminate", login=app.username):
            self.lacking["terminate"] = (
                f"the admin DSN's role may not terminate backends of {app.username!r}; grant it pg_signal_backend"
            )
        if isinstance(self._console, str):
            self.lacking["reconnect"] = self._console

    def unquiet(self, pids: Collection[int]) -> list[str]:
        """Return what backends that are at rest do all the same: transactions, locks."""
        return list(self._connection.execute(query("machine", "unquiet"), {"pids": list(pids)}).scalars())

    def terminate(self, pid: int) -> None:
        """Terminate a backend, and wait until it is gone."""
        self._ask("terminate", pid=pid)
        deadline = time.monotonic() + _PATIENCE_S
        while self._ask("is_there", pid=pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"backend {pid} is still there")
            time.sleep(0.002)

    def reconnect(self, *, hard: bool) -> None:
        """Let the pooler leave its connections to the server: when they are free, or at once with its clients'."""
        if isinstance(self._console, str):
            raise LookupError(self._console)
        console, database = self._console
        with psycopg.connect(console, autocommit=True) as connection:
            connection.prepare_threshold = None
            for command in (f"KILL {database}", f"RESUME {database}") if hard else (f"RECONNECT {database}",):
                connection.pgconn.exec_(command.encode())

    def _ask(self, name: str, **values: Any) -> Any:
        return self._connection.execute(query("machine", name), values).scalar()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _console(pooler: str | None, database: str) -> tuple[str, str] | str:
    """Return the DSN of the pooler's console and the database's name there, or why it cannot be used."""
    if pooler is None:
        return "no PgBouncer was named"
    url = make_url(pooler)
    if not url.username:
        return "the PgBouncer's URL names no user of its console (admin_users)"
    dsn = url.set(drivername="postgresql", database="pgbouncer").render_as_string(hide_password=False)
    with suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as connection:
        result = connection.pgconn.exec_(b"RECONNECT no_such_database")
        if b"admin access needed" not in result.error_message:
            return dsn, database
    return f"{url.username!r} may not use the PgBouncer's console; add it to admin_users"
