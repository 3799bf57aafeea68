"""A fleet under migration: a service, a history, some tenants, and what is true of each on the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt_paas_db.catalog.credentials import settings_credentials
from mt_paas_db.core import TenantManager
from mt_paas_db.migrate.fleet import Fleet
from mt_paas_db.migrate.report import Options
from mt_paas_db.migrate.scripts import Scripts
from tests.fleet import Service
from tests.histories import History

QUICK = Options(jobs=2, lock_timeout_s=0.3, attempts=3, busy_s=2.0, reconnect_s=10.0)
"""As patient as a test is."""


@dataclass
class Armada:
    """`service` with tenants that got `history` as it was when they were created."""

    service: Service
    history: History
    options: dict[str, Any]

    @classmethod
    def launch(
        cls, service: Service, folder: Path, *tenants: str, history: History | None = None, **options: Any
    ) -> Armada:
        """Initialize `service`, and create `tenants` at the head of a history with one table, or of `history`."""
        if history is None:
            history = History(folder / "history").add("a1", NOTE)
        armada = cls(service, history, options)
        armada.manager().init()
        for tenant in tenants:
            # A manager each: the second tenant of one is worth compiling for, which takes longer than three by replay.
            armada.manager().create(tenant)
        armada.fleet().upgrade("heads")  # the reference, too
        return armada

    def manager(self) -> TenantManager:
        """A manager that knows the history as it is now."""
        made = TenantManager(self.service.settings(**self.options), script_location=self.history.location)
        self.service.managers.append(made)
        return made

    def fleet(self, **options: Any) -> Fleet:
        """The fleet's verbs, with the history as it is now."""
        settings = self.service.settings(**self.options)
        return Fleet(settings, settings_credentials(settings), Scripts(self.history.location), **options)

    def schema(self, tenant: str) -> str:
        """The schema of a tenant, or of ``(reference)``."""
        if tenant == "(reference)":
            return f"{self.service.name}_reference"
        with self.service.superuser() as connection:
            row = connection.execute(
                "SELECT schema_name FROM mt_paas.tenant WHERE tenant_id = %s", (tenant,)
            ).fetchone()
        assert row is not None
        return str(row[0])

    def heads(self, tenant: str) -> tuple[str, ...]:
        """What a tenant's version table says."""
        return tuple(row[0] for row in self.ask(tenant, "SELECT version_num FROM alembic_version ORDER BY 1"))

    def ask(self, tenant: str, query: str) -> list[Any]:
        """Run a query in a tenant's schema, as a superuser."""
        with self.service.superuser() as connection:
            connection.execute(f'SET search_path = "{self.schema(tenant)}"'.encode())
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def columns(self, tenant: str, table: str = "note") -> set[str]:
        """The columns of a tenant's table."""
        rows = self.ask(
            tenant,
            f"SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('{table}')"
            " AND attnum > 0 AND NOT attisdropped",
        )
        return {row[0] for row in rows}

    def outcomes(self, run_id: int | None) -> dict[str, str]:
        """What became of each tenant in a run, by the catalog."""
        with self.service.superuser() as connection:
            rows = connection.execute(
                "SELECT tenant_id, state FROM mt_paas.outcome WHERE run_id = %s AND generation > 0", (run_id,)
            ).fetchall()
        return dict(rows)

    def recorded(self, tenant: str) -> tuple[str, ...] | None:
        """Where the catalog says that a tenant stands."""
        with self.service.superuser() as connection:
            row = connection.execute(
                "SELECT r.heads FROM mt_paas.tenant_revision r JOIN mt_paas.tenant t USING (generation)"
                " WHERE tenant_id = %s",
                (tenant,),
            ).fetchone()
        return tuple(row[0]) if row else None


NOTE = """
op.create_table(
    "note",
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
"""

ADD_TITLE = 'op.add_column("note", sa.Column("title", sa.Text))\nop.create_index("note_title", "note", ["title"])'

ADD_ONLINE = """
bind = op.get_bind()
op.add_column("note", sa.Column("length", sa.Integer))
for id_, body in bind.execute(sa.text("SELECT id, body FROM note")).all():
    bind.execute(sa.text("UPDATE note SET length = :n WHERE id = :id"), {"n": len(body), "id": id_})
"""

CONCURRENTLY = """
op.add_column("note", sa.Column("mood", sa.Text))
with op.get_context().autocommit_block():
    op.create_index("note_mood", "note", ["mood"], postgresql_concurrently=True)
op.execute("INSERT INTO note (body, mood) VALUES ('after', 'calm')")
"""
