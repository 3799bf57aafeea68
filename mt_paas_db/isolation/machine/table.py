"""The machine's own table, which it makes in the schemas of its own tenants.

The service's tables are filled by `mt_paas_db.isolation.rows`, a row in each table at a time: what a row of an
unknown model needs must be found out first, some tens of milliseconds. Those rows are written whole and compared as
text. What steps insert, update, delete and collide with, by ORM and Core, in savepoints and beside each other, are rows
of this table: one whose every row the model can foretell. It has a type of the schema's own, because what a driver
prepares for one tenant's type must not meet another's.
"""

from __future__ import annotations

from psycopg import sql
from sqlalchemy import Enum, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAME = "mt_isolation_machine"
MOODS = ("calm", "eager")


class _Base(DeclarativeBase):
    pass


class Note(_Base):
    """A row of the machine's table."""

    __tablename__ = NAME

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    body: Mapped[str] = mapped_column(Text, unique=True)
    mood: Mapped[str] = mapped_column(Enum(*MOODS, name=f"{NAME}_mood"))


def created(schema: str) -> str:
    """Return the DDL of the table in `schema`; the owner's default privileges give it to the tenant."""
    return _filled(
        "CREATE TYPE {mood} AS ENUM ('calm', 'eager');"
        "CREATE TABLE {table} (id integer PRIMARY KEY, body text NOT NULL UNIQUE, mood {mood} NOT NULL)",
        schema,
    )


def guarded(schema: str) -> str:
    """Return what guards the table, where the installation's tables are guarded."""
    name = sql.Literal(sql.Identifier(schema, NAME).as_string(None))
    return sql.SQL("SELECT mt_paas.protect({}::regclass)").format(name).as_string(None)


def migrated(schema: str, number: int) -> str:
    """Return the DDL of the table's next migration: what is prepared and planned for it must be planned anew."""
    odd = "ALTER TABLE {table} ADD COLUMN more text DEFAULT 'x'; CREATE INDEX ON {table} (mood)"
    even = "ALTER TABLE {table} DROP COLUMN more; ALTER TABLE {table} ALTER COLUMN mood TYPE {mood} USING mood"
    return _filled(odd if number % 2 else even, schema)


def emptied(schema: str) -> str:
    """Return what deletes all rows."""
    return _filled("DELETE FROM {table}", schema)


def truth(schema: str) -> str:
    """Return the query of all rows, as the owner asks."""
    return _filled("SELECT {name}, id, body, mood::text FROM {table}", schema)


def _filled(statement: str, schema: str) -> str:
    return (
        sql.SQL(statement)
        .format(
            table=sql.Identifier(schema, NAME), mood=sql.Identifier(schema, f"{NAME}_mood"), name=sql.Literal(schema)
        )
        .as_string(None)
    )
