"""A schema of any size and shape is deleted within the server's lock table, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import select, text

from mt_paas_db.catalog.values import Tenant, TenantState
from mt_paas_db.core import TenantManager
from mt_paas_db.core.progress import Progress
from mt_paas_db.errors import TenantNotReadyError, UnknownTenantError
from tests.conftest import SUPPLY
from tests.fingerprint import strays
from tests.fleet import Service
from tests.models import Note
from tests.servers import PostgresServer, find_postgres

OUT_OF_LOCKS = psycopg.errors.OutOfMemory  # 53200


@pytest.fixture(scope="module")
def narrow_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """A PostgreSQL with room for a few hundred locks."""
    small = {"max_locks_per_transaction": "10", "max_connections": "20", "fsync": "off", "full_page_writes": "off"}
    try:
        chosen = pytestconfig.stash[SUPPLY].own(**small)
    except LookupError as error:
        pytest.skip(str(error))
    with chosen as running:
        yield running


@pytest.fixture
def narrow(narrow_server: PostgresServer) -> Iterator[Service]:
    made = Service(narrow_server)
    yield made
    made.close()


class Grown:
    """A tenant whose schema is filled by SQL as the owner, as migrations would, and archived."""

    def __init__(self, service: Service, tenant_id: str = "hallym") -> None:
        self.service = service
        self.manager: TenantManager = service.manager()
        self.manager.init()
        self.tenant: Tenant = self.manager.create(tenant_id)
        self.tenant_id = tenant_id

    @property
    def schema(self) -> str:
        return self.tenant.placement.schema_name

    def grow(self, *statements: str) -> None:
        """Execute each in a transaction of its own, with the tenant's schema as the path."""
        with self.service.superuser() as connection:
            owner = sql.Identifier(f"{self.service.name}_owner")
            connection.execute(sql.SQL("SET ROLE {}").format(owner))
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema)))
            for statement in statements:
                connection.execute(statement.encode())

    def delete(self, progress: Callable[[Progress], None] | None = None) -> list[Progress]:
        """Archive the tenant if need be, delete it, and return what was reported."""
        heard: list[Progress] = []

        def listen(progressed: Progress) -> None:
            heard.append(progressed)
            if progress is not None:
                progress(progressed)

        if self.manager.get(self.tenant_id).state is TenantState.ACTIVE:
            self.manager.archive(self.tenant_id)
        self.manager.delete(self.tenant_id, confirm=self.tenant_id, progress=listen)
        return heard

    def assert_gone(self) -> None:
        with pytest.raises(UnknownTenantError):
            self.manager.get(self.tenant_id)
        assert strays(self.service) == set()


def tables(number: int, at_once: int = 20) -> list[str]:
    """Statements that make tables, each with two indexes and a sequence, few enough at once for a narrow server."""
    made = [
        f"CREATE TABLE t{n} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b text); CREATE INDEX ON t{n} (a)"
        for n in range(number)
    ]
    return [";".join(made[start : start + at_once]) for start in range(0, number, at_once)]


def assert_monotonous(heard: list[Progress]) -> None:
    done = [report.done for report in heard]
    assert done == sorted(done)
    assert len({report.total for report in heard}) == 1
    assert heard[-1].done == heard[-1].total > 0
    assert len(set(done)) > 2, "progress was not told in between"


def test_two_thousand_tables_on_a_narrow_server(narrow: Service) -> None:
    grown = Grown(narrow)
    grown.grow(*tables(2_000))
    with narrow.superuser() as connection, pytest.raises(OUT_OF_LOCKS):
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(grown.schema)))
    assert_monotonous(grown.delete())
    grown.assert_gone()


def test_a_big_tenant_takes_every_state_on_a_narrow_server(narrow: Service) -> None:
    """Read-only names every table; so does what gives the rights back."""
    grown = Grown(narrow)
    grown.grow(*tables(1_000))
    grown.manager.read_only("hallym")
    grown.manager.suspend("hallym")
    grown.manager.resume("hallym")
    grown.delete()
    grown.assert_gone()


# Each shape alone takes more locks than the server has, if it goes by one CASCADE.
MANY = 700


def loop(statement: str, number: int = MANY) -> str:
    return f"DO $do$ BEGIN FOR n IN 1..{number} LOOP EXECUTE format($f${statement}$f$, n); END LOOP; END $do$"


def in_parts(statement: str, number: int = MANY, at_once: int = 50) -> list[str]:
    return [
        loop(statement.replace("%s", f"%s_{start}"), min(at_once, number - start))
        for start in range(0, number, at_once)
    ]


