"""The pytest plugin: ``pytest --mt-isolation`` adds the suite to what is collected; without the flag it does nothing.

It creates tenants, with their roles, only under that flag.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mt_paas_db.isolation.verdict import Finding


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag."""
    group = parser.getgroup("mt_paas_db", "isolation of tenants (mt_paas_db)")
    group.addoption(
        "--mt-isolation",
        action="store_true",
        help="run the isolation suite on the installation that MT_PAAS_DB_* names; it makes tenants of its own there",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the suite's tests, before others select and order."""
    if not config.getoption("--mt-isolation"):
        return
    path = Path(__file__).with_name("from_settings.py")
    module = pytest.Module.from_parent(session, path=path, nodeid="mt-isolation")
    items.extend(session.genitems(module))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was not promised and got through, and what was left out, each with its reason."""
    if not config.pluginmanager.has_plugin("terminalreporter"):
        return
    from mt_paas_db.isolation.suite import FINDINGS
    from mt_paas_db.isolation.verdict import Verdict

    findings = config.stash.get(FINDINGS, [])
    if not findings:
        return
    terminalreporter.section("isolation of tenants")
    counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    terminalreporter.line(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
    for verdict in (Verdict.OPEN, Verdict.NOT_RUN):
        for reason, keys in _by_reason(finding for finding in findings if finding.verdict is verdict).items():
            terminalreporter.line(f"{verdict}: {', '.join(keys)}: {reason}")


def _by_reason(findings: Iterable[Finding]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in findings:
        keys = found.setdefault(finding.reason, [])
        if finding.key not in keys:
            keys.append(finding.key)
    return found
