"""What goes wrong in the soak: killed backends, cancelled statements, restarts; and guests, who come and go."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg
from sqlalchemy.exc import DBAPIError

from benchmarks.scaling.ground import FleetInCells
from mt_paas_db.errors import TenancyError, TenantExistsError, UnknownTenantError
from tests.servers import PgBouncer

RESTARTS = ("pgbouncer restarts", "postgresql restarts", "postgresql crashes")

_VERBS = ("suspend", "resume", "read_only", "maintenance", "resume", "delete", "delete")

_PICK = (
    "SELECT {}(pid) FROM pg_catalog.pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    " AND usename <> 'postgres' ORDER BY random() LIMIT %s"
)


@dataclass
class Faults:
    """Carries out faults, by chance, and counts them. `present` are the guests that are there, as far as is known.

    `unexpected` holds what a change of a tenant may not come to.
    """

    fleet: FleetInCells
    pooler: PgBouncer | None
    guests: Sequence[str]
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    present: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)

    def go_on(self, seconds: float, restart: str | None) -> None:
        """Do one thing after the other for so long, `restart` in the middle."""
        began = time.monotonic()
        ends, middle = began + seconds, began + seconds / 3
        while (now := time.monotonic()) < ends:
            if restart is not None and now >= middle:
                self._restart(restart)
                restart = None
            else:
                self._one()
            time.sleep(self.chance.uniform(0.05, 0.4))

    def _one(self) -> None:
        match self.chance.choices(("kill", "cancel", "guest", "move"), weights=(3, 2, 4, 1))[0]:
            case "kill":
                self._at_backends("pg_terminate_backend", self.chance.choice((1, 1, 2, 8)), "backends killed")
            case "cancel":
                self._at_backends("pg_cancel_backend", 1, "statements cancelled")
            case "guest":
                self._change(self.chance.choice(self.guests))
            case _:
                self._move()

    def _at_backends(self, function: str, number: int, name: str) -> None:
        try:
            with self.fleet.service.superuser("postgres") as connection:
                found = connection.execute(_PICK.format(function).encode(), (self.fleet.service.database, number))
                self.done[name] += found.rowcount
        except psycopg.OperationalError:  # the server is not there
            return

    def _change(self, guest: str) -> None:
        admin = self.fleet.admin
        verb = "create" if guest not in self.present else self.chance.choice(_VERBS)

        def change() -> None:
            if verb == "delete":
                admin.archive(guest)
                admin.delete(guest, confirm=guest)
                self.present.discard(guest)
            else:
                getattr(admin, verb)(guest)
                self.present.add(guest)

        self._tried(f"{verb} of a guest", change)

    def _move(self) -> None:
        """Move a tenant to another cell, an old or a new one, or take back what former moves have left."""
        cells = self.fleet.admin.cells
        if self.chance.random() < 0.3:
            self._tried("former logins taken back", lambda: cells.settle())
            return
        tenant_id = self.chance.choice(self.fleet.places).tenant_id

        def move() -> None:
            to = self.chance.choice(["new", *(load.cell.name for load in cells.list())])
            cells.move(tenant_id, to, wait=False)

        self._tried("moves to another cell", move)

    def _tried(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except TenantExistsError as error:  # its creation was interrupted, or so it seemed
            self.present.add(error.tenant_id)
        except UnknownTenantError as error:
            self.present.discard(error.tenant_id)
        except TenancyError as error:  # not in a state for it, mostly
            self.done[f"refused: {type(error).__name__}"] += 1
        except DBAPIError as error:
            if not error.connection_invalidated and getattr(error.orig, "sqlstate", None) is not None:
                self.unexpected.append(f"{name}: {error}")
            self.done["changes interrupted"] += 1
        else:
            self.done[name] += 1

    def _restart(self, kind: str) -> None:
        match kind:
            case "pgbouncer restarts":
                if self.pooler is None:
                    return
                self.pooler.restart()
            case "postgresql restarts":
                self.fleet.server.restart()
            case _:
                self.fleet.server.restart(immediately=True)
        self.done[kind] += 1
