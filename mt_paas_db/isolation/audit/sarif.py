"""A report as SARIF 2.1.0, which code hosts show beside the code. Pure.

A finding has no line in a file: its place is a logical location, the object's name on its cluster. Fingerprints
let a host tell old findings from new ones.
"""

from __future__ import annotations

from typing import Any

import mt_paas_db
from mt_paas_db.isolation.audit.rules import RULES
from mt_paas_db.isolation.audit.values import Finding, Report, Severity

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_LEVELS = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
    Severity.INFO: "note",
}
# What GitHub's code scanning sorts by: a number as of CVSS.
_SCORES = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.0",
    Severity.LOW: "2.0",
    Severity.INFO: "0.0",
}


def as_sarif(report: Report) -> dict[str, Any]:
    """Return the report as a SARIF document of one run; what is accepted is there as suppressed."""
    findings = [(finding, None) for finding in report.findings]
    findings += [(one.finding, one.reason) for one in report.ignored]  # type: ignore[misc]
    places = {rule_id: place for place, rule_id in enumerate(RULES)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "mt-paas-db audit",
                        "version": mt_paas_db.__version__,
                        "rules": [_rule(rule_id) for rule_id in RULES],
                    }
                },
                "results": [_result(finding, reason, places[finding.id]) for finding, reason in findings],
            }
        ],
    }


def _rule(rule_id: str) -> dict[str, Any]:
    rule = RULES[rule_id]
    return {
        "id": rule.id,
        "name": rule.id.title().replace("-", ""),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "helpUri": rule.source,
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"security-severity": _SCORES[rule.severity], "tags": ["security", "multi-tenancy"]},
    }


def _result(finding: Finding, reason: str | None, place: int) -> dict[str, Any]:
    mend = f"\nTo mend it: {finding.mend}" if finding.mend else ""
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "ruleIndex": place,
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message + mend},
        "locations": [
            {
                "logicalLocations": [
                    {
                        "name": finding.object,
                        "fullyQualifiedName": f"{finding.cluster}/{finding.object}",
                        "kind": finding.kind,
                    }
                ]
            }
        ],
        "partialFingerprints": {"finding/v1": f"{finding.id}/{finding.cluster}/{finding.object}/{finding.message}"},
        "properties": {"severity": str(finding.severity)},
    }
    if reason is not None:
        result["suppressions"] = [{"kind": "external", "justification": reason}]
    return result
