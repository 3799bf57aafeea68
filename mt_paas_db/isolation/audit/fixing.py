"""The mends of a report: as a script for people, or applied where they only take away what nobody uses."""

from __future__ import annotations

from collections.abc import Iterator

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin
from mt_paas_db.isolation.audit.rules import RULES
from mt_paas_db.isolation.audit.values import Finding, Report


def mends(report: Report) -> list[Finding]:
    """Return the findings that a statement puts right, each statement once, in the order of the report."""
    first: dict[tuple[str, str], Finding] = {}
    for finding in report.findings:
        if finding.mend is not None:
            first.setdefault((finding.cluster, finding.mend), finding)
    return list(first.values())


def script(report: Report) -> str:
    """Return the mends as SQL: cluster by cluster and rule by rule, the worst first.

    What destroys or could break something is a comment, to be read before it is run.
    """
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    chosen = mends(report)
    yield f"-- What mends the installation {report.installation}. Statements in comments need a decision first."
    for server in report.servers:
        here = [finding for finding in chosen if finding.cluster == server.cluster]
        if not here:
            continue
        yield f"\n-- cluster {server.cluster}"
        for rule_id in dict.fromkeys(finding.id for finding in here):
            rule = RULES[rule_id]
            yield f"\n-- {rule_id}: {rule.title}"
            for finding in here:
                if finding.id == rule_id:
                    yield from _statement(finding)


def _statement(finding: Finding) -> Iterator[str]:
    assert finding.mend is not None
    if finding.safe:
        yield finding.mend
        return
    yield f"-- {' '.join(finding.message.split())}"
    yield from (f"--   {line}" for line in finding.mend.splitlines())


def apply(report: Report, settings: Settings, credentials: CredentialProvider) -> list[Finding]:
    """Execute the safe mends, as the admin, in one transaction for each cluster; return what was mended.

    An error rolls back all of that cluster's. Raises as `Admin.transaction`.
    """
    chosen = [finding for finding in mends(report) if finding.safe]
    for cluster in dict.fromkeys(finding.cluster for finding in chosen):
        admin = Admin(settings.model_copy(update={"home": cluster}), credentials)
        with admin.transaction() as step:
            for finding in chosen:
                if finding.cluster == cluster and finding.mend is not None:
                    step.connection.exec_driver_sql(finding.mend, execution_options={"no_parameters": True})
    return chosen
