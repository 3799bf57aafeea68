"""Family D, first half: what PostgreSQL's own catalogs, statistics and views of activity show of other tenants."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal(), numbers are generations

from __future__ import annotations

from mt_paas_db.isolation.attack import Need, Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import literal
from mt_paas_db.isolation.attacks.trials import DIRECT
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.client import Client
from mt_paas_db.isolation.ground import quoted

_CATALOGS = not_promised(
    "every role reads the catalogs, and taking that away breaks drivers; opaque_names keeps ids out of names"
)
_HIDDEN = "<insufficient privilege>"


def _secret(c: Channel, place: str) -> str:
    """Return something of the target's, as a literal for a statement that the attacker never sees."""
    return literal(c.ground.canaries[c.target.label].text(place, 1) or "")


@attack(
    "D1",
    "names",
    title="List other tenants' schemas, roles and tables",
    sql="SELECT nspname FROM pg_namespace; SELECT rolname FROM pg_roles; SELECT 16384::regnamespace",
    why_held="Nothing holds it. With opaque_names, role and schema names hold random characters instead of the id.",
    remains="How many tenants there are.",
    source="PostgreSQL documentation, 52 System Catalogs: readable by all roles.",
    broken=Weakness.NONE,
    role=_CATALOGS,
    login=_CATALOGS,
)
def names(c: Channel) -> None:
    """A customer list is a secret, and the catalogs hold the names of all schemas."""
    schema = literal(c.target.schema)
    for query in (
        f"SELECT nspname FROM pg_namespace WHERE nspname = {schema}",
        f"SELECT rolname FROM pg_roles WHERE rolname = {schema}",
        f"SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {schema}",
        f"SELECT tablename FROM pg_tables WHERE schemaname = {schema}",
        f"SELECT oid::regnamespace::text FROM pg_namespace WHERE nspname = {schema}",
    ):
        with c.trying(query), c.client() as me:
            if me.run(query):
                c.learned(f"there is a schema {c.target.schema}")


@attack(
    "D1",
    "information-schema",
    title="List other tenants' tables and columns in the information schema",
    sql="SELECT * FROM information_schema.tables WHERE table_schema = '{target}'",
    why_held="The information schema shows what the current role has rights on.",
    source="PostgreSQL documentation, 37 The Information Schema.",
    broken=Weakness.STRAY_GRANT,
)
def information_schema(c: Channel) -> None:
    """A tool that looks at the information schema shows a customer what is not the customer's."""
    for view, column in (
        ("tables", "table_schema"),
        ("columns", "table_schema"),
        ("table_privileges", "table_schema"),
        ("role_table_grants", "table_schema"),
    ):
        with c.trying(view), c.client() as me:
            query = f"SELECT count(*) FROM information_schema.{view} WHERE {column} = {literal(c.target.schema)}"
            ((count,),) = me.run(query)
            if count:
                c.learned(f"{count} {view}")


