-- Reads and writes of the tenant catalog. Values are bound; every object is schema-qualified.

-- name: resolve
-- A catalog of version 4 does not answer limits. The columns are the same in any version: a driver may have
-- prepared this on a connection that is open while the catalog is upgraded.
SELECT r.tenant_id, r.generation, r.state, r.state_reason, r.cluster, r.credentials, r.cell, r.login_role,
       r.schema_name, r.role_name, r.shared_schemas, r.cache_bound_s, r.catalog_version,
       CASE WHEN jsonb_typeof(a.answer -> 'heads') = 'array'
            THEN ARRAY(SELECT jsonb_array_elements_text(a.answer -> 'heads')) END AS heads,
       CASE WHEN jsonb_typeof(a.answer -> 'applied') = 'array'
            THEN ARRAY(SELECT jsonb_array_elements_text(a.answer -> 'applied')) END AS applied,
       CAST(a.answer -> 'limits' ->> 'max_sessions' AS int) AS max_sessions,
       CAST(a.answer -> 'limits' ->> 'statement_timeout_s' AS double precision) AS statement_timeout_s,
       CAST(a.answer -> 'limits' ->> 'storage_bytes' AS bigint) AS storage_bytes
  FROM mt_paas.resolve(:name) r
 CROSS JOIN LATERAL to_jsonb(r) AS a(answer);

-- name: installation
SELECT i.name, v.version_num::int AS catalog_version, i.opaque_names, i.shared_schemas, i.cache_bound_s
  FROM mt_paas.installation i, mt_paas.alembic_version v;

-- name: insert_installation
INSERT INTO mt_paas.installation (name, opaque_names, shared_schemas, cache_bound_s)
VALUES (:name, :opaque_names, :shared_schemas, :cache_bound_s)
    ON CONFLICT (only_one) DO UPDATE
   SET opaque_names = excluded.opaque_names,
       shared_schemas = excluded.shared_schemas;

-- name: upsert_cluster
INSERT INTO mt_paas.cluster (name, credentials)
VALUES (:name, :credentials)
    ON CONFLICT (name) DO UPDATE SET credentials = excluded.credentials;

-- name: insert_cell
INSERT INTO mt_paas.cell (name, cluster, login_role)
VALUES (:name, :cluster, :login_role)
    ON CONFLICT (name) DO NOTHING;

-- name: delete_own_cell
-- The cell of a tenant with a login of its own, which nobody else is in.
DELETE FROM mt_paas.cell
 WHERE name = :name
   AND login_role = :name;

-- name: cell
SELECT name, cluster, login_role
  FROM mt_paas.cell
 WHERE name = :name;

-- name: cell_loads
-- Each cell, how many tenants it has, and of how many others its login is still a member.
SELECT c.name, c.cluster, c.login_role, c.created_at,
       (SELECT count(*) FROM mt_paas.tenant t WHERE t.cell = c.name) AS tenants,
       coalesce(s.strays, 0) AS strays
  FROM mt_paas.cell c
  LEFT JOIN (SELECT l.rolname, count(*) AS strays
               FROM pg_catalog.pg_roles l
               JOIN pg_catalog.pg_auth_members m ON m.member = l.oid
               JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
               JOIN mt_paas.tenant t ON t.role_name = r.rolname
               JOIN mt_paas.cell own ON own.name = t.cell AND own.login_role <> l.rolname
              WHERE l.rolname = :login OR l.rolname ~ ('^' || :login || '_[0-9]+$')
              GROUP BY l.rolname) s ON s.rolname = c.login_role
 WHERE CAST(:name AS text) IS NULL OR c.name = :name
 ORDER BY c.created_at, c.name;

-- name: tenants_in
SELECT count(*) FROM mt_paas.tenant WHERE cell = :cell;

-- name: lock_all
SELECT generation
  FROM mt_paas.tenant
 WHERE generation = ANY (CAST(:generations AS bigint[]))
 ORDER BY generation
   FOR UPDATE NOWAIT;

-- name: set_cells
UPDATE mt_paas.tenant
   SET cell = :cell,
       placed_at = clock_timestamp()
 WHERE generation = ANY (CAST(:generations AS bigint[]));

-- name: set_login
UPDATE mt_paas.cell
   SET login_role = :login_role
 WHERE name = :cell;

-- name: placed
UPDATE mt_paas.tenant
   SET placed_at = clock_timestamp()
 WHERE generation = ANY (CAST(:generations AS bigint[]));

