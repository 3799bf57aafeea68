"""A service's own Alembic revisions, applied to one tenant's schema up to the head.

The service's ``env.py`` is not run: it would connect by itself, and knows nothing of tenants. The revisions are
what counts, and they run on the connection that is handed over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.migrate.one_transaction import kept_open, refuse_to_leave

ONE_AT_A_TIME = threading.RLock()
"""Alembic keeps its context in module globals, so one thread of a process migrates at a time."""


class Scripts:
    """The revisions below one ``script_location``: a folder, or ``package:folder``.

    Raises `ConfigurationError` where there are none.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._config = Config()
        self._config.set_main_option("script_location", location.replace("%", "%%"))
        try:
            self._directory = ScriptDirectory.from_config(self._config)
            heads = self._directory.get_heads()
        except Exception as error:  # revisions are the service's own code, run when they are read
            what = f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"script_location {location!r} cannot be used: {what}") from error
        if not heads:
            raise ConfigurationError(f"script_location {location!r} holds no revisions")
        self.heads: tuple[str, ...] = tuple(heads)

    def upgrade(self, connection: Connection) -> None:
        """Apply all revisions, in the transaction that `connection` is in. The path decides the schema.

        Raises `LeavesTransactionError` before the first thing that would end the transaction, and whatever a
        revision raises; the caller rolls back.
        """
        with self._environment(connection) as environment, kept_open(connection):
            environment.get_context().autocommit_block = refuse_to_leave  # type: ignore[method-assign]
            environment.run_migrations()

    def upgrade_in_steps(self, connection: Connection) -> None:
        """Apply all revisions, each in a transaction of its own or none, as it says. `connection` is in none."""
        with self._environment(connection) as environment, environment.begin_transaction():
            environment.run_migrations()
        connection.commit()  # what followed a revision's own commit()

    @contextmanager
    def _environment(self, connection: Connection) -> Iterator[EnvironmentContext]:
        def revisions(current: Any, _context: Any) -> Any:
            return self._directory._upgrade_revs("heads", current)

        with (
            ONE_AT_A_TIME,
            EnvironmentContext(self._config, self._directory, fn=revisions, destination_rev="heads") as environment,
        ):
            environment.configure(connection=connection, transaction_per_migration=not connection.in_transaction())
            yield environment
