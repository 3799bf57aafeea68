"""Family E: who owns what is defined, what it runs as, and what migrations leave."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mt_paas_db.isolation.attack import Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import literal
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.ground import Party, quoted

NOT_THERE = "0A000"
"""An extension that this server does not have."""

_BY_THE_OWNER = not_promised(
    "views and SECURITY DEFINER functions read with the rights of the owner role, which made them in a migration of "
    "the service's own"
)


@contextmanager
def prepared(c: Channel, *statements: str, undo: tuple[str, ...]) -> Iterator[None]:
    """Carry out `statements` as the owner role, as a migration does; `undo` them after the block."""
    try:
        c.ground.as_owner(*statements)
        yield
    finally:
        c.ground.as_owner(*undo)


def content(c: Channel, party: Party, place: str) -> str:
    """Return a party's canary as an SQL literal."""
    return literal(c.ground.canaries[party.label].text(place, 1) or "")


@contextmanager
def common_schema(c: Channel, *statements: str) -> Iterator[str]:
    """Make a schema that the attacker and the target may both use, as shared ones are; yield its quoted name.

    ``{schema}`` in `statements` is its name.
    """
    schema = quoted(f"mt_isolation_{c.ground.run}")
    roles = ", ".join(dict.fromkeys((quoted(c.me.role), quoted(c.target.role))))
    made = (f"CREATE SCHEMA {schema}", f"GRANT USAGE ON SCHEMA {schema} TO {roles}")
    with prepared(
        c,
        *made,
        *(statement.replace("{schema}", schema) for statement in statements),
        undo=(f"DROP SCHEMA IF EXISTS {schema} CASCADE",),
    ):
        yield schema


@attack(
    "E1",
    "planted-function",
    title="Plant a function that a migration will call with the owner's rights",
    sql="""
    CREATE FUNCTION upper(varchar) RETURNS text ... 'CREATE TABLE loot AS SELECT * FROM {target}.note';
    -- a later migration, as the owner, in this schema: SELECT upper(code) FROM ...
    """,
    why_held="Tenants may create nothing in their schema, nor in pg_temp, nor anywhere else.",
    source="CVE-2018-1058; PostgreSQL documentation, 5.10.6 Usage Patterns, and 10.3: an exact match of types wins.",
    broken=Weakness.CREATE_ALLOWED,
)
def planted_function(c: Channel) -> None:
    """A better match for a built-in function's call lies in wait in the schema that a migration has on its path."""
    mine = quoted(c.me.schema)
    body = f"BEGIN CREATE TABLE {mine}.mt_isolation_loot AS {c.read(c.target)}; RETURN $1; END"
    try:
        with c.trying("CREATE FUNCTION upper(varchar)", refusals=(DENIED,)):
            with c.client(commit=True) as me:
                me.raw(
                    f"CREATE FUNCTION {mine}.upper(varchar) RETURNS text LANGUAGE plpgsql AS {literal(body)}",
                )
            c.ground.as_owner(f"SET search_path = {mine}, pg_temp", "SELECT upper('code'::varchar)")
            with c.client() as me:
                me.raw("SELECT t::text FROM mt_isolation_loot t")
    finally:
        c.ground.as_owner(
            "RESET search_path",
            f"DROP TABLE IF EXISTS {mine}.mt_isolation_loot",
            f"DROP FUNCTION IF EXISTS {mine}.upper(varchar)",
        )


@attack(
    "E1",
    "planted-objects",
    title="Create anything at all",
    sql="CREATE TABLE note_2 (); CREATE TYPE mood; CREATE OPERATOR ===; CREATE SCHEMA mine; CREATE EXTENSION dblink",
    why_held="There is no CREATE right on any schema, nor on the database.",
    source="PostgreSQL documentation, 5.8 Privileges, CREATE.",
    broken=Weakness.CREATE_ALLOWED,
)
def planted_objects(c: Channel) -> None:
    """A tenant's own object of a real one's name would be found first by whoever has the tenant's path."""
    mine = quoted(c.me.schema)
    for place in (f"{mine}.", "public.", "pg_temp.", f"{quoted(c.target.schema)}."):
        for statement in (
            f"CREATE TABLE {place}mt_isolation_thing (id int)",
            f"CREATE TYPE {place}mt_isolation_thing AS (id int)",
            f"CREATE FUNCTION {place}mt_isolation_thing() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            f"CREATE OPERATOR {place}=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)",
        ):
            with c.trying(statement, refusals=(DENIED,)), c.client() as me:
                me.raw(statement)
                if c.target is not c.me:
                    c.learned(f"it could be created: {statement}")
    for statement in ("CREATE SCHEMA mt_isolation_mine", "CREATE EXTENSION dblink"):
        with c.trying(statement, refusals=(DENIED, NOT_THERE)), c.client() as me:
            me.raw(statement)
            if c.target is not c.me:
                c.learned(f"it could be created: {statement}")


