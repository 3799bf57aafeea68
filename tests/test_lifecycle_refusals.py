"""Bad input to every verb: a typed error, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from mt_paas_db.catalog.queries import queries
from mt_paas_db.core import TenantManager, TenantState
from mt_paas_db.errors import (
    CatalogMissingError,
    ConfigurationError,
    InvalidIdentifierError,
    LockedError,
    LoginRefusedError,
    MissingRightsError,
    ServerUnavailableError,
    TenancyError,
    TenantExistsError,
    UnknownTenantError,
)
from tests.fleet import Service
from tests.ground_truth import (
    app_dsn,
    clusters,
    server_state,
    state_but_for_the_log,
    tenant_roles,
    tenant_schemas,
)
from tests.servers.processes import free_port

Verb = Callable[[TenantManager, Any], Any]

_VERBS: dict[str, Verb] = {
    "get": lambda m, i: m.get(i),
    "suspend": lambda m, i: m.suspend(i),
    "read_only": lambda m, i: m.read_only(i),
    "maintenance": lambda m, i: m.maintenance(i),
    "resume": lambda m, i: m.resume(i),
    "archive": lambda m, i: m.archive(i),
    "restore": lambda m, i: m.restore(i),
    "delete": lambda m, i: m.delete(i, confirm=i),
    "rename": lambda m, i: m.rename(i, "snu"),
    "add_alias": lambda m, i: m.add_alias(i, "chat.snu.ac.kr"),
    "release_alias": lambda m, i: m.release_alias(i, "chat.snu.ac.kr"),
}
_CREATE: dict[str, Verb] = {"create": lambda m, i: m.create(i)}
_QUESTIONS: dict[str, Verb] = {"list": lambda m, i: m.list(), "events": lambda m, i: m.events()}
_ALL_VERBS = {**_VERBS, **_CREATE, **_QUESTIONS}


def test_an_unknown_tenant(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    for verb in _VERBS.values():
        with pytest.raises(UnknownTenantError) as caught:
            verb(manager, "nobody")
        assert caught.value.tenant_id == "nobody"
    assert state_but_for_the_log(fleet) == before


def test_an_invalid_id(fleet: Service, manager: TenantManager) -> None:
    before = server_state(fleet)
    for verb in {**_VERBS, **_CREATE}.values():
        for value in ("Hallym", "hallym'; --", "hallym\n", "", None, 7, "한림", "a" * 300):
            with pytest.raises(InvalidIdentifierError) as caught:
                verb(manager, value)
            assert caught.value.value == value
    assert server_state(fleet) == before


def test_an_invalid_new_id_or_alias(fleet: Service, manager: TenantManager) -> None:
    before = server_state(fleet)
    bad_ids: list[Any] = ["Snu", "pg-x", "public", "a" * 64, "chat.snu.ac.kr", "", None]
    for bad in bad_ids:
        with pytest.raises(InvalidIdentifierError):
            manager.rename("hallym", bad)
    bad_aliases: list[Any] = ["Bad Alias", "", ".", "a" * 254, None, 7]
    for bad in bad_aliases:
        for attempt in (
            partial(manager.create, "snu", aliases=[bad]),
            partial(manager.add_alias, "hallym", bad),
            partial(manager.release_alias, "hallym", bad),
        ):
            with pytest.raises(InvalidIdentifierError):
                attempt()
    assert server_state(fleet) == before


def test_a_tenant_that_exists(fleet: Service, manager: TenantManager) -> None:
    before = state_but_for_the_log(fleet)
    with pytest.raises(TenantExistsError) as caught:
        manager.create("hallym", display_name="another")
    assert caught.value.tenant_id == "hallym"
    assert state_but_for_the_log(fleet) == before


def test_without_models_nothing_is_created(service: Service, manager: TenantManager) -> None:
    bare = TenantManager(service.settings())
    service.managers.append(bare)
    before = server_state(service)
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_MODELS"):
        bare.create("hallym")
    assert server_state(service) == before


def test_a_lock_that_is_held_too_long(fleet: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another transaction holds the tenant's row; the patience is cut short, so that the test need not wait."""
    statements = cast("dict[str, str]", queries("roles"))
    monkeypatch.setitem(statements, "admin_patience", "SET LOCAL lock_timeout = '300ms'")
    before = state_but_for_the_log(fleet)
    with fleet.superuser() as connection, connection.transaction():
        connection.execute("SELECT FROM mt_paas.tenant WHERE tenant_id = 'hallym' FOR UPDATE")
        for verb in (manager.suspend, partial(manager.rename, new_id="snu")):
            with pytest.raises(LockedError, match="try again") as caught:
                verb("hallym")
            assert caught.value.cluster == "main"
        assert manager.suspend("korea").state is TenantState.SUSPENDED  # only the one is held
        manager.resume("korea")
    after = state_but_for_the_log(fleet)
    assert {**after, "tenant": before["tenant"]} == before
    assert [e.detail["error"] for e in manager.events("hallym", limit=2)] == ["LockedError"] * 2


