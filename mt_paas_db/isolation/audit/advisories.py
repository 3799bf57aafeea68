"""Known faults of PostgreSQL and PgBouncer in what isolation leans on. Pure.

Only what a project's own security page, release notes or changelog says. Branches that are not named had the fault
never, or are older than this library supports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_POSTGRESQL = "https://www.postgresql.org/support/security/{id}/"
_PGBOUNCER = "https://www.pgbouncer.org/changelog.html"


@dataclass(frozen=True, slots=True)
class Advisory:
    """A fault. `fixed` is, by major version, the first minor version without it."""

    id: str
    summary: str
    fixed: Mapping[int, int]

    @property
    def source(self) -> str:
        """Where the project says so."""
        return _POSTGRESQL.format(id=self.id)


ADVISORIES = (
    Advisory(
        "CVE-2023-2454",
        "CREATE SCHEMA with elements defeats the fixed search_path of a SECURITY DEFINER function",
        {15: 3},
    ),
    Advisory(
        "CVE-2023-2455",
        "a policy for other roles is applied to a plan that was made before SET ROLE, after a function was inlined",
        {15: 3},
    ),
    Advisory("CVE-2023-39418", "MERGE does not enforce UPDATE and SELECT policies on new rows", {15: 4}),
    Advisory(
        "CVE-2024-0985",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY runs the view owner's code as who refreshes it",
        {15: 6},
    ),
    Advisory(
        "CVE-2024-4317",
        "pg_stats_ext shows the most common values of columns and expressions that the role may not read",
        {15: 7, 16: 3},
    ),
    Advisory(
        "CVE-2024-10976",
        "policies below sub-queries, WITH, security-invoker views and SQL functions miss a change of role",
        {15: 9, 16: 5, 17: 1},
    ),
    Advisory(
        "CVE-2024-10978",
        "SET ROLE and SET SESSION AUTHORIZATION can be reset to the wrong role",
        {15: 9, 16: 5, 17: 1},
    ),
    Advisory(
        "CVE-2025-8713",
        "the planner's statistics show sampled rows that a view, partition or policy hides",
        {15: 14, 16: 10, 17: 6},
    ),
    Advisory(
        "CVE-2025-12817",
        "CREATE STATISTICS does not check the right to create in the schema",
        {15: 15, 16: 11, 17: 7, 18: 1},
    ),
    Advisory(
        "CVE-2026-120146",
        "REASSIGN OWNED hands objects to a role that was granted with INHERIT and without SET",
        {15: 20, 16: 16, 17: 12, 18: 7},
    ),
    Advisory(
        "CVE-2026-120154",
        "INSERT ... ON CONFLICT DO UPDATE reads rows that a policy hides",
        {15: 20, 16: 16, 17: 12, 18: 7},
    ),
)
"""Of row security, SET ROLE and what stands beside them, in PostgreSQL 15 and later."""


@dataclass(frozen=True, slots=True)
class PoolerAdvisory:
    """A fault of PgBouncer. `fixed` is the first version without it."""

    id: str
    summary: str
    fixed: tuple[int, ...]
    source: str = _PGBOUNCER


POOLER_ADVISORIES = (
    PoolerAdvisory(
        "CVE-2025-12819",
        "with track_extra_parameters = search_path, a client's start-up message sets the path of auth_query",
        (1, 25, 1),
    ),
    PoolerAdvisory(
        "CVE-2026-107350",
        "a second start-up message during SCRAM authentication logs a client in as another role",
        (1, 26, 1),
    ),
)


def known_faults(server_version_num: int) -> Iterator[Advisory]:
    """Yield what this version of PostgreSQL is known for."""
    major, minor = divmod(server_version_num, 10_000)
    return (one for one in ADVISORIES if minor < one.fixed.get(major, 0))


def known_pooler_faults(version: tuple[int, ...]) -> Iterator[PoolerAdvisory]:
    """Yield what this version of PgBouncer is known for."""
    return (one for one in POOLER_ADVISORIES if version < one.fixed)
