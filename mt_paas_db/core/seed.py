"""First rows of a new tenant: an admin user, prompts. Written in the transaction that creates it.

The seed acts as the tenant's own role, so that it can do what a session can and nothing else: a seed that names
another tenant's schema is refused by the server like any session.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg import sql
from sqlalchemy.orm import Session

from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.values import Installation, Tenant
from mt_paas_db.core.admin import AdminTransaction
from mt_paas_db.errors import ConfigurationError, ProvisioningError
from mt_paas_db.migrate.one_transaction import LeavesTransactionError, kept_open

Seed = Callable[[Session, Tenant], object] | Path
"""Called with a session of the new tenant and the tenant; or a file of SQL statements."""


def load_seed(seed: Any) -> Seed:
    """Return what `seed` means: a callable, a path of a ``.sql`` file, or ``package.module:function``.

    Raises `ConfigurationError`.
    """
    if isinstance(seed, str) and not seed.endswith(".sql"):
        module, _, name = seed.partition(":")
        try:
            seed = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"seed {seed!r} cannot be loaded ({error}); write package.module:function or a path that ends in .sql"
            ) from error
    if isinstance(seed, str | Path):
        path = Path(seed)
        if not path.is_file():
            raise ConfigurationError(f"seed {str(path)!r} is no file")
        return path
    if not callable(seed) or inspect.iscoroutinefunction(seed):
        raise ConfigurationError(
            "a seed is a blocking callable that takes a Session and a Tenant, or the path of an SQL file; "
            f"got {type(seed).__name__}"
        )
    return seed  # type: ignore[no-any-return]


def plant(step: AdminTransaction, tenant: Tenant, installation: Installation, seed: Seed) -> None:
    """Run `seed` as the tenant's role, in the step's transaction. Acts as the owner before and after.

    Raises `ProvisioningError` where the seed raised, or would have ended the transaction.
    """
    with _as_tenant(step, tenant, installation):
        try:
            with kept_open(step.connection):
                _run(step, tenant, seed)
        except LeavesTransactionError as error:
            raise ProvisioningError(
                tenant.tenant_id, "the seed would end the transaction; leave COMMIT and ROLLBACK out of it"
            ) from error
        except Exception as error:  # the service's own code
            what = (str(getattr(error, "orig", error)).strip().splitlines() or [""])[0]
            raise ProvisioningError(tenant.tenant_id, f"the seed failed: {type(error).__name__}: {what}") from error


def _run(step: AdminTransaction, tenant: Tenant, seed: Seed) -> None:
    if isinstance(seed, Path):
        step.connection.exec_driver_sql(seed.read_text(encoding="utf-8"), execution_options={"no_parameters": True})
        return
    # Its commits are savepoints: what it wrote stays or goes with the tenant.
    with Session(step.connection, join_transaction_mode="create_savepoint") as session:
        answer = seed(session, tenant)
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("it returned a coroutine, and would have written nothing; a seed is blocking")
        session.commit()


@contextmanager
def _as_tenant(step: AdminTransaction, tenant: Tenant, installation: Installation) -> Iterator[None]:
    placement = tenant.placement
    path = [placement.schema_name, *installation.shared_schemas, "pg_temp"]
    joined = not step.oneself.rolsuper
    if joined:
        with step.as_oneself():
            step.run("admin_takes_role", role=placement.role_name)
    step.run("act_as_oneself")
    step.run("act_as", role=placement.role_name)
    step.run("seed_path", path=sql.SQL(", ").join(map(sql.Identifier, path)))
    step.connection.execute(query("roles", "seed_tenant"), {"tenant_id": tenant.tenant_id})
    yield
    step.run("admin_path")
    step.run("act_as_oneself")
    if joined:
        leaves = "admin_leaves_role" if step.oneself.version >= 160_000 else "admin_leaves_role_15"
        step.run(leaves, role=placement.role_name)
    step.run("act_as", role=step.roles.owner)
