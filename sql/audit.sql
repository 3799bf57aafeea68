-- What `audit` asks a server. Read only. Each query yields one row a finding, or what Python decides upon:
--   rule      the id in mt_paas_db/isolation/audit/rules.py
--   kind      what the object is;  object  its name as SQL writes it
--   what      the fact that the rule's sentence names
--   mend      the statement that puts it right, or null
--   severity  null: the rule's own
-- Long because it is a list of what can be wrong. All of them stand behind the CTEs of `ground`, so that they go through
-- the catalogs once, however many tenants there are.

-- name: ground
-- place: the installation's schemas, and `public`; role is the tenant's own. ours: its roles. grantee: these, and
-- everybody. declared: tenant columns that the caller named. ruled: shared tables with rows of several tenants.
tenant AS MATERIALIZED (
    SELECT *
      FROM unnest(CAST(:tenant_ids AS text[]), CAST(:schemas AS text[]), CAST(:role_names AS text[]),
                  CAST(:states AS text[]), CAST(:login_roles AS text[])) AS t(tenant_id, schema_name, role_name, state, login)
), place AS MATERIALIZED (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl, p.kind, r.oid AS role
      FROM (SELECT schema_name, role_name, 'tenant' FROM tenant
            UNION ALL
            SELECT CAST(:reference AS text), CAST(:reference AS text), 'reference'
            UNION ALL
            SELECT s, NULL, 'shared' FROM unnest(CAST(:shared AS text[])) AS s
            UNION ALL
            VALUES ('mt_paas', NULL, 'control'), ('public', NULL, 'public')) AS p(schema_name, role_name, kind)
      JOIN pg_catalog.pg_namespace n ON n.nspname = p.schema_name
      LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.role_name
), ours AS MATERIALIZED (
    SELECT r.oid, r.rolname, k.kind, k.state, k.login
      FROM (SELECT role_name, 'tenant', state, login FROM tenant
            UNION ALL
            SELECT l, 'login', NULL, NULL FROM unnest(CAST(:logins AS text[])) AS l
            UNION ALL
            SELECT login, 'own', state, role_name FROM tenant WHERE login <> ALL (CAST(:logins AS text[]))
            UNION ALL
            VALUES (CAST(:owner AS text), 'owner', NULL, NULL), (CAST(:group AS text), 'group', NULL, NULL),
                   (CAST(:reference AS text), 'reference', NULL, NULL)) AS k(role_name, kind, state, login)
      JOIN pg_catalog.pg_roles r ON r.rolname = k.role_name
), grantee AS MATERIALIZED (
    SELECT oid, kind, format('%I', rolname) AS name FROM ours
    UNION ALL
    SELECT 0::oid, 'public', 'PUBLIC'
), member_of_extension AS MATERIALIZED (
    SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), ruled AS MATERIALIZED (
    SELECT c.oid, p.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, a.attnum, a.attname,
           format('%I.%I', p.nspname, c.relname) AS name
      FROM place p
      JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relkind IN ('r', 'p')
      LEFT JOIN unnest(CAST(:declared_schemas AS text[]), CAST(:declared_tables AS text[]),
                       CAST(:declared_columns AS text[])) AS d(schema_name, table_name, column_name)
        ON d.schema_name = p.nspname AND d.table_name = c.relname
      LEFT JOIN LATERAL (
            SELECT t.attnum, t.attname
              FROM pg_catalog.pg_attribute t
              LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = t.attrelid AND f.adnum = t.attnum
             WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
               AND CASE WHEN d.column_name IS NOT NULL THEN t.attname = d.column_name
                        ELSE t.attname = 'tenant_id'
                             OR pg_catalog.pg_get_expr(f.adbin, f.adrelid) LIKE '%mt_paas.tenant%' END
             ORDER BY t.attname = 'tenant_id' DESC, t.attnum
             LIMIT 1) AS a ON true
     WHERE p.kind = 'shared'
       AND (a.attnum IS NOT NULL
            -- A table that is open to all for reading, and says so in a policy, has no tenants' rows.
            OR EXISTS (SELECT FROM pg_catalog.pg_policy y
                        WHERE y.polrelid = c.oid
                          AND NOT (y.polcmd = 'r' AND pg_catalog.pg_get_expr(y.polqual, y.polrelid) = 'true')))
)

