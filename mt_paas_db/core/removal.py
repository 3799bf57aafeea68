"""Deletion, in steps that stay small.

One DROP SCHEMA locks every table, index and sequence in it, and a server has room for about 64 locks for each
connection it allows (``max_locks_per_transaction``). So the tenant is marked ``deleting``, its objects go a few
at a time, and its row, names and role go last, with the empty schema. Whatever stops it in between, a second
call goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import TenantName, Tier
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.core.admin import Admin, AdminTransaction
from mt_paas_db.core.changes import Changes
from mt_paas_db.core.progress import Listener, Progress, unheard
from mt_paas_db.core.standing import enter
from mt_paas_db.core.transitions import transition
from mt_paas_db.errors import ConfirmationError, UnknownTenantError

_BATCH = 50
"""Objects in one transaction. A table with its indexes, sequence and TOAST takes 5 to 10 locks."""

_OUT_OF_LOCKS = "53200"


def delete(
    changes: Changes,
    name: TenantName,
    *,
    confirm: str | None,
    actor: str | None,
    progress: Listener = unheard,
) -> None:
    """Delete an archived tenant for good. `TenantManager.delete` says what is raised."""
    with changes.recorded("delete", name, actor):
        with changes.as_owner() as step:
            tenant = registry.get(step.connection, name, lock=True)
            state = transition(tenant.tenant_id, tenant.state, "delete")
            if confirm != tenant.tenant_id:
                raise ConfirmationError(tenant.tenant_id, confirm)
            if tenant.state is not state:
                enter(step, tenant, state)
                changes.record(step, "delete", tenant, actor, outcome="started")
        placement = tenant.placement
        schema = placement.schema_name
        roles = [placement.login_role] if placement.tier is Tier.LOGIN else []
        roles.append(placement.role_name)
        empty_schema(changes.admin, schema, progress)
        for role in roles:
            _unlink_large_objects(changes.admin, role)
        with changes.as_owner() as step:
            if not registry.lock(step.connection, tenant.generation):
                raise UnknownTenantError(name)  # another call was faster
            step.run("drop_tenant_schema", schema=schema)
            registry.run(step.connection, "delete_names", generation=tenant.generation)
            registry.run(step.connection, "delete_tenant", generation=tenant.generation)
            if placement.tier is Tier.LOGIN:
                registry.run(step.connection, "delete_own_cell", name=placement.cell)
            with step.as_oneself():
                for role in roles:
                    drop_role(step, role)
            changes.record(step, "delete", tenant, actor)


def drop_role(step: AdminTransaction, role: str) -> None:
    """Drop a role with all its rights, if it is there. Acts as the admin."""
    if not step.ask("role_exists", role=role):
        return
    if not step.oneself.rolsuper:
        step.run("admin_takes_role", role=role)
    step.run("drop_tenant_owned", role=role)
    step.run("drop_tenant_role", role=role)


def empty_schema(admin: Admin, schema: str, progress: Listener = unheard) -> None:
    """Drop what is in `schema`, some objects in each of several transactions; what is no table, view, sequence,
    type or function stays. `progress` is told after each.
    """
    total, done = 0, 0

    def drop_some(batch: int) -> bool:
        nonlocal total, done
        with admin.transaction() as step, step.as_owner():
            found = step.rows("drop_some", schema=schema, batch=batch)
            left = found[0].remaining if found else 0
            total = total or left
            done = max(done, total - left)
            progress(Progress("objects dropped", done, total))
            if statements := ";".join(row.statement for row in found if row.statement):
                step.connection.exec_driver_sql(statements, execution_options={"no_parameters": True})
        return bool(found)

    _until_none_is_left(drop_some)


def _unlink_large_objects(admin: Admin, role: str) -> None:
    def unlink_some(batch: int) -> bool:
        with admin.transaction() as step:
            if not step.ask("role_exists", role=role):
                return False
            if not step.oneself.rolsuper:
                step.run("admin_takes_role", role=role)
            return bool(step.ask("unlink_some", role=role, batch=batch))

    _until_none_is_left(unlink_some)


def _until_none_is_left(drop_some: Callable[[int], bool]) -> None:
    """Call `drop_some` with the number of objects to drop until it returns False; fewer where locks run out."""
    batch = _BATCH
    while True:
        try:
            if not drop_some(batch):
                return
        except DBAPIError as error:
            if sqlstate_of(error) != _OUT_OF_LOCKS or batch == 1:
                raise
            batch = max(1, batch // 5)
