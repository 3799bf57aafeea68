"""How far a long step is: told to whoever asked, between two of its transactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` parts of `what`; the last report has them equal."""

    what: str
    done: int
    total: int


Listener = Callable[[Progress], None]
"""Called in the thread that does the work; an error it raises stops the work there."""


def unheard(_: Progress) -> None:
    """Listen to nothing."""
