"""A read-only tenant is one by the server's word, and gets back exactly what it had."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.values import Tenant, TenantState
from mt_paas_db.core import TenantManager, standing
from tests.fingerprint import fingerprint
from tests.fleet import Runner, Service
from tests.models import Note

DENIED = "42501"
READ_ONLY_TRANSACTION = "25006"

WRITES = {
    "insert": "INSERT INTO note (body, mood, tags) VALUES ('x', 'calm', '{}')",
    "update": "UPDATE note SET body = 'x'",
    "delete": "DELETE FROM note",
    "merge": "MERGE INTO note USING (SELECT 1 AS id) s ON note.id = s.id WHEN MATCHED THEN DELETE",
    "lock": "LOCK TABLE note IN SHARE ROW EXCLUSIVE MODE",
}


def write(session: Session, statement: str = WRITES["insert"]) -> None:
    session.execute(text(statement))


def read(session: Session) -> list[str]:
    return list(session.scalars(select(Note.body)))


def refusal(work: Any, *arguments: Any) -> str | None:
    """Return the SQLSTATE with which the server refused."""
    with pytest.raises(DBAPIError) as caught:
        work(*arguments)
    return sqlstate_of(caught.value) or getattr(caught.value.orig, "sqlstate", None)


# -- refused


def test_a_warm_process_is_refused_at_its_next_write(runner: Runner, fleet: Service) -> None:
    """It remembers an active tenant, so that its transactions begin READ WRITE, and the rights decide."""
    runner.run("hallym", write)
    fleet.manager().read_only("hallym")
    assert refusal(runner.run, "hallym", write) == DENIED
    assert runner.run("hallym", read) == ["x"]
    fleet.manager().resume("hallym")
    runner.run("hallym", write)
    assert runner.run("hallym", read) == ["x", "x"]
    assert runner.run("korea", read) == []


@pytest.mark.parametrize("kind", WRITES)
def test_no_kind_of_write_is_left(fleet: Service, manager: TenantManager, kind: str) -> None:
    warm = fleet.manager()
    with warm.get_session("hallym") as session:
        session.execute(text(WRITES[kind]))
    manager.read_only("hallym")
    with warm.get_session("hallym", commit=False) as session:
        assert refusal(session.execute, text(WRITES[kind])) == DENIED


def test_an_open_transaction_is_refused_at_its_next_write(fleet: Service, manager: TenantManager) -> None:
    with fleet.manager().get_session("hallym", commit=False) as session:
        assert read(session) == []
        manager.read_only("hallym")
        assert refusal(write, session) == DENIED


def test_without_the_revoke_a_warm_process_would_write(
    fleet: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: the state alone stops nobody who remembers another."""
    warm = fleet.manager()
    with warm.get_session("hallym") as session:
        assert read(session) == []
    monkeypatch.setattr(standing, "_withhold_writes", lambda *_: None)
    manager.read_only("hallym")
    with warm.get_session("hallym") as session:
        write(session)
        assert read(session) == ["x"]


def test_a_fresh_session_begins_read_only(runner: Runner, fleet: Service) -> None:
    """Also where a table came after the revoke, and so bears all rights."""
    manager = fleet.manager()
    tenant = manager.read_only("hallym")
    as_owner(fleet, tenant, "CREATE TABLE late (id int)")
    assert runner.run("hallym", lambda session: session.scalar(text("SHOW transaction_read_only"))) == "on"
    assert refusal(runner.run, "hallym", lambda s: write(s, "INSERT INTO late VALUES (1)")) == READ_ONLY_TRANSACTION
    assert refusal(runner.run, "hallym", write) in (DENIED, READ_ONLY_TRANSACTION)
    assert runner.run("hallym", read) == []
    assert runner.run("korea", lambda session: session.scalar(text("SHOW transaction_read_only"))) == "off"


# -- given back


def as_owner(service: Service, tenant: Tenant, *statements: str) -> None:
    """Execute statements as a migration would; ``{role}`` is the tenant's."""
    name = sql.Identifier(tenant.placement.schema_name)
    with service.superuser() as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"{service.name}_owner")))
        connection.execute(sql.SQL("SET search_path = {}").format(name))
        for statement in statements:
            connection.execute(statement.replace("{role}", f'"{tenant.placement.role_name}"').encode())


NARROWED = (
    "CREATE TABLE audit (id int, note text)",
    "REVOKE UPDATE, DELETE ON audit FROM {role}",
    "CREATE TABLE profile (id int, name text, rank int)",
    "REVOKE ALL ON profile FROM {role}",
    "GRANT SELECT, UPDATE (name), INSERT (id, name) ON profile TO {role}",
    "CREATE TABLE reference (id int)",
    "REVOKE INSERT, UPDATE, DELETE ON reference FROM {role}",
    'CREATE TABLE "Weird "" 100% {name}" (id int, "c%""{x}" int)',
    'REVOKE UPDATE ON "Weird "" 100% {name}" FROM {role}',
    'GRANT UPDATE ("c%""{x}") ON "Weird "" 100% {name}" TO {role}',
    "CREATE VIEW calm AS SELECT * FROM audit",
    "CREATE MATERIALIZED VIEW mv AS SELECT * FROM audit",
    "CREATE TABLE tree (k int) PARTITION BY LIST (k)",
    "CREATE TABLE leaf PARTITION OF tree FOR VALUES IN (1)",
    "GRANT TRUNCATE ON tree TO {role}",
)


