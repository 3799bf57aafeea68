-- Migrations of the fleet: who stands where, and what the runs did. Values are bound; the owner role runs them.

-- name: positions
SELECT t.generation, t.tenant_id, t.state, k.credentials AS entry, t.schema_name, t.role_name, r.heads
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell
  JOIN mt_paas.cluster k ON k.name = c.cluster
  LEFT JOIN mt_paas.tenant_revision r USING (generation)
 WHERE t.state NOT IN ('provisioning', 'deleting')
 ORDER BY t.tenant_id;

-- name: shared_schemas
SELECT shared_schemas FROM mt_paas.installation;

-- name: record_set
INSERT INTO mt_paas.revision_set (heads, applied)
VALUES (:heads, :applied)
    ON CONFLICT (heads) DO UPDATE SET applied = excluded.applied
 WHERE revision_set.applied <> excluded.applied;

-- name: record_heads
-- Not of a tenant that was deleted meanwhile.
INSERT INTO mt_paas.tenant_revision (generation, heads)
SELECT generation, :heads FROM mt_paas.tenant WHERE generation = :generation
    ON CONFLICT (generation) DO UPDATE SET heads = excluded.heads, recorded_at = now();

-- name: state_of
SELECT state FROM mt_paas.tenant WHERE generation = :generation;

-- name: is_deleted
SELECT NOT EXISTS (SELECT FROM mt_paas.tenant WHERE generation = :generation AND state <> 'deleting');

-- name: insert_run
INSERT INTO mt_paas.run (action, target, actor, options, ways, resumes, state)
VALUES (:action, :target, coalesce(:actor, session_user), CAST(:options AS jsonb), CAST(:ways AS jsonb), :resumes, 'running')
RETURNING run_id;

-- name: insert_outcomes
INSERT INTO mt_paas.outcome (run_id, generation, tenant_id, wave, state, from_heads, to_heads, way)
SELECT :run_id, o.generation, o.tenant_id, o.wave, 'not_attempted', o.heads, o.heads, o.way
  FROM jsonb_to_recordset(CAST(:rows AS jsonb)) o (generation bigint, tenant_id text, wave int, heads text[], way text);

-- name: finish_run
UPDATE mt_paas.run
   SET state = :state, message = :message, ended_at = clock_timestamp()
 WHERE run_id = :run_id;

-- name: outcome
UPDATE mt_paas.outcome
   SET state = :state, to_heads = :heads, seconds = :seconds, attempts = :attempts, sqlstate = :sqlstate,
       statement = :statement, message = :message, verified = :verified, ended_at = clock_timestamp()
 WHERE run_id = :run_id AND generation = :generation;

-- name: write_changes
UPDATE mt_paas.outcome SET changed = CAST(:changed AS jsonb) WHERE run_id = :run_id AND generation = 0;

-- name: changes
SELECT changed
  FROM mt_paas.outcome
 WHERE generation = 0 AND changed IS NOT NULL AND from_heads = :start AND to_heads = :end
 ORDER BY run_id DESC
 LIMIT 1;

-- name: runs
SELECT r.run_id, r.action, r.target, r.actor, r.options, r.ways, r.resumes, r.state, r.message, r.started_at, r.ended_at,
       count(o.generation) FILTER (WHERE o.state = 'migrated' AND o.generation > 0) AS migrated,
       count(o.generation) FILTER (WHERE o.state = 'unchanged' AND o.generation > 0) AS unchanged,
       count(o.generation) FILTER (WHERE o.state = 'failed' AND o.generation > 0) AS failed,
       count(o.generation) FILTER (WHERE o.state = 'not_attempted' AND o.generation > 0) AS not_attempted,
       EXISTS (SELECT FROM pg_catalog.pg_locks l
                WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                  AND l.classid = 7263 AND l.objid = r.run_id::int::oid AND l.objsubid = 2) AS held
  FROM mt_paas.run r
  LEFT JOIN mt_paas.outcome o USING (run_id)
 WHERE CAST(:run_id AS bigint) IS NULL OR r.run_id = :run_id
 GROUP BY r.run_id
 ORDER BY r.run_id DESC
 LIMIT :page_size;

