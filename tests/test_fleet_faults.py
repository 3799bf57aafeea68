"""What goes wrong with one tenant, one lock or one server, and what a run makes of it.

Longer than most: each fault needs revisions of its own, which are written out where they are used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mt_paas_db.core import ClusterSettings
from mt_paas_db.errors import ConfigurationError, MigrationRefusedError, PooledConnectionError, RevisionError
from mt_paas_db.migrate import apply, message
from mt_paas_db.migrate.plan import Selection
from mt_paas_db.migrate.report import Report
from tests.armada import ADD_ONLINE, ADD_TITLE, CONCURRENTLY, NOTE, QUICK, Armada
from tests.fleet import PASSWORD, Service
from tests.histories import History
from tests.servers import PgBouncer, PostgresServer

TENANTS = ("hallym", "korea", "snu")
TOLERANT = replace(QUICK, max_failures=99)


@pytest.fixture
def armada(service: Service, tmp_path: Path) -> Armada:
    return Armada.launch(service, tmp_path, *TENANTS)


def states(armada: Armada, report: Report) -> list[str]:
    found = armada.outcomes(report.run_id)
    return [found.get(tenant, "settled") for tenant in TENANTS]


def execute(armada: Armada, statement: str) -> None:
    with armada.service.superuser() as connection:
        connection.execute(statement.encode())


@contextmanager
def holding(armada: Armada, tenant: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Hold in an open transaction what `statement` takes."""
    with psycopg.connect(armada.service.server.dsn(armada.service.database)) as connection:
        connection.execute(f'SET search_path = "{armada.schema(tenant)}"'.encode())
        connection.execute(statement.encode())
        yield connection


# -- one tenant is not where it is thought to be


def test_a_schema_is_missing(armada: Armada) -> None:
    execute(armada, f'DROP SCHEMA "{armada.schema("korea")}" CASCADE')
    armada.history.add("a2", ADD_TITLE, after="a1")
    report = armada.fleet().upgrade(options=TOLERANT)
    assert states(armada, report) == ["migrated", "failed", "migrated"]
    (failure,) = report.failures
    assert "does not exist; restore it" in str(failure.message)
    assert armada.recorded("korea") == ("a1",)


def test_a_version_table_is_missing(armada: Armada) -> None:
    armada.ask("korea", "DROP TABLE alembic_version")
    armada.history.add("a2", ADD_TITLE, after="a1")
    report = armada.fleet().upgrade(options=TOLERANT)
    assert states(armada, report) == ["migrated", "failed", "migrated"]
    assert "lost its version table" in str(report.failures[0].message)
    stamped = armada.fleet().stamp("a1", selection=Selection(tenants=("korea",)), options=QUICK)
    assert stamped.ok or stamped.run_id is None


def test_a_version_table_that_cannot_be_read_is_one_tenants_failure(armada: Armada) -> None:
    armada.ask("korea", "ALTER TABLE alembic_version OWNER TO postgres")
    armada.history.add("a2", ADD_TITLE, after="a1")
    began = time.monotonic()
    report = armada.fleet().upgrade(options=TOLERANT)
    assert time.monotonic() - began < QUICK.reconnect_s
    assert states(armada, report) == ["migrated", "failed", "migrated"]
    assert report.failures[0].sqlstate == "42501"


def test_ahead_behind_and_unknown(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1").add(
        "a3", 'op.add_column("note", sa.Column("late", sa.Text))', after="a2"
    )
    assert armada.fleet().upgrade("a3", selection=Selection(tenants=("snu",)), options=QUICK).ok
    armada.ask("hallym", "UPDATE alembic_version SET version_num = 'zzz'")
    execute(armada, "UPDATE mt_paas.tenant_revision r SET heads = '{zzz}' FROM mt_paas.tenant t "
                    "WHERE t.generation = r.generation AND tenant_id = 'hallym'")  # fmt: skip
    report = armada.fleet().upgrade("a2", options=TOLERANT)
    assert (report.migrated, report.unchanged, report.failed) == (1, 1, 1)
    assert "zzz is not in the history" in str(report.failures[0].message)
    assert [armada.heads(tenant) for tenant in TENANTS] == [("zzz",), ("a2",), ("a3",)]


BY_HAND = "ALTER TABLE note ADD COLUMN title text; CREATE INDEX note_title ON note (title);"
PLUS_ONE = "op.execute(\"UPDATE note SET body = body || '+'\")"


