"""Published vulnerabilities of PostgreSQL in what isolation leans on: whether the server has them, or not.

A minor version that is fixed closes them for everybody. These are about the time before that: the form that policies,
keys and rights have here is one that the fault does not reach.
"""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mt_paas_db.isolation.attack import NotApplicable, Weakness, attack
from mt_paas_db.isolation.attacks.e_definitions import common_schema, content
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.ground import quoted

_NOTES = "PostgreSQL {} release notes, {}."

_POLICIES = """
DO $$
DECLARE p record;
BEGIN
    FOR p IN SELECT * FROM mt_paas.declared_policies('{schema}.doc', 'tenants', 'tenant') LOOP
        EXECUTE format('CREATE POLICY %I ON {schema}.doc AS %s TO %s USING (%s) WITH CHECK (%s)', p.name,
                       CASE WHEN p.permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE WHEN p.roles = ARRAY[CAST(0 AS oid)] THEN 'PUBLIC'
                            ELSE quote_ident(pg_get_userbyid(p.roles[1])) END, p.predicate, p.predicate);
    END LOOP;
END $$
"""


@contextmanager
def shared_table(c: Channel, *statements: str, parted: bool = False) -> Iterator[str]:
    """Make a table that tenants share, with this library's policies and rights, and a row of the target's alone in it.

    Yields its schema's quoted name; it is ``doc`` there. `statements`, in which ``{schema}`` is that name, come after.
    """
    roles = ", ".join(dict.fromkeys((quoted(c.me.role), quoted(c.target.role))))
    body = content(c, c.target, "doc")
    parts = ("CREATE TABLE {schema}.leaf PARTITION OF {schema}.doc DEFAULT",) if parted else ()
    closed = [
        f"ALTER TABLE {{schema}}.{table} {how} ROW LEVEL SECURITY"
        for table in ("doc", *("leaf",) * parted)
        for how in ("ENABLE", "FORCE")
    ]
    with common_schema(
        c,
        "CREATE TABLE {schema}.doc (tenant bigint NOT NULL DEFAULT mt_paas.tenant(), id int, body text, tags text[], "
        f"PRIMARY KEY (tenant, id)){' PARTITION BY RANGE (tenant)' if parted else ''}",
        *parts,
        f"INSERT INTO {{schema}}.doc VALUES ({c.target.generation}, 1, {body}, ARRAY[{body}])",
        *closed,
        _POLICIES,
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {{schema}}.doc TO {roles}",
        *(statement.replace("{roles}", roles) for statement in statements),
    ) as schema:
        yield schema


@attack(
    "CVE-2026-120154",
    "on-conflict",
    title="Let ON CONFLICT DO UPDATE evaluate a condition on a row that a policy hides",
    sql="INSERT INTO shared.doc ... ON CONFLICT (tenant, id) DO UPDATE SET ... WHERE doc.body::int = 0",
    why_held="""
    The keys of shared tables lead with the tenant. To meet another tenant's row, a new one must bear that tenant, and
    its policy refuses that before any conflict is looked for.
    """,
    remains="A key without the tenant in it; the audit names those.",
    source=_NOTES.format("15.20", "CVE-2026-120154"),
    broken=Weakness.OPEN_POLICY,
)
def on_conflict(c: Channel) -> None:
    """A condition that fails on what it is given tells it in its error, before the policy is asked."""
    conflict = "ON CONFLICT (tenant, id) DO UPDATE SET body = 'y' WHERE doc.body::int = 0"
    with shared_table(c) as schema:
        c.trial(
            f"INSERT INTO {schema}.doc (tenant, id, body) VALUES ({c.target.generation}, 1, 'x') {conflict}",
            by="send",
            refusals=(DENIED,),
        )
        c.trial(f"INSERT INTO {schema}.doc (id, body) VALUES (1, 'x') {conflict}", by="send")


