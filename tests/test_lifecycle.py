"""The lifecycle: every step from every state, whole or not at all, alone or beside others, and on record.

Longer than most: it is the whole table of what may happen to a tenant, with the server asked after each step.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import DDL, CheckConstraint, Column, Identity, MetaData, Sequence, Table, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mt_paas_db.catalog.queries import queries
from mt_paas_db.core import AsyncTenantManager, TenantManager, TenantState
from mt_paas_db.errors import (
    CatalogMissingError,
    ConfigurationError,
    ConfirmationError,
    IllegalTransitionError,
    InvalidIdentifierError,
    LockedError,
    MissingRightsError,
    NameReservedError,
    PlacementChangedError,
    ProvisioningError,
    ServerUnavailableError,
    TenancyError,
    TenantExistsError,
    TenantNotReadyError,
    TenantSuspendedError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.models import Note
from tests.servers.processes import free_port
from tests.test_install import app_dsn, clusters, server_state


def state_but_for_the_log(service: Service) -> dict[str, list[Any]]:
    """What a verb that failed must leave as it was: a failure adds a line to the log, and nothing else."""
    state = server_state(service)
    del state["event"]
    return state


def rows(service: Service, query: str, *values: Any) -> list[Any]:
    """Ask the server's own catalogs, or ours, as the superuser."""
    with service.superuser() as connection:
        return connection.execute(query.encode(), values).fetchall()


def tenant_roles(service: Service) -> list[str]:
    found = rows(
        service,
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND rolname !~ '_(app|owner|tenant)$' ORDER BY 1",
        f"{service.name}_",
    )
    return [row[0] for row in found]


def tenant_schemas(service: Service) -> list[str]:
    found = rows(
        service, "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s) ORDER BY 1", f"{service.name}_"
    )
    return [row[0] for row in found]


def set_state(service: Service, tenant_id: str, state: TenantState) -> None:
    with service.superuser() as connection:
        connection.execute("UPDATE mt_paas.tenant SET state = %s WHERE tenant_id = %s", (state, tenant_id))


# -- create


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


