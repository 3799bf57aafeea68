"""The audit's look at sessions: silent and harmless where nothing is broken, on each kind of engine.

That each of its rules finds something is in tests/test_mutants.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mt_paas_db import tenant_context
from mt_paas_db.core import TenantManager
from mt_paas_db.isolation.audit import Report, audit
from mt_paas_db.session.context import current_tenant
from tests.conftest import bouncer_for
from tests.fleet import Service
from tests.ground_truth import server_state
from tests.models import SHARED

SECRET = "a secret of forty letters, for the logins"


def of_sessions(report: Report) -> list[str]:
    return [finding.message for finding in report.findings if finding.id.startswith("client-")]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_it_is_silent_and_changes_nothing(service: Service, driver: str) -> None:
    """Both tiers, with a shared schema, one connection at a time; direct, and through PgBouncer."""
    if driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    options: dict[str, Any] = {
        "async_driver": driver,
        "pool_size": 1,
        "shared_schemas": (SHARED,),
        "login_secret": SECRET,
    }
    manager = service.manager(**options)
    manager.init()
    manager.create("hallym")
    manager.create("korea", tier="login")
    manager.set_limits("hallym", sessions=1, statement_timeout_s=1.5)
    before = server_state(service)
    report = audit(manager)
    assert (of_sessions(report), report.blind) == ([], ())
    assert server_state(service) == before
    manager.suspend("korea")
    with bouncer_for(service) as pooler:
        report = audit(service.manager(pooler=pooler, **options))
    assert (of_sessions(report), [what for what in report.blind if not what.startswith("pooler")]) == ([], [])


def test_it_keeps_out_of_the_callers_context_and_loop(fleet: Service, manager: TenantManager) -> None:
    async def within() -> Report:
        with tenant_context("korea"):
            report = audit(manager)
            assert current_tenant() == "korea"
        return report

    report = asyncio.run(within())
    assert (of_sessions(report), report.blind) == ([], ())
    with manager.get_session("hallym") as session:
        assert session.tenant_id == "hallym"


def test_who_takes_no_sessions_is_not_looked_at(fleet: Service, manager: TenantManager) -> None:
    for tenant in ("hallym", "korea"):
        manager.suspend(tenant)
    report = audit(manager)
    assert report.blind == ("client: no tenant takes sessions, so that none could be opened",)
    assert audit(manager, sessions=False).blind == ()
