"""What came back from an attempt, and what that means. No verdict is written down beforehand.

An attempt got through if the neighbour's secret is in anything that came back, error messages included, or
if the ground truth differs afterwards. It was refused if our library or the server said so with an error
that means a refusal; any other error is a fault of the attempt, which then proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import psycopg
from sqlalchemy.exc import DBAPIError

from llm_chatbot.attempts import ATTEMPTS, Attempt
from llm_chatbot.stage import Stage
from mt_paas_db import TenancyError
from mt_paas_db.errors import (
    AutocommitError,
    ContextError,
    InvalidIdentifierError,
    TenantUnavailableError,
    UnknownTenantError,
)

_EXHIBIT_LENGTH = 80

# insufficient_privilege; undefined_table, where a path skipped what the role may not use;
# active_sql_transaction, where a statement is not allowed inside the session's transaction.
REFUSING_STATES = frozenset({"42501", "42P01", "25001"})

REFUSING_ERRORS = (
    AutocommitError,
    ContextError,
    InvalidIdentifierError,
    TenantUnavailableError,
    UnknownTenantError,
)


class Verdict(StrEnum):
    REFUSED = "refused"
    NOTHING = "nothing to see"
    OWN_ROWS = "own rows only"
    NOT_STOPPED = "NOT STOPPED at tier role"
    LEAK = "LEAK"
    UNCLEAR = "UNCLEAR"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and what was changed by it.

    Attributes:
        rows: Each as text.
        error: The error in one line: SQLSTATE and message, or the class of ours and its message.
        refuses: Whether that error means a refusal.
        full_error: All of the error's text, in which a secret may hide.
        changed: What is different in the ground truth.
    """

    rows: tuple[str, ...] = ()
    error: str | None = None
    refuses: bool = False
    full_error: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """An attempt, what came back, what it means, and the row that shows it."""

    attempt: Attempt
    answer: Answer
    verdict: Verdict
    exhibit: str = ""

    @property
    def got_through(self) -> bool:
        return self.verdict in {Verdict.LEAK, Verdict.NOT_STOPPED}

    @property
    def as_promised(self) -> bool:
        """Whether what was promised to be stopped was stopped, and only that."""
        return self.verdict is not Verdict.UNCLEAR and self.got_through != self.attempt.promised

    def in_short(self) -> str:
        """Return what came back, in one line."""
        answer = self.answer
        if answer.changed:
            return f"changed: {', '.join(answer.changed)}"
        if answer.error is not None:
            return answer.error
        if len(answer.rows) > 1:
            return f"{len(answer.rows)} rows, such as: {self.exhibit}"
        return f"1 row: {self.exhibit}" if answer.rows else "no rows"


def judge(attempt: Attempt, answer: Answer, stage: Stage) -> Verdict:
    """Return what `answer` means. Pure."""
    secret = stage.secret(attempt.secret)
    if answer.changed or any(secret in piece for piece in (*answer.rows, answer.full_error)):
        return Verdict.LEAK if attempt.promised else Verdict.NOT_STOPPED
    if answer.error is not None:
        return Verdict.REFUSED if answer.refuses else Verdict.UNCLEAR
    if any(stage.own_mark in row for row in answer.rows):
        return Verdict.OWN_ROWS
    return Verdict.NOTHING


def try_all(stage: Stage, attempts: Iterable[Attempt] = ATTEMPTS) -> Iterator[Finding]:
    """Run each attempt against the server and judge it. A Python error in an attempt is not caught."""
    for attempt in attempts:
        before = stage.ground_truth()
        answer = _run(attempt, stage)
        after = stage.ground_truth()
        changed = tuple(name for name in after if before.get(name) != after[name])
        answer = replace(answer, changed=changed)
        yield Finding(attempt, answer, judge(attempt, answer, stage), _exhibit(attempt, answer, stage))


def _run(attempt: Attempt, stage: Stage) -> Answer:
    try:
        rows = attempt.way(stage, attempt.sql(stage.names))
    except TenancyError as error:
        return Answer(
            error=f"{type(error).__name__}: {str(error).split('. ')[0]}",
            refuses=isinstance(error, REFUSING_ERRORS),
            full_error=str(error),
        )
    except (DBAPIError, psycopg.Error) as error:
        server = error.orig if isinstance(error, DBAPIError) else error
        sqlstate = getattr(server, "sqlstate", None)
        return Answer(
            error=f"{sqlstate or type(server).__name__} {str(server).strip().splitlines()[0]}",
            refuses=sqlstate in REFUSING_STATES,
            full_error=str(server),
        )
    return Answer(rows=tuple(map(_as_text, rows)))


def _as_text(row: Any) -> str:
    return row if isinstance(row, str) else " | ".join(map(str, row))


def _exhibit(attempt: Attempt, answer: Answer, stage: Stage) -> str:
    """Return the row that says most: with the secret in it, else with the intruder's own mark, else the first."""
    for mark in (stage.secret(attempt.secret), stage.own_mark, ""):
        for row in answer.rows:
            if mark in row:
                line = " ".join(row.split())
                return line if len(line) <= _EXHIBIT_LENGTH else f"{line[:_EXHIBIT_LENGTH]}..."
    return ""
