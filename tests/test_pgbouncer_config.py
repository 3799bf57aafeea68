"""`mt-paas-db pgbouncer config` and `reload`: what is written, and a real PgBouncer that runs on it.

Longer than most: files, catalog, server and command line are looked at one after the other, on one fleet.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, text

from mt_paas_db.catalog.credentials import settings_credentials
from mt_paas_db.catalog.scram import is_verifier_of, stable_verifier
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, ForeignFileError, PoolerConsoleError, TenancyError
from mt_paas_db.isolation.audit import audit
from mt_paas_db.pooler.config import Configuration, Wishes
from mt_paas_db.pooler.files import OurFile, diff, write
from mt_paas_db.pooler.operator import Operator
from mt_paas_db.pooler.reload import read_settings
from mt_paas_db.telemetry.backend import CELL_BYTES, TABLE_BYTES_AT_MOST
from tests.fleet import PASSWORD, Service
from tests.servers import PgBouncer
from tests.servers.pgbouncer import find_pgbouncer

SECRET = "a-secret-of-the-installation-of-32-characters-or-more"
ADMIN = "console_admin"
PORT = 6999  # in texts only

# -- verifiers


def test_a_verifier_is_told_from_another_passwords() -> None:
    verifier = stable_verifier("svc_app", "right")
    assert is_verifier_of(verifier, "right") is True
    assert is_verifier_of(verifier, "wrong") is False
    assert is_verifier_of("md5" + 32 * "0", "right") is None
    assert is_verifier_of(verifier, "비밀") is None


# -- the files


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = OurFile("x.ini", "old\n"), OurFile("x.ini", "new\n")
    assert write(tmp_path, [old]) == [old]
    assert stat.S_IMODE((tmp_path / "x.ini").stat().st_mode) == 0o600

    def dies(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, [new])
    assert (tmp_path / "x.ini").read_text() == old.text
    assert [path.name for path in tmp_path.iterdir()] == ["x.ini"]


def test_what_is_as_it_should_be_is_left_alone(tmp_path: Path) -> None:
    file = OurFile("x.ini", "a\n")
    write(tmp_path, [file])
    before = (tmp_path / "x.ini").stat().st_ino
    assert write(tmp_path, [file]) == []
    assert (tmp_path / "x.ini").stat().st_ino == before


@pytest.mark.parametrize(
    ("found", "said"),
    [("[pgbouncer]\n", "was not written by"), (OurFile("x.ini", "a\n").text + "b = 1\n", "was changed since")],
)
def test_what_is_not_ours_is_not_overwritten(tmp_path: Path, found: str, said: str) -> None:
    (tmp_path / "x.ini").write_text(found)
    with pytest.raises(ForeignFileError, match=said) as refused:
        write(tmp_path, [OurFile("before.ini", "a\n"), OurFile("x.ini", "c\n")])
    assert refused.value.path == str(tmp_path / "x.ini")
    assert [path.name for path in tmp_path.iterdir()] == ["x.ini"]
    assert (tmp_path / "x.ini").read_text() == found
    write(tmp_path, [OurFile("x.ini", "c\n")], force=True)
    assert (tmp_path / "x.ini").read_text() == OurFile("x.ini", "c\n").text


def test_a_diff_shows_that_a_secret_changed_and_not_which(tmp_path: Path) -> None:
    old, new = (OurFile("userlist.txt", f'"svc_app" "{verifier}"\n', secret=True) for verifier in ("s3cret", "another"))
    write(tmp_path, [old])
    shown = diff(tmp_path, [new])
    assert "s3cret" not in shown
    assert "another" not in shown
    assert shown.count('"svc_app" "<') == 2


# -- from the catalog

Operate = Callable[..., Operator]


@pytest.fixture
def manager(service: Service) -> TenantManager:
    made = service.manager(login_secret=SECRET)
    made.init()
    made.create("hallym")
    made.create("korea", tier="login")
    return made


@pytest.fixture
def operate(service: Service, manager: TenantManager) -> Operate:
    """Make an operator of the service; `dsns` are said of its cluster beside the admin's and the app's."""

    def make(pooler: PgBouncer | None = None, **dsns: str) -> Operator:
        settings = service.settings(pooler=pooler, login_secret=SECRET)
        cluster = settings.clusters["main"].model_dump(exclude_none=True)
        if pooler is not None:
            cluster["console_dsn"] = f"postgresql://{ADMIN}:{PASSWORD}@127.0.0.1:{pooler.port}/pgbouncer"
        told = service.settings(login_secret=SECRET, clusters={"main": {**cluster, **dsns}})
        return Operator(told, settings_credentials(told))

    return make


def files_of(made: Configuration) -> dict[str, str]:
    return {file.name: file.body for file in made.files}


def own_login(manager: TenantManager, tenant_id: str = "korea") -> str:
    return manager.get(tenant_id).placement.login_role


def test_the_files_hold_the_fleet_and_no_password(service: Service, manager: TenantManager, operate: Operate) -> None:
    made = operate().configure(Path("/etc/pgbouncer"), Wishes(budget=40, port=PORT))
    again = operate().configure(Path("/etc/pgbouncer"), Wishes(budget=40, port=PORT))
    assert made.files == again.files
    files = files_of(made)
    with service.superuser() as su:
        held = dict(su.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())
    assert files["userlist.txt"] == "".join(
        f'"{login}" "{held[login]}"\n' for login in (service.login, own_login(manager))
    )
    assert PASSWORD not in "".join(files.values())
    assert made.problems == ()
    ini = files["pgbouncer.ini"].splitlines()
    assert f"{service.database} = host=127.0.0.1 port={service.server.port}" in ini
    for line in (
        "max_db_connections = 40",
        "default_pool_size = 34",
        "reserve_pool_size = 4",
        "pool_mode = transaction",
    ):
        assert line in ini
    assert f"{own_login(manager)} = max_user_connections=2" in ini
    assert not [line for line in ini if line.startswith(("max_prepared", "track_extra"))]


def test_a_version_gets_what_it_understands(operate: Operate) -> None:
    ini = files_of(operate().configure(Path("/x"), Wishes(version=(1, 24, 1))))["pgbouncer.ini"]
    assert "\nmax_prepared_statements = 0\n" in ini
    assert "\ntrack_extra_parameters = IntervalStyle\n" in ini
    assert "max_prepared" not in files_of(operate().configure(Path("/x"), Wishes(version=(1, 20))))["pgbouncer.ini"]


def test_the_budget_is_what_the_server_can_give(operate: Operate) -> None:
    made = operate().configure(Path("/x"), Wishes())
    server = made.fleet.server
    assert made.sizes.budget == server.max_connections - server.reserved - 5
    assert any("--version" in note for note in made.notes)
    generous = operate().configure(Path("/x"), Wishes(budget=server.max_connections))
    assert any("more than the server gives" in note for note in generous.notes)


def test_backends_live_shorter_where_tenants_have_many_tables(
    service: Service, manager: TenantManager, operate: Operate
) -> None:
    made = operate().configure(Path("/x"), Wishes())
    assert made.fleet.tables == len(service.models.metadata.tables)
    assert made.sizes.server_lifetime_s == 3600
    with service.superuser() as su:
        for number in range(CELL_BYTES // TABLE_BYTES_AT_MOST):
            su.execute(sql.SQL("CREATE TABLE {} ()").format(
                sql.Identifier(manager.get("korea").placement.schema_name, f"many_{number}")
            ))  # fmt: skip
    made = operate().configure(Path("/x"), Wishes())
    assert made.sizes.server_lifetime_s == 600
    assert "\nserver_lifetime = 600\n" in files_of(made)["pgbouncer.ini"]


def test_a_fleet_without_tenants_has_no_tables(service: Service, operate: Operate, manager: TenantManager) -> None:
    with service.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET state = 'provisioning'")
    assert operate().configure(Path("/x"), Wishes()).fleet.tables == 0


def test_a_login_that_will_not_get_in_is_named_with_its_cell(
    service: Service, manager: TenantManager, operate: Operate
) -> None:
    login = own_login(manager)
    with service.superuser() as su:
        su.execute(sql.SQL("ALTER ROLE {} PASSWORD 'another'").format(sql.Identifier(login)))
        su.execute(sql.SQL("ALTER ROLE {} PASSWORD NULL").format(sql.Identifier(service.login)))
    made = operate().configure(Path("/x"), Wishes())
    nobodys, wrong = made.problems
    assert "cell 'default'" in nobodys
    assert "no password" in nobodys
    assert f"cell {login!r}" in wrong
    assert "not the one that the server has" in wrong
    assert f'"{service.login}"' not in files_of(made)["userlist.txt"]


def test_an_admin_who_may_not_read_verifiers_gets_those_that_are_set_here(
    service: Service, manager: TenantManager, operate: Operate
) -> None:
    role = service.make_admin("reader", "CREATEROLE")
    with service.superuser() as su:
        su.execute(sql.SQL("GRANT {}, {} TO {}").format(
            sql.Identifier(f"{service.name}_owner"), sql.Identifier(f"{service.name}_tenant"), sql.Identifier(role)
        ))  # fmt: skip
        su.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
            sql.Identifier(service.database), sql.Identifier(role)
        ))  # fmt: skip
    dsn = service.server.dsn(service.database, user=role, password=PASSWORD)
    made = operate(admin_dsn=dsn).configure(Path("/x"), Wishes())
    with service.superuser() as su:
        held = dict(su.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())
    assert {login.source for login in made.fleet.logins} == {"derived"}
    assert {login.cell.login: login.verifier for login in made.fleet.logins} == {
        login: held[login] for login in (service.login, own_login(manager))
    }


def test_what_the_format_cannot_hold_is_refused(operate: Operate) -> None:
    with pytest.raises(ConfigurationError, match="no spaces"):
        operate().configure(Path("/etc/my pooler"), Wishes())


# -- a real PgBouncer


@pytest.fixture
def running(service: Service, operate: Operate) -> Iterator[Callable[..., PgBouncer]]:
    """Start a PgBouncer on what `config` writes."""
    try:
        service.server.pooler(users={})
        find_pgbouncer()
    except LookupError as error:
        pytest.skip(str(error))
    with ExitStack() as stack:

        def start(**wishes: Any) -> PgBouncer:
            def configure(folder: Path, seen_as: Path) -> None:
                rewrite(operate(pooler), pooler, folder, seen_as=str(seen_as), **wishes)

            pooler = service.server.pooler(users={}, configure=configure)
            return stack.enter_context(pooler)

        yield start


def rewrite(operator: Operator, pooler: PgBouncer, folder: Path, **wishes: Any) -> list[str]:
    """Write the files, and let another account read them, as the container's is; return which changed."""
    written = write(
        folder, operator.configure(folder, Wishes(port=pooler.port, version=pooler.version, **wishes)).files
    )
    for path in folder.iterdir():
        path.chmod(0o644)
    return [file.name for file in written]