-- name: grants
-- Who was granted what in the installation's schemas, and in `public`, and is none of those for whom it is meant.
-- It is critical where both doors are open to strangers, the schema's and an object's.
WITH granted AS (
    SELECT p.oid AS place, p.nspname, p.kind AS place_kind, p.role, 'SCHEMA' AS kind, format('%I', p.nspname) AS object,
           a.grantee, a.privilege_type AS said, a.privilege_type AS privilege
      FROM place p
     CROSS JOIN LATERAL pg_catalog.aclexplode(p.nspacl) AS a
    UNION ALL
    SELECT p.oid, p.nspname, p.kind, p.role, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
           format('%I.%I', p.nspname, c.relname), a.grantee, a.privilege_type, a.privilege_type
      FROM place p
      JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
    UNION ALL
    SELECT p.oid, p.nspname, p.kind, p.role, 'TABLE', format('%I.%I', p.nspname, c.relname), a.grantee,
           format('%s (%I)', a.privilege_type, t.attname), a.privilege_type
      FROM pg_catalog.pg_attribute t
      JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
      JOIN place p ON p.oid = c.relnamespace
     CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) AS a
     WHERE t.attacl IS NOT NULL
    UNION ALL
    -- What everybody may do with a function is told by `functions`, and with types everybody may do everything.
    SELECT p.oid, p.nspname, p.kind, p.role, 'ROUTINE',
           format('%I.%I(%s)', p.nspname, f.proname, pg_catalog.pg_get_function_identity_arguments(f.oid)),
           a.grantee, a.privilege_type, a.privilege_type
      FROM place p
      JOIN pg_catalog.pg_proc f ON f.pronamespace = p.oid
     CROSS JOIN LATERAL pg_catalog.aclexplode(f.proacl) AS a
     WHERE a.grantee <> 0
    UNION ALL
    SELECT p.oid, p.nspname, p.kind, p.role, 'TYPE', format('%I.%I', p.nspname, y.typname),
           a.grantee, a.privilege_type, a.privilege_type
      FROM place p
      JOIN pg_catalog.pg_type y ON y.typnamespace = p.oid
     CROSS JOIN LATERAL pg_catalog.aclexplode(y.typacl) AS a
     WHERE a.grantee <> 0
), judged AS (
    SELECT g.*, w.name AS grantee_name,
           CASE
               WHEN w.kind = 'owner' THEN NULL
               WHEN g.place_kind = 'public' THEN 'public-schema'
               WHEN w.oid = g.role OR (g.place_kind = 'shared' AND w.kind IN ('group', 'tenant', 'reference'))
               THEN CASE WHEN g.kind = 'SCHEMA' AND g.privilege = 'CREATE' THEN 'tenant-create'
                         WHEN g.privilege NOT IN ('TRUNCATE', 'TRIGGER', 'REFERENCES', 'MAINTAIN') THEN NULL
                         WHEN g.place_kind = 'shared' THEN 'excess-shared'
                         ELSE 'excess-rights' END
               WHEN g.place_kind = 'control' AND w.kind = 'login'
                    AND (g.kind, g.privilege) IN (('SCHEMA', 'USAGE'), ('ROUTINE', 'EXECUTE')) THEN NULL
               -- A policy's function is called with the rights of who asks.
               WHEN g.place_kind = 'control' AND g.kind = 'ROUTINE' AND w.kind IN ('group', 'tenant', 'reference')
               THEN NULL
               WHEN w.kind = 'public' THEN 'public-rights'
               WHEN w.kind = 'login' THEN 'login-rights'
               ELSE 'foreign-rights'
           END AS rule
      FROM granted g
      JOIN grantee w ON w.oid = g.grantee
), strange AS (
    SELECT j.*, j.rule IN ('public-rights', 'login-rights', 'foreign-rights') AS stranger FROM judged j
     WHERE j.rule IS NOT NULL
), open AS (
    SELECT s.*, bool_or(s.stranger AND s.kind = 'SCHEMA' AND s.privilege = 'USAGE') OVER (PARTITION BY s.place)
                AND bool_or(s.stranger AND s.kind <> 'SCHEMA') OVER (PARTITION BY s.place) AS wide
      FROM strange s
)
SELECT rule, lower(kind) AS kind, object,
       format('%s has %s', grantee_name, string_agg(DISTINCT said, ', ')) AS what,
       format('REVOKE %s ON %s %s FROM %s;', string_agg(DISTINCT said, ', '), kind, object, grantee_name) AS mend,
       CASE WHEN bool_or(wide AND stranger) THEN 'critical' END AS severity
  FROM open
 GROUP BY rule, kind, object, grantee_name;

-- name: functions
-- What functions let happen: whom they let call, and which path they run on.
WITH routine AS (
    SELECT p.nspname, p.kind AS place_kind, f.*,
           format('%I.%I(%s)', p.nspname, f.proname, pg_catalog.pg_get_function_identity_arguments(f.oid)) AS object,
           f.prorettype IN ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype) AS is_trigger
      FROM place p
      JOIN pg_catalog.pg_proc f ON f.pronamespace = p.oid
     WHERE NOT EXISTS (SELECT FROM member_of_extension e
                        WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = f.oid)
), open AS (
    SELECT r.*
      FROM routine r
     WHERE EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(r.proacl, pg_catalog.acldefault('f', r.proowner))) AS a
                    WHERE a.grantee = 0)
)
SELECT CASE WHEN prosecdef THEN 'definer-public' ELSE 'public-execute' END AS rule, 'routine' AS kind, object,
       'PUBLIC has EXECUTE' AS what, format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC;', object) AS mend,
       NULL AS severity
  FROM open
 WHERE (prosecdef OR place_kind <> 'public') AND NOT is_trigger
UNION ALL
SELECT 'definer-path', 'routine', object,
       coalesce((SELECT 'it runs on ' || c FROM unnest(proconfig) AS c WHERE c LIKE 'search_path=%'),
                'it runs on its caller''s search_path'),
       format('ALTER ROUTINE %s SET search_path = pg_catalog, %I, pg_temp;', object, nspname), NULL
  FROM routine
 WHERE prosecdef
   AND NOT EXISTS (SELECT FROM unnest(proconfig) AS c
                    WHERE c ~ '^search_path=(.*[, ])?"?pg_temp"?$' AND c !~ 'pg_temp.*pg_temp' AND c !~ '\$user')
UNION ALL
SELECT 'context-setting', 'routine', object, 'it asks current_setting',
       CASE proname WHEN 'tenant' THEN format('CREATE OR REPLACE FUNCTION %s RETURNS bigint LANGUAGE sql STABLE '
                                              'PARALLEL SAFE RETURN mt_paas.generation(CURRENT_USER);', object) END,
       NULL
  FROM routine r
 WHERE r.place_kind = 'control'
   AND position('current_setting' IN concat_ws(' ', r.prosrc, pg_catalog.pg_get_function_sqlbody(r.oid))) > 0
UNION ALL
-- The text of a function is not parsed, only looked through for the names of other tenants' schemas.
SELECT DISTINCT 'function-crosses', 'routine', r.object, format('it names %I', q.nspname),
       format('DROP ROUTINE %s;', r.object), NULL
  FROM routine r
 CROSS JOIN LATERAL regexp_matches(concat_ws(' ', r.prosrc, array_to_string(r.proconfig, ' ')), '[a-z0-9_]+', 'g') AS w
  JOIN place q ON q.nspname = w[1] AND q.kind IN ('tenant', 'reference') AND q.nspname <> r.nspname
 WHERE r.place_kind <> 'control' AND position(CAST(:installation AS text) || '_' IN concat_ws(' ', r.prosrc, array_to_string(r.proconfig, ' '))) > 0;

