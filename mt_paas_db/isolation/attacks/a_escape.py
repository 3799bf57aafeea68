"""Family A, first half: reaching another tenant by what a statement names, sets or calls."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from psycopg import sql

from mt_paas_db.isolation.attack import Need, NotApplicable, Weakness, attack, not_promised
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import quoted

UNDEFINED_TABLE = "42P01"
"""A path skips a schema that the role may not use; so its tables do not exist."""
NOT_IN_A_TRANSACTION = "25001"

_TAKES_ROLES = not_promised("the login role is a member of every tenant's role; whoever controls SQL text can take one")


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return sql.Literal(text).as_string(None)


def _no_xml(c: Channel) -> str | None:
    try:
        c.ground.as_owner("SELECT '<a/>'::xml")
    except Exception as error:
        return f"this server was built without it ({str(error).splitlines()[0]})"
    return None


XML = Need("xml", _no_xml)


@attack(
    "A1",
    "qualified-names",
    title="Read another schema's table by its qualified name",
    sql="SELECT * FROM {target}.note",
    why_held="The tenant's role has USAGE on its own schema alone; the server checks it for every name in a statement.",
    remains="The error says whether the schema exists, as the catalogs do (D1).",
    source="PostgreSQL documentation, 5.8 Privileges and 5.10 Schemas.",
    broken=Weakness.STRAY_GRANT,
)
def qualified_names(c: Channel) -> None:
    """A query names the schema of another tenant: a wrong constant, a report that was written for one customer."""
    for by in ("run", "send", "raw", "message"):
        c.trial(c.read(c.target), by=by, refusals=(DENIED,))
    for table in c.ground.tables:
        name = f"{quoted(c.target.schema)}.{quoted(table)}"
        c.trial(f"SELECT t::text FROM {name} t", by="send", refusals=(DENIED,))
        c.trial(f"SELECT t::text FROM {name} t", by="copy", refusals=(DENIED,))


@attack(
    "A1",
    "qualified-writes",
    title="Write to another schema's table by its qualified name",
    sql="DELETE FROM {target}.note; TRUNCATE {target}.note; LOCK TABLE {target}.note",
    why_held="As for reading; TRUNCATE, TRIGGER and REFERENCES are granted to no tenant, not even on its own tables.",
    source="PostgreSQL documentation, 5.8 Privileges.",
    broken=Weakness.STRAY_GRANT,
)
def qualified_writes(c: Channel) -> None:
    """The same wrong name in a statement that changes something."""
    name = f"{quoted(c.target.schema)}.{quoted(c.ground.probe)}"
    own = f"{quoted(c.me.schema)}.{quoted(c.ground.probe)}"
    for statement in (
        f"DELETE FROM {name}",
        f"INSERT INTO {name} SELECT * FROM {own}",
        f"TRUNCATE {name} CASCADE",
        f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
        f"CREATE TABLE {quoted(c.target.schema)}.mt_isolation_planted (id int)",
        f"CREATE VIEW mt_isolation_window AS SELECT * FROM {name}",
    ):
        c.trial(statement, by="send", refusals=(DENIED,), commit=True)


@attack(
    "A2",
    "reset-role",
    title="Give the tenant's role back, and read as the login",
    sql="RESET ROLE; SELECT * FROM {target}.note",
    why_held="What is left is the login role: it inherits nothing, owns nothing and may use no schema.",
    remains="The login sees the text of its other connections' statements (D4) and may change itself (A15).",
    source="PostgreSQL documentation, SET ROLE; CREATE ROLE, NOINHERIT.",
    broken=Weakness.INHERIT,
)
def reset_role(c: Channel) -> None:
    """A library cleans up after itself in the middle of a transaction, or hostile text tries to become the login."""
    for leave in (
        "RESET ROLE",
        "SET ROLE NONE",
        "SET LOCAL ROLE NONE",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",
        "SELECT set_config('role', 'none', true)",
    ):
        for by in ("run", "raw"):
            # RESET ALL leaves the role as it is: then it is the tenant's role that is refused.
            c.trial(leave, c.read(c.target), by=by, refusals=(DENIED,))
    c.trial("DISCARD ALL", c.read(c.target), by="raw", refusals=(DENIED, NOT_IN_A_TRANSACTION))
    c.trial(f"RESET ROLE; {c.read(c.target)}", by="message", refusals=(DENIED,))


@attack(
    "A2",
    "set-role",
    title="Take another tenant's role",
    sql="SET ROLE {target}; SELECT * FROM {target}.note",
    why_held="At tier `login` the connection's login is a member of no other tenant's role.",
    source="PostgreSQL documentation, SET ROLE.",
    broken=Weakness.NONE,
    role=_TAKES_ROLES,
)
def set_role(c: Channel) -> None:
    """Hostile text names another role. Nobody writes it by accident."""
    role = quoted(c.target.role)
    for take in (
        f"SET ROLE {role}",
        f"SET LOCAL ROLE {role}",
        f"DO $$ BEGIN SET LOCAL ROLE {role}; END $$",
        f"SELECT set_config('role', {literal(c.target.role)}, true)",
        f"UPDATE pg_settings SET setting = {literal(c.target.role)} WHERE name = 'role'",
    ):
        c.trial(take, c.read(c.target), by="send", refusals=(DENIED,))
    with c.trying("COMMIT; SET ROLE"), c.client() as me:
        me.message(f"COMMIT; SET ROLE {role}")
        me.raw(c.read(c.target))


@attack(
    "A2",
    "session-authorization",
    title="Take another tenant's identity for the session",
    sql="SET SESSION AUTHORIZATION {target}; SELECT * FROM {target}.note",
    why_held="Only a superuser may change the session's user; the login is none.",
    source="PostgreSQL documentation, SET SESSION AUTHORIZATION.",
    broken=Weakness.LOGIN_SUPERUSER,
)
def session_authorization(c: Channel) -> None:
    """Hostile text asks for the whole identity of another role, not for its rights alone."""
    for scope in ("", "LOCAL "):
        c.trial(
            f"SET {scope}SESSION AUTHORIZATION {quoted(c.target.role)}", c.read(c.target), by="send", refusals=(DENIED,)
        )


@attack(
    "A3",
    "set-config-in-a-select",
    title="Take another role inside one ordinary SELECT",
    sql="""
    SELECT word
      FROM (SELECT set_config('role', '{target}', true) AS taken) AS first,
           ts_stat('SELECT to_tsvector(''simple'', t::text) FROM {target}.note t' || left(taken, 0))
    """,
    why_held="At tier `login` there is no other role to take.",
    remains="Nothing at tier `login`. At tier `role`, bind your values: one unescaped text is enough.",
    source="PostgreSQL documentation, 9.28.1 set_config and 12.4.4 ts_stat, which plans the query that it is given.",
    broken=Weakness.NONE,
    role=_TAKES_ROLES,
)
def set_config_in_a_select(c: Channel) -> None:
    """Text that got into a query in extended protocol, where no second statement fits.

    The tables that the SELECT itself names were checked before it ran. A query inside a text is planned when its
    function runs; by then the role is another.
    """
    inner = f"SELECT to_tsvector('simple', t::text) FROM {quoted(c.target.schema)}.{quoted(c.ground.probe)} t"
    c.trial(
        f"SELECT word FROM (SELECT set_config('role', {literal(c.target.role)}, true) AS taken) AS first, "
        f"ts_stat({literal(inner)} || left(taken, 0))",
        by="send",
    )


@attack(
    "A3",
    "path-by-statement",
    title="Put another tenant's schema on the path",
    sql="SET search_path = {target}; SELECT * FROM note",
    why_held="A path gives no rights: what the role may not use is skipped, and the table does not exist.",
    source="PostgreSQL documentation, 20.11.1 search_path.",
    broken=Weakness.STRAY_GRANT,
)
def path_by_statement(c: Channel) -> None:
    """A bug, a library or hostile text changes the path in the middle of a transaction, in each way that there is."""
    schema, text = quoted(c.target.schema), literal(c.target.schema)
    for change in (
        f"SET search_path = {schema}",
        f"SET LOCAL search_path = {schema}, pg_temp",
        f"SELECT set_config('search_path', {text}, true)",
        f"SELECT set_config('search_path', {text}, false)",
        f"UPDATE pg_settings SET setting = {text} WHERE name = 'search_path'",
        f"DO $$ BEGIN PERFORM set_config('search_path', {text}, true); END $$",
    ):
        for by in ("send", "raw"):
            c.trial(change, c.read(), by=by, refusals=(UNDEFINED_TABLE, DENIED))


@attack(
    "A4",
    "sql-in-functions",
    title="Hand a query to a function that runs it",
    sql="SELECT query_to_xml('SELECT * FROM {target}.note', true, false, '')",
    why_held="The function runs the text with the rights of who calls it.",
    remains="Together with a change of role (A3) it reads on, at tier `role`.",
    source="PostgreSQL documentation, 9.15.3 Mapping Tables to XML.",
    broken=Weakness.STRAY_GRANT,
    needs=(XML,),
)
def sql_in_functions(c: Channel) -> None:
    """A query that is a value escapes whoever reads queries: an allow-list of tables, a review."""
    query, schema = literal(c.read(c.target)), literal(c.target.schema)
    table = f"{quoted(c.target.schema)}.{quoted(c.ground.probe)}"
    for call in (
        f"SELECT query_to_xml({query}, true, false, '')::text",
        f"SELECT query_to_xml_and_xmlschema({query}, true, false, '')::text",
        f"SELECT table_to_xml({literal(table)}, true, false, '')::text",
        f"SELECT schema_to_xml({schema}, true, false, '')::text",
    ):
        c.trial(call, by="send", refusals=(DENIED,))


@attack(
    "A4",
    "dynamic-sql",
    title="Hide a query in a DO block, or in a function's text",
    sql="DO $$ ... EXECUTE 'SELECT * FROM {target}.note' ... RAISE ... $$",
    why_held="PL/pgSQL runs as who calls it; a tenant may not create functions, neither in its schema nor in pg_temp.",
    source="PostgreSQL documentation, DO; 43.5.4 Executing Dynamic Commands.",
    broken=Weakness.STRAY_GRANT,
)
def dynamic_sql(c: Channel) -> None:
    """Dynamic SQL reads, and an error or a notice carries out what was read."""
    query = literal(f"SELECT string_agg(q::text, ',') FROM ({c.read(c.target)}) q")
    for raising in ("RAISE NOTICE '%', found", "RAISE EXCEPTION '%', found"):
        with c.trying(raising, refusals=(DENIED,)), c.client() as me:
            me.send(f"DO $$ DECLARE found text; BEGIN EXECUTE {query} INTO found; {raising}; END $$")
    inner = literal(f"SELECT to_tsvector('simple', t::text) FROM ({c.read(c.target)}) t")
    c.trial(f"SELECT word FROM ts_stat({inner})", by="send", refusals=(DENIED,))
    for schema in (quoted(c.me.schema), "pg_temp"):
        c.trial(
            f"CREATE FUNCTION {schema}.mt_isolation_steal() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER "
            f"AS {literal(c.read(c.target))}",
            "SELECT mt_isolation_steal()",
            by="send",
            refusals=(DENIED,),
        )


@attack(
    "A7",
    "definer-shadowed",
    title="Put a table of one's own before those of a function with its owner's rights",
    sql="CREATE TEMP TABLE tenant (...); SELECT schema_name FROM mt_paas.resolve('{target}')",
    why_held="""
    Nobody may make temporary tables; and the one function that sessions may call with its owner's rights names all
    its tables in full, under a path of its own that ends in pg_temp.
    """,
    source="PostgreSQL documentation, CREATE FUNCTION, Writing SECURITY DEFINER Functions Safely; CVE-2007-2138.",
    broken=Weakness.TEMP_ALLOWED | Weakness.DEFINER_WITHOUT_PATH,
)
def definer_shadowed(c: Channel) -> None:
    """The catalog's answer is forged: a session of another tenant would be led into the attacker's schema."""
    with c.trying("CREATE TEMP TABLE tenant", refusals=(DENIED,)), c.client() as me:
        me.raw("RESET ROLE")
        me.raw(
            "CREATE TEMP TABLE tenant AS SELECT 'forged' AS tenant_id, "
            f"{c.target.generation}::bigint AS generation, 'active' AS state, NULL::text AS state_reason, "
            f"'home' AS cell, {literal(c.me.schema)} AS schema_name, {literal(c.me.schema)} AS role_name"
        )
        me.raw("GRANT ALL ON tenant TO PUBLIC")
        answer = me.raw(f"SELECT schema_name, tenant_id FROM mt_paas.resolve({literal(c.target.tenant_id)})")
        if ("forged" in str(answer)) and c.target is not c.me:
            c.learned(f"the catalog's answer for {c.target.label} was forged: {answer}")


NOT_HERE = (
    NotApplicable(
        "A5",
        "Forge the signed context that policies check",
        "there is no signed context: the tiers in force rest on roles (tier `sealed` is not built)",
    ),
    NotApplicable(
        "A6",
        "Read the token of another session",
        "the pin holds no secret: a role's name, a path and the tenant's id",
    ),
    NotApplicable(
        "A8",
        "Forge a setting that only a definer function may set",
        "no right rests on a setting: current_setting('mt_paas.tenant') is for reading, the role decides",
    ),
    NotApplicable(
        "A9",
        "Escape from a function that runs untrusted SQL as the tenant",
        "the library has no such function; who wants tenants to run SQL gives them a login each (tier `login`)",
    ),
    NotApplicable(
        "A10",
        "Everything, with a login of one's own",
        "it is no attack but a tier: at tier `login` every attack of this catalogue is carried out",
    ),
    NotApplicable(
        "A11",
        "Leave the role that the extension set_user has set",
        "the extension is not used: it cannot switch inside a transaction",
    ),
    NotApplicable(
        "A12",
        "Get around an event trigger that forbids SET ROLE",
        "PostgreSQL has no event triggers for SET and RESET, so nothing rests on one",
    ),
)
