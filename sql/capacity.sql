-- What `doctor --capacity` asks of the home cluster. Read only.

-- name: server
SELECT current_setting('server_version_num')::int AS version,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       current_setting('max_locks_per_transaction')::int
           * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) AS locks,
       pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers_bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       CASE WHEN has_database_privilege(current_database(), 'CONNECT')
            THEN pg_database_size(current_database()) END AS database_bytes,
       (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
         WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r')::bigint AS catalogs_bytes,
       (SELECT count(*) FROM pg_class) AS relations;

-- name: cells
-- Tenants by cell, as the owner sees them.
SELECT c.name AS cell, c.login_role = c.name AS own_login, count(t.generation) AS tenants
  FROM mt_paas.cell c
  LEFT JOIN mt_paas.tenant t ON t.cell = c.name
 GROUP BY c.name, c.login_role;

-- name: tables
-- What the tenants' schemas hold. The pages are those that VACUUM and ANALYZE last counted.
SELECT count(*) FILTER (WHERE c.relkind IN ('r', 'p')) AS tables, count(*) AS relations,
       coalesce(sum(c.relpages::bigint), 0) * current_setting('block_size')::bigint AS bytes
  FROM mt_paas.tenant t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid;

-- name: sample
-- Some tenants' tables, to be touched on a fresh backend.
SELECT t.generation, n.nspname, c.relname
  FROM (SELECT generation, schema_name FROM mt_paas.tenant
         WHERE state IN ('active', 'read_only') ORDER BY generation LIMIT :most) t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
 ORDER BY t.generation, c.relname;

-- name: touch
-- Planning reads all that a backend then keeps of a table and its indexes; nothing is read of the table itself.
EXPLAIN SELECT * FROM {schema}.{table};

-- name: backend_bytes
-- What this backend holds. For superusers and members of pg_read_all_stats.
SELECT sum(used_bytes)::bigint FROM pg_catalog.pg_backend_memory_contexts;

-- name: may_measure
SELECT pg_catalog.has_function_privilege('pg_catalog.pg_get_backend_memory_contexts()', 'EXECUTE');

-- name: may_read_files
SELECT pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text, bigint, bigint)', 'EXECUTE')
   AND (SELECT rolsuper OR pg_catalog.pg_has_role('pg_read_server_files', 'USAGE')
          FROM pg_catalog.pg_roles WHERE rolname = current_user);

-- name: machine_bytes
-- The machine's memory, or what its control group may use, where the server runs on Linux.
SELECT least(
    (SELECT (regexp_match(pg_catalog.pg_read_file('/proc/meminfo', 0, 4096), 'MemTotal:\s+(\d+) kB'))[1]::bigint * 1024),
    (SELECT (regexp_match(pg_catalog.pg_read_file('/sys/fs/cgroup/memory.max', 0, 64, true), '^(\d+)'))[1]::bigint));
