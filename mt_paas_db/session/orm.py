"""SQLAlchemy sessions that belong to one tenant for life, and objects that know theirs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Engine, event, inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mt_paas_db.catalog.identifiers import TenantId
from mt_paas_db.errors import ConfigurationError, TenantMismatchError
from mt_paas_db.session.pin import Pin

_T = TypeVar("_T")

# In the instance's own dictionary, so that it outlives the session and travels with a pickle.
_STAMP = "_mt_paas_tenant"


class TenantSession(Session):
    """A `Session` of one tenant: every transaction in it is pinned, also after commit and rollback.

    Objects that another tenant's session loaded or saved are refused by `add`, `merge` and their cascades
    with `TenantMismatchError`. Made by ``tenant_session`` and ``TenantManager.get_session`` only.
    """

    def __init__(self, bind: Engine, *, pin: Pin, **options: Any) -> None:
        if options.pop("binds", None) or options.get("twophase"):
            raise ConfigurationError("a tenant session has one engine and ordinary transactions")
        # Once closed, a session is over: reopened by a late statement, nobody would close it again.
        super().__init__(bind=bind, close_resets_only=False, **options)
        self._tenant_engine = bind
        self._pin = pin
        self._stamp = (pin.tenant_id, pin.generation)

    @property
    def tenant_id(self) -> TenantId:
        """The tenant this session belongs to."""
        return self._pin.tenant_id

    def get_bind(self, *args: Any, bind: Any = None, **options: Any) -> Any:
        """Return the tenant's engine; no other can be asked for."""
        if bind is not None and bind is not self._tenant_engine:
            raise ConfigurationError("a tenant session runs on its tenant's engine only; leave `bind` out")
        return self._tenant_engine

    def close(self) -> None:
        """Close the session, whatever has become of its connection.

        SQLAlchemy ends transactions from the innermost savepoint outwards. Where the connection was lost the first may
        raise, and the connection would keep its place in the pool for as long as anybody holds the session.
        """
        begun = self._transaction
        try:
            super().close()
        except BaseException:
            with suppress(Exception):
                self.rollback()  # from the innermost outwards, to the end
            for transaction in begun._iterate_self_and_parents() if begun is not None else ():
                for connection, *_ in transaction._connections.values():
                    if not connection.closed:
                        with suppress(Exception):
                            connection.invalidate()
                        with suppress(Exception):
                            connection.close()
            raise

    def merge(self, instance: _T, **options: Any) -> _T:
        self._refuse_foreign(instance)
        return super().merge(instance, **options)

    def merge_all(self, instances: Iterable[_T], **options: Any) -> Any:
        instances = list(instances)
        for instance in instances:
            self._refuse_foreign(instance)
        return super().merge_all(instances, **options)

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **options: Any) -> None:
        objects = list(objects)
        for instance in objects:
            self._refuse_foreign(instance)
        super().bulk_save_objects(objects, *args, **options)

    def _refuse_foreign(self, instance: object) -> None:
        """Check `instance` and all that a merge would copy with it."""
        state: Any = inspect(instance)
        _check_stamp(self, instance)
        for related, *_ in state.mapper.cascade_iterator("merge", state):
            _check_stamp(self, related)


class AsyncTenantSession(AsyncSession):
    """Asyncio version of `TenantSession`."""

    sync_session_class = TenantSession
    sync_session: TenantSession

    @property
    def tenant_id(self) -> TenantId:
        """The tenant this session belongs to."""
        return self.sync_session.tenant_id


def _check_stamp(session: Session, instance: object) -> None:
    stamp = instance.__dict__.get(_STAMP)
    if stamp is None or not isinstance(session, TenantSession):
        return
    pin = session._pin
    if stamp != (pin.tenant_id, pin.generation):
        tenant_id, generation = stamp
        what = f"{type(instance).__name__} object" + (
            f" of an earlier tenant of this id (generation {generation})" if tenant_id == pin.tenant_id else ""
        )
        raise TenantMismatchError(what, expected=pin.tenant_id, found=tenant_id)


def _stamp(session: TenantSession, state: Any) -> None:
    state.dict[_STAMP] = session._stamp


event.listen(TenantSession, "before_attach", _check_stamp)
# `raw`: the listener gets the instance's state, which spares a call for each row that is loaded.
event.listen(TenantSession, "loaded_as_persistent", _stamp, raw=True)
event.listen(TenantSession, "pending_to_persistent", _stamp, raw=True)
