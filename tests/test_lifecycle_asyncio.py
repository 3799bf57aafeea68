"""The verbs under asyncio."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from mt_paas_db.core import AsyncTenantManager, TenantManager, TenantState
from mt_paas_db.core.aio import AsyncCells
from mt_paas_db.core.cells import Cells
from mt_paas_db.errors import (
    TenantExistsError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.models import Note


def test_the_asyncio_verbs_are_the_same_verbs() -> None:
    for name, member in inspect.getmembers(AsyncTenantManager, inspect.isfunction):
        if name.startswith("_"):
            continue
        assert inspect.signature(member) == inspect.signature(getattr(TenantManager, name)), name
    public = {n for n, m in inspect.getmembers(TenantManager, inspect.isfunction) if not n.startswith("_")}
    assert public == {n for n, _ in inspect.getmembers(AsyncTenantManager, inspect.isfunction) if not n.startswith("_")}


def test_the_asyncio_verbs_of_cells_are_the_same_verbs() -> None:
    of_cells, twins = (
        {n: m for n, m in inspect.getmembers(kind, inspect.isfunction) if not n.startswith("_")}
        for kind in (Cells, AsyncCells)
    )
    assert of_cells.keys() == twins.keys()
    for name, member in twins.items():
        assert inspect.signature(member) == inspect.signature(of_cells[name]), name


def test_a_life_in_asyncio(service: Service) -> None:
    manager = service.manager().aio

    async def live() -> None:
        assert (await manager.init()).name == service.name
        assert (await manager.create("hallym", aliases=["a.example.org"], actor="kim")).generation == 1
        with pytest.raises(TenantExistsError):
            await manager.create("hallym")
        assert (await manager.add_alias("hallym", "b.example.org")).aliases == ("a.example.org", "b.example.org")
        assert (await manager.release_alias("hallym", "a.example.org")).aliases == ("b.example.org",)
        assert (await manager.rename("hallym", "hallym-univ")).tenant_id == "hallym-univ"
        async with manager.get_session("hallym-univ") as session:
            session.add(Note(body="x"))
        assert (await manager.suspend("hallym-univ", reason="payment")).state_reason == "payment"
        assert [t.tenant_id for t in await manager.list(state=TenantState.SUSPENDED)] == ["hallym-univ"]
        assert (await manager.resume("hallym-univ")).state is TenantState.ACTIVE
        assert (await manager.set_limits("hallym-univ", sessions=3)).max_sessions == 3
        assert (await manager.limits("hallym-univ")).max_sessions == 3
        assert [one.tenant_id for one in await manager.usage()] == ["hallym-univ"]
        assert [load.tenants for load in await manager.cells.list()] == [1]
        moved = await manager.cells.move("hallym-univ", wait=False)
        assert (await manager.cells.show(moved.cells[0].name)).tenants[0].tenant_id == "hallym-univ"
        assert (await manager.cells.settle()).waiting == moved.waiting
        assert (await manager.readiness()).ok
        assert (await manager.doctor()).ok
        assert (await manager.read_only("hallym-univ")).state is TenantState.READ_ONLY
        assert (await manager.maintenance("hallym-univ")).state is TenantState.MAINTENANCE
        assert (await manager.archive("hallym-univ")).state is TenantState.ARCHIVED
        assert (await manager.restore("hallym-univ")).state is TenantState.ACTIVE
        await manager.archive("hallym-univ")
        await manager.delete("hallym-univ", confirm="hallym-univ")
        assert (await manager.events("hallym-univ"))[0].action == "delete"
        with pytest.raises(UnknownTenantError):
            await manager.get("hallym-univ")
        await manager.close()

    asyncio.run(live())
