"""The examination: what each check looks at, with the app DSN as sessions use it and with the admin DSN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, RowMapping, text
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url
from mt_paas_db.catalog.identifiers import InstallationRoles, TenantName
from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.core.checks import CHECKS, Check, Finding, Report, Result, Severity, check
from mt_paas_db.errors import ConfigurationError, TenancyError, UnknownTenantError
from mt_paas_db.session.door import Door
from mt_paas_db.session.pooler import PoolerProfile, parse_pgbouncer_version

# Newest minor releases on which row-security faults of 2026 were reproduced (CVE-2026-120154, -116311 and
# others; PostgreSQL's security page lists them). 15.20 is the first fixed release of its branch.
_LAST_VULNERABLE_MINOR = {15: 19, 16: 14, 17: 10, 18: 4}

_LOGIN_PATH = 'pg_catalog, "$user", pg_temp'

_PROBE = TenantName("mt-paas-readiness-probe")


class CannotLookError(Exception):
    """A check lacks what it needs to look; its message says what."""


class Patient:
    """What the checks examine. Connections are opened when a check first asks for one, and closed at the end."""

    def __init__(
        self,
        door: Door,
        settings: Settings,
        admin: Admin | None = None,
        credentials: CredentialProvider | None = None,
    ) -> None:
        self.settings = settings
        self.cluster = settings.home_cluster
        self.roles = InstallationRoles(settings.installation)
        self.credentials = credentials
        self._door = door
        self._admin = admin
        self._failed: set[str] = set()
        self._open = ExitStack()

    @cached_property
    def app(self) -> Connection:
        """A connection of the login role, as the catalog look-up uses it."""
        with self._once("app"):
            return self._open.enter_context(self._door.engines.blocking(self.cluster, "catalog").connect())

    @cached_property
    def admin(self) -> AdminTransaction:
        """A transaction of the admin. Raises `CannotLookError` where there is no admin DSN."""
        assert self._admin is not None
        with self._once("admin"):
            try:
                return self._open.enter_context(self._admin.transaction())
            except ConfigurationError as error:
                raise CannotLookError(str(error)) from error

    @contextmanager
    def _once(self, dsn: str) -> Iterator[None]:
        """Let the first failure to connect through; later checks cannot look, and need not say it again."""
        if dsn in self._failed:
            raise CannotLookError(f"the {dsn} DSN does not connect")
        try:
            yield
        except TenancyError:
            self._failed.add(dsn)
            raise

    def ask(self, name: str, **values: Any) -> list[RowMapping]:
        """Return the rows of a query of ``sql/checks.sql``, asked as the admin."""
        return list(self.admin.connection.execute(query("checks", name), values).mappings())

    @property
    def has_login(self) -> bool:
        """Whether the login role exists."""
        return bool(self.admin.ask("role_exists", role=self.roles.login))

    @cached_property
    def login(self) -> RowMapping:
        """The login role's attributes. Raises `CannotLookError` where it does not exist."""
        if not self.has_login:
            raise CannotLookError(f"role {self.roles.login!r} does not exist")
        return self.ask("login_attributes", login=self.roles.login)[0]

    def close(self) -> None:
        """Close what was opened; nothing was changed."""
        self._open.close()


def examine(door: Door, admin: Admin, settings: Settings, credentials: CredentialProvider) -> Report:
    """Run every check."""
    return _run(Patient(door, settings, admin, credentials), CHECKS.values())


def readiness(door: Door, settings: Settings) -> Report:
    """Run the quick checks, which need the app DSN alone."""
    return _run(Patient(door, settings), (c for c in CHECKS.values() if c.quick))


def _run(patient: Patient, checks: Iterable[Check]) -> Report:
    results: list[Result] = []
    try:
        for one in checks:
            try:
                results.append(Result(one.id, one.title, tuple(one.look(patient))))
            except CannotLookError as reason:
                results.append(Result(one.id, one.title, (), skipped=str(reason)))
            except (TenancyError, DBAPIError) as error:
                results.append(Result(one.id, one.title, (Finding(Severity.ERROR, str(error)),)))
    finally:
        patient.close()
    return Report(tuple(results))


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


