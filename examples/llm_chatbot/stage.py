"""The stage for the attempts: an intruder, a neighbour with a secret, and the ground truth.

The secret is a canary string in the neighbour's rows (and in a large object of its). The ground truth is
what a superuser sees in both schemas; whatever an attempt writes, plants or draws shows there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.orm import Session

from llm_chatbot.models import Base, MessageRole
from llm_chatbot.repositories import ConversationRepository
from mt_paas_db import TenantManager, tenant_session
from mt_paas_db.catalog.settings import ClusterSettings

INTRUDER = "hallym"
NEIGHBOUR = "korea"
POOL_SIZE = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything an attempt may use.

    Attributes:
        manager: The default manager, whose `tenant_session` the intruder uses. Its pool keeps one connection.
        canary: Stands in the neighbour's rows and nowhere else; who gets to see it has read the neighbour.
        own_mark: Stands in the intruder's own rows.
        large_object: A large object of the neighbour's that holds the canary.
        names: Schema (and role) by tenant, for SQL templates.
    """

    manager: TenantManager
    canary: str
    own_mark: str
    large_object: int
    names: dict[str, str]
    _superuser: Connection

    @property
    def app_dsn(self) -> str:
        """What the service itself logs in with."""
        dsn = _cluster(self.manager).app_dsn
        assert dsn is not None
        return dsn.get_secret_value()

    def secret(self, of: str | None) -> str:
        """Return the canary, or the schema's name of the tenant `of`."""
        return self.canary if of is None else self.names[of]

    def session_pid(self, session: Session) -> int:
        """Return the server process that serves `session`."""
        return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())

    def ground_truth(self) -> dict[str, str]:
        """Return what there is now, by name. What a later one has more or differently, an attempt has changed."""
        temporary = "SELECT oid, relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
        found = {f"temporary table {name} ({oid})": "" for oid, name in self._superuser.exec_driver_sql(temporary)}
        for tenant, schema in self.names.items():
            for table in Base.metadata.sorted_tables:
                found[f"{tenant}.{table.name}"] = self._ask(
                    f"SELECT count(*) || md5(coalesce(string_agg(t::text, ',' ORDER BY id), ''))"  # noqa: S608
                    f" FROM {schema}.{table.name} t"
                )
            found[f"{tenant}.ticket_no"] = self._ask(f"SELECT last_value FROM {schema}.ticket_no")  # noqa: S608
            found[f"functions of {tenant}"] = self._ask(
                f"SELECT count(*) FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace"  # noqa: S608
            )
        return found

    def _ask(self, query: str) -> str:
        return str(self._superuser.exec_driver_sql(query).scalar_one())


@contextmanager
def set_stage(manager: TenantManager) -> Iterator[Stage]:
    """Plant the canary and the intruder's own mark, and open the superuser's connection for the block.

    `manager` must be the default one (`mt_paas_db.configure`), with both tenants in its catalog.

    Raises `ValueError` where its pool does not have `POOL_SIZE` connections: the one that the neighbour has used, which
    must be the intruder's next, and one for an attempt that takes another in its midst.
    """
    if manager.settings.pool_size != POOL_SIZE:
        raise ValueError(
            f"the attempts need pool_size={POOL_SIZE}, so that tenants follow each other on one connection"
        )
    canary, own_mark = (f"{word}{secrets.token_hex(6)}" for word in ("canary", "ownrow"))
    for tenant_id, mark in ((NEIGHBOUR, canary), (INTRUDER, own_mark)):
        repository = ConversationRepository(tenant_id)
        ticket_no = repository.start(student_no="MARK", name=f"{mark} user", title=f"{mark} title")
        repository.add_message(ticket_no, MessageRole.USER, f"{mark} body")
    with tenant_session(NEIGHBOUR) as session:
        large_object = session.execute(
            text("SELECT lo_from_bytea(0, convert_to(:content, 'UTF8'))"), {"content": canary}
        ).scalar_one()
    admin_dsn = _cluster(manager).admin_dsn
    assert admin_dsn is not None
    superuser = create_engine(
        make_url(admin_dsn.get_secret_value()).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    try:
        with superuser.connect() as connection:
            yield Stage(
                manager=manager,
                canary=canary,
                own_mark=own_mark,
                large_object=large_object,
                names={t: manager.get(t).placement.schema_name for t in (INTRUDER, NEIGHBOUR)},
                _superuser=connection,
            )
    finally:
        superuser.dispose()


def _cluster(manager: TenantManager) -> ClusterSettings:
    return manager.settings.clusters[manager.settings.home_cluster]
