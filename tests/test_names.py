"""Names of a tenant: renamed, aliased, released and claimed anew, while warm processes remember the old truth.

Long, since each way in which a name may change hands is tried with a warm process looking on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    NameReservedError,
    PlacementChangedError,
    TenantError,
    UnknownAliasError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.ground_truth import state_but_for_the_log
from tests.models import Note

ALIAS = "chat.hallym.ac.kr"


def sign(manager: TenantManager, *tenant_ids: str) -> None:
    """Put the tenant's own id into its tables, so that a reader can tell where it is."""
    for tenant_id in tenant_ids:
        with manager.get_session(tenant_id) as session:
            session.add(Note(body=tenant_id))


def read(session: Session) -> list[str]:
    return list(session.scalars(select(Note.body).order_by(Note.id)))


def where(manager: TenantManager, name: str) -> list[str]:
    """Return what a session that asked for `name` finds: the signature of the tenant it is in."""
    with manager.get_session(name) as session:
        return read(session)


def move_release_back(service: Service, name: str, seconds: float) -> None:
    """Let an alias have been released earlier than it was."""
    with service.superuser() as connection:
        moved = connection.execute(
            "UPDATE mt_paas.tenant_name SET released_at = released_at - make_interval(secs => %s) WHERE name = %s",
            (seconds, name),
        ).rowcount
    assert moved == 1


def set_bound(service: Service, seconds: int) -> None:
    with service.superuser() as connection:
        connection.execute("UPDATE mt_paas.installation SET cache_bound_s = %s", (seconds,))


@pytest.fixture
def signed(fleet: Service, manager: TenantManager) -> Service:
    sign(manager, "hallym", "korea")
    return fleet


# -- rename


def test_a_rename_touches_the_id_alone(signed: Service, manager: TenantManager) -> None:
    before = manager.get("hallym")
    server = state_but_for_the_log(signed)
    renamed = manager.rename("hallym", "hallym-univ")
    assert renamed.tenant_id == "hallym-univ"
    assert (renamed.generation, renamed.placement) == (before.generation, before.placement)
    assert renamed.aliases == ("hallym",)
    after = state_but_for_the_log(signed)
    assert {k: v for k, v in after.items() if k not in ("tenant", "tenant_name")} == {
        k: v for k, v in server.items() if k not in ("tenant", "tenant_name")
    }
    assert where(manager, "hallym-univ") == ["hallym"]
    assert [t.tenant_id for t in manager.list()] == ["hallym-univ", "korea"]
    assert manager.doctor().ok


def test_a_former_id_leads_to_the_tenant_for_ever(signed: Service, manager: TenantManager) -> None:
    warm = signed.manager()
    assert where(warm, "hallym") == ["hallym"]
    for new_id in ("hallym-univ", "hallym-2", "h3"):
        manager.rename("hallym", new_id)
    for name in ("hallym", "hallym-univ", "hallym-2", "h3"):
        assert manager.get(name).tenant_id == "h3"
        assert where(warm, name) == where(signed.manager(), name) == ["hallym"]
    with manager.get_session("hallym") as session:
        assert session.tenant_id in {"hallym", "h3"}  # what this process remembers
    with signed.manager().get_session("hallym") as session:
        assert session.tenant_id == "h3"


def test_a_former_id_is_never_anothers(signed: Service, manager: TenantManager) -> None:
    manager.rename("hallym", "hallym-univ")
    move_back = "UPDATE mt_paas.tenant_name SET claimed_at = claimed_at - interval '10 years'"
    with signed.superuser() as connection:
        connection.execute(move_back)
    before = state_but_for_the_log(signed)
    claims: list[Callable[[], object]] = [
        lambda: manager.create("hallym"),
        lambda: manager.create("snu", aliases=["hallym"]),
        lambda: manager.rename("korea", "hallym"),
        lambda: manager.add_alias("korea", "hallym"),
    ]
    for claim in claims:
        with pytest.raises(NameReservedError) as caught:
            claim()
        assert caught.value.name == "hallym"
        assert "'hallym-univ'" in str(caught.value)
    # Nor can it be let go of.
    with pytest.raises(UnknownAliasError):
        manager.release_alias("hallym-univ", "hallym")
    assert state_but_for_the_log(signed) == before
    assert where(signed.manager(), "hallym") == ["hallym"]


def test_a_tenant_may_take_back_an_id_it_had(signed: Service, manager: TenantManager) -> None:
    generation = manager.get("hallym").generation
    manager.rename("hallym", "hallym-univ")
    back = manager.rename("hallym-univ", "hallym")
    assert (back.tenant_id, back.generation, back.aliases) == ("hallym", generation, ("hallym-univ",))
    assert manager.rename("hallym", "hallym-univ").aliases == ("hallym",)
    assert where(manager, "hallym") == where(manager, "hallym-univ") == ["hallym"]


