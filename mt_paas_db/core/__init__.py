"""The user's door: `TenantManager`, and the values it returns."""

from mt_paas_db.catalog.settings import ClusterSettings, Settings, load_settings
from mt_paas_db.catalog.values import (
    Cell,
    CellLoad,
    Event,
    Installation,
    Limits,
    NameKind,
    Placement,
    SuspensionReason,
    Tenant,
    TenantState,
)
from mt_paas_db.core.aio import AsyncTenantManager
from mt_paas_db.core.bulk import Created, NewTenant
from mt_paas_db.core.limits import Usage
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.core.progress import Progress
from mt_paas_db.core.settling import Settled, Stray

__all__ = [
    "AsyncTenantManager",
    "Cell",
    "CellLoad",
    "ClusterSettings",
    "Created",
    "Event",
    "Installation",
    "Limits",
    "NameKind",
    "NewTenant",
    "Placement",
    "Progress",
    "Settings",
    "Settled",
    "Stray",
    "SuspensionReason",
    "Tenant",
    "TenantManager",
    "TenantState",
    "Usage",
    "load_settings",
]
