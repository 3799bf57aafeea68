"""What a command about the fleet stands on: a connection to the catalog, the histories, and who stands where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import CatalogMissingError, CatalogVersionError, ConfigurationError, RevisionError
from mt_paas_db.migrate import ledger
from mt_paas_db.migrate.apply import Whereabouts, look, marks
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.direct import Direct
from mt_paas_db.migrate.ledger import Position
from mt_paas_db.migrate.message import REFERENCE, SHARED, Target
from mt_paas_db.migrate.plan import Plan, Selection, Warned, interrupted, lint_warnings, make_plan, not_known
from mt_paas_db.migrate.script import Action, Heads, Mark, Script
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.squawk import lint

NEEDED_CATALOG = 2


@dataclass
class Ground:
    """Open connections and processes of one command. Made by `opened`."""

    home: str
    direct: Direct
    connection: psycopg.Connection[Any]
    scripts: Scripts
    compiler: Compiler
    shared_compiler: Compiler | None
    shared_schemas: tuple[str, ...]

    @property
    def reference(self) -> Target:
        """The schema that is always where the fleet is, and never sold."""
        name = self.direct.roles.reference
        return Target(REFERENCE, "(reference)", "active", self.home, name, name, self.scripts.version_table)

    @property
    def shared(self) -> Target | None:
        """What all tenants share; None where it has no revisions.

        Raises `ConfigurationError` where it has revisions and no schema.
        """
        if self.shared_compiler is None:
            return None
        if not self.shared_schemas:
            raise ConfigurationError(
                "there are revisions for shared tables, but the installation shares no schema; "
                "set MT_PAAS_DB_SHARED_SCHEMAS and run init"
            )
        table = self.shared_compiler.scripts.version_table
        return Target(SHARED, "(shared)", "active", self.home, self.shared_schemas[0], None, table)

    def positions(self, *, recheck: bool = False) -> list[Position]:
        """Return where each tenant stands, by the catalog's copy.

        Those of whom it knows nothing, or what is not in the history, are asked, and written down; with `recheck` all.
        """
        found = list(ledger.positions(self.connection))
        known = {heads: self.scripts.knows(heads) for heads in {p.heads for p in found} if heads is not None}
        unknown = [n for n, position in enumerate(found) if recheck or not known.get(position.heads)]  # type: ignore[arg-type]
        with ExitStack() as stack:
            connections: dict[str, psycopg.Connection[Any]] = {self.home: self.connection}
            for number in unknown:
                target = found[number].target
                if target.entry not in connections:
                    connections[target.entry] = stack.enter_context(self.direct.connect(target.entry))
                heads = look(connections[target.entry], target).heads or ()
                if self.scripts.knows(heads):
                    ledger.record_set(self.connection, heads, self.scripts.closure(heads))
                ledger.record_heads(self.connection, target.generation, heads)
                found[number] = Position(target, heads)
        return found

    def where(self, target: Target) -> Whereabouts:
        """Return where a target in the catalog's own database really stands."""
        return look(self.connection, target)

    def script_from(self, action: Action, heads: Heads, destination: str) -> Script:
        """Return the script from a starting point. Raises `RevisionError`."""
        if not self.scripts.knows(heads):
            if action == "stamp":  # which is what mends it
                return replace(self.compiler.compile(action, (), destination), start=heads)
            raise RevisionError(f"{', '.join(heads)} is not in the history; is the checkout older than the fleet?")
        return self.compiler.compile(action, heads, destination)

    def plan(self, action: Action, target: str, selection: Selection, *, with_lint: bool = False) -> Plan:
        """Return the plan; `RevisionError` and `UnknownTenantError` as `make_plan` says."""
        compiler = self.shared_compiler if selection.shared_only else self.compiler
        if compiler is None:
            raise ConfigurationError("there are no revisions for shared tables: no folder `shared` beside `versions`")
        destination = compiler.scripts.resolve(target)
        plan = make_plan(
            action,
            destination,
            self.positions(),
            first=list(self._first(action, destination, selection)),
            compile_from=lambda heads: self.script_from(action, heads, destination),
            marks_of=self._marks,
            selection=selection,
            shared_schemas=self.shared_schemas,
        )
        warnings = [
            *self._project_warnings(),
            *not_known(plan.all_scripts()),
            *(self._lint(plan) if with_lint else ()),
        ]
        return replace(plan, warnings=tuple(warnings))

    def _marks(self, targets: Sequence[Target]) -> dict[int, Mark]:
        """Return the marks of interrupted revisions. Only tenants that a run left behind can have one."""
        left_behind = ledger.left_behind(self.connection)
        entries: dict[str, list[Target]] = {}
        for target in targets:
            if target.generation in left_behind:
                entries.setdefault(target.entry, []).append(target)
        found: dict[int, Mark] = {}
        for entry, there in entries.items():
            with nullcontext(self.connection) if entry == self.home else self.direct.connect(entry) as connection:
                found |= marks(connection, there)
        return found

    def _first(self, action: Action, destination: str, selection: Selection) -> Iterator[tuple[Target, Script]]:
        wanted = selection.generations
        shared = self.shared if wanted is None or SHARED in wanted else None
        if shared is not None and self.shared_compiler is not None and (action == "upgrade" or selection.shared_only):
            towards = destination if selection.shared_only else "heads"
            compile_ = self.shared_compiler.compile
            yield shared, self._way_of(shared, lambda heads: compile_(action, heads, towards))
        if selection.shared_only or (wanted is not None and REFERENCE not in wanted):
            return
        reference = self.reference
        whole = selection.whole or wanted is not None
        if action == "upgrade" or (action == "downgrade" and whole):
            yield reference, self._way_of(reference, lambda heads: self.script_from(action, heads, destination))
        elif action == "stamp" and whole:
            there = self.where(reference)
            heads = there.heads or ()
            try:
                # Tenants that are stamped have their tables already; the reference has to be given them.
                script = self.script_from("upgrade", heads, destination)
            except RevisionError:
                return
            interrupted_there = there.mark is not None and not script.parts
            yield reference, self.script_from("stamp", heads, destination) if interrupted_there else script

    def _way_of(self, target: Target, compile_from: Callable[[Heads], Script]) -> Script:
        """Return the script from where a target really stands. Raises `RevisionError` where it is interrupted there."""
        found = self.where(target)
        script = compile_from(found.heads or ())
        if found.mark is not None and not script.parts:
            raise RevisionError(f"{target.tenant_id}: {interrupted(found.mark)}")
        return script

    def _project_warnings(self) -> Iterator[Warned]:
        if not self.scripts.calls_us():
            yield Warned(
                "env.py",
                None,
                "the project's env.py does not call mt_paas_db.migrate.run_env: `alembic upgrade` would migrate one "
                "schema of one database, and no tenant",
                "make env.py two lines; docs/how-to/adopt-alembic.md shows them",
            )

    def _lint(self, plan: Plan) -> Iterator[Warned]:
        version = self.connection.info.server_version
        seen = set()
        for script in plan.all_scripts():
            for part in script.parts:
                if part.revision in seen or not part.items:
                    continue
                seen.add(part.revision)
                for alone in (False, True):
                    statements = [item.text for item in part.items if item.alone is alone]
                    if statements:
                        found = lint(statements, in_transaction=not alone, pg_version=(version // 10_000, 0))
                        yield from lint_warnings(part.revision, found)


@contextmanager
def opened(settings: Settings, direct: Direct, scripts: Scripts, *, per_revision: bool) -> Iterator[Ground]:
    """Open the ground of one command.

    Raises:
        CatalogMissingError, CatalogVersionError: There is no catalog, or one without migrations: run ``init``.
        PooledConnectionError, ServerUnavailableError, MissingRightsError: As `Direct.connect` says.
    """
    home = settings.home_cluster
    with ExitStack() as stack:
        connection = stack.enter_context(direct.connect(home))
        _check_catalog(connection, home)
        version = connection.info.server_version
        server_version = (version // 10_000, version % 10_000)
        compiler = stack.enter_context(Compiler(scripts, server_version=server_version, per_revision=per_revision))
        shared = scripts.shared()
        shared_compiler = (
            stack.enter_context(Compiler(shared, server_version=server_version, per_revision=per_revision))
            if shared is not None
            else None
        )
        schemas = ledger.shared_schemas(connection)
        ground = Ground(home, direct, connection, scripts, compiler, shared_compiler, schemas)
        stack.callback(lambda: ground.connection.close())  # the one that it has by then
        yield ground


def _check_catalog(connection: psycopg.Connection[Any], cluster: str) -> None:
    try:
        row = connection.execute("SELECT version_num::int FROM mt_paas.alembic_version").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
        raise CatalogMissingError(cluster) from error
    if row is None:
        raise CatalogMissingError(cluster)
    if row[0] < NEEDED_CATALOG:
        raise CatalogVersionError(cluster, found=row[0], expected=NEEDED_CATALOG)
