"""Credentials: one provider turns an entry into a DSN when it is needed; nothing of it is stored or shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from mt_paas_db.catalog.credentials import (
    CredentialProvider,
    Purpose,
    cluster_url,
    file_credentials,
    settings_credentials,
)
from mt_paas_db.catalog.settings import load_settings
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, ServerUnavailableError, TenancyError
from tests.fleet import PASSWORD, Service

SECRET = "hunter2"
DSN = f"postgresql://chat_app:{SECRET}@db.example.org/chat"


def giving(dsn: str | None) -> CredentialProvider:
    """Return a provider that always answers `dsn`."""

    def provide(entry: str, purpose: Purpose, /) -> str | None:
        return dsn

    return provide


# -- providers


def test_settings_answer_by_entry_and_purpose() -> None:
    settings = load_settings(
        installation="chat",
        clusters={"main": {"app_dsn": DSN, "admin_dsn": "postgresql://root@h/d", "direct_dsn": "postgresql://d@h/d"}},
    )
    provide = settings_credentials(settings)
    assert provide("main", "app") == DSN
    assert provide("main", "admin") == "postgresql://root@h/d"
    assert provide("main", "direct") == "postgresql://d@h/d"
    assert provide("other", "app") is None


def test_the_environment_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MT_PAAS_DB_CLUSTERS__WEST__APP_DSN", raising=False)
    provide = settings_credentials(load_settings(installation="chat"))
    assert provide("west", "app") is None
    monkeypatch.setenv("MT_PAAS_DB_CLUSTERS__WEST__APP_DSN", DSN)
    assert provide("west", "app") == DSN
    assert provide("west", "admin") is None
    monkeypatch.setenv("MT_PAAS_DB_CLUSTERS__WEST__APP_DSN", "postgresql://new@h/d")
    assert provide("west", "app") == "postgresql://new@h/d"


def test_settings_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(installation="chat", clusters={"main": {"app_dsn": DSN}})
    monkeypatch.setenv("MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN", "postgresql://other@h/d")
    monkeypatch.setenv("MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN", "postgresql://root@h/d")
    provide = settings_credentials(settings)
    assert provide("main", "app") == DSN
    assert provide("main", "admin") == "postgresql://root@h/d"


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    provide = file_credentials(tmp_path)
    assert provide("main", "app") is None
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "app_dsn").write_text(f"{DSN}\n")
    assert provide("main", "app") == DSN
    assert provide("main", "admin") is None
    (tmp_path / "main" / "app_dsn").write_text("postgresql://new@h/d")
    assert provide("main", "app") == "postgresql://new@h/d"


def test_files_may_be_links_as_orchestrators_mount_them(tmp_path: Path) -> None:
    version = tmp_path / "main" / "..2026_01"
    version.mkdir(parents=True)
    (version / "app_dsn").write_text(DSN)
    (tmp_path / "main" / "..data").symlink_to("..2026_01")
    (tmp_path / "main" / "app_dsn").symlink_to("..data/app_dsn")
    assert file_credentials(tmp_path)("main", "app") == DSN


@pytest.mark.parametrize("entry", ["../outside", "main/../../outside", "{absolute}", "inside/../../outside", ".."])
def test_an_entry_leads_nowhere_outside_the_folder(tmp_path: Path, entry: str) -> None:
    folder, outside = tmp_path / "secrets", tmp_path / "outside"
    for path in (folder / "inside", outside):
        path.mkdir(parents=True)
    (outside / "app_dsn").write_text(DSN)
    (tmp_path / "app_dsn").write_text(DSN)
    assert file_credentials(folder)(entry.format(absolute=outside), "app") is None


def test_a_link_leads_nowhere_outside_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "secrets", tmp_path / "secrets-of-another"
    for path in (folder, outside):
        path.mkdir()
    (outside / "app_dsn").write_text(DSN)
    (folder / "main").symlink_to(outside)
    assert file_credentials(folder)("main", "app") is None


# -- from a DSN to a URL


def test_a_dsn_becomes_a_url_whose_driver_is_open() -> None:
    for scheme in ("postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"):
        url = cluster_url(giving(DSN.replace("postgresql", scheme)), "main", "app")
        assert url.drivername == "postgresql"
        assert (url.username, url.password, url.database) == ("chat_app", SECRET, "chat")


@pytest.mark.parametrize("dsn", [None, ""])
def test_a_dsn_that_is_not_known_is_named_by_its_setting(dsn: str | None) -> None:
    with pytest.raises(ConfigurationError, match="set MT_PAAS_DB_CLUSTERS__EAST_1__DIRECT_DSN"):
        cluster_url(giving(dsn), "east_1", "direct")


@pytest.mark.parametrize(
    "dsn",
    [
        SECRET,
        f"host=db.example.org dbname=chat user=chat_app password={SECRET}",
        f"postgresql://chat_app:{SECRET}@db.example.org",
        f"postgresql://chat_app:{SECRET}@db.example.org/",
        f"mysql://chat_app:{SECRET}@db.example.org/chat",
        f"postgresql://chat_app:{SECRET}@db.example.org:port/chat",
        f"postgresql://chat_app:{SECRET}@one:5432,two:5432/chat",
        f"postgresql://chat_app:{SECRET}@[::1/chat",
        # The host was forgotten, so that the password stands where a port does.
        f"postgresql://chat_app:{SECRET}",
        f"postgresql://chat_app:{SECRET}/chat",
        "   ",
    ],
)
def test_a_malformed_dsn_is_refused_and_not_shown(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cluster_url(giving(dsn), "main", "app")
    assert "app DSN of cluster 'main'" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)


# -- in use


def test_a_callable_of_ones_own_serves_everything(service: Service) -> None:
    asked: list[tuple[str, Purpose]] = []

    def provide(entry: str, purpose: Purpose, /) -> str | None:
        asked.append((entry, purpose))
        if entry != "main":
            return None
        if purpose == "admin":
            return service.server.dsn(service.database)
        return service.server.dsn(service.database, user=service.login, password=PASSWORD)

    manager = TenantManager(
        load_settings(installation=service.name, clusters={}), models=service.models, credentials=provide
    )
    service.managers.append(manager)
    assert asked == []
    manager.init()
    manager.create("hallym")
    with manager.get_session("hallym") as session:
        assert session.execute(text("SELECT current_user")).scalar_one() == f"{service.name}_hallym_1"
    assert set(asked) == {("main", "app"), ("main", "admin")}
    assert manager.readiness().ok
    assert manager.doctor().ok


def test_files_serve_everything(service: Service, tmp_path: Path) -> None:
    settings = service.settings()
    folder = tmp_path / "main"
    folder.mkdir()
    for purpose in ("app", "admin"):
        secret = getattr(settings.clusters["main"], f"{purpose}_dsn")
        (folder / f"{purpose}_dsn").write_text(secret.get_secret_value() + "\n")
    manager = TenantManager(
        load_settings(installation=service.name, clusters={}),
        models=service.models,
        credentials=file_credentials(tmp_path),
    )
    service.managers.append(manager)
    manager.init()
    assert manager.create("hallym").placement.credentials == "main"


def test_a_cluster_that_was_unknown_at_the_start_needs_no_new_manager(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DSNs come into the environment after the manager was made."""
    for name in [name for name in os.environ if name.startswith("MT_PAAS_DB_")]:
        monkeypatch.delenv(name)
    manager = TenantManager(load_settings(installation=service.name), models=service.models)
    service.managers.append(manager)
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN"):
        manager.init()
    assert not manager.readiness().ok
    monkeypatch.setenv(
        "MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN",
        service.server.dsn(service.database, user=service.login, password=PASSWORD),
    )
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN"):
        manager.init()
    monkeypatch.setenv("MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN", service.server.dsn(service.database))
    manager.init()
    manager.create("hallym")
    assert manager.readiness().ok


