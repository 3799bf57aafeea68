"""A primary that is gone, and a standby that takes its place: errors that say so, and service once there is one."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ServerUnavailableError
from tests.fleet import PASSWORD, ROUTES, Route, Runner, Service, several_hosts
from tests.models import Note
from tests.servers import PostgresServer
from tests.servers.postgres import Standby

DIRECT = [route for route in ROUTES if not route.pooled]
LONG_ENOUGH_S = 30


def following(service: Service, standby: PostgresServer, route: Route) -> Runner:
    """Return what runs sessions on whichever of the two servers takes writes."""
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    hosts = several_hosts(route.driver, service.server.port, standby.port)
    app = f"postgresql://{service.login}:{PASSWORD}@/{service.database}?{hosts}&target_session_attrs=read-write"
    cluster = {"app_dsn": app, "admin_dsn": service.server.dsn(service.database)}
    settings = service.settings(clusters={"main": cluster}, pool_size=1, cache_ttl_s=0.5, **route.options)
    return Runner(TenantManager(settings, models=service.models), route)


def write(session: Session) -> list[str]:
    session.add(Note(body="kept"))
    session.flush()
    return list(session.scalars(select(Note.body)))


def test_a_standby_that_is_promoted_serves_the_tenants(own_server: PostgresServer) -> None:
    if own_server.binaries is None:
        pytest.skip("the server's files are not ours")
    service = Service(own_server)
    admin = service.manager()
    admin.init()
    admin.create("hallym")
    admin.close()
    with Standby(own_server, settings={"fsync": "off"}) as standby:
        runners = [following(service, standby, route) for route in DIRECT]
        for number, runner in enumerate(runners, 1):
            assert runner.run("hallym", write) == ["kept"] * number
        standby.catch_up()

        own_server.shut_down(immediately=True)
        for runner in runners:
            for _ in range(3):  # on the connection that it had, and then without any
                with pytest.raises(ServerUnavailableError) as caught:
                    runner.run("hallym", lambda session: session.execute(text("SELECT 1")))
                assert caught.value.cluster == "main"

        standby.promote()
        for number, runner in enumerate(runners, len(runners) + 1):
            deadline = time.monotonic() + LONG_ENOUGH_S
            while True:
                try:
                    assert runner.run("hallym", write) == ["kept"] * number
                    break
                except ServerUnavailableError:
                    assert time.monotonic() < deadline
            runner.close()
