"""Family B, second half: learning of rows that one does not see, from plans, counters, keys and errors."""

# ruff: noqa: S608  # attacks are SQL text; names in it pass quoted(), numbers are generations

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mt_paas_db.isolation.attack import NotApplicable, Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import literal
from mt_paas_db.isolation.attacks.trials import GUARDS, SHARED_TABLES, answer, probe_of, told_apart
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.client import Client
from mt_paas_db.isolation.ground import quoted

_ANALYZE = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF)"
_COUNTED = not_promised(
    "EXPLAIN ANALYZE counts what a policy filters; how many rows all others have together is no secret"
)
_ESTIMATED = not_promised("the planner estimates by statistics of all tenants' rows; keep secrets out of shared tables")

_FREE = 1_000_000
"""A slot and a seat that nobody has."""

_INDEX_SCANS = ("enable_indexscan", "enable_indexonlyscan")
_WITHOUT = {
    "any way": (),
    "by index": ("enable_seqscan", "enable_bitmapscan"),
    "by bitmap": ("enable_seqscan", *_INDEX_SCANS),
}
"""Ways to read a table, and what has to be switched off for it."""

_LED = """
Every key and every index leads with the tenant column, so that a look-up touches one's own part of it alone; the
library advises it, and the audit asks for it.
"""


def _plan(me: Client, statement: str) -> str:
    return "\n".join(str(line) for (line,) in me.raw(statement))


@attack(
    "B1",
    "hidden-values",
    title="Find out whether a hidden row has a certain value, from what a plan says it has filtered",
    sql="EXPLAIN ANALYZE SELECT FROM shared.ledger WHERE slot = 7  -- Rows Removed by Filter: 1",
    why_held=_LED,
    remains="A table whose keys or indexes do not lead with the tenant column says yes or no to each guess.",
    source="PostgreSQL documentation, 5.9 Row Security Policies, on covert channels; EXPLAIN.",
    broken=Weakness.UNLED_KEYS,
    needs=(SHARED_TABLES,),
)
def hidden_values(c: Channel) -> None:
    """An index finds the row, the policy filters it, and the plan counts it: one bit for each question."""
    ledger = probe_of(c).ledger
    for way, without in _WITHOUT.items():

        def plan_for(value: int, without: tuple[str, ...] = without) -> str:
            with c.client() as me:
                for path in without:
                    me.raw(f"SET LOCAL {path} = off")
                return str(_numbers(_plan(me, f"{_ANALYZE} SELECT FROM {ledger} WHERE slot = {value}")))

        told_apart(c, f"plan, {way}", plan_for)

    def counted_for(value: int) -> str:
        with c.client() as me:
            # By the index of the value, and no other way. After autovacuum an index-only scan fetches no row and counts
            # none; and to a planner that knows how few rows a tenant has, each index that leads with the tenant is as
            # good, and fetches what a filter drops. A range in order, which may not be sorted, needs this one.
            for path in ("seqscan", "bitmapscan", "indexonlyscan", "sort"):
                me.raw(f"SET LOCAL enable_{path} = off")
            before = _counters(me, ledger)
            me.raw(f"SELECT FROM {ledger} WHERE slot BETWEEN {value} AND {value} ORDER BY slot")
            after = _counters(me, ledger)
        return str([late - early for early, late in zip(before, after, strict=True)])

    told_apart(c, "counters", counted_for)


def _numbers(plan: str) -> list[tuple[str, float]]:
    """Return what a plan says was found and removed."""
    found = re.findall(r"(Rows Removed by [\w ]+: |actual rows=|Heap Fetches: )([\d.]+)", plan)
    return [(what, float(number)) for what, number in found]


def _counters(me: Client, table: str) -> list[int]:
    counters = "coalesce(idx_scan, 0), coalesce(idx_tup_fetch, 0), seq_scan, seq_tup_read"
    ((*numbers,),) = me.raw(
        f"SELECT {counters} FROM pg_stat_xact_all_tables WHERE relid = CAST({literal(table)} AS regclass)"
    )
    return [int(number) for number in numbers]


@attack(
    "B1",
    "hidden-rows-counted",
    title="Count the rows of all tenants in a shared table",
    sql="EXPLAIN ANALYZE SELECT FROM shared.ledger  -- Rows Removed by Filter: 5002",
    why_held="Nothing holds it: a plan of a sequential scan says how many rows a policy has filtered.",
    source="PostgreSQL documentation, EXPLAIN; 5.9 Row Security Policies, on covert channels.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=_COUNTED,
    login=_COUNTED,
)
def hidden_rows_counted(c: Channel) -> None:
    """How much a competitor uses a service is worth knowing; only all others' rows together can be counted."""
    with c.trying("Rows Removed by Filter"), c.client() as me:
        for path in (*_INDEX_SCANS, "enable_bitmapscan"):
            me.raw(f"SET LOCAL {path} = off")
        removed = sum(number for what, number in _numbers(_plan(me, f"{_ANALYZE} SELECT FROM {probe_of(c).journal}"))
                      if what.startswith("Rows Removed"))  # fmt: skip
        if removed and c.target is not c.me:
            c.learned(f"the others have {removed:.0f} rows")


