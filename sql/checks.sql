-- What `doctor` asks a server. Read only; :login is the login role, :owner the owner role, :group the tenants' group,
-- :reference the role and schema that tenants are compared with.
-- Rights are read from the access lists where it matters who was granted what, and asked of the server
-- where it matters what a role may do in the end.

-- name: login_attributes
SELECT rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin
  FROM pg_catalog.pg_roles
 WHERE rolname = :login;

-- name: login_settings
-- What a new connection of the login role to this database starts with.
SELECT s.setrole <> 0 AS of_role, s.setdatabase <> 0 AS in_database,
       lower(split_part(c.setting, '=', 1)) AS name,
       substr(c.setting, strpos(c.setting, '=') + 1) AS value
  FROM pg_catalog.pg_db_role_setting s
 CROSS JOIN LATERAL unnest(s.setconfig) AS c(setting)
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
   AND s.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :login))
   AND lower(split_part(c.setting, '=', 1)) IN ('search_path', 'role')
 ORDER BY 1, 2, 3;

-- name: login_schemas
-- Schemas on which the login role has a right without taking a tenant's role.
SELECT nspname
  FROM pg_catalog.pg_namespace
 WHERE nspname !~ '^pg_'
   AND nspname NOT IN ('information_schema', 'mt_paas')
   AND (pg_catalog.has_schema_privilege(:login, oid, 'USAGE') OR pg_catalog.has_schema_privilege(:login, oid, 'CREATE'))
 ORDER BY nspname
 LIMIT 20;

-- name: login_catalog
-- What the login role, or everybody, was granted in the control schema beyond its use and resolve().
SELECT g.kind, g.object, string_agg(DISTINCT a.privilege_type, ', ') AS rights
  FROM (SELECT 'SCHEMA' AS kind, 'mt_paas' AS object, nspacl AS acl
          FROM pg_catalog.pg_namespace
         WHERE nspname = 'mt_paas'
        UNION ALL
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, format('mt_paas.%I', c.relname), x.acl
          FROM pg_catalog.pg_class c
         CROSS JOIN LATERAL (SELECT c.relacl
                             UNION ALL
                             SELECT t.attacl FROM pg_catalog.pg_attribute t WHERE t.attrelid = c.oid) AS x(acl)
         WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'mt_paas')
           AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')) AS g
 CROSS JOIN LATERAL pg_catalog.aclexplode(g.acl) AS a
 WHERE a.grantee IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :login))
   AND NOT (g.kind = 'SCHEMA' AND a.privilege_type = 'USAGE')
 GROUP BY g.kind, g.object
 ORDER BY g.kind, g.object;

-- name: login_database
SELECT pg_catalog.has_database_privilege(:login, current_database(), 'TEMP') AS temp,
       pg_catalog.has_database_privilege(:login, current_database(), 'CREATE') AS may_create,
       pg_catalog.has_database_privilege(:login, current_database(), 'CONNECT') AS may_connect;

-- name: login_memberships_16
-- The login role's memberships that are not as they should be.
SELECT r.rolname AS role, pg_catalog.pg_get_userbyid(m.grantor) AS grantor,
       t.generation IS NOT NULL AS is_tenant,
       EXISTS (SELECT FROM mt_paas.tenant o JOIN mt_paas.cell k ON k.name = o.cell AND k.login_role <> k.name
                WHERE o.role_name = r.rolname) AS is_of_another_cell,
       m.admin_option, m.inherit_option, m.set_option
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member AND l.rolname = :login
  LEFT JOIN (mt_paas.tenant t JOIN mt_paas.cell c ON c.name = t.cell AND c.login_role = :login) ON t.role_name = r.rolname
 WHERE t.generation IS NULL OR m.admin_option OR m.inherit_option OR NOT m.set_option
 ORDER BY r.rolname, grantor
 LIMIT 100;

