"""Guards on tenants' own tables: a stray right on a neighbour's schema reads and writes no row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.core import TenantManager
from mt_paas_db.core.models import Models
from mt_paas_db.migrate.structure import fingerprint
from mt_paas_db.policies import shared
from tests.armada import ADD_ONLINE, ADD_TITLE, NOTE, QUICK, Armada
from tests.fleet import Route, Runner, Service
from tests.histories import History
from tests.models import Base, Note, Remark
from tests.versions import init_version_3

GUARDED: dict[str, Any] = {"guards": True}


def schema_of(service: Service, tenant: str) -> str:
    return service.manager().get(tenant).placement.schema_name


def as_owner(service: Service, tenant: str) -> psycopg.Connection[Any]:
    connection = service.superuser()
    connection.execute(f'SET ROLE "{service.name}_owner"'.encode())
    connection.execute(f'SET search_path = "{schema_of(service, tenant)}", pg_temp'.encode())
    return connection


def protect(service: Service, *tenants: str) -> None:
    for tenant in tenants:
        with as_owner(service, tenant) as owner:
            for table in Base.metadata.tables:
                owner.execute("SELECT mt_paas.protect(%s)", (table,))


def stray_rights(service: Service, *, of: str, to: str) -> None:
    """Grant one tenant all that another has, as a slip of an administrator's would."""
    role = schema_of(service, to)
    with as_owner(service, of) as owner:
        owner.execute(f'GRANT USAGE ON SCHEMA "{schema_of(service, of)}" TO "{role}"'.encode())
        for table in Base.metadata.tables:
            owner.execute(f'GRANT ALL ON TABLE {table} TO "{role}"'.encode())


@pytest.fixture
def guarded(fleet: Service) -> Service:
    """Two tenants with a note each, whose tables are guarded, and hallym's role with stray rights on korea's."""
    manager = fleet.manager()
    for tenant in ("hallym", "korea"):
        with manager.get_session(tenant) as session:
            session.add(Note(body=f"of {tenant}", remarks=[Remark(body="first")]))
    protect(fleet, "hallym", "korea")
    stray_rights(fleet, of="korea", to="hallym")
    return fleet


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_a_stray_right_yields_no_row_and_without_the_guard_it_does(guarded: Service, driver: str) -> None:
    if driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    route = Route(driver, pooled=False)
    runner = Runner(guarded.manager(**route.options), route)
    korea = schema_of(guarded, "korea")
    read = text(f'SELECT body FROM "{korea}".note')
    write = text(f"UPDATE \"{korea}\".note SET body = 'taken'")
    plant = text(f"INSERT INTO \"{korea}\".note (body, mood, tags) VALUES ('planted', 'calm', '{{}}')")
    remove = text(f'DELETE FROM "{korea}".remark')
    try:
        assert runner.run("hallym", lambda s: s.scalars(select(Note.body)).all()) == ["of hallym"]
        assert runner.run("hallym", lambda s: s.scalars(read).all()) == []
        assert runner.run("hallym", lambda s: s.execute(write).rowcount) == 0  # type: ignore[attr-defined]
        assert runner.run("hallym", lambda s: s.execute(remove).rowcount) == 0  # type: ignore[attr-defined]
        with pytest.raises(DBAPIError, match="row-level security"):
            runner.run("hallym", lambda s: s.execute(plant))
        assert runner.run("korea", lambda s: s.scalars(select(Note.body)).all()) == ["of korea"]
        with as_owner(guarded, "korea") as owner:  # the twin
            owner.execute("SELECT mt_paas.unprotect('note')")
        assert runner.run("hallym", lambda s: s.scalars(read).all()) == ["of korea"]
        assert runner.run("hallym", lambda s: s.execute(write).rowcount) == 1  # type: ignore[attr-defined]
    finally:
        runner.close()


def test_the_tenant_and_the_owner_work_as_before(guarded: Service) -> None:
    with guarded.manager().get_session("korea") as session:
        note = session.scalars(select(Note)).one()
        note.body = "changed"
        session.add(Note(body="second"))
    with as_owner(guarded, "korea") as owner:
        assert owner.execute("UPDATE note SET body = body || '!'").rowcount == 2
        owner.execute("DELETE FROM note WHERE body = 'second!'")
    with guarded.manager().get_session("korea") as session:
        session.delete(session.scalars(select(Note)).one())  # and its remarks, by the foreign key and the ORM
    with guarded.superuser() as su:
        assert su.execute(f'SELECT count(*) FROM "{schema_of(guarded, "korea")}".remark'.encode()).fetchone() == (0,)


