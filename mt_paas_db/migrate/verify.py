"""Whether the tenants are what they should be: each compared with the reference, object by object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

import psycopg

from mt_paas_db.catalog.values import TenantState
from mt_paas_db.migrate import structure
from mt_paas_db.migrate.apply import look
from mt_paas_db.migrate.ground import Ground
from mt_paas_db.migrate.ledger import Position
from mt_paas_db.migrate.message import Target
from mt_paas_db.migrate.script import Heads, Mark
from mt_paas_db.migrate.structure import Difference, Structure

Verdict = Literal["same", "drifted", "elsewhere", "interrupted", "missing"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found of one tenant.

    ``elsewhere`` is at other revisions than the reference, and was not compared; ``interrupted`` has a revision carried
    out in part; ``missing`` has no schema. `copy_differs` says that the catalog had it elsewhere than it is.
    """

    tenant_id: str
    verdict: Verdict
    heads: Heads
    detail: str = ""
    differences: tuple[Difference, ...] = ()
    copy_differs: bool = False

    @property
    def ok(self) -> bool:
        """Whether it is like the reference."""
        return self.verdict == "same"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "tenant_id": self.tenant_id,
            "verdict": self.verdict,
            "heads": list(self.heads),
            "detail": self.detail,
            "copy_differs": self.copy_differs,
            "differences": [
                {"kind": d.kind, "name": d.name, "change": d.change, "expected": d.expected, "found": d.found}
                for d in self.differences
            ],
        }


def verify(
    ground: Ground, positions: Sequence[Position], *, jobs: int, listener: Callable[[int, int], None]
) -> Iterator[Verified]:
    """Yield what is found of each tenant, in their order. `listener` is told how many are done, of how many.

    Reads only. Each tenant is asked for its own version table: the catalog's copy is what is checked. A reference that
    is half way itself comes first: what it says of the others is worth little.
    """
    reference = ground.reference
    there = ground.where(reference)
    expected_at = there.heads or ()
    if there.mark is not None:
        yield Verified(reference.tenant_id, "interrupted", expected_at, _interrupted_in(there.mark))
    expected = structure.snapshot(ground.connection, reference.schema, reference.schema).objects
    fingerprint = structure.fingerprint(ground.connection, reference.schema, reference.schema)
    hands: SimpleQueue[dict[str, psycopg.Connection[Any]]] = SimpleQueue()
    held: list[dict[str, psycopg.Connection[Any]]] = [{} for _ in range(jobs)]
    for hand in held:
        hands.put(hand)

    def examine(position: Position) -> Verified:
        hand = hands.get()
        try:
            entry = position.target.entry
            if entry not in hand or hand[entry].closed:
                hand[entry] = ground.direct.connect(entry)
            return _examine(hand[entry], position, expected_at, fingerprint, expected)
        finally:
            hands.put(hand)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            for number, found in enumerate(pool.map(examine, positions), 1):
                listener(number, len(positions))
                yield found
    finally:
        for hand in held:
            for connection in hand.values():
                connection.close()


def _examine(
    connection: psycopg.Connection[Any],
    position: Position,
    expected_at: Heads,
    fingerprint: str | None,
    expected: Structure,
) -> Verified:
    target = position.target
    there = look(connection, target)
    heads = there.heads or ()
    copy_differs = position.heads is not None and position.heads != heads

    def found(verdict: Verdict, detail: str = "", differences: Sequence[Difference] = ()) -> Verified:
        return Verified(target.tenant_id, verdict, heads, detail, tuple(differences), copy_differs)

    if not there.has_schema:
        return found("missing", f"schema {target.schema!r} does not exist; restore it from a backup")
    if there.mark is not None:
        return found("interrupted", _interrupted_in(there.mark))
    if heads != expected_at:
        return found("elsewhere", f"the reference is at {', '.join(expected_at) or 'no revision'}")
    role = target.role or target.schema
    if structure.fingerprint(connection, target.schema, role) == fingerprint:
        return found("same")
    differences = compare(expected, structure.snapshot(connection, target.schema, role).objects, target)
    return found("drifted" if differences else "same", "", differences)


def _interrupted_in(mark: Mark) -> str:
    return f"a run was stopped inside revision {mark.revision}; the next goes on from there, or says why not"


def compare(expected: Structure, found: Structure, target: Target) -> list[Difference]:
    """Return how a tenant's structure differs from the reference's. Pure."""
    if target.state == TenantState.READ_ONLY:
        expected, found = structure.without_grants(expected), structure.without_grants(found)
    return structure.differences(expected, found)
