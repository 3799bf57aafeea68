"""What happens to a tenant: each verb is one transaction, recorded in the lifecycle log.

A verb locks the tenant's row first and roles after it. A verb that fails leaves everything as it was, and
its failure in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy.exc import DBAPIError, IntegrityError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import (
    SqlName,
    TenantId,
    TenantName,
    parse_display_name,
    parse_name,
    parse_tenant_id,
    tenant_sql_name,
)
from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Event, Installation, NameKind, Tenant, TenantState
from mt_paas_db.core.admin import ROLE_EXISTS, Admin, AdminTransaction
from mt_paas_db.core.install import DEFAULT_CELL
from mt_paas_db.core.models import Models
from mt_paas_db.core.transitions import transition
from mt_paas_db.errors import (
    ConfigurationError,
    ConfirmationError,
    MissingRightsError,
    NameReservedError,
    ProvisioningError,
    TenancyError,
    TenantExistsError,
    UnknownAliasError,
)

_NAME_ATTEMPTS = 5


class _Change:
    """A tenant being changed: as it was, and, once the block has ended, as it is then."""

    def __init__(self, step: AdminTransaction, tenant: Tenant) -> None:
        self.step = step
        self.tenant = tenant
        self.after = tenant

    def read_again(self) -> None:
        """Read the tenant in the same transaction: after the commit there is nothing left that could fail."""
        self.after = registry.by_generation(self.step.connection, self.tenant.generation) or self.tenant


class Lifecycle:
    """The verbs. All need the admin DSN; none is on the path of a session."""

    def __init__(self, admin: Admin, settings: Settings, models: Models | None) -> None:
        self._admin = admin
        self._settings = settings
        self._models = models

    def create(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        aliases: Sequence[str] = (),
        actor: str | None = None,
    ) -> Tenant:
        """Create a tenant with its role, schema and tables; it is active when this returns.

        Raises:
            InvalidIdentifierError: The id or an alias is malformed.
            TenantExistsError: The id is in use; of several concurrent creations one succeeds.
            NameReservedError: The id or an alias belongs to another tenant, now or (an id) formerly.
            ProvisioningError: The models' DDL failed.
        """
        parsed = parse_tenant_id(tenant_id)
        if isinstance(aliases, str):
            raise ConfigurationError(f"aliases is a list of names, not one text; write aliases=[{aliases!r}]")
        names = [parse_name(alias) for alias in aliases]
        shown = parse_display_name(parsed if display_name is None else display_name)
        if self._models is None:
            raise ConfigurationError(
                "no models are known, so a new tenant would have no tables; pass TenantManager(models=Base.metadata) "
                "or set MT_PAAS_DB_MODELS=package.module:Base"
            )
        with self._recorded("create", parsed, actor), self._admin.transaction() as step:
            with step.as_owner():
                installation = self._own_installation(step)
            generation, sql_name = self._make_role(step, installation, parsed)
            with step.as_owner() as connection:
                try:
                    registry.insert_tenant(
                        connection,
                        tenant_id=parsed,
                        generation=generation,
                        display_name=shown,
                        cell=DEFAULT_CELL,
                        sql_name=sql_name,
                    )
                except IntegrityError as error:
                    raise TenantExistsError(parsed) from error
                registry.claim(connection, parsed, generation, NameKind.ID)
                for name in names:
                    registry.claim(connection, name, generation, NameKind.ALIAS)
                self._make_schema(step, parsed, sql_name, self._models)
                registry.run(
                    connection,
                    "set_state",
                    generation=generation,
                    state=TenantState.ACTIVE,
                    state_reason=None,
                )
                registry.record(
                    connection,
                    action="create",
                    tenant_id=parsed,
                    generation=generation,
                    actor=self._who(step, actor),
                )
                created = registry.get(connection, TenantName(parsed))
        return created

    def _make_role(
        self, step: AdminTransaction, installation: Installation, tenant_id: TenantId
    ) -> tuple[int, SqlName]:
        roles = step.roles
        for _ in range(_NAME_ATTEMPTS):
            with step.as_owner() as connection:
                generation = registry.next_generation(connection)
            sql_name = tenant_sql_name(roles.installation, tenant_id, generation, opaque=installation.opaque_names)
            try:
                with step.connection.begin_nested():
                    step.run("create_tenant_role", role=sql_name)
            except DBAPIError as error:
                if sqlstate_of(error) not in ROLE_EXISTS:  # another installation's role of this name
                    raise
                continue
            step.run("group_joins", group=roles.group, role=sql_name)
            self._join(step, sql_name)
            return generation, sql_name
        raise ProvisioningError(
            tenant_id,
            f"{_NAME_ATTEMPTS} role names in a row were taken on this server, the last {sql_name!r}",
        )

    def _make_schema(self, step: AdminTransaction, tenant_id: TenantId, name: SqlName, models: Models) -> None:
        owner = step.roles.owner
        step.run("create_tenant_schema", schema=name, owner=owner)
        step.run("tenant_usage", schema=name, role=name)
        for grant in ("tenant_tables", "tenant_sequences", "tenant_functions"):
            step.run(grant, owner=owner, schema=name, role=name)
        step.run("tenant_path", schema=name)
        statements = models.tenant_ddl(step.connection.dialect)
        if statements:
            try:
                step.connection.exec_driver_sql(statements)
            except DBAPIError as error:
                raise ProvisioningError(
                    tenant_id,
                    f"the models' DDL failed, nothing was created: {str(error.orig).strip().splitlines()[0]}",
                ) from error
        step.run("admin_path")

    def get(self, tenant_id: str) -> Tenant:
        """Return a tenant by its id or an alias. Raises `UnknownTenantError`."""
        name = parse_name(tenant_id)
        with self._admin.transaction() as step, step.as_owner() as connection:
            self._own_installation(step)
            return registry.get(connection, name)

    def tenants(self, *, state: TenantState | None = None) -> list[Tenant]:
        """Return all tenants, or those in one state, in the order of their ids."""
        if state is not None and state not in TenantState:
            raise ConfigurationError(f"{state!r} is no state; there are {', '.join(TenantState)}")
        with self._admin.transaction() as step, step.as_owner() as connection:
            self._own_installation(step)
            return list(registry.tenants(connection, state=state))

    def events(self, tenant_id: str | None = None, *, limit: int = 100) -> list[Event]:
        """Return the newest lines of the lifecycle log, newest first.

        With a tenant's id or alias: all that happened to this tenant under whatever name, and what was
        tried under this name.
        """
        if limit < 1:
            raise ConfigurationError(f"limit must be at least 1, not {limit}")
        name = parse_name(tenant_id) if tenant_id is not None else None
        with self._admin.transaction() as step, step.as_owner() as connection:
            self._own_installation(step)
            return registry.events(connection, name=name, limit=limit)

    def suspend(self, tenant_id: str, *, reason: str = "other", actor: str | None = None) -> Tenant:
        """Suspend a tenant: the server refuses its role from the next transaction of any process on.

        The login role loses its membership of the tenant's role; data and rights stay as they are.
        """
        with self._changing("suspend", tenant_id, actor, detail={"reason": reason}) as change:
            step, tenant = change.step, change.tenant
            registry.run(
                step.connection,
                "set_state",
                generation=tenant.generation,
                state=transition(tenant.tenant_id, tenant.state, "suspend"),
                state_reason=reason,
            )
            step.run("act_as_oneself")
            self._leave(step, tenant)
            step.run("act_as", role=step.roles.owner)
        return change.after

    def resume(self, tenant_id: str, *, actor: str | None = None) -> Tenant:
        """Give a suspended tenant back."""
        with self._changing("resume", tenant_id, actor) as change:
            step, tenant = change.step, change.tenant
            registry.run(
                step.connection,
                "set_state",
                generation=tenant.generation,
                state=transition(tenant.tenant_id, tenant.state, "resume"),
                state_reason=None,
            )
            step.run("act_as_oneself")
            self._join(step, SqlName(tenant.placement.role_name))
            step.run("act_as", role=step.roles.owner)
        return change.after

    def rename(self, tenant_id: str, new_id: str, *, actor: str | None = None) -> Tenant:
        """Change a tenant's id. Schema and role stay; the old id leads to this tenant for ever.

        Raises `NameReservedError` where the new id belongs, or belonged, to another tenant.
        """
        parsed = parse_tenant_id(new_id)
        with self._changing("rename", tenant_id, actor, detail={"to": parsed}) as change:
            tenant = change.tenant
            if parsed != tenant.tenant_id:
                connection = change.step.connection
                # First the tenant's row and then the names, as create does: another order could deadlock.
                try:
                    registry.run(connection, "set_tenant_id", tenant_id=parsed, generation=tenant.generation)
                except IntegrityError as error:
                    raise NameReservedError(parsed, f"it is the id of tenant {parsed!r}") from error
                registry.run(connection, "retire_id", name=tenant.tenant_id, generation=tenant.generation)
                registry.claim(connection, parsed, tenant.generation, NameKind.ID)
        return change.after

    def add_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """Let `alias`, a host name or an old name, lead to the tenant. Raises `NameReservedError`."""
        name = parse_name(alias)
        with self._changing("add_alias", tenant_id, actor, detail={"alias": name}) as change:
            registry.claim(change.step.connection, name, change.tenant.generation, NameKind.ALIAS)
        return change.after

    def release_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """Take an alias away. It leads nowhere at once, and may be claimed anew after twice the cache bound.

        Raises `UnknownAliasError` where the tenant has no such alias.
        """
        name = parse_name(alias)
        with self._changing("release_alias", tenant_id, actor, detail={"alias": name}) as change:
            tenant = change.tenant
            if not registry.run(change.step.connection, "release_alias", name=name, generation=tenant.generation):
                raise UnknownAliasError(tenant.tenant_id, name)
        return change.after

    def delete(self, tenant_id: str, *, confirm: str | None, actor: str | None = None) -> None:
        """Drop a suspended tenant: schema, role, names. `confirm` must repeat its present id.

        A tenant created later under the same id has another generation, hence another role and schema.
        """
        with self._changing("delete", tenant_id, actor) as change:
            step, tenant = change.step, change.tenant
            transition(tenant.tenant_id, tenant.state, "delete")
            if confirm != tenant.tenant_id:
                raise ConfirmationError(tenant.tenant_id, confirm)
            name = tenant.placement.schema_name
            if step.ask("schema_owner", schema=name) is not None:
                step.run("drop_tenant_schema", schema=name)
            registry.run(step.connection, "delete_names", generation=tenant.generation)
            registry.run(step.connection, "delete_tenant", generation=tenant.generation)
            step.run("act_as_oneself")
            if step.ask("role_exists", role=name):
                if not step.oneself.rolsuper:
                    step.run("admin_takes_role", role=name)
                step.run("drop_tenant_owned", role=name)
                step.run("drop_tenant_role", role=name)
            step.run("act_as", role=step.roles.owner)

    # -- shared by the verbs

    @contextmanager
    def _changing(
        self, action: str, tenant_id: str, actor: str | None, *, detail: dict[str, str] | None = None
    ) -> Iterator[_Change]:
        """Open a transaction as the owner, with the tenant's row locked; record the action at its end."""
        name = parse_name(tenant_id)
        with (
            self._recorded(action, name, actor, detail=detail),
            self._admin.transaction() as step,
            step.as_owner() as connection,
        ):
            self._own_installation(step)
            tenant = registry.get(connection, name, lock=True)
            change = _Change(step, tenant)
            yield change
            registry.record(
                connection,
                action=action,
                tenant_id=tenant.tenant_id,
                generation=tenant.generation,
                actor=self._who(step, actor),
                detail=detail,
            )
            change.read_again()

    @contextmanager
    def _recorded(
        self, action: str, name: str, actor: str | None, *, detail: dict[str, str] | None = None
    ) -> Iterator[None]:
        """Record an action that failed, in a transaction of its own, and let its error go on."""
        try:
            yield
        except (TenancyError, DBAPIError) as error:
            with (
                suppress(TenancyError, DBAPIError),  # the error at hand is the one to report
                self._admin.transaction() as step,
                step.as_owner() as connection,
            ):
                registry.record(
                    connection,
                    action=action,
                    tenant_id=name,
                    generation=None,
                    actor=self._who(step, actor),
                    outcome="failed",
                    detail={**(detail or {}), "error": type(error).__name__, "message": str(error)[:500]},
                )
            raise

    def _who(self, step: AdminTransaction, actor: str | None) -> str:
        return actor or step.oneself.name

    def _own_installation(self, step: AdminTransaction) -> Installation:
        holder = step.ask("schema_owner", schema="mt_paas")
        if holder not in (None, step.roles.owner):
            raise ConfigurationError(
                f"database {step.oneself.database!r} of cluster {self._admin.cluster!r} holds the catalog of another "
                f"installation, owned by {holder!r}; the settings say {self._settings.installation!r}"
            )
        installation = registry.installation(step.connection, cluster=self._admin.cluster)
        if installation.name != self._settings.installation:
            raise ConfigurationError(
                f"the catalog of cluster {self._admin.cluster!r} belongs to installation {installation.name!r}, "
                f"the settings say {self._settings.installation!r}"
            )
        return installation

    @staticmethod
    def _join(step: AdminTransaction, role: SqlName) -> None:
        statement = "login_joins" if step.oneself.version >= 160_000 else "login_joins_15"
        step.run(statement, role=role, login=step.roles.login)

    def _leave(self, step: AdminTransaction, tenant: Tenant) -> None:
        role, login = tenant.placement.role_name, tenant.placement.login_role
        if not step.ask("role_exists", role=role):
            return  # lost behind our back; nobody can take it
        if step.oneself.version >= 160_000:
            grantors = step.connection.execute(query("roles", "grantors"), {"role": role, "login": login}).scalars()
            for grantor in list(grantors):
                step.run("login_leaves", role=role, login=login, grantor=grantor)
        else:
            step.run("login_leaves_15", role=role, login=login)
        if step.ask("may_take", role=role, login=login):
            raise MissingRightsError(
                self._admin.cluster,
                f"tenant {tenant.tenant_id!r} was not suspended: {login!r} is still a member of {role!r}, "
                "through another role or a grant that this admin may not revoke",
            )
