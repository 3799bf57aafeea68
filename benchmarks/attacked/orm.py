"""Sessions of SQLAlchemy, blocking, or asyncio behind its greenlet bridge: what four of the five subjects share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import select
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, load_only

from benchmarks.attacked.subject import fetched

POOL: dict[str, Any] = {"pool_size": 1, "max_overflow": 4}
"""One connection stays open, so that tenants in turn are sure to share it; more can be had at the same time."""

ANSWERS: tuple[type[BaseException], ...] = (SQLAlchemyError, psycopg.Error, AsyncAdapt_asyncpg_dbapi.Error)


class OrmSession:
    """A tenant's `Session`, as `subject.Session` has it. `note` is the mapped class of the table."""

    def __init__(self, session: Session, note: Any) -> None:
        self.session = session
        self._note = note

    def run(self, statement: str) -> list[str]:
        return _texts(self.session.connection().exec_driver_sql(statement))

    def raw(self, statement: str) -> list[str]:
        return raw_execute(self.session.connection().connection, statement)

    def kept(self) -> Callable[[str], list[str]]:
        connection = self.session.connection()
        if connection.in_transaction():
            return lambda statement: _texts(connection.exec_driver_sql(statement))
        return self.run

    def notes(self) -> list[str]:
        return [str(body) for body in self.session.scalars(select(self._note.body))]

    def first(self, *, deferred: bool) -> Any:
        query = select(self._note).order_by(self._note.id)
        if deferred:
            query = query.options(load_only(self._note.id))
        return self.session.scalars(query).first()

    def save(self, note: Any) -> None:
        self.session.merge(note)
        self.session.commit()

    def attempt(self, statement: str) -> None:
        try:
            with self.session.begin_nested():
                self.run(statement)
        except SQLAlchemyError:
            return

    def commit(self) -> None:
        self.session.commit()

    def rollback(self) -> None:
        self.session.rollback()


def raw_execute(connection: Any, statement: str) -> list[str]:
    """Execute on a cursor of a DBAPI connection."""
    cursor = connection.cursor()
    cursor.execute(statement)
    return fetched(cursor)


@contextmanager
def pooled(engine: Any) -> Iterator[Callable[[str], list[str]]]:
    """Take a DBAPI connection from an engine's pool."""
    connection = engine.raw_connection()
    try:
        yield lambda statement: raw_execute(connection, statement)
    finally:
        connection.close()


@contextmanager
def forgotten(engine: Any, note: Any) -> Iterator[OrmSession]:
    """Open a session on the bare engine."""
    with Session(engine) as session:
        yield OrmSession(session, note)


def _texts(result: Any) -> list[str]:
    return [str(value) for row in result for value in row] if result.returns_rows else []