@check("login.attributes", "the login role has no powers")
def _login_attributes(patient: Patient) -> Iterator[Finding]:
    role = patient.roles.login
    if not patient.has_login:
        yield Finding(Severity.ERROR, f"role {role!r} does not exist: nobody has run init", "mt-paas-db init")
        return
    login = patient.login
    for attribute, word in {
        "rolsuper": "SUPERUSER",
        "rolinherit": "INHERIT",
        "rolcreaterole": "CREATEROLE",
        "rolcreatedb": "CREATEDB",
        "rolbypassrls": "BYPASSRLS",
        "rolreplication": "REPLICATION",
    }.items():
        if login[attribute]:
            yield Finding(Severity.ERROR, f"role {role!r} has {word}", f'ALTER ROLE "{role}" NO{word};')
    if not login["rolcanlogin"]:
        yield Finding(Severity.ERROR, f"role {role!r} cannot log in", f'ALTER ROLE "{role}" LOGIN;')


@check("login.path", "the login role's path resolves nothing by itself")
def _login_path(patient: Patient) -> Iterator[Finding]:
    role = patient.roles.login
    paths = [c.partition("=")[2] for c in patient.login["rolconfig"] if c.startswith("search_path=")]
    if paths != [_LOGIN_PATH]:
        yield Finding(
            Severity.ERROR,
            f"role {role!r} has the default search_path {paths[0] if paths else 'of the server'!r}: "
            "a statement outside a tenant could find tables",
            f'ALTER ROLE "{role}" SET search_path = {_LOGIN_PATH};',
        )


@check("login.rights", "the login role has no rights on any schema")
def _login_rights(patient: Patient) -> Iterator[Finding]:
    role = patient.roles.login
    _ = patient.login
    for row in patient.ask("login_schemas", login=role):
        yield Finding(
            Severity.ERROR,
            f"role {role!r} may use schema {row['nspname']!r} without taking a tenant's role",
            f'REVOKE ALL ON SCHEMA "{row["nspname"]}" FROM PUBLIC, "{role}";',
        )


@check("login.database", "the login role may connect, and no more")
def _login_database(patient: Patient) -> Iterator[Finding]:
    role, database = patient.roles.login, patient.admin.oneself.database
    _ = patient.login
    rights = patient.ask("login_database", login=role)[0]
    for word in ("TEMP", "CREATE"):
        if rights["temp" if word == "TEMP" else "may_create"]:
            yield Finding(
                Severity.ERROR,
                f"role {role!r} has {word} on database {database!r}"
                + (": a temporary table outlives its tenant on a pooled connection" if word == "TEMP" else ""),
                f'REVOKE {word} ON DATABASE "{database}" FROM PUBLIC, "{role}";',
            )
    if not rights["may_connect"]:
        yield Finding(
            Severity.ERROR,
            f"role {role!r} may not connect",
            f'GRANT CONNECT ON DATABASE "{database}" TO "{role}";',
        )


@check("login.memberships", "the login role inherits from no tenant and administers none")
def _memberships(patient: Patient) -> Iterator[Finding]:
    role = patient.roles.login
    modern = patient.admin.oneself.version >= 160_000
    for row in patient.ask("memberships_16" if modern else "memberships_15", login=role):
        if row["admin_option"]:
            yield Finding(
                Severity.ERROR,
                f"role {role!r} may grant {row['role']!r} to others",
                f'REVOKE ADMIN OPTION FOR "{row["role"]}" FROM "{role}";',
            )
        if row["inherit_option"] or not row["set_option"]:
            what = "has the rights of" if row["inherit_option"] else "may not take"
            yield Finding(
                Severity.ERROR,
                f"role {role!r} {what} {row['role']!r}",
                f'GRANT "{row["role"]}" TO "{role}" WITH INHERIT FALSE, SET TRUE;',
            )


@check("tenants.server", "every tenant of the catalog has its role, schema and rights")
def _tenants(patient: Patient) -> Iterator[Finding]:
    with patient.admin.as_owner():
        rows = patient.ask("tenants_against_server")
    for row in rows:
        yield from _tenant(row, patient.roles.owner)


