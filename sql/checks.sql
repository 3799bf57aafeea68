-- What `doctor` asks a server. Read only; :login is the login role, :owner the owner role.

-- name: login_attributes
SELECT rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin,
       coalesce(rolconfig, ARRAY[]::text[]) AS rolconfig
  FROM pg_catalog.pg_roles
 WHERE rolname = :login;

-- name: login_schemas
-- Schemas on which the login role has a right without taking a tenant's role.
SELECT nspname
  FROM pg_catalog.pg_namespace
 WHERE nspname !~ '^pg_'
   AND nspname NOT IN ('information_schema', 'mt_paas')
   AND (pg_catalog.has_schema_privilege(:login, oid, 'USAGE') OR pg_catalog.has_schema_privilege(:login, oid, 'CREATE'))
 ORDER BY nspname
 LIMIT 20;

-- name: login_database
SELECT pg_catalog.has_database_privilege(:login, current_database(), 'TEMP') AS temp,
       pg_catalog.has_database_privilege(:login, current_database(), 'CREATE') AS may_create,
       pg_catalog.has_database_privilege(:login, current_database(), 'CONNECT') AS may_connect;

-- name: memberships_16
SELECT r.rolname AS role, m.admin_option, m.inherit_option, m.set_option
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member AND l.rolname = :login
 WHERE m.admin_option OR m.inherit_option OR NOT m.set_option
 ORDER BY r.rolname
 LIMIT 20;

-- name: memberships_15
SELECT r.rolname AS role, m.admin_option, false AS inherit_option, true AS set_option
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member AND l.rolname = :login
 WHERE m.admin_option
 ORDER BY r.rolname
 LIMIT 20;

-- name: tenants_against_server
-- Each tenant of the catalog beside what the server has for it.
SELECT t.tenant_id, t.state, t.schema_name, t.role_name, c.login_role,
       r.oid IS NOT NULL AS has_role,
       n.oid IS NOT NULL AS has_schema,
       pg_catalog.pg_get_userbyid(n.nspowner) AS schema_owner,
       r.oid IS NOT NULL AND n.oid IS NOT NULL AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') AS has_usage,
       r.oid IS NOT NULL AND n.oid IS NOT NULL AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE') AS has_create,
       EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                 JOIN pg_catalog.pg_roles l ON l.oid = m.member AND l.rolname = c.login_role
                WHERE m.roleid = r.oid) AS is_member
  FROM mt_paas.tenant t
  JOIN mt_paas.cell c ON c.name = t.cell
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = t.role_name
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
 ORDER BY t.tenant_id;