@attack(
    "E2",
    "own-tables",
    title="Use an owner's powers on the tenant's own tables",
    sql="""
    ALTER TABLE note ALTER COLUMN loot SET DEFAULT ts_rewrite('a', 'SELECT ... FROM {target}.note');
    -- a later migration, as the owner role: UPDATE note SET loot = DEFAULT
    """,
    why_held="All tables belong to the owner role; tenants are granted SELECT, INSERT, UPDATE and DELETE on theirs.",
    source="PostgreSQL documentation, 5.8 Privileges: the right to alter an object is its owner's alone.",
    broken=Weakness.OWN_TABLES,
)
def own_tables(c: Channel) -> None:
    """Defaults, triggers, rules and policies of a table run as whoever writes to it: in a migration, the owner."""
    table = f"{quoted(c.me.schema)}.{quoted(c.ground.probe)}"
    for statement in (
        f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        f"CREATE TRIGGER t BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        f"CREATE RULE r AS ON UPDATE TO {table} DO ALSO NOTHING",
        f"CREATE POLICY p ON {table} USING (true)",
        f"CREATE INDEX ON {table} ((1))",
        f"GRANT SELECT ON {table} TO PUBLIC",
    ):
        with c.trying(statement, refusals=(DENIED,)) as trial, c.client() as me:
            me.raw(statement)
            trial.reach("it was carried out, on a table of the attacker's own")
    inner = (
        "SELECT 'a'::tsquery, ('''' || left(string_agg(row, ' '), 1000) || '''')::tsquery "
        f"FROM ({c.read(c.target)}) q(row)"
    )
    try:
        with c.trying("a default that reads", refusals=(DENIED,)):
            with c.client(commit=True) as me:
                me.raw(f"ALTER TABLE {table} ADD COLUMN mt_isolation_loot tsquery")
                me.raw(f"ALTER TABLE {table} ALTER mt_isolation_loot SET DEFAULT ts_rewrite('a', {literal(inner)})")
            c.ground.as_owner(f"UPDATE {table} SET mt_isolation_loot = DEFAULT")
            with c.client() as me:
                me.raw(f"SELECT mt_isolation_loot::text FROM {table}")
    finally:
        with suppress(*ANSWERS), c.client(commit=True) as me:
            me.raw(f"ALTER TABLE {table} DROP COLUMN IF EXISTS mt_isolation_loot")


@attack(
    "E2",
    "migrated-table",
    title="Read a table that a migration has made a moment ago",
    sql="-- as the owner: CREATE TABLE {target}.fresh ...;  -- as another tenant: SELECT * FROM {target}.fresh",
    why_held="Default privileges grant what the owner makes in a tenant's schema to that tenant's role, to it alone.",
    source="PostgreSQL documentation, ALTER DEFAULT PRIVILEGES.",
    broken=Weakness.STRAY_GRANT,
)
def migrated_table(c: Channel) -> None:
    """A migration adds a table, a partitioned one, a view, a materialized view; nobody thinks of rights."""
    schema, body = quoted(c.target.schema), content(c, c.target, "fresh")
    made = (
        f"CREATE TABLE {schema}.mt_isolation_fresh AS SELECT {body}::text AS body",
        f"CREATE TABLE {schema}.mt_isolation_parted (id int, body text) PARTITION BY RANGE (id)",
        f"CREATE TABLE {schema}.mt_isolation_part PARTITION OF {schema}.mt_isolation_parted DEFAULT",
        f"INSERT INTO {schema}.mt_isolation_parted VALUES (1, {body})",
        f"CREATE VIEW {schema}.mt_isolation_view AS SELECT * FROM {schema}.mt_isolation_fresh",
        f"CREATE MATERIALIZED VIEW {schema}.mt_isolation_seen AS SELECT * FROM {schema}.mt_isolation_fresh",
    )
    undo = (
        f"DROP TABLE IF EXISTS {schema}.mt_isolation_fresh CASCADE",
        f"DROP TABLE IF EXISTS {schema}.mt_isolation_parted CASCADE",
    )
    with prepared(c, *made, undo=undo):
        for name in ("fresh", "parted", "part", "view", "seen"):
            c.trial(f"SELECT * FROM {schema}.mt_isolation_{name}", by="send", refusals=(DENIED,))
        with c.trying("its own tenant may", viewer=c.target), c.client(c.target) as them:
            for name in ("fresh", "parted", "part", "view", "seen"):
                them.send(f"SELECT * FROM mt_isolation_{name}")


