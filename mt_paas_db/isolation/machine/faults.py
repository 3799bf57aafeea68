"""What a step can come to that it must not."""

from __future__ import annotations


class MachineError(AssertionError):
    """Ends a sequence of steps."""


class LeakError(MachineError):
    """A promise was broken: somebody read, wrote or left behind what must not be."""


class AstrayError(MachineError):
    """What should have worked did not: nothing leaked, and nothing was proven."""