@attack(
    "CVE-2026-16237",
    "view-on-conflict",
    title="Update, and have returned, a row that a view's condition hides",
    sql="INSERT INTO view ... ON CONFLICT (tenant, id) DO UPDATE SET body = view.body RETURNING body",
    why_held="Policies stand on the table, below every view; they ask who is calling, also in a view of the owner's.",
    remains="A view that filters by itself, over a table without policies, was no wall before 15.20.",
    source=_NOTES.format("15.20", "CVE-2026-16237"),
    broken=Weakness.OPEN_POLICY,
)
def view_on_conflict(c: Channel) -> None:
    """A view shows each tenant its own rows; an insert through it, or below it, meets a row that it does not show."""
    views = [
        statement
        for name, how in (("owners", ""), ("invokers", "WITH (security_invoker) "))
        for statement in (
            f"CREATE VIEW {{schema}}.{name} {how}AS SELECT * FROM {{schema}}.doc WHERE tenant = mt_paas.tenant()",
            f"GRANT SELECT, INSERT, UPDATE ON {{schema}}.{name} TO {{roles}}",
        )
    ]
    with shared_table(c, *views) as schema:
        for name in ("owners", "invokers", "doc"):
            c.trial(
                f"INSERT INTO {schema}.{name} AS d (tenant, id, body) VALUES ({c.target.generation}, 1, 'x') "
                "ON CONFLICT (tenant, id) DO UPDATE SET body = d.body RETURNING d.body",
                by="send",
                refusals=(DENIED,),
            )


@attack(
    "CVE-2026-116327",
    "array-coercion",
    title="Let a cast of an array be evaluated before the condition that hides the row",
    sql="SELECT id FROM shared.doc WHERE tags::int[] IS NOT NULL",
    why_held="""
    The fault lets a cast that can fail stand on a level with the policy; the cheaper goes first. A comparison of two
    numbers, one of them looked up once for the query, is as cheap as can be.
    """,
    remains="A security_barrier view whose own condition is expensive, on servers before 15.20.",
    source=_NOTES.format("15.20", "CVE-2026-116327"),
    broken=Weakness.OPEN_POLICY,
)
def array_coercion(c: Channel) -> None:
    """A cast fails on the first value that is no number, and its error tells the value."""
    barrier = (
        "CREATE VIEW {schema}.barrier WITH (security_barrier) AS SELECT * FROM {schema}.doc WHERE tenant > 0",
        "GRANT SELECT ON {schema}.barrier TO {roles}",
    )
    with shared_table(c, *barrier) as schema:
        for table in ("doc", "barrier"):
            c.trial(f"SELECT id FROM {schema}.{table} WHERE tags::int[] IS NOT NULL", by="send")


@attack(
    "CVE-2026-116311",
    "drop-owned-policies",
    title="Take one's own role out of a restrictive policy",
    sql="DROP OWNED BY CURRENT_USER; SELECT * FROM shared.doc",
    why_held="Policies that narrow are for PUBLIC; there is no role in them to take out.",
    remains="Restrictive policies that a service writes by hand, TO some roles, on servers before 15.20.",
    source=_NOTES.format("15.20", "CVE-2026-116311"),
    broken=Weakness.OPEN_POLICY,
)
def drop_owned_policies(c: Channel) -> None:
    """Hostile text drops what is its own. Undone here: the transaction is rolled back."""
    with shared_table(c) as schema, c.trying("DROP OWNED BY CURRENT_USER"), c.client() as me:
        with suppress(*ANSWERS), me.session.begin_nested():  # some of its rights it may not take from itself
            me.send("DROP OWNED BY CURRENT_USER")
        me.send(f"SELECT * FROM {schema}.doc")


@attack(
    "CVE-2026-14666",
    "revoked-membership",
    title="Run a plan that was made before a membership was revoked",
    sql="PREPARE q AS SELECT * FROM {target}.note;  -- the tenant is suspended; then: EXECUTE q",
    why_held="No policy asks for memberships, and rights are checked each time that a plan runs.",
    source=_NOTES.format("15.19", "CVE-2026-14666"),
    broken=Weakness.STRAY_GRANT,
)
def revoked_membership(c: Channel) -> None:
    """A tenant is suspended, which takes its role from the login; a pooled connection still has its plans."""
    with c.trying("EXECUTE", refusals=(DENIED,)):
        with c.client(c.target, commit=True) as them:
            them.raw(f"PREPARE mt_isolation_kept AS {c.read(c.target)}")
            for _ in range(7):  # from the sixth on the plan may be a generic one
                them.raw("EXECUTE mt_isolation_kept")
        c.ground.manager.suspend(c.target.tenant_id)
        try:
            with c.at_rest_as_left() as ask:
                ask("EXECUTE mt_isolation_kept")
        finally:
            c.ground.manager.resume(c.target.tenant_id)


