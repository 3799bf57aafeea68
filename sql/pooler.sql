-- What PgBouncer is to know of an installation. Values are bound; identifiers stand in braces.

-- name: cells
SELECT c.name, c.login_role AS login, c.name = c.login_role AS own,
       (SELECT count(*) FROM mt_paas.tenant t WHERE t.cell = c.name) AS tenants
  FROM mt_paas.cell c
 WHERE c.cluster = :cluster
 ORDER BY c.name <> 'default', c.name = c.login_role, length(c.login_role), c.login_role;

-- name: tables
-- Of the newest tenant, which stands for all: they have the same revisions, or are about to. 0 without any.
SELECT count(*)
  FROM (SELECT t.schema_name
          FROM mt_paas.tenant t
          JOIN mt_paas.cell c ON c.name = t.cell
         WHERE c.cluster = :cluster AND t.state NOT IN ('provisioning', 'deleting')
         ORDER BY t.generation DESC
         LIMIT 1) newest
  JOIN pg_catalog.pg_namespace n ON n.nspname = newest.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p');

-- name: former_logins
-- Logins that no cell has any more and that may still take a tenant's role: a process may remember them for the
-- catalog's cache bound.
SELECT DISTINCT l.rolname AS login
  FROM pg_catalog.pg_roles l
  JOIN pg_catalog.pg_auth_members m ON m.member = l.oid
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN mt_paas.tenant t ON t.role_name = r.rolname
 WHERE l.rolname ~ ('^' || CAST(:login AS text) || '(_[0-9]+)?$')
   AND l.rolcanlogin
   AND NOT EXISTS (SELECT FROM mt_paas.cell c WHERE c.login_role = l.rolname)
 ORDER BY l.rolname;

-- name: logins
-- Which of these are roles, and whether the admin may read what they log in with.
SELECT rolname, pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS readable
  FROM pg_catalog.pg_roles
 WHERE rolname = ANY(:logins);

-- name: verifiers
SELECT rolname, rolpassword
  FROM pg_catalog.pg_authid
 WHERE rolname = ANY(:logins);

-- name: limits
-- reserved_connections came with PostgreSQL 16.
SELECT current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
       + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved;

-- name: lookup
-- PgBouncer's auth_query, to be run once by a superuser in the installation's database: reading pg_authid is his
-- right alone, and the function acts with it. It answers for the installation's first login and for those that may take
-- a tenant's role, a cell's that was changed a moment ago among them; for nobody else, never for a superuser, and only
-- {pooler} may call it. It reads nothing but the system's own catalogs: what the owner role can make anew, a view in the
-- place of a table of the tenant catalog say, would run with a superuser's rights. Its path is fixed and ends in pg_temp.
BEGIN;
DO $do$
BEGIN
    CREATE ROLE {pooler} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object THEN
    NULL;
END
$do$;
ALTER ROLE {pooler} PASSWORD {verifier};
ALTER ROLE {pooler} SET search_path = pg_catalog, pg_temp;
GRANT CONNECT ON DATABASE {database} TO {pooler};
GRANT USAGE ON SCHEMA mt_paas TO {pooler};
CREATE OR REPLACE FUNCTION mt_paas.pooler_lookup(asked text)
    RETURNS TABLE (name text, secret text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.rolname::text, CASE WHEN a.rolvaliduntil < now() THEN NULL ELSE a.rolpassword END
      FROM pg_catalog.pg_authid a
     WHERE a.rolname = asked
       AND a.rolcanlogin
       AND NOT a.rolsuper
       AND (asked = {login}
            OR asked ~ {pattern}
               AND EXISTS (SELECT FROM pg_catalog.pg_auth_members own
                             JOIN pg_catalog.pg_auth_members joined ON joined.member = own.roleid
                             JOIN pg_catalog.pg_roles r ON r.oid = joined.roleid AND r.rolname = {group}
                            WHERE own.member = a.oid))
$$;
ALTER FUNCTION mt_paas.pooler_lookup(text) OWNER TO CURRENT_USER;
REVOKE ALL ON FUNCTION mt_paas.pooler_lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mt_paas.pooler_lookup(text) TO {pooler};
COMMIT;
