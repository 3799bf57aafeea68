"""Revisions rendered to SQL text, in Alembic's offline mode, and what gives away that the text would not do.

Offline mode changes meaning without a word: ``op.get_bind()`` answers with a mock, ``is_offline_mode()`` takes another
branch, a Python default becomes one literal for all tenants. A revision that asks for what only a live connection has
is named with its reason, and runs online.

Three things differ from Alembic's own ``--sql``. The dialect is told the server's version, and that backslashes are
plain characters, as it would learn when it connects. Tabs stay what they are. And bound values are written as literals
of the type that a driver would send, where that literal is known to mean the same.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import sys
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from alembic.ddl.postgresql import PostgresqlImpl
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import ARRAY, JSON, Boolean, Date, DateTime, Dialect, Enum, Integer, Numeric, String, Uuid, text
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.schema import DDLElement
from sqlalchemy.sql.elements import BindParameter, ClauseElement, TextClause
from sqlalchemy.sql.sqltypes import STRINGTYPE

import mt_paas_db.migrate.policies  # noqa: F401  # op.protect and its kin
from mt_paas_db.migrate.script import Action, Heads, Item, Part
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.statements import ends_transaction, split


class NeedsConnection(BaseException):
    """A revision asked for what offline mode does not have. Not an `Exception`, so that no revision swallows it."""


def render(
    scripts: Scripts, action: Action, start: Heads, target: str, *, server_version: tuple[int, ...]
) -> list[Part]:
    """Return the parts of the way from `start` to `target`; those that cannot be compiled say why.

    Runs the revisions' code. Raises `RevisionError` where there is no such way.
    """
    route = scripts.route(action, start, target)
    environment = EnvironmentContext(scripts.config, scripts.directory)
    context = _Offline(_dialect(server_version), environment)
    # On the instance: Alembic's module proxies do not know subclasses.
    environment.is_offline_mode = lambda: context.renderer.refuse("it asks is_offline_mode()")  # type: ignore[method-assign]
    environment.get_bind = lambda: context.renderer.refuse("it asks context.get_bind()")  # type: ignore[method-assign]
    parts: list[Part] = []
    with environment:
        environment._migration_context = context
        with _operations(context):
            for step, heads in zip(route.steps, route.heads, strict=True):
                parts.append(_part(context, step, heads))
    return parts


def _operations(context: MigrationContext) -> Any:
    from alembic.operations import Operations

    return Operations.context(context)


def _part(context: _Offline, step: Any, heads: Heads) -> Part:
    renderer = context.renderer
    renderer.begin_revision()
    revision = step.revision.revision
    try:
        step.migration_fn()
    except NeedsConnection:
        pass
    except Exception as error:
        lines = str(error).strip().splitlines()
        renderer.needs.append(f"it cannot be rendered: {type(error).__name__}{': ' + lines[0] if lines else ''}")
    items = tuple(
        Item(piece, alone) for statement, alone in renderer.statements for piece in _pieces(renderer, statement)
    )
    reason = renderer.needs[0] if renderer.needs else None
    return Part(revision, heads, () if reason else items, reason)


def _pieces(renderer: _Renderer, statement: str) -> Iterable[str]:
    try:
        pieces = split(statement)
        if any(ends_transaction(piece) for piece in pieces):
            renderer.needs.append("it begins or ends transactions by SQL text")
    except ValueError as error:
        renderer.needs.append(f"its SQL cannot be read: {error}")
        return ()
    return pieces


def _dialect(server_version: tuple[int, ...]) -> Dialect:
    """Return a dialect as it is after it has connected. Named parameters leave percent signs single."""
    dialect: Any = psycopg.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect.server_version_info = server_version
    dialect.supports_virtual_generated_columns = server_version >= (18,)
    dialect._backslash_escapes = False  # standard_conforming_strings, which every connection of ours has
    made: Dialect = dialect
    return made


class _Typed(psycopg.PGCompiler_psycopg):
    """Writes bound values with the types that they are sent with: 'a' alone is of another type than a string sent."""

    def render_literal_value(self, value: Any, type_: Any) -> str:
        sent = type_._unwrapped_dialect_impl(self.dialect)
        as_text = value is not None and isinstance(sent, JSON)  # a type that SQLAlchemy writes no literals of
        plain = (json.dumps(value), STRINGTYPE) if as_text else (value, type_)
        written: str = super().render_literal_value(*plain)  # type: ignore[no-untyped-call]
        if isinstance(value, decimal.Decimal):
            return f"CAST({written} AS NUMERIC)"
        if value is None or not sent.render_bind_cast:
            return written
        # As the compiler writes a cast, but around it: -1::INTEGER is read as -(1::INTEGER).
        cast = self.render_bind_cast(type_, sent, "").removeprefix("::")  # type: ignore[no-untyped-call]
        return f"CAST({written} AS {cast})"


class _Offline(MigrationContext):
    """A context in offline mode, whose statements a `_Renderer` takes down."""

    def __init__(self, dialect: Dialect, environment: EnvironmentContext) -> None:
        self.renderer: _Renderer = None  # type: ignore[assignment]
        super().__init__(dialect, None, {"as_sql": True, "literal_binds": True}, environment)
        self.renderer = self.impl = _Renderer(
            dialect,
            self._connection,
            as_sql=True,
            transactional_ddl=True,
            output_buffer=None,
            context_opts={"literal_binds": True},
        )

    # What Alembic itself asks of these, it may know; what a revision asks would be answered wrong.

    @property
    def as_sql(self) -> bool:
        self._only_alembic("get_context().as_sql")
        return self._as_sql

    @as_sql.setter
    def as_sql(self, value: bool) -> None:
        self._as_sql = value

    @property
    def connection(self) -> Any:
        self._only_alembic("get_context().connection")
        return self._connection

    @connection.setter
    def connection(self, value: Any) -> None:
        self._connection = value

    @property
    def bind(self) -> Any:
        self._only_alembic("get_context().bind")
        return self._connection

    def get_current_heads(self) -> NoReturn:
        self.renderer.refuse("it asks for the current heads")

    def get_current_revision(self) -> NoReturn:
        self.renderer.refuse("it asks for the current revision")

    def _only_alembic(self, what: str) -> None:
        asking = sys._getframe(2).f_globals.get("__name__", "")
        if self.renderer is not None and not asking.startswith(("alembic.", "mt_paas_db.")):
            self.renderer.refuse(f"it asks {what}")


class _Renderer(PostgresqlImpl):
    """Takes down each statement, and whether it is outside a transaction."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._typed = _dialect(self.dialect.server_version_info)  # type: ignore[arg-type]
        self._typed.statement_compiler = _Typed
        self.begin_revision()

    def begin_revision(self) -> None:
        self.statements: list[tuple[str, bool]] = []
        self.needs: list[str] = []
        self._alone = False

    def refuse(self, reason: str) -> NoReturn:
        """Note why this revision needs a connection; it is noted even if the revision catches everything."""
        self.needs.append(reason)
        raise NeedsConnection(reason)

    def emit_begin(self) -> None:
        if not self._alone:
            self.refuse("it begins a transaction of its own")
        self._alone = False

    def emit_commit(self) -> None:
        if self._alone:
            self.refuse("it leaves its transaction twice")
        self._alone = True

    @property
    def bind(self) -> NoReturn:
        self.refuse("it asks op.get_bind()")

    def static_output(self, text: str) -> None:
        self.statements.append((text, self._alone))

    def bulk_insert(self, table: Any, rows: Any, multiinsert: bool = True) -> None:  # noqa: FBT001, FBT002
        rows = list(rows)
        if any(column.default is not None for column in table.c):
            self.refuse("it inserts rows whose Python-side defaults are computed for each")
        if any(row.keys() != rows[0].keys() for row in rows):
            self.refuse("it inserts rows that do not all have the same columns")
        for row in rows:
            for name, value in row.items():
                if not isinstance(value, ClauseElement):
                    self._check(value, table.c[name].type)
        super().bulk_insert(table, rows, multiinsert=multiinsert)

    def _exec(self, construct: Any, execution_options: Any = None, multiparams: Any = None, params: Any = None) -> None:
        if isinstance(construct, str):
            construct = text(construct)
        if multiparams or params:
            self.refuse("it passes parameters beside a statement")
        self.statements.append((self._text(construct), self._alone))

    def _text(self, construct: Any) -> str:
        if isinstance(construct, DDLElement):
            return str(construct.compile(dialect=self.dialect)).strip()
        compiled: Any = construct.compile(dialect=self._typed)
        if compiled.insert_prefetch or compiled.update_prefetch:
            self.refuse("it has Python-side defaults")
        bound: Sequence[BindParameter[Any]] = list(compiled.binds.values())
        for parameter in bound:
            if parameter.required:
                self.refuse(f"it gives no value for :{parameter.key}")
            several = parameter.expanding and isinstance(parameter.effective_value, (list, tuple, set, frozenset))
            for value in parameter.effective_value if several else (parameter.effective_value,):  # type: ignore[union-attr]
                self._check(value, parameter.type)
        # SQLAlchemy takes the backslash of an escaped colon out of a text when its literals are in it already.
        if isinstance(construct, TextClause) and any(_has_escaped_colon(p.effective_value) for p in bound):
            self.refuse("it binds a value with a backslash before a colon")
        kw: dict[str, Any] = {"compile_kwargs": {"literal_binds": True}} if bound else {}
        return str(construct.compile(dialect=self._typed, **kw)).strip()

    def _check(self, value: Any, type_: Any) -> None:
        """Refuse values whose literal is not sure to be what a driver would send."""
        type_ = type_.dialect_impl(self.dialect)
        if value is None:
            if isinstance(type_, JSON):
                self.refuse("it binds None to a JSON column")
        elif isinstance(type_, JSON):
            self._check_json(value)
        elif isinstance(type_, ARRAY):
            if type(value) is not list:
                self.refuse(f"it binds a {type(value).__name__} to an array")
            if None in value:
                self.refuse("it binds an array with None in it")
            for inner in value:
                self._check(inner, type_ if type(inner) is list else type_.item_type)
        elif not _same_as_literal(value, type_):
            self.refuse(f"it binds a value of type {type(value).__name__} as {type_!r}")

    def _check_json(self, value: Any) -> None:
        if type(value) in (list, dict):
            for inner in value.values() if isinstance(value, dict) else value:
                self._check_json(inner)
        elif not (value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))):
            self.refuse(f"it binds a value of type {type(value).__name__} in JSON")


