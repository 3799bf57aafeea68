"""This library, at one of its tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.attacked.orm import ANSWERS, POOL, OrmSession, forgotten, pooled
from benchmarks.attacked.subject import Address, Handles, quoted
from mt_paas_db.catalog.settings import load_settings
from mt_paas_db.catalog.values import Placement
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import TenancyError


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    body: Mapped[str]


_NOT_PROMISED: Mapping[str, str] = dict.fromkeys(
    ("injected-select", "role-by-statement"),
    "tier `role` is promised against bugs; whoever controls SQL text can take another tenant's role",
)


class Ours:
    """An installation named like its database, whose owner is the admin; sessions log in as another role."""

    filters = False
    answers: tuple[type[BaseException], ...] = (*ANSWERS, TenancyError)

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url, self._options = make_url(url), options
        self.disclaims = {} if options.get("tier") == "login" else _NOT_PROMISED
        self._placements: dict[str, Placement] = {}
        self._manager = self._made("direct", url)
        self._manager.init()

    def create(self, tenant: str) -> None:
        self._manager.create(tenant)

    def delete(self, tenant: str) -> None:
        self._placements.pop(tenant, None)
        self._manager.archive(tenant)
        self._manager.delete(tenant, confirm=tenant)

    @contextmanager
    def session(self, tenant: str) -> Iterator[OrmSession]:
        with self._manager.get_session(tenant, expire_on_commit=False) as session:
            yield OrmSession(session, Note)

    def nobody(self) -> AbstractContextManager[OrmSession]:
        return forgotten(self._engine, Note)

    def pool_connection(self) -> AbstractContextManager[Callable[[str], list[str]]]:
        return pooled(self._engine)

    def address(self, tenant: str) -> Address:
        return Address(f"{quoted(self._placement(tenant).schema_name)}.note")

    def handles(self, tenant: str) -> Handles:
        placement = self._placement(tenant)
        return Handles(placement.schema_name, placement.role_name, ("mt_paas.tenant", tenant))

    def look_alikes(self, tenant: str) -> list[str]:
        schema = self._placement(tenant).schema_name
        return [schema, schema.replace("_", "-"), f"tenant-{tenant}"]

    def _placement(self, tenant: str) -> Placement:
        if tenant not in self._placements:
            self._placements[tenant] = self._manager.get(tenant).placement
        return self._placements[tenant]

    def twin(self, url: str, options: dict[str, Any]) -> Ours:
        other = object.__new__(Ours)
        other._url, other._options = self._url, self._options
        other._manager = self._made("pgbouncer", url)
        return other

    def refresh(self) -> None:
        self._manager.close()

    @property
    def _engine(self) -> Engine:
        return self._manager._door.engines.blocking("main")

    def _made(self, pooler: str, url: str) -> TenantManager:
        installation = str(self._url.database)
        cluster = {
            "app_dsn": make_url(url).set(username=f"{installation}_app").render_as_string(hide_password=False),
            "admin_dsn": self._url.render_as_string(hide_password=False),
            "pooler": pooler,
        }
        return TenantManager(
            load_settings(
                installation=installation, clusters={"main": cluster}, pool_size=sum(POOL.values()), **self._options
            ),
            models=Base,
        )
