"""What tenant hallym tries in order to reach tenant korea, as values. Nothing here judges what comes back.

In the statements ``{korea}`` and ``{hallym}`` stand for the tenants' schemas, which are also their roles.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_chatbot.stage import NEIGHBOUR
from llm_chatbot.ways import (
    Way,
    after_the_neighbour,
    as_tenant,
    beside_the_neighbour,
    by_copy,
    in_autocommit,
    in_one_message,
    in_session,
    of_its_large_object,
    on_own_connection,
    on_raw_connection,
    while_it_is_suspended,
    with_its_object,
    without_a_tenant,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to try.

    Attributes:
        title: What is tried, for a reader.
        statements: SQL, in order.
        way: How it is sent.
        shown: What a table shows instead of the statements, where it says more.
        promised: Whether tier ``role`` promises to stop it.
        secret: The tenant whose schema's name must not be seen, where it is not the canary.
    """

    title: str
    statements: tuple[str, ...]
    way: Way = in_session
    shown: str | None = None
    promised: bool = True
    secret: str | None = None

    def sql(self, names: dict[str, str]) -> list[str]:
        """Return the statements with the tenants' schemas filled in."""
        return [statement.format(**names) for statement in self.statements]

    def in_short(self) -> str:
        """Return what a table shows."""
        return (self.shown or "; ".join(self.statements)).format(hallym="hallym", korea="korea")


READ = "SELECT body FROM {korea}.messages"
OWN = "SELECT body FROM messages"
ACTIVITY = "SELECT query FROM pg_stat_activity WHERE usename = session_user AND pid <> pg_backend_pid()"
NEXTVAL = """SELECT nextval(oid::regclass) FROM pg_class
 WHERE relname = 'ticket_no' AND relnamespace = '{korea}'::regnamespace"""
DO_BLOCK = """DO $$ DECLARE found text; BEGIN
  EXECUTE 'SELECT string_agg(body, '','') FROM {korea}.messages' INTO found;
  RAISE EXCEPTION USING MESSAGE = found;
END $$"""
# The query inside the text is planned when the function runs; by then the role is another one.
ONE_SELECT = """SELECT word
  FROM (SELECT set_config('role', '{korea}', true) AS taken) AS first,
       ts_stat('SELECT to_tsvector(''simple'', body) FROM {korea}.messages' || left(taken, 0))"""

ATTEMPTS = (
    Attempt("read by qualified name", (READ,)),
    Attempt("write by qualified name", ("INSERT INTO {korea}.users (student_no, name) VALUES ('0', 'hallym')",)),
    Attempt("put its schema on the path", ("SET search_path = {korea}", OWN)),
    Attempt(
        "put its schema before one's own",
        ("SELECT set_config('search_path', '{korea}, {hallym}', false)", OWN),
    ),
    Attempt("end the transaction by SQL text", ("COMMIT", READ)),
    Attempt("the same in one message", ("COMMIT", READ), way=in_one_message),
    Attempt("give the role back", ("RESET ROLE", READ)),
    Attempt("discard the session's state", ("DISCARD ALL", READ)),
    Attempt("Core connection without a tenant", (READ,), way=without_a_tenant, shown=f"engine.connect(): {READ}"),
    Attempt("DBAPI connection of the pool", (READ,), way=on_raw_connection, shown=f"raw_connection(): {READ}"),
    Attempt(
        "the same, state discarded first",
        ("DISCARD ALL", READ),
        way=on_raw_connection,
        shown=f"raw_connection(): DISCARD ALL; {READ}",
    ),
    Attempt("connection past the library", (READ,), way=on_own_connection, shown=f"psycopg.connect(app_dsn): {READ}"),
    Attempt("AUTOCOMMIT", (READ,), way=in_autocommit, shown=f"isolation_level='AUTOCOMMIT': {READ}"),
    Attempt(
        "connection that korea left dirty",
        ("SET ROLE {korea}", "SET search_path = {korea}", OWN),
        way=after_the_neighbour,
        shown=f"as korea: SET ROLE {{korea}}; SET search_path = {{korea}}; as hallym: {OWN}",
    ),
    Attempt("shadow a table by a temporary one", ("CREATE TEMP TABLE messages AS SELECT 'planted' AS body", OWN)),
    Attempt(
        "DO block",
        (DO_BLOCK,),
        shown=f"DO $$ ... EXECUTE '{READ}' INTO found; RAISE EXCEPTION ... $$",
    ),
    Attempt("query inside an XML function", (f"SELECT query_to_xml('{READ}', true, false, '')",)),
    Attempt("COPY its table out", ("COPY {korea}.messages TO STDOUT",), way=by_copy),
    Attempt(
        "watch its running statements",
        (ACTIVITY,),
        way=beside_the_neighbour,
        shown="SELECT query FROM pg_stat_activity ...",
    ),
    Attempt(
        "read its large object",
        ("SELECT convert_from(lo_get(<oid>), 'UTF8')",),
        way=of_its_large_object,
        shown="SELECT lo_get(<oid of korea's>)",
    ),
    Attempt(
        "draw from its sequence, by number",
        (NEXTVAL,),
        shown="SELECT nextval(<oid of korea.ticket_no>)",
    ),
    Attempt(
        "plant a function for a migration",
        ("CREATE FUNCTION upper(varchar) RETURNS text LANGUAGE sql AS 'SELECT $1::text'",),
        shown="CREATE FUNCTION upper(varchar) ...",
    ),
    Attempt(
        "grant oneself more, and TRUNCATE",
        ("GRANT TRUNCATE ON messages TO {hallym}", "TRUNCATE messages"),
    ),
    Attempt(
        "add its ORM object to one's session", (), way=with_its_object, shown="session.add(<Conversation of korea>)"
    ),
    Attempt(
        "session of a suspended tenant",
        (OWN,),
        way=while_it_is_suspended,
        shown=f"tenant_session('korea'), suspended: {OWN}",
    ),
    Attempt("session of an unknown tenant", (OWN,), way=as_tenant("atlantis"), shown="tenant_session('atlantis')"),
    Attempt(
        "SQL in place of a tenant's id",
        (OWN,),
        way=as_tenant('korea"; RESET ROLE; --'),
        shown="""tenant_session('korea"; RESET ROLE; --')""",
    ),
    Attempt("take its role", ("SET ROLE {korea}", READ), promised=False),
    Attempt(
        "take its role inside one SELECT",
        (ONE_SELECT,),
        shown="SELECT word FROM (SELECT set_config('role', '{korea}', true) ...), ts_stat('... FROM {korea}.messages')",
        promised=False,
    ),
    Attempt(
        "as the shared login, watch its statements",
        ("RESET ROLE", ACTIVITY),
        way=beside_the_neighbour,
        shown="RESET ROLE; SELECT query FROM pg_stat_activity ...",
        promised=False,
    ),
    Attempt(
        "look for its name in the catalogs",
        ("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%korea%'",),
        promised=False,
        secret=NEIGHBOUR,
    ),
)