def migrate_by_hand(armada: Armada) -> None:
    """Bring korea from a1 to a2 behind the catalog's back."""
    armada.ask("korea", "INSERT INTO note (body) VALUES ('x')")
    armada.history.add("a2", PLUS_ONE, after="a1").add("a3", ADD_TITLE, after="a2")
    armada.ask("korea", "UPDATE note SET body = body || '+'; UPDATE alembic_version SET version_num = 'a2'")


@pytest.mark.parametrize("online", [False, True])
def test_a_copy_that_is_stale(armada: Armada, *, online: bool) -> None:
    migrate_by_hand(armada)
    armada.history.add("a4", ADD_ONLINE if online else "", after="a3")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert armada.ask("korea", "SELECT body FROM note") == [("x+",)]
    assert armada.recorded("korea") == armada.heads("korea") == ("a4",)


def test_without_its_guard_a_stale_copy_is_believed(armada: Armada, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "guard", lambda *_: [])
    migrate_by_hand(armada)
    armada.fleet().upgrade(options=QUICK)
    assert armada.ask("korea", "SELECT body FROM note") == [("x++",)]


def test_a_relative_target_leads_no_further_for_one_that_is_there_already(armada: Armada) -> None:
    migrate_by_hand(armada)
    report = armada.fleet().upgrade("+1", options=QUICK)
    assert report.ok, report
    assert [armada.heads(tenant) for tenant in TENANTS] == [("a2",)] * 3
    assert states(armada, report) == ["migrated", "unchanged", "migrated"]
    assert armada.recorded("korea") == ("a2",)


# -- a revision fails


def test_every_third_tenant_has_data_that_a_revision_does_not_like(armada: Armada) -> None:
    armada.ask("korea", "INSERT INTO note (body) VALUES ('twice'), ('twice')")
    armada.history.add("a2", 'op.create_unique_constraint("note_body", "note", ["body"])', after="a1")
    first = armada.fleet().upgrade(options=replace(QUICK, jobs=1))
    assert states(armada, first) == ["migrated", "failed", "not_attempted"]
    assert (first.state, first.failed, first.not_attempted) == ("stopped", 1, 1)
    (failure,) = first.failures
    assert failure.sqlstate == "23505"
    assert "UNIQUE" in str(failure.statement)
    second = armada.fleet().upgrade(options=TOLERANT)
    assert states(armada, second) == ["settled", "failed", "migrated"]
    armada.ask("korea", "DELETE FROM note WHERE id = 1")
    third = armada.fleet().resume(options=QUICK)
    assert third.ok, third
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a2",)}
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 3


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("state", ["53100", "ZZ042"])
def test_a_full_disk_and_a_code_of_ones_own(armada: Armada, state: str, *, online: bool) -> None:
    """Nothing is half done, and the run is not taken for lost."""
    fails = f"""
    {"op.get_bind()" if online else ""}
    op.add_column("note", sa.Column("mood", sa.Text))
    op.execute("DO $$ BEGIN IF current_schema() = '{armada.schema("korea")}' THEN "
               "RAISE 'no space left' USING ERRCODE = '{state}'; END IF; END $$")
    """
    armada.history.add("a2", fails, after="a1")
    report = armada.fleet().upgrade(options=TOLERANT)
    assert states(armada, report) == ["migrated", "failed", "migrated"]
    assert report.failures[0].sqlstate == state
    assert "mood" not in armada.columns("korea")


def test_a_reference_that_fails(armada: Armada) -> None:
    armada.history.add("a2", 'op.execute("SELECT 1 / 0")', after="a1")
    report = armada.fleet().upgrade(options=TOLERANT)
    assert report.state == "stopped"
    assert "no tenant was touched" in str(report.message)
    assert report.failures[0].tenant_id == "(reference)"
    assert report.failures[0].sqlstate == "22012"
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a1",)}
    assert report.not_attempted == 3


# -- locks


