"""How many server connections each login gets: a budget, divided. Pure.

PgBouncer has a pool for each pair of database and login. A pool with a queue never gives a connection back, so that a
share is certain only where the shares together are no more than the budget. What PgBouncer's `reserve_pool_size` may
add comes out of the budget too: a pool whose clients have waited borrows it while the others are quiet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mt_paas_db.telemetry.backend import CELL_BYTES, TABLE_BYTES_AT_MOST

_RESERVED_PART = 10  # a tenth of the budget


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as far as its pool is concerned.

    Attributes:
        name: As in the catalog.
        login: Who connects.
        tenants: How many are in it, in whatever state.
        own: Whether it is the cell of one tenant with a login of its own.
    """

    name: str
    login: str
    tenants: int
    own: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """PgBouncer's numbers.

    Attributes:
        budget: Server connections in all (`max_db_connections`).
        shared: What each shared cell's pool has for certain (`default_pool_size`).
        own: What the pool of a tenant's own login has (`max_user_connections`).
        reserve: What a pool whose clients wait may borrow (`reserve_pool_size`).
        clients: `max_client_conn`.
        server_lifetime_s, server_idle_timeout_s: How long backends, and idle ones, live.
        certain: Whether the shares together are within the budget, so that no cell can take another's.
    """

    budget: int
    shared: int
    own: int
    reserve: int
    clients: int
    server_lifetime_s: int
    server_idle_timeout_s: int
    certain: bool

    def of(self, cell: Cell) -> int:
        """Return the most server connections that the cell has, apart from what it may borrow."""
        return self.own if cell.own else self.shared


def divide(budget: int, cells: Sequence[Cell], *, tables: int, clients: int = 1000, uniform: bool = False) -> Sizes:
    """Return the pools' sizes for `budget` server connections, 1 at least, and tenants of so many tables each.

    A tenth of it is the reserve; less where a tenth would cost each shared cell more than a quarter of what it gets
    otherwise, since what division leaves over is lent, too. A tenant's own login gets one connection, or two where the
    shared cells, if there are any, still have four each. The shared cells have the rest, in equal parts, since a cell
    is bounded. Where there are more logins than connections each has one, the budget caps them all, and `certain` is
    False. With `uniform` all logins get the same: PgBouncer 1.18 takes a login that has a line of its own for one
    without a password, unless it is in the user list, so that looked-up ones can have none. Backends live shorter where
    the tables of the fullest cell's tenants may come to more than `CELL_BYTES`.
    """
    if budget < 1:
        raise ValueError("a budget of less than one connection")
    shared = sum(not cell.own for cell in cells)
    owners = len(cells) - shared
    reserve = budget // _RESERVED_PART if len(cells) > 1 else 0
    free = budget - reserve
    own = 2 if owners and 2 * owners + 4 * shared <= free else 1
    share = max(1, (free - own * owners) // shared) if shared else own
    most = (budget - own * owners) // shared if shared else 0
    if 4 * share < 3 * most:
        share, reserve = most, budget - own * owners - most * shared
    if uniform:
        own = share = max(1, free // max(1, len(cells)))
    certain = own * owners + share * shared + reserve <= budget
    fullest = max((cell.tenants for cell in cells), default=0)
    within = fullest * tables * TABLE_BYTES_AT_MOST <= CELL_BYTES
    return Sizes(
        budget=budget,
        shared=share,
        own=own,
        reserve=reserve,
        clients=clients,
        server_lifetime_s=3600 if within else 600,
        server_idle_timeout_s=600 if certain and not owners else 60,
        certain=certain,
    )
