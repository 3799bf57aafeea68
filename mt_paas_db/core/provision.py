"""Creation: role, schema, tables, first rows.

One transaction, so that a process killed at any step leaves nothing. Revisions that cannot run in one (an
``autocommit_block()``, for CREATE INDEX CONCURRENTLY, say) take three: the tenant is recorded as
``provisioning``, its revisions run, and it becomes active. One that was left in between takes no sessions, and
the next creation of the same id completes it, from an empty schema.

Revisions are compiled where they can be, and travel as one message; only the first tenant that a process creates is
not worth the second that compiling takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import (
    SqlName,
    TenantId,
    TenantName,
    Tier,
    parse_display_name,
    parse_name,
    parse_tenant_id,
    parse_tier,
    tenant_sql_name,
)
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.values import NameKind, Tenant, TenantState
from mt_paas_db.core.admin import ROLE_EXISTS, AdminTransaction, Named
from mt_paas_db.core.blueprint import Blueprint
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.install import DEFAULT_CELL
from mt_paas_db.core.placement import ONE_PLACES_AT_A_TIME, place
from mt_paas_db.core.removal import empty_schema
from mt_paas_db.core.seed import Seed, plant
from mt_paas_db.core.standing import enter, join, join_group
from mt_paas_db.core.tenant_schema import made_schema, make_schema
from mt_paas_db.errors import ConfigurationError, ProvisioningError, TenancyError, TenantExistsError
from mt_paas_db.migrate import message
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.one_transaction import LeavesTransactionError
from mt_paas_db.migrate.script import Script
from mt_paas_db.migrate.scripts import ONE_AT_A_TIME

_NAME_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Order:
    tenant_id: TenantId
    display_name: str | None
    aliases: tuple[TenantName, ...]
    tier: Tier | None
    seed: Seed | None
    actor: str | None


class _UnfinishedError(Exception):
    """A former creation left this tenant behind."""

    def __init__(self, tenant: Tenant) -> None:
        super().__init__(tenant.tenant_id)
        self.tenant = tenant


class Provisioner:
    """Creates tenants of one installation."""

    def __init__(self, changes: Changes, blueprint: Blueprint) -> None:
        self._changes = changes
        self._blueprint = blueprint
        self._in_steps = False  # once a revision has left its transaction, the next tenant's would too
        self._asked = 0
        self._server_version: int | None = None

    def create(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        aliases: Sequence[str] = (),
        tier: Tier | str | None = None,
        seed: Seed | None = None,
        actor: str | None = None,
    ) -> Tenant:
        """Create a tenant; it is active when this returns. Completes one that was left ``provisioning``.

        `TenantManager.create` says what is raised.
        """
        if isinstance(aliases, str):
            raise ConfigurationError(f"aliases is a list of names, not one text; write aliases=[{aliases!r}]")
        order = _Order(
            parse_tenant_id(tenant_id),
            None if display_name is None else parse_display_name(display_name),
            tuple(parse_name(alias) for alias in aliases),
            None if tier is None else parse_tier(tier),
            seed or self._blueprint.seed,
            actor,
        )
        if self._blueprint.empty:
            raise ConfigurationError(
                "neither models nor revisions are known, so a new tenant would have no tables; pass "
                "TenantManager(models=Base.metadata) or set MT_PAAS_DB_MODELS=package.module:Base, or "
                "script_location for Alembic's revisions"
            )
        with self._changes.recorded("create", order.tenant_id, order.actor):
            self._asked += 1
            if self._asked > 1 and self._server_version is not None:
                self.compile(self._server_version)
            if not self._in_steps:
                try:
                    return self._at_once(order)
                except _UnfinishedError as unfinished:
                    return self._complete(order, unfinished.tenant)
                except LeavesTransactionError:
                    self._in_steps = True
            return self._complete(order, self._left_behind(order) or self._begin(order))

    def compile(self, server_version: int) -> None:
        """Compile the revisions, so that the tenants that are created now have theirs in one message.

        Raises `ConfigurationError` where there are none to be found.
        """
        head = self._blueprint.head(server_version)
        if head is not None and head.way == "compiled" and len(head.steps()) > 1:
            self._in_steps = True

    def _left_behind(self, order: _Order) -> Tenant | None:
        with self._changes.as_owner() as step:
            return self._unfinished(registry.find(step.connection, TenantName(order.tenant_id)), order)

    def _unfinished(self, found: Tenant | None, order: _Order) -> Tenant | None:
        """Return `found` if a former creation of this id left it behind. Raises `TenantExistsError` for another."""
        if found is None or found.tenant_id != order.tenant_id:
            return None  # a former id or an alias of another is refused when the name is claimed
        if found.state is not TenantState.PROVISIONING:
            raise TenantExistsError(order.tenant_id)
        if order.tier not in (None, found.placement.tier):
            raise ConfigurationError(
                f"tenant {order.tenant_id!r} was left provisioning at tier {found.placement.tier.value!r}; create it "
                "at that tier, or delete it first"
            )
        return found

    def _at_once(self, order: _Order) -> Tenant:
        with self._turn(), self._changes.beginning(TenantName(order.tenant_id)) as (step, found, generation):
            self._server_version = step.oneself.version
            if left := self._unfinished(found, order):
                raise _UnfinishedError(left)
            tenant, stands = self._make_empty(step, order, TenantState.ACTIVE, generation)
            self._build(step, tenant)
            if order.seed is None:
                join_group(step, tenant, ONE_PLACES_AT_A_TIME)
            else:  # it may take its time, and needs no cell
                join_group(step, tenant)
                plant(step, tenant, self._changes.installation(step), order.seed)
                step.run_all(ONE_PLACES_AT_A_TIME)
            if not stands:
                self._record_revisions(step, tenant)
            tenant = place(step, tenant, size=self._changes.settings.cell_size)
            join(step, tenant)
            return tenant

    def _turn(self) -> AbstractContextManager[Any]:
        """Wait for the turn to run revisions in this process, before any transaction is open.

        One that waited for it in a transaction could hold up the one whose turn it is, whose CREATE INDEX
        CONCURRENTLY waits for transactions.
        """
        runs_revisions = self._blueprint.scripts is not None and self._compiled is None
        return ONE_AT_A_TIME if runs_revisions else nullcontext()

    @property
    def _compiled(self) -> Script | None:
        """The way to the head, where it is known and is one transaction."""
        head = self._blueprint.known_head
        return head if head is not None and head.way == "compiled" and len(head.steps()) == 1 else None

    def _begin(self, order: _Order) -> Tenant:
        with self._changes.as_owner() as step:
            tenant, _ = self._make_empty(step, order, TenantState.PROVISIONING)
            join_group(step, tenant, ONE_PLACES_AT_A_TIME)
            return place(step, tenant, size=self._changes.settings.cell_size)

    def _complete(self, order: _Order, tenant: Tenant) -> Tenant:
        """Build a tenant that is recorded already, and make it active. Its row is locked all the while."""
        with self._turn(), self._changes.as_owner() as step:
            tenant = self._hold(step, tenant)
            self._begin_anew(tenant)
            if self._blueprint.scripts is None:
                self._build(step, tenant)
            else:
                with self._changes.admin.owner_connection(tenant.placement.schema_name) as connection:
                    self._migrate(connection, tenant, in_steps=True)
                step.run_all(_hidden_version_table(tenant))
            if order.display_name is not None:
                registry.run(
                    step.connection,
                    "set_display_name",
                    generation=tenant.generation,
                    display_name=order.display_name,
                )
            for alias in order.aliases:
                if alias not in tenant.aliases:
                    registry.claim(step.connection, alias, tenant.generation, NameKind.ALIAS)
            enter(step, tenant, TenantState.ACTIVE)
            if order.seed is not None:
                plant(step, tenant, self._changes.installation(step), order.seed)
            self._changes.record(step, "create", tenant, order.actor)
            self._record_revisions(step, tenant)
            return registry.get(step.connection, TenantName(order.tenant_id))

    def _hold(self, step: AdminTransaction, tenant: Tenant) -> Tenant:
        """Lock the row of a tenant that is being created, and return the tenant as it is now."""
        try:
            held = registry.lock(step.connection, tenant.generation, nowait=True)
        except DBAPIError as error:
            if sqlstate_of(error) != "55P03":
                raise
            raise TenantExistsError(tenant.tenant_id, "is being created by another process; wait for it") from error
        now = registry.by_generation(step.connection, tenant.generation)
        if not held or now is None or now.state is not TenantState.PROVISIONING:
            raise TenantExistsError(tenant.tenant_id)
        # The server keeps the snapshot of a query with bound values until the next plain statement, and
        # CREATE INDEX CONCURRENTLY on another connection would wait for it for ever.
        step.run("admin_path")
        return now

    def _begin_anew(self, tenant: Tenant) -> None:
        """Give the tenant an empty schema, whatever an earlier attempt left in the old one. Commits."""
        placement = tenant.placement
        empty_schema(self._changes.admin, placement.schema_name)
        with self._changes.as_owner() as step:
            step.run("drop_tenant_schema", schema=placement.schema_name)
            make_schema(step, schema=placement.schema_name, role=placement.role_name)

    # -- the steps, all as the owner

    def _make_empty(
        self, step: AdminTransaction, order: _Order, state: TenantState, generation: int | None = None
    ) -> tuple[Tenant, bool]:
        """Make the role, the schema and the row of a tenant, without tables, and its line in the log.

        Return it, and whether it is recorded already where it will stand in the history. At tier `role` it is recorded
        in the first cell for now: where it stays is decided at the end.
        """
        connection = step.connection
        active, scripts = state is TenantState.ACTIVE, self._blueprint.scripts
        generation, name, login = self._make_roles_and_schema(step, order, generation)
        if login is not None:
            registry.run(connection, "insert_cell", name=login, cluster=step.cluster, login_role=login)
        try:
            tenant, stands = registry.insert_tenant(
                connection,
                tenant_id=order.tenant_id,
                generation=generation,
                display_name=order.tenant_id if order.display_name is None else order.display_name,
                state=state,
                cell=DEFAULT_CELL if login is None else login,
                sql_name=name,
                actor=order.actor or step.oneself.name,
                outcome="done" if active else "started",
                heads=scripts.heads if active and scripts is not None else None,
                applied=self._blueprint.closure,
            )
        except IntegrityError as error:
            raise TenantExistsError(order.tenant_id) from error
        for alias in order.aliases:
            registry.claim(connection, alias, generation, NameKind.ALIAS)
        return (registry.get(connection, TenantName(order.tenant_id)) if order.aliases else tenant), stands

    def _make_roles_and_schema(
        self, step: AdminTransaction, order: _Order, drawn: int | None
    ) -> tuple[int, SqlName, SqlName | None]:
        """Return a new tenant's generation, the name of its role and schema, and its own login where it has one.

        The generation is `drawn`, if it was drawn already and its names are free.
        """
        installation, tenant_id = self._changes.installation(step), order.tenant_id
        tier = order.tier or self._changes.settings.tier
        for _ in range(_NAME_ATTEMPTS):
            generation = drawn or registry.next_generation(step.connection)
            drawn = None
            name = tenant_sql_name(step.roles.installation, tenant_id, generation, opaque=installation.opaque_names)
            roles: list[Named] = [("create_tenant_role", {"role": name})]
            login = step.roles.another_login(generation) if tier is Tier.LOGIN else None
            if login is not None:
                step.password_of(step.cluster, login, tier=Tier.LOGIN)  # or there are no credentials for it
                roles.append(("create_own_login", {"login": login}))
            try:
                step.run_all(
                    ("before_role", {}),
                    *step.by_oneself(*roles),
                    *made_schema(step, schema=name, role=name),
                    ("with_role", {}),
                )
            except DBAPIError as error:
                if sqlstate_of(error) not in ROLE_EXISTS:  # another installation's role of this name
                    raise
                step.run("without_role")
                continue
            return generation, name, login
        raise ProvisioningError(
            tenant_id, f"{_NAME_ATTEMPTS} role names in a row were taken on this server, the last {name!r}"
        )

    def _build(self, step: AdminTransaction, tenant: Tenant) -> None:
        """Make the tables, in the step's transaction. Raises `LeavesTransactionError` where that cannot be."""
        into_schema = ("tenant_path", {"schema": tenant.placement.schema_name})
        if self._compiled is not None:
            self._send(step, tenant, self._compiled)
        elif self._blueprint.scripts is not None:
            step.run_all(into_schema)
            self._migrate(step.connection, tenant, in_steps=False)
            step.run_all(_hidden_version_table(tenant), _OUT_OF_SCHEMA)
        elif self._blueprint.models is not None:
            # The driver would halve the percent signs that are doubled for it; in one message with others it does not.
            statements = self._blueprint.models.tenant_ddl(step.connection.dialect).replace("%%", "%")
            try:
                step.run_all(into_schema, statements, _OUT_OF_SCHEMA)
            except DBAPIError as error:
                raise ProvisioningError(
                    tenant.tenant_id,
                    f"the models' DDL failed, nothing was created: {str(error.orig).strip().splitlines()[0]}",
                ) from error

    def _send(self, step: AdminTransaction, tenant: Tenant, head: Script) -> None:
        """Send all revisions as one message, and what makes the version table say so."""
        placement = tenant.placement
        target = Target(
            tenant.generation,
            tenant.tenant_id,
            tenant.state,
            placement.credentials,
            placement.schema_name,
            placement.role_name,
        )
        try:
            step.run_all(
                ("tenant_path", {"schema": placement.schema_name}),
                message.version_table(target),
                *head.statements(),
                *(statement.text for statement in message.version(target, (), head.end)),
                _hidden_version_table(tenant),
                _OUT_OF_SCHEMA,
            )
        except DBAPIError as error:
            assert self._blueprint.scripts is not None
            raise ProvisioningError(
                tenant.tenant_id,
                f"a revision of {self._blueprint.scripts.location!r} failed, nothing was created: "
                f"{type(error.orig).__name__}: {str(error.orig).strip().splitlines()[0]}",
            ) from error

    def _migrate(self, connection: Connection, tenant: Tenant, *, in_steps: bool) -> None:
        scripts = self._blueprint.scripts
        assert scripts is not None
        try:
            if in_steps:
                scripts.upgrade_in_steps(connection)
            else:
                scripts.upgrade(connection)
        except (LeavesTransactionError, TenancyError):
            raise
        except Exception as error:  # a revision is the service's own code
            what = str(getattr(error, "orig", error)).strip().splitlines() or [""]
            outcome = (
                "the tenant is left provisioning; mend the revision and create it again"
                if in_steps
                else "nothing was created"
            )
            raise ProvisioningError(
                tenant.tenant_id,
                f"a revision of {scripts.location!r} failed, {outcome}: {type(error).__name__}: {what[0]}",
            ) from error

    def _record_revisions(self, step: AdminTransaction, tenant: Tenant) -> None:
        if (scripts := self._blueprint.scripts) is not None:
            registry.record_revisions(step.connection, tenant.generation, scripts.heads, self._blueprint.closure)


_OUT_OF_SCHEMA: Named = ("admin_path", {})


def _hidden_version_table(tenant: Tenant) -> Named:
    return ("hide_version_table", {"schema": tenant.placement.schema_name, "role": tenant.placement.role_name})
