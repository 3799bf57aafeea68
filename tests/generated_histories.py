"""Histories that Hypothesis invents: some revisions that are valid one after the other, there and back again.

A `_Model` knows what the tables look like so far, and each operation is drawn from what that permits. Operations are
Alembic's source text, with the text that takes them back; names and values are as awkward as the server allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any

from hypothesis import strategies as st

_FILE = """\
import datetime
import decimal
import uuid

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = {revision!r}
down_revision = {after!r}


def upgrade():
{up}


def downgrade():
{down}
"""

_ENV = """\
from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""

_BITS = (
    "'", '"', "\\", "\t", "\n", "\r\n", "%", "%s", "%%", "%(x)s", ":", ":x", "::", "$", "$$", "$1", ";", "--", "/*",
    "*/", "한글", "😀", "{0}", "é", " ", "a", "b c", "\\n", "E'", "\u2028", "\x01", "\\:y", "COMMIT", "NULL", "?", "`",
)  # fmt: skip
_LONGEST = 30

texts = st.lists(st.sampled_from(_BITS), max_size=5).map(lambda bits: "".join(bits)[:_LONGEST])
_labels = st.sampled_from(["calm", "it's", "한글", "a%b", 'q"q', "back\\slash", ":colon", "$$", "two words", "A"])
_ints = st.integers(-(2**31), 2**31 - 1)
_json: st.SearchStrategy[Any] = st.recursive(
    texts | st.booleans() | _ints, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2)
)

_VALUES: dict[str, st.SearchStrategy[str]] = {
    "sa.Integer()": _ints.map(repr),
    "sa.BigInteger()": st.integers(-(2**63), 2**63 - 1).map(repr),
    "sa.Text()": texts.map(repr),
    f"sa.String({_LONGEST})": texts.map(repr),
    "sa.Boolean()": st.booleans().map(repr),
    "sa.Numeric(12, 3)": st.decimals(-(10**8), 10**8, places=3).map(lambda d: f"decimal.Decimal({str(d)!r})"),
    "sa.Date()": st.dates().map(repr),
    "sa.DateTime()": st.datetimes().map(repr),
    "sa.DateTime(timezone=True)": st.datetimes().map(lambda d: repr(d)[:-1] + ", tzinfo=datetime.timezone.utc)"),
    "sa.JSON()": _json.map(repr),
    "postgresql.JSONB()": _json.map(repr),
    "sa.ARRAY(sa.Text())": st.lists(texts, max_size=3).map(repr),
    "sa.ARRAY(sa.Integer())": st.lists(_ints, max_size=3).map(repr),
    "sa.Uuid()": st.uuids().map(lambda u: f"uuid.UUID({str(u)!r})"),
    "sa.LargeBinary()": st.binary(max_size=5).map(repr),
}


@dataclass
class _Column:
    type: str
    needed: bool = False
    """Whether a row must give it a value."""
    used: bool = False
    """Whether something else depends on it."""


@dataclass
class _Table:
    columns: dict[str, _Column] = field(default_factory=dict)
    used: bool = False
    definition: str = ""
    """What makes it again as it is now; empty where that is not known any more."""


@dataclass(frozen=True)
class Revision:
    """One revision: operations, and what takes them back."""

    name: str
    after: str | tuple[str, ...] | None
    up: tuple[str, ...]
    down: tuple[str, ...]


@dataclass(frozen=True)
class Generated:
    """A history. `middle` is a revision that all ways to the end pass."""

    revisions: tuple[Revision, ...]
    middle: str

    def write(self, folder: Path) -> str:
        """Write a `script_location` with an ``env.py`` for a connection that is handed over; return it."""
        versions = folder / "versions"
        versions.mkdir(parents=True)
        (folder / "env.py").write_text(_ENV)
        for revision in self.revisions:
            body = {
                way: indent("\n".join(lines) or "pass", "    ")
                for way, lines in vars(revision).items()
                if way in ("up", "down")
            }
            text = _FILE.format(revision=revision.name, after=revision.after, **body)
            (versions / f"{revision.name}.py").write_text(text, encoding="utf-8")
        return str(folder)

    def __repr__(self) -> str:
        shown = (
            f"{r.name} after {r.after}:\n" + "\n".join(r.up) + "\n -- down\n" + "\n".join(r.down)
            for r in self.revisions
        )
        return "\n".join(shown) + f"\nmiddle: {self.middle}"


