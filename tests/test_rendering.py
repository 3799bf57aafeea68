r"""What becomes of each kind of revision: its text, sent to all tenants, or a live connection, and why.

One history has a revision of each kind, and the compiler's two processes render it once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import sqlalchemy

from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.rendering import render
from mt_paas_db.migrate.script import Item, Part, Script
from mt_paas_db.migrate.scripts import Scripts
from tests.histories import History

NOTE = 'note = sa.table("note", sa.column("body", sa.Text), sa.column("n", sa.Integer))\n'

COMPILED: dict[str, tuple[str, list[str]]] = {
    "nothing": ("pass", []),
    "raw": ("op.execute(\"INSERT INTO note (body) VALUES ('a')\")", ["INSERT INTO note (body) VALUES ('a')"]),
    "several": ("op.execute(\"SELECT 1; -- and\\nSELECT ';';\")", ["SELECT 1", "-- and\nSELECT ';'"]),
    "percent": ("op.execute(\"UPDATE note SET body = '100%s %% %(x)s'\")", ["UPDATE note SET body = '100%s %% %(x)s'"]),
    "tab": ("op.execute(\"UPDATE note SET body = 'a\\tb'\")", ["UPDATE note SET body = 'a\tb'"]),
    "korean": ("op.execute(\"UPDATE note SET body = '한림대학교'\")", ["UPDATE note SET body = '한림대학교'"]),
    "backslash": ("op.execute(r\"UPDATE note SET body = 'a\\b'\")", [r"UPDATE note SET body = 'a\b'"]),
    "colon": (
        r"""op.execute(r"UPDATE note SET body = 'at \:noon' WHERE n = 1::int")""",
        ["UPDATE note SET body = 'at :noon' WHERE n = 1::int"],
    ),
    "bulk": (
        NOTE + r"""op.bulk_insert(note, [{"body": "it's \\ 100%", "n": -1}, {"body": None, "n": 2}])""",
        [
            r"INSERT INTO note (body, n) VALUES (CAST('it''s \ 100%' AS VARCHAR), CAST(-1 AS INTEGER))",
            "INSERT INTO note (body, n) VALUES (NULL, CAST(2 AS INTEGER))",
        ],
    ),
    "bulk_types": (
        """
        import datetime, decimal, uuid
        from sqlalchemy.dialects.postgresql import JSONB
        t = sa.table("t", sa.column("a", sa.Numeric), sa.column("b", sa.Date),
                     sa.column("c", sa.DateTime(timezone=True)),
                     sa.column("d", JSONB), sa.column("e", sa.ARRAY(sa.Text)), sa.column("f", sa.Uuid))
        op.bulk_insert(t, [{"a": decimal.Decimal("5"), "b": datetime.date(2024, 1, 2), "d": {"k": [None, 1.5]}, "e": [],
                            "c": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc), "f": uuid.UUID(int=1)}])
        """,
        [
            (
                "INSERT INTO t (a, b, c, d, e, f) VALUES (CAST(5 AS NUMERIC), CAST('2024-01-02' AS DATE), "
                "CAST('2024-01-02 00:00:00+00:00' AS TIMESTAMP WITH TIME ZONE), "
                """CAST('{"k": [null, 1.5]}' AS JSONB), CAST(ARRAY[] AS TEXT[]), """
                "CAST('00000000-0000-0000-0000-000000000001' AS UUID))"
            )
        ],
    ),
    "bound_text": (
        'op.execute(sa.text("UPDATE note SET n = 3-:n, body = :b").bindparams(n=-1, b=":x"))',
        ["UPDATE note SET n = 3-CAST(-1 AS INTEGER), body = CAST(':x' AS VARCHAR)"],
    ),
    "core": (
        NOTE + 'op.execute(note.update().where(note.c.n.in_([1, 2])).values(body="x"))',
        ["UPDATE note SET body=CAST('x' AS VARCHAR) WHERE note.n IN (CAST(1 AS INTEGER), CAST(2 AS INTEGER))"],
    ),
    "server_defaults": (
        r"""op.add_column("note", sa.Column("a", sa.Text, server_default="100% \\ it's"))""",
        [r"ALTER TABLE note ADD COLUMN a TEXT DEFAULT '100% \ it''s'"],
    ),
    "comment": (
        'op.create_table_comment("note", "100% \'한글\'\\ttab")',
        ["COMMENT ON TABLE note IS '100% ''한글''\ttab'"],
    ),
    "computed": (
        (
            'op.create_table("c", sa.Column("a", sa.Integer, sa.Identity(always=True)),'
            ' sa.Column("b", sa.Integer, sa.Computed("a * 2", persisted=True)))'
        ),
        [
            (
                "CREATE TABLE c (\n\ta INTEGER GENERATED ALWAYS AS IDENTITY, \n"
                "\tb INTEGER GENERATED ALWAYS AS (a * 2) STORED\n)"
            )
        ],
    ),
    "enum_with_its_table": (
        'op.create_table("t", sa.Column("m", sa.Enum("a", "it\'s", name="mood")))',
        ["CREATE TYPE mood AS ENUM ('a', 'it''s')", "CREATE TABLE t (\n\tm mood\n)"],
    ),
    "enum_value": ("op.execute(\"ALTER TYPE mood ADD VALUE 'b'\")", ["ALTER TYPE mood ADD VALUE 'b'"]),
    "check": (
        'op.create_check_constraint("k", "note", "n % 2 = 0")',
        ["ALTER TABLE note ADD CONSTRAINT k CHECK (n % 2 = 0)"],
    ),
    "foreign_key": (
        'op.create_foreign_key("f", "note", "note", ["parent"], ["id"], ondelete="CASCADE", deferrable=True)',
        ["ALTER TABLE note ADD CONSTRAINT f FOREIGN KEY(parent) REFERENCES note (id) ON DELETE CASCADE DEFERRABLE"],
    ),
    "exclusion": (
        'op.create_exclude_constraint("x", "note", (sa.column("n"), "="), using="gist")',
        ["ALTER TABLE note ADD CONSTRAINT x EXCLUDE USING gist (n WITH =)"],
    ),
    "index": (
        'op.create_index("i", "note", [sa.text("lower(body)")], unique=True, postgresql_where=sa.text("n % 2 = 1"))',
        ["CREATE UNIQUE INDEX i ON note (lower(body)) WHERE n % 2 = 1"],
    ),
    "batch": (
        """
        with op.batch_alter_table("note") as batch:
            batch.add_column(sa.Column("b", sa.Text))
            batch.drop_column("n")
        """,
        ["ALTER TABLE note ADD COLUMN b TEXT", "ALTER TABLE note DROP COLUMN n"],
    ),
    "row_security": (
        """
        op.execute("ALTER TABLE note ENABLE ROW LEVEL SECURITY")
        op.execute("CREATE POLICY own ON note USING (n >= 0) WITH CHECK (body <> ';')")
        """,
        [
            "ALTER TABLE note ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON note USING (n >= 0) WITH CHECK (body <> ';')",
        ],
    ),
    "dollars": (
        (
            'op.execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS '
            '$f$ BEGIN COMMIT; RETURN NEW; END $f$; SELECT 1")'
        ),
        ["CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN COMMIT; RETURN NEW; END $f$", "SELECT 1"],
    ),
    "atomic": (
        'op.execute("CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 1")',
        ["CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END", "SELECT 1"],
    ),
    "trigger": (
        'op.execute("CREATE TRIGGER t BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION f()")',
        ["CREATE TRIGGER t BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION f()"],
    ),
    "sequence": ('op.execute(sa.schema.CreateSequence(sa.Sequence("s", start=5)))', ["CREATE SEQUENCE s START WITH 5"]),
    "partitioned": (
        'op.create_table("p", sa.Column("at", sa.Date), postgresql_partition_by="RANGE (at)")',
        ["CREATE TABLE p (\n\tat DATE\n)\n PARTITION BY RANGE (at)"],
    ),
    "prints": ('print("hello"); op.execute("SELECT 1")', ["SELECT 1"]),
    "savepoint": ('op.execute("SAVEPOINT a; ROLLBACK TO a")', ["SAVEPOINT a", "ROLLBACK TO a"]),
    "constant_date": (
        """
        import datetime
        from datetime import date, datetime as dt
        assert isinstance(dt(2024, 1, 1), dt) and isinstance(dt(2024, 1, 1), date) and issubclass(dt, date)
        class Mine(dt):
            def shown(self): return self.isoformat()
        at = dt.strptime("2024-01-01", "%Y-%m-%d") + datetime.timedelta(days=1)
        op.execute(f"SELECT '{at} {date(2024, 1, 1)} {dt.fromisoformat('2024-01-03')} {Mine(2024, 1, 4).shown()}'")
        """,
        ["SELECT '2024-01-02 00:00:00 2024-01-01 2024-01-03 00:00:00 2024-01-04T00:00:00'"],
    ),
    "seeded": ("import random\nop.execute(f'SELECT {random.Random(1).randint(0, 9)}')", ["SELECT 2"]),
    "helper": ("import words_of_a_revision\nop.execute(words_of_a_revision.TEXT)", ["SELECT 'helped'"]),
}
"""What is rendered, and to what."""

_BIND = "it asks op.get_bind()"
_SQL = "it begins or ends transactions by SQL text"
_BULK = 'op.bulk_insert(sa.table("t", sa.column("a", {type})), [{{"a": {value}}}])'
_PYTHON_DEFAULT = (
    'sa.Table("t", sa.MetaData(), sa.Column("a", sa.Integer), sa.Column("b", sa.Text, default="x", onupdate="y"))'
)

ONLINE: dict[str, tuple[str, str]] = {
    "bind": ("op.get_bind()", _BIND),
    "bind_swallowed": ("try:\n    op.get_bind()\nexcept:\n    pass\nop.execute('SELECT 1')", _BIND),
    "bind_of_batch": ('with op.batch_alter_table("note") as batch:\n    batch.get_bind()', _BIND),
    "context_bind": ("op.get_context().bind", "it asks get_context().bind"),
    "context_connection": ("op.get_context().connection", "it asks get_context().connection"),
    "environment_bind": ("context.get_bind()", "it asks context.get_bind()"),
    "environment_context": ("context.get_context().bind", "it asks get_context().bind"),
    "async": ("async def work(connection): pass\nop.run_async(work)", _BIND),
    "escaped_colon": (
        r"""op.execute(sa.text("SELECT :v").bindparams(sa.bindparam("v", ["a\\:y"], type_=sa.ARRAY(sa.Text()))))""",
        "it binds a value with a backslash before a colon",
    ),
    "offline": ("if not context.is_offline_mode():\n    op.execute('SELECT 1')", "it asks is_offline_mode()"),
    "as_sql": ("op.get_context().as_sql", "it asks get_context().as_sql"),
    "current_heads": ("op.get_context().get_current_heads()", "it asks for the current heads"),
    "current_revision": ("op.get_context().get_current_revision()", "it asks for the current revision"),
    "enum_create": ('sa.Enum("a", name="m").create(op.get_bind())', _BIND),
    "bytes": (_BULK.format(type="sa.LargeBinary", value="b'a'"), "it binds a value of type bytes"),
    "none_as_json": (_BULK.format(type="sa.JSON", value="None"), "it binds None to a JSON column"),
    "float": (_BULK.format(type="sa.Float", value="0.1"), "it binds a value of type float"),
    "nan": (_BULK.format(type="sa.JSON", value="[float('nan')]"), "it binds a value of type float in JSON"),
    "decimal_nan": (
        _BULK.format(type="sa.Numeric", value="__import__('decimal').Decimal('NaN')"),
        "it binds a value of type Decimal",
    ),
    "none_in_an_array": (
        _BULK.format(type="sa.ARRAY(sa.Text)", value="['a', None]"),
        "it binds an array with None in it",
    ),
    "nul": (_BULK.format(type="sa.Text", value="'a\\0'"), "it binds a value of type str"),
    "decimal_as_integer": (
        _BULK.format(type="sa.Integer", value="__import__('decimal').Decimal('1.5')"),
        "it binds a value of type Decimal",
    ),
    "hour_of_a_zone": (
        _BULK.format(
            type="sa.DateTime",
            value="__import__('datetime').datetime(2024, 1, 1, tzinfo=__import__('datetime').timezone.utc)",
        ),
        "it binds a value of type datetime",
    ),
    "own_type": (
        "class Own(sa.types.TypeDecorator):\n    impl = sa.Text\n    cache_ok = True\n"
        + _BULK.format(type="Own", value="'a'"),
        "it binds a value of type str as",
    ),
    "untyped": ('op.bulk_insert(sa.table("t", sa.column("a")), [{"a": "x"}])', "it binds a value of type str as"),
    "unlike_rows": (
        NOTE + 'op.bulk_insert(note, [{"body": "a"}, {"body": "b", "n": 1}])',
        "it inserts rows that do not all have",
    ),
    "python_default": (
        f'op.bulk_insert({_PYTHON_DEFAULT}, [{{"a": 1}}])',
        "it inserts rows whose Python-side defaults",
    ),
    "python_default_in_insert": (f"op.execute({_PYTHON_DEFAULT}.insert().values(a=1))", "it has Python-side defaults"),
    "python_default_in_update": (f"op.execute({_PYTHON_DEFAULT}.update().values(a=1))", "it has Python-side defaults"),
    "value_missing": ("op.execute(\"UPDATE note SET body = ' :x'\")", "it gives no value for :x"),
    "commit": ('op.execute("SELECT 1; COMMIT")', _SQL),
    "rollback": ('op.execute("/* x */ ROLLBACK")', _SQL),
    "own_transaction": (
        "with op.get_context().begin_transaction():\n    op.execute('SELECT 1')",
        "it begins a transaction of its own",
    ),
    "unread": ('op.execute("SELECT \'a")', "its SQL cannot be read"),
    "raises": ("raise RuntimeError('no such luck\\nat all')", "it cannot be rendered: RuntimeError: no such luck"),
    "recreates": (
        'with op.batch_alter_table("note", recreate="always") as batch:\n    batch.drop_column("n")',
        "it cannot be rendered: CommandError",
    ),
}
"""What needs a connection, and the reason that is given."""

CHANGING: dict[str, str] = {
    "uuid4": "import uuid\nv = uuid.uuid4()",
    "uuid1": "import uuid\nv = uuid.uuid1()",
    "random": "import random\nv = random.random()",
    "choice": "import random\nv = random.sample(range(10**6), 3)",
    "secrets": "import secrets\nv = secrets.token_hex()",
    "urandom": "import os\nv = os.urandom(8).hex()",
    "pid": "import os\nv = os.getpid()",
    "time": "import time\nv = int(time.time())",
    "time_ns": "import time\nv = time.time_ns()",
    "strftime": "import time\nv = time.strftime('%Y')",
    "localtime": "import time\nv = time.localtime().tm_year",
    "gmtime": "import time\nv = time.gmtime().tm_mon",
    "now": "from datetime import datetime\nv = datetime.now()",
    "hour_in_a_zone": "import datetime\nv = datetime.datetime.now(datetime.timezone.utc).hour",
    "utcnow": "import datetime, warnings\nwarnings.simplefilter('ignore')\nv = datetime.datetime.utcnow()",
    "year": "import datetime\nv = datetime.date.today().year",
    "weekday": "import datetime\nv = datetime.date.today().weekday()",
    "day": "import datetime\nv = datetime.datetime.today().day",
    "set_order": "v = ' '.join({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})",
    "hash": "v = hash('a')",
    "id": "v = id(object())",
    "default": "import uuid\nv = sa.Column('a', sa.Text, server_default=uuid.uuid4().hex)\nop.add_column('t', v)",
    "module_time": "v = STARTED",
    "count": "import secrets\nv = 1\nfor _ in range(secrets.randbelow(10**4)): op.execute('SELECT 1')",
}
"""What two processes cannot agree upon."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Part]]:
    """What became of each revision, by its name."""
    folder = tmp_path_factory.mktemp("rendering")
    (folder / "words_of_a_revision.py").write_text("TEXT = \"SELECT 'helped'\"\n")
    history = History(folder / "history")
    bodies = {name: body for name, (body, _) in (COMPILED | ONLINE).items()}
    bodies |= {name: f"{body}\nop.execute(f\"SELECT '{{v}}'\")" for name, body in CHANGING.items()}
    bodies["concurrently"] = CONCURRENTLY
    after = None
    for name, body in bodies.items():
        history.add(name, body, after=after)
        after = name
    module = history.folder / "versions" / "module_time.py"
    module.write_text(f"import time\nSTARTED = time.time()\n{module.read_text()}")
    sys.path.insert(0, str(folder))
    try:
        with Compiler(Scripts(history.location), server_version=(16, 2)) as compiler:
            yield {part.revision: part for part in compiler.compile("upgrade", (), "head").parts}
    finally:
        sys.path.remove(str(folder))