_LITERALS: tuple[tuple[type, frozenset[type]], ...] = (
    (Enum, frozenset({str})),
    (String, frozenset({str})),
    (Boolean, frozenset({bool})),
    (Integer, frozenset({int})),
    (Numeric, frozenset({int, decimal.Decimal})),
    (Uuid, frozenset({uuid.UUID})),
)
"""What values columns of these types are given as literals. A subclass of a value's type may be sent otherwise."""


def _has_escaped_colon(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_has_escaped_colon, value))
    if isinstance(value, dict):
        return any(map(_has_escaped_colon, (*value, *value.values())))
    return isinstance(value, str) and "\\:" in value


def _same_as_literal(value: Any, type_: Any) -> bool:
    if isinstance(type_, (Date, DateTime)):
        # An hour of another zone is converted where it is sent, and cut off where it is written.
        zone = getattr(value, "tzinfo", None)
        return isinstance(value, datetime.date) and (zone is None or getattr(type_, "timezone", False))
    if isinstance(value, enum.Enum):
        return isinstance(type_, Enum)
    if isinstance(value, decimal.Decimal) and not value.is_finite():
        return False
    if isinstance(value, str) and "\0" in value:
        return False
    return any(isinstance(type_, known) and type(value) in values for known, values in _LITERALS)
