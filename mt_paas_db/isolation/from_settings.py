"""What ``pytest --mt-isolation`` collects: the suite on the manager that the environment's settings name."""

from __future__ import annotations

from mt_paas_db.isolation.suite import IsolationSuite


class TestIsolation(IsolationSuite):
    """Manager, models and pooler from ``MT_PAAS_DB_*``."""