-- name: record_moved
INSERT INTO mt_paas.event (actor, action, tenant_id, generation, outcome, detail)
SELECT :actor, :action, t.tenant_id, t.generation, 'done',
       jsonb_build_object('from', t.cell, 'from_login', c.login_role) || CAST(:detail AS jsonb)
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell
 WHERE t.generation = ANY (CAST(:generations AS bigint[]))
 ORDER BY t.generation;

-- name: strays
-- Logins of the installation that may take the role of a tenant that connects as another now.
SELECT t.generation, t.tenant_id, l.rolname AS login,
       t.placed_at + make_interval(secs => i.cache_bound_s) <= clock_timestamp() AS due,
       t.placed_at + make_interval(secs => i.cache_bound_s) AS due_at
  FROM mt_paas.tenant t
 CROSS JOIN mt_paas.installation i
  JOIN mt_paas.cell c ON c.name = t.cell
  JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  JOIN pg_catalog.pg_auth_members m ON m.roleid = r.oid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member
 WHERE (l.rolname = :login OR l.rolname ~ ('^' || :login || '_[0-9]+$'))
   AND l.rolname <> c.login_role
   AND (CAST(:generations AS bigint[]) IS NULL OR t.generation = ANY (CAST(:generations AS bigint[])))
 GROUP BY t.generation, t.tenant_id, l.rolname, due, due_at
 ORDER BY t.generation, l.rolname;

-- name: settles_in
-- Seconds until no process remembers where these tenants were before.
SELECT coalesce(extract(epoch FROM max(t.placed_at) + make_interval(secs => max(i.cache_bound_s)) - clock_timestamp()), 0)
  FROM mt_paas.tenant t
 CROSS JOIN mt_paas.installation i
 WHERE t.generation = ANY (CAST(:generations AS bigint[]));

-- name: unused_logins
-- Made for a cell that has another login now, or is gone; nobody is let in by them.
SELECT l.rolname
  FROM pg_catalog.pg_roles l
 WHERE l.rolname ~ ('^' || :login || '_[0-9]+$')
   AND pg_catalog.shobj_description(l.oid, 'pg_authid') = :description
   AND NOT EXISTS (SELECT FROM mt_paas.cell c WHERE c.login_role = l.rolname)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = l.oid)
 ORDER BY l.rolname;

-- name: all_logins
SELECT login_role FROM mt_paas.cell WHERE login_role <> name
 UNION
SELECT l.rolname::text
  FROM pg_catalog.pg_roles l
 WHERE l.rolname ~ ('^' || :login || '_[0-9]+$')
   AND pg_catalog.shobj_description(l.oid, 'pg_authid') = :description;

-- name: moving
SELECT t.role_name
  FROM mt_paas.tenant t
 CROSS JOIN mt_paas.installation i
 WHERE t.placed_at + make_interval(secs => i.cache_bound_s) > clock_timestamp();

-- name: shared_cells
SELECT name, cluster, login_role
  FROM mt_paas.cell
 WHERE cluster = :cluster
   AND login_role <> name
 ORDER BY name;

-- name: place_tenant
-- Counts no further than to the size, and mostly in the newest cell alone. Each cell's tenants lie together in an index.
UPDATE mt_paas.tenant t
   SET cell = found.name,
       placed_at = clock_timestamp()
  FROM (SELECT c.name, c.cluster, c.login_role
          FROM mt_paas.cell c
         WHERE c.cluster = :cluster
           AND c.login_role <> c.name
           AND (SELECT count(*)
                  FROM (SELECT FROM mt_paas.tenant o
                         WHERE o.cell = c.name AND o.generation <> :generation LIMIT :size) o) < :size
         ORDER BY c.created_at DESC, c.name
         LIMIT 1) found
 WHERE t.generation = :generation
RETURNING found.name, found.cluster, found.login_role;

-- name: next_generation
SELECT nextval('mt_paas.tenant_generation');

-- name: begin_tenant
-- Whose catalog this is, and who has a name; where nobody has, a generation for who will.
SELECT i.name, v.version_num::int AS catalog_version, i.opaque_names, i.shared_schemas, i.cache_bound_s,
       f.found, CASE WHEN f.found IS NULL THEN nextval('mt_paas.tenant_generation') END AS fresh
  FROM mt_paas.installation i, mt_paas.alembic_version v,
       (SELECT (SELECT generation
                  FROM mt_paas.tenant_name
                 WHERE name = :wanted
                   AND released_at IS NULL) AS found) f;

