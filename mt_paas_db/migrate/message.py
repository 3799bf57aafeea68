"""What is sent to migrate one tenant: SQL text with a label on each statement. Pure.

A transaction's statements go in one message of the simple protocol, with the lock, so that a tenant costs one round
trip. The labels tell which statement an error came from. Bookkeeping names the schema; the revisions' own statements
find it by the path, which has nothing else on it, and so are the same text for all tenants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mt_paas_db.migrate.script import Heads, Item, Mark, Step

REFERENCE = 0
SHARED = -1

Label = Literal["lock", "begin", "guard", "swap", "statement", "version", "record", "commit", "unlock"]


class Statement(NamedTuple):
    """One statement of a message, and what it is there for."""

    label: Label
    text: str


@dataclass(frozen=True, slots=True)
class Target:
    """A schema to migrate. `generation` is `REFERENCE` or `SHARED` for those that are no tenant's."""

    generation: int
    tenant_id: str
    state: str
    entry: str
    schema: str
    role: str | None
    version_table: str = "alembic_version"

    @property
    def versions(self) -> str:
        """The version table, as SQL names it."""
        return f"{identifier(self.schema)}.{identifier(self.version_table)}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a statement may wait for a lock, and run; seconds. 0 is for ever."""

    lock_timeout_s: float = 2.0
    statement_timeout_s: float = 0.0


RESET = Statement("unlock", "RESET ALL")
"""What a revision's plain SET leaves on a connection, a time zone say, is not the next tenant's."""


def identifier(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | int | Sequence[str] | None) -> str:
    """Return a value as SQL writes it, where backslashes are plain characters."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"ARRAY[{', '.join(map(literal, value))}]::text[]"


def lock(target: Target, *, until_commit: bool = False) -> Statement:
    """Take the tenant's lock, or fail with a division by zero.

    It is the connection's, until `unlock`; or the transaction's, which saves a statement where there is but one
    transaction. Both are the same lock: who has it one way keeps out who wants it the other.
    """
    name = "mt_paas_db_lock_until_commit" if until_commit else "mt_paas_db_lock"
    return Statement("lock", f"EXECUTE {name}({literal(target.schema)})")


def unlock(target: Target) -> Statement:
    """Give it back."""
    return Statement("unlock", f"EXECUTE mt_paas_db_unlock({literal(target.schema)})")


def whereabouts(target: Target) -> str:
    """Ask for the version table's comment, whether the version table is there, and whether the schema is."""
    table = f"pg_catalog.to_regclass({literal(target.versions)})"
    return (
        f"SELECT pg_catalog.obj_description({table}, 'pg_class'), {table} IS NOT NULL,"
        f" pg_catalog.to_regnamespace({literal(identifier(target.schema))}) IS NOT NULL"
    )


def comments(targets: Sequence[Target]) -> str:
    """Ask for the generation of each target, and the comment of its version table."""
    rows = ", ".join(f"({target.generation}, {literal(target.versions)})" for target in targets)
    return (
        f"SELECT t.generation, pg_catalog.obj_description(pg_catalog.to_regclass(t.name), 'pg_class')"
        f" FROM (VALUES {rows}) t (generation, name)"
    )


def heads(target: Target) -> str:
    """Ask for what is in the version table."""
    return f'SELECT version_num FROM {target.versions} ORDER BY version_num COLLATE "C"'


def begin(patience: Patience) -> Iterator[Statement]:
    """Begin a transaction. The path is not the tenant's yet: bookkeeping names the schema, and what is prepared would
    be planned anew under another path than the last time.
    """
    yield Statement("begin", "BEGIN")
    yield Statement("begin", f"SET LOCAL lock_timeout = {round(patience.lock_timeout_s * 1000)}")
    if patience.statement_timeout_s:  # else the connection's own, which is none
        yield Statement("begin", f"SET LOCAL statement_timeout = {round(patience.statement_timeout_s * 1000)}")


def guard(target: Target, heads: Heads, mark: Mark | None, to: Heads | None = None) -> Iterator[Statement]:
    """Hold the version table, and fail with a division by zero unless the tenant stands where it is thought to.

    From one revision `to` another the version is written first, which is cheaper than a lock and a look.
    """
    if mark is None and len(heads) == 1 and to is not None and len(to) == 1:
        yield Statement("swap", _swap(target, heads[0], to[0]))
        yield Statement("guard", f"EXECUTE mt_paas_db_swapped({literal(target.versions)}, {literal(to[0])})")
        return
    if not heads and mark is None:
        yield Statement("guard", version_table(target))
        if target.role is not None and target.generation >= 0:
            yield Statement("guard", f"REVOKE ALL ON TABLE {target.versions} FROM {identifier(target.role)}")
    yield Statement("guard", f"LOCK TABLE {target.versions} IN SHARE ROW EXCLUSIVE MODE")
    found = f'ARRAY(SELECT version_num::text FROM {target.versions} ORDER BY version_num COLLATE "C")'
    comment = f"coalesce(pg_catalog.obj_description({literal(target.versions)}::regclass, 'pg_class'), '')"
    unmarked = f"NOT pg_catalog.starts_with({comment}, {literal(Mark.PREFIX)})"
    marked = f"{comment} = {literal(str(mark))}" if mark else unmarked
    yield Statement("guard", f"SELECT 1 / ({found} = {literal(heads)} AND {marked})::int")


