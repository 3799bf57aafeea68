"""Which revisions a command is about: those it was told, or those of the Alembic project in the current directory."""

from __future__ import annotations

from pathlib import Path

from alembic.script.revision import RevisionError as AlembicRevisionError
from alembic.util.exc import CommandError

from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.migrate.locations import project_in, script_location
from mt_paas_db.migrate.scripts import Scripts


def find_scripts(settings: Settings, given: str | None = None) -> Scripts:
    """Return the revisions at `given`, else those of the settings, else those of the project in the current directory.

    The first two are what `Scripts` takes. Raises `ConfigurationError` where none of them names revisions, or those
    named cannot be used.
    """
    if location := given or settings.script_location:
        return Scripts(location)
    config = project_in(Path.cwd())
    found = script_location(config, "the Alembic project of this folder")
    if not found:
        raise ConfigurationError(
            "it is not known where the revisions are: give --scripts FOLDER, set MT_PAAS_DB_SCRIPT_LOCATION, or run "
            "this where an alembic.ini, or a pyproject.toml with [tool.alembic], has a script_location"
        )
    return Scripts(found, config=config)


def doc_of(scripts: Scripts, revision: str) -> str | None:
    """Return the first line of a revision's docstring; None where the history has no such revision."""
    try:
        script = scripts.directory.get_revision(revision)
    except (CommandError, AlembicRevisionError):
        return None
    return script.doc
