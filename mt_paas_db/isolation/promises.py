"""Writes the channels × tiers tables of a page from the catalogue: ``python -m mt_paas_db.isolation.promises FILE``.

What is between the two comments of the page is replaced; the words around it are written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mt_paas_db.isolation.attack import FAMILIES, RUN_TIERS, Attack, NotApplicable, Tier
from mt_paas_db.isolation.catalogue import CATALOGUE, NOT_APPLICABLE

BEGIN = "<!-- channels: written by `python -m mt_paas_db.isolation.promises`, from mt_paas_db/isolation/attacks -->"
END = "<!-- channels: end -->"
_ENTRIES = "../reference/attacks.md"


def with_tables(
    page: str, attacks: Sequence[Attack] = CATALOGUE, none_here: Sequence[NotApplicable] = NOT_APPLICABLE
) -> str:
    """Return the text of a page with its tables anew. Raises ValueError where it lacks the two comments."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the tables: {BEGIN} ... {END}")
    parts = (
        "### By family", _families(attacks, none_here),
        "### What is not held", _open(attacks),
        "### What is held, and what remains of it", _remainders(attacks),
    )  # fmt: skip
    return "\n\n".join((before + begin, *parts, end)) + after


def _families(attacks: Sequence[Attack], none_here: Sequence[NotApplicable]) -> str:
    rows = []
    for family, title in FAMILIES.items():
        own = [attack for attack in attacks if attack.family == family]
        absent = sum(entry.family == family for entry in none_here)
        if own:
            rows.append((f"{family}. {title}", len(own), *(_count(own, tier) for tier in RUN_TIERS), absent or ""))
    total = ("all", len(attacks), *(_count(attacks, tier) for tier in RUN_TIERS), len(none_here))
    return _table(("family", "attacks", *_tiers(), "ids that do not apply"), (*rows, total))


def _count(attacks: Sequence[Attack], tier: Tier) -> str:
    held = sum(attack.promises[tier].held for attack in attacks)
    return "all held" if held == len(attacks) else f"{held} held, **{len(attacks) - held} open**"


def _open(attacks: Sequence[Attack]) -> str:
    rows = [(_name(attack), *_cells(attack)) for attack in attacks if not _held(attack)]
    return _table(("channel", *_tiers()), rows)


def _cells(attack: Attack) -> list[str]:
    cells: list[str] = []
    said: dict[str, Tier] = {}
    for tier in RUN_TIERS:
        promise = attack.promises[tier]
        if promise.held:
            cells.append("held")
        elif promise.because in said:
            cells.append(f"**open**, as at `{said[promise.because]}`")
        else:
            said[promise.because] = tier
            cells.append(f"**open**: {promise.because}")
    return cells


def _remainders(attacks: Sequence[Attack]) -> str:
    rows = [(_name(attack), " ".join(attack.remains.split())) for attack in attacks if _held(attack) and attack.remains]
    return _table(("channel", "what remains, at each tier"), rows)


def _held(attack: Attack) -> bool:
    return all(attack.promises[tier].held for tier in RUN_TIERS)


def _tiers() -> tuple[str, ...]:
    return tuple(f"tier `{tier}`" for tier in RUN_TIERS)


def _name(attack: Attack) -> str:
    return f"[{attack.key}]({_ENTRIES}#{attack.key.lower()}) {attack.title}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    _page = Path(sys.argv[1])
    _page.write_text(with_tables(_page.read_text(encoding="utf-8")), encoding="utf-8")
