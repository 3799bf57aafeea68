"""What stands between a driver and the server, and the driver options that follow from it. Pure.

Sources: PgBouncer's changelog (protocol-level prepared statements since 1.21, on by default since 1.24),
SQLAlchemy's asyncpg and psycopg dialect pages ("Prepared Statement Name with PGBouncer"), asyncpg's FAQ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from mt_paas_db.catalog.settings import Prepared, Settings
from mt_paas_db.errors import ConfigurationError, PoolerModeError

Driver = Literal["psycopg", "asyncpg"]

# PgBouncer's words at the first BEGIN. It has no SQLSTATE of its own for it, and asyncpg keeps only the words.
_STATEMENT_MODE = "not allowed in statement pooling mode"

# "Does not exist", "exists already"; and how the drivers begin the names of what they prepare.
_STATEMENT_ASTRAY = frozenset({"26000", "42P05"})
_DRIVERS_STATEMENTS = ('"_pg3_', '"__asyncpg_')


@dataclass(frozen=True, slots=True)
class PoolerProfile:
    """What an engine must know of the pooler.

    Attributes:
        kind: ``direct`` or ``pgbouncer`` (in transaction mode).
        version: PgBouncer's version, as a tuple of numbers; None where it is not known.
        prepared: On whose connections behind PgBouncer drivers may name statements, as in `ClusterSettings`.
    """

    kind: Literal["direct", "pgbouncer"]
    version: tuple[int, ...] | None = None
    prepared: Prepared = "off"

    @classmethod
    def of(cls, settings: Settings, entry: str) -> Self:
        """Return the profile of a cluster; direct where only a credential provider knows it."""
        cluster = settings.clusters.get(entry)
        if cluster is None:
            return cls("direct")
        return replace(cls.parse(cluster.pooler), prepared=cluster.prepared_statements)

    @classmethod
    def parse(cls, setting: str) -> Self:
        """Return the profile of a setting: ``direct``, ``pgbouncer`` or ``pgbouncer:1.18``."""
        kind, _, version = setting.partition(":")
        if kind == "direct" and not version:
            return cls("direct")
        if kind == "pgbouncer":
            try:
                return cls("pgbouncer", tuple(int(part) for part in version.split(".")) if version else None)
            except ValueError:
                pass
        raise ConfigurationError(f"pooler {setting!r}: use 'direct', 'pgbouncer' or 'pgbouncer:<version>'")

    def named_statements(self, *, own: bool = False) -> bool:
        """Whether the driver may keep named prepared statements on its connection; `own` is a tenant's own login.

        Behind PgBouncer it may not, unless the settings say so. Before 1.21 the next transaction can run on a server
        connection that does not have them. From 1.21 on PgBouncer shares them between clients by their text, on each
        server connection: on that of a tenant's own login all are the tenant's, on a shared one a statement over a
        type that exists once per tenant would meet another tenant's type. Unnamed statements are right everywhere.
        """
        return self.kind == "direct" or self.prepared == "all" or (own and self.prepared == "own")

    def connect_args(self, driver: Driver, *, unnamed: bool = False, own: bool = False) -> dict[str, Any]:
        """Return the driver's connection arguments for this pooler; `unnamed` keeps statements unnamed without one."""
        if self.named_statements(own=own) and not unnamed:
            return {}
        if driver == "psycopg":
            return {"prepare_threshold": None}
        # With asyncpg's own cache at 0 its statements are unnamed; SQLAlchemy's cache would keep them.
        return {"statement_cache_size": 0, "prepared_statement_cache_size": 0}


def tells_of_connection(state: str | None) -> bool:
    """Whether an error of this SQLSTATE is of the connection, or the server as a whole: classes 08 and 57, or none."""
    return state is None or state[:2] in {"08", "57"}


def pooler_fault(error: BaseException, entry: str) -> PoolerModeError | None:
    """Return what a driver's error says of the pooler behind `entry`'s app DSN; None where it says nothing."""
    message, state = str(error), getattr(error, "sqlstate", None)
    if _STATEMENT_MODE in message and tells_of_connection(state):
        return PoolerModeError(
            entry,
            "the pooler behind the app DSN runs in statement mode, which allows no transactions; "
            "set pool_mode = transaction in pgbouncer.ini",
        )
    if state in _STATEMENT_ASTRAY and any(mark in message for mark in _DRIVERS_STATEMENTS):
        return PoolerModeError(
            entry,
            "a prepared statement is not on the server connection where the driver left it: a pooler in transaction "
            f"mode stands behind an app DSN that the settings call 'direct'; "
            f"set MT_PAAS_DB_CLUSTERS__{entry.upper()}__POOLER=pgbouncer",
        )
    return None


def login_unknown(profile: PoolerProfile, login: str | None) -> str | None:
    """Return what to do where a cell's `login` is refused and PgBouncer may not know it; None where it is not that.

    PgBouncer answers as to a wrong password. None as `login` is the first cell's, which is in its list from the start.
    """
    if profile.kind == "direct" or login is None:
        return None
    return (
        "this is not its password, or PgBouncer does not know this login yet: `mt-paas-db pgbouncer config` writes it "
        "down, `mt-paas-db pgbouncer reload` makes it known"
    )


def parse_pgbouncer_version(answer: str) -> tuple[int, ...]:
    """Return ``(1, 18, 0)`` for SHOW VERSION's ``PgBouncer 1.18.0``; raises `ConfigurationError` otherwise."""
    name, _, version = answer.partition(" ")
    try:
        if name == "PgBouncer":
            return tuple(int(part) for part in version.strip().split("."))
    except ValueError:
        pass
    raise ConfigurationError(f"expected a PgBouncer's version, got {answer!r}")
