"""SQL text: no literal, comment or quoted name is taken for a keyword, and none hides one."""

from __future__ import annotations

from typing import cast

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.abc import Query

from mt_paas_db.migrate.statements import (
    IndexBuild,
    concurrent_index,
    ends_transaction,
    idempotent_outside_transaction,
    split,
    tokens,
)
from tests.fleet import Service

CONFUSING = [
    "'",
    "''",
    '"',
    "E'",
    "\\'",
    "\\",
    "--",
    "\n",
    "\r",
    "/*",
    "*/",
    "$",
    "$$",
    "$a$",
    "$1",
    "U&'",
    'u&"',
    " uescape ",
    "!",
    ";",
    "(",
    ")",
    "begin atomic ",
    "end",
    "case ",
    "create function ",
    "drop table a",
    "1.5e3",
    "..",
    "é",
    "\x00",
    "\u2028",
    "\\0061",
    "\\+ffffff",
]
sql_like = st.lists(st.sampled_from(CONFUSING) | st.text(max_size=3), max_size=12).map("".join)

SAMPLES = [
    "SELECT 1",
    "create index concurrently i on t (x)",
    "insert into t values ('a;b', E'\\';', $q$;$q$, U&'!0061;' UESCAPE '!')",
    'alter table "a;b" add "c""d" int',
    "create function f() returns int begin atomic select case when true then 1 end; select 2; end",
    "create function f() returns int begin atomic select 1 as end; select x.end from x; end",
    "create or replace procedure p() begin atomic insert into t values (1); end",
    "create rule r as on insert to t do also (insert into a select 1; delete from b)",
    "do $$ begin null; end $$",
    "select x.end, 1 as end /* ; /* ; */ ; */ -- ; '",
]


def texts(sql: str) -> list[str]:
    return [token.text for token in tokens(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a.B", ["select", "a", ".", "b"]),
        ('"a""B" Ünder_$1', ['a"B', "Ünder_$1"]),
        ("'it''s'", ["it's"]),
        (r"'a\' x", ["a\\", "x"]),
        (r"E'a\'b''c\n\x41\u00e9\101\q'", ["a'b'c\nAéAq"]),
        (r"E'\\' x", ["\\", "x"]),
        (r"U&'d\0061t\+000061\\'", ["data\\"]),
        ("U&\"d!0061t\" /* /* */ ' */ UESCAPE -- '\n '!' x", ["dat", "x"]),
        ("'a' -- x\n  'b'", ["ab"]),
        ("E'a'\n'\\'; drop'", ["a'; drop"]),
        ("'a' 'b'", ["a", "b"]),
        ("$x$ $$ ' $y$ $x$ $$;$$", [" $$ ' $y$ ", ";"]),
        ("a$x$ b$x$", ["a$x$", "b$x$"]),
        ("$1 $2", ["$1", "$2"]),
        ("/* a /* b */ c */ x -- y", ["x"]),
        ("a*/**/b", ["a", "*", "b"]),
        ("a+--b\n-c", ["a", "+", "-", "c"]),
        ("1..10 1.5e-3 .5 0xFF 1_000", ["1", ".", ".", "10", "1.5e-3", ".5", "0xFF", "1_000"]),
        ("x::int <= y", ["x", "::", "int", "<=", "y"]),
        ("B'1' n'x' date'y'", ["1", "x", "date", "y"]),
    ],
)
def test_tokens(sql: str, expected: list[str]) -> None:
    assert texts(sql) == expected


def test_a_token_knows_its_kind_and_place() -> None:
    assert [(t.kind, t.position) for t in tokens("/* */ a \"a\" 'a' 1 $1 ;")] == [
        ("word", 6),
        ("identifier", 8),
        ("string", 12),
        ("number", 16),
        ("parameter", 18),
        ("symbol", 21),
    ]


@pytest.mark.parametrize("sql", ["x 'a''", "x E'a\\'", 'x "a', "x $a$ $$ $A$", "x /* /* */", "x 'a'\n'b"])
def test_what_does_not_end_is_an_error_that_says_where(sql: str) -> None:
    with pytest.raises(ValueError, match="begins at character 2 "):
        list(tokens(sql))