-- name: memberships
-- Who is a member of what. Before PostgreSQL 16 a membership has no options, and the member's own INHERIT decides.
WITH m AS (
    SELECT x.member, x.roleid, x.admin_option, me.rolsuper, me.rolcreaterole,
           coalesce((to_jsonb(x) ->> 'inherit_option')::boolean, me.rolinherit) AS inherits,
           coalesce((to_jsonb(x) ->> 'set_option')::boolean, true) AS may_set,
           r.rolname AS role, me.rolname AS name, ro.kind AS role_kind, ro.state, ro.login, mo.kind AS member_kind,
           mo.login AS belongs_to,
           r.rolname ~ '^pg_' AS predefined,
           CASE WHEN :modern THEN format(' GRANTED BY %I', pg_catalog.pg_get_userbyid(x.grantor)) ELSE '' END AS by
      FROM pg_catalog.pg_auth_members x
      JOIN pg_catalog.pg_roles r ON r.oid = x.roleid
      JOIN pg_catalog.pg_roles me ON me.oid = x.member
      LEFT JOIN ours ro ON ro.oid = x.roleid
      LEFT JOIN ours mo ON mo.oid = x.member
     WHERE ro.oid IS NOT NULL OR mo.oid IS NOT NULL
), judged AS (
    SELECT m.*, j.rule
      FROM m
     CROSS JOIN LATERAL (VALUES
           (CASE WHEN member_kind IS NOT NULL AND predefined THEN 'predefined-role'
                 WHEN member_kind = 'login' AND (role_kind IS DISTINCT FROM 'tenant'
                                                 OR login <> ALL (CAST(:logins AS text[]))) THEN 'login-member'
                 WHEN member_kind = 'login' AND login <> name THEN 'cell-member'
                 WHEN member_kind = 'login' AND :modern AND inherits THEN 'login-inherits'
                 WHEN member_kind = 'own' AND role IS DISTINCT FROM belongs_to THEN 'own-login-member'
                 WHEN member_kind IN ('tenant', 'reference') AND role_kind IS DISTINCT FROM 'group' THEN 'tenant-member'
                 WHEN member_kind = 'group' THEN 'group-member'
                 WHEN member_kind = 'owner' THEN 'owner-member'
                 WHEN member_kind IS NULL AND NOT rolsuper AND name <> session_user
                      AND NOT (rolcreaterole AND NOT inherits AND NOT may_set) THEN 'outsider-member' END),
           (CASE WHEN member_kind IN ('login', 'own') AND role_kind = 'tenant' AND admin_option THEN 'login-admin'
                 WHEN member_kind IN ('tenant', 'reference') AND role_kind = 'group' AND admin_option
                 THEN 'group-admin' END),
           (CASE WHEN member_kind IN ('login', 'own') AND role_kind = 'tenant' AND state NOT IN ('active', 'read_only')
                 THEN 'inactive-member' END)) AS j(rule)
     WHERE j.rule IS NOT NULL
)
SELECT rule, 'membership' AS kind, format('%I in %I', name, role) AS object, NULL AS what,
       CASE WHEN rule = 'cell-member' AND role = ANY (CAST(:moving AS text[])) THEN NULL  -- it is needed for a while
            WHEN rule = 'login-inherits' THEN format('GRANT %I TO %I WITH INHERIT FALSE%s;', role, name, by)
            WHEN rule IN ('login-admin', 'group-admin')
            THEN format('REVOKE ADMIN OPTION FOR %I FROM %I%s;', role, name, by)
            ELSE format('REVOKE %I FROM %I%s;', role, name, by) END AS mend,
       CASE WHEN rule = 'cell-member' AND role = ANY (CAST(:moving AS text[])) THEN 'info' END AS severity
  FROM judged;

-- name: roles
SELECT 'role-powers' AS rule, 'role' AS kind, format('%I', r.rolname) AS object, array_to_string(w.words, ', ') AS what,
       format('ALTER ROLE %I NO%s;', r.rolname, array_to_string(w.words, ' NO')) AS mend, NULL AS severity
  FROM ours o
  JOIN pg_catalog.pg_roles r ON r.oid = o.oid
 CROSS JOIN LATERAL (
       SELECT array_remove(ARRAY[CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
                                 CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                                 CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
                                 CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                                 CASE WHEN r.rolreplication THEN 'REPLICATION' END], NULL) AS words) AS w
 WHERE cardinality(w.words) > 0
UNION ALL
-- Before PostgreSQL 16 this is in force at once; from there on it is what the next GRANT without options gives.
SELECT CASE WHEN :modern THEN 'login-inherit' ELSE 'login-inherits' END, 'role', format('%I', r.rolname), NULL,
       format('ALTER ROLE %I NOINHERIT;', r.rolname), NULL
  FROM ours o
  JOIN pg_catalog.pg_roles r ON r.oid = o.oid
 WHERE o.kind = 'login' AND r.rolinherit
UNION ALL
SELECT CASE o.kind WHEN 'tenant' THEN 'tenant-login' ELSE 'role-login' END, 'role', format('%I', r.rolname), NULL,
       format('ALTER ROLE %I NOLOGIN;', r.rolname), NULL
  FROM ours o
  JOIN pg_catalog.pg_roles r ON r.oid = o.oid
 WHERE o.kind NOT IN ('login', 'own') AND r.rolcanlogin
UNION ALL
SELECT 'inactive-login', 'role', format('%I', r.rolname), o.state, format('ALTER ROLE %I NOLOGIN;', r.rolname), NULL
  FROM ours o
  JOIN pg_catalog.pg_roles r ON r.oid = o.oid
 WHERE o.kind = 'own' AND r.rolcanlogin AND o.state NOT IN ('active', 'read_only')
UNION ALL
SELECT CASE s.what WHEN 'role' THEN 'stray-role' ELSE 'stray-schema' END, s.what, format('%I', s.name), NULL,
       format(CASE s.what WHEN 'role' THEN 'DROP ROLE %I;' ELSE 'DROP SCHEMA %I CASCADE;' END, s.name), NULL
  FROM (SELECT 'role' AS what, rolname AS name FROM pg_catalog.pg_roles
        EXCEPT
        SELECT 'role', rolname FROM ours
        UNION ALL
        (SELECT 'schema', nspname FROM pg_catalog.pg_namespace
         EXCEPT
         SELECT 'schema', nspname FROM place)) AS s
 WHERE s.name ~ ('^' || CAST(:installation AS text) || '_.*_[0-9]+$')
   -- Another installation's name may begin with ours.
   AND NOT EXISTS (SELECT
                     FROM pg_catalog.pg_roles x
                    WHERE x.rolname ~ '_owner$'
                      AND length(x.rolname) > length(CAST(:owner AS text))
                      AND starts_with(s.name, left(x.rolname, -5))
                      AND pg_catalog.shobj_description(x.oid, 'pg_authid') LIKE 'mt_paas_db installation %')
UNION ALL
SELECT 'tenant-missing', 'tenant', t.tenant_id,
       concat_ws(' and ', CASE WHEN r.oid IS NULL THEN format('role %I', t.role_name) END,
                 CASE WHEN n.oid IS NULL THEN format('schema %I', t.schema_name) END), NULL, NULL
  FROM tenant t
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
 WHERE t.state NOT IN ('provisioning', 'deleting') AND (r.oid IS NULL OR n.oid IS NULL);

