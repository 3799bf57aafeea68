"""Settings: keyword arguments, else ``MT_PAAS_DB_*`` in the environment."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mt_paas_db.catalog.identifiers import (
    InstallationName,
    SqlName,
    parse_installation,
    parse_sql_name,
)
from mt_paas_db.errors import ConfigurationError

_POOLER = re.compile(r"direct|pgbouncer(?::\d+(?:\.\d+){0,2})?")


def _check_pooler(value: str) -> str:
    if not _POOLER.fullmatch(value):
        raise ValueError("use 'direct', 'pgbouncer', or 'pgbouncer:<version>' as in 'pgbouncer:1.18'")
    return value


class ClusterSettings(BaseModel):
    """How to reach one PostgreSQL server and database. DSNs are URLs, ``postgresql://user:pw@host/db``.

    Attributes:
        app_dsn: What sessions use, as the login role ``<installation>_app``; may lead through a pooler.
        admin_dsn: What ``init`` and the lifecycle use; direct, as a role that may create roles.
        direct_dsn: The app DSN past the pooler, where it differs; for checks.
        pooler: What stands behind `app_dsn`: ``direct``, ``pgbouncer`` (its version is asked for), or
            ``pgbouncer:1.18``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_dsn: SecretStr | None = None
    admin_dsn: SecretStr | None = None
    direct_dsn: SecretStr | None = None
    pooler: Annotated[str, AfterValidator(_check_pooler)] = "direct"


class Settings(BaseSettings):
    """Everything the library can be told. Two settings suffice: the installation and one app DSN.

    Attributes:
        installation: This service's name, 1 to 20 of ``a-z0-9_``; part of every role and schema name.
        clusters: Servers by name. One is enough; `home` says which of several holds the catalog.
        home: The cluster of the catalog and of new tenants; the only one where there is one.
        models: ``package.module:attribute`` of a `MetaData` or a declarative base, for the command line.
        shared_schemas: Schemas on every tenant's path after its own, for reference tables and types.
        opaque_names: Put random characters instead of the tenant's id into role and schema names.
        async_driver: The driver of ``async with``: ``psycopg`` or ``asyncpg`` (extra of that name).
        cache_ttl_s: Seconds a process may remember where a tenant lives; the catalog's bound cuts it.
        pool_size, max_overflow, pool_timeout_s, pool_recycle_s, pool_pre_ping: SQLAlchemy's QueuePool.
        connect_timeout_s: Seconds to wait for a connection.
    """

    model_config = SettingsConfigDict(
        env_prefix="MT_PAAS_DB_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    installation: Annotated[InstallationName, AfterValidator(parse_installation)]
    clusters: dict[str, ClusterSettings] = Field(default_factory=dict)
    home: str | None = None
    models: str | None = None
    shared_schemas: tuple[Annotated[SqlName, AfterValidator(parse_sql_name)], ...] = ()
    opaque_names: bool = False
    async_driver: Literal["psycopg", "asyncpg"] = "psycopg"
    cache_ttl_s: float = Field(default=30.0, ge=0)
    pool_size: int = Field(default=5, ge=1)
    max_overflow: int = Field(default=10, ge=0)
    pool_timeout_s: float = Field(default=30.0, gt=0)
    pool_recycle_s: float = Field(default=1800.0, gt=0)
    pool_pre_ping: bool = False
    connect_timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _home_is_a_cluster(self) -> Self:
        if self.home is None and len(self.clusters) > 1:
            raise ValueError(f"several clusters are set; name the catalog's with home, one of {sorted(self.clusters)}")
        if self.home is not None and self.clusters and self.home not in self.clusters:
            raise ValueError(f"home {self.home!r} is not a cluster; one of {sorted(self.clusters)}")
        return self

    @property
    def home_cluster(self) -> str:
        """The cluster that holds the catalog; ``main`` where a credential provider knows it alone."""
        return self.home or next(iter(self.clusters), "main")


def load_settings(**values: object) -> Settings:
    """Return settings from `values`, and from the environment for those not given.

    Raises `ConfigurationError` that lists every faulty setting by its environment name, without its value.
    """
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"  MT_PAAS_DB_{'__'.join(str(part) for part in fault['loc']).upper() or '*'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_context=False)
        ]
        raise ConfigurationError("the settings cannot be used:\n" + "\n".join(lines)) from None
