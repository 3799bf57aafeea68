"""The fleet's migrations, as verbs: status, plan, upgrade, downgrade, stamp, verify, and the log of runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import ServerUnavailableError, TenancyError, UnknownRunError, UnknownTenantError
from mt_paas_db.migrate import ledger, structure
from mt_paas_db.migrate.direct import Direct
from mt_paas_db.migrate.ground import Ground, opened
from mt_paas_db.migrate.ledger import Outcome, Position, Run
from mt_paas_db.migrate.message import REFERENCE, SHARED
from mt_paas_db.migrate.migrator import Assignment
from mt_paas_db.migrate.plan import Plan, Selection
from mt_paas_db.migrate.report import Failure, Listener, Options, Report, unheard
from mt_paas_db.migrate.runner import Runner
from mt_paas_db.migrate.script import Action, Heads
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.verify import Verified, verify


@dataclass(frozen=True, slots=True)
class Status:
    """Where the fleet stands, by the catalog's copy.

    Attributes:
        heads: The heads of the history.
        places: How many tenants stand where, the most crowded place first.
        behind: How many are not at the heads.
        reference: Where the reference really stands.
        shared: Where the shared tables really stand; None where there are none.
        tenants: Each tenant's place.
    """

    heads: Heads
    places: tuple[tuple[Heads, int], ...]
    behind: int
    reference: Heads
    shared: Heads | None
    tenants: tuple[tuple[str, Heads], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "heads": list(self.heads),
            "behind": self.behind,
            "places": [{"heads": list(heads), "tenants": number} for heads, number in self.places],
            "reference": list(self.reference),
            "shared": None if self.shared is None else list(self.shared),
            "tenants": {tenant_id: list(heads) for tenant_id, heads in self.tenants},
        }


class Fleet:
    """The migrations of one installation's tenants. Holds no connection between its verbs.

    Args:
        settings: Where the servers are.
        credentials: Turns a cluster's entry into a DSN.
        scripts: The service's revisions.
        per_revision: Give each revision a transaction of its own, as Alembic's ``transaction_per_migration``.

    Every verb raises `ServerUnavailableError`, `PooledConnectionError`, `MissingRightsError`, `CatalogMissingError` and
    `CatalogVersionError` for what the server or its catalog lacks, and `RevisionError` for a revision that is not there.
    """

    def __init__(
        self, settings: Settings, credentials: CredentialProvider, scripts: Scripts, *, per_revision: bool = False
    ) -> None:
        self.settings = settings
        self.scripts = scripts
        self.direct = Direct(settings, credentials)
        self._per_revision = per_revision

    def ground(self) -> Any:
        """Open what a command stands on, as a context manager; for those that need more than the verbs."""
        return opened(self.settings, self.direct, self.scripts, per_revision=self._per_revision)

    # -- what there is

    def status(self) -> Status:
        """Return where the fleet stands. One query, and one tenant asked for each that the catalog does not know."""
        with self.ground() as ground:
            positions = ground.positions()
            shared = ground.shared
            places = Counter(position.heads or () for position in positions)
            return Status(
                heads=self.scripts.heads,
                places=tuple(places.most_common()),
                behind=sum(number for heads, number in places.items() if heads != self.scripts.heads),
                reference=ground.where(ground.reference).heads or (),
                shared=None if shared is None else ground.where(shared).heads or (),
                tenants=tuple((p.target.tenant_id, p.heads or ()) for p in positions),
            )

    def plan(
        self,
        target: str = "head",
        *,
        action: Action = "upgrade",
        selection: Selection | None = None,
        with_lint: bool = True,
    ) -> Plan:
        """Return what a run would do; nothing is changed. Raises `UnknownTenantError` for a selected tenant."""
        with self.ground() as ground:
            plan: Plan = ground.plan(action, target, selection or self._selection(), with_lint=with_lint)
            return plan

    def verify(
        self,
        tenants: tuple[str, ...] = (),
        *,
        jobs: int = 4,
        listener: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Verified]:
        """Yield how each tenant compares with the reference. Raises `UnknownTenantError` for one that is not there."""
        with self.ground() as ground:
            positions = ground.positions()
            if tenants:
                known = {position.target.tenant_id: position for position in positions}
                positions = [_known(known, tenant_id) for tenant_id in tenants]
            yield from verify(ground, positions, jobs=jobs, listener=listener)

    def runs(self, *, limit: int = 20) -> list[Run]:
        """Return the newest runs first."""
        with self.ground() as ground:
            return ledger.runs(ground.connection, limit=limit)

    def show(self, run_id: int | None = None) -> tuple[Run, list[dict[str, Any]]]:
        """Return a run, the last one where left out, and its outcomes. Raises `UnknownRunError`."""
        with self.ground() as ground:
            run = _one_run(ground, run_id)
            return run, list(ledger.outcomes(ground.connection, run.run_id))

    # -- what changes the fleet

    def upgrade(
        self,
        target: str = "head",
        *,
        selection: Selection | None = None,
        options: Options | None = None,
        listener: Listener = unheard,
    ) -> Report:
        """Bring tenants up to `target`: what they share first, then the reference, then wave after wave.

        Each tenant is one transaction, or the steps that its revisions declare. A run that was stopped or killed is
        gone on with by `resume`, or by another `upgrade`.

        Raises:
            MigrationRefusedError: The plan destroys data and that was not allowed, or reaches out of the tenants' schemas.
            UnknownTenantError: A selected tenant is not there.
        """
        return self._run("upgrade", target, selection, options, listener)

    def downgrade(
        self,
        target: str,
        *,
        selection: Selection | None = None,
        options: Options | None = None,
        listener: Listener = unheard,
    ) -> Report:
        """Take tenants back to `target`; the reference goes along where all tenants do. Raises as `upgrade`."""
        return self._run("downgrade", target, selection, options, listener)

    def stamp(
        self,
        target: str,
        *,
        selection: Selection | None = None,
        options: Options | None = None,
        listener: Listener = unheard,
    ) -> Report:
        """Write into tenants' version tables that they are at `target`, and run nothing there.

        A mark of an interrupted revision is taken away. Where all tenants are stamped, the reference is upgraded: it
        has to have the tables that they have already. Raises as `upgrade`.
        """
        return self._run("stamp", target, selection, options, listener)

    def resume(
        self,
        run_id: int | None = None,
        *,
        options: Options | None = None,
        listener: Listener = unheard,
        **changed: Any,
    ) -> Report:
        """Go on with a run that did not come to its end, the last one where left out, to where it was going.

        It goes about it as it did, but for those fields of `Options` that are `changed`; or by `options` altogether.
        Raises `UnknownRunError` where there is none, or it succeeded; and as `upgrade`.
        """
        with self.ground() as ground:
            run = _one_run(ground, run_id)
            if run.state in ("succeeded", "running"):
                said = "is running" if run.state == "running" else "succeeded: there is nothing to resume"
                raise UnknownRunError(run.run_id, f"run {run.run_id} {said}")
            left = [
                outcome["generation"]
                for outcome in ledger.outcomes(ground.connection, run.run_id)
                if outcome["state"] in ("failed", "not_attempted")
            ]
        selection = Selection(
            canary=tuple(run.options.get("canary", ())),
            wave_size=run.options.get("wave_size"),
            shared_only=bool(run.options.get("shared_only")),
            generations=frozenset(left),
        )
        kept = {name: value for name, value in run.options.items() if name in Options.__dataclass_fields__}
        options = options or Options(**{**kept, **changed})
        return self._run(run.action, run.target, selection, options, listener, resumes=run.run_id)

    def _selection(self) -> Selection:
        return Selection(canary=tuple(self.settings.canary))

    def _run(
        self,
        action: Any,
        target: str,
        selection: Selection | None,
        options: Options | None,
        listener: Listener,
        *,
        resumes: int | None = None,
    ) -> Report:
        began = time.monotonic()
        selection, options = selection or self._selection(), options or Options()
        with self.ground() as ground:
            plan = ground.plan(action, target, selection)
            plan.check(allow_destructive=options.allow_destructive)
            if plan.empty:
                return _nothing(plan, began)
            run_id = _enter(ground, plan, selection, options, resumes)
            assignment = Assignment(
                action=plan.action,
                destination=plan.destination,
                run_id=run_id,
                home=ground.home,
                direct=self.direct,
                options=options,
                shared_schemas=ground.shared_schemas,
            )
            runner = Runner(assignment, plan, listener=listener)
            try:
                _carry_out(runner, ground, plan, selection, options)
            finally:
                runner.close()
            return _report(runner, ground, plan, options, run_id, began)


def _known(known: dict[str, Position], tenant_id: str) -> Position:
    if tenant_id not in known:
        raise UnknownTenantError(tenant_id)
    return known[tenant_id]


def _one_run(ground: Ground, run_id: int | None) -> Run:
    found = ledger.runs(ground.connection, run_id=run_id, limit=1)
    if not found:
        raise UnknownRunError(run_id)
    return found[0]


def _enter(ground: Ground, plan: Plan, selection: Selection, options: Options, resumes: int | None) -> int:
    """Enter the run into the catalog, with all its tenants, and what is applied where they will stand."""
    connection = ground.connection
    ends = {script.end for script in plan.scripts.values()} | {script.start for script in plan.scripts.values()}
    for heads in ends:
        ledger.record_set(connection, heads, ground.scripts.closure(heads))
    scripts = plan.scripts
    run_id = ledger.begin_run(
        connection,
        action=plan.action,
        target=plan.destination,
        actor=options.actor,
        options=options.as_dict() | selection.as_dict(),
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


def _carry_out(runner: Runner, ground: Ground, plan: Plan, selection: Selection, options: Options) -> None:
    tally = runner.tally
    for target, _heads, reason in plan.blocked:
        tally.states["failed"] += 1
        tally.failures.append(Failure(target.tenant_id, None, None, reason))
    if len(plan.blocked) > options.max_failures:
        tally.stopped = "tenants cannot be migrated from where they stand; no tenant was touched"
        return
    for move in plan.first:
        script = plan.first_scripts[move.target.generation]
        shared = move.target.generation == SHARED
        compiler = ground.shared_compiler if shared else ground.compiler
        assert compiler is not None
        towards = "heads" if shared and not selection.shared_only else plan.destination
        if not runner.first(move, script, compiler, towards):
            return
    if options.verify and plan.action != "stamp":
        _expect(runner, ground)
    runner.tenants(ground.compiler)


def _expect(runner: Runner, ground: Ground) -> None:
    reference = ground.reference
    found = ground.where(reference)
    fingerprint = structure.fingerprint_on(ground.connection, reference.schema, reference.schema)
    if fingerprint is not None and found.heads is not None:
        runner.expect(fingerprint, found.heads)


def _nothing(plan: Plan, began: float) -> Report:
    return Report(
        run_id=None,
        action=plan.action,
        target=plan.destination,
        state="succeeded",
        message="nothing to do",
        migrated=0,
        unchanged=plan.settled,
        failed=0,
        not_attempted=0,
        seconds=time.monotonic() - began,
    )


def _report(runner: Runner, ground: Ground, plan: Plan, options: Options, run_id: int, began: float) -> Report:
    """Write down how the run ended, and return it. A bug is raised, once it is written down."""
    tally = runner.tally
    message = str(tally.lost).splitlines()[0] if tally.lost is not None else tally.stopped
    state = tally.state
    connection = _living(ground, options.reconnect_s)
    try:
        ledger.finish_run(connection, run_id, state, message)
        slowest = ledger.slowest(connection, run_id)
    finally:
        if connection is not ground.connection:
            connection.close()
    if tally.lost is not None and not isinstance(tally.lost, TenancyError):
        raise tally.lost
    counted = tally.states
    planned = len(plan.moves) + len(plan.blocked)
    tried = counted["migrated"] + counted["unchanged"] + counted["failed"]
    return Report(
        run_id=run_id,
        action=plan.action,
        target=plan.destination,
        state=state,
        message=message,
        migrated=counted["migrated"],
        unchanged=counted["unchanged"] + plan.settled,
        failed=counted["failed"],
        not_attempted=planned - tried,
        seconds=time.monotonic() - began,
        failures=tuple(tally.failures),
        slowest=tuple(slowest),
        ways=tuple({"start": list(start), "revisions": s.ways()} for start, s in plan.scripts.items()),
        verified=options.verify and plan.action != "stamp",
    )


def _living(ground: Ground, patience_s: float) -> psycopg.Connection[Any]:
    """Return the ground's connection, or another where it was lost meanwhile."""
    deadline = time.monotonic() + patience_s
    try:
        ground.connection.execute(b"SELECT 1")
        return ground.connection
    except psycopg.Error:
        pass
    while True:
        try:
            return ground.direct.connect(ground.home)
        except ServerUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
