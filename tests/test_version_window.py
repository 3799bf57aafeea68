"""The version window: code that requires a revision is not let into a tenant that lacks it, and pays nothing for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from mt_paas_db import configure, tenant_session
from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import parse_name
from mt_paas_db.catalog.settings import ClusterSettings, load_settings
from mt_paas_db.cli.exit_codes import REFUSED, exit_code
from mt_paas_db.core import TenantManager, default
from mt_paas_db.errors import ConfigurationError, TenantBehindError, TenantSuspendedError, TenantUnavailableError
from mt_paas_db.session.resolver import Resolved
from tests.fleet import PASSWORD, ROUTES, Route, Runner, Service
from tests.ground_truth import rows
from tests.servers.wire import Count, Wire

# One history, a1 <- b2 <- c3, and a branch a1 <- x9.
APPLIED = {"a1": ["a1"], "b2": ["a1", "b2"], "c3": ["a1", "b2", "c3"], "x9": ["a1", "x9"]}


@pytest.fixture(params=[route for route in ROUTES if not route.pooled], ids=str)
def route(request: pytest.FixtureRequest) -> Route:
    """Each driver: blocking, and both of asyncio."""
    chosen = request.param
    assert isinstance(chosen, Route)
    if chosen.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    return chosen


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the catalog is asked for, one by one."""
    asked: list[str] = []
    ask = registry.resolve

    def resolve(connection: Any, name: Any, **options: Any) -> Any:
        asked.append(name)
        return ask(connection, name, **options)

    monkeypatch.setattr(registry, "resolve", resolve)
    return asked


def stand(service: Service, tenant_id: str, *heads: str) -> None:
    """Record where a tenant stands, as the owner."""
    applied = sorted({revision for head in heads for revision in APPLIED[head]})
    with service.superuser() as connection:
        connection.execute(f'SET ROLE "{service.name}_owner"'.encode())
        connection.execute(
            "INSERT INTO mt_paas.revision_set VALUES (%s, %s) ON CONFLICT DO NOTHING", (sorted(heads), applied)
        )
        connection.execute(
            "INSERT INTO mt_paas.tenant_revision (generation, heads)"
            " SELECT generation, %s FROM mt_paas.tenant WHERE tenant_id = %s"
            " ON CONFLICT (generation) DO UPDATE SET heads = excluded.heads",
            (sorted(heads), tenant_id),
        )


def work(session: Session) -> int:
    return int(session.execute(text("SELECT 42")).scalar_one())


def refused(runner: Runner, tenant_id: str = "hallym", **options: Any) -> TenantBehindError:
    with pytest.raises(TenantBehindError) as caught:
        runner.run(tenant_id, work, **options)
    return caught.value


def connections(service: Service) -> int:
    """How many connections of the login role the server has."""
    found = rows(service, "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", service.login)
    return int(found[0][0])


# -- who is let in


@pytest.mark.parametrize(
    ("heads", "requires"),
    [
        (["b2"], "b2"),
        (["c3"], "b2"),  # ahead: old code does not know c3
        (["c3"], ("a1", "c3")),
        (["c3", "x9"], ["x9", "b2"]),
        (["a1"], ()),
        (["a1"], []),
        (["a1"], None),
    ],
)
def test_a_tenant_that_has_what_is_required_is_served(
    fleet: Service, runner: Runner, heads: list[str], requires: str | Collection[str] | None
) -> None:
    stand(fleet, "hallym", *heads)
    for _ in range(2):  # asked, and remembered
        assert runner.run("hallym", work, requires=requires) == 42


@pytest.mark.parametrize(
    ("heads", "requires", "required"),
    [
        (["a1"], "b2", ("b2",)),
        (["b2"], ("b2", "c3"), ("b2", "c3")),
        (["b2"], {"x9"}, ("x9",)),
        ([], "a1", ("a1",)),
        (["c3"], "c", ("c",)),  # a cut id is not looked up
    ],
)
def test_a_tenant_that_is_behind_is_refused(
    fleet: Service, runner: Runner, heads: list[str], requires: Any, required: tuple[str, ...]
) -> None:
    stand(fleet, "hallym", *heads)
    error = refused(runner, requires=requires)
    assert (error.tenant_id, error.required, error.heads) == ("hallym", required, tuple(heads))
    assert (error.state, error.reason) == ("active", None)
    for word in (*required, *heads, "is behind", "mt-paas-db migrate upgrade"):
        assert word in str(error)
    assert heads or "at base" in str(error)
    assert runner.run("hallym", work) == 42  # other code is served as before


def test_a_tenant_of_which_the_catalog_knows_nothing_is_refused(fleet: Service, runner: Runner) -> None:
    error = refused(runner, requires="a1")
    assert error.heads is None
    assert "does not know the tenant's revision" in str(error)
    assert "mt-paas-db migrate status" in str(error)


def test_heads_whose_closure_is_lost_are_refused(fleet: Service, runner: Runner) -> None:
    stand(fleet, "hallym", "c3")
    with fleet.superuser() as connection:
        connection.execute("DELETE FROM mt_paas.revision_set")
    assert refused(runner, requires="a1").heads is None