def works(manager: TenantManager, tenant_id: str) -> str:
    with manager.get_session(tenant_id) as session:
        return str(session.execute(text("SELECT session_user")).scalar_one())


@pytest.fixture
def behind(service: Service) -> Callable[[PgBouncer], TenantManager]:
    return lambda pooler: service.manager(pooler=pooler, login_secret=SECRET, pool_timeout_s=5)


@pytest.mark.parametrize("auth", ["userlist", "query"])
def test_it_runs_and_a_new_login_is_served_without_a_restart(
    service: Service, manager: TenantManager, operate: Operate, running: Any, behind: Any, auth: str
) -> None:
    made = operate().configure(Path("/x"), Wishes(auth=auth))  # type: ignore[arg-type]
    if auth == "query":
        with service.superuser() as su:
            for _ in range(2):  # once more is harmless
                su.execute(files_of(made)["auth_query.sql"].encode())
        assert manager.doctor().ok
    pooler = running(auth=auth, budget=12)
    served = behind(pooler)
    assert works(served, "hallym") == service.login
    assert works(served, "korea") == own_login(manager)

    manager.create("snu", tier="login")
    if auth == "userlist":
        with pytest.raises(TenancyError, match="pgbouncer config"):
            works(served, "snu")
        stale = operate(pooler).reload(pooler.folder)
        assert [cell.login for cell in stale.missing] == [own_login(manager, "snu")]
        assert not stale.ok
    seen_as = str(read_settings(pooler.folder / "pgbouncer.ini")["auth_file"]).removesuffix("/userlist.txt")
    changed = rewrite(operate(pooler), pooler, pooler.folder, seen_as=seen_as, auth=auth, budget=13)
    assert changed == (["userlist.txt", "pgbouncer.ini"] if auth == "userlist" else ["pgbouncer.ini"])
    reloaded = operate(pooler).reload(pooler.folder)
    assert reloaded.ok, reloaded
    assert reloaded.restart == ()
    assert reloaded.version == pooler.version
    assert works(served, "snu") == own_login(manager, "snu")


