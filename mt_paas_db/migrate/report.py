"""What is said of a run: options that it was given, how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.migrate.ledger import RunState
from mt_paas_db.migrate.message import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run goes about it.

    Attributes:
        jobs: Connections that work at the same time.
        lock_timeout_s: How long a statement waits for a lock, seconds; the tenant is tried again then.
        statement_timeout_s: How long a statement may run, seconds; 0 is for ever.
        attempts: How often a tenant is tried where locks, deadlocks or serialization stood in the way.
        busy_s: How long to wait for a tenant that another runner has, seconds.
        reconnect_s: How long to wait for a server that was lost, seconds.
        max_failures: How many tenants may fail before the run stops; 0 stops at the first.
        verify: Compare each migrated tenant's structure with the reference.
        allow_destructive: Carry out a plan that destroys data.
        actor: Who is recorded; the DSN's role where left out.
    """

    jobs: int = 4
    lock_timeout_s: float = 2.0
    statement_timeout_s: float = 0.0
    attempts: int = 6
    busy_s: float = 60.0
    reconnect_s: float = 60.0
    max_failures: int = 0
    verify: bool = True
    allow_destructive: bool = False
    actor: str | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.attempts < 1:
            raise ConfigurationError("jobs and attempts must be at least 1")
        if min(self.lock_timeout_s, self.statement_timeout_s, self.busy_s, self.reconnect_s, self.max_failures) < 0:
            raise ConfigurationError("time-outs and max_failures must not be negative")

    @property
    def patience(self) -> Patience:
        """The time-outs of a statement."""
        return Patience(self.lock_timeout_s, self.statement_timeout_s)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values, without the actor."""
        return {name: value for name, value in asdict(self).items() if name != "actor"}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is. `slowest` are tenants under way, and for how many seconds."""

    phase: str
    total: int
    done: int
    failed: int
    elapsed_s: float
    slowest: tuple[tuple[str, float], ...] = ()

    @property
    def left(self) -> int:
        """Tenants that are still to come."""
        return self.total - self.done - self.failed

    @property
    def rate(self) -> float:
        """Tenants a second."""
        return (self.done + self.failed) / self.elapsed_s if self.elapsed_s > 0 else 0.0


Listener = Callable[[Standing], None]
"""Told now and then how far a run is, in the thread that waits for it."""


def unheard(_: Standing) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A tenant that was not migrated, or not rightly."""

    tenant_id: str
    sqlstate: str | None
    statement: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. `run_id` is None where there was nothing to do, and nothing was recorded.

    `failures` are the first hundred; the catalog has all of them.
    """

    run_id: int | None
    action: str
    target: str
    state: RunState
    message: str | None
    migrated: int
    unchanged: int
    failed: int
    not_attempted: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    slowest: tuple[tuple[str, float], ...] = ()
    ways: tuple[dict[str, Any], ...] = ()
    verified: bool = True

    @property
    def ok(self) -> bool:
        """Whether all that was planned is done."""
        return self.state == "succeeded"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON; docs/reference/migrate-report.schema.json says which."""
        return {
            "run_id": self.run_id,
            "action": self.action,
            "target": self.target,
            "state": self.state,
            "message": self.message,
            "tenants": {
                "migrated": self.migrated,
                "unchanged": self.unchanged,
                "failed": self.failed,
                "not_attempted": self.not_attempted,
            },
            "seconds": round(self.seconds, 3),
            "verified": self.verified,
            "ways": list(self.ways),
            "failures": [asdict(failure) for failure in self.failures],
            "slowest": [{"tenant_id": tenant_id, "seconds": round(s, 4)} for tenant_id, s in self.slowest],
        }