def test_the_guard_is_asked_once_for_a_query(guarded: Service) -> None:
    with guarded.manager().get_session("korea") as session:
        plan = "\n".join(session.scalars(text("EXPLAIN SELECT count(*) FROM note")))
    assert "InitPlan" in plan
    assert "ANY" not in plan.split("->  Seq Scan")[1]  # nothing is left for each row but to look at its result


def test_all_four_halves_are_needed(guarded: Service) -> None:
    """FORCE holds the owner, RLS all others; without the permissive one nobody sees a row."""
    policies = "SELECT polname, polpermissive, polroles, polcmd FROM pg_policy WHERE polrelid = 'note'::regclass"
    flags = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'note'::regclass"
    with as_owner(guarded, "korea") as owner:
        assert sorted(owner.execute(policies.encode()).fetchall()) == [
            ("mt_paas_all", True, [0], "*"),
            ("mt_paas_guard", False, [0], "*"),
        ]
        assert owner.execute(flags.encode()).fetchone() == (True, True)


BREAKS = [
    "ALTER TABLE note DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE note NO FORCE ROW LEVEL SECURITY",
    "DROP POLICY mt_paas_guard ON note",
    "DROP POLICY mt_paas_all ON note",
    "ALTER POLICY mt_paas_guard ON note USING (true)",
    "ALTER POLICY mt_paas_guard ON note WITH CHECK (true)",
    'ALTER POLICY mt_paas_guard ON note TO "{role}"',
    "DROP POLICY mt_paas_guard ON note; CREATE POLICY mt_paas_guard ON note AS PERMISSIVE USING ({guard})",
    "DROP POLICY mt_paas_guard ON note; CREATE POLICY mt_paas_guard ON note AS RESTRICTIVE FOR SELECT USING ({guard})",
    "CREATE POLICY mt_paas_tenant ON note USING (true)",
]


@pytest.mark.parametrize("statement", BREAKS)
def test_whatever_was_changed_is_found_mended_and_drift(guarded: Service, statement: str) -> None:
    korea, hallym = schema_of(guarded, "korea"), schema_of(guarded, "hallym")
    changes = "SELECT fault FROM mt_paas.policy_changes('note', 'guarded')"
    with guarded.superuser() as su:
        su.execute(f'REVOKE ALL ON ALL TABLES IN SCHEMA "{korea}" FROM "{hallym}"'.encode())
        su.execute(f'REVOKE ALL ON SCHEMA "{korea}" FROM "{hallym}"'.encode())
        whole = fingerprint(su, hallym, hallym)
        assert fingerprint(su, korea, korea) == whole  # two tenants with guards are alike
    with as_owner(guarded, "korea") as owner:
        assert owner.execute(changes.encode()).fetchall() == []
        row = owner.execute("SELECT mt_paas.guard_of(%s)", (korea,)).fetchone()
        assert row is not None
        owner.execute(statement.format(role=korea, guard=row[0]).encode())
        assert owner.execute(changes.encode()).fetchall() != []
    with guarded.superuser() as su:
        assert fingerprint(su, korea, korea) != whole
    with as_owner(guarded, "korea") as owner:
        owner.execute("SELECT mt_paas.protect('note')")
        assert owner.execute(changes.encode()).fetchall() == []
    with guarded.superuser() as su:
        assert fingerprint(su, korea, korea) == whole


def test_another_tenants_guard_is_drift(guarded: Service) -> None:
    """The name of the table's own tenant stands for itself in a fingerprint, and no other's does."""
    korea, hallym = schema_of(guarded, "korea"), schema_of(guarded, "hallym")
    with as_owner(guarded, "korea") as owner:
        before = fingerprint(owner, korea, korea)
        row = owner.execute("SELECT mt_paas.guard_of(%s)", (hallym,)).fetchone()
        assert row is not None
        owner.execute(f"ALTER POLICY mt_paas_guard ON note USING ({row[0]}) WITH CHECK ({row[0]})".encode())
        assert fingerprint(owner, korea, korea) != before


def test_again_it_changes_nothing_and_waits_for_nobody(guarded: Service) -> None:
    with as_owner(guarded, "korea") as reader, as_owner(guarded, "korea") as owner:
        before = owner.execute("SELECT oid, xmin::text FROM pg_policy ORDER BY oid").fetchall()
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM note")  # a lock that ALTER TABLE would wait for
        owner.execute("SET lock_timeout = '100ms'")
        owner.execute("SELECT mt_paas.protect('note')")
        assert owner.execute("SELECT oid, xmin::text FROM pg_policy ORDER BY oid").fetchall() == before
        reader.execute("ROLLBACK")