def test_a_new_cell_is_served_after_a_reload_and_a_rotated_one_too(
    service: Service, manager: TenantManager, operate: Operate, running: Any, behind: Any
) -> None:
    """Sessions of the first cell go on; a login that a process may remember stays in the list until nobody needs it."""
    pooler = running(budget=12)
    served = behind(pooler)
    assert works(served, "hallym") == service.login
    small = service.manager(login_secret=SECRET, cell_size=1)
    cell = small.create("kaist").placement
    assert cell.cell != "default"
    with pytest.raises(TenancyError, match="pgbouncer config") as refused:
        works(served, "kaist")
    assert cell.login_role in str(refused.value)
    (unknown,) = operate(pooler).reload().missing
    assert (unknown.name, unknown.login) == (cell.cell, cell.login_role)
    seen_as = read_settings(pooler.folder / "pgbouncer.ini")["auth_file"].removesuffix("/userlist.txt")

    rewrite(operate(pooler), pooler, pooler.folder, seen_as=seen_as, budget=12)
    assert operate(pooler).reload(pooler.folder).ok
    assert works(served, "kaist") == cell.login_role

    small.cells.rotate(cell.cell, wait=False)
    rewrite(operate(pooler), pooler, pooler.folder, seen_as=seen_as, budget=12)
    assert operate(pooler).reload(pooler.folder).ok
    now = manager.get("kaist").placement.login_role
    assert now != cell.login_role
    listed = (pooler.folder / "userlist.txt").read_text()
    assert f'"{cell.login_role}"' in listed
    assert f'"{now}"' in listed
    assert works(served, "kaist") == cell.login_role  # as it remembers
    assert works(behind(pooler), "kaist") == now
    assert works(served, "hallym") == service.login


