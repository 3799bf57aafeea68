"""How the server is told whose a statement is, where the setting `name_tenant` says that it should be."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from mt_paas_db.catalog.settings import Settings
from mt_paas_db.session.pin import Pin
from mt_paas_db.telemetry.providers import traceparent
from mt_paas_db.telemetry.sqlcomment import sqlcomment


def commenting(settings: Settings) -> Callable[[Pin], str] | None:
    """Return what makes the comment behind each statement of a pin's transaction; None where there is none.

    With the trace's context a statement's text is never the same twice, so that nothing that is kept by its text is
    found again: `unique_texts` says so to whoever opens connections.
    """
    application = settings.installation

    @lru_cache(maxsize=4_096)
    def plain(tenant_id: str) -> str:
        return sqlcomment(application=application, tenant=tenant_id)

    if settings.name_tenant == "comment":
        return lambda pin: plain(pin.tenant_id)
    if settings.name_tenant == "traced_comment":
        return lambda pin: sqlcomment(application=application, tenant=pin.tenant_id, traceparent=traceparent())
    return None


def unique_texts(settings: Settings) -> bool:
    """Whether no two statements have the same text, so that a driver had better keep none of them prepared."""
    return settings.name_tenant == "traced_comment"
