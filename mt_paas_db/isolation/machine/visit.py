"""One open session of a tenant, and what is to be expected of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session, SessionTransaction

from mt_paas_db.isolation.machine.model import Draft, Life, Row
from mt_paas_db.isolation.machine.table import Note
from mt_paas_db.session.door import TenantSessionContext


@dataclass(eq=False)
class Visit:
    """An open session.

    Attributes:
        life: Whose it is.
        door: What it came through; it closes it.
        session: The session; on asyncio drivers the one inside `async_session`.
        busy: It has begun a transaction, and holds a connection.
        failed: The server has refused a statement, and refuses all others until a rollback.
        swayed: How many savepoints there were when its own SQL changed its role or path; None where none did.
        over: Its own SQL has ended the transaction.
        lost: Its backend was terminated.
        nested: Its savepoints.
        draft: What it has written.
        notes: Objects that it has loaded.
        kept: Results that were abandoned half-way.
    """

    life: Life
    door: TenantSessionContext
    session: Session
    async_session: Any = None
    busy: bool = False
    failed: bool = False
    swayed: int | None = None
    over: bool = False
    lost: bool = False
    nested: list[SessionTransaction] = field(default_factory=list)
    draft: Draft = field(default_factory=Draft)
    notes: list[Note] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the next statement must succeed, if the tenant is active."""
        return not (self.failed or self.over or self.lost or self.swayed is not None)

    @property
    def sees(self) -> dict[int, Row]:
        """The rows that it must see."""
        return self.draft.over(self.life.rows)

    def ended(self, *, committed: bool) -> None:
        """Its transaction has ended, and the next one will be another."""
        if committed and not (self.failed or self.lost or self.over):
            self.draft.commit(self.life)
        self.draft.drop()
        self.nested.clear()
        with warnings.catch_warnings():  # psycopg says that a cursor was abandoned: so it was
            warnings.simplefilter("ignore", ResourceWarning)
            self.kept.clear()
        self.busy = self.failed = self.over = self.lost = False
        self.swayed = None

    def saved(self, nested: SessionTransaction) -> None:
        """It has set a savepoint."""
        self.nested.append(nested)
        self.draft.save()

    def released(self) -> None:
        """It has released its innermost savepoint."""
        self.nested.pop()
        self.draft.release()
        if self.swayed is not None:
            self.swayed = min(self.swayed, len(self.nested))

    def went_back(self) -> None:
        """It has rolled back to its innermost savepoint, and what was done since is undone."""
        self.nested.pop()
        self.draft.back()
        self.failed = False
        if self.swayed is not None and self.swayed > len(self.nested):
            self.swayed = None
