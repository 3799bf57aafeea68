"""Every error that the library raises of its own.

::

    TenancyError
    ├── ConfigurationError              settings, DSNs or calls that cannot work; nothing was sent
    │   ├── AutocommitError             a tenant session outside a transaction was asked for
    │   ├── MissingExtraError           an optional package is not installed
    │   └── RevisionError               a revision that is not there, or cannot be reached from where a tenant stands
    ├── InvalidIdentifierError          (also a ValueError) an id, alias or installation name is malformed
    ├── ServerError            .cluster
    │   ├── ServerUnavailableError .login    cannot connect, or the connection was ended: wrong DSN, server down
    │   │   ├── ConnectionLimitError    the server, the role, the database or the pooler takes no more connections
    │   │   └── LoginRefusedError       password refused, or the role is gone or may not log in
    │   ├── ReadOnlyServerError         a write reached a standby
    │   ├── PoolExhaustedError .cell .tenant_id .limit .holders  nobody gave a connection, or a place, back in time
    │   ├── MissingRightsError          the admin's role may not do what the step needs
    │   ├── PoolerModeError             the pooler behind the app DSN breaks transactions or statements
    │   ├── PoolerConsoleError          PgBouncer's console does not answer, or not to this user
    │   ├── LockedError                 another transaction holds what the step needs; nothing was changed
    │   ├── PooledConnectionError       the direct DSN leads through a pooler
    │   ├── CatalogMissingError         the database has no control schema: run ``init``
    │   ├── CatalogVersionError         .found .expected: code and catalog are too far apart
    │   └── InstallationTakenError      the installation's name is used by another database
    ├── TenantError            .tenant_id
    │   ├── UnknownTenantError
    │   ├── TenantExistsError
    │   ├── NameReservedError           .name: an id or alias that may not be claimed (yet)
    │   ├── UnknownAliasError  .alias   the tenant has no such alias
    │   ├── TenantUnavailableError .state .reason
    │   │   ├── TenantSuspendedError
    │   │   ├── TenantNotReadyError     provisioning, maintenance, archived or deleting
    │   │   └── TenantBehindError .required .heads: a revision that the code requires was not applied to it
    │   ├── IllegalTransitionError .state .action
    │   ├── ConfirmationError           the id was not typed again for a destructive step
    │   ├── ProvisioningError           the models' DDL, a revision or the seed failed; there is no such tenant
    │   ├── SchemaMissingError .schema  the catalog knows the tenant, the database lost its schema or rights
    │   ├── NoOwnLoginError             the tenant has no login of its own, and so no DSN
    │   └── PlacementChangedError       the tenant moved or was created anew: open a new session
    ├── CellError              .cell    a cell cannot be used, or changed, like this
    │   ├── UnknownCellError            there is no such cell
    │   └── CellFullError      .size    it has as many tenants as fit
    ├── MigrationRefusedError .hazards  the plan would destroy data, or do to shared tables what is for tenants
    ├── UnknownRunError        .run_id
    ├── ForeignFileError       .path    a file would be overwritten that was not written, or was changed since
    └── ContextError                    code and tenant disagree; the statement was not sent
        ├── NoTenantError               no tenant is in force
        ├── TenantMismatchError .expected .found
        └── ContextLostError            the session's own SQL ended the pinned transaction

The message says which tenant, what happened and what to do next; the facts stand beside it as
attributes. Errors can be pickled, so they cross process borders whole. Errors of the driver and of
SQLAlchemy pass through untouched unless something more can be said.
"""

from __future__ import annotations

from typing import Any


def _rebuild(cls: type[TenancyError], args: tuple[Any, ...], facts: dict[str, Any]) -> TenancyError:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(facts)
    return error


class TenancyError(Exception):
    """Base of all errors of this library."""

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(TenancyError):
    """Settings, a DSN or a call that cannot work; raised before anything is sent to a server."""


class AutocommitError(ConfigurationError):
    """A tenant session was asked to run outside a transaction, where no pin can hold."""

    def __init__(self) -> None:
        super().__init__(
            "a tenant session cannot run in AUTOCOMMIT: the tenant is pinned to a transaction. "
            "Leave isolation_level alone, or choose READ COMMITTED, REPEATABLE READ or SERIALIZABLE"
        )


