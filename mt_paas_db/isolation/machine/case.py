"""The state machine as a line of the suite's report: one finding for each route."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mt_paas_db.isolation.route import NoRouteError, Route
from mt_paas_db.isolation.verdict import Finding, Verdict

if TYPE_CHECKING:
    from mt_paas_db.isolation.machine.run import Outcome
    from mt_paas_db.isolation.machine.world import World
    from mt_paas_db.isolation.run import Suite

ID, NAME, FAMILY = "M1", "state-machine", "M"
KEY = f"{ID}-{NAME}"
NAMES = (ID, KEY, FAMILY, "terminate", "reconnect")
"""What a deployment may switch off: the whole machine, or steps that it has not the means for."""

STEPS = 150
"""How many steps a route gets where nobody says."""


def sequences(suite: Suite, route: Route, *, steps: int, seed: int) -> Finding:
    """Carry out the state machine on one route of a suite, and judge it. A failure's script is in the finding."""
    started = time.monotonic()
    verdict, reason, seen = _judged(suite, route, steps, seed)
    return Finding(
        id=ID,
        key=KEY,
        title="Take random steps in sessions of many tenants, with accidents",
        family=FAMILY,
        tier=suite.tiers[0],
        route=route,
        verdict=verdict,
        reason=reason,
        seen=seen,
        seconds=round(time.monotonic() - started, 4),
    )


def _judged(suite: Suite, route: Route, steps: int, seed: int) -> tuple[Verdict, str, tuple[str, ...]]:
    if (why := suite.requirements.why_not(route, (ID, KEY, FAMILY))) is not None:
        return Verdict.NOT_RUN, why, ()
    try:
        from mt_paas_db.isolation.machine.run import run
        from mt_paas_db.isolation.machine.world import World
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        return Verdict.NOT_RUN, "hypothesis is not installed; pip install 'mt_paas_db[isolation]'", ()
    try:
        world = World(suite.machine_tenants, route, pooler=suite.pooler)
    except NoRouteError as error:
        return Verdict.NOT_RUN, str(error), ()
    with world:
        for name in world.means & suite.requirements.switched_off.keys():
            world.lacking[name] = f"switched off: {suite.requirements.switched_off[name].reason}"
        outcome = run(
            world, steps=steps, seed_=seed, where=", ".join(f"{name} {value}" for name, value in suite.facts())
        )
        return _verdict(outcome, world)


def _verdict(outcome: Outcome, world: World) -> tuple[Verdict, str, tuple[str, ...]]:
    said = f"{outcome.steps} steps, seed {outcome.seed}"
    lacking = "".join(f"; without {name}: {why}" for name, why in sorted(world.lacking.items()))
    if outcome.error is None:
        return Verdict.HELD, said + lacking, ()
    return (Verdict.LEAKED if outcome.leaked else Verdict.ASTRAY), said + lacking, tuple(outcome.script.splitlines())
