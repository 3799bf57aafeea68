"""What the fleet benchmarks run on: one server with fsync, one installation, and tenants that are made in bulk.

Clients and servers share the cores, as they do where a fleet is migrated from the server's own machine: several
connections are there to keep all cores busy, and a core of the client's own would halve what the raw limit can do.
Autovacuum is off, and every measurement starts on vacuumed catalogs after a checkpoint.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.fleet_history import BASE, CHANGE, UNDO, write_history
from benchmarks.raw_libpq import Libpq
from mt_paas_db.catalog.credentials import settings_credentials
from mt_paas_db.catalog.identifiers import InstallationRoles, parse_tenant_id, tenant_sql_name
from mt_paas_db.catalog.queries import ddl
from mt_paas_db.core import TenantManager
from mt_paas_db.migrate.fleet import Fleet
from mt_paas_db.migrate.message import literal
from mt_paas_db.migrate.scripts import Scripts
from tests.fleet import Service
from tests.servers import PostgresServer, find_postgres

_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "autovacuum": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}

_CATALOGS = (
    "pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_depend", "pg_index", "pg_sequence", "pg_shdepend",
    "pg_statistic", "pg_type",
)  # fmt: skip

# As Alembic makes it.
_VERSION_TABLE = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
    " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)


@dataclass
class FleetGround:
    """An installation whose history is a base and a small change; `schemas` are its tenants', all at the base."""

    service: Service
    location: str
    jobs: int
    schemas: list[str] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """The service's database, as superuser."""
        return self.service.server.dsn(self.service.database)

    @property
    def roles(self) -> InstallationRoles:
        return InstallationRoles(self.service.settings().installation)

    def manager(self) -> TenantManager:
        """Return a manager that makes tenants at the head of the history."""
        made = TenantManager(self.service.settings(), script_location=self.location)
        self.service.managers.append(made)
        return made

    def fleet(self) -> Fleet:
        settings = self.service.settings()
        return Fleet(settings, settings_credentials(settings), Scripts(self.location))

    def ask(self, query: str) -> list[Any]:
        """Return what a query of the superuser yields."""
        with self.service.superuser() as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def libpq(self, *, as_owner: bool = True, durable: bool = True) -> Libpq:
        """Connect as many times as there are jobs."""
        first = [f'SET ROLE "{self.roles.owner}"'] if as_owner else []
        first += [] if durable else ["SET synchronous_commit = off"]
        return Libpq(self.dsn, jobs=self.jobs, first="; ".join(first))

    @cached_property
    def base(self) -> list[str]:
        """The statements of the first revision, as Alembic renders them."""
        return self._rendered((), BASE)

    @cached_property
    def change(self) -> list[str]:
        """The statements of the second."""
        return self._rendered((BASE,), CHANGE)

    def _rendered(self, start: tuple[str, ...], target: str) -> list[str]:
        with self.fleet().ground() as ground:
            statements: list[str] = ground.script_from("upgrade", start, target).statements()
            return statements

    def settle(self) -> None:
        """Bring the server to rest: vacuumed catalogs, nothing left to write."""
        with self.service.superuser() as connection:
            for catalog in _CATALOGS:
                connection.execute(f"VACUUM pg_catalog.{catalog}".encode())
            for table in ("tenant", "tenant_name", "tenant_revision", "outcome", "run"):
                connection.execute(f"VACUUM ANALYZE mt_paas.{table}".encode())
            connection.execute("CHECKPOINT")

    # -- tenants

    def grow(self, number: int) -> None:
        """Make tenants at the base, as the provisioner makes them, until there are `number`. Not timed."""
        missing = [f"bench-{n:05}" for n in range(len(self.schemas), number)]
        if not missing:
            return
        generations = self.ask(f"SELECT nextval('mt_paas.tenant_generation') FROM generate_series(1, {len(missing)})")
        made = []
        messages = []
        for tenant_id, (generation,) in zip(missing, generations, strict=True):
            schema = self.name(tenant_id, generation)
            made.append(schema)
            entered = self.catalog_rows(tenant_id, generation, schema)
            messages.append(self.creation(schema, self.base, BASE, then=entered))
        with self.libpq(as_owner=False, durable=False) as libpq:
            libpq.send(messages)
        self.schemas += made
        self.ask("ANALYZE")
        self.settle()

    def enter(self, number: int, revision: str) -> None:
        """Have `number` tenants in the catalog, at `revision`, which have no schema: for what looks no further."""
        self.ask(
            "WITH made AS (INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name,"
            " role_name) SELECT nextval('mt_paas.tenant_generation'), 'idle-' || n, n, 'active', c.name,"
            f" 'idle_' || n, 'idle_' || n FROM mt_paas.cell c, generate_series(1, {number}) n ON CONFLICT DO NOTHING"
            " RETURNING generation) INSERT INTO mt_paas.tenant_revision (generation, heads)"
            f" SELECT generation, {literal([revision])} FROM made"
        )
        self.settle()

    def name(self, tenant_id: str, generation: int) -> str:
        """Return what a tenant's schema and role are called."""
        return tenant_sql_name(self.roles.installation, parse_tenant_id(tenant_id), generation, opaque=False)

    def creation(self, schema: str, statements: Sequence[str], revision: str, *, then: Sequence[str] = ()) -> str:
        """Return the message that makes a tenant: role, schema, grants, tables, version row, in one transaction."""
        owner, login, group = self.roles.owner, self.roles.login, self.roles.group
        joins = "login_joins" if self.major >= 16 else "login_joins_15"
        parts = [
            "BEGIN",
            ddl("roles", "create_tenant_role", role=schema),
            ddl("roles", joins, role=schema, login=login),
            ddl("roles", "act_as", role=owner),
            ddl("roles", "create_tenant_schema", schema=schema, owner=owner),
            ddl("roles", "tenant_usage", schema=schema, role=schema),
            *(
                ddl("roles", grant, owner=owner, schema=schema, role=schema)
                for grant in ("tenant_tables", "tenant_sequences", "tenant_functions")
            ),
            ddl("roles", "tenant_path", schema=schema),
            _VERSION_TABLE,
            *statements,
            f"INSERT INTO alembic_version (version_num) VALUES ({literal(revision)})",
            ddl("roles", "hide_version_table", schema=schema, role=schema),
            *then,
            ddl("roles", "act_as_oneself"),
            # Last: from PostgreSQL 16 on it keeps all other grants of the group out until the commit.
            ddl("roles", "group_joins", group=group, role=schema),
            "COMMIT",
        ]
        return ";\n".join(parts)

    @staticmethod
    def catalog_rows(tenant_id: str, generation: int, schema: str, revision: str = BASE) -> list[str]:
        """Return what enters a tenant into the catalog."""
        name, names = literal(tenant_id), literal(schema)
        entered = (
            "INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name, role_name)"
            f" SELECT {generation}, {name}, {name}, 'active', cell.name, {names}, {names} FROM mt_paas.cell"
        )
        return [
            entered,
            f"INSERT INTO mt_paas.tenant_name (name, generation, kind) VALUES ({name}, {generation}, 'id')",
            f"INSERT INTO mt_paas.tenant_revision (generation, heads) VALUES ({generation}, {literal([revision])})",
        ]

    def migration(self, schema: str) -> str:
        """Return the change as the raw limit sends it: pinned, with the version, and nothing recorded."""
        parts = [
            "BEGIN",
            f'SET LOCAL search_path = "{schema}", pg_temp',
            *self.change,
            f"UPDATE alembic_version SET version_num = {literal(CHANGE)}",
            "COMMIT",
        ]
        return ";\n".join(parts)

    def tenants_s(self, run_id: int | None) -> float:
        """Return the seconds from the first tenant's transaction to the last one's end, by the log of a run."""
        ((took_s,),) = self.ask(
            "SELECT extract(epoch FROM max(ended_at) - min(ended_at - make_interval(secs => seconds)))"
            f" FROM mt_paas.outcome WHERE run_id = {run_id} AND generation > 0"
        )
        return float(took_s)

    def server_cpu_s(self) -> float:
        """Return the processor time that all connections that have ended took, seconds; 0 where it is not told."""
        time.sleep(0.1)  # until the server has waited for the last of them
        try:
            fields = Path(f"/proc/{self.service.server.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def reset(self, schemas: Sequence[str] | None = None) -> None:
        """Undo the change in `schemas`, all where left out, and come to rest. Not timed.

        Raises `RuntimeError` where one does not have the change: then what was measured did not do its work.
        """
        back = f"UPDATE alembic_version SET version_num = {literal(BASE)} WHERE version_num = {literal(CHANGE)}"
        messages = [
            f'BEGIN; SET LOCAL search_path = "{schema}", pg_temp; {UNDO}; {back}; COMMIT'
            for schema in (self.schemas if schemas is None else schemas)
        ]
        with self.libpq(durable=False) as libpq:
            libpq.send(messages)
        self.ask(f"UPDATE mt_paas.tenant_revision SET heads = {literal([BASE])} WHERE heads <> {literal([BASE])}")
        self.settle()

    @cached_property
    def major(self) -> int:
        return int(self.ask("SHOW server_version_num")[0][0]) // 10_000

    @cached_property
    def version(self) -> str:
        """The server's version, for the report."""
        return str(self.ask("SHOW server_version")[0][0]).split()[0]


@contextmanager
def fleet_server(major: int | None) -> Iterator[PostgresServer]:
    """Start PostgreSQL `major`, the newest where None. Raises `LookupError` where there is none."""
    with PostgresServer(find_postgres(major), settings=_SETTINGS) as server:
        yield server


@contextmanager
def fleet_ground(server: PostgresServer, *, tables: int, jobs: int, at: str = BASE) -> Iterator[FleetGround]:
    """Make an installation with a reference `at` a revision, in a database of its own, which goes with the server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mt_paas_bench_")))
        ground = FleetGround(Service(server), write_history(folder / "history", tables=tables), jobs)
        manager = ground.manager()
        stack.callback(manager.close)
        manager.init()
        report = ground.fleet().upgrade(at)
        if not report.ok:
            raise RuntimeError(f"the reference cannot be made: {report.message} {report.failures}")
        yield ground
