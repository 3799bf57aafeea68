"""``init``: claim the installation's name, make its roles, create or upgrade its catalog.

One transaction; a second run changes nothing, a killed one leaves nothing.
"""

from __future__ import annotations

from typing import Any

from psycopg.sql import Literal
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url
from mt_paas_db.catalog.queries import ddl
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import CATALOG_VERSION, Installation
from mt_paas_db.core.admin import ROLE_EXISTS, Admin, AdminTransaction
from mt_paas_db.core.cell_logins import keep_login
from mt_paas_db.core.models import Models
from mt_paas_db.core.tenant_schema import grant_schema, make_schema
from mt_paas_db.errors import ConfigurationError, InstallationTakenError
from mt_paas_db.migrate.catalog import catalog_version, upgrade_catalog

DEFAULT_CELL = "default"
CACHE_BOUND_S = 60


def initialize(
    admin: Admin, settings: Settings, credentials: CredentialProvider, models: Models | None
) -> Installation:
    """Create or upgrade the installation; return it as it is now.

    Raises:
        InstallationTakenError: The name, or this database, belongs to another installation.
        ConfigurationError: The app DSN logs in as another role than ``<installation>_app``.
        MissingRightsError, ServerUnavailableError: As `Admin.transaction` says.
    """
    app = cluster_url(credentials, admin.cluster, "app")
    if app.username != admin.roles.login:
        raise ConfigurationError(
            f"the app DSN of cluster {admin.cluster!r} logs in as {app.username!r}; "
            f"sessions of this installation use the role {admin.roles.login!r}"
        )
    with admin.transaction() as step:
        first = _claim(step, admin.cluster, settings.installation)
        _make_roles(step, app.password, admin.cluster, first=first)
        _close_database(step)
        _make_reference(step, admin.cluster)
        with step.as_owner() as connection:
            found = catalog_version(connection)
            if found is not None and found > CATALOG_VERSION:  # any older one is upgraded
                registry.check_version(found, cluster=admin.cluster)
            if found is None or found < CATALOG_VERSION:
                upgrade_catalog(connection)  # a newer one is left as it is: another process is ahead of us
            _keep_cells(step, admin.cluster)
            step.run("control_usage", login=step.roles.login)
            step.run("control_resolve", login=step.roles.login)
            _answer_policies(step)
            _record_installation(step, settings)
            for schema in settings.shared_schemas:
                _share(step, schema, admin.cluster)
            if models is not None:
                models.create_shared(connection)
            return registry.installation(connection, cluster=admin.cluster)


def _keep_cells(step: AdminTransaction, cluster: str) -> None:
    """Give the logins of all cells what they are to have, and the passwords that the present credentials say.

    Of what is derived from the app DSN's password, nobody else notices that it has changed. One that was lost is made
    again. The first cell's login is made before, and keeps its password.
    """
    for cell in registry.shared_cells(step.connection, cluster=cluster):
        if cell.login_role != step.roles.login:
            with step.as_oneself():
                keep_login(step, cell)


def _answer_policies(step: AdminTransaction) -> None:
    """Let tenants' roles ask which tenant they are, which policies and defaults do for them."""
    step.connection.exec_driver_sql(ddl("policies", "tenants_may_ask", group=step.roles.group))


def _claim(step: AdminTransaction, cluster: str, name: str) -> bool:
    """Return whether the name was claimed now, and not before."""
    owner = step.roles.owner
    step.run("one_init_at_a_time")
    holder = step.ask("schema_owner", schema="mt_paas")
    if holder is not None and holder != owner:
        raise InstallationTakenError(
            cluster,
            f"database {step.oneself.database!r} holds the catalog of another installation, owned by {holder!r}; "
            f"give {name!r} a database of its own",
        )
    if holder is None:
        try:
            with step.connection.begin_nested():
                step.run("create_owner", owner=owner)
        except DBAPIError as error:
            if sqlstate_of(error) not in ROLE_EXISTS:
                raise
            claimed_by = step.ask("role_comment", role=owner) or "a role that mt_paas_db did not make"
            raise InstallationTakenError(
                cluster,
                f"the installation name {name!r} is taken on this server: role {owner!r} exists ({claimed_by}); "
                "choose another name",
            ) from error
        description = f"mt_paas_db installation {name} in database {step.oneself.database}"
        step.run("comment_owner", owner=owner, description=Literal(description))
    return holder is None


