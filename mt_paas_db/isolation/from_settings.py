"""What ``pytest --mt-isolation`` collects: the suite on the manager that the environment's settings name."""

from __future__ import annotations

import os

from mt_paas_db.catalog.identifiers import parse_tier
from mt_paas_db.isolation.suite import IsolationSuite


class TestIsolation(IsolationSuite):
    """Manager, models, pooler and tier from ``MT_PAAS_DB_*``."""

    tiers = (parse_tier(os.environ.get("MT_PAAS_DB_TIER", "role")).value,)
