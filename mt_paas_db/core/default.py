"""The process's default manager, which ``mt_paas_db.tenant_session`` opens sessions with."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.checks import Report
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.core.seed import Seed
from mt_paas_db.session.door import TenantSessionContext
from mt_paas_db.session.pin import IsolationLevel

_lock = threading.Lock()
_manager: TenantManager | None = None


def configure(
    settings: Settings | TenantManager | None = None,
    *,
    models: Any = None,
    script_location: str | None = None,
    seed: Seed | str | None = None,
    credentials: CredentialProvider | None = None,
) -> TenantManager:
    """Make, or take, the manager that `tenant_session` uses in this process, and return it.

    Without a call, the first `tenant_session` makes one from ``MT_PAAS_DB_*`` in the environment. A second
    call replaces the manager; sessions that are open go on with theirs. Sends nothing.

    The arguments are those of `TenantManager`. Raises `ConfigurationError` for faulty settings.
    """
    global _manager
    made = (
        settings
        if isinstance(settings, TenantManager)
        else TenantManager(settings, models=models, script_location=script_location, seed=seed, credentials=credentials)
    )
    with _lock:
        _manager = made
    return made


def default_manager() -> TenantManager:
    """Return the process's default manager, made from the environment if need be."""
    global _manager
    manager = _manager
    if manager is None:
        with _lock:
            manager = _manager
            if manager is None:
                manager = _manager = TenantManager()
    return manager


def tenant_session(
    tenant_id: str,
    *,
    read_only: bool = False,
    isolation_level: IsolationLevel | None = None,
    statement_timeout_s: float | None = None,
    expire_on_commit: bool = True,
    commit: bool = True,
    requires: str | Collection[str] | None = None,
) -> TenantSessionContext:
    """Open a tenant's session: ``with`` gives a `Session`, ``async with`` an `AsyncSession`.

    `TenantManager.get_session` of the default manager; it says what the arguments are and what is raised.
    """
    return default_manager().get_session(
        tenant_id,
        read_only=read_only,
        isolation_level=isolation_level,
        statement_timeout_s=statement_timeout_s,
        expire_on_commit=expire_on_commit,
        commit=commit,
        requires=requires,
    )


def readiness() -> Report:
    """Return whether the default manager can serve sessions now; `TenantManager.readiness` says how."""
    return default_manager().readiness()
