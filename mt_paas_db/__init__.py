"""PostgreSQL schema per tenant: the server itself refuses every other tenant.

>>> from mt_paas_db import tenant_session                       # doctest: +SKIP
>>> with tenant_session("hallym") as session:                   # doctest: +SKIP
...     session.scalars(select(Conversation)).all()

The names below are loaded when they are first used (PEP 562), so that importing the package costs next to
nothing and loads no driver and no ORM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Settings": "mt_paas_db.catalog.settings",
    "TenancyError": "mt_paas_db.errors",
    "TenantLogFilter": "mt_paas_db.telemetry.logs",
    "TenantManager": "mt_paas_db.core.manager",
    "configure": "mt_paas_db.core.default",
    "current_tenant": "mt_paas_db.session.context",
    "load_settings": "mt_paas_db.catalog.settings",
    "readiness": "mt_paas_db.core.default",
    "tenant_context": "mt_paas_db.session.context",
    "tenant_session": "mt_paas_db.core.default",
}

__all__ = [
    "Settings",
    "TenancyError",
    "TenantLogFilter",
    "TenantManager",
    "__version__",
    "configure",
    "current_tenant",
    "load_settings",
    "readiness",
    "tenant_context",
    "tenant_session",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


if TYPE_CHECKING:
    from mt_paas_db.catalog.settings import Settings as Settings
    from mt_paas_db.catalog.settings import load_settings as load_settings
    from mt_paas_db.core.default import configure as configure
    from mt_paas_db.core.default import readiness as readiness
    from mt_paas_db.core.default import tenant_session as tenant_session
    from mt_paas_db.core.manager import TenantManager as TenantManager
    from mt_paas_db.errors import TenancyError as TenancyError
    from mt_paas_db.session.context import current_tenant as current_tenant
    from mt_paas_db.session.context import tenant_context as tenant_context
    from mt_paas_db.telemetry.logs import TenantLogFilter as TenantLogFilter
