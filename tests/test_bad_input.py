"""Bad input: each row of the table in docs/reference/errors.md, done through the API and on the command line."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table, select

from mt_paas_db import errors
from mt_paas_db.catalog.credentials import settings_credentials
from mt_paas_db.cli import main
from mt_paas_db.cli.exit_codes import exit_code
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import TenancyError
from mt_paas_db.pooler.config import Wishes
from mt_paas_db.pooler.files import write
from mt_paas_db.pooler.operator import Operator
from tests.conftest import bouncer_for
from tests.fleet import PASSWORD, Service
from tests.ground_truth import server_state
from tests.models import Note
from tests.servers.processes import free_port

pytest.importorskip("typer", reason="extra 'cli' is not installed")

PAGE = (Path(__file__).resolve().parents[1] / "docs/reference/errors.md").read_text()


@dataclass(frozen=True)
class Row:
    """A row of the page's table. `says` holds what the API's message contains, then the doctor's where it differs."""

    case: str
    happens: str
    error: str
    says: tuple[str, ...]
    command: tuple[str, ...]
    exit: int
    remedy: str


def read_rows(page: str) -> dict[str, Row]:
    table = page.partition("\n## Bad input\n")[2]
    rows = {}
    for line in re.findall(r"^\| `.*\|$", table, re.M):
        case, happens, error, says, command, code, remedy = (cell.strip() for cell in line.strip("|").split("|"))
        quoted = tuple(re.findall(r"“(.+?)”", says))
        words = tuple(shlex.split(command.strip("`")))
        rows[case.strip("`")] = Row(case.strip("`"), happens, error.strip("`"), quoted, words, int(code), remedy)
    return rows


ROWS = read_rows(PAGE)

Call = Callable[[TenantManager], object]


class World:
    """An installation with the tenants hallym (active), korea (suspended) and yonsei (archived), to be spoilt."""

    def __init__(self, service: Service, patch: pytest.MonkeyPatch, folder: Path, stack: ExitStack) -> None:
        self.service = service
        self.folder = folder
        self.stack = stack
        self._patch = patch
        self.set(INSTALLATION=service.name, MODELS="tests.models:Base")
        self.app_dsn = service.server.dsn(service.database, user=service.login, password=PASSWORD)
        self.admin_dsn = service.server.dsn(service.database)
        self.dsn(app=self.app_dsn, admin=self.admin_dsn)
        manager = self.manager()
        manager.init()
        for tenant_id in ("hallym", "korea", "yonsei"):
            manager.create(tenant_id)
        manager.suspend("korea")
        manager.archive("yonsei")
        self.schema = manager.get("hallym").placement.schema_name

    def manager(self) -> TenantManager:
        """Return a manager of the settings as they are now."""
        made = TenantManager()
        self.stack.callback(made.close)
        return made

    def set(self, **settings: str | None) -> None:
        """Set what ``MT_PAAS_DB_*`` says; None takes a variable away."""
        for name, value in settings.items():
            if value is None:
                self._patch.delenv(f"MT_PAAS_DB_{name}", raising=False)
            else:
                self._patch.setenv(f"MT_PAAS_DB_{name}", value)

    def dsn(self, **purposes: str) -> None:
        self.set(**{f"CLUSTERS__MAIN__{purpose.upper()}_DSN": dsn for purpose, dsn in purposes.items()})

    def sql(self, statement: str) -> None:
        with self.service.superuser() as connection:
            connection.execute(statement.encode())

    def enter_folder(self) -> None:
        """Let relative paths lead into the test's folder."""
        self._patch.chdir(self.folder)

    def file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)


CASES: dict[str, Callable[[World], Call]] = {}


def case(key: str) -> Callable[[Callable[[World], Call]], Callable[[World], Call]]:
    """Enter what spoils the world, and returns what is then called."""

    def enter(spoil: Callable[[World], Call]) -> Callable[[World], Call]:
        assert key not in CASES
        CASES[key] = spoil
        return spoil

    return enter


def list_tenants(manager: TenantManager) -> object:
    return manager.list()


def create_snu(manager: TenantManager) -> object:
    return manager.create("snu")


def open_hallym(manager: TenantManager) -> None:
    with manager.get_session("hallym") as session:
        session.scalars(select(Note)).all()


@case("settings")
def _(world: World) -> Call:
    world.set(INSTALLATION="Not A Name")
    return list_tenants


@case("malformed-dsn")
def _(world: World) -> Call:
    world.dsn(admin="host=127.0.0.1 dbname=x")
    return list_tenants


