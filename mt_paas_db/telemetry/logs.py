"""Whose a log record is: the tenant in force, for the service's own format of logs."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

IN_FORCE: ContextVar[Any] = ContextVar("mt_paas_db_tenant", default=None)
"""The id of the tenant in force, or None. `mt_paas_db.session.context`, a floor above, sets it and knows its type."""


class TenantLogFilter(logging.Filter):
    """Puts the tenant in force (`tenant_context`) on each record as `tenant_id`, ``-`` where there is none.

    For handlers: a logger's filters are not asked for the records of the loggers below it. Lets every record pass. One
    that has a `tenant_id` already, from ``extra``, keeps it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("tenant_id", IN_FORCE.get() or "-")
        return True
