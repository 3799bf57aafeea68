"""Every fault that the audit is for: what makes it, and what is said of it. tests/test_audit_faults.py uses it.

In the statements stand the names of `tests.test_audit_faults.Names`: ``{x}`` is new for each fault, ``{shared}`` is a
shared schema. Statements are carried out as superuser in one message; ``AS_OWNER`` goes before those of the owner.
Long because it is a list, with one entry for each.
"""

from __future__ import annotations

from dataclasses import dataclass

AS_OWNER = "SET ROLE {owner}; "

RULED = AS_OWNER + (
    "CREATE TABLE {shared}.{x} (tenant bigint NOT NULL DEFAULT mt_paas.tenant(), id int, name text, "
    "PRIMARY KEY (tenant, id)); SELECT mt_paas.share_rows('{shared}.{x}', 'tenant'); "
)
"""A shared table with rows of several tenants, as it should be."""

FUNCTION = "CREATE FUNCTION {place}.{x}f(a int) RETURNS boolean LANGUAGE sql {how} AS 'SELECT true'; "
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"


def function(place: str = "{tenant}", how: str = "") -> str:
    """Return what makes a function ``{x}f(int)`` of the owner's."""
    return AS_OWNER + FUNCTION.replace("{place}", place).replace("{how}", how)


@dataclass(frozen=True)
class Fault:
    """What is planted, and the findings, each a rule and an object. `tidy` puts right what mends leave.

    `since` and `until` are the first and the last major version that has it; `needs` is an extension it is made of.
    """

    plant: str
    found: tuple[tuple[str, str], ...]
    since: int = 15
    until: int = 99
    needs: str | None = None
    tidy: str | None = None


def one(rule: str, object_: str, plant: str, **options: object) -> Fault:
    """Return a fault of one finding."""
    return Fault(plant, ((rule, object_),), **options)  # type: ignore[arg-type]


