"""What a deployment accepts, and why: ``ID[:OBJECT-GLOB] # reason``, as an option or as a line of a file. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.audit.rules import RULES
from mt_paas_db.isolation.audit.values import Finding, Ignored

_LINE = re.compile(r"(?P<id>[a-z-]+)(?::(?P<object>.*?))?\s*(?:\s#\s*(?P<reason>.*))?")


@dataclass(frozen=True, slots=True)
class Ignore:
    """Findings of a rule that are accepted, for the objects that match a glob as the shell has them."""

    id: str
    object: str
    reason: str

    @classmethod
    def parse(cls, line: str) -> Ignore:
        """Return what a line says. Raises `ConfigurationError` for an unknown rule, or without a reason."""
        matched = _LINE.fullmatch(line.strip())
        if matched is None or matched["id"] not in RULES:
            raise ConfigurationError(
                f"cannot ignore {line!r}: it does not begin with the id of a rule; docs/reference/audit.md lists them"
            )
        if not matched["reason"]:
            raise ConfigurationError(
                f"cannot ignore {line!r} without a reason; write {matched['id']}:OBJECT # why that is no danger here"
            )
        return cls(matched["id"], matched["object"] or "*", matched["reason"].strip())

    def meets(self, finding: Finding) -> bool:
        """Return whether the finding is accepted by this."""
        return finding.id == self.id and fnmatchcase(finding.object, self.object)

    def __str__(self) -> str:
        return f"{self.id}:{self.object} # {self.reason}"


def parse_ignores(text: str) -> list[Ignore]:
    """Return the ignores of a file; empty lines, and lines that begin with ``#``, say nothing.

    Raises `ConfigurationError`.
    """
    lines = (line.strip() for line in text.splitlines())
    return [Ignore.parse(line) for line in lines if line and not line.startswith("#")]


def sift(findings: Iterable[Finding], ignores: Iterable[Ignore]) -> tuple[list[Finding], list[Ignored], list[str]]:
    """Return what is left, what is accepted, and the ignores that met nothing."""
    ignores = list(ignores)
    left: list[Finding] = []
    accepted: list[Ignored] = []
    used: set[Ignore] = set()
    for finding in findings:
        meeting = [ignore for ignore in ignores if ignore.meets(finding)]
        used.update(meeting)
        if meeting:
            accepted.append(Ignored(finding, meeting[0].reason))
        else:
            left.append(finding)
    return left, accepted, [str(ignore) for ignore in ignores if ignore not in used]
