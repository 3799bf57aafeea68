"""The state machine can fail: on each broken twin it finds the fault, and the script that it prints shows it again."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from mt_paas_db.isolation.machine.run import Outcome, run
from mt_paas_db.isolation.machine.tenants import Tenants
from mt_paas_db.isolation.machine.world import World
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Suite
from tests.fleet import Service
from tests.sequence_twins import TWINS, Twin
from tests.servers import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
BOUND = 1_500
"""Steps within which a fault must be found, those of shrinking not counted."""


def found(service: Service, twin: Twin, stack: ExitStack) -> Outcome:
    manager = service.manager()
    manager.init()
    twin.on_the_server(service)
    suite = Suite(manager, service.models).__enter__()

    def leave() -> None:
        with suppress(Exception):  # what is broken may not clean up after itself; the database goes as a whole
            suite.__exit__(None, None, None)

    stack.callback(leave)
    with pytest.MonkeyPatch.context() as patch:
        twin.in_our_code(patch)
        world = World(Tenants(suite.ground), Route("psycopg"), watch_rest=twin.watch_rest)
        try:
            for seed in (1, 2, 3):  # some faults close what they should open, now and then
                outcome = run(world, steps=BOUND, seed_=seed, where="a broken twin")
                if outcome.leaked:
                    break
            return outcome
        finally:
            with suppress(Exception):
                world.__exit__(None, None, None)


def repeated(service: Service, script: Path, *through: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *through, str(script), "--models", "tests.models:Base"],
        env={**os.environ, **service.environment(), "PYTHONPATH": str(ROOT)},
        cwd=ROOT, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", TWINS)
def test_a_fault_that_only_a_sequence_shows_is_found(server: PostgresServer, tmp_path: Path, name: str) -> None:
    twin = TWINS[name]
    with ExitStack() as stack:
        service = Service(server)
        stack.callback(service.close)
        outcome = found(service, twin, stack)
        assert outcome.leaked, f"{outcome.error!r}\n{outcome.script}"
        print(outcome.steps, outcome.seconds, outcome.script)

    script = tmp_path / "steps.py"
    script.write_text(outcome.script)
    with ExitStack() as stack:
        service = Service(server)
        stack.callback(service.close)
        service.manager().init()
        intact = repeated(service, script)
        assert intact.returncode == 0, intact.stderr
        twin.on_the_server(service)
        broken = repeated(service, script, "-m", "tests.sequence_twins", name)
        assert broken.returncode == 1, broken.stdout + broken.stderr
        assert "LeakError" in broken.stderr