@attack(
    "D2",
    "definitions",
    title="Read comments, defaults and bodies of another tenant's objects",
    sql="SELECT description FROM pg_description; SELECT prosrc FROM pg_proc; SELECT enumlabel FROM pg_enum",
    why_held="Nothing holds it: definitions stand in catalogs that all roles read.",
    remains="All tenants have the same definitions; put nothing of one tenant's into DDL.",
    source="PostgreSQL documentation, 52 System Catalogs.",
    broken=Weakness.NONE,
    role=not_promised("definitions stand in catalogs that all roles read; put no tenant's data into DDL"),
    login=not_promised("definitions stand in catalogs that all roles read; put no tenant's data into DDL"),
)
def definitions(c: Channel) -> None:
    """A migration writes a customer's name into a comment, a label or a default."""
    schema = quoted(c.target.schema)
    c.ground.as_owner(
        f"CREATE TYPE {schema}.mt_isolation_label AS ENUM ({_secret(c, 'label')})",
        f"COMMENT ON TYPE {schema}.mt_isolation_label IS {_secret(c, 'comment')}",
        f"CREATE FUNCTION {schema}.mt_isolation_body() RETURNS text LANGUAGE sql AS $$ SELECT {_secret(c, 'body')} $$",
        f"CREATE VIEW {schema}.mt_isolation_view AS SELECT {_secret(c, 'view')} AS word",
    )
    try:
        for query in (
            "SELECT description FROM pg_description WHERE description LIKE 'canary-%'",
            "SELECT enumlabel FROM pg_enum WHERE enumlabel LIKE 'canary-%'",
            "SELECT prosrc FROM pg_proc WHERE proname = 'mt_isolation_body'",
            "SELECT pg_get_viewdef(oid) FROM pg_class WHERE relname = 'mt_isolation_view'",
        ):
            c.trial(query)
    finally:
        c.ground.as_owner(
            f"DROP TYPE {schema}.mt_isolation_label",
            f"DROP FUNCTION {schema}.mt_isolation_body()",
            f"DROP VIEW {schema}.mt_isolation_view",
        )


@attack(
    "D3",
    "sizes",
    title="Learn how many rows another tenant's tables have, and how often they change",
    sql="SELECT reltuples FROM pg_class; SELECT n_tup_ins FROM pg_stat_all_tables; SELECT pg_relation_size(16384)",
    why_held="Nothing holds it: counters and sizes are open to all.",
    source="PostgreSQL documentation, 27.2 The Cumulative Statistics System; pg_class.",
    broken=Weakness.NONE,
    role=not_promised("counters and sizes are open to every role"),
    login=not_promised("counters and sizes are open to every role"),
)
def sizes(c: Channel) -> None:
    """How much a competitor uses a service is worth knowing."""
    schema, table = literal(c.target.schema), literal(c.ground.probe)
    c.ground.as_owner(f"ANALYZE {quoted(c.target.schema)}.{quoted(c.ground.probe)}")
    named = f"relname = {table} AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {schema})"
    for query in (
        f"SELECT reltuples FROM pg_class WHERE {named}",
        f"SELECT pg_relation_size(oid) FROM pg_class WHERE {named}",
        f"SELECT n_live_tup FROM pg_stat_all_tables WHERE schemaname = {schema} AND relname = {table}",
    ):
        with c.trying(query), c.client() as me:
            ((number,),) = me.run(query)
            if number and number > 0:
                c.learned(f"{number:.0f}: {query}")


@attack(
    "D3",
    "column-statistics",
    title="Read the values that the planner has sampled from another tenant's columns",
    sql="SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE schemaname = '{target}'",
    why_held="""
    pg_stats shows what the role may read, and nothing of tables with row security; what lies below it is a
    superuser's.
    """,
    source="PostgreSQL documentation, pg_stats; CVE-2017-7484.",
    broken=Weakness.STRAY_GRANT,
)
def column_statistics(c: Channel) -> None:
    """Statistics hold values themselves: names, addresses, whatever is in the column."""
    c.ground.as_owner(f"ANALYZE {quoted(c.target.schema)}.{quoted(c.ground.probe)}")
    shown = f"FROM pg_stats WHERE schemaname = {literal(c.target.schema)} AND tablename = {literal(c.ground.probe)}"
    with c.trying("pg_stats") as trial, c.client() as me:
        me.send(f"SELECT most_common_vals::text, histogram_bounds::text {shown}")
        if c.ground.guarded:
            trial.reach("the table has row security, of which pg_stats shows nothing")
    for table, column in (("pg_statistic", "starelid"), ("pg_statistic_ext_data", "stxoid")):
        c.trial(f"SELECT {column} FROM {table} LIMIT 1", by="send", refusals=(DENIED,))
    if c.ground.shared is not None:
        part = c.ground.shared.journal_part
        c.ground.as_owner(f"ANALYZE {part}")
        with c.trying("pg_stats of shared rows") as trial, c.client() as me:
            me.send("SELECT most_common_vals::text FROM pg_stats WHERE tablename LIKE 'mt_isolation_%'")
            ((sampled,),) = c.ground.as_owner(f"SELECT reltuples FROM pg_class WHERE oid = {literal(part)}::regclass")
            if sampled > 0:
                trial.reach("the shared table has statistics")


