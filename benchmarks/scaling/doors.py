"""The ways to read one row of one tenant in a transaction of its own, as a loading process opens them. All asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import SecretStr
from sqlalchemy import make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from benchmarks.ground import Note
from benchmarks.workload import shared_id
from mt_paas_db.catalog.settings import load_settings
from mt_paas_db.core import ClusterSettings, TenantManager
from mt_paas_db.session.pooler import PoolerProfile

PLAIN, OWN, OURS = "plain", "engine per tenant", "ours"


class Way(Protocol):
    """One way. `author` reads a row and returns whose it says that it is."""

    async def author(self, tenant: int, row: int) -> str: ...
    async def close(self) -> None: ...


def open_way(spec: Mapping[str, Any]) -> Way:
    """Return the way that `spec` describes; nothing is connected yet."""
    driver = spec["driver"]
    arguments = PoolerProfile.parse(spec["pooler"]).connect_args(driver)
    match spec["way"]:
        case "plain":
            pool = {"pool_size": spec["connections"], "max_overflow": 0}
            return Plain(create_async_engine(_url(spec["dsn"], driver), connect_args=arguments, **pool))
        case "engine per tenant":
            return EnginePerTenant([_url(dsn, driver) for dsn in spec["dsns"]], arguments)
        case "ours":
            return Ours(manager_of(spec), spec["tenants"])
        case way:
            raise ValueError(way)


def manager_of(spec: Mapping[str, Any]) -> TenantManager:
    """Return a manager of sessions: there is no admin DSN."""
    cluster = ClusterSettings(app_dsn=SecretStr(spec["dsn"]), pooler=spec["pooler"])
    settings = load_settings(
        installation=spec["installation"], clusters={"main": cluster}, async_driver=spec["driver"], **spec["settings"]
    )
    return TenantManager(settings)


def _url(dsn: str, driver: str) -> Any:
    return make_url(dsn).set(drivername=f"postgresql+{driver}")


def _row(key: int) -> Any:
    return select(Note).where(Note.id == key)


async def _read(engine: AsyncEngine, key: int) -> str:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        note: Note = (await session.scalars(_row(key))).one()
        await session.commit()
    return note.author


class Plain:
    """One pool, one table with the rows of all, no tenancy."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def author(self, tenant: int, row: int) -> str:
        return await _read(self._engine, shared_id(tenant, row))

    async def close(self) -> None:
        await self._engine.dispose()


class EnginePerTenant:
    """An engine and a pool for each tenant, of SQLAlchemy's default size, made when the tenant first comes."""

    def __init__(self, urls: Sequence[Any], arguments: dict[str, Any]) -> None:
        self._urls = urls
        self._arguments = arguments
        self._engines: dict[int, AsyncEngine] = {}

    async def author(self, tenant: int, row: int) -> str:
        engine = self._engines.get(tenant)
        if engine is None:
            engine = self._engines[tenant] = create_async_engine(self._urls[tenant], connect_args=self._arguments)
        return await _read(engine, 1 + row)

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.dispose()


class Ours:
    """`TenantManager.get_session`."""

    def __init__(self, manager: TenantManager, tenants: Sequence[str]) -> None:
        self._manager = manager
        self._tenants = tenants

    async def author(self, tenant: int, row: int) -> str:
        async with self._manager.get_session(self._tenants[tenant]) as session:
            note: Note = (await session.scalars(_row(1 + row))).one()
        return note.author

    async def close(self) -> None:
        await self._manager.aio.close()
