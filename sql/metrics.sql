-- What `mt-paas-db metrics` asks of the home cluster, as the owner. Read only. :installation is the installation's name.

-- name: tenants
-- The one query that looks at every tenant.
SELECT t.cell, CASE WHEN c.login_role = c.name THEN 'login' ELSE 'role' END AS tier, t.state, count(*) AS tenants
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell
 GROUP BY 1, 2, 3
 ORDER BY 1, 3;

-- name: revisions
-- Where the tenants stand, and how many revisions those who are furthest have more. NULL is not recorded.
SELECT coalesce(array_to_string(r.heads, ','), 'unknown') AS heads, count(*) AS tenants,
       max(max(cardinality(s.applied))) OVER () - max(cardinality(s.applied)) AS behind
  FROM mt_paas.tenant t
  LEFT JOIN mt_paas.tenant_revision r USING (generation)
  LEFT JOIN mt_paas.revision_set s ON s.heads = r.heads
 WHERE t.state NOT IN ('provisioning', 'deleting')
 GROUP BY r.heads
 ORDER BY 1;

-- name: runs
SELECT state, count(*) AS runs FROM mt_paas.run GROUP BY state ORDER BY state;

-- name: last_run
SELECT r.state, extract(epoch FROM r.started_at)::float8 AS started_at,
       extract(epoch FROM r.ended_at)::float8 AS ended_at,
       (SELECT coalesce(jsonb_object_agg(o.state, o.tenants), '{}')
          FROM (SELECT state, count(*) AS tenants FROM mt_paas.outcome
                 WHERE run_id = r.run_id AND generation > 0 GROUP BY state) o) AS outcomes
  FROM mt_paas.run r
 ORDER BY r.run_id DESC
 LIMIT 1;

-- name: connections
-- Backends of the installation's logins, here and in other databases. A login without any has a line with 0.
SELECT c.name AS cell, c.login_role, count(a.pid) AS connections
  FROM mt_paas.cell c
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.usename = c.login_role
 GROUP BY c.name, c.login_role
 ORDER BY c.name;

-- name: server
-- Asked as the admin: the size of a database is told to those who may connect to it, which the owner may not.
SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       pg_catalog.current_setting('max_connections')::int AS max_connections,
       CASE WHEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CONNECT')
            THEN pg_catalog.pg_database_size(pg_catalog.current_database()) END AS database_bytes,
       (SELECT count(*) FROM pg_catalog.pg_roles) AS roles,
       (SELECT count(*) FROM pg_catalog.pg_roles WHERE starts_with(rolname, :installation || '_')) AS own_roles;

-- name: catalog_version
SELECT version_num::int AS catalog_version FROM mt_paas.alembic_version;

-- name: strays
-- Memberships of a cell's login in roles that are of none of the cell's tenants that take sessions.
SELECT count(*)
  FROM mt_paas.cell c
  JOIN pg_catalog.pg_roles l ON l.rolname = c.login_role
  JOIN pg_catalog.pg_auth_members m ON m.member = l.oid
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  LEFT JOIN mt_paas.tenant t ON t.role_name = r.rolname
  LEFT JOIN mt_paas.cell o ON o.name = t.cell AND o.login_role = c.login_role
 WHERE o.name IS NULL OR t.state NOT IN ('active', 'read_only');

-- name: largest
-- Ranked by the pages that VACUUM and ANALYZE last counted, which cost nothing to read; the largest are then measured.
WITH ranked AS (
    SELECT t.tenant_id, n.oid AS schema, sum(c.relpages::bigint) AS pages
      FROM mt_paas.tenant t
      JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm', 'i', 't')
     GROUP BY t.tenant_id, n.oid
     ORDER BY pages DESC, t.tenant_id
     LIMIT :most
)
SELECT r.tenant_id, sum(pg_catalog.pg_total_relation_size(c.oid))::bigint AS bytes
  FROM ranked r
  JOIN pg_catalog.pg_class c ON c.relnamespace = r.schema AND c.relkind IN ('r', 'm')
 GROUP BY r.tenant_id
 ORDER BY bytes DESC, r.tenant_id;
