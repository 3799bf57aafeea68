"""What a session leaves on a pooled connection by SQL that outlives its transaction, and who finds it there.

Whoever takes the DBAPI connection can send what the library does not see: it scrubs then, whatever was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.orm import Session

from mt_paas_db.errors import ContextLostError
from mt_paas_db.session import guard, pin
from mt_paas_db.session.dialects import pinning
from mt_paas_db.session.dialects.asyncpg import PinnedAsyncpg
from mt_paas_db.session.dialects.psycopg import PinnedPsycopg, PinnedPsycopgAsync
from tests.fleet import ROUTES, Runner
from tests.models import Note
from tests.test_isolation import CANARY, at_rest, korea, rows, statements

__all__ = ["korea"]  # a fixture

SETTING = "SELECT set_config('app.user', (SELECT body FROM note), false)"


def raw(session: Session, *sqls: str) -> None:
    """Execute on a DBAPI cursor, below SQLAlchemy and the guard."""
    cursor: Any = session.connection().connection.cursor()
    for sql in sqls:
        cursor.execute(sql)


def setting_and_timezone(session: Session) -> tuple[Any, ...]:
    (found,) = rows(session, "SELECT current_setting('app.user', true), current_setting('TimeZone')")
    return tuple(found)


@pytest.mark.parametrize("send", [raw, statements], ids=["raw", "text"])
def test_settings_that_a_session_left_are_gone(
    runner: Runner, korea: str, send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, timezone) = runner.run("hallym", setting_and_timezone)

    def leave(session: Session) -> None:
        send(session, "SET TimeZone = 'Asia/Pyongyang'", "SET standard_conforming_strings = off", SETTING)
        session.commit()

    runner.run("korea", leave)
    seen, after = runner.run("hallym", setting_and_timezone)
    assert (seen or None, after) == (None, timezone)

    monkeypatch.setattr(pinning, "COMMIT_AND_SCRUB", b"COMMIT")
    monkeypatch.setattr(pinning, "ROLLBACK", b"ROLLBACK")
    monkeypatch.setattr(pinning.Pinning, "_scrubbing", lambda _dialect, _state, message: message)
    runner.run("korea", leave)
    assert runner.run("hallym", setting_and_timezone) == (CANARY, "Asia/Pyongyang")


@pytest.mark.parametrize("end", ["COMMIT", " end ; -- now", "/* so */ Commit Work And No Chain"])
def test_a_commit_of_sql_text_gives_a_clean_server_connection_on(
    runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A pooler gives it on at once, while the session is still open: a later scrub may meet another one."""
    app_dsn = runner.manager.settings.clusters["main"].app_dsn
    assert app_dsn is not None

    def leave(session: Session) -> tuple[list[Any], list[Any]]:
        for sql in ("DECLARE held CURSOR WITH HOLD FOR SELECT body FROM note", "LISTEN news", end):
            session.execute(text(sql))
        with psycopg.connect(app_dsn.get_secret_value(), autocommit=True, prepare_threshold=None) as another:
            held = another.execute("SELECT name FROM pg_cursors WHERE name <> ''").fetchall()
            return held, another.execute("SELECT pg_listening_channels()").fetchall()

    assert runner.run("korea", leave) == ([], [])
    assert [body for (body,) in runner.run("korea", lambda session: rows(session, "SELECT body FROM note"))] == [CANARY]

    monkeypatch.setattr(pinning.Pinning, "_ends", lambda *_: False)
    met = ([("held",)], [("news",)]) if runner.route.pooled else ([], [])
    assert runner.run("korea", leave) == met


