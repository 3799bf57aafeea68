"""The reference: a schema and a role as a tenant has them, that nobody's session can take."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import MetaData

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, InstallationTakenError
from tests.fingerprint import strays, traces
from tests.fleet import PASSWORD, Service
from tests.ground_truth import app_dsn, clusters, may_take, rows, server_state
from tests.versions import init_version_1


def name_of(service: Service) -> str:
    return f"{service.name}_reference"


def as_admin(service: Service, role: str) -> TenantManager:
    """Return a manager whose admin DSN logs in as `role`."""
    dsn = service.server.dsn(service.database, user=role, password=None if role == "postgres" else PASSWORD)
    return service.manager(clusters=clusters(app_dsn(service), dsn), models=MetaData())


@pytest.fixture(params=["superuser", "managed"])
def admin(request: pytest.FixtureRequest, service: Service) -> str:
    """A superuser, and one that may only create roles and owns the database."""
    if request.param == "superuser":
        return "postgres"
    return str(request.getfixturevalue("dba"))


@pytest.fixture
def dba(service: Service) -> Iterator[str]:
    with service.managed() as role:
        yield role


@pytest.mark.parametrize("upgraded", [False, True])
def test_it_is_as_a_tenants_but_for_the_login(service: Service, admin: str, *, upgraded: bool) -> None:
    if upgraded:
        init_version_1(as_admin(service, admin))
        assert rows(service, "SELECT 1 FROM pg_roles WHERE rolname = %s", name_of(service)) == []
    manager = as_admin(service, admin)
    manager.init()
    tenant = manager.create("hallym").placement.schema_name
    reference = name_of(service)
    with service.superuser() as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"{service.name}_owner")))
        for schema in (tenant, reference):
            connection.execute(sql.SQL("CREATE TABLE {}.note (id serial)").format(sql.Identifier(schema)))
            connection.execute(
                sql.SQL("CREATE FUNCTION {}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'").format(sql.Identifier(schema))
            )

    its, theirs = traces(service, reference), traces(service, tenant)

    assert its.pop("catalog") == []  # it is in no tenant table
    assert len(theirs.pop("catalog")) == 1
    of_login = [row for row in theirs["members"] if service.login in row]
    assert len(of_login) == 1
    theirs["members"].remove(*of_login)
    assert its == theirs
    assert may_take(service, tenant)
    assert not may_take(service, reference)
    assert manager.doctor().ok
    assert [t.tenant_id for t in manager.list()] == ["hallym"]
    assert strays(service) == set()


def test_the_login_is_refused_its_role_and_its_schema(fleet: Service) -> None:
    reference = sql.Identifier(name_of(fleet))
    with psycopg.connect(app_dsn(fleet), autocommit=True) as connection:
        for statement in ("SET ROLE {}", "CREATE TABLE {}.t (a int)", "GRANT {} TO CURRENT_USER"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL(statement).format(reference))


def test_no_tenant_can_have_its_name(service: Service, manager: TenantManager) -> None:
    """Not even one that is called so: a generation is always behind it."""
    made = manager.create("reference")
    assert made.placement.schema_name == f"{name_of(service)}_1"
    assert manager.doctor().ok


def test_it_cannot_be_shared(service: Service) -> None:
    before = server_state(service)
    with pytest.raises(ConfigurationError, match="choose another name"):
        service.manager(shared_schemas=(name_of(service),)).init()
    assert server_state(service) == before


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("CREATE SCHEMA {}", "belongs to 'postgres'"),
        ("CREATE ROLE {} CREATEROLE", "powers that would undo the isolation"),
    ],
)
def test_what_is_there_by_that_name_is_not_taken_over(service: Service, found: str, said: str) -> None:
    init_version_1(service.manager())
    with service.superuser() as connection:
        connection.execute(sql.SQL(found).format(sql.Identifier(name_of(service))))
    before = server_state(service)
    with pytest.raises(InstallationTakenError, match=said):
        service.manager().init()
    assert server_state(service) == before
