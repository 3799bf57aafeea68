-- What the isolation suite's state machine asks on the admin's connection.

-- name: may_terminate
-- Superusers may, those who have the login's own rights, and members of pg_signal_backend.
SELECT r.rolsuper
    OR pg_catalog.pg_has_role(current_user, :login, 'USAGE')
    OR pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE')
  FROM pg_catalog.pg_roles r
 WHERE r.rolname = current_user;

-- name: terminate
SELECT pg_catalog.pg_terminate_backend(:pid);

-- name: is_there
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = :pid);

-- name: unquiet
-- `state` is NULL for who may not see it; locks are seen by everybody.
SELECT format('backend %s is %s', pid, state)
  FROM pg_catalog.pg_stat_activity
 WHERE pid = ANY(:pids) AND state <> 'idle'
UNION ALL
SELECT format('backend %s holds %s on %s', pid, mode, locktype)
  FROM pg_catalog.pg_locks
 WHERE pid = ANY(:pids) AND granted;
