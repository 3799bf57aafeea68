"""Tables that tenants share by rows: what the server shows, fills in and refuses, on each driver and way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    ForeignKeyConstraint,
    Identity,
    Index,
    PrimaryKeyConstraint,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mt_paas_db.core import TenantManager
from mt_paas_db.policies import advice, reference, shared, tenant_column
from tests.fleet import Route, Runner, Service

SHARED = "mt_test_rows"
OPTIONS: dict[str, Any] = {"shared_schemas": (SHARED,)}


class Base(DeclarativeBase):
    pass


class Usage(Base):
    __tablename__ = "usage"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "id"),
        UniqueConstraint("tenant", "name"),
        Index("usage_body", "tenant", "body"),
        {"schema": SHARED, "info": shared()},
    )
    tenant: Mapped[int] = tenant_column()
    id: Mapped[int] = mapped_column(Identity())
    name: Mapped[str]
    body: Mapped[str] = mapped_column(server_default="")


class Item(Base):
    __tablename__ = "item"
    __table_args__ = (
        PrimaryKeyConstraint("customer", "id"),
        ForeignKeyConstraint(["customer", "usage_id"], [f"{SHARED}.usage.tenant", f"{SHARED}.usage.id"]),
        {"schema": SHARED, "info": shared("customer")},
    )
    customer: Mapped[int] = tenant_column()
    id: Mapped[int] = mapped_column(Identity())
    usage_id: Mapped[int]


class Plan(Base):
    __tablename__ = "plan"
    __table_args__ = ({"schema": SHARED, "info": reference()},)
    name: Mapped[str] = mapped_column(primary_key=True)


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)


@pytest.fixture
def fleet(service: Service) -> Service:
    service.models = Base
    manager = service.manager(**OPTIONS)
    manager.init()
    for tenant in ("hallym", "korea"):
        manager.create(tenant)
    with as_owner(service) as owner:
        owner.execute(f"INSERT INTO {SHARED}.plan VALUES ('basic')".encode())
    return service


@pytest.fixture
def runner(request: pytest.FixtureRequest, fleet: Service, route: Route) -> Iterator[Runner]:
    pooler = request.getfixturevalue("pgbouncer") if route.pooled else None
    one = {"pool_size": 1, "pool_timeout_s": 5, **OPTIONS}
    made = Runner(fleet.manager(pooler=pooler, **one, **route.options), route)
    yield made
    made.close()


def as_owner(service: Service) -> psycopg.Connection[Any]:
    connection = service.superuser()
    connection.execute(f'SET ROLE "{service.name}_owner"'.encode())
    return connection


def add(*names: str) -> Callable[[Session], None]:
    return lambda session: session.add_all(Usage(name=name) for name in names)


def names(session: Session) -> list[str]:
    return list(session.scalars(select(Usage.name).order_by(Usage.name)))


def refused(runner: Runner, tenant: str, statement: Any) -> str:
    """Return the SQLSTATE with which the server refuses a statement of a tenant."""
    with pytest.raises(DBAPIError) as caught:
        runner.run(tenant, lambda session: session.execute(statement))
    state = getattr(caught.value.orig, "sqlstate", None)
    assert isinstance(state, str)
    return state


def generations(service: Service) -> dict[str, int]:
    return {tenant.tenant_id: tenant.generation for tenant in service.manager(**OPTIONS).list()}


def test_the_models_are_as_advised() -> None:
    assert [finding for table in Base.metadata.tables.values() for finding in advice(table)] == []


def test_each_sees_its_own(runner: Runner, fleet: Service) -> None:
    runner.run("hallym", add("one", "two", "three"))  # several at once
    runner.run("korea", add("one"))
    assert runner.run("hallym", names) == ["one", "three", "two"]
    assert runner.run("korea", names) == ["one"]
    own = generations(fleet)
    seen = runner.run("hallym", lambda s: set(s.scalars(select(Usage.tenant))))
    assert seen == {own["hallym"]}
    assert runner.run("korea", lambda s: s.scalar(text("SELECT count(*) FROM usage"))) == 1


def test_no_other_row_can_be_written(runner: Runner, fleet: Service) -> None:
    runner.run("korea", add("one"))
    own = generations(fleet)
    theirs, ours = own["korea"], own["hallym"]
    everything = [
        update(Usage).values(body="hallym was here"),
        update(Usage).where(Usage.tenant == theirs).values(tenant=ours),
        delete(Usage),
        delete(Usage).where(Usage.tenant == theirs),
    ]
    for statement in everything:
        assert runner.run("hallym", lambda s, st=statement: s.execute(st).rowcount) == 0  # type: ignore[misc]
    assert refused(runner, "hallym", insert(Usage).values(tenant=theirs, name="planted")) == "42501"
    runner.run("hallym", add("mine"))
    assert refused(runner, "hallym", update(Usage).values(tenant=theirs)) == "42501"
    upsert = f"INSERT INTO {SHARED}.usage (tenant, name) VALUES ({theirs}, 'one') ON CONFLICT (tenant, name) DO UPDATE"
    assert refused(runner, "hallym", text(f"{upsert} SET body = 'taken'")) == "42501"
    assert refused(runner, "hallym", text(f"TRUNCATE {SHARED}.usage")) == "42501"
    with fleet.superuser() as su:
        found = su.execute(f"SELECT tenant, name, body FROM {SHARED}.usage ORDER BY name".encode()).fetchall()
    assert found == [(ours, "mine", ""), (theirs, "one", "")]


def test_keys_and_foreign_keys_are_each_tenants_own(runner: Runner) -> None:
    runner.run("korea", add("one"))
    runner.run("hallym", add("one"))  # no conflict
    id_ = runner.run("korea", lambda s: s.scalars(select(Usage.id)).one())
    assert runner.run("korea", lambda s: s.add(Item(usage_id=id_))) is None
    assert refused(runner, "hallym", insert(Item).values(usage_id=id_)) == "23503"  # as if it were not there


def test_what_is_shared_to_be_read_is_read_and_not_written(runner: Runner) -> None:
    assert runner.run("hallym", lambda s: list(s.scalars(select(Plan.name)))) == ["basic"]
    for statement in (insert(Plan).values(name="own"), update(Plan).values(name="own"), delete(Plan)):
        assert refused(runner, "hallym", statement) == "42501"


def test_the_owner_and_nobody_else_sees_all(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    own = generations(fleet)
    for tenant in own:
        with manager_of().get_session(tenant) as session:
            session.add(Usage(name=tenant))
    with as_owner(fleet) as owner:  # a backfill, under FORCE
        assert owner.execute(f"UPDATE {SHARED}.usage SET body = 'filled in'".encode()).rowcount == 2
        row = (own["korea"], "by the owner")
        owner.execute(f"INSERT INTO {SHARED}.usage (tenant, name) VALUES (%s, %s)".encode(), row)
        with pytest.raises(psycopg.errors.NotNullViolation):  # who is no tenant must say whose row it is
            owner.execute(f"INSERT INTO {SHARED}.usage (name) VALUES ('nobody''s')".encode())
    with manager_of().get_session("korea") as session:
        assert session.scalars(select(Usage.name).order_by(Usage.name)).all() == ["by the owner", "korea"]
    reference_role = f"{fleet.name}_reference"
    with fleet.superuser() as su:  # a member of the group that is no tenant
        su.execute(f'SET ROLE "{reference_role}"'.encode())
        assert su.execute(f"SELECT count(*) FROM {SHARED}.usage".encode()).fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            su.execute(f"INSERT INTO {SHARED}.usage (name) VALUES ('nobody''s')".encode())


@pytest.fixture
def manager_of(fleet: Service) -> Callable[[], TenantManager]:
    made = fleet.manager(**OPTIONS)
    return lambda: made


def test_what_row_security_refuses_the_owner_too(fleet: Service) -> None:
    """As the guide says: COPY FROM, and a dump that must not leave rows out."""
    with as_owner(fleet) as owner:
        with pytest.raises(psycopg.errors.FeatureNotSupported), owner.cursor().copy(f"COPY {SHARED}.usage FROM STDIN"):
            pass
        owner.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="affected by row-level security"):
            owner.execute(f"SELECT * FROM {SHARED}.usage".encode())


def test_partitions_are_reached_by_their_table_alone(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    with as_owner(fleet) as owner:
        owner.execute(
            f"CREATE TABLE {SHARED}.log (tenant bigint NOT NULL DEFAULT mt_paas.tenant(), at date NOT NULL)"
            " PARTITION BY RANGE (at)".encode()
        )
        for year in (2026, 2027):
            owner.execute(
                f"CREATE TABLE {SHARED}.log_{year} PARTITION OF {SHARED}.log"
                f" FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')".encode()
            )
            if year == 2026:
                owner.execute(f"SELECT mt_paas.share_rows('{SHARED}.log', 'tenant')".encode())
    for tenant in ("hallym", "korea"):
        with manager_of().get_session(tenant) as session:
            session.execute(text(f"INSERT INTO {SHARED}.log (at) VALUES ('2026-05-05'), ('2027-05-05')"))
    with manager_of().get_session("hallym") as session:
        assert session.scalar(text(f"SELECT count(*) FROM {SHARED}.log")) == 2
        assert session.scalar(text(f"SELECT count(*) FROM {SHARED}.log_2027")) == 2  # what the guide warns of
    with as_owner(fleet) as owner:
        owner.execute(f"SELECT mt_paas.share_rows('{SHARED}.log', 'tenant')".encode())
    for year in (2026, 2027):
        with pytest.raises(DBAPIError, match="permission denied"), manager_of().get_session("hallym") as session:
            session.execute(text(f"SELECT * FROM {SHARED}.log_{year}"))


def test_init_brings_old_tables_to_what_is_declared(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    with as_owner(fleet) as owner:
        owner.execute(
            f"DROP POLICY mt_paas_tenant ON {SHARED}.usage; GRANT TRUNCATE ON {SHARED}.usage TO PUBLIC".encode()
        )
        owner.execute(f"GRANT INSERT ON {SHARED}.plan TO PUBLIC".encode())
    manager_of().init()
    with as_owner(fleet) as owner:
        for name, kind, column in (("usage", "tenants", "tenant"), ("item", "tenants", "customer"),
                                   ("plan", "everyone", None)):  # fmt: skip
            query = "SELECT fault FROM mt_paas.policy_changes(%s, %s, %s)"
            assert owner.execute(query, (f"{SHARED}.{name}", kind, column)).fetchall() == []


def test_a_view_of_the_owners_does_not_open_it(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    """Its tables' policies are the owner's there; ours asks who is asking."""
    for tenant in ("hallym", "korea"):
        with manager_of().get_session(tenant) as session:
            session.add(Usage(name=tenant))
    with as_owner(fleet) as owner:
        owner.execute(f"CREATE VIEW {SHARED}.all_usage AS SELECT * FROM {SHARED}.usage".encode())
    query = text(f"SELECT name FROM {SHARED}.all_usage")
    with manager_of().get_session("hallym") as session:
        assert session.scalars(query).all() == ["hallym"]
    with as_owner(fleet) as owner:  # the twin: as policies for owners are usually written
        owner.execute(f"ALTER POLICY mt_paas_owner ON {SHARED}.usage USING (true)".encode())
    with manager_of().get_session("hallym") as session:
        assert sorted(session.scalars(query)) == ["hallym", "korea"]


def test_a_new_tenant_of_an_old_name_sees_nothing_of_the_old_one(
    fleet: Service, manager_of: Callable[[], TenantManager]
) -> None:
    manager = manager_of()
    with manager.get_session("korea") as session:
        session.add(Usage(name="before"))
    manager.rename("korea", "korea-univ")
    with manager.get_session("korea-univ") as session:
        assert session.scalars(select(Usage.name)).all() == ["before"]
    manager.archive("korea-univ")
    manager.delete("korea-univ", confirm="korea-univ")
    manager.create("korea2")
    with manager.get_session("korea2") as session:
        assert session.scalars(select(Usage.name)).all() == []


def test_the_context_is_looked_up_once_for_a_query(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    many = text(f"INSERT INTO {SHARED}.usage (name) SELECT i::text FROM generate_series(1, 2000) i")
    with manager_of().get_session("hallym") as session:
        session.execute(many)
    explain = text(f"EXPLAIN (VERBOSE) SELECT count(*) FROM {SHARED}.usage")
    with manager_of().get_session("hallym") as session:
        plan = "\n".join(session.scalars(explain))
    assert "InitPlan" in plan
    assert "mt_paas.generation(CURRENT_USER)" in plan  # tenant() is inlined
    assert calls(fleet, manager_of(), select(func.count()).select_from(Usage)) == 1
    with as_owner(fleet) as owner:  # the twin: without the sub-select
        owner.execute(f"ALTER POLICY mt_paas_tenant ON {SHARED}.usage USING (tenant = mt_paas.tenant())".encode())
    with manager_of().get_session("hallym") as session:
        assert "InitPlan" not in "\n".join(session.scalars(explain))
    assert calls(fleet, manager_of(), select(func.count()).select_from(Usage)) > 1000


def calls(service: Service, manager: TenantManager, statement: Any) -> int:
    """Return how often a query of a tenant looks the context up."""
    counter = "SELECT coalesce(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE funcname = 'generation'"
    with service.superuser() as su:
        role = manager.get("hallym").placement.role_name
        su.execute("SET track_functions = 'all'")
        for way in ("indexscan", "indexonlyscan", "bitmapscan"):
            su.execute(f"SET enable_{way} = off".encode())
        su.execute("BEGIN")
        su.execute(f'SET LOCAL ROLE "{role}"'.encode())
        su.execute(str(statement.compile()).encode())
        row = su.execute(counter.encode()).fetchone()
        assert row is not None
        return int(row[0])


def test_an_index_serves_the_tenant(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    """The owner's policy stands in no plan of a tenant; a disjunction with it would make the index useless."""
    with manager_of().get_session("hallym") as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(session.scalars(text(f"EXPLAIN SELECT * FROM {SHARED}.usage WHERE body = 'x'")))
    assert "Index Cond: ((tenant = " in plan.replace("(InitPlan 1).col1", "$0")
    assert "_owner" not in plan


