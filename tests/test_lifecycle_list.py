"""``list``: whole, in the order of ids, by state."""

from __future__ import annotations

from mt_paas_db.core import TenantManager, TenantState
from tests.fleet import Service


def test_list_is_in_the_order_of_ids_and_by_state(manager: TenantManager) -> None:
    for tenant_id in ("snu", "hallym", "korea"):
        manager.create(tenant_id)
    manager.suspend("korea")
    assert [t.tenant_id for t in manager.list()] == ["hallym", "korea", "snu"]
    assert [t.tenant_id for t in manager.list(state=TenantState.ACTIVE)] == ["hallym", "snu"]
    assert [t.tenant_id for t in manager.list(state=TenantState.SUSPENDED)] == ["korea"]
    assert manager.list(state=TenantState.ARCHIVED) == []


def test_list_is_whole_beyond_a_page(service: Service, manager: TenantManager) -> None:
    with service.superuser() as connection:
        connection.execute(
            "INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name, role_name)"
            " SELECT n, 't-' || n, 't', (ARRAY['active', 'suspended'])[1 + mod(n, 2)], 'default', 's' || n, 's' || n"
            "   FROM generate_series(1, 1001) n"
        )
    listed = [tenant.tenant_id for tenant in manager.list()]
    assert len(listed) == len(set(listed)) == 1001
    assert len(manager.list(state=TenantState.ACTIVE)) == 500
    assert len(manager.list(state=TenantState.SUSPENDED)) == 501
