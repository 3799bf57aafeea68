"""The lifecycle as a table: which action leads from which states to which. Pure.

``docs/reference/states.md`` draws it; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from mt_paas_db.catalog.values import TenantState
from mt_paas_db.errors import IllegalTransitionError

PROVISIONING, ACTIVE, READ_ONLY, MAINTENANCE, SUSPENDED, ARCHIVED, DELETING = TenantState


@dataclass(frozen=True, slots=True)
class Transition:
    """One action: the states it may start from, and the one it leads to. ``deleting`` ends with the tenant gone."""

    sources: tuple[TenantState, ...]
    to: TenantState


TRANSITIONS: dict[str, Transition] = {
    "create": Transition((PROVISIONING,), ACTIVE),  # or from nothing
    "read_only": Transition((ACTIVE, MAINTENANCE, SUSPENDED), READ_ONLY),
    "maintenance": Transition((ACTIVE, READ_ONLY), MAINTENANCE),
    "suspend": Transition((ACTIVE, READ_ONLY, MAINTENANCE), SUSPENDED),
    "resume": Transition((READ_ONLY, MAINTENANCE, SUSPENDED), ACTIVE),
    "archive": Transition((ACTIVE, READ_ONLY, MAINTENANCE, SUSPENDED), ARCHIVED),
    "restore": Transition((ARCHIVED,), ACTIVE),
    # One that was never finished holds nothing, and one that is half gone has been confirmed before.
    "delete": Transition((ARCHIVED, PROVISIONING, DELETING), DELETING),
}


def transition(tenant_id: str, state: TenantState, action: str) -> TenantState:
    """Return the state that `action` leads to. Raises `IllegalTransitionError` where it is not allowed."""
    allowed = TRANSITIONS[action]
    if state not in allowed.sources:
        raise IllegalTransitionError(
            tenant_id,
            state=state,
            action=action,
            allowed_from=tuple(str(source) for source in allowed.sources),
        )
    return allowed.to
