"""What a revision destroys or does outside its tenant's schema is found, however it is written, and nothing else."""

from __future__ import annotations

from typing import cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.abc import Query

from mt_paas_db.migrate.hazards import ddl_targets, destructive, hazards
from mt_paas_db.migrate.statements import Name
from mt_paas_db.policies import statements
from tests.fleet import Service

DESTROYS = {
    "DROP TABLE note": "drops table note",
    'DROP TABLE IF EXISTS a, "B c" CASCADE': "drops table a, drops table B c",
    "DROP MATERIALIZED VIEW totals": "drops materialized view totals",
    "DROP SCHEMA old CASCADE": "drops schema old",
    "DROP SEQUENCE s.numbers": "drops sequence s.numbers",
    "DROP TYPE mood CASCADE": "drops type mood and the columns that have it",
    "DROP DOMAIN email CASCADE": "drops domain email and the columns that have it",
    "DROP EXTENSION hstore CASCADE": "drops extension hstore and the columns that have it",
    "DROP OWNED BY me": "drops all that a role owns",
    "ALTER TABLE note DROP title": "drops column note.title",
    "ALTER TABLE note DROP COLUMN title": "drops column note.title",
    "ALTER TABLE IF EXISTS ONLY note DROP COLUMN IF EXISTS title RESTRICT": "drops column note.title",
    'ALTER TABLE note DROP COLUMN "constraint"': "drops column note.constraint",
    "ALTER TABLE note ADD a numeric(4, 2) DEFAULT f(1, 2), DROP b, DROP CONSTRAINT c, DROP COLUMN d": (
        "drops column note.b, drops column note.d"
    ),
    "ALTER TABLE note * ALTER a DROP DEFAULT, DROP b": "drops column note.b",
    "ALTER TYPE address DROP ATTRIBUTE IF EXISTS street CASCADE": "drops attribute address.street",
    "ALTER TABLE note DISABLE ROW LEVEL SECURITY": "takes row security from note",
    "ALTER TABLE s.note NO FORCE ROW LEVEL SECURITY": "takes row security from s.note",
    statements.unprotect("note"): "takes the guard from note",
    statements.share_read_only("usage", "shared"): "opens all rows of shared.usage to all tenants",
    "SELECT mt_paas.unprotect(CAST(quote_ident(t) AS regclass)) FROM x": "takes the guard from …",
    'SELECT "mt_paas"."unprotect"(\'note\')': "takes the guard from note",
    "DO $$ BEGIN PERFORM mt_paas.unprotect('note'); END $$": "takes the guard from note",
    "TRUNCATE note": "empties table note",
    "TRUNCATE TABLE ONLY a, s.b RESTART IDENTITY": "empties table a, empties table s.b",
    "DELETE FROM note": "deletes all rows of note",
    "DELETE FROM ONLY note AS n USING a RETURNING (SELECT 1 WHERE true)": "deletes all rows of note",
    'DELETE FROM note "where"': "deletes all rows of note",
    "DELETE FROM note -- WHERE id = 1": "deletes all rows of note",
    "WITH x AS (DELETE FROM note RETURNING *) SELECT * FROM x WHERE true": "deletes all rows of note",
    "DROP TABLE alembic_version, note": "drops table note",
    "SELECT 1; DROP TABLE note": "drops table note",
    "DO $$ BEGIN DROP TABLE note; END $$": "drops table note",
    "DO 'BEGIN TRUNCATE note; END' LANGUAGE plpgsql": "empties table note",
    "DO LANGUAGE 'plpgsql' $x$ BEGIN DELETE FROM note; END $x$": "deletes all rows of note",
    "DO $$ BEGIN IF EXISTS (SELECT 1) THEN ALTER TABLE note DROP a; ELSE DROP TABLE b; END IF; END $$": (
        "drops column note.a, drops table b"
    ),
    "DO $$ DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP DROP TABLE a; END LOOP; END $$": "drops table a",
    "DO $$ << here >> BEGIN <<there>> DROP TABLE a; END $$": "drops table a",
    "DO $$ BEGIN DELETE FROM a USING b RETURNING CASE WHEN x THEN y ELSE z END; END $$": "deletes all rows of a",
    "DO $$ BEGIN EXECUTE 'DROP TABLE note'; END $$": "drops table note",
    "DO $$ BEGIN EXECUTE $q$DROP TABLE note$q$ USING 1; END $$": "drops table note",
    "DO $$ BEGIN IF true THEN EXECUTE 'TRUNCATE ' || 'note'; END IF; END $$": "empties table note",
    "DO $$ BEGIN EXECUTE 'DROP TABLE ' || quote_ident(t) || ' CASCADE'; END $$": "drops table …",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE ' || t || ' DROP COLUMN x'; END $$": "drops column ….x",
    "DO $$ BEGIN EXECUTE format('ALTER TABLE %1$I.%I DROP COLUMN x', s, t); END $$": "drops column ….….x",
    "DO $$ BEGIN EXECUTE 'DO $q$ BEGIN DROP TABLE a; END $q$'; END $$": "drops table a",
}