@case("no-database")
def _(world: World) -> Call:
    world.dsn(admin=world.service.server.dsn("no_such_database"))
    return list_tenants


@case("server-down")
def _(world: World) -> Call:
    world.dsn(admin=f"postgresql://postgres@127.0.0.1:{free_port()}/x")
    return list_tenants


@case("password-refused")
def _(world: World) -> Call:
    world.dsn(admin=world.app_dsn.replace(PASSWORD, "wrong"))
    return list_tenants


@case("missing-rights")
def _(world: World) -> Call:
    world.dsn(admin=world.app_dsn)
    return create_snu


@case("no-catalog")
def _(world: World) -> Call:
    world.sql("DROP SCHEMA mt_paas CASCADE")
    return list_tenants


@case("catalog-version")
def _(world: World) -> Call:
    world.sql("UPDATE mt_paas.alembic_version SET version_num = '0009'")
    return list_tenants


@case("name-taken")
def _(world: World) -> Call:
    other = Service(world.service.server)
    world.stack.callback(other.close)
    world.dsn(admin=other.server.dsn(other.database))
    return lambda manager: manager.init()


@case("unknown-tenant")
def _(world: World) -> Call:
    return lambda manager: manager.get("nobody")


@case("invalid-id")
def _(world: World) -> Call:
    return lambda manager: manager.create("Hallym!")


@case("tenant-exists")
def _(world: World) -> Call:
    return lambda manager: manager.create("hallym")


@case("name-reserved")
def _(world: World) -> Call:
    return lambda manager: manager.add_alias("hallym", "korea")


@case("unknown-alias")
def _(world: World) -> Call:
    return lambda manager: manager.release_alias("hallym", "chat")


@case("wrong-state")
def _(world: World) -> Call:
    return lambda manager: manager.delete("hallym", confirm="hallym")


@case("wrong-confirmation")
def _(world: World) -> Call:
    return lambda manager: manager.delete("yonsei", confirm="yonse")


@case("no-models")
def _(world: World) -> Call:
    world.set(MODELS=None)
    return create_snu


@case("no-revisions")
def _(world: World) -> Call:
    world.set(SCRIPT_LOCATION=str(world.folder / "nowhere"))
    return create_snu


FAULTY = MetaData()
Table("note", FAULTY, Column("id", Integer), CheckConstraint("no_such_function(id)"))


@case("failing-models")
def _(world: World) -> Call:
    world.set(MODELS=f"{__name__}:FAULTY")
    return create_snu


REVISION = """
from alembic import op
import sqlalchemy as sa

revision, down_revision = "0001", None


def upgrade():
    op.create_table("note", sa.Column("id", sa.Integer))
    raise LookupError("no such fixture")
"""


@case("failing-revision")
def _(world: World) -> Call:
    world.file("scripts/script.py.mako", "")
    world.file("scripts/versions/0001_note.py", REVISION)
    world.set(SCRIPT_LOCATION=str(world.folder / "scripts"))
    return create_snu


@case("failing-seed")
def _(world: World) -> Call:
    statements = "INSERT INTO note (body, mood, tags) VALUES ('first', 'calm', '{}'); INSERT INTO prompt VALUES (1)"
    world.set(SEED=world.file("seed.sql", statements))
    return create_snu


@case("missing-seed")
def _(world: World) -> Call:
    world.set(SEED=str(world.folder / "seed.sql"))
    return create_snu


@case("schema-dropped")
def _(world: World) -> Call:
    world.sql(f"DROP SCHEMA {world.schema} CASCADE")
    return open_hallym


@case("role-dropped")
def _(world: World) -> Call:
    world.sql(f"DROP OWNED BY {world.schema}; DROP ROLE {world.schema}")
    return open_hallym


@case("statement-mode")
def _(world: World) -> Call:
    bouncer_for(world.service)  # skips where there is none
    users = {world.service.login: PASSWORD}
    pooler = world.stack.enter_context(world.service.server.pooler(users=users, pool_mode="statement"))
    world.dsn(app=pooler.dsn(world.service.database, user=world.service.login, password=PASSWORD))
    world.set(CLUSTERS__MAIN__POOLER="pgbouncer")
    return open_hallym


