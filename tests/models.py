"""The tests' own models: a type that exists once per tenant schema, a foreign key, and a shared table."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import ForeignKey, Identity, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SHARED = "mt_test_shared"


class Base(DeclarativeBase):
    metadata = MetaData()


class Mood(enum.Enum):
    calm = "calm"
    eager = "eager"


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    body: Mapped[str] = mapped_column(String(200))
    mood: Mapped[Mood] = mapped_column(default=Mood.calm)
    tags: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    remarks: Mapped[list[Remark]] = relationship(back_populates="note", cascade="all, delete-orphan")


class Remark(Base):
    __tablename__ = "remark"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    note_id: Mapped[int] = mapped_column(ForeignKey("note.id"), index=True)
    body: Mapped[str]
    note: Mapped[Note] = relationship(back_populates="remarks")
