"""A tenant's schema, and what the tenant's role may do in it; the reference's is made in the same way."""

from __future__ import annotations

from mt_paas_db.core.admin import AdminTransaction, Named

_GRANTS = ("tenant_tables", "tenant_sequences", "tenant_functions")


def make_schema(step: AdminTransaction, *, schema: str, role: str) -> None:
    """Make an empty schema and grant `role` what a tenant has there. Acts as the owner."""
    step.run_all(*made_schema(step, schema=schema, role=role))


def made_schema(step: AdminTransaction, *, schema: str, role: str) -> list[Named]:
    """Return the statements of `make_schema`."""
    made = ("create_tenant_schema", {"schema": schema, "owner": step.roles.owner})
    return [made, *_granted(step, schema, role)]


def grant_schema(step: AdminTransaction, *, schema: str, role: str) -> None:
    """Grant `role` the use of a schema, and of what the owner will make there; again is harmless. Acts as the owner."""
    step.run_all(*_granted(step, schema, role))


def _granted(step: AdminTransaction, schema: str, role: str) -> list[Named]:
    used = ("tenant_usage", {"schema": schema, "role": role})
    return [used, *((name, {"owner": step.roles.owner, "schema": schema, "role": role}) for name in _GRANTS)]