-- name: login_memberships_15
SELECT r.rolname AS role, NULL AS grantor,
       t.generation IS NOT NULL AS is_tenant,
       EXISTS (SELECT FROM mt_paas.tenant o JOIN mt_paas.cell k ON k.name = o.cell AND k.login_role <> k.name
                WHERE o.role_name = r.rolname) AS is_of_another_cell,
       m.admin_option, false AS inherit_option, true AS set_option
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member AND l.rolname = :login
  LEFT JOIN (mt_paas.tenant t JOIN mt_paas.cell c ON c.name = t.cell AND c.login_role = :login) ON t.role_name = r.rolname
 WHERE t.generation IS NULL OR m.admin_option
 ORDER BY r.rolname
 LIMIT 100;

-- name: role_attributes
SELECT r.rolname,
       array_remove(ARRAY[CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
                          CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                          CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
                          CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                          CASE WHEN r.rolreplication THEN 'REPLICATION' END], NULL) AS words
  FROM pg_catalog.pg_roles r
  LEFT JOIN mt_paas.tenant t ON t.role_name = r.rolname
 WHERE (t.generation IS NOT NULL OR r.rolname IN (:owner, :group, :reference))
   AND (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls OR r.rolreplication)
 ORDER BY r.rolname
 LIMIT 100;

-- name: role_memberships_16
-- What tenants' roles, the reference's and the group are members of, but for a plain membership of the group.
SELECT l.rolname AS member, r.rolname AS role, pg_catalog.pg_get_userbyid(m.grantor) AS grantor
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member
  LEFT JOIN mt_paas.tenant t ON t.role_name = l.rolname
 WHERE ((t.generation IS NOT NULL OR l.rolname = :reference) AND (r.rolname <> :group OR m.admin_option))
    OR l.rolname = :group
 ORDER BY l.rolname, r.rolname, grantor
 LIMIT 100;

-- name: role_memberships_15
SELECT l.rolname AS member, r.rolname AS role, NULL AS grantor
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member
  LEFT JOIN mt_paas.tenant t ON t.role_name = l.rolname
 WHERE ((t.generation IS NOT NULL OR l.rolname = :reference) AND (r.rolname <> :group OR m.admin_option))
    OR l.rolname = :group
 ORDER BY l.rolname, r.rolname
 LIMIT 100;

-- name: foreign_rights
-- What everybody, the login role, the group or a tenant's role was granted in the schema of a tenant that it is
-- not, or in the control schema. What concerns the login role in the control schema, and schemas open to it or
-- to everybody, other queries tell. Roles that are none of ours, one for reports say, are left alone.
WITH place AS (
    SELECT n.oid, n.nspname, n.nspacl, r.oid AS owned_by
      FROM pg_catalog.pg_namespace n
      LEFT JOIN mt_paas.tenant t ON t.schema_name = n.nspname
      LEFT JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
     WHERE t.generation IS NOT NULL OR n.nspname = 'mt_paas'
), granted AS (
    SELECT p.nspname, p.owned_by, 'SCHEMA' AS kind, format('%I', p.nspname) AS object, a.grantee, a.privilege_type
      FROM place p
     CROSS JOIN LATERAL pg_catalog.aclexplode(p.nspacl) AS a
    UNION ALL
    SELECT p.nspname, p.owned_by, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
           format('%I.%I', p.nspname, c.relname), a.grantee, a.privilege_type
      FROM place p
      JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
), ours AS (
    SELECT 0::oid AS oid, 'PUBLIC' AS name, '' AS rolname
    UNION ALL
    SELECT r.oid, format('%I', r.rolname), r.rolname
      FROM pg_catalog.pg_roles r
      LEFT JOIN mt_paas.tenant t ON t.role_name = r.rolname
     WHERE t.generation IS NOT NULL OR r.rolname IN (:login, :group)
        OR r.rolname IN (SELECT c.login_role FROM mt_paas.cell c)
)
SELECT g.kind, o.name AS grantee, string_agg(DISTINCT g.object, ', ') AS objects,
       string_agg(DISTINCT g.privilege_type, ', ') AS rights
  FROM granted g
  JOIN ours o ON o.oid = g.grantee
 WHERE o.oid IS DISTINCT FROM g.owned_by
   AND NOT (o.rolname = :login AND g.nspname = 'mt_paas')
   AND NOT (o.oid = 0 AND g.nspname = 'mt_paas' AND (g.kind <> 'SCHEMA' OR g.privilege_type <> 'USAGE'))
   AND NOT (g.kind = 'SCHEMA' AND g.nspname <> 'mt_paas' AND (o.oid = 0 OR o.rolname = :login))
 GROUP BY g.kind, g.nspname, o.name
 ORDER BY g.nspname, o.name, g.kind
 LIMIT 100;