KEEPS = [
    statements.protect("note"),
    statements.share_rows("usage", "shared", "tenant"),
    "SELECT 'mt_paas.unprotect(''note'')'",
    "ALTER TABLE note ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "DROP INDEX i",
    "DROP INDEX CONCURRENTLY IF EXISTS i",
    "DROP VIEW v CASCADE",
    "DROP FUNCTION f(int)",
    "DROP TRIGGER t ON note",
    "DROP POLICY p ON note",
    "DROP TYPE mood",
    "DROP DOMAIN IF EXISTS email RESTRICT",
    "ALTER TABLE note DROP CONSTRAINT c",
    "ALTER TABLE note DROP CONSTRAINT IF EXISTS c CASCADE",
    "ALTER TABLE note ALTER COLUMN a DROP DEFAULT, ALTER b DROP NOT NULL",
    "ALTER TABLE note ALTER a DROP IDENTITY IF EXISTS, ALTER b DROP EXPRESSION",
    "ALTER TABLE note ALTER COLUMN a TYPE bigint USING a::bigint",
    "ALTER TABLE note ADD CHECK (f(1, drop IS NULL))",
    "ALTER TABLE parted DETACH PARTITION part",
    "ALTER TYPE mood RENAME VALUE 'drop' TO 'attribute'",
    "DELETE FROM note WHERE id = 1",
    "DELETE FROM note USING (SELECT 1) x WHERE note.id = 1",
    "WITH x AS (DELETE FROM note WHERE id = 1 RETURNING *) SELECT * FROM x",
    "DELETE FROM alembic_version",
    "DELETE FROM s.alembic_version WHERE version_num = 'a'",
    "DROP TABLE alembic_version",
    "SELECT 'DROP TABLE note', \"DROP TABLE note\" -- DROP TABLE note",
    "/* ; DROP TABLE note; */ SELECT $$; DROP TABLE note; $$",
    "INSERT INTO note VALUES ('; TRUNCATE note; ')",
    "COMMENT ON TABLE note IS 'DROP TABLE note'",
    "CREATE TABLE a (b int REFERENCES c ON DELETE CASCADE)",
    "GRANT DELETE, TRUNCATE ON note TO x",
    "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE note; END $$",
    "CREATE PROCEDURE p() BEGIN ATOMIC DELETE FROM note; END",
    "CREATE RULE r AS ON INSERT TO note DO ALSO (DELETE FROM a; DELETE FROM b)",
    "DO $$ BEGIN CREATE TYPE mood AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    "DO $$ BEGIN EXECUTE 'DELETE FROM note WHERE id = ' || id; EXECUTE statement; EXECUTE 'it''s'; END $$",
    "DO $$ BEGIN RAISE NOTICE 'DROP TABLE note'; END $$",
    "DO LANGUAGE plpython3u $$ it's = 'DROP TABLE note' $$",
    "",
    ";",
]

