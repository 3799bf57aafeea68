"""The posture audit: what on a live server would let tenants reach each other, and the statement that mends it.

Stricter than `doctor`, which asks whether the installation works: every right, membership, policy, view, function and
dependency that the catalogs know is compared with what the installation needs.
"""

from __future__ import annotations

from collections.abc import Iterable

from mt_paas_db.core.manager import TenantManager
from mt_paas_db.core.patient import Patient
from mt_paas_db.isolation.audit.client import of_sessions
from mt_paas_db.isolation.audit.examination import examined
from mt_paas_db.isolation.audit.findings import of_server
from mt_paas_db.isolation.audit.fixing import apply, script
from mt_paas_db.isolation.audit.ignores import Ignore, parse_ignores, sift
from mt_paas_db.isolation.audit.pooler import SilentPoolerError, ask_pooler, is_pooled, of_pooler
from mt_paas_db.isolation.audit.rules import RULES
from mt_paas_db.isolation.audit.sarif import as_sarif
from mt_paas_db.isolation.audit.survey import TenantColumns, surveyed
from mt_paas_db.isolation.audit.values import Finding, Ignored, Report, Rule, Server, Severity, ordered

__all__ = [
    "RULES",
    "Finding",
    "Ignore",
    "Ignored",
    "Report",
    "Rule",
    "Server",
    "Severity",
    "apply_mends",
    "as_sarif",
    "audit",
    "parse_ignores",
    "script",
]


def audit(
    manager: TenantManager,
    *,
    tenant_columns: TenantColumns | None = None,
    ignores: Iterable[Ignore] = (),
    sessions: bool = True,
) -> Report:
    """Look at every cluster of the installation with its admin DSN, and at the pooler where one is set.

    Reads only: one transaction REPEATABLE READ, READ ONLY on each cluster, rolled back. A few of
    `doctor`'s checks look beside it, over the app DSN. Then a tenant's sessions are opened, READ ONLY, on each kind of
    engine that this process has, and watched: a few dozen transactions, of one connection at a time. No row of a
    user's table is read.

    Args:
        manager: Whose installation.
        tenant_columns: By schema and table, the column of a shared table that says whose a row is. Where left out: a
            column ``tenant_id``, or one whose default asks for ``mt_paas.tenant``.
        ignores: What is accepted.
        sessions: Whether to open sessions, too.

    Raises:
        ServerUnavailableError, CatalogMissingError, CatalogVersionError, MissingRightsError: The server, its catalog,
            or the admin's rights on it.
        ConfigurationError: There is no admin DSN, or it is not one.
    """
    settings, credentials = manager.settings, manager._credentials
    home, columns = settings.home_cluster, tenant_columns or {}
    findings: list[Finding] = []
    servers: list[Server] = []
    with surveyed(settings, credentials, home) as survey:
        scope = survey.scope(settings)
        findings += of_server(survey, scope.of(home), columns)
        servers.append(Server(home, survey.server["release"], len(scope.of(home).tenants)))
    for entry in sorted({tenant.placement.credentials for tenant in scope.tenants} - {home}):
        with surveyed(settings, credentials, entry) as survey:
            findings += of_server(survey, scope.of(entry), columns)
            servers.append(Server(entry, survey.server["release"], len(scope.of(entry).tenants)))
    found, blind = examined(Patient(manager._door, settings, manager._admin, credentials))
    findings += found
    for server in servers:
        if is_pooled(settings, server.cluster):
            try:
                findings += of_pooler(*ask_pooler(settings, credentials, server.cluster), server.cluster)
            except SilentPoolerError as reason:
                blind.append(f"pooler: {reason}")
    if sessions:
        found, unseen = of_sessions(manager, scope)
        findings += found
        blind += unseen
    left, ignored, unused = sift(ordered(findings), ignores)
    return Report(
        installation=settings.installation,
        servers=tuple(servers),
        findings=tuple(left),
        ignored=tuple(ignored),
        unused=tuple(unused),
        blind=tuple(blind),
    )


def apply_mends(manager: TenantManager, report: Report) -> list[Finding]:
    """Execute the mends of a report that are safe to apply, as the admin; return what was mended. Commits.

    One transaction for each cluster: all of a cluster's mends, or after an error none. Raises as `Admin.transaction`.
    """
    return apply(report, manager.settings, manager._credentials)
