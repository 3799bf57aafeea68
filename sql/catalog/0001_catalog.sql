-- The control schema, version 1. Run as the owner role, which owns everything here; the login role gets
-- USAGE on the schema and EXECUTE on resolve(), and nothing else.

CREATE TABLE mt_paas.installation (
    only_one       boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    name           text        NOT NULL,
    opaque_names   boolean     NOT NULL,
    shared_schemas text[]      NOT NULL,
    cache_bound_s  integer     NOT NULL CHECK (cache_bound_s > 0),
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN mt_paas.installation.cache_bound_s IS
    'Longest time in seconds that a process may remember where a name leads; a released alias rests twice as long.';

CREATE TABLE mt_paas.cluster (
    name        text PRIMARY KEY,
    credentials text NOT NULL
);
COMMENT ON COLUMN mt_paas.cluster.credentials IS 'An entry that the credential provider resolves; never a secret.';

CREATE TABLE mt_paas.cell (
    name       text PRIMARY KEY,
    cluster    text NOT NULL REFERENCES mt_paas.cluster (name),
    login_role text NOT NULL
);

-- Never reset: a generation makes a schema and role name unique for ever.
CREATE SEQUENCE mt_paas.tenant_generation AS bigint NO CYCLE;

CREATE TABLE mt_paas.tenant (
    generation       bigint      PRIMARY KEY,
    tenant_id        text        NOT NULL UNIQUE,
    display_name     text        NOT NULL,
    state            text        NOT NULL CHECK (state IN ('provisioning', 'active', 'read_only', 'maintenance',
                                                           'suspended', 'archived', 'deleting')),
    state_reason     text,
    withheld         jsonb,
    cell             text        NOT NULL REFERENCES mt_paas.cell (name),
    schema_name      text        NOT NULL UNIQUE,
    role_name        text        NOT NULL UNIQUE,
    created_at       timestamptz NOT NULL DEFAULT now(),
    state_changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN mt_paas.tenant.withheld IS
    'What a read-only tenant''s role may not write, and gets back when it is active again.';
CREATE INDEX tenant_state ON mt_paas.tenant (state, tenant_id);

-- Ids, former ids and aliases share one name space, so that a name leads to one tenant at most. There is no
-- foreign key on generation: a former id outlives its tenant, so that nobody can ever claim it.
CREATE TABLE mt_paas.tenant_name (
    name        text        PRIMARY KEY,
    generation  bigint      NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('id', 'former_id', 'alias')),
    claimed_at  timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz CHECK (released_at IS NULL OR kind = 'alias')
);
CREATE INDEX tenant_name_generation ON mt_paas.tenant_name (generation);

CREATE TABLE mt_paas.event (
    event_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text        NOT NULL,
    action     text        NOT NULL,
    tenant_id  text        NOT NULL,
    generation bigint,
    outcome    text        NOT NULL,
    detail     jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX event_tenant ON mt_paas.event (tenant_id, event_id);
CREATE INDEX event_generation ON mt_paas.event (generation, event_id);

CREATE FUNCTION mt_paas.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'mt_paas.event is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON mt_paas.event
    FOR EACH STATEMENT EXECUTE FUNCTION mt_paas.refuse_change();

-- What a session may ask of the catalog: one row for one name, known or not. The fixed search_path ends in
-- pg_temp, so that no temporary table can stand in for the catalog's.
CREATE FUNCTION mt_paas.resolve(wanted text)
    RETURNS TABLE (tenant_id text, generation bigint, state text, state_reason text, cluster text,
                   credentials text, cell text, login_role text, schema_name text, role_name text,
                   shared_schemas text[], cache_bound_s integer, catalog_version integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tenant_id, t.generation, t.state, t.state_reason, c.cluster,
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
REVOKE ALL ON FUNCTION mt_paas.refuse_change() FROM PUBLIC;
