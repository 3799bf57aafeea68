"""The state machine on an intact installation, on every driver, direct and through PgBouncer: nothing leaks.

``--machine-steps`` says how many steps all routes take together, ``--machine-seed`` which; `make soak` takes 100,000.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mt_paas_db.isolation.machine import case
from mt_paas_db.isolation.machine.rules import Machine
from mt_paas_db.isolation.machine.run import run
from mt_paas_db.isolation.machine.strays import STRAYS
from mt_paas_db.isolation.machine.tenants import Tenants
from mt_paas_db.isolation.machine.world import World
from mt_paas_db.isolation.requirements import off
from mt_paas_db.isolation.route import ROUTES, Route
from mt_paas_db.isolation.run import Suite
from mt_paas_db.isolation.verdict import Verdict
from tests.fleet import PASSWORD, Service
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def suite(server: PostgresServer) -> Iterator[Suite]:
    """A suite with a PgBouncer whose console may be used; its guards stand too, as a service may have them."""
    service = Service(server)
    with ExitStack() as stack:
        stack.callback(service.close)
        manager = service.manager(guards=True)
        manager.init()
        try:
            pooler = server.pooler(users={service.login: PASSWORD}, pool_size=4, admins=(service.login,))
        except LookupError:
            dsn = None
        else:
            dsn = stack.enter_context(pooler).dsn(service.database, user=service.login, password=PASSWORD)
        yield stack.enter_context(Suite(manager, service.models, pooler=dsn))


# psycopg says so of a server-side cursor whose backend was ended before its CLOSE arrived: that connection is gone.
@pytest.mark.filterwarnings("ignore:.*ServerCursor.* was deleted while still open:ResourceWarning")
@pytest.mark.in_turn(direct=3, pooled=3)
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_what_a_tenant_reads_is_what_it_wrote(suite: Suite, route: Route, pytestconfig: pytest.Config) -> None:
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    if route.pooled and suite.pooler is None:
        pytest.skip("no PgBouncer to run")
    share = -(-pytestconfig.getoption("--machine-steps") // len(ROUTES))
    with World(suite.machine_tenants, route, pooler=suite.pooler) as world:
        assert not world.lacking
        outcome = run(world, steps=share, seed_=pytestconfig.getoption("--machine-seed"))
    print(f"{route}: {outcome.steps} steps in {outcome.seconds:.1f} s, seed {outcome.seed}")
    assert outcome.error is None, outcome.script
    assert outcome.steps >= share


def test_every_step_is_drawn_by_a_rule() -> None:
    """A step that no rule draws would be tested by nobody."""
    steps = {name for name in dir(World) if hasattr(getattr(World, name), "__wrapped__")} - {"noted"}
    assert steps == {rule.function.__name__ for rule in Machine.setup_state().rules}


def test_every_kind_of_step_comes_about(suite: Suite) -> None:
    seen: set[str] = set()
    with World(suite.machine_tenants, Route("psycopg")) as world:
        original = world.begin

        def begin() -> None:
            seen.update(step.name for step in world.history)
            original()

        world.begin = begin  # type: ignore[method-assign]
        assert run(world, steps=1_500, seed_=3).error is None
        begin()
    elsewhere = {"reconnect", "cancel", "cancel_closing", "open_two"}
    assert seen == {rule.function.__name__ for rule in Machine.setup_state().rules} - elsewhere


@pytest.mark.parametrize("name", STRAYS)
def test_a_stray_statement_stays_with_its_transaction(suite: Suite, name: str) -> None:
    with World(suite.machine_tenants, Route("psycopg")) as world:
        world.begin()
        world.open(0, "red")
        world.insert(0, "core")
        world.stray(0, name, "green")
        world.read(0, "text")
        world.close(0, "commit")
        world.open(1, "green")
        world.read(1, "orm")
        world.end()


def test_the_same_seed_takes_the_same_steps(suite: Suite) -> None:
    taken = []
    for seed in (5, 5, 6):
        with World(suite.machine_tenants, Route("psycopg")) as world:
            run(world, steps=70, seed_=seed)  # the first sequence is the same for every seed
            taken.append(world.history)
    assert taken[0] == taken[1] != taken[2]


def test_it_is_a_line_of_the_report(service: Service) -> None:
    manager = service.manager()
    manager.init()
    requirements = {"asyncpg": off("we have psycopg"), "terminate": off("not on this server")}
    with Suite(manager, service.models, requirements=requirements, steps=20, seed=7) as suite:
        report = suite.run([])
    verdicts = {str(finding.route): finding for finding in report.findings if finding.id == case.ID}
    assert set(verdicts) == set(map(str, ROUTES))
    assert verdicts["psycopg-direct"].verdict is Verdict.HELD
    assert "seed 7; without terminate: switched off: not on this server" in verdicts["psycopg-direct"].reason
    assert verdicts["asyncpg-direct"].verdict is Verdict.NOT_RUN
    assert "no PgBouncer is known" in verdicts["psycopg-pgbouncer"].reason
    assert report.ok


def test_hypothesis_is_imported_by_the_machine_alone() -> None:
    code = "import sys, mt_paas_db.isolation, mt_paas_db.isolation.run; print('hypothesis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_pooler_with_too_little_room_is_said(server: PostgresServer, service: Service) -> None:
    manager = service.manager()
    manager.init()
    try:
        pooler = server.pooler(users={service.login: PASSWORD}, pool_size=1)
    except LookupError as error:
        pytest.skip(str(error))
    with pooler:
        dsn = pooler.dsn(service.database, user="", password="")
        with Suite(manager, service.models, pooler=dsn, steps=20, routes=[Route("psycopg", pooled=True)]) as suite:
            finding = suite.take_steps(Route("psycopg", pooled=True))
    assert finding.verdict is Verdict.NOT_RUN
    assert "serves 1 transactions of the login at once" in finding.reason


def test_the_tenants_are_the_runs_own(suite: Suite) -> None:
    """So that whoever removes what a run has left removes them too."""
    tenants = suite.machine_tenants
    assert isinstance(tenants, Tenants)
    assert all(life.tenant_id.startswith(f"mt-isolation-{suite.ground.run}-") for life in tenants.now.values())
