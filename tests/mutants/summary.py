"""The table of mutants at the end of a run: each one, who killed it, and by which rules the audit named it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

_KEY = "mutant"


def killed(record: Any, *, by: Sequence[str], named: Sequence[str]) -> None:
    """Note for the table what a test of a mutant has found; `record` is pytest's `record_property`."""
    record(_KEY, {"by": list(by), "named": list(named)})


def lines(reports: Sequence[pytest.TestReport]) -> Iterator[str]:
    """Yield the table of those reports that are about mutants; nothing where none is."""
    rows = [row for report in reports if (row := _row(report)) is not None]
    if not rows:
        return
    head = ("mutant", "killed by corpus or machine", "named by the audit")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
    for row in (head, *sorted(rows)):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    survivors = [name for name, by, _ in rows if by == _SURVIVED]
    left_out = [name for name, by, _ in rows if by.startswith(_NOT_RUN)]
    dead = len(rows) - len(survivors) - len(left_out)
    yield f"{dead} killed, {len(survivors)} survived, {len(left_out)} not run here"


_SURVIVED, _NOT_RUN = "SURVIVED", "not run"


def _row(report: pytest.TestReport) -> tuple[str, str, str] | None:
    if "test_mutants.py" not in report.nodeid or "_dies_" not in report.nodeid:
        return None
    name = report.nodeid.partition("[")[2].rstrip("]")
    if report.skipped:
        return name, f"{_NOT_RUN}: {str(report.longrepr[-1]).rpartition(': ')[2]}", ""  # type: ignore[index]
    if report.failed:
        return name, _SURVIVED, "see the failure above"
    if report.when != "call":
        return None
    (said,) = (value for key, value in report.user_properties if key == _KEY)
    assert isinstance(said, dict)
    first, *more = said["by"]
    return name, first + (f" and {len(more)} more" if more else ""), ", ".join(said["named"])
