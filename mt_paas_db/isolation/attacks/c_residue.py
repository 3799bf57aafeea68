"""Family C, first half: what one session leaves on a connection for the next, in pools and poolers."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy.exc import DBAPIError

from mt_paas_db.errors import TenancyError
from mt_paas_db.isolation.attack import Need, Weakness, attack
from mt_paas_db.isolation.attacks.a_escape import UNDEFINED_TABLE
from mt_paas_db.isolation.attacks.a_transaction import NO_SUCH_CURSOR
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import quoted

PGBOUNCER = Need("pgbouncer", lambda c: None if c.route.pooled else "this route is direct")

_NOTED = """
    Whoever takes the DBAPI connection from a session is noted: its transactions' ends and the check-in scrub then.
    """


@attack(
    "C1",
    "temporary-table",
    title="Find the temporary table that the connection's last tenant has left",
    sql="CREATE TEMP TABLE note AS SELECT * FROM note; GRANT ALL ON note TO PUBLIC;  -- next: SELECT * FROM note",
    why_held="Nobody may make temporary tables; and the path names pg_temp last, so that one would not be found first.",
    source="PostgreSQL documentation, 20.11.1 search_path, pg_temp; GRANT, TEMPORARY.",
    broken=Weakness.TEMP_ALLOWED | Weakness.PATH_WITHOUT_TEMP_LAST,
)
def temporary_table(c: Channel) -> None:
    """A report makes a temporary table with the name of a real one; it outlives the session on a pooled connection."""
    probe = quoted(c.ground.probe)
    with c.trying("CREATE TEMP TABLE", refusals=(DENIED,)):
        with c.client(c.target, commit=True) as them:
            them.raw(f"CREATE TEMP TABLE {probe} AS SELECT * FROM {quoted(c.target.schema)}.{probe}")
            them.raw(f"GRANT ALL ON pg_temp.{probe} TO PUBLIC")
        with c.client() as me:
            me.raw(c.read())


@attack(
    "C1",
    "temporary-trap",
    title="Lay a temporary table in which the next tenant's rows land",
    sql="CREATE TEMP TABLE note (LIKE note);  -- next: INSERT INTO note ...;  -- then: SELECT * FROM pg_temp.note",
    why_held="As above: it cannot be made, and an unqualified name would not lead to it.",
    source="PostgreSQL documentation, 20.11.1 search_path, pg_temp.",
    broken=Weakness.TEMP_ALLOWED | Weakness.PATH_WITHOUT_TEMP_LAST,
)
def temporary_trap(c: Channel) -> None:
    """The same, laid on purpose."""
    probe = quoted(c.ground.probe)
    with c.trying("INSERT into the trap", refusals=(DENIED,)):
        with c.client(commit=True) as me:
            me.raw(f"CREATE TEMP TABLE {probe} (row text)")
            me.raw(f"GRANT ALL ON pg_temp.{probe} TO PUBLIC")
        with c.client(c.target, commit=True) as them:
            them.raw(f"INSERT INTO {probe} {c.read(c.target)}")
        with c.client() as me:
            me.raw(f"SELECT t::text FROM pg_temp.{probe} t")


def _left_behind(c: Channel, by: str) -> None:
    """Let the target leave role and path on the connection by session-level SET, and commit."""
    with c.client(c.target, commit=True) as them:
        send: Any = getattr(them, by)
        send(f"SET search_path = {quoted(c.target.schema)}")
        send(f"SET ROLE {quoted(c.target.role)}")


@attack(
    "C2",
    "session-level-set",
    title="Be the next after a session-level SET ROLE and SET search_path",
    sql="SET ROLE {target}; SET search_path = {target}; COMMIT;  -- next on the connection: SELECT * FROM note",
    why_held="""
    Behind the COMMIT of a transaction that ran SQL text goes a scrub; whether it did or not, the next pin sets both.
    """,
    source="PostgreSQL documentation, SET SESSION: persists once the surrounding transaction is committed.",
    broken=Weakness.NO_SCRUB,
)
def session_level_set(c: Channel) -> None:
    """Code that was written for a connection of its own leaves its settings on a pooled one."""
    with c.trying("next session"):
        _left_behind(c, "send")
        with c.client() as me:
            me.send(c.read())
    with c.trying("next user without a tenant", refusals=(DENIED, UNDEFINED_TABLE)):
        _left_behind(c, "send")
        with c.at_rest_as_left() as ask:
            ask(c.read())


@attack(
    "C3",
    "pool-check-in",
    title="Be the next after a session-level SET on a raw cursor",
    sql="cursor.execute('SET ROLE {target}');  -- commit; next session: SELECT * FROM note",
    why_held="The scrub takes it; and the next session's pin sets role and path, whatever the connection bears.",
    source="SQLAlchemy documentation, Reset On Return: the pool rolls back, and resets no settings.",
    broken=Weakness.SEARCH_PATH_ONLY | Weakness.NO_PATH | Weakness.RAW_UNNOTED,
)
def pool_check_in(c: Channel) -> None:
    """What is sent below SQLAlchemy is not seen: the connection could go back to the pool with another's role."""
    with c.trying("next session"):
        _left_behind(c, "raw")
        with c.client() as me:
            me.send(c.read())


