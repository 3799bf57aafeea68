"""What a stretch of the history does to one tenant, as values. Pure.

A `Script` is one starting point's way to the target: its revisions, each with the statements that it sends. It falls
into steps: a transaction's statements travel together, and what must run outside a transaction travels alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, Self

from mt_paas_db.migrate.statements import tokens

Heads = tuple[str, ...]
"""Where a tenant stands: the revisions in its version table, sorted. Empty before the first."""

Action = Literal["upgrade", "downgrade", "stamp"]
Way = Literal["compiled", "online"]


@dataclass(frozen=True, slots=True)
class Item:
    """One statement; `alone` is outside a transaction."""

    text: str
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One revision's share. `heads` is where the version table stands after it."""

    revision: str
    heads: Heads
    items: tuple[Item, ...] = ()
    reason: str | None = None
    """Why this revision cannot be compiled."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How much of a revision is committed while its version is not: left on the version table between two steps.

    `done` counts the revision's statements; None stands for an unknown number, of a revision that ran online.
    `begun` says that the next one, which runs outside a transaction, may have been carried out.
    """

    revision: str
    done: int | None
    digest: str
    begun: bool = False

    PREFIX = "mt_paas_db interrupted "

    def __str__(self) -> str:
        return f"{self.PREFIX}{self.revision} {self.done} {self.digest}{' begun' if self.begun else ''}"

    @classmethod
    def parse(cls, comment: str | None) -> Self | None:
        """Return the mark in a version table's comment; None where there is none."""
        if comment is None or not comment.startswith(cls.PREFIX):
            return None
        revision, done, digest, *rest = comment.removeprefix(cls.PREFIX).split(" ")
        return cls(revision, None if done == "None" else int(done), digest, bool(rest))


@dataclass(frozen=True, slots=True)
class Step:
    """What is sent together. `heads` is what the version table says when it is done.

    `mark` is what stays on the version table when it is done, and `begun` what stays there while it is under way.
    """

    items: tuple[Item, ...]
    alone: bool
    heads: Heads
    mark: Mark | None = None
    begun: Mark | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """One starting point's way to the target. `end` is where it leads.

    It is carried out in stretches, each `compiled` or `online`: as a rule there is one.
    """

    action: Action
    start: Heads
    end: Heads
    parts: tuple[Part, ...]
    per_revision: bool = False
    """Whether each revision has a transaction of its own, as Alembic's transaction_per_migration."""

    @property
    def way(self) -> Way:
        """``online`` where a revision needs a live connection."""
        return "online" if any(part.reason for part in self.parts) else "compiled"

    def first(self) -> Script:
        """Return the script of the first revision alone."""
        return replace(self, parts=self.parts[:1], end=self.parts[0].heads)

    def statements(self) -> list[str]:
        """Return all statements, in order."""
        return [item.text for part in self.parts for item in part.items]

    def ways(self) -> list[dict[str, Any]]:
        """Return which way each revision goes, and why, as plain values.

        One without a reason of its own goes online where it shares a transaction with one that has.
        """
        return [
            {"revision": part.revision, "way": stretch.way, "reason": part.reason}
            for stretch in self.stretches()
            for part in stretch.parts
        ]

    @property
    def destination(self) -> str:
        """The end, in words that mean the same from every place on the way."""
        return words(self.action, self.end)

    def stretches(self) -> Iterator[Script]:
        """Yield what is carried out in one way each, in order."""
        left = self
        while left.parts:
            stretch = left.stretch()
            yield stretch
            left = replace(left, start=stretch.end, parts=left.parts[len(stretch.parts) :])

    def stretch(self, mark: Mark | None = None) -> Script:
        """Return what is carried out in one way, from the start on. After a mark, its revision is finished first.

        A script with a revision that needs a connection runs online whole, as its transaction cannot be cut. Where a
        revision leaves the transaction it is cut anyway, and each stretch goes the way that it can: what is compiled
        goes on after a kill where it was, what runs online may not.

        Raises `ValueError` where the mark is of a revision that does not come next, or was compiled then and is not
        now.
        """
        first = self.parts[0]
        if mark is not None:
            return self._after(mark)
        if self.way == "compiled" or not any(item.alone for part in self.parts for item in part.items):
            return self
        parts = tuple(takewhile(lambda part: bool(part.reason) == bool(first.reason), self.parts))
        return replace(self, parts=parts, end=parts[-1].heads)

    def _after(self, mark: Mark) -> Script:
        first = self.parts[0]
        if first.revision != mark.revision:
            raise ValueError(f"it was interrupted inside revision {mark.revision}, which does not come next")
        if mark.done is None:
            return replace(self.first(), parts=(replace(first, reason=first.reason or "it was begun online"),))
        if first.reason:
            raise ValueError(f"revision {mark.revision} was changed since a part of it was carried out")
        return self.first()

    def steps(self, mark: Mark | None = None) -> list[Step]:
        """Return what is left to do where `mark` was found on the version table.

        Raises `ValueError` where the mark was left by another text than this one.
        """
        skip = 0
        if mark is not None and self.action != "stamp":
            first = self.parts[0] if self.parts else None
            if first is None or first.revision != mark.revision or mark.done is None:
                raise ValueError(f"it was interrupted inside revision {mark.revision}")
            if mark.done > len(first.items) or digest(first.items[: mark.done]) != mark.digest:
                raise ValueError(f"revision {mark.revision} was changed since a part of it was carried out")
            skip = mark.done
        # A version table that bears a mark is there.
        return list(_steps(self, skip, unmade=not self.start and mark is None))