def _tenant(row: RowMapping, owner: str) -> Iterator[Finding]:
    who, role, schema, login = (
        f"tenant {row['tenant_id']!r}",
        row["role_name"],
        row["schema_name"],
        row["login_role"],
    )
    if not row["has_role"]:
        yield Finding(Severity.ERROR, f"{who}: role {role!r} is missing", f'CREATE ROLE "{role}" NOLOGIN;')
    if not row["has_schema"]:
        yield Finding(Severity.ERROR, f"{who}: schema {schema!r} is missing", "restore it from a backup")
    if not (row["has_role"] and row["has_schema"]):
        return
    if row["schema_owner"] != owner:
        yield Finding(
            Severity.ERROR,
            f"{who}: schema {schema!r} belongs to {row['schema_owner']!r}",
            f'ALTER SCHEMA "{schema}" OWNER TO "{owner}";',
        )
    if not row["has_usage"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: the role may not use its schema",
            f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}";',
        )
    if row["has_create"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: the role may create objects in its schema, which a migration could run as the owner",
            f'REVOKE CREATE ON SCHEMA "{schema}" FROM "{role}", PUBLIC;',
        )
    takes_sessions = row["state"] in ("active", "read_only")
    if takes_sessions and not row["is_member"]:
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but {login!r} may not take its role",
            f'GRANT "{role}" TO "{login}";  -- on PostgreSQL 16 and later add WITH INHERIT FALSE, SET TRUE',
        )
    if not takes_sessions and row["is_member"]:
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but {login!r} may still take its role",
            f'REVOKE "{role}" FROM "{login}";',
        )


@check("pooler.mode", "what stands between the app DSN and the server is what the settings say")
def _pooler(patient: Patient) -> Iterator[Finding]:
    cluster = patient.settings.clusters.get(patient.cluster)
    profile = PoolerProfile.parse(cluster.pooler if cluster else "direct")
    driver: Any = patient.app.connection.driver_connection
    told = driver.info.backend_pid
    pooled = told != patient.app.execute(text("SELECT pg_catalog.pg_backend_pid()")).scalar_one()
    setting = f"MT_PAAS_DB_CLUSTERS__{patient.cluster.upper()}__POOLER"
    if pooled and profile.kind == "direct":
        yield Finding(
            Severity.ERROR,
            "a pooler stands between the app DSN and the server (the backend's process id is not the one announced), "
            "but the settings say 'direct': named prepared statements will fail",
            f"set {setting}=pgbouncer",
        )
    if not pooled and profile.kind == "pgbouncer":
        yield Finding(Severity.INFO, "the settings say 'pgbouncer', but the app DSN leads to the server itself")
    if not pooled:
        return
    try:
        patient.app.exec_driver_sql("BEGIN")
        patient.app.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        yield Finding(
            Severity.ERROR,
            f"the pooler allows no transactions ({str(error.orig).strip()}); tenant sessions need them",
            "set pool_mode = transaction in pgbouncer.ini",
        )
        return
    yield from _pgbouncer_version(patient, profile)


def _pgbouncer_version(patient: Patient, profile: PoolerProfile) -> Iterator[Finding]:
    import psycopg

    assert patient.credentials is not None
    url = cluster_url(patient.credentials, patient.cluster, "app").set(database="pgbouncer")
    try:
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True, connect_timeout=5) as console:
            # The console speaks the simple protocol only, which psycopg uses for a query without values.
            row = console.execute("SHOW VERSION").fetchone()
        version = parse_pgbouncer_version(str(row[0]) if row else "")
    except (psycopg.Error, ConfigurationError):
        yield Finding(
            Severity.INFO,
            "PgBouncer's version could not be asked for; the settings that are safe with every version are in use",
            f"to allow it, add {patient.roles.login} to stats_users in pgbouncer.ini",
        )
        return
    found = ".".join(map(str, version))
    if profile.version is not None and version[: len(profile.version)] != profile.version:
        yield Finding(Severity.WARNING, f"the settings say {profile.version}, PgBouncer says {found}")
