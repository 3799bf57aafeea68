"""Family B, first half: rows that tenants share a table for, and the policies that keep them apart."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal(), numbers are generations

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mt_paas_db.isolation.attack import Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import UNDEFINED_TABLE, literal
from mt_paas_db.isolation.attacks.trials import SHARED_TABLES, forbidden, probe_of
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import quoted

_NO_ROW_SECURITY = not_promised(
    "a materialized view holds what its owner saw, and has no row security; never make one in a shared schema"
)
_LATER = not_promised(
    "a partition that is added has no policies, and the shared schema's default rights; call mt_paas.share_rows in "
    "the transaction that makes it"
)


def _ledger(c: Channel, columns: str = "t::text") -> str:
    """Return a query of the target's rows in a table that all tenants share."""
    return f"SELECT {columns} FROM {probe_of(c).ledger} t WHERE tenant = {c.target.generation}"


@attack(
    "B4",
    "context-by-setting",
    title="Claim to be another tenant, by the settings that say who one is",
    sql="SELECT set_config('mt_paas.tenant', '{target}', true), t.* FROM shared.ledger t",
    why_held="""
    Policies ask which role is in force, through mt_paas.tenant(). The setting mt_paas.tenant is there to be read by
    the service, and decides nothing.
    """,
    remains="Whoever can take another tenant's role is that tenant, here as in its own schema (A2, A3).",
    source="PostgreSQL documentation, 5.9 Row Security Policies; SET: any role may set a custom option.",
    broken=Weakness.CONTEXT_BY_SETTING,
    needs=(SHARED_TABLES,),
)
def context_by_setting(c: Channel) -> None:
    """A policy that believes a setting is as strong as the right to set it, which everybody has."""
    for value in (c.target.tenant_id, str(c.target.generation), c.target.role):
        setting = f"set_config('mt_paas.tenant', {literal(value)}, true)"
        c.trial(f"SET LOCAL mt_paas.tenant = {literal(value)}", _ledger(c), by="send")
        c.trial(f"SELECT {setting}", _ledger(c), by="raw")
        c.trial(_ledger(c, f"{setting}, t::text"), by="run")


@attack(
    "B4",
    "role-in-mid-statement",
    title="Take another tenant's role before a query's policy is asked",
    sql="SELECT (SELECT ... FROM shared.ledger WHERE s.r IS NOT NULL) FROM (SELECT set_config('role', ...)) s (r)",
    why_held="At tier `login` the connection's login is a member of no other tenant's role.",
    source="PostgreSQL documentation, 5.9 Row Security Policies; SET ROLE.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=not_promised("the login role is a member of every tenant's role; whoever controls SQL text can take one"),
)
def role_in_mid_statement(c: Channel) -> None:
    """One SELECT suffices: the policy is asked when the first row is looked at, and the role is another by then."""
    taken = f"(SELECT set_config('role', {literal(c.target.role)}, true) AS role OFFSET 0) s"
    rows = f"SELECT string_agg(t::text, ',') FROM {probe_of(c).ledger} t"
    theirs = f"t.tenant = {c.target.generation} AND s.role IS NOT NULL"
    c.trial(f"SELECT ({rows} WHERE {theirs}) FROM {taken}", by="run", refusals=(DENIED,))


@contextmanager
def _as_view(c: Channel, kind: str) -> Iterator[str]:
    """Let the owner make a view of the shared ledger; the schema's default privileges open it to all tenants."""
    probe = probe_of(c)
    name = f"{probe.schema}.{quoted(f'mt_isolation_{c.ground.run}_view')}"
    c.ground.as_owner(f"CREATE {kind} {name} AS SELECT * FROM {probe.ledger}")
    try:
        yield name
    finally:
        c.ground.as_owner(f"DROP {kind} {name}")


