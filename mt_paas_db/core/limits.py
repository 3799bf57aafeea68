"""What a tenant may use at most: set here, and kept to by sessions; storage is looked at from time to time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, Literal

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import TenantName
from mt_paas_db.catalog.values import NO_LIMITS, Limits, TenantState
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.placement import FIRST_VERSION
from mt_paas_db.core.standing import enter
from mt_paas_db.errors import ConfigurationError


class Unchanged(Enum):
    """What an argument is where it is left out, as None takes a limit away."""

    UNCHANGED = "unchanged"


UNCHANGED: Literal[Unchanged.UNCHANGED] = Unchanged.UNCHANGED

_BOUNDS = {"max_sessions": 2**31 - 1, "statement_timeout_s": 2_000_000, "storage_bytes": 2**63 - 1}


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a tenant's schema on disk, with indexes and what is stored out of line.

    `closed` is whether it was made read-only just now, because it is over its quota.
    """

    tenant_id: str
    state: TenantState
    used_bytes: int
    quota_bytes: int | None
    closed: bool = False

    @property
    def over(self) -> bool:
        """Whether it uses more than it may."""
        return self.quota_bytes is not None and self.used_bytes > self.quota_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {**asdict(self), "over": self.over}


def limits_of(changes: Changes, name: TenantName) -> Limits:
    """Return a tenant's limits. Raises `UnknownTenantError`, and `ConfigurationError` for a catalog without limits."""
    with changes.as_owner() as step:
        _check(changes, step)
        return registry.limits(step.connection, registry.get(step.connection, name).generation)


def set_limits(
    changes: Changes,
    name: TenantName,
    *,
    sessions: int | Unchanged | None,
    statement_timeout_s: float | Unchanged | None,
    storage_bytes: int | Unchanged | None,
    actor: str | None,
) -> Limits:
    """Set those limits that are given, and return all. `TenantManager.set_limits` says what is raised."""
    given = {
        "max_sessions": sessions,
        "statement_timeout_s": statement_timeout_s,
        "storage_bytes": storage_bytes,
    }
    told = {key: value for key, value in given.items() if value is not UNCHANGED}
    for key, value in told.items():
        whole = key == "statement_timeout_s" or isinstance(value, int)
        if value is not None and not (whole and 0 < value <= _BOUNDS[key]):
            raise ConfigurationError(f"{key} must be more than 0 and at most {_BOUNDS[key]}, or None for no limit")
    with changes.changing("limit", name, actor, detail=told) as change:
        _check(changes, change.step)
        connection, generation = change.step.connection, change.tenant.generation
        limits = registry.limits(connection, generation).model_copy(update=told)
        registry.run(connection, "delete_limits", generation=generation)
        if limits != NO_LIMITS:
            registry.run(connection, "insert_limits", generation=generation, **limits.model_dump())
    return limits


def usage(changes: Changes, name: TenantName | None = None, *, enforce: bool = False) -> list[Usage]:
    """Measure one tenant, or all, each by its own objects; `enforce` makes active ones read-only that are over."""
    with changes.as_owner() as step:
        _check(changes, step)
        generation = None if name is None else registry.get(step.connection, name).generation
        found = list(_measured(step, generation))
    if not enforce:
        return found
    return [replace(one, closed=_close(changes, one)) if one.over else one for one in found]


def _measured(step: AdminTransaction, generation: int | None) -> Iterator[Usage]:
    for row in registry.usage(step.connection, generation):
        yield Usage(row["tenant_id"], TenantState(row["state"]), int(row["used_bytes"]), row["storage_bytes"])


def _close(changes: Changes, found: Usage) -> bool:
    """Make a tenant read-only if it is still active, and say why in the log."""
    note = f"over its storage quota: {found.used_bytes} of {found.quota_bytes} bytes"
    with changes.as_owner() as step:
        tenant = registry.get(step.connection, TenantName(found.tenant_id), lock=True)
        if tenant.state is not TenantState.ACTIVE:
            return False  # closed meanwhile, and not ours to open
        enter(step, tenant, TenantState.READ_ONLY)
        changes.record(step, "read_only", tenant, None, detail={"note": note})
    return True


def _check(changes: Changes, step: AdminTransaction) -> None:
    version = changes.installation(step).catalog_version
    if version < FIRST_VERSION:
        raise ConfigurationError(
            f"the catalog is at version {version}, and knows limits from version {FIRST_VERSION} on; "
            "run `mt-paas-db init`"
        )
