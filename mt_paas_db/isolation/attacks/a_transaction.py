"""Family A, second half: leaving one's own context by ending, nesting or prolonging a transaction."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from contextlib import suppress

from sqlalchemy.exc import DBAPIError

from mt_paas_db.errors import AutocommitError, ContextLostError
from mt_paas_db.isolation.attack import Need, Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import UNDEFINED_TABLE, literal
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import quoted

NO_SUCH_CURSOR = "34000"


@attack(
    "A13",
    "login-defaults",
    title="Fall back on the login role's own defaults",
    sql="RESET ROLE; RESET search_path; SELECT * FROM note",
    why_held="""
    The login's default path is pg_catalog, "$user", pg_temp: there is no schema of its name, and it may use none.
    """,
    source="PostgreSQL documentation, ALTER ROLE ... SET; 20.11.1 search_path.",
    broken=Weakness.INHERIT | Weakness.LOGIN_PATH,
)
def login_defaults(c: Channel) -> None:
    """Whatever a session resets, it lands on what was set for the login: a convenient path there would serve all."""
    for back in ("RESET search_path", "RESET ALL", "SET search_path TO DEFAULT"):
        c.trial("RESET ROLE", back, c.read(), by="raw", refusals=(UNDEFINED_TABLE, DENIED))
    with c.trying("no transaction at all", refusals=(UNDEFINED_TABLE, DENIED)), c.at_rest() as ask:
        ask(c.read())


@attack(
    "A14",
    "inherited-rights",
    title="Have another tenant's rights without taking its role",
    sql="SELECT pg_has_role(session_user, '{target}', 'USAGE')",
    why_held="""
    Roles are granted to the login WITH INHERIT FALSE, SET TRUE, and on PostgreSQL 15 the login is NOINHERIT. From 16
    on the option of the grant decides, and altering the role afterwards changes nothing.
    """,
    source="PostgreSQL 16 release notes, E.8.3.4 Privileges; documentation, GRANT, WITH INHERIT.",
    broken=Weakness.INHERIT,
)
def inherited_rights(c: Channel) -> None:
    """An upgrade, or a grant in another order, turns membership into inheritance; nothing fails, and nobody sees it."""
    with c.trying("pg_has_role") as trial, c.client() as me:
        role = literal(c.target.role)
        ((usage, member),) = me.raw(
            f"SELECT pg_has_role(session_user, {role}, 'USAGE'), pg_has_role(session_user, {role}, 'MEMBER')"
        )
        trial.reach(f"the server answers: {'a member' if member else 'no member'} of the role")
        if usage:
            c.learned(f"the login has the rights of {c.target.label}'s role without taking it")


@attack(
    "A15",
    "login-alters-itself",
    title="Change the login role's own password and defaults",
    sql="RESET ROLE; ALTER ROLE CURRENT_USER PASSWORD '...'; ALTER ROLE CURRENT_USER SET search_path = ...",
    why_held="At tier `login` a tenant can change its own login alone.",
    source="PostgreSQL documentation, ALTER ROLE: any role may change its own password and defaults.",
    broken=Weakness.NONE,
    role=not_promised(
        "PostgreSQL lets every role change its own password and defaults, and all tenants share one login"
    ),
)
def login_alters_itself(c: Channel) -> None:
    """Hostile text takes the service's login over, or lays a trap for its next connection. Undone here each time."""
    for change in ("SET statement_timeout = '1ms'", "PASSWORD NULL"):
        with c.trying(f"ALTER ROLE CURRENT_USER {change}", refusals=(DENIED,)) as trial, c.client() as me:
            me.raw("RESET ROLE")
            me.raw(f"ALTER ROLE CURRENT_USER {change}")
            trial.reach("the statement was carried out")
            if c.target is not c.me and c.tier == "role":
                c.learned("the login that all tenants share can be changed by one of them")
            me.session.rollback()


@attack(
    "A16",
    "textual-commit",
    title="End the transaction by SQL text, and go on",
    sql="COMMIT; SELECT * FROM {target}.note",
    why_held="""
    Role and path end with the transaction. The client then refuses the next statement; where it cannot see it, the
    server refuses the login, which has no rights.
    """,
    source="PostgreSQL documentation, SET: the effects of SET LOCAL last only till the end of the transaction.",
    broken=Weakness.INHERIT,
)
def textual_commit(c: Channel) -> None:
    """A script that brings its own COMMIT, a library that rolls back: what follows runs outside the pin."""
    for end in ("COMMIT", "COMMIT AND CHAIN", "ROLLBACK", "ROLLBACK AND CHAIN", "END", "ABORT"):
        c.trial(end, c.read(c.target), by="send", refusals=(DENIED, ContextLostError))
        c.trial(end, c.read(c.target), by="raw", refusals=(DENIED,))
        c.trial(end, c.read(), by="raw", refusals=(DENIED, UNDEFINED_TABLE))
    c.trial(f"COMMIT; BEGIN; {c.read(c.target)}", by="message", refusals=(DENIED,))


