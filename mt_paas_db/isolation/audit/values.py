"""What an audit speaks in: severities, rules, findings, reports. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a finding is. All but `INFO` make a report not clean."""

    CRITICAL = "critical"
    """Tenants can reach each other now."""
    HIGH = "high"
    """One more mistake, and they can."""
    MEDIUM = "medium"
    """A layer of the defence is thinner than it could be."""
    LOW = "low"
    """Untidy, or a trace that says more than it should."""
    INFO = "info"
    """Worth knowing; nothing is wrong."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)

    def reaches(self, threshold: Severity) -> bool:
        """Return whether this is as bad as `threshold`, or worse."""
        return self.rank <= threshold.rank


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must not be.

    Attributes:
        id: Stable; what reports, ignore files and CI refer to.
        severity: Of its findings, where a finding has none of its own.
        title: The rule as a sentence.
        says: A finding as a sentence, with ``{object}`` and ``{what}`` to be filled in.
        why: What could happen.
        source: Where the facts are to be read.
        safe: Whether the mend only takes a right away that this installation never uses, so that it may be
            applied without a look.
    """

    id: str
    severity: Severity
    title: str
    says: str
    why: str
    source: str
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold, and for what. `mend` is the SQL that puts it right; None where no statement can."""

    id: str
    severity: Severity
    cluster: str
    kind: str
    object: str
    message: str
    mend: str | None = None
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """A finding that somebody accepted, and why."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was looked at. `version` is its ``server_version``, `tenants` those of the catalog that it has."""

    cluster: str
    version: str
    tenants: int


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found.

    Attributes:
        installation: Whose.
        servers: Where it looked.
        findings: The worst first, then by rule and object.
        ignored: What was found and is accepted.
        unused: Ignores that met nothing, as they were written: mostly of a fault that is mended.
        blind: What it could not look at, and why.
    """

    installation: str
    servers: tuple[Server, ...]
    findings: tuple[Finding, ...]
    ignored: tuple[Ignored, ...] = ()
    unused: tuple[str, ...] = ()
    blind: tuple[str, ...] = field(default=())

    @property
    def clean(self) -> bool:
        """Whether nothing worse than `Severity.INFO` was found, and is not accepted."""
        return all(finding.severity is Severity.INFO for finding in self.findings)

    def at_least(self, threshold: Severity) -> Report:
        """Return the report without findings that are less bad than `threshold`."""
        kept = tuple(finding for finding in self.findings if finding.severity.reaches(threshold))
        return Report(self.installation, self.servers, kept, self.ignored, self.unused, self.blind)

    def counts(self) -> dict[str, int]:
        """Return how many findings there are of each severity, the worst first."""
        counted = Counter(finding.severity for finding in self.findings)
        return {str(severity): counted[severity] for severity in Severity}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, as docs/reference/audit.schema.json describes them."""
        return {
            "clean": self.clean,
            "installation": self.installation,
            "servers": [asdict(server) for server in self.servers],
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
            "ignored": [{**asdict(one.finding), "reason": one.reason} for one in self.ignored],
            "unused_ignores": list(self.unused),
            "blind": list(self.blind),
        }


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return each finding once, the worst first."""
    return tuple(
        sorted(set(findings), key=lambda f: (f.severity.rank, f.id, f.cluster, f.object, f.message, f.mend or ""))
    )
