"""All rules of the audit, as one table; docs/reference/audit.md shows the same. Pure.

Long because it is a list. What a finding is about, and the statement that mends it, come from sql/audit.sql; of those
about sessions, `audit.client` sees.
"""

from __future__ import annotations

from mt_paas_db.isolation.audit.values import Rule, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity

_DOCS = "https://www.postgresql.org/docs/current/"
_PRIVILEGES = _DOCS + "ddl-priv.html"
_MEMBERSHIP = _DOCS + "role-membership.html"
_ATTRIBUTES = _DOCS + "role-attributes.html"
_POLICIES = _DOCS + "ddl-rowsecurity.html"
_CREATE_POLICY = _DOCS + "sql-createpolicy.html"
_FUNCTIONS = _DOCS + "sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY"
_DEFAULTS = _DOCS + "sql-alterdefaultprivileges.html"
_PREDEFINED = _DOCS + "predefined-roles.html"
_VIEWS = _DOCS + "rules-privileges.html"
_SETTINGS = _DOCS + "runtime-config-client.html"
_SCHEMAS = _DOCS + "ddl-schemas.html#DDL-SCHEMAS-PATTERNS"
_DEPENDENCIES = _DOCS + "catalog-pg-depend.html"
_KEYS = _POLICIES + "#:~:text=covert%20channel"
_REPLICATION = _DOCS + "logical-replication-security.html"
_LARGE_OBJECTS = _DOCS + "lo-implementation.html"
_SET_ROLE = _DOCS + "sql-set-role.html"
_SESSIONS = "https://docs.sqlalchemy.org/en/20/orm/session_basics.html"
_POOL = "https://docs.sqlalchemy.org/en/20/core/pooling.html#reset-on-return"
_AUTOCOMMIT = "https://docs.sqlalchemy.org/en/20/core/connections.html#dbapi-autocommit"
_POOLER = "https://www.pgbouncer.org/config.html"

_SEEN = "{object}: {what}"

