"""Which cell a new tenant goes to: the newest one that tenants share and that has room, else one that is made for it.

A cell holds `cell_size` tenants at most, however many are created at once. So whoever puts a tenant into a cell holds
one lock from before it counts until it has committed. It is taken at the end of a creation, where from PostgreSQL 16 on
the grant of the tenants' group lets one creation at a time through anyway: tables are made in parallel.
"""

from __future__ import annotations

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.catalog.values import Tenant
from mt_paas_db.core.admin import AdminTransaction, Named
from mt_paas_db.core.cell_logins import make_cell
from mt_paas_db.core.changes import Changes

FIRST_VERSION = 5
"""The catalog's version from which on cells have a size. In an older one every tenant goes to the first cell."""

ONE_PLACES_AT_A_TIME: Named = ("one_places_at_a_time", {})
"""Wait for the lock, and hold it until the transaction ends. Whoever waits for a tenant's row does so before it."""


def place(step: AdminTransaction, tenant: Tenant, *, size: int) -> Tenant:
    """Put a new tenant of tier `role`, that is recorded in some cell, where it stays; return it with its placement.

    Holds the lock already. Acts as the owner, and ends so.
    """
    assert step.installation is not None
    if tenant.placement.tier is Tier.LOGIN or step.installation.catalog_version < FIRST_VERSION:
        return tenant
    found = registry.place_tenant(step.connection, tenant.generation, cluster=step.cluster, size=size)
    if found is None:
        found = make_cell(step)
        registry.run(step.connection, "set_cells", generations=[tenant.generation], cell=found.name)
    placement = tenant.placement.model_copy(update={"cell": found.name, "login_role": found.login_role})
    return tenant.model_copy(update={"placement": placement})


def make_room(changes: Changes, tenants: int) -> None:
    """Let the next tenants, if nobody else creates any meanwhile, come into one cell: make one where none has room.

    Nothing where a cell is too small for them, or the catalog too old.
    """
    size = changes.settings.cell_size
    with changes.as_owner() as step:
        if tenants > size or changes.installation(step).catalog_version < FIRST_VERSION:
            return
        step.run_all(ONE_PLACES_AT_A_TIME)
        loads = registry.cell_loads(step.connection, login=step.roles.login)
        shared = [load for load in loads if load.cell.tier is Tier.ROLE and load.cell.cluster == step.cluster]
        newest = next((load for load in reversed(shared) if load.tenants < size), None)
        if newest is None or newest.tenants + tenants > size:
            make_cell(step)
