"""What a forked child has to make anew: locks that another of the parent's threads may have held, and what is open.

A child has the parent's sockets, and whatever it said on one, also goodbye, the parent's session would hear.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something with a part that is the parent's alone."""

    def forked(self) -> None:
        """Begin anew, in the child. There are no other threads yet."""


_LIVING: weakref.WeakSet[Forked] = weakref.WeakSet()


def renew_in_children(thing: Forked) -> None:
    """Call `thing.forked` in each child of this process, as long as it lives."""
    _LIVING.add(thing)


def _after_fork() -> None:
    for thing in list(_LIVING):
        thing.forked()


os.register_at_fork(after_in_child=_after_fork)