def test_a_reason_or_an_actor_that_cannot_be_stored_changes_nothing(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    with pytest.raises((TenancyError, DBAPIError)):
        manager.suspend("hallym", reason="a\x00b")
    with pytest.raises((TenancyError, DBAPIError)):
        manager.create("snu", actor="a\x00b")
    assert state_but_for_the_log(fleet) == before


def test_opaque_names_say_nothing_of_the_tenant(service: Service) -> None:
    manager = service.manager(opaque_names=True)
    manager.init()
    placement = manager.create("hallym").placement
    assert "hallym" not in placement.schema_name
    assert placement.schema_name == placement.role_name
    with manager.get_session("hallym") as session:
        session.add(Note(body="here"))
    assert manager.doctor().ok


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


# -- rights


class Counted(DeclarativeBase):
    """Models with a sequence of their own beside an identity column's."""

    metadata = MetaData()


COUNTER = Sequence("counter", metadata=Counted.metadata)


class Ticket(Counted):
    __tablename__ = "ticket"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    number: Mapped[int] = mapped_column(COUNTER, server_default=COUNTER.next_value())


_RIGHTS = """
    SELECT c.relname, c.relkind::text, pg_get_userbyid(c.relowner), a.grantee::regrole::text, a.is_grantable,
           array_agg(a.privilege_type ORDER BY a.privilege_type)
      FROM pg_class c, aclexplode(c.relacl) a
     WHERE c.relnamespace = %s::regnamespace AND a.grantee <> c.relowner
     GROUP BY 1, 2, 3, 4, 5
     ORDER BY 1"""
_DML = ["DELETE", "INSERT", "SELECT", "UPDATE"]


def test_the_tenant_role_has_exactly_its_rights(service: Service) -> None:
    manager = service.manager(models=Counted)
    manager.init()
    manager.create("korea")
    name = manager.create("hallym").placement.role_name
    owner = f"{service.name}_owner"
    expected = [
        ("counter", "S", owner, name, False, ["USAGE"]),
        ("ticket", "r", owner, name, False, _DML),
        ("ticket_id_seq", "S", owner, name, False, ["USAGE"]),
    ]
    assert rows(service, _RIGHTS, name) == expected
    assert rows(
        service,
        "SELECT pg_get_userbyid(nspowner), grantee::regrole::text, privilege_type, is_grantable"
        " FROM pg_namespace, aclexplode(nspacl) WHERE nspname = %s AND grantee <> nspowner",
        name,
    ) == [(owner, name, "USAGE", False)]
    # Beyond its schema: the group that carries shared rights, and nothing that PUBLIC does not have.
    assert rows(
        service,
        "SELECT roleid::regrole::text, admin_option FROM pg_auth_members WHERE member = %s::regrole",
        name,
    ) == [(f"{service.name}_tenant", False)]
    assert rows(
        service,
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        "   AND (has_schema_privilege(%s, oid, 'USAGE') OR has_schema_privilege(%s, oid, 'CREATE'))",
        name,
        name,
    ) == [(name,)]
    assert rows(
        service,
        "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        " FROM pg_roles WHERE rolname = %s",
        name,
    ) == [(False,) * 6]


def test_what_the_owner_makes_later_is_granted_as_it_is_made(fleet: Service, manager: TenantManager) -> None:
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        for statement in (
            f'SET ROLE "{fleet.name}_owner"',
            f'CREATE TABLE "{name}".later (id serial PRIMARY KEY, body text)',
            f'CREATE VIEW "{name}".seen AS SELECT body FROM "{name}".later',
            f'CREATE FUNCTION "{name}".answer() RETURNS int LANGUAGE sql AS $$ SELECT 42 $$',
        ):
            connection.execute(statement.encode())
    with manager.get_session("hallym") as session:
        session.execute(text("INSERT INTO later (body) VALUES ('x')"))
        session.execute(text("UPDATE later SET body = 'y'"))
        assert session.execute(text("SELECT body, answer() FROM seen")).one() == ("y", 42)
        session.execute(text("DELETE FROM later"))
    later = [row for row in rows(fleet, _RIGHTS, name) if row[0].startswith(("later", "seen"))]
    assert [(row[0], row[5]) for row in later] == [("later", _DML), ("later_id_seq", ["USAGE"]), ("seen", _DML)]
    with manager.get_session("korea", commit=False) as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(text(f'SELECT "{name}".answer()'))


_BEYOND_THE_TENANT = """
TRUNCATE note
CREATE TABLE mine (a int)
CREATE TEMP TABLE mine (a int)
CREATE VIEW mine AS SELECT 1
CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE TYPE mine AS (a int)
CREATE SEQUENCE mine
CREATE SCHEMA mine
CREATE TRIGGER mine BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
CREATE RULE mine AS ON DELETE TO note DO INSTEAD NOTHING
CREATE POLICY mine ON note USING (true)
ALTER TABLE note ADD COLUMN mine int
ALTER TYPE mood ADD VALUE 'mine'
DROP TABLE note
CREATE INDEX ON note (body)
SELECT setval('note_id_seq', 1)
COPY note TO PROGRAM 'true'
SELECT pg_read_file('/etc/hostname')
SELECT * FROM mt_paas.tenant
SELECT * FROM mt_paas.resolve('korea')
"""


def test_the_server_refuses_the_tenant_role_all_else(fleet: Service, manager: TenantManager) -> None:
    for statement in _BEYOND_THE_TENANT.strip().splitlines():
        with manager.get_session("hallym", commit=False) as session:
            with pytest.raises((DBAPIError, psycopg.Error)) as caught:
                session.connection().exec_driver_sql(statement)
                pytest.fail(f"allowed: {statement}")
            error = getattr(caught.value, "orig", None) or caught.value
            assert isinstance(error, psycopg.errors.InsufficientPrivilege), statement


def test_the_login_role_may_take_the_tenants_role_and_inherits_nothing(fleet: Service, manager: TenantManager) -> None:
    modern = rows(fleet, "SELECT current_setting('server_version_num')::int >= 160000") == [(True,)]
    options = ", inherit_option, set_option" if modern else ", false, true"
    name = manager.get("hallym").placement.role_name
    query = f"SELECT member::regrole::text, admin_option{options} FROM pg_auth_members WHERE roleid = %s::regrole"
    members = [row for row in rows(fleet, query, name) if row[0] == fleet.login]
    assert members == [(fleet.login, False, False, True)]


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


# -- concurrency


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
        lambda m, i: m.resume(i),
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
        expected = tenant.state is TenantState.ACTIVE
        assert rows(service, "SELECT pg_has_role(%s, %s, 'MEMBER')", service.login, tenant.placement.role_name) == [
            (expected,)
        ]


# -- transitions

# Written out, not derived: which action leads from which state to which; None for gone, absent for refused.
_ALLOWED: dict[str, dict[str, str | None]] = {
    "suspend": {"active": "suspended", "read_only": "suspended", "maintenance": "suspended"},
    "resume": {"suspended": "active"},
    "delete": {"suspended": None, "archived": None},
}


def perform(manager: TenantManager, action: str, tenant_id: str) -> Any:
    if action == "delete":
        return manager.delete(tenant_id, confirm=tenant_id)
    return getattr(manager, action)(tenant_id)


@pytest.mark.parametrize("action", sorted(_ALLOWED))
def test_every_state_allows_or_refuses_the_action(service: Service, manager: TenantManager, action: str) -> None:
    for state in TenantState:
        tenant_id = f"in-{state.replace('_', '-')}"
        name = manager.create(tenant_id).placement.role_name
        set_state(service, tenant_id, state)
        if state in _ALLOWED[action]:
            outcome = perform(manager, action, tenant_id)
            if _ALLOWED[action][state] is None:
                assert tenant_id not in [t.tenant_id for t in manager.list()]
                assert name not in [*tenant_roles(service), *tenant_schemas(service)]
            else:
                assert outcome.state == manager.get(tenant_id).state == _ALLOWED[action][state]
                assert outcome.state_changed_at >= outcome.created_at
            continue
        before = state_but_for_the_log(service)
        with pytest.raises(IllegalTransitionError) as caught:
            perform(manager, action, tenant_id)
        assert (caught.value.tenant_id, caught.value.state, caught.value.action) == (tenant_id, state, action)
        assert set(caught.value.allowed_from) == set(_ALLOWED[action])
        assert str(state) in str(caught.value)
        assert state_but_for_the_log(service) == before
        assert manager.events(tenant_id)[0].outcome == "failed"


def test_a_tenant_that_is_not_ready_takes_no_sessions(fleet: Service) -> None:
    manager = fleet.manager()
    for state in set(TenantState) - {TenantState.ACTIVE, TenantState.READ_ONLY, TenantState.SUSPENDED}:
        set_state(fleet, "hallym", state)
        with pytest.raises(TenantNotReadyError) as caught, manager.get_session("hallym"):
            pass
        assert (caught.value.tenant_id, caught.value.state) == ("hallym", state)


# -- suspend and resume


def test_suspend_takes_the_role_from_the_login_and_resume_gives_it_back(fleet: Service, manager: TenantManager) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="kept"))
    name = manager.get("hallym").placement.role_name
    before = state_but_for_the_log(fleet)
    suspended = manager.suspend("hallym", reason="unpaid")
    assert (suspended.state, suspended.state_reason) == (TenantState.SUSPENDED, "unpaid")
    assert rows(fleet, "SELECT pg_has_role(%s, %s, 'MEMBER')", fleet.login, name) == [(False,)]
    with psycopg.connect(app_dsn(fleet)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f'SET ROLE "{name}"'.encode())
    with pytest.raises(TenantSuspendedError) as caught, fleet.manager().get_session("hallym"):
        pass
    assert (caught.value.state, caught.value.reason) == ("suspended", "unpaid")

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
    assert rows(fleet, "SELECT pg_has_role(%s, %s, 'MEMBER')", fleet.login, name) == [(False,)]
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
        assert rows(fleet, "SELECT pg_has_role(%s, %s, 'MEMBER')", fleet.login, name) == [(False,)]
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
    with pytest.raises(MissingRightsError, match="was not suspended"):
        manager.suspend("hallym")
    assert state_but_for_the_log(fleet) == before
    with manager.get_session("hallym") as session:
        assert session.scalars(select(Note)).all() == []


