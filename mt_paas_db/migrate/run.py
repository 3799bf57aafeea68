"""One run, from its plan to its report: entered in the catalog, carried out, and written down."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import psycopg

from mt_paas_db.errors import ServerUnavailableError, TenancyError
from mt_paas_db.migrate import ledger, structure
from mt_paas_db.migrate.comparison import NOT_LIKE_REFERENCE
from mt_paas_db.migrate.ground import Ground
from mt_paas_db.migrate.ledger import Expected, Likeness, Outcome
from mt_paas_db.migrate.message import REFERENCE, SHARED
from mt_paas_db.migrate.migrator import Assignment
from mt_paas_db.migrate.plan import Plan, Selection
from mt_paas_db.migrate.report import Failure, Listener, Options, Report
from mt_paas_db.migrate.runner import Runner, Tally
from mt_paas_db.migrate.script import Action, Heads
from mt_paas_db.migrate.structure import Scope, Snapshot
from mt_paas_db.migrate.verify import verify


class FleetRun:
    """One run on one ground. `run` it once."""

    def __init__(self, ground: Ground, selection: Selection, options: Options, listener: Listener) -> None:
        self._ground = ground
        self._selection = selection
        self._options = options
        self._listener = listener
        self._began = time.monotonic()

    def run(self, action: Action, target: str, *, resumes: int | None) -> Report:
        """Plan, and carry out what is planned; return how it ended. `Fleet.upgrade` says what is raised."""
        plan = self._ground.plan(action, target, self._selection)
        plan.check(allow_destructive=self._options.allow_destructive)
        if plan.empty:
            tally = Tally()
            self._compare_settled(tally)
            return self._report(plan, tally, run_id=None)
        run_id = self._enter(plan, resumes)
        runner = Runner(self._assignment(plan, run_id), plan, listener=self._listener)
        try:
            self._carry_out(runner, plan, run_id)
        except KeyboardInterrupt:  # between two waves, say
            runner.tally.interrupted = True
        finally:
            runner.close()
        return self._report(plan, runner.tally, run_id=run_id)

    def _assignment(self, plan: Plan, run_id: int) -> Assignment:
        ground = self._ground
        return Assignment(
            action=plan.action,
            destination=plan.destination,
            run_id=run_id,
            home=ground.home,
            direct=ground.direct,
            options=self._options,
            shared_schemas=ground.shared_schemas,
        )

    def _enter(self, plan: Plan, resumes: int | None) -> int:
        """Enter the run into the catalog, with all its tenants, and what is applied where they will stand."""
        connection, scripts = self._ground.connection, plan.scripts
        for heads in {heads for script in scripts.values() for heads in (script.start, script.end)}:
            ledger.record_set(connection, heads, self._ground.scripts.closure(heads))
        run_id = ledger.begin_run(
            connection,
            action=plan.action,
            target=plan.destination,
            actor=self._options.actor,
            options=self._options.as_dict() | self._selection.as_dict(),
            ways=[{"start": list(start), "end": list(s.end), "revisions": s.ways()} for start, s in scripts.items()],
            resumes=resumes,
            outcomes=[
                *((m.target, m.wave, m.heads, plan.first_scripts[m.target.generation].way) for m in plan.first),
                *((m.target, m.wave, m.heads, scripts[m.heads].way) for m in plan.moves),
                *((b.target, 1, b.heads, "compiled") for b in plan.blocked),
            ],
        )
        for target, heads, reason in plan.blocked:
            ledger.write_outcome(connection, run_id, target, Outcome("failed", heads, 0, message=reason))
        return run_id

    def _carry_out(self, runner: Runner, plan: Plan, run_id: int) -> None:
        ground, tally = self._ground, runner.tally
        for target, _heads, reason in plan.blocked:
            tally.states["failed"] += 1
            tally.failures.append(Failure(target.tenant_id, None, None, reason))
        if len(plan.blocked) > self._options.max_failures:
            tally.stopped = "tenants cannot be migrated from where they stand; no tenant was touched"
            return
        before = self._reference_before(plan) if self._verifies(plan) else None
        for move in plan.first:
            shared = move.target.generation == SHARED
            compiler = ground.shared_compiler if shared else ground.compiler
            assert compiler is not None
            towards = "heads" if shared and not self._selection.shared_only else plan.destination
            if not runner.first(move, plan.first_scripts[move.target.generation], compiler, towards):
                return
        if self._verifies(plan):
            self._expect(runner, plan, before, run_id)
        runner.tenants(ground.compiler)
        if not tally.interrupted and tally.lost is None:
            self._compare_settled(tally)

    def _compare_settled(self, tally: Tally) -> None:
        """Look at what a former run left and is where it should be: it failed by its structure, or was not compared."""
        if not self._options.verify:
            return
        wanted = self._selection.generations
        unsaid = dict.fromkeys(wanted) if wanted is not None else ledger.uncompared(self._living())
        if not unsaid:
            return
        seen = {failure.tenant_id for failure in tally.failures}
        left = [
            position
            for position in self._ground.positions()
            if position.target.generation in unsaid and position.heads != unsaid[position.target.generation]
        ]
        settled = [position for position in left if position.target.tenant_id not in seen]
        for found in verify(self._ground, settled, jobs=1, listener=lambda done, total: None):
            if found.verdict in ("drifted", "missing"):
                tally.states["failed"] += 1
                tally.failures.append(Failure(found.tenant_id, None, None, NOT_LIKE_REFERENCE.format(found.tenant_id)))

    def _verifies(self, plan: Plan) -> bool:
        return self._options.verify and plan.action != "stamp"

    def _reference_before(self, plan: Plan) -> tuple[Heads, Snapshot] | None:
        """Return where the reference stands that this run moves, and what it is like; None where it moves none."""
        ground, reference = self._ground, self._ground.reference
        if not any(move.target.generation == REFERENCE for move in plan.first):
            return None
        found = ground.where(reference)
        if found.heads is None or found.mark is not None:  # then what was done before is not seen
            return None
        return found.heads, structure.snapshot(ground.connection, reference.schema, reference.schema)

    def _expect(self, runner: Runner, plan: Plan, before: tuple[Heads, Snapshot] | None, run_id: int) -> None:
        """Have tenants compared with the reference, where they come to where it stands.

        Definition by definition in what the reference's own way there changed; all, of those that come by another.
        """
        ground, reference = self._ground, self._ground.reference
        connection, schema = ground.connection, reference.schema
        heads = ground.where(reference).heads

        def likeness(scope: Scope) -> Likeness:
            return Likeness(scope, structure.fingerprint(connection, schema, schema, scope) or "")

        whole = likeness(structure.WHOLE)
        if heads is None or not whole.fingerprint:
            return
        now = structure.snapshot(connection, schema, schema)
        if before is not None:
            ledger.write_changes(connection, run_id, structure.changed(before[1], now))
        scopes = {start: ledger.changes(connection, start, heads) for start in plan.scripts}
        changes = {start: likeness(scope) for start, scope in scopes.items() if scope is not None}
        runner.expect(Expected(heads, whole, changes, now.objects))

    def _report(self, plan: Plan, tally: Tally, *, run_id: int | None) -> Report:
        """Write down how the run ended, and return it. A bug is raised, once it is written down."""
        lost, slowest = tally.lost, []
        message = str(lost).splitlines()[0] if lost is not None else tally.stopped
        if run_id is None:
            message = "nothing to migrate" if tally.failures else "nothing to do"
        else:
            slowest = self._finish(run_id, tally, message)
        if lost is not None and not isinstance(lost, TenancyError):
            raise lost
        counted = tally.states
        tried = counted["migrated"] + counted["unchanged"] + counted["failed"]
        return Report(
            run_id=run_id,
            action=plan.action,
            target=plan.destination,
            state=tally.state,
            message=message,
            migrated=counted["migrated"],
            unchanged=counted["unchanged"] + plan.settled,
            failed=counted["failed"],
            not_attempted=len(plan.moves) + len(plan.blocked) - tried,
            seconds=time.monotonic() - self._began,
            failures=tuple(tally.failures),
            slowest=tuple(slowest),
            ways=tuple({"start": list(start), "revisions": s.ways()} for start, s in plan.scripts.items()),
            verified=self._verifies(plan),
        )

    def _finish(self, run_id: int, tally: Tally, message: str | None) -> list[tuple[str, float]]:
        """Write down how the run ended; return the tenants that took longest."""
        connection = self._living()
        ledger.finish_run(connection, run_id, tally.state, message)
        return ledger.slowest(connection, run_id)

    def _living(self) -> psycopg.Connection[Any]:
        """Return the ground's connection, made anew where it was lost meanwhile."""
        ground = self._ground
        deadline = time.monotonic() + self._options.reconnect_s
        with suppress(psycopg.Error):
            ground.connection.execute(b"SELECT 1")
            return ground.connection
        while True:
            try:
                ground.connection = ground.direct.connect(ground.home)
            except ServerUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return ground.connection