@attack(
    "B5",
    "view-of-the-owner",
    title="Read shared rows through a view that belongs to the owner",
    sql="CREATE VIEW shared.v AS SELECT * FROM shared.ledger;  -- by a migration; then, by a tenant: SELECT * FROM v",
    why_held="""
    Row security is forced, so that the owner is under policies too; and the policy that opens a table to the owner
    asks who it is that reads, not whose the view is.
    """,
    remains="""
    A function with the owner's rights (SECURITY DEFINER) reads as the owner and sees all rows; the audit names such
    functions. A superuser's view goes past all policies.
    """,
    source="PostgreSQL documentation, 5.9 Row Security Policies, FORCE; CREATE VIEW, security_invoker.",
    broken=Weakness.NO_FORCE,
    needs=(SHARED_TABLES,),
)
def view_of_the_owner(c: Channel) -> None:
    """A migration makes a view for a report, and forgets security_invoker."""
    with _as_view(c, "VIEW") as view:
        for by in ("run", "copy"):
            c.trial(f"SELECT t::text FROM {view} t WHERE tenant = {c.target.generation}", by=by)
        c.trial(f"SELECT t::text FROM {view} t WHERE tenant + 0 = {c.target.generation}", by="send")


@attack(
    "B6",
    "materialized-view",
    title="Read a materialized view of shared rows",
    sql="CREATE MATERIALIZED VIEW shared.m AS SELECT * FROM shared.ledger;  -- by a migration; then: SELECT * FROM m",
    why_held="Nothing holds it: PostgreSQL has row security for tables alone.",
    source="PostgreSQL documentation, CREATE POLICY; 39.3 Materialized Views.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=_NO_ROW_SECURITY,
    login=_NO_ROW_SECURITY,
)
def materialized_view(c: Channel) -> None:
    """A migration makes a report fast; whoever may read the shared schema's tables may read it."""
    with _as_view(c, "MATERIALIZED VIEW") as view:
        c.trial(f"SELECT t::text FROM {view} t WHERE tenant = {c.target.generation}")


@attack(
    "B6",
    "partition",
    title="Read and write a shared table's partition directly",
    sql="SELECT * FROM shared.journal_2026",
    why_held="Partitions have the policies of their table, and no rights: only the table leads to them.",
    source="PostgreSQL documentation, 5.9 Row Security Policies: those of the table that is named apply.",
    broken=Weakness.NO_POLICY | Weakness.SHARED_RIGHTS,
    needs=(SHARED_TABLES,),
)
def partition(c: Channel) -> None:
    """A query names a partition, to be faster; policies of the partitioned table do not apply there."""
    part, mine = probe_of(c).journal_part, f"tenant = {c.target.generation}"
    c.trial(f"SELECT t::text FROM {part} t WHERE {mine}", refusals=(DENIED,))
    c.trial(f"DELETE FROM {part} WHERE {mine} RETURNING body", by="send", refusals=(DENIED,))


@attack(
    "B6",
    "new-partition",
    title="Read a partition that was added later",
    sql="CREATE TABLE shared.journal_2027 PARTITION OF shared.journal ...;  -- then: SELECT * FROM shared.journal_2027",
    why_held="It is held once mt_paas.share_rows was called again for the table, or init has run.",
    source="PostgreSQL documentation, ALTER DEFAULT PRIVILEGES; partitions inherit no policies.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=_LATER,
    login=_LATER,
)
def new_partition(c: Channel) -> None:
    """A job adds the partition of the coming month."""
    probe = probe_of(c)
    part = f"{probe.schema}.{quoted(f'mt_isolation_{c.ground.run}_later')}"
    c.ground.as_owner(f"CREATE TABLE {part} PARTITION OF {probe.journal} FOR VALUES IN ('later')")
    try:
        with c.client(c.target, commit=True) as them:
            body = literal(c.ground.canaries[c.target.label].text("later", 1) or "")
            them.send(f"INSERT INTO {probe.journal} (region, kind, body) VALUES ('later', 1, {body})")
        c.trial(f"SELECT body FROM {part} WHERE tenant = {c.target.generation}")
    finally:
        c.ground.as_owner(f"DROP TABLE {part}")


