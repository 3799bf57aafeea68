"""A service's own Alembic revisions: where they lead, and how to apply them on a connection that is handed over.

The service's ``env.py`` is not run: it would connect by itself, and knows nothing of tenants. The revisions are
what counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import HeadMaintainer
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError as AlembicRevisionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from mt_paas_db.errors import ConfigurationError, RevisionError
from mt_paas_db.migrate.locations import folder_of, located
from mt_paas_db.migrate.one_transaction import kept_open, refuse_to_leave
from mt_paas_db.migrate.script import EXACTLY, Action, Heads, depends_on_place

ONE_AT_A_TIME = threading.RLock()
"""Alembic keeps its context in module globals, so one thread of a process migrates at a time."""

SHARED_FOLDER = "shared"
"""Beside ``versions``: the revisions of what all tenants share."""

SHARED_VERSION_TABLE = "alembic_version_shared"
"""Another name than a tenant's, so that neither can ever be taken for the other."""


@dataclass(frozen=True, slots=True)
class Route:
    """The steps from one place of the history to another. `heads` is where each leaves the version table."""

    steps: tuple[Any, ...]
    heads: tuple[Heads, ...]
    end: Heads


class Scripts:
    """The revisions below one ``script_location``: a folder, or ``package:folder``.

    Args:
        location: The folder that holds ``versions``; or the file of an Alembic project, ``alembic.ini`` or
            ``pyproject.toml``, which may have ``version_locations``, too.
        config: Alembic's configuration, where the service has one; `location` overrides its own.
        folder: Read this folder's revisions, and not those of ``versions``.
        may_be_empty: Whether the first revision may be still to be written.

    Raises `ConfigurationError` where there are none, or they cannot be read.
    """

    def __init__(
        self,
        location: str,
        *,
        config: Config | None = None,
        folder: Path | None = None,
        version_table: str = "alembic_version",
        may_be_empty: bool = False,
    ) -> None:
        if config is None:
            location, config = located(location)
        self.location = location
        self.folder = folder
        self.version_table = version_table
        self.config = copied(config)
        self.config.set_main_option("script_location", location.replace("%", "%%"))
        if folder is not None:
            self.config.set_main_option("version_locations", str(folder).replace("%", "%%"))
            self.config.set_main_option("path_separator", "newline")
        try:
            self.directory = ScriptDirectory.from_config(self.config)
            # Not get_heads(): what another revision depends on ends a branch, and is in no version table.
            heads = [script.revision for script in self.directory.get_revisions("heads")]
        except Exception as error:  # revisions are the service's own code, run when they are read
            what = f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"script_location {location!r} cannot be used: {what}") from error
        if not heads and not may_be_empty:
            raise ConfigurationError(f"script_location {location!r} holds no revisions")
        self.heads: Heads = tuple(sorted(heads))

    def shared(self) -> Scripts | None:
        """Return the revisions of what all tenants share, in the folder ``shared`` beside ``versions``; else None."""
        if not shares(self.location):
            return None
        folder = Path(self.directory.dir) / SHARED_FOLDER
        return Scripts(self.location, config=self.config, folder=folder, version_table=SHARED_VERSION_TABLE)

    def calls_us(self) -> bool:
        """Return whether the project's ``env.py`` hands over to `run_env`."""
        env = Path(self.directory.dir) / "env.py"
        return env.is_file() and "run_env" in env.read_text(encoding="utf-8", errors="replace")

    # -- where things lead; no revision's code is run

    def knows(self, heads: Heads) -> bool:
        """Return whether all of `heads` are in this history."""
        known = {script.revision for script in self.directory.walk_revisions()}
        return known.issuperset(heads)

    def closure(self, heads: Heads) -> frozenset[str]:
        """Return all revisions that have been applied where the version table says `heads`."""
        found = self.directory.revision_map.iterate_revisions(heads, "base", inclusive=True) if heads else ()
        return frozenset(script.revision for script in found if script is not None)

    def route(self, action: Action, start: Heads, target: str) -> Route:
        """Return the steps from `start` to `target`, in Alembic's words: an id or a part of one, ``head``, ``+1`` ...

        Raises `RevisionError` where there is no such way.
        """
        if ":" in target:
            raise RevisionError(f"{target!r} is a range; where a tenant starts it knows by itself, so name the target")
        several = tuple(target.split())
        wanted: Any = several if len(several) > 1 else target
        towards: dict[Action, Callable[[], Any]] = {
            "upgrade": lambda: self.directory._upgrade_revs(wanted, start),  # type: ignore[arg-type]
            "downgrade": lambda: self._down(target, start),
            "stamp": lambda: self.directory._stamp_revs(several, start),
        }
        maintainer = HeadMaintainer(_Unsent(), start)  # type: ignore[arg-type]
        heads = []
        try:
            steps = towards[action]()
            for step in steps:
                maintainer.update_to_step(step)
                heads.append(tuple(sorted(maintainer.heads)))
        except (CommandError, AlembicRevisionError, KeyError, ValueError, AssertionError) as error:
            where = ", ".join(start) or "before the first revision"
            raise RevisionError(f"cannot {action} to {target!r} from {where}: {error}") from error
        return Route(tuple(steps), tuple(heads), heads[-1] if heads else tuple(sorted(start)))

    def _down(self, target: str, start: Heads) -> list[Any]:
        if not target.startswith(EXACTLY):
            return self.directory._downgrade_revs(target, start)  # type: ignore[arg-type]
        stays, applied = self.closure(tuple(target.removeprefix(EXACTLY).split())), self.closure(start)
        if not stays <= applied:
            raise ValueError("it is not below")
        everything = self.directory._downgrade_revs("base", start) if stays != applied else []  # type: ignore[arg-type]
        return [step for step in everything if step.revision.revision not in stays]

    def resolve(self, target: str) -> str:
        """Return `target` as ids, where it names some whatever a tenant's place: a later head does not move it.

        Raises `RevisionError` for one that is not there.
        """
        if ":" in target:
            raise RevisionError(f"{target!r} is a range; where a tenant starts it knows by itself, so name the target")
        if target in ("base", "") or target.startswith(EXACTLY) or depends_on_place(target):
            return target
        try:
            found = self.directory.get_revisions(tuple(target.split()) if " " in target else target)
        except (CommandError, AlembicRevisionError, KeyError) as error:
            raise RevisionError(f"{target!r} cannot be found: {error}") from error
        ids = [script.revision for script in found if script is not None]
        if target == "head" and len(ids) > 1:
            raise RevisionError(f"there are several heads, {', '.join(sorted(ids))}; name one, or say 'heads'")
        return " ".join(ids) or target

    # -- all of them, on a connection

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
            return self.directory._upgrade_revs("heads", current)

        with (
            ONE_AT_A_TIME,
            EnvironmentContext(self.config, self.directory, fn=revisions, destination_rev="heads") as environment,
        ):
            environment.configure(connection=connection, transaction_per_migration=not connection.in_transaction())
            yield environment


def shares(location: str) -> bool:
    """Return whether there are revisions for shared tables at `location`; reads none of them."""
    try:
        folder = folder_of(located(location)[0]) / SHARED_FOLDER
    except Exception:  # a package that cannot be imported, say; whoever reads the revisions will say so
        return False
    return folder.is_dir() and any(folder.glob("*.py"))


def copied(config: Config | None) -> Config:
    """Return a copy: to read another folder must not change the service's configuration."""
    if config is None:
        return Config()
    copy = Config(config.config_file_name, toml_file=config.toml_file_name, ini_section=config.config_ini_section)
    for name, value in config.get_section(config.config_ini_section, {}).items():
        copy.set_main_option(name, value.replace("%", "%%"))
    return copy


class _Unsent:
    """Stands for a context whose bookkeeping is only reckoned, not sent."""

    as_sql = True

    def __getattr__(self, _name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __eq__(self, _other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]
