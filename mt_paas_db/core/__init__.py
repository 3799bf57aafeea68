"""The user's door: `TenantManager`, and the values it returns."""

from mt_paas_db.catalog.settings import ClusterSettings, Settings, load_settings
from mt_paas_db.catalog.values import (
    Event,
    Installation,
    NameKind,
    Placement,
    SuspensionReason,
    Tenant,
    TenantState,
)
from mt_paas_db.core.aio import AsyncTenantManager
from mt_paas_db.core.bulk import Created, NewTenant
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.core.progress import Progress

__all__ = [
    "AsyncTenantManager",
    "ClusterSettings",
    "Created",
    "Event",
    "Installation",
    "NameKind",
    "NewTenant",
    "Placement",
    "Progress",
    "Settings",
    "SuspensionReason",
    "Tenant",
    "TenantManager",
    "TenantState",
    "load_settings",
]
