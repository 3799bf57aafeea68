"""The servers of one test run, all from the source that was chosen at its beginning."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Self

import psycopg

from tests.servers.choice import Asked, Choice, choose, survey
from tests.servers.container import ContainerServer
from tests.servers.engine import new_run, remove_containers
from tests.servers.external import ExternalServer
from tests.servers.postgres import PostgresServer, find_postgres


@dataclass(frozen=True, slots=True)
class Supply:
    """What was asked for and what came of it: a choice, or the reason why there is none."""

    asked: Asked
    major: int | None
    run: str
    choice: Choice | None
    reason: str = ""

    @classmethod
    def look(cls, asked: Asked, major: int | None) -> Self:
        """Choose among what this machine has. Raises `LookupError` where it lacks what was insisted on."""
        try:
            return cls(asked, major, new_run(), choose(survey(asked, major), asked=asked, major=major))
        except LookupError as error:
            if asked != "auto":
                raise
            return cls(asked, major, new_run(), None, str(error))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a worker process; `of` reads them."""
        return {
            "asked": self.asked,
            "major": self.major,
            "run": self.run,
            "choice": self.choice.as_dict() if self.choice else None,
            "reason": self.reason,
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        choice = Choice.of(values["choice"]) if values["choice"] else None
        return cls(**{**values, "choice": choice})

    def __str__(self) -> str:
        if self.choice is None:
            return f"none: {self.reason}"
        if self.choice.source != "dsn":
            return str(self.choice)
        try:
            return f"PostgreSQL {ExternalServer(os.environ['MT_PAAS_TEST_DSN']).version}, {self.choice}"
        except psycopg.OperationalError:
            return f"{self.choice}, which does not answer"

    def shared(self, **settings: str) -> PostgresServer:
        """Return a server for many tests, not started yet. Raises `LookupError`."""
        if self.choice is None:
            raise LookupError(self.reason)
        match self.choice:
            case Choice(source="dsn"):
                return ExternalServer(os.environ["MT_PAAS_TEST_DSN"])
            case Choice(source="container", image=image) if image is not None:
                return ContainerServer(image, run=self.run, settings=settings)
            case Choice(source="local" | "embedded" as source, major=major):
                return PostgresServer(find_postgres(major, source=source), settings=settings)
            case _:
                raise AssertionError(self.choice)

    def own(self, **settings: str) -> PostgresServer:
        """Return a server that the caller may break, never that of the DSN. Raises `LookupError`."""
        if self.choice is None or self.choice.source != "dsn":
            return self.shared(**settings)
        machine = survey(self.asked, self.major, environment={**os.environ, "MT_PAAS_TEST_DSN": ""})
        return replace(self, choice=choose(machine, asked=self.asked, major=self.major)).shared(**settings)

    def close(self) -> None:
        """Remove what is left of the run's containers; the servers stopped with the tests that used them."""
        if self.choice is not None and self.choice.source == "container":
            remove_containers(self.run)
