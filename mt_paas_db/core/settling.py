"""What a move leaves behind, and when it goes: memberships of former logins, and logins that no cell has any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.values import Cell
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.progress import Listener, Progress, unheard
from mt_paas_db.core.removal import drop_role
from mt_paas_db.core.standing import leave

_LOCK_NOT_AVAILABLE = "55P03"


@dataclass(frozen=True, slots=True)
class Stray:
    """A login that may take the role of a tenant that is in another cell now. `due_at` is when none needs it."""

    generation: int
    tenant_id: str
    login: str
    due: bool
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Settled:
    """What was done, and what is left to do.

    Attributes:
        moved: Tenants that connect as another login than before.
        cells: The cells where they are now; of a password that was set, the cell.
        revoked: Strays that were taken back.
        dropped: Logins that were dropped.
        waiting: Strays that are too young, or whose tenant is being changed this moment.
        in_use: Logins that no cell has, with a transaction open: closed to new connections, dropped another time.
    """

    moved: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    revoked: tuple[Stray, ...] = ()
    dropped: tuple[str, ...] = ()
    waiting: tuple[Stray, ...] = ()
    in_use: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not self.waiting and not self.in_use

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {**asdict(self), "cells": [cell.model_dump() for cell in self.cells], "done": self.done}


def settle(changes: Changes, *, generations: Sequence[int] | None = None, progress: Listener = unheard) -> Settled:
    """Take back what is due, of these tenants or of all, and drop logins that let nobody in. Several transactions."""
    revoked: list[Stray] = []
    waiting: list[Stray] = []
    with changes.admin.keeping_connections(1):
        with changes.as_owner() as step:
            found = strays(step, generations)
        for number, generation in enumerate(dict.fromkeys(stray.generation for stray in found)):
            progress(Progress("tenants settled", number, len({stray.generation for stray in found})))
            done, left = _take_back(changes, generation)
            revoked += done
            waiting += left
        dropped, in_use = _drop_logins(changes)
    return Settled(revoked=tuple(revoked), dropped=dropped, waiting=tuple(waiting), in_use=in_use)


def strays(step: AdminTransaction, generations: Sequence[int] | None = None) -> list[Stray]:
    """Return the strays of some tenants, or of all. Acts as the owner."""
    rows = registry.strays(step.connection, login=step.roles.login, generations=generations)
    return [Stray(**row) for row in rows]


def _take_back(changes: Changes, generation: int) -> tuple[list[Stray], list[Stray]]:
    """Take back a tenant's strays if they are due now, and return those that were, and those that are left."""
    with changes.as_owner() as step:
        savepoint = step.connection.begin_nested()
        try:
            registry.lock(step.connection, generation, nowait=True)
        except DBAPIError as error:
            if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
                raise
            savepoint.rollback()
            return [], strays(step, [generation])
        found = strays(step, [generation])
        due = [stray for stray in found if stray.due]
        tenant = registry.by_generation(step.connection, generation)
        if tenant is None or not due:
            return [], found
        with step.as_oneself():
            leave(step, tenant, [stray.login for stray in due])
        for stray in due:
            changes.record(step, "settle", tenant, None, detail={"login": stray.login})
        return due, [stray for stray in found if not stray.due]


def _drop_logins(changes: Changes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Drop the logins that this library made for a cell and that no cell has, and end their idle connections.

    One with a transaction open is closed to new connections, and dropped another time.
    """
    with changes.as_owner() as step:
        unused = registry.unused_logins(step.connection, login=step.roles.login)
        if unused:
            with step.as_oneself():
                for login in unused:
                    step.run("own_login_closes", login=login)
    dropped, in_use = [], []
    for login in unused:
        with changes.admin.transaction() as step:
            if not step.ask("role_exists", role=login):
                continue
            if not step.oneself.rolsuper:
                step.run("admin_takes_role", role=login)
            if any(row.in_use for row in step.rows("end_idle_backends", login=login)):
                in_use.append(login)
            else:
                drop_role(step, login)
                dropped.append(login)
    return tuple(dropped), tuple(in_use)
