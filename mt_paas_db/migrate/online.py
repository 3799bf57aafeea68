"""Revisions that need a live connection, run by Alembic on one tenant, in a process of its own.

What a worker is asked to do. The connection is put into the tenant's schema for the whole run, since a revision may end
its transaction; it is put back afterwards. What offline text shows in the plan, destruction and strays into other
schemas, is looked for here in each statement before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from mt_paas_db.errors import MigrationRefusedError
from mt_paas_db.migrate import ledger, message
from mt_paas_db.migrate.apply import (
    DIVISION_BY_ZERO,
    BusyError,
    MovedError,
    invalid_indexes,
    leaves_traces,
    look,
    repeatable,
)
from mt_paas_db.migrate.direct import connect
from mt_paas_db.migrate.hazards import hazards
from mt_paas_db.migrate.message import Patience, Target
from mt_paas_db.migrate.script import Action, Heads, Mark
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.statements import IndexBuild, concurrent_index
from mt_paas_db.migrate.worker import on_cancel


@dataclass(frozen=True, slots=True)
class Order:
    """One tenant's way, to be run online."""

    dsn: str
    owner: str
    target: Target
    action: Action
    start: Heads
    destination: str
    end: Heads
    patience: Patience
    per_revision: bool
    allow_destructive: bool
    shared_schemas: tuple[str, ...]
    at_home: bool
    """Whether the catalog is in this database, and where the tenant stands is copied in its own transaction."""
    final: bool
    """Whether it leads to where the run does."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of it. `failure` is ``busy``, ``moved``, ``refused``, ``interrupted``, ``lost`` or ``failed``."""

    recorded: tuple[Any, ...] | None = None
    failure: str | None = None
    sqlstate: str | None = None
    statement: str | None = None
    message: str | None = None


_CLEAN, _WRITTEN = "clean", "written"
"""In the mark of a revision that left its transaction: whether it had written something by then."""

_open: dict[str, tuple[psycopg.Connection[Any], Engine]] = {}


def _cancel() -> None:
    for connection, _engine in list(_open.values()):
        if not connection.closed:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)


on_cancel(_cancel)


def run_online(scripts: Scripts, order: Order) -> Answer:
    """Carry out `order`, and say what became of it. The worker keeps its connection for the next one."""
    try:
        connection, engine = _connection(order)
        work = _Work(scripts, order, connection, engine)
        with work.locked():
            return Answer(recorded=work.run())
    except BusyError:
        return Answer(failure="busy")
    except MovedError:
        return Answer(failure="moved")
    except MigrationRefusedError as error:
        return Answer(failure="refused", message=str(error))
    except _InterruptedError as error:
        return Answer(failure="interrupted", message=str(error))
    except (DBAPIError, psycopg.Error) as error:
        return _answer(error, order)
    except Exception as error:  # a revision is the service's own code
        lines = str(error).strip().splitlines()
        return Answer(failure="failed", message=f"{type(error).__name__}: {lines[0] if lines else ''}")


class _InterruptedError(Exception):
    """A former run was stopped inside a revision that had committed a part of itself."""


def _answer(error: Any, order: Order) -> Answer:
    raised = getattr(error, "orig", None) or error
    state = getattr(raised, "sqlstate", None)
    lost = isinstance(raised, psycopg.OperationalError) and (state is None or state.startswith(("57P", "08")))
    if lost:
        _open.pop(order.dsn, None)
    if state == DIVISION_BY_ZERO and str(getattr(error, "statement", "")).startswith("EXECUTE mt_paas_db_record"):
        return Answer(failure="moved")
    lines = str(raised).strip().splitlines()
    return Answer(
        failure="lost" if lost else "failed",
        sqlstate=state,
        statement=getattr(error, "statement", None),
        message=lines[0] if lines else type(raised).__name__,
    )


def _connection(order: Order) -> tuple[psycopg.Connection[Any], Engine]:
    known = _open.get(order.dsn)
    if known is not None and not known[0].closed:
        return known
    connection = connect(order.dsn, owner=order.owner, entry=order.target.entry)
    if order.at_home:
        ledger.prepare(connection)
    connection.autocommit = False
    # Alembic and the revisions see this one connection, through SQLAlchemy, and nothing closes it in between.
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    _open[order.dsn] = (connection, engine)
    return _open[order.dsn]


