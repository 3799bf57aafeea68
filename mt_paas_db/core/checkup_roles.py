"""Checks of the roles that nobody logs in as: none may reach what is another's."""

from __future__ import annotations

from collections.abc import Iterator

from mt_paas_db.catalog.values import CATALOG_VERSION
from mt_paas_db.core.checks import Finding, Severity, check, granted_by, quoted
from mt_paas_db.core.patient import Patient


@check("roles.attributes", "the owner's, the group's, the reference's and the tenants' roles have no powers")
def _attributes(patient: Patient) -> Iterator[Finding]:
    with patient.catalog():
        rows = patient.ask(
            "role_attributes",
            owner=patient.roles.owner,
            group=patient.roles.group,
            reference=patient.roles.reference,
        )
    for row in rows:
        role, words = row["rolname"], row["words"]
        without = " ".join(f"NO{word}" for word in words)
        yield Finding(Severity.ERROR, f"role {role!r} has {', '.join(words)}", f"ALTER ROLE {quoted(role)} {without};")


@check("roles.memberships", "a tenant's role is a member of the group, the group of nothing")
def _memberships(patient: Patient) -> Iterator[Finding]:
    group = patient.roles.group
    with patient.catalog():
        rows = patient.ask(
            "role_memberships_16" if patient.modern else "role_memberships_15",
            group=group,
            reference=patient.roles.reference,
        )
    for row in rows:
        member, role = row["member"], row["role"]
        by = granted_by(row["grantor"])
        if role == group and member != group:
            yield Finding(
                Severity.ERROR,
                f"role {member!r} may grant {role!r} to others",
                f"REVOKE ADMIN OPTION FOR {quoted(role)} FROM {quoted(member)}{by};",
            )
            continue
        yield Finding(
            Severity.ERROR,
            f"role {member!r} is a member of {role!r}, and may do whatever that may",
            f"REVOKE {quoted(role)} FROM {quoted(member)}{by};",
        )


@check("roles.rights", "no tenant, and not all, have a right in another tenant's schema or in the catalog's")
def _rights(patient: Patient) -> Iterator[Finding]:
    roles = patient.roles
    with patient.catalog():
        present = patient.ask("foreign_rights", login=roles.login, group=roles.group)
        future = patient.ask("foreign_defaults", owner=roles.owner, login=roles.login, group=roles.group)
    for row in present:
        yield Finding(
            Severity.ERROR,
            f"{row['grantee']} has {row['rights']} on {row['kind'].lower()} {row['objects']}",
            f"REVOKE ALL ON {row['kind']} {row['objects']} FROM {row['grantee']};",
        )
    for row in future:
        place = f" IN SCHEMA {quoted(row['nspname'])}" if row["nspname"] is not None else ""
        yield Finding(
            Severity.ERROR,
            f"{row['grantee']} is to have {row['rights']} on {row['kind'].lower()} that will be made"
            + (f" in schema {row['nspname']!r}" if place else " in any schema"),
            f'ALTER DEFAULT PRIVILEGES FOR ROLE "{roles.owner}"{place} REVOKE ALL ON {row["kind"]} '
            f"FROM {row['grantee']};",
        )


@check("roles.reference", "the schema that tenants are compared with is there, and the login may not take its role")
def _reference(patient: Patient) -> Iterator[Finding]:
    name, login, owner = patient.roles.reference, patient.roles.login, patient.roles.owner
    with patient.catalog():
        (row,) = patient.ask("reference_against_server", reference=name, login=login)
    missing = [what for what in ("role", "schema") if not row[f"has_{what}"]]
    if missing:
        older = row["catalog_version"] < CATALOG_VERSION
        yield Finding(
            Severity.WARNING if older else Severity.ERROR,
            f"the reference's {' and '.join(missing)} {name!r} {'are' if len(missing) > 1 else 'is'} missing"
            + (f": the catalog is still at version {row['catalog_version']}" if older else ""),
            "mt-paas-db init",
        )
    elif row["schema_owner"] != owner:
        yield Finding(
            Severity.ERROR,
            f"the reference's schema {name!r} belongs to {row['schema_owner']!r}",
            f'ALTER SCHEMA "{name}" OWNER TO "{owner}";',
        )
    if row["may_take"]:
        grantors = row["grantors"] if patient.modern else row["grantors"][:1] and [None]
        yield Finding(
            Severity.ERROR,
            f"{login!r} may take the reference's role {name!r}"
            + ("" if grantors else ", through another role of which it is a member"),
            " ".join(f'REVOKE "{name}" FROM "{login}"{granted_by(by)};' for by in grantors) or None,
        )