_LISTED = (
    # -- rights
    Rule(
        "public-rights", HIGH, "everybody has a right in a schema of the installation", "{what} on {kind} {object}",
        "PUBLIC is every role, all tenants' among them. Critical where schema and object are open.", _PRIVILEGES,
        safe=True,
    ),
    Rule(
        "login-rights", HIGH, "the login has a right of its own", "{what} on {kind} {object}",
        "A statement that runs before a tenant's role is taken, or after it was lost, must find nothing. "
        "Critical where schema and object are open.", _PRIVILEGES, safe=True,
    ),
    Rule(
        "foreign-rights", HIGH, "a tenant, or all, have a right in a schema that is not theirs",
        "{what} on {kind} {object}",
        "A tenant's role has rights in its own schema and in shared ones. Critical where schema and object are open.",
        _PRIVILEGES, safe=True,
    ),
    Rule(
        "tenant-create", HIGH, "a tenant may create objects in its schema or in a shared one",
        "{what} on schema {object}",
        "A function that is planted there is run by the next migration, as the owner (the pattern of CVE-2018-1058).",
        "https://www.postgresql.org/support/security/CVE-2018-1058/", safe=True,
    ),
    Rule(
        "excess-shared", HIGH, "tenants may TRUNCATE, reference or set triggers on a shared table",
        "{what} on {kind} {object}",
        "TRUNCATE and REFERENCES are not subject to row security, and a trigger runs in other tenants' writes.",
        _POLICIES, safe=True,
    ),
    Rule(
        "excess-rights", MEDIUM, "a tenant has more rights on its own table than rows need",
        "{what} on {kind} {object}",
        "TRUNCATE, REFERENCES, TRIGGER and MAINTAIN pass by row policies, and no session needs them.", _POLICIES,
        safe=True,
    ),
    Rule(
        "shared-writable", MEDIUM, "tenants may write a shared table that has no row security",
        "{what} on table {object}",
        "What one tenant writes there all others read, and may change.", _POLICIES,
    ),
    Rule(
        "public-schema", HIGH, "the schema public, or what stands in it, is open", "{what} on {kind} {object}",
        "A table in public is one for all tenants, and public on a search_path finds it silently.", _SCHEMAS, safe=True,
    ),
    Rule(
        "public-object", MEDIUM, "something stands in the schema public", "{kind} {object} belongs to {what}",
        "It is neither a tenant's nor declared as shared.", _SCHEMAS,
    ),
    Rule(
        "definer-public", HIGH, "everybody may call a function that runs as its owner", "{what} on routine {object}",
        "It runs with the rights of its owner, whatever tenant calls it.", _FUNCTIONS, safe=True,
    ),
    Rule(
        "public-execute", MEDIUM, "everybody may call a function of the installation", "{what} on routine {object}",
        "PUBLIC has EXECUTE on each new function, unless its maker's default privileges say otherwise.",
        _FUNCTIONS, safe=True,
    ),
    Rule(
        "default-rights", HIGH, "objects that will be made are open to strangers", "{object}: {what}",
        "The next migration opens what it makes.", _DEFAULTS, safe=True,
    ),
    Rule(
        "default-missing", LOW, "what the owner will make in a schema is granted to nobody", "{object}: {what}",
        "No leak; after the next migration somebody grants by hand, and more than is needed.", _DEFAULTS,
    ),
    Rule(
        "default-execute", MEDIUM, "PUBLIC will have EXECUTE on the functions that the owner makes",
        "role {object} has no default privileges that take EXECUTE from PUBLIC",
        "Only the form without IN SCHEMA takes it away.", _DEFAULTS, safe=True,
    ),
    Rule(
        "database-rights", HIGH, "a role other than the owner's has TEMP or CREATE on the database",
        "{what} on database {object}",
        "A temporary table outlives its tenant on a pooled connection and can stand in for the next one's; who may "
        "create schemas may put one on a path.", _PRIVILEGES, safe=True,
    ),
    Rule(
        "database-connect", LOW, "roles other than the installation's may connect to its database",
        "{what} on database {object}", "Other services' roles have no business here.", _PRIVILEGES, safe=True,
    ),
    Rule(
        "parameter-rights", MEDIUM, "a role may set a parameter that is the superuser's",
        "{what} on parameter {object}",
        "Such a parameter is in force for all tenants, or takes a guard away.", _PRIVILEGES, safe=True,
    ),
    Rule(
        "large-object", HIGH, "a large object is open to others than its owner", "{what} on large object {object}",
        "Large objects lie in no schema; their numbers can be guessed.", _LARGE_OBJECTS, safe=True,
    ),
    Rule(
        "large-object-owner", MEDIUM, "a large object belongs to the login or the group",
        "large object {object}: {what}",
        "Whoever runs outside a tenant's role may read it.", _LARGE_OBJECTS,
    ),
    Rule(
        "large-object-compat", HIGH, "rights on large objects are not looked at", "{object} is {what}",
        "With lo_compat_privileges every role may read and write every large object.",
        _DOCS + "runtime-config-compatible.html",
    ),
    # -- memberships
    Rule(
        "login-inherits", CRITICAL, "the login has the rights of tenants' roles without taking them",
        "{object}: the login inherits",
        "Outside any tenant, a statement reads every tenant. From PostgreSQL 16 on each membership decides for itself, "
        "and ALTER ROLE ... NOINHERIT after the GRANT changes nothing; before, the role's attribute decides at once.",
        _DOCS + "sql-grant.html", safe=True,
    ),
    Rule(
        "login-inherit", MEDIUM, "the login has the attribute INHERIT", "role {object} has INHERIT",
        "The next GRANT of a role that says nothing else is inherited.", _ATTRIBUTES, safe=True,
    ),
    Rule(
        "login-admin", HIGH, "the login may grant tenants' roles", "{object}: with ADMIN OPTION",
        "Every session could make one tenant's role a member of another's.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "login-member", CRITICAL, "the login is a member of a role that is no tenant's",
        "{object}: not a tenant's role",
        "Whatever that role may do, a session may do.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "cell-member", HIGH, "a login is a member of the role of a tenant that is in another cell",
        "{object}: a tenant of another cell",
        "Sessions of one cell reach a tenant of another. After a move it is so for the cache bound, and is information "
        "then; `mt-paas-db cell settle` ends it.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "own-login-member", CRITICAL, "a tenant's own login is a member of something but its tenant's role",
        "{object}: not its tenant's role",
        "At tier `login` a tenant runs SQL itself: it takes that role as soon as it likes.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "tenant-member", CRITICAL, "a tenant's role is a member of something but the tenants' group",
        "{object}: not the tenants' group", "It may do whatever that role may.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "group-member", CRITICAL, "the tenants' group is a member of something", "{object}",
        "All tenants may do whatever that role may.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "owner-member", HIGH, "the owner's role is a member of something", "{object}",
        "A migration runs with more rights than it needs.", _MEMBERSHIP,
    ),
    Rule(
        "group-admin", HIGH, "a tenant's role may grant the tenants' group", "{object}: with ADMIN OPTION",
        "It could let strangers read what all tenants read.", _MEMBERSHIP, safe=True,
    ),
    Rule(
        "predefined-role", CRITICAL, "a role of the installation is a member of a predefined role", "{object}",
        "pg_read_all_data reads every tenant, pg_execute_server_program runs commands on the server.",
        _PREDEFINED, safe=True,
    ),
    Rule(
        "outsider-member", HIGH, "a role outside the installation is a member of one of its roles", "{object}",
        "It reaches that tenant, or with the owner's role all of them, past the library.", _MEMBERSHIP,
    ),
    Rule(
        "inactive-member", MEDIUM, "the login may take the role of a tenant that is not active", "{object}",
        "A tenant that is suspended or archived can still be worked with.", _MEMBERSHIP, safe=True,
    ),
    # -- roles
    Rule(
        "role-powers", CRITICAL, "a role of the installation has a power over the server", "role {object} has {what}",
        "SUPERUSER and BYPASSRLS pass every guard; CREATEROLE and REPLICATION lead there.", _ATTRIBUTES, safe=True,
    ),
    Rule(
        "role-login", HIGH, "the owner, the group or the reference may log in", "role {object} may log in",
        "Nobody should hold a connection with the rights of the owner.", _ATTRIBUTES, safe=True,
    ),
    Rule(
        "tenant-login", INFO, "a tenant's role may log in", "role {object} may log in",
        "Nothing here needs it: at tier `login` a tenant's login is a role beside it. Citus does, on its workers.",
        _ATTRIBUTES,
    ),
    Rule(
        "inactive-login", MEDIUM, "the own login of a tenant that is not active may log in",
        "role {object} may log in, and its tenant is {what}",
        "One lock of two is open: without its tenant's role it still lacks the right to connect.", _ATTRIBUTES,
        safe=True,
    ),
    Rule(
        "tenant-missing", HIGH, "a tenant of the catalog lacks its role or schema",
        "tenant {object}: {what} is missing",
        "Somebody else may make one of that name and be taken for it.", _SCHEMAS,
    ),
    Rule(
        "stray-role", LOW, "a role is named like a tenant's, and no tenant has it", "role {object}",
        "What a deleted tenant left behind, or what somebody made by hand.", _ATTRIBUTES,
    ),
    Rule(
        "stray-schema", MEDIUM, "a schema is named like a tenant's, and no tenant has it", "schema {object}",
        "It holds data that nobody answers for.", _SCHEMAS,
    ),
    Rule(
        "schema-owner", HIGH, "a schema belongs to another role than the owner", "schema {object} belongs to {what}",
        "Its owner may open it. Critical where that is a tenant's role, the login or the group.", _SCHEMAS, safe=True,
    ),
    Rule(
        "object-owner", HIGH, "an object belongs to another role than the owner", "{kind} {object} belongs to {what}",
        "Its owner may switch off row security, set triggers, grant. Critical where that is a tenant's role, the login "
        "or the group.", _POLICIES, safe=True,
    ),
    # -- settings
    Rule(
        "login-path", HIGH, "the login starts as another role, or on a path that finds something", "{what}",
        "A statement outside a tenant finds tables.", _SCHEMAS,
    ),
    Rule(
        "own-login-setting", MEDIUM, "a tenant's own login starts as another role, or on another path",
        "{object} is {what}",
        "A tenant may set it itself; a library that connects by itself is then not where it belongs.", _SETTINGS,
        safe=True,
    ),
    Rule(
        "role-setting", MEDIUM, "a role, or the database, begins with a path or role of its own", "{object} is {what}",
        "It is in force for who logs in, and not for who takes the role: two behaviours under one name.", _SETTINGS,
    ),
    Rule(
        "row-security-off", MEDIUM, "row_security is off", "{object} is {what}",
        "A query that a policy would filter fails, and whoever passes by policies reads everything.", _SETTINGS,
    ),
    Rule(
        "preload", MEDIUM, "a library is loaded into every session", "{object} is {what}",
        "It runs inside every tenant's transactions.", _SETTINGS,
    ),
    Rule(
        "statement-log", INFO, "statements are logged", "{object} is {what}",
        "Literals, and bound values unless log_parameter_max_length is 0, are in the server's log.",
        _DOCS + "runtime-config-logging.html",
    ),
    # -- row security
    Rule(
        "rls-off", CRITICAL, "a table with rows of several tenants has no row security",
        "table {object} {what}row security is off",
        "Every tenant reads all rows.", _POLICIES,
    ),
    Rule(
        "rls-not-forced", HIGH, "row security does not hold for the owner", "table {object}: not forced",
        "Functions and views of the owner read all rows, for whoever calls them.", _POLICIES,
    ),
    Rule(
        "policy-open", CRITICAL, "a permissive policy lets through whoever asks",
        "policy {object} does not ask for the tenant",
        "Permissive policies add up: one that is open opens the table, where no restrictive one stands beside it.",
        _CREATE_POLICY,
    ),
    Rule(
        "policy-role", MEDIUM, "a policy is for some roles", "policy {object} is TO {what}",
        "Plans that were made for one role were used for another (CVE-2024-10976, CVE-2023-2455); and a role that "
        "leaves the list leaves a restrictive policy too.",
        "https://www.postgresql.org/support/security/CVE-2024-10976/",
    ),
    Rule(
        "policy-per-row", MEDIUM, "a policy asks for the tenant once for every row", "policy {object} calls {what}",
        "In a scalar sub-select it is asked once a query: measured on 10,000 rows, 1.2 ms instead of 70 ms.",
        _CREATE_POLICY,
    ),
    Rule(
        "guard-missing", MEDIUM, "a tenant's table has no guard, while others have one, or the settings ask for guards",
        "table {object} has no guard",
        "A stray right on it shows its rows.", _POLICIES,
    ),
    Rule(
        "view-definer", MEDIUM, "a view reads with the rights of its owner", "view {object}: {what}",
        "The owner's rights, and the policies for the owner, are applied instead of the tenant's. Critical "
        "where it reads "
        "a table with rows of several tenants.", _VIEWS,
    ),
    Rule(
        "matview-rows", HIGH, "a materialized view holds rows of several tenants", "materialized view {object}: {what}",
        "No policy is applied to what it holds.", _VIEWS,
    ),
    Rule(
        "definer-path", HIGH, "a function that runs as its owner has no fixed search_path that ends in pg_temp",
        "routine {object}: {what}",
        "A temporary table, or one on the caller's path, stands in for the one that is meant.", _FUNCTIONS,
    ),
    Rule(
        "context-setting", CRITICAL, "who a tenant is follows from a setting", "{what}: routine {object}",
        "Everybody may set mt_paas.tenant, in any statement; policies have to ask for the role.", _POLICIES,
    ),
    # -- keys of shared tables
    Rule(
        "unique-not-led", MEDIUM, "a unique key of a shared table does not begin with the tenant", "{object} of {what}",
        "A duplicate tells that another tenant has the value; plans tell it too.", _KEYS,
    ),
    Rule(
        "exclusion-not-led", MEDIUM, "an exclusion constraint of a shared table spans tenants", "{object} of {what}",
        "A conflict tells what another tenant has.", _KEYS,
    ),
    Rule(
        "fk-not-led", HIGH, "a foreign key between shared tables does not bind the tenant",
        "{object} refers to {what} without the tenant",
        "Foreign keys pass by row security: a tenant refers to another's row, and its deletion cascades.", _KEYS,
    ),
    Rule(
        "index-not-led", LOW, "an index of a shared table does not begin with the tenant", "{object} of {what}",
        "EXPLAIN ANALYZE counts the rows of other tenants that a policy took away.", _KEYS,
    ),
    # -- what crosses
    Rule(
        "fk-crosses", CRITICAL, "a foreign key leads to another tenant's table", "{object}: {what}",
        "Its checks read the other tenant's rows, and its cascades write here.", _DEPENDENCIES,
    ),
    Rule(
        "inherits-crosses", CRITICAL, "a table is a partition or child of another tenant's", "{object}: {what}",
        "Who reads the parent reads the child, with the parent's rights.", _DOCS + "ddl-inherit.html",
    ),
    Rule(
        "view-crosses", CRITICAL, "a view reads another tenant's table", "{object}: {what}",
        "It reads with its owner's rights.", _DEPENDENCIES,
    ),
    Rule(
        "trigger-crosses", HIGH, "a trigger calls another tenant's function", "{object}: {what}",
        "That function sees every row that is written here.", _DEPENDENCIES,
    ),
    Rule(
        "default-crosses", HIGH, "a default, check or index leans on another tenant's sequence, table or function",
        "{object}: {what}",
        "LIKE ... INCLUDING ALL copies a serial's default with the sequence it names: one counter for two tenants.",
        _DOCS + "sql-createtable.html",
    ),
    Rule(
        "type-crosses", MEDIUM, "a column is of another tenant's type", "{object}: {what}",
        "The other tenant's labels and constraints decide, and its deletion takes the column with it.", _DEPENDENCIES,
    ),
    Rule(
        "policy-crosses", HIGH, "a policy leans on another tenant's table or function", "{object}: {what}",
        "That decides which rows are seen here.", _DEPENDENCIES,
    ),
    Rule(
        "function-crosses", HIGH, "a function names another tenant's schema", "{object}: {what}",
        "With SECURITY DEFINER it reads there; without, it fails, or somebody grants what makes it work.",
        _DEPENDENCIES,
    ),
    # -- what works past schemas and roles
    Rule(
        "extension-dangerous", HIGH, "an extension reaches other databases, files or objects of others",
        "extension {object}, {what}", "dblink and foreign data wrappers open connections as other roles; file_fdw and "
        "adminpack read files; lo unlinks large objects.", _DOCS + "contrib.html",
    ),
    Rule(
        "extension-in-tenant", MEDIUM, "an extension stands in a tenant's schema", "extension {object} is {what}",
        "There is one in a database: with its tenant it is deleted for all.", _DOCS + "sql-createextension.html",
    ),
    Rule(
        "untrusted-language", MEDIUM, "there is a language without a sandbox", "language {object}",
        "A function in it does what the server's operating system account may.", _DOCS + "plperl-trusted.html",
    ),
    Rule(
        "foreign-server", MEDIUM, "there is a foreign server", "foreign server {object}, {what}",
        "It leads out of the database with a password of its own. High where roles of the installation may use it.",
        _DOCS + "sql-createserver.html",
    ),
    Rule(
        "user-mapping", HIGH, "a role of the installation, or everybody, has a login on a foreign server", "{object}",
        "Sessions of all tenants share it.", _DOCS + "sql-createusermapping.html",
    ),
    Rule(
        "publication", MEDIUM, "tenants' tables are published", "publication {object}: {what}",
        "A subscriber reads them whatever the rights and policies here.", _REPLICATION,
    ),
    Rule(
        "subscription", MEDIUM, "the database subscribes to another", "subscription {object}",
        "What it applies is written past the sessions' guards.", _REPLICATION,
    ),
    Rule(
        "event-trigger", MEDIUM, "an event trigger runs in every DDL command", "event trigger {object}: {what}",
        "It runs in migrations, as the owner.", _DOCS + "event-triggers.html",
    ),
    # -- server and pooler
    Rule(
        "server-advisory", MEDIUM, "the server's release has a known fault that touches isolation", "{object}: {what}",
        "The newest minor release of each branch has the fixes.", "https://www.postgresql.org/support/security/",
    ),
    Rule(
        "server-release", INFO, "the server's release is older than one the library trusts", "{what}",
        "Doctor's own threshold.", "https://www.postgresql.org/support/security/",
    ),
    Rule(
        "pooler", MEDIUM, "what stands before the server is not what the settings say", "{what}",
        "Named prepared statements go astray, or sessions are refused.", _POOLER,
    ),
    Rule(
        "pooler-advisory", MEDIUM, "the pooler's release has a known fault", "{object}: {what}",
        "It stands before every tenant.", "https://www.pgbouncer.org/changelog.html",
    ),
    Rule(
        "pooler-residue", HIGH, "the pooler hands a session on without a reset", "{object} is {what}",
        "In session mode what a client leaves (role, path, temporary tables, prepared statements) meets the next one.",
        _POOLER,
    ),
    Rule(
        "pooler-tracks", LOW, "the pooler carries search_path or role over to other transactions", "{object} is {what}",
        "It hides a session-level SET that would be noticed otherwise.", _POOLER,
    ),
    # -- sessions, as this process has them
    Rule(
        "client-role", CRITICAL, "a transaction begins without its tenant's role", _SEEN,
        "Only the role lets the server tell tenants apart, and what runs before it runs as anybody.", _SET_ROLE,
    ),
    Rule(
        "client-path", HIGH, "a session's path is not its tenant's schema, the shared ones and pg_temp last", _SEEN,
        "A name that is missing is looked up in public, or in a temporary table that the last tenant has left.",
        _SCHEMAS,
    ),
    Rule(
        "client-savepoint", CRITICAL, "a savepoint's rollback takes the tenant's role away", _SEEN,
        "What SET LOCAL has set inside a savepoint ends with it.", _SET_ROLE,
    ),
    Rule(
        "client-next", CRITICAL, "a session's second transaction is not its tenant's", _SEEN,
        "A session lives on after COMMIT and ROLLBACK, and what was pinned does not.", _SET_ROLE,
    ),
    Rule(
        "client-pin", CRITICAL, "a session begins with another session's pin", _SEEN,
        "The last one to be opened, or the last on a lost connection, decides whose rows are read.", _SESSIONS,
    ),
    Rule(
        "client-outlives", CRITICAL, "a tenant's role or path outlives its transaction", _SEEN,
        "The connection's next user, or behind a pooler anybody, has them.", _SET_ROLE,
    ),
    Rule(
        "client-guard", HIGH, "a statement is sent outside the pinned transaction", _SEEN,
        "After a COMMIT by SQL nothing but the login's lack of rights stands before other tenants.", _SESSIONS,
    ),
    Rule(
        "client-open", CRITICAL, "a session's end leaves its transaction open", _SEEN,
        "Cursors, locks and settings in it are the next tenant's.", _POOL,
    ),
    Rule(
        "client-commit", HIGH, "a transaction does not end as its tenant", _SEEN,
        "Deferred triggers and constraints run at COMMIT, with whatever role is in force then.",
        _DOCS + "sql-set-constraints.html",
    ),
    Rule(
        "client-residue", HIGH, "what a session leaves on its connection stays there", _SEEN,
        "A setting, a role or a cursor of one tenant meets the next one; a pool's reset is a ROLLBACK alone.", _POOL,
    ),
    Rule(
        "client-default", CRITICAL, "there is a tenant where none was named", _SEEN,
        "Code that forgets to say whose rows it reads must fail, and not read somebody's.", _SESSIONS,
    ),
    Rule(
        "client-autocommit", HIGH, "AUTOCOMMIT is allowed", _SEEN,
        "What is set for a transaction ends with each statement then.", _AUTOCOMMIT,
    ),
    Rule(
        "client-two-phase", HIGH, "two-phase transactions are allowed", _SEEN,
        "They begin past the pin, and a prepared one outlives its session.", _DOCS + "sql-prepare-transaction.html",
    ),
    Rule(
        "client-refusal", CRITICAL, "a refused pin does not stop the transaction", _SEEN,
        "A suspended or deleted tenant's session goes on as the login.", _SESSIONS,
    ),
    Rule(
        "client-engine", HIGH, "a session runs on whatever engine it is asked to", _SEEN,
        "Another tenant's engine is as good as another tenant's session.",
        "https://docs.sqlalchemy.org/en/20/orm/persistence_techniques.html#session-partitioning",
    ),
    Rule(
        "client-session", CRITICAL, "one session serves several times", _SEEN,
        "Its identity map answers from what it has loaded before, for whomever.", _SESSIONS,
    ),
    Rule(
        "client-objects", HIGH, "a session takes objects of another tenant's", _SEEN,
        "The next flush writes them, and a lazy load reads by the other tenant's keys.", _SESSIONS,
    ),
    Rule(
        "client-context", HIGH, "nobody compares a session with the tenant in force", _SEEN,
        "A session handed to another tenant's task or thread works there.",
        "https://docs.python.org/3/library/contextvars.html",
    ),
    Rule(
        "client-names", CRITICAL, "a name is changed before it is looked up", _SEEN,
        "Folded or cut, two names are one, and somebody gets the other's tenant.",
        _DOCS + "sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS",
    ),
    Rule(
        "client-memory", HIGH, "a process remembers where a tenant lives for too long, or of another", _SEEN,
        "A tenant that was deleted and created anew is another one, whatever it is called.", _SESSIONS,
    ),
)  # fmt: skip

RULES: dict[str, Rule] = {rule.id: rule for rule in _LISTED}
"""Every rule by its id, in the order of the reference."""
