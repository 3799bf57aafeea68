"""Named prepared statements behind PgBouncer: where the settings allow them, and where they may not be allowed.

With a PgBouncer that follows them they work; with an older one, that the settings take for such a one, the error names
the pooler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Column, Enum, Identity, Integer, MetaData, Table, Text, select, text
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.catalog.settings import ClusterSettings, load_settings
from mt_paas_db.core import TenantManager
from mt_paas_db.core import manager as manager_module
from mt_paas_db.core.checks import Severity
from mt_paas_db.errors import ConfigurationError, PoolerModeError
from mt_paas_db.session.dialects.psycopg import check_libpq
from mt_paas_db.session.pooler import PoolerProfile
from tests.fleet import PASSWORD, ROUTES, Route, Runner, Service
from tests.models import Mood, Note
from tests.servers import PgBouncer

SECRET = "a-secret-of-the-installation-of-32-characters-or-more"
DIRECT = [route for route in ROUTES if not route.pooled]
FOLLOWS = (1, 22)
MEETS_ANOTHERS = ("cached plan must not change", "cached statement plan", "is of type", "does not exist", "cannot cast")
ROUNDS = 8  # psycopg prepares at the sixth use of a text, asyncpg at the first

PLAIN = MetaData()
MEMO = Table("memo", PLAIN, Column("id", Integer, Identity(), primary_key=True), Column("body", Text, nullable=False))


# -- what may be asked for


@pytest.mark.parametrize("pooler", ["direct", "pgbouncer", "pgbouncer:1.18", "pgbouncer:1.21.0"])
def test_a_pooler_that_may_not_follow_them_is_refused(pooler: str) -> None:
    with pytest.raises(ConfigurationError, match=r"1\.22"):
        load_settings(installation="x", clusters={"main": {"pooler": pooler, "prepared_statements": "own"}})


@pytest.mark.parametrize("pooler", ["pgbouncer:1.22", "pgbouncer:1.24.1", "pgbouncer:2"])
def test_one_that_follows_them_is_accepted(pooler: str) -> None:
    assert ClusterSettings(pooler=pooler, prepared_statements="all").prepared_statements == "all"


@pytest.mark.parametrize(
    ("prepared", "shared", "own"), [("off", False, False), ("own", False, True), ("all", True, True)]
)
def test_whose_connections_name_them(prepared: Any, shared: bool, own: bool) -> None:
    profile = PoolerProfile("pgbouncer", (1, 24), prepared)
    assert (profile.named_statements(), profile.named_statements(own=True)) == (shared, own)
    for driver in ("psycopg", "asyncpg"):
        assert (profile.connect_args(driver) == {}, profile.connect_args(driver, own=True) == {}) == (shared, own)
        assert profile.connect_args(driver, own=True, unnamed=True) != {}


@pytest.mark.parametrize("make", [partial(Enum, "a", "b", name="mood"), partial(DOMAIN, "grade", Text)])
def test_types_of_each_tenant_are_refused(make: Callable[..., Any]) -> None:
    """On shared connections; `schema` says that a type is not the tenant's own."""
    settings = load_settings(
        installation="x",
        clusters={"main": {"pooler": "pgbouncer:1.24", "prepared_statements": "all"}},
        shared_schemas=("types",),
    )
    own, shared = MetaData(), MetaData()
    Table("note", own, Column("mood", make()))
    Table("note", shared, Column("mood", make(schema="types")))
    with pytest.raises(ConfigurationError, match=r"note\.mood uses the type (mood|grade)"):
        TenantManager(settings, models=own)
    for models in (shared, PLAIN):
        TenantManager(settings, models=models)


def test_psycopg_needs_a_libpq_that_closes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    check_libpq()
    monkeypatch.setattr("psycopg.capabilities.has_send_close_prepared", lambda: False)
    with pytest.raises(ConfigurationError, match="libpq 17"):
        check_libpq()


# -- on a real pooler

Behind = Callable[..., Runner]


@pytest.fixture
def pooler(service: Service) -> Iterator[PgBouncer]:
    """One server connection for each login, so that all tenants and clients share what is prepared on it."""
    try:
        made = service.server.pooler(users={service.login: PASSWORD}, lookup="postgres")
        follows = made.version >= FOLLOWS
    except LookupError as error:
        pytest.skip(str(error))
    options = {"max_prepared_statements": "100"} if follows else {}
    with service.server.pooler(users={service.login: PASSWORD}, lookup="postgres", options=options) as running:
        yield running


@pytest.fixture
def behind(service: Service, pooler: PgBouncer) -> Iterator[Behind]:
    """Make runners behind the pooler, as so many processes."""
    made: list[Runner] = []

    def make(route: Route, prepared: str, models: Any) -> Runner:
        settings = service.settings(pooler=pooler, login_secret=SECRET, **route.options)
        cluster = settings.clusters["main"].model_copy(
            update={"pooler": "pgbouncer:1.24", "prepared_statements": prepared}
        )
        manager = TenantManager(settings.model_copy(update={"clusters": {"main": cluster}}), models=models)
        made.append(Runner(manager, route))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


