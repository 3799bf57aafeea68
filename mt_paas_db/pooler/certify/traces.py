"""What SQL can leave behind on a server connection, one by one: how to leave it, see it, and clear it.

Each is harmless to whoever meets it: a setting that nothing reads, the role that the login has anyway, a lock that
nobody else asks for. Each clears itself on a connection that has none of it without an error.
"""

from __future__ import annotations

from dataclasses import dataclass

PIN = "the pin, which is transaction-local"
SCRUB = "the scrub behind COMMIT and ROLLBACK"
YOURS = "yours: what holds for a session cannot be used behind such a pooler"


@dataclass(frozen=True, slots=True)
class Trace:
    """A residue. `seen` is a boolean expression, true where the connection has it. `cover` as in `Check`.

    `remedy` is what to do where nothing covers it.
    """

    name: str
    title: str
    leave: str
    seen: str
    clear: str
    cover: str | None
    remedy: str = ""


def traces(token: str, login: str) -> tuple[Trace, ...]:
    """Return all traces, told from those of other runs by `token`: letters and digits."""
    number = int(token, 16) % 2**62
    setting, name = "mt_paas_certify.x", f"mt_paas_certify_{token}"
    role, as_text = '"' + login.replace('"', '""') + '"', "'" + login.replace("'", "''") + "'"
    own_lock = (
        "locktype = 'advisory' AND granted AND objsubid = 1 AND pid = pg_catalog.pg_backend_pid() "
        f"AND (classid::bigint << 32) + objid::bigint = {number}"
    )
    return (
        Trace(
            name="set",
            title="a session's SET",
            leave=f"SET {setting} = '{token}'",
            seen=f"coalesce(pg_catalog.current_setting('{setting}', true) = '{token}', false)",
            clear=f"RESET {setting}",
            cover=PIN,
        ),
        Trace(
            name="role",
            title="a session's SET ROLE",
            leave=f"SET ROLE {role}",
            seen=f"pg_catalog.current_setting('role') = {as_text}",
            clear="RESET ROLE",
            cover=PIN,
        ),
        Trace(
            name="temporary table",
            title="a temporary table",
            leave=f"CREATE TEMPORARY TABLE {name} ()",
            seen=f"pg_catalog.to_regclass('pg_temp.{name}') IS NOT NULL",
            clear=f"DROP TABLE IF EXISTS pg_temp.{name}",
            cover=None,
            remedy="; take TEMP from the login and from PUBLIC on this database, as `mt-paas-db init` does",
        ),
        Trace(
            name="held cursor",
            title="a cursor WITH HOLD",
            leave=f"DECLARE {name} CURSOR WITH HOLD FOR SELECT 1",
            seen=f"EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE name = '{name}')",
            clear=unless_missing(f"CLOSE {name}", "invalid_cursor_name"),
            cover=SCRUB,
        ),
        Trace(
            name="listen",
            title="a LISTEN",
            leave=f"LISTEN {name}",
            seen=f"'{name}' IN (SELECT pg_catalog.pg_listening_channels())",
            clear=f"UNLISTEN {name}",
            cover=SCRUB,
        ),
        Trace(
            name="advisory lock",
            title="a session's advisory lock",
            leave=f"SELECT pg_catalog.pg_advisory_lock({number})",
            seen=f"EXISTS (SELECT FROM pg_catalog.pg_locks WHERE {own_lock})",
            clear=f"SELECT pg_catalog.pg_advisory_unlock({number}) FROM pg_catalog.pg_locks WHERE {own_lock}",
            cover=YOURS,
        ),
        Trace(
            name="prepare",
            title="an SQL PREPARE",
            leave=f"PREPARE {name} AS SELECT 1",
            seen=f"EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = '{name}')",
            clear=unless_missing(f"DEALLOCATE {name}", "invalid_sql_statement_name"),
            cover=YOURS,
        ),
    )


PARAMETERS = {
    "standard_conforming_strings": ("off", "on"),
    "client_encoding": ("LATIN1", "LATIN2"),
    "application_name": ("mt_paas_certify_a", "mt_paas_certify_b"),
    "DateStyle": ("German, DMY", "SQL, MDY"),
    "IntervalStyle": ("sql_standard", "iso_8601"),
    "TimeZone": ("Asia/Seoul", "America/Lima"),
}
"""What PgBouncer keeps for each of its clients, with two values that two clients may have."""


def unless_missing(statement: str, condition: str) -> str:
    """Return `statement` as one that is no error where there is nothing to close: a message with an error is undone."""
    return f"DO $$ BEGIN EXECUTE '{statement}'; EXCEPTION WHEN {condition} THEN NULL; END $$"
