"""Compiled, online, or a piece of each: the same schema and the same rows as stock Alembic, run alone on one schema."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, Phase, given, settings
from psycopg import sql
from sqlalchemy import NullPool, create_engine

from mt_paas_db.migrate import rendering
from mt_paas_db.migrate.apply import Application, look
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.direct import connect
from mt_paas_db.migrate.message import REFERENCE, Patience, Target
from mt_paas_db.migrate.online import Order, run_online
from mt_paas_db.migrate.rendering import render
from mt_paas_db.migrate.script import Action, Heads, Script
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.structure import fingerprint, snapshot
from tests.fleet import Service
from tests.generated_histories import Generated, Revision, histories
from tests.servers import PostgresServer

SOAK = int(os.environ.get("MT_PAAS_TEST_SOAK", "0"))
"""Multiplies the examples, draws others at each run, and makes one that fails as small as it can be."""

EXAMPLES = 30 * max(1, SOAK)

few = settings(
    max_examples=EXAMPLES,
    derandomize=not SOAK,
    phases=tuple(Phase) if SOAK else (Phase.generate,),
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

Way = Literal["stock", "compiled", "online"]
Compile = Callable[[Scripts, Action, Heads, str], Script]


@dataclass
class Yard:
    """A database with an owner, and schemas that are made anew for each example."""

    service: Service
    connection: psycopg.Connection[Any]

    @property
    def owner(self) -> str:
        return f"{self.service.name}_owner"

    @property
    def dsn(self) -> str:
        return self.service.server.dsn(self.service.database)

    def compile(self, scripts: Scripts, action: Action, start: Heads, target: str) -> Script:
        """As the compiler does it, but here: a process takes a second to start."""
        parts = render(scripts, action, start, target, server_version=self.server_version)
        return Script(action, start, scripts.route(action, start, target).end, tuple(parts))

    @property
    def server_version(self) -> tuple[int, ...]:
        return divmod(self.connection.info.server_version, 10_000)

    def schema(self, name: str) -> Target:
        """Make an empty schema."""
        schema = f"{self.service.name}_{name}"
        with self.service.superuser() as superuser:
            names = {"schema": sql.Identifier(schema), "owner": sql.Identifier(self.owner)}
            superuser.execute(sql.SQL("DROP SCHEMA IF EXISTS {schema} CASCADE").format(**names))
            superuser.execute(sql.SQL("CREATE SCHEMA {schema} AUTHORIZATION {owner}").format(**names))
        return Target(REFERENCE, name, "active", "main", schema, None)

    def go(self, way: Way, scripts: Scripts, target: Target, action: Action, to: str, compile_: Compile) -> None:
        """Bring one schema to a revision."""
        if way == "stock":
            self._stock(scripts, target, action, to)
            return
        start = look(self.connection, target).heads or ()
        script = compile_(scripts, action, start, to)
        if way == "compiled" and script.way == "compiled":
            Application(self.connection, owner=self.owner, patience=Patience()).carry_out(target, script)
            return
        self._online(scripts, target, script, to)

    def _stock(self, scripts: Scripts, target: Target, action: Action, to: str) -> None:
        config = Config()
        config.set_main_option("script_location", scripts.location)
        options = f"-c role={self.owner} -c search_path={target.schema},pg_temp"
        url = self.dsn.replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(url, connect_args={"options": options}, poolclass=NullPool)
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            getattr(command, action)(config, to)

    def _online(self, scripts: Scripts, target: Target, script: Script, to: str) -> None:
        order = Order(
            dsn=self.dsn,
            owner=self.owner,
            target=target,
            action=script.action,
            start=script.start,
            destination=to,
            end=script.end,
            patience=Patience(),
            per_revision=False,
            allow_destructive=True,
            shared_schemas=(),
            at_home=False,
            final=to == "heads",
        )
        answer = run_online(scripts, order)
        assert answer.failure is None, answer

    def found(self, target: Target) -> dict[str, Any]:
        """All that a schema is and holds."""
        with self.service.superuser() as superuser:
            superuser.execute(sql.SQL("SET search_path = {}, pg_temp").format(sql.Identifier(target.schema)))
            tables = [row[0] for row in superuser.execute(_TABLES, (target.schema,))]
            rows = {
                table: sorted(superuser.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))))
                for table in tables
            }
            return {
                "objects": snapshot(superuser, target.schema, self.owner).objects,
                "fingerprint": fingerprint(superuser, target.schema, self.owner),
                "rows": rows,
                "sequences": superuser.execute(_SEQUENCES, (target.schema,)).fetchall(),
                "comments": superuser.execute(_COMMENTS, (target.schema,)).fetchall(),
                "columns in order": superuser.execute(_COLUMNS, (target.schema,)).fetchall(),
            }


_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1"
_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = %s ORDER BY 1"
_COMMENTS = """
SELECT c.relname, d.objsubid, d.description
  FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
 WHERE c.relnamespace = %s::regnamespace ORDER BY 1, 2
"""
_COLUMNS = """
SELECT c.relname, a.attnum, a.attname
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0 ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def yard(server: PostgresServer) -> Iterator[Yard]:
    service = Service(server)
    with service.superuser() as superuser:
        superuser.execute(f'CREATE ROLE "{service.name}_owner"'.encode())
    made = Yard(service, psycopg.connect(server.dsn(service.database), autocommit=True))
    made.connection.close()
    made.connection = connect(made.dsn, owner=made.owner, entry="main")
    try:
        yield made
    finally:
        made.connection.close()
        service.close()


