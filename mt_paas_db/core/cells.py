"""Cells, while they serve: move a tenant, split a cell, give it a new login.

All of them are one thing. The tenants' roles are granted to the login that shall serve them, and the catalog says so,
in one transaction. A process that has asked before goes on with the former login until it may no longer remember, the
catalog's cache bound at most; then the former login loses the roles. So no session fails, but one that is older than
the bound and begins another transaction: it is told to open a new session.

What is killed on the way leaves memberships that nobody needs any more, *strays*; `Cells.settle` takes them back, as
does a move that is called again. A tenant that is closed loses all memberships at once, strays too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.identifiers import Tier, parse_name
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.values import Cell, CellLoad, Tenant
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.core.cell_logins import make_cell, make_login, set_password
from mt_paas_db.core.cell_plan import divide
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.placement import FIRST_VERSION, ONE_PLACES_AT_A_TIME
from mt_paas_db.core.progress import Listener, Progress, unheard
from mt_paas_db.core.settling import Settled, Stray, settle, strays
from mt_paas_db.core.standing import let_in
from mt_paas_db.errors import CellError, CellFullError, ConfigurationError, LockedError, UnknownCellError

NEW = "new"
"""Instead of a cell's name: one that is made for it."""

_LOCK_NOT_AVAILABLE = "55P03"
_MARGIN_S = 0.1  # the catalog's clock and ours


@dataclass(frozen=True, slots=True)
class CellContents:
    """A cell, its tenants in the order of their ids, and the strays of its login."""

    load: CellLoad
    tenants: tuple[Tenant, ...]
    strays: tuple[Stray, ...]