@attack(
    "CVE-2025-8713",
    "statistics",
    title="Let a leaky operator be applied to the sampled values of a table's partitions",
    sql="CREATE OPERATOR pg_temp.<<< (FUNCTION = leak, RESTRICT = eqsel); EXPLAIN SELECT ... WHERE body <<< 'x'",
    why_held="Tenants may make neither functions nor operators; and partitions are granted to nobody.",
    source=_NOTES.format("15.14", "CVE-2025-8713"),
    broken=Weakness.OPEN_POLICY | Weakness.TEMP_ALLOWED,
)
def statistics(c: Channel) -> None:
    """The planner tries an operator on what ANALYZE has sampled; a function of one's own tells what it was given."""
    with shared_table(c, "ANALYZE {schema}.doc", parted=True) as schema:
        with c.trying("an operator of one's own", refusals=(DENIED,)), c.client() as me:
            me.raw(
                "CREATE FUNCTION pg_temp.leak(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
                "$$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
            )
            me.raw(
                "CREATE OPERATOR pg_temp.<<< "
                "(LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.leak, RESTRICT = eqsel)"
            )
            for table in ("doc", "leaf"):
                me.raw(f"EXPLAIN SELECT * FROM {schema}.{table} WHERE body OPERATOR(pg_temp.<<<) 'x'")
        c.trial(f"SELECT * FROM {schema}.leaf", by="send", refusals=(DENIED,))
        c.trial(f"SELECT * FROM {schema}.doc", by="send")


def _run_again(c: Channel, *statements: str) -> None:
    """Prepare statements as the target, run each until it has a generic plan, and once more as the attacker."""
    for number, statement in enumerate(statements):
        plan = f"mt_isolation_again_{number}"  # drivers remember by its name what EXECUTE returns
        with c.trying(statement):
            with c.client(c.target, commit=True) as them:
                them.raw(f"PREPARE {plan} AS {statement}")
                for _ in range(7):
                    them.raw(f"EXECUTE {plan}")
            with c.client() as me:
                me.raw(f"EXECUTE {plan}")


_AT_RUN_TIME = """
There is one policy, TO PUBLIC, and it looks up who is asking when the query runs. Which role it was planned for makes
no difference.
"""


@attack(
    "CVE-2024-10976",
    "plan-below-top",
    title="Run a plan made for another role, where the table stands in a sub-query, a WITH or a view",
    sql="PREPARE q AS WITH d AS (SELECT * FROM shared.doc) SELECT * FROM d;  -- SET ROLE; EXECUTE q",
    why_held=_AT_RUN_TIME,
    source=_NOTES.format("15.9", "CVE-2024-10976"),
    broken=Weakness.OPEN_POLICY,
)
def plan_below_top(c: Channel) -> None:
    """The plan is not marked as one that depends on the role, and serves the next tenant on the connection."""
    view = (
        "CREATE VIEW {schema}.seen WITH (security_invoker) AS SELECT * FROM {schema}.doc",
        "GRANT SELECT ON {schema}.seen TO {roles}",
    )
    with shared_table(c, *view) as schema:
        _run_again(
            c,
            f"WITH d AS (SELECT * FROM {schema}.doc) SELECT * FROM d",
            f"SELECT (SELECT string_agg(body, ',') FROM {schema}.doc)",
            f"SELECT * FROM {schema}.seen",
        )


@attack(
    "CVE-2023-2455",
    "plan-of-inlined-function",
    title="Run a plan made for another role, where the table stands in a function that was inlined",
    sql="PREPARE q AS SELECT * FROM shared.listing();  -- SET ROLE; EXECUTE q",
    why_held=_AT_RUN_TIME,
    source=_NOTES.format("15.3", "CVE-2023-2455"),
    broken=Weakness.OPEN_POLICY,
)
def plan_of_inlined_function(c: Channel) -> None:
    """A set-returning SQL function is put into the query as if it had been written there."""
    functions = [
        statement
        for name, body in (
            ("listing", "SELECT body FROM {schema}.doc"),
            ("with_listing", "WITH d AS (SELECT body FROM {schema}.doc) SELECT body FROM d"),
        )
        for statement in (
            f"CREATE FUNCTION {{schema}}.{name}() RETURNS SETOF text LANGUAGE sql STABLE AS $$ {body} $$",
            f"GRANT EXECUTE ON FUNCTION {{schema}}.{name}() TO {{roles}}",
        )
    ]
    with shared_table(c, *functions) as schema:
        _run_again(c, *(f"SELECT * FROM {schema}.{name}()" for name in ("listing", "with_listing")))


