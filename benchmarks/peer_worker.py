"""Runs the peers, in their own environment, told what to do over standard input.

Each line is a JSON object with a "do" and a "case"; each is answered by one line. Imports the peers,
SQLAlchemy and `benchmarks.workload`, nothing of ours. What a peer does is what its documentation shows:

- fastapi-tenancy: schema mode; ``manager.isolation_provider.get_session(tenant)``, which is what its
  dependency for FastAPI yields. Looking up the tenant, which its middleware does before, is not timed.
- sqlalchemy-tenants: row security on a shared table; ``manager.new_tenant_session(tenant)``.

Both commit, as our cases do. Their pools have one connection, and no ping at check-out.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from sqlalchemy import String, create_engine, insert, make_url, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.workload import notes, shared_id, timed, timed_async

POOL: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(String(400))


class SharedBase(DeclarativeBase):
    pass


class SharedNote(SharedBase):
    """The table of all tenants; its tenant column is what sqlalchemy-tenants asks for."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(String(400))
    tenant: Mapped[str] = mapped_column(String(40))


class Peer(Protocol):
    async def set_up(self, *, fill: bool) -> None: ...
    def transaction(self, tenant: int, row: int) -> Any: ...
    async def disconnect(self) -> None: ...


class FastApiTenancy:
    def __init__(self, url: str, tenants: list[str], connect_args: dict[str, Any]) -> None:
        package = import_module("fastapi_tenancy")
        config = package.TenancyConfig(
            database_url=url,
            resolution_strategy="header",
            isolation_strategy="schema",
            database_pool_size=1,
            database_max_overflow=0,
            database_pool_pre_ping=False,
        )
        provider = None
        if connect_args:  # its configuration has no place for them; an engine made beforehand has
            engine = create_async_engine(url, connect_args=connect_args, **POOL)
            module = import_module("fastapi_tenancy.isolation.schema")
            provider = module.SchemaIsolationProvider(config, engine=engine)
        store = import_module("fastapi_tenancy.storage.memory").InMemoryTenantStore()
        self._manager = package.TenancyManager(config, store, isolation_provider=provider)
        self._names = tenants
        self._tenants: list[Any] = []

    async def set_up(self, *, fill: bool) -> None:
        await self._manager.initialize()
        for number, name in enumerate(self._names):
            tenant = await self._manager.register_tenant(name, name, app_metadata=Base.metadata)
            self._tenants.append(tenant)
            if fill:
                async with self._manager.isolation_provider.get_session(tenant) as session:
                    await session.execute(insert(Note), notes(number))
                    await session.commit()

    async def transaction(self, tenant: int, row: int) -> Any:
        async with self._manager.isolation_provider.get_session(self._tenants[tenant]) as session:
            note = (await session.scalars(select(Note).where(Note.id == 1 + row))).one()
            await session.commit()
        return note

    async def disconnect(self) -> None:
        await self._manager.isolation_provider.engine.dispose()


class SqlalchemyTenants:
    """What the blocking and the asyncio form share: the database that they work on."""

    def __init__(self, url: str, tenants: list[str]) -> None:
        self._url = make_url(url)
        self._names = tenants
        import_module("sqlalchemy_tenants").with_rls(SharedNote)

    async def set_up(self, *, fill: bool) -> None:
        """Make what its Alembic hook writes into a migration, and the tenants' roles."""
        if not fill:
            return
        core = import_module("sqlalchemy_tenants.core")
        engine = create_engine(self._url.set(drivername="postgresql+psycopg"))
        with engine.begin() as connection:
            SharedBase.metadata.create_all(connection)
            function = core._GET_TENANT_FUNCTION_TEMPLATE.format(
                name=core.GET_TENANT_FUNCTION_NAME, tenant_role_prefix=core.TENANT_ROLE_PREFIX
            )
            connection.execute(text(function))
            connection.execute(text('ALTER TABLE "note" ENABLE ROW LEVEL SECURITY'))
            connection.execute(text(core.get_table_policy(table_name="note", column_type=str)))
            for number, name in enumerate(self._names):
                rows = notes(number, first_id=shared_id(number, 0))
                connection.execute(insert(SharedNote), [{**row, "tenant": name} for row in rows])
        module = import_module("sqlalchemy_tenants.managers")
        manager = module.PostgresManager.from_engine(engine, schema_name="public")
        for name in self._names:
            manager.create_tenant(name)
        engine.dispose()


class BlockingSqlalchemyTenants(SqlalchemyTenants):
    def __init__(self, url: str, tenants: list[str], connect_args: dict[str, Any]) -> None:
        super().__init__(url, tenants)
        self._engine = create_engine(url, connect_args=connect_args, **POOL)
        module = import_module("sqlalchemy_tenants.managers")
        self._manager = module.PostgresManager.from_engine(self._engine, schema_name="public")

    def transaction(self, tenant: int, row: int) -> Any:
        with self._manager.new_tenant_session(self._names[tenant]) as session:
            note = session.scalars(select(SharedNote).where(SharedNote.id == shared_id(tenant, row))).one()
            session.commit()
        return note

    async def disconnect(self) -> None:
        self._engine.dispose()


class AsyncSqlalchemyTenants(SqlalchemyTenants):
    def __init__(self, url: str, tenants: list[str], connect_args: dict[str, Any]) -> None:
        super().__init__(url, tenants)
        self._engine = create_async_engine(url, connect_args=connect_args, **POOL)
        module = import_module("sqlalchemy_tenants.aio.managers")
        self._manager = module.PostgresManager.from_engine(self._engine, schema_name="public")

    async def transaction(self, tenant: int, row: int) -> Any:
        async with self._manager.new_tenant_session(self._names[tenant]) as session:
            query = select(SharedNote).where(SharedNote.id == shared_id(tenant, row))
            note = (await session.scalars(query)).one()
            await session.commit()
        return note

    async def disconnect(self) -> None:
        await self._engine.dispose()


PEERS: dict[tuple[str, bool], Callable[[str, list[str], dict[str, Any]], Peer]] = {
    ("fastapi-tenancy", True): FastApiTenancy,
    ("sqlalchemy-tenants", False): BlockingSqlalchemyTenants,
    ("sqlalchemy-tenants", True): AsyncSqlalchemyTenants,
}
"""By name, and whether it is the asyncio form."""


async def carry_out(order: dict[str, Any], peers: dict[str, Peer]) -> Any:
    """Carry out one order and return its answer."""
    case = order["case"]
    if order["do"] == "open":
        peers[case] = PEERS[order["peer"], order["is_async"]](order["url"], order["tenants"], order["connect_args"])
        return await peers[case].set_up(fill=order["fill"])
    if order["do"] == "read":
        note = peers[case].transaction(order["tenant"], order["row"])
        return (await note if inspect.isawaitable(note) else note).author
    if order["do"] == "measure":
        transaction = peers[case].transaction
        todo = [(tenant, row) for tenant, row in order["visits"]]
        if inspect.iscoroutinefunction(transaction):
            return await timed_async(transaction, todo)
        return timed(transaction, todo)
    return await peers[case].disconnect()


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a peer prints is no answer
    peers: dict[str, Peer] = {}
    with asyncio.Runner() as loop:
        for line in sys.stdin:
            answers.write(json.dumps(loop.run(carry_out(json.loads(line), peers))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
