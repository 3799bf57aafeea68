-- Version 3: row policies. Run as the owner role.
--
-- Who sees a row is decided in two places, and nothing else may look up the context: mt_paas.tenant() for tables that
-- tenants share, mt_paas.guard_of() for a tenant's own. Policies whose names begin with mt_paas_ are this library's;
-- others are left as they are. All of ours hold at run time: which plan is used again, by whom, changes nothing.

CREATE FUNCTION mt_paas.generation(of_role name) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.generation FROM mt_paas.tenant t WHERE t.role_name = CAST(of_role AS text)
$$;

-- Parsed here and now, so that a tenant's role, which may not use this schema, may use it in defaults and policies;
-- without a SET of its own, so that the planner can put its body in its place.
CREATE FUNCTION mt_paas.tenant() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN mt_paas.generation(CURRENT_USER);
COMMENT ON FUNCTION mt_paas.tenant() IS 'The generation of the tenant whose role is in force; null for any other role.';

-- Predicates are written as the server prints them, so that what is there can be compared with what should be; and as
-- sub-selects, which are carried out once for a query: what is left for each row is to look at their result.

CREATE FUNCTION mt_paas.guard_of(of_schema name) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('( SELECT (CURRENT_USER = ANY (ARRAY[%L::name, %L::name])))',
                  s.role_name, pg_get_userbyid(n.nspowner))
      FROM (SELECT t.role_name FROM mt_paas.tenant t WHERE t.schema_name = CAST(of_schema AS text)
             UNION ALL
            SELECT i.name || '_reference' FROM mt_paas.installation i
             WHERE i.name || '_reference' = CAST(of_schema AS text)) s
      JOIN pg_namespace n ON n.nspname = 'mt_paas'
$$;
COMMENT ON FUNCTION mt_paas.guard_of(name) IS
    'Who may touch the tables of a tenant''s schema, as a predicate; null for a schema that is no tenant''s.';

-- The policies that a table is to have. A table whose permissive policies were written by hand keeps to them: then
-- ours opens it to the owner alone, who would see nothing under FORCE.
CREATE FUNCTION mt_paas.declared_policies(of_table regclass, kind text, tenant_column name)
    RETURNS TABLE (name name, permissive boolean, roles oid[], predicate text)
    LANGUAGE sql STABLE ROWS 2
    SET search_path = pg_catalog, pg_temp
AS $$
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
     WHERE o.nspname = 'mt_paas' AND p.kind = declared_policies.kind
$$;

-- What is not as it should be on a table and its partitions, each with the statement that mends it, in the order in
-- which they are to be carried out. The kinds are 'tenants' (each sees its own rows), 'everyone' (to be read by all,
-- written by nobody), 'guarded' and 'unguarded' (a tenant's own table).
CREATE FUNCTION mt_paas.policy_changes(of_table regclass, kind text, tenant_column name DEFAULT NULL)
    RETURNS TABLE (fault text, mend text)
    LANGUAGE plpgsql STABLE ROWS 4
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
BEGIN  -- in PL/pgSQL, which keeps its plan: it is asked once for each table
    RETURN QUERY
    WITH part AS (
        SELECT c.oid, CAST(CAST(c.oid AS regclass) AS text) AS name, c.relrowsecurity, c.relforcerowsecurity,
               kind IN ('tenants', 'guarded') AS closed, c.relacl, c.relowner,
               EXISTS (SELECT FROM pg_policy y WHERE y.polrelid = c.oid AND NOT starts_with(y.polname, 'mt_paas_'))
                   AS by_hand,
               CASE WHEN kind = 'everyone' THEN ARRAY['SELECT']
                    WHEN kind = 'tenants' AND c.relispartition THEN CAST(ARRAY[] AS text[])
                    WHEN kind = 'tenants' THEN ARRAY['DELETE', 'INSERT', 'SELECT', 'UPDATE'] END AS rights
          FROM pg_class c
         WHERE c.oid IN (SELECT of_table UNION ALL SELECT relid FROM pg_partition_tree(of_table))
    ), grantee AS (
        SELECT r.oid, quote_ident(r.rolname) AS name
          FROM mt_paas.installation i
          JOIN pg_roles r ON r.rolname = CAST(i.name || '_tenant' AS name)
    ), found AS (
        SELECT p.oid, p.name AS on_table, y.polname AS name, y.polpermissive AS permissive, y.polroles AS roles,
               CASE WHEN y.polcmd = '*' AND qual = coalesce(pg_get_expr(y.polwithcheck, y.polrelid), qual)
                    THEN qual END AS predicate
          FROM part p
          JOIN pg_policy y ON y.polrelid = p.oid AND starts_with(y.polname, 'mt_paas_')
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
          JOIN pg_attribute t ON t.attrelid = p.oid AND t.attnum > 0
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
          JOIN pg_depend d ON d.refclassid = CAST('pg_class' AS regclass) AND d.refobjid = p.oid AND d.deptype = 'a'
          JOIN pg_class s ON d.classid = CAST('pg_class' AS regclass) AND s.oid = d.objid AND s.relkind = 'S'
         CROSS JOIN grantee e
         WHERE kind = 'tenants' AND NOT has_sequence_privilege(e.oid, s.oid, 'USAGE')
    )
    SELECT c.name || ': ' || c.fault, c.mend FROM change c ORDER BY c.place, c.name, c.fault, c.mend;
END
$$;

-- Carries them out: the statements for which the caller must own the table. Again, it sends none and takes no lock.
CREATE FUNCTION mt_paas.apply_policies(of_table regclass, kind text, tenant_column name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
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
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_namespace o ON o.nspname = 'mt_paas'
         WHERE c.oid IN (SELECT of_table UNION ALL SELECT relid FROM pg_partition_tree(of_table))
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

CREATE FUNCTION mt_paas.protect(of_table regclass) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT mt_paas.apply_policies(of_table, 'guarded', NULL) $$;
COMMENT ON FUNCTION mt_paas.protect(regclass) IS
    'Guard a table in a tenant''s schema: whatever was granted, only the tenant''s role and the owner touch its rows.';

CREATE FUNCTION mt_paas.unprotect(of_table regclass) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT mt_paas.apply_policies(of_table, 'unguarded', NULL) $$;
COMMENT ON FUNCTION mt_paas.unprotect(regclass) IS 'Take the guard away.';

CREATE FUNCTION mt_paas.share_rows(of_table regclass, tenant_column name) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT mt_paas.apply_policies(of_table, 'tenants', tenant_column) $$;
COMMENT ON FUNCTION mt_paas.share_rows(regclass, name) IS
    'Open a table in a shared schema to all tenants, each to the rows that have its generation in the column.';

CREATE FUNCTION mt_paas.share_read_only(of_table regclass) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT mt_paas.apply_policies(of_table, 'everyone', NULL) $$;
COMMENT ON FUNCTION mt_paas.share_read_only(regclass) IS
    'Open a table in a shared schema to all tenants, all of its rows, to be read and not written.';

REVOKE ALL ON FUNCTION mt_paas.generation(name), mt_paas.tenant(), mt_paas.guard_of(name),
    mt_paas.declared_policies(regclass, text, name), mt_paas.policy_changes(regclass, text, name),
    mt_paas.apply_policies(regclass, text, name), mt_paas.protect(regclass), mt_paas.unprotect(regclass),
    mt_paas.share_rows(regclass, name), mt_paas.share_read_only(regclass) FROM PUBLIC;
