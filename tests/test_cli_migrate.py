"""The command line of the fleet's migrations: what it prints, how it ends, and that its documents are as described."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.armada import ADD_ONLINE, ADD_TITLE, Armada
from tests.fleet import Service
from tests.test_cli import ADMIN_DSN, ROOT, CommandLine, on_a_terminal

TENANTS = ("hallym", "korea", "snu")
SCHEMA = json.loads((ROOT / "docs/reference/migrate-report.schema.json").read_text())
DROP_BODY = 'op.drop_column("note", "body")'


@pytest.fixture
def armada(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Armada:
    """Three tenants at the head of a history of one revision, and the environment of a command about them."""
    armada = Armada.launch(service, tmp_path, *TENANTS)
    for variable in [v for v in os.environ if v.startswith("MT_PAAS_DB_")]:
        monkeypatch.delenv(variable)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MT_PAAS_DB_SCRIPT_LOCATION", armada.history.location)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the current directory
    monkeypatch.setattr(sys, "stdin", None)
    return armada


@pytest.fixture
def mt(armada: Armada, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(armada.service, capsys)


def validator(kind: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(SCHEMA | {"anyOf": [{"$ref": f"#/$defs/{kind}"}]})


@pytest.fixture
def document(mt: CommandLine) -> Callable[..., Any]:
    """Runs a command with ``--json`` and returns its document, which the schema allows under the name given first."""

    def run(kind: str, *arguments: str, code: int = 0) -> Any:
        found = mt.json("migrate", *arguments, code=code)
        validator(kind).validate(found)
        return found

    return run


def test_from_status_to_status(armada: Armada, mt: CommandLine, document: Callable[..., Any]) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1").add("a3", ADD_ONLINE, after="a2")

    before = document("status", "status")
    assert (before["heads"], before["behind"], before["reference"], before["shared"]) == (["a3"], 3, ["a1"], None)
    assert before["places"] == [{"heads": ["a1"], "tenants": 3}]
    assert "tenants" not in before

    planned = document("plan", "plan", "a2", "--canary", "snu", "--wave-size", "1", "--no-lint")
    assert planned["tenants"] == {"total": 3, "to_migrate": 3, "settled": 0, "blocked": 0}
    assert [(wave["canary"], wave["tenants"]) for wave in planned["waves"]] == [
        (True, ["snu"]), (False, ["hallym"]), (False, ["korea"]),
    ]  # fmt: skip
    assert [(one["tenants"], one["way"]) for one in planned["from"]] == [(3, "compiled")]
    assert armada.heads("snu") == ("a1",)  # a look

    some = document("report", "upgrade", "--tenant", "korea", "--jobs", "1", "--no-verify")
    assert (some["state"], some["tenants"]["migrated"], some["verified"]) == ("succeeded", 1, False)
    rest = document("report", "upgrade")
    assert (rest["tenants"]["migrated"], rest["tenants"]["unchanged"], rest["verified"]) == (2, 1, True)
    assert document("report", "upgrade")["run_id"] is None

    after = document("status", "status", "--tenants")
    assert (after["behind"], after["tenants"]) == (0, {tenant: ["a3"] for tenant in TENANTS})
    assert document("verified", "verify")["ok"] is True
    listed = document("runs", "runs", "--limit", "2")["runs"]
    assert [run["run_id"] for run in listed] == [rest["run_id"], some["run_id"]]
    assert listed[1]["options"]["verify"] is False
    shown = document("shown", "show", str(some["run_id"]))
    assert {one["tenant_id"]: one["state"] for one in shown["outcomes"]}["korea"] == "migrated"
    assert document("shown", "show")["run"]["run_id"] == rest["run_id"]


def test_what_a_person_reads(armada: Armada, mt: CommandLine) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1").add("a3", ADD_ONLINE, after="a2")
    mt("migrate", "upgrade", "a2", "--tenant", "korea")

    head = armada.history.folder / "versions" / "a3.py"
    head.write_text('"""Know how long a note is."""\n' + head.read_text())
    status = mt("migrate", "status").out
    assert re.search(r"^history +a3 \(Know how long a note is\.\)$", status, re.M)
    assert re.search(r"^tenants +3, 3 of them elsewhere$", status, re.M)
    assert re.search(r"^2 +a1", status, re.M)
    assert not re.search(r"^korea", status, re.M)
    assert re.search(r"^korea +a2$", mt("migrate", "status", "--tenants").out, re.M)

    plan = mt("migrate", "plan", "a2", "--canary", "snu").out.splitlines()
    assert plan[0] == "upgrade to a2: 2 tenants to migrate, 1 there already"
    assert plan[1:5] == [
        "2 tenants: from a1 to a2",
        "  a2  compiled",
        "wave 1, canaries: 1 tenant: snu",
        "wave 2: 1 tenant: hallym",
    ]
    assert any(line.startswith("warning: revision a2, ") for line in plan)
    assert any(line.startswith("warning: env.py: ") for line in plan)
    with_sql = mt("migrate", "plan", "--no-lint", "--sql", "a2").out
    assert "      ALTER TABLE note ADD COLUMN title TEXT;" in with_sql
    assert "warning: revision" not in with_sql  # nobody was asked
    assert "  a3  online: it asks op.get_bind()" in mt("migrate", "plan", "--no-lint").out

    done = mt("migrate", "upgrade", "a2", "--no-verify").out.splitlines()
    assert re.fullmatch(r"run \d+, upgrade to a2: succeeded", done[0])
    assert re.fullmatch(r"2 migrated, not verified, 1 unchanged, 0 failed, 0 not attempted, in \d+\.\d s", done[1])
    assert mt("migrate", "upgrade", "a2").out.splitlines()[0] == "no run, upgrade to a2: succeeded: nothing to do"

    headings, newest, *_ = mt("migrate", "runs").out.splitlines()
    assert headings.split() == ["run", "began", "action", "target", "state", "migrated", "failed", "left", "by"]
    assert newest.split()[3:6] == ["upgrade", "a2", "succeeded"]
    shown = mt("migrate", "show").out
    assert re.search(r"^state +succeeded$", shown, re.M)
    assert re.search(r"^1 +snu +migrated \(not verified\) +a1 +a2 +1 ", shown, re.M)


def test_drift_is_a_finding(armada: Armada, mt: CommandLine, document: Callable[..., Any]) -> None:
    assert mt("migrate", "verify").out == "3 tenants: 3 same\n"
    armada.ask("korea", "CREATE INDEX by_hand ON note (body)")
    out = mt("migrate", "verify", "--jobs", "2", code=1).out.splitlines()
    assert out[0] == "korea: drifted"
    assert out[1].startswith("  index by_hand is unexpected")
    assert out[-1] == "3 tenants: 2 same, 1 drifted"
    found = document("verified", "verify", "korea", code=1)
    assert found["ok"] is False
    assert [difference["name"] for difference in found["tenants"][0]["differences"]] == ["by_hand"]
    assert document("verified", "verify", "hallym")["ok"] is True


def test_a_plan_that_destroys_data_is_refused(armada: Armada, mt: CommandLine, document: Callable[..., Any]) -> None:
    armada.history.add("a2", DROP_BODY, after="a1", down='op.add_column("note", sa.Column("body", sa.Text))')
    plan = mt("migrate", "plan", "--no-lint", code=3).out
    assert "destroys data: revision a2 drops column" in plan
    allowed = document("plan", "plan", "--no-lint", "--allow-destructive")
    assert [danger["kind"] for danger in allowed["dangers"]] == ["destructive"]
    refused = mt("migrate", "upgrade", "--json", code=3)
    assert refused.document["error"]["type"] == "MigrationRefusedError"
    assert refused.err.startswith("error: nothing was migrated: ")
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a1",)}

    assert mt.json("migrate", "upgrade", "--allow-destructive")["tenants"]["migrated"] == 3
    back = document("plan", "plan", "--downgrade", "-1", "--no-lint")
    assert (back["action"], back["tenants"]["to_migrate"]) == ("downgrade", 3)
    down = mt("migrate", "downgrade", "-1")
    assert "3 migrated" in down.out
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a1",)}
    assert document("plan", "plan", "--stamp", "a2", "--tenant", "snu")["action"] == "stamp"
    document("report", "stamp", "a2", "--tenant", "snu")
    assert armada.heads("snu") == ("a2",)
    assert "body" in armada.columns("snu")


def test_a_part_of_the_fleet_fails(armada: Armada, mt: CommandLine, document: Callable[..., Any]) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    armada.ask("korea", "ALTER TABLE note RENAME TO mislaid")

    ended = mt("migrate", "upgrade", "--max-failures", "5", code=4)
    assert re.search(r"^korea: .*note.* \[42P01\]$", ended.out, re.M)
    assert re.search(r"^2 migrated, 0 unchanged, 1 failed, 0 not attempted, ", ended.out, re.M)
    hint = re.search(r"^to go on with it: mt-paas-db (migrate resume \d+)$", ended.err, re.M)
    assert hint, ended.err
    failed = document("shown", "show", "--failed")
    assert [(one["tenant_id"], one["sqlstate"]) for one in failed["outcomes"]] == [("korea", "42P01")]
    assert "Traceback" not in ended.err

    alone = document("report", "resume", code=1)  # nobody was migrated
    assert (alone["tenants"]["failed"], alone["failures"][0]["tenant_id"]) == (1, "korea")
    armada.ask("korea", "ALTER TABLE mislaid RENAME TO note")
    again = document("report", *hint[1].split()[1:], "--no-verify", "--jobs", "1")
    assert again["tenants"] == {"migrated": 1, "unchanged": 0, "failed": 0, "not_attempted": 0}
    run = document("shown", "show")["run"]
    assert (run["resumes"], run["options"]["jobs"]) == (int(hint[1].split()[-1]), 1)
    assert run["options"]["max_failures"] == 5  # as the run was told that is gone on with


def asleep(service: Service, *, timeout_s: float = 60) -> None:
    """Return when a backend in `service`'s database is inside a pg_sleep()."""
    until = time.monotonic() + timeout_s
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    with service.superuser() as connection:
        while connection.execute(query, (service.database,)).fetchone() is None:
            assert time.monotonic() < until, "no revision came to sleep"
            time.sleep(0.02)