WRAPPINGS = st.sampled_from(["{}", "-- it's\n{}", "/* /* ; */ ' */{}\n;", "\n\t {}\r\n", "SELECT 1;{}", "{}\n-- where"])


@pytest.mark.parametrize("statement", DESTROYS)
def test_what_destroys_data(statement: str) -> None:
    assert destructive(statement) == DESTROYS[statement]


@pytest.mark.parametrize("statement", KEEPS)
def test_what_keeps_data(statement: str) -> None:
    assert destructive(statement) is None


@given(st.sampled_from([*DESTROYS, *KEEPS]), WRAPPINGS)
def test_comments_and_space_around_decide_nothing(statement: str, wrapping: str) -> None:
    assert destructive(wrapping.format(statement)) == destructive(statement)
    assert set(ddl_targets(wrapping.format(statement))) == set(ddl_targets(statement))


@given(st.sampled_from([each for each in DESTROYS if not set(each) & set("\"'$-")]), st.randoms())
def test_case_and_comments_between_words_decide_nothing(statement: str, random: object) -> None:
    choose = random.choice  # type: ignore[attr-defined]
    odd = "".join(choose([letter.upper(), letter.lower()]) for letter in statement)
    odd = "".join(choose([" ", "\n", "\t /* drop */ ", " -- it's\n"]) if letter == " " else letter for letter in odd)
    assert destructive(odd) == DESTROYS[statement]


def test_a_type_without_cascade_goes_only_where_no_column_has_it(service: Service) -> None:
    """Why DROP TYPE and DROP DOMAIN alone are not destructive."""
    with service.superuser() as su:
        for statement in (
            "CREATE TYPE mood AS ENUM ('good')",
            "CREATE DOMAIN email AS text",
            "CREATE TABLE note (a mood, b email)",
        ):
            su.execute(cast("Query", statement))
        for statement in ("DROP TYPE mood", "DROP DOMAIN email"):
            assert destructive(statement) is None
            with pytest.raises(psycopg.errors.DependentObjectsStillExist):
                su.execute(cast("Query", statement))
            su.execute(cast("Query", statement + " CASCADE"))
        left = su.execute("SELECT count(*) FROM pg_attribute WHERE attrelid = 'note'::regclass AND NOT attisdropped")
        assert left.fetchone() == (6,)  # the system's own columns