def test_unprotect_leaves_no_trace(fleet: Service) -> None:
    korea = schema_of(fleet, "korea")
    with as_owner(fleet, "korea") as owner:
        before = fingerprint(owner, korea, korea)
        owner.execute("SELECT mt_paas.protect('note')")
        assert fingerprint(owner, korea, korea) != before
        owner.execute("SELECT mt_paas.unprotect('note')")
        assert fingerprint(owner, korea, korea) == before


REFUSED = [
    ("CREATE TABLE public.t (a int)", "public.t", "not in a tenant's schema"),
    ("CREATE TABLE mt_paas.t (a int)", "mt_paas.t", "not in a tenant's schema"),
    ("CREATE TABLE mt_test_shared.t (a int)", "mt_test_shared.t", "not in a tenant's schema"),
    ("CREATE VIEW {korea}.v AS SELECT 1", "{korea}.v", "is no table"),
    ("CREATE MATERIALIZED VIEW {korea}.m AS SELECT 1", "{korea}.m", "is no table"),
    ("CREATE TABLE {korea}.alien (a int); ALTER TABLE {korea}.alien OWNER TO postgres", "{korea}.alien", "not belong"),
]


@pytest.mark.parametrize(("make", "name", "said"), REFUSED)
def test_what_cannot_be_protected_is_refused(service: Service, make: str, name: str, said: str) -> None:
    manager = service.manager(shared_schemas=("mt_test_shared",))
    manager.init()
    manager.create("korea")
    korea = f'"{schema_of(service, "korea")}"'
    with service.superuser() as su:
        if "postgres" not in make and "public" not in make:
            su.execute(f'SET ROLE "{service.name}_owner"'.encode())
        su.execute(make.format(korea=korea).encode())
        with pytest.raises(psycopg.Error, match=said):
            su.execute("SELECT mt_paas.protect(%s)", (name.format(korea=korea),))
        with pytest.raises(psycopg.errors.UndefinedTable):
            su.execute("SELECT mt_paas.protect('nowhere')")


def test_a_tenants_table_is_not_shared(fleet: Service) -> None:
    with as_owner(fleet, "korea") as owner:
        for call in ("share_rows('note', 'id')", "share_read_only('note')"):
            with pytest.raises(psycopg.Error, match="not in a shared schema"):
                owner.execute(f"SELECT mt_paas.{call}".encode())


