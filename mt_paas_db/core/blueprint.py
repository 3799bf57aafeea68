"""What a new tenant gets: the service's revisions, or else the DDL of its models; then the seed.

Looked at when the first tenant is created, and not before: a process that only serves sessions imports neither
revisions nor seed.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

from mt_paas_db.core.models import Models
from mt_paas_db.core.seed import Seed, load_seed
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.script import Script
from mt_paas_db.migrate.scripts import Scripts, shares


class Blueprint:
    """One service's plan of a tenant."""

    def __init__(self, *, models: Models | None, script_location: str | None, seed: Any) -> None:
        self.models = models
        self._script_location = script_location
        self._seed = seed
        self._lock = threading.Lock()
        self._head: Script | None = None

    @property
    def empty(self) -> bool:
        """Whether a tenant would have no tables."""
        return self.models is None and self._script_location is None

    @cached_property
    def scripts(self) -> Scripts | None:
        """The revisions, if the service has any. Raises `ConfigurationError` where they cannot be found."""
        return None if self._script_location is None else Scripts(self._script_location)

    @cached_property
    def closure(self) -> list[str]:
        """All revisions that a new tenant has."""
        return [] if self.scripts is None else sorted(self.scripts.closure(self.scripts.heads))

    @property
    def shares_by_revisions(self) -> bool:
        """Whether what all tenants share has a history of its own, and so is not made from the models."""
        return self._script_location is not None and shares(self._script_location)

    @property
    def known_head(self) -> Script | None:
        """The way to the head, if it was compiled before."""
        return self._head

    def head(self, server_version: int) -> Script | None:
        """Return the way from nothing to the head, compiled for this version of the server; None without revisions.

        Rendered once, in two processes that are ended then: about a second. Raises `ConfigurationError`.
        """
        if self.scripts is None:
            return None
        with self._lock:
            if self._head is None:
                version = (server_version // 10_000, server_version % 10_000)
                with Compiler(self.scripts, server_version=version) as compiler:
                    self._head = compiler.compile("upgrade", (), "heads")
        return self._head

    @cached_property
    def seed(self) -> Seed | None:
        """What writes the first rows. Raises `ConfigurationError` where it cannot be loaded."""
        return None if self._seed is None else load_seed(self._seed)
