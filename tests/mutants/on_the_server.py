"""The weakenings of `mt_paas_db.isolation.attack.Weakness` that are made on the server, as its superuser would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from psycopg import sql

from mt_paas_db.isolation.attack import Weakness
from mt_paas_db.isolation.attacks.f_names import ELSEWHERE
from mt_paas_db.isolation.ground import quoted
from tests.models import SHARED

if TYPE_CHECKING:
    from tests.mutants.ground import WeakGround


def inherit(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        version = connection.info.server_version
    options = " WITH INHERIT TRUE" if version >= 160_000 else ""
    weak.execute("ALTER ROLE {login} INHERIT", login=weak.service.login)
    for party in weak.parties:
        weak.execute(f"GRANT {{role}} TO {{login}}{options}", role=party.role, login=weak.service.login)


def temp_allowed(weak: WeakGround) -> None:
    weak.execute("GRANT TEMP ON DATABASE {database} TO PUBLIC", database=weak.service.database)


def stray_grant(weak: WeakGround) -> None:
    for party in weak.parties[1:]:
        weak.execute(
            "GRANT USAGE ON SCHEMA {schema} TO PUBLIC",
            "GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO PUBLIC",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON TABLES TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON SEQUENCES TO PUBLIC",
            schema=party.schema,
            owner=weak.owner,
        )


def create_allowed(weak: WeakGround) -> None:
    for party in weak.parties:
        weak.execute("GRANT CREATE ON SCHEMA {schema} TO {role}", schema=party.schema, role=party.role)


def own_tables(weak: WeakGround) -> None:
    ground = weak.suite.ground
    for table in ground.tables:
        weak.execute(
            "ALTER TABLE {schema}.{table} OWNER TO {role}",
            "GRANT ALL ON {schema}.{table} TO {owner}",
            schema=ground.attacker.schema,
            table=table,
            role=ground.attacker.role,
            owner=weak.owner,
        )


def public_execute(weak: WeakGround) -> None:
    weak.execute("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT EXECUTE ON FUNCTIONS TO PUBLIC", owner=weak.owner)


def login_superuser(weak: WeakGround) -> None:
    weak.execute("ALTER ROLE {login} SUPERUSER", login=weak.service.login)


def login_path(weak: WeakGround) -> None:
    weak.execute(
        "ALTER ROLE {login} SET search_path = {schema}",
        login=weak.service.login,
        schema=weak.suite.ground.victim.schema,
    )


def definer_without_path(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        (written,) = connection.execute("SELECT pg_get_functiondef('mt_paas.resolve'::regproc)").fetchone() or ("",)
        weaker = written.replace("'pg_catalog', 'pg_temp'", "'mt_paas'").replace("mt_paas.tenant t", "tenant t")
        assert weaker.count("'mt_paas'") == 1
        assert "JOIN tenant t" in weaker
        connection.execute(weaker.encode())


def open_policy(weak: WeakGround) -> None:
    """Written into what policies are made from, so that it holds for tables that an attack makes."""
    with weak.service.superuser() as connection:
        (written,) = connection.execute(
            "SELECT pg_get_functiondef('mt_paas.declared_policies'::regproc)"
        ).fetchone() or ("",)
        predicate = "format('(%I = ( SELECT mt_paas.tenant() AS tenant))', coalesce(tenant_column, ''))"
        assert written.count(predicate) == 1
        connection.execute(written.replace(predicate, "'true'").encode())
    probe = weak.suite.ground.shared
    assert probe is not None
    with weak.service.superuser() as connection:
        for table in probe.tables:
            if table.column is not None:
                connection.execute(f"SELECT mt_paas.share_rows('{table.name}', '{table.column}')".encode())


def reused_schema(weak: WeakGround) -> None:
    ground = weak.suite.ground
    with ground.manager.get_session(ground.heir.tenant_id) as session:
        ground.fill(session, ground.canaries["former"])
    with weak.service.superuser() as connection:
        left = (ground.canaries["former"].text("large object", 1) or "").encode()
        connection.execute("SELECT lo_from_bytea(%s, %s)", (ground.former_large_object, left))
        connection.execute(f"GRANT SELECT ON LARGE OBJECT {ground.former_large_object} TO PUBLIC".encode())


def no_policy(weak: WeakGround) -> None:
    weak.on_shared("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


def no_force(weak: WeakGround) -> None:
    weak.on_shared("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")


def context_by_setting(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        connection.execute(
            b"CREATE OR REPLACE FUNCTION mt_paas.tenant() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER "
            b"RETURN (SELECT t.generation FROM mt_paas.tenant t WHERE current_setting('mt_paas.tenant', true) "
            b"IN (t.tenant_id, t.generation::text, t.role_name))"
        )


def unled_keys(weak: WeakGround) -> None:
    probe = weak.suite.ground.shared
    assert probe is not None
    account, ledger = (name.rpartition(".")[2].strip('"') for name in (probe.account, probe.ledger))
    with weak.service.superuser() as connection:
        connection.execute(
            f"ALTER TABLE {probe.ledger} DROP CONSTRAINT {ledger}_tenant_account_fkey, "
            f"DROP CONSTRAINT {ledger}_tenant_slot_key, DROP CONSTRAINT {ledger}_tenant_seat_excl, "
            "ADD UNIQUE (slot), ADD EXCLUDE USING btree (seat WITH =);"
            f"ALTER TABLE {probe.account} DROP CONSTRAINT {account}_pkey, ADD PRIMARY KEY (id);"
            f"ALTER TABLE {probe.ledger} ADD FOREIGN KEY (account) REFERENCES {probe.account} (id) ON DELETE CASCADE"
            .encode()
        )  # fmt: skip


def shared_rights(weak: WeakGround) -> None:
    weak.execute(
        "GRANT USAGE ON SCHEMA {schema} TO PUBLIC", "GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO PUBLIC",
        schema=SHARED,
    )  # fmt: skip


def no_guard(weak: WeakGround) -> None:
    with weak.service.superuser() as connection:
        for party in weak.parties:
            for table in weak.suite.ground.tables:
                statement = sql.SQL("SELECT mt_paas.unprotect({}::regclass)").format(
                    sql.Literal(sql.Identifier(party.schema, table).as_string(None))
                )
                connection.execute(statement)


def guard_of_role(weak: WeakGround) -> None:
    for table in weak.suite.ground.tables:
        weak.execute(
            "ALTER POLICY mt_paas_guard ON {schema}.{table} TO {role}",
            schema=weak.suite.ground.victim.schema, table=table, role=weak.suite.ground.victim.role,
        )  # fmt: skip


def unled_index(weak: WeakGround) -> None:
    probe = weak.suite.ground.shared
    assert probe is not None
    weak.run(f"CREATE INDEX ON {probe.ledger} (slot)")


def public_table(weak: WeakGround) -> None:
    victim = f"{quoted(weak.suite.ground.victim.schema)}.{quoted(weak.suite.ground.probe)}"
    weak.run(
        f"CREATE TABLE public.{ELSEWHERE} AS SELECT t::text FROM {victim} t",
        f"GRANT SELECT ON public.{ELSEWHERE} TO PUBLIC",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
    )


def monitoring(weak: WeakGround) -> None:
    for party in weak.parties:
        weak.execute("GRANT pg_read_all_stats TO {role}", role=party.role)


def large_objects_open(weak: WeakGround) -> None:
    weak.execute("ALTER DATABASE {database} SET lo_compat_privileges = on", database=weak.service.database)


ON_THE_SERVER: dict[Weakness, Callable[[WeakGround], None]] = {
    Weakness.INHERIT: inherit,
    Weakness.SEARCH_PATH_ONLY: inherit,
    Weakness.TEMP_ALLOWED: temp_allowed,
    Weakness.STRAY_GRANT: stray_grant,
    Weakness.CREATE_ALLOWED: create_allowed,
    Weakness.OWN_TABLES: own_tables,
    Weakness.PUBLIC_EXECUTE: public_execute,
    Weakness.LOGIN_SUPERUSER: login_superuser,
    Weakness.LOGIN_PATH: login_path,
    Weakness.DEFINER_WITHOUT_PATH: definer_without_path,
    Weakness.REUSED_SCHEMA: reused_schema,
    Weakness.OPEN_POLICY: open_policy,
    Weakness.NO_POLICY: no_policy,
    Weakness.NO_FORCE: no_force,
    Weakness.CONTEXT_BY_SETTING: context_by_setting,
    Weakness.UNLED_KEYS: unled_keys,
    Weakness.SHARED_RIGHTS: shared_rights,
    Weakness.NO_GUARD: no_guard,
    Weakness.MONITORING: monitoring,
    Weakness.LARGE_OBJECTS_OPEN: large_objects_open,
    Weakness.GUARD_OF_ROLE: guard_of_role,
    Weakness.UNLED_INDEX: unled_index,
    Weakness.PUBLIC_TABLE: public_table,
}
