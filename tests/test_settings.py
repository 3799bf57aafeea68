"""Settings: read from arguments and the environment; faults are listed by name and never by value."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from mt_paas_db.catalog.settings import ClusterSettings, Settings, load_settings
from mt_paas_db.core import TenantManager
from mt_paas_db.core.models import load_models
from mt_paas_db.errors import ConfigurationError
from tests.models import Base

SECRET = "hunter2"
DSN = f"postgresql://chat_app:{SECRET}@db.example.org/chat"
Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Set ``MT_PAAS_DB_*``: nothing else of ours stays in the environment."""
    for name in [name for name in os.environ if name.upper().startswith("MT_PAAS_DB_")]:
        monkeypatch.delenv(name)

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"MT_PAAS_DB_{name}", value)

    return put


def fault() -> str:
    """Return the message of the `ConfigurationError` that loading raises, having looked for secrets in it."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert SECRET not in repr(caught.value)
    assert SECRET not in repr(caught.value.__cause__)
    assert SECRET not in repr(vars(caught.value))
    return str(caught.value)


def test_two_settings_suffice(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__MAIN__APP_DSN=DSN)
    settings = load_settings()
    assert settings.installation == "chat"
    assert settings.home_cluster == "main"
    app_dsn = settings.clusters["main"].app_dsn
    assert app_dsn is not None
    assert app_dsn.get_secret_value() == DSN
    assert settings.clusters["main"].pooler == "direct"
    assert settings.async_driver == "psycopg"


def test_every_setting_comes_from_the_environment(environment: Environment) -> None:
    environment(
        INSTALLATION="chat",
        CLUSTERS__MAIN__APP_DSN=DSN,
        CLUSTERS__MAIN__ADMIN_DSN=DSN,
        CLUSTERS__MAIN__DIRECT_DSN=DSN,
        CLUSTERS__MAIN__POOLER="pgbouncer:1.18",
        CLUSTERS__EAST_1__APP_DSN=DSN,
        HOME="main",
        MODELS="tests.models:Base",
        SHARED_SCHEMAS='["reference", "types"]',
        OPAQUE_NAMES="true",
        ASYNC_DRIVER="asyncpg",
        CACHE_TTL_S="0.5",
        POOL_SIZE="7",
        POOL_IDLE_S="90",
        POOL_MAX_TENANTS="8",
        POOLING="none",
        POOL_TIMEOUT_S="3",
        POOL_RECYCLE_S="60",
        POOL_PRE_PING="1",
        CONNECT_TIMEOUT_S="2.5",
    )
    settings = load_settings()
    assert sorted(settings.clusters) == ["east_1", "main"]
    assert settings.clusters["main"].pooler == "pgbouncer:1.18"
    assert settings.shared_schemas == ("reference", "types")
    assert settings.opaque_names is True
    assert (settings.async_driver, settings.cache_ttl_s, settings.pool_size) == ("asyncpg", 0.5, 7)
    assert (settings.pool_timeout_s, settings.pool_recycle_s, settings.pool_idle_s) == (3, 60, 90)
    assert (settings.pool_max_tenants, settings.pooling) == (8, "none")
    assert (settings.pool_pre_ping, settings.connect_timeout_s) == (True, 2.5)
    assert (settings.home, settings.models) == ("main", "tests.models:Base")


def test_arguments_come_before_the_environment(environment: Environment) -> None:
    environment(INSTALLATION="chat", POOL_SIZE="7")
    assert load_settings(installation="advisor").installation == "advisor"
    assert load_settings(installation="advisor").pool_size == 7


def test_a_missing_installation_is_named(environment: Environment) -> None:
    environment(CLUSTERS__MAIN__APP_DSN=DSN)
    assert "MT_PAAS_DB_INSTALLATION: Field required" in fault()


def test_all_faults_are_listed_by_their_environment_names(environment: Environment) -> None:
    environment(
        INSTALLATION="Not Good",
        CLUSTERS__MAIN__APP_DSN=DSN,
        CLUSTERS__MAIN__POOLER=SECRET,
        CLUSTERS__MAIN__APP_DNS=DSN,
        ASYNC_DRIVER=SECRET,
        POOL_SIZE="0",
        POOL_MAX_TENANTS="0",
        CACHE_TTL_S=SECRET,
        POOL_TIMEOUT_S="0",
        CONNECT_TIMEOUT_S="nan",
    )
    message = fault()
    for name in (
        "INSTALLATION",
        "CLUSTERS__MAIN__POOLER",
        "CLUSTERS__MAIN__APP_DNS",
        "ASYNC_DRIVER",
        "POOL_SIZE",
        "POOL_MAX_TENANTS",
        "CACHE_TTL_S",
        "POOL_TIMEOUT_S",
        "CONNECT_TIMEOUT_S",
    ):
        assert f"MT_PAAS_DB_{name}: " in message


def test_a_dsn_in_the_wrong_place_is_not_shown(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__MAIN=DSN)
    assert "MT_PAAS_DB_CLUSTERS__MAIN: " in fault()


def test_a_dsn_in_place_of_the_clusters_is_not_shown(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS=DSN)
    message = fault()
    assert "MT_PAAS_DB_CLUSTERS: " in message
    assert "set MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN" in message


@pytest.mark.parametrize("value", ["reference,types", "", "{}", SECRET])
def test_shared_schemas_that_are_no_list_are_a_fault_of_that_setting(environment: Environment, value: str) -> None:
    environment(INSTALLATION="chat", SHARED_SCHEMAS=value, POOL_SIZE="0")
    message = fault()
    assert 'write a JSON list, as in ["reference", "types"]' in message
    assert "MT_PAAS_DB_SHARED_SCHEMAS: " in message
    assert "MT_PAAS_DB_POOL_SIZE: " in message  # one fault among the others


@pytest.mark.parametrize("clusters", [f'{{"{DSN}": 1}}', f'{{"main": {{"{DSN}": 1}}}}', f'["{DSN}"]'])
def test_a_dsn_where_a_name_belongs_is_not_shown(environment: Environment, clusters: str) -> None:
    environment(INSTALLATION="chat", CLUSTERS=clusters)
    assert "MT_PAAS_DB_CLUSTERS" in fault()
    environment(CLUSTERS='{"main": {}}', HOME=DSN)
    assert "home is not a cluster" in fault()


def test_clusters_may_be_json_and_single_variables_together(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS='{"main": {"app_dsn": "postgresql://h/d"}}', CLUSTERS__MAIN__APP_DSN=DSN)
    app_dsn = load_settings().clusters["main"].app_dsn
    assert app_dsn is not None
    assert app_dsn.get_secret_value() == DSN


@pytest.mark.parametrize("name", ["poolsize", "Pool_Sizes", "_pool_size"])
def test_an_argument_that_is_no_setting_is_refused(environment: Environment, name: str) -> None:
    environment(INSTALLATION="chat")
    with pytest.raises(ConfigurationError, match="did you mean pool_size") as caught:
        load_settings(**{name: SECRET})
    assert f"MT_PAAS_DB_{name.upper()}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_an_argument_that_is_like_no_setting_is_told_all(environment: Environment) -> None:
    environment(INSTALLATION="chat")
    with pytest.raises(ConfigurationError, match="there are installation, clusters,"):
        load_settings(banana=1)
    with pytest.raises(ConfigurationError, match="APP_DNS: there is no such setting; did you mean app_dsn"):
        load_settings(clusters={"main": {"app_dns": DSN}})


def test_a_variable_that_is_no_setting_is_left_alone(environment: Environment) -> None:
    environment(INSTALLATION="chat", POOLSIZE="3", CLUSTERSS="x", PG_BIN="/usr/lib")
    assert load_settings().pool_size == 15


@pytest.mark.parametrize("schemas", ['["pg_x"]', '["public"]', '["mt_paas"]', '["a", "B"]', '["a\\""]'])
def test_a_shared_schema_must_be_a_plain_name(environment: Environment, schemas: str) -> None:
    environment(INSTALLATION="chat", SHARED_SCHEMAS=schemas)
    assert "MT_PAAS_DB_SHARED_SCHEMAS" in fault()


def test_several_clusters_need_a_home(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__EAST__APP_DSN=DSN, CLUSTERS__WEST__APP_DSN=DSN)
    message = fault()
    assert "home" in message
    assert "['east', 'west']" in message
    environment(HOME="west")
    assert load_settings().home_cluster == "west"


def test_home_must_be_a_cluster(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__EAST__APP_DSN=DSN, HOME="north")
    message = fault()
    assert "'north'" in message
    assert "['east']" in message


def test_home_without_clusters_is_for_a_credential_provider(environment: Environment) -> None:
    environment(INSTALLATION="chat", HOME="north")
    assert load_settings().home_cluster == "north"


@pytest.mark.parametrize("pooler", ["direct", "pgbouncer", "pgbouncer:1.18", "pgbouncer:1.24.1"])
def test_a_pooler_is_accepted(pooler: str) -> None:
    assert ClusterSettings(pooler=pooler).pooler == pooler


@pytest.mark.parametrize(
    "pooler", ["", "odyssey", "direct:1", "pgbouncer:", "pgbouncer:x", "pgbouncer:1.18\n", "PgBouncer"]
)
def test_a_pooler_is_refused(pooler: str) -> None:
    with pytest.raises(ValidationError):
        ClusterSettings(pooler=pooler)


@pytest.mark.parametrize(
    "setting", ["cache_ttl_s", "connect_timeout_s", "pool_timeout_s", "pool_recycle_s", "pool_idle_s"]
)
@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e12, -1])
def test_a_time_that_no_driver_can_wait_is_refused(environment: Environment, setting: str, seconds: float) -> None:
    environment(INSTALLATION="chat")
    with pytest.raises(ConfigurationError, match=f"MT_PAAS_DB_{setting.upper()}: "):
        load_settings(**{setting: seconds})


def test_the_longest_times_can_be_used(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__MAIN__APP_DSN=DSN)
    day_s = 86_400
    times = {"connect_timeout_s": day_s, "pool_timeout_s": day_s, "pool_recycle_s": 365 * day_s, "cache_ttl_s": day_s}
    manager = TenantManager(load_settings(**times))
    manager._door.engines.blocking("main")
    assert manager.settings.pool_recycle_s == 365 * day_s


def test_secrets_are_masked(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__MAIN__APP_DSN=DSN, CLUSTERS__MAIN__ADMIN_DSN=DSN)
    settings = load_settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in shown
        assert "app_dsn" in shown


@pytest.mark.parametrize("value", [{"app_dsn": 12345, "admin_dsn": DSN}, DSN, {"app_dsn": [DSN]}])
def test_arguments_of_a_wrong_type_are_not_shown(environment: Environment, value: Any) -> None:
    environment(INSTALLATION="chat")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(clusters={"main": value})
    assert "MT_PAAS_DB_CLUSTERS__MAIN" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_settings_do_not_change(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__MAIN__APP_DSN=DSN)
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.pool_size = 9  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.clusters["main"].pooler = "pgbouncer"  # type: ignore[misc]


def test_a_fault_can_be_pickled(environment: Environment) -> None:
    environment()
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (ConfigurationError, str(caught.value))


def test_a_manager_reads_the_environment_and_sends_nothing(environment: Environment) -> None:
    environment(INSTALLATION="chat", CLUSTERS__MAIN__APP_DSN=DSN, MODELS="tests.models:Base")
    manager = TenantManager()
    assert manager.settings == Settings(installation=manager.settings.installation)


def test_a_manager_without_an_installation_is_refused(environment: Environment) -> None:
    environment()
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_INSTALLATION"):
        TenantManager()


def test_models_are_loaded_by_path() -> None:
    assert load_models("tests.models:Base") is Base.metadata
    assert load_models("tests.models:Base.metadata") is Base.metadata
    assert load_models("tests.models") is Base.metadata


@pytest.mark.parametrize(
    "path",
    ["", ":", "no_such_module:Base", "tests.models:Nothing", "tests.models:SHARED", "..", ".models:Base", "os:path"],
)
def test_models_that_cannot_be_loaded_are_a_configuration_error(environment: Environment, path: str) -> None:
    environment(INSTALLATION="chat")
    with pytest.raises(ConfigurationError):
        load_models(path)
    if path:
        with pytest.raises(ConfigurationError):
            TenantManager(load_settings(models=path))
