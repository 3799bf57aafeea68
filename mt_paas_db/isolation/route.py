"""Drivers and ways to the server, and the manager that takes one: the user's, with few connections.

A pool of one makes tenants follow each other on the same connection, so that whatever one of them leaves there
meets the next.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import URL, make_url
from sqlalchemy.util import immutabledict

from mt_paas_db.catalog.credentials import CredentialProvider, Purpose, cluster_url
from mt_paas_db.core.manager import TenantManager

Driver = Literal["psycopg", "psycopg_async", "asyncpg"]
DRIVERS: tuple[Driver, ...] = ("psycopg", "psycopg_async", "asyncpg")


@dataclass(frozen=True, slots=True)
class Route:
    """A driver, direct to the server or through PgBouncer."""

    driver: Driver
    pooled: bool = False

    @property
    def is_async(self) -> bool:
        """Whether sessions are opened with ``async with``."""
        return self.driver != "psycopg"

    @property
    def parts(self) -> tuple[str, str]:
        """What a deployment may switch off: the driver and the way."""
        return self.driver, "pgbouncer" if self.pooled else "direct"

    def __str__(self) -> str:
        return "-".join(self.parts)


ROUTES: tuple[Route, ...] = tuple(Route(driver, pooled) for pooled in (False, True) for driver in DRIVERS)


class NoRouteError(LookupError):
    """A route cannot be taken here; the message says why."""


def manager_on(
    manager: TenantManager, route: Route, *, pooler: str | None = None, connections: int = 1
) -> TenantManager:
    """Return a manager of the same installation that takes `route`, on a pool of few connections.

    `pooler` is a URL whose host and port are a PgBouncer's in front of the home cluster, where the settings have none.
    Raises `NoRouteError`.
    """
    if route.driver == "asyncpg" and importlib.util.find_spec("asyncpg") is None:
        raise NoRouteError("asyncpg is not installed; pip install 'mt_paas_db[asyncpg]'")
    settings, provider = manager.settings, manager._credentials
    home = settings.home_cluster
    cluster = settings.clusters.get(home)
    configured = cluster.pooler if cluster else "direct"
    kind = configured
    if route.pooled and configured == "direct":
        if pooler is None:
            raise NoRouteError(
                f"no PgBouncer is known: the settings call the app DSN of cluster {home!r} direct; "
                "name one with --pooler or the environment's MT_PAAS_DB_ISOLATION_POOLER"
            )
        provider, kind = _through(provider, make_url(pooler)), "pgbouncer"
    elif not route.pooled and configured != "direct":
        purpose: Purpose = "direct" if provider(home, "direct") else "admin"
        if not provider(home, purpose):
            raise NoRouteError(f"the app DSN of cluster {home!r} leads through a pooler, and no direct DSN is known")
        provider, kind = _through(provider, cluster_url(provider, home, purpose)), "direct"
    changes: dict[str, object] = {
        "pool_size": connections,
        "pool_timeout_s": 10.0,
        "async_driver": "asyncpg" if route.driver == "asyncpg" else "psycopg",
        "models": None,
        "script_location": None,
        "seed": None,
    }
    if cluster is not None:
        changes["clusters"] = {**settings.clusters, home: cluster.model_copy(update={"pooler": kind})}
    return TenantManager(settings.model_copy(update=changes), credentials=provider)


def _through(provider: CredentialProvider, gate: URL) -> CredentialProvider:
    """Return a provider whose app DSNs lead to the host and port of `gate`."""

    def provide(entry: str, purpose: Purpose, /) -> str | None:
        dsn = provider(entry, purpose)
        if dsn is None or purpose != "app":
            return dsn
        url = make_url(dsn)
        query = {key: value for key, value in url.query.items() if key not in {"host", "port"}}
        query |= {key: value for key, value in gate.query.items() if key in {"host", "port"}}
        there = url._replace(host=gate.host, port=gate.port, query=immutabledict(query))
        return there.render_as_string(hide_password=False)

    return provide