@attack(
    "E3",
    "public-execute",
    title="Call a function that runs with the owner's rights, and that nobody has granted",
    sql="SELECT shared.report()  -- SECURITY DEFINER: SELECT * FROM {target}.note",
    why_held="""
    PostgreSQL lets everybody execute a new function. The owner role's default privileges take that back, in the form
    without a schema, the only one that has an effect on it.
    """,
    source="PostgreSQL documentation, ALTER DEFAULT PRIVILEGES, Description and Notes; CREATE FUNCTION.",
    broken=Weakness.PUBLIC_EXECUTE,
)
def public_execute(c: Channel) -> None:
    """A migration makes a function for administrators in a schema that all tenants may use, and grants nothing."""
    definer = (
        "CREATE FUNCTION {schema}.report() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER "
        f"SET search_path = pg_catalog, pg_temp AS {literal(c.read(c.target))}"
    )
    with common_schema(c, definer) as schema:
        c.trial(f"SELECT {schema}.report()", by="send", refusals=(DENIED,))


@attack(
    "E3",
    "invoker-rights",
    title="Read through a view or a function that runs with the caller's rights",
    sql="SELECT * FROM shared.report  -- CREATE VIEW ... WITH (security_invoker) AS SELECT * FROM {target}.note",
    why_held="Rights are checked against who asks.",
    source="PostgreSQL documentation, CREATE VIEW, security_invoker; CREATE FUNCTION, SECURITY INVOKER.",
    broken=Weakness.STRAY_GRANT,
)
def invoker_rights(c: Channel) -> None:
    """A definition of the service's own names another tenant's schema, and is granted to all."""
    read = c.read(c.target)
    with common_schema(
        c,
        f"CREATE VIEW {{schema}}.report WITH (security_invoker) AS {read}",
        f"CREATE FUNCTION {{schema}}.listing() RETURNS SETOF text LANGUAGE sql AS {literal(read)}",
        "GRANT SELECT ON {schema}.report TO PUBLIC",
        "GRANT EXECUTE ON FUNCTION {schema}.listing() TO PUBLIC",
    ) as schema:
        c.trial(f"SELECT * FROM {schema}.report", by="send", refusals=(DENIED,))
        c.trial(f"SELECT {schema}.listing()", by="send", refusals=(DENIED,))


@attack(
    "E3",
    "owners-view",
    title="Read through a view that a migration has made over another tenant's tables",
    sql="CREATE VIEW report AS SELECT * FROM {target}.note;  -- by a migration, in the attacker's schema",
    why_held="Nothing holds what the owner role itself has granted.",
    remains="""
    Where tables are guarded, an owner's view returns no row of them: a policy asks who is calling. The audit names
    every view without security_invoker, and every materialized view, that crosses.
    """,
    source="PostgreSQL documentation, CREATE VIEW: by default with the rights of the view's owner.",
    broken=Weakness.NONE,
    role=_BY_THE_OWNER,
    login=_BY_THE_OWNER,
)
def owners_view(c: Channel) -> None:
    """A migration has one customer's schema as a constant in it, and runs for all."""
    mine = quoted(c.me.schema)
    with prepared(
        c,
        f"CREATE VIEW {mine}.mt_isolation_report AS {c.read(c.target)}",
        undo=(f"DROP VIEW IF EXISTS {mine}.mt_isolation_report",),
    ):
        c.trial("SELECT * FROM mt_isolation_report", by="send")