-- name: foreign_defaults
-- The same, of what the owner will make.
SELECT n.nspname, k.kind, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', r.rolname) END AS grantee,
       string_agg(DISTINCT a.privilege_type, ', ') AS rights
  FROM pg_catalog.pg_default_acl d
  JOIN (VALUES ('r'::"char", 'TABLES'), ('S'::"char", 'SEQUENCES'), ('f'::"char", 'FUNCTIONS')) AS k(type, kind)
    ON k.type = d.defaclobjtype
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
  LEFT JOIN mt_paas.tenant t ON t.schema_name = n.nspname
 CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS a
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
  LEFT JOIN mt_paas.tenant g ON g.role_name = r.rolname
 WHERE d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :owner)
   AND (d.defaclnamespace = 0 OR n.nspname = 'mt_paas' OR t.generation IS NOT NULL)
   AND (a.grantee = 0 OR r.rolname IN (:login, :group) OR g.generation IS NOT NULL
        OR r.rolname IN (SELECT c.login_role FROM mt_paas.cell c))
   AND g.generation IS DISTINCT FROM coalesce(t.generation, -1)
 GROUP BY n.nspname, k.kind, a.grantee, r.rolname
 ORDER BY n.nspname, k.kind, r.rolname
 LIMIT 100;

-- name: reference_against_server
SELECT v.version_num::int AS catalog_version,
       r.oid IS NOT NULL AS has_role,
       n.oid IS NOT NULL AS has_schema,
       pg_catalog.pg_get_userbyid(n.nspowner) AS schema_owner,
       coalesce(pg_catalog.pg_has_role(l.oid, r.oid, 'MEMBER') AND NOT l.rolsuper, false) AS may_take,
       ARRAY(SELECT pg_catalog.pg_get_userbyid(m.grantor)::text
               FROM pg_catalog.pg_auth_members m
              WHERE m.roleid = r.oid AND m.member = l.oid
              ORDER BY 1) AS grantors
  FROM mt_paas.alembic_version v
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = :reference
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = :reference
  LEFT JOIN pg_catalog.pg_roles l ON l.rolname = :login;

