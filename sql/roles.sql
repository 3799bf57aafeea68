-- Roles, rights and schemas. Identifiers stand in braces and are quoted when filled in.
-- Roles are shared by all databases of a server; everything else belongs to this installation's own database.

-- name: one_init_at_a_time
-- Of several processes that start together and all run init. Released with the transaction.
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('mt_paas.init'));

-- name: create_owner
CREATE ROLE {owner} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS;

-- name: comment_owner
COMMENT ON ROLE {owner} IS {description};

-- name: create_group
CREATE ROLE {group} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS;

-- name: one_places_at_a_time
-- Who counts the tenants of cells, and puts one into a cell by that. Released with the transaction.
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('mt_paas.placement', 0));

-- name: comment_login
COMMENT ON ROLE {login} IS {description};

-- name: may_connect
SELECT pg_catalog.has_database_privilege(:login, current_database(), 'CONNECT');

-- name: create_login
CREATE ROLE {login} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS;

-- name: set_password
ALTER ROLE {login} PASSWORD {verifier};

-- name: login_path
-- Resolves to nothing as the login role (there is no schema of its name), and to the tenant's schema as a
-- tenant role, which is named like it. pg_temp is named last, else it would be searched first. pg_catalog is
-- named first, where it is searched anyway: with pg_temp as the first that exists, current_schema(), which
-- SQLAlchemy asks at its first connection, fails for want of TEMP.
ALTER ROLE {login} SET search_path = pg_catalog, "$user", pg_temp;

-- name: create_own_login
-- A tenant's own. It inherits: what it has without taking the tenant's role is that role's, CONNECT by its group
-- among it, so that the database's list of rights does not grow with each tenant. It opens with the tenant.
CREATE ROLE {login} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT NOREPLICATION NOBYPASSRLS;

-- name: own_login_opens
-- Whoever connects with it, a library say, is the tenant from the first statement on, and RESET ROLE leads back to
-- it. What the tenant has set for its login in the meantime, in this database, goes.
ALTER ROLE {login} LOGIN;
ALTER ROLE {login} SET role = {role};
ALTER ROLE {login} SET search_path = {path};
ALTER ROLE {login} IN DATABASE {database} RESET role;
ALTER ROLE {login} IN DATABASE {database} RESET search_path;

-- name: own_login_joins
GRANT {role} TO {login} WITH INHERIT TRUE, SET TRUE;

-- name: own_login_joins_15
GRANT {role} TO {login};

-- name: own_login_closes
ALTER ROLE {login} NOLOGIN;

-- name: end_backends
-- Each is waited for, 5 s at most. A role that was taken at connecting is not asked for again: only this ends it.
SELECT pg_catalog.pg_terminate_backend(pid, 5000)
  FROM pg_catalog.pg_stat_activity
 WHERE usename = :login;

-- name: end_idle_backends
-- One in a transaction goes on, and is told.
SELECT state IS DISTINCT FROM 'idle' AS in_use,
       CASE WHEN state = 'idle' THEN pg_catalog.pg_terminate_backend(pid, 5000) END
  FROM pg_catalog.pg_stat_activity
 WHERE usename = :login;

-- name: admin_takes_role
-- A superuser needs none; any other admin must be able to act as the owner.
GRANT {role} TO CURRENT_USER;

-- name: close_database
-- TEMP and CREATE go with ALL; CONNECT is given back to the login role alone.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;

-- name: close_public
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- name: group_connects
-- Tenants' roles cannot log in; their own logins inherit it from them.
GRANT CONNECT ON DATABASE {database} TO {group};

-- name: login_connects
GRANT CONNECT ON DATABASE {database} TO {login};

-- name: owner_creates
GRANT CREATE ON DATABASE {database} TO {owner};

-- name: owner_functions
-- The global form: with IN SCHEMA it would have no effect on what PUBLIC gets by default.
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- name: create_control_schema
CREATE SCHEMA IF NOT EXISTS mt_paas AUTHORIZATION {owner};

-- name: control_usage
GRANT USAGE ON SCHEMA mt_paas TO {login};

-- name: control_resolve
GRANT EXECUTE ON FUNCTION mt_paas.resolve(text) TO {login};

-- name: create_shared_schema
CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner};

-- name: shared_usage
GRANT USAGE ON SCHEMA {schema} TO {group};

-- name: shared_defaults
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {group};

-- name: before_role
SAVEPOINT before_role;

-- name: with_role
RELEASE SAVEPOINT before_role;

-- name: without_role
ROLLBACK TO SAVEPOINT before_role;

