"""Limits of single tenants: kept in the catalog, answered to sessions, enforced on storage."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from mt_paas_db.catalog.values import NO_LIMITS, Limits
from mt_paas_db.core import TenantManager, TenantState
from mt_paas_db.errors import ConfigurationError, UnknownTenantError
from tests.fleet import Route, Runner, Service
from tests.ground_truth import rows
from tests.models import Note
from tests.versions import init_version_4


def fill(manager: TenantManager, tenant_id: str) -> None:
    with manager.get_session(tenant_id) as session:
        session.execute(insert(Note), [{"body": "x" * 199} for _ in range(3_000)])


def test_limits_are_set_one_by_one_and_taken_away(fleet: Service, manager: TenantManager) -> None:
    assert manager.limits("hallym") == NO_LIMITS
    assert manager.set_limits("hallym", sessions=3) == Limits(max_sessions=3)
    assert manager.set_limits("hallym", statement_timeout_s=1.5, storage_bytes=10**12) == Limits(
        max_sessions=3, statement_timeout_s=1.5, storage_bytes=10**12
    )
    assert manager.set_limits("hallym", sessions=None).max_sessions is None
    assert manager.limits("hallym") == Limits(statement_timeout_s=1.5, storage_bytes=10**12)
    assert manager.limits("korea") == NO_LIMITS
    manager.set_limits("hallym", statement_timeout_s=None, storage_bytes=None)
    assert rows(fleet, "SELECT * FROM mt_paas.tenant_limit") == []
    assert [event.detail for event in manager.events("hallym", limit=1)] == [
        {"statement_timeout_s": None, "storage_bytes": None}
    ]
    with pytest.raises(UnknownTenantError):
        manager.set_limits("nobody", sessions=1)


@pytest.mark.parametrize(
    "wrong", [{"sessions": 0}, {"sessions": 1.5}, {"statement_timeout_s": -1}, {"storage_bytes": 0}]
)
def test_a_limit_that_is_none_is_refused(fleet: Service, manager: TenantManager, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="None for no limit"):
        manager.set_limits("hallym", **wrong)
    assert manager.limits("hallym") == NO_LIMITS


def test_every_driver_is_answered_them(request: pytest.FixtureRequest, fleet: Service, route: Route) -> None:
    fleet.manager().set_limits("hallym", sessions=7, statement_timeout_s=2.5, storage_bytes=10**15)
    pooler = request.getfixturevalue("pgbouncer") if route.pooled else None
    runner = Runner(fleet.manager(pooler=pooler, **route.options), route)
    try:
        for tenant_id in ("hallym", "korea"):
            runner.run(tenant_id, lambda session: session.execute(text("SELECT 1")))
        known = runner.manager._door.resolver.remembered
        told = {name: known(name).resolution.limits for name in ("hallym", "korea")}  # type: ignore[arg-type,union-attr]
    finally:
        runner.close()
    assert told == {
        "hallym": Limits(max_sessions=7, statement_timeout_s=2.5, storage_bytes=10**15),
        "korea": NO_LIMITS,
    }


def test_they_go_with_the_tenant(fleet: Service, manager: TenantManager) -> None:
    manager.set_limits("hallym", sessions=1)
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    assert rows(fleet, "SELECT * FROM mt_paas.tenant_limit") == []


def test_storage_is_what_the_server_says(fleet: Service, manager: TenantManager) -> None:
    fill(manager, "hallym")
    found = {one.tenant_id: one.used_bytes for one in manager.usage()}
    schema = manager.get("hallym").placement.schema_name
    truth = rows(
        fleet,
        "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c WHERE relnamespace = %s::regnamespace "
        "AND relkind IN ('r', 'm', 'S')",
        schema,
    )
    assert [(found["hallym"],)] == truth
    assert found["hallym"] > found["korea"] + 500_000
    assert [one.tenant_id for one in manager.usage("hallym")] == ["hallym"]


def test_who_is_over_the_quota_becomes_read_only(fleet: Service, manager: TenantManager) -> None:
    fill(manager, "hallym")
    for tenant_id in ("hallym", "korea"):
        manager.set_limits(tenant_id, storage_bytes=500_000)
    assert [(one.tenant_id, one.over, one.closed) for one in manager.usage()] == [
        ("hallym", True, False),
        ("korea", False, False),
    ]
    assert manager.get("hallym").state is TenantState.ACTIVE
    assert [one.closed for one in manager.usage(enforce=True)] == [True, False]
    assert manager.get("hallym").state is TenantState.READ_ONLY
    assert manager.get("korea").state is TenantState.ACTIVE
    event = manager.events("hallym", limit=1)[0]
    assert (event.action, event.outcome) == ("read_only", "done")
    assert "storage quota" in event.detail["note"]
    assert [one.closed for one in manager.usage("hallym", enforce=True)] == [False]
    with fleet.manager().get_session("hallym") as session:
        assert session.scalar(select(func.count()).select_from(Note)) == 3_000


@pytest.mark.parametrize("state", ["suspend", "maintenance", "archive"])
def test_a_closed_tenant_is_not_opened_by_its_quota(fleet: Service, manager: TenantManager, state: str) -> None:
    manager.set_limits("hallym", storage_bytes=1)
    closed = getattr(manager, state)("hallym").state
    assert [(one.over, one.closed) for one in manager.usage("hallym", enforce=True)] == [(True, False)]
    assert manager.get("hallym").state is closed


def test_a_catalog_of_the_version_before_knows_no_limits(service: Service) -> None:
    init_version_4(service.manager())
    manager = service.manager()
    manager.create("hallym")
    for verb in (lambda: manager.limits("hallym"), lambda: manager.set_limits("hallym", sessions=1), manager.usage):
        with pytest.raises(ConfigurationError, match="mt-paas-db init"):
            verb()
