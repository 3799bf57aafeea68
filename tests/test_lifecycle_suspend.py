"""Suspension: a reason, and a role that no login may take, whoever granted it."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.values import SuspensionReason
from mt_paas_db.core import TenantManager, TenantState
from mt_paas_db.errors import (
    ConfigurationError,
    MissingRightsError,
    TenancyError,
    TenantSuspendedError,
)
from tests.fleet import Service
from tests.ground_truth import (
    app_dsn,
    may_take,
    server_state,
    state_but_for_the_log,
)
from tests.models import Note


def test_a_note_or_an_actor_that_cannot_be_stored_changes_nothing(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    for attempt in (
        partial(manager.suspend, "hallym", note="a\x00b"),
        partial(manager.read_only, "hallym", actor="a\x00b"),
        partial(manager.create, "snu", actor="a\x00b"),
    ):
        with pytest.raises((TenancyError, DBAPIError)):
            attempt()
    assert state_but_for_the_log(fleet) == before


@pytest.mark.parametrize("reason", ["", "unpaid", "Payment", "a\x00b", None, 7])
def test_a_reason_of_ones_own_is_refused(fleet: Service, manager: TenantManager, reason: Any) -> None:
    before = server_state(fleet)
    with pytest.raises(ConfigurationError, match="payment, maintenance, other"):
        manager.suspend("hallym", reason=reason)
    assert server_state(fleet) == before


@pytest.mark.parametrize("reason", ["payment", SuspensionReason.MAINTENANCE, "other"])
def test_sessions_are_told_the_reason_and_the_log_the_note(fleet: Service, manager: TenantManager, reason: str) -> None:
    suspended = manager.suspend("hallym", reason=reason, note="계약 종료")
    assert suspended.state_reason == reason
    with pytest.raises(TenantSuspendedError) as caught, fleet.manager().get_session("hallym"):
        pass
    assert (caught.value.state, caught.value.reason) == ("suspended", reason)
    assert "계약" not in str(caught.value)
    assert manager.events("hallym")[0].detail == {"reason": reason, "note": "계약 종료"}
    assert manager.archive("hallym", note="3월").state_reason is None
    assert manager.events("hallym")[0].detail == {"note": "3월"}


def test_suspend_takes_the_role_from_the_login_and_resume_gives_it_back(fleet: Service, manager: TenantManager) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="kept"))
    name = manager.get("hallym").placement.role_name
    before = state_but_for_the_log(fleet)
    suspended = manager.suspend("hallym", reason="payment")
    assert (suspended.state, suspended.state_reason) == (TenantState.SUSPENDED, "payment")
    assert not may_take(fleet, name)
    with psycopg.connect(app_dsn(fleet)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f'SET ROLE "{name}"'.encode())
    with pytest.raises(TenantSuspendedError) as caught, fleet.manager().get_session("hallym"):
        pass
    assert (caught.value.state, caught.value.reason) == ("suspended", "payment")

    resumed = manager.resume("hallym")
    assert (resumed.state, resumed.state_reason) == (TenantState.ACTIVE, None)
    with manager.get_session("hallym") as session:
        assert session.scalars(select(Note.body)).all() == ["kept"]
    after = state_but_for_the_log(fleet)
    assert {**after, "tenant": before["tenant"]} == before


def test_suspend_revokes_what_others_granted(fleet: Service, manager: TenantManager) -> None:
    """From PostgreSQL 16 on a membership belongs to its grantor; each has to be taken back."""
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        for number in (1, 2):
            other = f"{fleet.name}_dba{number}"
            for statement in (
                f'CREATE ROLE "{other}"',
                f'GRANT "{name}" TO "{other}" WITH ADMIN OPTION',
                f'SET ROLE "{other}"',
                f'GRANT "{name}" TO "{fleet.login}"',
                "RESET ROLE",
            ):
                connection.execute(statement.encode())
    manager.suspend("hallym")
    assert not may_take(fleet, name)
    with pytest.raises(TenantSuspendedError), fleet.manager().get_session("hallym"):
        pass
    manager.resume("hallym")
    assert manager.doctor().ok


def test_suspend_takes_back_what_the_login_passed_on(fleet: Service, manager: TenantManager) -> None:
    """A login that could administer the role may have granted it to another: the server then asks for CASCADE."""
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        for statement in (
            f'CREATE ROLE "{fleet.name}_friend"',
            f'GRANT "{name}" TO "{fleet.login}" WITH ADMIN OPTION',
            f'SET ROLE "{fleet.login}"',
            f'GRANT "{name}" TO "{fleet.name}_friend"',
        ):
            connection.execute(statement.encode())
    try:
        assert manager.suspend("hallym").state is TenantState.SUSPENDED
        assert not may_take(fleet, name)
    finally:
        with fleet.superuser() as connection:
            connection.execute(f'DROP ROLE "{fleet.name}_friend"'.encode())


def test_suspend_says_so_where_the_login_keeps_the_role_by_another_way(fleet: Service, manager: TenantManager) -> None:
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        for statement in (
            f'CREATE ROLE "{fleet.name}_between"',
            f'GRANT "{name}" TO "{fleet.name}_between"',
            f'GRANT "{fleet.name}_between" TO "{fleet.login}"',
        ):
            connection.execute(statement.encode())
    before = state_but_for_the_log(fleet)
    with pytest.raises(MissingRightsError, match="was not closed"):
        manager.suspend("hallym")
    assert state_but_for_the_log(fleet) == before
    with manager.get_session("hallym") as session:
        assert session.scalars(select(Note)).all() == []
