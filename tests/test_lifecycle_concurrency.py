"""Verbs at the same time: one wins, the others are told, and server and catalog stay in step."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import event

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    NameReservedError,
    TenancyError,
    TenantExistsError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.ground_truth import (
    may_take,
    tenant_roles,
    tenant_schemas,
)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run all in threads that begin together; return results and exceptions in the same order."""
    barrier = threading.Barrier(len(works))

    def start(work: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(start, work) for work in works]
    return [future.exception() or future.result() for future in futures]


@pytest.mark.parametrize("shared", [True, False], ids=["one manager", "a manager each"])
def test_of_many_creations_of_one_id_one_succeeds(service: Service, manager: TenantManager, shared: bool) -> None:
    managers = [manager if shared else service.manager() for _ in range(8)]
    outcomes = at_once(*(lambda m=m: m.create("hallym") for m in managers))
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds == {"Tenant": 1, "TenantExistsError": 7}
    (tenant,) = manager.list()
    assert tenant_roles(service) == tenant_schemas(service) == [tenant.placement.role_name]
    assert Counter(event.outcome for event in manager.events("hallym")) == {"done": 1, "failed": 7}
    assert manager.doctor().ok


def test_creations_of_different_ids_all_succeed(service: Service, manager: TenantManager) -> None:
    ids = [f"t{n}" for n in range(8)]
    outcomes = at_once(*(lambda i=i: manager.create(i, aliases=[f"{i}.example.org"]) for i in ids))
    assert [getattr(outcome, "tenant_id", outcome) for outcome in outcomes] == ids
    assert len({outcome.generation for outcome in outcomes}) == 8
    assert len(tenant_roles(service)) == len(tenant_schemas(service)) == 8
    assert manager.doctor().ok


def test_of_many_claims_of_one_name_one_succeeds(service: Service, manager: TenantManager) -> None:
    """A creation, two renamings and an alias want the same name at the same time, several times over."""
    for round_ in range(8):
        wanted = f"wanted{round_}"
        others = [f"one{round_}", f"two{round_}", f"three{round_}"]
        for other in others:
            manager.create(other)
        outcomes = at_once(
            lambda: manager.create(wanted),  # noqa: B023  (used up within the round)
            lambda: manager.rename(others[0], wanted),  # noqa: B023
            lambda: manager.rename(others[1], wanted),  # noqa: B023
            lambda: manager.add_alias(others[2], wanted),  # noqa: B023
        )
        losers = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(losers) == 3
        assert all(isinstance(loser, (NameReservedError, TenantExistsError)) for loser in losers), losers
        assert len([t for t in manager.list() if wanted in (t.tenant_id, *t.aliases)]) == 1


def test_a_creation_and_a_renaming_to_the_same_id_do_not_lock_each_other_out(
    service: Service, manager: TenantManager
) -> None:
    """Each is held for a moment after it has taken the first of the two rows that both want."""
    manager.create("hallym")
    with service.superuser() as connection:
        connection.execute(
            "CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.5); RETURN NULL; END'"
        )
        for table, column in (("tenant", "tenant_id"), ("tenant_name", "name")):
            connection.execute(
                sql.SQL(
                    "CREATE TRIGGER dawdle AFTER INSERT OR UPDATE ON mt_paas.{} FOR EACH ROW"
                    " WHEN (NEW.{} = 'wanted') EXECUTE FUNCTION public.dawdle()"
                ).format(sql.Identifier(table), sql.Identifier(column))
            )
    outcomes = at_once(lambda: manager.create("wanted"), lambda: manager.rename("hallym", "wanted"))
    losers = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [type(loser) for loser in losers] in ([NameReservedError], [TenantExistsError]), outcomes
    assert sorted(t.tenant_id for t in manager.list()) in (["hallym", "wanted"], ["wanted"])


def test_a_storm_of_verbs_leaves_server_and_catalog_in_step(service: Service, manager: TenantManager) -> None:
    ids = ["hallym", "korea", "snu"]
    verbs: list[Callable[[TenantManager, str], Any]] = [
        lambda m, i: m.create(i),
        lambda m, i: m.suspend(i),
        lambda m, i: m.read_only(i),
        lambda m, i: m.maintenance(i),
        lambda m, i: m.resume(i),
        lambda m, i: m.archive(i),
        lambda m, i: m.restore(i),
        lambda m, i: m.delete(i, confirm=i),
        lambda m, i: m.get(i),
        lambda m, i: m.add_alias(i, f"{i}.example.org"),
        lambda m, i: m.release_alias(i, f"{i}.example.org"),
    ]

    def storm(seed: int) -> Counter[str]:
        dice = random.Random(seed)
        own, seen = service.manager(), Counter[str]()
        for _ in range(25):
            verb, tenant_id = dice.choice(verbs), dice.choice(ids)
            try:
                verb(own, tenant_id)
                seen["done"] += 1
            except TenancyError as error:
                seen[type(error).__name__] += 1
        return seen

    outcomes = at_once(*(lambda s=s: storm(s) for s in range(6)))
    assert [o for o in outcomes if isinstance(o, BaseException)] == []
    assert sum(sum(o.values()) for o in outcomes) == 150
    report = manager.doctor()
    assert report.ok, list(report.findings())
    names = sorted(tenant.placement.role_name for tenant in manager.list())
    assert tenant_roles(service) == tenant_schemas(service) == names
    for tenant in manager.list():
        assert may_take(service, tenant.placement.role_name) == (tenant.state in {"active", "read_only"}), tenant


def test_one_that_is_deleted_while_it_is_looked_up_is_unknown(fleet: Service, manager: TenantManager) -> None:
    """A look-up by name is two queries; another process may finish its deletion in between."""

    def delete_it(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM mt_paas.tenant_name" in statement and "FROM mt_paas.tenant t" not in statement:
            with fleet.superuser() as su:
                su.execute("DELETE FROM mt_paas.tenant WHERE tenant_id = 'hallym'")

    event.listen(manager._admin._engine, "after_cursor_execute", delete_it)
    with pytest.raises(UnknownTenantError):
        manager.get("hallym")