class Cells:
    """The cells of one installation, on its home cluster. All verbs need the admin DSN."""

    def __init__(self, changes: Changes, credentials: CredentialProvider) -> None:
        self._changes = changes
        self._credentials = credentials

    # -- look

    def list(self) -> Sequence[CellLoad]:
        """Return all cells, how many tenants each has, and how many strays its login; the oldest first."""
        with self._opened() as step:
            return registry.cell_loads(step.connection, login=step.roles.login)

    def show(self, cell: str) -> CellContents:
        """Return one cell, its tenants, and who has left it and may still be reached by its login.

        Raises `UnknownCellError`.
        """
        with self._opened() as step:
            for load in registry.cell_loads(step.connection, login=step.roles.login, name=cell):
                left = tuple(stray for stray in strays(step) if stray.login == load.cell.login_role)
                return CellContents(load, tuple(registry.tenants(step.connection, cell=cell)), left)
        raise UnknownCellError(cell)

    # -- change

    def move(
        self,
        tenant_id: str,
        to: str = NEW,
        *,
        actor: str | None = None,
        wait: bool = True,
        progress: Listener = unheard,
    ) -> Settled:
        """Move a tenant to another cell, ``new`` for one that is made for it, while it serves.

        Commits the change, waits until no process can remember the former cell, and takes its membership back; without
        `wait`, that is left to `settle`. A move that was killed is completed by calling again.

        Raises:
            UnknownTenantError, UnknownCellError: Nothing was changed.
            CellFullError: The cell has `cell_size` tenants.
            CellError: It is one tenant's own, or on another cluster; or the tenant has a login of its own.
            LockedError: The tenant is being changed, or created, this moment.
        """
        name = parse_name(tenant_id)
        with self._changes.recorded("move", name, actor, detail={"cell": to}), self._opened() as step:
            found = registry.get(step.connection, name)
            self._hold(step, [found.generation], f"tenant {found.tenant_id!r}")
            tenant = registry.get(step.connection, name)
            if tenant.placement.tier is Tier.LOGIN:
                raise CellError(
                    tenant.placement.cell,
                    f"it is the own one of tenant {tenant.tenant_id!r}, of tier 'login', who stays there for life",
                )
            step.run_all(ONE_PLACES_AT_A_TIME)
            cell = self._target(step, tenant, to)
            if cell.name != tenant.placement.cell:
                self._put(step, [tenant], cell, "move", actor)
        return self._settle([tenant], [cell], wait=wait, progress=progress)

    def split(self, cell: str, *, actor: str | None = None, wait: bool = True, progress: Listener = unheard) -> Settled:
        """Move the newer half of a cell's tenants to a new cell; where that is still too many, to several.

        One transaction for each new cell. One that was killed has moved some: `settle` completes what it did.

        Raises `UnknownCellError`, `LockedError` (some of its tenants are being changed), and `CellError` for a cell of
        fewer than two tenants.
        """
        with self._opened() as step:
            self._shared(step, cell)
            parts = divide(registry.tenants_in(step.connection, cell), self._changes.settings.cell_size)
        if not parts:
            raise CellError(cell, "it has fewer than two tenants, so that there is nothing to split")
        moved: list[Tenant] = []
        made: list[Cell] = []
        with self._changes.admin.keeping_connections(1):
            for number, part in enumerate(parts):
                progress(Progress("new cells", number, len(parts)))
                with self._opened() as step:
                    step.run_all(ONE_PLACES_AT_A_TIME)
                    tenants = list(registry.tenants(step.connection, cell=cell))
                    chosen = sorted(tenants, key=lambda tenant: tenant.generation)[-part:]
                    self._hold(step, [tenant.generation for tenant in chosen], f"a tenant of cell {cell!r}")
                    # As they are now: one may have been closed before it was held.
                    held = [registry.by_generation(step.connection, tenant.generation) for tenant in chosen]
                    here = [tenant for tenant in held if tenant is not None and tenant.placement.cell == cell]
                    target = make_cell(step)
                    self._put(step, here, target, "split", actor)
                moved += here
                made.append(target)
        return self._settle(moved, made, wait=wait, progress=progress)

    def rotate(
        self, cell: str, *, actor: str | None = None, wait: bool = True, progress: Listener = unheard
    ) -> Settled:
        """Give a cell a new login role, with a password of its own, and drop the former one once nobody needs it.

        Where the credential provider knows the login, or it is the first cell's, which the app DSN names, or a tenant's
        own, its name stays and the present password is set; with the first cell's, those that are derived from it.

        Raises `UnknownCellError`; `LockedError` where one of its tenants is being changed; `ConfigurationError` where
        there is no password to set.
        """
        with self._opened() as step:
            found = registry.cell(step.connection, cell)
            if found is None:
                raise UnknownCellError(cell)
            if self._in_place(step, found):
                self._set_passwords(step, found)
                return Settled(cells=(found,))
            self._shared(step, cell)
            step.run_all(ONE_PLACES_AT_A_TIME)
            tenants = list(registry.tenants(step.connection, cell=cell))
            self._hold(step, [tenant.generation for tenant in tenants], f"a tenant of cell {cell!r}")
            held = [registry.by_generation(step.connection, tenant.generation) for tenant in tenants]
            here = [tenant for tenant in held if tenant is not None and tenant.placement.cell == cell]
            _, login = make_login(step)
            let_in(step, here, login)
            generations = [tenant.generation for tenant in here]
            detail = {"cell": cell, "from_login": found.login_role, "to_login": login}
            registry.record_moved(step.connection, generations, action="rotate", actor=_who(step, actor), detail=detail)
            registry.run(step.connection, "set_login", cell=cell, login_role=login)
            registry.run(step.connection, "placed", generations=generations)
        return self._settle(here, [found.model_copy(update={"login_role": login})], wait=wait, progress=progress)

    def settle(self, *, progress: Listener = unheard) -> Settled:
        """Take back the memberships that no process can need any more, and drop logins that no cell has.

        Those that are too young, or whose tenant is being changed this moment, are left, and told.
        """
        with self._opened():
            pass
        return settle(self._changes, progress=progress)

    # -- steps, all as the owner

    @contextmanager
    def _opened(self) -> Iterator[AdminTransaction]:
        with self._changes.as_owner() as step:
            version = self._changes.installation(step).catalog_version
            if version < FIRST_VERSION:
                raise ConfigurationError(
                    f"the catalog is at version {version}, and cells can be changed from version {FIRST_VERSION} on; "
                    "run `mt-paas-db init`"
                )
            yield step

    def _hold(self, step: AdminTransaction, generations: Sequence[int], what: str) -> None:
        """Lock tenants' rows, or say at once that somebody else has."""
        try:
            registry.lock_all(step.connection, generations)
        except DBAPIError as error:
            if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
                raise
            raise LockedError(
                step.cluster,
                f"{what} is being changed, created or migrated by another process; nothing was moved, try again",
            ) from error

    def _shared(self, step: AdminTransaction, name: str) -> Cell:
        cell = registry.cell(step.connection, name)
        if cell is None:
            raise UnknownCellError(name)
        if cell.tier is Tier.LOGIN:
            raise CellError(name, "it is one tenant's own")
        if cell.cluster != step.cluster:
            raise CellError(name, f"it is on cluster {cell.cluster!r}, and this admin DSN leads to {step.cluster!r}")
        return cell

    def _target(self, step: AdminTransaction, tenant: Tenant, to: str) -> Cell:
        present = self._shared(step, tenant.placement.cell)
        if to == NEW:
            alone = registry.tenants_in(step.connection, present.name) == 1
            return present if alone and present.login_role != step.roles.login else make_cell(step)
        cell = self._shared(step, to)
        size = self._changes.settings.cell_size
        if cell.name != present.name and registry.tenants_in(step.connection, cell.name) >= size:
            raise CellFullError(cell.name, size)
        return cell

    def _put(
        self, step: AdminTransaction, tenants: Sequence[Tenant], cell: Cell, action: str, actor: str | None
    ) -> None:
        """Let tenants in by a cell's login, and say in the catalog where they are. That last: time runs from it."""
        generations = [tenant.generation for tenant in tenants]
        let_in(step, tenants, cell.login_role)
        detail = {"to": cell.name, "to_login": cell.login_role}
        registry.record_moved(step.connection, generations, action=action, actor=_who(step, actor), detail=detail)
        registry.run(step.connection, "set_cells", generations=generations, cell=cell.name)

    def _in_place(self, step: AdminTransaction, cell: Cell) -> bool:
        known = self._credentials(f"{step.cluster}/{cell.login_role}", "app")
        return bool(known) or cell.login_role == step.roles.login or cell.tier is Tier.LOGIN

    def _set_passwords(self, step: AdminTransaction, cell: Cell) -> None:
        if step.password_of(step.cluster, cell.login_role, tier=cell.tier) is None:
            raise ConfigurationError(f"the DSN of login {cell.login_role!r} has no password that could be set")
        cells = [cell]
        if cell.login_role == step.roles.login:
            cells += [other for other in registry.shared_cells(step.connection, cluster=step.cluster) if other != cell]
        with step.as_oneself():
            for each in cells:
                set_password(step, each)

    def _settle(self, tenants: Sequence[Tenant], cells: Sequence[Cell], *, wait: bool, progress: Listener) -> Settled:
        generations = [tenant.generation for tenant in tenants]
        if wait:
            with self._opened() as step:
                left_s = registry.settles_in(step.connection, generations)
            _wait(left_s, progress)
        done = settle(self._changes, generations=generations, progress=progress)
        return replace(done, moved=tuple(tenant.tenant_id for tenant in tenants), cells=tuple(cells))


def _wait(seconds: float, progress: Listener, sleep: Callable[[float], object] = time.sleep) -> None:
    """Wait, and tell each second how far."""
    if seconds <= 0:
        return
    ends, total = time.monotonic() + seconds + _MARGIN_S, max(1, round(seconds))
    while (left := ends - time.monotonic()) > 0:
        progress(Progress("seconds until no process remembers", min(total - 1, max(0, total - round(left))), total))
        sleep(min(1.0, left))
    progress(Progress("seconds until no process remembers", total, total))


def _who(step: AdminTransaction, actor: str | None) -> str:
    return actor or step.oneself.name
