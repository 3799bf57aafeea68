"""How a run goes about it: waves, budgets, targets, two runners, Ctrl-C, and what one tenant leaves to the next."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest

from mt_paas_db.errors import ConfigurationError, RevisionError, UnknownRunError
from mt_paas_db.migrate.plan import Selection
from mt_paas_db.migrate.report import Report
from tests.armada import ADD_ONLINE, ADD_TITLE, NOTE, QUICK, Armada
from tests.fleet import Service
from tests.histories import History

TENANTS = ("hallym", "korea", "snu", "yonsei")
TOLERANT = replace(QUICK, max_failures=99)


@pytest.fixture
def armada(service: Service, tmp_path: Path) -> Armada:
    return Armada.launch(service, tmp_path, *TENANTS)


def fails_for(armada: Armada, *tenants: str) -> str:
    """A revision that fails for some tenants."""
    schemas = ", ".join(f"'{armada.schema(tenant)}'" for tenant in tenants)
    return f'op.execute("SELECT 1 / (current_schema() NOT IN ({schemas}))::int")'


def states(armada: Armada, report: Report) -> dict[str, str]:
    return armada.outcomes(report.run_id)


def waves(armada: Armada, report: Report) -> dict[str, int]:
    with armada.service.superuser() as connection:
        query = "SELECT tenant_id, wave FROM mt_paas.outcome WHERE run_id = %s AND generation > 0"
        return dict(connection.execute(query, (report.run_id,)).fetchall())


def order(armada: Armada, report: Report) -> list[str]:
    with armada.service.superuser() as connection:
        query = "SELECT tenant_id FROM mt_paas.outcome WHERE run_id = %s AND generation > 0 ORDER BY ended_at"
        return [row[0] for row in connection.execute(query, (report.run_id,)).fetchall()]


# -- waves and budgets


def test_canaries_first_then_waves(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    selection = Selection(canary=("snu",), wave_size=2)
    report = armada.fleet().upgrade(selection=selection, options=replace(QUICK, jobs=1))
    assert report.ok
    assert waves(armada, report) == {"snu": 1, "hallym": 2, "korea": 2, "yonsei": 3}
    assert order(armada, report) == ["snu", "hallym", "korea", "yonsei"]


def test_a_canary_that_fails_ends_the_run_whatever_the_budget(armada: Armada) -> None:
    armada.history.add("a2", fails_for(armada, "snu"), after="a1")
    selection = Selection(canary=("snu", "yonsei"))
    report = armada.fleet().upgrade(selection=selection, options=replace(TOLERANT, jobs=1))
    assert (report.state, report.message) == ("stopped", "a canary failed")
    rest = dict.fromkeys(("hallym", "korea"), "not_attempted")
    assert states(armada, report) == {"snu": "failed", "yonsei": "migrated", **rest}


def test_one_wave_alone(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    for wave, migrated in (("canary", 1), ("rest", 3)):
        report = armada.fleet().upgrade(selection=Selection(canary=("snu",), wave=wave), options=QUICK)
        assert (report.ok, report.migrated) == (True, migrated)


def test_the_budget(armada: Armada) -> None:
    armada.history.add("a2", fails_for(armada, "hallym", "korea"), after="a1")
    report = armada.fleet().upgrade(options=replace(QUICK, jobs=1, max_failures=1))
    assert report.state == "stopped"
    assert (report.failed, report.not_attempted) == (2, 2)
    report = armada.fleet().upgrade(options=replace(QUICK, jobs=1, max_failures=2))
    assert (report.state, report.failed, report.migrated) == ("failed", 2, 2)


# -- verification


@pytest.mark.parametrize("verify", [True, False])
def test_a_tenant_that_is_not_like_the_reference(armada: Armada, *, verify: bool) -> None:
    armada.ask("korea", "CREATE INDEX by_hand ON note (body)")
    armada.history.add("a2", ADD_TITLE, after="a1").add("a3", ADD_ONLINE, after="a2")
    for target in ("a2", "a3"):
        report = armada.fleet().upgrade(target, options=replace(TOLERANT, verify=verify))
        assert report.verified is verify
        assert states(armada, report)["korea"] == ("failed" if verify else "migrated")
        assert report.failed == verify
        if verify:
            assert "migrate verify korea" in str(report.failures[0].message)
        _, outcomes = armada.fleet().show(report.run_id)
        found = {outcome["tenant_id"]: outcome["verified"] for outcome in outcomes}
        assert (found["korea"], found["snu"]) == ((False, True) if verify else (None, None))
        assert armada.heads("korea") == (target,)


@pytest.mark.parametrize("state", ["suspend", "archive"])
@pytest.mark.parametrize("online", [False, True])
def test_tenants_are_migrated_whatever_their_state(armada: Armada, state: str, *, online: bool) -> None:
    getattr(armada.manager(), state)("hallym")
    armada.history.add("a2", ADD_ONLINE if online else ADD_TITLE, after="a1")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a2",)}


def test_a_read_only_tenant_is_like_the_reference(armada: Armada) -> None:
    armada.manager().read_only("korea")
    armada.history.add("a2", ADD_TITLE, after="a1")
    assert armada.fleet().upgrade(options=QUICK).ok


def test_a_read_only_tenant_may_not_write_to_a_new_table(armada: Armada) -> None:
    armada.manager().read_only("korea")
    armada.history.add("a2", NOTE.replace('"note"', '"fresh"'), after="a1")
    assert armada.fleet().upgrade(options=replace(QUICK, verify=False)).ok
    schema = armada.schema("korea")
    may = armada.ask("korea", f"SELECT has_table_privilege('{schema}', 'fresh', 'INSERT')")
    assert may == [(False,)]


def test_a_tenant_is_deleted_meanwhile(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE + '\nop.execute("SELECT pg_sleep(0.5)")', after="a1")
    manager = armada.manager()
    manager.archive("yonsei")

    def delete() -> None:
        deadline = time.monotonic() + 20
        while armada.heads("(reference)") != ("a2",) and time.monotonic() < deadline:
            time.sleep(0.02)
        manager.delete("yonsei", confirm="yonsei")

    deleting = threading.Thread(target=delete)
    deleting.start()
    report = armada.fleet().upgrade(options=replace(QUICK, jobs=1))
    deleting.join()
    assert report.ok, report
    assert states(armada, report)["yonsei"] == "unchanged"
    assert report.migrated == 3


# -- two runners


def test_two_runners(armada: Armada) -> None:
    for tenant in TENANTS:
        armada.ask(tenant, "INSERT INTO note (body) VALUES ('x')")
    armada.history.add("a2", "op.execute(\"UPDATE note SET body = body || '+'\")", after="a1")
    armada.history.add("a3", 'op.execute("SELECT pg_sleep(0.2)")', after="a2").add("a4", ADD_ONLINE, after="a3")
    reports: list[Report] = []
    both = threading.Barrier(2)

    def run() -> None:
        both.wait()
        reports.append(armada.fleet().upgrade(options=replace(TOLERANT, busy_s=20, attempts=6)))

    runners = [threading.Thread(target=run) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert [report.ok for report in reports] == [True, True], reports
    assert sum(report.migrated for report in reports) == len(TENANTS)
    for tenant in TENANTS:
        assert armada.ask(tenant, "SELECT body FROM note") == [("x+",)]
        assert armada.recorded(tenant) == ("a4",)


@pytest.mark.parametrize("online", [False, True])
def test_a_lock_that_another_holds(armada: Armada, *, online: bool) -> None:
    armada.history.add("a2", ADD_ONLINE if online else ADD_TITLE, after="a1")
    with armada.service.superuser() as other:
        other.execute(
            "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"mt_paas.migrate {armada.schema('korea')}",)
        )
        armada.ask("korea", "UPDATE alembic_version SET version_num = 'a2'")  # by its holder, who is not through
        report = armada.fleet().upgrade(options=replace(QUICK, busy_s=0.5))
    assert (report.state, report.migrated, report.not_attempted) == ("failed", 3, 1)
    assert states(armada, report)["korea"] == "not_attempted"
    assert report.failures[0].message == "another runner has this tenant"


def test_nothing_is_held_when_it_is_over(armada: Armada) -> None:
    armada.history.add("a2", fails_for(armada, "snu"), after="a1").add("a3", ADD_ONLINE, after="a2")
    with psycopg.connect(armada.service.server.dsn(armada.service.database)) as reader:
        reader.execute(f'SELECT * FROM "{armada.schema("korea")}".note'.encode())
        report = armada.fleet().upgrade("a3", options=replace(TOLERANT, attempts=2))
    assert (report.failed, report.migrated) == (2, 2)
    with armada.service.superuser() as connection:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            left = connection.execute(
                "SELECT query FROM pg_stat_activity WHERE application_name = 'mt_paas_db migrate' "
                "AND datname = current_database()"
            ).fetchall()
            if not left:
                break
            time.sleep(0.02)
        assert left == []


# -- Ctrl-C


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(armada: Armada, times: int, *, online: bool) -> None:
    """Once lets what is under way finish; twice has the server cancel it."""
    slow = f"op.execute(\"SELECT pg_sleep(CASE WHEN current_schema() LIKE '%reference' THEN 0 ELSE {3**times} END)\")"
    armada.history.add("a2", ("op.get_bind()\n" if online else "") + slow, after="a1")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = 10 + ["interrupted"].index(armada.fleet().upgrade(options=QUICK).state)
        finally:
            os._exit(code)
    began = wait_for_sleep(armada)
    for _ in range(times):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
    assert (time.monotonic() - began < 6) or times == 1
    run, outcomes = armada.fleet().show()
    found = {outcome["tenant_id"]: outcome["state"] for outcome in outcomes if outcome["generation"] > 0}
    assert run.state == "interrupted"
    assert [found[tenant] for tenant in TENANTS] == [
        *["migrated" if times == 1 else "failed"] * 2,
        *["not_attempted"] * 2,
    ]
    if times == 2:
        assert {outcome["sqlstate"] for outcome in outcomes if outcome["state"] == "failed"} == {"57014"}
    if times == 1 and not online:
        assert armada.fleet().resume(options=QUICK).ok
        assert {armada.heads(tenant) for tenant in TENANTS} == {("a2",)}
        with pytest.raises(UnknownRunError):
            armada.fleet().resume()


def wait_for_sleep(armada: Armada) -> float:
    with armada.service.superuser() as connection:
        for _ in range(1_500):
            sleeping = connection.execute(
                "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
            ).fetchall()
            if len(sleeping) == 2:
                return time.monotonic()
            time.sleep(0.02)
    raise AssertionError("no run came to its tenants")


# -- where to


def column(name: str) -> dict[str, str]:
    return {
        "body": f'op.add_column("note", sa.Column("{name}", sa.Text))',
        "down": f'op.drop_column("note", "{name}")',
    }


def test_relative_targets(armada: Armada) -> None:
    armada.history.add("ab2", after="a1", **column("two")).add("ab3", after="ab2", **column("three"))
    fleet = armada.fleet()
    for verb, target, there in (
        ("upgrade", "+1", "ab2"),
        ("upgrade", "+1", "ab3"),
        ("downgrade", "-2", "a1"),
        ("upgrade", "ab2", "ab2"),
        ("downgrade", "-1", "a1"),
    ):
        options = replace(QUICK, allow_destructive=True)
        report = getattr(fleet, verb)(target, options=options)
        assert report.ok, report
        assert {armada.heads(tenant) for tenant in (*TENANTS, "(reference)")} == {(there,)}
    with pytest.raises(RevisionError, match="a1:ab2"):
        fleet.upgrade("a1:ab2", options=QUICK)
    with pytest.raises(ConfigurationError, match="nowhere"):
        fleet.upgrade("nowhere", options=QUICK)


def test_a_relative_target_resumed(armada: Armada) -> None:
    """Those that are done are not taken further."""
    armada.history.add("a2", fails_for(armada, "korea"), after="a1").add("a3", ADD_TITLE, after="a2")
    first = armada.fleet().upgrade("+1", options=replace(TOLERANT, jobs=1))
    assert (first.migrated, first.failed) == (3, 1)
    armada.history.add("a2", "", after="a1")
    second = armada.fleet().resume()
    assert second.ok, second
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a2",)}


def test_a_relative_target_resumed_midway(armada: Armada) -> None:
    """It is reckoned from where the tenant was, not from where it came."""
    armada.history.add("a2", ADD_TITLE, after="a1").add("a3", fails_for(armada, "korea"), after="a2")
    armada.history.add("a4", 'op.add_column("note", sa.Column("late", sa.Text))', after="a3")
    failed = armada.fleet(per_revision=True).upgrade("+2", options=TOLERANT)
    assert (failed.migrated, failed.failed) == (3, 1)
    assert armada.heads("korea") == armada.recorded("korea") == ("a2",)
    armada.history.add("a3", "", after="a2")
    report = armada.fleet(per_revision=True).resume(options=QUICK)
    assert report.ok, report
    assert {armada.heads(tenant) for tenant in (*TENANTS, "(reference)")} == {("a3",)}


def test_a_relative_target_that_meant_several_places(armada: Armada) -> None:
    """Each goes on to its own; but not where one has come a part of the way, as a run has one target."""
    armada.history.add("a2", ADD_TITLE, after="a1").add("a3", fails_for(armada, *TENANTS), after="a2")
    armada.history.add("a4", fails_for(armada, *TENANTS), after="a3")
    assert armada.fleet().upgrade("a2", selection=Selection(tenants=("snu", "yonsei")), options=QUICK).ok
    failed = armada.fleet(per_revision=True).upgrade("+2", options=TOLERANT)
    assert (failed.migrated, failed.failed) == (0, 4)
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a2",)}  # two of them came a part of the way
    armada.history.add("a3", "", after="a2").add("a4", "", after="a3")
    with pytest.raises(RevisionError, match=r"hallym, korea to a3; snu, yonsei to a4"):
        armada.fleet(per_revision=True).resume(options=QUICK)
    for tenant in ("hallym", "korea"):
        assert armada.fleet().stamp("a1", selection=Selection(tenants=(tenant,)), options=QUICK).ok
        armada.ask(tenant, "ALTER TABLE note DROP COLUMN title")
    report = armada.fleet(per_revision=True).resume(failed.run_id, options=QUICK)
    assert report.ok, report
    assert [armada.heads(tenant) for tenant in TENANTS] == [("a3",), ("a3",), ("a4",), ("a4",)]


def test_base(armada: Armada) -> None:
    armada.history.add("a1", NOTE, down='op.drop_table("note")')
    report = armada.fleet().downgrade("base", options=replace(QUICK, allow_destructive=True))
    assert report.ok, report
    assert {armada.heads(tenant) for tenant in TENANTS} == {()}
    assert armada.fleet().upgrade(options=QUICK).ok
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a1",)}


def test_branches(armada: Armada) -> None:
    armada.history.add("b2", after="a1", **column("bee")).add("c2", after="a1", **column("sea"))
    with pytest.raises(RevisionError, match=r"ultiple head|several heads"):
        armada.fleet().upgrade("head", options=QUICK)
    assert armada.fleet().upgrade("c2", options=QUICK).ok
    assert {armada.heads(tenant) for tenant in TENANTS} == {("c2",)}
    assert armada.fleet().upgrade("heads", options=QUICK).ok
    assert {armada.heads(tenant) for tenant in TENANTS} == {("b2", "c2")}
    armada.history.add("d3", ADD_TITLE, after=("b2", "c2"))
    assert armada.fleet().upgrade("head", options=QUICK).ok
    assert {armada.heads(tenant) for tenant in (*TENANTS, "(reference)")} == {("d3",)}
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 4


# -- what one tenant must not leave to the next

RUDE = [
    'op.execute("RESET ROLE")',
    'op.execute("SET standard_conforming_strings = off")',
    'op.execute("SELECT pg_advisory_lock(7)")',
]
ELSEWHERE = [
    'op.execute("SET search_path = pg_catalog")',
    "op.execute(\"SELECT set_config('search_path', 'pg_catalog', false)\")",
]


@pytest.mark.parametrize("online", [False, True])
def test_what_a_revision_sets_is_its_own(armada: Armada, *, online: bool) -> None:
    # Online, Alembic finds its own table by the path.
    rude = [*RUDE] if online else [*RUDE, *ELSEWHERE]
    armada.history.add("a2", ("op.get_bind()\n" if online else "") + "\n".join([ADD_TITLE, *rude]), after="a1")
    report = armada.fleet().upgrade(options=replace(QUICK, jobs=1))
    assert report.ok, report
    for tenant in (*TENANTS, "(reference)"):
        assert armada.heads(tenant) == ("a2",)
        owners = armada.ask(tenant, "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ '^note'")
        assert owners == [(f"{armada.service.name}_owner",)]
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 4


def test_text_of_every_kind(armada: Armada) -> None:
    text = r"""
    op.execute('''
        INSERT INTO note (body) VALUES ('a;b'); -- a comment; with a semicolon
        INSERT INTO note (body) VALUES ('100% \\:sure \\\\ of	it'), ('한림대학교'), ($tag$it's; here$tag$);
        DO $$ BEGIN INSERT INTO note (body) VALUES ('in a block;'); END $$ -- no line end''')
    op.execute("INSERT INTO note (body) VALUES ('last') -- the end")
    """
    armada.history.add("a2", "", after="a1").add("a3", dedent(text), after="a2").add(
        "a4", "op.get_bind()\n" + dedent(text), after="a3"
    )
    report = armada.fleet().upgrade("a3", options=QUICK)
    assert report.ok, report
    assert [way["way"] for way in report.ways[0]["revisions"]] == ["compiled"] * 2
    wanted = [("a;b",), ("100% :sure \\\\ of\tit",), ("한림대학교",), ("it's; here",), ("in a block;",), ("last",)]
    for tenant in TENANTS:
        assert armada.ask(tenant, "SELECT body FROM note ORDER BY id") == wanted
    assert armada.fleet().upgrade("a4", options=QUICK).ok
    for tenant in TENANTS:
        assert armada.ask(tenant, "SELECT body FROM note ORDER BY id") == wanted * 2


def test_an_enum_made_online_is_like_the_references(armada: Armada) -> None:
    """The path of the connection that verifies must not show in what it finds."""
    body = "op.get_bind()\nop.execute(\"CREATE TYPE mood AS ENUM ('calm')\")\n"
    body += "op.execute(\"ALTER TABLE note ADD COLUMN mood mood DEFAULT 'calm'\")"
    armada.history.add("a2", body, after="a1")
    assert armada.fleet().upgrade(options=QUICK).ok


@pytest.mark.parametrize("valid", [False, True])
def test_a_first_revision_in_steps(service: Service, tmp_path: Path, *, valid: bool) -> None:
    """A kill inside it leaves a mark on a version table that says nothing yet."""
    history = History(tmp_path / "history").add("a1", NOTE + """
with op.get_context().autocommit_block():
    op.create_index("note_body", "note", ["body"], postgresql_concurrently=True)
""")  # fmt: skip
    armada = Armada.launch(service, tmp_path, "hallym", history=history)
    with armada.fleet().ground() as ground:
        begun = next(step.begun for step in ground.script_from("upgrade", (), "a1").steps() if step.begun)
    with armada.service.superuser() as connection:
        connection.execute("UPDATE mt_paas.tenant_revision SET heads = '{}'")
    armada.ask("hallym", "DELETE FROM alembic_version")
    armada.ask("hallym", f"COMMENT ON TABLE alembic_version IS '{begun}'")
    if not valid:
        armada.ask("hallym", "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'note_body'::regclass")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert [found.verdict for found in armada.fleet().verify()] == ["same"]