@case("unsaid-pooler")
def _(world: World) -> Call:
    pooler = world.stack.enter_context(bouncer_for(world.service))
    world.dsn(app=pooler.dsn(world.service.database, user=world.service.login, password=PASSWORD))

    def serve(manager: TenantManager) -> None:
        """Two processes prepare statements of the same names, on the one connection that the pooler has."""
        for process in (world.manager(), manager):
            with process.get_session("hallym") as session:
                for _ in range(8):  # psycopg prepares what it has seen five times
                    session.scalars(select(Note)).all()

    return serve


def operator(manager: TenantManager) -> Operator:
    return Operator(manager.settings, settings_credentials(manager.settings))


@case("console-password")
def _(world: World) -> Call:
    pooler = world.stack.enter_context(bouncer_for(world.service))
    world.dsn(console=pooler.dsn("pgbouncer", user=world.service.login, password="wrong"))
    return lambda manager: operator(manager).reload()


@case("foreign-file")
def _(world: World) -> Call:
    world.file("pgbouncer/userlist.txt", '"somebody" "secret"')
    world.enter_folder()

    def configure(manager: TenantManager) -> None:
        write(Path("pgbouncer"), operator(manager).configure(Path("pgbouncer"), Wishes()).files)

    return configure


def interrupt(_session: object, _tenant: object) -> None:
    """A seed, during which Ctrl-C is pressed."""
    signal.raise_signal(signal.SIGINT)


@case("interrupted")
def _(world: World) -> Call:
    world.set(SEED=f"{__name__}:interrupt")
    return create_snu


# -- the table against the cases


@pytest.fixture
def world(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command line adds the current directory
    monkeypatch.setattr(sys, "stdin", None)
    with ExitStack() as stack:
        yield World(service, monkeypatch, tmp_path, stack)


def unlogged_state(service: Service) -> dict[str, list[Any]]:
    """What must be as before: all but the log, where a failure adds a line."""
    state = server_state(service)
    state.pop("event", None)
    return state


def test_the_table_and_the_tests_have_the_same_cases() -> None:
    assert list(ROWS) == list(CASES)
    for row in ROWS.values():
        assert row.says, row
        assert row.happens, row
        assert row.remedy, row


@pytest.mark.parametrize("key", CASES)
def test_nothing_is_changed_and_all_is_said(key: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    row = ROWS[key]
    call = CASES[key](world)
    before = unlogged_state(world.service)

    with pytest.raises(BaseException) as caught:  # noqa: PT011  (KeyboardInterrupt too; the row names the class)
        call(world.manager())
    assert type(caught.value).__name__ == row.error, caught.value
    assert row.says[0] in str(caught.value) or not isinstance(caught.value, TenancyError)
    assert unlogged_state(world.service) == before

    capsys.readouterr()
    code = main([*row.command, "--json"])
    out, err = capsys.readouterr()
    assert code == row.exit, err
    document = json.loads(out)
    if row.command == ("doctor",):
        found = [finding for result in document["results"] for finding in result["findings"]]
        assert any(row.says[-1] in finding["message"] for finding in found if finding["severity"] == "error"), found
        assert code == exit_code(caught.value)
    else:
        assert document["error"]["type"] == row.error
        assert row.says[0] in document["error"]["message"]
        assert err == f"error: {document['error']['message']}\n"
    assert unlogged_state(world.service) == before


# -- what is said while it serves


def test_faults_are_told_in_these_words() -> None:
    """Each fault is made in test_pools, test_faults and test_pooler_mode; here, that the page quotes what is said."""
    table = PAGE.partition("\n## While it serves\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if "“" in line]
    assert len(rows) > 10
    said = [
        node.value
        for source in Path(errors.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for _, error, says, remedy in rows:
        assert issubclass(getattr(errors, re.findall(r"`(\w+)`", error)[0]), errors.ServerError)
        for quoted in re.findall(r"“(.+?)”", says):
            assert any(quoted in text for text in said), quoted
        assert remedy.strip()


# -- the tree


def test_the_tree_is_tabulated() -> None:
    importlib.import_module("mt_paas_db.isolation.rows")  # which has an error of its own
    """Every error with the class it is below, and the exit code of the command line."""
    tree = PAGE.partition("\n## The tree\n")[2].partition("\n## ")[0]
    tabulated = {
        name: (re.findall(r"\w+", below), int(code))
        for name, below, code in re.findall(r"^\| `(\w+)` \| (.+?) \| (\d) \|", tree, re.M)
    }

    def below(kind: type[TenancyError]) -> Iterator[type[TenancyError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    real = {
        kind.__name__: ([base.__name__ for base in kind.__bases__], exit_code(kind.__new__(kind)))
        for kind in below(TenancyError)
    }
    assert tabulated == real
