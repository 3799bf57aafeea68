"""Settings: keyword arguments, else ``MT_PAAS_DB_*`` in the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mt_paas_db.catalog.identifiers import (
    InstallationName,
    SqlName,
    Tier,
    parse_installation,
    parse_revisions,
    parse_sql_name,
)
from mt_paas_db.errors import ConfigurationError

_POOLER = re.compile(r"direct|pgbouncer(?::\d+(?:\.\d+){0,2})?")
_PLAIN = re.compile(r"\w{1,63}")
_DAY_S = 86_400.0  # a longer wait is a slip of the pen, and some drivers cannot count that far

Prepared = Literal["off", "own", "all"]
"""On which connections behind PgBouncer drivers may name prepared statements."""

_PREPARING_POOLER = (1, 22)  # 1.21 has them, and 1.22 DEALLOCATE ALL, which psycopg sends

_FORMS = {
    "clusters": "set MT_PAAS_DB_CLUSTERS__MAIN__APP_DSN for a cluster called main, "
    'or a JSON object as in {"main": {"app_dsn": "..."}}',
    "canary": 'write a JSON list, as in ["hallym"]',
    "shared_schemas": 'write a JSON list, as in ["reference", "types"]',
}
"""How the settings that are no single value are written."""


def _check_pooler(value: str) -> str:
    if not _POOLER.fullmatch(value):
        raise ValueError("use 'direct', 'pgbouncer', or 'pgbouncer:<version>' as in 'pgbouncer:1.18'")
    return value


class ClusterSettings(BaseModel):
    """How to reach one PostgreSQL server and database. DSNs are URLs, ``postgresql://user:pw@host/db``.

    Attributes:
        app_dsn: What sessions use, as the login role ``<installation>_app``; may lead through a pooler.
        admin_dsn: What ``init`` and the lifecycle use; direct, as a role that may create roles.
        direct_dsn: What migrations use, past any pooler, as a role that may act as the owner; `admin_dsn` where
            left out.
        pooler: What stands behind `app_dsn`: ``direct``, ``pgbouncer`` (its version is asked for), or
            ``pgbouncer:1.18``.
        prepared_statements: On which connections behind PgBouncer drivers may name prepared statements: none (``off``),
            those of tenants' ``own`` logins, or ``all``. Needs `pooler` to say a version of 1.22 or later.
        console_dsn: PgBouncer's console, database ``pgbouncer``, as one of its ``admin_users``; what
            ``pgbouncer reload`` uses, and whom ``pgbouncer config`` makes an admin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_dsn: SecretStr | None = None
    admin_dsn: SecretStr | None = None
    direct_dsn: SecretStr | None = None
    console_dsn: SecretStr | None = None
    pooler: Annotated[str, AfterValidator(_check_pooler)] = "direct"
    prepared_statements: Prepared = "off"

    @model_validator(mode="after")
    def _pooler_can_prepare(self) -> Self:
        version = tuple(int(part) for part in self.pooler.partition(":")[2].split(".") if part)
        if self.prepared_statements != "off" and version < _PREPARING_POOLER:
            raise ValueError(
                f"prepared_statements={self.prepared_statements!r} needs a PgBouncer of 1.22 or later, with "
                "max_prepared_statements above 0; say so in pooler, as in 'pgbouncer:1.24'"
            )
        return self


