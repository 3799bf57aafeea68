"""sqlalchemy-tenants: row policies by the role of each tenant, as its README and its Alembic hook set them up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any, ClassVar

from sqlalchemy import Identity, NullPool, create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.attacked.orm import ANSWERS, POOL, OrmSession, forgotten, pooled
from benchmarks.attacked.subject import Address, Handles


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    body: Mapped[str]
    tenant: Mapped[str]


class SqlalchemyTenants:
    filters = True
    disclaims: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("at-rest", "at-rest-after-an-error", "left-setting", "no-tenant", "no-tenant-by-name", "raw-connection"),
            "its login is the admin: a session without a tenant, `new_session()`, is documented to see all rows",
        ),
        "created-again": "`delete_tenant` is documented to delete no data, only the role",
    }

    def __init__(self, url: str, options: dict[str, Any], *, prepare: bool = True) -> None:
        self._core = import_module("sqlalchemy_tenants.core")
        self._errors = import_module("sqlalchemy_tenants.exceptions")
        self.answers = (*ANSWERS, self._errors.TenantAlreadyExists, self._errors.TenantNotFound)
        place = make_url(url).set(drivername="postgresql+psycopg")
        self._engine = create_engine(place, connect_args=options, **POOL)
        manager = import_module("sqlalchemy_tenants.managers").PostgresManager
        self._manager = manager.from_engine(self._engine, schema_name="public")
        # Tenants are made elsewhere: on a connection that has served a tenant, they could not be made.
        self._admin = manager.from_engine(create_engine(place, poolclass=NullPool), schema_name="public")
        if prepare:
            self._prepare()

    def create(self, tenant: str) -> None:
        self._admin.create_tenant(tenant)

    def delete(self, tenant: str) -> None:
        self._admin.delete_tenant(tenant)

    @contextmanager
    def session(self, tenant: str) -> Iterator[OrmSession]:
        with self._manager.new_tenant_session(tenant, create_if_missing=False) as session:
            yield OrmSession(session, Note)
            session.commit()

    def nobody(self) -> AbstractContextManager[OrmSession]:
        return forgotten(self._engine, Note)

    def pool_connection(self) -> AbstractContextManager[Callable[[str], list[str]]]:
        return pooled(self._engine)

    def address(self, tenant: str) -> Address:
        return Address("public.note", "tenant", tenant)

    def handles(self, tenant: str) -> Handles:
        return Handles(role=self._core.get_tenant_role_name(tenant))

    def look_alikes(self, tenant: str) -> list[str]:
        return [f"{self._core.TENANT_ROLE_PREFIX}{tenant}"]

    def twin(self, url: str, options: dict[str, Any]) -> SqlalchemyTenants:
        return SqlalchemyTenants(url, options, prepare=False)

    def refresh(self) -> None:
        self._engine.dispose()

    def _prepare(self) -> None:
        """Make the table, and what the Alembic hook writes into a migration."""
        core = self._core
        import_module("sqlalchemy_tenants").with_rls(Note)
        function = core._GET_TENANT_FUNCTION_TEMPLATE.format(
            name=core.GET_TENANT_FUNCTION_NAME, tenant_role_prefix=core.TENANT_ROLE_PREFIX
        )
        with self._engine.begin() as connection:
            Base.metadata.create_all(connection)
            connection.execute(text(function))
            connection.execute(text('ALTER TABLE "note" ENABLE ROW LEVEL SECURITY'))
            connection.execute(text(core.get_table_policy(table_name="note", column_type=str)))
