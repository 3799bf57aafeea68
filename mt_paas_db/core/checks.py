"""Checks as values: each has an id, looks at one thing, and reports findings with what mends them.

One registry serves all who look: `doctor` runs everything, readiness a quick selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mt_paas_db.core.patient import Patient


class Severity(StrEnum):
    """How bad a finding is. An error makes a report not ok."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `mend` is the statement or command that puts it right."""

    severity: Severity
    message: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One entry of the registry."""

    id: str
    title: str
    quick: bool
    look: Callable[[Patient], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found. `skipped` says why it could not look."""

    id: str
    title: str
    findings: tuple[Finding, ...]
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one examination."""

    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether no check found an error, and at least one could look."""
        looked = any(result.skipped is None for result in self.results)
        return looked and not any(f.severity is Severity.ERROR for f in self.findings())

    def findings(self) -> Iterator[Finding]:
        """Yield all findings."""
        for result in self.results:
            yield from result.findings

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {"ok": self.ok, "results": [asdict(result) for result in self.results]}


CHECKS: dict[str, Check] = {}


def check(id_: str, title: str, *, quick: bool = False) -> Callable[[Callable[[Patient], Iterable[Finding]]], Check]:
    """Enter a function into the registry; `quick` ones also make up readiness."""

    def enter(look: Callable[[Patient], Iterable[Finding]]) -> Check:
        CHECKS[id_] = Check(id=id_, title=title, quick=quick, look=look)
        return CHECKS[id_]

    return enter


def quoted(name: str) -> str:
    """Return a name as mends write it. Names that we did not make, a grantor's say, may hold anything."""
    return '"' + name.replace('"', '""') + '"'


def granted_by(grantor: str | None) -> str:
    """Return what a mend says to take back this grantor's grant; None is PostgreSQL 15, where there is one only."""
    return "" if grantor is None else f" GRANTED BY {quoted(grantor)}"
