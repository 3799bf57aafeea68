"""Row policies: which tables tenants share and how, declared beside the models.

What is declared here becomes policies and grants on the server, by `init` or by Alembic's revisions. Decides nothing
at run time and sends nothing itself: the predicates are the server's, in ``sql/catalog/0003_policies.sql`` and
``0004_policies_by_index.sql``.
"""

from __future__ import annotations

from mt_paas_db.policies.advice import Finding, advice
from mt_paas_db.policies.declarations import own, reference, shared, tenant_column

__all__ = ["Finding", "advice", "own", "reference", "shared", "tenant_column"]
