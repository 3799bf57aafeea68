"""Where ``sql/`` and ``migrations/`` are: inside the wheel, else beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_path(*parts: str) -> Path:
    """Return the path of a shipped file or folder, as in ``resource_path("sql", "registry.sql")``.

    Raises `FileNotFoundError` when it is in neither place: the installation is damaged.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} is missing from this installation of mt_paas_db")