-- name: settings
-- What is set for a role, for the database or for the server. What is set for the login's path, the doctor tells.
WITH setting AS (
    SELECT lower(split_part(c.setting, '=', 1)) AS name, substr(c.setting, strpos(c.setting, '=') + 1) AS value, o.kind,
           o.login AS belongs_to, s.setdatabase = 0 AS everywhere,
           CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'ROLE ALL'
                WHEN s.setrole = 0 THEN format('DATABASE %I', current_database())
                WHEN s.setdatabase = 0 THEN format('ROLE %I', o.rolname)
                ELSE format('ROLE %I IN DATABASE %I', o.rolname, current_database()) END AS whose
      FROM pg_catalog.pg_db_role_setting s
     CROSS JOIN LATERAL unnest(s.setconfig) AS c(setting)
      LEFT JOIN ours o ON o.oid = s.setrole
     WHERE (s.setrole = 0 OR o.oid IS NOT NULL)
       AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
    UNION ALL
    SELECT name, setting, NULL, NULL, NULL, NULL
      FROM pg_catalog.pg_settings
     WHERE source NOT IN ('default', 'database', 'user', 'database user', 'session', 'client')
)
SELECT r.rule, 'setting' AS kind, concat_ws(' ', lower(substring(whose FROM '^\w+')) || substring(whose FROM ' .*$'), name)
       AS object, value AS what,
       coalesce('ALTER ' || whose, 'ALTER SYSTEM')
       || CASE WHEN rule = 'own-login-setting' AND everywhere AND meant IS NOT NULL THEN format(' SET %I = %s;', name, meant)
               ELSE format(' RESET %I;', name) END AS mend, NULL AS severity
  FROM setting
 CROSS JOIN LATERAL (
       SELECT CASE WHEN kind = 'own' AND name = 'role' THEN quote_ident(belongs_to)
                   WHEN kind = 'own' AND name = 'search_path'
                   THEN array_to_string(ARRAY(SELECT quote_ident(p) FROM unnest(belongs_to || CAST(:shared AS text[])
                                                                              || CAST('pg_temp' AS text)) AS p), ', ')
              END AS meant) AS m
 CROSS JOIN LATERAL (
       SELECT CASE WHEN name = 'row_security' AND value IN ('off', 'false', 'no', '0') THEN 'row-security-off'
                   WHEN name IN ('session_preload_libraries', 'local_preload_libraries') AND value <> '' THEN 'preload'
                   WHEN name = 'lo_compat_privileges' AND value IN ('on', 'true', 'yes', '1') THEN 'large-object-compat'
                   WHEN name = 'log_statement' AND value IN ('all', 'mod') THEN 'statement-log'
                   WHEN kind = 'own' AND name IN ('role', 'search_path')
                   THEN CASE WHEN NOT everywhere OR quote_ident(value) <> meant AND value <> meant THEN 'own-login-setting' END
                   WHEN name IN ('role', 'search_path', 'session_authorization') AND kind <> 'login' THEN 'role-setting'
              END AS rule) AS r
 WHERE r.rule IS NOT NULL;

-- name: defaults
-- What is granted on objects that somebody will make, to those for whom it is not meant.
WITH word(type, kind) AS (
    VALUES ('r'::"char", 'TABLES'), ('S', 'SEQUENCES'), ('f', 'FUNCTIONS'), ('T', 'TYPES'), ('n', 'SCHEMAS')
)
SELECT 'default-rights' AS rule, 'default' AS kind,
       concat_ws(' ', k.kind, 'of', format('%I', m.rolname), 'in ' || quote_ident(n.nspname)) AS object,
       format('%s is to have %s', g.name, string_agg(DISTINCT a.privilege_type, ', ')) AS what,
       format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE %s ON %s FROM %s;', m.rolname,
              ' IN SCHEMA ' || quote_ident(n.nspname), string_agg(DISTINCT a.privilege_type, ', '), k.kind, g.name)
       AS mend,
       NULL AS severity
  FROM pg_catalog.pg_default_acl d
  JOIN word k ON k.type = d.defaclobjtype
  JOIN pg_catalog.pg_roles m ON m.oid = d.defaclrole
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
  LEFT JOIN place p ON p.oid = d.defaclnamespace
 CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS a
  JOIN grantee g ON g.oid = a.grantee
 WHERE (d.defaclnamespace = 0 OR p.oid IS NOT NULL)
   AND g.kind <> 'owner'
   -- A list for all schemas is whole: it repeats what everybody has anyway.
   AND NOT (d.defaclnamespace = 0 AND g.kind = 'public' AND k.kind IN ('FUNCTIONS', 'TYPES'))
   AND NOT (coalesce(g.oid = p.role OR (p.kind = 'shared' AND g.kind IN ('group', 'tenant', 'reference')), false)
            AND a.privilege_type NOT IN ('TRUNCATE', 'TRIGGER', 'REFERENCES', 'MAINTAIN'))
 GROUP BY k.kind, m.rolname, n.nspname, g.name
UNION ALL
SELECT 'default-missing', 'default', concat_ws(' ', k.kind, 'of', quote_ident(o.rolname), 'in', quote_ident(p.nspname)),
       format('%I will not have %s', r.rolname, array_to_string(k.rights, ', ')),
       format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT %s ON %s TO %I;', o.rolname, p.nspname,
              array_to_string(k.rights, ', '), k.kind, r.rolname), NULL
  FROM place p
  JOIN ours r ON r.oid = p.role
  JOIN ours o ON o.kind = 'owner'
 CROSS JOIN (VALUES ('r'::"char", 'TABLES', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
                    ('S'::"char", 'SEQUENCES', ARRAY['USAGE']),
                    ('f'::"char", 'FUNCTIONS', ARRAY['EXECUTE'])) AS k(type, kind, rights)
  LEFT JOIN pg_catalog.pg_default_acl d
    ON d.defaclrole = o.oid AND d.defaclnamespace = p.oid AND d.defaclobjtype = k.type
 WHERE NOT k.rights <@ ARRAY(SELECT a.privilege_type FROM pg_catalog.aclexplode(d.defaclacl) AS a WHERE a.grantee = r.oid)
UNION ALL
SELECT 'default-execute', 'role', format('%I', o.rolname), NULL,
       format('ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;', o.rolname), NULL
  FROM ours o
 WHERE o.kind = 'owner'
   AND NOT EXISTS (SELECT
                     FROM pg_catalog.pg_default_acl d
                    WHERE d.defaclrole = o.oid AND d.defaclnamespace = 0 AND d.defaclobjtype = 'f'
                      AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(d.defaclacl) AS a WHERE a.grantee = 0));