_RIGHTS = {
    "PUBLIC may use a tenant's schema": one("public-rights", "{tenant}", "GRANT USAGE ON SCHEMA {tenant} TO PUBLIC"),
    "PUBLIC may read a table": one("public-rights", "{tenant}.note", "GRANT SELECT ON {tenant}.note TO PUBLIC"),
    "PUBLIC may read a column": one("public-rights", "{tenant}.note", "GRANT SELECT (body) ON {tenant}.note TO PUBLIC"),
    "PUBLIC may draw from a sequence": one(
        "public-rights", "mt_paas.tenant_generation", "GRANT USAGE ON SEQUENCE mt_paas.tenant_generation TO PUBLIC"
    ),
    "the login may use a tenant's schema": one("login-rights", "{tenant}", "GRANT USAGE ON SCHEMA {tenant} TO {login}"),
    "the login may read the catalog": one(
        "login-rights", "mt_paas.tenant", "GRANT SELECT ON mt_paas.tenant TO {login}", tidy=None
    ),
    "the login may create in the catalog": one("login-rights", "mt_paas", "GRANT CREATE ON SCHEMA mt_paas TO {login}"),
    "a tenant may use its neighbour's schema": one(
        "foreign-rights", "{neighbour}", "GRANT USAGE ON SCHEMA {neighbour} TO {tenant}"
    ),
    "a tenant may write its neighbour's table": one(
        "foreign-rights", "{neighbour}.note", "GRANT UPDATE ON {neighbour}.note TO {tenant}"
    ),
    "all tenants may read a tenant's table": one(
        "foreign-rights", "{tenant}.note", "GRANT SELECT ON {tenant}.note TO {group}"
    ),
    "all tenants may use the catalog": one("foreign-rights", "mt_paas", "GRANT USAGE ON SCHEMA mt_paas TO {group}"),
    "the reference's role may read a tenant's table": one(
        "foreign-rights", "{tenant}.note", "GRANT SELECT ON {tenant}.note TO {reference}"
    ),
    "a tenant may call its neighbour's function": one(
        "foreign-rights",
        "{neighbour}.{x}f(a integer)",
        function("{neighbour}") + "GRANT EXECUTE ON FUNCTION {neighbour}.{x}f TO {tenant}",
    ),
    "a tenant may use its neighbour's type": one(
        "foreign-rights", "{neighbour}.mood", "GRANT USAGE ON TYPE {neighbour}.mood TO {tenant}"
    ),
    "a tenant may create in its schema": one(
        "tenant-create", "{tenant}", "GRANT CREATE ON SCHEMA {tenant} TO {tenant}"
    ),
    "tenants may create in a shared schema": one(
        "tenant-create", "{shared}", "GRANT CREATE ON SCHEMA {shared} TO {group}"
    ),
    "a tenant may set triggers": one("excess-rights", "{tenant}.note", "GRANT TRIGGER ON {tenant}.note TO {tenant}"),
    "a tenant may truncate": one("excess-rights", "{tenant}.note", "GRANT TRUNCATE ON {tenant}.note TO {tenant}"),
    "a tenant may refer to a column": one(
        "excess-rights", "{tenant}.note", "GRANT REFERENCES (id) ON {tenant}.note TO {tenant}"
    ),
    "a tenant may maintain": one(
        "excess-rights", "{tenant}.note", "GRANT MAINTAIN ON {tenant}.note TO {tenant}", since=17
    ),
    "tenants may truncate a shared table": one(
        "excess-shared", "{shared}.{x}", RULED + "GRANT TRUNCATE ON {shared}.{x} TO {group}"
    ),
    "tenants may write a table for all": one(
        "shared-writable",
        "{shared}.{x}",
        AS_OWNER + "CREATE TABLE {shared}.{x} (a int); GRANT INSERT ON {shared}.{x} TO {group}",
    ),
    "public is open": one("public-schema", "public", "GRANT USAGE ON SCHEMA public TO PUBLIC"),
    "a tenant may create in public": one("public-schema", "public", "GRANT CREATE ON SCHEMA public TO {tenant}"),
    "a table stands in public": one("public-object", "public.{x}", "CREATE TABLE public.{x} (a int)"),
    "a function stands in public": one(
        "public-object", "public.{x}f(a integer)", function("public").partition("; ")[2]
    ),
    "everybody may call what runs as the owner": one(
        "definer-public",
        "{tenant}.{x}f(a integer)",
        function(how=DEFINER) + "GRANT EXECUTE ON FUNCTION {tenant}.{x}f TO PUBLIC",
    ),
    "everybody may call a tenant's function": one(
        "public-execute", "{tenant}.{x}f(a integer)", function() + "GRANT EXECUTE ON FUNCTION {tenant}.{x}f TO PUBLIC"
    ),
    "a tenant will read its neighbour's tables": one(
        "default-rights",
        "TABLES of {owner} in {neighbour}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {neighbour} GRANT SELECT ON TABLES TO {tenant}",
    ),
    "everybody will read what the superuser makes": one(
        "default-rights",
        "TABLES of postgres",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO PUBLIC",
    ),
    "a tenant will be able to truncate": one(
        "default-rights",
        "TABLES of {owner} in {tenant}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {tenant} GRANT TRUNCATE ON TABLES TO {tenant}",
    ),
    "everybody will call what the owner makes": one(
        "default-execute",
        "{owner}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
    ),
    "TEMP for PUBLIC": one("database-rights", "{database}", "GRANT TEMP ON DATABASE {database} TO PUBLIC"),
    "CREATE for the login": one("database-rights", "{database}", "GRANT CREATE ON DATABASE {database} TO {login}"),
    "CONNECT for PUBLIC": one("database-connect", "{database}", "GRANT CONNECT ON DATABASE {database} TO PUBLIC"),
    "the login may set a parameter": one(
        "parameter-rights", "log_statement", "GRANT SET ON PARAMETER log_statement TO {login}"
    ),
    "everybody may read a large object": one(
        "large-object", "{n}", "SELECT lo_create({n}); GRANT SELECT ON LARGE OBJECT {n} TO PUBLIC"
    ),
    "the login owns a large object": one(
        "large-object-owner", "{n}", "SELECT lo_create({n}); ALTER LARGE OBJECT {n} OWNER TO {login}"
    ),
    "rights on large objects are off": one(
        "large-object-compat",
        "database {database} lo_compat_privileges",
        "ALTER DATABASE {database} SET lo_compat_privileges = on",
    ),
}

