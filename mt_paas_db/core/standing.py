"""What a state means on the server: whether the login may take the tenant's role, and what that role may write.

The states are enforced here, not in the client: a process that still remembers an active tenant is refused by
the server, at its next transaction (a closed tenant) or at its next write (a read-only one).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from psycopg import sql

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.catalog.values import Tenant, TenantState
from mt_paas_db.core.admin import AdminTransaction, Named
from mt_paas_db.errors import MissingRightsError

_IN_ONE_STATEMENT = 500

# Looked up, so that no text from the catalog becomes SQL.
_RIGHTS = {
    "INSERT": sql.SQL("INSERT"),
    "UPDATE": sql.SQL("UPDATE"),
    "DELETE": sql.SQL("DELETE"),
    "TRUNCATE": sql.SQL("TRUNCATE"),
}


def enter(step: AdminTransaction, tenant: Tenant, state: TenantState, *, reason: str | None = None) -> None:
    """Put `tenant` into `state`: in the catalog, and in the rights of its roles. Acts as the owner, and ends so.

    Raises `MissingRightsError` where the login keeps the tenant's role by a grant that is not ours to revoke.
    """
    registry.run(step.connection, "set_state", generation=tenant.generation, state=state, state_reason=reason)
    if state is TenantState.READ_ONLY:
        _withhold_writes(step, tenant)
    elif state is TenantState.ACTIVE:
        _give_writes_back(step, tenant)
    if state.serves:
        join(step, tenant)
    else:
        with step.as_oneself():
            if tenant.placement.tier is Tier.LOGIN and step.ask("role_exists", role=tenant.placement.login_role):
                step.run("own_login_closes", login=tenant.placement.login_role)
            leave(step, tenant)


def join(step: AdminTransaction, tenant: Tenant) -> None:
    """Let the login take a tenant's role. Acts as the owner, and ends so."""
    step.run_as_oneself(*_login_joins(step, tenant))


def end_backends(step: AdminTransaction, tenant: Tenant) -> None:
    """End the connections of a closed tenant's own login, once that it is closed was committed. Acts as the admin."""
    login = tenant.placement.login_role
    if tenant.placement.tier is not Tier.LOGIN or not step.ask("role_exists", role=login):
        return
    if not step.oneself.rolsuper:
        step.run("admin_takes_role", role=login)
    step.rows("end_backends", login=login)
    if not step.oneself.rolsuper:
        step.run("admin_leaves_role" if step.oneself.version >= 160_000 else "admin_leaves_role_15", role=login)


def join_group(step: AdminTransaction, tenant: Tenant, *then: Named) -> None:
    """Let a new tenant's role use what is shared, and nobody take it yet. Acts as the owner for `then`, and ends so."""
    joins: Named = ("group_joins", {"group": step.roles.group, "role": tenant.placement.role_name})
    step.run_all(*step.by_oneself(joins), *then)


def _login_joins(step: AdminTransaction, tenant: Tenant) -> list[Named]:
    role, login = tenant.placement.role_name, tenant.placement.login_role
    own = tenant.placement.tier is Tier.LOGIN
    suffix = "" if step.oneself.version >= 160_000 else "_15"
    joins: Named = (f"{'own_' if own else ''}login_joins{suffix}", {"role": role, "login": login})
    return [joins, *_own_login_opens(step, tenant)] if own else [joins]


def _own_login_opens(step: AdminTransaction, tenant: Tenant) -> list[Named]:
    placement = tenant.placement
    login = placement.login_role
    password = step.password_of(placement.credentials, login, tier=Tier.LOGIN)
    shared = step.installation.shared_schemas if step.installation is not None else ()
    path = sql.SQL(", ").join(sql.Identifier(name) for name in (placement.schema_name, *shared, "pg_temp"))
    database = step.oneself.database
    opens: Named = (
        "own_login_opens",
        {"login": login, "role": placement.role_name, "path": path, "database": database},
    )
    return [opens] if password is None else [opens, step.set_password(login, password, stable=True)]