@attack(
    "B7",
    "leaky-functions",
    title="Let a function or a cast of one's own choice look at rows before the policy does",
    sql="SELECT 1 FROM shared.ledger WHERE CASE WHEN tenant = 7 THEN body::int = 0 END  -- the error quotes the body",
    why_held="""
    The server looks at a row through its policy first, unless a function is marked LEAKPROOF, which only a superuser
    can do. Functions of one's own cannot be made, not even in pg_temp.
    """,
    source="PostgreSQL documentation, 39.5 Rules and Privileges; CREATE FUNCTION, LEAKPROOF.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def leaky_functions(c: Channel) -> None:
    """A cheap condition that raises, tells or divides is put before a dear one, if the planner is allowed to."""
    ledger, theirs = probe_of(c).ledger, f"tenant = {c.target.generation}"
    for cast in ("integer", "date", "regclass"):
        c.trial(f"SELECT 1 FROM {ledger} WHERE CASE WHEN {theirs} THEN body::{cast} IS NULL END", by="send")
    for query in (
        f"SELECT 1 FROM {ledger} t JOIN (VALUES (0)) v (n) ON v.n = CASE WHEN {theirs} THEN body::integer END",
        f"SELECT 1 FROM {ledger} GROUP BY CASE WHEN {theirs} THEN body::integer END",
        f"SELECT (SELECT body::integer FROM {ledger} WHERE {theirs} LIMIT 1)",
        f"UPDATE {ledger} SET seat = body::integer WHERE {theirs}",
    ):
        c.trial(query, by="send")
    c.trial(
        "CREATE FUNCTION pg_temp.mt_isolation_tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 "
        "AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$",
        f"SELECT 1 FROM {ledger} WHERE {theirs} AND pg_temp.mt_isolation_tell(body)",
        by="send",
        refusals=(DENIED,),
    )


@attack(
    "B11",
    "copy-shared-rows",
    title="Copy a shared table out",
    sql="COPY (SELECT * FROM shared.ledger) TO STDOUT",
    why_held="COPY TO reads through the policies; COPY FROM is refused on a table with row security.",
    remains="COPY FROM is refused for one's own rows, too; use INSERT.",
    source="PostgreSQL documentation, COPY, Notes on row-level security.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def copy_shared_rows(c: Channel) -> None:
    """An export reads whole tables by another protocol, which most filters do not see."""
    c.trial(_ledger(c), by="copy")
    c.trial(f"SELECT body FROM {probe_of(c).journal} WHERE tenant = {c.target.generation}", by="copy")


@attack(
    "B12",
    "rights-past-policies",
    title="Use rights that policies do not hold back",
    sql="TRUNCATE shared.ledger; CREATE TRIGGER ... ON shared.ledger ...; ALTER TABLE shared.ledger DISABLE ...",
    why_held="Tenants have SELECT, INSERT, UPDATE and DELETE on shared tables, and no other right; they own none.",
    source="PostgreSQL documentation, 5.9 Row Security Policies: TRUNCATE and REFERENCES are not subject to them.",
    broken=Weakness.SHARED_RIGHTS,
    needs=(SHARED_TABLES,),
)
def rights_past_policies(c: Channel) -> None:
    """GRANT ALL is shorter to write than four rights, and gives more: TRUNCATE empties the table for everybody."""
    probe = probe_of(c)
    suppress = "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    for statement in (
        f"TRUNCATE {probe.ledger}",
        f"CREATE TRIGGER mt_isolation_steal BEFORE INSERT ON {probe.ledger} FOR EACH ROW {suppress}",
        f"CREATE RULE mt_isolation_steal AS ON INSERT TO {probe.ledger} DO ALSO NOTIFY mt_isolation",
        f"ALTER TABLE {probe.ledger} DISABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {probe.ledger} NO FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY mt_isolation_open ON {probe.ledger} USING (true)",
        f"DROP POLICY mt_paas_tenant ON {probe.ledger}",
        f"INSERT INTO {probe.plan} VALUES ('gift')",
        f"DELETE FROM {probe.plan}",
    ):
        forbidden(c, statement)


@attack(
    "B13",
    "row-security-off",
    title="Switch row security off",
    sql="SET row_security = off; SELECT * FROM shared.ledger",
    why_held="The setting turns what would be filtered into an error; it opens nothing.",
    source="PostgreSQL documentation, 20.11.1 row_security.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def row_security_off(c: Channel) -> None:
    """Backup tools send it; so may a script that was written for one."""
    for off in ("SET row_security = off", "SELECT set_config('row_security', 'off', true)"):
        for by in ("run", "raw"):
            c.trial(off, _ledger(c), by=by, refusals=(DENIED,))


@attack(
    "B14",
    "parallel-workers",
    title="Read in parallel workers, and not in the session's own process",
    sql="SET parallel_setup_cost = 0; ...; SELECT * FROM shared.ledger",
    why_held="Workers carry the role that is in force, and what a policy asks is asked once, before they start.",
    source="PostgreSQL documentation, 15.4 Parallel Safety; 20.7.4 parallel_setup_cost.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def parallel_workers(c: Channel) -> None:
    """A large table is read by several processes; a context that stays in one of them would not be there in others."""
    query = f"SELECT t::text FROM {probe_of(c).journal} t WHERE tenant = {c.target.generation}"
    with c.trying("in workers"), c.client() as me:
        me.raw(
            "SELECT set_config(name, CASE WHEN vartype = 'enum' THEN 'on' WHEN name LIKE 'max%' THEN '2' ELSE '0' END, "
            "true) FROM pg_settings WHERE name IN ('debug_parallel_query', 'force_parallel_mode', "
            "'parallel_setup_cost', 'parallel_tuple_cost', 'min_parallel_table_scan_size', "
            "'max_parallel_workers_per_gather')"
        )
        if "Gather" not in str(me.raw(f"EXPLAIN {query}")):
            raise LookupError("the plan is not a parallel one")
        me.raw(query)


@attack(
    "B15",
    "shared-rows",
    title="Read another tenant's rows in the tables that tenants share",
    sql="SELECT * FROM shared.ledger WHERE tenant = 7; SELECT ... FOR UPDATE; DECLARE ... CURSOR; EXECUTE ...",
    why_held="""
    The policy adds its condition to whatever reads the table, and is TO PUBLIC and asked at run time, so that no plan
    and no role goes around it.
    """,
    source="PostgreSQL documentation, 5.9 Row Security Policies; CVE-2024-10976, for plans that are used again.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def shared_rows(c: Channel) -> None:
    """A query forgets whose rows it wants, or wants another's. On the user's own shared tables, too."""
    for table in c.ground.shared_tables:
        with c.trying(f"count {table.name}"), c.client() as me:
            ((count,),) = me.send(f"SELECT count(*) FROM {table.name} WHERE {table.of(c.target.generation)}")
            if count:
                c.learned(f"{count} rows of {table.name}")
    ledger, theirs = probe_of(c).ledger, f"t.tenant = {c.target.generation}"
    for query in (
        _ledger(c),
        f"{_ledger(c)} FOR UPDATE",
        f"SELECT t::text FROM {ledger} t TABLESAMPLE SYSTEM (100) WHERE {theirs}",
        f"SELECT t::text FROM {ledger} t WHERE {theirs} AND t.ctid >= '(0,0)'",
        f"SELECT jsonb_agg(t)::text FROM {ledger} t WHERE {theirs}",
        f"SELECT t.body FROM {ledger} m, LATERAL (SELECT * FROM {ledger} t WHERE {theirs}) t",
        f"SELECT (SELECT t.body FROM {ledger} t WHERE {theirs})",
    ):
        c.trial(query, by="run")
    c.trial(f"DECLARE mt_isolation CURSOR FOR {_ledger(c)}", "FETCH ALL FROM mt_isolation", by="send")
    with c.trying("EXECUTE of what the target has prepared", refusals=("26000",)):
        with c.client(c.target, commit=True) as them:
            them.raw(f"PREPARE mt_isolation_shared AS {_ledger(c)}")
            for _ in range(7):  # from the sixth on the plan may be a generic one
                them.raw("EXECUTE mt_isolation_shared")
        with c.client() as me:
            me.raw("EXECUTE mt_isolation_shared")


@attack(
    "B15",
    "shared-writes",
    title="Write another tenant's rows in the tables that tenants share",
    sql="UPDATE shared.ledger SET ... WHERE tenant = 7 RETURNING *; INSERT INTO shared.ledger (tenant) VALUES (7)",
    why_held="""
    What one does not see one does not change; and a row that is written must be one's own (WITH CHECK), so that none
    can be given away.
    """,
    source="PostgreSQL documentation, CREATE POLICY, WITH CHECK.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def shared_writes(c: Channel) -> None:
    """A wrong number in a statement that writes; RETURNING would show what was there."""
    ledger, journal, theirs = probe_of(c).ledger, probe_of(c).journal, c.target.generation
    for statement in (
        f"UPDATE {ledger} t SET seat = seat WHERE tenant = {theirs} RETURNING t::text",
        f"WITH gone AS (DELETE FROM {ledger} t WHERE tenant = {theirs} RETURNING t::text) SELECT * FROM gone",
        f"DELETE FROM {journal} t WHERE tenant = {theirs} RETURNING t::text",
        f"UPDATE {ledger} t SET body = t.body || v.body FROM {ledger} v WHERE v.tenant = {theirs} RETURNING v.body",
    ):
        c.trial(statement, by="send")
    if c.target is not c.me:
        insert = f"INSERT (tenant, kind, body) VALUES ({theirs}, 1, 'planted')"
        for statement in (
            insert.replace("INSERT", f"INSERT INTO {journal}"),
            f"UPDATE {journal} SET tenant = {theirs}",
            f"MERGE INTO {journal} USING (VALUES (1)) v (n) ON false WHEN NOT MATCHED THEN {insert}",
        ):
            forbidden(c, statement)


@attack(
    "B15",
    "rows-of-a-predecessor",
    title="Be created under the id of a tenant whose rows are still in shared tables",
    sql="SELECT * FROM shared.ledger  -- as the heir of an id",
    why_held="Rows belong to a generation, which no tenant is ever given again; an id can be.",
    source="PostgreSQL documentation, 5.9 Row Security Policies.",
    broken=Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def rows_of_a_predecessor(c: Channel) -> None:
    """A customer leaves, and its rows in an audit log stay; another customer takes the name."""
    heir = c.ground.heir
    with c.trying("rows", viewer=heir), c.client(heir) as client:
        for table in probe_of(c).tables:
            client.send(f"SELECT t::text FROM {table.name} t")


@attack(
    "B16",
    "shared-rows-without-a-tenant",
    title="Read shared rows while no tenant's context is set",
    sql="RESET ROLE; SELECT * FROM shared.ledger",
    why_held="The login may not use the shared schemas; and for a role that is no tenant's, the context is null.",
    source="PostgreSQL documentation, current_setting(): a custom setting that was once set is empty, and not null.",
    broken=Weakness.INHERIT | Weakness.NO_POLICY,
    needs=(SHARED_TABLES,),
)
def shared_rows_without_a_tenant(c: Channel) -> None:
    """A policy that takes an empty context for "all" opens the table to whoever forgot to set one."""
    query = _ledger(c)
    for leave in (
        "RESET ROLE",
        "COMMIT",
        "SELECT set_config('mt_paas.tenant', '', true), set_config('role', 'none', true)",
    ):
        with c.trying(leave, refusals=(DENIED, UNDEFINED_TABLE)) as trial, c.client() as me:
            me.raw(leave)
            rows = me.raw(query)
            if c.tier == "login" and not rows:  # a tenant's own login may ask, and is no tenant itself
                trial.reach("the server answers with no row")
    with c.trying("at rest", refusals=(DENIED, UNDEFINED_TABLE)), c.at_rest() as ask:
        ask(query)
