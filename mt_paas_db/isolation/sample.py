"""Models for a run on a bare server: a type and a sequence of each schema's own, a foreign key, a document."""

from __future__ import annotations

from sqlalchemy import Column, Enum, ForeignKey, Identity, Integer, MetaData, String, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SAMPLE = MetaData()

Table(
    "conversation",
    SAMPLE,
    Column("id", Integer, Identity(), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("mood", Enum("calm", "eager", name="mood"), nullable=False),
    Column("details", JSONB, nullable=False),
    UniqueConstraint("title"),
)
Table(
    "message",
    SAMPLE,
    Column("id", Integer, primary_key=True),  # a serial: its sequence is the schema's
    Column("conversation_id", ForeignKey("conversation.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("body", String, nullable=False),
    Column("tags", ARRAY(String), nullable=False),
)