def test_a_rename_to_the_same_id_changes_nothing(signed: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(signed)
    assert manager.rename("hallym", "hallym") == manager.get("hallym")
    assert state_but_for_the_log(signed) == before


@pytest.mark.parametrize("taken", ["korea", "an-alias"])
def test_a_rename_to_anothers_name_is_refused(signed: Service, manager: TenantManager, taken: str) -> None:
    manager.add_alias("korea", "an-alias")
    before = state_but_for_the_log(signed)
    with pytest.raises(NameReservedError) as caught:
        manager.rename("hallym", taken)
    assert caught.value.name == taken
    assert "'korea'" in str(caught.value)
    assert state_but_for_the_log(signed) == before


def test_a_rename_to_an_alias_of_its_own_makes_it_the_id(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", "hallym-univ")
    renamed = manager.rename("hallym", "hallym-univ")
    assert (renamed.tenant_id, renamed.aliases) == ("hallym-univ", ("hallym",))
    assert where(manager, "hallym-univ") == ["hallym"]


def test_a_tenant_is_renamed_by_any_of_its_names_and_in_any_state(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    assert manager.rename(ALIAS, "h2").tenant_id == "h2"
    manager.suspend("h2")
    assert manager.rename("hallym", "h3").tenant_id == "h3"
    manager.resume(ALIAS)
    assert where(manager, ALIAS) == ["hallym"]


# -- aliases


def test_an_alias_leads_to_its_tenant(signed: Service, manager: TenantManager) -> None:
    for alias in (ALIAS, "tenant_hallym", "hallym_univ", "h"):
        assert alias in manager.add_alias("hallym", alias).aliases
        assert manager.get(alias).tenant_id == "hallym"
        assert where(manager, alias) == ["hallym"]
    assert manager.get("hallym").aliases == (ALIAS, "h", "hallym_univ", "tenant_hallym")


def test_a_name_leads_to_one_tenant_at_most(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    before = state_but_for_the_log(signed)
    claims: list[Callable[[], object]] = [
        lambda: manager.add_alias("korea", ALIAS),
        lambda: manager.add_alias("korea", "hallym"),
        lambda: manager.create("snu", aliases=[ALIAS]),
    ]
    for claim in claims:
        with pytest.raises(NameReservedError, match="'hallym'"):
            claim()
    manager.add_alias("hallym", "snu")
    with pytest.raises(NameReservedError, match="'hallym'"):
        manager.create("snu")
    manager.release_alias("hallym", "snu")
    after = state_but_for_the_log(signed)
    assert {**after, "tenant_name": before["tenant_name"]} == before
    assert where(manager, ALIAS) == ["hallym"]


def test_a_released_alias_leads_nowhere_at_once(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    assert manager.release_alias("hallym", ALIAS).aliases == ()
    for each in (manager, signed.manager()):
        with pytest.raises(UnknownTenantError) as caught:
            where(each, ALIAS)
        assert caught.value.tenant_id == ALIAS
    with pytest.raises(UnknownTenantError):
        manager.get(ALIAS)


def test_only_an_alias_of_the_tenant_is_released(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    before = state_but_for_the_log(signed)
    for tenant_id, name in (("korea", ALIAS), ("hallym", "hallym"), ("hallym", "korea"), ("hallym", "nobody")):
        with pytest.raises(UnknownAliasError) as caught:
            manager.release_alias(tenant_id, name)
        assert (caught.value.tenant_id, caught.value.alias) == (tenant_id, name)
    assert state_but_for_the_log(signed) == before


def test_an_alias_is_released_by_its_own_name(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    assert manager.release_alias(ALIAS, ALIAS).tenant_id == "hallym"
    assert manager.get("hallym").aliases == ()


def test_the_tenant_itself_need_not_wait_for_its_alias(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", "h2")
    manager.release_alias("hallym", "h2")
    assert manager.add_alias("hallym", "h2").aliases == ("h2",)
    manager.release_alias("hallym", "h2")
    assert manager.rename("hallym", "h2").tenant_id == "h2"
    assert where(manager, "h2") == ["hallym"]


# -- the rest before a name changes hands, and warm processes


def test_a_released_alias_rests_for_twice_the_bound(signed: Service, manager: TenantManager) -> None:
    with signed.superuser() as connection:
        row = connection.execute("SELECT cache_bound_s FROM mt_paas.installation").fetchone()
    assert row is not None
    bound_s = row[0]
    manager.add_alias("hallym", "contested")
    manager.release_alias("hallym", "contested")
    claims: list[Callable[[], object]] = [
        lambda: manager.add_alias("korea", "contested"),
        lambda: manager.rename("korea", "contested"),
        lambda: manager.create("contested"),
        lambda: manager.create("snu", aliases=["contested"]),
    ]
    for moved_s in (0, bound_s, bound_s - 20):  # the last leaves 20 seconds
        move_release_back(signed, "contested", moved_s)
        before = state_but_for_the_log(signed)
        for claim in claims:
            with pytest.raises(NameReservedError, match="released") as caught:
                claim()
            assert caught.value.name == "contested"
        assert state_but_for_the_log(signed) == before
    move_release_back(signed, "contested", 21)
    manager.add_alias("korea", "contested")
    assert where(manager, "contested") == ["korea"]


def test_a_warm_process_never_takes_an_alias_for_its_former_owner(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    warm = signed.manager(cache_ttl_s=1)
    assert where(warm, ALIAS) == ["hallym"]
    manager.release_alias("hallym", ALIAS)
    # Within the window it may still be where it was, and nobody else may be there.
    with pytest.raises(NameReservedError):
        manager.add_alias("korea", ALIAS)
    assert where(warm, ALIAS) == ["hallym"]
    time.sleep(1.1)  # its memory expires
    with pytest.raises(UnknownTenantError):
        where(warm, ALIAS)
    move_release_back(signed, ALIAS, 121)
    manager.add_alias("korea", ALIAS)
    assert where(warm, ALIAS) == where(signed.manager(), ALIAS) == ["korea"]


def test_a_warm_process_in_asyncio_neither(signed: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", ALIAS)
    warm = signed.manager(cache_ttl_s=0.2)

    async def find() -> list[str]:
        async with warm.get_session(ALIAS) as session:
            return await session.run_sync(read)

    async def live() -> None:
        assert await find() == ["hallym"]
        manager.release_alias("hallym", ALIAS)
        await asyncio.sleep(0.25)  # its memory expires
        with pytest.raises(UnknownTenantError):
            await find()
        move_release_back(signed, ALIAS, 121)
        manager.add_alias("korea", ALIAS)
        assert await find() == ["korea"]
        await warm.aio.close()

    asyncio.run(live())


def test_the_catalogs_bound_cuts_a_process_that_would_remember_longer(signed: Service, manager: TenantManager) -> None:
    set_bound(signed, 1)
    manager.add_alias("hallym", ALIAS)
    warm = signed.manager(cache_ttl_s=86_400)
    assert where(warm, ALIAS) == ["hallym"]
    manager.release_alias("hallym", ALIAS)
    assert where(warm, ALIAS) == ["hallym"]
    time.sleep(1.1)  # the bound
    with pytest.raises(UnknownTenantError):
        where(warm, ALIAS)
    with pytest.raises(NameReservedError):
        manager.add_alias("korea", ALIAS)
    time.sleep(1.1)  # the bound again
    manager.add_alias("korea", ALIAS)
    assert where(warm, ALIAS) == ["korea"]


def test_the_memory_counts_from_before_the_catalog_was_asked(signed: Service, manager: TenantManager) -> None:
    """An answer that was long on its way is old when it comes."""
    set_bound(signed, 1)
    manager.add_alias("hallym", ALIAS)
    slow = signed.manager(cache_ttl_s=86_400)
    with signed.superuser() as connection, signed.superuser() as watcher, ThreadPoolExecutor(1) as pool:
        with connection.transaction():
            connection.execute("LOCK TABLE mt_paas.tenant_name IN ACCESS EXCLUSIVE MODE")
            answer = pool.submit(where, slow, ALIAS)
            _wait_until_blocked(watcher, connection.info.backend_pid)
            time.sleep(1.1)  # longer than the bound
        assert answer.result(30) == ["hallym"]
    manager.release_alias("hallym", ALIAS)
    with pytest.raises(UnknownTenantError):
        where(slow, ALIAS)


def test_a_release_that_waited_rests_from_when_it_was_done(signed: Service, manager: TenantManager) -> None:
    """Until it is committed other processes learn the alias anew; the rest must count from there."""
    set_bound(signed, 1)
    manager.add_alias("hallym", ALIAS)
    warm = signed.manager(cache_ttl_s=86_400)
    with signed.superuser() as connection, signed.superuser() as watcher, ThreadPoolExecutor(1) as pool:
        with connection.transaction():
            connection.execute("SELECT FROM mt_paas.tenant WHERE tenant_id = 'hallym' FOR UPDATE")
            release = pool.submit(manager.release_alias, "hallym", ALIAS)
            _wait_until_blocked(watcher, connection.info.backend_pid)
            time.sleep(2.1)  # twice the bound passes while it waits
            assert where(warm, ALIAS) == ["hallym"]  # learnt now, good for a second
        release.result(30)
    with pytest.raises(NameReservedError):
        manager.add_alias("korea", ALIAS)
    assert where(warm, ALIAS) == ["hallym"]


def _wait_until_blocked(watcher: psycopg.Connection[Any], by: int) -> None:
    for _ in range(3_000):
        if watcher.execute("SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))", (by,)).fetchone():
            return
        watcher.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nothing was ever blocked")


def test_names_of_a_deleted_tenant_never_lead_a_warm_process_into_the_next_one(
    signed: Service, manager: TenantManager
) -> None:
    """They are free at once; what the warm process remembers is a role that does not exist any more."""
    manager.add_alias("hallym", ALIAS)
    warm = signed.manager(cache_ttl_s=86_400)
    for name in ("hallym", ALIAS):
        assert where(warm, name) == ["hallym"]
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    manager.rename("korea", "hallym")
    manager.add_alias("hallym", ALIAS)
    for name in ("hallym", ALIAS):
        # It may be told once that its memory is wrong. It must not be anywhere but in korea's place.
        try:
            found = where(warm, name)
        except PlacementChangedError:
            found = where(warm, name)
        assert found == ["korea"]


def test_a_warm_process_follows_a_chain_of_renames_to_the_right_tenant(signed: Service, manager: TenantManager) -> None:
    """Two tenants swap what they are called as far as they may; each name goes on leading to one of them."""
    warm = signed.manager(cache_ttl_s=86_400)
    assert (where(warm, "hallym"), where(warm, "korea")) == (["hallym"], ["korea"])
    manager.rename("hallym", "h2")
    manager.rename("korea", "k2")
    with pytest.raises(NameReservedError):
        manager.rename("h2", "korea")
    with pytest.raises(NameReservedError):
        manager.rename("k2", "hallym")
    for name, expected in {"hallym": "hallym", "h2": "hallym", "korea": "korea", "k2": "korea"}.items():
        assert where(warm, name) == where(signed.manager(), name) == [expected]


def test_an_unknown_name_is_not_remembered(signed: Service, manager: TenantManager) -> None:
    warm = signed.manager(cache_ttl_s=86_400)
    for _ in range(2):
        with pytest.raises(UnknownTenantError):
            where(warm, ALIAS)
    manager.add_alias("hallym", ALIAS)
    assert where(warm, ALIAS) == ["hallym"]


def test_random_lives_of_names_never_mislead(signed: Service, manager: TenantManager) -> None:
    """Aliases go to and fro between two tenants; three processes with memories of their own look all the time."""
    dice = random.Random(7)
    set_bound(signed, 1)
    names = ["a.example.org", "b.example.org"]
    owner: dict[str, str | None] = dict.fromkeys(names)
    former: dict[str, tuple[str, float]] = {}
    warm = [signed.manager(cache_ttl_s=ttl) for ttl in (0.0, 0.3, 86_400)]
    moves = 0
    for _ in range(40):
        name, tenant_id = dice.choice(names), dice.choice(["hallym", "korea"])
        try:
            if owner[name] is None:
                manager.add_alias(tenant_id, name)
                owner[name], moves = tenant_id, moves + 1
            elif dice.random() < 0.4:
                holder = owner[name]
                assert holder is not None
                manager.release_alias(holder, name)
                owner[name], former[name] = None, (holder, time.monotonic())
                if dice.random() < 0.5:
                    # The process's memory ends after the bound; the catalog's rest after twice the bound.
                    time.sleep(1.05)
                    move_release_back(signed, name, 2)
        except NameReservedError:
            assert owner[name] is None
        for each in warm:
            try:
                found: str | None = where(each, name)[0]
            except UnknownTenantError:
                found = None
            except TenantError as error:
                raise AssertionError(f"unexpected for {name}") from error
            allowed = {owner[name]}
            if name in former and time.monotonic() - former[name][1] < 1.5:
                allowed.add(former[name][0])  # released just now: still there for who remembers it
            assert found in allowed or (found is None and owner[name] is None)
            if owner[name] is not None:
                assert found == owner[name]
    assert moves > 3


def test_a_former_id_stays_reserved_also_after_its_tenant_was_deleted(signed: Service, manager: TenantManager) -> None:
    manager.rename("hallym", "hallym-2")
    manager.archive("hallym-2")
    manager.delete("hallym-2", confirm="hallym-2")

    with pytest.raises(NameReservedError, match="a tenant that was deleted"):
        manager.create("hallym")
    with pytest.raises(UnknownTenantError):
        where(manager, "hallym")
    assert manager.create("hallym-2").tenant_id == "hallym-2"
