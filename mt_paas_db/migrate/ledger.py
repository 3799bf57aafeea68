"""What the catalog knows of the fleet's migrations: where each tenant stands, the runs, and each tenant's outcome.

A run's outcomes are written down before the first tenant is touched, as not attempted, and right after each was. Where
a tenant of the catalog's own database stands is copied in the transaction that brings it there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from mt_paas_db.catalog.queries import ddl, queries
from mt_paas_db.catalog.values import TenantState
from mt_paas_db.migrate import structure
from mt_paas_db.migrate.message import Target, literal
from mt_paas_db.migrate.script import Heads
from mt_paas_db.migrate.structure import Scope, Structure

OutcomeState = Literal["not_attempted", "migrated", "unchanged", "failed"]
RunState = Literal["running", "succeeded", "failed", "stopped", "interrupted", "lost"]

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)\b")


class Position(NamedTuple):
    """Where the catalog says that a tenant stands. `heads` is None where it does not know."""

    target: Target
    heads: Heads | None


class Outcome(NamedTuple):
    """What became of one tenant in a run. `seconds` is of its last attempt."""

    state: OutcomeState
    heads: Heads
    attempts: int = 1
    seconds: float | None = None
    verified: bool | None = None
    sqlstate: str | None = None
    statement: str | None = None
    message: str | None = None
    ended_at: float | None = None
    """When the transaction ended that migrated the tenant and copied where it stands, in seconds since 1970."""


class Run(NamedTuple):
    """A line of the log of runs. `state` is ``lost`` where its runner is gone without a word."""

    run_id: int
    action: str
    target: str
    actor: str
    options: dict[str, Any]
    ways: list[dict[str, Any]]
    resumes: int | None
    state: RunState
    message: str | None
    started_at: datetime
    ended_at: datetime | None
    migrated: int
    unchanged: int
    failed: int
    not_attempted: int


@cache
def _sql(name: str) -> str:
    return _PARAMETER.sub(r"%(\1)s", queries("migrate")[name].replace("%", "%%"))


def _run(connection: psycopg.Connection[Any], name: str, **values: Any) -> psycopg.Cursor[Any]:
    return connection.execute(_sql(name).encode(), values)


# -- where tenants stand


def positions(connection: psycopg.Connection[Any]) -> Iterator[Position]:
    """Yield where each tenant stands, in the order of their ids: one query, O(tenants)."""
    for generation, tenant_id, state, entry, schema, role, heads in _run(connection, "positions"):
        target = Target(generation, tenant_id, state, entry, schema, role)
        yield Position(target, tuple(heads) if heads is not None else None)


def shared_schemas(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Return the installation's shared schemas."""
    row = _run(connection, "shared_schemas").fetchone()
    return tuple(row[0]) if row else ()


def record_set(connection: psycopg.Connection[Any], heads: Heads, applied: Iterable[str]) -> None:
    """Write down what has been applied where `heads` are reached."""
    _run(connection, "record_set", heads=list(heads), applied=sorted(applied))


def record_heads(connection: psycopg.Connection[Any], generation: int, heads: Heads) -> None:
    """Copy where a tenant stands. Does nothing for one that is deleted."""
    _run(connection, "record_heads", generation=generation, heads=list(heads))


def is_deleted(connection: psycopg.Connection[Any], generation: int) -> bool:
    """Return whether a tenant is gone, or going."""
    row = _run(connection, "is_deleted", generation=generation).fetchone()
    return row is not None and bool(row[0])


def state_of(connection: psycopg.Connection[Any], generation: int) -> str | None:
    """Return a tenant's state as it is now; None for one that is gone."""
    row = _run(connection, "state_of", generation=generation).fetchone()
    return str(row[0]) if row else None


def left_behind(connection: psycopg.Connection[Any]) -> frozenset[int]:
    """Return the tenants whose last run did not say that it had migrated them: they may be half way."""
    return frozenset(generation for (generation,) in _run(connection, "left_behind"))


# -- one run


