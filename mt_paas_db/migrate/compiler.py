"""Each way to the target, rendered once and sent to thousands.

Two processes render it, with different clocks and seeds. What they do not agree upon is no constant, and what asks for
a live connection cannot be rendered: such revisions run online, and the script says why.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.migrate.rendering import render
from mt_paas_db.migrate.script import Action, Heads, Part, Script
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.worker import Setup, Worker, WorkerLostError


class Compiler:
    """Compiles ways through one history for one version of the server. Safe for threads.

    Args:
        server_version: As in (18, 4).
        per_revision: Give each revision a transaction of its own.
    """

    def __init__(self, scripts: Scripts, *, server_version: tuple[int, ...], per_revision: bool = False) -> None:
        self.scripts = scripts
        self.per_revision = per_revision
        self._server_version = server_version
        self._known: dict[tuple[Action, Heads, str], Script] = {}
        self._lock = threading.Lock()
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def setup(self, *, shifted: bool = False) -> Setup:
        """Return what a process needs to know to run these revisions."""
        scripts = self.scripts
        config = scripts.config
        return Setup(
            location=scripts.location,
            files=(config.config_file_name, config.toml_file_name),
            section=config.config_ini_section,
            options=tuple(config.get_section(config.config_ini_section, {}).items()),
            folder=scripts.folder,
            version_table=scripts.version_table,
            shifted=shifted,
        )

    def compile(self, action: Action, start: Heads, target: str) -> Script:
        """Return the script from `start` to `target`; rendered once, then remembered.

        Raises `RevisionError` where there is no such way.
        """
        key = (action, start, target)
        with self._lock:
            script = self._known.get(key)
            if script is None:
                script = self._known[key] = self._compile(action, start, target)
        return script

    def _compile(self, action: Action, start: Heads, target: str) -> Script:
        route = self.scripts.route(action, start, target)
        if action == "stamp":
            # Also where a tenant stands there already: a stamp takes away what marks it as interrupted.
            return Script(action, start, route.end, (Part("stamp", route.end),))
        if not route.steps:
            return Script(action, start, route.end, ())
        if not self._workers:
            self._workers = [Worker(self.setup()), Worker(self.setup(shifted=True))]

        def rendered(worker: Worker) -> list[Part]:
            try:
                parts: list[Part] = worker.ask(
                    render, action=action, start=start, target=target, server_version=self._server_version
                )
            except WorkerLostError as error:
                raise ConfigurationError(f"the revisions cannot be rendered: {error}") from error
            return parts

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(rendered, self._workers)
        agreed = tuple(map(agree, one, other))
        return Script(action, start, route.end, agreed, per_revision=self.per_revision)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()


def agree(one: Part, other: Part) -> Part:
    """Return a part that was rendered twice, with a reason not to compile it where the two differ. Pure."""
    if one.reason or other.reason:
        return replace(one, items=(), reason=one.reason or other.reason)
    if one.items == other.items:
        return one
    first = next((a for a, b in zip(one.items, other.items, strict=False) if a != b), None)
    shown = f": {' '.join(first.text.split())[:80]}" if first else ""
    return replace(one, items=(), reason=f"its SQL differs from one rendering to the next{shown}")