def test_without_the_look_the_tenant_would_be_let_in(
    fleet: Service, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    monkeypatch.setattr(Resolved, "has", lambda _self, _revisions: True)
    with pytest.raises(pytest.fail.Exception):
        refused(runner, requires="a1")


def test_a_closed_tenant_says_that_it_is_closed(fleet: Service, runner: Runner, manager: TenantManager) -> None:
    stand(fleet, "hallym", "a1")
    refused(runner, requires="b2")
    manager.suspend("hallym")
    with pytest.raises(TenantSuspendedError):
        runner.run("hallym", work, requires="b2")


def test_a_read_only_tenant_that_is_behind(fleet: Service, runner: Runner, manager: TenantManager) -> None:
    manager.read_only("hallym")
    assert refused(runner, requires="a1").state == "read_only"


# -- what is sent


def test_one_that_is_behind_is_served_as_soon_as_it_was_migrated(
    fleet: Service, runner: Runner, lookups: list[str]
) -> None:
    """Although the process remembers otherwise, for longer than this test runs."""
    stand(fleet, "hallym", "a1")
    runner.run("hallym", work)
    assert len(lookups) == 1
    refused(runner, requires="b2")
    refused(runner, requires="b2")
    assert len(lookups) == 3  # each time once
    stand(fleet, "hallym", "b2")
    assert runner.run("hallym", work, requires="b2") == 42
    assert len(lookups) == 4
    runner.run("hallym", work, requires="b2")
    runner.run("hallym", work)
    assert len(lookups) == 4  # remembered from now on


def test_an_answer_that_was_just_asked_for_is_not_asked_for_again(runner: Runner, lookups: list[str]) -> None:
    refused(runner, requires="b2")
    assert lookups == ["hallym"]


def test_nothing_is_sent_for_a_tenant_that_is_refused(fleet: Service, runner: Runner) -> None:
    refused(runner, requires="b2")
    assert connections(fleet) == 1  # the look-up's
    runner.run("hallym", work)
    assert connections(fleet) == 2


def test_a_requirement_takes_no_round_trip(fleet: Service, route: Route) -> None:
    for tenant_id in ("hallym", "korea"):
        stand(fleet, tenant_id, "c3")
    with Wire(fleet.server.port) as wire, through(wire, fleet, route) as runner:
        plain = count(wire, runner)
        assert plain.round_trips >= 18  # BEGIN, SELECT, COMMIT, three times for each
        assert count(wire, runner, requires=("b2", "c3")).turns == plain.turns
        assert count(wire, runner, requires=()).turns == plain.turns

        # The instrument sees a look-up: one that is not remembered is counted.
        resolver = runner.manager._door.resolver
        known = resolver.remembered(parse_name("hallym"))
        assert known is not None
        resolver.forget(known.resolution.generation)
        assert count(wire, runner, warm_up=0, requires="c3").round_trips > plain.round_trips


@contextmanager
def through(wire: Wire, service: Service, route: Route) -> Iterator[Runner]:
    dsn = f"postgresql://{service.login}:{PASSWORD}@127.0.0.1:{wire.port}/{service.database}"
    settings = load_settings(
        installation=service.name,
        clusters={"main": ClusterSettings.model_validate({"app_dsn": dsn})},
        pool_size=1,
        **route.options,
    )
    runner = Runner(TenantManager(settings), route)
    try:
        yield runner
    finally:
        runner.close()


def count(wire: Wire, runner: Runner, *, warm_up: int = 8, **options: Any) -> Count:
    """Count three transactions of each tenant, after the drivers have prepared what they prepare."""

    def rounds(number: int) -> None:
        for _ in range(number):
            for tenant_id in ("hallym", "korea"):
                runner.run(tenant_id, work, **options)

    rounds(warm_up)
    with wire.counting() as counted:
        rounds(3)
    return counted


def test_thousands_of_tenants_at_one_revision_share_one_set(fleet: Service, manager: TenantManager) -> None:
    for tenant_id in ("hallym", "korea"):
        stand(fleet, tenant_id, "c3")
    sets = []
    for tenant_id in ("hallym", "korea"):
        with manager.get_session(tenant_id):
            known = manager._door.resolver.remembered(parse_name(tenant_id))
            assert known is not None
            sets.append(known.resolution.applied)
    assert sets[0] == frozenset(APPLIED["c3"])
    assert sets[0] is sets[1]


# -- where it is said


def test_an_argument_goes_before_the_setting(fleet: Service, route: Route) -> None:
    stand(fleet, "hallym", "b2")
    runner = Runner(fleet.manager(requires="c3", **route.options), route)
    try:
        assert refused(runner).required == ("c3",)
        assert refused(runner, requires=None).required == ("c3",)
        assert refused(runner, requires="x9").required == ("x9",)
        assert runner.run("hallym", work, requires="b2") == 42
        assert runner.run("hallym", work, requires=()) == 42
    finally:
        runner.close()


def test_each_door_hands_it_on(fleet: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_manager", None)
    configure(manager)
    for door in (tenant_session, manager.get_session, manager.aio.get_session):
        with pytest.raises(TenantBehindError), door("hallym", requires="a1"):
            pass


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ae1027a6acf", ("ae1027a6acf",)),
        ("1975", ("1975",)),  # a number in JSON
        ("12e4567", ("12e4567",)),  # a very large one
        ("null", ("null",)),
        ('["c3", "b2", "b2"]', ("b2", "c3")),
        (' ["1975"]', ("1975",)),
        ("[]", ()),
    ],
)
def test_the_setting_is_one_id_or_a_list(monkeypatch: pytest.MonkeyPatch, written: str, meant: tuple[str, ...]) -> None:
    monkeypatch.setenv("MT_PAAS_DB_REQUIRES", written)
    assert load_settings(installation="chat").requires == meant