@attack(
    "D4",
    "statements-of-others",
    title="Read the statements that other tenants' sessions are at",
    sql="SELECT query FROM pg_stat_activity",
    why_held="A statement's text is shown to who has the rights of the connection's login, and no tenant's role has.",
    remains="That there is a session, since when, and in what state it is.",
    source="PostgreSQL documentation, 27.2.3 pg_stat_activity.",
    broken=Weakness.MONITORING,
    needs=(DIRECT,),
)
def statements_of_others(c: Channel) -> None:
    """A query with a customer's name in it runs in another session."""
    with c.trying("pg_stat_activity") as trial, c.client(c.target, beside=True) as them:
        process = _at_something(c, them)
        with c.client() as me:
            rows = me.run(f"SELECT query FROM pg_stat_activity WHERE pid = {process}")
            if rows == [(_HIDDEN,)]:
                trial.reach("the session is there, and its statement is not shown")
    with c.trying("pg_cancel_backend", refusals=(DENIED,)), c.client(c.target, beside=True) as them:
        process = them.backend
        with c.client() as me:
            me.run(f"SELECT pg_cancel_backend({process})")
            if c.target is not c.me:
                c.learned("another tenant's statement can be cancelled")


def _at_something(c: Channel, them: Client) -> int:
    """Let a session be at a statement with a secret in it; return its server process."""
    process = them.backend
    them.raw(f"SELECT 1 WHERE {_secret(c, 'statement')} = ''")
    return process


@attack(
    "D4",
    "statements-as-login",
    title="The same, as the login that all tenants share",
    sql="SET ROLE NONE; SELECT query FROM pg_stat_activity; SELECT pg_terminate_backend(...)",
    why_held="At tier `login` the sessions of others belong to other logins.",
    source="PostgreSQL documentation, 27.2.3 pg_stat_activity; 9.27.2 Server Signaling Functions.",
    broken=Weakness.NONE,
    needs=(DIRECT,),
    role=not_promised(
        "all tenants' connections belong to one login, which sees their statements and may end them; bind values, so "
        "that a statement's text holds none"
    ),
)
def statements_as_login(c: Channel) -> None:
    """Whole hostile statements, or a library that gives the role back."""
    with c.trying("pg_stat_activity"), c.client(c.target, beside=True) as them:
        process = _at_something(c, them)
        with c.client() as me:
            me.raw("SET ROLE NONE")  # RESET ROLE would lead a tenant's own login back to its tenant's role
            me.raw(f"SELECT query FROM pg_stat_activity WHERE pid = {process}")


@attack(
    "D4",
    "prepared-statements",
    title="Read the text of statements that the connection's last tenant has prepared",
    sql="SELECT statement FROM pg_prepared_statements; SELECT statement FROM pg_cursors",
    why_held="At tier `login` a tenant's connections are nobody else's.",
    source="PostgreSQL documentation, pg_prepared_statements.",
    broken=Weakness.NONE,
    role=not_promised(
        "statements stay prepared on the connection, which is what preparing is for; bind values, so that a "
        "statement's text holds none"
    ),
)
def prepared_statements(c: Channel) -> None:
    """A value that was written into a statement's text stays there for the next tenant to read."""
    with c.trying("pg_prepared_statements"):
        with c.client(c.target, commit=True) as them:
            them.send(f"PREPARE mt_isolation_told AS SELECT 1 WHERE {_secret(c, 'prepared')} = ''")
        with c.client() as me:
            me.send("SELECT statement FROM pg_prepared_statements")