-- name: tenants_against_server
-- Each tenant of the catalog beside what the server has for it.
SELECT t.tenant_id, t.state, t.schema_name, t.role_name, c.login_role, c.login_role = c.name AS own_login,
       r.oid IS NOT NULL AS has_role,
       n.oid IS NOT NULL AS has_schema,
       pg_catalog.pg_get_userbyid(n.nspowner) AS schema_owner,
       r.oid IS NOT NULL AND n.oid IS NOT NULL AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') AS has_usage,
       r.oid IS NOT NULL AND n.oid IS NOT NULL AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE') AS has_create,
       coalesce(pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE'), false) AS has_group,
       ARRAY(SELECT pg_catalog.pg_get_userbyid(m.grantor)::text
               FROM pg_catalog.pg_auth_members m
              WHERE m.roleid = r.oid AND m.member = l.oid
              ORDER BY 1) AS grantors
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  LEFT JOIN pg_catalog.pg_roles l ON l.rolname = c.login_role
  LEFT JOIN pg_catalog.pg_roles g ON g.rolname = :group
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
 ORDER BY t.tenant_id;

-- name: own_logins
-- Tenants with a login of their own, what it may do and what its connections start with, beside what is meant.
SELECT t.tenant_id, t.state, t.role_name, c.login_role, t.state IN ('active', 'read_only') AS takes_sessions,
       l.oid IS NOT NULL AS has_login, l.rolcanlogin AS may_log_in, l.rolinherit AS inherits,
       array_remove(ARRAY[CASE WHEN l.rolsuper THEN 'SUPERUSER' END,
                          CASE WHEN l.rolcreaterole THEN 'CREATEROLE' END,
                          CASE WHEN l.rolcreatedb THEN 'CREATEDB' END,
                          CASE WHEN l.rolbypassrls THEN 'BYPASSRLS' END,
                          CASE WHEN l.rolreplication THEN 'REPLICATION' END], NULL) AS powers,
       coalesce(pg_catalog.has_database_privilege(l.oid, current_database(), 'CONNECT'), false) AS may_connect,
       array_to_string(ARRAY(SELECT quote_ident(s) FROM unnest(t.schema_name || i.shared_schemas || 'pg_temp'::text) AS s),
                       ', ') AS path,
       (SELECT substr(x, 6) FROM pg_catalog.pg_db_role_setting d, unnest(d.setconfig) AS x
         WHERE d.setrole = l.oid AND d.setdatabase = 0 AND x LIKE 'role=%') AS starts_as,
       (SELECT substr(x, 13) FROM pg_catalog.pg_db_role_setting d, unnest(d.setconfig) AS x
         WHERE d.setrole = l.oid AND d.setdatabase = 0 AND x LIKE 'search\_path=%') AS starts_on,
       ARRAY(SELECT split_part(x, '=', 1)
               FROM pg_catalog.pg_db_role_setting d
               JOIN pg_catalog.pg_database b ON b.oid = d.setdatabase AND b.datname = current_database(),
                    unnest(d.setconfig) AS x
              WHERE d.setrole = l.oid AND split_part(x, '=', 1) IN ('role', 'search_path')) AS in_database,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = l.oid) AS backends
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell AND c.login_role = c.name
 CROSS JOIN mt_paas.installation i
  LEFT JOIN pg_catalog.pg_roles l ON l.rolname = c.login_role
 WHERE t.state <> 'deleting'
 ORDER BY t.tenant_id;

-- name: own_login_memberships_16
-- What such a login is a member of, but for a plain membership of its tenant's role.
SELECT l.rolname AS member, r.rolname AS role, pg_catalog.pg_get_userbyid(m.grantor) AS grantor,
       r.rolname = t.role_name AS is_own
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell AND c.login_role = c.name
  JOIN pg_catalog.pg_roles l ON l.rolname = c.login_role
  JOIN pg_catalog.pg_auth_members m ON m.member = l.oid
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
 WHERE r.rolname <> t.role_name OR m.admin_option
 ORDER BY l.rolname, r.rolname, grantor
 LIMIT 100;

-- name: own_login_memberships_15
SELECT l.rolname AS member, r.rolname AS role, NULL AS grantor, r.rolname = t.role_name AS is_own
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell AND c.login_role = c.name
  JOIN pg_catalog.pg_roles l ON l.rolname = c.login_role
  JOIN pg_catalog.pg_auth_members m ON m.member = l.oid
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
 WHERE r.rolname <> t.role_name OR m.admin_option
 ORDER BY l.rolname, r.rolname
 LIMIT 100;

