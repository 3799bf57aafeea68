"""What an attack acts on, what it has seen, and the verdict, which rests on canaries and on nothing else.

Every row holds the canary of its tenant. A foreign canary in what a viewer reads, in an error, or among a tenant's
rows afterwards is a leak. Without one, an attack is held only if each of its trials is proven to have reached what it
attacks: the viewer saw its own canary, or was refused. Anything else is unclear, and no result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from benchmarks.attacked.subject import Address, Handles, Session, Subject

ACME, BETA = "acme", "beta"
"""The attacker, mostly, and who is attacked."""

NOBODY = "nobody"

_CANARY = re.compile(r"canary_([a-z]+)_\d")
_ROWS = 3

DENIED, UNDEFINED = "42501", "42P01"
"""SQLSTATEs: insufficient privilege; a table that does not exist on the path in force."""


class NotApplicableError(Exception):
    """The library has nothing that this attack could aim at."""


@dataclass
class Trial:
    """One thing tried. `viewer` is whose eyes the attack looks through."""

    viewer: str
    refusals: tuple[str, ...]
    seen: list[str] = field(default_factory=list)
    answered: bool = False
    error: BaseException | None = None

    @property
    def labels(self) -> set[str]:
        """Whose canaries were seen."""
        return {label for text in self.seen for label in _CANARY.findall(text)}

    @property
    def foreign(self) -> set[str]:
        return self.labels - {self.viewer}


class Watched:
    """A session whose every answer is recorded in the trial that is going on."""

    def __init__(self, stage: Stage, session: Session) -> None:
        self.inner = session
        self._stage = stage

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)
        return lambda *args, **options: self._stage.see(method(*args, **options))


class Stage:
    """Two tenants with known rows, and the record of one attack on one of them.

    `pooler` is its URL, with the driver options that it needs, or why there is none.
    """

    def __init__(
        self,
        subject: Subject,
        truth: psycopg.Connection[Any],
        pooler: tuple[str, dict[str, Any]] | str = "there is no pooler",
    ) -> None:
        self.subject = subject
        self._pooler = pooler
        self.target = BETA
        self._truth = truth
        self._labels: dict[str, str] = {}
        self._trials: list[Trial] = []
        self._trial: Trial | None = None

    # -- for the attacks

    @contextmanager
    def trying(self, *refusals: str, viewer: str = ACME) -> Iterator[Trial]:
        """Try one thing; an error of the library or the server ends the block and is looked at. Any other is ours."""
        trial = self._trial = Trial(self.label(viewer), (DENIED, *refusals))
        self._trials.append(trial)
        try:
            yield trial
        except NotApplicableError:
            raise
        except self.subject.answers as error:
            trial.error = error
            trial.seen += _texts(error)

    def see(self, answer: Any) -> Any:
        """Record an answer, and return it."""
        if isinstance(answer, list) and self._trial is not None:
            self._trial.seen += answer
            self._trial.answered = True
        if callable(answer):
            return lambda *args: self.see(answer(*args))
        return answer

    @contextmanager
    def open(self, tenant: str, *, at: Subject | None = None) -> Iterator[Watched]:
        """Open a session of `tenant`."""
        with (at or self.subject).session(tenant) as session:
            yield Watched(self, session)

    @contextmanager
    def nobody(self, *, at: Subject | None = None) -> Iterator[Watched]:
        """Open a session without a tenant."""
        with (at or self.subject).nobody() as session:
            yield Watched(self, session)

    def behind_a_pooler(self) -> tuple[Subject, Subject]:
        """Return two processes' views of the tenants, whose connections share one of the server's."""
        if isinstance(self._pooler, str):
            raise NotApplicableError(self._pooler)
        return self.subject.twin(*self._pooler), self.subject.twin(*self._pooler)

    def label(self, tenant: str) -> str:
        """Return what a tenant's canaries call it: letters only, whatever its id."""
        if re.fullmatch("[a-z]{1,12}", tenant):
            return tenant
        return self._labels.setdefault(tenant, f"extra{chr(ord('a') + len(self._labels))}")

    def canary(self, tenant: str, row: int = 9) -> str:
        """Return a canary of `tenant`; those with a number up to 3 are in its rows."""
        return f"canary_{self.label(tenant)}_{row}"

    def address(self, tenant: str) -> Address:
        return self.subject.address(tenant)

    @property
    def own_rows(self) -> str:
        """A query that names neither a schema nor a tenant."""
        return "SELECT body FROM note"

    def handle(self, name: str, tenant: str) -> Any:
        """Return one of a tenant's `Handles`. Raises `NotApplicableError` where the library has none of the kind."""
        value = getattr(self.subject.handles(tenant), name)
        if value is None:
            raise NotApplicableError(f"it has no {name} for each tenant")
        return value

    def handles(self, tenant: str) -> Handles:
        return self.subject.handles(tenant)

    def fill(self, tenant: str) -> None:
        """Give a tenant its rows, and no others, past the library."""
        place = self.address(tenant)
        self._truth.execute(f"DELETE FROM {place.table}{place.where}".encode())
        for row in range(1, _ROWS + 1):
            number: Any = row
            if place.column:  # all tenants' rows have their ids in common
                found = self._truth.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {place.table}".encode()).fetchone()
                assert found is not None
                (number,) = found
            self._truth.execute(place.insert(number, self.canary(tenant, row)).encode())

    # -- for the judge

    def carry_out(self, attack: Callable[[Stage], None], target: str) -> tuple[list[Trial], str | None]:
        """Carry `attack` out once, on fresh rows and connections; return its trials, and what became of beta's rows."""
        self.subject.refresh()
        for tenant in (ACME, BETA):
            self.fill(tenant)
        before = self._bodies(BETA)
        self.target = target
        self._trials = []
        attack(self)
        self._trial = None
        self.subject.refresh()
        after = self._bodies(BETA)
        return self._trials, None if after == before else f"beta's rows were {before} and are {after}"

    def _bodies(self, tenant: str) -> list[str]:
        query = self.address(tenant).select()
        return sorted(str(body) for (body,) in self._truth.execute(query.encode()).fetchall())


def refused(trial: Trial, own_errors: tuple[type[BaseException], ...]) -> str | None:
    """Return the refusal that ended a trial; None where it did not end in one of those it names."""
    for error in _chain(trial.error):
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if state is not None:
            return f"{_first_line(error)} ({state})" if state in trial.refusals else None
    for error in _chain(trial.error):
        if isinstance(error, own_errors):
            return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def _texts(error: BaseException) -> list[str]:
    """Return what an error tells its reader, without the statement, which the attacker wrote."""
    texts = [str(getattr(one, "orig", None) or one).partition("[SQL")[0] for one in _chain(error)]
    return [line for text in texts for line in text.splitlines() if not line.startswith("LINE ")]


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return (str(original).strip().splitlines() or [type(error).__name__])[0]
