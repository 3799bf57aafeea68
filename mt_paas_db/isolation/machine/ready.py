"""Which steps may come next. A step waits where it would mean nothing, or would wait for ever.

One thread carries all steps out, so none may need what another session holds: a row, a lock, the last connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from mt_paas_db.isolation.machine.model import Life
from mt_paas_db.isolation.machine.pool import CONNECTIONS
from mt_paas_db.isolation.machine.tenants import LIVES
from mt_paas_db.isolation.machine.visit import Visit

if TYPE_CHECKING:
    from mt_paas_db.isolation.machine.script import Step
    from mt_paas_db.isolation.machine.world import World

SESSIONS = 4
"""How many sessions may be open at once."""


def _free(world: World) -> bool:
    """Whether there is a connection for one more transaction."""
    return sum(visit.busy for visit in world.visits.values()) < CONNECTIONS


def _any(_world: World, _visit: Visit) -> bool:
    return True


def _may_begin(world: World, visit: Visit) -> bool:
    return visit.busy or _free(world)


def _sound(world: World, visit: Visit) -> bool:
    return visit.sound and _may_begin(world, visit)


def _busy(_world: World, visit: Visit) -> bool:
    return visit.busy


def _working(_world: World, visit: Visit) -> bool:
    return visit.busy and visit.sound


def _nested(_world: World, visit: Visit) -> bool:
    return bool(visit.nested) and not (visit.over or visit.lost)


def _releasable(world: World, visit: Visit) -> bool:
    return _nested(world, visit) and not visit.failed


def _free_of_savepoints(world: World, visit: Visit) -> bool:
    return _sound(world, visit) and not visit.nested


def _takes(world: World, visit: Visit) -> bool:
    return _sound(world, visit) and bool(givers(world, visit))


def _kills(world: World, visit: Visit) -> bool:
    return "terminate" not in world.lacking and _working(world, visit)


def _cancels(world: World, visit: Visit) -> bool:
    return world.route.is_async and _sound(world, visit)


def _cancels_closing(world: World, visit: Visit) -> bool:
    return world.route.is_async and _working(world, visit)


_OF_SESSIONS: Mapping[str, Callable[[World, Visit], bool]] = MappingProxyType(
    {
        "close": _any,
        "commit": _busy,
        "rollback": _busy,
        "savepoint": _sound,
        "release": _releasable,
        "back": _nested,
        "read": _may_begin,
        "insert": _sound,
        "update": _sound,
        "delete_row": _sound,
        "violate": _sound,
        "stray": _free_of_savepoints,
        "peek": _sound,
        "hand_over": _takes,
        "read_under": _sound,
        "read_tables": _sound,
        "kill": _kills,
        "cancel": _cancels,
        "cancel_closing": _cancels_closing,
    }
)


def _at_rest(world: World, life: Life) -> bool:
    """Whether no session of the tenant holds locks that an admin would wait for."""
    return not any(visit.busy and visit.life is life for visit in world.visits.values())


def _active(_world: World, life: Life) -> bool:
    return life.state == "active"


def _suspended(_world: World, life: Life) -> bool:
    return life.state == "suspended"


def _gone(_world: World, life: Life) -> bool:
    return life.state == "gone"


def _quiet(world: World, life: Life) -> bool:
    return life.state != "gone" and _at_rest(world, life)


def _deletable(world: World, life: Life) -> bool:
    return _quiet(world, life) and life.number < LIVES  # it is to be created again


def _fillable(world: World, life: Life) -> bool:
    return life.state == "active" and _at_rest(world, life) and _free(world)


_OF_TENANTS: Mapping[str, Callable[[World, Life], bool]] = MappingProxyType(
    {
        "suspend": _active,
        "resume": _suspended,
        "delete": _deletable,
        "create": _gone,
        "migrate": _quiet,
        "fill": _fillable,
    }
)


def choices(world: World, name: str) -> Sequence[int | str]:
    """Return to whom a step may happen now: the numbers of sessions, or the colours of tenants."""
    if (wanted := _OF_SESSIONS.get(name)) is not None:
        return sorted(n for n, visit in world.visits.items() if wanted(world, visit))
    fits = _OF_TENANTS[name]
    return [life.color for life in world.tenants.now.values() if fits(world, life)]


def givers(world: World, taker: Visit) -> list[int]:
    """Return the sessions of other tenants that have an object to hand over."""
    return sorted(n for n, visit in world.visits.items() if visit.notes and visit.life is not taker.life)


def may_open(world: World) -> bool:
    """Whether there is room for one more session."""
    return len(world.visits) < SESSIONS


def may_kill_at_rest(world: World) -> bool:
    """Whether connections at rest are known, and may be terminated."""
    return "terminate" not in world.lacking and not world.route.pooled


def may_reconnect(world: World) -> bool:
    """Whether there is a pooler that can be told to."""
    return world.route.pooled and "reconnect" not in world.lacking


def may_come(world: World, step: Step) -> bool:
    """Whether a step of another sequence means something here, and waits for nothing."""
    first = step.arguments[0] if step.arguments else None
    match step.name:
        case "open":
            return first not in world.visits
        case "kill_at_rest" | "reconnect":
            return True
        case "hand_over" if first in choices(world, "hand_over"):
            return step.arguments[1] in givers(world, world.visits[first])  # type: ignore[index]
        case _:
            return first in choices(world, step.name)
