"""Connections for migrations: to the server itself, as a role that may act as the owner.

Locks that outlive a transaction and statements outside one need a connection that stays what it is. Behind a pooler
that is not so, and a DSN that leads through one is refused.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from mt_paas_db.catalog.credentials import CredentialProvider, cluster_url
from mt_paas_db.catalog.identifiers import InstallationRoles
from mt_paas_db.catalog.queries import queries
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import CatalogMissingError, MissingRightsError, PooledConnectionError
from mt_paas_db.session.faults import connection_fault

_PROOF = "mt_paas.direct"
"""A setting that comes with the connection. A pooler refuses it, or forgets to pass it on."""


# They come with the connection, so that RESET ALL leaves them. A generic plan is the only one that what is prepared
# for each tenant will ever need; to compile one to machine code takes longer than to execute it for a whole fleet.
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        f"{_PROOF}=on",
        "client_min_messages=warning",
        "plan_cache_mode=force_generic_plan",
        "jit=off",
        "lock_timeout=0",
        "statement_timeout=0",
    )
)


class Direct:
    """Opens connections that act as the owner role."""

    def __init__(self, settings: Settings, credentials: CredentialProvider) -> None:
        self.roles = InstallationRoles(settings.installation)
        self._credentials = credentials
        self._timeout_s = settings.connect_timeout_s

    def dsn(self, entry: str) -> str:
        """Return the direct DSN of a credentials entry, or its admin DSN where it has none of its own."""
        purpose = "direct" if self._credentials(entry, "direct") else "admin"
        url = cluster_url(self._credentials, entry, purpose)  # type: ignore[arg-type]
        return url.set(drivername="postgresql").render_as_string(hide_password=False)

    def connect(self, entry: str) -> psycopg.Connection[Any]:
        """Open a connection outside any transaction, with the owner's role.

        Raises:
            PooledConnectionError: The DSN leads through a pooler.
            ServerUnavailableError: No connection.
            CatalogMissingError: This server has no such installation.
            MissingRightsError: The DSN's role may not act as the owner.
        """
        return connect(self.dsn(entry), owner=self.roles.owner, entry=entry, timeout_s=self._timeout_s)


def connect(dsn: str, *, owner: str, entry: str, timeout_s: float = 10.0) -> psycopg.Connection[Any]:
    """See `Direct.connect`."""
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    options = f"{given.get('options') or ''} {_OPTIONS}"
    try:
        connection = psycopg.connect(
            dsn,
            autocommit=True,
            options=options.strip(),
            prepare_threshold=None,
            connect_timeout=max(1, round(timeout_s)),
            application_name="mt_paas_db migrate",
        )
    except psycopg.OperationalError as error:
        if "unsupported startup parameter" in str(error):
            raise PooledConnectionError(entry) from error
        raise connection_fault(error, cluster=entry, url=make_url(dsn), dsn="direct DSN") from error
    try:
        _prove(connection, owner=owner, entry=entry)
    except BaseException:
        connection.close()
        raise
    return connection


def _prove(connection: psycopg.Connection[Any], *, owner: str, entry: str) -> None:
    row = connection.execute("SELECT current_setting(%s, true)", (_PROOF,)).fetchone()
    if row is None or row[0] != "on":
        raise PooledConnectionError(entry)
    for name in ("prepare_lock", "prepare_lock_until_commit", "prepare_unlock", "prepare_swapped"):
        connection.execute(queries("migrate")[name].encode())
    try:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
    except psycopg.errors.InvalidParameterValue as error:
        raise CatalogMissingError(entry, f"this server has no role {owner!r}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise MissingRightsError(
            entry,
            f"the role of the direct DSN may not act as {owner!r}; use the admin DSN, or a role for migrations that "
            f'was given this one (GRANT "{owner}" TO it): never the login role of sessions',
        ) from error
