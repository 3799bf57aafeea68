"""A sequence that fails, made shorter: steps are left out as long as it fails in the same way.

hypothesis would shorten what it has drawn, number by number, which takes a thousand sequences; what counts here is how
many steps there are. So whole steps are left out, many at a time and then one by one, and each attempt is carried out
on a world as new. A step that means nothing any more, because the session that it speaks of was never opened, is left
out with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mt_paas_db.isolation.machine.ready import may_come

if TYPE_CHECKING:
    from mt_paas_db.isolation.machine.frame import Failure
    from mt_paas_db.isolation.machine.script import Step
    from mt_paas_db.isolation.machine.world import World

_PATIENCE_S = 60.0


def repeated(world: World, steps: Sequence[Step]) -> Failure | None:
    """Carry out those of `steps` that mean something on a world as new; return what ended them, if anything did."""
    world.begin()
    try:
        for step in steps:
            if may_come(world, step):
                getattr(world, step.name)(*step.arguments)
        world.end()
    except Exception:
        return world.failure
    return None


def shortest(world: World, failure: Failure, *, patience_s: float = _PATIENCE_S) -> Failure:
    """Return a failure of the same kind after fewer steps, or `failure` itself where none is found in time."""
    deadline = time.monotonic() + patience_s
    best, size = failure, max(1, len(failure.steps) // 2)
    while True:
        shorter = _without_some(world, best, size, deadline)
        if shorter is best and size == 1:
            return best
        if shorter is best:
            size //= 2
        best = shorter
        if time.monotonic() > deadline:
            return best


def _without_some(world: World, failure: Failure, size: int, deadline: float) -> Failure:
    """Leave out `size` steps wherever it still fails, from the end to the beginning."""
    best, stop = failure, len(failure.steps)
    while stop > 0 and time.monotonic() < deadline:
        start = max(0, stop - size)
        found = repeated(world, [*best.steps[:start], *best.steps[stop:]])
        if found is not None and type(found.error) is type(best.error) and len(found.steps) < len(best.steps):
            best = found
        stop = min(start, len(best.steps))
    return best