-- name: database
-- Rights on what lies in no schema: the database, parameters, large objects, foreign servers.
WITH here AS (
    SELECT * FROM pg_catalog.pg_database WHERE datname = current_database()
)
SELECT CASE WHEN a.privilege_type = 'CONNECT' THEN 'database-connect' ELSE 'database-rights' END AS rule,
       'database' AS kind, format('%I', d.datname) AS object,
       format('%s has %s', g.name, a.privilege_type) AS what,
       format('REVOKE %s ON DATABASE %I FROM %s;', a.privilege_type, d.datname, g.name) AS mend, NULL AS severity
  FROM here d
 CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS a
  JOIN grantee g ON g.oid = a.grantee
 WHERE g.kind <> 'owner' AND NOT (g.kind IN ('login', 'group', 'tenant') AND a.privilege_type = 'CONNECT')
UNION ALL
SELECT 'parameter-rights', 'parameter', p.parname, format('%s has %s', g.name, string_agg(a.privilege_type, ', ')),
       format('REVOKE %s ON PARAMETER %s FROM %s;', string_agg(a.privilege_type, ', '), p.parname, g.name), NULL
  FROM pg_catalog.pg_parameter_acl p
 CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) AS a
  JOIN grantee g ON g.oid = a.grantee
 GROUP BY p.parname, g.name
UNION ALL
SELECT 'large-object', 'large object', l.oid::text, format('%s has %s', g.name, string_agg(a.privilege_type, ', ')),
       format('REVOKE ALL ON LARGE OBJECT %s FROM %s;', l.oid, g.name), NULL
  FROM pg_catalog.pg_largeobject_metadata l
 CROSS JOIN LATERAL pg_catalog.aclexplode(l.lomacl) AS a
  JOIN grantee g ON g.oid = a.grantee
 WHERE g.oid <> l.lomowner
 GROUP BY l.oid, g.name
UNION ALL
SELECT 'large-object-owner', 'large object', l.oid::text, format('it belongs to %I', o.rolname),
       format('ALTER LARGE OBJECT %s OWNER TO %I;', l.oid, w.rolname), NULL
  FROM pg_catalog.pg_largeobject_metadata l
  JOIN ours o ON o.oid = l.lomowner AND o.kind IN ('login', 'group')
  JOIN ours w ON w.kind = 'owner'
UNION ALL
SELECT 'foreign-server', 'foreign server', format('%I', s.srvname), format('of wrapper %I', w.fdwname),
       format('DROP SERVER %I;', s.srvname),
       CASE WHEN EXISTS (SELECT FROM pg_catalog.aclexplode(s.srvacl) AS a JOIN grantee g ON g.oid = a.grantee)
            THEN 'high' END
  FROM pg_catalog.pg_foreign_server s
  JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
UNION ALL
SELECT 'user-mapping', 'user mapping', format('%s on %I', g.name, u.srvname), NULL,
       format('DROP USER MAPPING FOR %s SERVER %I;', g.name, u.srvname), NULL
  FROM pg_catalog.pg_user_mappings u
  JOIN grantee g ON g.oid = u.umuser;

-- name: facilities
-- What works past schemas and roles: extensions, languages, replication, event triggers.
SELECT CASE WHEN e.extname IN ('dblink', 'postgres_fdw', 'file_fdw', 'adminpack', 'lo') THEN 'extension-dangerous'
            ELSE 'extension-in-tenant' END AS rule,
       'extension' AS kind, format('%I', e.extname) AS object, format('in schema %I', n.nspname) AS what,
       CASE WHEN e.extname IN ('dblink', 'postgres_fdw', 'file_fdw', 'adminpack', 'lo')
            THEN format('DROP EXTENSION %I;', e.extname)
            ELSE format('ALTER EXTENSION %I SET SCHEMA %I;', e.extname,
                        coalesce((SELECT s.nspname FROM place s WHERE s.kind = 'shared' ORDER BY 1 LIMIT 1), 'public'))
       END AS mend,
       NULL AS severity
  FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
  LEFT JOIN place p ON p.oid = e.extnamespace
 WHERE e.extname IN ('dblink', 'postgres_fdw', 'file_fdw', 'adminpack', 'lo') OR p.kind IN ('tenant', 'reference')
UNION ALL
SELECT 'untrusted-language', 'language', format('%I', lanname), NULL, format('DROP LANGUAGE %I;', lanname), NULL
  FROM pg_catalog.pg_language
 WHERE NOT lanpltrusted AND lanname NOT IN ('internal', 'c')
UNION ALL
SELECT DISTINCT 'publication', 'publication', format('%I', b.pubname),
       CASE WHEN b.puballtables THEN 'all tables' ELSE format('tables of %I', p.nspname) END,
       CASE WHEN b.puballtables THEN format('DROP PUBLICATION %I;', b.pubname)
            WHEN s.oid IS NOT NULL THEN format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I;', b.pubname, p.nspname)
            ELSE format('ALTER PUBLICATION %I DROP TABLE %I.%I;', b.pubname, p.nspname, c.relname) END, NULL
  FROM pg_catalog.pg_publication b
  LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = b.oid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
  LEFT JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = b.oid
  LEFT JOIN place p ON p.oid IN (c.relnamespace, s.pnnspid)
 WHERE b.puballtables OR p.oid IS NOT NULL
UNION ALL
SELECT 'subscription', 'subscription', format('%I', s.subname), NULL, format('DROP SUBSCRIPTION %I;', s.subname), NULL
  FROM pg_catalog.pg_subscription s
 WHERE s.subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
UNION ALL
SELECT 'event-trigger', 'event trigger', format('%I', v.evtname), format('it calls %s', v.evtfoid::regproc),
       format('DROP EVENT TRIGGER %I;', v.evtname), NULL
  FROM pg_catalog.pg_event_trigger v
  JOIN pg_catalog.pg_proc f ON f.oid = v.evtfoid
  LEFT JOIN place p ON p.oid = f.pronamespace
 WHERE p.kind IS DISTINCT FROM 'control'
   AND NOT EXISTS (SELECT FROM member_of_extension e
                    WHERE e.classid = 'pg_catalog.pg_event_trigger'::regclass AND e.objid = v.oid);

