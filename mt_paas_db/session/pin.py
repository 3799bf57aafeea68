"""The pin: a transaction's tenant context, as the text that begins the transaction.

One message in the simple protocol begins the transaction, takes the tenant's role, sets the path and
the tenant setting, and fails where the schema is missing or the role may not use it. So the pin costs no
round trip, and there is no moment in which a transaction runs without it. Every part is transaction
local: COMMIT and ROLLBACK end it on the server, whatever the client does.

The role is what the server enforces. It has rights on its own schema only, so that whatever path or name
a statement uses, another tenant's table is refused. The path ends in ``pg_temp``, which PostgreSQL would
otherwise search first, and never holds ``public``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mt_paas_db.catalog.identifiers import MAX_IDENTIFIER_BYTES, TenantId, Tier, parse_tenant_id
from mt_paas_db.catalog.values import Resolution
from mt_paas_db.errors import ConfigurationError, InvalidIdentifierError

IsolationLevel = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

LEVELS: frozenset[str] = frozenset({"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"})

# What a session may have left on the connection by its own session-level SQL. It rides behind ROLLBACK, and
# behind the COMMIT of a transaction that could have left something, in the same message, so that it costs no
# round trip. Nothing of ours needs it: the next pin overrides role and path anyhow. It keeps a stray SET ROLE, a
# WITH HOLD cursor, a LISTEN or a setting of one tenant from the next user of the connection. RESET ALL leaves the
# role alone.
SCRUB = b"RESET ROLE;CLOSE ALL;UNLISTEN *;RESET ALL"
COMMIT = b"COMMIT"
COMMIT_AND_SCRUB = b"COMMIT;" + SCRUB
ROLLBACK = b"ROLLBACK;" + SCRUB

# What PgBouncer keeps for each of its clients (documentation of `track_extra_parameters`). RESET ALL would take it from
# the client too: the server reports the change, and PgBouncer believes it.
TRACKED = (
    "standard_conforming_strings",
    "client_encoding",
    "application_name",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
)

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PinOptions:
    """What a session asks of its transactions.

    Attributes:
        read_only: Begin READ ONLY.
        isolation_level: As in SQL; None for the server's default.
        statement_timeout_s: Seconds a statement may run; None for the server's default.
    """

    read_only: bool = False
    isolation_level: IsolationLevel | None = None
    statement_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.isolation_level is not None and self.isolation_level not in LEVELS:
            raise ConfigurationError(
                f"isolation_level {self.isolation_level!r} cannot be used in a tenant session; "
                f"choose one of {', '.join(sorted(LEVELS))}"
            )
        if self.statement_timeout_s is not None and not 0 < self.statement_timeout_s <= 2_000_000:
            raise ConfigurationError("statement_timeout_s must be more than 0 and at most 2,000,000 seconds")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Pin:
    """One tenant's context, ready to send. Compared by identity: a new resolution makes a new pin.

    Attributes:
        tenant_id: The tenant's id in the catalog.
        asked_as: The id or alias that the caller used.
        generation: Which tenant of that id it is.
        schema: The schema, and the role of the same name.
        login_role: Who connects.
        cell: The group of tenants that connect so.
        tier: Whether that is the tenant's own login.
    """

    tenant_id: TenantId
    asked_as: str
    generation: int
    schema: str
    login_role: str
    cell: str
    tier: Tier
    options: PinOptions
    _begin: bytes
    _context: bytes
    _verified: bytes
    _ready: bytes

    def begin_message(self, isolation_level: str | None = None, *, verify: bool = True) -> bytes:
        """Return the message that begins a pinned transaction; `isolation_level` overrides the option.

        With `verify` the server is asked whether the schema is there. It costs 30 us, a sixth of an empty
        transaction. Without shared schemas nothing but an error can come of a schema that is missing, so a
        connection asks once for each pin; with them, a shared table could answer for the tenant's, so it
        asks each time.
        """
        if isolation_level is None and not verify:
            return self._ready
        begin = self._begin if isolation_level is None else _begin(isolation_level, self.options)
        return begin + (self._verified if verify else self._context)


def make_pin(resolution: Resolution, *, asked_as: str, options: PinOptions, named: bool = False) -> Pin:
    """Return the pin of a resolved tenant; where `named`, it calls the transaction's connection after it. Pure.

    Raises `InvalidIdentifierError` where a name in the catalog is not one that this library writes:
    a catalog that was tampered with must not reach the SQL text.
    """
    placement = resolution.placement
    tenant_id = parse_tenant_id(resolution.tenant_id)
    schema = _quoted(placement.schema_name)
    path = ",".join([schema, *(_quoted(name) for name in resolution.shared_schemas), "pg_temp"])
    parts = [
        f"SET LOCAL ROLE {_quoted(placement.role_name)}",
        f"SET LOCAL search_path={path}",
        f"SET LOCAL mt_paas.tenant='{tenant_id}'",
    ]
    if named:
        parts.append(f"SET LOCAL application_name='{tenant_id}'")
    limit_s = resolution.limits.statement_timeout_s if resolution.limits is not None else None
    timeout_s = min(
        (seconds for seconds in (options.statement_timeout_s, limit_s) if seconds is not None), default=None
    )
    if timeout_s is not None:
        parts.append(f"SET LOCAL statement_timeout={max(1, round(timeout_s * 1000))}")
    # A path skips what does not exist or may not be used, silently; so ask. A missing schema is an error
    # by itself (3F000), a missing right becomes a division by zero (22012).
    parts_verified = [*parts, f"SELECT 1/pg_catalog.has_schema_privilege('{placement.schema_name}','USAGE')::int"]
    if resolution.shared_schemas or options.read_only:
        parts = parts_verified  # always: READ ONLY can be taken back until the first query, and this is one
    begin = _begin(options.isolation_level, options)
    context = ";".join(parts).encode("ascii")
    return Pin(
        tenant_id=tenant_id,
        asked_as=asked_as,
        generation=resolution.generation,
        schema=placement.schema_name,
        login_role=placement.login_role,
        cell=placement.cell,
        tier=placement.tier,
        options=options,
        _begin=begin,
        _context=context,
        _verified=";".join(parts_verified).encode("ascii"),
        _ready=begin + context,
    )


def restoring(settings: Mapping[str, str]) -> bytes:
    """Return what goes behind a scrub, in its message, so that these settings are again as they are here. Pure."""
    statements = []
    for name, value in settings.items():
        # Escapes of their own: the text is read while standard_conforming_strings is still the session's.
        escaped = value.replace("\\", "\\\\").replace("'", "''")
        statements.append(f";SET {name}=E'{escaped}'")
    return "".join(statements).encode()


def _begin(level: str | None, options: PinOptions) -> bytes:
    mode = (f" ISOLATION LEVEL {level}" if level else "") + (" READ ONLY" if options.read_only else "")
    return f"BEGIN{mode};".encode()


def _quoted(name: str) -> str:
    if len(name) > MAX_IDENTIFIER_BYTES or not _IDENTIFIER.fullmatch(name):
        raise InvalidIdentifierError("SQL name in the catalog", name, "it was not written by this library")
    return f'"{name}"'