@pytest.mark.parametrize("body", [ADD_TITLE, ADD_ONLINE], ids=["compiled", "online"])
def test_a_long_reader(armada: Armada, body: str) -> None:
    """Its tenant is tried again and again, and the others are not held up."""
    armada.history.add("a2", body, after="a1")
    options = replace(TOLERANT, jobs=1, attempts=2)
    with holding(armada, "hallym", "SELECT * FROM note"):
        report = armada.fleet().upgrade(options=options)
    assert states(armada, report) == ["failed", "migrated", "migrated"]
    assert report.failures[0].sqlstate == "55P03"
    with armada.service.superuser() as connection:
        query = "SELECT attempts FROM mt_paas.outcome WHERE run_id = %s AND generation > 0 ORDER BY tenant_id"
        assert connection.execute(query, (report.run_id,)).fetchall() == [(2,), (1,), (1,)]
    assert armada.fleet().resume(options=options).ok


def test_a_long_reader_that_goes(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    with holding(armada, "hallym", "SELECT * FROM note") as reader:

        def let_go() -> None:
            deadline = time.monotonic() + 20
            while armada.heads("snu") != ("a2",) and time.monotonic() < deadline:
                time.sleep(0.02)
            reader.rollback()

        waiter = threading.Thread(target=let_go)
        waiter.start()
        report = armada.fleet().upgrade(options=replace(QUICK, jobs=1, attempts=9))
        waiter.join()
    assert report.ok, report
    assert armada.heads("hallym") == ("a2",)


def test_a_deadlock(armada: Armada) -> None:
    """Each holds what the other wants; whoever is chosen to give way, the tenant is migrated."""
    armada.history.add("a2", """
        op.execute("CREATE TABLE IF NOT EXISTS other (id int)")
        op.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        op.execute("SELECT pg_sleep(0.3)")
        op.execute("SELECT count(*) FROM first_of_two")
        """, after="a1")  # fmt: skip
    for tenant in (*TENANTS, "(reference)"):
        armada.ask(tenant, "CREATE TABLE first_of_two (id int)")
        execute(armada, f'GRANT ALL ON "{armada.schema(tenant)}".first_of_two TO {armada.service.name}_owner')
    seen: list[str] = []

    def cross() -> None:
        try:
            with holding(armada, "snu", "LOCK TABLE first_of_two IN ACCESS EXCLUSIVE MODE") as other:
                wait_until_held(armada, "snu")
                other.execute("SET deadlock_timeout = '10s'")
                other.execute(b"LOCK TABLE note IN ACCESS SHARE MODE")
                seen.append("got it")
        except psycopg.errors.DeadlockDetected:
            seen.append("gave way")

    crossing = threading.Thread(target=cross)
    crossing.start()
    report = armada.fleet().upgrade(options=replace(QUICK, jobs=1, lock_timeout_s=5, attempts=4, verify=False))
    crossing.join()
    assert report.ok, report
    assert seen == ["got it"]
    with armada.service.superuser() as connection:
        query = "SELECT attempts FROM mt_paas.outcome WHERE run_id = %s AND tenant_id = 'snu'"
        assert connection.execute(query, (report.run_id,)).fetchall() == [(2,)]


def wait_until_held(armada: Armada, tenant: str) -> None:
    table = f"{armada.schema(tenant)}.note"
    with armada.service.superuser() as connection:
        for _ in range(3_000):
            if connection.execute(
                "SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = to_regclass(%s)",
                (table,),
            ).fetchall():
                return
            time.sleep(0.01)
    raise AssertionError("nobody came")


# -- indexes


def index(armada: Armada, tenant: str) -> tuple[int, bool]:
    (row,) = armada.ask(
        tenant, "SELECT indexrelid::int, indisvalid FROM pg_index WHERE indexrelid = 'note_mood'::regclass"
    )
    return row[0], row[1]


def test_an_index_build_whose_backend_is_killed(armada: Armada) -> None:
    """An old snapshot holds it up; what it left is dropped and built again."""
    armada.history.add("a2", CONCURRENTLY, after="a1")
    assert armada.fleet().upgrade(selection=Selection(tenants=("hallym",)), options=QUICK).ok  # and the reference
    left: list[Any] = []

    def kill(old: psycopg.Connection[Any]) -> None:
        with armada.service.superuser() as su:
            for _ in range(3_000):
                if su.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                    "AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND datname = current_database()"
                ).fetchall():
                    break
                time.sleep(0.01)
            left.extend(su.execute("SELECT FROM pg_index WHERE NOT indisvalid").fetchall())
        old.rollback()

    with psycopg.connect(armada.service.server.dsn(armada.service.database)) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        killer = threading.Thread(target=kill, args=(old,))
        killer.start()
        report = armada.fleet().upgrade(options=replace(TOLERANT, busy_s=20, reconnect_s=30))
        killer.join()
    assert report.ok, report
    assert len(left) >= 1
    for tenant in TENANTS:
        assert index(armada, tenant)[1]
        assert armada.ask(tenant, "SELECT count(*) FROM note") == [(1,)]
        assert armada.ask(tenant, "SELECT obj_description('alembic_version'::regclass)") == [(None,)]