def test_partitions_are_guarded_with_their_table(fleet: Service) -> None:
    with as_owner(fleet, "korea") as owner:
        owner.execute("CREATE TABLE log (at date) PARTITION BY RANGE (at)")
        owner.execute("CREATE TABLE log_26 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
        owner.execute("SELECT mt_paas.protect('log')")
        owner.execute("INSERT INTO log VALUES ('2026-05-01')")
        owner.execute("CREATE TABLE log_27 PARTITION OF log FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')")
        faults = owner.execute("SELECT fault FROM mt_paas.policy_changes('log', 'guarded')").fetchall()
        assert {fault.split(":")[0].rpartition(".")[2] for (fault,) in faults} == {"log_27"}
        owner.execute("SELECT mt_paas.protect('log')")
    korea, hallym = (schema_of(fleet, tenant) for tenant in ("korea", "hallym"))
    with fleet.superuser() as su:
        su.execute(f'GRANT USAGE ON SCHEMA "{korea}" TO "{hallym}"'.encode())
        su.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{korea}" TO "{hallym}"'.encode())
    with fleet.manager().get_session("hallym") as session:
        for table in ("log", "log_26", "log_27"):
            assert session.execute(text(f'SELECT * FROM "{korea}".{table}')).all() == []
    with fleet.manager().get_session("korea") as session:
        assert len(session.execute(text("SELECT * FROM log_26")).all()) == 1


def test_policies_by_hand_stay_and_decide(fleet: Service) -> None:
    """A service may have rules of its own among a tenant's users: the guard adds to them, and opens nothing."""
    with as_owner(fleet, "korea") as owner:
        owner.execute("ALTER TABLE note ENABLE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY published ON note USING (body <> 'draft')")
        owner.execute("INSERT INTO note (body, mood, tags) VALUES ('draft', 'calm', '{}'), ('ready', 'calm', '{}')")
        owner.execute("SELECT mt_paas.protect('note')")
        assert owner.execute("SELECT count(*) FROM note").fetchone() == (2,)
        assert owner.execute("SELECT fault FROM mt_paas.policy_changes('note', 'guarded')").fetchall() == []
    with fleet.manager().get_session("korea") as session:
        assert session.scalars(select(Note.body)).all() == ["ready"]
    with as_owner(fleet, "korea") as owner:
        owner.execute("SELECT mt_paas.unprotect('note')")
        row = owner.execute("SELECT relrowsecurity FROM pg_class WHERE oid = 'note'::regclass").fetchone()
        assert row == (True,)  # what is theirs stays in force


def test_no_temporary_table_stands_in_for_the_catalog(fleet: Service) -> None:
    with as_owner(fleet, "korea") as owner:
        owner.execute("RESET ROLE")
        owner.execute("CREATE TEMP TABLE tenant (role_name text, schema_name text, generation bigint)")
        owner.execute(f"INSERT INTO tenant VALUES ('{schema_of(fleet, 'korea')}', 'public', 7)".encode())
        row = owner.execute("SELECT mt_paas.generation(%s), mt_paas.guard_of('public')", (schema_of(fleet, "korea"),))
        assert row.fetchone() == (fleet.manager().get("korea").generation, None)


DEFINERS = """
SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'mt_paas' AND p.prosecdef
   AND NOT coalesce((SELECT bool_or(c LIKE 'search_path=%pg_temp') FROM unnest(p.proconfig) c), false)
"""


def test_who_runs_as_the_owner_has_a_fixed_path(fleet: Service) -> None:
    with fleet.superuser() as su:
        assert su.execute(DEFINERS).fetchall() == []
        public = "SELECT p.proname FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = 0 AND p.pronamespace = "
        assert su.execute((public + "'mt_paas'::regnamespace").encode()).fetchall() == []


# -- without Alembic


def test_new_tenants_are_guarded_from_the_models(service: Service) -> None:
    manager = service.manager(**GUARDED)
    manager.init()
    for tenant in ("hallym", "korea"):
        manager.create(tenant)
    for tenant in ("hallym", "korea"):
        with as_owner(service, tenant) as owner:
            for table in Base.metadata.tables:
                changes = "SELECT fault FROM mt_paas.policy_changes(%s, 'guarded')"
                assert owner.execute(changes, (table,)).fetchall() == []
    with manager.get_session("hallym") as session:
        session.add(Note(body="mine"))
    with manager.get_session("hallym") as session:
        assert session.scalars(select(Note.body)).all() == ["mine"]


def test_the_models_ddl_is_the_same_text_for_all() -> None:
    dialect = create_engine("postgresql+psycopg://").dialect
    plain = Models(Base.metadata, shared_schemas=()).tenant_ddl(dialect)
    guarded = Models(Base.metadata, shared_schemas=(), guards=True).tenant_ddl(dialect)
    assert guarded.removeprefix(plain).split("\n;\n")[1:] == [
        "SELECT mt_paas.protect('note')",
        "SELECT mt_paas.protect('remark')",
    ]


def test_awkward_names(service: Service) -> None:
    name = """50%s :x "Q" it's"""
    theirs, common = MetaData(), MetaData()
    Table(name, theirs, Column("id", Integer, primary_key=True))
    whose = Column(name, BigInteger, nullable=False, server_default=text("mt_paas.tenant()"))
    rows = Table(name, common, whose, PrimaryKeyConstraint(name), schema="mt_test_shared", info=shared(name))
    manager = service.manager(models=common, shared_schemas=("mt_test_shared",))
    manager.init()
    schema = manager.create("hallym").placement.schema_name
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f'SET ROLE "{service.name}_owner"')
        connection.exec_driver_sql(f'SET search_path = "{schema}"')
        connection.exec_driver_sql(Models(theirs, shared_schemas=(), guards=True).tenant_ddl(connection.dialect))
        policies = "SELECT polname FROM pg_policy ORDER BY polname"
        names = ["mt_paas_all", "mt_paas_guard", "mt_paas_owner", "mt_paas_tenant"]
        assert connection.exec_driver_sql(policies).scalars().all() == names
    engine.dispose()
    with manager.get_session("hallym") as session:
        session.execute(insert(rows))


# -- in a large fleet

READ = """
SELECT sum(pg_stat_get_xact_tuples_returned(c.oid) + pg_stat_get_xact_tuples_fetched(c.oid))::int
  FROM unnest(ARRAY['pg_class', 'pg_policy', 'pg_attribute', 'pg_depend', 'pg_namespace', 'pg_authid',
                    'mt_paas.tenant']::regclass[]) c(oid)
"""


