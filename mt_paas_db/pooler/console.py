"""PgBouncer's admin console: the database ``pgbouncer``, which speaks the simple protocol and SHOW."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import URL

from mt_paas_db.errors import PoolerConsoleError
from mt_paas_db.session.pooler import parse_pgbouncer_version


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of SHOW CONFIG. `changeable` says whether a reload can change it."""

    value: str
    changeable: bool


class Console:
    """A connection to the console."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]], cluster: str) -> None:
        self._connection = connection
        self._cluster = cluster

    def show(self, what: str) -> list[dict[str, Any]]:
        """Return the rows of ``SHOW what``. Raises `PoolerConsoleError`."""
        with _explained(self._cluster):
            return self._connection.execute(f"SHOW {what}".encode()).fetchall()

    def reload(self) -> None:
        """Let it read its files again. Raises `PoolerConsoleError`, as where the user is in stats_users alone."""
        with _explained(self._cluster):
            self._connection.execute(b"RELOAD")

    def version(self) -> tuple[int, ...]:
        """Return its version, as ``(1, 18, 0)``."""
        (row,) = self.show("VERSION")
        return parse_pgbouncer_version(str(next(iter(row.values()))))

    def config(self) -> dict[str, Setting]:
        """Return its settings as they are in force."""
        return {
            str(row["key"]): Setting("" if row["value"] is None else str(row["value"]), row["changeable"] == "yes")
            for row in self.show("CONFIG")
        }


@contextmanager
def open_console(url: URL, cluster: str, *, timeout_s: float) -> Iterator[Console]:
    """Open the console that `url` leads to, for the block. Raises `PoolerConsoleError`."""
    with _explained(cluster):
        connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            host=url.host or "",
            port=url.port or "",
            user=url.username or "",
            password=url.password or "",
            dbname="pgbouncer",
            connect_timeout=max(2, round(timeout_s)),
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
        )
    with connection:
        yield Console(connection, cluster)


@contextmanager
def _explained(cluster: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PoolerConsoleError(
            cluster,
            f"PgBouncer's console: {lines[-1].strip()}; check "
            f"MT_PAAS_DB_CLUSTERS__{cluster.upper()}__CONSOLE_DSN, that its user is in admin_users and in the user "
            "list, and that PgBouncer runs",
        ) from error