@attack(
    "D5",
    "locks",
    title="See what other tenants have locked",
    sql="SELECT locktype, relation::regclass, classid, objid FROM pg_locks",
    why_held="Nothing holds it: the view is open to all.",
    source="PostgreSQL documentation, pg_locks; 13.3.5 Advisory Locks.",
    broken=Weakness.NONE,
    needs=(DIRECT,),
    role=not_promised("pg_locks is open to every role; put nothing of a tenant into an advisory lock's key"),
    login=not_promised("pg_locks is open to every role; put nothing of a tenant into an advisory lock's key"),
)
def locks(c: Channel) -> None:
    """Which table another tenant is at, and the keys of its advisory locks."""
    key = c.target.generation
    with c.trying("pg_locks"), c.client(c.target, beside=True) as them:
        them.raw(f"SELECT pg_advisory_xact_lock(1836345188, {key})")
        them.raw(c.read())
        with c.client() as me:
            if me.raw(f"SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = {key} AND classid = 1836345188"):
                c.learned("the key of an advisory lock")
            named = f"relname = {literal(c.ground.probe)} AND nspname = {literal(c.target.schema)}"
            if me.raw(
                "SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation "
                f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {named}"
            ):
                c.learned("the table that another tenant reads at this moment")


@attack(
    "D5",
    "advisory-locks",
    title="Take an advisory lock that another tenant needs",
    sql="SELECT pg_try_advisory_xact_lock(42)  -- false: somebody else has it",
    why_held="Nothing holds it: an advisory lock's key is the database's, whoever takes it.",
    remains="Make the tenant part of the key: hashtextextended(tenant || name, 0).",
    source="PostgreSQL documentation, 13.3.5 Advisory Locks.",
    broken=Weakness.NONE,
    needs=(DIRECT,),
    role=not_promised("advisory locks have no owner; make the tenant part of the key"),
    login=not_promised("advisory locks have no owner; make the tenant part of the key"),
)
def advisory_locks(c: Channel) -> None:
    """A job locks by a number that is the same for all customers: they wait for each other, and can see it."""
    with c.trying("pg_try_advisory_xact_lock"), c.client(c.target, beside=True) as them:
        them.raw("SELECT pg_advisory_xact_lock(1836345188, 42)")
        with c.client() as me:
            if me.raw("SELECT pg_try_advisory_xact_lock(1836345188, 42)") == [(False,)] and c.target is not c.me:
                c.learned("somebody else is in the job that this number stands for")


def _no_statement_statistics(c: Channel) -> str | None:
    found = c.ground.as_owner(
        "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_stat_statements'"
    )
    if not found:
        return "the extension is not installed in this database"
    if not c.ground.as_owner("SELECT FROM pg_settings WHERE name = 'pg_stat_statements.track'"):
        return "the server has not loaded it"
    return None


STATEMENT_STATISTICS = Need("pg_stat_statements", _no_statement_statistics)


@attack(
    "D9",
    "statement-statistics",
    title="Read other tenants' statements in pg_stat_statements",
    sql="SELECT query FROM pg_stat_statements",
    why_held="The extension shows a statement's text to who has run it.",
    remains="How many statements others have run, and how long they took. The login's own are shown after RESET ROLE.",
    source="PostgreSQL documentation, F.32 pg_stat_statements.",
    broken=Weakness.MONITORING,
    needs=(STATEMENT_STATISTICS,),
)
def statement_statistics(c: Channel) -> None:
    """The texts of statements, those that are not normalised with all values in them, are kept for everybody."""
    ((schema,),) = c.ground.as_owner(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_stat_statements'"
    )
    with c.trying("pg_stat_statements", refusals=(DENIED,)):
        with c.client(c.target) as them:
            them.raw(f"DO $$ BEGIN PERFORM {_secret(c, 'statistics')}; END $$")
        with c.client() as me:
            me.raw(f"SELECT query FROM {schema}.pg_stat_statements WHERE query LIKE 'DO %' OR query LIKE '<%'")
