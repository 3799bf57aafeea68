"""Where the fleet stands, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mt_paas_db.migrate.script import Heads


@dataclass(frozen=True, slots=True)
class Status:
    """Where the fleet stands, by the catalog's copy.

    Attributes:
        heads: The heads of the history.
        places: How many tenants stand where, the most crowded place first.
        behind: How many are not at the heads.
        reference: Where the reference really stands.
        shared: Where the shared tables really stand; None where there are none.
        tenants: Each tenant's place.
    """

    heads: Heads
    places: tuple[tuple[Heads, int], ...]
    behind: int
    reference: Heads
    shared: Heads | None
    tenants: tuple[tuple[str, Heads], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "heads": list(self.heads),
            "behind": self.behind,
            "places": [{"heads": list(heads), "tenants": number} for heads, number in self.places],
            "reference": list(self.reference),
            "shared": None if self.shared is None else list(self.shared),
            "tenants": {tenant_id: list(heads) for tenant_id, heads in self.tenants},
        }
