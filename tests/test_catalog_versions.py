"""Code and catalog of different versions: one apart they work together, further apart they say so."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, select

from mt_paas_db.catalog.values import CATALOG_VERSION
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import CatalogMissingError, CatalogVersionError
from mt_paas_db.migrate.catalog import catalog_version, upgrade_catalog
from tests.fleet import Service
from tests.ground_truth import server_state
from tests.models import Note

# What a next version may do while this one still runs: columns and tables more, and resolve() with a column more.
_NEXT_VERSION = """
ALTER TABLE mt_paas.tenant ADD COLUMN note text NOT NULL DEFAULT '';
ALTER TABLE mt_paas.tenant_name ADD COLUMN note text;
ALTER TABLE mt_paas.installation ADD COLUMN plan text NOT NULL DEFAULT 'x';
ALTER TABLE mt_paas.event ADD COLUMN request_id text;
CREATE TABLE mt_paas.subscription (generation bigint PRIMARY KEY REFERENCES mt_paas.tenant (generation));
DROP FUNCTION mt_paas.resolve(text);
CREATE FUNCTION mt_paas.resolve(wanted text)
    RETURNS TABLE (note text, tenant_id text, generation bigint, state text, state_reason text, cluster text,
                   credentials text, cell text, login_role text, schema_name text, role_name text,
                   shared_schemas text[], cache_bound_s integer, catalog_version integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.note, t.tenant_id, t.generation, t.state, t.state_reason, c.cluster,
           k.credentials, t.cell, c.login_role, t.schema_name, t.role_name,
           i.shared_schemas, i.cache_bound_s, v.version_num::int
      FROM mt_paas.installation i
     CROSS JOIN mt_paas.alembic_version v
      LEFT JOIN mt_paas.tenant_name n ON n.name = wanted AND n.released_at IS NULL
      LEFT JOIN mt_paas.tenant t ON t.generation = n.generation
      LEFT JOIN mt_paas.cell c ON c.name = t.cell
      LEFT JOIN mt_paas.cluster k ON k.name = c.cluster
$$;
REVOKE ALL ON FUNCTION mt_paas.resolve(text) FROM PUBLIC;
"""


def set_version(service: Service, version: int, *, changes: str = "") -> None:
    """Make the catalog one of another version."""
    with service.superuser() as connection:
        connection.execute(f'SET ROLE "{service.name}_owner"'.encode())
        if changes:
            connection.execute(changes.encode())
            connection.execute(f'GRANT EXECUTE ON FUNCTION mt_paas.resolve(text) TO "{service.login}"'.encode())
        connection.execute("UPDATE mt_paas.alembic_version SET version_num = %s", (f"{version:04}",))


def _delete(manager: TenantManager) -> None:
    manager.archive("korea")
    manager.delete("korea", confirm="korea")


_VERBS: dict[str, Callable[[TenantManager], Any]] = {
    "get": lambda m: m.get("hallym"),
    "list": lambda m: m.list(),
    "events": lambda m: m.events(),
    "create": lambda m: m.create("snu", aliases=["chat.snu.ac.kr"]),
    "suspend": lambda m: m.suspend("hallym", reason="payment", note="unpaid"),
    "resume": lambda m: m.resume("hallym"),
    "read_only": lambda m: m.read_only("hallym"),
    "maintenance": lambda m: m.maintenance("hallym"),
    "archive": lambda m: m.archive("hallym"),
    "restore": lambda m: m.restore("hallym"),
    "rename": lambda m: m.rename("hallym", "hallym-univ"),
    "add_alias": lambda m: m.add_alias("hallym", "chat.hallym.ac.kr"),
    "release_alias": lambda m: m.release_alias("hallym", "chat.hallym.ac.kr"),
    "delete": _delete,
}


def test_init_brings_the_catalog_to_this_codes_version(service: Service, manager: TenantManager) -> None:
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert catalog_version(connection) == manager.init().catalog_version == CATALOG_VERSION
    engine.dispose()


def test_a_database_without_a_catalog_has_no_version(service: Service) -> None:
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert catalog_version(connection) is None
    engine.dispose()


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        (CATALOG_VERSION - 1, ""),
        (CATALOG_VERSION, ""),
        (CATALOG_VERSION + 1, _NEXT_VERSION),
    ],
)
def test_one_version_apart_everything_works(fleet: Service, manager: TenantManager, version: int, changes: str) -> None:
    with manager.get_session("hallym") as session:
        session.add(Note(body="before"))
    set_version(fleet, version, changes=changes)
    for each in (manager, fleet.manager(), fleet.manager(cache_ttl_s=0)):  # warm, cold, never warm
        with each.get_session("hallym") as session:
            assert session.scalars(select(Note.body)).all() == ["before"]
    for verb in _VERBS.values():
        verb(manager)
    assert manager.readiness().ok
    assert manager.doctor().ok


def test_two_versions_apart_everything_is_refused_with_both_versions(fleet: Service, manager: TenantManager) -> None:
    for version in (CATALOG_VERSION + 2, CATALOG_VERSION + 40):
        set_version(fleet, version)
        before = server_state(fleet)
        for name, verb in _VERBS.items():
            with pytest.raises(CatalogVersionError) as caught:
                verb(fleet.manager())
            assert (caught.value.found, caught.value.expected, caught.value.cluster) == (
                version,
                CATALOG_VERSION,
                "main",
            ), name
        with pytest.raises(CatalogVersionError) as caught, fleet.manager().get_session("hallym"):
            pass
        assert f"version {version}" in str(caught.value)
        assert f"version {CATALOG_VERSION}" in str(caught.value)
        assert "newer mt_paas_db" in str(caught.value)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.found, copy.expected) == (str(caught.value), version, CATALOG_VERSION)
        for report in (fleet.manager().readiness(), fleet.manager().doctor()):
            assert not report.ok
            assert any(f"version {version}" in finding.message for finding in report.findings())
        after = server_state(fleet)
        for state in (before, after):
            del state["event"]  # a failure may be recorded, but nothing else happens
        assert after == before


def test_an_older_catalog_two_apart_says_to_upgrade_it() -> None:
    error = CatalogVersionError("main", found=3, expected=5)
    assert "version 3" in str(error)
    assert "mt-paas-db init" in str(error)


def test_init_on_a_catalog_of_the_next_version_leaves_it_there(fleet: Service, manager: TenantManager) -> None:
    """In a rolling deploy an old process may run ``init`` after a new one: nothing is undone, and it may go on."""
    set_version(fleet, CATALOG_VERSION + 1, changes=_NEXT_VERSION)
    before = server_state(fleet)
    assert manager.init().catalog_version == CATALOG_VERSION + 1
    assert server_state(fleet) == before


def test_init_on_a_catalog_too_new_is_refused_and_changes_nothing(fleet: Service, manager: TenantManager) -> None:
    set_version(fleet, CATALOG_VERSION + 2)
    before = server_state(fleet)
    with pytest.raises(CatalogVersionError) as caught:
        manager.init()
    assert caught.value.found == CATALOG_VERSION + 2
    assert server_state(fleet) == before


@pytest.mark.parametrize(
    "loss",
    [
        "DROP SCHEMA mt_paas CASCADE",
        "DROP FUNCTION mt_paas.resolve(text); DROP TABLE mt_paas.installation",
        "DELETE FROM mt_paas.installation",
        "DELETE FROM mt_paas.alembic_version",
        "REVOKE USAGE ON SCHEMA mt_paas FROM {login}, {owner}",
    ],
)
def test_a_catalog_that_is_gone_or_half_gone_is_missing(fleet: Service, manager: TenantManager, loss: str) -> None:
    with fleet.superuser() as connection:
        connection.execute(loss.format(login=fleet.login, owner=f"{fleet.name}_owner").encode())
    cold = fleet.manager()
    with pytest.raises(CatalogMissingError, match="mt-paas-db init") as caught, cold.get_session("hallym"):
        pass
    assert caught.value.cluster == "main"
    for verb in _VERBS.values():
        with pytest.raises(CatalogMissingError, match="mt-paas-db init"):
            verb(manager)
    for report in (cold.readiness(), cold.doctor()):
        assert not report.ok
        assert any("mt-paas-db init" in finding.message for finding in report.findings())


def test_the_first_version_is_not_undone(service: Service, manager: TenantManager) -> None:
    """Upgrading to what is there is nothing; there is no way back that would lose every tenant's placement."""
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        upgrade_catalog(connection, "0001")
        with pytest.raises(CommandError):
            upgrade_catalog(connection, "0099")
    engine.dispose()
    assert manager.init().catalog_version == CATALOG_VERSION