def test_the_lookup_answers_for_this_installations_logins_alone(
    service: Service, manager: TenantManager, operate: Operate
) -> None:
    made = operate().configure(Path("/x"), Wishes(auth="query"))
    before = audit(manager).findings
    with service.superuser() as su:
        su.execute(files_of(made)["auth_query.sql"].encode())
    assert audit(manager).findings == before
    with service.superuser() as su:
        held = dict(su.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())
    (line,) = files_of(made)["userlist.txt"].splitlines()
    name, password = line.replace('"', "").split()
    stranger = service.make_admin("stranger", "")
    with psycopg.connect(
        service.server.dsn(service.database, user=name, password=password), autocommit=True
    ) as connection:

        def lookup(asked: str) -> list[Any]:
            return connection.execute("SELECT name, secret FROM mt_paas.pooler_lookup(%s)", (asked,)).fetchall()

        for login in (service.login, own_login(manager)):
            assert lookup(login) == [(login, held[login])]
        cell = service.manager(login_secret=SECRET, cell_size=1).create("kaist").placement
        manager.cells.rotate(cell.cell, wait=False)
        now = manager.get("kaist").placement.login_role
        assert [name for login in (cell.login_role, now) for name, _ in lookup(login)] == [cell.login_role, now]
        for other in ("postgres", stranger, name, f"{service.name}_owner", manager.get("hallym").placement.role_name):
            assert lookup(other) == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM mt_paas.tenant")
        with service.superuser() as su:  # what the owner role may do: its own code in the place of a table
            owner = f"{service.name}_owner"
            for statement in (
                f"SET ROLE {owner}",
                "CREATE FUNCTION mt_paas.own() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'run'; END $$",
                "ALTER TABLE mt_paas.cell RENAME TO former_cell",
                "CREATE VIEW mt_paas.cell AS SELECT name, mt_paas.own() AS login_role FROM mt_paas.former_cell",
            ):
                su.execute(statement.encode())
        assert lookup(service.login) == [(service.login, held[service.login])]
        assert lookup(stranger) == []
    with (
        psycopg.connect(service.server.dsn(service.database, user=service.login, password=PASSWORD)) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute("SELECT * FROM mt_paas.pooler_lookup('x')")


def test_what_needs_a_restart_is_said(operate: Operate, running: Any) -> None:
    pooler = running(budget=12)
    path = pooler.folder / "pgbouncer.ini"
    wanted = read_settings(path)
    write(
        pooler.folder,
        [OurFile("pgbouncer.ini", path.read_text().replace(f"listen_port = {pooler.port}", f"listen_port = {PORT}"))],
        force=True,
    )
    path.chmod(0o644)
    reloaded = operate(pooler).reload(pooler.folder)
    assert reloaded.restart == (f"listen_port: {wanted['listen_port']} in force, {PORT} in the file",)
    assert reloaded.ok


def test_files_that_are_not_the_running_ones_are_noticed(operate: Operate, running: Any, tmp_path: Path) -> None:
    pooler = running(budget=12)
    rewrite(operate(pooler), pooler, tmp_path, budget=30)
    reloaded = operate(pooler).reload(tmp_path)
    assert not reloaded.ok
    assert any(line.startswith("max_db_connections: 12 in force, 30 in the file") for line in reloaded.ignored)


@pytest.mark.parametrize(
    "dsn", ["postgresql://console_admin:wrong@127.0.0.1:{port}/pgbouncer", "postgresql://u:p@127.0.0.1:1/pgbouncer"]
)
def test_a_console_that_does_not_answer_is_named(operate: Operate, running: Any, dsn: str) -> None:
    pooler = running(budget=12)
    with pytest.raises(PoolerConsoleError, match="CONSOLE_DSN") as refused:
        operate(pooler, console_dsn=dsn.format(port=pooler.port)).reload()
    assert refused.value.cluster == "main"


def test_a_user_who_may_only_look_is_refused(service: Service, operate: Operate, running: Any) -> None:
    pooler = running(budget=12)
    stats = pooler.dsn("pgbouncer", user=service.login, password=PASSWORD)
    with pytest.raises(PoolerConsoleError, match="admin"):
        operate(pooler, console_dsn=stats).reload()


def test_a_quiet_cell_makes_room_at_once(service: Service, manager: TenantManager, running: Any, behind: Any) -> None:
    """Idle connections of one pool are given up where the budget is used up: what the shares rest on."""
    pooler = running(budget=2)
    served = behind(pooler)
    assert works(served, "hallym") == service.login
    assert works(served, "korea") == own_login(manager)  # hallym's idle one, and the catalog's, are in its way
    with service.superuser() as su:
        (open_,) = su.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY(%s)", ([service.login, own_login(manager)],)
        ).fetchone() or (0,)
    assert open_ <= 2


