"""The command line: what it prints for a person and for a program, how it ends, and that a refusal changes nothing.

Longer than most: every command of the tenants' lifecycle is called, on the same small fleet.
"""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from mt_paas_db import TenancyError, __version__, errors
from mt_paas_db.catalog.values import CATALOG_VERSION
from mt_paas_db.cli import main
from mt_paas_db.cli.exit_codes import EXIT_CODES, PARTLY, exit_code
from mt_paas_db.cli.text import printable
from tests.fleet import PASSWORD, Service
from tests.servers import PostgresServer
from tests.servers.processes import free_port

pytest.importorskip("typer", reason="extra 'cli' is not installed")

from rich.cells import cell_len

from mt_paas_db.cli.screen import fit

ROOT = Path(__file__).resolve().parents[1]
APP_DSN, ADMIN_DSN = "MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN", "MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN"
KOREAN = "한림대학교 의료원"


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The whole of stdout as one JSON document."""
        return json.loads(self.out)


class CommandLine:
    """Runs `mt-paas-db` in this process, with the settings of `service` in the environment."""

    def __init__(self, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        self.service = service
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> Answer:
        self._capsys.readouterr()
        ended = main(arguments)
        answer = Answer(ended, *self._capsys.readouterr())
        assert answer.code == code, answer
        return answer

    def json(self, *arguments: str, code: int = 0) -> Any:
        return self(*arguments, "--json", code=code).document

    def in_a_process(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start it as a user's shell would; the caller ends it."""
        environment = {**os.environ, **options.pop("environment", {})}
        environment.pop("PYTHONUNBUFFERED", None)  # it would hide what becomes of a full buffer
        return subprocess.Popen(
            [sys.executable, "-m", "mt_paas_db", *arguments],
            env=environment, stderr=subprocess.PIPE, text=True,
            **{"cwd": ROOT, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options},
        )  # fmt: skip


