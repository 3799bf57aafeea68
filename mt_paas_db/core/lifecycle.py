"""What happens to a tenant: each verb is one transaction, recorded in the lifecycle log; deletion is several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.exc import IntegrityError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import Tier, parse_name, parse_tenant_id, parse_tier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Event, NameKind, SuspensionReason, Tenant, TenantState
from mt_paas_db.core import removal
from mt_paas_db.core.admin import Admin
from mt_paas_db.core.blueprint import Blueprint
from mt_paas_db.core.bulk import Created, NewTenant, check, create_all
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.progress import Listener, unheard
from mt_paas_db.core.provision import Provisioner
from mt_paas_db.core.seed import Seed
from mt_paas_db.core.standing import end_backends, enter
from mt_paas_db.core.transitions import transition
from mt_paas_db.errors import ConfigurationError, NameReservedError, UnknownAliasError


class Lifecycle:
    """The verbs. All need the admin DSN; none is on the path of a session."""

    def __init__(self, admin: Admin, settings: Settings, blueprint: Blueprint) -> None:
        self._changes = Changes(admin, settings)
        self._provisioner = Provisioner(self._changes, blueprint)

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
        """Create a tenant with its role, schema, tables and first rows; it is active when this returns.

        One transaction, unless a revision has an ``autocommit_block()``: then the tenant is ``provisioning`` until
        all have run. A creation that was killed on the way is completed by the next one of the same id.

        Args:
            tenant_id: a-z, 0-9 and hyphens, as a host name.
            display_name: What people read; the id where left out.
            aliases: Host names or old names that lead to the tenant too.
            tier: What keeps it apart: ``role``, or ``login`` for a login and connections of its own; the setting
                `tier` where left out. It stays for the tenant's life.
            seed: What writes the first rows, before the manager's own. See `mt_paas_db.core.seed`.
            actor: Who is recorded in the log; the admin's role where left out.

        Raises:
            InvalidIdentifierError: The id or an alias is malformed, or there is no such tier.
            ConfigurationError: Tier ``login``, and there are no credentials for the login; nothing was created.
            TenantExistsError: The id is in use; of several concurrent creations one succeeds.
            NameReservedError: The id or an alias belongs to another tenant, now or (an id) formerly.
            ProvisioningError: The models' DDL, a revision or the seed failed.
        """
        return self._provisioner.create(
            tenant_id, display_name=display_name, aliases=aliases, tier=tier, seed=seed, actor=actor
        )

    def create_many(
        self,
        tenants: Iterable[NewTenant],
        *,
        jobs: int = 4,
        tier: Tier | str | None = None,
        seed: Seed | None = None,
        actor: str | None = None,
        progress: Listener = unheard,
    ) -> Created:
        """Create many tenants, `jobs` at a time; return which were created, were there before, or failed.

        Each is created as by `create`, whole or not at all, and one that fails does not stop the others. So the same
        call, after whatever stopped it, completes what is missing. All names are looked at before the first.

        Raises:
            ConfigurationError: Names are malformed or claimed twice; nothing was created.
            InvalidIdentifierError: There is no such tier; nothing was created.
        """
        wanted = check(tenants)
        of_tier = None if tier is None else parse_tier(tier)
        if jobs < 1:
            raise ConfigurationError(f"jobs must be at least 1, not {jobs}")

        def create(new: NewTenant) -> Tenant:
            return self._provisioner.create(
                new.tenant_id,
                display_name=new.display_name,
                aliases=new.aliases,
                tier=of_tier,
                seed=seed,
                actor=actor,
            )

        with self._changes.admin.keeping_connections(jobs):
            if len(wanted) > 1:
                with self._changes.as_owner() as step:
                    server_version = step.oneself.version
                self._provisioner.compile(server_version)
            return create_all(wanted, create, jobs=jobs, progress=progress)

    def get(self, tenant_id: str) -> Tenant:
        """Return a tenant by its id or an alias. Raises `UnknownTenantError`."""
        name = parse_name(tenant_id)
        with self._changes.as_owner() as step:
            return registry.get(step.connection, name)

    def tenants(self, *, state: TenantState | None = None) -> list[Tenant]:
        """Return all tenants, or those in one state, in the order of their ids."""
        if state is not None and state not in TenantState:
            raise ConfigurationError(f"{state!r} is no state; there are {', '.join(TenantState)}")
        with self._changes.as_owner() as step:
            return list(registry.tenants(step.connection, state=state))

    def events(self, tenant_id: str | None = None, *, limit: int = 100) -> list[Event]:
        """Return the newest lines of the lifecycle log, newest first.

        With a tenant's id or alias: all that happened to this tenant under whatever name, and what was
        tried under this name.
        """
        if limit < 1:
            raise ConfigurationError(f"limit must be at least 1, not {limit}")
        name = parse_name(tenant_id) if tenant_id is not None else None
        with self._changes.as_owner() as step:
            return registry.events(step.connection, name=name, limit=limit)

    # -- states

    def suspend(
        self,
        tenant_id: str,
        *,
        reason: SuspensionReason | str = SuspensionReason.OTHER,
        note: str | None = None,
        actor: str | None = None,
    ) -> Tenant:
        """Suspend a tenant: the server refuses its role from the next transaction of any process on.

        The login role loses its membership of the tenant's role; data and rights stay as they are. Sessions get
        `TenantSuspendedError` with the `reason`.
        """
        try:
            parsed = SuspensionReason(reason)
        except ValueError:
            raise ConfigurationError(
                f"{reason!r} is no reason of a suspension; there are {', '.join(SuspensionReason)}, and a note for more"
            ) from None
        return self._move("suspend", tenant_id, reason=parsed, note=note, actor=actor)

    def read_only(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Let a tenant be read, and not written: its role loses what it may write, its sessions begin READ ONLY.

        A session that is open is refused at its next write. `resume` gives back exactly what was taken.
        """
        return self._move("read_only", tenant_id, note=note, actor=actor)

    def maintenance(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Close a tenant for maintenance, as `suspend` does; sessions get `TenantNotReadyError`."""
        return self._move("maintenance", tenant_id, note=note, actor=actor)

    def resume(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Make a suspended, read-only or closed tenant active again."""
        return self._move("resume", tenant_id, note=note, actor=actor)

    def archive(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Take a tenant out of service, and keep all it has. Only an archived tenant can be deleted."""
        return self._move("archive", tenant_id, note=note, actor=actor)

    def restore(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """Take an archived tenant back into service; it is active."""
        return self._move("restore", tenant_id, note=note, actor=actor)

    def delete(
        self,
        tenant_id: str,
        *,
        confirm: str | None,
        actor: str | None = None,
        progress: Listener = unheard,
    ) -> None:
        """Drop an archived tenant for good: schema, role, names. `confirm` must repeat its present id.

        Takes a few objects at a time, each time in a transaction of its own: a schema of any size stays within the
        server's lock table. A call that was interrupted leaves the tenant ``deleting``; call again to go on. A
        tenant created later under the same id has another generation, hence another role and schema. `progress`
        is told how many objects are gone.
        """
        removal.delete(self._changes, parse_name(tenant_id), confirm=confirm, actor=actor, progress=progress)

    def _move(
        self,
        action: str,
        tenant_id: str,
        *,
        note: str | None,
        actor: str | None,
        reason: SuspensionReason | None = None,
    ) -> Tenant:
        detail = {key: str(value) for key, value in (("reason", reason), ("note", note)) if value is not None}
        with self._changes.changing(action, parse_name(tenant_id), actor, detail=detail) as change:
            tenant = change.tenant
            state = transition(tenant.tenant_id, tenant.state, action)
            enter(change.step, tenant, state, reason=reason)
        if not state.serves and tenant.placement.tier is Tier.LOGIN:
            with self._changes.admin.transaction() as step:
                end_backends(step, tenant)
        return change.after

    # -- names

    def rename(self, tenant_id: str, new_id: str, *, actor: str | None = None) -> Tenant:
        """Change a tenant's id. Schema and role stay; the old id leads to this tenant for ever.

        Raises `NameReservedError` where the new id belongs, or belonged, to another tenant.
        """
        parsed = parse_tenant_id(new_id)
        with self._changes.changing("rename", parse_name(tenant_id), actor, detail={"to": parsed}) as change:
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
        with self._changes.changing("add_alias", parse_name(tenant_id), actor, detail={"alias": name}) as change:
            registry.claim(change.step.connection, name, change.tenant.generation, NameKind.ALIAS)
        return change.after

    def release_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """Take an alias away. It leads nowhere at once, and may be claimed anew after twice the cache bound.

        Raises `UnknownAliasError` where the tenant has no such alias.
        """
        name = parse_name(alias)
        with self._changes.changing("release_alias", parse_name(tenant_id), actor, detail={"alias": name}) as change:
            tenant = change.tenant
            if not registry.run(change.step.connection, "release_alias", name=name, generation=tenant.generation):
                raise UnknownAliasError(tenant.tenant_id, name)
        return change.after