class _Environment(EnvSettingsSource):
    """The environment. What should be JSON and is not stays text, so that it is one fault among the others."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        if field_name == "requires" and not str(value).lstrip().startswith("["):
            return value  # one revision; some ids, 1975 and 12e4567 say, would be numbers
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class Settings(BaseSettings):
    """Everything the library can be told. Two settings suffice: the installation and one app DSN.

    Attributes:
        installation: This service's name, 1 to 20 of ``a-z0-9_``; part of every role and schema name.
        clusters: Servers by name. One is enough; `home` says which of several holds the catalog.
        home: The cluster of the catalog and of new tenants; the only one where there is one.
        models: ``package.module:attribute`` of a `MetaData` or a declarative base, for the command line.
        script_location: Folder, or ``package:folder``, of the service's Alembic revisions: what new tenants get
            instead of the models' DDL.
        seed: ``package.module:function`` or the path of an SQL file: what writes a new tenant's first rows.
        requires: The revision, or the revisions, that a tenant must have for sessions of this process.
        shared_schemas: Schemas on every tenant's path after its own, for reference tables and types.
        canary: Tenants that a migration of the fleet tries first.
        tier: What keeps new tenants apart: ``role``, or ``login`` (a login and connections of its own for each).
        login_secret: What the passwords of cells' and tenants' own logins are derived from; 32 characters or more.
        cell_size: Tenants of tier `role` that share a login role, at most. A new cell is made when all are full.
        guards: Guard a tenant's own tables: whatever was granted, no other tenant touches their rows.
        opaque_names: Put random characters instead of the tenant's id into role and schema names.
        async_driver: The driver of ``async with``: ``psycopg`` or ``asyncpg`` (extra of that name).
        cache_ttl_s: Seconds a process may remember where a tenant lives; the catalog's bound cuts it.
        pool_size: Most connections of this process for tenants, shared by all cells, blocking and asyncio.
        pool_timeout_s: Seconds to wait for one of them.
        pool_recycle_s: Seconds after which a connection is replaced.
        pool_idle_s: Seconds after which one that nobody uses is closed.
        pool_max_tenants: How many tenants one connection serves before it is closed; without a pooler only.
        pool_pre_ping: Ask a connection whether it lives before each use.
        pooling: ``process``, or ``none``: each session connects anew, to a pooler close by.
        connect_timeout_s: Seconds to wait for a connection.
        name_tenant: How the server is told whose a transaction is: as its ``application_name``, by an sqlcommenter
            ``comment`` behind each statement, or by one that also holds the trace's ``traceparent``.
        metrics_tenant_label: Put the tenant's id among the labels of metrics: time series of their own for each.
    """

    model_config = SettingsConfigDict(
        env_prefix="MT_PAAS_DB_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",  # arguments; other variables of the environment are not looked at
        hide_input_in_errors=True,
    )

    installation: Annotated[InstallationName, AfterValidator(parse_installation)]
    clusters: dict[str, ClusterSettings] = Field(default_factory=dict)
    home: str | None = None
    models: str | None = None
    script_location: str | None = None
    seed: str | None = None
    requires: Annotated[tuple[str, ...], BeforeValidator(parse_revisions)] = ()
    shared_schemas: tuple[Annotated[SqlName, AfterValidator(parse_sql_name)], ...] = ()
    canary: tuple[str, ...] = ()
    tier: Tier = Tier.ROLE
    login_secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    cell_size: int = Field(default=64, ge=1)
    guards: bool = False
    opaque_names: bool = False
    async_driver: Literal["psycopg", "asyncpg"] = "psycopg"
    cache_ttl_s: float = Field(default=30.0, ge=0, le=_DAY_S, allow_inf_nan=False)
    pool_size: int = Field(default=15, ge=1)
    pool_timeout_s: float = Field(default=30.0, gt=0, le=_DAY_S, allow_inf_nan=False)
    pool_recycle_s: float = Field(default=1800.0, gt=0, le=365 * _DAY_S, allow_inf_nan=False)
    pool_idle_s: float = Field(default=600.0, gt=0, le=365 * _DAY_S, allow_inf_nan=False)
    pool_max_tenants: int = Field(default=64, ge=1)
    pool_pre_ping: bool = False
    pooling: Literal["process", "none"] = "process"
    connect_timeout_s: float = Field(default=10.0, gt=0, le=_DAY_S, allow_inf_nan=False)
    name_tenant: Literal["application_name", "comment", "traced_comment"] | None = None
    metrics_tenant_label: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)

    @model_validator(mode="after")
    def _home_is_a_cluster(self) -> Self:
        if self.home is None and len(self.clusters) > 1:
            raise ValueError(f"several clusters are set; name the catalog's with home, one of {sorted(self.clusters)}")
        if self.home is not None and self.clusters and self.home not in self.clusters:
            shown = f"{self.home!r} " if _PLAIN.fullmatch(self.home) else ""  # it might be a DSN
            raise ValueError(f"home {shown}is not a cluster; one of {sorted(self.clusters)}")
        return self

    @property
    def home_cluster(self) -> str:
        """The cluster that holds the catalog; ``main`` where a credential provider knows it alone."""
        return self.home or next(iter(self.clusters), "main")


def load_settings(**values: object) -> Settings:
    """Return settings from `values`, and from the environment for those not given.

    Raises `ConfigurationError` that lists every faulty setting by its environment name, without its value,
    and every argument that is no setting.
    """
    hidden = [name for name in values if name.startswith("_")]  # pydantic-settings would take them for its own
    if hidden:
        lines = [_line((name,), "extra_forbidden", "") for name in hidden]
        raise ConfigurationError("the settings cannot be used:\n" + "\n".join(lines))
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = error.errors(include_input=False, include_context=False, include_url=False)
        lines = [_line(fault["loc"], fault["type"], fault["msg"]) for fault in faults]
        raise ConfigurationError("the settings cannot be used:\n" + "\n".join(lines)) from None
    except SettingsError as error:  # names the field; its cause, left out here, may show the value
        raise ConfigurationError(f"the settings cannot be used: {error}") from None


def _line(path: tuple[int | str, ...], kind: str, message: str) -> str:
    """Return one fault as a line. What is no plain name in `path` is not shown: it came with a value."""
    shown = "__".join(str(part) if _PLAIN.fullmatch(str(part)) else "*" for part in path).upper() or "*"
    if kind == "extra_forbidden":
        message = f"there is no such setting{_nearest(str(path[-1]), _known(path))}"
    elif path and path[0] in _FORMS and kind.endswith("_type") and len(path) < 3:
        message = f"{message}; {_FORMS[str(path[0])]}"
    return f"  MT_PAAS_DB_{shown}: {message}"


def _known(path: tuple[int | str, ...]) -> Iterable[str]:
    return Settings.model_fields if len(path) == 1 else ClusterSettings.model_fields


def _nearest(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {found[0]}?" if found else f"; there are {', '.join(known)}"
