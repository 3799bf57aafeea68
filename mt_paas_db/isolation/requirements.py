"""What a deployment may leave out of the suite, each with a reason that the report prints.

>>> requirements = {"pgbouncer": off("we connect directly")}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.route import DRIVERS, Route


@dataclass(frozen=True, slots=True)
class Off:
    """A requirement that is switched off, and why."""

    reason: str


def off(reason: str) -> Off:
    """Switch a requirement off. Raises `ConfigurationError` without a reason."""
    if not reason.strip():
        raise ConfigurationError("a requirement of the isolation suite is switched off with a reason")
    return Off(reason.strip())


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is switched off, by name: a driver, a way, a need, an attack's id or its whole key."""

    switched_off: Mapping[str, Off]

    @classmethod
    def of(cls, given: Mapping[str, Off], *, known: Iterable[str]) -> Requirements:
        """Return requirements. Raises `ConfigurationError` for a name that switches nothing off."""
        names = {*known, *DRIVERS, "direct", "pgbouncer"}
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigurationError(f"{name!r} is no requirement of the isolation suite{hint}")
        return cls(dict(given))

    def why_not(self, route: Route, names: Iterable[str]) -> str | None:
        """Return why something is left out on a route; None where it is not."""
        for name in (*route.parts, *names):
            if name in self.switched_off:
                return f"{name} is switched off: {self.switched_off[name].reason}"
        return None