def test_parallel_workers_see_the_same(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    for tenant in ("hallym", "korea"):
        with manager_of().get_session(tenant) as session:
            session.execute(text(f"INSERT INTO {SHARED}.usage (name) SELECT i::text FROM generate_series(1, 5000) i"))
    with manager_of().get_session("hallym") as session:
        for setting in ("parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0",
                        "enable_indexscan = off", "enable_bitmapscan = off", "enable_indexonlyscan = off"):  # fmt: skip
            session.execute(text(f"SET LOCAL {setting}"))
        plan = "\n".join(session.scalars(text(f"EXPLAIN SELECT count(*) FROM {SHARED}.usage")))
        assert "Parallel Seq Scan" in plan
        assert session.scalar(text(f"SELECT count(*) FROM {SHARED}.usage")) == 5000


def test_no_session_may_call_it_by_name(fleet: Service, manager_of: Callable[[], TenantManager]) -> None:
    """Defaults and policies do, which were parsed before; the control schema itself is closed to tenants."""
    for call in ("mt_paas.tenant()", "mt_paas.generation('x')", "mt_paas.protect('note')"):
        with pytest.raises(DBAPIError, match="permission denied for schema"), manager_of().get_session("hallym") as s:
            s.execute(text(f"SELECT {call}"))
    login = f"{fleet.name}_app"
    with fleet.superuser() as su:
        su.execute(f'SET ROLE "{login}"'.encode())  # which may use the schema, for resolve()
        for call in ("mt_paas.tenant()", "mt_paas.generation('x')", "mt_paas.guard_of('x')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function"):
                su.execute(f"SELECT {call}".encode())
