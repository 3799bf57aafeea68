"""Tenants of several databases: one run for all, each with a direct DSN of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg import connect, sql

from mt_paas_db.catalog.credentials import settings_credentials
from mt_paas_db.core import ClusterSettings
from mt_paas_db.migrate.fleet import Fleet
from mt_paas_db.migrate.scripts import Scripts
from tests.armada import ADD_ONLINE, ADD_TITLE, CONCURRENTLY, QUICK, Armada
from tests.fleet import Service


class Elsewhere:
    """A second database, with one tenant whose place the catalog knows."""

    def __init__(self, armada: Armada) -> None:
        service = armada.service
        self.armada = armada
        self.database = f"{service.name}_far"
        self.schema = f"{service.name}_far_900"
        owner = f"{service.name}_owner"
        with service.superuser("postgres") as su:
            su.execute(f'CREATE DATABASE "{self.database}" OWNER "{owner}"'.encode())
            su.execute(f'CREATE ROLE "{self.schema}" NOLOGIN'.encode())
        schema = self.schema
        self.ask(f'SET ROLE "{owner}"; CREATE SCHEMA "{schema}"; GRANT USAGE ON SCHEMA "{schema}" TO "{schema}"')
        for kind, rights in (
            ("TABLES", "SELECT, INSERT, UPDATE, DELETE"),
            ("SEQUENCES", "USAGE"),
            ("FUNCTIONS", "EXECUTE"),
        ):
            self.ask(
                f'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA "{schema}" '
                f'GRANT {rights} ON {kind} TO "{schema}"'
            )
        # In this database, too, as `init` does in its own.
        self.ask(f'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC')
        with service.superuser() as su:
            su.execute("INSERT INTO mt_paas.cluster VALUES ('far', 'far')")
            su.execute("INSERT INTO mt_paas.cell VALUES ('far', 'far', %s)", (service.login,))
            su.execute(
                "INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name, role_name) "
                "VALUES (900, 'far', 'far', 'active', 'far', %s, %s)",
                (self.schema, self.schema),
            )

    def ask(self, query: str) -> list[Any]:
        with connect(self.armada.service.server.dsn(self.database), autocommit=True) as connection:
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema)))
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def fleet(self) -> Fleet:
        service = self.armada.service
        settings = service.settings()
        far = ClusterSettings.model_validate({"direct_dsn": service.server.dsn(self.database)})
        clusters = {**settings.clusters, "far": far}
        settings = settings.model_copy(update={"clusters": clusters, "home": "main"})
        return Fleet(settings, settings_credentials(settings), Scripts(self.armada.history.location))


@pytest.fixture
def elsewhere(service: Service, tmp_path: Path) -> Iterator[Elsewhere]:
    made = Elsewhere(Armada.launch(service, tmp_path, "hallym"))
    yield made
    with service.superuser("postgres") as su:
        su.execute(f'DROP DATABASE "{made.database}" WITH (FORCE)'.encode())


@pytest.mark.parametrize("body", [ADD_TITLE, ADD_ONLINE, CONCURRENTLY], ids=["compiled", "online", "in steps"])
def test_each_in_its_own_database(elsewhere: Elsewhere, body: str) -> None:
    armada = elsewhere.armada
    armada.history.add("a2", body, after="a1")
    report = elsewhere.fleet().upgrade(options=QUICK)
    assert report.ok, report.failures
    assert report.migrated == 2
    assert elsewhere.ask("SELECT version_num FROM alembic_version") == [("a2",)]
    assert armada.heads("hallym") == ("a2",)
    assert armada.recorded("far") == armada.recorded("hallym") == ("a2",)
    _run, outcomes = elsewhere.fleet().show()
    assert {o["tenant_id"]: (o["state"], o["verified"]) for o in outcomes if o["generation"] > 0} == {
        "far": ("migrated", True),
        "hallym": ("migrated", True),
    }
    assert elsewhere.fleet().upgrade(options=QUICK).run_id is None
    assert [found.verdict for found in elsewhere.fleet().verify()] == ["same", "same"]


def test_drift_elsewhere_is_found(elsewhere: Elsewhere) -> None:
    elsewhere.fleet().upgrade(options=QUICK)
    elsewhere.ask("CREATE INDEX by_hand ON note (body)")
    elsewhere.armada.history.add("a2", ADD_TITLE, after="a1")
    report = elsewhere.fleet().upgrade(options=QUICK)
    assert [failure.tenant_id for failure in report.failures] == ["far"]
    assert "not the reference's" in str(report.failures[0].message)


def test_a_half_done_downgrade_elsewhere_is_not_taken_for_settled(elsewhere: Elsewhere) -> None:
    fails = f"op.execute(\"SELECT 1 / (current_schema() <> '{elsewhere.schema}')::int\")"
    down = f"""
    op.drop_index("note_title")
    with op.get_context().autocommit_block():
        op.execute("VACUUM note")
    {fails}
    op.drop_column("note", "title")
    """
    elsewhere.armada.history.add("a2", ADD_TITLE, after="a1", down=down)
    assert elsewhere.fleet().upgrade(options=QUICK).ok
    options = replace(QUICK, allow_destructive=True, max_failures=9)
    assert elsewhere.fleet().downgrade("a1", options=options).failed == 1
    plan = elsewhere.fleet().plan(with_lint=False)
    assert [(blocked.target.tenant_id, blocked.heads) for blocked in plan.blocked] == [("far", ("a2",))]