def test_an_index_over_data_that_it_does_not_like(armada: Armada) -> None:
    """The failure leaves an invalid index, which is built again once the data are mended; a valid one is not."""
    armada.ask("korea", "INSERT INTO note (body) VALUES ('twice'), ('twice')")
    armada.history.add("a2", """
        op.add_column("note", sa.Column("mood", sa.Text))
        with op.get_context().autocommit_block():
            op.create_index("note_mood", "note", ["body"], unique=True, postgresql_concurrently=True)
        op.execute("UPDATE note SET body = body || '+'")
        """, after="a1")  # fmt: skip
    report = armada.fleet().upgrade(options=TOLERANT)
    assert states(armada, report) == ["migrated", "failed", "migrated"]
    assert report.failures[0].sqlstate == "23505"
    broken, valid = index(armada, "korea")
    assert not valid
    assert [found.verdict for found in armada.fleet().verify(("korea",))] == ["interrupted"]
    armada.ask("korea", "DELETE FROM note WHERE id = 1")
    mended = armada.fleet().resume(options=QUICK)
    assert mended.ok, mended
    assert mended.migrated == 1
    assert index(armada, "korea")[0] != broken
    assert index(armada, "korea")[1]
    assert armada.ask("korea", "SELECT body FROM note") == [("twice+",)]


def test_an_index_that_was_built_before_the_kill_is_kept(armada: Armada) -> None:
    armada.history.add("a2", CONCURRENTLY, after="a1")
    armada.ask("korea", "ALTER TABLE note ADD COLUMN mood text")
    armada.ask("korea", "CREATE INDEX note_mood ON note (mood)")
    with armada.fleet().ground() as ground:
        script = ground.script_from("upgrade", ("a1",), "a2")
        begun = next(step.begun for step in script.steps() if step.begun)
    armada.ask("korea", f"COMMENT ON TABLE alembic_version IS '{begun}'")
    kept = index(armada, "korea")
    execute(armada, f'ALTER TABLE "{armada.schema("korea")}".note OWNER TO {armada.service.name}_owner')
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert index(armada, "korea") == kept


