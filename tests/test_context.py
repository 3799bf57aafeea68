"""The tenant in force, and what a session does about it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from mt_paas_db import current_tenant, tenant_context
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import InvalidIdentifierError, NoTenantError, TenantMismatchError
from mt_paas_db.session import guard
from tests.fleet import Service


def test_there_is_no_default() -> None:
    with pytest.raises(NoTenantError):
        current_tenant()


def test_blocks_nest_and_restore_also_after_an_exception() -> None:
    with tenant_context("hallym"):
        with pytest.raises(LookupError), tenant_context("korea"):
            assert current_tenant() == "korea"
            raise LookupError
        assert current_tenant() == "hallym"
    with pytest.raises(NoTenantError):
        current_tenant()


def test_only_ids_may_be_put_in_force() -> None:
    for bad in ("Hallym", "chat.hallym.ac.kr", "", "x" * 64, None):
        with pytest.raises(InvalidIdentifierError), tenant_context(bad):  # type: ignore[arg-type]
            pass


def test_tasks_see_their_creators_tenant_and_cannot_change_it() -> None:
    async def child(tenant_id: str) -> str:
        inherited = current_tenant()
        with tenant_context(tenant_id):
            await asyncio.sleep(0)
            assert current_tenant() == tenant_id
        return inherited

    async def parent() -> list[str]:
        with tenant_context("hallym"):
            seen = await asyncio.gather(*(child(t) for t in ("korea", "snu")))
            assert current_tenant() == "hallym"
        return list(seen)

    assert asyncio.run(parent()) == ["hallym", "hallym"]


def test_a_new_thread_has_no_tenant_unless_it_is_handed_over() -> None:
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(current_tenant())
        except NoTenantError:
            seen.append(None)

    with tenant_context("hallym"):
        handed_over = contextvars.copy_context()
        for target in (look, lambda: handed_over.run(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    assert seen == [None, "hallym"]


@pytest.fixture
def held(fleet: Service) -> TenantManager:
    return fleet.manager()


def test_a_session_of_another_tenant_is_refused_on_entering(held: TenantManager) -> None:
    with tenant_context("hallym"):
        with held.get_session("hallym") as session:
            assert session.execute(text("SELECT 1")).scalar_one() == 1
        with pytest.raises(TenantMismatchError) as refused, held.get_session("korea"):
            pass

    assert (refused.value.expected, refused.value.found) == ("hallym", "korea")


def test_a_session_handed_to_another_tenants_task_is_refused_at_its_next_statement(held: TenantManager) -> None:
    with held.get_session("hallym") as session:
        session.execute(text("SELECT 1"))
        with tenant_context("korea"), pytest.raises(TenantMismatchError):
            session.execute(text("SELECT 1"))
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_a_stream_made_for_one_tenant_is_refused_in_anothers_context(held: TenantManager) -> None:
    def stream() -> Iterator[tuple[str, int]]:
        with held.get_session("hallym") as session:
            for page in range(3):
                yield session.execute(text("SELECT current_setting('mt_paas.tenant')")).scalar_one(), page

    pages = stream()
    assert next(pages) == ("hallym", 0)
    with tenant_context("korea"), pytest.raises(TenantMismatchError):
        next(pages)


def test_twin_without_the_check_the_handed_over_session_answers(
    held: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "tenant_in_force", lambda: None)

    with held.get_session("hallym") as session, tenant_context("korea"):
        assert session.execute(text("SELECT 1")).scalar_one() == 1