SHAPES = {
    "partitions": ["CREATE TABLE p (k int, v text) PARTITION BY LIST (k)"]
    + [f"CREATE TABLE p_{n} PARTITION OF p FOR VALUES IN ({n})" for n in range(300)],
    "children": ["CREATE TABLE parent (k int)", *in_parts("CREATE TABLE child_%s (v int) INHERITS (parent)")],
    "hub-first": ["CREATE TABLE hub (id int PRIMARY KEY)", *in_parts("CREATE TABLE spoke_%s (h int REFERENCES hub)")],
    "hub-last": [
        *in_parts("CREATE TABLE spoke_%s (h int)"),
        "CREATE TABLE hub (id int PRIMARY KEY)",
        *in_parts("ALTER TABLE spoke_%s ADD FOREIGN KEY (h) REFERENCES hub"),
    ],
    "views": ["CREATE TABLE base (id int)", *in_parts("CREATE VIEW view_%s AS SELECT * FROM base")],
    "functions": in_parts("CREATE FUNCTION f_%s(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", 2_500),
    "types": in_parts("CREATE TYPE e_%s AS ENUM ('a')"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_one_cascade_could_not_drop(narrow: Service, shape: str) -> None:
    grown = Grown(narrow)
    grown.grow(*SHAPES[shape])
    with narrow.superuser() as connection, pytest.raises(OUT_OF_LOCKS):
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(grown.schema)))
    assert_monotonous(grown.delete())
    grown.assert_gone()


EVERYTHING = [
    "CREATE TYPE colour AS ENUM ('a', 'b')",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE TYPE pair AS (a positive, b colour)",
    "CREATE TYPE span AS RANGE (SUBTYPE = float8)",
    "CREATE TABLE one (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, m colour, s span, p pair, big text)",
    "CREATE TABLE two (id bigserial PRIMARY KEY, one_id int REFERENCES one)",
    "ALTER TABLE one ADD two_id bigint REFERENCES two",
    "CREATE VIEW v1 AS SELECT id FROM one",
    "CREATE VIEW v2 AS SELECT id FROM v1",
    "CREATE MATERIALIZED VIEW mv AS SELECT v1.id FROM v1 JOIN v2 USING (id)",
    "CREATE UNIQUE INDEX ON mv (id)",
    "CREATE FUNCTION next_one() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT max(id) FROM one; END",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER touch BEFORE UPDATE ON one FOR EACH ROW EXECUTE FUNCTION touch()",
    "ALTER TABLE two ADD COLUMN n int DEFAULT next_one()",
    "CREATE PROCEDURE sweep(INOUT n int, m colour) LANGUAGE sql AS 'SELECT 1'",
    "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = 0)",
    "CREATE AGGREGATE rows(*) (SFUNC = int8inc, STYPE = int8, INITCOND = 0)",
    "CREATE FUNCTION same(pair, pair) RETURNS bool LANGUAGE sql AS 'SELECT true'",
    "CREATE OPERATOR === (LEFTARG = pair, RIGHTARG = pair, FUNCTION = same)",
    "CREATE COLLATION korean (provider = libc, locale = 'C')",
    "CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple)",
    "CREATE SEQUENCE alone",
    "CREATE STATISTICS st ON id, m FROM one",
    'CREATE TABLE "Weird "" 100% name; DROP" (id int)',
    "CREATE TABLE tree (k int, l int) PARTITION BY LIST (k)",
    "CREATE TABLE branch PARTITION OF tree FOR VALUES IN (1) PARTITION BY LIST (l)",
    "CREATE TABLE leaf PARTITION OF branch FOR VALUES IN (1)",
    "CREATE POLICY mine ON one USING (true)",
    "CREATE RULE quiet AS ON DELETE TO two DO INSTEAD NOTHING",
]


def test_everything_a_migration_may_make(service: Service) -> None:
    grown = Grown(service)
    grown.grow(*EVERYTHING)
    heard = grown.delete()
    assert heard[-1].done == heard[-1].total
    grown.assert_gone()


def trusted_extension(server: PostgresServer) -> str | None:
    with psycopg.connect(server.dsn()) as connection:
        found = connection.execute("SELECT name FROM pg_available_extension_versions WHERE trusted AND name = 'citext'")
        row = found.fetchone()
    return row[0] if row else None


@pytest.fixture(scope="module")
def extensible(server: PostgresServer) -> Iterator[PostgresServer]:
    """The run's server if it has contrib's extensions, else one of the system's."""
    if trusted_extension(server):
        yield server
        return
    for major in (15, 16, 17, 18):
        try:
            binaries = find_postgres(major)
        except LookupError:
            continue
        if binaries.source != "embedded":
            with PostgresServer(binaries, settings={"fsync": "off"}) as running:
                if trusted_extension(running):
                    yield running
                    return
    pytest.skip("no PostgreSQL with contrib's extensions here")


def test_an_extension_in_the_schema(extensible: PostgresServer) -> None:
    service = Service(extensible)
    try:
        grown = Grown(service)
        grown.grow("CREATE EXTENSION citext", "CREATE TABLE words (word citext)")
        heard = grown.delete()
        assert heard[-1].done == heard[-1].total
        grown.assert_gone()
    finally:
        service.close()


