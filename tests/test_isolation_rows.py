"""Recognisable rows in difficult models: every table filled, every canary known again, and none mistaken.

Longer than most: it holds the models that cannot be filled, and those that no generator has foreseen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import random
import re
import string
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    UniqueConstraint,
    Uuid,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import CITEXT, HSTORE, INET, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, ServerUnavailableError, TenancyError
from mt_paas_db.isolation.rows import Canaries, Canary, Factories, Filled, Filler, RowsError, factory
from mt_paas_db.isolation.rows.exemplar import Words, exemplars
from mt_paas_db.isolation.rows.mining import mine
from tests.fleet import Route, Runner, Service
from tests.hard_models import everything
from tests.servers import PostgresServer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Computed column:sqlalchemy.exc.SAWarning",  # 2.1 says so before PostgreSQL 18
    "ignore:Cannot correctly sort tables:sqlalchemy.exc.SAWarning",
)

CANARIES = Canaries.of(["hallym", "korea"])
SHARED = ("reference",)


DROPS = """
    SELECT format('DROP %s IF EXISTS %s CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass)
      FROM pg_class WHERE relnamespace = CAST(:s AS regnamespace) AND relkind IN ('r', 'p', 'v')
     UNION ALL
    SELECT format('DROP %s IF EXISTS %s CASCADE', CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, oid::regtype)
      FROM pg_type WHERE typnamespace = CAST(:s AS regnamespace) AND typtype IN ('d', 'e')
     UNION ALL
    SELECT format('DROP SEQUENCE IF EXISTS %s CASCADE', oid::regclass)
      FROM pg_class WHERE relnamespace = CAST(:s AS regnamespace) AND relkind = 'S'
     UNION ALL
    SELECT format('DROP FUNCTION %s CASCADE', oid::regprocedure)
      FROM pg_proc WHERE pronamespace = CAST(:s AS regnamespace)"""
"""What empties a schema; tables first, as they take their own sequences with them."""


class Ground:
    """One service with two tenants, whose tables a test makes and drops."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.manager: TenantManager = service.manager(models=MetaData(), shared_schemas=SHARED)
        self.manager.init()
        self.schemas = {id_: self.manager.create(id_).placement.schema_name for id_ in ("hallym", "korea")}
        self.engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))

    @contextmanager
    def tables(self, metadata: MetaData, *tenants: str) -> Iterator[None]:
        """Make the tables as the owner, as a migration does; drop them afterwards."""
        own = [table for table in metadata.tables.values() if not table.schema]
        shared = [table for table in metadata.tables.values() if table.schema]
        try:
            for tenant_id in tenants or ("hallym",):
                with self.engine.begin() as connection:
                    connection.exec_driver_sql(f"SET ROLE {self.service.name}_owner")
                    connection.exec_driver_sql(f"SET search_path = {self.schemas[tenant_id]}, pg_temp")
                    metadata.create_all(connection, tables=[*shared, *own], checkfirst=bool(shared))
            yield
        finally:
            with self.engine.begin() as connection:
                for schema in (*self.schemas.values(), *SHARED):
                    names = connection.execute(text(DROPS), {"s": schema}).scalars()
                    for statement in list(names):
                        connection.exec_driver_sql(statement)

    def fill(self, metadata: MetaData, tenant_id: str = "hallym", **options: Any) -> Filled:
        with self.manager.get_session(tenant_id) as session:
            return Filler(metadata, shared_schemas=SHARED, **options).fill(session, CANARIES[tenant_id])

    def plans(self, *names: str) -> None:
        with self.service.superuser() as connection:
            for name in names:
                connection.execute("INSERT INTO reference.plan VALUES (%s)", (name,))


@pytest.fixture(scope="module")
def ground(server: PostgresServer) -> Iterator[Ground]:
    service = Service(server)
    made = Ground(service)
    yield made
    made.engine.dispose()
    service.close()


# -- difficult models

