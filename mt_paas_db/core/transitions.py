"""The lifecycle as a table: which action leads from which states to which. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mt_paas_db.catalog.values import TenantState
from mt_paas_db.errors import IllegalTransitionError


@dataclass(frozen=True, slots=True)
class Transition:
    """One action. `to` is None where the tenant is gone afterwards."""

    sources: tuple[TenantState, ...]
    to: TenantState | None


TRANSITIONS: dict[str, Transition] = {
    "suspend": Transition((TenantState.ACTIVE, TenantState.READ_ONLY, TenantState.MAINTENANCE), TenantState.SUSPENDED),
    "resume": Transition((TenantState.SUSPENDED,), TenantState.ACTIVE),
    "delete": Transition((TenantState.SUSPENDED, TenantState.ARCHIVED), None),
}


def transition(tenant_id: str, state: TenantState, action: str) -> TenantState | None:
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