-- name: insert_tenant
-- The row first and then the name: another order could deadlock. Answers as `tenants` does. Where it will stand in the
-- history is written here if its closure is known: `record_revisions` would keep a new one from others until the commit.
WITH made AS (
    INSERT INTO mt_paas.tenant (generation, tenant_id, display_name, state, cell, schema_name, role_name)
    VALUES (:generation, :tenant_id, :display_name, :state, :cell, :schema_name, :role_name)
    RETURNING *
), named AS (
    INSERT INTO mt_paas.tenant_name (name, generation, kind)
    SELECT tenant_id, generation, 'id' FROM made
        ON CONFLICT (name) DO NOTHING
    RETURNING name
), logged AS (
    INSERT INTO mt_paas.event (actor, action, tenant_id, generation, outcome)
    SELECT coalesce(:actor, session_user), 'create', tenant_id, generation, :outcome FROM made
), standing AS (
    INSERT INTO mt_paas.tenant_revision (generation, heads)
    SELECT m.generation, s.heads
      FROM made m, mt_paas.revision_set s
     WHERE s.heads = CAST(:heads AS text[]) AND s.applied = CAST(:applied AS text[])
    RETURNING generation
)
SELECT t.tenant_id, t.generation, t.display_name, t.state, t.state_reason, t.created_at, t.state_changed_at,
       c.cluster, k.credentials, t.cell, c.login_role, t.schema_name, t.role_name, ARRAY[]::text[] AS aliases,
       EXISTS (SELECT FROM named) AS is_named, EXISTS (SELECT FROM standing) AS stands
  FROM made t
  JOIN mt_paas.cell c ON c.name = t.cell
  JOIN mt_paas.cluster k ON k.name = c.cluster;

-- name: claim_name
-- A released name may be claimed again once no process can still remember its old owner. Its own former id
-- or alias a tenant may always make its id, or take back.
INSERT INTO mt_paas.tenant_name (name, generation, kind)
VALUES (:name, :generation, :kind)
    ON CONFLICT (name) DO UPDATE
   SET generation = excluded.generation,
       kind = excluded.kind,
       claimed_at = now(),
       released_at = NULL
 WHERE tenant_name.released_at < now() - (
           SELECT 2 * make_interval(secs => i.cache_bound_s) FROM mt_paas.installation i)
    OR (tenant_name.generation = excluded.generation
        AND (excluded.kind = 'id' OR tenant_name.released_at IS NOT NULL))
RETURNING name;

-- name: name_holder
SELECT n.kind, n.released_at, t.tenant_id,
       n.released_at + (SELECT 2 * make_interval(secs => i.cache_bound_s) FROM mt_paas.installation i) AS free_at
  FROM mt_paas.tenant_name n
  LEFT JOIN mt_paas.tenant t USING (generation)
 WHERE n.name = :name;

-- name: release_alias
UPDATE mt_paas.tenant_name
   SET released_at = clock_timestamp()
 WHERE name = :name
   AND generation = :generation
   AND kind = 'alias'
   AND released_at IS NULL
RETURNING name;

-- name: retire_id
UPDATE mt_paas.tenant_name
   SET kind = 'former_id'
 WHERE name = :name
   AND generation = :generation;

-- name: set_tenant_id
UPDATE mt_paas.tenant
   SET tenant_id = :tenant_id
 WHERE generation = :generation;

-- name: set_state
UPDATE mt_paas.tenant
   SET state = :state,
       state_reason = :state_reason,
       state_changed_at = now()
 WHERE generation = :generation;

-- name: withheld
SELECT withheld
  FROM mt_paas.tenant
 WHERE generation = :generation;

-- name: set_withheld
UPDATE mt_paas.tenant
   SET withheld = CAST(:withheld AS jsonb)
 WHERE generation = :generation;

-- name: set_display_name
UPDATE mt_paas.tenant
   SET display_name = :display_name
 WHERE generation = :generation;

-- name: delete_tenant
DELETE FROM mt_paas.tenant
 WHERE generation = :generation;

-- name: delete_names
-- Former ids stay reserved for ever.
DELETE FROM mt_paas.tenant_name
 WHERE generation = :generation
   AND kind <> 'former_id';

-- name: is_tenant_schema
SELECT EXISTS (SELECT FROM mt_paas.tenant WHERE schema_name = :schema);

-- name: lock_tenant
SELECT t.generation
  FROM mt_paas.tenant t
  JOIN mt_paas.tenant_name n USING (generation)
 WHERE n.name = :name
   AND n.released_at IS NULL
   FOR UPDATE OF t;