-- name: create_tenant_role
CREATE ROLE {role} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT NOREPLICATION NOBYPASSRLS;

-- name: group_joins
-- From PostgreSQL 16 on one transaction at a time may grant a role: in a long one it comes late.
GRANT {group} TO {role};

-- name: login_joins
-- PostgreSQL 16 and later: without the options the login's own INHERIT attribute at this moment would decide,
-- and altering it later would change nothing.
GRANT {role} TO {login} WITH INHERIT FALSE, SET TRUE;

-- name: login_joins_15
-- PostgreSQL 15: the login role is NOINHERIT, which decides at run time.
GRANT {role} TO {login};

-- name: logins_in
-- Which of the installation's logins may take a tenant's role, by whose grant: its own cell's, and for a while one that
-- it was moved from. From PostgreSQL 16 on a membership belongs to who granted it, and REVOKE takes back one grantor's.
SELECT l.rolname AS login, pg_catalog.pg_get_userbyid(m.grantor) AS grantor
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid AND r.rolname = :role
  JOIN pg_catalog.pg_roles l ON l.oid = m.member
 WHERE l.rolname = :login OR l.rolname ~ ('^' || :login || '_[0-9]+$');

-- name: still_in
-- Those that may take it all the same, by another role or by a grant that was not taken back.
SELECT l.rolname
  FROM pg_catalog.pg_roles l
 WHERE (l.rolname = :login OR l.rolname ~ ('^' || :login || '_[0-9]+$'))
   AND (CAST(:logins AS text[]) IS NULL OR l.rolname = ANY (CAST(:logins AS text[])))
   AND pg_catalog.pg_has_role(l.oid, CAST(:role AS name), 'MEMBER');

-- name: login_leaves
REVOKE {role} FROM {login} GRANTED BY {grantor} CASCADE;

-- name: login_leaves_15
REVOKE {role} FROM {login} CASCADE;

-- name: create_tenant_schema
CREATE SCHEMA {schema} AUTHORIZATION {owner};

-- name: tenant_usage
GRANT USAGE ON SCHEMA {schema} TO {role};

-- name: tenant_tables
-- Before the tables: what the owner makes here, now or in a later migration, is granted as it is made.
-- No TRUNCATE, TRIGGER or REFERENCES: they cross row policies. No CREATE on the schema: a function planted
-- there would run as the owner in a migration.
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};

-- name: tenant_sequences
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role};

-- name: tenant_functions
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT EXECUTE ON FUNCTIONS TO {role};

-- name: hide_version_table
-- Alembic's own table is not a tenant's to read or write; default privileges have granted it.
REVOKE ALL ON TABLE {schema}.alembic_version FROM {role};

-- name: write_rights
-- What a tenant's role may write in its schema: on a table (attname null), or on a column alone.
SELECT c.oid::bigint AS oid, c.relname, NULL::name AS attname, array_agg(DISTINCT x.privilege_type) AS rights
  FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x
 WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)
   AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND x.grantee = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :role)
   AND x.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
 GROUP BY c.oid, c.relname
 UNION ALL
SELECT c.oid::bigint, c.relname, a.attname, array_agg(DISTINCT x.privilege_type)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped, pg_catalog.aclexplode(a.attacl) x
 WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)
   AND x.grantee = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :role)
   AND x.privilege_type IN ('INSERT', 'UPDATE')
 GROUP BY c.oid, c.relname, a.attname;

-- name: withhold_writes
-- Takes the rights on single columns too.
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON TABLE {tables} FROM {role};

-- name: give_back
GRANT {rights} ON TABLE {table} TO {role};

-- name: relations
SELECT oid::bigint, relname
  FROM pg_catalog.pg_class
 WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)
   AND relkind IN ('r', 'p', 'v', 'm', 'f');

-- name: columns
SELECT attname
  FROM pg_catalog.pg_attribute
 WHERE attrelid = CAST(:oid AS bigint)::oid
   AND attnum > 0
   AND NOT attisdropped;

