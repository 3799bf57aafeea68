"""The audit's other half: what this process's sessions do, which no look at the server alone can show.

For each way in which tenants' sessions are opened (a cluster's shared login and a login of a tenant's own; blocking and
asyncio) one tenant's are opened as the service opens them, through the pooler if there is one, and watched from below.
The transactions are READ ONLY, no table is read, and the server keeps nothing of it but a line in its log for the role
that it refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context

from sqlalchemy.util import greenlet_spawn

from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.catalog.values import Tenant
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.isolation.audit.client import refusals, transactions
from mt_paas_db.isolation.audit.client.bench import Bench, Examined
from mt_paas_db.isolation.audit.findings import finding
from mt_paas_db.isolation.audit.survey import Scope
from mt_paas_db.isolation.audit.values import Finding
from mt_paas_db.isolation.client import ANSWERS

CHECKS: tuple[Callable[[Bench], Examined], ...] = (*refusals.CHECKS, *transactions.CHECKS)


def of_sessions(manager: TenantManager, scope: Scope) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with this process's sessions, and what could not be looked at."""
    found: list[Finding] = []
    blind: list[str] = []
    chosen = list(_one_of_each(scope.tenants))
    if not chosen:
        blind.append("client: no tenant takes sessions, so that none could be opened")
    # In a thread of its own: without the caller's context, and beside an event loop that may be running.
    with ThreadPoolExecutor(1) as alone:
        for tenant in chosen:
            for is_async in (False, True):
                bench = Bench(manager, tenant, scope.shared_schemas, is_async=is_async)
                seen, unseen = alone.submit(Context().run, _examined, bench).result()
                found += seen
                blind += unseen
    return found, list(dict.fromkeys(blind))


def _one_of_each(tenants: Iterable[Tenant]) -> Iterator[Tenant]:
    """Yield one tenant for each cluster's shared login, and one with a login of its own, if they take sessions."""
    met: set[tuple[str, Tier]] = set()
    for tenant in sorted(tenants, key=lambda one: one.generation):
        way = (tenant.placement.credentials, tenant.placement.tier)
        if tenant.state.serves and way not in met:
            met.add(way)
            yield tenant


def _examined(bench: Bench) -> tuple[list[Finding], list[str]]:
    if not bench.is_async:
        return _look(bench)

    async def within() -> tuple[list[Finding], list[str]]:
        try:
            return await greenlet_spawn(_look, bench)
        finally:
            await bench.manager._door.engines.aclose()

    return asyncio.run(within())


def _look(bench: Bench) -> tuple[list[Finding], list[str]]:
    driver = bench.manager.settings.async_driver if bench.is_async else "psycopg"
    object_ = f"{driver}{', asyncio' if bench.is_async else ''}, tier {bench.tenant.placement.tier}"
    cluster = bench.tenant.placement.credentials
    found: list[Finding] = []
    blind: list[str] = []
    for check in CHECKS:
        try:
            found += [
                finding(rule_id, cluster, kind="client", object_=object_, what=what) for rule_id, what in check(bench)
            ]
        except ANSWERS as error:
            lines = str(error).strip().splitlines()
            blind.append(f"client, {object_}: {lines[0] if lines else type(error).__name__}")
    if found:
        bench.engine.dispose()  # whatever a broken client has left on its connections
    return found, blind
