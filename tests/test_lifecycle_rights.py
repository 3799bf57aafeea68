"""What a tenant's role may do: exactly its rights, now and on what is made later."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import Identity, MetaData, Sequence, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mt_paas_db.core import TenantManager
from tests.fleet import Service
from tests.ground_truth import (
    rows,
)


class Counted(DeclarativeBase):
    """Models with a sequence of their own beside an identity column's."""

    metadata = MetaData()


COUNTER = Sequence("counter", metadata=Counted.metadata)


class Ticket(Counted):
    __tablename__ = "ticket"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    number: Mapped[int] = mapped_column(COUNTER, server_default=COUNTER.next_value())


_RIGHTS = """
    SELECT c.relname, c.relkind::text, pg_get_userbyid(c.relowner), a.grantee::regrole::text, a.is_grantable,
           array_agg(a.privilege_type ORDER BY a.privilege_type)
      FROM pg_class c, aclexplode(c.relacl) a
     WHERE c.relnamespace = %s::regnamespace AND a.grantee <> c.relowner
     GROUP BY 1, 2, 3, 4, 5
     ORDER BY 1"""
_DML = ["DELETE", "INSERT", "SELECT", "UPDATE"]


def test_the_tenant_role_has_exactly_its_rights(service: Service) -> None:
    manager = service.manager(models=Counted)
    manager.init()
    manager.create("korea")
    name = manager.create("hallym").placement.role_name
    owner = f"{service.name}_owner"
    expected = [
        ("counter", "S", owner, name, False, ["USAGE"]),
        ("ticket", "r", owner, name, False, _DML),
        ("ticket_id_seq", "S", owner, name, False, ["USAGE"]),
    ]
    assert rows(service, _RIGHTS, name) == expected
    assert rows(
        service,
        "SELECT pg_get_userbyid(nspowner), grantee::regrole::text, privilege_type, is_grantable"
        " FROM pg_namespace, aclexplode(nspacl) WHERE nspname = %s AND grantee <> nspowner",
        name,
    ) == [(owner, name, "USAGE", False)]
    # Beyond its schema: the group that carries shared rights, and nothing that PUBLIC does not have.
    assert rows(
        service,
        "SELECT roleid::regrole::text, admin_option FROM pg_auth_members WHERE member = %s::regrole",
        name,
    ) == [(f"{service.name}_tenant", False)]
    assert rows(
        service,
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        "   AND (has_schema_privilege(%s, oid, 'USAGE') OR has_schema_privilege(%s, oid, 'CREATE'))",
        name,
        name,
    ) == [(name,)]
    assert rows(
        service,
        "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        " FROM pg_roles WHERE rolname = %s",
        name,
    ) == [(False,) * 6]


def test_what_the_owner_makes_later_is_granted_as_it_is_made(fleet: Service, manager: TenantManager) -> None:
    name = manager.get("hallym").placement.role_name
    with fleet.superuser() as connection:
        for statement in (
            f'SET ROLE "{fleet.name}_owner"',
            f'CREATE TABLE "{name}".later (id serial PRIMARY KEY, body text)',
            f'CREATE VIEW "{name}".seen AS SELECT body FROM "{name}".later',
            f'CREATE FUNCTION "{name}".answer() RETURNS int LANGUAGE sql AS $$ SELECT 42 $$',
        ):
            connection.execute(statement.encode())
    with manager.get_session("hallym") as session:
        session.execute(text("INSERT INTO later (body) VALUES ('x')"))
        session.execute(text("UPDATE later SET body = 'y'"))
        assert session.execute(text("SELECT body, answer() FROM seen")).one() == ("y", 42)
        session.execute(text("DELETE FROM later"))
    later = [row for row in rows(fleet, _RIGHTS, name) if row[0].startswith(("later", "seen"))]
    assert [(row[0], row[5]) for row in later] == [("later", _DML), ("later_id_seq", ["USAGE"]), ("seen", _DML)]
    with manager.get_session("korea", commit=False) as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(text(f'SELECT "{name}".answer()'))


_BEYOND_THE_TENANT = """
TRUNCATE note
CREATE TABLE mine (a int)
CREATE TEMP TABLE mine (a int)
CREATE VIEW mine AS SELECT 1
CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE TYPE mine AS (a int)
CREATE SEQUENCE mine
CREATE SCHEMA mine
CREATE TRIGGER mine BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
CREATE RULE mine AS ON DELETE TO note DO INSTEAD NOTHING
CREATE POLICY mine ON note USING (true)
ALTER TABLE note ADD COLUMN mine int
ALTER TYPE mood ADD VALUE 'mine'
DROP TABLE note
CREATE INDEX ON note (body)
SELECT setval('note_id_seq', 1)
COPY note TO PROGRAM 'true'
SELECT pg_read_file('/etc/hostname')
SELECT * FROM mt_paas.tenant
SELECT * FROM mt_paas.resolve('korea')
"""


def test_the_server_refuses_the_tenant_role_all_else(fleet: Service, manager: TenantManager) -> None:
    for statement in _BEYOND_THE_TENANT.strip().splitlines():
        with manager.get_session("hallym", commit=False) as session:
            with pytest.raises((DBAPIError, psycopg.Error)) as caught:
                session.connection().exec_driver_sql(statement)
                pytest.fail(f"allowed: {statement}")
            error = getattr(caught.value, "orig", None) or caught.value
            assert isinstance(error, psycopg.errors.InsufficientPrivilege), statement


def test_the_login_role_may_take_the_tenants_role_and_inherits_nothing(fleet: Service, manager: TenantManager) -> None:
    modern = rows(fleet, "SELECT current_setting('server_version_num')::int >= 160000") == [(True,)]
    options = ", inherit_option, set_option" if modern else ", false, true"
    name = manager.get("hallym").placement.role_name
    query = f"SELECT member::regrole::text, admin_option{options} FROM pg_auth_members WHERE roleid = %s::regrole"
    members = [row for row in rows(fleet, query, name) if row[0] == fleet.login]
    assert members == [(fleet.login, False, False, True)]