# What cannot carry a canary, by its type, or because a check, a trigger or an overflow leaves no room for one.
BARE = {
    "types": {"real", "tiny", "small", "narrow", "yes", "colour", "plain_enum", "colours", "varchar_enum", "bits",
              "cents",
              "hue", "point", "xml"},
    "checks": {"status", "age", "rating", "code", "pin", "percent", "born", "share", "rest", "kind", "since", "year",
               "quantity", "price", "total", "either", "other"},
    "keys": {"colour", "yes", "deleted"},
    "singleton": {"id"}, "by_always": {"id"}, "by_day": {"colour"}, "defaults": {"made_by"},
    "invoice": {"payer_no", "before_id"}, "plan_choice": {"plan"}, "measure": {"at"}, "watched": {"size"},
    "product": {"x", "y", "xy"}, "migrated": {"level"}, "husband": {"wife_id"}, "wife": {"id"},
    "tree": {"parent_id"},
}  # fmt: skip


@pytest.mark.parametrize(
    "route",
    [Route("psycopg", pooled=False), Route("psycopg_async", pooled=False), Route("asyncpg", pooled=False)],
    ids=str,
)
def test_difficult_models_are_filled_with_what_is_recognised(ground: Ground, route: Route) -> None:
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    metadata = everything()
    filler = Filler(metadata, shared_schemas=SHARED)
    manager = ground.service.manager(models=MetaData(), shared_schemas=SHARED, **route.options)
    runner = Runner(manager, route)
    with closing(runner), ground.tables(metadata, "hallym", "korea"):
        ground.plans("basic", "plus")
        for tenant_id in ("hallym", "korea"):
            filled = runner.run(tenant_id, lambda session: filler.fill(session, CANARIES[tenant_id]))  # noqa: B023
            assert set(filled.notes) == {"reference.plan", "people", "singleton"}
            tables = {name for name in metadata.tables if name not in ("reference.plan", "people")}
            assert set(filled) == tables
            assert {name for name, rows in filled.items() if len(rows) != 3} == {"singleton"}
            read = runner.run(tenant_id, lambda session: read_back(session, metadata))
            for table, rows in read.items():
                for row in rows:
                    for column, value in row.items():
                        expected = {tenant_id} if column not in BARE.get(table, set()) else CANARIES.found_in(value)
                        assert expected <= {tenant_id}
                        assert CANARIES.found_in(value) == expected, (table, column, value)
                        assert CANARIES.found_in(repr(value)) == expected, (table, column, value)


def read_back(session: Session, metadata: MetaData) -> dict[str, list[dict[str, Any]]]:
    tables = [table for table in metadata.tables.values() if table.schema is None]
    return {
        table.name: [
            {column.name: row._mapping[column] for column in table.columns} for row in session.execute(select(table))
        ]
        for table in tables
    }


def test_what_is_returned_is_what_is_there(ground: Ground) -> None:
    metadata = everything()
    with ground.tables(metadata):
        ground.plans("basic")
        filled = ground.fill(metadata)
        with ground.manager.get_session("hallym") as session:
            read = read_back(session, metadata)
    assert {name: sorted(map(repr, rows)) for name, rows in filled.items()} == {
        name: sorted(map(repr, rows)) for name, rows in read.items() if name in filled
    }


def test_a_tenant_is_filled_again_with_higher_numbers(ground: Ground) -> None:
    metadata = MetaData()
    Table("note", metadata, Column("id", Integer, primary_key=True), Column("body", String(20), unique=True))
    with ground.tables(metadata):
        ground.fill(metadata)
        with ground.manager.get_session("hallym") as session:
            Filler(metadata).fill(session, CANARIES["hallym"], first=4, rows=20)
            Filler(metadata).fill(session, CANARIES["hallym"])  # the same numbers: other values are found
            rows = session.execute(select(metadata.tables["note"])).all()
    assert len(rows) == 26
    assert all(CANARIES.found_in(row) == {"hallym"} for row in rows)


