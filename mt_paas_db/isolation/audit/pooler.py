"""What PgBouncer says of itself, where its console answers to the login of the app DSN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.audit.advisories import known_pooler_faults
from mt_paas_db.isolation.audit.findings import finding
from mt_paas_db.isolation.audit.values import Finding
from mt_paas_db.session.pooler import PoolerProfile, parse_pgbouncer_version


class SilentPoolerError(Exception):
    """The console does not answer; its message says why."""


def is_pooled(settings: Settings, entry: str) -> bool:
    """Return whether the settings say that a pooler stands before `entry`."""
    return PoolerProfile.of(settings, entry).kind == "pgbouncer"


def ask_pooler(settings: Settings, credentials: CredentialProvider, entry: str) -> tuple[str, dict[str, str]]:
    """Return what ``SHOW VERSION`` and ``SHOW CONFIG`` say. Raises `SilentPoolerError`."""
    try:
        url = cluster_url(credentials, entry, "app")
        with psycopg.connect(
            host=url.host or "",
            port=url.port or "",
            user=url.username or "",
            password=url.password or "",
            dbname="pgbouncer",
            connect_timeout=max(1, round(settings.connect_timeout_s)),
            autocommit=True,
            prepare_threshold=None,
        ) as console:
            version = console.execute("SHOW VERSION").fetchone()
            config = console.execute("SHOW CONFIG").fetchall()
    except (psycopg.Error, ConfigurationError) as error:
        line = str(error).strip().splitlines()[0]
        raise SilentPoolerError(
            f"the console of cluster {entry!r} does not answer ({line}); add the login to stats_users in pgbouncer.ini"
        ) from error
    return str(version[0]) if version else "", {str(row[0]): str(row[1] or "") for row in config}


def of_pooler(version: str, config: Mapping[str, Any], cluster: str) -> Iterator[Finding]:
    """Yield what is wrong with a PgBouncer of this version and configuration. Pure."""

    def setting(rule_id: str, name: str) -> Finding:
        return finding(rule_id, cluster, kind="pooler", object_=name, what=repr(config.get(name, "")))

    for advisory in known_pooler_faults(parse_pgbouncer_version(version)):
        if advisory.id != "CVE-2025-12819" or "search_path" in config.get("track_extra_parameters", ""):
            yield finding(
                "pooler-advisory",
                cluster,
                kind="pooler",
                object_=advisory.id,
                what=f"{advisory.summary}; {version} has it",
            )
    if config.get("pool_mode") == "session" and "DISCARD ALL" not in config.get("server_reset_query", "").upper():
        yield setting("pooler-residue", "server_reset_query")
    tracked = {name.strip().lower() for name in config.get("track_extra_parameters", "").split(",")}
    if tracked & {"search_path", "role", "session_authorization"}:
        yield setting("pooler-tracks", "track_extra_parameters")
