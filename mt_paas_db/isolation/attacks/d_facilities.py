"""Family D, second half: what tenants may do with the server's facilities: messages, large objects, files, locks."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal(), numbers are generations

from __future__ import annotations

from typing import Any

from mt_paas_db.isolation.attack import Need, NotApplicable, Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.a_escape import literal
from mt_paas_db.isolation.attacks.trials import DIRECT, SHARED_TABLES, forbidden, probe_of
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.client import Client
from mt_paas_db.isolation.ground import quoted


@attack(
    "D6",
    "notifications",
    title="Listen to what other tenants notify",
    sql="LISTEN orders;  -- another tenant: NOTIFY orders, '...'",
    why_held="Nothing holds it: a channel is the database's, and has no rights.",
    remains="Put no data into a payload, and something unguessable into the channel's name.",
    source="PostgreSQL documentation, NOTIFY; LISTEN.",
    broken=Weakness.NONE,
    needs=(DIRECT,),
    role=not_promised("channels are the database's, and any role may listen to them and notify"),
    login=not_promised("channels are the database's, and any role may listen to them and notify"),
)
def notifications(c: Channel) -> None:
    """A service tells its other processes of changes by NOTIFY."""
    payload = literal(c.ground.canaries[c.target.label].text("payload", 1) or "")
    with c.trying("LISTEN"), c.client() as me:
        _listen(c, me)
        me.raw("COMMIT")  # the session's own would end the listening, too
        with c.client(c.target, beside=True, commit=True) as them:
            them.raw(f"SELECT pg_notify('mt_isolation', {payload})")
        me.raw("SELECT 1")


def _listen(c: Channel, me: Client) -> None:
    if c.route.driver != "asyncpg":
        me.raw("LISTEN mt_isolation")
        return

    def heard(_connection: Any, _process: int, channel: str, payload: object) -> None:
        c.show(me.party, "notification", (channel, payload))

    c.wait(me.driver.add_listener("mt_isolation", heard))


@attack(
    "D7",
    "large-objects",
    title="Read and write another tenant's large object",
    sql="SELECT lo_get(16384); SELECT lo_put(16384, 0, 'x'); SELECT data FROM pg_largeobject",
    why_held="A large object belongs to the role that made it, which is the tenant's.",
    source="PostgreSQL documentation, 35 Large Objects; 20.13.1 lo_compat_privileges.",
    broken=Weakness.LARGE_OBJECTS_OPEN,
)
def large_objects(c: Channel) -> None:
    """Documents are kept as large objects, and asked for by a number that can be guessed."""
    content = literal(c.ground.canaries[c.target.label].text("document", 1) or "")
    with c.client(c.target, commit=True) as them:
        ((number,),) = them.raw(f"SELECT lo_from_bytea(0, convert_to({content}, 'UTF8'))")
    try:
        read = f"SELECT convert_from(lo_get({number}), 'UTF8')"
        c.trial(read, by="run", refusals=(DENIED,))
        c.trial("RESET ROLE", read, by="raw", refusals=(DENIED,))
        c.trial(f"SELECT convert_from(data, 'UTF8') FROM pg_largeobject WHERE loid = {number}", refusals=(DENIED,))
        if c.target is not c.me:
            forbidden(c, f"SELECT lo_put({number}, 0, 'x')")
            forbidden(c, f"SELECT lo_unlink({number})")
    finally:
        with c.client(c.target, commit=True) as them:
            them.raw(f"SELECT lo_unlink({number})")


@attack(
    "D7",
    "large-object-numbers",
    title="List large objects and whose they are",
    sql="SELECT oid, lomowner::regrole FROM pg_largeobject_metadata",
    why_held="Nothing holds it: the catalog is open to all.",
    source="PostgreSQL documentation, pg_largeobject_metadata.",
    broken=Weakness.NONE,
    role=not_promised("pg_largeobject_metadata is open to every role; contents are not"),
    login=not_promised("pg_largeobject_metadata is open to every role; contents are not"),
)
def large_object_numbers(c: Channel) -> None:
    """How many documents a competitor has."""
    with c.client(c.target, commit=True) as them:
        ((number,),) = them.raw("SELECT lo_create(0)")
    try:
        with c.trying("pg_largeobject_metadata"), c.client() as me:
            owned = f"lomowner = (SELECT oid FROM pg_roles WHERE rolname = {literal(c.target.role)})"
            ((count,),) = me.raw(f"SELECT count(*) FROM pg_largeobject_metadata WHERE {owned}")
            if count:
                c.learned(f"{count} large objects")
    finally:
        with c.client(c.target, commit=True) as them:
            them.raw(f"SELECT lo_unlink({number})")


def _sequences(c: Channel) -> list[str]:
    rows = c.ground.as_owner(
        f"SELECT sequencename FROM pg_sequences WHERE schemaname = {literal(c.ground.victim.schema)} ORDER BY 1"
    )
    return [str(name) for (name,) in rows]


SEQUENCES = Need("sequences", lambda c: None if _sequences(c) else "tenants' tables have no identity or serial column")


@attack(
    "D8",
    "sequences",
    title="Read and advance another tenant's sequence",
    sql="SELECT last_value FROM {target}.note_id_seq; SELECT nextval('{target}.note_id_seq')",
    why_held="Sequences stand in the tenant's schema, which no other role may use; pg_sequences shows no values of it.",
    source="PostgreSQL documentation, 9.17 Sequence Manipulation Functions; pg_sequences.",
    broken=Weakness.STRAY_GRANT,
    needs=(SEQUENCES,),
)
def sequences(c: Channel) -> None:
    """How many orders there are shows in their numbers; and numbers can be used up."""
    sequence = _sequences(c)[0]
    name = f"{quoted(c.target.schema)}.{quoted(sequence)}"
    for query in (
        f"SELECT last_value FROM {name}",
        f"SELECT nextval({literal(name)})",
        f"SELECT setval({literal(name)}, 1)",
        f"SELECT pg_sequence_last_value({literal(name)}::regclass)",
    ):
        if c.target is not c.me:
            forbidden(c, query)
    with c.trying("pg_sequences") as trial, c.client() as me:
        named = f"schemaname = {literal(c.target.schema)} AND sequencename = {literal(sequence)}"
        for (value,) in me.run(f"SELECT last_value FROM pg_sequences WHERE {named}"):
            trial.reach("the sequence is listed, without its value")
            if value is not None and c.target is not c.me:
                c.learned(f"last value {value}")


@attack(
    "D8",
    "numbers-of-shared-rows",
    title="Count what others write to a shared table by the numbers that one's own rows get",
    sql="INSERT INTO shared.ledger ... RETURNING id  -- 17; an hour later: 4711",
    why_held="Nothing holds it: the numbers of a shared table are drawn from one sequence.",
    remains="UUIDs as keys tell nothing.",
    source="PostgreSQL documentation, CREATE SEQUENCE: nextval is never rolled back.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=not_promised("an identity column of a shared table counts all tenants' rows; use UUIDs where that matters"),
    login=not_promised("an identity column of a shared table counts all tenants' rows; use UUIDs where that matters"),
)
def numbers_of_shared_rows(c: Channel) -> None:
    """One inserts a row every day, and knows how fast the service grows."""

    def number(client: Client) -> int:
        ((drawn,),) = client.raw(
            f"INSERT INTO {probe_of(c).ledger} (account, slot, seat, body) "
            f"VALUES ({client.party.generation}, 1000000, 1000000, '') RETURNING id"
        )
        return int(drawn)

    with c.trying("RETURNING id"):
        with c.client() as me:
            before = number(me)
        with c.client(c.target) as them:
            number(them)
        with c.client() as me:
            if number(me) - before > 1 and c.target is not c.me:
                c.learned("others have written meanwhile")


@attack(
    "D11",
    "server-files",
    title="Read the server's files, run its programs, and make what is no tenant's to make",
    sql="SELECT pg_read_file('PG_VERSION'); COPY (SELECT 1) TO PROGRAM 'true'; CREATE PUBLICATION ...",
    why_held="Such rights are a superuser's, or come with the roles pg_*; neither tenants nor the login have any.",
    source="PostgreSQL documentation, 22.5 Predefined Roles; COPY; 9.27.9 Generic File Access Functions.",
    broken=Weakness.LOGIN_SUPERUSER,
)
def server_files(c: Channel) -> None:
    """Files of the server hold all tenants' rows; a replication slot brings all their changes."""
    for statement in (
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT pg_ls_dir('.')",
        "SELECT lo_import('PG_VERSION')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/dev/null'",
        "CREATE SCHEMA mt_isolation_planted",
        "CREATE ROLE mt_isolation_planted",
        "CREATE PUBLICATION mt_isolation_planted FOR ALL TABLES",
        "CREATE EVENT TRIGGER mt_isolation_planted ON sql_drop EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SELECT pg_create_physical_replication_slot('mt_isolation_planted', false, true)",
        "SET LOCAL session_replication_role = replica",
        "SET LOCAL log_statement = 'all'",
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_hba_file_rules",
        "SELECT pg_reload_conf()",
    ):
        forbidden(c, statement, refusals=(DENIED,))
        forbidden(c, "RESET ROLE", statement, refusals=(DENIED,))


