"""Runs the machine: as many steps as were asked for, and a failure shrunk to its script."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from mt_paas_db.isolation.machine.faults import LeakError, MachineError
from mt_paas_db.isolation.machine.frame import Failure
from mt_paas_db.isolation.machine.rules import Machine
from mt_paas_db.isolation.machine.script import written
from mt_paas_db.isolation.machine.shrinking import repeated, shortest
from mt_paas_db.isolation.machine.world import World

SEQUENCE = 30
"""Steps of one sequence: long enough for a tenant to be deleted, created again and met by who remembers it."""

_AT_ONCE = 25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        steps: How many were carried out, those of shrinking not included.
        seed: With which the same steps are drawn again.
        error: What they came to; None where everything held.
        script: A program that repeats the shortest sequence found; empty where everything held.
    """

    steps: int
    seconds: float
    seed: int
    error: BaseException | None = None
    script: str = ""

    @property
    def leaked(self) -> bool:
        """Whether a promise was broken; an error of another kind proves nothing."""
        return isinstance(self.error, LeakError)


def run(
    world: World, *, steps: int, seed_: int, where: str = "", progress: Callable[[int], Any] | None = None
) -> Outcome:
    """Carry out at least `steps` steps in sequences of up to `SEQUENCE`, or up to the first failure, which is shrunk.

    The same `seed_` draws the same steps; nothing is read from hypothesis' database of examples or written to it.
    `progress` is told now and then how many steps were carried out. `where` goes into the script.
    """
    started, before, known = time.monotonic(), world.steps, len(world.failures)
    turn = 0
    while (done := world.steps - before) < steps:
        sequences = min(_AT_ONCE, -(-(steps - done) // SEQUENCE))
        machine = type("Bound", (Machine,), {"world": world})
        options = settings(
            max_examples=sequences,
            stateful_step_count=SEQUENCE,
            deadline=None,
            database=None,
            derandomize=False,
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate,),  # shortened by `shrinking`
            suppress_health_check=list(HealthCheck),
        )
        error = _error_of(machine, options, f"{seed_}.{turn}")
        if error is not None:
            drawn = world.steps - before
            found = world.failures[known] if len(world.failures) > known else Failure(error, tuple(world.history))
            # What cannot be repeated is shown as it was.
            found = shortest(world, repeated(world, found.steps) or found)
            script = written(found.steps, world.route, why=_why(found.error), where=where)
            return Outcome(drawn, time.monotonic() - started, seed_, found.error, script)
        turn += 1
        if progress is not None:
            progress(world.steps - before)
    return Outcome(world.steps - before, time.monotonic() - started, seed_)


def _error_of(machine: type[Machine], options: settings, seed_: str) -> Exception | None:
    """Return what a run comes to, when it is over: what is raised while an error is handled would refer to it."""
    try:
        run_state_machine_as_test(seed(seed_)(machine), settings=options)
    except Exception as error:
        return error
    return None


def _why(error: Exception) -> str:
    if isinstance(error, MachineError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error)[-3:]).strip()
