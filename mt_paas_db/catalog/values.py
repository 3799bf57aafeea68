"""Facts about tenants, as frozen values. They hold no connection and no credentials."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, computed_field

from mt_paas_db.catalog.identifiers import Tier

CATALOG_VERSION = 5
"""The catalog version this code is written for; it works with the one before and the one after."""


class TenantState(StrEnum):
    """Where a tenant stands in its lifecycle."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    READ_ONLY = "read_only"
    MAINTENANCE = "maintenance"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"
    DELETING = "deleting"

    @property
    def serves(self) -> bool:
        """Whether sessions may be opened."""
        return self in (TenantState.ACTIVE, TenantState.READ_ONLY)


class SuspensionReason(StrEnum):
    """Why a tenant is suspended, for those who are told so."""

    PAYMENT = "payment"
    MAINTENANCE = "maintenance"
    OTHER = "other"


class NameKind(StrEnum):
    """What a name of a tenant is to it."""

    ID = "id"
    FORMER_ID = "former_id"
    ALIAS = "alias"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Placement(_Value):
    """Where a tenant lives. `credentials` names an entry that the `CredentialProvider` resolves."""

    cluster: str
    credentials: str
    cell: str
    login_role: str
    schema_name: str
    role_name: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tier(self) -> Tier:
        """What keeps the tenant apart. A login of its own is the only one of a cell that is named like it."""
        return Tier.LOGIN if self.cell == self.login_role else Tier.ROLE


class Cell(_Value):
    """A group of tenants that connect as one login role, on one cluster; or one tenant, whose login is its own."""

    name: str
    cluster: str
    login_role: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tier(self) -> Tier:
        """That of its tenants."""
        return Tier.LOGIN if self.name == self.login_role else Tier.ROLE


class CellLoad(_Value):
    """A cell and what is in it. `strays` are tenants that have left, and whose role its login may still take."""

    cell: Cell
    created_at: datetime
    tenants: int
    strays: int


class Tenant(_Value):
    """A row of the catalog. Times are aware, in the server's time zone."""

    tenant_id: str
    generation: int
    display_name: str
    state: TenantState
    state_reason: str | None
    placement: Placement
    aliases: tuple[str, ...]
    created_at: datetime
    state_changed_at: datetime


class Limits(_Value):
    """What a tenant may use at most; None where there is no limit.

    Attributes:
        max_sessions: Sessions at once, in each process.
        statement_timeout_s: Seconds that one statement may run, unless the session's own SQL says otherwise.
        storage_bytes: Bytes of its schema on disk, indexes and all; what is over makes it read-only when
            ``mt-paas-db tenant usage --enforce`` looks.
    """

    max_sessions: int | None = None
    statement_timeout_s: float | None = None
    storage_bytes: int | None = None


NO_LIMITS = Limits()


@lru_cache(maxsize=1_024)
def _one_copy(revisions: frozenset[str]) -> frozenset[str]:
    """Return the set that equals `revisions`: a process may remember thousands of tenants at the same point."""
    return revisions


class Resolution(_Value):
    """What ``mt_paas.resolve(name)`` answers: all that a session needs to know of a tenant.

    `cache_bound_s` is the longest time, in seconds, that a process may keep this answer. `heads` is where the
    tenant stands in the service's Alembic history, `applied` what has been applied to get there, the heads
    included; None where the catalog has not recorded it. A catalog before version 5 has no `limits`.
    """

    tenant_id: str
    generation: int
    state: TenantState
    state_reason: str | None
    placement: Placement
    shared_schemas: tuple[str, ...]
    cache_bound_s: float
    heads: tuple[str, ...] | None = None
    applied: Annotated[frozenset[str], AfterValidator(_one_copy)] | None = None
    limits: Limits = NO_LIMITS


class Event(_Value):
    """A line of the append-only lifecycle log."""

    event_id: int
    at: datetime
    actor: str
    action: str
    tenant_id: str
    generation: int | None
    outcome: str
    detail: dict[str, Any]


class Installation(_Value):
    """The one row that says whose catalog this is."""

    name: str
    catalog_version: int
    opaque_names: bool
    shared_schemas: tuple[str, ...]
    cache_bound_s: int