class MissingExtraError(ConfigurationError):
    """An optional package is not installed. ``extra`` is the name to install."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install 'mt_paas_db[{extra}]'")
        self.extra = extra


class RevisionError(ConfigurationError):
    """A revision that is not in the history, or that cannot be reached; nothing was sent."""


class InvalidIdentifierError(TenancyError, ValueError):
    """A tenant id, alias or installation name is malformed. ``value`` is what was given."""

    def __init__(self, kind: str, value: object, reason: str) -> None:
        super().__init__(f"{value!r} is not a valid {kind}: {reason}")
        self.kind = kind
        self.value = value
        self.reason = reason


class ServerError(TenancyError):
    """A server, or its catalog, is not fit for the request. ``cluster`` names the settings entry."""

    def __init__(self, cluster: str, message: str) -> None:
        super().__init__(f"cluster {cluster!r}: {message}")
        self.cluster = cluster


class ServerUnavailableError(ServerError):
    """No connection could be made, or the server ended it. ``login`` is who tried, where a login role is at fault."""

    def __init__(self, cluster: str, message: str, *, login: str | None = None) -> None:
        super().__init__(cluster, message)
        self.login = login


class ConnectionLimitError(ServerUnavailableError):
    """The server, the role, the database or the pooler takes no more connections."""


class LoginRefusedError(ServerUnavailableError):
    """The server, or the pooler, does not let this login in: wrong password, no such role, or one without LOGIN."""


class ReadOnlyServerError(ServerError):
    """A write reached a standby; nothing was changed."""


class PoolExhaustedError(ServerError):
    """Nobody gave a connection back in time; nothing was sent.

    What is saturated is this process's budget of connections, or (``tenant_id`` is set) the tenant's own limit of
    sessions, or (``cell`` is None) the few connections that look tenants up in the catalog. ``limit`` is how many there
    are, ``holders`` who had how many in use, by cell, those with most first; ``waiting`` how many others waited,
    ``oldest_use_s`` for how long the longest was in use, ``waited_s`` the caller.
    """

    def __init__(
        self,
        cluster: str,
        *,
        cell: str | None,
        waited_s: float,
        limit: int,
        holders: tuple[tuple[str, int], ...] = (),
        waiting: int = 0,
        oldest_use_s: float = 0.0,
        tenant_id: str | None = None,
    ) -> None:
        longest = f"the longest for {oldest_use_s:.1f} s"
        if tenant_id is not None:
            message = (
                f"tenant {tenant_id!r} has all {limit} of the sessions that its limit allows in a process, {longest}; "
                f"none was over within {waited_s:.1f} s. End sessions sooner, or raise the tenant's max_sessions"
            )
        elif cell is None:
            message = (
                f"no connection to look a tenant up in the catalog within {waited_s:.1f} s: all {limit} that a process "
                f"or event loop has for it are in use, {longest}, and {waiting} others wait. A look-up takes a "
                "millisecond: find out why the server does not answer"
            )
        else:
            most = ", ".join(f"{name} {count}" for name, count in holders[:5])
            more = f" and {len(holders) - 5} cells more" if len(holders) > 5 else ""
            message = (
                f"no connection for cell {cell!r} within {waited_s:.1f} s: all {limit} of this process are in use "
                f"({most}{more}), {longest}, and {waiting} others wait. Look for sessions that stay open, or raise "
                "MT_PAAS_DB_POOL_SIZE where the server has room"
            )
        super().__init__(cluster, message)
        self.cell = cell
        self.waited_s = waited_s
        self.limit = limit
        self.holders = holders
        self.waiting = waiting
        self.oldest_use_s = oldest_use_s
        self.tenant_id = tenant_id


class MissingRightsError(ServerError):
    """The admin's role lacks a right that the step needs; nothing was changed."""


class PoolerModeError(ServerError):
    """The pooler behind the app DSN is not of the kind, or in the mode, that the settings say."""


class PoolerConsoleError(ServerError):
    """PgBouncer's console cannot be reached, refuses this user, or did not do what it was told."""


class LockedError(ServerError):
    """Another transaction held a lock that the step needs for too long; nothing was changed."""


class PooledConnectionError(ServerError):
    """What must be a connection to the server itself leads through a pooler."""

    def __init__(self, cluster: str) -> None:
        super().__init__(
            cluster,
            "the DSN for migrations leads through a pooler, where locks and settings of a connection do not hold; "
            f"set MT_PAAS_DB_CLUSTERS__{cluster.upper()}__DIRECT_DSN to the server itself",
        )


class CatalogMissingError(ServerError):
    """The database has no control schema, or the login role may not use it."""

    def __init__(self, cluster: str, detail: str = "the database has no tenant catalog") -> None:
        super().__init__(cluster, f"{detail}; run `mt-paas-db init` with the admin DSN of this database")


