"""`mt-paas-db pgbouncer reload`: let a running PgBouncer read its files, and see whether it did."""

from __future__ import annotations

import configparser
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt_paas_db.pooler.console import Console
from mt_paas_db.pooler.sizes import Cell


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a RELOAD came to.

    Attributes:
        version: PgBouncer's.
        restart: Settings that are as the file says only after a restart, as ``name: 5 in force, 6 in the file``.
        ignored: Settings that should be in force now and are not.
        missing: Cells whose login PgBouncer does not know.
        pool_mode: Of the database, in force.
    """

    version: tuple[int, ...]
    restart: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[Cell, ...]
    pool_mode: str

    @property
    def ok(self) -> bool:
        """Whether the files are in force, as far as a reload can bring that."""
        return not self.ignored and not self.missing and self.pool_mode == "transaction"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "ok": self.ok,
            "version": ".".join(map(str, self.version)),
            "pool_mode": self.pool_mode,
            "needs_restart": list(self.restart),
            "not_in_force": list(self.ignored),
            "missing": [{"cell": cell.name, "login": cell.login} for cell in self.missing],
        }


def reload_pgbouncer(
    console: Console, cells: Collection[Cell], database: str, written: Mapping[str, str] | None
) -> Reloaded:
    """RELOAD, and compare with what is `written` in the file, where that is known, and with the catalog's `cells`.

    Raises `PoolerConsoleError`.
    """
    console.reload()
    config = console.config()
    restart: list[str] = []
    ignored: list[str] = []
    for name, wanted in sorted((written or {}).items()):
        setting = config.get(name)
        if setting is None or _same(setting.value, wanted):
            continue
        said = f"{name}: {setting.value or 'nothing'} in force, {wanted or 'nothing'} in the file"
        (ignored if setting.changeable else restart).append(said)
    databases = {str(row["name"]): row for row in console.show("DATABASES")}
    mode = str((databases.get(database) or {}).get("pool_mode") or config["pool_mode"].value)
    if database not in databases and "*" not in databases:
        ignored.append(f"database {database!r} is not among those that PgBouncer serves")
    known = {str(row["name"]) for row in console.show("USERS")}
    missing = () if config["auth_user"].value else tuple(cell for cell in cells if cell.login not in known)
    return Reloaded(console.version(), tuple(restart), tuple(ignored), missing, mode)


def read_settings(path: Path) -> dict[str, str]:
    """Return the section ``[pgbouncer]`` of a file that was written here."""
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, comment_prefixes=(";", "#", "%"), delimiters=("=",)
    )
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(path.read_text(encoding="utf-8"))
    return dict(parser["pgbouncer"])


def _same(found: str, wanted: str) -> bool:
    """Whether two spellings are one value: PgBouncer shows 3600 as it is, or with decimals."""
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found.strip() == wanted.strip()