def begin_run(
    connection: psycopg.Connection[Any],
    *,
    action: str,
    target: str,
    actor: str | None,
    options: Mapping[str, Any],
    ways: Sequence[Mapping[str, Any]],
    resumes: int | None,
    outcomes: Iterable[tuple[Target, int, Heads, str]],
) -> int:
    """Enter a run with all its tenants (target, wave, heads, way), in one transaction; return its number.

    The connection holds the run from then on: as long as it lives, the run is not lost.
    """
    rows = [
        {"generation": t.generation, "tenant_id": t.tenant_id, "wave": wave, "heads": list(heads), "way": way}
        for t, wave, heads, way in outcomes
    ]
    with connection.transaction():
        entered = _run(
            connection,
            "insert_run",
            action=action,
            target=target,
            actor=actor,
            options=json.dumps(options),
            ways=json.dumps(ways),
            resumes=resumes,
        ).fetchone()
        assert entered is not None
        run_id = int(entered[0])
        hold_run(connection, run_id)
        _run(connection, "insert_outcomes", run_id=run_id, rows=json.dumps(rows))
    return run_id


def hold_run(connection: psycopg.Connection[Any], run_id: int) -> None:
    """Hold a run: as long as one connection that does is open, the run counts as running, and not as lost."""
    _run(connection, "hold_run", run_id=run_id)


def finish_run(connection: psycopg.Connection[Any], run_id: int, state: RunState, message: str | None) -> None:
    """Write down how a run ended."""
    _run(connection, "finish_run", run_id=run_id, state=state, message=message)


def write_outcome(connection: psycopg.Connection[Any], run_id: int, target: Target, outcome: Outcome) -> None:
    """Write down what became of a tenant."""
    values = outcome._asdict() | {"heads": list(outcome.heads)}
    _run(connection, "outcome", run_id=run_id, generation=target.generation, **values)


def counts(connection: psycopg.Connection[Any], run_id: int) -> dict[str, int]:
    """Return how many outcomes of a run are in each state."""
    return dict(_run(connection, "counts", run_id=run_id).fetchall())


def slowest(connection: psycopg.Connection[Any], run_id: int, number: int = 5) -> list[tuple[str, float]]:
    """Return the tenants that took longest, and their seconds."""
    return _run(connection, "slowest", run_id=run_id, page_size=number).fetchall()


def runs(connection: psycopg.Connection[Any], *, run_id: int | None = None, limit: int = 20) -> list[Run]:
    """Return the newest runs first; or the one with this number."""
    found = connection.cursor(row_factory=dict_row).execute(
        _sql("runs").encode(), {"run_id": run_id, "page_size": limit}
    )
    lines = []
    for row in found:
        held = row.pop("held")
        if row["state"] == "running" and not held:
            row["state"] = "lost"
        lines.append(Run(**row))
    return lines