@pytest.mark.parametrize(
    ("sql", "ends"),
    [
        ("COMMIT", True),
        (" /* a */ rollback -- x", True),
        ("Abort Transaction", True),
        ("/* * */END WORK;", True),
        ("COMMIT AND NO CHAIN", True),
        ("COMMIT AND CHAIN", False),
        ("ROLLBACK TO SAVEPOINT a", False),
        ("COMMIT PREPARED 'x'", False),
        ("COMMIT; SELECT 1", False),
        ("ENDING", False),
        ("/* x */ " * 2000 + "SELECT 1", False),
        ("COMMIT" + " /* a */" * 2000 + "x", False),
        ("COMMIT " + "\n" * 20_000 + "AND CHAIN", False),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_which_texts_end_a_transaction(sql: str, ends: bool) -> None:
    """The long ones would take seconds to hours, were there several ways to read them."""
    assert bool(pinning._ENDING.fullmatch(sql)) is ends


def test_a_commit_of_sql_text_by_a_server_side_cursor_is_refused_before_it_is_sent(runner: Runner, korea: str) -> None:
    def scenario(session: Session) -> None:
        session.execute(text("DELETE FROM note"))
        session.execute(text("COMMIT"), execution_options={"stream_results": True})

    with pytest.raises(ContextLostError, match="server-side cursor"):
        runner.run("korea", scenario)
    assert [body for (body,) in runner.run("korea", lambda session: rows(session, "SELECT body FROM note"))] == [CANARY]


def test_what_a_client_of_the_pooler_has_chosen_survives_the_scrub(
    runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESET ALL would take it: the pooler believes what the server reports."""
    chosen = {"application_name": r"it's \ mine"}
    if runner.route.driver == "asyncpg":  # libpq knows no time zone
        chosen["TimeZone"] = "Asia/Seoul"

    options = {"server_settings": chosen} if runner.route.driver == "asyncpg" else chosen
    for dialect in (PinnedPsycopg, PinnedPsycopgAsync, PinnedAsyncpg):
        monkeypatch.setattr(dialect, "connect", connecting_with(dialect.connect, options))
    if runner.route.is_async:
        runner.await_(runner.manager.aio.close)
    else:
        runner.manager.close()

    def look(session: Session) -> dict[str, str]:
        return {name: session.execute(text(f"SHOW {name}")).scalar_one() for name in chosen}

    for _ in range(3):
        assert runner.run("korea", look) == chosen

    if runner.route.pooled:
        monkeypatch.setattr(pinning.Pinning, "_scrubbing", lambda _dialect, _state, message: message)
        runner.run("korea", look)
        assert runner.run("korea", look) != chosen


def connecting_with(connect: Callable[..., Any], more: dict[str, Any]) -> Callable[..., Any]:
    return lambda dialect, *arguments, **options: connect(dialect, *arguments, **options, **more)


def raw_leftovers(korea: str) -> list[str]:
    return [
        "DECLARE held CURSOR WITH HOLD FOR SELECT body FROM note",
        "LISTEN hallym_channel",
        f"SET search_path = {korea}",
        f"SET ROLE {korea}",
    ]


LEFTOVERS = """
SELECT current_user, current_setting('search_path'), (SELECT count(*) FROM pg_cursors WHERE is_holdable),
       (SELECT count(*) FROM pg_listening_channels())
"""


def test_what_a_raw_cursor_left_is_gone(runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = at_rest(runner, LEFTOVERS)

    def leave(session: Session) -> None:
        raw(session, *raw_leftovers(korea))
        session.commit()

    runner.run("hallym", leave)
    assert at_rest(runner, LEFTOVERS) == clean

    monkeypatch.setattr(guard.PinnedConnection, "connection", Connection.connection)  # hands out, and notes nothing
    runner.run("hallym", leave)
    ((role, path, cursors, channels),) = at_rest(runner, LEFTOVERS)
    assert (role, path, cursors, channels) == (korea, korea, 1, 1)


# Outside a transaction a pooler may give the server connection on at once; the docs say so.
@pytest.mark.parametrize("route", [route for route in ROUTES if not route.pooled], indirect=True, ids=str)
def test_a_raw_cursor_kept_beyond_the_commit_is_scrubbed_at_check_in(runner: Runner, korea: str) -> None:
    clean = at_rest(runner, LEFTOVERS)

    def leave(session: Session) -> None:
        engine: Any = session.get_bind()
        with engine.connect() as connection:
            kept = connection.connection
            rows(connection, "SELECT 1")
            connection.commit()
            kept.cursor().execute(f"SET ROLE {korea}")

    runner.run("hallym", leave)
    assert at_rest(runner, LEFTOVERS) == clean

    def leave_in_the_next(session: Session) -> None:
        engine: Any = session.get_bind()
        with engine.connect() as connection:
            kept = connection.connection
            for _ in range(2):
                connection.execute(select(1))
                kept.cursor().execute(f"SET ROLE {korea}")
                connection.commit()

    runner.run("hallym", leave_in_the_next)
    assert at_rest(runner, LEFTOVERS) == clean


def test_who_takes_no_raw_connection_pays_for_no_scrub(
    runner: Runner, korea: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    for dialect in (PinnedPsycopg, PinnedPsycopgAsync, PinnedAsyncpg):
        monkeypatch.setattr(dialect, "_send", spying(dialect._send, sent))
    assert runner.run("korea", lambda session: session.scalars(select(Note.body)).all()) == [CANARY]
    assert [message.partition(b";")[0] for message in sent] == [b"BEGIN", b"COMMIT"]
    assert sent[-1] == pin.COMMIT


def spying(send: Callable[[Any, Any, bytes], None], sent: list[bytes]) -> Callable[[Any, Any, bytes], None]:
    def spy(dialect: Any, state: Any, message: bytes) -> None:
        sent.append(message)
        send(dialect, state, message)

    return spy


def test_an_events_listener_that_takes_the_raw_connection_is_noted(runner: Runner, korea: str) -> None:
    """It is called while SQLAlchemy ends the transaction, which reads the connection itself."""
    clean = at_rest(runner, LEFTOVERS)

    def leave(session: Session) -> None:
        engine: Any = session.get_bind()

        def stray(connection: Any) -> None:
            connection.connection.cursor().execute(f"SET ROLE {korea}")

        event.listen(engine, "commit", stray)
        with engine.connect() as connection:
            connection.execute(select(1))
            connection.commit()

    runner.run("hallym", leave)
    assert at_rest(runner, LEFTOVERS) == clean
