"""Credentials: the catalog names an entry, one provider turns it into a DSN when it is needed.

So the catalog holds no secret, and a new cluster needs no redeploy: the environment, the file or the
user's own callable may learn of it while the service runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Protocol

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import ConfigurationError

Purpose = Literal["app", "admin", "direct"]
"""What a DSN is for: sessions, the lifecycle, or migrations, which need the server itself."""


class CredentialProvider(Protocol):
    """Anything callable as ``provider(entry, purpose)`` that returns a DSN, or None where it knows none."""

    def __call__(self, entry: str, purpose: Purpose, /) -> str | None: ...


def settings_credentials(settings: Settings) -> CredentialProvider:
    """Return a provider that answers from `settings.clusters`, and after that from the environment.

    The environment is read at each call: ``MT_PAAS_DB_CLUSTERS__<ENTRY>__APP_DSN`` may appear later.
    """

    def provide(entry: str, purpose: Purpose, /) -> str | None:
        cluster = settings.clusters.get(entry)
        secret = getattr(cluster, f"{purpose}_dsn", None)
        if secret is not None:
            return str(secret.get_secret_value())
        return os.environ.get(f"MT_PAAS_DB_CLUSTERS__{entry.upper()}__{purpose.upper()}_DSN")

    return provide


def file_credentials(folder: str | Path) -> CredentialProvider:
    """Return a provider that reads ``<folder>/<entry>/<purpose>_dsn``, as secrets are mounted by orchestrators."""
    root = Path(folder).resolve()

    def provide(entry: str, purpose: Purpose, /) -> str | None:
        path = (root / entry / f"{purpose}_dsn").resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return None
        return path.read_text(encoding="utf-8").strip()

    return provide


def cluster_url(provider: CredentialProvider, entry: str, purpose: Purpose) -> URL:
    """Return the DSN of `entry` as a URL whose driver is still open.

    Raises `ConfigurationError` where the provider knows none, or it is no PostgreSQL URL; the message
    never shows the DSN.
    """
    dsn = provider(entry, purpose)
    setting = f"MT_PAAS_DB_CLUSTERS__{entry.upper()}__{purpose.upper()}_DSN"
    if not dsn:
        raise ConfigurationError(f"cluster {entry!r} has no {purpose} DSN; set {setting}")
    try:
        url = make_url(dsn)
    except (ArgumentError, ValueError):  # a port that is no number, say
        raise ConfigurationError(
            f"the {purpose} DSN of cluster {entry!r} is not a URL; write {setting}=postgresql://user:password@host/database"
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(
            f"the {purpose} DSN of cluster {entry!r} is for {url.get_backend_name()!r}; only postgresql:// will do"
        )
    if not url.database:
        raise ConfigurationError(f"the {purpose} DSN of cluster {entry!r} names no database")
    return url.set(drivername="postgresql")