@given(sql_like)
@example("E'\\U00110000'")
@example("U&'\\+110000'")
@example("''uescape''")
def test_tokens_of_any_text_or_a_value_error(sql: str) -> None:
    try:
        found = list(tokens(sql))
    except ValueError:
        return
    positions = [token.position for token in found]
    assert positions == sorted(set(positions))
    assert all(0 <= position < len(sql) for position in positions)


@given(sql_like)
def test_what_was_quoted_comes_back(sql: str) -> None:
    for kind, quoted in (
        ("string", "'" + sql.replace("'", "''") + "'"),
        ("string", "E'" + sql.replace("\\", "\\\\").replace("'", "\\'") + "'"),
        ("identifier", '"' + sql.replace('"', '""') + '"'),
    ):
        assert [(t.kind, t.text) for t in tokens(f"a,{quoted},b")][2] == (kind, sql)


@given(sql_like)
def test_splitting_loses_no_token_and_is_done_at_once(sql: str) -> None:
    try:
        parts = split(sql)
    except ValueError:
        return
    again = split("\n;\n".join(parts))
    assert [texts(part) for part in again] == [texts(part) for part in parts]
    assert [t for part in parts for t in texts(part) if t != ";"] == [t for t in texts(sql) if t != ";"]


@given(st.lists(st.sampled_from(SAMPLES), max_size=5), st.sampled_from([";", " ; ;\n", "\n;-- x;\n", ";/* ; */;"]))
def test_what_was_joined_is_split_again(parts: list[str], separator: str) -> None:
    found = split("".join(f"{part}\n{separator}" for part in parts))
    assert [texts(part) for part in found] == [texts(part) for part in parts]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a; -- of b\nb;\n-- of none", ["a", "-- of b\nb"]),
        (" ;; /* */ ;", []),
        ("\u2028;\u2028", ["\u2028", "\u2028"]),  # white space in Unicode, a name for the server
        ("select begin atomic; commit", ["select begin atomic", "commit"]),
        ("create table t (x int); begin; atomic; end", ["create table t (x int)", "begin", "atomic", "end"]),
    ],
)
def test_split(sql: str, expected: list[str]) -> None:
    assert split(sql) == expected


@pytest.mark.parametrize("statement", SAMPLES)
def test_a_sample_is_one_statement(statement: str) -> None:
    assert split(statement + "\n;") == [statement]


LITERALS = [
    "'it''s'",
    r"'a\'",
    r"E'a\'b''c\\\n\r\t\b\f\x41\u00e9\U0001F600\101\q'",
    "E'a'\n'\\'; drop'",
    "E'a' -- ' \n -- '\n 'b'",
    r"U&'d\0061t\+01F600\\'",
    "U&'d!0061t!!\\' /* /* */ ' */ UESCAPE -- '\n '!'",
    "$$it's$$",
    "$x$ $$ ' $y$ $X$ $x$",
    "$\u00e9_1$ $x$ $\u00e9_1$",
]


def test_the_server_reads_literals_so_too(service: Service) -> None:
    with service.superuser() as su:
        for literal in LITERALS:
            assert su.execute(cast("Query", f"SELECT {literal}")).fetchone() == (*texts(literal),)
        for name in ('"a""b;"', 'U&"d\\0061t"', "U&\"d!0061t\" UESCAPE '!'", "MiXed", "\u00c9t\u00c9$1", "\u00a0x"):
            cursor = su.execute(cast("Query", f"SELECT 1 AS {name}"))
            assert texts(name) == [column.name for column in cursor.description or ()]


ENDS = [
    "BEGIN",
    "begin isolation level serializable",
    "start transaction",
    "commit",
    "Commit and chain",
    "END",
    "rollback",
    "rollback work",
    "rollback and chain",
    "abort",
    "prepare transaction 'x'",
    "commit prepared 'x'",
    "rollback prepared 'x'",
]
STAYS = [
    "savepoint a",
    "rollback to a",
    "ROLLBACK WORK TO SAVEPOINT a",
    "rollback transaction to a",
    "release a",
    "prepare p as select 1",
    "select 'x; commit'",
    'select 1 as "commit"',
    "do $$ begin commit; end $$",
    "create function f() returns int begin atomic select 1; end",
    "insert into note values ('it''s', E'\\'; commit; --')",
]