class _Model:
    """What there is so far, and the operations that it permits."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.tables: dict[str, _Table] = {}
        self.enums: dict[str, list[str]] = {}
        self._count = 0

    def name(self, word: str) -> str:
        """A name that nothing else has; some must be quoted."""
        self._count += 1
        shown = self.one_of([word, word, f"{word} of", f"{word}%", word.title(), f"{word}_이름", f'{word}"'])
        return f"{shown}{self._count}"

    def one_of(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def type(self) -> str:
        if self.enums and self.draw(st.integers(0, 4)) == 0:
            enum = self.one_of(self.enums)
            return f"postgresql.ENUM({', '.join(map(repr, self.enums[enum]))}, name={enum!r}, create_type=False)"
        return str(self.one_of(_VALUES))

    def value(self, type_: str) -> str:
        if type_ in _VALUES:
            return str(self.draw(_VALUES[type_]))
        return repr(self.one_of(next(labels for name, labels in self.enums.items() if f"name={name!r}" in type_)))

    def default(self, type_: str) -> str:
        """A server default, as source; empty for none."""
        choices = {
            "sa.Integer()": ["sa.text('7 % 4')", "'-1'"],
            "sa.Boolean()": ["sa.true()", "sa.text('false')"],
            "sa.Text()": [repr(self.draw(texts)), "sa.text(\"'100%' || chr(9)\")"],
            f"sa.String({_LONGEST})": [repr(self.draw(texts))],
            "postgresql.JSONB()": ["sa.text(\"'{}'::jsonb\")"],
            "sa.ARRAY(sa.Text())": ["'{}'"],
            "sa.LargeBinary()": ["sa.text(r\"'\\x00ff'::bytea\")"],
        }.get(type_, [])
        return str(self.one_of(["", *choices]))

    def column(self, name: str, type_: str, default: str, *, nullable: bool, comment: str = "") -> str:
        words = [repr(name), type_, f"nullable={nullable}"]
        words += [f"server_default={default}"] if default else []
        words += [f"comment={comment!r}"] if comment else []
        return f"sa.Column({', '.join(words)})"

    def new_column(self, *, empty: bool) -> tuple[str, _Column, str]:
        name, type_ = self.name("c"), self.type()
        default = self.default(type_)
        nullable = not (default or empty) or self.draw(st.booleans())
        source = self.column(name, type_, default, nullable=nullable, comment=self.draw(st.just("") | texts))
        return name, _Column(type_, needed=not nullable and not default), source

    def rows(self, table: str) -> tuple[dict[str, str], list[dict[str, str]]]:
        """Columns with their types, and rows for them as source."""
        known = self.tables[table].columns
        given = {n: c.type for n, c in known.items() if c.needed or self.draw(st.booleans())}
        return given, [{n: self.value(t) for n, t in given.items()} for _ in range(self.draw(st.integers(1, 3)))]

    @staticmethod
    def light(table: str, columns: dict[str, str]) -> str:
        return f"sa.table({table!r}, {', '.join(f'sa.column({n!r}, {t})' for n, t in columns.items())})"

    # -- operations: what does it, and what takes it back

    def create_table(self) -> tuple[str, str]:
        table = self.name("t")
        made = _Table()
        key = self.one_of(["sa.Integer(), primary_key=True", "sa.BigInteger(), sa.Identity(), primary_key=True"])
        parts = [f"sa.Column('id', {key})"]
        for _ in range(self.draw(st.integers(1, 4))):
            name, column, source = self.new_column(empty=True)
            made.columns[name] = column
            parts.append(source)
        if self.draw(st.booleans()):
            parts.append(f"sa.CheckConstraint('id <> 7 % 100 - 93', name={self.name('k')!r})")
        if self.draw(st.booleans()):
            parts.append(f"comment={self.draw(texts)!r}")
        made.definition = f"op.create_table({table!r}, {', '.join(parts)})"
        self.tables[table] = made
        return made.definition, f"op.drop_table({table!r})"

    def create_table_with_enum(self) -> tuple[str, str]:
        table, enum = self.name("t"), self.name("e")
        labels = self.draw(st.lists(_labels, min_size=1, max_size=3, unique=True))
        self.enums[enum] = labels
        inline = f"sa.Enum({', '.join(map(repr, labels))}, name={enum!r})"
        type_ = inline.replace("sa.Enum", "postgresql.ENUM")[:-1] + ", create_type=False)"
        self.tables[table] = _Table({"mood": _Column(type_, needed=True)}, used=True)
        columns = f"sa.Column('id', sa.Integer, primary_key=True), sa.Column('mood', {inline}, nullable=False)"
        up = f"op.create_table({table!r}, {columns})"
        return up, f"op.drop_table({table!r})\nop.execute({_raw('DROP TYPE ' + _quoted(enum))})"

    def drop_table(self) -> tuple[str, str]:
        free = [t for t, made in self.tables.items() if not made.used and made.definition]
        if len(self.tables) < 2 or not free:
            return self.add_column()
        table = self.one_of(free)
        return f"op.drop_table({table!r})", self.tables.pop(table).definition

    def rename_table(self) -> tuple[str, str]:
        old, new = self.one_of(self.tables), self.name("t")
        self.tables[new] = self.tables.pop(old)
        self.tables[new].definition = ""
        return f"op.rename_table({old!r}, {new!r})", f"op.rename_table({new!r}, {old!r})"

    def add_column(self) -> tuple[str, str]:
        table = self.one_of(self.tables)
        name, column, source = self.new_column(empty=False)
        self.tables[table].columns[name] = column
        self.tables[table].definition = ""
        if self.draw(st.booleans()):
            return f"op.add_column({table!r}, {source})", f"op.drop_column({table!r}, {name!r})"
        index = self.name("i")
        column.used = True
        return (
            (
                f"with op.batch_alter_table({table!r}) as batch:\n    batch.add_column({source})\n"
                f"    batch.create_index({index!r}, ['id'])"
            ),
            (
                f"with op.batch_alter_table({table!r}) as batch:\n    batch.drop_index({index!r})\n"
                f"    batch.drop_column({name!r})"
            ),
        )

    def drop_column(self) -> tuple[str, str]:
        table = self.one_of(self.tables)
        free = [n for n, c in self.tables[table].columns.items() if not c.used]
        if not free:
            return self.add_column()
        name = self.one_of(free)
        column = self.tables[table].columns.pop(name)
        self.tables[table].definition = ""
        again = self.column(name, column.type, "", nullable=True)
        return f"op.drop_column({table!r}, {name!r})", f"op.add_column({table!r}, {again})"

    def alter_column(self) -> tuple[str, str]:
        table = self.one_of(self.tables)
        if not self.tables[table].columns:
            return self.add_column()
        name = self.one_of(self.tables[table].columns)
        column = self.tables[table].columns[name]
        self.tables[table].definition = ""
        alter = f"op.alter_column({table!r}, {name!r}, "
        wider = {"sa.Integer()": "sa.BigInteger()", f"sa.String({_LONGEST})": "sa.Text()"}.get(column.type)
        match self.one_of(["rename", "default", "nullable", "type"] if not column.used else ["nullable", "default"]):
            case "rename":
                new = self.name("c")
                self.tables[table].columns[new] = self.tables[table].columns.pop(name)
                return (
                    f"{alter}new_column_name={new!r})",
                    f"op.alter_column({table!r}, {new!r}, new_column_name={name!r})",
                )
            case "nullable":
                light = self.light(table, {name: column.type})
                values = f"{{{name!r}: {self.value(column.type)}}}"
                fill = f"t = {light}\nop.execute(t.update().where(t.c[{name!r}].is_(None)).values({values}))"
                column.needed = True
                return f"{fill}\n{alter}nullable=False)", f"{alter}nullable=True)"
            case "type" if wider is not None and column.type == "sa.Integer()":
                # No wider value is ever given: the way back must be open.
                return f"{alter}type_={wider})", f"{alter}type_={column.type})"
            case "type" if wider is not None:
                column.type = wider
                return f"{alter}type_={wider}, server_default=None)", f"{alter}type_=sa.String({_LONGEST}))"
        default = self.default(column.type)
        return f"{alter}server_default={default or None})", f"{alter}server_default=None)"

    def create_index(self) -> tuple[str, str]:
        table = self.one_of(self.tables)
        index = self.name("i")
        made = self.tables[table]
        made.used, made.definition = True, ""
        plain = [n for n, c in made.columns.items() if "JSON" not in c.type]
        columns = ["'id'"]
        if plain:
            chosen = self.one_of(plain)
            made.columns[chosen].used = True
            columns.append(repr(chosen))
        options = self.draw(
            st.sampled_from(
                ["", ", unique=True", ", postgresql_where=sa.text('id % 2 = 0')", ", postgresql_using='btree'"]
            )
        )
        if self.draw(st.integers(0, 3)) == 0:
            columns.append("sa.text('(id % 10)')")
        up = f"op.create_index({index!r}, {table!r}, [{', '.join(columns)}]{options}"
        drop = f"op.drop_index({index!r}, {table!r})"
        if self.draw(st.integers(0, 3)):
            return f"{up})", drop
        return f"with op.get_context().autocommit_block():\n    {up}, postgresql_concurrently=True)", drop

    def create_constraint(self) -> tuple[str, str]:
        table, name = self.one_of(self.tables), self.name("k")
        self.tables[table].used, self.tables[table].definition = True, ""
        drop = f"op.drop_constraint({name!r}, {table!r})"
        match self.one_of(["check", "unique", "foreign"]):
            case "check":
                return f"op.create_check_constraint({name!r}, {table!r}, sa.column('id') % 100 > -200)", drop
            case "unique":
                return f"op.create_unique_constraint({name!r}, {table!r}, ['id'])", drop
        other, column = self.one_of(self.tables), self.name("c")
        self.tables[other].used = True
        return (
            (
                f"op.add_column({table!r}, sa.Column({column!r}, sa.Integer()))\n"
                f"op.create_foreign_key({name!r}, {table!r}, {other!r}, [{column!r}], ['id'], ondelete='SET NULL')"
            ),
            f"{drop}\nop.drop_column({table!r}, {column!r})",
        )

    def add_label(self) -> tuple[str, str]:
        if not self.enums:
            return self.create_table_with_enum()
        enum = self.one_of(self.enums)
        label = self.draw(_labels)
        add = f"op.execute({_raw(f'ALTER TYPE {_quoted(enum)} ADD VALUE IF NOT EXISTS ' + _literal(label))})"
        if self.draw(st.booleans()):
            return add, "pass"  # and nobody uses it: not in the same transaction
        self.enums[enum] = [*self.enums[enum], *({label} - set(self.enums[enum]))]
        self._widen(enum)
        return f"with op.get_context().autocommit_block():\n    {add}", "pass"

    def _widen(self, enum: str) -> None:
        for table in self.tables.values():
            for column in table.columns.values():
                if f"name={enum!r}" in column.type:
                    column.type = (
                        f"postgresql.ENUM({', '.join(map(repr, self.enums[enum]))}, name={enum!r}, create_type=False)"
                    )

    def insert(self) -> tuple[str, str]:
        table = self.one_of(self.tables)
        columns, rows = self.rows(table)
        remove = f"op.execute({_raw('DELETE FROM ' + _quoted(table))})"
        if not columns:
            return f"op.execute({_raw(f'INSERT INTO {_quoted(table)} DEFAULT VALUES')})", remove
        light = self.light(table, columns)
        sources = [f"{{{', '.join(f'{n!r}: {v}' for n, v in row.items())}}}" for row in rows]
        match self.one_of(["bulk", "bulk", "core", "text"]):
            case "bulk":
                return f"op.bulk_insert({light}, [{', '.join(sources)}])", remove
            case "core":
                return "\n".join(f"op.execute({light}.insert().values({source}))" for source in sources), remove
        names = ", ".join(map(_quoted, columns))
        binds = ", ".join(f":v{n}" for n in range(len(columns)))
        words = ", ".join(f"sa.bindparam('v{n}', {v}, type_={columns[c]})" for n, (c, v) in enumerate(rows[0].items()))
        statement = _raw(f"INSERT INTO {_quoted(table)} ({names}) VALUES (")[:-1] + binds + ")'"
        return f"op.execute(sa.text({statement}).bindparams({words}))", remove

    def update(self) -> tuple[str, str]:
        written = [
            (t, n, c)
            for t, made in self.tables.items()
            for n, c in made.columns.items()
            if c.type in ("sa.Text()", "sa.Integer()")
        ]
        if not written:
            return self.insert()
        table, name, column = self.one_of(written)
        if column.type == "sa.Integer()":
            return f"op.execute({_raw(f'UPDATE {_quoted(table)} SET {_quoted(name)} = id % 3; SELECT 1')})", "pass"
        value = self.draw(texts)
        light = self.light(table, {"id": "sa.Integer", name: column.type})
        plain = f"UPDATE {_quoted(table)} SET {_quoted(name)} = {_literal(value)} WHERE id % 2 = 1"
        there = f"t.c[{name!r}]"
        longer = f"sa.func.left({there} + {value!r}, {_LONGEST})"
        return self.one_of(
            [
                f"op.execute({_raw(plain)})",
                f"t = {light}\nop.execute(t.update().where({there}.in_([{value!r}])).values({{{name!r}: {value!r}}}))",
                f"t = {light}\nop.execute(t.update().where(t.c.id > -1).values({{{name!r}: {longer}}}))",
            ]
        ), "pass"

    def revision(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Some operations, and what takes them back."""
        usual = [self.create_table, self.add_column, self.alter_column, self.insert, self.insert, self.update]
        others = [self.create_table_with_enum, self.drop_table, self.rename_table, self.drop_column, self.create_index]
        others += [self.create_constraint, self.add_label]
        done: list[tuple[str, str]] = []
        for _ in range(self.draw(st.integers(1, 4))):
            operation = self.one_of(usual + others) if self.tables else self.create_table
            done.append(operation())
        return tuple(up for up, _ in done), tuple(down for _, down in reversed(done))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _raw(statement: str) -> str:
    """SQL text as source, where no colon begins a parameter."""
    return repr(re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", statement))


@st.composite
def histories(draw: Any) -> Generated:
    """Three to six revisions, sometimes with two branches that are merged again."""
    model = _Model(draw)
    made: list[Revision] = []
    for number in range(draw(st.integers(3, 4))):
        up, down = model.revision()
        made.append(Revision(f"a{number}", made[-1].name if made else None, up, down))
    middle = made[draw(st.integers(0, len(made) - 2))].name
    if draw(st.integers(0, 3)) == 0:
        fork = made[-1].name
        up, down = model.revision()
        made.append(Revision("left", fork, up, down))
        made_there, undone = model.create_table()
        made.append(Revision("right", fork, (made_there,), (undone,)))
        made.append(Revision("merged", ("left", "right"), (), ()))
    return Generated(tuple(made), middle)
