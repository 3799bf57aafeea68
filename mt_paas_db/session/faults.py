"""What a driver's error says of the server, and what to do about it. Pure, but for what the connection itself knows.

asyncpg gives a SQLSTATE for whatever the server answers. psycopg has none for an attempt to connect, only libpq's text;
and a pooler answers with words of its own. So both are looked for.

Sources: PostgreSQL's "Error Codes" and "Client Authentication Problems"; libpq's fe-connect.c for what it cannot reach;
PgBouncer's client.c and janitor.c for its own words.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import URL, Connection

from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.errors import (
    ConnectionLimitError,
    LoginRefusedError,
    ReadOnlyServerError,
    ServerUnavailableError,
    TenancyError,
)
from mt_paas_db.session.dialects.pinning import PIN_OPTION, Pinning, state_of
from mt_paas_db.session.pooler import pooler_fault, tells_of_connection

APP_DSN = "app DSN"

_FULL = (
    "the server's max_connections is reached: count MT_PAAS_DB_POOL_SIZE of all processes against it, put PgBouncer "
    "before the server, or raise it"
)
_UNSERVED = (
    "PgBouncer had no server connection to give for its query_wait_timeout: raise default_pool_size where the server "
    "has room, or look for transactions that stay open"
)
_NOT_ITS_OWN = (
    "this is not its password, or there is no such role: check its credentials; `mt-paas-db init` sets those of cells "
    "again, `mt-paas-db doctor` says which login is missing"
)
_LOCKED_OUT = "`mt-paas-db doctor` says which login is missing, or may not log in"
_FAILOVER = "none of the DSN's hosts is what its target_session_attrs asks for; try again when the failover is through"
_UNKNOWN_HOST = "the host's name is not known here: check the {dsn}, and the machine's DNS"
_MOMENT = "the server is starting or stopping; try again in a moment"

_CONNECTING: tuple[tuple[str, type[ServerUnavailableError], str], ...] = (
    # A SQLSTATE, or a pattern in the text. The first row that fits decides.
    (
        "too many connections for (role|database)",
        ConnectionLimitError,
        "raise its CONNECTION LIMIT, or lower MT_PAAS_DB_POOL_SIZE",
    ),
    (
        "no more connections allowed",
        ConnectionLimitError,
        "raise PgBouncer's max_client_conn, or lower MT_PAAS_DB_POOL_SIZE of the processes before it",
    ),
    ("query_wait_timeout", ConnectionLimitError, _UNSERVED),
    ("53300", ConnectionLimitError, _FULL),
    ("too many clients already|connection slots are reserved", ConnectionLimitError, _FULL),
    ("28P01", LoginRefusedError, _NOT_ITS_OWN),
    ("password authentication failed|SASL authentication failed", LoginRefusedError, _NOT_ITS_OWN),
    ("no pg_hba.conf entry", LoginRefusedError, "pg_hba.conf has no line for this login, database and address"),
    (
        "no such user",
        LoginRefusedError,
        "PgBouncer does not know it: `mt-paas-db pgbouncer reload` makes it known",
    ),
    ("28000", LoginRefusedError, _LOCKED_OUT),
    ('role "[^"]*" does not exist|is not permitted to log in', LoginRefusedError, _LOCKED_OUT),
    ("57P03", ServerUnavailableError, _MOMENT),
    ("the database system is", ServerUnavailableError, _MOMENT),
    ("server_login_retry", ServerUnavailableError, "PgBouncer could not log in to the server: look at its log"),
    ("session is read-only|in hot standby mode|match the target attribute", ServerUnavailableError, _FAILOVER),
    (
        "could not translate host name|failed to resolve host|Name or service not known|name resolution",
        ServerUnavailableError,
        _UNKNOWN_HOST,
    ),
)

_ENDED = {
    "57P01": "the server ended the connection: it is shutting down, or an administrator ended it",
    "57P02": "the server ended the connection: another of its processes crashed",
    "57P03": "the server is starting or stopping",
}

_LOST = (  # in words alone: asyncpg keeps the server's last ones without their SQLSTATE, libpq has but its own
    ("server_login_retry", "PgBouncer could not log in to the server, and tries again in a moment"),
    ("terminating connection due to", _ENDED["57P01"]),
    (
        "closed the connection unexpectedly|closed in the middle of operation|connection is (lost|closed)|conn crashed",
        "the connection to the server was lost",
    ),
)


def connection_fault(
    error: Exception, *, cluster: str, url: URL, dsn: str = APP_DSN, password_refused: str | None = None
) -> ServerUnavailableError:
    """Return what to raise where no connection to `url` could be made, as the server, the pooler or the driver said.

    `dsn` is what the settings call it; `password_refused` is what to do about that, where it is not what it is to a
    server.
    """
    text, state = str(error).strip(), sqlstate_of(error)
    kind, remedy = next(
        ((kind, remedy) for sign, kind, remedy in _CONNECTING if sign == state or re.search(sign, text)),
        (ServerUnavailableError, "check the {dsn} and that the server runs"),
    )
    if remedy is _NOT_ITS_OWN:
        remedy = password_refused or (remedy if dsn == APP_DSN else "check the {dsn}")
    line = text.splitlines()[0] if text else type(error).__name__
    return kind(
        cluster,
        f"cannot connect as {url.username!r} to database {url.database!r} at {_host(url)}: {line}; "
        f"{remedy.format(dsn=dsn)}",
        login=url.username,
    )


def _host(url: URL) -> str:
    host = url.host or url.query.get("host")
    named = ", ".join(host) if isinstance(host, tuple) else host or "the default host"
    return f"{named}:{url.port}" if url.port else named


def server_fault(error: BaseException | None, *, cluster: str, connection: Connection | None) -> TenancyError | None:
    """Return what a driver's error at a statement says of the server or its pooler; None where it says nothing."""
    if error is None:
        return None
    fault = pooler_fault(error, cluster)
    if fault is not None:
        return fault
    state, pin = sqlstate_of(error), None
    if connection is not None:
        pin = connection.get_execution_options().get(PIN_OPTION)
    whose = f"tenant {pin.tenant_id!r}: " if pin is not None else ""
    # Words count where no SQLSTATE says otherwise: those of other errors quote what a tenant has written.
    words = str(error) if tells_of_connection(state) else ""
    if "query_wait_timeout" in words:
        return ConnectionLimitError(cluster, f"{whose}{_UNSERVED}")
    ended = _ENDED.get(state or "") or next((what for sign, what in _LOST if re.search(sign, words)), None)
    if ended is not None:
        return ServerUnavailableError(
            cluster,
            f"{whose}{ended}; what was not committed is rolled back, and a COMMIT that was under way may be done",
        )
    if state == "25006" and pin is not None and not pin.options.read_only and _on_standby(connection):
        return ReadOnlyServerError(
            cluster,
            f"{whose}this server is a standby and takes no writes; let the app DSN lead to the primary, or name all "
            "hosts in it with target_session_attrs=read-write",
        )
    return None


def _on_standby(connection: Connection | None) -> bool:
    """Whether the server has told the driver that it is a standby. PostgreSQL says so since 14; sends nothing."""
    if connection is None or not isinstance(connection.dialect, Pinning):
        return False
    driver: Any = state_of(connection).driver
    if hasattr(driver, "pgconn"):
        return bool(driver.pgconn.parameter_status(b"in_hot_standby") == b"on")
    return getattr(driver.get_settings(), "in_hot_standby", None) == "on"
