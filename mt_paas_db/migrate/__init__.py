"""Migrations: one history, applied to every tenant. The only package that imports Alembic.

``from mt_paas_db.migrate import run_env`` and ``run_env(Base.metadata)`` are the whole ``env.py`` of a service.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Fleet": "mt_paas_db.migrate.fleet",
    "Options": "mt_paas_db.migrate.report",
    "Plan": "mt_paas_db.migrate.plan",
    "Report": "mt_paas_db.migrate.report",
    "Selection": "mt_paas_db.migrate.plan",
    "Standing": "mt_paas_db.migrate.report",
    "run_env": "mt_paas_db.migrate.env",
}

__all__ = ["Fleet", "Options", "Plan", "Report", "Selection", "Standing", "run_env"]


def __getattr__(name: str) -> Any:
    # Late: whoever imports one module of this package need not load all that env.py needs.
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


if TYPE_CHECKING:
    from mt_paas_db.migrate.env import run_env as run_env
    from mt_paas_db.migrate.fleet import Fleet as Fleet
    from mt_paas_db.migrate.plan import Plan as Plan
    from mt_paas_db.migrate.plan import Selection as Selection
    from mt_paas_db.migrate.report import Options as Options
    from mt_paas_db.migrate.report import Report as Report
    from mt_paas_db.migrate.report import Standing as Standing
