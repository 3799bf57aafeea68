"""A fleet of tenants in cells, and what it is compared with: a table without tenancy, a login of all, a login each.

The server is as it comes: fsync on, autovacuum on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg import sql
from sqlalchemy import Column, Identity, Integer, MetaData, String, Table

from benchmarks.raw_libpq import Libpq
from benchmarks.workload import ROWS
from mt_paas_db.core import NewTenant, TenantManager
from mt_paas_db.migrate.message import literal
from mt_paas_db.pooler.sizes import Cell, divide
from tests.fleet import PASSWORD, Service
from tests.servers import PgBouncer, PostgresServer, find_pgbouncer, find_postgres

PLAIN_SCHEMA = "plain"
CONSOLE = "console"
"""A user of PgBouncer's console."""

_JOBS = 4


def make_models(tables: int) -> MetaData:
    """Return the models of a service with `tables` tables; ``note`` is the first."""
    metadata = MetaData()
    for name in ("note", *(f"table_{number:02}" for number in range(1, tables))):
        Table(
            name,
            metadata,
            Column("id", Integer, Identity(always=False), primary_key=True),
            Column("author", String(40), nullable=False, index=name != "note"),
            Column("body", String(400), nullable=False),
        )
    return metadata


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant, its schema and role, and who logs in for it."""

    tenant_id: str
    schema: str
    login: str


@dataclass
class FleetInCells:
    """The installation. `grow` makes tenants; the first so many of them are what a point of a benchmark uses.

    Attributes:
        cell_size: Tenants that share a login role; None for the setting's default.
    """

    service: Service
    tables: int
    cell_size: int | None = None
    places: list[Place] = field(default_factory=list)

    @property
    def server(self) -> PostgresServer:
        return self.service.server

    @property
    def plain(self) -> str:
        """A login with rights of its own on ``plain.note``, which holds the rows of all tenants."""
        return f"{self.service.name}_x_plain"

    @property
    def member(self) -> str:
        """A login that is a member of all tenants' roles: the one-pool way."""
        return f"{self.service.name}_x_member"

    @staticmethod
    def own_login(schema: str) -> str:
        """Return the login that one tenant has to itself, where every tenant has an engine of its own."""
        return f"x_{schema}"

    @property
    def cells(self) -> list[str]:
        """The login roles, in the order in which the tenants came to use them."""
        return list(dict.fromkeys(place.login for place in self.places))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that make the fleet what it is."""
        return {} if self.cell_size is None else {"cell_size": self.cell_size}

    @cached_property
    def admin(self) -> TenantManager:
        """A manager that makes and ends tenants."""
        return self.service.manager(**self.settings)

    def dsn(self, user: str, *, pooler: PgBouncer | None = None) -> str:
        """Return a URL of the service's database for a login."""
        port = pooler.port if pooler else self.server.port
        return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port}/{self.service.database}"

    def ask(self, query: str, *parameters: object) -> list[Any]:
        """Return what a query of the superuser yields."""
        with self.service.superuser() as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def send(self, messages: Sequence[str]) -> None:
        """Send messages as superuser, on several connections. Not timed."""
        with Libpq(self.server.dsn(self.service.database), jobs=_JOBS, first="SET synchronous_commit = off") as libpq:
            libpq.send(messages)

    @property
    def version(self) -> str:
        """The server's version, for the report."""
        return str(self.ask("SHOW server_version")[0][0]).split()[0]

    # -- tenants

    def begin(self) -> None:
        """Make the roles and the catalog, and the table without tenancy."""
        self.admin.init()
        plain, member = sql.Identifier(self.plain), sql.Identifier(self.member)
        names = {"schema": sql.Identifier(PLAIN_SCHEMA), "database": sql.Identifier(self.service.database)}
        with self.service.superuser() as connection:
            for login in (plain, member):
                for statement in (
                    "CREATE ROLE {login} LOGIN NOINHERIT PASSWORD {password}",
                    "GRANT CONNECT ON DATABASE {database} TO {login}",
                ):
                    text = sql.SQL(statement).format(login=login, password=sql.Literal(PASSWORD), **names)
                    connection.execute(text)
            for statement in (
                "CREATE SCHEMA {schema}",
                (
                    "CREATE TABLE {schema}.note (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
                    " author varchar(40) NOT NULL, body varchar(400) NOT NULL)"
                ),
                "GRANT USAGE ON SCHEMA {schema} TO {login}",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.note TO {login}",
                "ALTER ROLE {login} SET search_path = {schema}",
            ):
                connection.execute(sql.SQL(statement).format(login=plain, **names))

    def grow(self, number: int) -> None:
        """Make tenants until there are `number`, each with its rows in ``note``. Not timed."""
        ids = [f"bench-{n:05}" for n in range(len(self.places), number)]
        if not ids:
            return
        made = self.admin.create_many([NewTenant(tenant_id) for tenant_id in ids], jobs=_JOBS)
        if made.failed:
            raise RuntimeError(f"not all were created: {made.failed[:3]}")
        by_id = {tenant.tenant_id: tenant.placement for tenant in made.created}
        new = [Place(one, by_id[one].schema_name, by_id[one].login_role) for one in ids]
        first = len(self.places)
        self.places += new
        rows = f"generate_series(1, {ROWS}) AS row"
        self.send(
            [
                f'INSERT INTO "{place.schema}".note (author, body)'
                f" SELECT {literal(place.tenant_id)}, repeat('note ' || row || '. ', 10) FROM {rows};"
                f' GRANT "{place.schema}" TO "{self.member}"'
                for place in new
            ]
        )
        self.ask(
            f"INSERT INTO {PLAIN_SCHEMA}.note (id, author, body)"
            f" SELECT 1 + tenant * {ROWS} + row - 1, 'bench-' || lpad(tenant::text, 5, '0'),"
            f" repeat('note ' || row || '. ', 10) FROM generate_series({first}, {number - 1}) AS tenant, {rows}"
        )
        self.settle()

    def give_own_logins(self) -> None:
        """Give each tenant a login that is its role from the first statement on."""
        logins = [(self.own_login(place.schema), place.schema) for place in self.places]
        self.send(
            [
                f'CREATE ROLE "{login}" LOGIN PASSWORD {literal(PASSWORD)} IN ROLE "{schema}";'
                f' ALTER ROLE "{login}" SET search_path = "{schema}", pg_temp'
                for login, schema in logins
            ]
        )

    def close(self) -> None:
        """Close the managers' connections; the server goes with the ground."""
        for manager in self.service.managers:
            manager.close()

    def settle(self) -> None:
        """Vacuum, count and write out, so that nothing of it falls into a measurement."""
        with self.service.superuser() as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")