-- name: owners
-- What belongs to others than the installation's owner, and what stands in `public`.
WITH owner AS (
    SELECT oid, rolname FROM ours WHERE kind = 'owner'
), thing AS (
    SELECT p.kind AS place_kind, 'relation' AS kind, format('%I.%I', p.nspname, c.relname) AS object, c.relowner AS owner,
           CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                          WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS word,
           'pg_catalog.pg_class'::regclass AS classid, c.oid
      FROM place p
      JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     WHERE NOT EXISTS (SELECT  -- a column's sequence goes with its table
                         FROM pg_catalog.pg_depend d
                        WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                          AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i'))
    UNION ALL
    SELECT p.kind, 'routine',
           format('%I.%I(%s)', p.nspname, f.proname, pg_catalog.pg_get_function_identity_arguments(f.oid)), f.proowner,
           'ROUTINE', 'pg_catalog.pg_proc'::regclass, f.oid
      FROM place p
      JOIN pg_catalog.pg_proc f ON f.pronamespace = p.oid
     WHERE NOT (p.kind = 'control' AND f.proname = 'pooler_lookup'  -- reads pg_authid, a superuser's right alone
                AND f.proowner IN (SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper))
    UNION ALL
    SELECT p.kind, 'type', format('%I.%I', p.nspname, y.typname), y.typowner, 'TYPE', 'pg_catalog.pg_type'::regclass,
           y.oid
      FROM place p
      JOIN pg_catalog.pg_type y ON y.typnamespace = p.oid AND y.typtype IN ('d', 'e', 'r')
)
SELECT 'schema-owner' AS rule, 'schema' AS kind, format('%I', p.nspname) AS object,
       pg_catalog.pg_get_userbyid(p.nspowner) AS what, format('ALTER SCHEMA %I OWNER TO %I;', p.nspname, o.rolname) AS mend,
       CASE WHEN p.nspowner IN (SELECT oid FROM ours) THEN 'critical' END AS severity
  FROM place p, owner o
 WHERE p.kind <> 'public' AND p.nspowner <> o.oid
UNION ALL
SELECT CASE WHEN t.place_kind = 'public' THEN 'public-object' ELSE 'object-owner' END, t.kind, t.object,
       pg_catalog.pg_get_userbyid(t.owner),
       CASE WHEN t.place_kind = 'public' THEN format('DROP %s %s;', t.word, t.object)
            ELSE format('ALTER %s %s OWNER TO %I;', t.word, t.object, o.rolname) END,
       CASE WHEN t.place_kind <> 'public' AND t.owner IN (SELECT oid FROM ours) THEN 'critical' END
  FROM thing t, owner o
 WHERE (t.place_kind = 'public' OR t.owner <> o.oid)
   AND NOT EXISTS (SELECT FROM member_of_extension e WHERE e.classid = t.classid AND e.objid = t.oid);

-- name: crossings
-- What stands in one schema and leans on what is another tenant's, as the server itself recorded it.
WITH located AS (
    SELECT 'pg_catalog.pg_class'::regclass::oid AS classid, c.oid AS objid, p.oid AS place,
           CASE WHEN c.relkind IN ('i', 'I') THEN 'index' ELSE 'table' END AS kind, c.oid AS relation, NULL::name AS label
      FROM pg_catalog.pg_class c JOIN place p ON p.oid = c.relnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::regclass, f.oid, p.oid, 'routine', NULL, NULL
      FROM pg_catalog.pg_proc f JOIN place p ON p.oid = f.pronamespace
    UNION ALL
    SELECT 'pg_catalog.pg_type'::regclass, y.oid, p.oid, 'type', NULL, NULL
      FROM pg_catalog.pg_type y JOIN place p ON p.oid = y.typnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_constraint'::regclass, k.oid, p.oid, CASE k.contype WHEN 'f' THEN 'fk' ELSE 'check' END,
           k.conrelid, k.conname
      FROM pg_catalog.pg_constraint k JOIN place p ON p.oid = k.connamespace
     WHERE k.contype IN ('f', 'c') AND k.conrelid <> 0
    UNION ALL
    SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid, p.oid, 'default', d.adrelid, t.attname
      FROM pg_catalog.pg_attrdef d
      JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
      JOIN place p ON p.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute t ON t.attrelid = d.adrelid AND t.attnum = d.adnum
    UNION ALL
    SELECT 'pg_catalog.pg_trigger'::regclass, g.oid, p.oid, 'trigger', g.tgrelid, g.tgname
      FROM pg_catalog.pg_trigger g
      JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
      JOIN place p ON p.oid = c.relnamespace
     WHERE NOT g.tgisinternal
    UNION ALL
    SELECT 'pg_catalog.pg_rewrite'::regclass, w.oid, p.oid, 'view', w.ev_class, w.rulename
      FROM pg_catalog.pg_rewrite w
      JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
      JOIN place p ON p.oid = c.relnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_policy'::regclass, y.oid, p.oid, 'policy', y.polrelid, y.polname
      FROM pg_catalog.pg_policy y
      JOIN pg_catalog.pg_class c ON c.oid = y.polrelid
      JOIN place p ON p.oid = c.relnamespace
), edge AS (
    SELECT DISTINCT a.kind, a.place AS from_place, b.place AS to_place, a.objid, a.classid, a.relation, a.label,
           d.refclassid, d.refobjid, b.kind AS to_kind, CASE WHEN b.kind = 'type' THEN d.objsubid ELSE 0 END AS attnum
      FROM pg_catalog.pg_depend d
      JOIN located a ON a.classid = d.classid AND a.objid = d.objid
      JOIN located b ON b.classid = d.refclassid AND b.objid = d.refobjid AND b.place <> a.place
     WHERE d.deptype IN ('n', 'a', 'P', 'S')
), judged AS (
    SELECT e.*, p.nspname, q.nspname AS other, c.relname, c.relkind, t.attname,
           quote_ident(p.nspname) || '.' || quote_ident(c.relname) AS table_name,
           CASE WHEN e.kind IN ('fk', 'trigger', 'view', 'policy', 'routine') THEN e.kind
                WHEN e.kind IN ('default', 'check', 'index') AND e.to_kind IN ('routine', 'table') THEN 'default'
                WHEN e.kind = 'table' AND e.to_kind = 'type' THEN 'type'
                WHEN e.kind = 'table' AND e.to_kind = 'table' THEN 'inherits' END AS how
      FROM edge e
      JOIN place p ON p.oid = e.from_place
      JOIN place q ON q.oid = e.to_place AND q.kind IN ('tenant', 'reference')
      LEFT JOIN pg_catalog.pg_class c ON c.oid = e.relation
      LEFT JOIN pg_catalog.pg_attribute t ON t.attrelid = e.relation AND t.attnum = e.attnum AND e.attnum > 0
)
SELECT CASE how WHEN 'routine' THEN 'function-crosses' ELSE how || '-crosses' END AS rule,
       CASE how WHEN 'fk' THEN 'constraint' WHEN 'default' THEN j.kind WHEN 'type' THEN 'column' WHEN 'inherits' THEN 'table'
                ELSE how END AS kind,
       CASE how WHEN 'view' THEN table_name ELSE i.identity END AS object,
       format('it leans on %s', max(r.identity)) AS what,
       CASE how WHEN 'fk' THEN format('ALTER TABLE %s DROP CONSTRAINT %I;', table_name, label)
                WHEN 'trigger' THEN format('DROP TRIGGER %I ON %s;', label, table_name)
                WHEN 'policy' THEN format('DROP POLICY %I ON %s;', label, table_name)
                WHEN 'view' THEN format('DROP %s %s;', CASE j.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END,
                                        table_name)
                WHEN 'routine' THEN format('DROP ROUTINE %s;', i.identity)
                WHEN 'type' THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE %I.%I USING %I::text::%I.%I;', table_name,
                                        attname, nspname, y.typname, attname, nspname, y.typname)
                WHEN 'inherits' THEN CASE WHEN c.relispartition
                     THEN format('ALTER TABLE %s DETACH PARTITION %s;', max(r.identity), i.identity)
                     ELSE format('ALTER TABLE %s NO INHERIT %s;', i.identity, max(r.identity)) END
                WHEN 'default' THEN CASE j.kind
                     WHEN 'default' THEN format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT;', table_name, label)
                     WHEN 'check' THEN format('ALTER TABLE %s DROP CONSTRAINT %I;', table_name, label)
                     ELSE format('DROP INDEX %s;', i.identity) END
       END AS mend,
       NULL AS severity
  FROM judged j
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(
       j.classid, j.objid, CASE WHEN j.how = 'type' THEN j.attnum ELSE 0 END) AS i
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(j.refclassid, j.refobjid, 0) AS r
  LEFT JOIN pg_catalog.pg_type y ON j.how = 'type' AND y.oid = j.refobjid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = j.relation
 WHERE how IS NOT NULL
 GROUP BY how, j.kind, i.identity, table_name, label, j.relkind, nspname, attname, y.typname, c.relispartition;

