"""Revisions rendered to SQL text, in Alembic's offline mode, and what gives away that the text would not do.

Offline mode changes meaning without a word: ``op.get_bind()`` answers with a mock, ``is_offline_mode()`` takes another
branch, a Python default becomes one literal for all tenants. A revision that asks for what only a live connection has
is named with its reason, and runs online.

Three things differ from Alembic's own ``--sql``. The dialect is told the server's version, and that backslashes are
plain characters, as it would learn when it connects. Tabs stay what they are. And bound values are written as literals
only where the literal is known to mean the same.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import sys
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from alembic.ddl.postgresql import PostgresqlImpl
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import ARRAY, JSON, Dialect, text
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.schema import DDLElement
from sqlalchemy.sql.elements import BindParameter, ClauseElement, TextClause

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
    items = tuple(Item(piece, alone) for statement, alone in renderer.statements for piece in _pieces(renderer, statement))
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
    dialect._backslash_escapes = False  # standard_conforming_strings, which every connection of ours has
    made: Dialect = dialect
    return made


class _Offline(MigrationContext):
    """A context in offline mode, whose statements a `_Renderer` takes down."""

    def __init__(self, dialect: Dialect, environment: EnvironmentContext) -> None:
        self.renderer: _Renderer = None  # type: ignore[assignment]
        super().__init__(dialect, None, {"as_sql": True, "literal_binds": True}, environment)
        self.renderer = self.impl = _Renderer(dialect, self._connection, True, True, None, {"literal_binds": True})

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

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
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
        self._alone = False

    def emit_commit(self) -> None:
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
        for row in rows:
            for name, value in row.items():
                if not isinstance(value, ClauseElement):
                    self._check(value, table.c[name].type)
        super().bulk_insert(table, rows, multiinsert=multiinsert)

    def _exec(
        self, construct: Any, execution_options: Any = None, multiparams: Any = None, params: Any = None
    ) -> None:
        if isinstance(construct, str):
            construct = text(construct)
        if multiparams or params:
            self.refuse("it passes parameters beside a statement")
        self.statements.append((self._text(construct), self._alone))

    def _text(self, construct: Any) -> str:
        if isinstance(construct, DDLElement):
            return str(construct.compile(dialect=self.dialect)).strip()
        bound: Sequence[BindParameter[Any]] = list(construct.compile(dialect=self.dialect).binds.values())
        for parameter in bound:
            if parameter.callable is None and parameter.value is None and parameter.required:
                continue  # a text's ":name" without a value; the compiler says so itself
            self._check(parameter.effective_value, parameter.type)
        kw: dict[str, Any] = {"compile_kwargs": {"literal_binds": True}}
        if isinstance(construct, TextClause) and not bound:
            kw = {}
        return str(construct.compile(dialect=self.dialect, **kw)).strip()

    def _check(self, value: Any, type_: Any) -> None:
        """Refuse values whose literal is not sure to be what a driver would send."""
        if isinstance(value, (list, dict)):
            if not isinstance(type_, (JSON, ARRAY)):
                self.refuse(f"it binds a {type(value).__name__} to {type_!r}")
            for inner in value.values() if isinstance(value, dict) else value:
                self._check(inner, type_)
            return
        if value is None:
            if isinstance(type_, JSON):
                self.refuse("it binds None to a JSON column")
            return
        plain = isinstance(value, (str, bool, int, decimal.Decimal, datetime.date, uuid.UUID, enum.Enum))
        finite = plain and not (isinstance(value, decimal.Decimal) and not value.is_finite())
        if isinstance(value, float):
            finite = math.isfinite(value) and isinstance(type_, JSON)
        if not finite or (isinstance(value, str) and "\0" in value):
            self.refuse(f"it binds a value of type {type(value).__name__}")