@attack(
    "C3",
    "pool-at-rest",
    title="Take a raw connection after a session-level SET on a raw cursor",
    sql="cursor.execute('SET ROLE {target}');  -- commit; raw_connection().cursor().execute('SELECT * FROM note')",
    why_held=_NOTED,
    remains="""
    Behind a pooler, what is sent outside a transaction stays on the server connection until the next scrub there.
    """,
    source="SQLAlchemy documentation, Reset On Return.",
    broken=Weakness.RAW_UNNOTED,
)
def pool_at_rest(c: Channel) -> None:
    """Two bugs meet: a raw SET in one place, and a raw connection without a tenant in another."""
    with c.trying("next user without a tenant", refusals=(DENIED, UNDEFINED_TABLE)):
        _left_behind(c, "raw")
        with c.at_rest_as_left() as ask:
            ask(c.read())


@attack(
    "C4",
    "pooler-residue",
    title="Share a server connection behind PgBouncer with who left settings there",
    sql="SET ROLE {target}; COMMIT;  -- another client's next transaction: SELECT * FROM note",
    why_held="""
    The pin is transaction-local, and the scrub goes in COMMIT's own message, before the pooler gives the connection on.
    """,
    remains="What a raw cursor sends outside a transaction stays on the server connection until the next scrub (C3).",
    source="PgBouncer documentation, Features: SET/RESET is not supported in transaction pooling.",
    broken=Weakness.NO_SCRUB,
    needs=(PGBOUNCER,),
)
def pooler_residue(c: Channel) -> None:
    """In transaction mode, two clients of the pooler follow each other on one connection to the server."""
    for by in ("send", "run"):
        with c.trying(f"another client's session, after {by}"):
            _left_behind(c, by)
            with c.client(beside=True) as me:
                me.send(c.read())
    with c.trying("another client without a tenant", refusals=(DENIED, UNDEFINED_TABLE)):
        _left_behind(c, "send")
        with c.at_rest_as_left(beside=True) as ask:
            ask(c.read())


def _held_cursor(c: Channel, by: str) -> None:
    with c.client(c.target, commit=True) as them:
        send: Any = getattr(them, by)
        send(f"DECLARE mt_isolation_held CURSOR WITH HOLD FOR {c.read()}")
    with c.client() as me:
        me.raw("SELECT name, statement FROM pg_cursors")
        me.raw("FETCH ALL FROM mt_isolation_held")


@attack(
    "C8",
    "cursor-with-hold",
    title="Fetch from a cursor WITH HOLD that the connection's last tenant has left",
    sql="DECLARE c CURSOR WITH HOLD FOR SELECT * FROM note; COMMIT;  -- next session: FETCH ALL FROM c",
    why_held="The scrub behind COMMIT closes all cursors.",
    source="PostgreSQL documentation, DECLARE, WITH HOLD.",
    broken=Weakness.NO_SCRUB,
)
def cursor_with_hold(c: Channel) -> None:
    """A held cursor keeps its rows without any check of rights; a cursor's name is the same for all tenants."""
    for by in ("run", "send"):
        with c.trying(by, refusals=(NO_SUCH_CURSOR,)):
            _held_cursor(c, by)