class CatalogVersionError(ServerError):
    """Code and catalog are more than one version apart."""

    def __init__(self, cluster: str, *, found: int, expected: int) -> None:
        remedy = (
            "upgrade the catalog with `mt-paas-db init`"
            if found < expected
            else "install a newer mt_paas_db in this service"
        )
        super().__init__(
            cluster,
            f"the catalog is at version {found}, this code is for version {expected} "
            f"and works with {expected - 1} to {expected + 1}; {remedy}",
        )
        self.found = found
        self.expected = expected


class InstallationTakenError(ServerError):
    """The installation's name, or its database, belongs to another installation."""


class TenantError(TenancyError):
    """Something about one tenant. ``tenant_id`` is the id or alias that was asked for."""

    def __init__(self, tenant_id: str, message: str) -> None:
        super().__init__(f"tenant {tenant_id!r}: {message}")
        self.tenant_id = tenant_id


class UnknownTenantError(TenantError):
    """No tenant has this id or alias."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(tenant_id, "no tenant has this id or alias; `mt-paas-db tenant list` shows those there are")


class TenantExistsError(TenantError):
    """A tenant with this id exists, or is being created; nothing was changed."""

    def __init__(
        self,
        tenant_id: str,
        detail: str = "exists already; choose another id, or use `mt-paas-db tenant show` to look at it",
    ) -> None:
        super().__init__(tenant_id, detail)


class NameReservedError(TenantError):
    """An id or alias may not be claimed: it belongs to another tenant, or was released too recently."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, f"this name cannot be claimed: {why}")
        self.name = name


class UnknownAliasError(TenantError):
    """The tenant has no such alias; nothing was changed."""

    def __init__(self, tenant_id: str, alias: str) -> None:
        super().__init__(tenant_id, f"has no alias {alias!r}; `mt-paas-db tenant show` lists those it has")
        self.alias = alias


class TenantUnavailableError(TenantError):
    """The tenant exists but takes no sessions now. ``state`` and ``reason`` come from the catalog."""

    def __init__(self, tenant_id: str, *, state: str, reason: str | None = None) -> None:
        because = f" (reason: {reason})" if reason else ""
        super().__init__(tenant_id, f"is {state}{because} and takes no sessions; {self._remedy(state)}")
        self.state = state
        self.reason = reason

    @staticmethod
    def _remedy(state: str) -> str:
        return {
            "suspended": "`mt-paas-db tenant resume` gives it back",
            "provisioning": "wait for its creation, or run `mt-paas-db tenant create` again to complete it",
            "maintenance": "try again when the maintenance is over",
            "archived": "restore it first",
            "deleting": "it is being deleted",
        }.get(state, "look at it with `mt-paas-db tenant show`")


class TenantSuspendedError(TenantUnavailableError):
    """The tenant is suspended; the server refuses its role."""


class TenantNotReadyError(TenantUnavailableError):
    """The tenant is provisioning, in maintenance, archived or being deleted."""


class TenantBehindError(TenantUnavailableError):
    """The tenant takes sessions, but not of code that requires what was not applied to it yet; nothing was sent.

    ``required`` holds the required revisions, ``heads`` where the catalog says that the tenant stands: None where
    it does not know. It is served as soon as it has been migrated.
    """

    def __init__(
        self, tenant_id: str, *, required: tuple[str, ...], heads: tuple[str, ...] | None, state: str = "active"
    ) -> None:
        asked = f"{'revisions' if len(required) > 1 else 'revision'} {', '.join(required)}"
        if heads is None:
            message = (
                f"this code requires {asked}, and the catalog does not know the tenant's revision; "
                "`mt-paas-db migrate status` says where it stands and what to do"
            )
        else:
            message = (
                f"is behind: this code requires {asked}, and the tenant is at {', '.join(heads) or 'base'}; "
                "`mt-paas-db migrate upgrade` brings it there, `mt-paas-db migrate status` shows who else is behind"
            )
        TenantError.__init__(self, tenant_id, message)
        self.state = state
        self.reason = None
        self.required = required
        self.heads = heads