def test_a_server_that_is_down(service: Service) -> None:
    port = free_port()
    down = f"postgresql://{{}}@127.0.0.1:{port}/x"
    manager = service.manager(clusters=clusters(down.format(service.login), down.format("postgres")))
    for verb in _ALL_VERBS.values():
        with pytest.raises(ServerUnavailableError) as caught:
            verb(manager, "hallym")
        assert caught.value.cluster == "main"
        assert str(port) in str(caught.value)


@pytest.mark.parametrize("verb", sorted(_ALL_VERBS))
def test_a_database_without_a_catalog(service: Service, verb: str) -> None:
    with pytest.raises(CatalogMissingError, match="mt-paas-db init") as caught:
        _ALL_VERBS[verb](service.manager(), "hallym")
    assert caught.value.cluster == "main"
    assert tenant_roles(service) == tenant_schemas(service) == []


def test_a_database_without_a_catalog_whose_installation_is_elsewhere(service: Service, manager: TenantManager) -> None:
    """The roles exist on the server, since another database holds the installation."""
    other = Service(service.server)
    try:
        lost = other.manager(
            installation=service.name,
            clusters=clusters(app_dsn(service, database=other.database), other.server.dsn(other.database)),
        )
        for verb in _ALL_VERBS.values():
            with pytest.raises(CatalogMissingError, match="no tenant catalog"):
                verb(lost, "hallym")
    finally:
        other.close()


def test_settings_of_another_installation(fleet: Service) -> None:
    """The database is another's: settings and catalog disagree, and the message must say whose it is."""
    stranger = Service(fleet.server)
    try:
        stranger.manager().init()
        mixed = stranger.manager(clusters=clusters(app_dsn(stranger), fleet.server.dsn(fleet.database)))
        before = server_state(fleet)
        for verb in _ALL_VERBS.values():
            with pytest.raises(TenancyError) as caught:
                verb(mixed, "hallym")
            assert fleet.name in str(caught.value)
        assert server_state(fleet) == before
    finally:
        stranger.close()


def test_an_admin_dsn_that_is_wrong(service: Service, manager: TenantManager) -> None:
    wrong = service.server.dsn(service.database, user=service.login, password="hunter2")
    with pytest.raises(LoginRefusedError) as caught:
        service.manager(clusters=clusters(app_dsn(service), wrong)).create("hallym")
    assert "admin DSN" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_admin_whose_connection_is_ended_is_told(service: Service, manager: TenantManager) -> None:
    def shut(*_: Any) -> None:
        with service.superuser() as su:
            su.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    with pytest.raises(ServerUnavailableError, match="the server ended the connection") as caught:
        TenantManager(service.settings(), models=service.models, seed=shut).create("hallym")
    assert caught.value.cluster == "main"
    assert manager.list() == []


def test_the_login_role_is_no_admin(fleet: Service) -> None:
    before = server_state(fleet)
    manager = fleet.manager(clusters=clusters(app_dsn(fleet), app_dsn(fleet)))
    for verb in _ALL_VERBS.values():
        with pytest.raises((MissingRightsError, CatalogMissingError)):
            verb(manager, "snu")
    assert server_state(fleet) == before


@pytest.mark.parametrize("words", ["", "a\x00b", "a\nb", "\ud800", "x" * 1001])
def test_a_note_and_an_actor_are_lines_that_a_log_can_show(fleet: Service, manager: TenantManager, words: str) -> None:
    before = server_state(fleet)
    with pytest.raises(InvalidIdentifierError, match="note"):
        manager.suspend("hallym", note=words)
    with pytest.raises(InvalidIdentifierError, match="actor"):
        manager.archive("hallym", actor=words)
    assert server_state(fleet) == before