-- name: drop_some
-- Statements that drop some of a schema's objects, and how many objects there are. First goes what nothing leans
-- on: a view, a partition before its table, a table before the one that its foreign key points to. So little goes
-- by CASCADE, each time. What belongs to another object (an identity's sequence, a range's functions) goes with
-- it, an extension whole, and an aggregate, a collation and the like with the schema. What another session drops
-- meanwhile has no identity any more, and needs no statement.
WITH own AS (
    SELECT d.classid, d.objid, c.relkind
      FROM pg_catalog.pg_depend d
      LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid
      LEFT JOIN pg_catalog.pg_proc p ON d.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.objid
      LEFT JOIN pg_catalog.pg_type t ON d.classid = 'pg_catalog.pg_type'::regclass AND t.oid = d.objid
     WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass
       AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)
       AND (c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') OR p.prokind <> 'a' OR t.typtype IN ('c', 'd', 'e', 'r'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i
                        WHERE i.classid = d.classid AND i.objid = d.objid AND i.deptype IN ('i', 'e'))
), leaning AS (
    SELECT k.confrelid AS on_oid
      FROM own JOIN pg_catalog.pg_constraint k ON k.conrelid = own.objid AND k.contype = 'f'
     WHERE own.relkind IS NOT NULL AND k.confrelid <> k.conrelid
     UNION ALL
    SELECT h.inhparent
      FROM own JOIN pg_catalog.pg_inherits h ON h.inhrelid = own.objid
     WHERE own.relkind IS NOT NULL
), burden AS (
    SELECT on_oid, count(*) AS weight FROM leaning GROUP BY on_oid
), ranked AS (
    SELECT own.classid, own.objid, count(*) OVER () AS remaining,
           row_number() OVER (ORDER BY CASE WHEN own.relkind IN ('v', 'm') THEN 1
                                            WHEN own.relkind IN ('r', 'p', 'f') THEN 2
                                            WHEN own.relkind = 'S' THEN 3
                                            WHEN own.classid = 'pg_catalog.pg_proc'::regclass THEN 4
                                            ELSE 5 END, coalesce(b.weight, 0), own.objid DESC) AS place
      FROM own
      LEFT JOIN burden b ON own.relkind IS NOT NULL AND b.on_oid = own.objid
     ORDER BY place
     LIMIT :batch
)
SELECT CASE WHEN i.identity IS NOT NULL
            THEN format('DROP %s IF EXISTS %s CASCADE',
                        upper(CASE i.type WHEN 'composite type' THEN 'type' ELSE i.type END), i.identity)
        END AS statement, r.remaining
  FROM ranked r
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(r.classid, r.objid, 0) i
 ORDER BY r.place;

-- name: unlink_some
-- Large objects that a role owns; they lie in no schema.
SELECT count(pg_catalog.lo_unlink(o.oid))
  FROM (SELECT oid FROM pg_catalog.pg_largeobject_metadata
         WHERE lomowner = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = :role)
         LIMIT :batch) o;

-- name: drop_tenant_schema
DROP SCHEMA IF EXISTS {schema} CASCADE;

-- name: drop_tenant_owned
DROP OWNED BY {role};

-- name: drop_tenant_role
DROP ROLE {role};

-- name: admin_leaves_role
REVOKE {role} FROM CURRENT_USER GRANTED BY CURRENT_USER;

-- name: admin_leaves_role_15
REVOKE {role} FROM CURRENT_USER;

-- name: seed_path
SET LOCAL search_path = {path};

-- name: seed_tenant
SELECT pg_catalog.set_config('mt_paas.tenant', :tenant_id, true);

-- name: act_as
SET LOCAL ROLE {role};

-- name: owner_in_schema
-- For a connection that is closed afterwards.
SET ROLE {role};
SET search_path = {schema}, pg_temp;

-- name: act_as_oneself
SET LOCAL ROLE NONE;

-- name: tenant_path
SET LOCAL search_path = {schema}, pg_temp;

-- name: admin_path
SET LOCAL search_path = pg_catalog, pg_temp;

-- name: admin_patience
-- A lock that is waited for queues everybody behind it; 30 s is longer than a request should take.
SET LOCAL lock_timeout = '30s';

-- name: role_exists
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :role);

-- name: role_powers
-- What an existing role may do by itself, and what it is a member of.
SELECT array_remove(ARRAY[CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
                          CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
                          CASE WHEN rolreplication THEN 'REPLICATION' END], NULL)
       || (SELECT coalesce(array_agg('member of ' || pg_catalog.pg_get_userbyid(m.roleid)), ARRAY[]::text[])
             FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)
  FROM pg_catalog.pg_roles r
 WHERE rolname = :role;

-- name: login_inherits_nothing
ALTER ROLE {login} LOGIN NOINHERIT;

-- name: role_comment
SELECT pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles WHERE rolname = :role;

-- name: schema_owner
SELECT pg_catalog.pg_get_userbyid(nspowner) FROM pg_catalog.pg_namespace WHERE nspname = :schema;

-- name: may_take
SELECT pg_catalog.pg_has_role(:login, :role, 'MEMBER');