TARGETS: dict[str, list[Name]] = {
    "CREATE TABLE note (a int REFERENCES shared.plan, b s.mood)": [(None, "note")],
    'CREATE UNLOGGED TABLE IF NOT EXISTS "S"."N" (a int)': [("S", "N")],
    "CREATE TEMP TABLE x AS SELECT * FROM shared.plan": [(None, "x")],
    "CREATE TABLE pg_temp.x (a int)": [("pg_temp", "x")],
    "CREATE TABLE db.s.x (a int)": [("s", "x")],
    "CREATE TABLE a PARTITION OF shared.b FOR VALUES FROM (1) TO (2)": [(None, "a"), ("shared", "b")],
    "CREATE TABLE a (b int) INHERITS (c, shared.d)": [(None, "a"), (None, "c"), ("shared", "d")],
    "CREATE OR REPLACE VIEW v AS SELECT * FROM shared.plan": [(None, "v")],
    "CREATE MATERIALIZED VIEW s.v AS SELECT 1": [("s", "v")],
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.t (a)": [("s", "t")],
    "CREATE INDEX ON t (a)": [(None, "t")],
    "CREATE SEQUENCE s.q OWNED BY t.a": [("s", "q")],
    "CREATE TYPE s.mood AS ENUM ('a')": [("s", "mood")],
    "CREATE DOMAIN d AS s.e": [(None, "d")],
    "CREATE OR REPLACE FUNCTION s.f(a t.b) RETURNS c.d LANGUAGE sql AS 'SELECT 1'": [("s", "f")],
    "CREATE CONSTRAINT TRIGGER x AFTER UPDATE OF a ON s.t FROM u.v EXECUTE FUNCTION w.f()": [("s", "t")],
    "CREATE OR REPLACE TRIGGER x BEFORE INSERT ON t EXECUTE FUNCTION shared.f()": [(None, "t")],
    "CREATE POLICY p ON s.t USING (a IN (SELECT 1 FROM shared.b))": [("s", "t")],
    "CREATE RULE r AS ON INSERT TO s.t DO INSTEAD NOTHING": [("s", "t")],
    "CREATE STATISTICS x (ndistinct) ON a, b FROM s.t": [("s", "t")],
    "CREATE SCHEMA IF NOT EXISTS s AUTHORIZATION x": [("s", "")],
    "CREATE EXTENSION IF NOT EXISTS pgcrypto": [(None, "pgcrypto")],
    "CREATE EXTENSION pgcrypto WITH SCHEMA public": [("public", "pgcrypto")],
    "CREATE TEXT SEARCH CONFIGURATION s.c (COPY = simple)": [("s", "c")],
    "ALTER TABLE IF EXISTS ONLY s.t ADD FOREIGN KEY (a) REFERENCES shared.plan (b)": [("s", "t")],
    "ALTER TABLE t ADD a int, SET SCHEMA public": [(None, "t"), ("public", "t")],
    "ALTER TABLE t ATTACH PARTITION s.p DEFAULT": [(None, "t"), ("s", "p")],
    "ALTER TABLE shared.t DETACH PARTITION p": [("shared", "t"), (None, "p")],
    "ALTER TABLE t NO INHERIT s.p": [(None, "t"), ("s", "p")],
    "ALTER TABLE s.t ENABLE ROW LEVEL SECURITY": [("s", "t")],
    "ALTER TYPE s.mood ADD VALUE 'x'": [("s", "mood")],
    "ALTER FUNCTION s.f(a, b) OWNER TO x": [("s", "f")],
    "ALTER INDEX i RENAME TO j": [(None, "i")],
    "ALTER POLICY p ON s.t TO x": [("s", "t")],
    "ALTER SCHEMA s RENAME TO t": [("s", "")],
    "ALTER DEFAULT PRIVILEGES FOR ROLE x IN SCHEMA a, b GRANT SELECT ON TABLES TO y": [("a", ""), ("b", "")],
    "DROP TABLE IF EXISTS a, s.b CASCADE": [(None, "a"), ("s", "b")],
    "DROP INDEX CONCURRENTLY IF EXISTS s.i": [("s", "i")],
    "DROP FUNCTION s.f(int, text), g": [("s", "f"), (None, "g")],
    "DROP TRIGGER IF EXISTS x ON s.t": [("s", "t")],
    "DROP SCHEMA s CASCADE": [("s", "")],
    "GRANT SELECT (a, b), UPDATE ON TABLE s.t, u TO x": [("s", "t"), (None, "u")],
    "GRANT EXECUTE ON FUNCTION s.f(int) TO x": [("s", "f")],
    "GRANT USAGE ON SCHEMA s TO x": [("s", "")],
    "REVOKE ALL ON ALL TABLES IN SCHEMA s FROM x": [("s", "")],
    "GRANT a TO b": [],
    "GRANT CONNECT ON DATABASE d TO x": [],
    "COMMENT ON TABLE s.t IS 'x'": [("s", "t")],
    "COMMENT ON COLUMN s.t.c IS 'x'": [("s", "t")],
    "COMMENT ON COLUMN t.c IS 'x'": [(None, "t")],
    "COMMENT ON CONSTRAINT c ON s.t IS 'x'": [("s", "t")],
    "SECURITY LABEL FOR p ON TABLE s.t IS 'x'": [("s", "t")],
    "REINDEX (VERBOSE) TABLE CONCURRENTLY s.t": [("s", "t")],
    "REFRESH MATERIALIZED VIEW CONCURRENTLY s.v": [("s", "v")],
    "DO $$ BEGIN IF true THEN ALTER TABLE s.t ADD a int; END IF; END $$": [("s", "t")],
    "DO $$ BEGIN EXECUTE 'CREATE TABLE s.t (a int)'; END $$": [("s", "t")],
    "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE s.t; END $$": [(None, "f")],
    "INSERT INTO s.t SELECT 1": [],
    "SELECT * FROM s.t FOR UPDATE": [],
    "SELECT 'CREATE TABLE s.t (a int)'": [],
    "CREATE TABLE": [],
    "COMMENT ON COLUMN": [],
    "ALTER TABLE": [],
    "": [],
}


