"""Fixtures: a server for the run, a service for the test, a route through each driver and pooler."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import make_url

from mt_paas_db.core import TenantManager
from mt_paas_db.migrate.worker import Worker
from tests import turns
from tests.fleet import PASSWORD, ROUTES, Route, Runner, Service
from tests.mutants import summary
from tests.nursery import nurseries
from tests.servers import PgBouncer, PostgresServer, find_postgres
from tests.servers.choice import ASKED
from tests.servers.supply import Supply

SUPPLY = pytest.StashKey[Supply]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mt_paas_db")
    group.addoption("--pg", type=int, default=None, help="major version of PostgreSQL to run on; newest by default")
    group.addoption(
        "--server", choices=ASKED, default="auto", help="where PostgreSQL must come from; what there is by default"
    )
    group.addoption("--machine-steps", type=int, default=2_400, help="how many steps the state machine takes")
    group.addoption("--machine-seed", type=int, default=0, help="which steps it takes")
    group.addoption("--whole-corpus", action="store_true", help="try the whole catalogue on each mutant, for hours")
    group.addoption("--no-skips", action="store_true", help="count a skipped test as failed, as CI does")


def pytest_configure(config: pytest.Config) -> None:
    # Let Ctrl-C reach the processes that tests start: a shell's background job ignores it, and they inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        config.stash[SUPPLY] = Supply.of(config.workerinput["supply"])
    elif not (config.option.help or config.option.collectonly):
        try:
            config.stash[SUPPLY] = Supply.look(config.option.server, config.option.pg)
        except LookupError as error:
            raise pytest.UsageError(f"--server {config.option.server}: {error}") from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what was chosen, so that all run on the same."""
    node.workerinput["supply"] = node.config.stash[SUPPLY].as_dict()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"server: {config.stash[SUPPLY]}"] if SUPPLY in config.stash else []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    ended = [report for name in ("passed", "failed", "skipped") for report in terminalreporter.getreports(name)]
    for line in summary.lines(ended):
        terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    if SUPPLY in config.stash and not hasattr(config, "workerinput"):
        config.stash[SUPPLY].close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    turns.mark(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --no-skips was given: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def supply(pytestconfig: pytest.Config) -> Supply:
    """Servers from where the run's come from, for a test that needs one with settings of its own."""
    chosen = pytestconfig.stash[SUPPLY]
    if chosen.choice is None:
        pytest.skip(chosen.reason)
    return chosen


@pytest.fixture(scope="session")
def server(supply: Supply) -> Iterator[PostgresServer]:
    """One PostgreSQL for the run."""
    with supply.shared(fsync="off", full_page_writes="off") as running:
        yield running


@pytest.fixture(scope="session")
def nursery_start() -> Iterator[Any]:
    """What forks processes for revisions."""
    with nurseries() as start:
        yield start


@pytest.fixture(autouse=True)
def nursery(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes for revisions are forked from one that has imported everything; not where they are `own_processes`."""
    if request.node.get_closest_marker("own_processes") is None:
        monkeypatch.setattr(Worker, "_start", staticmethod(request.getfixturevalue("nursery_start")))


@pytest.fixture
def own_server(supply: Supply) -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may break."""
    try:
        chosen = supply.own(fsync="off")
    except LookupError as error:  # there is only the one of MT_PAAS_TEST_DSN
        pytest.skip(str(error))
    with chosen as running:
        yield running


@pytest.fixture
def major(pytestconfig: pytest.Config) -> str:
    """The version of the run, as an argument of a benchmark; skips where it is not installed."""
    try:
        return str(find_postgres(pytestconfig.getoption("--pg")).major)
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def service(server: PostgresServer) -> Iterator[Service]:
    """An installation that is not initialised yet, in a database of its own."""
    made = Service(server)
    yield made
    made.close()


@pytest.fixture
def manager(service: Service) -> TenantManager:
    """A manager of an initialised installation without tenants."""
    made = service.manager()
    made.init()
    return made


@pytest.fixture
def fleet(service: Service, manager: TenantManager) -> Service:
    """An initialised installation with the tenants hallym and korea."""
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    return service


def looking_up_bouncer_for(service: Service) -> PgBouncer:
    """Return a PgBouncer that looks up by auth_query whom it does not know: logins that come and go with tenants."""
    superuser = make_url(service.server.dsn(service.database)).username
    try:
        return service.server.pooler(users={service.login: PASSWORD}, lookup=superuser)
    except LookupError as error:
        pytest.skip(str(error))


def bouncer_for(service: Service, also: Mapping[str, str] | None = None) -> PgBouncer:
    """Return a PgBouncer for `service`, to be entered; skip the test where there is none to run.

    `also` are passwords of more logins, by name.
    """
    try:
        return service.server.pooler(users={service.login: PASSWORD, **(also or {})})
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def pgbouncer(service: Service) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode with one server connection, before `service`'s database."""
    with bouncer_for(service) as running:
        yield running


@pytest.fixture(params=ROUTES, ids=str)
def route(request: pytest.FixtureRequest) -> Route:
    """Each driver, direct and through PgBouncer."""
    chosen = request.param
    assert isinstance(chosen, Route)
    if chosen.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    return chosen


@pytest.fixture
def runner(request: pytest.FixtureRequest, fleet: Service, route: Route) -> Iterator[Runner]:
    """Runs scenarios on `route`, with a pool of one connection that all tenants share."""
    pooler = request.getfixturevalue("pgbouncer") if route.pooled else None
    made = Runner(fleet.manager(pooler=pooler, pool_size=1, pool_timeout_s=5, **route.options), route)
    yield made
    made.close()