@attack(
    "D12",
    "lock-shared-table",
    title="Lock a shared table, so that all other tenants wait",
    sql="LOCK TABLE shared.ledger IN ACCESS EXCLUSIVE MODE",
    why_held="Nothing holds it: who may UPDATE or DELETE may lock a table in every mode.",
    remains="It reads nothing. lock_timeout bounds how long others wait.",
    source="PostgreSQL documentation, LOCK.",
    broken=Weakness.NONE,
    needs=(SHARED_TABLES,),
    role=not_promised("the right to UPDATE a table is the right to lock it; it is an outage, and no leak"),
    login=not_promised("the right to UPDATE a table is the right to lock it; it is an outage, and no leak"),
)
def lock_shared_table(c: Channel) -> None:
    """A tool that locks what it exports stops everybody."""
    with c.trying("LOCK TABLE", refusals=(DENIED,)), c.client() as me:
        me.raw(f"LOCK TABLE {probe_of(c).ledger} IN ACCESS EXCLUSIVE MODE")
        if c.target is not c.me:
            c.learned("the table's other users would wait")


@attack(
    "D12",
    "lock-read-only-table",
    title="Lock a table that all tenants read",
    sql="LOCK TABLE shared.plan IN ACCESS EXCLUSIVE MODE",
    why_held="SELECT alone allows the mode of a reader, which keeps no reader out.",
    source="PostgreSQL documentation, LOCK.",
    broken=Weakness.SHARED_RIGHTS,
    needs=(SHARED_TABLES,),
)
def lock_read_only_table(c: Channel) -> None:
    """The same on a table of plans or languages, which every request reads."""
    for mode in ("ACCESS EXCLUSIVE", "EXCLUSIVE", "SHARE"):
        forbidden(c, f"LOCK TABLE {probe_of(c).plan} IN {mode} MODE")


D10 = NotApplicable(
    "D10",
    "Connect to the server from inside it, by dblink or a foreign table",
    "the library installs neither, and tenants cannot: the audit names them where somebody else has",
)
