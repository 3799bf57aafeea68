"""Migrated tenants, of which it is yet to be written down, and to be seen whether they came out like the reference.

A tenant's transaction copies where it stands, and no more: to start the query that compares, and writes the outcome,
costs more than to do so for one tenant. Who is not alike at first sight is looked at closely, as it is by then. A run
that is killed in between leaves migrated tenants that nobody has compared; the next one compares them.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psycopg

from mt_paas_db.migrate import structure
from mt_paas_db.migrate.apply import look
from mt_paas_db.migrate.ledger import Expected, Likeness, Outcome
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.script import Heads
from mt_paas_db.migrate.verify import compare

NOT_LIKE_REFERENCE = (
    "migrated, but its structure is not the reference's; `mt-paas-db migrate verify {}` says what differs"
)

_MOST = 32
_LONGEST_S = 0.5


class Migrated(NamedTuple):
    """A tenant that was migrated, and its outcome."""

    target: Target
    outcome: Outcome


class Waiting:
    """Migrated tenants that are yet to be settled: compared, where there is a likeness, and written down.

    The first is settled by itself, then two together, then four: what is wrong with all is seen soon. Where a
    migration takes long, none waits for others.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[Likeness | None, Heads], list[Migrated]] = {}
        self._number = 0
        self._enough = 1
        self._since = 0.0

    def add(self, migrated: Migrated, likeness: Likeness | None) -> None:
        """Have a tenant settled."""
        if not self._number:
            self._since = time.monotonic()
        self._groups.setdefault((likeness, migrated.outcome.heads), []).append(migrated)
        self._number += 1

    @property
    def due(self) -> bool:
        """Whether there are enough of them, or they have waited long enough."""
        if not self._number:
            return False
        return self._number >= self._enough or time.monotonic() - self._since >= _LONGEST_S

    def take(self) -> list[tuple[Likeness | None, list[Migrated]]]:
        """Return those to settle together, with what they are compared with; they wait no more."""
        self._enough = min(2 * self._enough, _MOST) if self._number >= self._enough else 1
        groups, self._groups, self._number = self._groups, {}, 0
        return [(likeness, group) for (likeness, _), group in groups.items()]


def look_closely(
    connection: psycopg.Connection[Any], migrated: Migrated, expected: Expected, likeness: Likeness
) -> Outcome:
    """Return the outcome of a tenant compared by itself; one that somebody has taken on meanwhile is not compared."""
    target, outcome = migrated
    role = target.role or target.schema
    if structure.fingerprint(connection, target.schema, role, likeness.scope) == likeness.fingerprint:
        return outcome._replace(verified=True)
    if look(connection, target).heads != outcome.heads:
        return outcome
    if not compare(expected.objects, structure.snapshot(connection, target.schema, role).objects, target):
        return outcome._replace(verified=True)
    return outcome._replace(state="failed", verified=False, message=NOT_LIKE_REFERENCE.format(target.tenant_id))
