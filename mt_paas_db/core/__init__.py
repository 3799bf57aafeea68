"""The user's door: `TenantManager`, and the values it returns."""

from mt_paas_db.catalog.settings import ClusterSettings, Settings, load_settings
from mt_paas_db.catalog.values import Event, Installation, NameKind, Placement, Tenant, TenantState
from mt_paas_db.core.aio import AsyncTenantManager
from mt_paas_db.core.manager import TenantManager

__all__ = [
    "AsyncTenantManager",
    "ClusterSettings",
    "Event",
    "Installation",
    "NameKind",
    "Placement",
    "Settings",
    "Tenant",
    "TenantManager",
    "TenantState",
    "load_settings",
]
