"""Family G, first part: ways around SQLAlchemy's hooks, compiled statements, and what its inspector tells."""

# attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from mt_paas_db.errors import AutocommitError, ConfigurationError, ContextLostError, NoTenantError, TenantSuspendedError
from mt_paas_db.isolation.attack import Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import UNDEFINED_TABLE
from mt_paas_db.isolation.attacks.g_objects import Author, shelves, told
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.session import context

_NO_WALL = Weakness.SEARCH_PATH_ONLY | Weakness.NO_PATH | Weakness.LOGIN_PATH


def _engine(c: Channel) -> Any:
    with c.client() as me:
        return me.session.get_bind()


def _shown(c: Channel, rows: Any) -> None:
    c.show(c.me, "rows", [tuple(row) for row in rows])


@attack(
    "G1",
    "around-the-hooks",
    title="Get a connection by a way that no event of SQLAlchemy covers",
    sql="session.get_bind().raw_connection()",
    why_held="""
    The dialect itself begins transactions, so that every way to one passes it. A raw connection is the login's, which
    has no rights.
    """,
    source="SQLAlchemy documentation, Core Events, begin; Working with Driver SQL and Raw DBAPI Connections.",
    broken=Weakness.INHERIT,
)
def around_the_hooks(c: Channel) -> None:
    """A library is given the session's engine or connection, and does with it as it likes."""
    with c.trying("engine.connect()", refusals=(DENIED,)), _engine(c).connect() as connection:
        _shown(c, connection.exec_driver_sql(c.read(c.target)))
    with c.trying("commit, and go on", refusals=(DENIED,)), _engine(c).connect() as connection:
        connection.commit()
        _shown(c, connection.exec_driver_sql(c.read(c.target)))
    with c.trying("raw_connection()", refusals=(DENIED,)):
        raw = _engine(c).raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute(c.read(c.target))
            _shown(c, cursor.fetchall())
        finally:
            raw.close()
    with c.trying("the driver's connection, after the commit", refusals=(DENIED,)), c.client() as me:
        left: Any = me.session.connection().connection.dbapi_connection
        me.session.commit()
        cursor = left.cursor()
        cursor.execute(c.read(c.target))
        _shown(c, cursor.fetchall())


@attack(
    "G1",
    "autocommit",
    title="Tell a connection to autocommit, so that each statement is a transaction of its own",
    sql="connection.execution_options(isolation_level='AUTOCOMMIT'); SELECT * FROM {target}.note",
    why_held="Refused before anything is sent. Without a transaction there is no pin, and the login has no rights.",
    source="SQLAlchemy documentation, Setting Transaction Isolation Levels including DBAPI Autocommit.",
    broken=Weakness.AUTOCOMMIT_ALLOWED | Weakness.INHERIT | Weakness.NO_CLIENT_GUARD,
)
def autocommit(c: Channel) -> None:
    """A report runs long, or VACUUM is to run, and somebody has read that AUTOCOMMIT is for that."""
    with c.trying("a connection", refusals=(AutocommitError,)), _engine(c).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        _shown(c, connection.exec_driver_sql(c.read(c.target)))
    with (
        c.trying("an engine", refusals=(AutocommitError,)),
        _engine(c).execution_options(isolation_level="AUTOCOMMIT").connect() as connection,
    ):
        _shown(c, connection.exec_driver_sql(c.read(c.target)))


@attack(
    "G1",
    "no-tenant-named",
    title="Work where no tenant was named, behind somebody who had named his",
    sql="with engine.connect() as connection: SELECT * FROM note",
    why_held="There is no default tenant: such a transaction does not begin, and current_tenant() raises.",
    source="mt_paas_db, session context; SQLAlchemy documentation, Working with Engines and Connections.",
    broken=Weakness.DEFAULT_TENANT | Weakness.NO_CLIENT_GUARD,
)
def no_tenant_named(c: Channel) -> None:
    """A job forgets to say whose rows it means, on a service that has just worked for another tenant."""
    engines, entry = c.manager._door.engines, c.manager.settings.home_cluster
    engine: Any = engines.asyncio(entry).sync_engine if c.route.is_async else engines.blocking(entry)
    with c.client(c.target) as them:
        them.run(c.read())
    with c.trying("the pool's own engine", refusals=(NoTenantError,)), engine.connect() as connection:
        _shown(c, connection.exec_driver_sql(c.read()))
    with c.trying("current_tenant()", refusals=(NoTenantError,)):
        c.learned(f"that {Context().run(lambda: context.current_tenant())!r} was served last")


