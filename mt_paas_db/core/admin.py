"""The admin's transactions: one connection, direct, as a role that may create roles.

The admin acts as itself where roles are made, and as the owner role for everything that an installation
owns, so that every object has the same owner whoever ran the command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg import pq
from psycopg.sql import Composable, Literal
from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url, login_url
from mt_paas_db.catalog.identifiers import InstallationRoles, Tier
from mt_paas_db.catalog.queries import ddl, query
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.scram import stable_verifier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Installation
from mt_paas_db.errors import CatalogMissingError, LockedError, MissingRightsError
from mt_paas_db.session.faults import connection_fault, server_fault

MINIMUM_VERSION = 15

ROLE_EXISTS = frozenset({"42710", "23505"})
"""SQLSTATEs of CREATE ROLE for a name in use: seen, or lost in a race for the unique index."""


Named = tuple[str, Mapping[str, str | Composable]]
"""A statement of ``sql/roles.sql``: its name and its parts."""


@dataclass(frozen=True, slots=True)
class Oneself:
    """Who the admin DSN logs in as, and where.

    `version` is ``server_version_num``.
    """

    name: str
    rolsuper: bool
    database: str
    version: int


class AdminTransaction:
    """An open transaction of the admin. `connection` acts as the admin, or inside `as_owner` as the owner."""

    def __init__(self, connection: Connection, admin: Admin) -> None:
        self.connection = connection
        self.roles = admin.roles
        self.cluster = admin.cluster
        self.password_of = admin.password_of
        self.installation: Installation | None = None  # whose catalog this is, once somebody has asked

    @cached_property
    def oneself(self) -> Oneself:
        """What the server said as the connection was opened. No query: a new server process would have to plan it."""
        known = self.connection.info.get(Oneself)
        if known is None:
            said = self._pgconn
            known = Oneself(
                name=(said.parameter_status(b"session_authorization") or said.user).decode(),
                rolsuper=said.parameter_status(b"is_superuser") == b"on",
                database=said.db.decode(),
                version=said.server_version,
            )
            self.connection.info[Oneself] = known
        return known

    @property
    def _pgconn(self) -> pq.abc.PGconn:
        driver: Any = self.connection.connection.driver_connection
        pgconn: pq.abc.PGconn = driver.pgconn
        return pgconn

    def set_password(self, login: str, password: str, *, stable: bool = False) -> Named:
        """Return the statement that sets a password, as a SCRAM verifier made here: no log can show it in clear.

        With `stable` the same password makes the same verifier, each time.
        """
        if stable and password.isascii():
            return ("set_password", {"login": login, "verifier": Literal(stable_verifier(login, password))})
        verifier = self._pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
        return ("set_password", {"login": login, "verifier": Literal(verifier)})

    def run(self, name: str, /, **parts: str | Composable) -> None:
        """Execute a statement of ``sql/roles.sql``."""
        # Without parameters, so that a percent sign in a name is a percent sign.
        self.connection.exec_driver_sql(ddl("roles", name, **parts), execution_options={"no_parameters": True})

    def run_all(self, *statements: Named | str) -> None:
        """Execute several statements as one message: text, or the name and the parts of one of ``sql/roles.sql``."""
        written = [text if isinstance(text, str) else ddl("roles", text[0], **text[1]) for text in statements]
        # The separator is on a line of its own, as a statement may end in a comment.
        self.connection.exec_driver_sql("\n;\n".join(written), execution_options={"no_parameters": True})

    def run_as_oneself(self, *statements: Named) -> None:
        """Execute several statements as one message as the admin, who alone may grant roles. Acts as the owner."""
        self.run_all(*self.by_oneself(*statements))

    def by_oneself(self, *statements: Named) -> list[Named]:
        """Return what acts as the admin for `statements`, and as the owner after them."""
        return [("act_as_oneself", {}), *statements, ("act_as", {"role": self.roles.owner})]

    def ask(self, name: str, /, **values: Any) -> Any:
        """Return the single value that a query of ``sql/roles.sql`` yields, or None."""
        return self.connection.execute(query("roles", name), values).scalar_one_or_none()

    def rows(self, name: str, /, **values: Any) -> list[Any]:
        """Return all rows that a query of ``sql/roles.sql`` yields."""
        return list(self.connection.execute(query("roles", name), values))

    def act_as_owner(self, *first: Named) -> None:
        """Execute what comes `first`, and act as the owner role from then on, at most until the transaction ends.

        Raises `CatalogMissingError` where there is no such role: nobody has run `init`.
        """
        try:
            self.run_all(*first, ("act_as", {"role": self.roles.owner}))
        except DBAPIError as error:
            if sqlstate_of(error) != "22023":
                raise
            raise CatalogMissingError(
                self.cluster, f"this server has no installation {self.roles.installation!r}"
            ) from error

    @contextmanager
    def as_owner(self) -> Iterator[Connection]:
        """Act as the owner role for the block, as by `act_as_owner`. An error leaves the role to the rollback."""
        self.act_as_owner()
        yield self.connection
        self.run("act_as_oneself")

    @contextmanager
    def as_oneself(self) -> Iterator[None]:
        """Inside `as_owner`: act as the admin for the block, who alone may grant roles."""
        self.run("act_as_oneself")
        yield
        self.run("act_as", role=self.roles.owner)


class Admin:
    """Opens the admin's transactions on the home cluster. Holds no connection between them."""

    def __init__(self, settings: Settings, credentials: CredentialProvider) -> None:
        self.cluster = settings.home_cluster
        self.roles = InstallationRoles(settings.installation)
        self._timeout_s = settings.connect_timeout_s
        self._settings = settings
        self._credentials = credentials

    def password_of(self, entry: str, login: str, *, tier: Tier) -> str | None:
        """Return the password of a cell's login, or a tenant's own; None where its DSN has none, as with certificates.

        Raises `ConfigurationError` where its credentials are not known.
        """
        if login == self.roles.login:
            password = cluster_url(self._credentials, entry, "app").password
        else:
            password = login_url(self._settings, self._credentials, entry, login, tier=tier).password
        return None if password is None else str(password)

    @cached_property
    def _engine(self) -> Engine:
        return self._make_engine(poolclass=NullPool)

    def _make_engine(self, **options: Any) -> Engine:
        url = cluster_url(self._credentials, self.cluster, "admin")
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            **options,
            connect_args={"connect_timeout": max(1, round(self._timeout_s)), "prepare_threshold": None},
        )

        @event.listens_for(engine, "do_connect")
        def connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.Error as error:
                raise connection_fault(error, cluster=self.cluster, url=url, dsn="admin DSN") from error

        return engine

    @contextmanager
    def keeping_connections(self, number: int) -> Iterator[None]:
        """Keep up to `number` connections open between transactions, for the block: for much work of one kind."""
        once, kept = self._engine, self._make_engine(poolclass=QueuePool, pool_size=number, max_overflow=number)
        self._engine = kept
        try:
            yield
        finally:
            self._engine = once
            kept.dispose()

    @contextmanager
    def transaction(self, *, as_owner: bool = False) -> Iterator[AdminTransaction]:
        """Open a transaction; it commits when the block ends, and is rolled back whole after an error.

        Raises:
            CatalogMissingError: `as_owner`, and there is no owner role.
            ServerUnavailableError: No connection, or the server has ended it.
            MissingRightsError: The server refused a statement for want of a right (42501).
            LockedError: A lock was not to be had within 30 s (55P03).
        """
        with self._explained(), self._engine.begin() as connection:
            transaction = AdminTransaction(connection, self)
            version = transaction.oneself.version
            if version < MINIMUM_VERSION * 10_000:
                raise MissingRightsError(
                    self.cluster,
                    f"PostgreSQL {MINIMUM_VERSION} or newer is needed, this is {version // 10_000}",
                )
            begin = transaction.act_as_owner if as_owner else transaction.run_all
            begin(("admin_path", {}), ("admin_patience", {}))
            yield transaction

    @contextmanager
    def owner_connection(self, schema: str) -> Iterator[Connection]:
        """Open a connection outside any transaction that acts as the owner, in `schema`, until it is closed.

        For what begins and commits transactions by itself. Same errors as `transaction`.
        """
        with self._explained(), self._engine.connect() as connection:
            connection.exec_driver_sql(ddl("roles", "owner_in_schema", role=self.roles.owner, schema=schema))
            connection.commit()
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say more of the server's errors that we know."""
        try:
            yield
        except DBAPIError as error:
            if sqlstate_of(error) == "42501":
                raise MissingRightsError(
                    self.cluster,
                    f"the admin's role lacks a right: {str(error.orig).strip().splitlines()[0]}; "
                    "use an admin DSN of a superuser or of a role with CREATEROLE that ran `init`",
                ) from error
            if sqlstate_of(error) == "55P03":
                raise LockedError(
                    self.cluster,
                    "another transaction has held a lock that this step needs for more than 30 s; "
                    "nothing was changed, try again when it has ended",
                ) from error
            fault = server_fault(error.orig, cluster=self.cluster, connection=None)
            if fault is not None:
                raise fault from error
            raise
