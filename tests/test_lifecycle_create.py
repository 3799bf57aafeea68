"""Creation: whole or not at all, and all that the new tenant is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import DDL, CheckConstraint, Column, Identity, MetaData, Table, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mt_paas_db.core import TenantManager, TenantState
from mt_paas_db.errors import (
    InvalidIdentifierError,
    NameReservedError,
    ProvisioningError,
    TenancyError,
)
from tests.fleet import Service
from tests.ground_truth import (
    server_state,
    state_but_for_the_log,
    tenant_roles,
)
from tests.models import Note


def test_a_new_tenant_is_active_and_says_where_it_lives(service: Service, manager: TenantManager) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    made = manager.create(
        "hallym", display_name="한림대학교 «Ħ»", aliases=["chat.hallym.ac.kr", "tenant_hallym"], actor="kim"
    )
    name = f"{service.name}_hallym_1"
    assert (made.tenant_id, made.display_name, made.state) == ("hallym", "한림대학교 «Ħ»", TenantState.ACTIVE)
    assert made.aliases == ("chat.hallym.ac.kr", "tenant_hallym")
    assert (made.placement.schema_name, made.placement.role_name) == (name, name)
    assert (made.placement.cluster, made.placement.credentials) == ("main", "main")
    assert (made.placement.cell, made.placement.login_role) == ("default", service.login)
    assert before < made.created_at < before + timedelta(minutes=1)
    assert manager.get("hallym") == manager.get("chat.hallym.ac.kr") == made
    assert manager.list() == [made]


def test_the_display_name_is_the_id_where_none_is_given(manager: TenantManager) -> None:
    assert manager.create("hallym").display_name == "hallym"


def test_a_display_name_is_any_text(manager: TenantManager) -> None:
    names = ["'; DROP TABLE mt_paas.tenant; --", "🎓" * 200, "שלום", " ", "%s :name {x}", "\\", "한림대학교"]
    for number, name in enumerate(names):
        assert manager.create(f"t{number}", display_name=name).display_name == name
        assert manager.get(f"t{number}").display_name == name


@pytest.mark.parametrize("name", ["", "a\x00b", "a\nb", "\ud800", "a" * 201, 7])
def test_a_display_name_that_cannot_be_shown_is_refused(service: Service, manager: TenantManager, name: Any) -> None:
    before = server_state(service)
    with pytest.raises(InvalidIdentifierError) as caught:
        manager.create("hallym", display_name=name)
    assert caught.value.value == name
    assert server_state(service) == before


def test_opaque_names_say_nothing_of_the_tenant(service: Service) -> None:
    manager = service.manager(opaque_names=True)
    manager.init()
    placement = manager.create("hallym").placement
    assert "hallym" not in placement.schema_name
    assert placement.schema_name == placement.role_name
    with manager.get_session("hallym") as session:
        session.add(Note(body="here"))
    assert manager.doctor().ok


def test_one_that_takes_long_does_not_hold_up_the_others(service: Service, manager: TenantManager) -> None:
    """From PostgreSQL 16 on, whoever has granted the group keeps all others from it until the transaction ends."""

    class Slow(DeclarativeBase):
        metadata = MetaData()

    class Row(Slow):
        __tablename__ = "row"

        id: Mapped[int] = mapped_column(primary_key=True)

    event.listen(Slow.metadata, "after_create", DDL("SELECT pg_advisory_xact_lock(7)"))  # type: ignore[no-untyped-call]
    slow = service.manager(models=Slow)
    with ThreadPoolExecutor(1) as pool, service.superuser() as connection:
        connection.execute("SELECT pg_advisory_lock(7)")
        made = pool.submit(slow.create, "slow")
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7"
        while not connection.execute(waiting).fetchone():
            assert not made.done()
        try:
            assert manager.create("quick").state is TenantState.ACTIVE
            assert not made.done()
        finally:
            connection.execute("SELECT pg_advisory_unlock(7)")
        assert made.result(30).state is TenantState.ACTIVE


def test_the_longest_id_has_a_role_and_a_schema(service: Service, manager: TenantManager) -> None:
    ids = ["a" * 63, "a" * 62 + "b"]
    placements = [manager.create(tenant_id).placement for tenant_id in ids]
    assert len({placement.schema_name for placement in placements}) == 2
    for tenant_id in ids:
        with manager.get_session(tenant_id) as session:
            session.add(Note(body=tenant_id))
    for tenant_id in ids:
        with manager.get_session(tenant_id) as session:
            assert session.scalars(select(Note.body)).all() == [tenant_id]


def test_names_that_are_taken_on_the_server_are_passed_over(service: Service, manager: TenantManager) -> None:
    with service.superuser() as connection:
        for generation in range(1, 6):
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"{service.name}_hallym_{generation}")))
    before = tenant_roles(service)
    with pytest.raises(ProvisioningError, match="hallym_5"):
        manager.create("hallym")
    assert tenant_roles(service) == before
    assert manager.create("hallym").generation == 6


# -- atomicity


class Broken(DeclarativeBase):
    """Models whose second table cannot be made."""

    metadata = MetaData()


class Fine(Broken):
    __tablename__ = "a_fine_one"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)


class Faulty(Broken):
    __tablename__ = "b_faulty_one"
    __table_args__ = (CheckConstraint("no_such_function(id)"),)

    id: Mapped[int] = mapped_column(primary_key=True)


def test_models_that_fail_leave_nothing_but_a_line_in_the_log(service: Service, manager: TenantManager) -> None:
    broken = service.manager(models=Broken)
    before = state_but_for_the_log(service)
    with pytest.raises(ProvisioningError, match="no_such_function") as caught:
        broken.create("hallym", aliases=["chat.hallym.ac.kr"], actor="kim")
    assert caught.value.tenant_id == "hallym"
    assert state_but_for_the_log(service) == before
    (event,) = manager.events()
    assert (event.action, event.tenant_id, event.actor, event.outcome) == ("create", "hallym", "kim", "failed")
    assert event.detail["error"] == "ProvisioningError"
    assert manager.create("hallym", aliases=["chat.hallym.ac.kr"]).generation == 2


def test_models_that_cannot_be_written_as_ddl_fail_before_anything_is_sent(service: Service) -> None:
    """A column without a type: SQLAlchemy cannot compile it."""
    metadata = MetaData()
    Table("untyped", metadata, Column("a"))
    service.manager().init()
    before = state_but_for_the_log(service)
    with pytest.raises(TenancyError):
        service.manager(models=metadata).create("hallym")
    assert state_but_for_the_log(service) == before


def test_an_alias_that_is_taken_leaves_nothing(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    with pytest.raises(NameReservedError) as caught:
        manager.create("snu", aliases=["chat.snu.ac.kr", "korea"])
    assert caught.value.name == "korea"
    assert state_but_for_the_log(fleet) == before


def test_a_creation_whose_connection_dies_leaves_nothing(service: Service, manager: TenantManager) -> None:
    class Deadly(DeclarativeBase):
        metadata = MetaData()

    class Row(Deadly):
        __tablename__ = "row"

        id: Mapped[int] = mapped_column(primary_key=True)

    fatal = DDL("SELECT pg_terminate_backend(pg_backend_pid())")  # type: ignore[no-untyped-call]
    event.listen(Deadly.metadata, "after_create", fatal)
    before = state_but_for_the_log(service)
    with pytest.raises((TenancyError, DBAPIError)):
        service.manager(models=Deadly).create("hallym")
    assert state_but_for_the_log(service) == before
