"""All that makes up a tenant on the server, read by a superuser, without what differs between two tenants."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from mt_paas_db.catalog.values import Tenant
from tests.fleet import Service

_SCHEMA = "(SELECT oid FROM pg_namespace WHERE nspname = %(name)s)"

_PARTS = {
    "schema": "SELECT pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace WHERE nspname = %(name)s",
    "defaults": f"""
        SELECT defaclobjtype::text, pg_get_userbyid(defaclrole), defaclacl::text
          FROM pg_default_acl WHERE defaclnamespace = {_SCHEMA}""",
    "relations": f"""
        SELECT relname, relkind::text, pg_get_userbyid(relowner), relacl::text
          FROM pg_class WHERE relnamespace = {_SCHEMA}""",
    "columns": f"""
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               pg_get_expr(d.adbin, d.adrelid), a.attacl::text
          FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = {_SCHEMA} AND c.relkind IN ('r', 'p', 'v', 'm')""",
    "constraints": f"""
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = {_SCHEMA}""",
    "indexes": f"""
        SELECT c.relname, i.indisvalid, i.indisready, pg_get_indexdef(i.indexrelid)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = {_SCHEMA}""",
    "types": f"""
        SELECT typname, typtype::text, typacl::text, ARRAY(SELECT e.enumlabel::text FROM pg_enum e
               WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
          FROM pg_type t WHERE typnamespace = {_SCHEMA}""",
    "functions": f"""
        SELECT oid::regprocedure::text, proacl::text FROM pg_proc WHERE pronamespace = {_SCHEMA}""",
    "role": "SELECT to_jsonb(r) - '{oid,rolname}'::text[] FROM pg_roles r WHERE rolname = %(name)s",
    "members": """
        SELECT pg_get_userbyid(roleid), pg_get_userbyid(member), pg_get_userbyid(grantor),
               to_jsonb(m) - '{oid,roleid,member,grantor}'::text[]
          FROM pg_auth_members m
         WHERE (SELECT oid FROM pg_roles WHERE rolname = %(name)s) IN (roleid, member)""",
    "catalog": """
        SELECT state, state_reason, withheld, cell,
               ARRAY(SELECT kind FROM mt_paas.tenant_name n WHERE n.generation = t.generation ORDER BY kind)
          FROM mt_paas.tenant t WHERE schema_name = %(name)s""",
}


def fingerprint(service: Service, tenant: Tenant) -> dict[str, list[str]]:
    """Return the tenant's parts as texts in which its own name is left out, so that equal tenants compare equal."""
    return traces(service, tenant.placement.schema_name)


def traces(service: Service, name: str) -> dict[str, list[str]]:
    """Return all that the schema and the role called `name` leave on the server, without that name."""
    with service.superuser() as connection:
        parts: dict[str, Any] = {
            part: connection.execute(text.encode(), {"name": name}).fetchall() for part, text in _PARTS.items()
        }
        for table in connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace", (name,)
        ).fetchall():
            rows = sql.SQL("SELECT to_jsonb(t)::text FROM {} t").format(sql.Identifier(name, table[0]))
            parts[f"rows of {table[0]}"] = connection.execute(rows).fetchall()
    return {part: sorted(str(row).replace(name, "<tenant>") for row in found) for part, found in parts.items()}


def strays(service: Service) -> set[str]:
    """Return the roles and schemas of tenants that the catalog does not know, and those it knows that are gone."""
    with service.superuser() as connection:
        return _strays(connection, service.name)


def _strays(connection: psycopg.Connection[Any], installation: str) -> set[str]:
    own = {f"{installation}_{part}" for part in ("owner", "tenant", "app", "reference")}
    found = connection.execute(
        "SELECT 'role ' || rolname FROM pg_roles WHERE starts_with(rolname, %(prefix)s) AND NOT rolcanlogin"
        " AND rolname <> ALL(%(own)s)"
        " UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE starts_with(nspname, %(prefix)s)"
        " AND nspname <> ALL(%(own)s)",
        {"prefix": f"{installation}_", "own": list(own)},
    ).fetchall()
    known = connection.execute(
        "SELECT 'role ' || role_name FROM mt_paas.tenant UNION ALL SELECT 'schema ' || schema_name FROM mt_paas.tenant"
    ).fetchall()
    return {row[0] for row in found} ^ {row[0] for row in known}