EXACTLY = "="
"""Before ids, in a downgrade's destination: these heads and no others. To Alembic ``downgrade a1`` of a tenant that is
at ``a1`` and ``b1`` is nothing to do; it has no words for leaving ``b1`` and staying at ``a1``, wherever one is.
"""


def words(action: Action, heads: Heads) -> str:
    """Return the destination that leads to `heads`, from every place on the way there."""
    ids = " ".join(heads)
    return f"{EXACTLY}{ids}" if action == "downgrade" else ids or "base"


def depends_on_place(destination: str) -> bool:
    """Return whether a destination, in Alembic's words, may lead elsewhere from another place, or nowhere.

    From where ``b@a1`` has led, Alembic does not know the way to ``b@a1`` any more.
    """
    return not {"+", "-", "@"}.isdisjoint(destination)


def runs_outside(statement: str) -> bool:
    """Return whether the server refuses a statement in a transaction, or may. Else nothing is lost by giving it one."""
    words = [token.text.upper() for token in tokens(statement) if token.kind == "word"]
    if not words:
        return False
    always = {"VACUUM", "CALL", "CLUSTER", "REINDEX"}
    if words[0] == "DO":
        return _IN_BLOCK.search(statement) is not None
    return "CONCURRENTLY" in words or words[0] in always or words[1:2] in (["SYSTEM"], ["DATABASE"], ["SUBSCRIPTION"])


_IN_BLOCK = re.compile(r"\b(?:COMMIT|ROLLBACK)\b", re.IGNORECASE)


def digest(items: tuple[Item, ...]) -> str:
    """Return a short digest of statements."""
    return hashlib.sha256("\0".join(item.text for item in items).encode()).hexdigest()[:16]


def _steps(script: Script, skip: int, *, unmade: bool) -> Iterator[Step]:
    """Yield the steps. `unmade`: there is no version table yet, without which nothing can be marked."""
    heads = stood = script.start
    pending: list[Item] = []

    def together(mark: Mark | None = None) -> Step:
        nonlocal pending, stood, unmade
        step = Step(tuple(pending), alone=False, heads=heads, mark=mark)
        pending, stood, unmade = [], heads, False
        return step

    for part in script.parts:
        for number, item in enumerate(part.items):
            if number < skip:
                continue
            if not item.alone:
                pending.append(item)
                continue
            if not runs_outside(item.text):
                # With its mark in one transaction, it is carried out once, whatever happens.
                if pending:
                    yield together(_mark(part, number))
                pending = [item]
                yield together(_mark(part, number + 1))
                continue
            if pending or unmade or heads != stood:
                yield together(_mark(part, number))
            begun = Mark(part.revision, number, digest(part.items[:number]), begun=True)
            yield Step((item,), alone=True, heads=heads, mark=_mark(part, number + 1), begun=begun)
        heads, skip = part.heads, 0
        if script.per_revision and part is not script.parts[-1]:
            yield together()
    yield together()


def _mark(part: Part, done: int) -> Mark | None:
    return Mark(part.revision, done, digest(part.items[:done])) if done else None