@attack(
    "A17",
    "outside-a-transaction",
    title="Run outside a transaction, where no pin can hold",
    sql="SET LOCAL ROLE {target}; SELECT * FROM {target}.note  -- in autocommit",
    why_held="AUTOCOMMIT is refused before anything is sent. A raw connection is the login's, which has no rights.",
    source="PostgreSQL documentation, SET LOCAL: outside of a transaction block it has no effect.",
    broken=Weakness.INHERIT,
)
def outside_a_transaction(c: Channel) -> None:
    """A session is told to autocommit, or a library takes a connection from the pool by itself."""
    with c.trying("AUTOCOMMIT", refusals=(AutocommitError,)), c.client() as me:
        me.session.rollback()
        me.call(lambda session: session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}) and None)
        me.send(c.read(c.target))
    with c.trying("raw connection", refusals=(DENIED,)), c.at_rest() as ask:
        ask("SELECT set_config('role', current_user, true)")
        ask(c.read(c.target))
    with c.trying("raw connection, no schema named", refusals=(DENIED, UNDEFINED_TABLE)), c.at_rest() as ask:
        ask(c.read())


@attack(
    "A18",
    "savepoints",
    title="Roll back to a savepoint",
    sql="SAVEPOINT s; SELECT 1/0; ROLLBACK TO s; SELECT * FROM {target}.note",
    why_held="The pin travels with BEGIN, so it stands before any savepoint, and no session switches its tenant.",
    source="PostgreSQL documentation, SET: rolled back when the transaction or subtransaction is.",
    broken=Weakness.LAZY_PIN | Weakness.INHERIT,
)
def savepoints(c: Channel) -> None:
    """ROLLBACK TO undoes settings that were made after the savepoint; a context that was set there is gone."""
    for depth in (1, 2):
        with c.trying(f"{depth} deep", refusals=(DENIED,)), c.client() as me:
            nested = [me.session.begin_nested() for _ in range(depth)]
            with suppress(DBAPIError):
                me.run("SELECT 1/0")
            nested[0].rollback()
            me.run(c.read(c.target))


@attack(
    "A19",
    "path-forgotten",
    title="Lose the path, and keep the role",
    sql="RESET search_path; SELECT * FROM note",
    why_held="""
    The login's default path holds "$user", and a tenant's role is named like its schema: without a path of its own, a
    session finds the tenant's tables, or none.
    """,
    source='PostgreSQL documentation, 20.11.1 search_path, "$user".',
    broken=Weakness.LOGIN_PATH | Weakness.STRAY_GRANT,
)
def path_forgotten(c: Channel) -> None:
    """A library resets the path in the middle of a transaction."""
    for back in ("RESET search_path", "SET search_path TO DEFAULT", "RESET ALL"):
        c.trial(back, c.read(), by="raw")
    c.trial("SET search_path = ''", c.read(), by="raw", refusals=(UNDEFINED_TABLE,))


@attack(
    "A20",
    "cursor-of-another",
    title="Fetch from a cursor that another tenant has opened",
    sql="DECLARE c CURSOR FOR SELECT * FROM note;  -- next session on the connection:  FETCH ALL FROM c",
    why_held="A cursor dies with its transaction, and no transaction has two tenants.",
    source="PostgreSQL documentation, DECLARE.",
    broken=Weakness.SWITCH_IN_TRANSACTION,
)
def cursor_of_another(c: Channel) -> None:
    """A cursor is left open; the connection's next user fetches from a cursor of that name."""
    with c.trying("FETCH", refusals=(NO_SUCH_CURSOR,)):
        with c.client(c.target, commit=True) as them:
            them.send(f"DECLARE mt_isolation_cursor CURSOR FOR {c.read()}")
        with c.client() as me:
            me.send("FETCH ALL FROM mt_isolation_cursor")


def _queued_as(c: Channel) -> str | None:
    version = int(c.ground.as_owner("SHOW server_version_num")[0][0])
    return "from PostgreSQL 18 on a trigger runs as the role that queued it" if version >= 180_000 else None


BEFORE_18 = Need("postgresql<18", _queued_as)


@attack(
    "A21",
    "deferred-trigger",
    title="Let a deferred trigger run when the role has been given back",
    sql="CREATE CONSTRAINT TRIGGER ... DEFERRABLE INITIALLY DEFERRED ...; INSERT ...; COMMIT",
    why_held="The role is held until the transaction is over, and deferred triggers run before that.",
    source="PostgreSQL 18 release notes: AFTER triggers run as the role that was active when they were queued.",
    broken=Weakness.ROLE_BACK_BEFORE_COMMIT | Weakness.INHERIT,
    needs=(BEFORE_18,),
)
def deferred_trigger(c: Channel) -> None:
    """A trigger that waits for COMMIT runs under the role of that moment."""
    schema = quoted(c.me.schema)
    c.ground.as_owner(
        f"CREATE TABLE {schema}.mt_isolation_queue (id int)",
        f"CREATE FUNCTION {schema}.mt_isolation_tell() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "DECLARE found text; BEGIN "
        f"SELECT string_agg(q::text, ',') INTO found FROM ({c.read(c.target)}) q; "
        "RAISE NOTICE '%', found; RETURN NULL; END $$",
        f"CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON {schema}.mt_isolation_queue DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW EXECUTE FUNCTION {schema}.mt_isolation_tell()",
    )
    try:
        with c.trying("COMMIT", refusals=(DENIED,)), c.client() as me:
            me.send("INSERT INTO mt_isolation_queue VALUES (1)")
            me.call(lambda session: session.commit())
    finally:
        c.ground.as_owner(
            f"DROP TABLE {schema}.mt_isolation_queue", f"DROP FUNCTION {schema}.mt_isolation_tell() CASCADE"
        )
