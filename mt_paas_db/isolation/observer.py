"""What the attacker sees, searched for what belongs to others.

Everything that reaches a tenant's code is shown to the observer: rows, errors with all that hangs on them, the
server's notices and notifications, log records. It keeps what it recognised, never what it was shown.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mt_paas_db.isolation.rows import Canaries

_EXHIBIT = 160


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something of `owner` that `viewer` got to see. `what` is an excerpt, `where` the place it was found in."""

    viewer: str
    owner: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.viewer} saw {self.owner}'s {self.where}: {self.what}"


@dataclass
class Observer:
    """Searches for canaries. `foreign` and `own` are what was found since it was made or cleared."""

    canaries: Canaries
    foreign: list[Sighting] = field(default_factory=list)
    own: list[Sighting] = field(default_factory=list)

    def show(self, viewer: str, where: str, thing: Any) -> None:
        """Look at something that `viewer`, a label of the canaries, has received."""
        owners = self.canaries.found_in(thing)
        for owner in sorted(owners):
            sighting = Sighting(viewer, owner, where, _excerpt(thing))
            (self.own if owner == viewer else self.foreign).append(sighting)

    def show_error(self, viewer: str, error: BaseException) -> None:
        """Look at an error, its causes, and every attribute of theirs, the driver's included."""
        for where, thing in _parts(error):
            self.show(viewer, where, thing)

    def learned(self, viewer: str, owner: str, fact: str) -> None:
        """Record what was learned without a canary: a name, a count, a difference between two answers."""
        (self.own if owner == viewer else self.foreign).append(Sighting(viewer, owner, "learned", fact))

    @contextmanager
    def reading_logs(self, viewer: str) -> Iterator[None]:
        """Look at the log records that are written during the block."""
        handler = _Records(self, viewer)
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)


class _Records(logging.Handler):
    def __init__(self, observer: Observer, viewer: str) -> None:
        super().__init__()
        self._observer = observer
        self._viewer = viewer

    def emit(self, record: logging.LogRecord) -> None:
        self._observer.show(self._viewer, f"log of {record.name}", record.getMessage())


# Attributes that lead from an error to other things than what was said: frames, statements that the attacker wrote
# itself, whole connections.
_NOT_SAID = frozenset({"__traceback__", "with_traceback", "add_note", "pgconn", "pgresult", "connection", "params"})


def _parts(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield what an error says, by place. An error that hangs on it is taken apart in turn, each once."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        kind = type(current).__name__
        yield f"{kind}", str(current)
        yield f"{kind}.args", [part for part in current.args if not isinstance(part, BaseException)]
        for name in dir(current):
            if name in _NOT_SAID or (name.startswith("__") and name not in {"__cause__", "__context__", "__notes__"}):
                continue
            try:
                value = getattr(current, name)
            except Exception:  # noqa: S112  # an attribute that cannot be read shows nothing
                continue
            if isinstance(value, BaseException):
                waiting.append(value)
            elif not callable(value) and value is not None:
                yield f"{kind}.{name}", _spread(value)
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)


def _spread(value: Any) -> Any:
    """Return a value as what it says: the fields of the server's message, which psycopg reads when asked."""
    if type(value).__name__ == "Diagnostic":
        return {name: getattr(value, name) for name in dir(value) if not name.startswith("_") and name != "of"}
    return value


def _excerpt(thing: Any) -> str:
    text = thing if isinstance(thing, str) else repr(thing)
    return text if len(text) <= _EXHIBIT else f"{text[:_EXHIBIT]} ..."