def test_a_tenant_whose_role_is_lost_can_still_be_suspended_and_deleted(fleet: Service, manager: TenantManager) -> None:
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'.encode())
    assert manager.suspend("hallym").state is TenantState.SUSPENDED
    manager.delete("hallym", confirm="hallym")
    assert [tenant.tenant_id for tenant in manager.list()] == ["korea"]


# -- delete


def test_delete_leaves_nothing_but_the_log(fleet: Service, manager: TenantManager) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="gone"))
        session.execute(text("SELECT lo_create(0)"))  # a large object belongs to the role, not to the schema
    korea = manager.get("korea").placement.role_name
    manager.suspend("hallym")
    manager.delete("hallym", confirm="hallym", actor="kim")
    assert [tenant.tenant_id for tenant in manager.list()] == ["korea"]
    assert tenant_roles(fleet) == tenant_schemas(fleet) == [korea]
    assert rows(fleet, "SELECT count(*) FROM pg_largeobject_metadata") == [(0,)]
    assert rows(fleet, "SELECT name FROM mt_paas.tenant_name") == [("korea",)]
    newest = manager.events("hallym")[0]
    assert (newest.action, newest.actor) == ("delete", "kim")
    with pytest.raises(UnknownTenantError):
        manager.get("hallym")
    with pytest.raises(UnknownTenantError), fleet.manager().get_session("hallym"):
        pass
    assert manager.doctor().ok


