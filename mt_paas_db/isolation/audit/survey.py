"""Looks at a server: one transaction REPEATABLE READ, READ ONLY, in which every query sees the same state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, NullPool, RowMapping, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url
from mt_paas_db.catalog.identifiers import InstallationRoles
from mt_paas_db.catalog.queries import ddl, queries
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Tenant
from mt_paas_db.core.admin import MINIMUM_VERSION
from mt_paas_db.core.placement import FIRST_VERSION
from mt_paas_db.errors import CatalogMissingError, MissingRightsError
from mt_paas_db.session.faults import connection_fault

TenantColumns = Mapping[tuple[str, str], str]
"""By schema and table, the column that says whose a row is."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What belongs to the installation, as its catalog says; whether it has guards, as the settings do.

    `logins` are what tenants connect as that share a cell, and what they lately did. `moving` are the roles of tenants
    whose former login some process may still remember.
    """

    roles: InstallationRoles
    shared_schemas: tuple[str, ...]
    tenants: tuple[Tenant, ...]
    guards: bool = False
    logins: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()

    def of(self, entry: str) -> Scope:
        """Return the part of it that is on the cluster with these credentials."""
        here = tuple(tenant for tenant in self.tenants if tenant.placement.credentials == entry)
        return replace(self, tenants=here)


class Survey:
    """A server under the audit's eyes. Asks the queries of ``sql/audit.sql``."""

    def __init__(self, connection: Connection, cluster: str) -> None:
        self.connection = connection
        self.cluster = cluster

    @cached_property
    def server(self) -> RowMapping:
        """``version`` as ``server_version_num``, ``release`` as ``server_version``."""
        return self.connection.execute(text(queries("audit")["server"])).mappings().one()

    def scope(self, settings: Settings) -> Scope:
        """Read from the catalog, as its owner, whose this is and where its tenants are.

        Raises `CatalogMissingError`, `CatalogVersionError`, `MissingRightsError`.
        """
        installation = settings.installation
        roles = InstallationRoles(installation)
        try:
            self.connection.exec_driver_sql(ddl("roles", "act_as", role=roles.owner))
        except DBAPIError as error:
            if sqlstate_of(error) == "22023":
                raise CatalogMissingError(self.cluster, f"this server has no installation {installation!r}") from error
            if sqlstate_of(error) == "42501":
                raise MissingRightsError(
                    self.cluster, f"the admin's role may not act as {roles.owner!r}, and so not read the catalog"
                ) from error
            raise
        found = registry.installation(self.connection, cluster=self.cluster)
        tenants = tuple(registry.tenants(self.connection))
        logins = tuple(registry.all_logins(self.connection, login=roles.login))
        moving = tuple(registry.moving(self.connection)) if found.catalog_version >= FIRST_VERSION else ()
        self.connection.exec_driver_sql(ddl("roles", "act_as_oneself"))
        return Scope(roles, found.shared_schemas, tenants, settings.guards, logins, moving)

    def ask(self, name: str, scope: Scope, tenant_columns: TenantColumns) -> Sequence[RowMapping]:
        """Return the rows of a query, of which `ground` is the beginning."""
        ground = queries("audit")["ground"]
        statement = text(f"WITH {ground}\nSELECT * FROM (\n{queries('audit')[name]}\n) AS found")
        wanted = statement.compile().params
        values = {**self._values(scope, tenant_columns), "modern": self.server["version"] >= 160_000}
        return self.connection.execute(statement, {key: values[key] for key in wanted}).mappings().all()

    @staticmethod
    def _values(scope: Scope, tenant_columns: TenantColumns) -> dict[str, Any]:
        roles, tenants = scope.roles, scope.tenants
        return {
            "installation": roles.installation,
            "owner": roles.owner,
            "group": roles.group,
            "reference": roles.reference,
            "logins": sorted({roles.login, *scope.logins}),
            "moving": list(scope.moving),
            "shared": list(scope.shared_schemas),
            "tenant_ids": [tenant.tenant_id for tenant in tenants],
            "schemas": [tenant.placement.schema_name for tenant in tenants],
            "role_names": [tenant.placement.role_name for tenant in tenants],
            "states": [str(tenant.state) for tenant in tenants],
            "login_roles": [tenant.placement.login_role for tenant in tenants],
            "guards": scope.guards,
            "declared_schemas": [schema for schema, _ in tenant_columns],
            "declared_tables": [table for _, table in tenant_columns],
            "declared_columns": list(tenant_columns.values()),
        }


@contextmanager
def surveyed(settings: Settings, credentials: CredentialProvider, entry: str) -> Iterator[Survey]:
    """Open the transaction with the admin DSN of `entry`; it is rolled back when the block ends.

    Raises `ServerUnavailableError`, `MissingRightsError` (before PostgreSQL 15) and `ConfigurationError`.
    """
    url = cluster_url(credentials, entry, "admin").set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        poolclass=NullPool,
        isolation_level="REPEATABLE READ",
        connect_args={"connect_timeout": max(1, round(settings.connect_timeout_s)), "prepare_threshold": None},
    )
    try:
        connection = engine.connect().execution_options(postgresql_readonly=True)
    except OperationalError as error:
        fault = error.orig or error
        assert isinstance(fault, Exception)
        raise connection_fault(fault, cluster=entry, url=url, dsn="admin DSN") from error
    with connection, connection.begin() as transaction:
        # To compile such queries to machine code takes longer than to run them.
        connection.exec_driver_sql("SET LOCAL jit = off; SET LOCAL search_path = pg_catalog, pg_temp")
        survey = Survey(connection, entry)
        if survey.server["version"] < MINIMUM_VERSION * 10_000:
            raise MissingRightsError(entry, f"PostgreSQL {MINIMUM_VERSION} or newer is needed")
        yield survey
        transaction.rollback()
    engine.dispose()