-- name: lock_generation
SELECT generation
  FROM mt_paas.tenant
 WHERE generation = :generation
   FOR UPDATE;

-- name: lock_generation_nowait
SELECT generation
  FROM mt_paas.tenant
 WHERE generation = :generation
   FOR UPDATE NOWAIT;

-- name: find_tenant
SELECT generation
  FROM mt_paas.tenant_name
 WHERE name = :name
   AND released_at IS NULL;

-- name: tenants
SELECT t.tenant_id, t.generation, t.display_name, t.state, t.state_reason, t.created_at, t.state_changed_at,
       c.cluster, k.credentials, t.cell, c.login_role, t.schema_name, t.role_name,
       coalesce((SELECT array_agg(n.name ORDER BY n.name)
                   FROM mt_paas.tenant_name n
                  WHERE n.generation = t.generation AND n.kind <> 'id' AND n.released_at IS NULL), ARRAY[]::text[]) AS aliases
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell
  JOIN mt_paas.cluster k ON k.name = c.cluster
 WHERE (CAST(:generation AS bigint) IS NULL OR t.generation = :generation)
   AND (CAST(:state AS text) IS NULL OR t.state = :state)
   AND (CAST(:cell AS text) IS NULL OR t.cell = :cell)
   AND t.tenant_id > :after
 ORDER BY t.tenant_id
 LIMIT :page_size;

-- name: limits
SELECT max_sessions, statement_timeout_s, storage_bytes
  FROM mt_paas.tenant_limit
 WHERE generation = :generation;

-- name: delete_limits
DELETE FROM mt_paas.tenant_limit
 WHERE generation = :generation;

-- name: insert_limits
INSERT INTO mt_paas.tenant_limit (generation, max_sessions, statement_timeout_s, storage_bytes)
VALUES (:generation, :max_sessions, :statement_timeout_s, :storage_bytes);

-- name: usage
-- Each tenant's own objects, found from its schema by index: what one costs does not grow with the fleet. Indexes and
-- TOAST are counted with their table, a partition by itself.
SELECT t.tenant_id, t.state, l.storage_bytes, coalesce(u.used_bytes, 0) AS used_bytes
  FROM mt_paas.tenant t
  LEFT JOIN mt_paas.tenant_limit l USING (generation)
  LEFT JOIN LATERAL (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = t.schema_name::name OFFSET 0) n ON true
  LEFT JOIN LATERAL (
       SELECT sum(pg_catalog.pg_total_relation_size(c.oid)) AS used_bytes
         FROM (SELECT d.objid FROM pg_catalog.pg_depend d
                WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid
                  AND d.classid = 'pg_catalog.pg_class'::regclass OFFSET 0) d
        CROSS JOIN LATERAL (SELECT * FROM pg_catalog.pg_class WHERE oid = d.objid OFFSET 0) c
        WHERE c.relkind IN ('r', 'm', 'S')) u ON true
 WHERE CAST(:generation AS bigint) IS NULL OR t.generation = :generation
 ORDER BY t.tenant_id;

-- name: insert_event
INSERT INTO mt_paas.event (actor, action, tenant_id, generation, outcome, detail)
VALUES (coalesce(:actor, session_user), :action, :tenant_id, :generation, :outcome, CAST(:detail AS jsonb));

-- name: events
SELECT event_id, at, actor, action, tenant_id, generation, outcome, detail
  FROM mt_paas.event
 WHERE CAST(:name AS text) IS NULL
    OR tenant_id = :name
    OR generation = (SELECT n.generation FROM mt_paas.tenant_name n WHERE n.name = :name AND n.released_at IS NULL)
 ORDER BY event_id DESC
 LIMIT :page_size;

-- name: record_revisions
-- The closure is written where it is new or another. Without the look first, everyone who records the same heads
-- would wait for the row until the one before has committed.
WITH closure AS (
    INSERT INTO mt_paas.revision_set (heads, applied)
    SELECT CAST(:heads AS text[]), CAST(:applied AS text[])
     WHERE NOT EXISTS (SELECT FROM mt_paas.revision_set
                        WHERE heads = CAST(:heads AS text[]) AND applied = CAST(:applied AS text[]))
        ON CONFLICT (heads) DO UPDATE SET applied = excluded.applied
)
INSERT INTO mt_paas.tenant_revision (generation, heads)
VALUES (:generation, CAST(:heads AS text[]))
    ON CONFLICT (generation) DO UPDATE
   SET heads = excluded.heads,
       recorded_at = now();
