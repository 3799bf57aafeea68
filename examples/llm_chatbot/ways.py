"""How statements reach the server in the attempts: through a session, beside it, past it.

Each way returns the rows that came back, and lets every error through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from llm_chatbot.models import Conversation
from llm_chatbot.stage import INTRUDER, NEIGHBOUR, Stage
from mt_paas_db import tenant_session
from mt_paas_db.session.dialects.pinning import PIN_OPTION

Way = Callable[[Stage, list[str]], Iterable[Any]]


def in_session(_stage: Stage, statements: list[str]) -> list[Any]:
    """The ordinary way: one after the other in a session of the intruder."""
    with tenant_session(INTRUDER) as session:
        return _rows(session, statements)


def _rows(session: Session, statements: list[str]) -> list[Any]:
    rows: list[Any] = []
    for statement in statements:
        result: Any = session.execute(text(statement))
        if result.returns_rows:
            rows += result.all()
    return rows


def without_a_tenant(_stage: Stage, statements: list[str]) -> list[Any]:
    """A Core connection from the session's engine, with the tenant taken off it."""
    with tenant_session(INTRUDER) as session:
        engine = session.connection().engine
    with engine.execution_options(**{PIN_OPTION: None}).connect() as connection:
        return [row for statement in statements for row in connection.execute(text(statement))]


def on_raw_connection(_stage: Stage, statements: list[str]) -> list[Any]:
    """A DBAPI connection from the session's pool: no SQLAlchemy, so none of the client's guards."""
    with tenant_session(INTRUDER) as session:
        raw = session.connection().engine.raw_connection()
    try:
        return _on_cursor(raw.cursor(), statements)
    finally:
        raw.close()


def on_own_connection(stage: Stage, statements: list[str]) -> list[Any]:
    """A connection made past the library, with the service's own login."""
    with psycopg.connect(stage.app_dsn, autocommit=True) as connection:
        return _on_cursor(connection.cursor(), statements)


def _on_cursor(cursor: Any, statements: list[str]) -> list[Any]:
    rows: list[Any] = []
    for statement in statements:
        cursor.execute(statement)
        more: bool | None = True
        while more:
            if cursor.description is not None:
                rows += cursor.fetchall()
            more = cursor.nextset()
    return rows


def in_one_message(_stage: Stage, statements: list[str]) -> list[Any]:
    """All statements in one message, on the cursor below SQLAlchemy: no guard can look between them."""
    with tenant_session(INTRUDER) as session:
        return _on_cursor(session.connection().connection.cursor(), ["; ".join(statements)])


def in_autocommit(_stage: Stage, statements: list[str]) -> list[Any]:
    """A session told to run outside a transaction, where no pin could hold."""
    with tenant_session(INTRUDER) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        return _rows(session, statements)


def by_copy(_stage: Stage, statements: list[str]) -> list[Any]:
    """The COPY protocol, on the driver's connection inside the session's transaction."""
    with tenant_session(INTRUDER) as session:
        driver: Any = session.connection().connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(statements[0]) as copied:
            return [bytes(block).decode() for block in copied]


def after_the_neighbour(stage: Stage, statements: list[str]) -> list[Any]:
    """The first statements run as the neighbour and stay on the connection; the intruder is its next user."""
    *left_behind, read = statements
    with tenant_session(NEIGHBOUR) as session:
        process = stage.session_pid(session)
        _rows(session, left_behind)
    with tenant_session(INTRUDER) as session:
        if stage.session_pid(session) != process:
            raise RuntimeError("the intruder was given another connection; this attempt proves nothing")
        return _rows(session, [read])


def beside_the_neighbour(stage: Stage, statements: list[str]) -> list[Any]:
    """The neighbour is in the middle of a transaction whose SQL text holds the secret."""
    with tenant_session(NEIGHBOUR) as other:
        other.execute(text(f"SELECT count(*) FROM messages WHERE body LIKE '{stage.canary}%'"))  # noqa: S608
        return in_session(stage, statements)


def of_its_large_object(stage: Stage, statements: list[str]) -> list[Any]:
    """Like `in_session`; the large object's number is known."""
    return in_session(stage, [statement.replace("<oid>", str(stage.large_object)) for statement in statements])


def with_its_object(stage: Stage, _statements: list[str]) -> list[Any]:
    """An object of the neighbour's is put into the intruder's session, where a row with its key exists."""
    with tenant_session(NEIGHBOUR) as session:
        theirs = session.scalars(select(Conversation).where(Conversation.title.startswith(stage.canary))).one()
    with tenant_session(INTRUDER) as session:
        session.add(theirs)
        theirs.title += "!"
        session.flush()
        return list(session.execute(select(Conversation.title).where(Conversation.id == theirs.id)))


def while_it_is_suspended(stage: Stage, statements: list[str]) -> list[Any]:
    """A session of the neighbour itself, which does not pay at the moment."""
    stage.manager.suspend(NEIGHBOUR, reason="payment", actor="demo")
    try:
        with tenant_session(NEIGHBOUR) as session:
            return _rows(session, statements)
    finally:
        stage.manager.resume(NEIGHBOUR, actor="demo")


def as_tenant(name: str) -> Way:
    """A session of a tenant that does not exist under this name."""

    def way(_stage: Stage, statements: list[str]) -> list[Any]:
        with tenant_session(name) as session:
            return _rows(session, statements)

    return way