class NoOwnLoginError(TenantError):
    """The tenant is of tier `role`: its login is everybody's, so that there is no DSN to hand out."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            tenant_id,
            "is of tier 'role' and has no login of its own, so there is no DSN to hand out; use "
            "raw_connection(tenant_id), or create tenants whose libraries insist on a DSN with tier='login'",
        )


class IllegalTransitionError(TenantError):
    """The lifecycle has no such step from the tenant's present state; nothing was changed."""

    def __init__(self, tenant_id: str, *, state: str, action: str, allowed_from: tuple[str, ...]) -> None:
        *others, last = allowed_from
        must = f"{', '.join(others)} or {last}" if others else last
        first = ", so archive it first" if action == "delete" else ""
        super().__init__(
            tenant_id, f"cannot {action.replace('_', '-')} a tenant that is {state}; it must be {must}{first}"
        )
        self.state = state
        self.action = action
        self.allowed_from = allowed_from


class ConfirmationError(TenantError):
    """A destructive step was not confirmed by the tenant's id typed again; nothing was changed."""

    def __init__(self, tenant_id: str, typed: str | None) -> None:
        got = "nothing was typed" if typed is None else f"got {typed!r}"
        super().__init__(tenant_id, f"to confirm, repeat the id exactly; {got}")
        self.typed = typed


class ProvisioningError(TenantError):
    """The models' DDL, a revision or the seed failed. Nothing was created, or the message says what was left."""


class SchemaMissingError(TenantError):
    """The catalog knows the tenant, but its schema or the rights on it are gone from the database."""

    def __init__(self, tenant_id: str, schema: str, detail: str) -> None:
        super().__init__(
            tenant_id,
            f"{detail} (schema {schema!r}); `mt-paas-db doctor` says what is missing and how to mend it",
        )
        self.schema = schema


class PlacementChangedError(TenantError):
    """The tenant this session was opened for is elsewhere now, or another tenant has its id."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(tenant_id, "was moved, or deleted and created anew, meanwhile; open a new session")


class CellError(TenancyError):
    """A cell cannot be used, or changed, like this; nothing was changed. ``cell`` is its name."""

    def __init__(self, cell: str, message: str) -> None:
        super().__init__(f"cell {cell!r}: {message}")
        self.cell = cell


class UnknownCellError(CellError):
    """There is no such cell."""

    def __init__(self, cell: str) -> None:
        super().__init__(cell, "there is none of this name; `mt-paas-db cell list` shows those there are")


class CellFullError(CellError):
    """A cell has as many tenants as fit. ``size`` is the setting `cell_size`."""

    def __init__(self, cell: str, size: int) -> None:
        super().__init__(
            cell, f"it has {size} tenants, as many as fit; move to another one, to 'new', or raise MT_PAAS_DB_CELL_SIZE"
        )
        self.size = size


class MigrationRefusedError(TenancyError):
    """A plan that is not carried out. ``hazards`` are the reasons, a line each."""

    def __init__(self, what: str, hazards: list[str]) -> None:
        lines = "".join(f"\n  {hazard}" for hazard in hazards)
        super().__init__(f"nothing was migrated: {what}{lines}")
        self.hazards = hazards


class UnknownRunError(TenancyError):
    """There is no such run, or none that could be resumed; ``run_id`` is None where there is none at all."""

    def __init__(self, run_id: int | None, message: str | None = None) -> None:
        what = "no run yet" if run_id is None else f"no run {run_id}; `mt-paas-db migrate runs` lists them"
        super().__init__(message or f"there is {what}")
        self.run_id = run_id


class ForeignFileError(TenancyError):
    """A file is in the way that this library did not write, or that was changed since; nothing was written."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} {why}; nothing was written. Move it away, or overwrite it with --force")
        self.path = path


class ContextError(TenancyError):
    """Code and tenant disagree; the statement was not sent."""


class NoTenantError(ContextError):
    """No tenant is in force where one is needed; there is no default tenant."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where}: no tenant is in force. Use `with tenant_session(tenant_id) as session:`, "
            "or enter `tenant_context(tenant_id)` first"
        )


class TenantMismatchError(ContextError):
    """Something of one tenant met something of another."""

    def __init__(self, what: str, *, expected: str, found: str) -> None:
        super().__init__(f"{what}: belongs to tenant {found!r}, but {expected!r} is in force; nothing was sent")
        self.expected = expected
        self.found = found


class ContextLostError(ContextError):
    """The transaction that carried the pin is over, by the caller's own SQL or a failed begin."""

    def __init__(self, tenant_id: str, detail: str) -> None:
        super().__init__(
            f"tenant {tenant_id!r}: {detail}; the statement was not sent. "
            "Use session.commit() and session.rollback(), never COMMIT or ROLLBACK as SQL text"
        )
        self.tenant_id = tenant_id
