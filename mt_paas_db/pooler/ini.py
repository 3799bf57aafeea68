"""``pgbouncer.ini`` and ``userlist.txt`` as text. Pure: the same facts make the same text.

Which setting came with which version: PgBouncer's changelog. One that it does not know ends it at its start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.pooler.sizes import Cell, Sizes

Auth = Literal["userlist", "query"]

_PREPARED = (1, 21)  # max_prepared_statements; on by default from 1.24 on
_TRACK_EXTRA = (1, 20)  # track_extra_parameters

_PLAIN = re.compile(r"[A-Za-z0-9_]+")
_UNQUOTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a configuration is made of, apart from the verifiers.

    Attributes:
        installation: Whose it is.
        version: Of PgBouncer, as far as it is known; None writes what every version from 1.18 on understands.
        listen_addr, listen_port: Where it accepts.
        folder: Where PgBouncer sees the folder of the files.
        database: What clients call it.
        target: Its connection string, as ``{"host": ..., "port": ...}``.
        tls: `server_tls_*` settings that the admin DSN asks for.
        auth: Whether logins stand in the `auth_file`, or are looked up as `lookup_user`.
        admin_user: Who may command its console; None for nobody.
        stats_user: Who may ask its console.
        prepared_statements: How many named statements a server connection may have, where the version can.
        include: A file with settings of the operator's own, read last.
    """

    installation: str
    version: tuple[int, ...] | None
    listen_addr: str
    listen_port: int
    folder: str
    database: str
    target: Mapping[str, str]
    tls: Mapping[str, str]
    auth: Auth
    lookup_user: str
    admin_user: str | None
    stats_user: str
    prepared_statements: int
    include: str | None = None


def render_ini(shape: Shape, sizes: Sizes, cells: tuple[Cell, ...]) -> str:
    """Return the text of ``pgbouncer.ini``. Raises `ConfigurationError` for a value that the format cannot hold."""
    return "\n".join(line for part in (_databases, _pgbouncer, _users) for line in part(shape, sizes, cells)) + "\n"


def render_userlist(verifiers: Mapping[str, str]) -> str:
    """Return the text of ``userlist.txt``: what is known of each user, in the order given."""
    return "".join(f"{_quoted(user)} {_quoted(secret)}\n" for user, secret in verifiers.items())


def _databases(shape: Shape, sizes: Sizes, cells: tuple[Cell, ...]) -> Iterator[str]:
    target = " ".join(f"{key}={_value(value)}" for key, value in shape.target.items() if value)
    name = shape.database if _PLAIN.fullmatch(shape.database) else _quoted(shape.database)
    yield "[databases]"
    yield f"{name} = {target}"
    yield ""


def _pgbouncer(shape: Shape, sizes: Sizes, cells: tuple[Cell, ...]) -> Iterator[str]:
    shared = sum(not cell.own for cell in cells)
    yield "[pgbouncer]"
    yield f"listen_addr = {_value(shape.listen_addr)}"
    yield f"listen_port = {shape.listen_port}"
    yield "unix_socket_dir ="
    yield ""
    yield from _authentication(shape)
    yield ""
    yield "; A tenant's context is transaction-local, so a server connection is free after each transaction. Statement"
    yield "; mode cannot carry a transaction; session mode pools nothing."
    yield "pool_mode = transaction"
    yield ""
    yield f"; {sizes.budget} server connections in all, whatever the pools below would allow together."
    yield f"max_db_connections = {sizes.budget}"
    yield f"; Shared cells: {shared}. Each has a pool of its own, and so many connections for certain."
    if not sizes.certain:
        yield "; NOT for certain here: there are more logins than connections. A cell with a queue can keep another"
        yield "; waiting; give a larger --budget, or fewer cells."
    yield f"default_pool_size = {sizes.shared}"
    yield "; What a pool may borrow when its clients have waited."
    yield f"reserve_pool_size = {sizes.reserve}"
    yield "reserve_pool_timeout = 2"
    yield f"; Clients are cheap. Allow PgBouncer {sizes.clients + sizes.budget + 64} open files (ulimit -n)."
    yield f"max_client_conn = {sizes.clients}"
    yield "; A client is told after so many seconds, rather than kept for ever."
    yield "query_wait_timeout = 30"
    yield ""
    yield "; A backend never forgets a table that it has seen, so none lives for ever."
    yield f"server_lifetime = {sizes.server_lifetime_s}"
    yield "; Idle connections of quiet cells make room at once where the budget is used up, and after this."
    yield f"server_idle_timeout = {sizes.server_idle_timeout_s}"
    yield "; A tenant that is opened again, or a server that is back, is found after so many seconds (default 15)."
    yield "server_login_retry = 3"
    yield ""
    yield "; Nothing of a session outlives its transaction, and a COMMIT after SQL text carries the scrub."
    yield "server_reset_query_always = 0"
    yield "; Drivers and tools set this at the start. `options` is refused on purpose: what a client asks for in it"
    yield "; (a search_path, a time-out) would be dropped without a word."
    yield "ignore_startup_parameters = extra_float_digits"
    if shape.version is not None and shape.version >= _TRACK_EXTRA:
        yield "; Never search_path or role here: they belong to a transaction (CVE-2025-12819)."
        yield "track_extra_parameters = IntervalStyle"
    if shape.version is not None and shape.version >= _PREPARED:
        yield "; Named statements are shared between clients by their text; 0 where the settings leave them off."
        yield f"max_prepared_statements = {shape.prepared_statements}"
    if shape.tls:
        yield ""
        yield "; As the admin DSN has it."
        yield from (f"{key} = {_value(value)}" for key, value in shape.tls.items())
    yield ""


def _authentication(shape: Shape) -> Iterator[str]:
    yield "; SCRAM at both ends: PgBouncer checks a client with the verifier that the server has, and passes its proof"
    yield "; on, so that no password need be known here."
    yield "auth_type = scram-sha-256"
    yield f"auth_file = {_value(shape.folder.rstrip('/'))}/userlist.txt"
    if shape.auth == "query":
        yield "; Logins that come and go with cells and tenants are looked up; auth_query.sql makes the function."
        yield f"auth_user = {shape.lookup_user}"
        yield "auth_query = SELECT name, secret FROM mt_paas.pooler_lookup($1)"
    if shape.admin_user is not None:
        yield "; For `mt-paas-db pgbouncer reload`."
        yield f"admin_users = {_value(shape.admin_user)}"
    yield "; For `mt-paas-db doctor`, which asks for the version and the mode."
    yield f"stats_users = {shape.stats_user}"


def _users(shape: Shape, sizes: Sizes, cells: tuple[Cell, ...]) -> Iterator[str]:
    owners = [cell for cell in cells if cell.own] if sizes.own != sizes.shared else []
    if owners:
        yield "[users]"
        yield "; Tenants with a login of their own: a pool each, so a small one. (pool_size, by user, came with 1.24.)"
        yield from (f"{cell.login} = max_user_connections={sizes.own}" for cell in owners)
        yield ""
    if shape.include is not None:
        yield "[pgbouncer]"
        yield "; The operator's own."
        yield f"%include {_value(shape.include)}"


def _value(text: str) -> str:
    if _UNQUOTABLE.search(text) or text != text.strip() or " " in text or "'" in text:
        raise ConfigurationError(f"{text!r} cannot stand in pgbouncer.ini: no spaces, quotes or control characters")
    return text


def _quoted(text: str) -> str:
    if _UNQUOTABLE.search(text):
        raise ConfigurationError(f"{text!r} cannot stand in a file of PgBouncer: no control characters")
    return '"' + text.replace('"', '""') + '"'
