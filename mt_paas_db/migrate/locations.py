"""Where an Alembic project keeps its revisions, by what its own files say. Reads no revision."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from alembic.config import Config
from alembic.util import coerce_resource_to_filename

from mt_paas_db.errors import ConfigurationError


def project_in(folder: Path) -> Config:
    """Return a project's configuration as Alembic reads it: ``alembic.ini`` first, then ``[tool.alembic]``."""
    ini, toml = folder / "alembic.ini", folder / "pyproject.toml"
    return Config(str(ini) if ini.is_file() else None, toml_file=str(toml) if toml.is_file() else None)


def located(location: str) -> tuple[str, Config | None]:
    """Return a ``script_location``, and the configuration of the project whose file `location` is, if it is one.

    Raises `ConfigurationError` for a file that cannot be read or names no revisions, and for a folder whose project
    says more of its revisions than the folder does.
    """
    file = Path(location)
    if file.suffix not in (".ini", ".toml"):
        _refuse_to_overlook(location)
        return location, None
    if not file.is_file():
        raise ConfigurationError(f"there is no file {location!r}")
    toml = file if file.suffix == ".toml" else file.with_name("pyproject.toml")
    config = Config(str(file) if file.suffix == ".ini" else None, toml_file=str(toml) if toml.is_file() else None)
    found = script_location(config, f"the project's file {location!r}")
    if not found:
        raise ConfigurationError(f"{location!r} has no script_location")
    return found, config


def script_location(config: Config, what: str) -> str:
    """Return a project's ``script_location``; "" where it has none. Raises `ConfigurationError`."""
    try:
        return config.get_alembic_option("script_location") or ""
    except Exception as error:  # the file is the service's own, and there are many ways to spoil it
        raise ConfigurationError(f"{what} cannot be read: {error}") from error


def folder_of(location: str) -> Path:
    """Return the folder of a ``script_location``. Raises whatever importing its package raises."""
    return Path(coerce_resource_to_filename(location)).resolve()


def _refuse_to_overlook(location: str) -> None:
    """Raise where a folder was named, and its project's file has revisions in other places, too.

    Whoever named the folder would migrate a part of the history, and see nothing amiss.
    """
    try:
        folder = folder_of(location)
    except Exception:  # a package that cannot be imported, say; whoever reads the revisions will say so
        return
    for near in dict.fromkeys((Path.cwd(), folder.parent)):
        said = _says_more(near, folder)
        if said is not None:
            file = next(f for f in (near / "alembic.ini", near / "pyproject.toml") if f.is_file())
            raise ConfigurationError(
                f"{location!r} is the folder of a project whose {file.name} has {said}, which a folder cannot say; "
                f"name the file instead: MT_PAAS_DB_SCRIPT_LOCATION={file}"
            )


def _says_more(near: Path, folder: Path) -> str | None:
    """Return which option of the project near a folder has more revisions than those of ``versions`` in it."""
    with suppress(Exception):  # a file that was not asked for, and may be spoiled
        config = project_in(near)
        named = config.get_alembic_option("script_location")
        if not named or folder_of(named) != folder:
            return None
        places = config.get_version_locations_list()
        if places and {folder_of(place) for place in places} != {folder / "versions"}:
            return "version_locations"
        if config.get_alembic_boolean_option("recursive_version_locations"):
            return "recursive_version_locations"
    return None