def _make_roles(step: AdminTransaction, password: Any, cluster: str, *, first: bool) -> None:
    roles = step.roles
    if _missing(step, roles.group, cluster, first=first):
        step.run("create_group", group=roles.group)
    if _missing(step, roles.login, cluster, first=first):
        step.run("create_login", login=roles.login)
        if password is not None:
            step.run_all(step.set_password(roles.login, str(password), stable=True))
    else:
        step.run("login_inherits_nothing", login=roles.login)
    step.run("login_path", login=roles.login)
    if not step.oneself.rolsuper:
        step.run("admin_takes_role", role=roles.owner)


def _make_reference(step: AdminTransaction, cluster: str) -> None:
    """Make a role and a schema as a tenant has them, which no login may take and no tenant of the catalog has.

    Where only one of them was lost, it is made again and gets its rights back.
    """
    roles = step.roles
    holder = step.ask("schema_owner", schema=roles.reference)
    if holder not in (None, roles.owner):
        raise InstallationTakenError(
            cluster, f"schema {roles.reference!r} exists and belongs to {holder!r}; rename it, then run init again"
        )
    if _missing(step, roles.reference, cluster, first=holder is None, expected=f"member of {roles.group}"):
        step.run("create_tenant_role", role=roles.reference)
    if not step.ask("may_take", login=roles.reference, role=roles.group):
        step.run("group_joins", group=roles.group, role=roles.reference)
    with step.as_owner():
        settle = make_schema if holder is None else grant_schema
        settle(step, schema=roles.reference, role=roles.reference)


def _missing(step: AdminTransaction, role: str, cluster: str, *, first: bool, expected: str | None = None) -> bool:
    """Return whether `role` is still to be made. One that a first `init` finds may be used if it has no powers,
    but for what is `expected`: a login with its password, say, made by those who manage the server.
    """
    powers = step.ask("role_powers", role=role)
    if powers is None:
        return True
    powers = [power for power in powers if power != expected]
    if powers and first:
        raise InstallationTakenError(
            cluster,
            f"role {role!r} exists already, with powers that would undo the isolation ({', '.join(powers)}); "
            "drop it or take them away, then run init again",
        )
    return False


def _close_database(step: AdminTransaction) -> None:
    database = step.oneself.database
    step.run("close_database", database=database)
    if step.ask("schema_owner", schema="public") is not None:
        step.run("close_public")
    step.run("login_connects", database=database, login=step.roles.login)
    step.run("group_connects", database=database, group=step.roles.group)
    step.run("owner_creates", database=database, owner=step.roles.owner)
    step.run("owner_functions", owner=step.roles.owner)
    step.run("create_control_schema", owner=step.roles.owner)


def _record_installation(step: AdminTransaction, settings: Settings) -> None:
    connection = step.connection
    registry.run(
        connection,
        "insert_installation",
        name=settings.installation,
        opaque_names=settings.opaque_names,
        shared_schemas=list(settings.shared_schemas),
        cache_bound_s=CACHE_BOUND_S,
    )
    for cluster in {settings.home_cluster, *settings.clusters}:
        registry.run(connection, "upsert_cluster", name=cluster, credentials=cluster)
    registry.run(
        connection,
        "insert_cell",
        name=DEFAULT_CELL,
        cluster=settings.home_cluster,
        login_role=step.roles.login,
    )


def _share(step: AdminTransaction, schema: str, cluster: str) -> None:
    roles = step.roles
    if schema == roles.reference:
        raise ConfigurationError(
            f"shared schema {schema!r} has the name of the schema that tenants are compared with; choose another name"
        )
    if registry.is_tenant_schema(step.connection, schema):
        raise ConfigurationError(f"shared schema {schema!r} is a tenant's own; sharing it would open it to all")
    holder = step.ask("schema_owner", schema=schema)
    if holder not in (None, roles.owner):
        raise InstallationTakenError(cluster, f"shared schema {schema!r} exists and belongs to {holder!r}")
    step.run("create_shared_schema", schema=schema, owner=roles.owner)
    step.run("shared_usage", schema=schema, group=roles.group)
    step.run("shared_defaults", schema=schema, owner=roles.owner, group=roles.group)
