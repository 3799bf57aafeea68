"""The control schema's own migrations, one linear history in ``migrations/catalog``.

Its revision ids are the catalog's version numbers: ``0001`` is version 1.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from mt_paas_db.catalog.resources import resource_path
from mt_paas_db.migrate.scripts import ONE_AT_A_TIME


def catalog_version(connection: Connection) -> int | None:
    """Return the version the catalog is at; None where there is none yet. Sends one query."""
    context = MigrationContext.configure(connection, opts={"version_table_schema": "mt_paas"})
    revision = context.get_current_revision()
    return int(revision) if revision is not None else None


def upgrade_catalog(connection: Connection, revision: str = "head") -> None:
    """Bring the catalog to `revision`, in the caller's transaction, which is neither begun nor ended.

    `connection` must act as the owner role, and the schema ``mt_paas`` must exist.
    """
    config = Config()
    config.set_main_option("script_location", str(resource_path("migrations", "catalog")))
    config.attributes["connection"] = connection
    with ONE_AT_A_TIME:
        command.upgrade(config, revision)
