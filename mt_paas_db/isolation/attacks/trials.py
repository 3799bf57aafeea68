"""Forms of trial that several families share: what must be forbidden, and what must not be told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.isolation.attack import Need
from mt_paas_db.isolation.channel import DENIED, Channel, Refusal
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.ground import Party
from mt_paas_db.isolation.shared import SharedProbe

T = TypeVar("T")

NOBODYS = 0
"""A generation that no tenant has."""


def _no_shared_tables(c: Channel) -> str | None:
    return None if c.ground.shared else "the installation has no shared schema (MT_PAAS_DB_SHARED_SCHEMAS)"


SHARED_TABLES = Need("shared_tables", _no_shared_tables)

GUARDS = Need("guards", lambda c: None if c.ground.guarded else "tenants' tables have no guards (MT_PAAS_DB_GUARDS)")


def _through_a_pooler(c: Channel) -> str | None:
    return "PgBouncer may have one server connection for both sessions, and keeps no LISTEN" if c.route.pooled else None


DIRECT = Need("direct", _through_a_pooler)
"""For two sessions that are in a transaction at the same time."""


def probe_of(c: Channel) -> SharedProbe:
    """Return the suite's own shared tables; for attacks that need `SHARED_TABLES`."""
    if c.ground.shared is None:
        raise LookupError("the attack does not say that it needs shared tables")
    return c.ground.shared


def forbidden(c: Channel, *statements: str, refusals: tuple[Refusal, ...] = (DENIED,)) -> None:
    """Try what nobody may do, in a session that is rolled back; it is a leak by itself where it is carried out."""
    what = "; ".join(statements)
    with c.trying(what, refusals=refusals) as trial, c.client() as me:
        for statement in statements:
            me.raw(statement)
        trial.reach("it was carried out")
        if c.target is not c.me:
            c.learned(f"carried out: {what}")


def told_apart(c: Channel, what: str, ask: Callable[[int], T]) -> None:
    """Ask for something that the target has, and for something that nobody has: the answers must be the same."""
    with c.trying(what):
        there, nowhere = ask(c.target.generation), ask(NOBODYS)
        if there != nowhere:
            c.learned(f"{what}: {there!r} for what {c.target.label} has, {nowhere!r} for what nobody has")


def answer(c: Channel, *statements: str, party: Party | None = None) -> str:
    """Send statements in a session that is rolled back; return the last one's rows, or the error's SQLSTATE."""
    try:
        with c.client(party) as client:
            rows = [client.raw(statement) for statement in statements][-1]
    except ANSWERS as error:
        return f"SQLSTATE {sqlstate_of(error)}"
    return str(rows)
