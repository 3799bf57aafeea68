"""A change of a tenant: one transaction as the owner, the tenant's row locked, one line in the lifecycle log.

Whoever changes a tenant locks its row first and takes roles after it. A change that fails leaves everything
as it was, and its failure in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import TenantName, parse_line
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Installation, Tenant
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.errors import CatalogMissingError, ConfigurationError, TenancyError


class Change:
    """A tenant being changed: as it was, and, once the block has ended, as it is then."""

    def __init__(self, step: AdminTransaction, tenant: Tenant) -> None:
        self.step = step
        self.tenant = tenant
        self.after = tenant

    def read_again(self) -> None:
        """Read the tenant in the same transaction: after the commit there is nothing left that could fail."""
        self.after = registry.by_generation(self.step.connection, self.tenant.generation) or self.tenant


class Changes:
    """Opens changes on one installation, and keeps its log."""

    def __init__(self, admin: Admin, settings: Settings) -> None:
        self.admin = admin
        self.settings = settings

    @contextmanager
    def changing(
        self, action: str, name: TenantName, actor: str | None, *, detail: dict[str, Any] | None = None
    ) -> Iterator[Change]:
        """Open a transaction as the owner, with the tenant's row locked; record the action at its end."""
        with self.recorded(action, name, actor, detail=detail), self.as_owner() as step:
            tenant = registry.get(step.connection, name, lock=True)
            change = Change(step, tenant)
            yield change
            self.record(step, action, tenant, actor, detail=detail)
            change.read_again()

    @contextmanager
    def as_owner(self) -> Iterator[AdminTransaction]:
        """Open a transaction as the owner of this installation. Raises `ConfigurationError` for another's catalog."""
        with self.admin.transaction(as_owner=True) as step:
            self.installation(step)
            yield step

    @contextmanager
    def beginning(self, name: TenantName) -> Iterator[tuple[AdminTransaction, Tenant | None, int]]:
        """Open a transaction as `as_owner` does; also give the tenant of this id or alias, or None and a generation.

        Whose catalog it is and who has the name is one question.
        """
        with self.admin.transaction(as_owner=True) as step:
            with self._refusing_anothers(step):
                found, holder, fresh = registry.begin_tenant(step.connection, name, cluster=self.admin.cluster)
            step.installation = self._mine(found)
            tenant = None if holder is None else registry.by_generation(step.connection, holder)
            # It may be deleted between the two queries.
            yield step, tenant, fresh or (0 if tenant else registry.next_generation(step.connection))

    @contextmanager
    def recorded(
        self, action: str, name: str, actor: str | None, *, detail: dict[str, Any] | None = None
    ) -> Iterator[None]:
        """Record an action that failed, in a transaction of its own, and let its error go on.

        Raises `InvalidIdentifierError` for an `actor`, or a note in `detail`, that no log can show.
        """
        for kind, value in (("actor", actor), ("note", (detail or {}).get("note"))):
            if value is not None:
                parse_line(kind, value, max_length=1000)
        try:
            yield
        except (TenancyError, DBAPIError) as error:
            with (
                suppress(TenancyError, DBAPIError),  # the error at hand is the one to report
                self.admin.transaction(as_owner=True) as step,
            ):
                registry.record(
                    step.connection,
                    action=action,
                    tenant_id=name,
                    generation=None,
                    actor=_who(step, actor),
                    outcome="failed",
                    detail={**(detail or {}), "error": type(error).__name__, "message": str(error)[:500]},
                )
            raise

    def record(
        self,
        step: AdminTransaction,
        action: str,
        tenant: Tenant,
        actor: str | None,
        *,
        outcome: str = "done",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Append a line to the log, in the step's transaction."""
        registry.record(
            step.connection,
            action=action,
            tenant_id=tenant.tenant_id,
            generation=tenant.generation,
            actor=_who(step, actor),
            outcome=outcome,
            detail=detail,
        )

    def installation(self, step: AdminTransaction) -> Installation:
        """Return this installation. Raises `ConfigurationError` where the catalog is another's."""
        if step.installation is not None:
            return step.installation
        with self._refusing_anothers(step):
            found = registry.installation(step.connection, cluster=self.admin.cluster)
        step.installation = self._mine(found)
        return step.installation

    def _mine(self, found: Installation) -> Installation:
        if found.name != self.settings.installation:
            raise ConfigurationError(
                f"the catalog of cluster {self.admin.cluster!r} belongs to installation {found.name!r}, "
                f"the settings say {self.settings.installation!r}"
            )
        return found

    @contextmanager
    def _refusing_anothers(self, step: AdminTransaction) -> Iterator[None]:
        """Say so where a catalog that is not to be read is another's, by `ConfigurationError`."""
        try:
            yield
        except CatalogMissingError as missing:
            with self.admin.transaction() as another:  # that of `step` has failed
                holder = another.ask("schema_owner", schema="mt_paas")
            if holder in (None, step.roles.owner):
                raise
            raise ConfigurationError(
                f"database {step.oneself.database!r} of cluster {self.admin.cluster!r} holds the catalog of another "
                f"installation, owned by {holder!r}; the settings say {self.settings.installation!r}"
            ) from missing


def _who(step: AdminTransaction, actor: str | None) -> str:
    return actor or step.oneself.name