@pytest.mark.parametrize("written", ["", " ", "a b", "[1975]", '["a1", ""]', "[a1", '{"a1": 1}', "head", "a1;b2"])
def test_a_setting_that_is_no_revision_is_named(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("MT_PAAS_DB_REQUIRES", written)
    with pytest.raises(ConfigurationError, match=r"MT_PAAS_DB_REQUIRES: .*revision id"):
        load_settings(installation="chat")


@pytest.mark.parametrize(
    "requires", ["", "head", "a1 ", "a'1", "한", b"a1", 5, ["a1", ""], [5], [["a1"]], {"a1": 1}, True]
)
def test_an_argument_that_is_no_revision_is_refused_at_once(manager: TenantManager, requires: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"requires: .*revision id"):
        manager.get_session("hallym", requires=requires)


# -- the error


def test_the_error_is_one_of_a_tenant_that_is_not_available() -> None:
    error = TenantBehindError("hallym", required=("b2", "c3"), heads=("a1",))
    assert isinstance(error, TenantUnavailableError)  # so that who answers 503 to that answers it here too
    assert exit_code(error) == REFUSED
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


# -- recording


@pytest.fixture
def recording(fleet: Service, manager: TenantManager) -> Iterator[Callable[..., None]]:
    """Records as the owner; each call in a transaction of its own, which `during` runs inside."""
    engine = create_engine(fleet.server.dsn(fleet.database).replace("postgresql:", "postgresql+psycopg:"))

    def record(
        tenant_id: str,
        heads: Sequence[str],
        applied: Sequence[str],
        *,
        during: Callable[[], None] | None = None,
    ) -> None:
        generation = manager.get(tenant_id).generation
        with engine.begin() as connection:
            connection.execute(text(f'SET LOCAL ROLE "{fleet.name}_owner"'))
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            registry.record_revisions(connection, generation, heads, applied)
            if during is not None:
                during()

    yield record
    engine.dispose()


def recorded(service: Service) -> list[Any]:
    return rows(
        service,
        "SELECT t.tenant_id, r.heads, s.applied FROM mt_paas.tenant_revision r JOIN mt_paas.tenant t USING (generation)"
        " LEFT JOIN mt_paas.revision_set s USING (heads) ORDER BY 1",
    )


def test_what_is_recorded_opens_the_door(fleet: Service, runner: Runner, recording: Callable[..., None]) -> None:
    recording("hallym", ["x9", "c3"], ["a1", "x9", "c3", "b2"])
    assert recorded(fleet) == [("hallym", ["c3", "x9"], ["a1", "b2", "c3", "x9"])]
    assert runner.run("hallym", work, requires=["x9", "b2"]) == 42
    refused(runner, "korea", requires="a1")


def test_it_is_recorded_over_what_was(fleet: Service, recording: Callable[..., None]) -> None:
    recording("hallym", ["c3"], APPLIED["c3"])
    recording("hallym", ["a1"], APPLIED["a1"])
    assert recorded(fleet) == [("hallym", ["a1"], ["a1"])]
    recording("hallym", ["a1"], ["a0", "a1"])  # the history was edited
    assert recorded(fleet) == [("hallym", ["a1"], ["a0", "a1"])]
    recording("hallym", [], [])
    assert recorded(fleet) == [("hallym", [], [])]


def test_tenants_that_reach_the_same_heads_do_not_wait_for_each_other(
    fleet: Service, recording: Callable[..., None]
) -> None:
    recording("hallym", ["a1"], APPLIED["a1"])
    recording("korea", ["a1"], APPLIED["a1"], during=lambda: recording("hallym", ["a1"], APPLIED["a1"]))
    assert [row[:2] for row in recorded(fleet)] == [("hallym", ["a1"]), ("korea", ["a1"])]


def test_a_deleted_tenant_leaves_no_record(
    fleet: Service, manager: TenantManager, recording: Callable[..., None]
) -> None:
    recording("hallym", ["a1"], APPLIED["a1"])
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    assert rows(fleet, "SELECT 1 FROM mt_paas.tenant_revision") == []