@pytest.mark.contrib
def test_extensions(ground: Ground) -> None:
    with ground.service.superuser() as connection:
        try:
            for name in ("hstore", "citext"):
                connection.execute(f"CREATE EXTENSION IF NOT EXISTS {name} SCHEMA reference".encode())
        except Exception as error:
            pytest.skip(f"this server has no such extension: {error}")
    metadata = MetaData()
    Table(
        "e",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", CITEXT, nullable=False),
        Column("h", HSTORE, nullable=False),
    )
    own = ground.schemas["hallym"]
    with ground.engine.begin() as connection:
        connection.exec_driver_sql(f"SET ROLE {ground.service.name}_owner")
        connection.exec_driver_sql(f"SET search_path = {own}, reference")
        metadata.create_all(connection)
    try:
        filled = ground.fill(metadata)
        assert all(CANARIES.found_in(row[column]) == {"hallym"} for row in filled["e"] for column in ("name", "h"))
    finally:
        with ground.service.superuser() as connection:
            connection.execute(f"DROP TABLE {own}.e; DROP EXTENSION hstore; DROP EXTENSION citext".encode())


# -- shared tables


def shared_models() -> MetaData:
    metadata = MetaData()
    Table("plan", metadata, Column("name", Text, primary_key=True), schema="reference")
    Table(
        "audit", metadata,
        Column("id", Integer, primary_key=True), Column("line", Text, nullable=False),
        Column("tenant", Text, server_default=text("current_setting('mt_paas.tenant')"), nullable=False),
        schema="reference",
    )  # fmt: skip
    Table(
        "choice",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("plan", ForeignKey("reference.plan.name"), nullable=False),
    )
    return metadata


def test_shared_tables_are_read_and_written_only_where_the_caller_says(ground: Ground) -> None:
    metadata = shared_models()
    with ground.tables(metadata):
        with pytest.raises(RowsError, match=r"'reference\.plan', which is empty") as raised:
            ground.fill(metadata)
        assert (raised.value.table, raised.value.column) == ("choice", "plan")
        ground.plans("basic")
        filled = ground.fill(metadata)
        assert set(filled) == {"choice"}
        assert {row["plan"] for row in filled["choice"]} == {"basic"}
        with pytest.raises(RowsError, match="permission denied") as raised:
            ground.fill(metadata, writable=["reference.audit"])
        assert raised.value.table == "reference.audit"
        with ground.service.superuser() as connection:
            role = ground.schemas["hallym"]
            connection.execute(
                f"GRANT INSERT ON reference.audit TO {role};"
                "ALTER TABLE reference.audit ENABLE ROW LEVEL SECURITY;"
                "CREATE POLICY p ON reference.audit USING (tenant = current_setting('mt_paas.tenant'))".encode()
            )
        with ground.manager.get_session("hallym") as session:
            session.execute(text("DELETE FROM choice"))
            filled = Filler(metadata, shared_schemas=SHARED, writable=["reference.audit"]).fill(
                session, CANARIES["hallym"]
            )
    assert {row["tenant"] for row in filled["reference.audit"]} == {"hallym"}
    assert CANARIES.found_in(filled["reference.audit"]) == {"hallym"}


def test_schemas_and_names_must_be_declared() -> None:
    metadata = shared_models()
    with pytest.raises(ConfigurationError, match="shared_schemas: reference"):
        Filler(metadata)
    with pytest.raises(ConfigurationError, match="no table 'choise'"):
        Filler(metadata, shared_schemas=SHARED, factories=factory("choise", lambda canary, n: {}))


# -- what cannot be filled