@pytest.mark.parametrize("typed", [None, "", "korea", "Hallym", "hallym ", "chat.hallym.ac.kr"])
def test_delete_wants_the_id_typed_again(fleet: Service, manager: TenantManager, typed: str | None) -> None:
    manager.add_alias("hallym", "chat.hallym.ac.kr")
    manager.suspend("hallym")
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
        manager.suspend(tenant_id)
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
    manager.suspend("hallym")
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


# -- list


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


# -- the log


def test_the_log_says_who_did_what_when_and_with_what_outcome(service: Service, manager: TenantManager) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    made = manager.create("hallym", actor="kim")
    manager.add_alias("hallym", "chat.hallym.ac.kr", actor="lee")
    manager.release_alias("hallym", "chat.hallym.ac.kr", actor="lee")
    manager.suspend("hallym", reason="unpaid", actor="billing")
    with pytest.raises(IllegalTransitionError):
        manager.suspend("hallym", actor="billing")
    manager.resume("hallym")
    manager.rename("hallym", "hallym-univ", actor="kim")
    with pytest.raises(UnknownTenantError):
        manager.suspend("nobody", actor="kim")
    events = manager.events()
    assert [(e.action, e.actor, e.outcome) for e in reversed(events)] == [
        ("create", "kim", "done"),
        ("add_alias", "lee", "done"),
        ("release_alias", "lee", "done"),
        ("suspend", "billing", "done"),
        ("suspend", "billing", "failed"),
        ("resume", "postgres", "done"),
        ("rename", "kim", "done"),
        ("suspend", "kim", "failed"),
    ]
    assert all(began < e.at < began + timedelta(minutes=1) for e in events)
    assert [e.event_id for e in events] == sorted((e.event_id for e in events), reverse=True)
    assert all(e.generation == made.generation for e in events if e.outcome == "done")
    by_action = {e.action: e for e in reversed(events) if e.outcome == "done"}
    assert by_action["suspend"].detail["reason"] == "unpaid"
    assert by_action["rename"].detail["to"] == "hallym-univ"
    assert by_action["add_alias"].detail["alias"] == "chat.hallym.ac.kr"
    failed = events[0]
    assert (failed.tenant_id, failed.detail["error"]) == ("nobody", "UnknownTenantError")
    assert "nobody" in failed.detail["message"]
    assert [e.tenant_id for e in manager.events("nobody")] == ["nobody"]
    assert manager.events(limit=2) == events[:2]