-- name: tables
-- Row security that is not in force; and, where an installation guards its tenants' own tables, one without a guard.
WITH guarded AS (
    SELECT polrelid AS oid, bool_or(NOT polpermissive) AS restrictive FROM pg_catalog.pg_policy GROUP BY polrelid
), candidate AS (
    SELECT c.oid, format('%I.%I', p.nspname, c.relname) AS object, c.relname, p.kind, c.relrowsecurity,
           c.relforcerowsecurity, g.oid IS NOT NULL AS has_policy, coalesce(g.restrictive, false) AS has_guard,
           r.oid IS NOT NULL AS is_ruled
      FROM place p
      JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relkind IN ('r', 'p')
      LEFT JOIN guarded g ON g.oid = c.oid
      LEFT JOIN ruled r ON r.oid = c.oid
     WHERE p.kind <> 'public'
)
SELECT 'rls-off' AS rule, 'table' AS kind, object, CASE WHEN has_policy THEN 'has policies, but' END AS what,
       format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;', object) AS mend, NULL AS severity
  FROM candidate
 WHERE NOT relrowsecurity AND (is_ruled OR has_policy)
UNION ALL
SELECT 'rls-not-forced', 'table', object, NULL, format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', object), NULL
  FROM candidate
 WHERE relrowsecurity AND NOT relforcerowsecurity
UNION ALL
SELECT 'guard-missing', 'table', object, NULL,
       CASE WHEN to_regprocedure('mt_paas.protect(regclass)') IS NOT NULL
            THEN format('SELECT mt_paas.protect(%L);', object) END, NULL
  FROM candidate
 WHERE kind IN ('tenant', 'reference') AND NOT has_guard AND relname <> 'alembic_version'
   AND (:guards OR EXISTS (SELECT FROM candidate WHERE kind IN ('tenant', 'reference') AND has_guard))
UNION ALL
SELECT 'shared-writable', 'table', c.object, format('%s has %s', g.name, string_agg(DISTINCT a.privilege_type, ', ')),
       format('REVOKE %s ON TABLE %s FROM %s;', string_agg(DISTINCT a.privilege_type, ', '), c.object, g.name), NULL
  FROM candidate c
  JOIN pg_catalog.pg_class t ON t.oid = c.oid
 CROSS JOIN LATERAL pg_catalog.aclexplode(t.relacl) AS a
  JOIN grantee g ON g.oid = a.grantee AND g.kind IN ('group', 'tenant', 'reference')
 WHERE c.kind = 'shared' AND NOT c.is_ruled AND NOT c.relrowsecurity
   AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')
 GROUP BY c.object, g.name;

-- name: keys
-- Keys and indexes of shared tables in which the tenant does not come first.
WITH index AS (
    SELECT r.name AS table_name, r.attnum, r.attname, i.*, c.relname, k.conname, k.contype,
           format('%I.%I', r.nspname, c.relname) AS object,
           (SELECT string_agg(format('%I', t.attname), ', ' ORDER BY u.place)
              FROM unnest(i.indkey[0:i.indnkeyatts - 1]::int2[]) WITH ORDINALITY AS u(attnum, place)
              JOIN pg_catalog.pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = u.attnum
             WHERE u.attnum <> r.attnum) AS others
      FROM ruled r
      JOIN pg_catalog.pg_index i ON i.indrelid = r.oid AND i.indkey[0] <> r.attnum
      JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
      LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = r.oid
                                          AND k.contype IN ('p', 'u', 'x')
)
SELECT 'exclusion-not-led' AS rule, 'constraint' AS kind, object, table_name AS what,
       format('ALTER TABLE %s DROP CONSTRAINT %I;', table_name, conname) AS mend, NULL AS severity
  FROM index
 WHERE contype = 'x' AND NOT attnum = ANY (indkey::int2[])
