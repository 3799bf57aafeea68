-- Version 2: how far each tenant's migrations have come, and what the runs of the fleet did. Run as the owner role.

-- Thousands of tenants stand at a few places in the history: what has been applied there is written down once.
CREATE TABLE mt_paas.revision_set (
    heads   text[] PRIMARY KEY,
    applied text[] NOT NULL
);
COMMENT ON TABLE mt_paas.revision_set IS 'Heads, sorted, and all revisions that have been applied where they are reached.';

CREATE TABLE mt_paas.tenant_revision (
    generation  bigint      PRIMARY KEY REFERENCES mt_paas.tenant (generation) ON DELETE CASCADE,
    heads       text[]      NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE mt_paas.tenant_revision IS 'A copy, to plan by; the truth is the version table in the tenant''s schema.';

CREATE TABLE mt_paas.run (
    run_id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action     text        NOT NULL CHECK (action IN ('upgrade', 'downgrade', 'stamp')),
    target     text        NOT NULL,
    actor      text        NOT NULL,
    options    jsonb       NOT NULL,
    ways       jsonb       NOT NULL,
    resumes    bigint      REFERENCES mt_paas.run (run_id),
    state      text        NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'stopped', 'interrupted')),
    message    text,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz
);
COMMENT ON COLUMN mt_paas.run.ways IS 'For each starting point, which way each revision went, and why it was not compiled.';

-- Written for every tenant of the plan before the first is touched, so that what was not attempted is known
-- however the run ends. Generation 0 is the reference, -1 what all tenants share; the others outlive their tenant.
CREATE TABLE mt_paas.outcome (
    run_id     bigint           NOT NULL REFERENCES mt_paas.run (run_id) ON DELETE CASCADE,
    generation bigint           NOT NULL,
    tenant_id  text             NOT NULL,
    wave       integer          NOT NULL,
    state      text             NOT NULL CHECK (state IN ('not_attempted', 'migrated', 'unchanged', 'failed')),
    from_heads text[]           NOT NULL,
    to_heads   text[]           NOT NULL,
    way        text             NOT NULL CHECK (way IN ('compiled', 'online')),
    verified   boolean,
    seconds    double precision,
    attempts   integer          NOT NULL DEFAULT 0,
    sqlstate   text,
    statement  text,
    message    text,
    ended_at   timestamptz,
    changed    jsonb,
    PRIMARY KEY (run_id, generation)
);
COMMENT ON COLUMN mt_paas.outcome.changed IS 'Of the reference: what of its structure is not as it was before the run.';
CREATE INDEX outcome_generation ON mt_paas.outcome (generation, run_id);

-- A session may now ask what has been applied to a tenant; an older process does not read the two new columns.
DROP FUNCTION mt_paas.resolve(text);
CREATE FUNCTION mt_paas.resolve(wanted text)
    RETURNS TABLE (tenant_id text, generation bigint, state text, state_reason text, cluster text,
                   credentials text, cell text, login_role text, schema_name text, role_name text,
                   shared_schemas text[], cache_bound_s integer, catalog_version integer,
                   heads text[], applied text[])
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tenant_id, t.generation, t.state, t.state_reason, c.cluster,
           k.credentials, t.cell, c.login_role, t.schema_name, t.role_name,
           i.shared_schemas, i.cache_bound_s, v.version_num::int, r.heads, s.applied
      FROM mt_paas.installation i
     CROSS JOIN mt_paas.alembic_version v
      LEFT JOIN mt_paas.tenant_name n ON n.name = wanted AND n.released_at IS NULL
      LEFT JOIN mt_paas.tenant t ON t.generation = n.generation
      LEFT JOIN mt_paas.cell c ON c.name = t.cell
      LEFT JOIN mt_paas.cluster k ON k.name = c.cluster
      LEFT JOIN mt_paas.tenant_revision r ON r.generation = t.generation
      LEFT JOIN mt_paas.revision_set s ON s.heads = r.heads
$$;
REVOKE ALL ON FUNCTION mt_paas.resolve(text) FROM PUBLIC;
