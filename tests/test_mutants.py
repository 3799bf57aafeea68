"""Every break of one of our layers is found twice: an attack or a sequence of steps shows it, and the audit names it.

Layers mask each other, so those that mask the broken one are taken away with it. With that one layer whole again, all
else the same, nothing may get through and the audit must be silent: what dies of anything else is not killed.

`make mutants` prints the table; with ``--whole-corpus`` each mutant meets the whole catalogue, and every sequence.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from mt_paas_db.isolation.attack import Weakness
from mt_paas_db.isolation.audit import RULES
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.machine.run import Outcome, run
from mt_paas_db.isolation.machine.tenants import Tenants
from mt_paas_db.isolation.machine.world import World
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Suite
from mt_paas_db.isolation.verdict import Finding, Verdict
from tests.fleet import Service
from tests.mutants.ground import WeakGrounds
from tests.mutants.sequences import TWINS, Twin
from tests.mutants.summary import killed
from tests.mutants.table import ELSEWHERE, MUTANTS, Mutant
from tests.servers import PostgresServer

pytestmark = pytest.mark.mutants

ROOT = Path(__file__).resolve().parents[1]
BOUND = 1_500
"""Steps within which a fault must be found, those of shrinking not counted."""

GOT_THROUGH = {Verdict.LEAKED, Verdict.OPEN}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sequence" in metafunc.fixturenames:
        every = metafunc.config.getoption("--whole-corpus")
        metafunc.parametrize("sequence", [name for name, twin in TWINS.items() if every or not twin.by_attacks])


@pytest.fixture(scope="module")
def grounds(server: PostgresServer) -> Iterator[WeakGrounds]:
    with ExitStack() as stack:
        yield WeakGrounds(server, stack)


def held(finding: Finding) -> bool:
    """Whether nothing got through. That the attack does reach what it attacks is what the mutant shows.

    Where a peeled layer is missing, an attack may be answered by another error than those that it knows: "no such
    table" for "permission denied". It must not have broken down on its own.
    """
    answered = all(line.startswith("not proven: ") for line in finding.reason.splitlines())
    return finding.verdict is Verdict.HELD or (finding.verdict is Verdict.ASTRAY and answered)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_dies_twice(
    grounds: WeakGrounds, mutant: Mutant, record_property: Any, pytestconfig: pytest.Config
) -> None:
    both, through = mutant.broken | mutant.peeled, []
    for attack in mutant.attacks:
        whole = grounds.of(mutant.peeled, attack).try_(attack, mutant.peeled)
        if whole.verdict is Verdict.NOT_RUN:
            continue
        assert held(whole), f"not by {mutant.name}: {whole}"
        broken = grounds.of(both, attack).try_(attack, both)
        assert broken.verdict in GOT_THROUGH, str(broken)
        through.append(attack.key)
    if not through:
        pytest.skip(f"no server of this kind: {', '.join(need.name for one in mutant.attacks for need in one.needs)}")

    needy = mutant.attacks[0]
    named = grounds.of(both, needy).rules(both)
    assert set(mutant.rules) <= named, f"the audit has found {sorted(named)}"
    assert not set(mutant.rules) & grounds.of(mutant.peeled, needy).rules(mutant.peeled)
    if pytestconfig.getoption("--whole-corpus"):
        through += [
            attack.key
            for attack in CATALOGUE
            if attack not in mutant.attacks and not ELSEWHERE & set(attack.needs)
            and attack.broken and grounds.of(both, attack).try_(attack, both).verdict in GOT_THROUGH
        ]  # fmt: skip
    killed(record_property, by=through, named=mutant.rules)


@pytest.mark.parametrize(
    "harmless",
    [
        Mutant(Weakness.NO_STAMP, ("client-objects",), keys=("F5-look-alikes",)),
        Mutant(Weakness.NO_STAMP, ("client-names",), keys=("G5-foreign-objects",)),
        Mutant(Weakness.NO_STAMP, ("client-objects",), peeled=Weakness.NAMES_FOLDED, keys=("F5-look-alikes",)),
    ],
    ids=["no attack gets through", "the audit names something else", "a peeled layer alone lets it through"],
)
def test_what_does_not_die_of_its_break_survives(
    grounds: WeakGrounds, harmless: Mutant, record_property: Any, pytestconfig: pytest.Config
) -> None:
    with pytest.raises(AssertionError):
        test_a_mutant_dies_twice(grounds, harmless, record_property, pytestconfig)


# -- by sequences of steps


def found(service: Service, twin: Twin, stack: ExitStack) -> Outcome:
    manager = service.manager()
    manager.init()
    twin.on_the_server(service)
    suite = Suite(manager, service.models).__enter__()

    def leave() -> None:
        with suppress(Exception):  # what is broken may not clean up after itself; the database goes as a whole
            suite.__exit__(None, None, None)

    stack.callback(leave)
    stack.callback(service.close)
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
def test_a_mutant_dies_in_a_sequence_and_by_name(
    server: PostgresServer, grounds: WeakGrounds, tmp_path: Path, record_property: Any, sequence: str
) -> None:
    """The machine finds it; the script that it prints shows it again, and runs through where nothing is broken."""
    twin = TWINS[sequence]
    with ExitStack() as stack:
        outcome = found(Service(server), twin, stack)
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
        broken = repeated(service, script, "-m", "tests.mutants.sequences", sequence)
        assert broken.returncode == 1, broken.stdout + broken.stderr
        assert "LeakError" in broken.stderr

    whole = grounds.of(Weakness.NONE)
    named = whole.rules(also=twin.in_our_code)
    assert set(twin.rules) <= named, f"the audit has found {sorted(named)}"
    assert not set(twin.rules) & whole.rules()
    killed(record_property, by=[f"machine, {outcome.steps} steps"], named=twin.rules)


# -- the table


def test_every_attack_that_something_holds_kills_a_mutant() -> None:
    killing = {attack.key for mutant in MUTANTS for attack in mutant.attacks}
    elsewhere = {attack.key for attack in CATALOGUE if ELSEWHERE & set(attack.needs)}
    assert killing | elsewhere >= {attack.key for attack in CATALOGUE if attack.broken}
    assert all(mutant.attacks for mutant in MUTANTS)


def test_every_weakness_is_a_mutant() -> None:
    by_sequence = {Weakness.SESSION_LEVEL}
    assert {one for mutant in MUTANTS for one in mutant.broken} | by_sequence == set(Weakness)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_every_rule_about_sessions_names_one() -> None:
    rules = [mutant.rules for mutant in MUTANTS] + [twin.rules for twin in TWINS.values()]
    named = {rule for some in rules for rule in some}
    assert named <= set(RULES)
    assert {rule for rule in RULES if rule.startswith("client-")} <= named