@attack(
    "B2",
    "estimates",
    title="Learn of hidden values from the planner's estimates",
    sql="EXPLAIN SELECT FROM shared.journal WHERE kind = 7  -- rows=25, and rows=1 for what nobody has",
    why_held="Nothing holds it: statistics are of the whole table, and the planner uses them for everybody.",
    remains="ALTER TABLE ... ALTER COLUMN ... SET STATISTICS 0, before there is data, keeps a column out of them.",
    source="PostgreSQL documentation, 14.2 Statistics Used by the Planner; 39.5 Rules and Privileges, on EXPLAIN.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=_ESTIMATED,
    login=_ESTIMATED,
)
def estimates(c: Channel) -> None:
    """A value that many of another tenant's rows have is estimated to be found more often than one that none has."""
    journal = probe_of(c).journal
    c.ground.as_owner(f"ANALYZE {journal}")

    def estimate(value: int) -> str:
        with c.client() as me:
            return str(re.findall(r"rows=(\d+)", _plan(me, f"EXPLAIN SELECT FROM {journal} WHERE kind = {value}")))

    told_apart(c, "estimate", estimate)


@contextmanager
def _stray_grant(c: Channel) -> Iterator[str]:
    """Let the owner grant the target's table to everybody, by mistake; yield the table's name."""
    schema, table = quoted(c.target.schema), f"{quoted(c.target.schema)}.{quoted(c.ground.probe)}"
    rights = f"SELECT, INSERT, UPDATE, DELETE ON {table}"
    c.ground.as_owner(f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC", f"GRANT {rights} TO PUBLIC")
    try:
        yield table
    finally:
        c.ground.as_owner(f"REVOKE {rights} FROM PUBLIC", f"REVOKE USAGE ON SCHEMA {schema} FROM PUBLIC")


@attack(
    "B3",
    "guarded-rows",
    title="Use a right on another tenant's table that was granted by mistake",
    sql="GRANT ... ON {target}.note TO PUBLIC;  -- by mistake; then: SELECT * FROM {target}.note",
    why_held="The table's guard is a restrictive policy that is tied to the tenant's role: no other role gets a row.",
    remains="Where guards are not switched on, such a grant opens the table; the audit names it.",
    source="PostgreSQL documentation, CREATE POLICY, AS RESTRICTIVE.",
    broken=Weakness.NO_GUARD,
    needs=(GUARDS,),
)
def guarded_rows(c: Channel) -> None:
    """Somebody grants a schema to everybody, to get an error out of the way."""
    with _stray_grant(c) as table:
        for by in ("run", "copy"):
            c.trial(c.read(c.target), by=by)
        c.trial(f"{c.read(c.target)} FOR UPDATE", by="send")
        c.trial(f"SELECT 1 FROM {table} t WHERE (t::text)::integer = 0", by="send")  # the error would quote the row
        with c.trying("DELETE") as trial, c.client() as me:
            me.send(f"DELETE FROM {table} t RETURNING t::text")
            trial.reach("it was carried out, and what it deleted is returned")
        if c.target is not c.me:
            c.trial(f"INSERT INTO {table} DEFAULT VALUES", by="send", refusals=(DENIED,))


_GUARDS_FILTER = not_promised(
    "a guard filters, as every policy does: plans and counters tell of rows that it has filtered"
)


@attack(
    "B3",
    "guarded-rows-counted",
    title="Count the rows of another tenant's guarded table, on which one has a right by mistake",
    sql="EXPLAIN ANALYZE SELECT FROM {target}.note  -- Rows Removed by Filter: 3",
    why_held="""
    Without the right nothing is counted, as the statement is refused. With it, only a guard that raises while a
    statement is planned would hold it, and there is none yet.
    """,
    remains="The planner's estimates are of the whole table, as in B2.",
    source="PostgreSQL documentation, EXPLAIN; CREATE POLICY; 5.9 Row Security Policies, on covert channels.",
    broken=Weakness.NONE,
    needs=(GUARDS,),
    role=_GUARDS_FILTER,
    login=_GUARDS_FILTER,
)
def guarded_rows_counted(c: Channel) -> None:
    """As with shared rows, what a policy filters might be counted in plans and counters."""
    with _stray_grant(c) as table:
        with c.trying("plan"), c.client() as me:
            plan = _plan(me, f"{_ANALYZE} SELECT FROM {table}")
            if counted := [number for _, number in _numbers(plan) if number]:
                c.learned(f"{counted[0]:.0f} rows")
        with c.trying("counters"), c.client() as me:
            before = _counters(me, table)
            me.raw(f"SELECT FROM {table}")
            after = _counters(me, table)
            if after[3] > before[3]:
                c.learned(f"{after[3] - before[3]} rows")


@attack(
    "B8",
    "unique-keys",
    title="Find out by a unique key whether a hidden row has a certain value",
    sql="INSERT INTO shared.ledger (slot, ...) VALUES (7, ...)  -- 23505; ON CONFLICT DO NOTHING -> INSERT 0 0",
    why_held=_LED,
    source="PostgreSQL documentation, 5.9 Row Security Policies: unique and foreign keys go past them.",
    broken=Weakness.UNLED_KEYS,
    needs=(SHARED_TABLES,),
)
def unique_keys(c: Channel) -> None:
    """An e-mail address is unique among all customers' users; signing up with it says whether somebody has it."""
    ledger, mine = probe_of(c).ledger, c.me.generation
    for name, statement in {
        "INSERT": f"{_new(c, slot='{value}')} RETURNING 1",
        "ON CONFLICT DO NOTHING": f"{_new(c, slot='{value}')} ON CONFLICT DO NOTHING RETURNING 1",
        "UPDATE": f"UPDATE {ledger} SET slot = {{value}} WHERE slot <> {{value}} RETURNING 1",
        "MERGE": f"MERGE INTO {ledger} USING (VALUES (1)) v (n) ON false "
        f"WHEN NOT MATCHED THEN INSERT (account, slot, seat, body) VALUES ({mine}, {{value}}, {_FREE}, '')",
    }.items():
        _keys_told_apart(c, name, statement)


def _new(c: Channel, *, account: object = None, slot: object = _FREE, seat: object = _FREE) -> str:
    """Return the beginning of an INSERT that breaks no key of the attacker's own, but for what is given."""
    account = c.me.generation if account is None else account
    columns = f"{probe_of(c).ledger} (account, slot, seat, body)"
    return f"INSERT INTO {columns} VALUES ({account}, {slot}, {seat}, '')"


def _keys_told_apart(c: Channel, name: str, statement: str) -> None:
    told_apart(c, name, lambda value: answer(c, statement.format(value=value)))


@attack(
    "B9",
    "foreign-keys",
    title="Refer to another tenant's row",
    sql="INSERT INTO shared.ledger (account, ...) VALUES (7, ...)  -- accepted: there is such an account",
    why_held="Foreign keys between shared tables hold the tenant column on both sides; the library advises it.",
    source="PostgreSQL documentation, 5.9 Row Security Policies: foreign keys go past them, and so do their cascades.",
    broken=Weakness.UNLED_KEYS,
    needs=(SHARED_TABLES,),
)
def foreign_keys(c: Channel) -> None:
    """A row that refers to another tenant's parent is deleted with it, and tells that it is there."""
    _keys_told_apart(c, "INSERT", _new(c, account="{value}"))
    _keys_told_apart(c, "ON CONFLICT", f"{_new(c, account='{value}')} ON CONFLICT DO NOTHING")
    _keys_told_apart(c, "UPDATE", f"UPDATE {probe_of(c).ledger} SET account = {{value}}")


@attack(
    "B10",
    "exclusions-and-details",
    title="Learn of hidden rows from an exclusion constraint, and from what errors tell of keys",
    sql="INSERT INTO shared.ledger (seat, ...) VALUES (7, ...)  -- 23P01; DETAIL: Key (seat)=(7) conflicts with ...",
    why_held="The exclusion leads with the tenant column; and under row security, errors name no rows.",
    source="PostgreSQL documentation, CREATE TABLE, EXCLUDE; release notes of 9.4.1 (CVE-2014-8161), on error details.",
    broken=Weakness.UNLED_KEYS,
    needs=(SHARED_TABLES,),
)
def exclusions_and_details(c: Channel) -> None:
    """Bookings must not overlap, and whoever tries learns what is booked."""
    _keys_told_apart(c, "INSERT", _new(c, seat="{value}"))
    _keys_told_apart(c, "ON CONFLICT DO NOTHING", f"{_new(c, seat='{value}')} ON CONFLICT DO NOTHING RETURNING 1")


B17 = NotApplicable(
    "B17",
    "Measure how long an answer takes",
    "time is no promise of this library: tenants share a server, and feel each other. What it tells of hidden rows "
    "was not measured; a suite that waits for it would take hours and prove little",
)