def test_if_not_exists_over_an_invalid_index(armada: Armada) -> None:
    for tenant in TENANTS:
        armada.ask(tenant, "CREATE INDEX note_mood ON note (body)")
        armada.ask(tenant, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'note_mood'::regclass")
    armada.history.add("a2", """
        with op.get_context().autocommit_block():
            op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS note_mood ON note (body)")
        """, after="a1")  # fmt: skip
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert all(index(armada, tenant)[1] for tenant in TENANTS)


# -- half done

DOWN_IN_STEPS = """
op.drop_index("note_title")
with op.get_context().autocommit_block():
    op.execute("VACUUM note")
op.execute("SELECT 1 / (current_schema() NOT LIKE '{}')::int")
op.drop_column("note", "title")
"""


def half_downgrade(armada: Armada, schemas: str) -> Report:
    """Take the fleet from a2 to a1, and fail in the middle where the schema's name is like `schemas`."""
    armada.history.add("a2", ADD_TITLE, after="a1", down=DOWN_IN_STEPS.format(schemas))
    assert armada.fleet().upgrade(options=QUICK).ok
    return armada.fleet().downgrade("a1", options=replace(TOLERANT, allow_destructive=True))


def mend(armada: Armada) -> None:
    """What fails comes after what is marked as done, and may be changed."""
    armada.history.add("a2", ADD_TITLE, after="a1", down=DOWN_IN_STEPS.format("nobody"))


@pytest.mark.parametrize("killed", [False, True])
def test_a_half_done_downgrade_is_not_taken_for_settled(armada: Armada, *, killed: bool) -> None:
    """Its version table says where it began, which is where an upgrade would lead."""
    first = half_downgrade(armada, armada.schema("korea"))
    assert states(armada, first) == ["migrated", "failed", "migrated"]
    if killed:  # nobody was there to write down more than the plan
        execute(armada, "UPDATE mt_paas.run SET state = 'running', ended_at = NULL WHERE run_id = "
                        f"{first.run_id}; UPDATE mt_paas.outcome SET state = 'not_attempted', attempts = 0, "
                        f"ended_at = NULL WHERE run_id = {first.run_id} AND tenant_id = 'korea'")  # fmt: skip
    assert armada.heads("korea") == armada.recorded("korea") == ("a2",)
    plan = armada.fleet().plan(with_lint=False)
    assert (len(plan.moves), plan.settled, [b.target.tenant_id for b in plan.blocked]) == (2, 0, ["korea"])
    assert "inside revision a2" in plan.blocked[0].reason
    second = armada.fleet().upgrade(options=TOLERANT)
    assert states(armada, second) == ["migrated", "failed", "migrated"]
    mend(armada)
    third = armada.fleet().resume(first.run_id, options=replace(TOLERANT, allow_destructive=True))
    assert (third.ok, third.migrated) == (True, 1), third
    assert "title" not in armada.columns("korea")
    assert armada.fleet().upgrade(options=QUICK).ok
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 3


def test_a_half_done_one_that_is_stamped_is_settled(armada: Armada) -> None:
    half_downgrade(armada, armada.schema("korea"))
    armada.ask("korea", "CREATE INDEX note_title ON note (title)")
    assert armada.fleet().stamp("a2", selection=Selection(tenants=("korea",)), options=QUICK).ok
    assert armada.fleet().upgrade(options=QUICK).ok
    assert armada.fleet().plan(with_lint=False).settled == 3


def test_a_reference_that_is_half_done_serves_nobody(armada: Armada) -> None:
    first = half_downgrade(armada, "%reference")
    assert first.state == "stopped"
    with pytest.raises(RevisionError, match=r"\(reference\).*inside revision a2"):
        armada.fleet().upgrade(options=QUICK)
    armada.ask("(reference)", f"SET ROLE {armada.service.name}_owner; CREATE INDEX note_title ON note (title)")
    assert armada.fleet().stamp("a2", options=QUICK).ok
    assert armada.fleet().upgrade(options=QUICK).ok
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 3


def test_a_run_that_ended_well_leaves_nobody_to_look_at(armada: Armada, monkeypatch: pytest.MonkeyPatch) -> None:
    armada.ask("korea", "INSERT INTO note (body) VALUES ('twice'), ('twice')")
    armada.history.add("a2", 'op.create_unique_constraint("note_body", "note", ["body"])', after="a1")
    looked: list[list[str]] = []
    really = apply.marks

    def noting(connection: Any, targets: Any) -> Any:
        looked.append([target.tenant_id for target in targets])
        return really(connection, targets)

    monkeypatch.setattr("mt_paas_db.migrate.ground.marks", noting)
    assert states(armada, armada.fleet().upgrade(options=TOLERANT)) == ["migrated", "failed", "migrated"]
    armada.fleet().plan("a1", with_lint=False)
    assert looked == [["korea"]]
    armada.ask("korea", "DELETE FROM note WHERE id = 1")
    assert armada.fleet().upgrade(options=QUICK).ok
    armada.fleet().plan(with_lint=False)
    assert looked == [["korea"]]


# -- the server, the pooler, the project


def test_the_server_restarts(own_server: PostgresServer, tmp_path: Path) -> None:
    service = Service(own_server)
    armada = Armada.launch(service, tmp_path, *(f"t{n}" for n in range(8)))
    for tenant in (f"t{n}" for n in range(8)):
        armada.ask(tenant, "INSERT INTO note (body) VALUES ('x')")
    armada.history.add("a2", PLUS_ONE + '\nop.execute("SELECT pg_sleep(0.4)")', after="a1")
    armada.history.add("a3", CONCURRENTLY.replace("'after', 'calm'", "'y', 'calm'"), after="a2")

    def restart() -> None:
        deadline = time.monotonic() + 30
        while armada.heads("t1") == ("a1",) and time.monotonic() < deadline:
            time.sleep(0.02)
        own_server.restart(immediately=True)

    breaker = threading.Thread(target=restart)
    breaker.start()
    report = armada.fleet().upgrade(options=QUICK)
    breaker.join()
    assert report.ok, report
    for tenant in (f"t{n}" for n in range(8)):
        assert sorted(armada.ask(tenant, "SELECT body FROM note")) == [("x+",), ("y",)]
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 8
    assert armada.fleet().show()[0].state == "succeeded"


@pytest.mark.parametrize("ignored", [False, True], ids=["refusing options", "ignoring options"])
def test_a_pooler_in_between(service: Service, tmp_path: Path, *, ignored: bool) -> None:
    armada = Armada.launch(service, tmp_path, "hallym")
    role = service.make_admin("through", "SUPERUSER")
    try:
        pooler = service.server.pooler(users={role: PASSWORD})
    except LookupError as error:
        pytest.skip(str(error))
    with pooler:
        if ignored:
            let_options_pass(pooler)
        (cluster,) = service.settings().clusters.values()
        through = pooler.dsn(service.database, user=role, password=PASSWORD)
        given = {name: dsn.get_secret_value() for name, dsn in (("app_dsn", cluster.app_dsn),) if dsn is not None}
        named = ClusterSettings.model_validate({**given, "admin_dsn": through, "direct_dsn": through})
        with pytest.raises(PooledConnectionError, match="DIRECT_DSN"):
            Armada(service, armada.history, {"clusters": {"main": named}}).fleet().upgrade(options=QUICK)


def let_options_pass(pooler: PgBouncer) -> None:
    assert pooler._folder is not None
    with (pooler._folder / "pgbouncer.ini").open("a") as configuration:
        configuration.write("ignore_startup_parameters = options,extra_float_digits\n")
    pooler.restart()


def test_a_project_that_cannot_be_read(service: Service, tmp_path: Path) -> None:
    history = History(tmp_path / "history").add("a1", NOTE)
    armada = Armada.launch(service, tmp_path, "hallym", history=history)
    for revision, after, named in (("a2", "gone", "gone"), ("a2", "a2", "a2")):
        history.add(revision, "", after=after)
        with pytest.raises(ConfigurationError, match=named):
            armada.fleet().upgrade(options=QUICK)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    "body",
    ['op.execute("CREATE TABLE public.everyones (id int)")', 'op.execute("DROP TABLE note")'],
    ids=["another schema", "destructive"],
)
def test_what_is_refused(armada: Armada, body: str, *, online: bool) -> None:
    armada.history.add("a2", ("op.get_bind()\n" if online else "") + body, after="a1")
    if online:
        report = armada.fleet().upgrade(options=QUICK)
        assert report.state == "stopped"
        assert report.failures[0].tenant_id == "(reference)"
    else:
        with pytest.raises(MigrationRefusedError):
            armada.fleet().upgrade(options=QUICK)
    for tenant in (*TENANTS, "(reference)"):
        assert armada.heads(tenant) == ("a1",)
        assert armada.columns(tenant)