@attack(
    "CVE-2024-10978",
    "lost-role",
    title="Lose the role by SET LOCAL SESSION AUTHORIZATION and ROLLBACK",
    sql="SET LOCAL SESSION AUTHORIZATION login; ROLLBACK; SELECT * FROM {target}.note",
    why_held="What is left is the login role, which has no rights; and the next transaction takes its role anew.",
    source=_NOTES.format("15.9", "CVE-2024-10978"),
    broken=Weakness.INHERIT,
)
def lost_role(c: Channel) -> None:
    """Restoring the session's user forgets which role was in force."""
    for end in ("ROLLBACK", "COMMIT"):
        with c.trying(end, refusals=(DENIED,)), c.client() as me:
            ((login,),) = me.raw("SELECT session_user::text")
            me.raw(f"SET LOCAL SESSION AUTHORIZATION {quoted(login)}")
            me.raw(end)
            me.raw(c.read(c.target))
    with c.trying("the next session"), c.client() as me:
        me.send(c.read())


@attack(
    "CVE-2023-39418",
    "merge",
    title="Let MERGE act on, or make, a row that a policy forbids",
    sql="MERGE INTO shared.doc USING ... ON doc.tenant = {target} WHEN MATCHED AND doc.body::int = 0 THEN DELETE",
    why_held="The policy is the same for all commands, so that it does not matter which of them MERGE applies.",
    source=_NOTES.format("15.4", "CVE-2023-39418"),
    broken=Weakness.OPEN_POLICY,
)
def merge(c: Channel) -> None:
    """MERGE updates under the policies of INSERT."""
    theirs = f"(SELECT {c.target.generation}::bigint AS tenant, 1 AS id) s"
    with shared_table(c) as schema:
        c.trial(
            f"MERGE INTO {schema}.doc d USING {theirs} ON d.tenant = s.tenant AND d.id = s.id "
            "WHEN MATCHED AND d.body::int = 0 THEN DELETE",
            by="send",
        )
        with c.trying("a row given to another", refusals=(DENIED,)) as trial, c.client() as me:
            me.send(f"INSERT INTO {schema}.doc (id, body) VALUES (2, 'x')")
            me.send(
                f"MERGE INTO {schema}.doc d USING {theirs} ON d.id = 2 WHEN MATCHED THEN UPDATE SET tenant = s.tenant"
            )
            trial.reach("it was carried out")
            if c.target is not c.me:
                c.learned("a row of the attacker's stands among the victim's")


NOT_TRIED = (
    NotApplicable(
        "CVE-2018-1058",
        "Have a function of one's own called by who has the schema on the path",
        "it is carried out as E1",
    ),
    NotApplicable(
        "CVE-2022-1552",
        "Have maintenance commands run a table owner's code with higher rights",
        "tenants own nothing: no table, no index, no materialized view, no function",
    ),
    NotApplicable(
        "CVE-2024-0985",
        "Have REFRESH MATERIALIZED VIEW CONCURRENTLY run its owner's code with higher rights",
        "tenants own nothing: no table, no index, no materialized view, no function",
    ),
    NotApplicable(
        "CVE-2023-2454",
        "Defeat the fixed path of a function with its owner's rights by CREATE SCHEMA",
        "tenants and login roles may not create schemas; that they may not is carried out as E1",
    ),
    NotApplicable(
        "CVE-2024-4317",
        "Read the most common values of another's columns in pg_stats_ext",
        "it lies in a view of the server's catalogs, for which nothing but a fixed minor version, and its script in "
        "databases that were made before, is a cure; the audit names servers that lack it",
    ),
    NotApplicable(
        "CVE-2026-16239",
        "Read the server's memory by EXECUTE and FETCH",
        "no layer holds against a fault in the server's memory; a fixed minor version is the only cure",
    ),
    NotApplicable(
        "CVE-2025-12819",
        "Have PgBouncer look a login up on a search_path of one's own",
        "it takes a PgBouncer before 1.25.1 that tracks search_path, which ours never does; the audit names both",
    ),
    NotApplicable(
        "CVE-2025-12817",
        "Create statistics in a schema in which one may create nothing",
        "the owner of a table is needed for it, and tenants own none",
    ),
    NotApplicable(
        "CVE-2026-120146",
        "Hand objects to a role that one was granted WITH INHERIT TRUE, SET FALSE",
        "roles are granted WITH INHERIT FALSE, SET TRUE, and neither tenants nor logins own an object; "
        "REASSIGN OWNED is carried out as E5",
    ),
    NotApplicable(
        "CVE-2026-116303",
        "Have a cast carried out whose function one may not execute",
        "tenants can make no casts, and the library's functions are none",
    ),
    NotApplicable(
        "CVE-2026-116316",
        "Shadow a type by one in pg_temp that security-restricted code has made",
        "nobody may make temporary objects; that they may not is carried out as E1 and C1",
    ),
    NotApplicable(
        "CVE-2026-6467",
        "Put objects of one's own into an extension while it is being installed",
        "tenants may create nothing in any schema; extensions are installed by the server's administrators",
    ),
)