_ROLES = {
    "the login inherits": one(
        "login-inherits", "{login} in {tenant}", "GRANT {tenant} TO {login} WITH INHERIT TRUE", since=16
    ),
    "NOINHERIT came after the GRANT": one(
        "login-inherits",
        "{login} in {tenant}",
        "ALTER ROLE {login} INHERIT; REVOKE {tenant} FROM {login}; GRANT {tenant} TO {login}; "
        "ALTER ROLE {login} NOINHERIT",
        since=16,
    ),
    "INHERIT came after the GRANT": one("login-inherits", "{login}", "ALTER ROLE {login} INHERIT", until=15),
    "the login will inherit": one("login-inherit", "{login}", "ALTER ROLE {login} INHERIT", since=16),
    "the login may grant a tenant's role": one(
        "login-admin", "{login} in {tenant}", "GRANT {tenant} TO {login} WITH ADMIN OPTION"
    ),
    "the login may act as the owner": one("login-member", "{login} in {owner}", "GRANT {owner} TO {login}"),
    "a cell's login may take a tenant's role of another cell": one(
        "cell-member",
        "{cell_login} in {tenant}",
        "GRANT {tenant} TO {cell_login}; UPDATE mt_paas.tenant SET placed_at = now() - interval '1 hour'",
    ),
    "the first login may take a tenant's role of another cell": one(
        "cell-member",
        "{login} in {apart}",
        "GRANT {apart} TO {login}; UPDATE mt_paas.tenant SET placed_at = now() - interval '1 hour'",
    ),
    "a cell's login inherits": one(
        "login-inherits", "{cell_login} in {apart}", "GRANT {apart} TO {cell_login} WITH INHERIT TRUE", since=16
    ),
    "a cell's login may grant a tenant's role": one(
        "login-admin", "{cell_login} in {apart}", "GRANT {apart} TO {cell_login} WITH ADMIN OPTION"
    ),
    "a cell's login may act as the owner": one(
        "login-member", "{cell_login} in {owner}", "GRANT {owner} TO {cell_login}"
    ),
    "a cell's login has BYPASSRLS": one("role-powers", "{cell_login}", "ALTER ROLE {cell_login} BYPASSRLS"),
    "a cell's login starts in public": one(
        "login-path", "{cell_login}", "ALTER ROLE {cell_login} SET search_path = public"
    ),
    "a cell's login may use a tenant's schema": one(
        "login-rights", "{tenant}", "GRANT USAGE ON SCHEMA {tenant} TO {cell_login}"
    ),
    "a cell's login may read the catalog": one(
        "login-rights", "mt_paas.cell", "GRANT SELECT ON mt_paas.cell TO {cell_login}"
    ),
    "TEMP for a cell's login": one(
        "database-rights", "{database}", "GRANT TEMP ON DATABASE {database} TO {cell_login}"
    ),
    "a cell's login runs programs": one(
        "predefined-role",
        "{cell_login} in pg_execute_server_program",
        "GRANT pg_execute_server_program TO {cell_login}",
    ),
    "the login may take the reference's role": one(
        "login-member", "{login} in {reference}", "GRANT {reference} TO {login}"
    ),
    "a tenant is a member of its neighbour": one(
        "tenant-member", "{tenant} in {neighbour}", "GRANT {neighbour} TO {tenant}"
    ),
    "a tenant is a member of the owner": one("tenant-member", "{tenant} in {owner}", "GRANT {owner} TO {tenant}"),
    "all tenants are members of another role": one(
        "group-member", "{group} in {name}_{x}", "CREATE ROLE {name}_{x}; GRANT {name}_{x} TO {group}"
    ),
    "the owner is a member of another role": one(
        "owner-member", "{owner} in {name}_{x}", "CREATE ROLE {name}_{x}; GRANT {name}_{x} TO {owner}"
    ),
    "a tenant may grant the group": one(
        "group-admin", "{tenant} in {group}", "GRANT {group} TO {tenant} WITH ADMIN OPTION"
    ),
    "all tenants read everything": one(
        "predefined-role", "{group} in pg_read_all_data", "GRANT pg_read_all_data TO {group}"
    ),
    "the login runs programs": one(
        "predefined-role", "{login} in pg_execute_server_program", "GRANT pg_execute_server_program TO {login}"
    ),
    "somebody else may take a tenant's role": one(
        "outsider-member", "{name}_{x} in {tenant}", "CREATE ROLE {name}_{x} LOGIN; GRANT {tenant} TO {name}_{x}"
    ),
    "somebody else may act as the owner": one(
        "outsider-member", "{name}_{x} in {owner}", "CREATE ROLE {name}_{x} LOGIN; GRANT {owner} TO {name}_{x}"
    ),
    "the login may take a suspended tenant's role": one(
        "inactive-member",
        "{login} in {tenant}",
        "UPDATE mt_paas.tenant SET state = 'suspended' WHERE role_name = '{tenant}'",
        tidy="UPDATE mt_paas.tenant SET state = 'active' WHERE role_name = '{tenant}'; GRANT {tenant} TO {login}",
    ),
    **{
        f"{who} has {power}": one("role-powers", f"{{{who}}}", f"ALTER ROLE {{{who}}} {power}")
        for who, power in (
            ("tenant", "BYPASSRLS"),
            ("owner", "SUPERUSER"),
            ("group", "CREATEDB"),
            ("reference", "REPLICATION"),
            ("login", "CREATEROLE"),
        )
    },
    "the owner may log in": one("role-login", "{owner}", "ALTER ROLE {owner} LOGIN"),
    "a role is left over": one("stray-role", "{name}_gone_99", "CREATE ROLE {name}_gone_99"),
    "a schema is left over": one(
        "stray-schema", "{name}_gone_99", "CREATE SCHEMA {name}_gone_99; CREATE TABLE {name}_gone_99.note (a int)"
    ),
    "a schema belongs to another": one("schema-owner", "{tenant}", "ALTER SCHEMA {tenant} OWNER TO postgres"),
    "a table belongs to another": one("object-owner", "{tenant}.note", "ALTER TABLE {tenant}.note OWNER TO postgres"),
    "a type belongs to another": one("object-owner", "{tenant}.mood", "ALTER TYPE {tenant}.mood OWNER TO {tenant}"),
    "a tenant's role has a path": one(
        "role-setting", "role {tenant} search_path", "ALTER ROLE {tenant} SET search_path = public"
    ),
    "the login starts in public": one("login-path", "{login}", "ALTER ROLE {login} SET search_path = public"),
    "row_security is off": one(
        "row-security-off", "database {database} row_security", "ALTER DATABASE {database} SET row_security = off"
    ),
    "a library is loaded": one(
        "preload",
        "role {tenant} local_preload_libraries",
        "ALTER ROLE {tenant} SET local_preload_libraries = 'somewhere'",
    ),
    "a tenant will not be able to use a table": one(
        "default-missing",
        "TABLES of {owner} in {tenant}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {tenant} REVOKE DELETE ON TABLES FROM {tenant}",
    ),
    "a tenant will not be able to use any table": one(
        "default-missing",
        "SEQUENCES of {owner} in {tenant}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {tenant} REVOKE ALL ON SEQUENCES FROM {tenant}",
    ),
}

