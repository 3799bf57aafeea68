-- Version 4: what row policies look up costs the same in a fleet of any size. Run as the owner role.
--
-- The functions are version 3's, but for how they reach the server's catalogs: from the table in hand, by index, row by
-- row, in plans that are kept. Such a plan must not rest on statistics that were true when the fleet was small, or that
-- were never taken. So none but generic plans; and OFFSET 0 keeps the planner from turning the order round. JIT and
-- workers are off because of what a scan "costs" that is disabled, and there all the same (of the installation's row).

-- A name has the collation "C", also as text, and the catalog's columns, with their indexes, have the database's.
CREATE OR REPLACE FUNCTION mt_paas.generation(of_role name) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.generation FROM mt_paas.tenant t WHERE t.role_name = CAST(of_role AS text) COLLATE "default"
$$;

CREATE OR REPLACE FUNCTION mt_paas.guard_of(of_schema name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET max_parallel_workers_per_gather = 0
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (
      SELECT format('( SELECT (CURRENT_USER = ANY (ARRAY[%L::name, %L::name])))',
                    s.role_name, pg_get_userbyid(n.nspowner))
        FROM (SELECT t.role_name FROM mt_paas.tenant t WHERE t.schema_name = CAST(of_schema AS text) COLLATE "default"
               UNION ALL
              SELECT i.name || '_reference' FROM mt_paas.installation i
               WHERE i.name || '_reference' = CAST(of_schema AS text)) s
        JOIN pg_namespace n ON n.nspname = 'mt_paas'
    );
END
$$;

-- The policies that a table is to have. A table whose permissive policies were written by hand keeps to them: then
-- ours opens it to the owner alone, who would see nothing under FORCE.
CREATE OR REPLACE FUNCTION mt_paas.declared_policies(of_table regclass, kind text, tenant_column name)
    RETURNS TABLE (name name, permissive boolean, roles oid[], predicate text)
    LANGUAGE plpgsql STABLE ROWS 2
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET max_parallel_workers_per_gather = 0
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT p.name, p.permissive, p.roles, p.predicate
      FROM pg_namespace o
     CROSS JOIN LATERAL (
        VALUES ('tenants', CAST('mt_paas_tenant' AS name), true, ARRAY[CAST(0 AS oid)],
                format('(%I = ( SELECT mt_paas.tenant() AS tenant))', coalesce(tenant_column, ''))),
               -- Of the owner, so that it stands in no plan of a tenant; and asks who it is, so that a view of the
               -- owner's does not open the table to whoever reads the view.
               ('tenants', 'mt_paas_owner', true, ARRAY[o.nspowner],
                format('( SELECT (CURRENT_USER = %L::name))', pg_get_userbyid(o.nspowner))),
               ('guarded', 'mt_paas_all', true,
                ARRAY[CASE WHEN EXISTS (SELECT FROM pg_policy y
                                         WHERE y.polrelid = of_table AND y.polpermissive
                                           AND NOT starts_with(y.polname, 'mt_paas_'))
                           THEN o.nspowner ELSE 0 END],
                'true'),
               -- To everybody: what holds for some roles only has been escaped from (CVE-2024-10976).
               ('guarded', 'mt_paas_guard', false, ARRAY[CAST(0 AS oid)],
                (SELECT mt_paas.guard_of(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = of_table))
     ) AS p (kind, name, permissive, roles, predicate)
     WHERE o.nspname = 'mt_paas' AND p.kind = declared_policies.kind;
END
$$;

-- What is not as it should be on a table and its partitions, each with the statement that mends it, in the order in
-- which they are to be carried out. The kinds are 'tenants' (each sees its own rows), 'everyone' (to be read by all,
-- written by nobody), 'guarded' and 'unguarded' (a tenant's own table).
CREATE OR REPLACE FUNCTION mt_paas.policy_changes(of_table regclass, kind text, tenant_column name DEFAULT NULL)
    RETURNS TABLE (fault text, mend text)
    LANGUAGE plpgsql STABLE ROWS 4
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET max_parallel_workers_per_gather = 0
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN  -- in PL/pgSQL, which keeps its plan: it is asked once for each table
    RETURN QUERY
    WITH part AS MATERIALIZED (
        SELECT c.oid, CAST(CAST(c.oid AS regclass) AS text) AS name, c.relrowsecurity, c.relforcerowsecurity,
               kind IN ('tenants', 'guarded') AS closed, c.relacl, c.relowner,
               coalesce((SELECT bool_or(NOT starts_with(y.polname, 'mt_paas_'))
                           FROM pg_policy y WHERE y.polrelid = c.oid), false) AS by_hand,
               CASE WHEN kind = 'everyone' THEN ARRAY['SELECT']
                    WHEN kind = 'tenants' AND c.relispartition THEN CAST(ARRAY[] AS text[])
                    WHEN kind = 'tenants' THEN ARRAY['DELETE', 'INSERT', 'SELECT', 'UPDATE'] END AS rights
          FROM (SELECT of_table AS oid UNION SELECT relid FROM pg_partition_tree(of_table)) t
         CROSS JOIN LATERAL (SELECT * FROM pg_class r WHERE r.oid = t.oid OFFSET 0) c
    ), grantee AS (
        SELECT r.oid, quote_ident(r.rolname) AS name
          FROM mt_paas.installation i
          JOIN pg_roles r ON r.rolname = CAST(i.name || '_tenant' AS name)
    ), found AS (
        SELECT p.oid, p.name AS on_table, y.polname AS name, y.polpermissive AS permissive, y.polroles AS roles,
               CASE WHEN y.polcmd = '*' AND qual = coalesce(pg_get_expr(y.polwithcheck, y.polrelid), qual)
                    THEN qual END AS predicate
          FROM part p
         CROSS JOIN LATERAL (SELECT * FROM pg_policy o
                              WHERE o.polrelid = p.oid AND starts_with(o.polname, 'mt_paas_') OFFSET 0) y
         CROSS JOIN LATERAL pg_get_expr(y.polqual, y.polrelid) qual
    ), declared AS (
        SELECT p.oid, p.name AS on_table, d.name, d.permissive, d.roles, d.predicate
          FROM part p
         CROSS JOIN LATERAL mt_paas.declared_policies(p.oid, kind, tenant_column) d
    ), granted AS (
        SELECT p.oid, a.grantee, a.privilege_type, false AS of_column
          FROM part p CROSS JOIN LATERAL aclexplode(p.relacl) a
         UNION ALL
        SELECT p.oid, a.grantee, a.privilege_type, true
          FROM part p
         CROSS JOIN LATERAL (SELECT * FROM pg_attribute o WHERE o.attrelid = p.oid AND o.attnum > 0 OFFSET 0) t
         CROSS JOIN LATERAL aclexplode(t.attacl) a
    ), change AS (
        SELECT 1 AS place, p.name, 'row security is off' AS fault,
               format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', p.name) AS mend
          FROM part p WHERE p.closed AND NOT p.relrowsecurity
         UNION ALL
        SELECT 1, p.name, 'row security is not forced', format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', p.name)
          FROM part p WHERE p.closed AND NOT p.relforcerowsecurity
         UNION ALL
        SELECT 2, f.on_table, format('policy %s is %s', f.name,
                                     CASE WHEN d.name IS NULL THEN 'not declared' ELSE 'another' END),
               format('DROP POLICY %I ON %s', f.name, f.on_table)
          FROM found f
          LEFT JOIN declared d ON d.oid = f.oid AND d.name = f.name
         WHERE (d.permissive, d.roles, d.predicate) IS DISTINCT FROM (f.permissive, f.roles, f.predicate)
         UNION ALL
        SELECT 3, d.on_table, format('policy %s is missing', d.name),
               format('CREATE POLICY %I ON %s AS %s TO %s USING (%s) WITH CHECK (%s)', d.name, d.on_table,
                      CASE WHEN d.permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                      CASE WHEN d.roles = ARRAY[CAST(0 AS oid)] THEN 'PUBLIC'
                           ELSE quote_ident(pg_get_userbyid(d.roles[1])) END, d.predicate, d.predicate)
          FROM declared d
          LEFT JOIN found f ON f.oid = d.oid AND f.name = d.name
         WHERE (d.permissive, d.roles, d.predicate) IS DISTINCT FROM (f.permissive, f.roles, f.predicate)
         UNION ALL
        SELECT 4, p.name, 'row security is on', format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', p.name)
          FROM part p WHERE NOT p.closed AND NOT p.by_hand AND p.relforcerowsecurity
         UNION ALL
        SELECT 4, p.name, 'row security is on', format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', p.name)
          FROM part p WHERE NOT p.closed AND NOT p.by_hand AND p.relrowsecurity
         UNION ALL
        SELECT 5, p.name, format('it grants %s, not %s', h.rights, coalesce(nullif(array_to_string(p.rights, ', '), ''),
                                                                            'nothing')),
               concat_ws('; ', format('REVOKE ALL ON TABLE %s FROM PUBLIC, %s', p.name, e.name),
                         'GRANT ' || nullif(array_to_string(p.rights, ', '), '')
                         || format(' ON TABLE %s TO %s', p.name, e.name))
          FROM part p
         CROSS JOIN grantee e
         CROSS JOIN LATERAL (
            SELECT coalesce(string_agg(DISTINCT g.privilege_type || CASE WHEN g.of_column THEN ' of columns' ELSE '' END
                                       || CASE g.grantee WHEN 0 THEN ' to PUBLIC' ELSE '' END, ', '), 'nothing')
                       AS rights,
                   coalesce(array_agg(g.privilege_type ORDER BY g.privilege_type)
                            FILTER (WHERE g.grantee <> 0 AND NOT g.of_column), CAST(ARRAY[] AS text[])) AS of_group,
                   coalesce(bool_or(g.grantee = 0 OR g.of_column), false) AS beside
              FROM granted g
             WHERE g.oid = p.oid AND g.grantee IN (0, e.oid)) h
         WHERE p.rights IS NOT NULL AND (h.beside OR h.of_group <> p.rights)
         UNION ALL  -- a serial column's default asks for it; an identity's does not
        SELECT 6, p.name, format('its sequence %s is not granted', CAST(s.oid AS regclass)),
               format('GRANT USAGE ON SEQUENCE %s TO %s', CAST(s.oid AS regclass), e.name)
          FROM part p
         CROSS JOIN LATERAL (SELECT r.oid
                               FROM (SELECT d.objid FROM pg_depend d
                                      WHERE d.refclassid = CAST('pg_class' AS regclass) AND d.refobjid = p.oid
                                        AND d.classid = CAST('pg_class' AS regclass) AND d.deptype = 'a' OFFSET 0) d
                              CROSS JOIN LATERAL (SELECT * FROM pg_class o WHERE o.oid = d.objid OFFSET 0) r
                              WHERE r.relkind = 'S') s
         CROSS JOIN grantee e
         WHERE kind = 'tenants' AND NOT has_sequence_privilege(e.oid, s.oid, 'USAGE')
    )
    SELECT c.name || ': ' || c.fault, c.mend FROM change c ORDER BY c.place, c.name, c.fault, c.mend;
END
$$;

-- Carries them out: the statements for which the caller must own the table. Again, it sends none and takes no lock.
CREATE OR REPLACE FUNCTION mt_paas.apply_policies(of_table regclass, kind text, tenant_column name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET max_parallel_workers_per_gather = 0
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    part record;
    change record;
    own constant boolean := kind IN ('guarded', 'unguarded');
BEGIN
    FOR part IN
        SELECT CAST(c.oid AS regclass) AS name, c.relkind, n.nspname, c.relowner = o.nspowner AS owned,
               CASE WHEN own THEN mt_paas.guard_of(n.nspname) IS NOT NULL
                    ELSE n.nspname = ANY (SELECT unnest(i.shared_schemas) FROM mt_paas.installation i) END AS placed
          FROM (SELECT of_table AS oid UNION SELECT relid FROM pg_partition_tree(of_table)) t
         CROSS JOIN LATERAL (SELECT * FROM pg_class r WHERE r.oid = t.oid OFFSET 0) c
         CROSS JOIN LATERAL (SELECT * FROM pg_namespace r WHERE r.oid = c.relnamespace OFFSET 0) n
          JOIN pg_namespace o ON o.nspname = 'mt_paas'
    LOOP
        IF part.relkind NOT IN ('r', 'p') THEN
            RAISE EXCEPTION '% is no table, and only tables have row security', part.name
                USING ERRCODE = 'wrong_object_type',
                      HINT = CASE part.relkind
                                 WHEN 'm' THEN 'Rows of a materialized view stand open to whoever may select from it.'
                                 WHEN 'v' THEN 'A view made WITH (security_invoker) has that of its tables.' END;
        ELSIF NOT part.placed THEN
            RAISE EXCEPTION '% is not in %', part.name, CASE WHEN own THEN 'a tenant''s schema' ELSE 'a shared schema' END
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Tables in tenants'' schemas are protected, those in shared ones are shared.';
        ELSIF NOT part.owned THEN
            RAISE EXCEPTION '% does not belong to the owner of this installation', part.name
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END LOOP;
    IF kind = 'tenants' AND NOT EXISTS (
        SELECT FROM pg_attribute a
         WHERE a.attrelid = of_table AND a.attname = tenant_column AND a.atttypid = CAST('int8' AS regtype)
           AND a.attnotnull AND NOT a.attisdropped)
    THEN
        RAISE EXCEPTION '% has no column % of type bigint that is not null', of_table, tenant_column
            USING ERRCODE = 'undefined_column';
    END IF;
    FOR change IN SELECT c.mend FROM mt_paas.policy_changes(of_table, kind, tenant_column) c LOOP
        EXECUTE change.mend;
    END LOOP;
END
$$;
