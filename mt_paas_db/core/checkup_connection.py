"""Checks of the ways to the server: both DSNs, the catalog behind them, the release, the pooler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import URL, text

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import TenantName
from mt_paas_db.core.checks import Finding, Severity, check
from mt_paas_db.core.patient import CannotLookError, Patient
from mt_paas_db.errors import ConfigurationError, PoolerModeError, TenancyError, UnknownTenantError
from mt_paas_db.session.pooler import PoolerProfile, parse_pgbouncer_version

# Newest minor releases on which row-security faults of 2026 were reproduced (CVE-2026-120154, -116311 and
# others; PostgreSQL's security page lists them). 15.20 is the first fixed release of its branch.
_LAST_VULNERABLE_MINOR = {15: 19, 16: 14, 17: 10, 18: 4}

_PROBE = TenantName("mt-paas-readiness-probe")


@check("server.reachable", "the app DSN connects", quick=True)
def _reachable(patient: Patient) -> Iterator[Finding]:
    patient.app.execute(text("SELECT 1"))
    yield from ()


@check("catalog.version", "code and catalog fit", quick=True)
def _catalog(patient: Patient) -> Iterator[Finding]:
    try:
        registry.resolve(patient.app, _PROBE, cluster=patient.cluster)
    except UnknownTenantError:
        return
    yield Finding(Severity.WARNING, f"a tenant is called {_PROBE!r}, which readiness uses as a name nobody has")


@check("admin.reachable", "the admin DSN connects")
def _admin_reachable(patient: Patient) -> Iterator[Finding]:
    _ = patient.admin
    yield from ()


@check("server.version", "the server's release is known to be sound")
def _version(patient: Patient) -> Iterator[Finding]:
    number = patient.admin.oneself.version
    major, minor = divmod(number, 10_000)
    if minor <= _LAST_VULNERABLE_MINOR.get(major, -1):
        yield Finding(
            Severity.WARNING,
            f"PostgreSQL {major}.{minor} has known faults in row security (CVE-2026-120154, CVE-2026-116311); "
            "schemas and roles are not affected, row policies may be",
            "install the newest minor release of this branch",
        )


@check("pooler.mode", "what stands between the app DSN and the server is what the settings say")
def _pooler(patient: Patient) -> Iterator[Finding]:
    profile = PoolerProfile.of(patient.settings, patient.cluster)
    with _bare(patient) as driver:
        row = driver.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
        pooled = row is None or row[0] != driver.info.backend_pid
        setting = f"MT_PAAS_DB_CLUSTERS__{patient.cluster.upper()}__POOLER"
        if pooled and profile.kind == "direct":
            yield Finding(
                Severity.ERROR,
                "a pooler stands between the app DSN and the server (the backend's process id is not the one "
                "announced), but the settings say 'direct': named prepared statements will fail",
                f"set {setting}=pgbouncer",
            )
        if not pooled and profile.kind == "pgbouncer":
            yield Finding(Severity.INFO, "the settings say 'pgbouncer', but the app DSN leads to the server itself")
        if not pooled:
            return
        try:
            driver.execute("BEGIN")
            driver.execute("COMMIT")
        except psycopg.Error as error:
            yield Finding(
                Severity.ERROR,
                f"the pooler allows no transactions ({str(error).strip()}); tenant sessions need them",
                "set pool_mode = transaction in pgbouncer.ini",
            )
            return
    yield from _pgbouncer_version(patient, profile)


@check("pooler.types", "statements that tenants share through the pooler meet no type of a tenant's own")
def _types(patient: Patient) -> Iterator[Finding]:
    if PoolerProfile.of(patient.settings, patient.cluster).prepared != "all":
        return
    with patient.catalog():
        rows = patient.ask("own_types")
    for row in rows:
        yield Finding(
            Severity.ERROR,
            f"{row['tenants']} tenants have a type {row['type']!r} of their own; prepared_statements='all' lets them "
            "share statements over it, which fail for all but one",
            f"set MT_PAAS_DB_CLUSTERS__{patient.cluster.upper()}__PREPARED_STATEMENTS=own, or share the type",
        )


@contextmanager
def _bare(patient: Patient) -> Iterator[psycopg.Connection[Any]]:
    """Give the driver's connection: the one of the look-up, or where that failed one that sends nothing by itself.

    In statement mode the first transaction of SQLAlchemy's own fails, so that only a bare one can tell why.
    """
    failure = patient.failed.get("app")
    if isinstance(failure, TenancyError) and not isinstance(failure, PoolerModeError):
        raise CannotLookError("the app DSN does not connect")
    if failure is None:
        driver: Any = patient.app.connection.driver_connection
        yield driver
        return
    try:
        bare = _connect(patient, patient.app_engine.url)
    except psycopg.Error as error:
        raise CannotLookError("the app DSN does not connect") from error
    with bare:
        yield bare


def _connect(patient: Patient, url: URL) -> psycopg.Connection[Any]:
    # By keywords, as the engine connects: libpq would read a rendered URL's '+' and '%' in its own way.
    _, options = patient.app_engine.dialect.create_connect_args(url)
    timeout_s = max(1, round(patient.settings.connect_timeout_s))
    return psycopg.connect(
        **{**options, "connect_timeout": timeout_s, "autocommit": True, "prepare_threshold": None},
    )


def _pgbouncer_version(patient: Patient, profile: PoolerProfile) -> Iterator[Finding]:
    try:
        with _connect(patient, patient.app_engine.url.set(database="pgbouncer")) as console:
            # The console speaks the simple protocol only, which psycopg uses for a query without values.
            row = console.execute("SHOW VERSION").fetchone()
            config = {str(row[0]): str(row[1]) for row in console.execute("SHOW CONFIG").fetchall()}
            mode = _mode(console, patient) or config.get("pool_mode")
        version = parse_pgbouncer_version(str(row[0]) if row else "")
    except (psycopg.Error, ConfigurationError):
        yield Finding(
            Severity.INFO,
            "PgBouncer's version could not be asked for; the settings that are safe with every version are in use",
            f"to allow it, add {patient.roles.login} to stats_users in pgbouncer.ini",
        )
        return
    if mode == "session":
        yield Finding(
            Severity.WARNING,
            "the pooler runs in session mode: each client holds a server connection for as long as it is connected, so "
            "that nothing is pooled",
            "set pool_mode = transaction in pgbouncer.ini",
        )
    if profile.prepared != "off" and config.get("max_prepared_statements", "0") == "0":
        yield Finding(
            Severity.ERROR,
            "the settings let drivers name prepared statements, and PgBouncer does not follow them",
            "set max_prepared_statements in pgbouncer.ini, as `mt-paas-db pgbouncer config` does",
        )
    told = profile.version
    if told is not None and version[: len(told)] != told:
        yield Finding(Severity.WARNING, f"the settings say {_dotted(told)}, PgBouncer says {_dotted(version)}")


def _mode(console: psycopg.Connection[Any], patient: Patient) -> str | None:
    """Return the mode of the app DSN's database, where it has one of its own."""
    databases = console.execute("SHOW DATABASES")
    names = [column.name for column in databases.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in databases.fetchall()]
    own = [row.get("pool_mode") for row in rows if row.get("name") == patient.app_engine.url.database]
    return next(filter(None, own), None)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
