"""SQL that a service's code sends by mistake, and what is to be expected of it."""

# ruff: noqa: S608  # a constant name, and schemas of the machine's own

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mt_paas_db.isolation.machine.table import NAME

Effect = Literal["refused", "sways", "stays", "commits", "rolls back"]


@dataclass(frozen=True, slots=True)
class Stray:
    """A statement.

    Attributes:
        text: ``{own}`` and ``{other}`` stand for schemas, which are roles too, ``{n}`` for a number never used before.
        effect: It is refused; or it is accepted, and sways the rest of the transaction, or stays on the connection
            unless somebody clears it away, or ends the transaction.
    """

    text: str
    effect: Effect


STRAYS: Mapping[str, Stray] = MappingProxyType(
    {
        "syntax": Stray("SELEKT 1", "refused"),
        "division": Stray("SELECT 1/0", "refused"),
        "no such table": Stray(f"SELECT * FROM {NAME}_missing", "refused"),
        "neighbour read": Stray(f"SELECT id, body FROM {{other}}.{NAME}", "refused"),
        "neighbour written": Stray(f"UPDATE {{other}}.{NAME} SET body = 'x' RETURNING body", "refused"),
        "RESET ROLE": Stray("RESET ROLE", "sways"),
        "neighbour's path": Stray("SET search_path = {other}", "sways"),
        "own role for good": Stray("SET ROLE {own}", "stays"),
        "time-out for good": Stray("SET statement_timeout = '1h'", "stays"),
        "cursor for good": Stray(f"DECLARE held_{{n}} CURSOR WITH HOLD FOR SELECT body FROM {NAME}", "stays"),
        "LISTEN": Stray(f"LISTEN {NAME}", "stays"),
        "COMMIT": Stray("COMMIT", "commits"),
        "ROLLBACK": Stray("ROLLBACK", "rolls back"),
    }
)
