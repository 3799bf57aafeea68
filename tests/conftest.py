"""Fixtures: a server for the run, a service for the test, a route through each driver and pooler."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from sqlalchemy import make_url

from mt_paas_db.core import TenantManager
from tests.fleet import PASSWORD, ROUTES, Route, Runner, Service
from tests.servers import PgBouncer, PostgresServer, find_pgbouncer, find_postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mt_paas_db")
    group.addoption("--pg", type=int, default=None, help="major version of PostgreSQL to run on; newest by default")
    group.addoption("--no-skips", action="store_true", help="count a skipped test as failed, as CI does")


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach the processes that tests start: a shell's background job ignores it, and they inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --no-skips was given: {report.longrepr}"
    return report


class ExternalServer(PostgresServer):
    """The server of ``MT_PAAS_TEST_DSN``, which we neither start nor stop."""

    def __init__(self, dsn: str) -> None:
        self._url = make_url(dsn).set(drivername="postgresql")
        self.port = self._url.port or 5432

    def dsn(self, database: str = "postgres", *, user: str | None = None, password: str | None = None) -> str:
        url = self._url.set(database=database)
        if user is not None:
            url = url.set(username=user, password=password)
        return url.render_as_string(hide_password=False)

    def restart(self, *, immediately: bool = False) -> None:
        pytest.skip("the server of MT_PAAS_TEST_DSN is not ours to restart")


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """One PostgreSQL for the run: `MT_PAAS_TEST_DSN`, else one of our own."""
    if dsn := os.environ.get("MT_PAAS_TEST_DSN"):
        yield ExternalServer(dsn)
        return
    try:
        binaries = find_postgres(pytestconfig.getoption("--pg"))
    except LookupError as error:
        pytest.skip(str(error))
    with PostgresServer(binaries, settings={"fsync": "off", "full_page_writes": "off"}) as running:
        yield running


@pytest.fixture
def own_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may break."""
    try:
        binaries = find_postgres(pytestconfig.getoption("--pg"))
    except LookupError as error:
        pytest.skip(str(error))
    with PostgresServer(binaries, settings={"fsync": "off"}) as running:
        yield running


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


def bouncer_for(service: Service) -> PgBouncer:
    """Return a PgBouncer for `service`, to be entered; skip the test where there is none to run."""
    try:
        find_pgbouncer()
    except LookupError as error:
        pytest.skip(str(error))
    return PgBouncer(service.server.port, users={service.login: PASSWORD})


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
    made = Runner(fleet.manager(pooler=pooler, pool_size=1, max_overflow=0, pool_timeout_s=5, **route.options), route)
    yield made
    made.close()