_ROWS = {
    "row security is off": one(
        "rls-off", "{shared}.{x}", RULED + "ALTER TABLE {shared}.{x} DISABLE ROW LEVEL SECURITY"
    ),
    "a table with a tenant_id has no row security": one(
        "rls-off",
        "{shared}.{x}",
        AS_OWNER + "CREATE TABLE {shared}.{x} (tenant_id text, name text)",
        tidy="DROP TABLE {shared}.{x}",
    ),
    "row security is not forced": one(
        "rls-not-forced", "{shared}.{x}", RULED + "ALTER TABLE {shared}.{x} NO FORCE ROW LEVEL SECURITY"
    ),
    "a policy lets all through": one(
        "policy-open", "{x} on {shared}.{x}", RULED + "CREATE POLICY {x} ON {shared}.{x} FOR SELECT USING (true)"
    ),
    "a policy is for one role": one(
        "policy-role",
        "{x} on {shared}.{x}",
        RULED
        + "CREATE POLICY {x} ON {shared}.{x} AS RESTRICTIVE TO {group} USING (tenant = (SELECT mt_paas.tenant()))",
    ),
    "a policy asks for each row": one(
        "policy-per-row",
        "{x} on {shared}.{x}",
        RULED + "CREATE POLICY {x} ON {shared}.{x} AS RESTRICTIVE USING (tenant = mt_paas.tenant() AND name <> '(') "
        "WITH CHECK (tenant = (SELECT mt_paas.tenant()))",
    ),
    "a policy asks for a setting for each row": one(
        "policy-per-row",
        "{x} on {shared}.{x}",
        RULED
        + "CREATE POLICY {x} ON {shared}.{x} AS RESTRICTIVE USING (name = current_setting('mt_paas.tenant', true))",
    ),
    "a view reads as its owner": one(
        "view-definer", "{tenant}.{x}", AS_OWNER + "CREATE VIEW {tenant}.{x} AS SELECT body FROM {tenant}.note"
    ),
    "a view reads rows of all as its owner": one(
        "view-definer", "{shared}.{x}v", RULED + "CREATE VIEW {shared}.{x}v AS SELECT name FROM {shared}.{x}"
    ),
    "a materialized view holds rows of all": one(
        "matview-rows",
        "{shared}.{x}v",
        RULED + "CREATE MATERIALIZED VIEW {shared}.{x}v AS SELECT name FROM {shared}.{x}",
    ),
    "a function runs as the owner on any path": one(
        "definer-path", "{tenant}.{x}f(a integer)", function(how="SECURITY DEFINER")
    ),
    "a function's path does not end in pg_temp": one(
        "definer-path",
        "{tenant}.{x}f(a integer)",
        function(how="SECURITY DEFINER SET search_path = pg_catalog, {tenant}"),
    ),
    "a setting says who the tenant is": one(
        "context-setting",
        "mt_paas.tenant()",
        "CREATE OR REPLACE FUNCTION mt_paas.tenant() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE "
        "RETURN CAST(current_setting('mt_paas.tenant', true) AS bigint)",
    ),
    "a unique key spans tenants": one(
        "unique-not-led", "{shared}.{x}_name_key", RULED + "ALTER TABLE {shared}.{x} ADD UNIQUE (name)"
    ),
    "a unique index spans tenants": one(
        "unique-not-led", "{shared}.{x}u", RULED + "CREATE UNIQUE INDEX {x}u ON {shared}.{x} (name)"
    ),
    "an exclusion spans tenants": one(
        "exclusion-not-led",
        "{shared}.{x}e",
        RULED + "ALTER TABLE {shared}.{x} ADD CONSTRAINT {x}e EXCLUDE USING btree (name WITH =)",
    ),
    "a foreign key spans tenants": one(
        "fk-not-led",
        "{shared}.{x}.{x}k",
        RULED + "ALTER TABLE {shared}.{x} ADD COLUMN other bigint, ADD CONSTRAINT {x}k FOREIGN KEY (other, id) "
        "REFERENCES {shared}.{x} (tenant, id) ON DELETE CASCADE",
    ),
    "an index spans tenants": one(
        "index-not-led", "{shared}.{x}_name_idx", RULED + "CREATE INDEX ON {shared}.{x} (name)"
    ),
}