-- name: hold_run
-- As long as one connection of the runner lives, its run is not lost. Shared: all of them hold it.
SELECT pg_catalog.pg_advisory_lock_shared(7263, CAST(:run_id AS int));

-- name: outcomes
SELECT generation, tenant_id, wave, state, from_heads, to_heads, way, verified, seconds, attempts, sqlstate, statement,
       message, ended_at
  FROM mt_paas.outcome
 WHERE run_id = :run_id
   AND (CAST(:state AS text) IS NULL OR state = :state)
 ORDER BY wave, tenant_id;

-- name: slowest
SELECT tenant_id, seconds FROM mt_paas.outcome
 WHERE run_id = :run_id AND seconds IS NOT NULL
 ORDER BY seconds DESC
 LIMIT :page_size;

-- name: counts
SELECT state, count(*) FROM mt_paas.outcome WHERE run_id = :run_id GROUP BY state;

-- name: invalid_indexes
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indrelid = pg_catalog.to_regclass(:table)
   AND NOT i.indisvalid
   AND c.relname = :name;

-- name: withhold_again
-- What a migration made in a read-only tenant came with all rights; they are taken, and kept for when it is active
-- again, as `read_only` did with the tables that were there. In the transaction that made it.
DO $withhold_again$
DECLARE
    kept   jsonb := '[]';
    tables text;
    given  record;
BEGIN
    PERFORM FROM mt_paas.tenant WHERE generation = {generation} AND state = 'read_only' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR given IN
        SELECT c.oid::bigint AS oid, c.relname, NULL::name AS attname,
               array_agg(DISTINCT x.privilege_type ORDER BY x.privilege_type) AS rights
          FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x
         WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {schema})
           AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           AND x.grantee = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {role})
           AND x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
         GROUP BY c.oid, c.relname
         UNION ALL
        SELECT c.oid::bigint, c.relname, a.attname, array_agg(DISTINCT x.privilege_type ORDER BY x.privilege_type)
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped, pg_catalog.aclexplode(a.attacl) x
         WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {schema})
           AND x.grantee = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {role})
           AND x.privilege_type IN ('INSERT', 'UPDATE')
         GROUP BY c.oid, c.relname, a.attname
    LOOP
        kept := kept || pg_catalog.jsonb_build_object('oid', given.oid, 'table', given.relname,
                                                      'column', given.attname, 'rights', given.rights);
        tables := concat_ws(', ', tables, pg_catalog.format('%I.%I', {schema}, given.relname));
    END LOOP;
    IF tables IS NOT NULL THEN
        UPDATE mt_paas.tenant SET withheld = coalesce(withheld, '[]') || kept WHERE generation = {generation};
        EXECUTE pg_catalog.format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON TABLE %s FROM %I', tables, {role});
    END IF;
END
$withhold_again$;

-- name: prepare_lock
-- One lock for each tenant, of the connection. Never waited for: a waiter would hold up CREATE INDEX CONCURRENTLY.
PREPARE mt_paas_db_lock (text) AS
SELECT 1 / pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('mt_paas.migrate ' || $1, 0))::int;

-- name: prepare_lock_until_commit
-- The same lock, for as long as a transaction; and when it began, as several may be sent in one message, which all have
-- the message's time.
PREPARE mt_paas_db_lock_until_commit (text) AS
SELECT 1 / pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('mt_paas.migrate ' || $1, 0))::int,
       pg_catalog.set_config('mt_paas.began', extract(epoch FROM pg_catalog.clock_timestamp())::text, true);

-- name: prepare_unlock
PREPARE mt_paas_db_unlock (text) AS
SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended('mt_paas.migrate ' || $1, 0));