_CHANGES_OF_THE_LOG = """
UPDATE mt_paas.event SET actor = 'nobody'
UPDATE mt_paas.event SET outcome = 'done' WHERE false
DELETE FROM mt_paas.event
DELETE FROM mt_paas.event WHERE false
TRUNCATE mt_paas.event
TRUNCATE mt_paas.event, mt_paas.tenant CASCADE
MERGE INTO mt_paas.event USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE
INSERT INTO mt_paas.event SELECT * FROM mt_paas.event ON CONFLICT (event_id) DO UPDATE SET actor = 'nobody'
"""


@pytest.mark.parametrize("role", ["owner", "superuser"])
def test_the_log_is_append_only(fleet: Service, manager: TenantManager, role: str) -> None:
    before = manager.events()
    with fleet.superuser() as connection:
        if role == "owner":
            connection.execute(f'SET ROLE "{fleet.name}_owner"'.encode())
        for statement in _CHANGES_OF_THE_LOG.strip().splitlines():
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(statement.encode())
                pytest.fail(f"allowed: {statement}")
            # 428C9: the number of a line is the server's to give, so that no line can be put in another's place.
            assert caught.value.sqlstate in {"42501", "428C9"}, statement
    assert manager.events() == before


def test_the_log_is_found_by_any_name_of_the_tenant(fleet: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", "chat.hallym.ac.kr")
    manager.rename("hallym", "hallym-univ")
    with pytest.raises(NameReservedError):
        manager.create("hallym")  # tried under its name, by another
    with pytest.raises(IllegalTransitionError):
        manager.resume("hallym-univ")
    done = ["rename", "add_alias", "create"]
    for name in ("hallym", "hallym-univ", "chat.hallym.ac.kr"):
        assert [e.action for e in manager.events(name) if e.outcome == "done"] == done
    assert [e.action for e in manager.events("hallym")] == ["create", *done]
    assert [e.action for e in manager.events("hallym-univ")] == ["resume", *done]
    assert [e.action for e in manager.events("korea")] == ["create"]
    with pytest.raises(InvalidIdentifierError):
        manager.events("Hallym")


def test_the_log_outlives_the_tenant(fleet: Service, manager: TenantManager) -> None:
    manager.suspend("hallym")
    manager.delete("hallym", confirm="hallym")
    assert [e.action for e in manager.events("hallym")] == ["delete", "suspend", "create"]


# -- bad input

Verb = Callable[[TenantManager, Any], Any]

_VERBS: dict[str, Verb] = {
    "get": lambda m, i: m.get(i),
    "suspend": lambda m, i: m.suspend(i),
    "resume": lambda m, i: m.resume(i),
    "delete": lambda m, i: m.delete(i, confirm=i),
    "rename": lambda m, i: m.rename(i, "snu"),
    "add_alias": lambda m, i: m.add_alias(i, "chat.snu.ac.kr"),
    "release_alias": lambda m, i: m.release_alias(i, "chat.snu.ac.kr"),
}
_CREATE: dict[str, Verb] = {"create": lambda m, i: m.create(i)}
_QUESTIONS: dict[str, Verb] = {"list": lambda m, i: m.list(), "events": lambda m, i: m.events()}
_ALL_VERBS = {**_VERBS, **_CREATE, **_QUESTIONS}


def test_an_unknown_tenant(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    for verb in _VERBS.values():
        with pytest.raises(UnknownTenantError) as caught:
            verb(manager, "nobody")
        assert caught.value.tenant_id == "nobody"
    assert state_but_for_the_log(fleet) == before


def test_an_invalid_id(fleet: Service, manager: TenantManager) -> None:
    before = server_state(fleet)
    for verb in {**_VERBS, **_CREATE}.values():
        for value in ("Hallym", "hallym'; --", "hallym\n", "", None, 7, "한림", "a" * 300):
            with pytest.raises(InvalidIdentifierError) as caught:
                verb(manager, value)
            assert caught.value.value == value
    assert server_state(fleet) == before


def test_an_invalid_new_id_or_alias(fleet: Service, manager: TenantManager) -> None:
    before = server_state(fleet)
    bad_ids: list[Any] = ["Snu", "pg-x", "public", "a" * 64, "chat.snu.ac.kr", "", None]
    for bad in bad_ids:
        with pytest.raises(InvalidIdentifierError):
            manager.rename("hallym", bad)
    bad_aliases: list[Any] = ["Bad Alias", "", ".", "a" * 254, None, 7]
    for bad in bad_aliases:
        for attempt in (
            partial(manager.create, "snu", aliases=[bad]),
            partial(manager.add_alias, "hallym", bad),
            partial(manager.release_alias, "hallym", bad),
        ):
            with pytest.raises(InvalidIdentifierError):
                attempt()
    assert server_state(fleet) == before


def test_a_tenant_that_exists(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    with pytest.raises(TenantExistsError) as caught:
        manager.create("hallym", display_name="another")
    assert caught.value.tenant_id == "hallym"
    assert state_but_for_the_log(fleet) == before


def test_without_models_nothing_is_created(service: Service, manager: TenantManager) -> None:
    bare = TenantManager(service.settings())
    service.managers.append(bare)
    before = server_state(service)
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_MODELS"):
        bare.create("hallym")
    assert server_state(service) == before


def test_a_lock_that_is_held_too_long(fleet: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another transaction holds the tenant's row; the patience is cut short, so that the test need not wait."""
    statements = cast("dict[str, str]", queries("roles"))
    monkeypatch.setitem(statements, "admin_patience", "SET LOCAL lock_timeout = '300ms'")
    before = state_but_for_the_log(fleet)
    with fleet.superuser() as connection, connection.transaction():
        connection.execute("SELECT FROM mt_paas.tenant WHERE tenant_id = 'hallym' FOR UPDATE")
        for verb in (manager.suspend, partial(manager.rename, new_id="snu")):
            with pytest.raises(LockedError, match="try again") as caught:
                verb("hallym")
            assert caught.value.cluster == "main"
        assert manager.suspend("korea").state is TenantState.SUSPENDED  # only the one is held
        manager.resume("korea")
    after = state_but_for_the_log(fleet)
    assert {**after, "tenant": before["tenant"]} == before
    assert [e.detail["error"] for e in manager.events("hallym", limit=2)] == ["LockedError"] * 2


def test_a_server_that_is_down(service: Service) -> None:
    port = free_port()
    down = f"postgresql://{{}}@127.0.0.1:{port}/x"
    manager = service.manager(clusters=clusters(down.format(service.login), down.format("postgres")))
    for verb in _ALL_VERBS.values():
        with pytest.raises(ServerUnavailableError) as caught:
            verb(manager, "hallym")
        assert caught.value.cluster == "main"
        assert str(port) in str(caught.value)


@pytest.mark.parametrize("verb", sorted(_ALL_VERBS))
def test_a_database_without_a_catalog(service: Service, verb: str) -> None:
    with pytest.raises(CatalogMissingError, match="mt-paas-db init") as caught:
        _ALL_VERBS[verb](service.manager(), "hallym")
    assert caught.value.cluster == "main"
    assert tenant_roles(service) == tenant_schemas(service) == []


def test_a_database_without_a_catalog_whose_installation_is_elsewhere(service: Service, manager: TenantManager) -> None:
    """The roles exist on the server, since another database holds the installation."""
    other = Service(service.server)
    try:
        lost = other.manager(
            installation=service.name,
            clusters=clusters(app_dsn(service, database=other.database), other.server.dsn(other.database)),
        )
        for verb in _ALL_VERBS.values():
            with pytest.raises(CatalogMissingError, match="no tenant catalog"):
                verb(lost, "hallym")
    finally:
        other.close()


def test_settings_of_another_installation(fleet: Service) -> None:
    """The database is another's: settings and catalog disagree, and the message must say whose it is."""
    stranger = Service(fleet.server)
    try:
        stranger.manager().init()
        mixed = stranger.manager(clusters=clusters(app_dsn(stranger), fleet.server.dsn(fleet.database)))
        before = server_state(fleet)
        for verb in _ALL_VERBS.values():
            with pytest.raises(TenancyError) as caught:
                verb(mixed, "hallym")
            assert fleet.name in str(caught.value)
        assert server_state(fleet) == before
    finally:
        stranger.close()


def test_an_admin_dsn_that_is_wrong(service: Service, manager: TenantManager) -> None:
    wrong = service.server.dsn(service.database, user=service.login, password="hunter2")
    with pytest.raises(ServerUnavailableError) as caught:
        service.manager(clusters=clusters(app_dsn(service), wrong)).create("hallym")
    assert "admin DSN" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_login_role_is_no_admin(fleet: Service) -> None:
    before = server_state(fleet)
    manager = fleet.manager(clusters=clusters(app_dsn(fleet), app_dsn(fleet)))
    for verb in _ALL_VERBS.values():
        with pytest.raises((MissingRightsError, CatalogMissingError)):
            verb(manager, "snu")
    assert server_state(fleet) == before


# -- asyncio


def test_the_asyncio_verbs_are_the_same_verbs() -> None:
    for name, member in inspect.getmembers(AsyncTenantManager, inspect.isfunction):
        if name.startswith("_"):
            continue
        assert inspect.signature(member) == inspect.signature(getattr(TenantManager, name)), name
    public = {n for n, m in inspect.getmembers(TenantManager, inspect.isfunction) if not n.startswith("_")}
    assert public == {n for n, _ in inspect.getmembers(AsyncTenantManager, inspect.isfunction) if not n.startswith("_")}


def test_a_life_in_asyncio(service: Service) -> None:
    manager = service.manager().aio

    async def live() -> None:
        assert (await manager.init()).name == service.name
        assert (await manager.create("hallym", aliases=["a.example.org"], actor="kim")).generation == 1
        with pytest.raises(TenantExistsError):
            await manager.create("hallym")
        assert (await manager.add_alias("hallym", "b.example.org")).aliases == ("a.example.org", "b.example.org")
        assert (await manager.release_alias("hallym", "a.example.org")).aliases == ("b.example.org",)
        assert (await manager.rename("hallym", "hallym-univ")).tenant_id == "hallym-univ"
        async with manager.get_session("hallym-univ") as session:
            session.add(Note(body="x"))
        assert (await manager.suspend("hallym-univ", reason="unpaid")).state_reason == "unpaid"
        assert [t.tenant_id for t in await manager.list(state=TenantState.SUSPENDED)] == ["hallym-univ"]
        assert (await manager.resume("hallym-univ")).state is TenantState.ACTIVE
        assert (await manager.readiness()).ok
        assert (await manager.doctor()).ok
        await manager.suspend("hallym-univ")
        await manager.delete("hallym-univ", confirm="hallym-univ")
        assert (await manager.events("hallym-univ"))[0].action == "delete"
        with pytest.raises(UnknownTenantError):
            await manager.get("hallym-univ")
        await manager.close()

    asyncio.run(live())
