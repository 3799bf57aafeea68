-- Row policies: what is granted for them, and what is asked of a server. What they are is in catalog/0003_policies.sql
-- and, where it looks things up, in 0004_policies_by_index.sql.

-- name: tenants_may_ask
-- Policies and defaults are carried out as the tenant's role. The schema mt_paas stays closed to it.
GRANT EXECUTE ON FUNCTION mt_paas.tenant(), mt_paas.generation(name) TO {group};

-- name: standing
-- The tables of some schemas: which kind ours makes of each, by which column, and what policies stand beside ours.
SELECT n.nspname, c.relname,
       (SELECT a.attname
          FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_catalog.pg_policy'::regclass
           AND d.objid = (SELECT oid FROM pg_catalog.pg_policy WHERE polrelid = c.oid AND polname = 'mt_paas_tenant')
           AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0
         LIMIT 1) AS tenant_column,
       EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = c.oid AND polname = 'mt_paas_guard') AS guarded,
       ARRAY(SELECT polname::text FROM pg_catalog.pg_policy
              WHERE polrelid = c.oid AND NOT pg_catalog.starts_with(polname, 'mt_paas_')
              ORDER BY polname) AS by_hand
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY (:schemas) AND c.relkind IN ('r', 'p');

-- name: changes
-- What is not as declared on one table, in words.
SELECT fault FROM mt_paas.policy_changes(CAST(:table AS regclass), :kind, :tenant_column);