@attack(
    "C8",
    "cursor-with-hold-raw",
    title="The same, where the cursor was declared on a raw DBAPI cursor",
    sql="cursor.execute('DECLARE c CURSOR WITH HOLD FOR SELECT * FROM note');  -- next session: FETCH ALL FROM c",
    why_held=_NOTED,
    source="PostgreSQL documentation, DECLARE, WITH HOLD; psycopg documentation, Server-side cursors, withhold.",
    broken=Weakness.RAW_UNNOTED,
)
def cursor_with_hold_raw(c: Channel) -> None:
    """psycopg's named cursors make such cursors; the library does not see them being made."""
    with c.trying("raw", refusals=(NO_SUCH_CURSOR,)):
        _held_cursor(c, "raw")


@attack(
    "C9",
    "session-settings",
    title="Read a setting of the service's own that the last tenant's session has left",
    sql="SELECT set_config('app.user', '...', false); COMMIT;  -- next session: SELECT current_setting('app.user')",
    why_held="The scrub resets all settings; behind a pooler it gives back those that the pooler keeps for its client.",
    remains="""
    A function of the owner's that sets something for the session, called by nothing but compiled SQL, is not noticed.
    """,
    source="PostgreSQL documentation, 20.16 Customized Options; RESET ALL. PgBouncer documentation, Features.",
    broken=Weakness.NO_SCRUB,
)
def session_settings(c: Channel) -> None:
    """A session-level setting that holds something of a tenant, or that spoils the next tenant's transactions."""
    for by in ("run", "send", "raw"):
        with c.trying(by):
            with c.client(c.target, commit=True) as them:
                send: Any = getattr(them, by)
                send(f"SELECT set_config('mt_isolation.note', (SELECT q::text FROM ({c.read()}) q LIMIT 1), false)")
            with c.client() as me:
                me.send("SELECT current_setting('mt_isolation.note', true)")


@attack(
    "C9",
    "session-timeout",
    title="Leave a timeout that cancels the next tenant's statements",
    sql="SET statement_timeout = '1ms'; COMMIT;  -- next session: canceling statement due to statement timeout",
    why_held="The scrub resets it.",
    source="PostgreSQL documentation, 20.11.1 statement_timeout.",
    broken=Weakness.NO_SCRUB,
)
def session_timeout(c: Channel) -> None:
    """No leak but an outage: seen as something of the last tenant that reaches the next."""
    with c.trying("statement_timeout"):
        with c.client(c.target, commit=True) as them:
            them.send("SET SESSION statement_timeout = '98765ms'")
        with c.client(statement_timeout_s=None) as me:
            me.send(c.read())
            ((timeout,),) = me.raw("SHOW statement_timeout")
            if timeout == "98765ms" and c.target is not c.me:
                c.learned("the last tenant's statement_timeout is in force")


@attack(
    "C11",
    "cancelled-and-killed",
    title="Be the next after a statement was cancelled, or the backend killed",
    sql="SET ROLE {target}; COMMIT; SELECT pg_sleep(9)  -- cancelled;  next on the connection: SELECT * FROM note",
    why_held="A failed transaction is rolled back with its scrub; a dead connection is thrown away.",
    source="PostgreSQL documentation, 57014 query_canceled; SQLAlchemy documentation, Dealing with Disconnects.",
    broken=Weakness.NO_SCRUB,
)
def cancelled_and_killed(c: Channel) -> None:
    """A request is given up in the middle; its connection goes back to the pool."""
    with c.trying("cancelled", refusals=(DENIED, UNDEFINED_TABLE)):
        with c.client(c.target, statement_timeout_s=0.05) as them, suppress(DBAPIError):
            them.send(f"SET ROLE {quoted(c.target.role)}")
            them.send(f"SET search_path = {quoted(c.target.schema)}")
            them.call(lambda session: session.commit())
            them.send("SELECT pg_sleep(5)")
        with c.at_rest_as_left() as ask:
            ask(c.read())
    with c.trying("killed", refusals=(DENIED,) if c.tier == "login" else ()):  # nobody ends another login's backends
        with suppress(DBAPIError, TenancyError), c.client(c.target) as them:
            with c.client(beside=True) as me:
                process = them.backend
                if c.route.pooled:
                    them.session.rollback()
                me.raw("SET ROLE NONE")
                me.raw(f"SELECT pg_terminate_backend({process})")
            them.send(c.read())
        for _ in range(2):  # the first may find the dead connection
            with suppress(DBAPIError, TenancyError), c.client() as me:
                me.send(c.read())
