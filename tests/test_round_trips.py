"""A tenant's transaction takes no round trip more than one without tenancy, counted on the wire.

The twin sends BEGIN and the pin as two messages, with everything else as it is: it must be counted as more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from mt_paas_db.catalog.settings import ClusterSettings, load_settings
from mt_paas_db.core import TenantManager
from mt_paas_db.session.dialects.asyncpg import PinnedAsyncpg
from mt_paas_db.session.dialects.psycopg import PinnedPsycopg, PinnedPsycopgAsync
from mt_paas_db.session.pooler import PoolerProfile
from tests.fleet import PASSWORD, Route, Runner, Service
from tests.servers import PostgresServer
from tests.servers.wire import Conversation, Count, Wire

TENANTS = ("hallym", "korea")
WARM_UP = 8  # psycopg prepares a statement at its sixth use, ours for each tenant
COUNTED = 3

Scenario = Callable[[Session], None]
Work = Callable[[str, Scenario], object]


def read(session: Session) -> None:
    # No table: the same statement runs as a login without any rights.
    assert session.execute(text("SELECT CAST(:number AS integer) + 1"), {"number": 41}).scalar_one() == 42


def commits(session: Session) -> None:
    read(session)
    session.commit()


def rolls_back(session: Session) -> None:
    read(session)
    session.rollback()


def reads_twice(session: Session) -> None:
    read(session)
    read(session)
    session.commit()


def commits_twice(session: Session) -> None:
    for _ in range(2):
        read(session)
        session.commit()


def rolls_back_then_commits(session: Session) -> None:
    rolls_back(session)
    commits(session)


SCENARIOS = [commits, rolls_back, reads_twice, commits_twice, rolls_back_then_commits]


@dataclass
class Lines:
    """The same login on the same route, with our manager and with SQLAlchemy alone, both through the proxy."""

    wire: Wire
    ours: Work
    plain: Work

    def count(self, work: Work, scenario: Scenario) -> Count:
        """Return what `scenario` takes on a warm connection, over `COUNTED` runs for each tenant."""
        for _ in range(WARM_UP):
            for tenant_id in TENANTS:
                work(tenant_id, scenario)
        with self.wire.counting() as count:
            for _ in range(COUNTED):
                for tenant_id in TENANTS:
                    work(tenant_id, scenario)
        return count


@pytest.fixture
def wire(request: pytest.FixtureRequest, fleet: Service, route: Route) -> Iterator[Wire]:
    """The proxy before the server, or before the pooler."""
    upstream = request.getfixturevalue("pgbouncer").port if route.pooled else fleet.server.port
    with Wire(upstream) as running:
        yield running


@pytest.fixture
def lines(wire: Wire, fleet: Service, route: Route) -> Iterator[Lines]:
    dsn = f"postgresql://{fleet.login}:{PASSWORD}@127.0.0.1:{wire.port}/{fleet.database}"
    pooler = "pgbouncer" if route.pooled else "direct"
    cluster = ClusterSettings.model_validate({"app_dsn": dsn, "pooler": pooler})
    pool: dict[str, Any] = {"pool_size": 1}
    settings = load_settings(installation=fleet.name, clusters={"main": cluster}, **pool, **route.options)
    runner = Runner(TenantManager(settings), route)
    plain, close = plain_line(dsn, route, pool)
    yield Lines(wire, runner.run, plain)
    close()
    runner.close()


def plain_line(dsn: str, route: Route, pool: dict[str, Any]) -> tuple[Work, Callable[[], object]]:
    """Return what runs a scenario in a session without tenancy, with the driver options that ours has, and its end."""
    driver: Any = "asyncpg" if route.driver == "asyncpg" else "psycopg"
    profile = PoolerProfile.parse("pgbouncer" if route.pooled else "direct")
    url = make_url(dsn).set(drivername=f"postgresql+{driver}")
    pool = {**pool, "connect_args": profile.connect_args(driver)}
    if not route.is_async:
        engine = create_engine(url, **pool)

        def work(_: str, scenario: Scenario) -> None:
            with Session(engine) as session:
                scenario(session)

        return work, engine.dispose

    loop = asyncio.Runner()
    async_engine = create_async_engine(url, **pool)

    async def awork(scenario: Scenario) -> None:
        async with AsyncSession(async_engine) as session:
            await session.run_sync(scenario)

    def close() -> None:
        loop.run(async_engine.dispose())
        loop.close()

    return lambda _, scenario: loop.run(awork(scenario)), close


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_not_one_round_trip_more_than_without_tenancy(lines: Lines, scenario: Scenario) -> None:
    plain = lines.count(lines.plain, scenario)
    ours = lines.count(lines.ours, scenario)
    assert plain.round_trips >= 3 * COUNTED * len(TENANTS), plain.turns  # BEGIN, SELECT, and an end
    assert ours.round_trips <= plain.round_trips, (ours.turns, plain.turns)


@pytest.mark.parametrize("scenario", [commits, rolls_back])
def test_a_pin_that_is_a_message_of_its_own_is_counted(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, scenario: Scenario
) -> None:
    ours = lines.count(lines.ours, scenario)
    for dialect in (PinnedPsycopg, PinnedPsycopgAsync, PinnedAsyncpg):
        monkeypatch.setattr(dialect, "_send", sending_the_pin_apart(dialect._send))
    twin = lines.count(lines.ours, scenario)
    assert twin.round_trips == ours.round_trips + COUNTED * len(TENANTS), twin.turns


def sending_the_pin_apart(send: Callable[[Any, Any, bytes], None]) -> Callable[[Any, Any, bytes], None]:
    def apart(dialect: Any, connection: Any, message: bytes) -> None:
        begin, semicolon, pin = message.partition(b";")
        if begin.startswith(b"BEGIN") and semicolon:
            send(dialect, connection, begin)
            message = pin
        send(dialect, connection, message)

    return apart


# -- the instrument itself


@pytest.fixture
def probe(server: PostgresServer) -> Iterator[tuple[Wire, psycopg.Connection[Any]]]:
    """A proxy, and an autocommitting connection through it."""
    with (
        Wire(server.port) as wire,
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{wire.port}/postgres", autocommit=True) as connection,
    ):
        yield wire, connection


def test_the_proxy_counts_what_the_client_waits_for(probe: tuple[Wire, psycopg.Connection[Any]]) -> None:
    wire, connection = probe
    with wire.counting() as one:
        connection.execute("SELECT %s", [1])
    assert (one.turns, one.ready) == (["PBDES"], 1)
    with wire.counting() as several_statements:
        connection.execute("SELECT 1; SELECT 2; SELECT 3")
    assert several_statements.turns == ["Q"]
    with wire.counting() as transaction, connection.transaction():
        connection.execute("SELECT 1")
    assert transaction.turns == ["Q", "Q", "Q"]
    assert transaction.ready == 3
    with wire.counting() as failed, pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/%s", [0])
    assert failed.round_trips == 1


def test_the_proxy_counts_a_copy_and_a_second_connection(probe: tuple[Wire, psycopg.Connection[Any]]) -> None:
    wire, connection = probe
    connection.execute("CREATE TEMP TABLE target (n int)")
    with wire.counting() as copied, connection.cursor().copy("COPY target FROM STDIN") as sink:
        for number in range(20):
            sink.write_row([number])
    assert copied.round_trips == 2  # the statement, then the data and its end
    with (
        wire.counting() as second,
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{wire.port}/postgres", autocommit=True) as other,
    ):
        connection.execute("SELECT 1")
        opening = second.round_trips
        other.execute("SELECT 1")
        connection.execute("SELECT 1")
        assert second.round_trips == opening + 2


def message(letter: bytes, body: bytes = b"") -> bytes:
    return letter + (len(body) + 4).to_bytes(4) + body


TLS_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
STARTUP = (12).to_bytes(4) + (196608).to_bytes(4) + b"\0" * 4
READY = message(b"Z", b"I")


@pytest.mark.parametrize("piece", [1, 3, 4096])
def test_the_proxy_reads_messages_that_come_in_pieces(piece: int) -> None:
    def feed(take: Callable[[bytes], None], data: bytes) -> None:
        for start in range(0, len(data), piece):
            take(data[start : start + piece])

    wire = Wire(0)
    talk = Conversation(wire)
    with wire.counting() as count:
        feed(talk.from_client, TLS_REQUEST)
        feed(talk.from_server, b"N")
        feed(talk.from_client, STARTUP)
        feed(talk.from_server, message(b"R", (0).to_bytes(4)) + message(b"S", b"a\0b\0") + READY)
        feed(talk.from_client, message(b"P", b"x" * 50) + message(b"D", b"S") + message(b"H"))
        feed(talk.from_server, message(b"1") + message(b"T", b"y" * 9))
        feed(talk.from_client, message(b"B", b"z" * 7) + message(b"E", b"e") + message(b"S"))
        feed(talk.from_server, message(b"2") + message(b"C", b"SELECT 1\0") + READY)
        feed(talk.from_server, message(b"A", b"unasked"))
    assert count.turns == ["?", "?", "PDH", "BES"]
    assert count.ready == 2


def test_the_proxy_counts_a_pipeline_once() -> None:
    wire = Wire(0)
    talk = Conversation(wire)
    talk.from_client(STARTUP)
    talk.from_server(READY)
    with wire.counting() as count:
        talk.from_client(message(b"Q", b"BEGIN\0"))
        talk.from_client(message(b"Q", b"SELECT 1\0"))  # nothing is answered yet
        talk.from_server(message(b"C", b"BEGIN\0") + READY)
        talk.from_client(message(b"Q", b"SELECT 2\0"))  # the first is, the second is not
        talk.from_server(message(b"C", b"SELECT 1\0") + READY + message(b"C", b"SELECT 1\0") + READY)
        talk.from_client(message(b"Q", b"COMMIT\0"))
    assert count.turns == ["QQQ", "Q"]


def test_the_proxy_says_so_where_it_cannot_read() -> None:
    wire = Wire(0)
    talk = Conversation(wire)
    with pytest.raises(RuntimeError, match="TLS"), wire.counting():
        talk.from_client(TLS_REQUEST)
        talk.from_server(b"S")