UNION ALL
SELECT 'unique-not-led', 'index', object, table_name,
       CASE WHEN contype IN ('p', 'u')
            THEN format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s (%s);', table_name, conname, conname,
                        CASE contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, concat_ws(', ', format('%I', attname), others))
            ELSE format('DROP INDEX %s; %s;', object,
                        regexp_replace(pg_catalog.pg_get_indexdef(indexrelid), 'USING btree \(',
                                       format('USING btree (%I, ', attname))) END, NULL
  FROM index
 WHERE indisunique AND contype IS DISTINCT FROM 'x'
UNION ALL
SELECT 'index-not-led', 'index', object, table_name,
       CASE WHEN pg_catalog.pg_get_indexdef(indexrelid) LIKE '%USING btree (%'
            THEN format('DROP INDEX %s; %s;', object,
                        regexp_replace(pg_catalog.pg_get_indexdef(indexrelid), 'USING btree \(',
                                       format('USING btree (%I, ', attname))) END, NULL
  FROM index
 WHERE NOT indisunique AND NOT indisexclusion
UNION ALL
SELECT 'fk-not-led', 'constraint', format('%s.%I', r.name, k.conname), q.name,
       format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I FOREIGN KEY (%I, %s) REFERENCES %s (%I, %s)%s;',
              r.name, k.conname, k.conname, r.attname, f.mine, q.name, q.attname, f.theirs,
              substring(pg_catalog.pg_get_constraintdef(k.oid) FROM 'REFERENCES [^(]+\([^)]+\)(.*)$')), NULL
  FROM pg_catalog.pg_constraint k
  JOIN ruled r ON r.oid = k.conrelid AND r.attnum IS NOT NULL
  JOIN ruled q ON q.oid = k.confrelid AND q.attnum IS NOT NULL
 CROSS JOIN LATERAL (
       SELECT bool_or(u.mine = r.attnum AND u.theirs = q.attnum) AS led,
              string_agg(format('%I', a.attname), ', ' ORDER BY u.place) FILTER (WHERE NOT u.of_tenant) AS mine,
              string_agg(format('%I', b.attname), ', ' ORDER BY u.place) FILTER (WHERE NOT u.of_tenant) AS theirs
         FROM (SELECT *, mine = r.attnum OR theirs = q.attnum AS of_tenant
                 FROM unnest(k.conkey, k.confkey) WITH ORDINALITY AS v(mine, theirs, place)) AS u
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.mine
         JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.theirs) AS f
 WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT f.led;

-- name: views
-- Views that read with their owner's rights, and materialized ones, which no policy filters.
WITH reads AS (
    SELECT w.ev_class AS view, bool_or(r.oid IS NOT NULL) AS ruled
      FROM pg_catalog.pg_rewrite w
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> w.ev_class
      LEFT JOIN ruled r ON r.oid = d.refobjid
     GROUP BY w.ev_class
)
SELECT CASE c.relkind WHEN 'v' THEN 'view-definer' ELSE 'matview-rows' END AS rule,
       CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END AS kind,
       format('%I.%I', p.nspname, c.relname) AS object,
       CASE WHEN r.ruled THEN 'it reads a table with rows of several tenants'
            ELSE 'it reads with the rights of its owner' END AS what,
       CASE c.relkind WHEN 'v' THEN format('ALTER VIEW %I.%I SET (security_invoker = true);', p.nspname, c.relname)
                      ELSE format('DROP MATERIALIZED VIEW %I.%I;', p.nspname, c.relname) END AS mend,
       CASE WHEN r.ruled AND c.relkind = 'v' THEN 'critical' END AS severity
  FROM place p
  JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relkind IN ('v', 'm')
  LEFT JOIN reads r ON r.view = c.oid
 WHERE p.kind <> 'public'
   AND CASE c.relkind WHEN 'v' THEN NOT coalesce(c.reloptions, '{}') && ARRAY['security_invoker=true', 'security_invoker=on',
                                                                              'security_invoker=1', 'security_invoker=yes']
                      ELSE coalesce(r.ruled, false) END
   AND NOT EXISTS (SELECT FROM member_of_extension e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid);

-- name: policies
-- Policies that call a function, are for some roles, or are of a shared table. Read by predicates.py.
SELECT format('%I.%I', p.nspname, c.relname) AS table_name, format('%I', y.polname) AS name,
       y.polpermissive AS permissive, x.qual, x.with_check,
       r.oid IS NOT NULL AND (r.attnum IS NOT NULL OR y.polcmd <> 'r') AS ruled,
       y.polroles = ARRAY[(SELECT oid FROM ours WHERE kind = 'owner')] AS of_owner,
       EXISTS (SELECT
                 FROM pg_catalog.pg_policy z
                WHERE z.polrelid = y.polrelid AND NOT z.polpermissive
                  AND pg_catalog.pg_get_expr(z.polqual, z.polrelid)
                      ~* 'current_setting\(|mt_paas\.|current_user|session_user|current_role') AS guarded,
       ARRAY(SELECT CASE u WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(u)::text END
               FROM unnest(y.polroles) AS u) AS roles,
       coalesce(x.qual || x.with_check, x.qual, x.with_check) ~ '\m(current_setting|[a-z0-9_"]+\.[a-z0-9_"]+)\(' AS calls,
       ARRAY(SELECT format('%I.%I', n.nspname, f.proname)
               FROM pg_catalog.pg_depend d
               JOIN pg_catalog.pg_proc f ON f.oid = d.refobjid AND f.provolatile <> 'i'
               JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
              WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = y.oid
                AND d.refclassid = 'pg_catalog.pg_proc'::regclass) AS functions
  FROM pg_catalog.pg_policy y
  JOIN pg_catalog.pg_class c ON c.oid = y.polrelid
  JOIN place p ON p.oid = c.relnamespace
  LEFT JOIN ruled r ON r.oid = c.oid
 CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(y.polqual, y.polrelid) AS qual,
                            pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid) AS with_check
                     OFFSET 0) AS x  -- else each use would print the expression again
 WHERE r.oid IS NOT NULL
    OR y.polroles <> ARRAY[0::oid]
    OR coalesce(x.qual || x.with_check, x.qual, x.with_check) ~ '\m(current_setting|[a-z0-9_"]+\.[a-z0-9_"]+)\(';

-- name: server
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS release;