def riddles() -> MetaData:
    metadata = MetaData()
    Table("plain", metadata, Column("id", Integer, primary_key=True), Column("body", Text))
    Table(
        "riddle", metadata,
        Column("id", Integer, primary_key=True), Column("answer", Text, nullable=False), Column("hint", Text),
        CheckConstraint("md5(answer) = 'a1d0c6e83f027327d8461063f4ac58a6'", name="must_be_42"),
    )  # fmt: skip
    Table(
        "guess",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("riddle_id", ForeignKey("riddle.id"), nullable=False),
    )
    return metadata


def test_what_cannot_be_filled_is_said_and_leaves_nothing(ground: Ground) -> None:
    metadata = riddles()
    with ground.tables(metadata), ground.manager.get_session("hallym") as session:
        with pytest.raises(RowsError) as raised:
            Filler(metadata).fill(session, CANARIES["hallym"])
        assert session.execute(text("SELECT count(*) FROM plain")).scalar_one() == 0  # and the transaction goes on
    error = raised.value
    assert isinstance(error, TenancyError)
    assert (error.table, error.column, error.constraint) == ("riddle", "answer", "must_be_42")
    assert 'violates check constraint "must_be_42"' in (error.said or "")
    assert 'Factories({"riddle": lambda canary, n: {"answer": ...}})' in str(error)
    assert [(failure.table, failure.blocked) for failure in error.failures] == [("riddle", False), ("guess", True)]
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.failures) == (str(error), error.failures)


def test_a_factory_gives_some_columns_and_the_rest_is_made(ground: Ground) -> None:
    metadata = riddles()
    factories = Factories() | factory("riddle", lambda canary, n: {"answer": "42"})
    with ground.tables(metadata):
        filled = ground.fill(metadata, factories=factories)
        assert [row["answer"] for row in filled["riddle"]] == ["42"] * 3
        assert all(CANARIES.found_in(row["hint"]) == {"hallym"} for row in filled["riddle"])
        with pytest.raises(ConfigurationError, match="no such column"):
            ground.fill(metadata, factories=factory("plain", lambda canary, n: {"bodi": 1}))
    with ground.tables(metadata):
        left_out = ground.fill(metadata, skip=["riddle", "guess"])
    assert set(left_out) == {"plain"}
    assert left_out.notes == {"riddle": "left out", "guess": "left out"}


def test_a_condition_over_a_hash_is_met_by_a_factory(ground: Ground) -> None:
    """As docs/how-to/fill-difficult-models.md has it."""
    metadata = MetaData()
    Table(
        "book", metadata,
        Column("id", Integer, Identity(), primary_key=True), Column("isbn", String(13), unique=True, nullable=False),
        Column("title", Text, nullable=False),
        CheckConstraint("md5(left(isbn, -1)) LIKE '%' || right(isbn, 1) AND length(isbn) > 10", name="check_digit"),
    )  # fmt: skip

    def book(canary: Canary, n: int) -> dict[str, str]:
        digits = str(canary.number("book.isbn", n, digits=10))
        return {"isbn": digits + hashlib.md5(digits.encode()).hexdigest()[-1]}

    with ground.tables(metadata):
        filled = ground.fill(metadata, factories=factory("book", book))
        assert all(CANARIES.found_in(row["title"]) == {"hallym"} for row in filled["book"])


def test_a_cycle_that_nothing_cuts(ground: Ground) -> None:
    metadata = MetaData()
    Table(
        "a",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("b", ForeignKey("b.id", use_alter=True, name="a_b"), nullable=False),
    )
    Table("b", metadata, Column("id", Integer, primary_key=True), Column("a", ForeignKey("a.id"), nullable=False))
    with ground.tables(metadata), pytest.raises(RowsError, match="cycle of foreign keys"):
        ground.fill(metadata)


