"""All attacks, in the order of their ids, and the ids that are none here."""

from __future__ import annotations

import re
from types import ModuleType

from mt_paas_db.isolation.attack import Attack, NotApplicable
from mt_paas_db.isolation.attacks import (
    a_escape,
    a_transaction,
    b_oracles,
    b_policies,
    c_residue,
    c_statements,
    cve,
    d_catalogs,
    d_facilities,
    e_definitions,
    f_names,
    g_context,
    g_objects,
    g_orm,
)

MODULES: tuple[ModuleType, ...] = (
    a_escape,
    a_transaction,
    b_policies,
    b_oracles,
    c_residue,
    c_statements,
    d_catalogs,
    d_facilities,
    e_definitions,
    f_names,
    g_orm,
    g_objects,
    g_context,
    cve,
)
"""One or more modules a family; an attack is in the catalogue once its module stands here."""


def _order(entry: Attack | NotApplicable) -> tuple[str, int, str]:
    letters, number, rest = re.fullmatch(r"([A-Z]+)-?(\d+)(.*)", entry.id).groups()  # type: ignore[union-attr]
    return letters, int(number), rest


def _entries() -> list[Attack | NotApplicable]:
    found = [
        entry
        for module in MODULES
        for value in vars(module).values()
        for entry in (value if isinstance(value, tuple) else (value,))
        if isinstance(entry, Attack | NotApplicable)
    ]
    return sorted(found, key=_order)


CATALOGUE: tuple[Attack, ...] = tuple(entry for entry in _entries() if isinstance(entry, Attack))
NOT_APPLICABLE: tuple[NotApplicable, ...] = tuple(entry for entry in _entries() if isinstance(entry, NotApplicable))
