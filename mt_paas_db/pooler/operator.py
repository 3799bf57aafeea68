"""The commands about PgBouncer, put together: settings, catalog, console, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sqlalchemy import URL

from mt_paas_db.catalog.credentials import CredentialProvider, Purpose, cluster_url
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin
from mt_paas_db.errors import PoolerConsoleError
from mt_paas_db.pooler.config import Configuration, Wishes, configure_pgbouncer
from mt_paas_db.pooler.console import open_console
from mt_paas_db.pooler.fleet import read_fleet, read_logins
from mt_paas_db.pooler.reload import Reloaded, read_settings, reload_pgbouncer
from mt_paas_db.session.pooler import PoolerProfile


class Operator:
    """Configures and reloads the PgBouncer before an installation's home cluster.

    `console_dsn` comes before what the provider says of the console.
    """

    def __init__(self, settings: Settings, credentials: CredentialProvider, *, console_dsn: str | None = None) -> None:
        self._settings = settings
        self._cluster = settings.home_cluster
        self._admin = Admin(settings, credentials)

        def provide(entry: str, purpose: Purpose, /) -> str | None:
            if purpose == "console" and entry == self._cluster and console_dsn is not None:
                return console_dsn
            return credentials(entry, purpose)

        self._credentials: CredentialProvider = provide

    def configure(self, folder: Path, wishes: Wishes) -> Configuration:
        """Return what `folder` shall hold; nothing is written.

        PgBouncer's version is what `wishes` say, else the setting, else what a running one answers.

        Raises `ConfigurationError`, `ServerUnavailableError`, `CatalogMissingError`, `MissingRightsError`.
        """
        fleet = read_fleet(self._settings, self._credentials, self._admin)
        if wishes.version is None:
            wishes = replace(wishes, version=self._version())
        return configure_pgbouncer(self._settings, self._credentials, fleet, folder, wishes)

    def reload(self, folder: Path | None = None) -> Reloaded:
        """Let the running PgBouncer read its files, and look whether it did; `folder` is where they are.

        Raises `PoolerConsoleError`, `ConfigurationError`, and as `configure`.
        """
        cells = read_logins(self._admin)
        database = cluster_url(self._credentials, self._cluster, "app").database
        assert database is not None
        written = read_settings(folder / "pgbouncer.ini") if folder is not None else None
        with open_console(self._console_url(), self._cluster, timeout_s=self._settings.connect_timeout_s) as console:
            return reload_pgbouncer(console, cells, database, written)

    def _console_url(self) -> URL:
        return cluster_url(self._credentials, self._cluster, "console")

    def _version(self) -> tuple[int, ...] | None:
        told = PoolerProfile.of(self._settings, self._cluster).version
        if told is not None or not self._credentials(self._cluster, "console"):
            return told
        try:
            with open_console(self._console_url(), self._cluster, timeout_s=2) as console:
                return console.version()
        except PoolerConsoleError:  # it does not run yet, or does not know its admin yet
            return None