def _swap(target: Target, old: str, new: str) -> str:
    # Every row is written, so that one at another revision, which becomes null, is no less a reason to stop than none.
    # A null is what a version table does not take; that there was a row is what `mt_paas.swapped` tells.
    return (
        f"UPDATE {target.versions} SET version_num = CASE version_num WHEN {literal(old)}"
        f" THEN pg_catalog.set_config('mt_paas.swapped', {literal(new)}, true) END"
    )


def version_table(target: Target) -> str:
    """Make the version table as Alembic makes it, where it is not there."""
    name = target.version_table
    return (
        f"CREATE TABLE IF NOT EXISTS {target.versions} (version_num VARCHAR(32) NOT NULL, "
        f"CONSTRAINT {identifier(f'{name}_pkc')} PRIMARY KEY (version_num))"
    )


def version(target: Target, old: Heads, new: Heads) -> Iterator[Statement]:
    """Write where the tenant stands now."""
    if old == new:
        return
    if len(old) == len(new) == 1:
        yield Statement("version", f"UPDATE {target.versions} SET version_num = {literal(new[0])}")
        return
    if old:
        yield Statement("version", f"DELETE FROM {target.versions}")
    if new:
        rows = ", ".join(f"({literal(head)})" for head in new)
        yield Statement("version", f"INSERT INTO {target.versions} (version_num) VALUES {rows}")


def note(target: Target, mark: Mark | None) -> Statement:
    """Leave a mark on the version table, or take it away."""
    return Statement("version", f"COMMENT ON TABLE {target.versions} IS {literal(str(mark) if mark else None)}")


def transaction(
    target: Target,
    step: Step,
    *,
    patience: Patience,
    heads: Heads,
    mark: Mark | None,
    record: Sequence[str] = (),
    takes_lock: bool = False,
) -> list[Statement]:
    """Return a transactional step's statements, from BEGIN to COMMIT. `heads` and `mark` are what it must find.

    `takes_lock`: the transaction itself takes the tenant's lock, which ends with it.
    """
    guards = list(guard(target, heads, mark, step.heads if step.mark is None else None))
    first, *others = begin(patience)
    locks = [lock(target, until_commit=True)] if takes_lock else []
    statements = [first, *locks, *others, *guards]
    statements.append(Statement("begin", f"SET LOCAL search_path = {identifier(target.schema)}, pg_temp"))
    statements += [Statement("statement", item.text) for item in step.items]
    if not any(statement.label == "swap" for statement in guards):
        statements += version(target, heads, step.heads)
    if mark != step.mark:
        statements.append(note(target, step.mark))
    if record:
        # A prepared statement is planned anew where it meets another path than the last time.
        path = "SET LOCAL search_path = pg_catalog, pg_temp"
        statements += [Statement("record", text) for text in (path, *record)]
    statements.append(Statement("commit", "COMMIT"))
    return statements


def begun(target: Target, step: Step, *, patience: Patience, heads: Heads, mark: Mark | None) -> list[Statement]:
    """Return what marks a step outside a transaction as begun."""
    return [
        *begin(patience),
        *guard(target, heads, mark),
        note(target, step.begun),
        Statement("commit", "COMMIT"),
    ]


def in_schema(target: Target, owner: str, patience: Patience, item: Item) -> list[str]:
    """Return what puts a connection into the tenant's schema for a statement outside a transaction.

    CREATE INDEX CONCURRENTLY waits for others without holding them up, and one that gave up would leave an
    invalid index: it waits as long as it takes.
    """
    waits = 0.0 if "CONCURRENTLY" in item.text.upper() else patience.lock_timeout_s
    return [
        f"SET ROLE {identifier(owner)}",
        f"SET search_path = {identifier(target.schema)}, pg_temp",
        f"SET lock_timeout = {round(waits * 1000)}",
        f"SET statement_timeout = {round(patience.statement_timeout_s * 1000)}",
    ]


def out_of_schema(owner: str) -> list[str]:
    """Return what undoes `in_schema`, and whatever a revision's own SET has left for the next tenant."""
    return [RESET.text, f"SET ROLE {identifier(owner)}"]


def as_text(statements: Sequence[Statement]) -> bytes:
    """Return a message. The separator is on a line of its own, as a statement may end in a comment."""
    return "\n;\n".join(statement.text for statement in statements).encode()