def test_the_catalog_holds_no_credentials(fleet: Service, manager: TenantManager) -> None:
    wrong = fleet.manager()
    with pytest.raises(TenancyError):
        wrong.create("hallym")  # a failure is recorded too
    with fleet.superuser() as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'mt_paas'"
        ).fetchall()
        assert len(tables) >= 6
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text FROM {table} t").fetchall()
            for (row,) in rows:
                assert PASSWORD not in row
                assert "postgresql://" not in row


def test_a_wrong_password_is_an_error_that_does_not_show_it(fleet: Service) -> None:
    wrong = fleet.server.dsn(fleet.database, user=fleet.login, password=SECRET)
    manager = fleet.manager(clusters={"main": {"app_dsn": wrong, "admin_dsn": fleet.server.dsn(fleet.database)}})
    with pytest.raises(ServerUnavailableError) as caught, manager.get_session("hallym"):
        pass
    assert caught.value.cluster == "main"
    assert fleet.login in str(caught.value)
    assert "password" in str(caught.value)
    assert SECRET not in str(caught.value)
    report = manager.readiness()
    assert not report.ok
    assert SECRET not in str(report.as_dict())


def test_a_password_may_hold_any_characters(service: Service) -> None:
    password = "p@ss:w/ö rd%'\"\\?#한"
    url = make_url(service.server.dsn(service.database)).set(username=service.login, password=password)
    manager = service.manager(
        clusters={
            "main": {
                "app_dsn": url.render_as_string(hide_password=False),
                "admin_dsn": service.server.dsn(service.database),
            }
        }
    )
    manager.init()
    assert manager.readiness().ok
    assert manager.doctor().ok
