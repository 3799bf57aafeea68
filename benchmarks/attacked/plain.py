"""SQLAlchemy alone: a schema for each tenant, and ``SET search_path`` at the begin of every transaction.

What tutorials show, with care taken: the name is quoted, the path holds nothing but the tenant's schema, and it is set
after each begin, so that neither COMMIT nor ROLLBACK leaves a session without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.attacked.orm import ANSWERS, POOL, OrmSession, forgotten, pooled
from benchmarks.attacked.subject import Address, Handles, quoted


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    body: Mapped[str]


class Plain:
    filters = False
    answers = ANSWERS
    disclaims: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), connect_args=options, **POOL)

    def create(self, tenant: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {self._name(tenant)}"))
            connection.execute(text(f"SET LOCAL search_path = {self._name(tenant)}"))
            Base.metadata.create_all(connection)

    def delete(self, tenant: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA IF EXISTS {self._name(tenant)} CASCADE"))

    @contextmanager
    def session(self, tenant: str) -> Iterator[OrmSession]:
        def pin(_session: Session, _transaction: Any, connection: Any) -> None:
            connection.exec_driver_sql(f"SET search_path = {self._name(tenant)}")

        with Session(self._engine, expire_on_commit=False) as session:
            event.listen(session, "after_begin", pin)
            yield OrmSession(session, Note)
            session.commit()

    def nobody(self) -> AbstractContextManager[OrmSession]:
        return forgotten(self._engine, Note)

    def pool_connection(self) -> AbstractContextManager[Callable[[str], list[str]]]:
        return pooled(self._engine)

    def address(self, tenant: str) -> Address:
        return Address(f"{self._name(tenant)}.note")

    def handles(self, tenant: str) -> Handles:
        return Handles(schema=tenant)

    def look_alikes(self, tenant: str) -> list[str]:
        return []

    def twin(self, url: str, options: dict[str, Any]) -> Plain:
        return Plain(url, options)

    def refresh(self) -> None:
        self._engine.dispose()

    def _name(self, tenant: str) -> str:
        return quoted(tenant)
