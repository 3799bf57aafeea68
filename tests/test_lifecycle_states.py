"""The states: where each action leads from each, and what each means on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mt_paas_db.core import Progress, TenantManager, TenantState, standing
from mt_paas_db.core.transitions import TRANSITIONS
from mt_paas_db.errors import (
    IllegalTransitionError,
    TenantExistsError,
    TenantNotReadyError,
)
from tests.fleet import Service
from tests.ground_truth import (
    may_take,
    rows,
    set_state,
    state_but_for_the_log,
    tenant_roles,
    tenant_schemas,
)

# Written out, not derived: where an action leads from each state. A dash: it is refused; gone: nothing is left.
_TABLE = """
              create  read_only  maintenance  suspend    resume  archive   restore  delete
provisioning  active  -          -            -          -       -         -        gone
active        -       read_only  maintenance  suspended  -       archived  -        -
read_only     -       -          maintenance  suspended  active  archived  -        -
maintenance   -       read_only  -            suspended  active  archived  -        -
suspended     -       read_only  -            -          active  archived  -        -
archived      -       -          -            -          -       -         active   gone
deleting      -       -          -            -          -       -         -        gone
"""
_ACTIONS, *_LINES = [line.split() for line in _TABLE.strip().splitlines()]
ALLOWED = {state: dict(zip(_ACTIONS, cells, strict=True)) for state, *cells in _LINES}

_FULL, _READS = ["DELETE", "INSERT", "SELECT", "UPDATE"], ["SELECT"]


@dataclass(frozen=True)
class Standing:
    """What the server lets happen to a tenant: may the login take its role, and what may that do with each table."""

    joined: bool
    rights: dict[str, list[str]]


def standing_of(service: Service, role: str) -> Standing:
    """Ask the server. The schema bears the name of the role."""
    rights = rows(
        service,
        "SELECT c.relname, array_agg(p ORDER BY p) FILTER (WHERE has_table_privilege(%s, c.oid, p))"
        "  FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) p"
        " WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'"
        " GROUP BY 1",
        role,
        f'"{role}"',
    )
    return Standing(may_take(service, role), dict(rights))


def expected_standing(state: str, before: Standing) -> Standing:
    """What `state` means on the server. A closed tenant's tables keep the rights that they had `before`."""
    if state == "active":
        return Standing(True, {"note": _FULL, "remark": _FULL})
    if state == "read_only":
        return Standing(True, {"note": _READS, "remark": _READS})
    return Standing(False, before.rights)


def perform(manager: TenantManager, action: str, tenant_id: str) -> Any:
    if action == "delete":
        return manager.delete(tenant_id, confirm=tenant_id)
    return getattr(manager, action)(tenant_id)


def put(service: Service, manager: TenantManager, tenant_id: str, state: str) -> str:
    """Create a tenant, bring it into `state` as it gets there in life, and return the name of its role."""
    role = manager.create(tenant_id).placement.role_name
    into = {"read_only": "read_only", "maintenance": "maintenance", "suspended": "suspend", "archived": "archive"}
    if state in into:
        perform(manager, into[state], tenant_id)
    elif state == "deleting":

        def interrupt(_: Progress) -> None:
            raise InterruptedError

        manager.archive(tenant_id)
        with pytest.raises(InterruptedError):
            manager.delete(tenant_id, confirm=tenant_id, progress=interrupt)
    elif state == "provisioning":
        set_state(service, tenant_id, TenantState.PROVISIONING)
        with service.superuser() as connection:
            connection.execute(f'REVOKE "{role}" FROM "{service.login}"'.encode())
    assert manager.get(tenant_id).state == state
    return role


def move(service: Service, manager: TenantManager, state: str, action: str) -> None:
    """Let `action` happen to a tenant in `state`, and compare catalog and server with the table."""
    tenant_id = f"{state}-{action}".replace("_", "-")
    role = put(service, manager, tenant_id, state)
    check_move(service, manager, tenant_id, role, action)


def check_move(service: Service, manager: TenantManager, tenant_id: str, role: str, action: str) -> None:
    before, was = standing_of(service, role), manager.get(tenant_id)
    outcome, to = perform(manager, action, tenant_id), ALLOWED[was.state][action]
    if to == "gone":
        assert tenant_id not in [tenant.tenant_id for tenant in manager.list()]
        assert role not in [*tenant_roles(service), *tenant_schemas(service)]
        return
    assert outcome.state == manager.get(tenant_id).state == to, action
    assert outcome.state_changed_at > was.state_changed_at
    assert outcome.placement == was.placement
    assert standing_of(service, role) == expected_standing(to, before), f"{action} is not enforced by the server"


def test_the_table_knows_every_state_and_action() -> None:
    assert list(ALLOWED) == list(TenantState)
    assert set(_ACTIONS) == set(TRANSITIONS)


@pytest.mark.parametrize("state", ALLOWED)
def test_a_state_means_on_the_server_what_it_says(service: Service, manager: TenantManager, state: str) -> None:
    everything = Standing(True, {"note": _FULL, "remark": _FULL})
    assert standing_of(service, put(service, manager, "hallym", state)) == expected_standing(state, everything)


@pytest.mark.parametrize("state", ALLOWED)
def test_an_allowed_action_leads_where_the_table_says(service: Service, manager: TenantManager, state: str) -> None:
    for action in [action for action, to in ALLOWED[state].items() if to != "-"]:
        move(service, manager, state, action)
    assert manager.doctor().ok


@pytest.mark.parametrize("state", ALLOWED)
def test_any_other_action_is_refused_and_changes_nothing(service: Service, manager: TenantManager, state: str) -> None:
    put(service, manager, "hallym", state)
    before = state_but_for_the_log(service)
    for action in [action for action, to in ALLOWED[state].items() if to == "-"]:
        with pytest.raises((IllegalTransitionError, TenantExistsError)) as caught:
            perform(manager, action, "hallym")
        assert state_but_for_the_log(service) == before, action
        assert (manager.events("hallym")[0].action, manager.events("hallym")[0].outcome) == (action, "failed")
        assert caught.value.tenant_id == "hallym"
        assert isinstance(caught.value, TenantExistsError) == (action == "create"), action
        if isinstance(caught.value, IllegalTransitionError):
            assert (caught.value.state, caught.value.action) == (state, action)
            assert set(caught.value.allowed_from) == {s for s in ALLOWED if ALLOWED[s][action] != "-"}
            assert state in str(caught.value)


@pytest.mark.parametrize(
    ("state", "action", "omitted"),
    [
        ("active", "suspend", "leave"),
        ("active", "read_only", "_withhold_writes"),
        ("read_only", "resume", "_give_writes_back"),
        ("archived", "restore", "join"),
    ],
)
def test_a_state_that_is_only_in_the_catalog_is_noticed(
    service: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch, state: str, action: str, omitted: str
) -> None:
    role = put(service, manager, "hallym", state)
    monkeypatch.setattr(standing, omitted, lambda *_: None)
    with pytest.raises(AssertionError, match="not enforced by the server"):
        check_move(service, manager, "hallym", role, action)


def test_a_tenant_that_is_not_ready_takes_no_sessions(fleet: Service) -> None:
    manager = fleet.manager()
    for state in set(TenantState) - {TenantState.ACTIVE, TenantState.READ_ONLY, TenantState.SUSPENDED}:
        set_state(fleet, "hallym", state)
        with pytest.raises(TenantNotReadyError) as caught, manager.get_session("hallym"):
            pass
        assert (caught.value.tenant_id, caught.value.state) == ("hallym", state)