@contextmanager
def fleet_in_cells(
    *, major: int | None, tables: int, cell_size: int | None, max_connections: int = 200, **settings: str
) -> Iterator[FleetInCells]:
    """Start PostgreSQL `major`, the newest where None, and an installation without tenants; stop it afterwards.

    Raises `LookupError` where there is no such PostgreSQL.
    """
    with ExitStack() as stack:
        server = PostgresServer(find_postgres(major), settings={"max_connections": str(max_connections), **settings})
        stack.enter_context(server)
        fleet = FleetInCells(Service(server, models=make_models(tables)), tables, cell_size)
        stack.callback(fleet.close)
        fleet.begin()
        yield fleet


def plain_pooler(fleet: FleetInCells, *, connections: int) -> PgBouncer:
    """Return a PgBouncer, to be entered, for the login without tenancy alone. Raises `LookupError` where none is."""
    return _pooler(fleet, [fleet.plain], pool_size=connections, connections=connections)


def cells_pooler(fleet: FleetInCells, *, connections: int) -> PgBouncer:
    """Return a PgBouncer, to be entered, with the sizes that `mt-paas-db pgbouncer config` gives the fleet's cells.

    Raises `LookupError` where none is.
    """
    tenants = Counter(place.login for place in fleet.places)
    cells = [Cell(login, login, number, own=False) for login, number in tenants.items()]
    sizes = divide(connections, cells, tables=fleet.tables)
    return _pooler(
        fleet, fleet.cells, pool_size=sizes.shared, connections=connections,
        reserve_pool_size=sizes.reserve, reserve_pool_timeout=2,
        server_lifetime=sizes.server_lifetime_s, server_idle_timeout=sizes.server_idle_timeout_s,
    )  # fmt: skip


def _pooler(
    fleet: FleetInCells, logins: Sequence[str], *, pool_size: int, connections: int, **options: int
) -> PgBouncer:
    find_pgbouncer()
    held = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = ANY(%s)"
    return PgBouncer(
        fleet.server.port,
        users=dict(fleet.ask(held, list(logins))),  # verifiers: PgBouncer passes the client's proof on
        pool_size=pool_size,
        options={
            "max_db_connections": str(connections),
            "max_client_conn": "5000",
            **{name: str(value) for name, value in options.items()},
        },
    )


def looking_up_pooler(fleet: FleetInCells, *, connections: int) -> PgBouncer | None:
    """Return a PgBouncer, to be entered, that finds logins that are made later, too; None where there is none."""
    try:
        find_pgbouncer()
    except LookupError:
        return None
    return PgBouncer(
        fleet.server.port,
        users={CONSOLE: PASSWORD},
        lookup="postgres",
        pool_size=4,
        options={"max_db_connections": str(connections)},
    )
