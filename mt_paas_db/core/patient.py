"""What the doctor looks at: the app DSN as sessions use it, the admin DSN, and the catalog as its owner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Engine, NestedTransaction, RowMapping
from sqlalchemy.exc import SQLAlchemyError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.identifiers import InstallationRoles
from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.errors import ConfigurationError, TenancyError
from mt_paas_db.session.door import Door


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
        self.failed: dict[str, Exception] = {}
        self._credentials = credentials
        self._door = door
        self._admin = admin
        self._savepoint: NestedTransaction | None = None
        self._open = ExitStack()

    @property
    def app_engine(self) -> Engine:
        """The engine of the catalog look-up. Raises `ConfigurationError` where there is no app DSN."""
        return self._door.engines.blocking(self.cluster, "catalog")

    @cached_property
    def app(self) -> Connection:
        """A connection of the login role, as the catalog look-up uses it."""
        with self._once("app", "the app DSN does not connect"):
            return self._open.enter_context(self.app_engine.connect())

    @cached_property
    def _transaction(self) -> AdminTransaction:
        assert self._admin is not None
        with self._once("admin", "the admin DSN does not connect"):
            try:
                return self._open.enter_context(self._admin.transaction())
            except ConfigurationError as error:
                if self._credentials is not None and self._credentials(self.cluster, "admin"):
                    raise  # there is one, and it is wrong
                raise CannotLookError(str(error)) from error

    @property
    def admin(self) -> AdminTransaction:
        """A transaction of the admin, in this look's savepoint. Raises `CannotLookError` without an admin DSN."""
        transaction = self._transaction
        if self._savepoint is None:
            self._savepoint = transaction.connection.begin_nested()
        return transaction

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """One look: what it leaves of the admin's transaction, failed or acting as the owner, is rolled back."""
        try:
            yield
        finally:
            savepoint, self._savepoint = self._savepoint, None
            if savepoint is not None:
                savepoint.rollback()

    @contextmanager
    def catalog(self) -> Iterator[None]:
        """Ask as the owner, who alone may read the catalog. Raises as `registry.installation`."""
        with self._once("catalog", "the catalog cannot be read"), self.admin.as_owner() as connection:
            registry.installation(connection, cluster=self.cluster)
            yield

    @contextmanager
    def _once(self, what: str, reason: str) -> Iterator[None]:
        """Let the first failure through; later checks cannot look, and need not say it again."""
        if what in self.failed:
            raise CannotLookError(reason)
        try:
            yield
        except (TenancyError, SQLAlchemyError) as error:
            self.failed[what] = error
            raise

    def ask(self, name: str, **values: Any) -> list[RowMapping]:
        """Return the rows of a query of ``sql/checks.sql``, asked as the admin."""
        return list(self.admin.connection.execute(query("checks", name), values).mappings())

    @property
    def modern(self) -> bool:
        """Whether a membership has a grantor of its own, and options (PostgreSQL 16 and later)."""
        return self.admin.oneself.version >= 160_000

    @cached_property
    def logins(self) -> tuple[str, ...]:
        """The logins of all cells that tenants share, the first cell's first; that alone where nobody can ask."""
        first = self.roles.login
        try:
            with self.admin.connection.begin_nested() as savepoint:
                self.admin.run("act_as", role=self.roles.owner)
                found = [row["login_role"] for row in self.ask("cell_logins", cluster=self.cluster, login=first)]
                savepoint.rollback()
        except SQLAlchemyError:  # another check says why
            found = []
        return (first, *found)

    @property
    def present_logins(self) -> tuple[str, ...]:
        """Those of `logins` that exist. Raises `CannotLookError` where the first cell's does not."""
        if not self.has_role(self.roles.login):
            raise CannotLookError(f"role {self.roles.login!r} does not exist")
        return tuple(login for login in self.logins if self.has_role(login))

    def has_role(self, role: str) -> bool:
        """Return whether a role exists."""
        return bool(self.admin.ask("role_exists", role=role))

    @contextmanager
    def fresh(self) -> Iterator[AdminTransaction]:
        """A transaction of the admin on a connection of its own, whose server process has seen nothing yet."""
        assert self._admin is not None
        with self._admin.transaction() as step:
            yield step

    def close(self) -> None:
        """Close what was opened; nothing was changed."""
        with suppress(TenancyError, SQLAlchemyError):  # a connection that broke meanwhile is closed already
            self._open.close()
