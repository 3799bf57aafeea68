"""What doctor's checks find and an audit wants to hear: one table from checks to rules.

Doctor looks over connections that the audit has none of, the app DSN's and the pooler's. The rest of what it checks
the audit looks at itself, object by object.
"""

from __future__ import annotations

import re

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from mt_paas_db.core import checks, checkup_connection, checkup_login
from mt_paas_db.core.patient import CannotLookError, Patient
from mt_paas_db.errors import TenancyError
from mt_paas_db.isolation.audit.findings import finding
from mt_paas_db.isolation.audit.values import Finding, Severity

TAKEN_OVER = {
    checkup_connection._version: "server-release",
    checkup_connection._pooler: "pooler",
    checkup_login._login_path: "login-path",
}
"""Rules by doctor's check."""

_SEVERITIES = {checks.Severity.INFO: Severity.INFO}


def examined(patient: Patient) -> tuple[list[Finding], list[str]]:
    """Return what doctor's checks find, as an audit's, and what they could not look at. Closes the patient.

    What doctor calls information stays information.
    """
    found: list[Finding] = []
    blind: list[str] = []
    try:
        for check, rule_id in TAKEN_OVER.items():
            try:
                with patient.looked_at():
                    found += [_translated(one, check, rule_id, patient.cluster) for one in check.look(patient)]
            except (CannotLookError, TenancyError, SQLAlchemyError, psycopg.Error) as error:
                lines = str(error).strip().splitlines()
                blind.append(f"{rule_id}: {lines[0] if lines else type(error).__name__}")
    finally:
        patient.close()
    return found, blind


def _translated(found: checks.Finding, check: checks.Check, rule_id: str, cluster: str) -> Finding:
    return finding(
        rule_id,
        cluster,
        kind=check.id.partition(".")[0],
        object_=_subject(found.message) or check.id,
        what=found.message,
        mend=found.mend if _is_sql(found.mend) else None,
        severity=_SEVERITIES.get(found.severity),
    )


def _subject(message: str) -> str | None:
    """Return what the message is about: doctor names that first, in quotes."""
    named = re.search(r"'([^']*)'", message)
    return named[1] if named else None


def _is_sql(mend: str | None) -> bool:
    return mend is not None and re.match(r"(?:ALTER|GRANT|REVOKE|CREATE|DROP) ", mend) is not None