@contextmanager
def written(generated: Generated) -> Iterator[Scripts]:
    """The history as files."""
    with tempfile.TemporaryDirectory() as folder:
        yield Scripts(generated.write(Path(folder) / "history"))


def compare(yard: Yard, scripts: Scripts, middle: str, compile_: Compile) -> None:
    """There, half way back, and there again, each in four ways; all must come to the same at each stop."""
    stops: list[tuple[Action, str]] = [
        ("upgrade", middle),
        ("upgrade", "heads"),
        ("downgrade", middle),
        ("upgrade", "heads"),
    ]
    mixed: list[Way] = ["compiled", "online", "compiled", "compiled"]
    targets = {way: yard.schema(way) for way in ("stock", "compiled", "online", "mixed")}
    for stop, turn in zip(stops, mixed, strict=True):
        for name, target in targets.items():
            way: Any = turn if name == "mixed" else name
            if name != "mixed" and stop == stops[0]:
                continue  # the whole way at once
            yard.go(way, scripts, target, *stop, compile_)
        if stop != stops[0]:
            expected = yard.found(targets["stock"])
            for name in ("compiled", "online", "mixed"):
                assert yard.found(targets[name]) == expected, f"{name}, after {stop}"


@few
@given(generated=histories())
def test_all_ways_come_to_the_same(yard: Yard, generated: Generated) -> None:
    with written(generated) as scripts:
        compare(yard, scripts, generated.middle, yard.compile)


@settings(few, max_examples=max(2, EXAMPLES // 15))
@given(generated=histories())
def test_so_does_what_two_processes_agree_upon(yard: Yard, generated: Generated) -> None:
    with written(generated) as scripts, Compiler(scripts, server_version=yard.server_version) as compiler:
        compare(yard, scripts, generated.middle, lambda _scripts, *way: compiler.compile(*way))


TABLE = (
    "op.create_table('t', sa.Column('id', sa.Integer, primary_key=True),"
    " sa.Column('a', sa.Text), sa.Column('n', sa.Numeric), sa.Column('b', sa.LargeBinary))"
)


def once(*lines: str) -> Generated:
    """A history with one table, and a revision of these lines."""
    first = Revision("a0", None, (TABLE,), ("pass",))
    return Generated((first, Revision("a1", "a0", lines, ("pass",))), "a0")


def untyped(self: Any, value: Any, type_: Any) -> str:
    written: str = super(rendering._Typed, self).render_literal_value(value, type_)
    return written


def with_backslashes(version: tuple[int, ...]) -> Any:
    dialect: Any = DIALECT(version)
    dialect._backslash_escapes = True
    return dialect


def with_spaces(self: Any, construct: Any) -> str:
    return TEXT(self, construct).replace("\t", "    ")


def allowed(*_: Any) -> None:
    """A rule that refuses nothing."""


DIALECT, TEXT = rendering._dialect, rendering._Renderer._text

BULK = "op.bulk_insert(sa.table('t', sa.column({name!r}, {type})), [{{{name!r}: {value!r}}}])"

RULES = {
    "backslashes are plain": (
        "_dialect",
        with_backslashes,
        BULK.format(name="a", type="sa.Text", value="a\\b"),
    ),
    "tabs stay": ("_Renderer._text", with_spaces, BULK.format(name="a", type="sa.Text", value="a\tb")),
    "bytes are sent": ("_Renderer._check", allowed, BULK.format(name="b", type="sa.LargeBinary", value=b"\\x41")),
    "literals have types": (
        "_Typed.render_literal_value",
        untyped,
        (
            "op.execute('INSERT INTO t (n) VALUES (1)')\n"
            "op.execute(sa.text('UPDATE t SET n = :d / 2').bindparams(d=decimal.Decimal(5)))"
        ),
    ),
    "defaults are Python's": (
        "_Renderer.refuse",
        allowed,
        (
            "t = sa.Table('t', sa.MetaData(), sa.Column('id', sa.Integer), sa.Column('a', sa.Text, default='x'))\n"
            "op.execute(t.insert().values(id=7))"
        ),
    ),
}


def both(yard: Yard, generated: Generated) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stock Alembic makes of it, and what we do, compiled if it can be."""
    with written(generated) as scripts:
        stock, ours = yard.schema("stock"), yard.schema("compiled")
        yard.go("stock", scripts, stock, "upgrade", "heads", yard.compile)
        yard.go("compiled", scripts, ours, "upgrade", "heads", yard.compile)
        return yard.found(stock), yard.found(ours)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_of_rendering_is_needed(yard: Yard, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    name, broken, lines = RULES[rule]
    expected, found = both(yard, once(*lines.splitlines()))
    assert found == expected
    holder, _, attribute = name.rpartition(".")
    monkeypatch.setattr(getattr(rendering, holder) if holder else rendering, attribute, broken)
    expected, found = both(yard, once(*lines.splitlines()))
    assert found["rows"] != expected["rows"]


def test_a_value_that_is_missing_is_no_null(yard: Yard) -> None:
    """Stock Alembic refuses ``:x`` without a value where Alembic's own ``--sql`` writes NULL."""
    with written(once("op.execute(\"INSERT INTO t (a) VALUES ('see :x')\")")) as scripts:
        assert yard.compile(scripts, "upgrade", ("a0",), "heads").way == "online"


def test_most_of_what_is_generated_is_compiled(yard: Yard) -> None:
    """Else the property says little."""
    ways: list[str] = []

    @settings(few, max_examples=20)
    @given(generated=histories())
    def count(generated: Generated) -> None:
        with written(generated) as scripts:
            ways.append(yard.compile(scripts, "upgrade", (), "heads").way)

    count()
    assert ways.count("compiled") > len(ways) / 2
