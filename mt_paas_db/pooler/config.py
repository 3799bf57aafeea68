"""`mt-paas-db pgbouncer config`: from the fleet to files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.sql import Literal
from sqlalchemy import URL

from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url
from mt_paas_db.catalog.identifiers import InstallationRoles
from mt_paas_db.catalog.queries import ddl
from mt_paas_db.catalog.scram import stable_verifier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.capacity import default_budget
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.pooler.files import OurFile
from mt_paas_db.pooler.fleet import PoolerFleet, pooler_password
from mt_paas_db.pooler.ini import Auth, Shape, render_ini, render_userlist
from mt_paas_db.pooler.sizes import Sizes, divide
from mt_paas_db.session.pooler import PoolerProfile

DEFAULT_PORT = 6432
_PREPARED = 200  # PgBouncer's default from 1.24 on


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator says. None leaves it to the settings and the server.

    Attributes:
        budget: Server connections in all.
        clients: Client connections in all.
        listen_addr, port: Where PgBouncer accepts.
        auth: ``userlist`` or ``query``.
        version: PgBouncer's.
        seen_as: Where PgBouncer sees the folder, as a container that mounts it.
        include: A file of the operator's own settings.
    """

    budget: int | None = None
    clients: int = 1000
    listen_addr: str = "127.0.0.1"
    port: int | None = None
    auth: Auth = "userlist"
    version: tuple[int, ...] | None = None
    seen_as: str | None = None
    include: str | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """What shall stand in the folder, and what there is to say about it.

    `problems` are logins that will not get in, a line each; `notes` what else the operator should know.
    """

    fleet: PoolerFleet
    sizes: Sizes
    shape: Shape
    files: tuple[OurFile, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. No secret is among them."""
        return {
            "cluster": self.fleet.cluster,
            "database": self.shape.database,
            "listen": {"address": self.shape.listen_addr, "port": self.shape.listen_port},
            "version": None if self.shape.version is None else ".".join(map(str, self.shape.version)),
            "auth": self.shape.auth,
            "budget": self.sizes.budget,
            "reserve": self.sizes.reserve,
            "clients": self.sizes.clients,
            "certain": self.sizes.certain,
            "server_lifetime_s": self.sizes.server_lifetime_s,
            "logins": [
                {
                    "cell": login.cell.name,
                    "login": login.cell.login,
                    "tenants": login.cell.tenants,
                    "pool_size": self.sizes.of(login.cell),
                    "verifier": login.source,
                    "problem": login.problem,
                }
                for login in self.fleet.logins
            ],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def configure_pgbouncer(
    settings: Settings, credentials: CredentialProvider, fleet: PoolerFleet, folder: Path, wishes: Wishes
) -> Configuration:
    """Return the files for `folder`. Asks nobody but the credentials.

    Raises `ConfigurationError` where a value is missing, or cannot stand in PgBouncer's files.
    """
    roles = InstallationRoles(settings.installation)
    server = fleet.server
    app = cluster_url(credentials, fleet.cluster, "app")
    console = _console(credentials, fleet.cluster)
    budget = wishes.budget or default_budget(max_connections=server.max_connections, reserved=server.reserved)
    sizes = divide(budget, fleet.cells, tables=fleet.tables, clients=wishes.clients, uniform=wishes.auth == "query")
    shape = Shape(
        installation=settings.installation,
        version=wishes.version,
        listen_addr=wishes.listen_addr,
        listen_port=wishes.port or _listen_port(settings, fleet.cluster, app),
        folder=wishes.seen_as or str(folder.resolve()),
        database=server.database,
        target={
            "host": server.host,
            "port": str(server.port),
            "dbname": server.dbname if server.dbname != server.database else "",
        },
        tls={
            key: value
            for key, value in (("server_tls_sslmode", server.sslmode), ("server_tls_ca_file", server.sslrootcert))
            if value is not None
        },
        auth=wishes.auth,
        lookup_user=roles.pooler,
        admin_user=None if console is None else console.username,
        stats_user=roles.login,
        prepared_statements=_PREPARED if PoolerProfile.of(settings, fleet.cluster).prepared != "off" else 0,
        include=wishes.include,
    )
    users = _users(settings, credentials, fleet, wishes.auth, console)
    files = [
        OurFile("userlist.txt", render_userlist(users), secret=True),
        OurFile("pgbouncer.ini", render_ini(shape, sizes, fleet.cells)),
    ]
    if wishes.auth == "query":
        password = pooler_password(settings, credentials, fleet.cluster)
        text = ddl(
            "pooler",
            "lookup",
            pooler=roles.pooler,
            database=server.dbname,
            login=Literal(roles.login),
            group=Literal(roles.group),
            pattern=Literal(f"^{roles.login}_[0-9]+$"),
            verifier=Literal(stable_verifier(roles.pooler, password)),
        )
        files.insert(0, OurFile("auth_query.sql", text + "\n;\n", comment="--"))
    problems = [f"cell {i.cell.name!r}, login {i.cell.login!r}: {i.problem}" for i in fleet.logins if i.problem]
    return Configuration(
        fleet, sizes, shape, tuple(files), tuple(problems), tuple(_notes(shape, sizes, server, wishes))
    )


def _users(
    settings: Settings, credentials: CredentialProvider, fleet: PoolerFleet, auth: Auth, console: URL | None
) -> dict[str, str]:
    """Return what stands in the user list. One password is clear: that of the role PgBouncer itself logs in as."""
    users: dict[str, str] = {}
    if console is not None:
        assert console.username is not None
        users[console.username] = stable_verifier(console.username, str(console.password))
    if auth == "query":
        users[InstallationRoles(settings.installation).pooler] = pooler_password(settings, credentials, fleet.cluster)
        return users
    for login in (*fleet.logins, *fleet.former):
        if login.verifier is not None:
            users[login.cell.login] = login.verifier
    return users


def _console(credentials: CredentialProvider, entry: str) -> URL | None:
    if not credentials(entry, "console"):
        return None
    url = cluster_url(credentials, entry, "console")
    if not url.username or not url.password or not str(url.password).isascii():
        raise ConfigurationError(
            f"the console DSN of cluster {entry!r} needs a user, and a password of ASCII characters"
        )
    return url


def _listen_port(settings: Settings, entry: str, app: URL) -> int:
    pooled = PoolerProfile.of(settings, entry).kind != "direct"
    return (app.port if pooled else None) or DEFAULT_PORT


def _notes(shape: Shape, sizes: Sizes, server: Any, wishes: Wishes) -> Sequence[str]:
    notes = []
    if shape.auth == "query":
        notes.append(
            f"run auth_query.sql once as a superuser in database {server.dbname!r}; the user list holds the password "
            f"of {shape.lookup_user!r} in clear, as PgBouncer itself logs in with it"
        )
    if shape.admin_user is None:
        notes.append("no console DSN is set, so nobody may command PgBouncer's console; reload it with SIGHUP")
    if not sizes.certain:
        notes.append(
            f"there are more logins than the {sizes.budget} connections have room for; a cell with a queue can keep "
            "another waiting"
        )
    if server.max_connections - server.reserved < sizes.budget:
        notes.append(
            f"the budget of {sizes.budget} is more than the server gives: max_connections is {server.max_connections}, "
            f"of which {server.reserved} are reserved"
        )
    if wishes.version is None:
        notes.append("PgBouncer's version is not known, so only what 1.18 understands was written; see --version")
    return notes