def let_in(step: AdminTransaction, tenants: Sequence[Tenant], login: str) -> None:
    """Let a cell's login take the roles of those tenants that are open. Acts as the owner, and ends so."""
    roles = [sql.Identifier(tenant.placement.role_name) for tenant in tenants if tenant.state.serves]
    if roles:
        suffix = "" if step.oneself.version >= 160_000 else "_15"
        step.run_as_oneself((f"login_joins{suffix}", {"role": sql.SQL(", ").join(roles), "login": login}))


def leave(step: AdminTransaction, tenant: Tenant, logins: Collection[str] | None = None) -> None:
    """Let these logins no longer take a tenant's role: all of the installation's, where none are named. As the admin.

    Raises `MissingRightsError` where one keeps it by a grant that is not ours to revoke.
    """
    role, app = tenant.placement.role_name, step.roles.login
    if not step.ask("role_exists", role=role):
        return  # lost behind our back; nobody can take it
    for login, grantor in step.rows("logins_in", role=role, login=app):
        if logins is None or login in logins:
            if step.oneself.version >= 160_000:
                step.run("login_leaves", role=role, login=login, grantor=grantor)
            else:
                step.run("login_leaves_15", role=role, login=login)
    wanted = None if logins is None else list(logins)
    for (login,) in step.rows("still_in", role=role, login=app, logins=wanted):
        raise MissingRightsError(
            step.cluster,
            f"tenant {tenant.tenant_id!r} was not closed: {login!r} is still a member of {role!r}, "
            "through another role or a grant that this admin may not revoke",
        )


def _withhold_writes(step: AdminTransaction, tenant: Tenant) -> None:
    """Revoke what the tenant's role may write, table by table, and keep in the catalog what it was.

    Tables that a migration adds meanwhile come with all rights; sessions of a read-only tenant begin READ ONLY, so
    that nothing is written there either.
    """
    placement = tenant.placement
    found = step.rows("write_rights", schema=placement.schema_name, role=placement.role_name)
    if not found:
        return
    kept = _withheld(step, tenant)
    kept += [{"oid": r.oid, "table": r.relname, "column": r.attname, "rights": sorted(r.rights)} for r in found]
    registry.run(step.connection, "set_withheld", generation=tenant.generation, withheld=json.dumps(kept))
    tables = sorted({r.relname for r in found})
    for start in range(0, len(tables), _IN_ONE_STATEMENT):
        names = [sql.Identifier(placement.schema_name, table) for table in tables[start : start + _IN_ONE_STATEMENT]]
        step.run("withhold_writes", tables=sql.SQL(", ").join(names), role=placement.role_name)


def _give_writes_back(step: AdminTransaction, tenant: Tenant) -> None:
    """Grant again what was withheld, on the tables and columns that are still there, also under a new name."""
    kept = _withheld(step, tenant)
    if not kept:
        return
    placement = tenant.placement
    by_oid = {row.oid: row.relname for row in step.rows("relations", schema=placement.schema_name)}
    # After a restore from a dump every OID is another, and the names are the same.
    restored = not any(entry["oid"] in by_oid for entry in kept)
    by_name = {name: oid for oid, name in by_oid.items()} if restored else {}
    for entry in kept:
        oid = entry["oid"] if entry["oid"] in by_oid else by_name.get(entry["table"])
        if oid is None:
            continue
        column = entry["column"]
        if column is not None and column not in {row.attname for row in step.rows("columns", oid=oid)}:
            continue
        target = sql.SQL("") if column is None else sql.SQL(" ({})").format(sql.Identifier(column))
        rights = sql.SQL(", ").join(_RIGHTS[right] + target for right in entry["rights"])
        table = sql.Identifier(placement.schema_name, by_oid[oid])
        step.run("give_back", rights=rights, table=table, role=placement.role_name)
    registry.run(step.connection, "set_withheld", generation=tenant.generation, withheld=None)


def _withheld(step: AdminTransaction, tenant: Tenant) -> list[dict[str, Any]]:
    return registry.withheld(step.connection, tenant.generation)