def test_interrupted_and_resumed(armada: Armada, mt: CommandLine) -> None:
    slow = "op.execute(\"SELECT pg_sleep(1.5 * (current_schema() NOT LIKE '%reference')::int)\")\n"
    armada.history.add("a2", slow + ADD_TITLE, after="a1")
    with mt.in_a_process("migrate", "upgrade", "--jobs", "1", "--json") as process:
        asleep(armada.service)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    report = json.loads(out)
    assert report["state"] == "interrupted"
    assert report["tenants"] == {"migrated": 1, "unchanged": 0, "failed": 0, "not_attempted": 2}
    assert err == f"to go on with it: mt-paas-db migrate resume {report['run_id']}\n"
    resumed = mt.json("migrate", "resume")
    assert (resumed["state"], resumed["tenants"]["migrated"]) == ("succeeded", 2)
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a2",)}
    assert mt.json("migrate", "resume", code=1)["error"]["type"] == "UnknownRunError"


def test_what_revisions_print_is_no_answer(armada: Armada, mt: CommandLine) -> None:
    noise = "print('from the revision')\nimport os; os.system('echo from its child')\n"
    armada.history.add("a2", noise + ADD_ONLINE, after="a1")
    file = armada.history.folder / "versions" / "a2.py"
    file.write_text("print('from the file')\n" + file.read_text())
    with mt.in_a_process("migrate", "upgrade", "--json") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["tenants"]["migrated"] == 3
    for line in ("from the revision", "from its child", "from the file"):
        assert line in err


