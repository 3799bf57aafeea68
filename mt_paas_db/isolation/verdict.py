"""What came of the attacks, as values, and what it means for whoever asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from mt_paas_db.isolation.attack import Tier
from mt_paas_db.isolation.route import Route


class Verdict(StrEnum):
    """What one attack came to on one route at one tier."""

    HELD = "held"
    """It reached what it attacks, and learned and changed nothing of others."""
    LEAKED = "leaked"
    """It learned or changed something of others, against the promise."""
    OPEN = "open"
    """It got through, and the tier does not promise otherwise."""
    ASTRAY = "astray"
    """It did not reach what it attacks, and so proves nothing."""
    NOT_RUN = "not run"
    """It was switched off, or something that it needs is missing; the reason says which."""
    NOT_APPLICABLE = "not applicable"
    """There is nothing like it in this library; the reason says why."""


FAILING = frozenset({Verdict.LEAKED, Verdict.ASTRAY})


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one attack, on one route, at one tier.

    Attributes:
        key: The attack's, or the id of what is not applicable.
        route: None where the verdict is about no route.
        reason: Why: what was promised, what is missing, what went wrong.
        seen: What was seen or changed of others, a line each.
        seconds: How long it took.
    """

    id: str
    key: str
    title: str
    family: str
    tier: Tier
    route: Route | None
    verdict: Verdict
    reason: str = ""
    seen: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this verdict makes a run fail."""
        return self.verdict in FAILING

    def __str__(self) -> str:
        on = f" on {self.route}" if self.route else ""
        lines = [f"{self.key} ({self.title}){on}, tier {self.tier}: {self.verdict}"]
        lines += [self.reason] if self.reason else []
        return "\n  ".join([*lines, *self.seen])


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run: its findings, what was switched off, and where it ran."""

    findings: tuple[Finding, ...]
    switched_off: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every promise that was tried was held, and at least one was."""
        held = any(finding.verdict is Verdict.HELD for finding in self.findings)
        return held and not any(finding.failed for finding in self.findings)

    def counts(self) -> dict[Verdict, int]:
        """Return how many findings there are of each verdict, in the order of `Verdict`."""
        return {verdict: sum(f.verdict is verdict for f in self.findings) for verdict in Verdict}

    def failures(self) -> Iterable[Finding]:
        """Return the findings that make the run fail."""
        return [finding for finding in self.findings if finding.failed]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        findings = [
            {**asdict(finding), "route": str(finding.route) if finding.route else None} for finding in self.findings
        ]
        return {
            "ok": self.ok,
            "counts": {str(verdict): number for verdict, number in self.counts().items()},
            "facts": dict(self.facts),
            "switched_off": dict(self.switched_off),
            "seconds": round(self.seconds, 2),
            "findings": findings,
        }
