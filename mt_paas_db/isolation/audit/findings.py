"""From what a server answered to findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import RowMapping

from mt_paas_db.isolation.audit.advisories import known_faults
from mt_paas_db.isolation.audit.predicates import asked_once, calls_per_row, depends_on_context
from mt_paas_db.isolation.audit.rules import RULES
from mt_paas_db.isolation.audit.survey import Scope, Survey, TenantColumns
from mt_paas_db.isolation.audit.values import Finding, Severity

_QUERIES = (
    "grants",
    "functions",
    "memberships",
    "roles",
    "settings",
    "defaults",
    "database",
    "facilities",
    "owners",
    "crossings",
    "tables",
    "keys",
    "views",
)
"""The queries whose rows are findings as they are."""


def finding(
    rule_id: str,
    cluster: str,
    *,
    kind: str,
    object_: str,
    what: str | None = None,
    mend: str | None = None,
    severity: Severity | None = None,
) -> Finding:
    """Return a finding of a rule, in the rule's words."""
    rule = RULES[rule_id]
    message = rule.says.format(kind=kind, object=object_, what=what or "")
    return Finding(
        id=rule_id,
        severity=severity or rule.severity,
        cluster=cluster,
        kind=kind,
        object=object_,
        message=message,
        mend=mend,
        safe=rule.safe and mend is not None,
    )


def of_server(survey: Survey, scope: Scope, tenant_columns: TenantColumns) -> Iterator[Finding]:
    """Yield all that one server shows."""
    for name in _QUERIES:
        for row in survey.ask(name, scope, tenant_columns):
            yield _as_it_is(row, survey.cluster)
    for row in survey.ask("policies", scope, tenant_columns):
        yield from _of_policy(row, survey.cluster)
    for advisory in known_faults(survey.server["version"]):
        yield finding(
            "server-advisory",
            survey.cluster,
            kind="server",
            object_=advisory.id,
            what=f"{advisory.summary}; PostgreSQL {survey.server['release']} has it",
        )


def _as_it_is(row: RowMapping, cluster: str) -> Finding:
    severity = row["severity"]
    return finding(
        row["rule"],
        cluster,
        kind=row["kind"],
        object_=row["object"],
        what=row["what"],
        mend=row["mend"],
        severity=Severity(severity) if severity else None,
    )


def _of_policy(row: RowMapping, cluster: str) -> Iterator[Finding]:
    object_ = f"{row['name']} on {row['table_name']}"
    alter = f"ALTER POLICY {row['name']} ON {row['table_name']}"
    told: dict[str, Any] = {"kind": "policy", "object_": object_}
    if not row["of_owner"]:
        if row["roles"] != ["PUBLIC"]:
            roles = ", ".join(row["roles"])
            yield finding("policy-role", cluster, **told, what=roles, mend=f"{alter} TO PUBLIC;")
        counts = row["ruled"] and row["permissive"] and not row["guarded"]
        if counts and not depends_on_context(row["qual"], row["with_check"]):
            drop = f"DROP POLICY {row['name']} ON {row['table_name']};"
            yield finding("policy-open", cluster, **told, mend=drop)
    if row["calls"]:
        yield from _per_row(row, cluster, alter, told)


def _per_row(row: RowMapping, cluster: str, alter: str, told: dict[str, Any]) -> Iterator[Finding]:
    functions = frozenset(row["functions"])
    clauses = {"USING": row["qual"], "WITH CHECK": row["with_check"]}
    calls = {word: calls_per_row(text, functions) for word, text in clauses.items() if text}
    if not any(calls.values()):
        return
    mended = " ".join(f"{word} ({asked_once(clauses[word], functions)})" for word, found in calls.items() if found)
    names = sorted({call.partition("(")[0] for found in calls.values() for call in found})
    yield finding("policy-per-row", cluster, **told, what=", ".join(names), mend=f"{alter} {mended};")