@attack(
    "G1",
    "another-engine",
    title="Run a session on another tenant's engine",
    sql="session.execute(select(Note), bind_arguments={'bind': engine_of_another})",
    why_held="A tenant session has one engine for life, and refuses any other.",
    source="SQLAlchemy documentation, Session.get_bind, bind_arguments.",
    broken=Weakness.ANY_ENGINE,
)
def another_engine(c: Channel) -> None:
    """A router of binds, or a test's leftover, sends a statement to the engine of somebody else."""
    with c.client(c.target, beside=True) as them:
        theirs = them.session.get_bind()
    with shelves(c):
        with c.trying("bind_arguments", refusals=(ConfigurationError,)), c.client() as me:
            me.call(lambda s: s.execute(select(Author.name), bind_arguments={"bind": theirs}).all())
        with c.trying("session.bind", refusals=(ConfigurationError,)), c.client() as me:
            me.session.bind = theirs
            me.call(lambda s: s.execute(select(Author.name)).all())


@attack(
    "G2",
    "refused-begin",
    title="Go on with a Connection whose begin was refused",
    sql="connection.execute(...)  -- refused, as the tenant is suspended;  the same again: SELECT * FROM {target}.note",
    why_held="A refused begin leaves no transaction; the next statement begins anew, and is refused again.",
    source="SQLAlchemy documentation, Core Events, begin; PostgreSQL documentation, SET ROLE.",
    broken=Weakness.REFUSAL_SWALLOWED | Weakness.STRAY_GRANT | Weakness.NO_CLIENT_GUARD,
)
def refused_begin(c: Channel) -> None:
    """A retry, or a handler that is too broad, uses a connection once more after the error."""
    with c.client(c.target) as them:
        engine: Any = them.session.get_bind()
    c.ground.manager.suspend(c.target.tenant_id)
    try:
        with (
            c.trying("second statement", refusals=(TenantSuspendedError, ContextLostError)),
            engine.connect() as connection,
        ):
            with suppress(TenantSuspendedError):
                connection.exec_driver_sql("SELECT 1")
            rows = connection.exec_driver_sql(c.read(c.target)).all()
            c.show(c.me, "rows", [tuple(row) for row in rows])
    finally:
        c.ground.manager.resume(c.target.tenant_id)


@attack(
    "G6",
    "schema-translate-map",
    title="Translate schemas to another tenant's",
    sql="connection.execution_options(schema_translate_map={None: '{target}'}).execute(select(note))",
    why_held="What SQLAlchemy writes into a statement is a name, and rights decide; compiled statements hold no name.",
    source="SQLAlchemy documentation, Translation of Schema Names.",
    broken=Weakness.STRAY_GRANT,
)
def schema_translate_map(c: Channel) -> None:
    """A map comes from the wrong request, has no entry for a schema, or stays in the cache of compiled statements."""
    query = select(Author.name)

    def through(schema: str | None) -> Callable[[Session], Any]:
        options = {"schema_translate_map": {None: schema}}
        return lambda session: session.execute(query, execution_options=options).all()

    with shelves(c):
        with c.trying("of another", refusals=(DENIED,)), c.client() as me:
            me.call(through(c.target.schema))
        with c.trying("compiled for another"):
            with c.client(c.target) as them:
                them.call(through(c.target.schema))
            with c.client() as me:
                me.call(through(None))
        with c.trying("missing", refusals=(UNDEFINED_TABLE,)), c.client() as me:
            me.call(through(f"{c.target.schema}_missing"))


@attack(
    "G6",
    "compiled-statements",
    title="Run a statement that SQLAlchemy has compiled for another tenant",
    sql="select(Note)  -- compiled once for the engine that all tenants share",
    why_held="Compiled statements name no schema; role and path decide when they run.",
    source="SQLAlchemy documentation, SQL Compilation Caching.",
    broken=_NO_WALL,
)
def compiled_statements(c: Channel) -> None:
    """One statement object, with its compiled form and its prepared statement, serves tenants in turn."""
    query = select(Author)
    with shelves(c), c.trying("by the ORM"):
        for party in (c.target, c.me) * 2:
            with c.client(party, commit=True) as client:
                for _ in range(6):  # psycopg prepares at the sixth
                    client.call(lambda s: [told(author) for author in s.scalars(query)])
                    client.session.expunge_all()


@attack(
    "G7",
    "inspector",
    title="List other tenants' schemas and tables by SQLAlchemy's inspector",
    sql="inspect(connection).get_schema_names(); inspect(connection).get_columns('note', schema='{target}')",
    why_held="Nothing holds it: PostgreSQL's catalogs are open to every role.",
    remains="Names and definitions, never rows. Keep what a tenant's id tells in mind, and data out of definitions.",
    source="PostgreSQL documentation, System Catalogs; SQLAlchemy documentation, Reflecting Database Objects.",
    broken=Weakness.NONE,
    role=not_promised("PostgreSQL's catalogs name everything to every role, and cannot be closed"),
    login=not_promised("PostgreSQL's catalogs name everything to every role, and cannot be closed"),
)
def inspector(c: Channel) -> None:
    """An admin page, or hostile code, asks which schemas, tables and columns there are."""
    with c.trying("inspect") as trial, c.client() as me:
        names = inspect(me.session.connection()).get_table_names(schema=c.target.schema)
        trial.reach("the inspector has answered")
        if names and c.target is not c.me:
            c.learned(f"{c.target.label}'s tables are {', '.join(names)}")
