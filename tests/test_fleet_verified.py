"""What a run compares each tenant with: what the revisions changed, definition by definition; of the rest the names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mt_paas_db.migrate import ledger, structure
from mt_paas_db.migrate.comparison import Migrated, look_closely
from mt_paas_db.migrate.migrator import Migrator
from mt_paas_db.migrate.plan import Selection
from mt_paas_db.migrate.report import Report
from tests.armada import ADD_ONLINE, ADD_TITLE, CONCURRENTLY, QUICK, Armada
from tests.fleet import Service
from tests.histories import History

_TWO_TABLES = """
op.create_table("note", sa.Column("id", sa.Integer, sa.Identity(), primary_key=True), sa.Column("body", sa.Text))
op.create_table("room", sa.Column("id", sa.Integer, sa.Identity(), primary_key=True), sa.Column("name", sa.Text))
"""
_ENUM = "op.execute(\"CREATE TYPE mood AS ENUM ('calm')\")"


@pytest.fixture
def armada(service: Service, tmp_path: Path) -> Armada:
    history = History(tmp_path / "history").add("a1", _TWO_TABLES)
    return Armada.launch(service, tmp_path, "hallym", "korea", "snu", history=history)


def scopes(armada: Armada, report: Report) -> list[dict[str, Any]]:
    with armada.service.superuser() as connection:
        rows = connection.execute(
            "SELECT changed FROM mt_paas.outcome WHERE run_id = %s AND changed IS NOT NULL", (report.run_id,)
        )
        return [row[0] for row in rows]


def verdicts(armada: Armada) -> dict[str, str]:
    return {found.tenant_id: found.verdict for found in armada.fleet().verify()}


@pytest.mark.parametrize(
    ("body", "scope"),
    [
        (ADD_TITLE, {"relations": ["note"], "besides": False}),
        (ADD_ONLINE, {"relations": ["note"], "besides": False}),
        (CONCURRENTLY, {"relations": ["note"], "besides": False}),
        (_ENUM, {"relations": [], "besides": True}),
    ],
    ids=["compiled", "online", "in steps", "in no table"],
)
def test_what_the_reference_shows_to_be_changed_is_compared(armada: Armada, body: str, scope: dict[str, Any]) -> None:
    armada.history.add("a2", body, after="a1")
    armada.ask("korea", "ALTER TABLE note ALTER body SET DEFAULT 'x'")
    armada.ask("snu", "ALTER TABLE room ALTER name SET DEFAULT 'x'")
    report = armada.fleet().upgrade(options=replace(QUICK, max_failures=1))
    assert scopes(armada, report) == [scope]
    drifted = {"korea"} if scope["relations"] else set()
    assert {failure.tenant_id for failure in report.failures} == drifted
    assert armada.heads("snu") == ("a2",)
    assert verdicts(armada) == {"hallym": "same", "korea": "drifted", "snu": "drifted"}


@pytest.mark.parametrize("drift", ["CREATE TABLE stray (id int)", "DROP TABLE room", "CREATE TYPE stray AS (a int)"])
def test_what_is_there_besides_or_is_not_is_seen_anyway(armada: Armada, drift: str) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    armada.ask("korea", drift)
    report = armada.fleet().upgrade(options=QUICK)
    assert [failure.tenant_id for failure in report.failures] == ["korea"]
    assert "not the reference's" in str(report.failures[0].message)


def test_a_later_wave_knows_what_the_first_one_changed(armada: Armada, monkeypatch: pytest.MonkeyPatch) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    assert armada.fleet().upgrade(selection=Selection(tenants=("hallym",)), options=QUICK).ok
    used: list[ledger.Likeness] = []
    write = ledger.write_migrated

    def spy(*args: Any) -> frozenset[int]:
        used.append(args[-1])
        return write(*args)

    monkeypatch.setattr(ledger, "write_migrated", spy)
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok
    assert report.migrated == 2
    assert {likeness.scope.relations for likeness in used} == {("note",)}


def test_who_comes_from_elsewhere_is_compared_whole(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    assert armada.fleet().upgrade(selection=Selection(tenants=("hallym", "korea")), options=QUICK).ok
    armada.history.add("a3", 'op.add_column("note", sa.Column("mood", sa.Text))', after="a2")
    armada.ask("korea", "ALTER TABLE room ALTER name SET DEFAULT 'x'")  # outside of what a3 changes
    armada.ask("snu", "ALTER TABLE room ALTER name SET DEFAULT 'x'")  # still at a1
    report = armada.fleet().upgrade(options=QUICK)
    assert [failure.tenant_id for failure in report.failures] == ["snu"]


@pytest.mark.parametrize("again", ["upgrade", "resume"])
def test_who_was_migrated_by_a_run_that_ended_before_it_compared_them_is_compared_by_the_next(
    armada: Armada, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    armada.ask("korea", "CREATE TABLE stray (id int)")

    def fall(self: Migrator) -> list[Any]:
        if self.must_settle:
            raise RuntimeError("killed")
        return []

    with monkeypatch.context() as patched:
        patched.setattr(Migrator, "settle", fall)
        with pytest.raises(RuntimeError, match="killed"):
            armada.fleet().upgrade(selection=Selection(tenants=("korea",)), options=QUICK)
    assert armada.heads("korea") == armada.recorded("korea") == ("a2",)
    assert armada.outcomes(armada.fleet().show()[0].run_id) == {"korea": "not_attempted"}
    options = replace(QUICK, max_failures=3)
    report = armada.fleet().upgrade(options=options) if again == "upgrade" else armada.fleet().resume(options=options)
    assert {failure.tenant_id for failure in report.failures} == {"korea"}


def test_what_became_of_each_is_written_whether_compared_or_not(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    report = armada.fleet().upgrade(options=replace(QUICK, verify=False))
    _, outcomes = armada.fleet().show(report.run_id)
    found = [o for o in outcomes if o["generation"] > 0]
    assert [(o["state"], o["verified"], o["attempts"], o["to_heads"]) for o in found] == [
        ("migrated", None, 1, ["a2"])
    ] * 3
    run = armada.fleet().show(report.run_id)[0]
    assert all(run.started_at < o["ended_at"] < run.ended_at and 0 < o["seconds"] < 5 for o in found)


def test_one_that_the_comparison_breaks_on_is_no_reason_not_to_look_at_the_others(
    armada: Armada, monkeypatch: pytest.MonkeyPatch
) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    armada.ask("korea", "CREATE TABLE stray (id int)")

    def broken(*_: Any) -> frozenset[int]:
        raise psycopg.errors.InternalError_("cache lookup failed for relation 4711")

    monkeypatch.setattr(ledger, "write_migrated", broken)
    report = armada.fleet().upgrade(options=replace(QUICK, max_failures=3))
    assert {failure.tenant_id for failure in report.failures} == {"korea"}
    with armada.fleet().ground() as ground:
        outcomes = list(ledger.outcomes(ground.connection, report.run_id or 0))
    assert {o["tenant_id"]: o["verified"] for o in outcomes if o["generation"] > 0} == {
        "hallym": True,
        "korea": False,
        "snu": True,
    }


def test_one_that_was_taken_on_meanwhile_is_not_held_to_what_it_was(armada: Armada) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    assert armada.fleet().upgrade(options=QUICK).ok
    with armada.fleet().ground() as ground:
        position = next(p for p in ground.positions() if p.target.tenant_id == "korea")
        whole = structure.snapshot(ground.connection, ground.reference.schema, ground.reference.schema).objects
        likeness = ledger.Likeness(structure.WHOLE, "of the reference as it was")
        expected = ledger.Expected(("a2",), likeness, {}, whole)
        armada.history.add("a3", 'op.add_column("note", sa.Column("mood", sa.Text))', after="a2")
        assert armada.fleet().upgrade(options=QUICK).ok
        migrated = Migrated(position.target, ledger.Outcome("migrated", ("a2",)))
        assert look_closely(ground.connection, migrated, expected, likeness).verified is None
        migrated = Migrated(position.target, ledger.Outcome("migrated", ("a3",)))
        assert look_closely(ground.connection, migrated, expected, likeness).state == "failed"


def test_a_reference_that_is_half_way_itself_is_named_first(armada: Armada) -> None:
    armada.ask("(reference)", "COMMENT ON TABLE alembic_version IS 'mt_paas_db interrupted a2 1 0123456789abcdef'")
    found = [(one.tenant_id, one.verdict) for one in armada.fleet().verify(("korea",))]
    assert found == [("(reference)", "interrupted"), ("korea", "same")]
