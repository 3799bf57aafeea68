"""Checks of the logins that tenants have of their own: each is its tenant, nobody else, and no more than that."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import RowMapping

from mt_paas_db.core.checks import Finding, Severity, check, granted_by, quoted
from mt_paas_db.core.patient import Patient


@check("tenants.logins", "every login of a tenant's own is that tenant, and open while it is")
def _own_logins(patient: Patient) -> Iterator[Finding]:
    with patient.catalog():
        rows = patient.ask("own_logins")
        memberships = patient.ask("own_login_memberships_16" if patient.modern else "own_login_memberships_15")
    for row in rows:
        if not row["has_login"]:
            yield Finding(
                Severity.ERROR,
                f"tenant {row['tenant_id']!r}: its login {row['login_role']!r} is missing",
                f'CREATE ROLE "{row["login_role"]}" NOLOGIN INHERIT; then close and resume the tenant',
            )
            continue
        yield from _attributes(row)
        if row["takes_sessions"]:
            yield from _starts(row, patient.admin.oneself.database)
        else:
            yield from _closed(row)
    for row in memberships:
        login, role = row["member"], row["role"]
        yield Finding(
            Severity.ERROR,
            f"role {login!r}, a tenant's own login, is a member of {role!r}"
            + (" and may grant it to others" if row["is_own"] else ": it reaches more than its tenant"),
            f"REVOKE {'ADMIN OPTION FOR ' if row['is_own'] else ''}{quoted(role)} FROM {quoted(login)}"
            f"{granted_by(row['grantor'])};",
        )


def _attributes(row: RowMapping) -> Iterator[Finding]:
    who, login = f"tenant {row['tenant_id']!r}", row["login_role"]
    for word in row["powers"]:
        yield Finding(Severity.ERROR, f"{who}: its login {login!r} has {word}", f"ALTER ROLE {quoted(login)} NO{word};")
    if not row["inherits"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: its login {login!r} is NOINHERIT, and so may not connect: CONNECT comes from its tenant's role",
            f"ALTER ROLE {quoted(login)} INHERIT;",
        )


def _starts(row: RowMapping, database: str) -> Iterator[Finding]:
    """Compare what an open tenant's connection starts with, with what a pinned transaction has."""
    who, login = f"tenant {row['tenant_id']!r}", row["login_role"]
    if not row["may_log_in"]:
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but its login {login!r} cannot log in",
            f"ALTER ROLE {quoted(login)} LOGIN;",
        )
    elif not row["may_connect"]:
        yield Finding(
            Severity.ERROR, f"{who} is {row['state']}, but its login {login!r} may not connect", "mt-paas-db init"
        )
    for name, found, meant in (
        ("role", row["starts_as"], row["role_name"]),
        ("search_path", row["starts_on"], row["path"]),
    ):
        if found != meant:
            yield Finding(
                Severity.ERROR,
                f"{who}: its login {login!r} starts with {name} = {found or 'nothing'!r}, so that a library that "
                "connects by itself is not where it belongs",
                f"ALTER ROLE {quoted(login)} SET {name} = {quoted(meant) if name == 'role' else meant};",
            )
    for name in row["in_database"]:
        yield Finding(
            Severity.ERROR,
            f"{who}: its login {login!r} has a {name} of its own in database {database!r}, which counts more",
            f"ALTER ROLE {quoted(login)} IN DATABASE {quoted(database)} RESET {name};",
        )


def _closed(row: RowMapping) -> Iterator[Finding]:
    who, login = f"tenant {row['tenant_id']!r}", row["login_role"]
    if row["may_log_in"]:
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but its login {login!r} may still log in",
            f"ALTER ROLE {quoted(login)} NOLOGIN;",
        )
    if row["backends"]:
        yield Finding(
            Severity.ERROR,
            f"{who} is {row['state']}, but its login {login!r} is still connected ({row['backends']} times)",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{login}';",  # noqa: S608  shown
        )
