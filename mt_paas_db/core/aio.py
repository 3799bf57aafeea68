"""Asyncio version of `TenantManager`'s verbs.

The lifecycle is rare, transactional work on a connection of its own; each verb runs the blocking one in a
worker thread, so that there is one implementation. Sessions need no twin: ``get_session`` serves both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.catalog.values import CellLoad, Event, Installation, Limits, SuspensionReason, Tenant, TenantState
from mt_paas_db.core.bulk import Created, NewTenant
from mt_paas_db.core.capacity import Capacity
from mt_paas_db.core.cells import NEW, CellContents, Cells
from mt_paas_db.core.checks import Report
from mt_paas_db.core.limits import UNCHANGED, Unchanged, Usage
from mt_paas_db.core.progress import Listener, unheard
from mt_paas_db.core.seed import Seed
from mt_paas_db.core.settling import Settled
from mt_paas_db.session.door import TenantSessionContext
from mt_paas_db.session.pin import IsolationLevel
from mt_paas_db.session.places import PoolStatus
from mt_paas_db.session.raw import RawConnectionContext
from mt_paas_db.telemetry.exposition import Family

if TYPE_CHECKING:
    from mt_paas_db.core.manager import TenantManager


class AsyncTenantManager:
    """Asyncio version of `TenantManager`; reach it as ``manager.aio``."""

    def __init__(self, manager: TenantManager) -> None:
        self._manager = manager

    def get_session(
        self,
        tenant_id: str,
        *,
        read_only: bool = False,
        isolation_level: IsolationLevel | None = None,
        statement_timeout_s: float | None = None,
        expire_on_commit: bool = True,
        commit: bool = True,
        requires: str | Collection[str] | None = None,
    ) -> TenantSessionContext:
        """The same as `TenantManager.get_session`."""
        return self._manager.get_session(
            tenant_id,
            read_only=read_only,
            isolation_level=isolation_level,
            statement_timeout_s=statement_timeout_s,
            expire_on_commit=expire_on_commit,
            commit=commit,
            requires=requires,
        )

    def raw_connection(
        self,
        tenant_id: str,
        *,
        read_only: bool = False,
        isolation_level: IsolationLevel | None = None,
        statement_timeout_s: float | None = None,
    ) -> RawConnectionContext:
        """The same as `TenantManager.raw_connection`."""
        return self._manager.raw_connection(
            tenant_id, read_only=read_only, isolation_level=isolation_level, statement_timeout_s=statement_timeout_s
        )

    async def dsn(self, tenant_id: str) -> str:
        """Asyncio version of `TenantManager.dsn`."""
        return await asyncio.to_thread(self._manager.dsn, tenant_id)

    def pool_status(self) -> PoolStatus:
        """The same as `TenantManager.pool_status`."""
        return self._manager.pool_status()

    async def close(self) -> None:
        """Asyncio version of `TenantManager.close`, for the running event loop's pools."""
        await self._manager._door.engines.aclose()

    async def init(self) -> Installation:
        """Asyncio version of `TenantManager.init`."""
        return await asyncio.to_thread(self._manager.init)

    async def readiness(self) -> Report:
        """Asyncio version of `TenantManager.readiness`."""
        return await asyncio.to_thread(self._manager.readiness)

    async def doctor(self) -> Report:
        """Asyncio version of `TenantManager.doctor`."""
        return await asyncio.to_thread(self._manager.doctor)

    async def metrics(self, *, tenants: int = 0) -> tuple[Family, ...]:
        """Asyncio version of `TenantManager.metrics`."""
        return await asyncio.to_thread(self._manager.metrics, tenants=tenants)

    async def capacity(
        self,
        *,
        budget: int | None = None,
        processes: int | None = None,
        memory_bytes: int | None = None,
        disk_bytes: int | None = None,
    ) -> Capacity:
        """Asyncio version of `TenantManager.capacity`."""
        return await asyncio.to_thread(
            self._manager.capacity,
            budget=budget,
            processes=processes,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
        )

    async def create(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        aliases: Sequence[str] = (),
        tier: Tier | str | None = None,
        seed: Seed | str | None = None,
        actor: str | None = None,
    ) -> Tenant:
        """Asyncio version of `TenantManager.create`. A seed is blocking all the same, and runs in the thread."""
        return await asyncio.to_thread(
            self._manager.create,
            tenant_id,
            display_name=display_name,
            aliases=aliases,
            tier=tier,
            seed=seed,
            actor=actor,
        )

    async def create_many(
        self,
        tenants: Iterable[NewTenant],
        *,
        jobs: int = 4,
        tier: Tier | str | None = None,
        seed: Seed | str | None = None,
        actor: str | None = None,
        progress: Listener = unheard,
    ) -> Created:
        """Asyncio version of `TenantManager.create_many`; `progress` is called in a worker thread."""
        return await asyncio.to_thread(
            self._manager.create_many, tenants, jobs=jobs, tier=tier, seed=seed, actor=actor, progress=progress
        )

    async def get(self, tenant_id: str) -> Tenant:
        """Asyncio version of `TenantManager.get`."""
        return await asyncio.to_thread(self._manager.get, tenant_id)

    async def list(self, *, state: TenantState | None = None) -> list[Tenant]:
        """Asyncio version of `TenantManager.list`."""
        return await asyncio.to_thread(self._manager.list, state=state)

    async def events(self, tenant_id: str | None = None, *, limit: int = 100) -> Sequence[Event]:
        """Asyncio version of `TenantManager.events`."""
        return await asyncio.to_thread(self._manager.events, tenant_id, limit=limit)

    async def suspend(
        self,
        tenant_id: str,
        *,
        reason: SuspensionReason | str = SuspensionReason.OTHER,
        note: str | None = None,
        actor: str | None = None,
    ) -> Tenant:
        """Asyncio version of `TenantManager.suspend`."""
        return await asyncio.to_thread(self._manager.suspend, tenant_id, reason=reason, note=note, actor=actor)

    async def read_only(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.read_only`."""
        return await asyncio.to_thread(self._manager.read_only, tenant_id, note=note, actor=actor)

    async def maintenance(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.maintenance`."""
        return await asyncio.to_thread(self._manager.maintenance, tenant_id, note=note, actor=actor)

    async def resume(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.resume`."""
        return await asyncio.to_thread(self._manager.resume, tenant_id, note=note, actor=actor)

    async def archive(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.archive`."""
        return await asyncio.to_thread(self._manager.archive, tenant_id, note=note, actor=actor)

    async def restore(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.restore`."""
        return await asyncio.to_thread(self._manager.restore, tenant_id, note=note, actor=actor)

    async def rename(self, tenant_id: str, new_id: str, *, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.rename`."""
        return await asyncio.to_thread(self._manager.rename, tenant_id, new_id, actor=actor)

    async def add_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.add_alias`."""
        return await asyncio.to_thread(self._manager.add_alias, tenant_id, alias, actor=actor)

    async def release_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """Asyncio version of `TenantManager.release_alias`."""
        return await asyncio.to_thread(self._manager.release_alias, tenant_id, alias, actor=actor)

    @property
    def cells(self) -> AsyncCells:
        """Asyncio version of `TenantManager.cells`."""
        return AsyncCells(self._manager.cells)

    async def limits(self, tenant_id: str) -> Limits:
        """Asyncio version of `TenantManager.limits`."""
        return await asyncio.to_thread(self._manager.limits, tenant_id)

    async def set_limits(
        self,
        tenant_id: str,
        *,
        sessions: int | Unchanged | None = UNCHANGED,
        statement_timeout_s: float | Unchanged | None = UNCHANGED,
        storage_bytes: int | Unchanged | None = UNCHANGED,
        actor: str | None = None,
    ) -> Limits:
        """Asyncio version of `TenantManager.set_limits`."""
        return await asyncio.to_thread(
            self._manager.set_limits,
            tenant_id,
            sessions=sessions,
            statement_timeout_s=statement_timeout_s,
            storage_bytes=storage_bytes,
            actor=actor,
        )

    async def usage(self, tenant_id: str | None = None, *, enforce: bool = False) -> Sequence[Usage]:
        """Asyncio version of `TenantManager.usage`."""
        return await asyncio.to_thread(self._manager.usage, tenant_id, enforce=enforce)

    async def delete(
        self,
        tenant_id: str,
        *,
        confirm: str | None,
        actor: str | None = None,
        progress: Listener = unheard,
    ) -> None:
        """Asyncio version of `TenantManager.delete`. `progress` is called in the thread."""
        await asyncio.to_thread(self._manager.delete, tenant_id, confirm=confirm, actor=actor, progress=progress)


class AsyncCells:
    """Asyncio version of `Cells`; reach it as ``manager.aio.cells``. `progress` is called in the thread."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    async def list(self) -> Sequence[CellLoad]:
        """Asyncio version of `Cells.list`."""
        return await asyncio.to_thread(self._cells.list)

    async def show(self, cell: str) -> CellContents:
        """Asyncio version of `Cells.show`."""
        return await asyncio.to_thread(self._cells.show, cell)

    async def move(
        self,
        tenant_id: str,
        to: str = NEW,
        *,
        actor: str | None = None,
        wait: bool = True,
        progress: Listener = unheard,
    ) -> Settled:
        """Asyncio version of `Cells.move`."""
        return await asyncio.to_thread(self._cells.move, tenant_id, to, actor=actor, wait=wait, progress=progress)

    async def split(
        self, cell: str, *, actor: str | None = None, wait: bool = True, progress: Listener = unheard
    ) -> Settled:
        """Asyncio version of `Cells.split`."""
        return await asyncio.to_thread(self._cells.split, cell, actor=actor, wait=wait, progress=progress)

    async def rotate(
        self, cell: str, *, actor: str | None = None, wait: bool = True, progress: Listener = unheard
    ) -> Settled:
        """Asyncio version of `Cells.rotate`."""
        return await asyncio.to_thread(self._cells.rotate, cell, actor=actor, wait=wait, progress=progress)

    async def settle(self, *, progress: Listener = unheard) -> Settled:
        """Asyncio version of `Cells.settle`."""
        return await asyncio.to_thread(self._cells.settle, progress=progress)