class _Work:
    """One order being carried out."""

    def __init__(self, scripts: Scripts, order: Order, connection: psycopg.Connection[Any], engine: Engine) -> None:
        self._scripts = scripts
        self._order = order
        self._driver = connection
        self._engine = engine
        self._revision = ""
        self._written = False
        self._redo: Mark | None = None
        self._inside_block = False
        self._leaves_traces = False
        self._there = order.start
        self._recorded: tuple[Any, ...] | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the tenant's lock, and the connection in its schema, for the block."""
        order, driver = self._order, self._driver
        driver.rollback()
        driver.autocommit = True
        try:
            driver.execute(message.lock(order.target).text.encode())
        except psycopg.errors.DivisionByZero:
            driver.autocommit = False
            raise BusyError from None
        try:
            for statement in (
                f"SET ROLE {message.identifier(order.owner)}",
                f"SET search_path = {message.identifier(order.target.schema)}, pg_temp",
                f"SET lock_timeout = {round(order.patience.lock_timeout_s * 1000)}",
                f"SET statement_timeout = {round(order.patience.statement_timeout_s * 1000)}",
            ):
                driver.execute(statement.encode())
            self._check()
            driver.autocommit = False
            yield
        finally:
            if not driver.closed:
                driver.rollback()
                driver.autocommit = True
                for statement in message.out_of_schema(order.owner):
                    driver.execute(statement.encode())
                driver.execute(message.unlock(order.target).text.encode())
                driver.autocommit = False
            if self._leaves_traces:
                driver.close()  # the next tenant must not find them

    def _check(self) -> None:
        """Raise unless the tenant stands at the order's start."""
        found = look(self._driver, self._order.target)
        if (found.heads or ()) != self._order.start or not found.has_schema:
            raise MovedError
        mark = found.mark
        if mark is None:
            return
        if mark.done is not None:
            raise MovedError  # of a compiled script: its revision is finished first
        if mark.digest == _WRITTEN:
            raise self._interrupted(mark, "after it had committed what cannot be told apart")
        self._redo = mark

    def _interrupted(self, mark: Mark, where: str) -> _InterruptedError:
        return _InterruptedError(
            f"a run was stopped inside revision {mark.revision}, {where}; finish that revision by hand, then "
            f"`mt-paas-db migrate stamp {mark.revision} --tenant {self._order.target.tenant_id}`"
        )

    def run(self) -> tuple[Any, ...] | None:
        """Run the revisions; return what the record yielded."""
        order, scripts = self._order, self._scripts
        self._engine.dialect.default_schema_name = order.target.schema  # which inspectors ask
        environment = EnvironmentContext(
            scripts.config, scripts.directory, fn=self._revisions, destination_rev=order.destination
        )
        with self._engine.connect() as connection, environment:
            event.listen(connection, "before_cursor_execute", self._look, retval=True)
            environment.configure(
                connection=connection,
                transaction_per_migration=order.per_revision,
                version_table=scripts.version_table,
                on_version_apply=self._applied,
            )
            context = environment.get_context()
            block = context.autocommit_block
            context.autocommit_block = lambda: self._leaving(connection, block)  # type: ignore[method-assign]
            self._hold(connection)
            connection.commit()
            with environment.begin_transaction():
                environment.run_migrations()
                if self._there != self._order.end:
                    raise RuntimeError(f"the revisions led to {self._there}, and not to {self._order.end}")
            connection.commit()
        return self._recorded

    def _hold(self, connection: Connection) -> None:
        """Make the version table where there is none, closed to the tenant's role."""
        order = self._order
        if order.start:
            return
        connection.exec_driver_sql(message.version_table(order.target))
        if order.target.role is not None and order.target.generation >= 0:
            connection.exec_driver_sql(
                f"REVOKE ALL ON TABLE {order.target.versions} FROM {message.identifier(order.target.role)}"
            )

    def _revisions(self, heads: Any, _context: Any) -> Iterator[Any]:
        for step in self._scripts.route(self._order.action, tuple(heads), self._order.destination).steps:
            self._revision, self._written = step.revision.revision, False
            if self._redo is not None and self._redo.revision != self._revision:
                raise self._interrupted(self._redo, "which does not come next")
            yield step

    def _applied(self, ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        """Called by Alembic in the transaction in which a revision's version was written."""
        connection = ctx.connection
        order = self._order
        there = self._there = tuple(sorted(heads))
        connection.exec_driver_sql(message.note(order.target, None).text)
        self._redo = None
        if there == order.end and order.final and order.at_home and order.target.generation > 0:
            *before, last = ledger.record(order.target, there)
            for text in before:
                connection.exec_driver_sql(text, execution_options={"no_parameters": True})
            found = connection.exec_driver_sql(last).first()
            self._recorded = tuple(found) if found is not None else None

    @contextmanager
    def _leaving(self, connection: Connection, block: Any) -> Iterator[None]:
        """Alembic's autocommit_block, which leaves word of how far the revision had come."""
        connection.exec_driver_sql(self._so_far())
        with block():
            self._inside_block = True
            try:
                yield
            finally:
                self._inside_block = False
                if not self._driver.closed:
                    self._wait_for_locks(self._order.patience.lock_timeout_s)

    def _so_far(self) -> str:
        mark = Mark(self._revision, None, _WRITTEN if self._written else _CLEAN, begun=True)
        return message.note(self._order.target, mark).text

    def _wait_for_locks(self, seconds: float) -> None:
        self._driver.execute(f"SET lock_timeout = {round(seconds * 1000)}".encode())

    def _look(
        self, _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: Any
    ) -> tuple[str, Any]:
        words = statement.split(None, 1)
        first = words[0].upper() if words else ""
        if statement.startswith(self._bookkeeping) or first in {"SHOW", "EXECUTE", "SAVEPOINT", "RELEASE"}:
            return statement, parameters
        try:
            found = hazards([statement], shared_schemas=self._order.shared_schemas)
            self._leaves_traces = self._leaves_traces or leaves_traces(statement)
        except ValueError:
            found = []  # the server will say what is wrong with it
        shared = self._order.target.generation == message.SHARED
        allowed = {"destructive"} if self._order.allow_destructive else set()
        found = [h for h in found if h.kind not in (allowed | {"shared", "other_schema"} if shared else allowed)]
        if found:
            raise MigrationRefusedError(
                f"revision {self._revision}, which runs online", [f"{h.what}: {h.statement[:200]}" for h in found]
            )
        if first == "SELECT":
            return statement, parameters
        if self._inside_block:
            return self._outside(statement), parameters
        self._written = True
        return statement, parameters

    @property
    def _bookkeeping(self) -> tuple[str, ...]:
        """How the statements begin that Alembic and we send about the version table."""
        table, versions = self._scripts.version_table, self._order.target.versions
        alembic = (f"UPDATE {table} ", f"INSERT INTO {table} ", f"DELETE FROM {table} ")
        ours = ("COMMENT ON TABLE", "CREATE TABLE IF NOT EXISTS", "REVOKE ALL ON TABLE")
        return (*alembic, *(f"{words} {versions} " for words in ours))

    def _outside(self, statement: str) -> str:
        """Return what to send for a statement that is committed at once, and may have been before a kill."""
        # CREATE INDEX CONCURRENTLY waits without holding others up, and one that gave up leaves an invalid index.
        self._wait_for_locks(0 if "CONCURRENTLY" in statement.upper() else self._order.patience.lock_timeout_s)
        if (build := concurrent_index(statement)) is not None and build.name is not None:
            return self._rebuilt(statement, build)
        forgiving = _forgiving(statement)
        if forgiving is None and not self._written:
            self._written = True
            self._driver.execute(self._so_far().encode())
        return forgiving if forgiving is not None and self._redo else statement

    def _rebuilt(self, statement: str, build: IndexBuild) -> str:
        """Return what to send for an index that a stopped run may have left, half made or whole."""
        target = self._order.target
        table = f"{message.identifier(build.schema or target.schema)}.{message.identifier(build.table)}"
        for index in invalid_indexes(self._driver, table, build.name or ""):
            self._driver.execute(f"DROP INDEX CONCURRENTLY {index}".encode())
        made = f"{message.identifier(build.schema or target.schema)}.{message.identifier(build.name or '')}"
        row = self._driver.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (made,)).fetchone()
        return "SELECT 1" if self._redo and row is not None and row[0] else statement


def _forgiving(statement: str) -> str | None:
    """Return a statement in words that do not mind if it was carried out before; None if there are none."""
    if not repeatable(statement):
        return None
    return _ADD_OR_DROP.sub(lambda words: f"{words[0]}IF {'NOT ' if words[1] else ''}EXISTS ", statement, count=1)


_ADD_OR_DROP = re.compile(r"(?:(ADD\s+VALUE)|DROP\s+INDEX\s+CONCURRENTLY)\s+(?!IF\b)", re.IGNORECASE)
