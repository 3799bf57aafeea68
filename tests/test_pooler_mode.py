"""A pooler that is not what the settings say is an error that names it, not a riddle."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConnectionLimitError, PoolerModeError
from tests.conftest import bouncer_for
from tests.fleet import PASSWORD, ROUTES, Route, Runner, Service
from tests.models import Note
from tests.servers import PgBouncer

DIRECT = [route for route in ROUTES if not route.pooled]

_UNTIL_PREPARED = 8  # psycopg prepares a statement at its sixth use, asyncpg at the first


def behind(pooler: PgBouncer, service: Service, route: Route, *, profile: str) -> Runner:
    settings = service.settings(pooler=pooler, pool_size=1, **route.options)
    cluster = settings.clusters["main"].model_copy(update={"pooler": profile})
    manager = TenantManager(settings.model_copy(update={"clusters": {"main": cluster}}), models=service.models)
    return Runner(manager, route)


def read_notes(session: Session) -> None:
    for _ in range(_UNTIL_PREPARED):
        assert session.scalars(select(Note)).all() == []


@pytest.mark.parametrize("profile", ["pgbouncer", "direct"])
@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_statement_mode_is_named(fleet: Service, route: Route, profile: str) -> None:
    bouncer_for(fleet)  # skips where there is none
    with fleet.server.pooler(users={fleet.login: PASSWORD}, pool_mode="statement") as pooler:
        runner = behind(pooler, fleet, route, profile=profile)
        try:
            with pytest.raises(PoolerModeError, match="pool_mode = transaction") as refused:
                runner.run("hallym", read_notes)
        finally:
            runner.close()
    assert refused.value.cluster == "main"


@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_session_mode_serves_and_says_when_it_is_full(fleet: Service, route: Route) -> None:
    """An idle connection of a process holds a server connection there: the next process waits for a bounded time."""
    bouncer_for(fleet)  # skips where there is none
    with fleet.server.pooler(
        users={fleet.login: PASSWORD}, pool_mode="session", pool_size=2, options={"query_wait_timeout": "1"}
    ) as pooler:
        first, second = (behind(pooler, fleet, route, profile="pgbouncer") for _ in range(2))
        first.run("hallym", read_notes)  # and one connection looks tenants up
        with pytest.raises(ConnectionLimitError, match="query_wait_timeout"):
            second.run("korea", read_notes)
        first.close()
        second.run("korea", read_notes)
        second.close()


@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_a_pooler_that_the_settings_do_not_know_of_is_named(fleet: Service, route: Route) -> None:
    """The pooler moves its client to another server connection, where the prepared statements are not."""
    with bouncer_for(fleet) as pooler:
        runner = behind(pooler, fleet, route, profile="direct")
        try:
            runner.run("hallym", read_notes)
            end_server_connections(fleet)
            with pytest.raises(PoolerModeError, match="POOLER=pgbouncer"):
                runner.run("hallym", read_notes)
        finally:
            runner.close()


def end_server_connections(service: Service) -> None:
    with service.superuser() as su:
        ended = su.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", (service.login,)
        ).fetchall()
    assert ended
    time.sleep(0.2)  # until the pooler has seen them go


@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_one_that_they_know_of_serves_both(fleet: Service, route: Route) -> None:
    with bouncer_for(fleet) as pooler, ExitStack() as stack:
        runners = [behind(pooler, fleet, route, profile="pgbouncer") for _ in range(2)]
        for runner in runners:
            stack.callback(runner.close)
        for runner in runners * 2:
            runner.run("hallym", read_notes)
