"""The tenant in force where no argument can carry it: one ContextVar, set by blocks only.

A middleware sets it, repositories read it: ``tenant_session(current_tenant())``. There is no default.
A session belongs to the tenant it was opened for; a context that names another one is an error at the
next statement, so that a session handed to a foreign task or stream is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mt_paas_db.catalog.identifiers import TenantId, parse_tenant_id
from mt_paas_db.errors import NoTenantError
from mt_paas_db.telemetry.logs import IN_FORCE

_current: ContextVar[TenantId | None] = IN_FORCE


@contextmanager
def tenant_context(tenant_id: str) -> Iterator[TenantId]:
    """Put `tenant_id` in force for the block, and what was before it afterwards.

    Holds for the code of the block and for the tasks created in it. Sends nothing to a server.

    Raises:
        InvalidIdentifierError: `tenant_id` is no tenant id.
    """
    parsed = parse_tenant_id(tenant_id)
    token = _current.set(parsed)
    try:
        yield parsed
    finally:
        _current.reset(token)


def current_tenant() -> TenantId:
    """Return the tenant in force. Raises `NoTenantError` where there is none."""
    tenant_id = _current.get()
    if tenant_id is None:
        raise NoTenantError("current_tenant()")
    return tenant_id


def tenant_in_force() -> TenantId | None:
    """Return the tenant in force, or None: for the guard, which must allow sessions without a context."""
    return _current.get()
