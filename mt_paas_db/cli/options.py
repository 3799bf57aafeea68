"""What the commands share: their common options, and the way from them to a manager."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import mt_paas_db
from mt_paas_db.cli.text import printable

if TYPE_CHECKING:
    from mt_paas_db import TenantManager
    from mt_paas_db.migrate.fleet import Fleet

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
ModelsOption = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="MODULE:NAME",
        help="The MetaData or declarative base that tenants get; before MT_PAAS_DB_MODELS.",
    ),
]
ScriptsOption = Annotated[
    str | None,
    typer.Option(
        "--scripts",
        metavar="FOLDER",
        help="The service's Alembic revisions, which tenants get instead; before MT_PAAS_DB_SCRIPT_LOCATION.",
    ),
]
TenantArgument = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id, or an alias of it.")]


def parse_text(value: str | None) -> str | None:
    """Return free text as given; bytes of the command line that are no text are a usage error."""
    if value is not None and any("\ud800" <= char <= "\udfff" for char in value):
        raise typer.BadParameter("it is not valid text in this terminal's encoding")
    return value


NoteOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", callback=parse_text, help="Why, in your own words; for the log."),
]


def complain_line(line: str) -> None:
    """Say something beside the result, on stderr."""
    print(printable(line), file=sys.stderr)


def whoami() -> str | None:
    """Return the operating system's name of who runs the command, for the log; None leaves it to the server."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return None


@contextmanager
def opened(
    *, models: str | None = None, scripts: str | None = None, seed: str | None = None, needs_models: bool = False
) -> Iterator[TenantManager]:
    """Yield a manager made from ``MT_PAAS_DB_*``, and close its connections afterwards.

    The models are loaded only where `needs_models`, so that the other commands also work where the
    service's own code is not installed. What that code prints when it is imported goes to stderr: stdout is
    the command's.

    Raises `ConfigurationError`.
    """
    told = {"models": models, "script_location": scripts, "seed": seed}
    given = {name: value for name, value in told.items() if value is not None}
    with redirect_stdout(sys.stderr):
        settings = mt_paas_db.load_settings(**given)
        if needs_models:
            _look_here()
        else:
            settings = settings.model_copy(update={"models": None})
        manager = mt_paas_db.TenantManager(settings)
        try:
            yield manager
        finally:
            manager.close()


@contextmanager
def opened_fleet(scripts: str | None) -> Iterator[Fleet]:
    """Yield the fleet's migrations, made from ``MT_PAAS_DB_*`` and the revisions at `scripts`, or where else they are.

    What the revisions print when they are read goes to stderr: stdout is the command's. Raises `ConfigurationError`.
    """
    from mt_paas_db.catalog.credentials import settings_credentials
    from mt_paas_db.migrate.fleet import Fleet
    from mt_paas_db.migrate.project import find_scripts

    with redirect_stdout(sys.stderr):
        settings = mt_paas_db.load_settings()
        _look_here()
        yield Fleet(settings, settings_credentials(settings), find_scripts(settings, scripts))


def _look_here() -> None:
    """Let the service's code be found, which is mostly beside us and not installed; Alembic does the same."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