_CROSSINGS = {
    "a foreign key crosses": one(
        "fk-crosses",
        "{x} on {tenant}.remark",
        AS_OWNER
        + "ALTER TABLE {tenant}.remark ADD CONSTRAINT {x} FOREIGN KEY (note_id) REFERENCES {neighbour}.note (id)",
    ),
    "a table inherits": one(
        "inherits-crosses",
        "{tenant}.{x}",
        AS_OWNER + "CREATE TABLE {neighbour}.{x} (a int); CREATE TABLE {tenant}.{x} () INHERITS ({neighbour}.{x})",
    ),
    "a partition crosses": one(
        "inherits-crosses",
        "{tenant}.{x}",
        AS_OWNER + "CREATE TABLE {neighbour}.{x} (a int) PARTITION BY LIST (a); "
        "CREATE TABLE {tenant}.{x} PARTITION OF {neighbour}.{x} FOR VALUES IN (1)",
    ),
    "a view crosses": one(
        "view-crosses",
        "{tenant}.{x}",
        AS_OWNER + "CREATE VIEW {tenant}.{x} WITH (security_invoker) AS SELECT body FROM {neighbour}.note",
    ),
    "a materialized view crosses": one(
        "view-crosses",
        "{tenant}.{x}",
        AS_OWNER + "CREATE MATERIALIZED VIEW {tenant}.{x} AS SELECT id FROM {neighbour}.note",
    ),
    "a trigger crosses": one(
        "trigger-crosses",
        "{x} on {tenant}.note",
        AS_OWNER + "CREATE FUNCTION {neighbour}.{x}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER {x} AFTER INSERT ON {tenant}.note FOR EACH ROW EXECUTE FUNCTION {neighbour}.{x}()",
    ),
    "a copied table draws from its model's sequence": one(
        "default-crosses",
        "for {tenant}.{x}.id",
        AS_OWNER
        + "CREATE TABLE {neighbour}.{x} (id serial); CREATE TABLE {tenant}.{x} (LIKE {neighbour}.{x} INCLUDING ALL)",
    ),
    "a check crosses": one(
        "default-crosses",
        "{x}c on {tenant}.{x}",
        function("{neighbour}") + "CREATE TABLE {tenant}.{x} (a int CONSTRAINT {x}c CHECK ({neighbour}.{x}f(a)))",
    ),
    "an index crosses": one(
        "default-crosses",
        "{tenant}.{x}i",
        function("{neighbour}", "IMMUTABLE")
        + "CREATE TABLE {tenant}.{x} (a int); CREATE INDEX {x}i ON {tenant}.{x} (({neighbour}.{x}f(a)))",
    ),
    "a type crosses": one(
        "type-crosses",
        "{tenant}.{x}.m",
        AS_OWNER + "CREATE TYPE {neighbour}.{x}t AS ENUM ('a'); CREATE TYPE {tenant}.{x}t AS ENUM ('a'); "
        "CREATE TABLE {tenant}.{x} (m {neighbour}.{x}t)",
    ),
    "an array's type crosses": one(
        "type-crosses",
        "{tenant}.{x}.m",
        AS_OWNER + "CREATE TYPE {neighbour}.{x}t AS ENUM ('a'); CREATE TYPE {tenant}.{x}t AS ENUM ('a'); "
        "CREATE TABLE {tenant}.{x} (m {neighbour}.{x}t[])",
    ),
    "a policy crosses": one(
        "policy-crosses",
        "{x} on {tenant}.{x}",
        function("{neighbour}", "IMMUTABLE")
        + "CREATE TABLE {tenant}.{x} (a int); ALTER TABLE {tenant}.{x} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL "
        "SECURITY; CREATE POLICY {x} ON {tenant}.{x} USING ({neighbour}.{x}f(a))",
    ),
    "a function names a neighbour": one(
        "function-crosses",
        "{tenant}.{x}f()",
        AS_OWNER
        + "CREATE FUNCTION {tenant}.{x}f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM {neighbour}.note'",
    ),
    "a function's path names a neighbour": one(
        "function-crosses", "{tenant}.{x}f(a integer)", function(how="SET search_path = {neighbour}, pg_temp")
    ),
    "a parsed function crosses": one(
        "function-crosses",
        "{tenant}.{x}f()",
        AS_OWNER
        + "CREATE FUNCTION {tenant}.{x}f() RETURNS bigint LANGUAGE sql RETURN (SELECT count(*) FROM {neighbour}.note)",
    ),
    "a shared view reads a tenant's table": one(
        "view-crosses",
        "{shared}.{x}",
        AS_OWNER + "CREATE VIEW {shared}.{x} WITH (security_invoker) AS SELECT body FROM {tenant}.note",
    ),
}