# -- the command line


@pytest.fixture
def command(
    service: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    pytest.importorskip("typer", reason="extra 'cli' is not installed")
    from mt_paas_db.cli.app import run

    for name, value in {**service.environment(), "MT_PAAS_DB_LOGIN_SECRET": SECRET}.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["pgbouncer", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_writes_shows_and_refuses(command: Any, service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "pgbouncer"
    code, shown, _ = command("config", "--out", str(folder), "--budget", "20", "--dry-run")
    assert code == 0
    assert f'+"{service.login}" "<' in shown
    assert not folder.exists()

    code, out, _ = command("config", "--out", str(folder), "--budget", "20", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["changed"] == ["userlist.txt", "pgbouncer.ini"]
    assert next(login["cell"] for login in document["logins"]) == "default"
    assert PASSWORD not in out
    assert "SCRAM" not in out
    assert command("config", "--out", str(folder), "--budget", "20")[1].endswith(f"{folder} is as it should be\n")

    (folder / "userlist.txt").write_text('"svc" "x"\n')
    code, _, err = command("config", "--out", str(folder))
    assert code == 3
    assert "--force" in err
    assert command("config", "--out", str(folder), "--force")[0] == 0
    assert command("config", "--out", str(folder), "--auth", "ldap")[0] == 2
    assert command("config", "--out", str(folder), "--version", "new")[0] == 2
    assert command("reload")[0] == 2  # no console DSN
    dsn = make_url("postgresql://u:p@127.0.0.1:1/pgbouncer").render_as_string(hide_password=False)
    assert command("reload", "--admin-dsn", dsn)[0] == 1


def test_the_reference_shows_the_document_of_a_reload(command: Any, manager: TenantManager, running: Any) -> None:
    from tests.test_cli import documents, shape

    pooler = running(budget=12)
    manager.create("snu", tier="login")
    code, out, _ = command(
        "reload", "--json", "--admin-dsn", f"postgresql://{ADMIN}:{PASSWORD}@127.0.0.1:{pooler.port}/pgbouncer"
    )
    shown, document = documents()["pgbouncer reload"]
    assert code == shown
    assert shape(json.loads(out)) == shape(document)
