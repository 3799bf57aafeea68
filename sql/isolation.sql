-- The isolation suite's own ground. It runs on the admin's connection.

-- name: may_create_roles
SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user;

-- name: take_run
-- Held for as long as a run lasts, by its connection: who gets it knows that the run is over, or was killed.
SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('mt_paas.isolation'), pg_catalog.hashtext(:run));

-- name: leave_run
SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtext('mt_paas.isolation'), pg_catalog.hashtext(:run));

-- name: tables
-- Those that the role in force may read as their owner; what an attack has planted is in `objects`.
SELECT relname
  FROM pg_catalog.pg_class
 WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)
   AND relkind IN ('r', 'p')
   AND NOT relispartition
   AND pg_catalog.pg_has_role(relowner, 'USAGE')
 ORDER BY relname;

-- name: objects
-- What is in a schema beside rows: whatever an attack plants shows here.
SELECT pg_catalog.pg_describe_object(classid, objid, 0)
  FROM pg_catalog.pg_depend
 WHERE refclassid = 'pg_catalog.pg_namespace'::regclass
   AND refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)
 ORDER BY 1;
