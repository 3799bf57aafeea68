"""Repositories: plain classes that know their tenant's id and nothing else of tenancy.

They name no schema, filter by no tenant column and commit nothing: ``tenant_session`` does the first two on
the server, and the last when its block ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from sqlalchemy import Executable, func, select
from sqlalchemy.orm import Session

from llm_chatbot.corpus import Dialogue
from llm_chatbot.models import Conversation, Message, MessageRole, User
from mt_paas_db import tenant_session


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a tenant has."""

    users: int
    conversations: int
    messages: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that a search found, with the conversation that it belongs to."""

    ticket_no: int
    title: str
    role: MessageRole
    body: str


class ConversationRepository:
    """One university's conversations."""

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id

    def start(self, *, student_no: str, name: str, title: str, topic: str = "other") -> int:
        """Start a conversation of a user, who becomes known by it; return its ticket number."""
        with tenant_session(self._tenant_id) as session:
            user = _known_user(session, student_no, name)
            conversation = Conversation(user=user, title=title, details={"topic": topic})
            session.add(conversation)
            session.flush()
            return conversation.ticket_no

    def add_message(self, ticket_no: int, role: MessageRole, body: str) -> None:
        """Add a message to a conversation. Raises `sqlalchemy.exc.NoResultFound` for an unknown ticket."""
        with tenant_session(self._tenant_id) as session:
            conversation = session.scalars(select(Conversation).where(Conversation.ticket_no == ticket_no)).one()
            session.add(Message(conversation=conversation, role=role, body=body))

    def record(self, dialogues: Sequence[Dialogue]) -> None:
        """Store whole conversations, all or none of them."""
        with tenant_session(self._tenant_id) as session:
            for dialogue in dialogues:
                session.add(
                    Conversation(
                        user=_known_user(session, dialogue.student_no, dialogue.name),
                        title=dialogue.title,
                        started_at=dialogue.started_at,
                        details={"topic": dialogue.topic, "language": dialogue.language},
                        messages=[Message(role=line.role, body=line.body) for line in dialogue.messages],
                    )
                )

    def newest(self, *, limit: int = 10) -> Sequence[Conversation]:
        """Return the conversations that started last."""
        with tenant_session(self._tenant_id, read_only=True) as session:
            return session.scalars(select(Conversation).order_by(Conversation.started_at.desc()).limit(limit)).all()

    def search(self, phrase: str, *, limit: int = 10) -> list[Hit]:
        """Return messages in which `phrase` occurs, whatever its case; wildcards in it mean themselves."""
        with tenant_session(self._tenant_id, read_only=True) as session:
            return list(starmap(Hit, session.execute(_containing(phrase, limit))))

    def count(self) -> Counts:
        """Return how much this tenant has."""
        with tenant_session(self._tenant_id, read_only=True) as session:
            return Counts(*map(int, session.execute(_counts()).one()))

    def topics(self) -> dict[str, int]:
        """Return the number of conversations by topic, the most frequent first."""
        topic = Conversation.details["topic"].astext
        statement = select(topic, func.count()).group_by(topic).order_by(func.count().desc(), topic)
        with tenant_session(self._tenant_id, read_only=True) as session:
            rows: Sequence[Any] = session.execute(statement).all()
            return dict(rows)


class AsyncConversationRepository:
    """The same for asyncio: the same door, by ``async with``."""

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id

    async def search(self, phrase: str, *, limit: int = 10) -> list[Hit]:
        """As `ConversationRepository.search`."""
        async with tenant_session(self._tenant_id, read_only=True) as session:
            return list(starmap(Hit, await session.execute(_containing(phrase, limit))))

    async def count(self) -> Counts:
        """As `ConversationRepository.count`."""
        async with tenant_session(self._tenant_id, read_only=True) as session:
            return Counts(*map(int, (await session.execute(_counts())).one()))


def _known_user(session: Session, student_no: str, name: str) -> User:
    user = session.scalars(select(User).where(User.student_no == student_no)).one_or_none()
    if user is None:
        user = User(student_no=student_no, name=name)
        session.add(user)
    return user


def _containing(phrase: str, limit: int) -> Executable:
    return (
        select(Conversation.ticket_no, Conversation.title, Message.role, Message.body)
        .join(Message.conversation)
        .where(Message.body.icontains(phrase, autoescape=True))
        .order_by(Message.id)
        .limit(limit)
    )


def _counts() -> Executable:
    return select(
        select(func.count(User.id)).scalar_subquery(),
        select(func.count(Conversation.id)).scalar_subquery(),
        select(func.count(Message.id)).scalar_subquery(),
    )
