"""The ground truth: what the server itself says, asked as the superuser."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from mt_paas_db.core import TenantState
from tests.fleet import PASSWORD, Service

CLUSTER_STATE = {
    "roles": """
        SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
               rolpassword, rolconnlimit
          FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1""",
    "memberships": """
        SELECT roleid::regrole::text, member::regrole::text, grantor::regrole::text,
               to_jsonb(m) - 'oid' - 'roleid' - 'member' - 'grantor'
          FROM pg_auth_members m ORDER BY 1, 2, 3""",
    "role settings": "SELECT setdatabase, setrole::regrole::text, setconfig FROM pg_db_role_setting ORDER BY 1, 2",
    "databases": "SELECT datname, pg_get_userbyid(datdba), datacl::text FROM pg_database ORDER BY 1",
    "role comments": """
        SELECT pg_get_userbyid(objoid), description
          FROM pg_shdescription WHERE classoid = 'pg_authid'::regclass ORDER BY 1""",
}
_DATABASE_STATE = {
    "schemas": """
        SELECT nspname, pg_get_userbyid(nspowner), nspacl::text
          FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)' ORDER BY 1""",
    "relations": """
        SELECT oid::regclass::text, pg_get_userbyid(relowner), relacl::text
          FROM pg_class WHERE oid >= 16384 ORDER BY 1""",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_userbyid(proowner), proacl::text, md5(pg_get_functiondef(oid))
          FROM pg_proc WHERE oid >= 16384 ORDER BY 1""",
    "types": "SELECT oid::regtype::text, pg_get_userbyid(typowner) FROM pg_type WHERE oid >= 16384 ORDER BY 1",
    "default rights": """
        SELECT pg_get_userbyid(defaclrole), defaclnamespace::regnamespace::text, defaclobjtype, defaclacl::text
          FROM pg_default_acl ORDER BY 1, 2, 3""",
}


def server_state(service: Service) -> dict[str, list[Any]]:
    """Everything that the library may change on the server and in the service's database."""
    with service.superuser() as connection:
        state = {
            what: connection.execute(query).fetchall() for what, query in {**CLUSTER_STATE, **_DATABASE_STATE}.items()
        }
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'mt_paas'").fetchall()
        for (table,) in tables:
            rows = connection.execute(
                sql.SQL("SELECT t::text FROM mt_paas.{} t ORDER BY 1").format(sql.Identifier(table))
            )
            state[table] = rows.fetchall()
    return state


def app_dsn(service: Service, *, user: str | None = None, database: str | None = None) -> str:
    return service.server.dsn(database or service.database, user=user or service.login, password=PASSWORD)


def clusters(app: str, admin: str) -> dict[str, dict[str, str]]:
    return {"main": {"app_dsn": app, "admin_dsn": admin}}


def state_but_for_the_log(service: Service) -> dict[str, list[Any]]:
    """What a verb that failed must leave as it was: a failure adds a line to the log, and nothing else."""
    state = server_state(service)
    del state["event"]
    return state


def rows(service: Service, query: str, *values: Any) -> list[Any]:
    """Ask the server's own catalogs, or ours, as the superuser."""
    with service.superuser() as connection:
        return connection.execute(query.encode(), values).fetchall()


def tenant_roles(service: Service) -> list[str]:
    found = rows(
        service,
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)"
        " AND rolname !~ '_(app|owner|tenant|reference)$' ORDER BY 1",
        f"{service.name}_",
    )
    return [row[0] for row in found]


def tenant_schemas(service: Service) -> list[str]:
    found = rows(
        service,
        "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s) AND nspname !~ '_reference$' ORDER BY 1",
        f"{service.name}_",
    )
    return [row[0] for row in found]


def set_state(service: Service, tenant_id: str, state: TenantState) -> None:
    with service.superuser() as connection:
        connection.execute("UPDATE mt_paas.tenant SET state = %s WHERE tenant_id = %s", (state, tenant_id))


def may_take(service: Service, role: str) -> bool:
    """Whether the login is a member of `role`, by whatever grant."""
    return bool(rows(service, "SELECT pg_has_role(%s, %s, 'MEMBER')", service.login, role)[0][0])
