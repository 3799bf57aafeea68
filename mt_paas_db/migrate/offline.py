"""``--sql``: what a run would send, to read. Not to be carried out by hand: it has neither locks nor records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mt_paas_db.migrate.ground import Ground
from mt_paas_db.migrate.message import identifier
from mt_paas_db.migrate.plan import Selection
from mt_paas_db.migrate.script import Action, Script

_SHOWN = 5


def as_script(ground: Ground, action: Action, target: str, *, start: str | None, selection: Selection) -> str:
    """Return the SQL of a run: of each starting point, or of `start` alone, where that is given.

    Raises `RevisionError`, and `UnknownTenantError` for a selected tenant that is not there.
    """
    if start is not None:
        heads = () if start == "base" else tuple(sorted(ground.scripts.resolve(start).split()))
        return "\n".join(_shown(ground.script_from(action, heads, target))) + "\n"
    plan = ground.plan(action, target, selection)
    lines: list[str] = []
    for move in plan.first:
        lines += [f"-- {move.target.tenant_id}", *_shown(plan.first_scripts[move.target.generation])]
    tenants = defaultdict(list)
    for move in plan.moves:
        tenants[move.heads].append(move.target)
    for heads, targets in tenants.items():
        names = ", ".join(t.tenant_id for t in targets[:_SHOWN]) + (", ..." if len(targets) > _SHOWN else "")
        lines.append(f"-- {len(targets)} tenants, from {', '.join(heads) or 'base'}: {names}")
        if len(targets) == 1:
            lines.append(f"SET search_path = {identifier(targets[0].schema)}, pg_temp;")
        lines += _shown(plan.scripts[heads])
    return "\n".join(lines) + "\n"


def _shown(script: Script) -> Iterator[str]:
    yield f"-- from {', '.join(script.start) or 'base'} to {', '.join(script.end) or 'base'}"
    if script.way == "online":
        for part in script.parts:
            yield f"-- revision {part.revision} runs online" + (f": {part.reason}" if part.reason else "")
            yield from (f"{item.text};" for item in part.items)
        return
    for step in script.steps():
        if not step.alone:
            yield "BEGIN;"
        yield from (f"{item.text};" for item in step.items)
        if not step.alone:
            yield "COMMIT;"
