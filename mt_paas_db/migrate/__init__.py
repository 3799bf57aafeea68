"""Migrations: one history, applied to every tenant. The only package that imports Alembic.

``from mt_paas_db.migrate import run_env`` and ``run_env(Base.metadata)`` are the whole ``env.py`` of a service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mt_paas_db.migrate.env import run_env as run_env

__all__ = ["run_env"]


def __getattr__(name: str) -> Any:
    # Late: whoever imports one module of this package need not load all that env.py needs.
    if name != "run_env":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mt_paas_db.migrate.env import run_env

    return run_env
