"""Code and catalog of different versions: one apart they work together, further apart they say so."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from mt_paas_db.catalog.values import CATALOG_VERSION
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import CatalogMissingError, CatalogVersionError
from mt_paas_db.migrate.catalog import catalog_version, upgrade_catalog
from tests.fleet import Route, Runner, Service
from tests.ground_truth import server_state
from tests.models import Note
from tests.versions import NEXT_VERSION, init_version_1, init_version_2, init_version_3, init_version_4, set_version


def _delete(manager: TenantManager) -> None:
    manager.archive("korea")
    manager.delete("korea", confirm="korea")


_VERBS: dict[str, Callable[[TenantManager], Any]] = {
    "get": lambda m: m.get("hallym"),
    "list": lambda m: m.list(),
    "events": lambda m: m.events(),
    "create": lambda m: m.create("snu", aliases=["chat.snu.ac.kr"]),
    "suspend": lambda m: m.suspend("hallym", reason="payment", note="unpaid"),
    "resume": lambda m: m.resume("hallym"),
    "read_only": lambda m: m.read_only("hallym"),
    "maintenance": lambda m: m.maintenance("hallym"),
    "archive": lambda m: m.archive("hallym"),
    "restore": lambda m: m.restore("hallym"),
    "rename": lambda m: m.rename("hallym", "hallym-univ"),
    "add_alias": lambda m: m.add_alias("hallym", "chat.hallym.ac.kr"),
    "release_alias": lambda m: m.release_alias("hallym", "chat.hallym.ac.kr"),
    "delete": _delete,
}


def test_init_brings_the_catalog_to_this_codes_version(service: Service, manager: TenantManager) -> None:
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert catalog_version(connection) == manager.init().catalog_version == CATALOG_VERSION
    engine.dispose()


def test_a_database_without_a_catalog_has_no_version(service: Service) -> None:
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert catalog_version(connection) is None
    engine.dispose()


def before_this(service: Service) -> None:
    init_version_4(service.manager())


def this(service: Service) -> None:
    service.manager().init()


def after_this(service: Service) -> None:
    service.manager().init()
    set_version(service, CATALOG_VERSION + 1, changes=NEXT_VERSION)


@pytest.mark.parametrize("install", [before_this, this, after_this])
def test_one_version_apart_everything_works(service: Service, install: Callable[[Service], None]) -> None:
    install(service)
    manager = service.manager()
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    with manager.get_session("hallym") as session:
        session.add(Note(body="before"))
    for each in (manager, service.manager(), service.manager(cache_ttl_s=0)):  # warm, cold, never warm
        with each.get_session("hallym") as session:
            assert session.scalars(select(Note.body)).all() == ["before"]
    for verb in _VERBS.values():
        verb(manager)
    assert manager.readiness().ok
    assert manager.doctor().ok


def test_a_tenant_made_before_the_next_version_is_served_after_it(fleet: Service, manager: TenantManager) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="before"))
    set_version(fleet, CATALOG_VERSION + 1, changes=NEXT_VERSION)
    for each in (manager, fleet.manager(), fleet.manager(cache_ttl_s=0)):
        with each.get_session("hallym") as session:
            assert session.scalars(select(Note.body)).all() == ["before"]


def test_init_upgrades_the_version_before_and_loses_nothing(service: Service) -> None:
    init_version_4(service.manager())
    old = service.manager()
    made = old.create("hallym", aliases=["chat.hallym.ac.kr"])
    with old.get_session("hallym") as session:
        session.add(Note(body="before"))

    assert service.manager().init().catalog_version == CATALOG_VERSION
    after = server_state(service)
    service.manager().init()
    assert server_state(service) == after
    assert service.manager().get("chat.hallym.ac.kr") == made
    with service.manager().get_session("hallym") as session:
        assert session.scalars(select(Note.body)).all() == ["before"]
    assert service.manager().doctor().ok


@pytest.mark.parametrize(("install", "version"), [(init_version_1, 1), (init_version_2, 2), (init_version_3, 3)])
def test_an_older_catalog_is_not_worked_with_and_is_upgraded_by_init(
    service: Service, install: Callable[[TenantManager], None], version: int
) -> None:
    install(service.manager())
    with pytest.raises(CatalogVersionError, match=rf"version {version}\b.*mt-paas-db init"):
        service.manager().create("hallym")
    assert service.manager().init().catalog_version == CATALOG_VERSION
    service.manager().create("hallym")
    assert service.manager().doctor().ok


def test_a_process_that_runs_while_the_catalog_is_upgraded_goes_on(
    request: pytest.FixtureRequest, service: Service, route: Route
) -> None:
    """Its driver has prepared the look-up by then, and the server refuses one whose answer has other columns."""
    init_version_4(service.manager())
    service.manager().create("hallym")
    pooler = request.getfixturevalue("pgbouncer") if route.pooled else None
    runner = Runner(service.manager(pooler=pooler, cache_ttl_s=0, **route.options), route)

    def count(session: Session) -> int:
        return len(session.scalars(select(Note.body)).all())

    try:
        for _ in range(8):
            assert runner.run("hallym", count) == 0
        service.manager().init()
        for _ in range(8):
            assert runner.run("hallym", count) == 0
        set_version(service, CATALOG_VERSION + 1, changes=NEXT_VERSION)
        for _ in range(8):
            assert runner.run("hallym", count) == 0
    finally:
        runner.close()


def test_two_versions_apart_everything_is_refused_with_both_versions(fleet: Service, manager: TenantManager) -> None:
    for version in (CATALOG_VERSION + 2, CATALOG_VERSION + 40):
        set_version(fleet, version)
        before = server_state(fleet)
        for name, verb in _VERBS.items():
            with pytest.raises(CatalogVersionError) as caught:
                verb(fleet.manager())
            assert (caught.value.found, caught.value.expected, caught.value.cluster) == (
                version,
                CATALOG_VERSION,
                "main",
            ), name
        with pytest.raises(CatalogVersionError) as caught, fleet.manager().get_session("hallym"):
            pass
        assert f"version {version}" in str(caught.value)
        assert f"version {CATALOG_VERSION}" in str(caught.value)
        assert "newer mt_paas_db" in str(caught.value)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.found, copy.expected) == (str(caught.value), version, CATALOG_VERSION)
        for report in (fleet.manager().readiness(), fleet.manager().doctor()):
            assert not report.ok
            assert any(f"version {version}" in finding.message for finding in report.findings())
        after = server_state(fleet)
        for state in (before, after):
            del state["event"]  # a failure may be recorded, but nothing else happens
        assert after == before


def test_an_older_catalog_two_apart_says_to_upgrade_it() -> None:
    error = CatalogVersionError("main", found=3, expected=5)
    assert "version 3" in str(error)
    assert "mt-paas-db init" in str(error)


def test_init_on_a_catalog_of_the_next_version_leaves_it_there(fleet: Service, manager: TenantManager) -> None:
    """In a rolling deploy an old process may run ``init`` after a new one: nothing is undone, and it may go on."""
    set_version(fleet, CATALOG_VERSION + 1, changes=NEXT_VERSION)
    before = server_state(fleet)
    assert manager.init().catalog_version == CATALOG_VERSION + 1
    assert server_state(fleet) == before


def test_init_on_a_catalog_too_new_is_refused_and_changes_nothing(fleet: Service, manager: TenantManager) -> None:
    set_version(fleet, CATALOG_VERSION + 2)
    before = server_state(fleet)
    with pytest.raises(CatalogVersionError) as caught:
        manager.init()
    assert caught.value.found == CATALOG_VERSION + 2
    assert server_state(fleet) == before


@pytest.mark.parametrize(
    "loss",
    [
        "DROP SCHEMA mt_paas CASCADE",
        "DROP FUNCTION mt_paas.resolve(text); DROP TABLE mt_paas.installation",
        "DELETE FROM mt_paas.installation",
        "DELETE FROM mt_paas.alembic_version",
        "REVOKE USAGE ON SCHEMA mt_paas FROM {login}, {owner}",
    ],
)
def test_a_catalog_that_is_gone_or_half_gone_is_missing(fleet: Service, manager: TenantManager, loss: str) -> None:
    with fleet.superuser() as connection:
        connection.execute(loss.format(login=fleet.login, owner=f"{fleet.name}_owner").encode())
    cold = fleet.manager()
    with pytest.raises(CatalogMissingError, match="mt-paas-db init") as caught, cold.get_session("hallym"):
        pass
    assert caught.value.cluster == "main"
    for verb in _VERBS.values():
        with pytest.raises(CatalogMissingError, match="mt-paas-db init"):
            verb(manager)
    for report in (cold.readiness(), cold.doctor()):
        assert not report.ok
        assert any("mt-paas-db init" in finding.message for finding in report.findings())


def test_a_version_is_not_undone(service: Service, manager: TenantManager) -> None:
    """Upgrading to what is there is nothing; there is no way back that would lose what the catalog knows."""
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        upgrade_catalog(connection, "0001")
        with pytest.raises(CommandError):
            upgrade_catalog(connection, "0099")
    engine.dispose()
    assert manager.init().catalog_version == CATALOG_VERSION
