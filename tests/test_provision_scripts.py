"""A new tenant gets the service's Alembic revisions: all of them, in its own schema and nowhere else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.settings import load_settings
from mt_paas_db.catalog.values import TenantState
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, ProvisioningError, TenantExistsError, UnknownTenantError
from tests.fingerprint import strays
from tests.fleet import Service
from tests.histories import History, in_one_transaction, in_steps

Open = Callable[..., TenantManager]


@pytest.fixture
def opened(service: Service) -> Open:
    """Return a manager of `service` that knows a history; its installation is made at the first."""

    def open_manager(history: History | str, **options: Any) -> TenantManager:
        location = history if isinstance(history, str) else history.location
        manager = TenantManager(service.settings(), script_location=location, **options)
        service.managers.append(manager)
        manager.init()
        return manager

    return open_manager


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def tables_everywhere(service: Service) -> set[str]:
    """All that is no system's and not the control schema's, with its schema."""
    with service.superuser() as connection:
        rows = connection.execute(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind = 'r' AND n.nspname !~ '^pg_|^information_schema$|^mt_paas$'"
        ).fetchall()
    return {row[0] for row in rows}


def version_of(service: Service, manager: TenantManager, tenant_id: str) -> set[str]:
    schema = manager.get(tenant_id).placement.schema_name
    with service.superuser() as connection:
        return {row[0] for row in connection.execute(f'SELECT version_num FROM "{schema}".alembic_version').fetchall()}


def ask(manager: TenantManager, tenant_id: str, statement: str) -> list[Any]:
    with manager.get_session(tenant_id) as session:
        return [tuple(row) for row in session.execute(text(statement))]


@pytest.mark.parametrize("write", [in_one_transaction, in_steps])
def test_all_is_made_in_the_tenants_schema_only(
    opened: Open, service: Service, tmp_path: Path, write: Callable[[Path], History]
) -> None:
    manager = opened(write(tmp_path / "history"))
    schemas = [manager.create(tenant_id).placement.schema_name for tenant_id in ("hallym", "korea")]
    assert tables_everywhere(service) == {f"{schema}.{t}" for schema in schemas for t in ("note", "alembic_version")}
    rows = ask(manager, "hallym", "SELECT body, mood::text, length FROM note ORDER BY id")
    assert rows[:2] == [("first", "calm", 5), ("second", "eager", 6)]
    assert rows[2:] == ([("third", "bored", None)] if write is in_steps else [])
    assert version_of(service, manager, "hallym") == ({"a4"} if write is in_steps else {"a2"})
    with service.superuser() as connection:
        indexes = connection.execute(
            "SELECT count(*) FROM pg_index WHERE indexrelid::regclass::text LIKE '%note_body' AND indisvalid"
        ).fetchone()
    assert indexes == ((2,) if write is in_steps else (0,))


@pytest.mark.parametrize("write", [in_one_transaction, in_steps])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT version_num FROM alembic_version",
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('x')",
    ],
)
def test_the_version_table_is_no_tenants(
    opened: Open, tmp_path: Path, write: Callable[[Path], History], statement: str
) -> None:
    manager = opened(write(tmp_path / "history"))
    manager.create("hallym")
    with pytest.raises(DBAPIError, match="permission denied for table alembic_version"):
        ask(manager, "hallym", statement)


def test_branches_and_their_merge(opened: Open, service: Service, history: History) -> None:
    history.add("trunk", "op.create_table('a', sa.Column('id', sa.Integer, primary_key=True))")
    history.add("left", "op.add_column('a', sa.Column('l', sa.Integer))", after="trunk")
    history.add("right", "op.add_column('a', sa.Column('r', sa.Integer))", after="trunk")
    manager = opened(history)
    manager.create("two-heads")
    assert version_of(service, manager, "two-heads") == {"left", "right"}
    history.add("merge", "", after=("left", "right"))
    later = opened(history)
    later.create("merged")
    assert version_of(service, later, "merged") == {"merge"}
    for tenant_id in ("two-heads", "merged"):
        assert ask(later, tenant_id, "SELECT id, l, r FROM a") == []


def test_a_revision_may_look_at_what_is_there(opened: Open, history: History) -> None:
    history.add(
        "a",
        """
        op.create_table("a", sa.Column("id", sa.Integer, primary_key=True))
        tables = sa.inspect(op.get_bind()).get_table_names()
        assert sorted(tables) == ["a", "alembic_version"], tables
        assert not context.get_x_argument() and context.get_context().bind is op.get_bind()
        """,
    )
    assert opened(history).create("hallym").state is TenantState.ACTIVE


# -- failures


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise KeyError('oops')", "KeyError: 'oops'"),
        ("op.execute('SELECT 1/0')", "division by zero"),
        ("op.execute('CREATE ROLE planted')", "permission denied"),
        ("op.execute('CREATE TABLE public.planted (id int)')", "permission denied for schema public"),
    ],
    ids=["python", "sql", "role", "elsewhere"],
)
def test_a_failing_revision_leaves_nothing(
    opened: Open, service: Service, tmp_path: Path, body: str, what: str
) -> None:
    history = in_one_transaction(tmp_path / "history").add("bad", body, after="a2")
    manager = opened(history)
    with pytest.raises(ProvisioningError, match="nothing was created") as caught:
        manager.create("hallym")
    assert what in str(caught.value)
    with pytest.raises(UnknownTenantError):
        manager.get("hallym")
    assert strays(service) == set()
    assert tables_everywhere(service) == set()
    assert [(e.action, e.outcome) for e in manager.events("hallym")] == [("create", "failed")]
    history.add("bad", "", after="a2")
    assert opened(history).create("hallym").state is TenantState.ACTIVE


@pytest.mark.parametrize(
    "before",
    [
        "op.create_table('half', sa.Column('id', sa.Integer, primary_key=True))",
        "op.execute('CREATE COLLATION korean (provider = libc, locale = \"C\")')",
        "op.execute('CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = 0)')",
        "op.execute('CREATE TYPE span AS RANGE (SUBTYPE = float8)')",
        "op.execute('CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple)')",
    ],
    ids=["table", "collation", "aggregate", "range", "text-search"],
)
def test_a_history_in_steps_that_fails_is_completed_from_an_empty_schema(
    opened: Open, service: Service, tmp_path: Path, before: str
) -> None:
    history = in_steps(tmp_path / "history").add("half", before, after="a4").add("bad", "1 / 0", after="half")
    manager = opened(history)
    with pytest.raises(ProvisioningError, match="left provisioning"):
        manager.create("hallym")
    assert manager.get("hallym").state is TenantState.PROVISIONING
    assert strays(service) == set()
    history.add("bad", "", after="half")
    completed = opened(history).create("hallym")
    assert completed.state is TenantState.ACTIVE
    assert version_of(service, manager, "hallym") == {"bad"}
    assert len(ask(manager, "hallym", "SELECT body FROM note")) == 3


@pytest.mark.parametrize(
    "commit",
    ["op.execute('COMMIT')", "op.execute('/* now */ commit; BEGIN')", "op.get_bind().commit()"],
    ids=["text", "comment", "method"],
)
def test_a_revision_that_commits_by_itself_makes_nothing_elsewhere(
    opened: Open, service: Service, history: History, commit: str
) -> None:
    """Behind its COMMIT a creation in one transaction would go on as the admin itself, in the admin's schema."""
    table = "op.create_table({!r}, sa.Column('id', sa.Integer, primary_key=True))"
    history.add("a", "\n".join([table.format("before"), commit, table.format("behind")]))
    manager = opened(history)
    tenant = manager.create("hallym")
    assert tenant.state is TenantState.ACTIVE
    schema = tenant.placement.schema_name
    assert tables_everywhere(service) == {f"{schema}.{t}" for t in ("before", "behind", "alembic_version")}
    assert version_of(service, manager, "hallym") == {"a"}
    with service.superuser() as connection:
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = %s", (schema,))
        assert owners.fetchall() == [(f"{service.name}_owner",)]


