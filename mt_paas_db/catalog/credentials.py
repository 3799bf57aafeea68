"""Credentials: the catalog names an entry, one provider turns it into a DSN when it is needed.

So the catalog holds no secret, and a new cluster needs no redeploy: the environment, the file or the
user's own callable may learn of it while the service runs.

A login of a cell, or of a single tenant, is asked for as ``<entry>/<login role>``. Where the provider knows none, its
DSN is the cluster's with that user and a password derived from the installation's login secret: HMAC-SHA-256 (RFC
2104) over the role's name, so that thousands of logins need one secret. Without one, a cell's password is derived from
that of the app DSN, so that a fleet that grows beyond one cell needs no configuration; a tenant's own is not: whoever
is given it could try, at leisure, what it was derived from.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path
from typing import Literal, Protocol

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import ConfigurationError

Purpose = Literal["app", "admin", "direct", "console"]
"""What a DSN is for: sessions, the lifecycle, migrations, which need the server itself, or PgBouncer's console."""


class CredentialProvider(Protocol):
    """Anything callable as ``provider(entry, purpose)`` that returns a DSN, or None where it knows none."""

    def __call__(self, entry: str, purpose: Purpose, /) -> str | None: ...


_OF_A_CELL = "mt_paas_db login of a cell: "
"""Keeps what is derived from the app DSN's password apart from whatever else is derived from the same text."""


def login_url(settings: Settings, provider: CredentialProvider, entry: str, login: str, *, tier: Tier) -> URL:
    """Return the app DSN of a login on the cluster of `entry`, as a URL whose driver is still open.

    `tier` is that of its tenants: `role` for the login of a cell, `login` for one tenant's own. Where the app DSN has
    no password (peer, trust, certificates), neither has a cell's.

    Raises `ConfigurationError` where the provider knows none of a tenant's own login and there is no secret, or it
    names another user.
    """
    if provider(f"{entry}/{login}", "app"):
        url = cluster_url(provider, f"{entry}/{login}", "app")
        if url.username != login:
            raise ConfigurationError(
                f"the app DSN of {f'{entry}/{login}'!r} logs in as {url.username!r}; the catalog has {login!r}"
            )
        return url
    url = cluster_url(provider, entry, "app").set(username=login)
    if settings.login_secret is not None:
        return url.set(password=login_password(settings.login_secret.get_secret_value(), login))
    if tier is Tier.LOGIN:
        raise ConfigurationError(
            f"no credentials for the login {login!r}; set MT_PAAS_DB_LOGIN_SECRET, "
            f"or let the credential provider answer for {f'{entry}/{login}'!r}"
        )
    return url if url.password is None else url.set(password=login_password(str(url.password), _OF_A_CELL + login))


def login_password(secret: str, login: str) -> str:
    """Return the password that a login role has by a secret: 43 characters of ``A-Za-z0-9-_``."""
    digest = hmac.new(secret.encode(), login.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


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
    return dsn_url(dsn, called=f"the {purpose} DSN of cluster {entry!r}", setting=setting)


def dsn_url(dsn: str, *, called: str, setting: str | None = None) -> URL:
    """Return a DSN as a URL whose driver is still open; messages call it `called`, and say to write it so in `setting`.

    Raises `ConfigurationError` where it is no PostgreSQL URL with a database; the message never shows the DSN.
    """
    try:
        url = make_url(dsn)
    except (ArgumentError, ValueError):  # a port that is no number, say
        assigned = f"{setting}=" if setting else ""
        raise ConfigurationError(
            f"{called} is not a URL; write {assigned}postgresql://user:password@host/database"
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(f"{called} is for {url.get_backend_name()!r}; only postgresql:// will do")
    if not url.database:
        raise ConfigurationError(f"{called} names no database")
    return url.set(drivername="postgresql")