@pytest.fixture
def bare(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A command line whose installation is not initialised yet."""
    for variable in [v for v in os.environ if v.startswith("MT_PAAS_DB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MT_PAAS_DB_INSTALLATION", service.name)
    monkeypatch.setenv("MT_PAAS_DB_MODELS", "tests.models:Base")
    monkeypatch.setenv(APP_DSN, service.server.dsn(service.database, user=service.login, password=PASSWORD))
    monkeypatch.setenv(ADMIN_DSN, service.server.dsn(service.database))
    monkeypatch.setattr(sys, "path", list(sys.path))  # `--models` adds the current directory
    monkeypatch.setattr(sys, "stdin", None)
    return CommandLine(service, capsys)


@pytest.fixture
def mt(bare: CommandLine) -> CommandLine:
    """A command line of an initialised installation without tenants."""
    bare("init")
    return bare


@pytest.fixture
def campus(mt: CommandLine) -> CommandLine:
    """Tenants: hallym (active, two aliases), korea (suspended), snu (renamed from seoul)."""
    mt("tenant", "create", "hallym", "--name", KOREAN, "--alias", "chat.hallym.ac.kr", "--alias", "tenant_hallym")
    mt("tenant", "create", "korea")
    mt("tenant", "suspend", "korea", "--reason", "payment")
    mt("tenant", "create", "seoul")
    mt("tenant", "rename", "seoul", "snu")
    return mt


@pytest.fixture
def leaving(campus: CommandLine) -> CommandLine:
    """The same, and korea is archived, so that it may be deleted."""
    campus("tenant", "archive", "korea")
    return campus


def picture(service: Service) -> list[Any]:
    """Everything that a command could have changed, as the superuser sees it; the log apart."""
    with service.superuser() as connection:
        like = f"{service.name}\\_%"
        memberships = (
            "SELECT r.rolname, m.member FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid "
            "WHERE r.rolname LIKE %s ORDER BY 1, 2"
        )
        return [
            connection.execute(query, values).fetchall()
            for query, values in [
                ("SELECT * FROM mt_paas.tenant ORDER BY 1", ()),
                ("SELECT * FROM mt_paas.tenant_name ORDER BY 1", ()),
                ("SELECT * FROM mt_paas.installation", ()),
                ("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE %s ORDER BY 1", (like,)),
                ("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s ORDER BY 1", (like,)),
                (memberships, (like,)),
            ]
        ]


# -- every command


def test_init_twice_says_the_same_and_changes_nothing(bare: CommandLine) -> None:
    first = bare.json("init")
    seen = picture(bare.service)
    assert bare.json("init") == first
    assert picture(bare.service) == seen
    assert first["installation"]["name"] == bare.service.name
    line = bare("init").out.splitlines()[0]
    assert line == (
        f"installation '{bare.service.name}' is ready on cluster 'main', "
        f"its catalog at version {first['installation']['catalog_version']}"
    )


def test_a_tenant_through_its_life(mt: CommandLine) -> None:
    created = mt.json("tenant", "create", "hallym", "--name", KOREAN, "--alias", "chat.hallym.ac.kr")["tenant"]
    assert created["display_name"] == KOREAN
    assert created["state"] == "active"
    assert created["aliases"] == ["chat.hallym.ac.kr"]

    suspended = mt.json("tenant", "suspend", "chat.hallym.ac.kr", "--reason", "payment")["tenant"]
    assert (suspended["tenant_id"], suspended["state"], suspended["state_reason"]) == (
        "hallym", "suspended", "payment",
    )  # fmt: skip
    assert mt.json("tenant", "resume", "hallym")["tenant"]["state"] == "active"
    assert mt.json("tenant", "read-only", "hallym", "--note", "이전 준비")["tenant"]["state"] == "read_only"
    assert mt.json("tenant", "maintenance", "hallym")["tenant"]["state"] == "maintenance"
    assert mt.json("tenant", "resume", "hallym")["tenant"]["state"] == "active"

    renamed = mt.json("tenant", "rename", "hallym", "hallym-univ")["tenant"]
    assert renamed["tenant_id"] == "hallym-univ"
    assert renamed["placement"] == created["placement"]

    added = mt.json("tenant", "alias", "add", "hallym-univ", "h.ac.kr")["tenant"]
    assert added["aliases"] == ["chat.hallym.ac.kr", "h.ac.kr", "hallym"]
    released = mt.json("tenant", "alias", "release", "hallym-univ", "h.ac.kr")["tenant"]
    assert released["aliases"] == ["chat.hallym.ac.kr", "hallym"]

    shown = mt.json("tenant", "show", "hallym")
    assert shown["tenant"] == released
    assert [event["action"] for event in shown["events"][:2]] == ["release_alias", "add_alias"]

    assert mt.json("tenant", "archive", "hallym-univ")["tenant"]["state"] == "archived"
    assert mt.json("tenant", "restore", "hallym-univ")["tenant"]["state"] == "active"
    mt("tenant", "suspend", "hallym-univ", "--reason", "other", "--note", "계약 종료")
    assert "계약 종료" in mt("tenant", "events", "--limit", "1", "--json").out
    mt("tenant", "archive", "hallym-univ")
    assert mt.json("tenant", "delete", "hallym-univ", "--confirm", "hallym-univ") == {"deleted": "hallym-univ"}
    assert mt.json("tenant", "list") == {"tenants": []}
    newest = mt.json("tenant", "events", "hallym-univ", "--limit", "4")["events"]
    assert [(event["action"], event["outcome"]) for event in newest] == [
        ("delete", "done"), ("delete", "started"), ("archive", "done"), ("suspend", "done"),
    ]  # fmt: skip
    assert newest[3]["detail"] == {"reason": "other", "note": "계약 종료"}
    assert len(mt.json("tenant", "events")["events"]) == 15


def test_what_a_person_reads(campus: CommandLine) -> None:
    name = campus.service.name
    assert campus("tenant", "create", "yonsei").out == f"tenant 'yonsei' is active, its schema '{name}_yonsei_4'\n"
    assert campus("tenant", "suspend", "yonsei").out == "tenant 'yonsei' is suspended (other)\n"
    assert campus("tenant", "resume", "yonsei").out == "tenant 'yonsei' is active\n"
    assert campus("tenant", "rename", "yonsei", "ys").out == (
        f"the tenant is called 'ys' now, its schema is still '{name}_yonsei_4'\n"
    )
    assert campus("tenant", "alias", "add", "ys", "ys.ac.kr").out == "'ys.ac.kr' leads to tenant 'ys'\n"
    assert campus("tenant", "alias", "release", "ys", "ys.ac.kr").out == "'ys.ac.kr' no longer leads to tenant 'ys'\n"
    assert campus("tenant", "read-only", "ys").out == "tenant 'ys' is read_only\n"
    assert campus("tenant", "maintenance", "ys").out == "tenant 'ys' is maintenance\n"
    assert campus("tenant", "archive", "korea").out == "tenant 'korea' is archived\n"
    assert campus("tenant", "restore", "korea").out == "tenant 'korea' is active\n"
    campus("tenant", "archive", "korea")
    assert campus("tenant", "delete", "korea", "--confirm", "korea").out == (
        "tenant 'korea' is deleted, with its schema and role\n"
    )
    shown = campus("tenant", "show", "snu").out
    assert re.search(r"^tenant +snu$", shown, re.M)
    assert re.search(r"^also called +seoul$", shown, re.M)
    assert re.search(rf"^schema, role +{name}_seoul_3$", shown, re.M)
    log = campus("tenant", "events", "--limit", "1").out.splitlines()
    assert log[0].split() == ["at", "action", "tenant", "outcome", "by", "detail"]
    assert log[1].split()[2:5] == ["delete", "korea", "done"]
    assert len(log) == 2
    of_one = campus("tenant", "events", "hallym").out.splitlines()[1:]
    assert [line.split()[2:5] for line in of_one] == [["create", "hallym", "done"]]


def test_columns_stand_under_each_other_although_korean_is_wide(campus: CommandLine) -> None:
    head, *rows = campus("tenant", "list").out.splitlines()
    assert [row.split()[0] for row in rows] == ["hallym", "korea", "snu"]
    assert KOREAN in rows[0]
    assert "suspended (payment)" in rows[1]
    starts = [cell_len(line[: line.index(mark)]) for line, mark in
              [(head, "schema"), *((row, f"{campus.service.name}_") for row in rows)]]  # fmt: skip
    assert len(set(starts)) == 1, starts


def test_list_by_state(campus: CommandLine) -> None:
    assert [t["tenant_id"] for t in campus.json("tenant", "list", "--state", "suspended")["tenants"]] == ["korea"]
    assert campus("tenant", "list", "--state", "archived").out == "tenant  state  name  schema  also called\n"


def test_thousands_of_tenants(mt: CommandLine) -> None:
    count = 3000
    with mt.service.superuser() as connection:
        connection.execute(
            "INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name, role_name) "
            "SELECT g + 10, 'u-' || to_char(g, 'FM0000'), %s, 'active', 'default', 's_' || g, 's_' || g "
            "FROM generate_series(1, %s) g",
            (KOREAN, count),
        )
    ids = [f"u-{number:04}" for number in range(1, count + 1)]
    assert [line.split()[0] for line in mt("tenant", "list").out.splitlines()[1:]] == ids
    assert [tenant["tenant_id"] for tenant in mt.json("tenant", "list")["tenants"]] == ids
    # A reader that stops early is no failure worth a traceback.
    for options in ([], ["--json"]):
        with mt.in_a_process("tenant", "list", *options) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.wait(60) == 1
            assert process.stderr.read() == ""


def test_a_reader_that_has_gone_before_the_first_line(bare: CommandLine) -> None:
    nobody, pipe = os.pipe()
    os.close(nobody)
    with os.fdopen(pipe, "w") as gone, bare.in_a_process("--version", stdout=gone) as process:
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_display_name_cannot_steer_the_terminal(mt: CommandLine) -> None:
    mt("tenant", "create", "evil", "--name", "\x1b[2J\x07", code=2)
    mt("tenant", "create", "evil", "--name", "[red]\u202etxt")
    for answer in (mt("tenant", "list"), mt("tenant", "show", "evil")):
        assert r"[red]\u202etxt" in answer.out
    assert mt.json("tenant", "show", "evil")["tenant"]["display_name"] == "[red]\u202etxt"
    assert printable("한림대 👩‍🎓 a\tb") == "한림대 👩‍🎓 a\\tb"


def test_a_terminal_that_cannot_show_korean(mt: CommandLine) -> None:
    name = "한림대 🎓"
    mt("tenant", "create", "hallym", "--name", name)
    environment = {"PYTHONIOENCODING": "ascii"}
    with mt.in_a_process("tenant", "show", "hallym", "--json", environment=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["tenant"]["display_name"] == name
    with mt.in_a_process("tenant", "list", environment=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert r"\ud55c\ub9bc\ub300 \U0001f393" in out


def test_columns_are_narrowed_to_the_terminal() -> None:
    assert fit([10, 20, 30], room=100) == [10, 20, 30]
    assert fit([10, 20, 30], room=40) == [10, 15, 15]
    assert fit([4, 90, 90], room=10) == [4, 8, 8]


# -- models


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A service's folder, not installed, with models that talk when they are imported."""
    (tmp_path / "shop_models.py").write_text(
        "from sqlalchemy import Column, Integer, MetaData, Table\n"
        "print('loading the shop')\n"
        "class Base:\n    metadata = MetaData()\n"
        "Table('order', Base.metadata, Column('id', Integer, primary_key=True))\n"
    )
    (tmp_path / "broken_models.py").write_text("raise RuntimeError('no shop today')\n")
    (tmp_path / "bad_ddl.py").write_text(
        "from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table\n"
        "metadata = MetaData()\n"
        "Table('order', metadata, Column('id', Integer), CheckConstraint('nonsense('))\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in ("shop_models", "broken_models", "bad_ddl"):
        sys.modules.pop(module, None)


def test_models_beside_the_user_and_before_the_environment(mt: CommandLine, project: Path) -> None:
    answer = mt("tenant", "create", "shop", "--models", "shop_models:Base", "--json")
    assert "loading the shop" in answer.err
    schema = answer.document["tenant"]["placement"]["schema_name"]
    with mt.service.superuser() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
    assert tables == [("order",)]
    assert mt.json("init", "--models", "shop_models:Base")["installation"]["name"] == mt.service.name


def test_only_commands_that_make_tables_load_the_models(mt: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT_PAAS_DB_MODELS", "not.installed:here")
    mt("tenant", "list")
    assert mt.json("tenant", "create", "hallym", code=2)["error"]["type"] == "ConfigurationError"


def test_models_that_fail(campus: CommandLine, project: Path) -> None:
    seen = picture(campus.service)
    refused = campus("tenant", "create", "new", "--models", "bad_ddl:metadata", "--json", code=1)
    assert refused.document["error"]["type"] == "ProvisioningError"
    assert "Traceback" not in refused.err

    broken = campus("tenant", "create", "new", "--models", "broken_models:Base", "--json", code=1)
    assert broken.document["error"] == {"type": "RuntimeError", "message": "unexpected RuntimeError: no shop today"}
    assert "broken_models.py" in broken.err  # where to look

    missing = campus.json("tenant", "create", "new", "--models", "shop_models:Nothing", code=2)
    assert missing["error"]["type"] == "ConfigurationError"
    assert picture(campus.service) == seen


# -- doctor


def test_doctor_names_what_mends_it(campus: CommandLine) -> None:
    def verdict() -> str:
        return campus("doctor").out.splitlines()[-1]

    assert verdict().startswith("ok: ")
    with campus.service.superuser() as connection:
        connection.execute(f"ALTER ROLE {campus.service.login} CREATEDB")
        found = campus("doctor", code=1).out
        assert found.splitlines()[-1].startswith("not ok: ")
        assert "1 error" in found.splitlines()[-1]
        assert re.search(r"^error    the login role has no powers$", found, re.M)
        mend = re.search(r"^ +to mend it: (ALTER ROLE .*)$", found, re.M)
        assert mend
        document = campus.json("doctor", code=1)
        assert document["ok"] is False
        [finding] = [f for r in document["results"] for f in r["findings"] if f["severity"] == "error"]
        assert finding["mend"] == mend[1]
        connection.execute(mend[1].encode())
    assert verdict().startswith("ok: ")
    assert campus.json("doctor")["ok"] is True


def test_doctor_without_an_admin_says_what_it_could_not_see(mt: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADMIN_DSN)
    out = mt("doctor").out
    assert out.splitlines()[-1].startswith("ok, as far as could be seen: ")
    assert re.search(r"^skipped  the login role has no powers$", out, re.M)
    assert ADMIN_DSN in out


def test_readiness(bare: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bare("doctor", "--ready", code=1).out.splitlines()[-1].startswith("not ready: ")
    bare("init")
    monkeypatch.delenv(ADMIN_DSN)
    ready = bare("doctor", "--ready").out.splitlines()
    assert ready[-1] == "ready: 2 checks"
    assert bare.json("doctor", "--ready")["ok"] is True
    with bare.service.superuser() as connection:
        connection.execute("DROP SCHEMA mt_paas CASCADE")
    assert "mt-paas-db init" in bare("doctor", "--ready", code=1).out
    monkeypatch.setenv(APP_DSN, f"postgresql://u:very-secret@127.0.0.1:{free_port()}/db")
    down = bare("doctor", "--ready", "--json", code=1)
    assert down.document["ok"] is False
    assert "very-secret" not in down.out + down.err


# -- refusals: the exit code, one document, and nothing changed

REFUSALS: list[tuple[tuple[str, ...], int, str]] = [
    (("tenant", "create", "hallym"), 3, "TenantExistsError"),
    (("tenant", "create", "seoul"), 3, "NameReservedError"),
    (("tenant", "create", "new", "--alias", "tenant_hallym"), 3, "NameReservedError"),
    (("tenant", "create", "Hallym"), 2, "InvalidIdentifierError"),
    (("tenant", "create", "new", "--alias", "a'; DROP SCHEMA mt_paas"), 2, "InvalidIdentifierError"),
    (("tenant", "create", "new", "--name", "\udcff"), 2, "UsageError"),
    (("tenant", "create", "new", "--models", "nowhere:Base"), 2, "ConfigurationError"),
    (("tenant", "create"), 2, "UsageError"),
    (("tenant", "show", "nobody"), 1, "UnknownTenantError"),
    (("tenant", "show", "한림"), 2, "InvalidIdentifierError"),
    (("tenant", "suspend", "nobody"), 1, "UnknownTenantError"),
    (("tenant", "suspend", "korea"), 3, "IllegalTransitionError"),
    (("tenant", "suspend", "hallym", "--reason", "unpaid"), 2, "UsageError"),
    (("tenant", "suspend", "hallym", "--note", "\udcff"), 2, "UsageError"),
    (("tenant", "resume", "hallym"), 3, "IllegalTransitionError"),
    (("tenant", "read-only", "korea"), 3, "IllegalTransitionError"),
    (("tenant", "maintenance", "korea"), 3, "IllegalTransitionError"),
    (("tenant", "archive", "korea"), 3, "IllegalTransitionError"),
    (("tenant", "restore", "hallym"), 3, "IllegalTransitionError"),
    (("tenant", "rename", "hallym", "korea"), 3, "NameReservedError"),
    (("tenant", "rename", "hallym", "a--b"), 2, "InvalidIdentifierError"),
    (("tenant", "alias", "add", "snu", "hallym"), 3, "NameReservedError"),
    (("tenant", "alias", "release", "snu", "tenant_hallym"), 1, "UnknownAliasError"),
    (("tenant", "delete", "korea"), 3, "ConfirmationError"),
    (("tenant", "delete", "korea", "--confirm", "hallym"), 3, "ConfirmationError"),
    (("tenant", "delete", "hallym", "--confirm", "hallym"), 3, "IllegalTransitionError"),
    (("tenant", "delete", "nobody", "--confirm", "nobody"), 1, "UnknownTenantError"),
    (("tenant", "events", "Not An Id"), 2, "InvalidIdentifierError"),
    (("tenant", "events", "--limit", "0"), 2, "UsageError"),
    (("tenant", "list", "--state", "asleep"), 2, "UsageError"),
    (("tenant", "explode"), 2, "UsageError"),
    (("doctor", "--nope"), 2, "UsageError"),
]  # fmt: skip


def test_refusals_change_nothing(leaving: CommandLine) -> None:
    listed, seen = leaving.json("tenant", "list"), picture(leaving.service)
    for arguments, code, type_ in REFUSALS:
        plain = leaving(*arguments, code=code)
        assert plain.out == ""
        told = leaving.json(*arguments, code=code)
        assert list(told) == ["error"]
        assert told["error"]["type"] == type_
        assert plain.err == f"error: {printable(told['error']['message'], keep_lines=True)}\n"
        assert picture(leaving.service) == seen, arguments
    assert leaving.json("tenant", "list") == listed


def test_an_error_carries_its_facts(campus: CommandLine) -> None:
    error = campus.json("tenant", "resume", "hallym", code=3)["error"]
    assert (error["tenant_id"], error["state"], error["action"]) == ("hallym", "active", "resume")
    assert error["allowed_from"] == ["read_only", "maintenance", "suspended"]


EVERY_COMMAND = [
    ("init",),
    ("tenant", "create", "new"),
    ("tenant", "list"),
    ("tenant", "show", "hallym"),
    ("tenant", "suspend", "hallym"),
    ("tenant", "read-only", "hallym"),
    ("tenant", "maintenance", "hallym"),
    ("tenant", "resume", "korea"),
    ("tenant", "archive", "korea"),
    ("tenant", "restore", "korea"),
    ("tenant", "rename", "hallym", "new"),
    ("tenant", "alias", "add", "hallym", "new"),
    ("tenant", "alias", "release", "hallym", "tenant_hallym"),
    ("tenant", "delete", "korea", "--confirm", "korea"),
    ("tenant", "events"),
]


@pytest.mark.parametrize(
    ("dsn", "code", "type_"),
    [
        ("postgresql://u:very-secret@127.0.0.1:{unused}/db", 1, "ServerUnavailableError"),
        ("{server}/no_such_database", 1, "ServerUnavailableError"),
        ("very-secret is no URL", 2, "ConfigurationError"),
        ("postgresql://u:a@b:very-secret@127.0.0.1/db", 2, "ConfigurationError"),
        ("mysql://u:very-secret@127.0.0.1/db", 2, "ConfigurationError"),
        ("", 2, "ConfigurationError"),
    ],
    ids=["server down", "no such database", "malformed", "unquoted password", "another product", "none"],
)
def test_a_dsn_that_cannot_work(
    campus: CommandLine, monkeypatch: pytest.MonkeyPatch, dsn: str, code: int, type_: str
) -> None:
    seen = picture(campus.service)
    server = campus.service.server.dsn("postgres").rpartition("/")[0]
    monkeypatch.setenv(ADMIN_DSN, dsn.format(unused=free_port(), server=server))
    for command in EVERY_COMMAND:
        answer = campus(*command, "--json", code=code)
        assert answer.document["error"]["type"] == type_
        assert "very-secret" not in answer.out + answer.err
        assert "Traceback" not in answer.err
    assert picture(campus.service) == seen


def test_a_wrong_password(campus: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    service = campus.service
    wrong = service.server.dsn(service.database, user=service.login, password="very-secret")
    monkeypatch.setenv(ADMIN_DSN, wrong)
    answer = campus("tenant", "list", "--json", code=1)
    assert answer.document["error"]["type"] == "LoginRefusedError"
    monkeypatch.setenv(APP_DSN, wrong)
    found = campus("doctor", code=1)
    assert "very-secret" not in answer.out + answer.err + found.out + found.err


def test_an_admin_without_rights(campus: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = picture(campus.service)
    monkeypatch.setenv(ADMIN_DSN, os.environ[APP_DSN])
    for command in EVERY_COMMAND:
        assert campus.json(*command, code=1)["error"]["type"] == "MissingRightsError"
    assert picture(campus.service) == seen


def test_no_catalog(bare: CommandLine) -> None:
    for command in EVERY_COMMAND[1:]:
        answer = bare(*command, "--json", code=1)
        assert answer.document["error"]["type"] == "CatalogMissingError"
        assert "mt-paas-db init" in answer.document["error"]["message"]
        assert "Traceback" not in answer.err
    with bare.service.superuser() as connection:
        made = connection.execute("SELECT to_regnamespace('mt_paas'), to_regrole(%s)", (bare.service.login,))
        assert made.fetchone() == (None, None)


def test_a_catalog_of_another_time(campus: CommandLine) -> None:
    with campus.service.superuser() as connection:
        connection.execute("UPDATE mt_paas.alembic_version SET version_num = '0009'")
    error = campus.json("tenant", "list", code=1)["error"]
    assert (error["type"], error["found"]) == ("CatalogVersionError", 9)


def test_a_taken_installation(mt: CommandLine, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Service(server)
    try:
        monkeypatch.setenv(ADMIN_DSN, server.dsn(other.database))
        error = mt.json("init", code=3)["error"]
        assert error["type"] == "InstallationTakenError"
        assert error["cluster"] == "main"
        with other.superuser() as connection:
            assert connection.execute("SELECT to_regnamespace('mt_paas')").fetchone() == (None,)
    finally:
        other.close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MT_PAAS_DB_INSTALLATION", "Not A Name"),
        ("MT_PAAS_DB_CLUSTERS__MAIN__POOLER", "magic"),
        ("MT_PAAS_DB_CONNECT_TIMEOUT_S", "soon"),
    ],
)
def test_settings_that_cannot_work(mt: CommandLine, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    for command in [*EVERY_COMMAND, ("doctor",), ("doctor", "--ready")]:
        error = mt.json(*command, code=2)["error"]
        assert error["type"] == "ConfigurationError"
        assert variable in error["message"]


def test_a_server_that_dies_under_the_command(campus: CommandLine) -> None:
    service = campus.service
    with service.superuser() as blocker, blocker.transaction():
        blocker.execute("SELECT FROM mt_paas.tenant FOR UPDATE")
        with campus.in_a_process("tenant", "suspend", "hallym", "--json") as process:
            pid = waiting_for_a_lock(service)
            blocker.execute("SELECT pg_terminate_backend(%s)", (pid,))
            out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    error = json.loads(out)["error"]
    assert error["type"] == "ServerUnavailableError"
    assert "the server ended the connection" in error["message"]
    assert "Traceback" not in err


# -- interruption


def waiting_for_a_lock(service: Service, *, timeout_s: float = 30) -> int:
    """Return the process id of the backend in `service`'s database that waits for a lock."""
    until = time.monotonic() + timeout_s
    with service.superuser() as connection:
        while time.monotonic() < until:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'", (service.database,)
            ).fetchone()
            if row:
                return int(row[0])
            time.sleep(0.05)
    raise AssertionError("no backend came to wait for a lock")


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted(campus: CommandLine, as_json: bool) -> None:
    service = campus.service
    seen = picture(service)
    with service.superuser() as blocker, blocker.transaction():
        blocker.execute("SELECT FROM mt_paas.tenant FOR UPDATE")
        with campus.in_a_process("tenant", "suspend", "hallym", *["--json"] * as_json) as process:
            waiting_for_a_lock(service)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: interrupted")
    assert (json.loads(out)["error"]["type"] == "KeyboardInterrupt") if as_json else (out == "")
    assert picture(service) == seen


# -- on a terminal


# The terminal must be the process's own for Ctrl-C to reach it.
ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "mt_paas_db", *sys.argv[1:]])
"""


def on_a_terminal(
    campus: CommandLine, *arguments: str, wait_for: str = "", typed: bytes = b"", **environment: str
) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of 80 columns; type `typed` when `wait_for` has appeared."""
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    outside, inside = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_ITS_TERMINAL, *arguments],
            cwd=ROOT, stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
            env={**plain, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
        )  # fmt: skip
        os.close(inside)
        shown = b""
        while True:
            if not select.select([outside], [], [], 60)[0]:
                process.kill()
                raise AssertionError(f"nothing came: {shown!r}")
            try:
                shown += os.read(outside, 4096)
            except OSError:  # Linux says that the other side has closed with EIO
                break
            if typed and wait_for.encode() in shown:
                os.write(outside, typed)
                typed = b""
        return process.wait(60), shown.decode()
    finally:
        os.close(outside)


QUESTION = "Type the tenant's id to go on: "


@pytest.mark.parametrize("typed", [b"hallym\n", b"\n", b"\x04", b"korea \n"], ids=["other", "empty", "eof", "almost"])
def test_deletion_is_refused_unless_the_id_is_typed(leaving: CommandLine, typed: bytes) -> None:
    seen = picture(leaving.service)
    code, shown = on_a_terminal(leaving, "tenant", "delete", "korea", wait_for=QUESTION, typed=typed)
    assert code == 3, shown
    assert "repeat the id exactly" in " ".join(shown.split()), shown
    assert picture(leaving.service) == seen


def test_deletion_on_a_terminal(leaving: CommandLine) -> None:
    code, shown = on_a_terminal(leaving, "tenant", "delete", "korea", wait_for=QUESTION, typed=b"korea\n")
    assert code == 0, shown
    assert f"drops schema '{leaving.service.name}_korea_2' with all data of tenant 'korea'" in shown
    assert "objects dropped" in shown
    assert [t["tenant_id"] for t in leaving.json("tenant", "list")["tenants"]] == ["hallym", "snu"]


def test_interrupted_while_typing(leaving: CommandLine) -> None:
    seen = picture(leaving.service)
    outcome = on_a_terminal(leaving, "tenant", "delete", "korea", wait_for=QUESTION, typed=b"ko\x03")
    assert outcome[0] == 130
    assert picture(leaving.service) == seen


def test_colour_and_width_of_a_terminal(campus: CommandLine) -> None:
    code, shown = on_a_terminal(campus, "doctor")
    assert code == 0
    assert "\x1b[32m" in shown
    _, shown = on_a_terminal(campus, "doctor", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)
    assert "\x1b" not in campus("doctor").out

    _, shown = on_a_terminal(campus, "tenant", "list", NO_COLOR="1")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(cell_len, lines)) <= 80
    rows = [line.split() for line in lines]
    assert ["hallym", "active"] in [row[:2] for row in rows]  # the wide columns fold, not these


# -- the way in


def test_entry_points() -> None:
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["mt-paas-db"]
    assert EntryPoint("mt-paas-db", target, "console_scripts").load() is main
    done = subprocess.run([sys.executable, "-m", "mt_paas_db", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mt-paas-db {__version__}\n", "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from mt_paas_db.cli import main\n"
        "sys.exit(main(['tenant', 'list', *sys.argv[1:]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'mt_paas_db[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([sys.executable, "-c", script, "--json"], capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout)["error"]["extra"] == "cli"


def test_help_loads_no_driver() -> None:
    script = (
        "import sys; from mt_paas_db.cli import main; code = main(['tenant', 'create', '--help'])\n"
        "print(sorted({'sqlalchemy', 'psycopg', 'alembic'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[] 0"


# -- exit codes


def all_errors() -> list[type[TenancyError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TenancyError)]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    listed = [kind for kind, _ in EXIT_CODES]
    assert set(all_errors()) <= set(listed)
    assert len(set(listed)) == len(listed)
    for place, kind in enumerate(listed):
        hidden_by = [earlier for earlier in listed[:place] if issubclass(kind, earlier)]
        assert not hidden_by, f"{kind.__name__} is never reached"
    for kind, code in EXIT_CODES:
        assert exit_code(kind.__new__(kind)) == code
    assert {code for _, code in EXIT_CODES} == {1, 2, 3, 130}


# -- the reference


def test_the_reference_names_every_command_and_option() -> None:
    import typer.main

    from mt_paas_db.cli.app import app

    reference = (ROOT / "docs/reference/cli.md").read_text()
    documented = {
        match[1]: {
            option
            for line in re.findall(r"^- ((?:`--[^`]+`(?:,\s+)?)+)", match[2], re.M)
            for option in re.findall(r"`(--[a-z-]+)", line)
        }
        for match in re.finditer(
            r"^### `mt-paas-db ([a-z -]+?)(?: [^a-z`][^`]*)?`\n(.*?)(?=^##|\Z)", reference, re.M | re.S
        )
    }

    def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))
            else:
                options = {o for p in command.params for o in p.opts if o.startswith("--")}
                yield " ".join((*path, name)), options - {"--help", "--json"}

    assert documented == dict(commands(typer.main.get_command(app)))


def test_the_reference_lists_the_exit_codes() -> None:
    """Which error has which stands in docs/reference/errors.md; tests/test_bad_input.py compares that."""
    reference = (ROOT / "docs/reference/cli.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", reference, re.M)}
    assert documented == {0, PARTLY, *(code for _, code in EXIT_CODES)}


def test_the_reference_shows_the_documents_as_they_are(leaving: CommandLine) -> None:
    """It has the keys of the real answer."""
    for command, (code, document) in documents().items():
        if command != "pgbouncer reload":  # test_pgbouncer_config has one that runs
            assert shape(document) == shape(leaving.json(*command.split(), code=code)), command
    assert documents()["init"][1]["installation"]["catalog_version"] == CATALOG_VERSION


def documents() -> dict[str, tuple[int, Any]]:
    """Return exit code and document of each command; every ``json`` block follows its command in a comment line."""
    reference = (ROOT / "docs/reference/cli.md").read_text()
    blocks = re.findall(r"<!-- (.+?) -> (\d+) -->\n```json\n(.*?)```", reference, re.S)
    assert len(blocks) == reference.count("```json")
    return {command: (int(code), json.loads(block)) for command, code, block in blocks}


def shape(value: Any) -> Any:
    """Return the keys of a document, without its values; a list is like its first element."""
    if isinstance(value, dict):
        return {key: {} if key == "detail" else shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__