CONCURRENTLY = """
op.execute("SELECT 1")
with op.get_context().autocommit_block():
    op.create_index("i", "note", ["n"], postgresql_concurrently=True)
    op.execute("ALTER TYPE mood ADD VALUE 'b'")
op.execute("SELECT 2")
"""


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(parts: dict[str, Part], name: str) -> None:
    assert parts[name].reason is None
    # How many empty lines SQLAlchemy leaves is its own affair.
    assert [item.text.replace("\n\n", "\n") for item in parts[name].items] == COMPILED[name][1]


@pytest.mark.parametrize("name", ONLINE)
def test_online(parts: dict[str, Part], name: str) -> None:
    reason = parts[name].reason
    assert reason is not None
    assert reason.startswith(ONLINE[name][1])
    assert parts[name].items == ()


@pytest.mark.parametrize("name", CHANGING)
def test_what_is_another_text_each_time_goes_online(parts: dict[str, Part], name: str) -> None:
    reason = parts[name].reason
    assert reason is not None
    assert reason.startswith("its SQL differs from one rendering to the next")


def test_what_leaves_the_transaction_is_alone(parts: dict[str, Part]) -> None:
    assert parts["concurrently"].items == (
        Item("SELECT 1"),
        Item("CREATE INDEX CONCURRENTLY i ON note (n)", alone=True),
        Item("ALTER TYPE mood ADD VALUE 'b'", alone=True),
        Item("SELECT 2"),
    )