def outcomes(connection: psycopg.Connection[Any], run_id: int, state: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the outcomes of a run, as plain values, in the order of its waves."""
    cursor = connection.cursor(row_factory=dict_row)
    yield from cursor.execute(_sql("outcomes").encode(), {"run_id": run_id, "state": state})


def write_changes(connection: psycopg.Connection[Any], run_id: int, scope: Scope) -> None:
    """Write down what of its structure a run changed, as seen on the reference."""
    changed = {"relations": scope.relations, "besides": scope.besides}
    _run(connection, "write_changes", run_id=run_id, changed=json.dumps(changed))


def changes(connection: psycopg.Connection[Any], start: Heads, end: Heads) -> Scope | None:
    """Return what the way between two places changed when the reference last went it; None where it did not."""
    row = _run(connection, "changes", start=list(start), end=list(end)).fetchone()
    return Scope(tuple(row[0]["relations"]), row[0]["besides"]) if row else None


# -- what the tenants' own transactions do


class Likeness(NamedTuple):
    """What a structure is compared with: the fingerprint of what is in the scope."""

    scope: Scope
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What a migrated tenant's structure must be: the reference's, at `heads`.

    Attributes:
        whole: What all of it must be like.
        changes: What must be compared of a tenant that comes from these heads, where it is known what the way changes.
        objects: Tell what differs.
    """

    heads: Heads
    whole: Likeness
    changes: Mapping[Heads, Likeness]
    objects: Structure

    def of_one_from(self, heads: Heads) -> Likeness:
        """Return what a tenant that comes from these heads is compared with."""
        return self.changes.get(heads, self.whole)


def record(target: Target, heads: Heads) -> list[str]:
    """Return SQL that copies where a tenant stands, in the transaction that migrates it; `prepare` comes before.

    Of a read-only tenant what was made is withheld, too. The last statement yields the seconds it took, and its end.
    """
    read_only = target.state == TenantState.READ_ONLY
    execute = f"EXECUTE mt_paas_db_record({target.generation}, {literal(heads)}, {read_only})"
    return [_withhold_again(target), execute] if read_only else [execute]


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Prepare on a connection what `record` calls."""
    connection.execute(queries("migrate")["prepare_record"].encode())


def _withhold_again(target: Target) -> str:
    """Return SQL that takes from a read-only tenant's role what it may write of what was made meanwhile."""
    values = {"generation": target.generation, "schema": target.schema, "role": target.role or target.schema}
    return ddl("migrate", "withhold_again", **{name: sql.Literal(value) for name, value in values.items()})


# -- what they have come to


def write_migrated(
    connection: psycopg.Connection[Any],
    prepared: set[str],
    run_id: int,
    migrated: Sequence[tuple[Target, Outcome]],
    likeness: Likeness | None,
) -> frozenset[int]:
    """Write down what became of tenants that came to the same heads; return which are as they must be: one query.

    What it takes is prepared on the connection, unless it is in `prepared`. Without a likeness none is compared.
    """
    scope = likeness.scope if likeness is not None else None
    name = "mt_paas_db_migrated"
    if scope is not None:
        name += "_alike" + ("" if scope.relations is None else "_in") + ("_besides" if scope.besides else "")
    if name not in prepared:
        connection.execute(_migrated(name, scope).encode())
        prepared.add(name)
    outcomes = [outcome for _, outcome in migrated]
    values = [
        literal(run_id),
        literal(outcomes[0].heads),
        _numbers([target.generation for target, _ in migrated], "bigint"),
        _numbers([outcome.attempts for outcome in outcomes], "int"),
        _numbers([outcome.seconds for outcome in outcomes], "float8"),
        _numbers([outcome.ended_at for outcome in outcomes], "float8"),
        literal([target.schema for target, _ in migrated]),
        literal([target.role or target.schema for target, _ in migrated]),
        literal(likeness.fingerprint if likeness is not None else None),
        literal(scope.relations if scope is not None else None),
    ]
    found = connection.execute(f"EXECUTE {name}({', '.join(values)})".encode())
    return frozenset(generation for generation, same in found if same)


def _numbers(values: Sequence[float | None], kind: str) -> str:
    return f"ARRAY[{', '.join('NULL' if value is None else str(value) for value in values)}]::{kind}[]"


@cache
def _migrated(name: str, scope: Scope | None) -> str:
    # A statement for each kind, not one with conditions: a large plan costs even where it is not executed.
    if scope is None:
        return ddl("migrate", "prepare_migrated", name=name, same=sql.SQL("NULL::boolean"))
    relations = None if scope.relations is None else "$10"
    fingerprint = structure.fingerprint_sql(
        schema="t.schema", role="t.role", besides=scope.besides, relations=relations
    )
    same = sql.SQL("(({fingerprint}) IS NOT DISTINCT FROM $9)").format(fingerprint=sql.SQL(fingerprint))
    return ddl("migrate", "prepare_migrated", name=name, same=same)


def uncompared(connection: psycopg.Connection[Any]) -> dict[int, Heads | None]:
    """Return the tenants that a run has migrated and was to compare, and did not live to.

    With heads: it wrote nothing down of that tenant, and only has migrated it if that is elsewhere now.
    """
    found = _run(connection, "uncompared")
    return {generation: tuple(heads) if heads is not None else None for generation, heads in found}
