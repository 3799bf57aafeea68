"""The history that the fleet benchmarks migrate: a revision that makes the tables, and one small change to them."""

from __future__ import annotations

from pathlib import Path

BASE, CHANGE = "b1", "b2"

COLUMN, INDEX = "note", "t00_note"
"""What the change adds to the first table, ``t00``."""

UNDO = f"DROP INDEX {INDEX}; ALTER TABLE t00 DROP COLUMN {COLUMN}"

_HEAD = """\
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {after!r}
"""

_TABLES = """\

def upgrade():
    for number in range({tables}):
        name = f"t{{number:02}}"
        columns = [
            sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
            sa.Column("title", sa.String(200), nullable=False),
            sa.Column("body", sa.Text, nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        ]
        if number:
            parent = sa.ForeignKey(f"t{{number - 1:02}}.id", name=f"{{name}}_parent_fk")
            columns.append(sa.Column("parent_id", sa.BigInteger, parent))
        op.create_table(name, *columns)
        if number:
            op.create_index(f"{{name}}_parent", name, ["parent_id"])
"""

_CHANGE = f"""\

def upgrade():
    op.add_column("t00", sa.Column({COLUMN!r}, sa.String(200)))
    op.create_index({INDEX!r}, "t00", [{COLUMN!r}])
"""

# What Alembic's documentation shows for schemas of one database. Ours does not run it.
_ENV = """\
from alembic import context
from sqlalchemy import NullPool, create_engine, text

schema = context.get_x_argument(as_dictionary=True)["schema"]
engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=NullPool)
with engine.connect() as connection:
    connection.execute(text(f'SET search_path TO "{schema}"'))
    connection.commit()
    connection.dialect.default_schema_name = schema
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def write_history(folder: Path, *, tables: int) -> str:
    """Write a ``script_location`` into `folder`, which is made; return it."""
    versions = folder / "versions"
    versions.mkdir(parents=True)
    (folder / "env.py").write_text(_ENV)
    base = _HEAD.format(revision=BASE, after=None) + _TABLES.format(tables=tables)
    (versions / f"{BASE}.py").write_text(base)
    (versions / f"{CHANGE}.py").write_text(_HEAD.format(revision=CHANGE, after=BASE) + _CHANGE)
    return str(folder)
