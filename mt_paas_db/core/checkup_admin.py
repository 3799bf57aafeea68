"""Checks of the admin: a superuser may do everything; any other role must be able to do what the lifecycle needs."""

from __future__ import annotations

from collections.abc import Iterator

from mt_paas_db.core.checks import Finding, Severity, check, quoted
from mt_paas_db.core.patient import Patient


@check("admin.rights", "the admin may create roles, act as the owner and grant what the lifecycle grants")
def _rights(patient: Patient) -> Iterator[Finding]:
    oneself = patient.admin.oneself
    if oneself.rolsuper:
        return
    me = quoted(oneself.name)
    if not patient.ask("login_attributes", login=oneself.name)[0]["rolcreaterole"]:
        yield Finding(
            Severity.ERROR,
            f"role {oneself.name!r} of the admin DSN may not create roles, so that no tenant can be created",
            f"ALTER ROLE {me} CREATEROLE;",
        )
    roles = patient.roles
    for row in patient.ask(
        "admin_roles_16" if patient.modern else "admin_roles_15", owner=roles.owner, group=roles.group
    ):
        if row["rolname"] == roles.owner and not row["may_take"]:
            yield Finding(
                Severity.ERROR,
                f"role {oneself.name!r} of the admin DSN may not act as {roles.owner!r}, which owns the catalog",
                f"GRANT {quoted(roles.owner)} TO {me};",
            )
        if row["rolname"] == roles.group and not row["may_grant"]:
            yield Finding(
                Severity.ERROR,
                f"role {oneself.name!r} of the admin DSN may not grant {roles.group!r} to new tenants' roles",
                f"GRANT {quoted(roles.group)} TO {me} WITH ADMIN OPTION;",
            )
    owner = patient.ask("database_owner")[0]
    if not owner["is_mine"]:
        yield Finding(
            Severity.WARNING,
            f"database {oneself.database!r} belongs to {owner['rolname']!r}, so that init cannot close it to others",
            f"ALTER DATABASE {quoted(oneself.database)} OWNER TO {me};",
        )


@check("admin.tenants", "the admin may suspend and resume every tenant")
def _tenants(patient: Patient) -> Iterator[Finding]:
    oneself = patient.admin.oneself
    if oneself.rolsuper or not patient.modern:
        return  # before PostgreSQL 16, CREATEROLE suffices
    with patient.catalog():
        rows = patient.ask("admin_tenants", admin=oneself.name)
        grantors = patient.ask("admin_grantors", admin=oneself.name)
    for row in rows:
        yield Finding(
            Severity.ERROR,
            f"role {oneself.name!r} of the admin DSN may not grant or revoke {row['role_name']!r}, "
            f"so that it can neither suspend, resume nor delete tenant {row['tenant_id']!r}",
            f"GRANT {quoted(row['role_name'])} TO {quoted(oneself.name)} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;",
        )
    for row in grantors:
        yield Finding(
            Severity.ERROR,
            f"role {oneself.name!r} of the admin DSN may not take back what {row['rolname']!r} granted, "
            f"so that it cannot suspend {row['tenants']} tenants",
            f"GRANT {quoted(row['rolname'])} TO {quoted(oneself.name)};",
        )