# -- interrupted


class StoppedHereError(Exception):
    pass


def test_an_interrupted_deletion_goes_on(service: Service) -> None:
    grown = Grown(service)
    grown.grow(*tables(150))

    def give_up(progress: Progress) -> None:
        if progress.done > 0:
            raise StoppedHereError

    with pytest.raises(StoppedHereError):
        grown.delete(give_up)
    assert grown.manager.get("hallym").state is TenantState.DELETING
    with pytest.raises(TenantNotReadyError), service.manager().get_session("hallym"):
        pass
    assert strays(service) == set()
    assert_monotonous(grown.delete())
    grown.assert_gone()
    story = [(event.action, event.outcome) for event in reversed(grown.manager.events())]
    assert story == [("create", "done"), ("archive", "done"), ("delete", "started"), ("delete", "done")]


def test_two_deletions_at_once(service: Service) -> None:
    """One of them is done; the other is told that there is no such tenant, and nothing is left either way."""
    grown = Grown(service)
    grown.grow(
        *tables(200), "CREATE TABLE hub (id int PRIMARY KEY)", "ALTER TABLE t0 ADD FOREIGN KEY (a) REFERENCES hub"
    )
    grown.manager.archive("hallym")
    managers = [service.manager(), service.manager()]
    gate = Barrier(2)

    def delete(manager: TenantManager) -> str:
        gate.wait(10)
        try:
            manager.delete("hallym", confirm="hallym")
        except UnknownTenantError:
            return "unknown"
        return "done"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(delete, managers))
    assert outcomes == ["done", "unknown"]
    grown.assert_gone()


def test_what_another_deletion_drops_meanwhile_needs_no_statement(service: Service) -> None:
    """One sees the table still, by its snapshot; the server's caches know already that it is gone."""
    grown = Grown(service)
    grown.grow("CREATE TABLE goes (a int)", "CREATE TABLE stays (a int)")
    values = {"schema": grown.schema, "batch": 50}
    with service.superuser() as other, grown.manager._admin.transaction() as step, step.as_owner():
        step.connection.exec_driver_sql("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        other.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(grown.schema, "goes")))
        statements = [row.statement for row in step.rows("drop_some", **values)]
    assert None in statements
    assert [s for s in statements if s and "goes" in s] == []
    assert [s for s in statements if s and "RELATION" in s] == []
    assert any(s and "stays" in s for s in statements)


# -- nothing is left


def left_of(service: Service, role: str) -> list[Any]:
    """Large objects, and rights of a role that is no more: an ACL would show them by number."""
    with service.superuser() as connection:
        return connection.execute(
            "SELECT 'object', m.oid::text FROM pg_largeobject_metadata m"
            " UNION ALL SELECT 'defaults', d.defaclacl::text FROM pg_default_acl d"
            " WHERE d.defaclnamespace <> 0 AND d.defaclnamespace::regnamespace::text !~ '_reference$'"
            " UNION ALL SELECT 'rights', c.relacl::text FROM pg_class c WHERE c.relacl::text ~ '[{,][0-9]+='"
            " UNION ALL SELECT 'role', rolname FROM pg_roles WHERE rolname = %s",
            (role,),
        ).fetchall()


def test_a_re_created_tenant_sees_nothing_of_the_old_one(service: Service) -> None:
    grown = Grown(service)
    warm = service.manager()
    with warm.get_session("hallym") as session:
        session.add(Note(body="old"))
        large = session.scalar(text("SELECT lo_from_bytea(0, 'old')"))
    with service.superuser() as connection:
        connection.execute("CREATE SCHEMA aside; CREATE TABLE aside.t (id int)")
        connection.execute(f'GRANT USAGE ON SCHEMA aside TO "{grown.schema}"; GRANT ALL ON aside.t TO "{grown.schema}"')
    grown.delete()
    assert left_of(service, grown.schema) == []

    new = grown.manager.create("hallym")
    assert new.generation > grown.tenant.generation
    assert new.placement.schema_name != grown.schema
    for manager in (service.manager(), grown.manager):
        with manager.get_session("hallym") as session:
            assert session.scalars(select(Note)).all() == []
            assert (
                session.scalar(text("SELECT count(*) FROM pg_largeobject_metadata WHERE oid = :o"), {"o": large}) == 0
            )
    with service.superuser() as connection:
        reaches = connection.execute("SELECT has_table_privilege(%s, 'aside.t', 'SELECT')", (new.placement.role_name,))
        assert reaches.fetchone() == (False,)


def test_many_large_objects_on_a_narrow_server(narrow: Service) -> None:
    grown = Grown(narrow)
    for _ in range(20):
        with grown.manager.get_session("hallym") as session:
            session.execute(text("SELECT lo_create(0) FROM generate_series(1, 50)"))
    grown.delete()
    grown.assert_gone()
    assert left_of(narrow, grown.schema) == []