def rendered(folder: Path, body: str, *, server_version: tuple[int, ...] = (16, 2)) -> Part:
    scripts = Scripts(History(folder / "history").add("a1", dedent(body)).location)
    (part,) = render(scripts, "upgrade", (), "head", server_version=server_version)
    return part


def test_one_rendering_shows_nothing_of_what_changes(tmp_path: Path) -> None:
    """The reason for two of them."""
    assert rendered(tmp_path, CHANGING["uuid4"]).reason is None


def test_without_another_clock_the_year_is_a_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for the second process's clock."""
    setup = Compiler.setup
    monkeypatch.setattr(Compiler, "setup", lambda self, *, shifted=False: setup(self))
    body = f"{CHANGING['year']}\nop.execute(f'SELECT {{v}}')"
    scripts = Scripts(History(tmp_path / "history").add("a1", body).location)
    with Compiler(scripts, server_version=(16, 2)) as compiler:
        assert compiler.compile("upgrade", (), "head").way == "compiled"


@pytest.mark.skipif(sqlalchemy.__version__ < "2.1", reason="SQLAlchemy 2.0 knows no virtual columns")
def test_the_dialect_knows_the_server(tmp_path: Path) -> None:
    body = 'op.add_column("t", sa.Column("a", sa.Integer, sa.Computed("1", persisted=False)))'
    assert "VIRTUAL" in rendered(tmp_path / "18", body, server_version=(18, 1)).items[0].text
    assert rendered(tmp_path / "16", body).reason is not None


def test_one_revision_that_needs_a_connection_takes_the_others_with_it() -> None:
    parts = (Part("a1", ("a1",), (Item("SELECT 1"),)), Part("a2", ("a2",), reason="it asks op.get_bind()"))
    script = Script("upgrade", (), ("a2",), parts)
    assert script.way == "online"
    assert script.first().way == "compiled"
