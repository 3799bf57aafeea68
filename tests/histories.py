"""Alembic histories of a few lines, written where a test wants them. Their ``env.py`` must never run."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

_REVISION = """\
import sqlalchemy as sa
from alembic import context, op

revision = {revision!r}
down_revision = {after!r}
branch_labels = None
depends_on = None


def upgrade():
{body}


def downgrade():
{down}
"""


def revision_text(revision: str, body: str, *, after: str | tuple[str, ...] | None, down: str) -> str:
    """Return a revision's file."""
    body, down = (indent(dedent(text).strip() or "pass", "    ") for text in (body, down))
    return _REVISION.format(revision=revision, after=after, body=body, down=down)


class History:
    """A `script_location` that revisions are added to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text("raise RuntimeError('env.py was run')\n")

    @property
    def location(self) -> str:
        return str(self.folder)

    def add(
        self,
        revision: str,
        body: str,
        *,
        after: str | tuple[str, ...] | None = None,
        down: str = "raise NotImplementedError",
    ) -> History:
        """Write a revision whose ``upgrade`` is `body`; return this history, to add more."""
        text = revision_text(revision, body, after=after, down=down)
        (self.folder / "versions" / f"{revision}.py").write_text(text)
        return self


def in_one_transaction(folder: Path) -> History:
    """Tables, an enum, rows and a column that came later: nothing that needs a transaction of its own."""
    history = History(folder)
    history.add(
        "a1",
        """
        note = op.create_table(
            "note",
            sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
            sa.Column("body", sa.Text, nullable=False),
            sa.Column("mood", sa.Enum("calm", "eager", name="mood"), nullable=False),
        )
        op.bulk_insert(note, [{"body": "first", "mood": "calm"}, {"body": "second", "mood": "eager"}])
        """,
    )
    return history.add(
        "a2",
        """
        op.add_column("note", sa.Column("length", sa.Integer))
        bind = op.get_bind()
        for id_, body in bind.execute(sa.text("SELECT id, body FROM note")).all():
            bind.execute(sa.text("UPDATE note SET length = :n WHERE id = :id"), {"n": len(body), "id": id_})
        """,
        after="a1",
    )


def in_steps(folder: Path) -> History:
    """The same, and then an index that is made CONCURRENTLY and a value that an enum gets later."""
    history = in_one_transaction(folder)
    history.add(
        "a3",
        """
        with op.get_context().autocommit_block():
            op.create_index("note_body", "note", ["body"], postgresql_concurrently=True)
            op.execute("ALTER TYPE mood ADD VALUE 'bored'")
        """,
        after="a2",
    )
    return history.add("a4", "op.execute(\"INSERT INTO note (body, mood) VALUES ('third', 'bored')\")", after="a3")
