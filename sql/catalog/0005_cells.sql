-- Version 5: cells of bounded size, and limits of single tenants. Run as the owner role.

-- Cells that tenants share, the newest last: there a new tenant finds room.
ALTER TABLE mt_paas.cell ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp();
CREATE INDEX cell_shared ON mt_paas.cell (cluster, created_at) WHERE login_role <> name;

ALTER TABLE mt_paas.tenant ADD COLUMN placed_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN mt_paas.tenant.placed_at IS
    'Since when its cell, or its cell''s login, is what it is: a process may remember the former one for the cache bound.';
CREATE INDEX tenant_cell ON mt_paas.tenant (cell);

CREATE TABLE mt_paas.tenant_limit (
    generation          bigint           PRIMARY KEY REFERENCES mt_paas.tenant (generation) ON DELETE CASCADE,
    max_sessions        integer          CHECK (max_sessions > 0),
    statement_timeout_s double precision CHECK (statement_timeout_s > 0),
    storage_bytes       bigint           CHECK (storage_bytes > 0)
);
COMMENT ON TABLE mt_paas.tenant_limit IS 'What a tenant may use at most; null where there is no limit.';

-- An older process does not read the new column.
DROP FUNCTION mt_paas.resolve(text);
CREATE FUNCTION mt_paas.resolve(wanted text)
    RETURNS TABLE (tenant_id text, generation bigint, state text, state_reason text, cluster text,
                   credentials text, cell text, login_role text, schema_name text, role_name text,
                   shared_schemas text[], cache_bound_s integer, catalog_version integer,
                   heads text[], applied text[], limits jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tenant_id, t.generation, t.state, t.state_reason, c.cluster,
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