@pytest.mark.parametrize("statement", TARGETS)
def test_targets_of_ddl(statement: str) -> None:
    assert ddl_targets(statement) == TARGETS[statement]


@pytest.mark.parametrize(
    ("statement", "kinds"),
    [
        ("ALTER TABLE shared.plan ADD a int", ["shared"]),
        ("DROP TABLE shared.plan", ["destructive", "shared"]),
        ("CREATE TABLE public.x (a int)", ["other_schema"]),
        ("DROP TABLE public.x", ["destructive", "other_schema"]),
        ("ALTER TABLE note SET SCHEMA public", ["other_schema"]),
        ("GRANT USAGE ON SCHEMA shared TO x", ["shared"]),
        ("CREATE TRIGGER x AFTER INSERT ON shared.plan EXECUTE FUNCTION f()", ["shared"]),
        ("INSERT INTO shared.plan (a) VALUES (1)", ["shared"]),
        ("UPDATE ONLY shared.plan SET a = 1", ["shared"]),
        ("DELETE FROM shared.plan WHERE a = 1", ["shared"]),
        ("WITH x AS (UPDATE shared.plan SET a = 1 RETURNING a) SELECT a FROM x", ["shared"]),
        ("WITH x AS (SELECT 1) UPDATE shared.plan SET a = 1", ["shared"]),
        ("MERGE INTO shared.plan USING x ON true WHEN MATCHED THEN DO NOTHING", ["shared"]),
        ("COPY shared.plan (a) FROM STDIN", ["shared"]),
        ("TRUNCATE note, shared.plan", ["destructive", "shared"]),
        ("DO $$ BEGIN IF x THEN UPDATE shared.plan SET a = 1; END IF; END $$", ["shared"]),
        ("ALTER TABLE note ADD FOREIGN KEY (a) REFERENCES shared.plan", []),
        ("CREATE VIEW v AS SELECT * FROM shared.plan", []),
        ("INSERT INTO note SELECT * FROM shared.plan", []),
        ("INSERT INTO note VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1", []),
        ("COPY shared.plan TO STDOUT", []),
        ("EXPLAIN ANALYZE UPDATE shared.plan SET a = 1", ["shared"]),
        ("SELECT * FROM shared.plan FOR UPDATE", []),
        ("SELECT * FROM shared.plan FOR UPDATE OF plan", []),
        ("INSERT INTO public.x VALUES (1)", []),
        ("CREATE TABLE pg_temp.x (a int)", []),
        ("CREATE TABLE shared (a int)", []),
        ("CREATE TABLE note (a int)", []),
        ('ALTER TABLE "Shared".plan ADD a int', ["other_schema"]),
        ("SELECT 'ALTER TABLE shared.plan ADD a int'", []),
    ],
)
def test_hazards(statement: str, kinds: list[str]) -> None:
    found = hazards([statement], shared_schemas={"shared"})
    assert [hazard.kind for hazard in found] == kinds
    assert all(hazard.statement == statement for hazard in found)


def test_hazards_say_in_order_what_they_are() -> None:
    found = hazards(
        ["DROP TABLE note", "SELECT 1", "UPDATE shared.plan SET a = 1", "CREATE SCHEMA x"], shared_schemas=["shared"]
    )
    assert [hazard.what for hazard in found] == [
        "drops table note",
        "changes shared.plan, which is shared, once per tenant",
        "changes schema x, outside the tenant's schema",
    ]


def test_what_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not end"):
        hazards(["DROP TABLE 'x"], shared_schemas=())