@attack(
    "E3",
    "owners-function",
    title="Call a function of a migration's that reads another tenant's tables",
    sql="CREATE FUNCTION report() ... SECURITY DEFINER AS 'SELECT * FROM {target}.note';  -- by a migration",
    why_held="Nothing holds what the owner role itself has granted.",
    remains="""
    Guards do not hold it either: inside, the owner is the caller. Write functions SECURITY INVOKER, which is the
    default. The audit names those that are not.
    """,
    source="PostgreSQL documentation, CREATE FUNCTION, Writing SECURITY DEFINER Functions Safely.",
    broken=Weakness.NONE,
    role=_BY_THE_OWNER,
    login=_BY_THE_OWNER,
)
def owners_function(c: Channel) -> None:
    """The same, where the migration makes a function in each tenant's schema, which its role may then call."""
    mine = quoted(c.me.schema)
    made = (
        f"CREATE FUNCTION {mine}.mt_isolation_report() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER "
        f"SET search_path = pg_catalog, pg_temp AS {literal(c.read(c.target))}"
    )
    with prepared(c, made, undo=(f"DROP FUNCTION IF EXISTS {mine}.mt_isolation_report()",)):
        c.trial("SELECT mt_isolation_report()", by="send")


@attack(
    "E4",
    "shared-sequence",
    title="Count in another tenant's sequence",
    sql="CREATE TABLE copy (LIKE {target}.note INCLUDING ALL); INSERT INTO copy DEFAULT VALUES",
    why_held="A sequence is granted to its own schema's tenant; an identity column's needs no grant at all.",
    remains="A table copied with a serial column is one that its tenant cannot write to: use identity columns.",
    source="PostgreSQL documentation, CREATE TABLE, LIKE ... INCLUDING DEFAULTS: nextval links the two tables.",
    broken=Weakness.STRAY_GRANT,
)
def shared_sequence(c: Channel) -> None:
    """A migration copies a table from a template; its serial column goes on counting in the template's schema."""
    mine, theirs = quoted(c.me.schema), quoted(c.target.schema)
    sequence = f"{theirs}.mt_isolation_template_id_seq"
    with prepared(
        c,
        f"CREATE TABLE {theirs}.mt_isolation_template (id serial, body text)",
        f"CREATE TABLE {mine}.mt_isolation_copy (LIKE {theirs}.mt_isolation_template INCLUDING ALL)",
        f"SELECT setval({literal(sequence)}, 4711)",
        undo=(
            f"DROP TABLE IF EXISTS {mine}.mt_isolation_copy",
            f"DROP TABLE IF EXISTS {theirs}.mt_isolation_template",
        ),
    ):
        for statement in (
            "INSERT INTO mt_isolation_copy (body) VALUES ('x') RETURNING id",
            f"SELECT nextval({literal(sequence)})",
            f"SELECT last_value FROM {sequence}",
        ):
            with c.trying(statement, refusals=(DENIED,)) as trial, c.client() as me:
                ((value,),) = me.raw(statement)
                if c.target is c.me:
                    trial.reach("it is the attacker's own sequence")
                elif value >= 4711:
                    c.learned(f"where {c.target.label}'s sequence stands: {value}")


@attack(
    "E5",
    "drop-owned",
    title="Drop or take over what another tenant's role has",
    sql="DROP OWNED BY {target}; REASSIGN OWNED BY {target} TO CURRENT_USER; GRANT {target} TO CURRENT_USER",
    why_held="The rights of another role are needed for it; the login is a member without inheriting any.",
    source="PostgreSQL documentation, DROP OWNED; REASSIGN OWNED; CVE-2026-120146, for roles granted with INHERIT.",
    broken=Weakness.INHERIT,
)
def drop_owned(c: Channel) -> None:
    """Hostile text takes away another tenant's rights, or takes its role. Undone here each time."""
    role = quoted(c.target.role)
    for statement in (
        f"DROP OWNED BY {role}",
        f"REASSIGN OWNED BY {role} TO CURRENT_USER",
        f"GRANT {role} TO CURRENT_USER",
        f"ALTER ROLE {role} LOGIN",
        f"DROP ROLE {role}",
    ):
        for before in ("SELECT 1", "RESET ROLE"):
            with c.trying(f"{before}; {statement}", refusals=(DENIED, "0LP01")) as trial, c.client() as me:
                me.raw(before)
                me.raw(statement)
                trial.reach("it was carried out")
                if c.target is not c.me:
                    c.learned(f"it was carried out: {statement}")