def test_a_table_that_is_not_there(ground: Ground) -> None:
    metadata = MetaData()
    Table("absent", metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(RowsError, match=r"it is not there.*migrate the tenant"):
        ground.fill(metadata)


def test_a_dead_connection_is_not_a_difficult_model(ground: Ground) -> None:
    metadata = MetaData()
    Table("note", metadata, Column("id", Integer, primary_key=True))
    with (
        ground.tables(metadata),
        pytest.raises(ServerUnavailableError),
        ground.manager.get_session("hallym") as session,
    ):
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with ground.service.superuser() as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        Filler(metadata).fill(session, CANARIES["hallym"])


# -- the scanner


def test_canaries_are_the_same_in_any_process_and_unlike_each_other() -> None:
    many = [f"t{i}" for i in range(100)]
    canaries = Canaries.of(many)
    assert Canaries.of(many)["t7"] == canaries["t7"] == Canaries.of(many[:8]).plus(*many[8:])["t7"]
    assert Canaries.of(many, seed=1)["t7"].tag != canaries["t7"].tag
    assert len({canaries[label].tag for label in canaries}) == 100
    with pytest.raises(ConfigurationError, match="already"):
        canaries.plus("t7")


def values_of(label: str, canaries: Canaries, n: int) -> list[Any]:
    canary = canaries[label]
    return [
        canary.text("note.body", n), canary.text("note.body", n, length=12), canary.number("note.id", n, digits=10),
        canary.number("note.id", n, digits=16), canary.uuid("note.key", n), canary.day(n), canary.moment(n),
        canary.time_of_day(n), canary.span(n), canary.address("note.ip", n), canary.hardware(n),
    ]  # fmt: skip


@given(st.integers(0, 99), st.integers(1, 2000), st.integers(0, 3))
def test_among_a_hundred_tenants_each_value_is_one_tenants_in_any_form(i: int, n: int, seed: int) -> None:
    canaries = HUNDREDS[seed]
    label = f"t{i}"
    for value in values_of(label, canaries, n):
        encoded = str(value).encode()
        for form in (
            value, repr(value), str(value), {"a": [(value,)]}, json.dumps({"v": str(value)}), ValueError(value),
            encoded, repr(encoded), f"DETAIL:  Key (v)=({value}) already exists.", f"({n},{value},x)", {value: 1},
            f"line\n{value}\n", repr(f"line\n{value}\n"), [value, "x"], frozenset({value}),
        ):  # fmt: skip
            assert canaries.found_in(form) == {label}, (value, form)
    long = str(canaries[label].text("note.body", n)).encode()
    for before in ("", "x", "yy"):
        for form in (long.hex(), long.hex().upper(), base64.b64encode(before.encode() + long).decode()):
            assert canaries.found_in(f"<{form}>") == {label}, form


HUNDREDS = [Canaries.of([f"t{i}" for i in range(100)], seed=seed) for seed in range(4)]


def test_what_is_no_canary_is_not_mistaken_for_one() -> None:
    """A megabyte of what logs, dumps and dictionaries hold, against a hundred tenants."""
    chance = random.Random(5)
    words = [
        "select",
        "INSERT INTO",
        "전북대학교",
        "jqx",
        "wxzkv",
        "canary",
        "Kafka",
        "xkcd",
        "vexing",
        "2026-11-24 00:38:12.52",
    ]
    noise = [chance.choice(words) for _ in range(20_000)]
    noise += [chance.randbytes(16).hex() for _ in range(5_000)]
    noise += [base64.b64encode(chance.randbytes(48)).decode() for _ in range(5_000)]
    noise += [str(chance.randrange(10 ** chance.randrange(1, 9))) for _ in range(20_000)]
    noise += [f"{1.7e9 + chance.random() * 1e8:.6f}" for _ in range(5_000)]
    noise += [str(1_700_000_000_000_000 + chance.randrange(10**14)) for _ in range(5_000)]
    noise += ["".join(chance.choices(string.ascii_lowercase, k=9)) for _ in range(20_000)]
    chance.shuffle(noise)
    found = HUNDREDS[0].found_in(" ".join(noise))
    assert found == frozenset()


def test_errors_with_their_causes_and_log_records_are_looked_through(ground: Ground) -> None:
    metadata = MetaData()
    note = Table("note", metadata, Column("id", Integer, primary_key=True), Column("body", Text, unique=True))
    with ground.tables(metadata), pytest.raises(DBAPIError) as raised:
        body = ground.fill(metadata)["note"][0]["body"]
        with ground.manager.get_session("hallym") as session:
            session.execute(insert(note).values(body=body))
    assert CANARIES.found_in(raised.value) == {"hallym"}
    assert CANARIES.found_in(str(raised.value.orig)) == {"hallym"}
    chained = RuntimeError("something else")
    chained.__cause__ = raised.value
    assert CANARIES.found_in([{"error": chained}]) == {"hallym"}
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "row %s", (CANARIES["korea"].text("a.b", 1),), None)
    assert CANARIES.found_in(record) == {"korea"}
    ring: list[Any] = []
    ring.append(ring)
    assert CANARIES.found_in(ring) == frozenset()