@pytest.mark.parametrize(("body", "known"), [("", True), ("op.get_bind()", False), ("op.execute('SELECT 1')", True)])
def test_the_plan_says_where_it_does_not_know(armada: Armada, body: str, *, known: bool) -> None:
    armada.history.add("a2", body, after="a1")
    plan = armada.fleet().plan(with_lint=False)
    found = [(w.revision, w.message) for w in plan.warnings if w.rule == "online"]
    assert found == ([] if known else [("a2", "it runs online: whether it destroys data is not known before it runs")])


def test_copy_from_the_client_is_a_failure_of_its_own(armada: Armada) -> None:
    armada.history.add("a2", 'op.execute("COPY note (body) FROM STDIN")', after="a1")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.state == "stopped"
    assert "COPY" in str(report.failures[0].message)


def test_a_project_whose_env_does_not_call_us(service: Service, tmp_path: Path) -> None:
    """Alembic run there would migrate one schema: the plan says so, and the fleet's own verbs never run that file."""
    armada = Armada.launch(service, tmp_path, "hallym")
    armada.history.add("a2", 'op.execute("SELECT 1")', after="a1")
    (found,) = (w for w in armada.fleet().plan(with_lint=False).warnings if w.rule == "env.py")
    assert "does not call mt_paas_db.migrate.run_env" in found.message
    assert armada.fleet().upgrade(options=QUICK).ok
    env = Path(armada.history.location) / "env.py"
    env.write_text("from mt_paas_db.migrate import run_env\nrun_env(None)\n")
    assert [w for w in armada.fleet().plan(with_lint=False).warnings if w.rule == "env.py"] == []