@pytest.fixture
def narrowed(service: Service, manager: TenantManager) -> Tenant:
    """A tenant whose migrations have taken some of the rights that a table is made with."""
    tenant = manager.create("hallym")
    as_owner(service, tenant, *NARROWED)
    return tenant


PATHS = {
    "plain": ["read_only", "resume"],
    "twice": ["read_only", "resume", "read_only", "resume"],
    "by suspension": ["read_only", "suspend", "resume"],
    "from suspension": ["suspend", "read_only", "resume"],
    "again after suspension": ["read_only", "suspend", "read_only", "resume"],
    "by maintenance": ["read_only", "maintenance", "read_only", "resume"],
    "by the archive": ["read_only", "archive", "restore"],
}


@pytest.mark.parametrize("path", PATHS)
def test_each_way_back_gives_back_what_was_there(
    service: Service, manager: TenantManager, narrowed: Tenant, path: str
) -> None:
    before = rights(service, narrowed)
    assert {"INSERT", "UPDATE", "DELETE", "TRUNCATE"} <= {right for *_, right in before}
    for move in PATHS[path]:
        tenant = getattr(manager, move)("hallym")
        if tenant.state is not TenantState.ACTIVE and "read_only" in PATHS[path][: PATHS[path].index(move) + 1]:
            assert {right for *_, right in rights(service, narrowed)} <= {"SELECT"}
    assert rights(service, narrowed) == before
    assert withheld(service) == [None]


def test_the_whole_tenant_is_as_before(service: Service, manager: TenantManager, narrowed: Tenant) -> None:
    manager.read_only("hallym")
    manager.resume("hallym")
    before = fingerprint(service, narrowed)
    manager.read_only("hallym")
    assert withheld(service) != [None]
    assert fingerprint(service, narrowed) != before
    manager.resume("hallym")
    assert fingerprint(service, narrowed) == before


def test_tables_that_changed_meanwhile(service: Service, manager: TenantManager, narrowed: Tenant) -> None:
    before = rights(service, narrowed)
    manager.read_only("hallym")
    as_owner(
        service,
        narrowed,
        "ALTER TABLE audit RENAME TO journal",
        "ALTER TABLE profile RENAME COLUMN name TO title",
        "ALTER TABLE note DROP COLUMN tags",
        "DROP TABLE remark",
        "CREATE TABLE remark (id int)",
        "REVOKE DELETE ON remark FROM {role}",
        "DROP TABLE leaf",
        "CREATE TABLE added (id int)",
        "CREATE TABLE audit (id int)",
        "REVOKE INSERT ON audit FROM {role}",
    )
    manager.resume("hallym")
    after = rights(service, narrowed)
    assert of("journal", after) == of("audit", before) == {(None, "INSERT"), (None, "SELECT")}
    assert of("note", after) == of("note", before)
    assert of("added", after) == {(None, right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE")}
    assert of("audit", after) == {(None, right) for right in ("SELECT", "UPDATE", "DELETE")}
    assert ("id", "INSERT") in of("profile", after)
    assert of("remark", after) == {(None, right) for right in ("SELECT", "INSERT", "UPDATE")}  # another table
    assert of("leaf", after) == set()
    assert withheld(service) == [None]


def test_a_table_that_came_while_read_only_is_withheld_by_the_next_revoke(
    service: Service, manager: TenantManager, narrowed: Tenant
) -> None:
    manager.read_only("hallym")
    as_owner(service, narrowed, "CREATE TABLE late (id int)")
    manager.suspend("hallym")
    manager.read_only("hallym")
    assert of("late", rights(service, narrowed)) == {(None, "SELECT")}
    manager.resume("hallym")
    assert of("late", rights(service, narrowed)) == {(None, r) for r in ("SELECT", "INSERT", "UPDATE", "DELETE")}


Right = tuple[str, str | None, str]


def rights(service: Service, tenant: Tenant) -> set[Right]:
    """What the tenant's role may do: table, column or None, right."""
    query = """
        SELECT c.relname, NULL, x.privilege_type FROM pg_class c, aclexplode(c.relacl) x
         WHERE c.relnamespace = %(name)s::text::regnamespace AND c.relkind <> 'S'
           AND x.grantee = %(name)s::text::regrole
         UNION ALL
        SELECT c.relname, a.attname, x.privilege_type
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped, aclexplode(a.attacl) x
         WHERE c.relnamespace = %(name)s::text::regnamespace AND x.grantee = %(name)s::text::regrole"""
    with service.superuser() as connection:
        return set(connection.execute(query, {"name": tenant.placement.schema_name}).fetchall())


def of(table: str, found: set[Right]) -> set[tuple[str | None, str]]:
    return {(column, right) for name, column, right in found if name == table}


def withheld(service: Service) -> list[Any]:
    with service.superuser() as connection:
        return [row[0] for row in connection.execute("SELECT withheld FROM mt_paas.tenant").fetchall()]