# -- patterns and constants


@pytest.mark.parametrize(
    "pattern",
    [r"^[A-Z]{3}-[0-9]{2,5}$", r"^\d{3}-\d{4}-\d{4}$", r"^(a|b)c+d?$", r"[[:alpha:]]{5}", r"^[^@]+@[^@]+\.[a-z]{2,}$",
     r"^#[0-9a-fA-F]{6}$", r"^\S+$", r"^v\d+\.\d+\.\d+$", "^[a-z0-9]+(-[a-z0-9]+)*$"],
)  # fmt: skip
def test_exemplars_match_their_pattern_and_differ_by_row(pattern: str) -> None:
    python = pattern.replace("[[:alpha:]]", "[a-zA-Z]")
    made = []
    for n in (1, 2, 3):
        found = [each for each in exemplars(pattern, Words((f"jkqv{n}", "JKQV"), (), n)) if re.search(python, each)]
        assert found
        made.append(found[0])
    assert len(set(made)) == 3


def test_constants_are_mined() -> None:
    hints = mine(["((code)::text ~ '^a''b$'::text) AND (x >= '-5'::integer) AND (y < 1.5) AND (m ~~ '%@%'::text)"])
    assert hints.patterns == ("^a'b$",)
    assert hints.likes == ("%@%",)
    assert [str(number) for number in hints.numbers] == ["-5", "1.5"]


# -- any models

KINDS: dict[str, Callable[[], Any]] = {
    "Text": Text, "String(1)": lambda: String(1), "String(7)": lambda: String(7), "String(40)": lambda: String(40),
    "Integer": Integer, "SmallInteger": SmallInteger, "BigInteger": BigInteger, "Numeric(4, 2)": lambda: Numeric(4, 2),
    "Numeric(18, 6)": lambda: Numeric(18, 6), "Boolean": Boolean, "Date": Date, "DateTime": DateTime,
    "aware": lambda: DateTime(timezone=True), "Time": Time, "LargeBinary": LargeBinary, "Uuid": Uuid, "JSONB": JSONB,
    "ARRAY(Integer)": lambda: ARRAY(Integer), "ARRAY(String(6))": lambda: ARRAY(String(6)),
    "Enum": lambda: Enum("a", "b", "c", name="abc"), "INET": INET,
}  # fmt: skip
FEW = {"Boolean", "Enum", "String(1)", "JSONB"}
"""Kinds that take few values, or have no order to be unique by."""

NAMES = count()
"""No table's name is used twice: a prepared statement would outlive the table."""

CHECKS = {
    "Text": [
        "{c} <> ''",
        "length({c}) BETWEEN 3 AND 8",
        "{c} IN ('x', 'y')",
        "{c} ~ '^[a-z]+[0-9]*$'",
        "lower({c}) = {c}",
    ],
    "Integer": ["{c} > 0", "{c} BETWEEN 10 AND 99", "{c} <> 7", "{c} % 10 = 3", "{c} IN (1, 2, 3, 5)", "{c} < -100"],
    "Numeric(4, 2)": ["{c} >= 0 AND {c} <= 1", "{c} > -5.5"],
    "Date": ["{c} < CURRENT_DATE", "{c} >= '2020-01-01' AND {c} < '2030-01-01'"],
    "JSONB": ["jsonb_typeof({c}) = 'array'"],
    "ARRAY(Integer)": ["cardinality({c}) > 0"],
}


