"""Autogenerate for two histories: what has no schema is a tenant's, what is declared in a shared schema is shared.

Alembic writes one file; what is shared is taken out of it, and written to the history of the shared tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic.autogenerate.api import RevisionContext
from alembic.operations import ops
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from mt_paas_db.migrate.ground import Ground
from mt_paas_db.migrate.scripts import SHARED_FOLDER, SHARED_VERSION_TABLE, copied

IncludeName = Callable[[Any, Any, Any], bool]


def only_ours(shared_schemas: tuple[str, ...], further: IncludeName | None) -> IncludeName:
    """Return Alembic's ``include_name``: the reference's schema, the shared ones, and nothing of other tenants."""

    def include_name(name: Any, type_: Any, parents: Any) -> bool:
        if type_ == "schema" and name is not None and name not in shared_schemas:
            return False
        if type_ == "table" and name == SHARED_VERSION_TABLE:
            return False
        return further is None or further(name, type_, parents)

    return include_name


class SharedRevisions:
    """Sorts what autogenerate found."""

    def __init__(self, ground: Ground, environment: EnvironmentContext, further: Any) -> None:
        self._ground = ground
        self._environment = environment
        self._further = further

    def sort(self, migration_context: Any, revision: Any, directives: list[ops.MigrationScript]) -> None:
        """Alembic's ``process_revision_directives``."""
        work = self._environment.context_opts["fn"]
        if work.__qualname__.startswith("revision."):  # `check` wants to see all of it
            for script in list(directives):
                shared = _taken_out(script, self._ground.shared_schemas)
                if shared is not None:
                    self._write(script, shared)
                    if _empty(script) and script.upgrade_ops is not None:
                        directives.remove(script)
        if self._further is not None:
            self._further(migration_context, revision, directives)

    def _write(self, tenants: ops.MigrationScript, shared: ops.MigrationScript) -> None:
        """Write a revision of the shared tables."""
        ground = self._ground
        target = ground.shared
        if target is not None and ground.shared_compiler is not None:
            there = ground.where(target).heads or ()
            if there != ground.shared_compiler.scripts.heads:
                raise CommandError("the shared tables are not up to date; upgrade first")
        folder = Path(ground.scripts.directory.dir) / SHARED_FOLDER
        folder.mkdir(exist_ok=True)
        config = copied(self._environment.config)
        config.set_main_option("script_location", ground.scripts.location.replace("%", "%%"))
        config.set_main_option("version_locations", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "newline")
        running: RevisionContext = self._environment.context_opts["revision_context"]
        writing = RevisionContext(config, ScriptDirectory.from_config(config), running.command_args)
        writing._last_autogen_context = running._last_autogen_context
        shared._needs_render = True
        shared.message = tenants.message
        writing.generated_revisions = [shared]
        list(writing.generate_scripts())


def _taken_out(script: ops.MigrationScript, shared_schemas: tuple[str, ...]) -> ops.MigrationScript | None:
    """Take what is shared out of a script, and return it as one of its own; None where there is nothing."""
    if script.upgrade_ops is None or script.downgrade_ops is None:
        return None
    up = _parted(script.upgrade_ops, shared_schemas)
    down = _parted(script.downgrade_ops, shared_schemas)
    if not up and not down:
        return None
    from alembic.util import rev_id

    return ops.MigrationScript(
        rev_id=rev_id(), upgrade_ops=ops.UpgradeOps(up), downgrade_ops=ops.DowngradeOps(down), head="head"
    )


def _parted(container: ops.OpContainer, shared_schemas: tuple[str, ...]) -> list[Any]:
    shared = [op for op in container.ops if _schema_of(op) in shared_schemas]
    container.ops = [op for op in container.ops if _schema_of(op) not in shared_schemas]
    return shared


def _schema_of(operation: Any) -> str | None:
    schema: str | None = getattr(operation, "schema", None)
    return schema


def _empty(script: ops.MigrationScript) -> bool:
    return script.upgrade_ops is not None and script.upgrade_ops.is_empty()