WRAPPINGS = st.sampled_from(["{}", "-- x'\n{}", "/* /* ; */ ' */{} ;", "\n\t {}\r\n;", "{};;", "{}/* commit */"])
CASES = st.sampled_from([str, str.upper])


@given(st.sampled_from(ENDS), WRAPPINGS, CASES)
def test_ends_transaction(statement: str, wrapping: str, case: type[str]) -> None:
    wrapped = wrapping.format(case(statement))
    assert ends_transaction(wrapped)
    assert ends_transaction(f"select 'x'; {wrapped}")


@given(st.sampled_from(STAYS), WRAPPINGS)
def test_stays_in_the_transaction(statement: str, wrapping: str) -> None:
    assert not ends_transaction(wrapping.format(statement))


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("create index concurrently i on t (x)", IndexBuild("i", "t", None)),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS I ON ONLY s.T (x)", IndexBuild("i", "t", "s")),
        ('create index concurrently "on" on "S"."T" (x)', IndexBuild("on", "T", "S")),
        ("create index concurrently on t (x)", IndexBuild(None, "t", None)),
        ("create /* x */ index -- y\n concurrently if on t (x)", IndexBuild("if", "t", None)),
        ("create index i on t (x)", None),
        ('create index "concurrently" on t (x)', None),
        ("select 'create index concurrently i on t (x)'", None),
        ("create index concurrently", None),
        ("", None),
    ],
)
def test_concurrent_index(statement: str, expected: IndexBuild | None) -> None:
    assert concurrent_index(statement) == expected


TWICE = [
    ("CREATE INDEX CONCURRENTLY again ON t (x)", {"42P07"}),
    ("create unique index concurrently again_unique on only t (x)", {"42P07"}),
    ("DROP INDEX CONCURRENTLY to_drop", {"42704"}),
    ("ALTER TYPE mood ADD VALUE 'good' BEFORE 'bad'", {"42710"}),
    ("ALTER TABLE IF EXISTS parted DETACH PARTITION part CONCURRENTLY", {"42P01"}),
    ("ALTER TABLE ONLY parted DETACH PARTITION part CONCURRENTLY", {"42P01"}),
]
TABLES = """
    CREATE TABLE t (x integer);
    CREATE INDEX to_drop ON t (x);
    CREATE TYPE mood AS ENUM ('bad');
    CREATE TABLE parted (x integer) PARTITION BY RANGE (x);
    CREATE TABLE part PARTITION OF parted FOR VALUES FROM (1) TO (2)
"""


@pytest.mark.parametrize(("statement", "expected"), TWICE)
def test_what_the_server_says_to_what_was_done_before(service: Service, statement: str, expected: set[str]) -> None:
    with service.superuser() as su:
        for line in TABLES.split(";"):
            su.execute(cast("Query", line))
        su.execute(cast("Query", statement))
        with pytest.raises(psycopg.Error) as refused:
            su.execute(cast("Query", statement))
    assert {refused.value.sqlstate} == expected
    assert idempotent_outside_transaction(statement) == expected


def test_an_interrupted_detachment_is_not_taken_for_done(service: Service) -> None:
    statement = "ALTER TABLE parted DETACH PARTITION part CONCURRENTLY"
    with service.superuser() as su, service.superuser() as reader:
        for line in TABLES.split(";"):
            su.execute(cast("Query", line))
        with reader.transaction():
            reader.execute("SELECT * FROM parted")
            su.execute("SET statement_timeout = '500ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                su.execute(cast("Query", statement))
        with pytest.raises(psycopg.Error) as refused:
            su.execute(cast("Query", statement))
    assert refused.value.sqlstate not in idempotent_outside_transaction(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "create index i on t (x)",
        "create index concurrently on t (x)",
        "drop index i",
        "alter type mood rename value 'a' to 'b'",
        "alter table parted detach partition part",
        "alter table parted detach partition part finalize",
        "create table t (x integer)",
        "select 'drop index concurrently i'",
        "vacuum",
        "",
    ],
)
def test_all_else_is_not_known_to_be_done(statement: str) -> None:
    assert idempotent_outside_transaction(statement) == frozenset()


@given(st.lists(st.sampled_from(SAMPLES), max_size=4))
def test_no_sample_ends_the_transaction(parts: list[str]) -> None:
    assert not ends_transaction("\n;".join(parts))