-- name: prepare_swapped
-- Fails with a division by zero unless the transaction has swapped the version of a tenant, and where an interrupted
-- revision has left its mark on the version table.
PREPARE mt_paas_db_swapped (text, text) AS
SELECT 1 / (current_setting('mt_paas.swapped', true) IS NOT DISTINCT FROM $2
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_description d
                             WHERE d.objoid = $1::regclass
                               AND d.classoid = 'pg_catalog.pg_class'::regclass
                               AND d.objsubid = 0
                               AND pg_catalog.starts_with(d.description, 'mt_paas_db interrupted ')))::int;

-- name: prepare_record
-- What the transaction that migrates a tenant copies of it: generation, heads, and whether it is thought to be read-only.
-- Fails with a division by zero where it is not what it was thought to be; whoever makes it so meanwhile waits for the
-- end of this transaction, and finds what was made in it. No row: it is deleted.
PREPARE mt_paas_db_record (bigint, text[], boolean) AS
WITH place AS MATERIALIZED (
    SELECT t.generation, 1 / ((t.state = 'read_only') = $3)::int AS held
      FROM mt_paas.tenant t
     WHERE t.generation = $1
       FOR NO KEY UPDATE
)
INSERT INTO mt_paas.tenant_revision (generation, heads)
SELECT p.generation, $2 FROM place p WHERE p.held = 1
    ON CONFLICT (generation) DO UPDATE SET heads = excluded.heads, recorded_at = clock_timestamp()
RETURNING extract(epoch FROM clock_timestamp())::float8 - coalesce(
              CAST(nullif(current_setting('mt_paas.began', true), '') AS float8),
              extract(epoch FROM transaction_timestamp())::float8) AS seconds,
          extract(epoch FROM clock_timestamp())::float8 AS ended_at;

-- name: prepare_migrated
-- What has become of tenants that a run has migrated, right after: run, heads, generations, and of each attempts, seconds,
-- the end, schema and role; the fingerprint of what they must be, and the relations that it is of. Yields whether they are.
PREPARE {name} (bigint, text[], bigint[], int[], float8[], float8[], text[], text[], text, text[]) AS
WITH done AS MATERIALIZED (
    SELECT t.generation, t.attempts, t.seconds, t.ended_at, {same} AS same
      FROM unnest($3, $4, $5, $6, $7, $8) t (generation, attempts, seconds, ended_at, schema, role)
)
UPDATE mt_paas.outcome o
   SET state = 'migrated', to_heads = $2, attempts = d.attempts, seconds = d.seconds, verified = nullif(d.same, false),
       ended_at = to_timestamp(d.ended_at), sqlstate = NULL, statement = NULL, message = NULL
  FROM done d
 WHERE o.run_id = $1 AND o.generation = d.generation
RETURNING o.generation, d.same;

-- name: uncompared
-- Tenants that a run has migrated and was to compare, and did not, as it was killed in between; and those of which it
-- wrote down nothing, with where they were, which may be so.
SELECT o.generation, CASE o.state WHEN 'not_attempted' THEN o.from_heads END
  FROM mt_paas.run r
  JOIN mt_paas.outcome o USING (run_id)
 WHERE r.state <> 'succeeded'
   AND r.action <> 'stamp'
   AND (r.options ->> 'verify')::boolean
   AND o.state IN ('migrated', 'not_attempted')
   AND o.verified IS NOT TRUE
   AND o.generation > 0
   AND NOT EXISTS (SELECT FROM mt_paas.outcome n WHERE n.generation = o.generation AND n.run_id > o.run_id);

-- name: left_behind
-- Tenants of which the last run that was to migrate them did not say that it had: they may be half way.
SELECT o.generation
  FROM mt_paas.run r
  JOIN mt_paas.outcome o USING (run_id)
 WHERE r.state <> 'succeeded'
   AND o.state IN ('failed', 'not_attempted')
   AND o.generation > 0
   AND NOT EXISTS (SELECT FROM mt_paas.outcome n WHERE n.generation = o.generation AND n.run_id > o.run_id);
