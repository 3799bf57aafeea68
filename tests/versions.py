"""Catalogs of other versions: the one before, as its release made it, and one that a next release might make."""

from __future__ import annotations

import pytest

from mt_paas_db.catalog import registry
from mt_paas_db.core import TenantManager, install
from mt_paas_db.migrate.catalog import upgrade_catalog
from tests.fleet import Service

# What a next version may do while this one still runs: columns and tables more, and resolve() with a column more.
NEXT_VERSION = """
ALTER TABLE mt_paas.tenant ADD COLUMN note text NOT NULL DEFAULT '';
ALTER TABLE mt_paas.tenant_name ADD COLUMN note text;
ALTER TABLE mt_paas.installation ADD COLUMN plan text NOT NULL DEFAULT 'x';
ALTER TABLE mt_paas.event ADD COLUMN request_id text;
ALTER TABLE mt_paas.revision_set ADD COLUMN note text;
ALTER TABLE mt_paas.tenant_revision ADD COLUMN note text;
ALTER TABLE mt_paas.cell ADD COLUMN note text;
ALTER TABLE mt_paas.tenant_limit ADD COLUMN note text;
CREATE TABLE mt_paas.subscription (generation bigint PRIMARY KEY REFERENCES mt_paas.tenant (generation));
DROP FUNCTION mt_paas.resolve(text);
CREATE FUNCTION mt_paas.resolve(wanted text)
    RETURNS TABLE (note text, tenant_id text, generation bigint, state text, state_reason text, cluster text,
                   credentials text, cell text, login_role text, schema_name text, role_name text,
                   shared_schemas text[], cache_bound_s integer, catalog_version integer,
                   heads text[], applied text[], limits jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.note, t.tenant_id, t.generation, t.state, t.state_reason, c.cluster,
           k.credentials, t.cell, c.login_role, t.schema_name, t.role_name,
           i.shared_schemas, i.cache_bound_s, v.version_num::int, r.heads, s.applied,
           CASE WHEN l.generation IS NOT NULL THEN to_jsonb(l) - 'generation' END
      FROM mt_paas.installation i
     CROSS JOIN mt_paas.alembic_version v
      LEFT JOIN mt_paas.tenant_name n ON n.name = wanted AND n.released_at IS NULL
      LEFT JOIN mt_paas.tenant t ON t.generation = n.generation
      LEFT JOIN mt_paas.cell c ON c.name = t.cell
      LEFT JOIN mt_paas.cluster k ON k.name = c.cluster
      LEFT JOIN mt_paas.tenant_revision r ON r.generation = t.generation
      LEFT JOIN mt_paas.revision_set s ON s.heads = r.heads
      LEFT JOIN mt_paas.tenant_limit l ON l.generation = t.generation
$$;
REVOKE ALL ON FUNCTION mt_paas.resolve(text) FROM PUBLIC;
"""


def init_version_1(manager: TenantManager) -> None:
    """Make the installation as the first release did: its one migration, and no reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "upgrade_catalog", lambda connection: upgrade_catalog(connection, "0001"))
        patch.setattr(install, "_make_reference", lambda _step, _cluster: None)
        patch.setattr(install, "_answer_policies", lambda _step: None)
        patch.setattr(registry, "check_version", lambda found, *, cluster: None)  # which this code is two apart from
        assert manager.init().catalog_version == 1


def init_version_2(manager: TenantManager) -> None:
    """Make the installation as it was before row policies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "upgrade_catalog", lambda connection: upgrade_catalog(connection, "0002"))
        patch.setattr(install, "_answer_policies", lambda _step: None)
        patch.setattr(registry, "check_version", lambda found, *, cluster: None)  # which this code is two apart from
        assert manager.init().catalog_version == 2


def init_version_3(manager: TenantManager) -> None:
    """Make the installation as it was when policies had just come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "upgrade_catalog", lambda connection: upgrade_catalog(connection, "0003"))
        patch.setattr(registry, "check_version", lambda found, *, cluster: None)  # which this code is two apart from
        assert manager.init().catalog_version == 3


def init_version_4(manager: TenantManager) -> None:
    """Make the installation as it was before cells had a size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "upgrade_catalog", lambda connection: upgrade_catalog(connection, "0004"))
        assert manager.init().catalog_version == 4


def set_version(service: Service, version: int, *, changes: str = "") -> None:
    """Make the catalog, which is of this code's version, one of another."""
    with service.superuser() as connection:
        connection.execute(f'SET ROLE "{service.name}_owner"'.encode())
        if changes:
            connection.execute(changes.encode())
            connection.execute(f'GRANT EXECUTE ON FUNCTION mt_paas.resolve(text) TO "{service.login}"'.encode())
        connection.execute("UPDATE mt_paas.alembic_version SET version_num = %s", (f"{version:04}",))
