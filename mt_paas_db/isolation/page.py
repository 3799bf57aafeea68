"""Writes ``docs/reference/attacks.md`` from the catalogue's own texts: ``python -m mt_paas_db.isolation.page FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

from mt_paas_db.isolation.attack import FAMILIES, RUN_TIERS, Attack, NotApplicable, Weakness
from mt_paas_db.isolation.catalogue import CATALOGUE, NOT_APPLICABLE

_HEAD = """\
# The attacks of the isolation suite

<!-- Written by `python -m mt_paas_db.isolation.page`; change the texts in mt_paas_db/isolation/attacks. -->

What [the isolation suite](../how-to/isolation-in-ci.md) carries out, on every driver, direct and through PgBouncer.
`{target}` stands for the attacked tenant's schema, which is also its role. *Held* is what a tier promises; what is not
promised is carried out too, and reported as *open* where it gets through. *Seen to fail* says what has to be taken
away for an attack to get through; the library's own tests do so.
"""


def page() -> str:
    """Return the whole page."""
    entries: list[Attack | NotApplicable] = [*CATALOGUE, *NOT_APPLICABLE]
    parts = [_HEAD, _table()]
    for family, title in FAMILIES.items():
        own = [entry for entry in entries if entry.family == family]
        if own:
            parts.append(f"## {family}. {title}\n")
            parts += [_attack(entry) for entry in own if isinstance(entry, Attack)]
            parts += [_none(entry) for entry in own if isinstance(entry, NotApplicable)]
    return "\n".join(parts)


def _table() -> str:
    lines = [f"| attack | {' | '.join(f'tier `{tier}`' for tier in RUN_TIERS)} |", "|---|" + "---|" * len(RUN_TIERS)]
    for attack in CATALOGUE:
        promises = ["held" if attack.promises[tier].held else "**not promised**" for tier in RUN_TIERS]
        lines.append(f"| `{attack.key}` {attack.title} | {' | '.join(promises)} |")
    return "\n".join(lines) + "\n"


def _attack(attack: Attack) -> str:
    lines = [f"### {attack.key}", "", f"**{attack.title}.** {attack.does}", "", "```text", attack.sql, "```", ""]
    lines += [f"*Why it is held.* {_flat(attack.why_held)}", ""]
    if attack.remains:
        lines += [f"*What remains.* {_flat(attack.remains)}", ""]
    for tier in RUN_TIERS:
        if not attack.promises[tier].held:
            lines += [f"*Tier `{tier}`.* Not promised: {attack.promises[tier].because}.", ""]
    if attack.needs:
        lines += [f"*Needs.* {', '.join(f'`{need.name}`' for need in attack.needs)}.", ""]
    lines += [f"*Seen to fail.* {_weakness(attack.broken)}", "", f"*Source.* {_flat(attack.source)}", ""]
    return "\n".join(lines)


def _weakness(broken: Weakness) -> str:
    if not broken:
        return "As things are, at the tier that does not promise it."
    return "Where " + ", and ".join(f"`{one.name}`" for one in broken) + "."


def _none(entry: NotApplicable) -> str:
    return f"### {entry.id}\n\n**{entry.title}.** Not applicable: {entry.because}.\n"


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
