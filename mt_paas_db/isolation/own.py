"""An installation of the suite's own, in a database of its own: for a run on a server that has none.

Made only where it was asked for by an admin DSN. Database and roles bear the run's number, the database a comment
that says whose it is; the run holds an advisory lock for as long as it lasts, so that the next one finds and removes
what a killed one has left.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import MetaData, make_url
from sqlalchemy.exc import ArgumentError

from mt_paas_db.catalog.queries import queries
from mt_paas_db.catalog.settings import ClusterSettings, load_settings
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.errors import ConfigurationError, MissingRightsError, ServerUnavailableError

_DATABASE = re.compile(r"mt_isolation_([0-9a-f]{8})")
_COMMENT = "mt_paas_db isolation suite"
_CLUSTER = "main"
_SHARED = "mt_isolation_shared"


@contextmanager
def own_installation(dsn: str, models: MetaData, **options: Any) -> Iterator[TenantManager]:
    """Create a database and an installation on the server of an admin DSN; yield its manager; drop both afterwards.

    It has all there is to attack: the schemas that the models share and one besides, and guards. `options` are
    settings beside or instead of those. Raises:
        ConfigurationError: `dsn` is no PostgreSQL URL.
        ServerUnavailableError: No connection.
        MissingRightsError: Its role may not create roles and databases; nothing was created.
    """
    try:
        url = make_url(dsn).set(drivername="postgresql")
    except (ArgumentError, ValueError):
        raise ConfigurationError("--dsn is no URL; write postgresql://user:password@host/database") from None
    try:
        connection = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
    except psycopg.OperationalError as error:
        raise ServerUnavailableError(_CLUSTER, f"cannot connect: {str(error).strip().splitlines()[0]}") from error
    with connection:
        _check_rights(connection)
        _clear(connection)
        run = secrets.token_hex(4)
        _ask(connection, "take_run", run=f"own {run}")
        database = f"mt_isolation_{run}"
        _execute(connection, "CREATE DATABASE {database}", database=database)
        try:
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(_COMMENT))
            )
            shared = (*dict.fromkeys(table.schema for table in models.sorted_tables if table.schema), _SHARED)
            options = {"shared_schemas": shared, "guards": True, **options}
            manager = TenantManager(_settings(url.set(database=database), run, options), models=models)
            try:
                manager.init()
                yield manager
            finally:
                manager.close()
        finally:
            _drop(connection, run)


def _settings(admin: Any, run: str, options: dict[str, Any]) -> Any:
    name = f"iso_{run}"
    app = admin.set(username=f"{name}_app", password=secrets.token_urlsafe(18))
    cluster = ClusterSettings.model_validate(
        {
            "app_dsn": app.render_as_string(hide_password=False),
            "admin_dsn": admin.render_as_string(hide_password=False),
            "pooler": "direct",
        }
    )
    options = {"login_secret": secrets.token_urlsafe(32), **options}
    return load_settings(**{"installation": name, "clusters": {_CLUSTER: cluster}, "home": _CLUSTER, **options})


def _check_rights(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(
        "SELECT rolsuper, rolcreaterole AND rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is None or not any(row):
        raise MissingRightsError(
            _CLUSTER,
            "the isolation suite would make a database and roles of its own, and the role of --dsn may not: "
            "it needs CREATEROLE and CREATEDB",
        )


def _clear(connection: psycopg.Connection[Any]) -> None:
    """Drop what killed runs have left; leave alone what belongs to one that is going on."""
    found = connection.execute(
        "SELECT datname FROM pg_catalog.pg_database WHERE pg_catalog.shobj_description(oid, 'pg_database') = %s",
        (_COMMENT,),
    ).fetchall()
    for (database,) in found:
        match = _DATABASE.fullmatch(database)
        if match and _ask(connection, "take_run", run=f"own {match[1]}"):
            _drop(connection, match[1])
            _ask(connection, "leave_run", run=f"own {match[1]}")


def _drop(connection: psycopg.Connection[Any], run: str) -> None:
    database = f"mt_isolation_{run}"
    try:  # waits some seconds for the last connections to end, and sends autovacuum away
        _execute(connection, "DROP DATABASE IF EXISTS {database}", database=database)
    except psycopg.errors.ObjectInUse:  # FORCE needs the right to end each of them, autovacuum's too
        _execute(connection, "DROP DATABASE IF EXISTS {database} WITH (FORCE)", database=database)
    roles = connection.execute(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE starts_with(rolname, %s)", (f"iso_{run}_",)
    ).fetchall()
    for (role,) in roles:
        _execute(connection, "DROP ROLE {role}", role=role)


def _ask(connection: psycopg.Connection[Any], name: str, *, run: str) -> bool:
    """Ask a query of ``sql/isolation.sql`` that takes the run's name."""
    statement = queries("isolation")[name].replace(":run", "%s")
    row = connection.execute(statement.encode(), (run,)).fetchone()
    return bool(row and row[0])


def _execute(connection: psycopg.Connection[Any], statement: str, **names: str) -> None:
    identifiers = {key: sql.Identifier(value) for key, value in names.items()}
    connection.execute(sql.SQL(statement).format(**identifiers))
