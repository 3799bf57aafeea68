"""fastapi-tenancy: schema isolation, or row policies, both as its documentation configures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any, ClassVar

from sqlalchemy import Identity, String, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import await_only

from benchmarks.attacked.orm import ANSWERS, POOL, OrmSession, forgotten, pooled
from benchmarks.attacked.subject import Address, Handles, quoted


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    body: Mapped[str]


class SharedBase(DeclarativeBase):
    pass


class SharedNote(SharedBase):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    body: Mapped[str]
    tenant_id: Mapped[str] = mapped_column(String(64))


class FastapiTenancy:
    """Sessions come from ``manager.isolation_provider.get_session(tenant)``, which its FastAPI dependency yields."""

    strategy: str
    note: Any
    filters: bool
    disclaims: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: str, options: dict[str, Any], tenants: dict[str, Any] | None = None) -> None:
        package = import_module("fastapi_tenancy")
        url = make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
        config = package.TenancyConfig(
            database_url=url,
            resolution_strategy="header",
            isolation_strategy=self.strategy,
            database_pool_size=POOL["pool_size"],
            database_max_overflow=POOL["max_overflow"],
            enable_soft_delete=False,  # or a tenant's data cannot be deleted
        )
        provider = None
        if options:  # a pooler's; the configuration has no place for them
            module = import_module(f"fastapi_tenancy.isolation.{self.strategy}")
            kind = {"schema": "SchemaIsolationProvider", "rls": "RLSIsolationProvider"}[self.strategy]
            provider = getattr(module, kind)(config, engine=create_async_engine(url, connect_args=options, **POOL))
        self._memory = import_module("fastapi_tenancy.storage.memory").InMemoryTenantStore()
        self._manager = package.TenancyManager(config, self._memory, isolation_provider=provider)
        self._config = config
        self.answers = (*ANSWERS, import_module("fastapi_tenancy.core.exceptions").TenancyError, ValueError)
        self._tenants: dict[str, Any] = {} if tenants is None else tenants
        if tenants is None:
            await_only(self._manager.initialize())
            self._prepare()

    def create(self, tenant: str) -> None:
        made = self._manager.register_tenant(tenant, tenant, app_metadata=self.note.metadata)
        self._tenants[tenant] = await_only(made)

    def delete(self, tenant: str) -> None:
        gone = self._tenants.pop(tenant)
        await_only(self._manager.delete_tenant(gone.id, destroy_data=True, app_metadata=self.note.metadata))

    @contextmanager
    def session(self, tenant: str) -> Iterator[OrmSession]:
        context = self._manager.isolation_provider.get_session(self._tenants[tenant])
        session = await_only(context.__aenter__())
        try:
            yield OrmSession(session.sync_session, self.note)
            await_only(session.commit())
        except BaseException as error:
            if not await_only(context.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            await_only(context.__aexit__(None, None, None))

    def nobody(self) -> AbstractContextManager[OrmSession]:
        return forgotten(self._engine.sync_engine, self.note)

    def pool_connection(self) -> AbstractContextManager[Callable[[str], list[str]]]:
        return pooled(self._engine.sync_engine)

    def look_alikes(self, tenant: str) -> list[str]:
        return [f"tenant_{tenant}", f"tenant-{tenant}"]

    def twin(self, url: str, options: dict[str, Any]) -> FastapiTenancy:
        return type(self)(url, options, self._tenants)

    def refresh(self) -> None:
        await_only(self._engine.dispose())

    def _prepare(self) -> None:
        """Make what must be there before the first tenant."""

    @property
    def _engine(self) -> Any:
        return self._manager.isolation_provider.engine

    def address(self, tenant: str) -> Address:
        raise NotImplementedError

    def handles(self, tenant: str) -> Handles:
        raise NotImplementedError


class SchemaIsolation(FastapiTenancy):
    strategy, note, filters = "schema", Note, False

    def address(self, tenant: str) -> Address:
        return Address(f"{quoted(self._config.get_schema_name(tenant))}.note")

    def handles(self, tenant: str) -> Handles:
        return Handles(schema=self._config.get_schema_name(tenant))


class RowIsolation(FastapiTenancy):
    strategy, note, filters = "rls", SharedNote, True

    def _prepare(self) -> None:
        """Make the shared table, with the policy that the documentation shows: enabled, and forced on the owner."""
        policy: str = import_module("fastapi_tenancy.isolation.rls")._SAMPLE_POLICY_SQL.format(table_name="note")

        async def prepare() -> None:
            async with self._engine.begin() as connection:
                await connection.run_sync(SharedBase.metadata.create_all)
                for statement in policy.split(";"):
                    if statement.strip():
                        await connection.execute(text(statement))

        await_only(prepare())

    def address(self, tenant: str) -> Address:
        return Address("public.note", "tenant_id", self._tenants[tenant].id)

    def handles(self, tenant: str) -> Handles:
        return Handles(setting=("app.current_tenant", self._tenants[tenant].id))
