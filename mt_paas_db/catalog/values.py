"""Facts about tenants, as frozen values. They hold no connection and no credentials."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

CATALOG_VERSION = 1
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


class Resolution(_Value):
    """What ``mt_paas.resolve(name)`` answers: all that a session needs to know of a tenant.

    `cache_bound_s` is the longest time, in seconds, that a process may keep this answer.
    """

    tenant_id: str
    generation: int
    state: TenantState
    state_reason: str | None
    placement: Placement
    shared_schemas: tuple[str, ...]
    cache_bound_s: float


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
