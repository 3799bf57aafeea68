"""The machine's tenants: three ids, used again from one sequence to the next, for creating one takes time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mt_paas_db.catalog.values import TenantState
from mt_paas_db.errors import UnknownTenantError
from mt_paas_db.isolation.ground import ACTOR, Ground, quoted
from mt_paas_db.isolation.machine import table
from mt_paas_db.isolation.machine.model import Life, Row
from mt_paas_db.isolation.rows import Canaries

COLORS = ("red", "green", "blue")
LIVES = 3
"""How often an id may be created in one sequence."""


class Tenants:
    """The lives of the machine's tenants, and what an admin does to them.

    Attributes:
        ground: Whose run they belong to; it removes them in the end.
        canaries: One for each life of each id, always the same within a run, so that a sequence can be repeated.
        now: The latest life of each id.
        all: Every life of the present sequence.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        labels = [f"{color}-{number}" for color in COLORS for number in range(1, LIVES + 1)]
        self.canaries = Canaries.of(labels, seed=int(ground.run, 16))
        self.now: dict[str, Life] = {}
        self.all: list[Life] = []
        self._filled: set[str] = set()

    def reset(self, *, doubted: bool = False) -> None:
        """Bring every tenant to the beginning of a sequence: in its first life, active, with one row.

        Where `doubted`, after a step that failed half-way, the catalog is asked who is there.
        """
        self.all = []
        for color in COLORS:
            before = self.now.get(color)
            if doubted and before is not None:
                before = self._found(before)
            if before is None or before.state == "gone":
                life = self._made(color, 1)
            else:
                if before.state == "suspended":
                    self.resume(before)
                life = Life(color, 1, before.tenant_id, before.generation, before.schema, migrations=before.migrations)
                self.ground.as_owner(table.emptied(life.schema))
            self._begin(life)

    def _found(self, life: Life) -> Life | None:
        """Return a tenant as the catalog has it; what is half made or half removed is removed."""
        manager = self.ground.manager
        try:
            tenant = manager.get(life.tenant_id)
        except UnknownTenantError:
            return None
        if tenant.generation != life.generation or not (tenant.state.serves or tenant.state is TenantState.SUSPENDED):
            self.ground.remove(life.tenant_id)
            return None
        life.state = "active" if tenant.state.serves else "suspended"
        return life

    def create(self, color: str) -> Life:
        """Create a tenant anew under an id whose former tenant is gone."""
        life = self._made(color, self.now[color].number + 1)
        self._begin(life)
        return life

    def _made(self, color: str, number: int) -> Life:
        made = self.ground.bear(f"machine-{color}")
        life = Life(color, number, made.tenant_id, made.generation, made.placement.schema_name)
        self.ground.as_owner(table.created(life.schema))
        if self.ground.manager.settings.guards:
            self.ground.as_owner(table.guarded(life.schema))
        return life

    def _begin(self, life: Life) -> None:
        """Give a tenant its first row, so that whoever strays into its schema sees something."""
        if life.schema in self._filled:
            names = ", ".join(f"{quoted(life.schema)}.{quoted(name)}" for name in self.ground.tables)
            self.ground.as_owner(f"TRUNCATE {names} CASCADE")
            self._filled.discard(life.schema)
        row = self.row(life, 0)
        self.ground.as_owner(
            f"INSERT INTO {quoted(life.schema)}.{table.NAME} VALUES (0, '{row.body}', '{row.mood}')"  # noqa: S608
        )
        life.rows[0] = row
        life.tables = self._tables(life)
        self.now[life.color] = life
        self.all.append(life)

    def row(self, life: Life, n: int) -> Row:
        """Return the `n`-th row that this tenant writes; no two are alike."""
        return Row(self.canaries[life.label].text("machine", n) or "", table.MOODS[n % len(table.MOODS)])

    def suspend(self, life: Life) -> None:
        """Suspend a tenant."""
        self.ground.manager.suspend(life.tenant_id, actor=ACTOR)
        life.state = "suspended"

    def resume(self, life: Life) -> None:
        """Resume a suspended tenant."""
        self.ground.manager.resume(life.tenant_id, actor=ACTOR)
        life.state = "active"

    def delete(self, life: Life) -> None:
        """Delete a tenant for good."""
        self.ground.remove(life.tenant_id)
        life.state, life.rows = "gone", {}

    def migrate(self, life: Life) -> None:
        """Carry out the next migration of the machine's table in one tenant's schema, as the owner."""
        self.ground.as_owner(table.migrated(life.schema, life.migrations + 1))
        life.migrations += 1

    def filled(self, life: Life, tables: dict[str, tuple[str, ...]]) -> None:
        """Note what a tenant has committed to the service's tables."""
        self._filled.add(life.schema)
        life.tables = tables

    @property
    def living(self) -> list[Life]:
        """The tenants that there are now."""
        return [life for life in self.now.values() if life.state != "gone"]

    def truth(self, lives: Iterable[Life]) -> dict[str, dict[int, Row]]:
        """Return what there is in the machine's table, by schema, as the owner sees it."""
        found: dict[str, dict[int, Row]] = defaultdict(dict)
        for schema, key, body, mood in self.ground.as_owner(
            " UNION ALL ".join(table.truth(life.schema) for life in lives) or "SELECT WHERE false"
        ):
            found[schema][key] = Row(body, mood)
        return found

    def _tables(self, life: Life) -> dict[str, tuple[str, ...]]:
        return {name: texts(self.ground.as_owner(read(name, life.schema))) for name in self.ground.tables}


def read(name: str, schema: str | None = None) -> str:
    """Return the query of one of the service's tables, each row as text."""
    prefix = f"{quoted(schema)}." if schema else ""
    return f"SELECT t::text FROM {prefix}{quoted(name)} t"  # noqa: S608  # quoted


def texts(rows: Iterable[Any]) -> tuple[str, ...]:
    """Return rows of one column in an order that does not depend on the server's."""
    return tuple(sorted(str(row[0]) for row in rows))
