"""Many tenants at once, and the compiled head that makes them: the same tenants as one by one, by replaying."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from mt_paas_db.cli import main
from mt_paas_db.core import NewTenant, Progress, TenantManager
from mt_paas_db.core.bulk import read_file
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.migrate.script import Script
from tests.armada import ADD_TITLE, NOTE
from tests.fingerprint import fingerprint, strays
from tests.fleet import Service
from tests.histories import History

SEED = "INSERT INTO note (body) VALUES ('50 % \\ \"quoted\" ''twice'' 한국어')"


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "history").add("a1", NOTE).add("a2", ADD_TITLE, after="a1")
    made.add("a3", f"op.execute({SEED!r})", after="a2")
    return made.add("a4", "op.execute(\"CREATE TYPE mood AS ENUM ('calm')\")", after="a3")


@pytest.fixture
def manager(service: Service, history: History) -> TenantManager:
    made = TenantManager(service.settings(), script_location=history.location)
    service.managers.append(made)
    made.init()
    return made


def test_compiled_equals_replayed(service: Service, manager: TenantManager) -> None:
    replayed = manager.create("replayed")  # the first one of a process
    compiled = manager.create("compiled")
    head = manager._lifecycle._provisioner._blueprint.known_head
    assert head is not None
    assert head.way == "compiled"
    assert fingerprint(service, compiled) == fingerprint(service, replayed)


def test_it_was_the_compiled_text_that_was_sent(
    service: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The red twin of the test above: text that lacks a statement shows."""
    replayed = manager.create("replayed")
    monkeypatch.setattr(Script, "statements", lambda self: [i.text for p in self.parts[:-1] for i in p.items])
    lacking = manager.create("lacking")
    assert fingerprint(service, lacking) != fingerprint(service, replayed)


def test_a_tenant_costs_few_round_trips(manager: TenantManager) -> None:
    manager.create_many([NewTenant("first"), NewTenant("second")], jobs=1)
    sent: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        manager.create("hallym")
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    assert len(sent) == 8, "\n".join(sent)
    assert sum("CREATE TABLE" in statement for statement in sent) == 1


def test_many(service: Service, manager: TenantManager) -> None:
    manager.create("there")
    heard: list[Progress] = []
    names = [NewTenant(f"uni-{n}", f"대학 {n}", (f"uni{n}.example.ac.kr",)) for n in range(12)]
    done = manager.create_many([NewTenant("there"), *names], jobs=3, progress=heard.append)
    assert (len(done.created), done.existing, done.failed) == (12, ("there",), ())
    assert [tenant.tenant_id for tenant in done.created] == [new.tenant_id for new in names]
    assert manager.get("uni3.example.ac.kr").display_name == "대학 3"
    assert (heard[0].done, heard[-1].done) == (0, 13)
    assert strays(service) == set()
    assert {position.heads for position in _positions(service)} == {("a4",)}
    again = manager.create_many(names, jobs=3)
    assert (again.created, len(again.existing)) == ((), 12)


def _positions(service: Service) -> list[Any]:
    from mt_paas_db.catalog.credentials import settings_credentials
    from mt_paas_db.migrate import ledger
    from mt_paas_db.migrate.direct import Direct

    settings = service.settings()
    with Direct(settings, settings_credentials(settings)).connect("main") as connection:
        return list(ledger.positions(connection))


def test_one_that_fails_does_not_stop_the_others(service: Service, manager: TenantManager) -> None:
    manager.create("korea", aliases=["taken.example.org"])
    done = manager.create_many([NewTenant("a"), NewTenant("b", aliases=("taken.example.org",)), NewTenant("c")], jobs=2)
    assert [tenant.tenant_id for tenant in done.created] == ["a", "c"]
    ((who, error),) = done.failed
    assert who == "b"
    assert "taken.example.org" in str(error)
    assert strays(service) == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\nhallym\n", "the first line names the columns"),
        ("id,colour\nhallym,blue\n", "the first line names the columns"),
        ("id\nHallym\n", "entry 1: "),
        ("id\nhallym\nhallym\n", "entry 2: 'hallym' is claimed by entry 1 too"),
        ("id,aliases\nhallym,a.example\nkorea,b.example a.example\n", "entry 2: 'a.example' is claimed"),
        ('id,name\n"hallym,x\n', "line "),
        ("id,name\nhallym\x00,x\n", ""),
    ],
)
def test_a_file_that_is_wrong_creates_nothing(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tenants.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as wrong:
        read_file(path)
    assert said in str(wrong.value)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "tenants.csv"
    path.write_bytes("id,name\nhallym,한림대학교\n".encode("cp949"))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_file(path)


def test_the_command(
    service: Service,
    manager: TenantManager,
    history: History,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "tenants.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet saves it
        csv.writer(file).writerows([["id", "name", "aliases"], ["hallym", "한림대학교", ""], ["snu", "", "snu.ac.kr"]])
    command = ["tenant", "create", "--from-file", str(path), "--scripts", history.location, "--jobs", "2"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [tenant["tenant_id"] for tenant in document["created"]] == ["hallym", "snu"]
    assert main(command) == 0
    assert capsys.readouterr().out == "0 created, 2 were there, 0 failed\n"
    assert main([*command, "hallym"]) == 2
    assert main(["tenant", "create"]) == 2
    with path.open("a", encoding="utf-8") as file:
        file.write("other,,snu.ac.kr\n")
    assert main([*command, "--json"]) == 2
    path.write_text("id,aliases\nother,snu.ac.kr\nfurther,\n")
    assert main([*command, "--json"]) == 4
    assert main(["tenant", "create", "--from-file", str(tmp_path / "none.csv")]) == 2