-- name: lacking_rights
-- What stands in a tenant's schema and its role may not use, or only in part. The sequence of an identity
-- column needs no grant, nor does a trigger's function; Alembic's own table is hidden on purpose, and what was
-- withheld from a read-only tenant comes back when it is active.
-- Each object leads to its tenant by three unique indexes, and OFFSET 0 keeps it so: on catalogs that were never
-- analyzed, the planner would join the few sequences it expects with all tenants, and ask for rights on each pair.
WITH object AS (
    SELECT 'TABLE' AS kind, c.oid, c.relname AS name, c.relnamespace AS schema
      FROM pg_catalog.pg_class c
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname <> 'alembic_version'
    UNION ALL
    SELECT 'SEQUENCE', c.oid, c.relname, c.relnamespace
      FROM pg_catalog.pg_class c
     WHERE c.relkind = 'S'
       AND NOT EXISTS (SELECT
                         FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i')
    UNION ALL
    SELECT 'FUNCTION', p.oid, p.proname, p.pronamespace
      FROM pg_catalog.pg_proc p
     WHERE p.prokind IN ('f', 'w') AND p.prorettype <> 'pg_catalog.trigger'::regtype
), standing AS (
    SELECT t.tenant_id, t.role_name, o.kind, o.oid, r.oid AS role, t.withheld IS NOT NULL AS frozen,
           format('%I.%I', n.nspname, o.name) AS name
      FROM object o
     CROSS JOIN LATERAL (SELECT * FROM pg_catalog.pg_namespace WHERE oid = o.schema OFFSET 0) n
     CROSS JOIN LATERAL (SELECT * FROM mt_paas.tenant WHERE schema_name = n.nspname::text COLLATE "default" OFFSET 0) t
     CROSS JOIN LATERAL (SELECT * FROM pg_catalog.pg_roles WHERE rolname = t.role_name::name OFFSET 0) r
), lacking AS (
    SELECT s.tenant_id, s.role_name, s.kind,
           CASE s.kind WHEN 'FUNCTION' THEN format('%s(%s)', s.name, pg_catalog.pg_get_function_identity_arguments(s.oid))
                       ELSE s.name END AS object,
           CASE s.kind WHEN 'TABLE'
                       THEN NOT pg_catalog.has_table_privilege(s.role, s.oid, 'SELECT, INSERT, UPDATE, DELETE')
                            AND NOT pg_catalog.has_any_column_privilege(s.role, s.oid, 'SELECT, INSERT, UPDATE')
                       ELSE s.kind = 'SEQUENCE' END AS useless
      FROM standing s
     WHERE NOT CASE s.kind
               WHEN 'TABLE' THEN pg_catalog.has_table_privilege(s.role, s.oid, 'SELECT')
                                 AND (s.frozen
                                      OR (pg_catalog.has_table_privilege(s.role, s.oid, 'INSERT')
                                          AND pg_catalog.has_table_privilege(s.role, s.oid, 'UPDATE')
                                          AND pg_catalog.has_table_privilege(s.role, s.oid, 'DELETE')))
               WHEN 'SEQUENCE' THEN pg_catalog.has_sequence_privilege(s.role, s.oid, 'USAGE')
               ELSE pg_catalog.has_function_privilege(s.role, s.oid, 'EXECUTE') END
)
SELECT tenant_id, role_name, kind, useless, string_agg(object, ', ' ORDER BY object) AS objects
  FROM lacking
 GROUP BY tenant_id, role_name, kind, useless
 ORDER BY tenant_id, kind, useless;

-- name: lacking_defaults
-- Tenants for whose role nothing, or too little, is granted on what the owner will make in their schema.
SELECT t.tenant_id, t.role_name, t.schema_name, k.kind
  FROM mt_paas.tenant t
  JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
 CROSS JOIN (VALUES ('r'::"char", 'TABLE', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
                    ('S'::"char", 'SEQUENCE', ARRAY['USAGE']),
                    ('f'::"char", 'FUNCTION', ARRAY['EXECUTE'])) AS k(type, kind, rights)
 WHERE NOT k.rights <@ ARRAY(SELECT a.privilege_type
                               FROM pg_catalog.pg_default_acl d
                              CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS a
                              WHERE d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :owner)
                                AND d.defaclnamespace = n.oid
                                AND d.defaclobjtype = k.type
                                AND a.grantee = r.oid)
 ORDER BY t.tenant_id, k.kind;

-- name: own_types
-- Types that exist in a tenant's schema, but for the row types of tables.
SELECT y.typname AS type, count(*) AS tenants
  FROM mt_paas.tenant t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_type y ON y.typnamespace = n.oid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = y.typrelid
 WHERE y.typtype IN ('d', 'e', 'r') OR c.relkind = 'c'
 GROUP BY y.typname
 ORDER BY y.typname;

-- name: unfinished_tenants
SELECT tenant_id, state, to_char(state_changed_at, 'YYYY-MM-DD HH24:MI TZ') AS since
  FROM mt_paas.tenant
 WHERE state IN ('provisioning', 'deleting')
 ORDER BY tenant_id;

-- name: admin_roles_16
SELECT rolname, pg_catalog.pg_has_role(current_user, oid, 'SET') AS may_take,
       pg_catalog.pg_has_role(current_user, oid, 'USAGE WITH ADMIN OPTION') AS may_grant
  FROM pg_catalog.pg_roles
 WHERE rolname IN (:owner, :group);

-- name: admin_roles_15
SELECT rolname, pg_catalog.pg_has_role(current_user, oid, 'MEMBER') AS may_take, true AS may_grant
  FROM pg_catalog.pg_roles
 WHERE rolname IN (:owner, :group);

-- name: admin_tenants
SELECT t.tenant_id, t.role_name
  FROM mt_paas.tenant t
  JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
 WHERE NOT pg_catalog.pg_has_role(:admin, r.oid, 'USAGE WITH ADMIN OPTION')
 ORDER BY t.tenant_id;

-- name: admin_grantors
-- Who else made a login a member of tenants' roles: from PostgreSQL 16 on, only that role, or one that inherits from it,
-- can take it back.
SELECT g.rolname, count(DISTINCT t.generation) AS tenants
  FROM mt_paas.tenant t
  JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  JOIN pg_catalog.pg_auth_members m ON m.roleid = r.oid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member AND l.rolname IN (SELECT c.login_role FROM mt_paas.cell c)
  JOIN pg_catalog.pg_roles g ON g.oid = m.grantor
 WHERE NOT pg_catalog.pg_has_role(:admin, g.oid, 'USAGE')
 GROUP BY g.rolname
 ORDER BY g.rolname;

-- name: database_owner
SELECT r.rolname, pg_catalog.pg_has_role(current_user, d.datdba, 'USAGE') AS is_mine
  FROM pg_catalog.pg_database d
  JOIN pg_catalog.pg_roles r ON r.oid = d.datdba
 WHERE d.datname = current_database();

-- name: cell_logins
-- What tenants that share a cell connect as, but for the first one's.
SELECT login_role
  FROM mt_paas.cell
 WHERE cluster = :cluster AND login_role NOT IN (name, :login)
 ORDER BY name;

-- name: cells_beyond
SELECT c.name, (SELECT count(*) FROM mt_paas.tenant t WHERE t.cell = c.name) AS tenants
  FROM mt_paas.cell c
 WHERE c.cluster = :cluster AND c.login_role <> c.name
   AND (SELECT count(*) FROM mt_paas.tenant t WHERE t.cell = c.name) > :size
 ORDER BY c.name;

-- name: settling
-- Who may take the role of a tenant that connects as another now: by login, how many it may take that is open, that no
-- process can remember any more; and that is closed, which it never should.
SELECT l.rolname AS login,
       count(DISTINCT t.generation) FILTER (WHERE t.state IN ('active', 'read_only')) AS due,
       count(DISTINCT t.generation) FILTER (WHERE t.state NOT IN ('active', 'read_only')) AS closed
  FROM mt_paas.tenant t
 CROSS JOIN mt_paas.installation i
  JOIN mt_paas.cell c ON c.name = t.cell
  JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  JOIN pg_catalog.pg_auth_members m ON m.roleid = r.oid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member
 WHERE (l.rolname = :login OR l.rolname ~ ('^' || :login || '_[0-9]+$'))
   AND l.rolname <> c.login_role
   AND (t.state NOT IN ('active', 'read_only')
        OR t.placed_at + make_interval(secs => i.cache_bound_s) <= clock_timestamp())
 GROUP BY l.rolname
 ORDER BY l.rolname;

-- name: newest_tenant
SELECT schema_name
  FROM mt_paas.tenant
 WHERE state IN ('active', 'read_only')
 ORDER BY generation DESC
 LIMIT 1;

-- name: tables_of
SELECT format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
 WHERE n.nspname = :schema
 ORDER BY 1;

-- name: may_see_memory
SELECT pg_catalog.has_function_privilege('pg_catalog.pg_get_backend_memory_contexts()', 'EXECUTE') AS may;

-- name: backend_memory
SELECT sum(used_bytes)::bigint AS bytes FROM pg_catalog.pg_backend_memory_contexts;