def test_a_bar_on_a_terminal(armada: Armada, mt: CommandLine) -> None:
    armada.history.add("a2", 'op.execute("SELECT pg_sleep(0.5)")\n' + ADD_TITLE, after="a1")
    code, shown = on_a_terminal(mt, "migrate", "upgrade", COLUMNS="120")
    assert code == 0, shown
    assert "wave 1" in shown
    assert re.search(r"\d left, \d+/s", shown)
    assert "3 migrated" in shown


# -- where the revisions are


def test_where_the_revisions_are(
    armada: Armada, mt: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = armada.history.location
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("MT_PAAS_DB_SCRIPT_LOCATION")

    error = mt.json("migrate", "status", code=2)["error"]
    assert error["type"] == "ConfigurationError"
    for way in ("--scripts", "MT_PAAS_DB_SCRIPT_LOCATION", "alembic.ini", "pyproject.toml"):
        assert way in error["message"]

    assert mt.json("migrate", "status", "--scripts", folder)["heads"] == ["a1"]
    toml, ini = project / "pyproject.toml", project / "alembic.ini"
    toml.write_text("[project]\nname = 'shop'\n")
    mt("migrate", "status", code=2)
    toml.write_text(f"[tool.alembic]\nscript_location = {json.dumps(folder)}\n")
    assert mt.json("migrate", "status")["heads"] == ["a1"]
    mt("migrate", "upgrade")
    ini.write_text("[alembic]\nscript_location = %(here)s/nowhere\n")
    assert "nowhere" in mt.json("migrate", "status", code=2)["error"]["message"]
    ini.write_text("not an ini file")
    spoiled = mt("migrate", "status", "--json", code=2)
    assert "cannot be read" in spoiled.document["error"]["message"]
    assert "Traceback" not in spoiled.err
    monkeypatch.setenv("MT_PAAS_DB_SCRIPT_LOCATION", folder)
    assert mt.json("migrate", "status")["heads"] == ["a1"]


def test_revisions_that_import_the_services_code(
    armada: Armada, mt: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_defaults.py").write_text("TITLE = 'untitled'\n")
    monkeypatch.chdir(tmp_path)
    armada.history.add(
        "a2",
        'import shop_defaults\nop.add_column("note", sa.Column("title", sa.Text, server_default=shop_defaults.TITLE))',
        after="a1",
    )
    assert mt.json("migrate", "upgrade")["tenants"]["migrated"] == 3


# -- refusals

REFUSALS: list[tuple[tuple[str, ...], int, str]] = [
    (("upgrade", "nothing_of_that_name"), 2, "RevisionError"),
    (("upgrade", "a1:head"), 2, "RevisionError"),
    (("upgrade", "--tenant", "nobody"), 1, "UnknownTenantError"),
    (("upgrade", "--tenant", "No Id"), 2, "InvalidIdentifierError"),
    (("upgrade", "--wave", "canary"), 2, "ConfigurationError"),
    (("upgrade", "--wave", "third"), 2, "ConfigurationError"),
    (("upgrade", "--shared"), 2, "ConfigurationError"),
    (("upgrade", "--shared", "--tenant", "snu"), 2, "UsageError"),
    (("upgrade", "--jobs", "0"), 2, "UsageError"),
    (("upgrade", "--jbos", "3"), 2, "UsageError"),
    (("upgrade", "--jbos"), 2, "UsageError"),
    (("downgrade",), 2, "UsageError"),
    (("plan", "--downgrade", "--stamp"), 2, "UsageError"),
    (("plan", "--canary", "nobody"), 1, "UnknownTenantError"),
    (("verify", "nobody"), 1, "UnknownTenantError"),
    (("show", "999"), 1, "UnknownRunError"),
    (("show", "last"), 2, "UsageError"),
    (("resume", "999"), 1, "UnknownRunError"),
    (("runs", "--limit", "0"), 2, "UsageError"),
    (("status", "--scripts", "/nowhere"), 2, "ConfigurationError"),
]


def test_refusals_are_told_in_a_line(armada: Armada, mt: CommandLine) -> None:
    armada.history.add("a2", ADD_TITLE, after="a1")
    for arguments, code, type_ in REFUSALS:
        answer = mt("migrate", *arguments, "--json", code=code)
        assert list(answer.document) == ["error"], arguments
        assert answer.document["error"]["type"] == type_, arguments
        assert answer.err.startswith("error: "), arguments
        assert "Traceback" not in answer.err, arguments
    assert {armada.heads(tenant) for tenant in TENANTS} == {("a1",)}


def test_servers_that_cannot_serve(armada: Armada, mt: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    with armada.service.superuser() as connection:
        connection.execute("UPDATE mt_paas.alembic_version SET version_num = '0001'")
        assert mt.json("migrate", "status", code=1)["error"]["type"] == "CatalogVersionError"
        connection.execute("DROP SCHEMA mt_paas CASCADE")
    assert mt.json("migrate", "upgrade", code=1)["error"]["type"] == "CatalogMissingError"
    monkeypatch.setenv(ADMIN_DSN, "postgresql://u:very-secret@127.0.0.1:1/db")
    down = mt("migrate", "upgrade", "--json", code=1)
    assert down.document["error"]["type"] == "ServerUnavailableError"
    assert "very-secret" not in down.out + down.err


# -- the reference


def test_the_page_shows_documents_that_the_schema_allows() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    page = (ROOT / "docs/reference/migrate-report.md").read_text()
    blocks = re.findall(r"<!-- schema: (\w+) -->\n```json\n(.*?)```", page, re.S)
    assert len(blocks) == page.count("```json") == 4
    for kind, block in blocks:
        validator(kind).validate(json.loads(block))
    with pytest.raises(jsonschema.ValidationError):
        validator("report").validate(json.loads(blocks[0][1]) | {"more": 1})


def test_the_schema_knows_every_state() -> None:
    """No run here comes to all of them."""
    from mt_paas_db.migrate.ledger import OutcomeState, RunState
    from mt_paas_db.migrate.verify import Verdict

    kinds = SCHEMA["$defs"]
    assert set(kinds["run"]["properties"]["state"]["enum"]) == set(get_args(RunState))
    assert set(kinds["report"]["properties"]["state"]["enum"]) == {*get_args(RunState)} - {"running", "lost"}
    of_outcome = kinds["shown"]["properties"]["outcomes"]["items"]["properties"]["state"]
    assert set(of_outcome["enum"]) == set(get_args(OutcomeState))
    of_tenant = kinds["verified"]["properties"]["tenants"]["items"]["properties"]["verdict"]
    assert set(of_tenant["enum"]) == set(get_args(Verdict))
