"""Checks of the cells' login roles: each can do nothing by itself, and can take its own tenants' roles only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import RowMapping

from mt_paas_db.core.checks import Finding, Severity, check, granted_by, quoted
from mt_paas_db.core.patient import Patient

_LOGIN_PATH = 'pg_catalog, "$user", pg_temp'


@check("login.attributes", "the login role has no powers")
def _login_attributes(patient: Patient) -> Iterator[Finding]:
    for role in patient.logins:
        if patient.has_role(role):
            yield from _attributes(role, patient.ask("login_attributes", login=role)[0])
        elif role == patient.roles.login:
            yield Finding(Severity.ERROR, f"role {role!r} does not exist: nobody has run init", "mt-paas-db init")
        else:
            yield Finding(
                Severity.ERROR,
                f"role {role!r}, which the tenants of a cell connect as, does not exist; another check says which "
                "tenants it is to be let in by after that",
                "mt-paas-db init",
            )


def _attributes(role: str, login: RowMapping) -> Iterator[Finding]:
    for attribute, word in {
        "rolsuper": "SUPERUSER",
        "rolinherit": "INHERIT",
        "rolcreaterole": "CREATEROLE",
        "rolcreatedb": "CREATEDB",
        "rolbypassrls": "BYPASSRLS",
        "rolreplication": "REPLICATION",
    }.items():
        if login[attribute]:
            yield Finding(Severity.ERROR, f"role {role!r} has {word}", f'ALTER ROLE "{role}" NO{word};')
    if not login["rolcanlogin"]:
        yield Finding(Severity.ERROR, f"role {role!r} cannot log in", f'ALTER ROLE "{role}" LOGIN;')


@check("login.path", "the login role starts as itself, on a path that resolves nothing")
def _login_path(patient: Patient) -> Iterator[Finding]:
    for role in patient.present_logins:
        yield from _path(patient, role)


def _path(patient: Patient, role: str) -> Iterator[Finding]:
    settings = patient.ask("login_settings", login=role)
    # Of what is set for the server, the database and the role, the role's own path counts; but one for
    # the role in this database counts more.
    own = [s["value"] for s in settings if s["of_role"] and not s["in_database"] and s["name"] == "search_path"]
    if own != [_LOGIN_PATH]:
        yield Finding(
            Severity.ERROR,
            f"role {role!r} has the default search_path {own[0] if own else 'of the server'!r}: "
            "a statement outside a tenant could find tables",
            f'ALTER ROLE "{role}" SET search_path = {_LOGIN_PATH};',
        )
    for setting in settings:
        closer = setting["of_role"] and setting["in_database"]
        if setting["name"] == "role" or (closer and setting["value"] != _LOGIN_PATH):
            whom, statement = _whose(setting, role, patient.admin.oneself.database)
            yield Finding(
                Severity.ERROR,
                f"{whom} has the setting {setting['name']} = {setting['value']!r}, "
                "which is in force in every new connection",
                f"{statement} RESET {setting['name']};",
            )


def _whose(setting: RowMapping, role: str, database: str) -> tuple[str, str]:
    """Return whose a setting is, in words and as the statement that changes it."""
    match setting["of_role"], setting["in_database"]:
        case True, True:
            place = f"ALTER ROLE {quoted(role)} IN DATABASE {quoted(database)}"
            return f"role {role!r} in database {database!r}", place
        case True, False:
            return f"role {role!r}", f"ALTER ROLE {quoted(role)}"
        case False, True:
            return f"database {database!r}", f"ALTER DATABASE {quoted(database)}"
        case _:
            return "every role of the server", "ALTER ROLE ALL"


@check("login.rights", "the login role has no rights on any schema")
def _login_rights(patient: Patient) -> Iterator[Finding]:
    for role in patient.present_logins:
        yield from _rights(patient, role)


def _rights(patient: Patient, role: str) -> Iterator[Finding]:
    for row in patient.ask("login_schemas", login=role):
        yield Finding(
            Severity.ERROR,
            f"role {role!r} may use schema {row['nspname']!r} without taking a tenant's role",
            f'REVOKE ALL ON SCHEMA {quoted(row["nspname"])} FROM PUBLIC, "{role}";',
        )
    for row in patient.ask("login_catalog", login=role):
        yield Finding(
            Severity.ERROR,
            f"role {role!r} has {row['rights']} on {row['kind'].lower()} {row['object']} of the catalog: "
            "it could read or change where tenants live",
            # It keeps USAGE of the schema, which resolve() needs.
            f"REVOKE {'CREATE' if row['kind'] == 'SCHEMA' else 'ALL'} ON {row['kind']} {row['object']} "
            f'FROM PUBLIC, "{role}";',
        )


@check("login.database", "the login role may connect, and no more")
def _login_database(patient: Patient) -> Iterator[Finding]:
    for role in patient.present_logins:
        yield from _database(patient, role)


def _database(patient: Patient, role: str) -> Iterator[Finding]:
    database = patient.admin.oneself.database
    rights = patient.ask("login_database", login=role)[0]
    for word in ("TEMP", "CREATE"):
        if rights["temp" if word == "TEMP" else "may_create"]:
            yield Finding(
                Severity.ERROR,
                f"role {role!r} has {word} on database {database!r}"
                + (": a temporary table outlives its tenant on a pooled connection" if word == "TEMP" else ""),
                f'REVOKE {word} ON DATABASE {quoted(database)} FROM PUBLIC, "{role}";',
            )
    if not rights["may_connect"]:
        yield Finding(
            Severity.ERROR,
            f"role {role!r} may not connect",
            f'GRANT CONNECT ON DATABASE {quoted(database)} TO "{role}";',
        )


@check("login.memberships", "the login role may take tenants' roles only, inherits from none and administers none")
def _memberships(patient: Patient) -> Iterator[Finding]:
    for login in patient.present_logins:
        with patient.catalog():
            rows = patient.ask("login_memberships_16" if patient.modern else "login_memberships_15", login=login)
        yield from _beyond(login, rows)


def _beyond(login: str, rows: Iterable[RowMapping]) -> Iterator[Finding]:
    for row in rows:
        role, by = row["role"], granted_by(row["grantor"])
        if row["is_of_another_cell"] and not row["is_tenant"]:
            continue  # it was moved; whether it is due is the cells' check
        if not row["is_tenant"]:
            yield Finding(
                Severity.ERROR,
                f"role {login!r} is a member of {role!r}, which is no tenant's role: "
                "whatever that may do, a session may do",
                f'REVOKE {quoted(role)} FROM "{login}"{by};',
            )
            continue
        if row["admin_option"]:
            yield Finding(
                Severity.ERROR,
                f"role {login!r} may grant {role!r} to others",
                f'REVOKE ADMIN OPTION FOR "{role}" FROM "{login}"{by};',
            )
        if row["inherit_option"] or not row["set_option"]:
            what = "has the rights of" if row["inherit_option"] else "may not take"
            yield Finding(
                Severity.ERROR,
                f"role {login!r} {what} {role!r}",
                f'GRANT "{role}" TO "{login}" WITH INHERIT FALSE, SET TRUE{by};',
            )