_FACILITIES = {
    **{
        f"{extension} is there": one("extension-dangerous", extension, f"CREATE EXTENSION {extension}", needs=extension)
        for extension in ("dblink", "postgres_fdw", "file_fdw", "adminpack", "lo")
    },
    **{
        f"{extension} stands in a tenant's schema": one(
            "extension-in-tenant",
            extension,
            f"CREATE EXTENSION {extension} SCHEMA {{tenant}}",
            needs=extension,
            tidy=f"DROP EXTENSION {extension}",
        )
        for extension in ("citext", "vector")
    },
    "a language has no sandbox": one("untrusted-language", "{x}", "CREATE LANGUAGE {x} HANDLER plpgsql_call_handler"),
    "there is a foreign server": one(
        "foreign-server", "{x}", "CREATE FOREIGN DATA WRAPPER {x}; CREATE SERVER {x} FOREIGN DATA WRAPPER {x}"
    ),
    "the login has a login on a foreign server": Fault(
        "CREATE FOREIGN DATA WRAPPER {x}; CREATE SERVER {x} FOREIGN DATA WRAPPER {x}; "
        "CREATE USER MAPPING FOR {login} SERVER {x}",
        (("user-mapping", "{login} on {x}"), ("foreign-server", "{x}")),
    ),
    "a table is published": one("publication", "{x}", "CREATE PUBLICATION {x} FOR TABLE {tenant}.note"),
    "a schema is published": one("publication", "{x}", "CREATE PUBLICATION {x} FOR TABLES IN SCHEMA {tenant}"),
    "all is published": one("publication", "{x}", "CREATE PUBLICATION {x} FOR ALL TABLES"),
    "the database subscribes": one(
        "subscription",
        "{x}",
        "CREATE SUBSCRIPTION {x} CONNECTION 'dbname=nowhere' PUBLICATION {x} WITH (connect = false, slot_name = NONE)",
    ),
    "an event trigger runs": one(
        "event-trigger",
        "{x}",
        AS_OWNER + "CREATE FUNCTION {shared}.{x}() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; RESET ROLE; "
        "CREATE EVENT TRIGGER {x} ON ddl_command_end EXECUTE FUNCTION {shared}.{x}()",
    ),
}

FAULTS: dict[str, Fault] = {**_RIGHTS, **_ROLES, **_ROWS, **_CROSSINGS, **_FACILITIES}
