"""Checks of the tenants: what the catalog says of each is there on the server, and usable."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import RowMapping

from mt_paas_db.core.checks import Finding, Severity, check, granted_by, quoted
from mt_paas_db.core.patient import Patient


@check("tenants.server", "every tenant of the catalog has its role, schema and memberships")
def _tenants(patient: Patient) -> Iterator[Finding]:
    with patient.catalog():
        rows = patient.ask("tenants_against_server", group=patient.roles.group)
    for row in rows:
        yield from _things(row, patient.roles.owner)
        if row["has_role"]:
            yield from _joined(row, patient)


def _things(row: RowMapping, owner: str) -> Iterator[Finding]:
    who, role, schema = f"tenant {row['tenant_id']!r}", row["role_name"], row["schema_name"]
    if not row["has_role"]:
        yield Finding(Severity.ERROR, f"{who}: role {role!r} is missing", f'CREATE ROLE "{role}" NOLOGIN;')
    if not row["has_schema"]:
        yield Finding(Severity.ERROR, f"{who}: schema {schema!r} is missing", "restore it from a backup")
    if not (row["has_role"] and row["has_schema"]):
        return
    if row["schema_owner"] != owner:
        yield Finding(
            Severity.ERROR,
            f"{who}: schema {schema!r} belongs to {row['schema_owner']!r}",
            f'ALTER SCHEMA "{schema}" OWNER TO "{owner}";',
        )
    if not row["has_usage"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: the role may not use its schema",
            f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}";',
        )
    if row["has_create"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: the role may create objects in its schema, which a migration could run as the owner",
            f'REVOKE CREATE ON SCHEMA "{schema}" FROM "{role}", PUBLIC;',
        )


def _joined(row: RowMapping, patient: Patient) -> Iterator[Finding]:
    """Compare who may take the tenant's role, and what that inherits from, with the tenant's state."""
    who, role, login, group = f"tenant {row['tenant_id']!r}", row["role_name"], row["login_role"], patient.roles.group
    if not row["has_group"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: the role has not the rights of {group!r}, so that shared tables are closed to it",
            f'GRANT "{group}" TO "{role}" WITH INHERIT TRUE;'
            if patient.modern
            else f'ALTER ROLE "{role}" INHERIT; GRANT "{group}" TO "{role}";',
        )
    inherit = "TRUE" if row["own_login"] else "FALSE"
    takes_sessions = row["state"] in ("active", "read_only")
    if takes_sessions and not row["grantors"]:
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but {login!r} may not take its role",
            f'GRANT "{role}" TO "{login}"{f" WITH INHERIT {inherit}, SET TRUE" if patient.modern else ""};',
        )
    if not takes_sessions and row["grantors"]:
        grantors = row["grantors"] if patient.modern else [None]
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but {login!r} may still take its role",
            " ".join(f'REVOKE "{role}" FROM "{login}"{granted_by(grantor)};' for grantor in grantors),
        )


@check("tenants.unfinished", "no creation and no deletion was left half done")
def _unfinished(patient: Patient) -> Iterator[Finding]:
    with patient.catalog():
        rows = patient.ask("unfinished_tenants")
    for row in rows:
        verb = "create" if row["state"] == "provisioning" else "delete"
        yield Finding(
            Severity.WARNING,
            f"tenant {row['tenant_id']!r} is {row['state']} since {row['since']}: its {verb} is under way, or was "
            "interrupted",
            f"mt-paas-db tenant {verb} {row['tenant_id']}",
        )


# What `create` grants a tenant's role, on what is there and, by default, on what will be made.
_GRANTED = {"TABLE": "SELECT, INSERT, UPDATE, DELETE", "SEQUENCE": "USAGE", "FUNCTION": "EXECUTE"}


@check("tenants.rights", "every tenant's role may use what is in its schema, and what will be")
def _rights(patient: Patient) -> Iterator[Finding]:
    owner = patient.roles.owner
    with patient.catalog():
        present = patient.ask("lacking_rights")
        future = patient.ask("lacking_defaults", owner=owner)
    for row in present:
        # Less than all may be meant, a table to which tenants only append, say; nothing at all is not.
        yield Finding(
            Severity.ERROR if row["useless"] else Severity.WARNING,
            f"tenant {row['tenant_id']!r}: the role may {'not' if row['useless'] else 'only partly'} use "
            f"{row['kind'].lower()} {row['objects']}",
            f"GRANT {_GRANTED[row['kind']]} ON {row['kind']} {row['objects']} TO {quoted(row['role_name'])};",
        )
    for row in future:
        yield Finding(
            Severity.ERROR,
            f"tenant {row['tenant_id']!r}: the role will not be able to use {row['kind'].lower()}s that are made "
            "by a migration",
            f'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA {quoted(row["schema_name"])} '
            f"GRANT {_GRANTED[row['kind']]} ON {row['kind']}S TO {quoted(row['role_name'])};",
        )