@pytest.mark.parametrize(
    ("text_of_revision", "message"),
    [
        (None, "holds no revisions"),
        ("revision = 'a'\ndown_revision = 'absent'\n", "cannot be used"),
        ("revision = 'a'\ndown_revision = None\n1 / 0\n", "cannot be used"),
        ("revision = 'a'\ndown_revision = None\ndef upgrade(:\n", "cannot be used"),
    ],
    ids=["empty", "gap", "raises", "syntax"],
)
def test_a_location_that_cannot_be_used(
    opened: Open, service: Service, history: History, text_of_revision: str | None, message: str
) -> None:
    if text_of_revision is not None:
        (history.folder / "versions" / "a.py").write_text(text_of_revision)
    with pytest.raises(ConfigurationError, match=message):
        opened(history).create("hallym")
    assert strays(service) == set()


@pytest.mark.parametrize("location", ["/nowhere/at/all", "no_such_package:migrations", ""])
def test_a_location_that_is_not_there(opened: Open, service: Service, location: str) -> None:
    with pytest.raises(ConfigurationError):
        opened(location).create("hallym")
    assert strays(service) == set()


# -- where the location comes from


def test_a_folder_of_a_package(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_transaction(tmp_path / "shop_of_the_test" / "migrations")
    (tmp_path / "shop_of_the_test" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        manager = opened("shop_of_the_test:migrations")
        manager.create("hallym")
    finally:
        sys.modules.pop("shop_of_the_test", None)
    assert len(ask(manager, "hallym", "SELECT id FROM note")) == 2


def test_the_location_of_the_environment(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = service.settings()
    monkeypatch.setenv("MT_PAAS_DB_SCRIPT_LOCATION", in_one_transaction(tmp_path / "100% history").location)
    manager = TenantManager(load_settings(installation=given.installation, clusters=given.clusters))
    service.managers.append(manager)
    manager.init()
    manager.create("hallym")
    assert len(ask(manager, "hallym", "SELECT id FROM note")) == 2


def test_revisions_come_before_models(opened: Open, service: Service, tmp_path: Path) -> None:
    manager = opened(in_one_transaction(tmp_path / "history"), models=service.models)
    schema = manager.create("hallym").placement.schema_name
    assert tables_everywhere(service) == {f"{schema}.note", f"{schema}.alembic_version"}  # the models have a remark


# -- at the same time


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.mark.parametrize("write", [in_one_transaction, in_steps])
def test_threads_create_tenants_at_once(
    opened: Open, service: Service, tmp_path: Path, pool: ThreadPoolExecutor, write: Callable[[Path], History]
) -> None:
    manager = opened(write(tmp_path / "history"))
    ids = [f"t{number}" for number in range(4)]
    gate = Barrier(len(ids))

    def create(tenant_id: str) -> str:
        gate.wait(10)
        return manager.create(tenant_id).placement.schema_name

    schemas = list(pool.map(create, ids))
    assert tables_everywhere(service) == {f"{schema}.{t}" for schema in schemas for t in ("note", "alembic_version")}
    for tenant_id in ids:
        assert len(ask(manager, tenant_id, "SELECT id FROM note")) == (3 if write is in_steps else 2)


@pytest.mark.parametrize("write", [in_one_transaction, in_steps])
def test_of_two_creations_of_one_id_one_succeeds(
    opened: Open, service: Service, tmp_path: Path, pool: ThreadPoolExecutor, write: Callable[[Path], History]
) -> None:
    location = write(tmp_path / "history")
    managers = [opened(location), opened(location)]
    gate = Barrier(2)

    def create(manager: TenantManager) -> str:
        gate.wait(10)
        try:
            return str(manager.create("hallym").state)
        except TenantExistsError:
            return "exists"

    assert sorted(pool.map(create, managers)) == ["active", "exists"]
    assert managers[0].get("hallym").state is TenantState.ACTIVE
    assert strays(service) == set()


def test_creation_by_asyncio(opened: Open, tmp_path: Path) -> None:
    manager = opened(in_steps(tmp_path / "history"))

    async def create_two() -> list[TenantState]:
        made = await asyncio.gather(manager.aio.create("hallym"), manager.aio.create("korea"))
        return [tenant.state for tenant in made]

    assert asyncio.run(create_two()) == [TenantState.ACTIVE, TenantState.ACTIVE]
    assert len(ask(manager, "korea", "SELECT id FROM note")) == 3
