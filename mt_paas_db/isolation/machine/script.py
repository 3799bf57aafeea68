"""A sequence of steps as a Python program, which repeats them without hypothesis."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from mt_paas_db.isolation.machine.faults import MachineError
from mt_paas_db.isolation.route import Driver, Route

if TYPE_CHECKING:
    from mt_paas_db.core.manager import TenantManager
    from mt_paas_db.isolation.machine.world import World


class Step(NamedTuple):
    """A method of `World` that was called, and with what."""

    name: str
    arguments: tuple[object, ...]

    def __str__(self) -> str:
        return f"world.{self.name}({', '.join(map(repr, self.arguments))})"


def written(steps: Sequence[Step], route: Route, *, why: str, where: str) -> str:
    """Return a program of `steps`. `why` is what they came to, `where` the versions they came to it on."""
    said = "".join(f"#   {line}".rstrip() + "\n" for line in why.splitlines())
    body = "".join(f"    {step}\n" for step in steps) or "    pass\n"
    return f"""\
# Steps after which the isolation of tenants was broken, on {route} ({where}):
{said}#
# Run it on the installation that MT_PAAS_DB_* names, or with --dsn and an admin's DSN on one that is made for it.
# World's methods say what each step does: mt_paas_db/isolation/machine/world.py

from mt_paas_db.isolation.machine.script import repeat
from mt_paas_db.isolation.machine.world import World


def steps(world: World) -> None:
{body}

if __name__ == "__main__":
    repeat(steps, route={str(route)!r})
"""


def repeat(steps: Callable[[World], None], *, route: str, arguments: Sequence[str] | None = None) -> None:
    """Carry out the steps of a script, and exit: with 1 if they break something, with 0 if not.

    `route` is as `Route` prints it. Raises as `Suite`.
    """
    parser = argparse.ArgumentParser(description="Repeat steps after which the isolation of tenants was broken.")
    parser.add_argument("--dsn", help="an admin's DSN: an installation is made there and dropped")
    parser.add_argument("--models", help="package.module:Base, as in MT_PAAS_DB_MODELS")
    parser.add_argument("--pooler", help="the URL of a PgBouncer before that database")
    given = parser.parse_args(arguments)
    from mt_paas_db.isolation.machine.tenants import Tenants
    from mt_paas_db.isolation.machine.world import World
    from mt_paas_db.isolation.run import Suite

    with (
        _manager(given.dsn, given.models) as manager,
        Suite(manager, pooler=given.pooler) as suite,
        World(Tenants(suite.ground), _route(route), pooler=given.pooler) as world,
    ):
        world.begin()
        try:
            steps(world)
            world.end()
        except MachineError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201  # a script's words
            sys.exit(1)
    print("nothing was broken")  # noqa: T201


def _route(name: str) -> Route:
    driver, _, way = name.rpartition("-")
    known: dict[str, Driver] = {"psycopg": "psycopg", "psycopg_async": "psycopg_async", "asyncpg": "asyncpg"}
    return Route(known[driver], pooled=way == "pgbouncer")


@contextmanager
def _manager(dsn: str | None, models: str | None) -> Iterator[TenantManager]:
    from mt_paas_db.core.manager import TenantManager
    from mt_paas_db.core.models import load_models
    from mt_paas_db.isolation.own import own_installation
    from mt_paas_db.isolation.sample import SAMPLE

    metadata = load_models(models) if models else None
    if dsn is None:
        manager = TenantManager(models=metadata)
        try:
            yield manager
        finally:
            manager.close()
        return
    with own_installation(dsn, metadata or SAMPLE) as manager:
        yield manager
