"""The ways in which a session reads and writes the machine's table: by ORM, Core, text, and below SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

from mt_paas_db.isolation.machine.model import Row
from mt_paas_db.isolation.machine.table import NAME, Note

_ALL = f"SELECT id, body, mood::text FROM {NAME}"  # noqa: S608  # a constant


def _by_objects(session: Session) -> list[Any]:
    # What an object holds may be older than what another session of the tenant has committed since.
    return list(session.scalars(select(Note).execution_options(populate_existing=True)))


def _by_core(session: Session) -> list[Any]:
    return list(session.execute(select(Note.id, Note.body, Note.mood)))


def _by_text(session: Session) -> list[Any]:
    return list(session.execute(text(_ALL)))


def _by_driver(session: Session) -> list[Any]:
    return list(session.connection().exec_driver_sql(_ALL))


def _by_cursor(session: Session) -> list[Any]:
    cursor: Any = session.connection().connection.cursor()
    try:
        cursor.execute(_ALL)
        return list(cursor.fetchall())
    finally:
        cursor.close()


READS: Mapping[str, Callable[[Session], list[Any]]] = MappingProxyType(
    {"orm": _by_objects, "core": _by_core, "text": _by_text, "driver": _by_driver, "cursor": _by_cursor}
)
"""What each returns: `Note` objects by ``orm``, else rows of key, body and mood."""

WRITES = ("orm", "core", "text")


def as_rows(found: list[Any]) -> dict[int, Row]:
    """Return what was read, by key."""
    return {
        note.id if isinstance(note, Note) else note[0]: Row(note.body, note.mood)
        if isinstance(note, Note)
        else Row(note[1], note[2])
        for note in found
    }


def put_in(session: Session, key: int, row: Row, *, via: str) -> None:
    """Insert a row."""
    values = {"id": key, "body": row.body, "mood": row.mood}
    if via == "orm":
        session.add(Note(**values))
        session.flush()
    elif via == "core":
        session.execute(insert(Note.__table__), values)  # type: ignore[arg-type]
    else:
        statement = f"INSERT INTO {NAME} (id, body, mood) VALUES (:id, :body, CAST(:mood AS {NAME}_mood))"  # noqa: S608
        session.execute(text(statement), values)


def change(session: Session, key: int, row: Row, *, via: str) -> int:
    """Update a row; return how many were found."""
    if via == "orm":
        note = session.get(Note, key, populate_existing=True)
        if note is None:
            return 0
        note.body, note.mood = row.body, row.mood
        session.flush()
        return 1
    if via == "core":
        result: Any = session.execute(
            update(Note.__table__).where(Note.id == key).values(body=row.body, mood=row.mood)  # type: ignore[arg-type]
        )
        return int(result.rowcount)
    statement = f"UPDATE {NAME} SET body = :body, mood = CAST(:mood AS {NAME}_mood) WHERE id = :id RETURNING id"  # noqa: S608
    return len(session.execute(text(statement), {"id": key, "body": row.body, "mood": row.mood}).all())


def take_out(session: Session, key: int, *, via: str) -> int:
    """Delete a row; return how many were found."""
    if via == "orm":
        note = session.get(Note, key, populate_existing=True)
        if note is None:
            return 0
        session.delete(note)
        session.flush()
        return 1
    if via == "core":
        result: Any = session.execute(delete(Note.__table__).where(Note.id == key))  # type: ignore[arg-type]
        return int(result.rowcount)
    return len(session.execute(text(f"DELETE FROM {NAME} WHERE id = :id RETURNING id"), {"id": key}).all())  # noqa: S608
