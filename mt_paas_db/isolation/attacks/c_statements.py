"""Family C, second half: statements that drivers keep, stack, or carry past the beginning of a transaction."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy.exc import DBAPIError

from mt_paas_db.errors import ConfigurationError, TenancyError
from mt_paas_db.isolation.attack import Need, Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import literal
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import quoted

MORE_THAN_ONE_COMMAND = "42601"

_NO_WALL = Weakness.SEARCH_PATH_ONLY | Weakness.NO_PATH | Weakness.LOGIN_PATH


@attack(
    "C5",
    "cached-plans",
    title="Run a statement that was prepared for another tenant",
    sql="PREPARE q AS SELECT * FROM note;  -- next session on the connection: EXECUTE q",
    why_held="The server plans a prepared statement anew when the path has changed, and checks its rights each time.",
    source="PostgreSQL documentation, PREPARE; CVE-2024-10976, for row policies and role-specific plans.",
    broken=_NO_WALL,
)
def cached_plans(c: Channel) -> None:
    """Drivers prepare what is run often, and keep it by its text; the text is the same for all tenants."""
    with c.trying("by the driver"):
        for _ in range(2):
            for party in (c.target, c.me):
                with c.client(party, commit=True) as client:
                    for _ in range(7):  # psycopg prepares at the sixth
                        client.run(c.read())
    with c.trying("by SQL", refusals=("26000",)):
        with c.client(c.target, commit=True) as them:
            them.raw(f"PREPARE mt_isolation_plan AS {c.read()}")
            for _ in range(7):  # from the sixth on the plan may be a generic one
                them.raw("EXECUTE mt_isolation_plan")
        with c.client() as me:
            me.raw("EXECUTE mt_isolation_plan")


@attack(
    "C6",
    "types-of-another",
    title="Read a type of one's own that a cached statement knows as another tenant's",
    sql="SELECT mood FROM note WHERE mood = $1  -- an enum that exists once per schema",
    why_held="The drivers' caches are kept apart by tenant; a statement never meets another tenant's type.",
    remains="It was never a leak, but an outage: a statement that fails here makes the attack astray.",
    source="asyncpg documentation, statement_cache_size; SQLAlchemy's asyncpg dialect, Prepared Statement Cache.",
    broken=_NO_WALL,
)
def types_of_another(c: Channel) -> None:
    """The same text over a type that has another number in each schema."""
    for party in {c.me.schema: c.me, c.target.schema: c.target}.values():
        schema = quoted(party.schema)
        content = literal((c.ground.canaries[party.label].text("types", 1)) or "")
        c.ground.as_owner(
            f"CREATE TYPE {schema}.mt_isolation_mood AS ENUM ('calm')",
            f"CREATE TABLE {schema}.mt_isolation_mind (mood {schema}.mt_isolation_mood, body text)",
            f"INSERT INTO {schema}.mt_isolation_mind VALUES ('calm', {content})",
        )
    try:
        with c.trying("by the driver"):
            for _ in range(2):
                for party in (c.target, c.me):
                    with c.client(party, commit=True) as client:
                        for _ in range(7):
                            client.run(
                                "SELECT mood, body FROM mt_isolation_mind WHERE mood = CAST(:m AS mt_isolation_mood)",
                                m="calm",
                            )
    finally:
        for party in {c.me.schema: c.me, c.target.schema: c.target}.values():
            schema = quoted(party.schema)
            c.ground.as_owner(
                f"DROP TABLE IF EXISTS {schema}.mt_isolation_mind", f"DROP TYPE IF EXISTS {schema}.mt_isolation_mood"
            )


@attack(
    "C7",
    "poisoned-statement",
    title="Replace a statement that the driver has prepared",
    sql="""
    DEALLOCATE _pg3_0; PREPARE _pg3_0 AS SELECT * FROM note t WHERE pg_try_advisory_lock(4711, length(t::text));
    -- the next tenant executes it; then SELECT objid FROM pg_locks WHERE locktype = 'advisory'
    """,
    why_held="Behind PgBouncer no statement has a name. At tier `login` nobody else executes on the connection.",
    source="PostgreSQL documentation, PREPARE; psycopg documentation, Prepared statements.",
    broken=Weakness.NONE,
    role=not_promised(
        "on a direct connection the drivers keep named statements, and whole hostile statements can replace one"
    ),
)
def poisoned_statement(c: Channel) -> None:
    """Whole hostile statements on a shared connection: the next tenant runs the attacker's text with its own rights.

    What it brings back is a session's advisory lock, numbered by the rows' lengths, which no scrub takes.
    """
    query = c.read()
    with c.trying("EXECUTE by the victim") as trial:
        _often(c, query)
        with c.client(commit=True) as me:
            named = me.raw(
                "SELECT name FROM pg_prepared_statements WHERE NOT from_sql AND name <> '' "
                f"AND statement LIKE {literal(f'%FROM {quoted(c.ground.probe)} t%')}"
            )
            if not named:
                trial.reach("the connection has no named statement to replace")
            for (name,) in named:
                me.raw(f"DEALLOCATE {quoted(name)}")
                me.raw(f"PREPARE {quoted(name)} AS {query} WHERE pg_try_advisory_lock(4711, length(t::text))")
        _often(c, query)
        with c.client() as me:
            held = "locktype = 'advisory' AND classid = 4711 AND pid = pg_backend_pid()"
            if me.raw(f"SELECT objid FROM pg_locks WHERE {held}"):
                trial.reach("the attacker's text was carried out")
                if c.target is not c.me:
                    c.learned("how long the rows are that the victim reads with its own rights")


def _often(c: Channel, query: str) -> None:
    with c.client(c.target, commit=True) as them, suppress(DBAPIError, TenancyError):
        for _ in range(7):
            them.run(query)


@attack(
    "C10",
    "two-phase",
    title="Begin a two-phase transaction, which no hook of SQLAlchemy's begin sees",
    sql="connection.begin_twophase(); SELECT * FROM {target}.note",
    why_held="Refused before anything is sent; without a pin the login has no rights.",
    source="SQLAlchemy documentation, Connection.begin_twophase.",
    broken=Weakness.TWO_PHASE_ALLOWED | Weakness.INHERIT | Weakness.NO_CLIENT_GUARD,
)
def two_phase(c: Channel) -> None:
    """A service that keeps two databases in step asks for two-phase commit."""
    with c.trying("begin_twophase", refusals=(ConfigurationError,)):
        with c.client() as me:
            engine: Any = me.session.get_bind()
        with engine.connect() as connection:
            connection.begin_twophase()
            rows = connection.exec_driver_sql(c.read(c.target)).all()
            c.show(c.me, "rows", [tuple(row) for row in rows])


def _no_prepared(c: Channel) -> str | None:
    ((most,),) = c.ground.as_owner("SHOW max_prepared_transactions")
    return "max_prepared_transactions is 0 here" if int(most) == 0 else None


TWO_PHASE = Need("two_phase", _no_prepared)


@attack(
    "C10",
    "prepared-transactions",
    title="Read the names of another tenant's prepared transactions",
    sql="SELECT gid, owner FROM pg_prepared_xacts",
    why_held="Nothing holds it: the view is open to all.",
    source="PostgreSQL documentation, pg_prepared_xacts.",
    broken=Weakness.NONE,
    needs=(TWO_PHASE,),
    role=not_promised("the view is open to every role; put nothing of a tenant into a transaction's name"),
    login=not_promised("the view is open to every role; put nothing of a tenant into a transaction's name"),
)
def prepared_transactions(c: Channel) -> None:
    """A transaction is prepared under a name that says something of its tenant."""
    gid = literal(c.ground.canaries[c.target.label].text("gid", 1) or "")
    try:
        with c.trying("pg_prepared_xacts"):
            with c.client(c.target, commit=True) as them:
                them.raw(f"PREPARE TRANSACTION {gid}")
            with c.client() as me:
                me.raw("SELECT gid, owner FROM pg_prepared_xacts")
    finally:
        with c.client(c.target) as them, suppress(Exception):
            them.raw("ROLLBACK")
            them.raw(f"SET ROLE {quoted(c.target.role)}")
            them.raw(f"ROLLBACK PREPARED {gid}")


@attack(
    "C12",
    "stacked-statements",
    title="Stack statements behind a semicolon",
    sql="SELECT 1; COMMIT; SELECT * FROM {target}.note",
    why_held="""
    asyncpg refuses more than one statement. psycopg sends them where there are no parameters; they run as the login,
    which has no rights.
    """,
    remains="Stacked text can also take a role (A2).",
    source="PostgreSQL documentation, 55.2.3 Extended Query; psycopg documentation, Multiple statements.",
    broken=Weakness.INHERIT,
)
def stacked_statements(c: Channel) -> None:
    """A value gets into SQL text and brings a semicolon."""
    for before in ("RESET ROLE", "COMMIT", "ROLLBACK; BEGIN", "SELECT 1; RESET SESSION AUTHORIZATION"):
        for by in ("run", "send", "raw"):
            c.trial(f"{before}; {c.read(c.target)}", by=by, refusals=(DENIED, MORE_THAN_ONE_COMMAND))
