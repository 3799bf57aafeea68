"""Deletion: confirmed, to the end, and for ever."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from mt_paas_db.core import TenantManager, TenantState
from mt_paas_db.errors import (
    ConfirmationError,
    PlacementChangedError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.ground_truth import (
    rows,
    state_but_for_the_log,
    tenant_roles,
    tenant_schemas,
)
from tests.models import Note


def test_a_tenant_whose_role_is_lost_can_still_be_closed_and_deleted(fleet: Service, manager: TenantManager) -> None:
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'.encode())
    assert manager.suspend("hallym").state is TenantState.SUSPENDED
    assert manager.archive("hallym").state is TenantState.ARCHIVED
    manager.delete("hallym", confirm="hallym")
    assert [tenant.tenant_id for tenant in manager.list()] == ["korea"]


def test_delete_leaves_nothing_but_the_log(fleet: Service, manager: TenantManager) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="gone"))
        session.execute(text("SELECT lo_create(0)"))  # a large object belongs to the role, not to the schema
    korea = manager.get("korea").placement.role_name
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym", actor="kim")
    assert [tenant.tenant_id for tenant in manager.list()] == ["korea"]
    assert tenant_roles(fleet) == tenant_schemas(fleet) == [korea]
    assert rows(fleet, "SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]
    assert rows(fleet, "SELECT name FROM mt_paas.tenant_name") == [("korea",)]
    ended, began = manager.events("hallym", limit=2)
    assert (ended.action, ended.actor, ended.outcome) == ("delete", "kim", "done")
    assert (began.action, began.actor, began.outcome) == ("delete", "kim", "started")
    with pytest.raises(UnknownTenantError):
        manager.get("hallym")
    with pytest.raises(UnknownTenantError), fleet.manager().get_session("hallym"):
        pass
    assert manager.doctor().ok


@pytest.mark.parametrize("typed", [None, "", "korea", "Hallym", "hallym ", "chat.hallym.ac.kr"])
def test_delete_wants_the_id_typed_again(fleet: Service, manager: TenantManager, typed: str | None) -> None:
    manager.add_alias("hallym", "chat.hallym.ac.kr")
    manager.archive("hallym")
    before = state_but_for_the_log(fleet)
    for asked in ("hallym", "chat.hallym.ac.kr"):
        with pytest.raises(ConfirmationError) as caught:
            manager.delete(asked, confirm=typed)
        assert (caught.value.tenant_id, caught.value.typed) == ("hallym", typed)
    assert state_but_for_the_log(fleet) == before


def test_delete_ends_what_is_left_of_a_tenant(fleet: Service, manager: TenantManager) -> None:
    """The schema of one and the role of the other are gone already."""
    schema, role = (manager.get(i).placement.schema_name for i in ("hallym", "korea"))
    for tenant_id in ("hallym", "korea"):
        manager.archive(tenant_id)
    with fleet.superuser() as connection:
        connection.execute(f'DROP SCHEMA "{schema}" CASCADE; DROP OWNED BY "{role}"; DROP ROLE "{role}"'.encode())
    for tenant_id in ("hallym", "korea"):
        manager.delete(tenant_id, confirm=tenant_id)
    assert tenant_roles(fleet) == tenant_schemas(fleet) == []


def test_a_tenant_created_again_is_another_one(fleet: Service, manager: TenantManager) -> None:
    warm = fleet.manager()
    for each in (manager, warm):
        with each.get_session("hallym") as session:
            session.add(Note(body="old"))
    old = manager.get("hallym")
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    new = manager.create("hallym")
    assert new.generation > old.generation
    assert new.placement.role_name != old.placement.role_name
    assert old.placement.role_name not in tenant_roles(fleet)
    # A process that remembers the old one is told, once; it never reads the old one's place.
    with pytest.raises(PlacementChangedError), warm.get_session("hallym") as session:
        session.scalars(select(Note)).all()
    for each in (warm, manager, fleet.manager()):
        for _ in range(2):
            try:
                with each.get_session("hallym") as session:
                    assert session.scalars(select(Note)).all() == []
                break
            except PlacementChangedError:
                continue
        else:
            raise AssertionError("still the old placement")
