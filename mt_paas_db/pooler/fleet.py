"""What a PgBouncer before one cluster has to know: read from the catalog, the server and the credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import URL

from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url, login_url
from mt_paas_db.catalog.identifiers import InstallationRoles, Tier
from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.scram import is_verifier_of, stable_verifier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.pooler.sizes import Cell

Source = Literal["server", "derived"]


@dataclass(frozen=True, slots=True)
class Login:
    """A cell's login. `problem` says why it will not get in through the pooler; None where it will.

    `verifier` is what it logs in with: as the server holds it, or, where the admin may not read that, as this library
    sets it from the password (`source`).
    """

    cell: Cell
    verifier: str | None
    source: Source | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """PostgreSQL behind the pooler, as the admin DSN has it. `database` is what clients call it, `dbname` its name."""

    database: str
    host: str
    port: int
    dbname: str
    sslmode: str | None
    sslrootcert: str | None
    max_connections: int
    reserved: int


@dataclass(frozen=True, slots=True)
class PoolerFleet:
    """All that goes into the files.

    `tables` is how many a tenant has; `former` are logins that no cell has any more and a process may remember.
    """

    installation: str
    cluster: str
    server: Server
    tables: int
    logins: tuple[Login, ...]
    former: tuple[Login, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, the default one first."""
        return tuple(login.cell for login in self.logins)


def read_fleet(settings: Settings, credentials: CredentialProvider, admin: Admin) -> PoolerFleet:
    """Return what the catalog of the home cluster, its server and the credentials say. Changes nothing.

    Raises `ServerUnavailableError`, `CatalogMissingError`, `MissingRightsError`, `ConfigurationError`.
    """
    app = cluster_url(credentials, admin.cluster, "app")
    to_server = cluster_url(credentials, admin.cluster, "admin")
    with admin.transaction() as step:
        step.act_as_owner()
        rows = step.connection.execute(query("pooler", "cells"), {"cluster": admin.cluster}).all()
        tables = step.connection.execute(query("pooler", "tables"), {"cluster": admin.cluster}).scalar_one()
        left = step.connection.execute(query("pooler", "former_logins"), {"login": admin.roles.login}).scalars().all()
        step.run("act_as_oneself")
        cells = [Cell(name=row.name, login=row.login, tenants=row.tenants, own=row.own) for row in rows]
        before = [Cell(name="former", login=login, tenants=0, own=False) for login in left]
        stored = _stored(step, [cell.login for cell in (*cells, *before)])
        limits = step.connection.execute(query("pooler", "limits")).one()
    return PoolerFleet(
        settings.installation,
        admin.cluster,
        _server(app, to_server, limits.max_connections, limits.reserved),
        tables,
        logins=tuple(_login(admin, cell, stored) for cell in cells),
        former=tuple(_login(admin, cell, stored) for cell in before),
    )


def read_logins(admin: Admin) -> tuple[Cell, ...]:
    """Return the cells of the home cluster alone. Same errors as `read_fleet`."""
    with admin.transaction(as_owner=True) as step:
        rows = step.connection.execute(query("pooler", "cells"), {"cluster": admin.cluster}).all()
    return tuple(Cell(name=row.name, login=row.login, tenants=row.tenants, own=row.own) for row in rows)


def pooler_password(settings: Settings, credentials: CredentialProvider, entry: str) -> str:
    """Return the password of the role that PgBouncer looks logins up as. Raises `ConfigurationError` for none."""
    role = InstallationRoles(settings.installation).pooler
    password = login_url(settings, credentials, entry, role, tier=Tier.LOGIN).password
    if password is None or not str(password).isascii():
        raise ConfigurationError(
            f"PgBouncer looks logins up as {role!r}, which needs a password of ASCII characters; set "
            f"MT_PAAS_DB_LOGIN_SECRET, or let the credential provider answer for {f'{entry}/{role}'!r}"
        )
    return str(password)


def _stored(step: AdminTransaction, logins: list[str]) -> Mapping[str, str | Literal[False] | None]:
    """Return what the server holds for each login that is there: its verifier, or False where that cannot be read."""
    found = step.connection.execute(query("pooler", "logins"), {"logins": logins}).all()
    if not all(row.readable for row in found):
        return dict.fromkeys((row.rolname for row in found), False)
    held = step.connection.execute(query("pooler", "verifiers"), {"logins": logins}).all()
    return {row.rolname: row.rolpassword for row in held}


def _login(admin: Admin, cell: Cell, stored: Mapping[str, str | Literal[False] | None]) -> Login:
    try:
        password = admin.password_of(admin.cluster, cell.login, tier=Tier.LOGIN if cell.own else Tier.ROLE)
    except ConfigurationError as error:
        return Login(cell, None, None, str(error))
    if cell.login not in stored:
        return Login(cell, None, None, "the role does not exist on the server; `mt-paas-db doctor` says what mends it")
    held = stored[cell.login]
    if held is None:
        return Login(cell, None, None, "the role has no password on the server, so PgBouncer has nothing to compare")
    if held is False:
        if password is None or not password.isascii():
            return Login(cell, None, None, "its verifier may not be read, and its password is not known or not ASCII")
        return Login(cell, stable_verifier(cell.login, password), "derived")
    if not held.startswith("SCRAM-SHA-256$"):
        return Login(cell, None, None, "its password is stored as md5; set it again with SCRAM-SHA-256")
    if password is not None and is_verifier_of(held, password) is False:
        return Login(
            cell, held, "server", "the password of its credentials is not the one that the server has; set one of them"
        )
    return Login(cell, held, "server")


def _server(app: URL, to_server: URL, max_connections: int, reserved: int) -> Server:
    def told(name: str) -> str | None:
        value = to_server.query.get(name)
        return value if isinstance(value, str) else None

    assert app.database is not None  # cluster_url insists on both
    assert to_server.database is not None
    return Server(
        database=app.database,
        host=to_server.host or told("host") or "",
        port=to_server.port or int(told("port") or 5432),
        dbname=to_server.database,
        sslmode=told("sslmode"),
        sslrootcert=told("sslrootcert"),
        max_connections=max_connections,
        reserved=reserved,
    )