def keep_memos(session: Session) -> list[str]:
    session.execute(MEMO.insert().values(body="x"))
    session.commit()
    return list(session.scalars(select(MEMO.c.body).where(MEMO.c.body == "x").limit(2)))


def keep_notes(session: Session) -> list[Mood]:
    session.add(Note(body="x", mood=Mood.eager))
    session.commit()
    return [note.mood for note in session.query(Note).filter(Note.mood == Mood.eager).limit(1)]


def assert_named(service: Service, serve: Callable[[], None]) -> None:
    """A pooler that does not follow statements loses them with a server connection, and the error says so."""
    with pytest.raises(PoolerModeError):
        for _ in range(2):
            serve()
            with service.superuser() as su:
                su.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE starts_with(usename, %s)",
                    (service.login,),
                )
            time.sleep(0.2)  # until the pooler has seen them go


def on_server(session: Session) -> list[str]:
    return list(session.scalars(text("SELECT statement FROM pg_prepared_statements")))


@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_tenants_share_them_on_a_shared_login(
    service: Service, pooler: PgBouncer, behind: Behind, route: Route
) -> None:
    maker = service.manager(models=PLAIN)
    maker.init()
    for tenant_id in ("hallym", "korea"):
        maker.create(tenant_id)
    runners = [behind(route, "all", PLAIN) for _ in range(2)]

    def serve() -> None:
        for _ in range(ROUNDS):
            for tenant_id in ("hallym", "korea"):
                for runner in runners:
                    assert set(runner.run(tenant_id, keep_memos)) == {"x"}

    if pooler.version < FOLLOWS:
        assert_named(service, serve)
        return
    serve()
    of_memos = [statement for statement in runners[0].run("hallym", on_server) if "memo" in statement]
    assert of_memos
    assert len(of_memos) == len(set(of_memos))  # by their text, whoever prepares them


@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_a_tenants_own_login_has_them_with_types_of_its_own(
    service: Service, pooler: PgBouncer, behind: Behind, route: Route
) -> None:
    maker = service.manager(login_secret=SECRET, tier="login")
    maker.init()
    for tenant_id in ("hallym", "korea"):
        maker.create(tenant_id)
    maker.create("snu", tier="role")
    runners = [behind(route, "own", service.models) for _ in range(2)]

    def serve() -> None:
        for _ in range(ROUNDS):
            for tenant_id in ("hallym", "korea"):
                for runner in runners:
                    assert runner.run(tenant_id, keep_notes) == [Mood.eager]

    if pooler.version < FOLLOWS:
        assert_named(service, serve)
        return
    serve()
    assert any("note" in statement for statement in runners[0].run("hallym", on_server))
    for _ in range(ROUNDS):
        assert runners[0].run("snu", keep_notes) == [Mood.eager]
    assert not any("note" in statement for statement in runners[0].run("snu", on_server))


@pytest.mark.parametrize("route", DIRECT, ids=str)
def test_twin_without_the_refusal_the_types_of_one_meet_anothers(
    service: Service, pooler: PgBouncer, behind: Behind, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = service.manager()
    maker.init()
    for tenant_id in ("hallym", "korea"):
        maker.create(tenant_id)
    with pytest.raises(ConfigurationError, match="each tenant has its own"):
        behind(route, "all", service.models)
    monkeypatch.setattr(manager_module, "_check_shared_statements", lambda *_: None)
    runners = [behind(route, "all", service.models) for _ in range(2)]

    def serve() -> None:
        for _ in range(ROUNDS):
            for tenant_id in ("hallym", "korea"):
                for runner in runners:
                    runner.run(tenant_id, keep_notes)

    if pooler.version < FOLLOWS:
        assert_named(service, serve)
    else:
        with pytest.raises(DBAPIError, match="|".join(MEETS_ANOTHERS)):
            serve()
    report = runners[0].manager.doctor()
    findings = [found for result in report.results if result.id == "pooler.types" for found in result.findings]
    assert [found.severity for found in findings] == [Severity.ERROR]
    assert "'mood'" in findings[0].message


def test_the_doctor_says_that_the_pooler_does_not_follow_them(service: Service) -> None:
    maker = service.manager(models=PLAIN)
    maker.init()
    try:
        made = service.server.pooler(users={service.login: PASSWORD})
        options = {"max_prepared_statements": "0"} if made.version >= FOLLOWS else {}
        running = service.server.pooler(users={service.login: PASSWORD}, options=options)
    except LookupError as error:
        pytest.skip(str(error))
    with running as pooler:
        settings = service.settings(pooler=pooler)
        version = ".".join(map(str, (1, 24) if pooler.version < FOLLOWS else pooler.version[:2]))
        cluster = settings.clusters["main"].model_copy(
            update={"pooler": f"pgbouncer:{version}", "prepared_statements": "all"}
        )
        manager = TenantManager(settings.model_copy(update={"clusters": {"main": cluster}}), models=PLAIN)
        report = manager.doctor()
        manager.close()
    messages = [found.message for found in report.findings() if found.severity is Severity.ERROR]
    assert any("does not follow them" in message for message in messages)