@st.composite
def metadatas(draw: st.DrawFn) -> MetaData:
    """Models of a few tables with random columns, checks, unique keys and foreign keys."""
    metadata = MetaData()
    names = [f"t{next(NAMES)}" for _ in range(draw(st.integers(1, 4)))]
    for i, name in enumerate(names):
        key = draw(st.sampled_from(["serial", "always", "uuid", "text", "composite"]))
        keys: dict[str, list[Any]] = {
            "serial": [Column("id", Integer, primary_key=True)],
            "always": [Column("id", BigInteger, Identity(always=True), primary_key=True)],
            "uuid": [Column("id", Uuid, primary_key=True)],
            "text": [Column("id", String(12), primary_key=True)],
            "composite": [
                Column("id", Integer, primary_key=True, autoincrement=False),
                Column("part", String(10), primary_key=True),
            ],
        }
        columns = keys[key]
        numbers = []
        for j in range(draw(st.integers(0, 6))):
            kind = draw(st.sampled_from(sorted(KINDS)))
            column_name = draw(st.sampled_from(["c", "select", "Mixed Case", "a%b"])) + str(j)
            columns.append(Column(column_name, KINDS[kind](), nullable=draw(st.booleans())))
            quoted = '"' + column_name + '"'
            if kind in CHECKS and draw(st.booleans()):
                columns.append(
                    CheckConstraint(text(draw(st.sampled_from(CHECKS[kind])).format(c=quoted).replace(":", "\\:")))
                )
            if kind not in FEW and draw(st.integers(0, 4)) == 0:
                columns.append(UniqueConstraint(column_name))
            if kind == "Integer":
                numbers.append(column_name)
        if len(numbers) > 1 and draw(st.booleans()):
            columns.append(CheckConstraint(f'"{numbers[0]}" <= "{numbers[1]}" OR "{numbers[0]}" < 200'))
            if draw(st.booleans()):
                columns.append(
                    Column("sum", BigInteger, Computed(f'"{numbers[0]}"::bigint + "{numbers[1]}"', persisted=True))
                )
        for target in names[: i + 1]:
            if draw(st.integers(0, 2)) == 0:
                to = metadata.tables.get(target)
                itself = to is None
                keyed = (
                    [c.name for c in to.primary_key.columns]
                    if to is not None
                    else ["id", "part"][: 1 + (key == "composite")]
                )
                if len(keyed) == 1:
                    nullable = itself or draw(st.booleans())
                    unique = not itself and draw(st.booleans())
                    columns.append(Column(f"to_{target}", ForeignKey(f"{target}.id"), nullable=nullable, unique=unique))
        Table(name, metadata, *columns)
    return metadata


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(metadatas())
def test_any_models_are_filled(ground: Ground, metadata: MetaData) -> None:
    with ground.tables(metadata):
        filled = ground.fill(metadata)
        with ground.manager.get_session("hallym") as session:
            read = read_back(session, metadata)
    for name, rows in filled.items():
        assert rows or not metadata.tables[name].columns
        assert len(read[name]) == len(rows)
        assert len(rows) == 3 or "rows: " in filled.notes[name]
        for column in metadata.tables[name].columns:
            if isinstance(column.type, (Text, JSONB)) and not any(
                "CHECK" in str(type(c)).upper() for c in metadata.tables[name].constraints
            ):
                found = [CANARIES.found_in(row[column.name]) for row in read[name]]
                assert all(each == {"hallym"} for each in found), (name, column.name)
    assert CANARIES.found_in(read) <= {"hallym"}