def rows_read(service: Service, sql: str) -> int:
    """Return how many rows of the catalogs it takes to carry out what is carried out again."""
    with as_owner(service, "hallym") as owner, owner.transaction():
        counts = []
        for _ in range(3):  # the first plans, and fills the server's caches
            owner.execute(sql.encode())
            counts.append((owner.execute(READ).fetchone() or (0,))[0])
    return int(counts[2] - counts[1])


def enlarge(service: Service) -> None:
    """Let there be many more tenants, and tables with policies."""
    with service.superuser() as su:
        su.execute("""
            INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name, role_name)
            SELECT 1000 + n, 'more-' || n, 'more', 'active', cell, 'more_' || n, 'more_' || n
              FROM mt_paas.tenant, generate_series(1, 1000) n WHERE tenant_id = 'korea'
        """)
    with as_owner(service, "korea") as owner:
        owner.execute("""
            DO $$
            BEGIN
                FOR number IN 1..150 LOOP
                    EXECUTE 'CREATE TABLE more_' || number || ' (id serial PRIMARY KEY)';
                    EXECUTE 'CREATE POLICY mt_paas_all ON more_' || number || ' USING (true)';
                    EXECUTE 'CREATE POLICY mt_paas_guard ON more_' || number || ' AS RESTRICTIVE USING (true)';
                END LOOP;
            END $$
        """)


@pytest.mark.parametrize("asked", ["SELECT mt_paas.protect('note')", "SELECT mt_paas.generation(CURRENT_USER)"])
@pytest.mark.parametrize("analyzed", [False, True])
def test_a_policy_costs_the_same_in_a_fleet_of_any_size(
    service: Service, monkeypatch: pytest.MonkeyPatch, asked: str, *, analyzed: bool
) -> None:
    """Also where an installation of version 3, whose cost grows, was upgraded."""
    init_version_3(service.manager())
    with monkeypatch.context() as patch:
        patch.setattr(registry, "check_version", lambda found, *, cluster: None)  # which this code is two apart from
        for tenant in ("hallym", "korea"):
            service.manager().create(tenant)
        small = rows_read(service, asked)
        if analyzed:
            with service.superuser() as su:
                su.execute("ANALYZE")
        enlarge(service)
        assert rows_read(service, asked) >= small + 150, "it would not be seen"

    service.manager().init()
    assert rows_read(service, asked) < 80


# -- by revisions


def drifted(armada: Armada) -> list[str]:
    return [verified.tenant_id for verified in armada.fleet().verify() if not verified.ok]


PROTECTED = NOTE + '\nop.protect("note")\n'


@pytest.mark.parametrize("way", ["compiled", "online"])
def test_a_revision_guards_every_tenant(service: Service, tmp_path: Path, way: str) -> None:
    armada = Armada.launch(service, tmp_path, "hallym", "korea")
    body = (ADD_ONLINE if way == "online" else ADD_TITLE) + '\nop.protect("note")'
    armada.history.add("a2", body, after="a1", down='op.unprotect("note")')
    plan = armada.fleet().plan(with_lint=False)
    assert {part.reason is None for script in plan.scripts.values() for part in script.parts} == {way == "compiled"}
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    changes = "SELECT fault FROM mt_paas.policy_changes('note', 'guarded')"
    for tenant in ("hallym", "korea", "(reference)"):
        assert armada.ask(tenant, changes) == []
    assert drifted(armada) == []
    armada.ask("korea", "DROP POLICY mt_paas_guard ON note")
    assert drifted(armada) == ["korea"]
    armada.ask("korea", "SELECT mt_paas.protect('note')")
    assert armada.fleet().downgrade("a1", options=replace(QUICK, allow_destructive=True)).ok
    for tenant in ("hallym", "korea", "(reference)"):
        assert armada.ask(tenant, "SELECT count(*) FROM pg_policy WHERE polrelid = 'note'::regclass") == [(0,)]


def test_a_new_tenant_is_guarded_by_its_revisions(service: Service, tmp_path: Path) -> None:
    history = History(tmp_path / "history").add("a1", PROTECTED)
    armada = Armada.launch(service, tmp_path, "hallym", "korea", history=history)
    manager: TenantManager = armada.manager()
    manager.create("snu")  # by replay
    manager.create("yonsei")  # from the compiled head
    for tenant in ("hallym", "snu", "yonsei"):
        assert armada.ask(tenant, "SELECT fault FROM mt_paas.policy_changes('note', 'guarded')") == []
    with manager.get_session("snu") as session:
        session.execute(text("INSERT INTO note (body) VALUES ('mine')"))
