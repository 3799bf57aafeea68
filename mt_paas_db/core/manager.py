"""`TenantManager`: one service's tenants, from sessions to lifecycle."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mt_paas_db.catalog.credentials import CredentialProvider, settings_credentials
from mt_paas_db.catalog.identifiers import Tier, parse_name
from mt_paas_db.catalog.settings import Settings, load_settings
from mt_paas_db.catalog.values import Event, Installation, Limits, SuspensionReason, Tenant, TenantState
from mt_paas_db.core.admin import Admin
from mt_paas_db.core.blueprint import Blueprint
from mt_paas_db.core.bulk import Created, NewTenant
from mt_paas_db.core.capacity import Capacity, capacity
from mt_paas_db.core.capacity_measure import measure
from mt_paas_db.core.cells import Cells
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.checks import Report
from mt_paas_db.core.doctor import examine, readiness
from mt_paas_db.core.fleet_metrics import fleet_metrics
from mt_paas_db.core.install import initialize
from mt_paas_db.core.lifecycle import Lifecycle
from mt_paas_db.core.limits import UNCHANGED, Unchanged, Usage, limits_of, set_limits, usage
from mt_paas_db.core.models import Models, load_models, metadata_of
from mt_paas_db.core.progress import Listener, unheard
from mt_paas_db.core.seed import Seed, load_seed
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.session.door import Door, TenantSessionContext
from mt_paas_db.session.pin import IsolationLevel, PinOptions
from mt_paas_db.session.places import PoolStatus
from mt_paas_db.session.raw import RawConnectionContext
from mt_paas_db.telemetry.exposition import Family

if TYPE_CHECKING:
    from mt_paas_db.core.aio import AsyncTenantManager
    from mt_paas_db.migrate.fleet import Fleet


class TenantManager:
    """The tenants of one installation. Safe for threads; one per process is enough.

    Nothing is sent when it is made. Its methods are blocking; `aio` carries the same names for asyncio;
    `get_session` serves both.

    Args:
        settings: Where the servers are; read from ``MT_PAAS_DB_*`` in the environment where left out.
        models: The service's `MetaData` or declarative base: what a new tenant gets, and what all share.
        script_location: The service's Alembic revisions, a folder or ``package:folder``: a new tenant gets them
            up to the head, instead of the models' DDL.
        seed: What writes a new tenant's first rows: a callable that takes a `Session` and the `Tenant`, the path of
            an SQL file, or ``package.module:function``. It acts as the tenant's own role, in the transaction that
            makes the tenant active.
        credentials: Turns a cluster's credentials entry into a DSN; answers from `settings` where left out.

    Raises:
        ConfigurationError: The settings are faulty, the models name undeclared schemas, or PgBouncer shall share
            statements over types of which each tenant has its own.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        models: Any = None,
        script_location: str | None = None,
        seed: Seed | str | None = None,
        credentials: CredentialProvider | None = None,
    ) -> None:
        self.settings = settings if settings is not None else load_settings()
        self._credentials = credentials or settings_credentials(self.settings)
        if models is None and self.settings.models is not None:
            models = load_models(self.settings.models)
        self._models = (
            Models(metadata_of(models), shared_schemas=self.settings.shared_schemas, guards=self.settings.guards)
            if models is not None
            else None
        )
        if self._models is not None:
            _check_shared_statements(self.settings, self._models)
        self._script_location = script_location or self.settings.script_location
        self._admin = Admin(self.settings, self._credentials)
        self._blueprint = Blueprint(
            models=self._models, script_location=self._script_location, seed=seed or self.settings.seed
        )
        self._lifecycle = Lifecycle(self._admin, self.settings, self._blueprint)
        self._changes = Changes(self._admin, self.settings)
        models = self._models
        self._door = Door(self.settings, self._credentials, tables=models.count if models is not None else None)

    @cached_property
    def aio(self) -> AsyncTenantManager:
        """The same verbs for asyncio."""
        from mt_paas_db.core.aio import AsyncTenantManager

        return AsyncTenantManager(self)

    @cached_property
    def migrations(self) -> Fleet:
        """The verbs that migrate all tenants: plan, upgrade, downgrade, stamp, verify ...

        Raises `ConfigurationError` where no revisions are known, or they cannot be read.
        """
        from mt_paas_db.migrate.fleet import Fleet
        from mt_paas_db.migrate.project import find_scripts

        return Fleet(self.settings, self._credentials, find_scripts(self.settings, self._script_location))

    @cached_property
    def cells(self) -> Cells:
        """The cells that tenants share, and the verbs that move tenants between them while they serve."""
        return Cells(self._changes, self._credentials)

    # -- sessions

    def get_session(
        self,
        tenant_id: str,
        *,
        read_only: bool = False,
        isolation_level: IsolationLevel | None = None,
        statement_timeout_s: float | None = None,
        expire_on_commit: bool = True,
        commit: bool = True,
        requires: str | Collection[str] | None = None,
    ) -> TenantSessionContext:
        """Return the door to a tenant: ``with`` gives a `Session`, ``async with`` an `AsyncSession`.

        One transaction: committed when the block ends, rolled back when it raises. The session may commit
        and roll back by itself in between; each transaction that follows is pinned again.

        Args:
            tenant_id: The tenant's id, or an alias of it.
            read_only: Begin READ ONLY: the server refuses writes.
            isolation_level: READ COMMITTED, REPEATABLE READ or SERIALIZABLE; the server's default where left out.
            statement_timeout_s: Seconds that one statement may run.
            expire_on_commit: As in SQLAlchemy, for the session's own commits; the last one expires nothing.
            commit: False rolls back what was not committed when the block ends.
            requires: The revision, or the revisions, that must have been applied to the tenant; the setting
                `requires` where left out, nothing where empty. The ids are whole. Looked at on entering, in what
                this process remembers of the tenant: no round trip more.

        Raises:
            InvalidIdentifierError, ConfigurationError: At once, for bad arguments.
            UnknownTenantError, TenantSuspendedError, TenantNotReadyError: On entering, or (suspended since)
                at the next transaction.
            TenantBehindError: On entering: a required revision was not applied to the tenant, or the catalog does
                not know. Nothing was sent to the tenant's cluster.
            TenantMismatchError: Another tenant is in force in this task.
            SchemaMissingError, PlacementChangedError: At the transaction's first statement.
            PoolExhaustedError: After `pool_timeout_s`: at the transaction's first statement, no connection of this
                process's `pool_size` was given back; on entering, the tenant's own limit of sessions is reached.
            ServerUnavailableError, CatalogMissingError, CatalogVersionError: The server or its catalog.
        """
        return TenantSessionContext(
            self._door,
            tenant_id,
            read_only=read_only,
            isolation_level=isolation_level,
            statement_timeout_s=statement_timeout_s,
            expire_on_commit=expire_on_commit,
            commit=commit,
            requires=requires,
        )

    def raw_connection(
        self,
        tenant_id: str,
        *,
        read_only: bool = False,
        isolation_level: IsolationLevel | None = None,
        statement_timeout_s: float | None = None,
    ) -> RawConnectionContext:
        """Return the door to a connection of the driver's own, for a library that wants one; at any tier.

        ``with`` gives a `psycopg.Connection`, ``async with`` what the setting `async_driver` names. It is inside one
        transaction that is pinned to the tenant, committed when the block ends, rolled back when it raises; the
        connection is closed with it, and nobody else ever gets it. The driver is in autocommit mode, and so begins
        and ends nothing by itself; `psycopg`'s ``connection.transaction()`` makes savepoints.

        Raises:
            ContextLostError: On leaving: the library ended the transaction. What it had done by then is committed,
                or rolled back, as the library asked.
            ConfigurationError, ... : As `get_session`, all of them on entering but for bad arguments.
        """
        options = PinOptions(
            read_only=read_only, isolation_level=isolation_level, statement_timeout_s=statement_timeout_s
        )
        return RawConnectionContext(self._door, parse_name(tenant_id), options)

    def dsn(self, tenant_id: str) -> str:
        """Return the DSN of a tenant of tier `login`, its password in it: ``postgresql://user:password@host/db``.

        For a library that opens connections of its own. Whoever connects with it is the tenant, and cannot be
        another. Asks the catalog, where this process does not remember the tenant.

        Raises:
            NoOwnLoginError: The tenant is of tier `role`: its login would be everybody's.
            UnknownTenantError, TenantSuspendedError, TenantNotReadyError: As `get_session`.
            ConfigurationError: There are no credentials for its login.
        """
        return self._door.dsn(self._door.resolve(parse_name(tenant_id)))

    def pool_status(self) -> PoolStatus:
        """Return what this manager's connections for tenants are doing now, by cell. Sends nothing.

        Blocking and asyncio are counted together; connections that look tenants up in the catalog are not. Behind
        ``pooling="none"`` there is nothing to count.
        """
        return self._door.engines.status()

    def close(self) -> None:
        """Close the pools' idle connections. The manager stays usable, and opens new ones when needed."""
        self._door.engines.close()

    # -- installation and health

    def init(self) -> Installation:
        """Create or upgrade this installation's roles and catalog; a second run changes nothing. Commits.

        Raises `InstallationTakenError`, `MissingRightsError`, `ServerUnavailableError`, `ConfigurationError`.
        """
        models = None if self._blueprint.shares_by_revisions else self._models
        return initialize(self._admin, self.settings, self._credentials, models)

    def readiness(self) -> Report:
        """Return whether sessions can be served now, as a report of a few quick checks. Never raises."""
        return readiness(self._door, self.settings)

    def doctor(self) -> Report:
        """Return what is wrong with the server, its roles, rights and pooler, and what mends it. Never raises
        for what a check finds, nor for a server that is down."""
        return examine(self._door, self._admin, self.settings, self._credentials)

    def metrics(self, *, tenants: int = 0) -> tuple[Family, ...]:
        """Return figures of the whole fleet, as Prometheus has them, with the sizes of the largest `tenants`.

        Asks the home cluster by the admin DSN, in one transaction that reads only; one of its queries looks at each
        tenant. `mt_paas_db.telemetry.exposition.render` makes the text. Raises `ServerUnavailableError`,
        `CatalogMissingError`, `MissingRightsError`, `ConfigurationError`.
        """
        return fleet_metrics(self._admin, cell_size=self.settings.cell_size, largest=tenants)

    def capacity(
        self,
        *,
        budget: int | None = None,
        processes: int | None = None,
        memory_bytes: int | None = None,
        disk_bytes: int | None = None,
    ) -> Capacity:
        """Return how many more tenants the server and this manager's settings bear, limit by limit, the tightest first.

        Asks the home cluster by the admin DSN, in one transaction that reads only, and measures on its backend what a
        tenant takes of one. A few seconds for 10,000 tenants. What the server does not tell can be given.

        Args:
            budget: The server connections that PgBouncer has, behind one; what `pgbouncer config` takes where left out.
            processes: How many processes of the service there are; all connections of the server where left out.
            memory_bytes: The memory of the server's machine; asked of the server where left out.
            disk_bytes: What the database may take on disk; not known where left out.

        Raises as `metrics`.
        """
        given = {"budget": budget, "processes": processes, "memory_bytes": memory_bytes, "disk_bytes": disk_bytes}
        return capacity(measure(self._admin, self.settings, **given))

    # -- lifecycle

    def create(
        self,
        tenant_id: str,
        *,
        display_name: str | None = None,
        aliases: Sequence[str] = (),
        tier: Tier | str | None = None,
        seed: Seed | str | None = None,
        actor: str | None = None,
    ) -> Tenant:
        """See `Lifecycle.create`."""
        planted = load_seed(seed) if seed is not None else None
        return self._lifecycle.create(
            tenant_id, display_name=display_name, aliases=aliases, tier=tier, seed=planted, actor=actor
        )

    def create_many(
        self,
        tenants: Iterable[NewTenant],
        *,
        jobs: int = 4,
        tier: Tier | str | None = None,
        seed: Seed | str | None = None,
        actor: str | None = None,
        progress: Listener = unheard,
    ) -> Created:
        """See `Lifecycle.create_many`."""
        planted = load_seed(seed) if seed is not None else None
        return self._lifecycle.create_many(tenants, jobs=jobs, tier=tier, seed=planted, actor=actor, progress=progress)

    def get(self, tenant_id: str) -> Tenant:
        """See `Lifecycle.get`."""
        return self._lifecycle.get(tenant_id)

    def list(self, *, state: TenantState | None = None) -> list[Tenant]:
        """See `Lifecycle.tenants`."""
        return self._lifecycle.tenants(state=state)

    def events(self, tenant_id: str | None = None, *, limit: int = 100) -> Sequence[Event]:
        """See `Lifecycle.events`."""
        return self._lifecycle.events(tenant_id, limit=limit)

    def suspend(
        self,
        tenant_id: str,
        *,
        reason: SuspensionReason | str = SuspensionReason.OTHER,
        note: str | None = None,
        actor: str | None = None,
    ) -> Tenant:
        """See `Lifecycle.suspend`."""
        return self._lifecycle.suspend(tenant_id, reason=reason, note=note, actor=actor)

    def read_only(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """See `Lifecycle.read_only`."""
        return self._lifecycle.read_only(tenant_id, note=note, actor=actor)

    def maintenance(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """See `Lifecycle.maintenance`."""
        return self._lifecycle.maintenance(tenant_id, note=note, actor=actor)

    def resume(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """See `Lifecycle.resume`."""
        return self._lifecycle.resume(tenant_id, note=note, actor=actor)

    def archive(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """See `Lifecycle.archive`."""
        return self._lifecycle.archive(tenant_id, note=note, actor=actor)

    def restore(self, tenant_id: str, *, note: str | None = None, actor: str | None = None) -> Tenant:
        """See `Lifecycle.restore`."""
        return self._lifecycle.restore(tenant_id, note=note, actor=actor)

    def rename(self, tenant_id: str, new_id: str, *, actor: str | None = None) -> Tenant:
        """See `Lifecycle.rename`."""
        return self._lifecycle.rename(tenant_id, new_id, actor=actor)

    def add_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """See `Lifecycle.add_alias`."""
        return self._lifecycle.add_alias(tenant_id, alias, actor=actor)

    def release_alias(self, tenant_id: str, alias: str, *, actor: str | None = None) -> Tenant:
        """See `Lifecycle.release_alias`."""
        return self._lifecycle.release_alias(tenant_id, alias, actor=actor)

    # -- limits

    def limits(self, tenant_id: str) -> Limits:
        """Return what a tenant may use at most. Raises `UnknownTenantError`."""
        return limits_of(self._changes, parse_name(tenant_id))

    def set_limits(
        self,
        tenant_id: str,
        *,
        sessions: int | Unchanged | None = UNCHANGED,
        statement_timeout_s: float | Unchanged | None = UNCHANGED,
        storage_bytes: int | Unchanged | None = UNCHANGED,
        actor: str | None = None,
    ) -> Limits:
        """Set what a tenant may use at most, and return all its limits. None takes a limit away. Commits.

        Processes learn of it within the cache bound.

        Args:
            tenant_id: Its id, or an alias.
            sessions: Sessions at once, in each process.
            statement_timeout_s: Seconds that one of its statements may run.
            storage_bytes: Bytes of its schema; `usage(enforce=True)` makes it read-only when it has more.
            actor: Who is recorded in the log.

        Raises:
            ConfigurationError: A limit is not more than 0, or the catalog is older than limits are.
            UnknownTenantError: No tenant has this id or alias.
        """
        return set_limits(
            self._changes,
            parse_name(tenant_id),
            sessions=sessions,
            statement_timeout_s=statement_timeout_s,
            storage_bytes=storage_bytes,
            actor=actor,
        )

    def usage(self, tenant_id: str | None = None, *, enforce: bool = False) -> Sequence[Usage]:
        """Return how many bytes the schema of a tenant takes, or of each, in the order of their ids.

        With `enforce`, active tenants that are over their quota become read-only, with a note in the log.
        """
        return usage(self._changes, None if tenant_id is None else parse_name(tenant_id), enforce=enforce)

    def delete(
        self,
        tenant_id: str,
        *,
        confirm: str | None,
        actor: str | None = None,
        progress: Listener = unheard,
    ) -> None:
        """See `Lifecycle.delete`."""
        self._lifecycle.delete(tenant_id, confirm=confirm, actor=actor, progress=progress)


def _check_shared_statements(settings: Settings, models: Models) -> None:
    """Refuse to let PgBouncer share statements between tenants whose types are not the same."""
    for entry, cluster in settings.clusters.items():
        if cluster.prepared_statements == "all" and (own := models.own_types()):
            raise ConfigurationError(
                f"cluster {entry!r}: prepared_statements='all' lets tenants share statements, and of these types each "
                f"tenant has its own: {'; '.join(own)}. Put the types into a shared schema, or use 'own' or 'off'"
            )
