"""What the session benchmark runs on: one server, tenants with a table each, and the same table without tenancy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Identity, MetaData, String, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.workload import notes, shared_id
from mt_paas_db.catalog.settings import load_settings
from mt_paas_db.core import ClusterSettings, TenantManager
from tests.fleet import PASSWORD, Route, Service
from tests.servers import PgBouncer, PostgresServer, find_pgbouncer, find_postgres

PLAIN_SCHEMA = "plain"


class Base(DeclarativeBase):
    metadata = MetaData()


class Note(Base):
    """Built-in types only: the naive way fails on a type that exists once per tenant schema."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(Identity(always=False), primary_key=True)
    author: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(String(400))


@dataclass(frozen=True)
class Ground:
    """The installation with its tenants, ready to be read.

    Attributes:
        service: The installation, its database and its login role.
        plain_login: A login role with rights of its own on ``plain.note``.
        tenants: The tenants' ids.
        schemas: Their schemas, and the roles of the same names, in the same order.
        pooler: A PgBouncer before the server, one server connection for each login; None where there is none.
        peers: The login role of each peer, which owns an empty database of the same name.
    """

    service: Service
    plain_login: str
    tenants: tuple[str, ...]
    schemas: tuple[str, ...]
    pooler: PgBouncer | None
    peers: Mapping[str, str]

    @property
    def server(self) -> PostgresServer:
        return self.service.server

    def dsn(self, user: str, *, pooled: bool, port: int | None = None) -> str:
        """Return a URL of the service's database for a login, direct or through the pooler, or through `port`."""
        if port is None:
            port = self.pooler.port if pooled and self.pooler else self.service.server.port
        return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port}/{self.service.database}"

    def manager(self, route: Route, *, port: int | None = None, **options: Any) -> TenantManager:
        """Return a new manager that takes `route`."""
        cluster = ClusterSettings(
            app_dsn=SecretStr(self.dsn(self.service.login, pooled=route.pooled, port=port)),
            pooler="pgbouncer" if route.pooled else "direct",
        )
        settings = load_settings(installation=self.service.name, clusters={"main": cluster}, **route.options, **options)
        return TenantManager(settings)


@contextmanager
def prepared_ground(*, tenants: int, major: int | None, peers: Sequence[str] = ()) -> Iterator[Ground]:
    """Start PostgreSQL `major` (the newest where None) and PgBouncer, and fill them; stop them afterwards.

    Each of `peers` gets a login role and a database.

    Raises `LookupError` where there is no such PostgreSQL.
    """
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(find_postgres(major)))
        service = Service(server, models=Base)  # not closed: the whole server goes
        plain = f"{service.name}_plain"
        manager = service.manager()
        stack.callback(manager.close)
        manager.init()
        ids = tuple(f"bench-{number}" for number in range(tenants))
        schemas = tuple(manager.create(tenant_id).placement.schema_name for tenant_id in ids)
        for number, tenant_id in enumerate(ids):
            with manager.get_session(tenant_id) as session:
                session.execute(insert(Note), notes(number))
        _make_plain(service, plain, tenants)
        logins = {peer: f"{service.name}_{peer.replace('-', '_')}" for peer in peers}
        for login in logins.values():
            _make_database(service, login)
        pooler = None
        try:
            find_pgbouncer()
        except LookupError:
            pass
        else:
            users = dict.fromkeys((service.login, plain, *logins.values()), PASSWORD)
            pooler = stack.enter_context(PgBouncer(server.port, users=users))
        yield Ground(service, plain, ids, schemas, pooler, logins)


def _make_plain(service: Service, login: str, tenants: int) -> None:
    schema, name = sql.Identifier(PLAIN_SCHEMA), sql.Identifier(login)
    database = sql.Identifier(service.database)
    with service.superuser() as connection:
        for statement in (
            sql.SQL("CREATE ROLE {login} LOGIN PASSWORD {password}"),
            sql.SQL("GRANT CONNECT ON DATABASE {database} TO {login}"),
            sql.SQL("CREATE SCHEMA {schema}"),
            sql.SQL(
                "CREATE TABLE {schema}.note (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
                " author varchar(40) NOT NULL, body varchar(400) NOT NULL)"
            ),
            sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {login}"),
            sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.note TO {login}"),
            sql.SQL("ALTER ROLE {login} SET search_path = {schema}"),
        ):
            connection.execute(
                statement.format(login=name, password=sql.Literal(PASSWORD), database=database, schema=schema)
            )
        copy = sql.SQL("COPY {}.note (id, author, body) FROM STDIN").format(schema)
        with connection.cursor().copy(copy) as sink:
            for number in range(tenants):
                for row in notes(number, first_id=shared_id(number, 0)):
                    sink.write_row(tuple(row.values()))
        connection.execute("VACUUM ANALYZE")


def _make_database(service: Service, login: str) -> None:
    name = sql.Identifier(login)
    with service.superuser("postgres") as connection:
        # CREATEROLE, because a peer may keep a role for each tenant.
        role = sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}")
        connection.execute(role.format(name, sql.Literal(PASSWORD)))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
