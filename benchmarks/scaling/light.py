"""Tenants by the thousand in little time: a role, a schema and a table each, in the catalog as the library has them."""

from __future__ import annotations

from psycopg.sql import Literal

from benchmarks.scaling.ground import FleetInCells, Place
from mt_paas_db.catalog.identifiers import InstallationRoles, parse_tenant_id, tenant_sql_name
from mt_paas_db.catalog.queries import ddl
from mt_paas_db.migrate.message import literal
from tests.fleet import PASSWORD


def grow_light(fleet: FleetInCells, number: int, *, cell_size: int) -> None:
    """Make light tenants until there are `number`, in cells of `cell_size`. Not timed.

    The login of all (`FleetInCells.member`) becomes a member of each tenant's role, too.
    """
    missing = number - len(fleet.places)
    if missing <= 0:
        return
    roles = InstallationRoles(fleet.service.settings().installation)
    major = int(fleet.ask("SHOW server_version_num")[0][0]) // 10_000
    generations = fleet.ask("SELECT nextval('mt_paas.tenant_generation') FROM generate_series(1, %s)", missing)
    new: list[Place] = []
    entries: list[str] = []
    logins: dict[int, str] = {}
    for (generation,) in generations:
        order = len(fleet.places) + len(new)
        cell = order // cell_size
        login = logins.get(cell) or logins.setdefault(cell, _login(fleet, roles, cell))
        tenant_id = f"light-{order:05}"
        schema = tenant_sql_name(roles.installation, parse_tenant_id(tenant_id), generation, opaque=False)
        new.append(Place(tenant_id, schema, login))
        entries.append(f"({generation}, {literal(tenant_id)}, {literal(schema)}, {literal(login)})")
    fleet.send(
        [
            _creation(roles, place, fleet.member, joins="login_joins" if major >= 16 else "login_joins_15")
            for place in new
        ]
    )
    values = ", ".join(entries)
    fleet.ask(
        f"WITH new (generation, tenant_id, schema_name, login_role) AS (VALUES {values}), named AS ("
        "INSERT INTO mt_paas.tenant_name (name, generation, kind) SELECT tenant_id, generation, 'id' FROM new)"
        " INSERT INTO mt_paas.tenant"
        " (generation, tenant_id, display_name, state, cell, schema_name, role_name)"
        " SELECT generation, tenant_id, tenant_id, 'active', cell.name, schema_name, schema_name"
        " FROM new JOIN mt_paas.cell USING (login_role)"
    )
    fleet.places += new
    fleet.settle()


def _login(fleet: FleetInCells, roles: InstallationRoles, number: int) -> str:
    """Return the login role of a cell, which is made where it is not there yet."""
    if number == 0:
        return roles.login
    login = f"{roles.login}_light_{number}"
    if fleet.ask("SELECT 1 FROM mt_paas.cell WHERE login_role = %s", login):
        return login
    database = fleet.service.database
    for statement in (
        ddl("roles", "create_login", login=login),
        ddl("roles", "set_password", login=login, verifier=Literal(PASSWORD)),
        ddl("roles", "login_path", login=login),
        ddl("roles", "login_connects", database=database, login=login),
        ddl("roles", "control_usage", login=login),
        ddl("roles", "control_resolve", login=login),
    ):
        fleet.ask(statement)
    entry = "INSERT INTO mt_paas.cell (name, cluster, login_role) SELECT %s, name, %s FROM mt_paas.cluster"
    fleet.ask(entry, login[-30:], login)
    return login


def _creation(roles: InstallationRoles, place: Place, member: str, *, joins: str) -> str:
    schema = place.schema
    parts = [
        ddl("roles", "create_tenant_role", role=schema),
        ddl("roles", "create_tenant_schema", schema=schema, owner=roles.owner),
        ddl("roles", "tenant_usage", schema=schema, role=schema),
        f'CREATE TABLE "{schema}".note (id integer PRIMARY KEY, author varchar(40) NOT NULL)',
        f'INSERT INTO "{schema}".note VALUES (1, {literal(place.tenant_id)})',
        f'ALTER TABLE "{schema}".note OWNER TO "{roles.owner}"',
        f'GRANT SELECT ON "{schema}".note TO "{schema}"',
        ddl("roles", joins, role=schema, login=place.login),
        ddl("roles", joins, role=schema, login=member),
        ddl("roles", "group_joins", group=roles.group, role=schema),
    ]
    return ";\n".join(parts)
