"""One upgrade for all tenants: what it does to each, in which order, and what is written down of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mt_paas_db.errors import MigrationRefusedError
from mt_paas_db.migrate.plan import Selection
from tests.armada import ADD_ONLINE, ADD_TITLE, CONCURRENTLY, QUICK, Armada
from tests.fleet import Service

TENANTS = ("hallym", "korea", "snu")


@pytest.fixture
def armada(service: Service, tmp_path: Path) -> Armada:
    return Armada.launch(service, tmp_path, *TENANTS)


def test_a_compiled_revision(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert (report.migrated, report.unchanged, report.failed) == (3, 0, 0)
    assert [way["way"] for way in report.ways[0]["revisions"]] == ["compiled"]
    for tenant in (*TENANTS, "(reference)"):
        assert armada.heads(tenant) == ("a2",)
        assert "title" in armada.columns(tenant)
    assert armada.outcomes(report.run_id) == dict.fromkeys(TENANTS, "migrated")
    assert {armada.recorded(tenant) for tenant in TENANTS} == {("a2",)}
    again = armada.fleet().upgrade(options=QUICK)
    assert again.ok
    assert (again.migrated, again.unchanged, again.run_id) == (0, 3, None)


def test_a_revision_that_needs_a_connection(armada: Armada) -> None:
    for tenant in TENANTS:
        armada.ask(tenant, f"INSERT INTO note (body) VALUES ('{tenant}')")
    armada.history.add("a2", ADD_ONLINE, after="a1")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert report.ways[0]["revisions"] == [{"revision": "a2", "way": "online", "reason": "it asks op.get_bind()"}]
    for tenant in TENANTS:
        assert armada.heads(tenant) == ("a2",)
        assert armada.ask(tenant, "SELECT length FROM note") == [(len(tenant),)]
    assert armada.outcomes(report.run_id) == dict.fromkeys(TENANTS, "migrated")


def test_a_revision_that_leaves_its_transaction(armada: Armada) -> None:
    armada.history.add("a2", CONCURRENTLY, after="a1").add("a3", ADD_TITLE, after="a2")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    for tenant in TENANTS:
        assert armada.heads(tenant) == ("a3",)
        assert armada.ask(tenant, "SELECT count(*) FROM note") == [(1,)]
        valid = armada.ask(tenant, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'note_mood'::regclass")
        assert valid == [(True,)]
        assert armada.ask(tenant, "SELECT obj_description('alembic_version'::regclass)") == [(None,)]


def test_downgrade_and_upgrade_again(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1", down='op.drop_column("note", "title")')
    assert armada.fleet().upgrade(options=QUICK).ok
    with pytest.raises(MigrationRefusedError, match="title"):
        armada.fleet().downgrade("-1", options=QUICK)
    report = armada.fleet().downgrade("-1", options=replace(QUICK, allow_destructive=True))
    assert report.ok, report
    for tenant in (*TENANTS, "(reference)"):
        assert armada.heads(tenant) == ("a1",)
        assert "title" not in armada.columns(tenant)
    assert armada.fleet().upgrade(options=QUICK).ok


def test_only_some(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    report = armada.fleet().upgrade(selection=Selection(tenants=("korea",)), options=QUICK)
    assert report.ok
    assert [armada.heads(tenant) for tenant in TENANTS] == [("a1",), ("a2",), ("a1",)]
    status = armada.fleet().status()
    assert status.behind == 2
    assert dict(status.places) == {("a1",): 2, ("a2",): 1}


def test_verify_names_what_differs(armada: Armada) -> None:
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 3
    armada.ask("korea", "CREATE INDEX by_hand ON note (body)")
    found = {one.tenant_id: one for one in armada.fleet().verify()}
    assert found["hallym"].ok
    assert [(d.kind, d.name, d.change) for d in found["korea"].differences] == [("index", "by_hand", "unexpected")]


def test_what_a_revision_sets_stays_with_its_tenant(armada: Armada) -> None:
    """A plain SET outlives its transaction: the next tenant on the connection must not meet it."""
    armada.history.add("a2", 'op.execute("ALTER TABLE note ADD COLUMN zone text")', after="a1")
    armada.history.add(
        "a3",
        """
        op.execute("INSERT INTO note (body, zone) VALUES ('before', current_setting('TimeZone'))")
        op.execute("SET TIME ZONE 'Asia/Seoul'")
        """,
        after="a2",
    )
    assert armada.fleet().upgrade(options=replace(QUICK, jobs=1)).ok
    zones = {armada.ask(tenant, "SELECT zone FROM note")[0][0] for tenant in TENANTS}
    assert len(zones) == 1
    assert zones != {"Asia/Seoul"}
