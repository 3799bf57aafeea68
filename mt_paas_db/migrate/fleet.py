"""The fleet's migrations, as verbs: status, plan, upgrade, downgrade, stamp, verify, and the log of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TypedDict, Unpack

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import RevisionError, UnknownRunError, UnknownTenantError
from mt_paas_db.migrate import ledger
from mt_paas_db.migrate.direct import Direct
from mt_paas_db.migrate.ground import Ground, opened
from mt_paas_db.migrate.ledger import Position, Run
from mt_paas_db.migrate.message import SHARED
from mt_paas_db.migrate.plan import Plan, Selection
from mt_paas_db.migrate.report import Listener, Options, Report, unheard
from mt_paas_db.migrate.run import FleetRun
from mt_paas_db.migrate.script import Action, Heads, depends_on_place, words
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.status import Status
from mt_paas_db.migrate.verify import Verified, verify


class How(TypedDict, total=False):
    """How a run goes about it: for which tenants, with which options, and who is told how far it is."""

    selection: Selection | None
    options: Options | None
    listener: Listener


class _Left(NamedTuple):
    """A tenant that a run did not bring to its end, and where it stood before."""

    generation: int
    tenant_id: str
    heads: Heads


class Fleet:
    """The migrations of one installation's tenants. Holds no connection between its verbs.

    Args:
        settings: Where the servers are.
        credentials: Turns a cluster's entry into a DSN.
        scripts: The service's revisions.
        per_revision: Give each revision a transaction of its own, as Alembic's ``transaction_per_migration``.

    Every verb raises `ServerUnavailableError`, `PooledConnectionError`, `MissingRightsError`, `CatalogMissingError` and
    `CatalogVersionError` for what the server or its catalog lacks, and `RevisionError` for a revision that is missing.
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

    def status(self, *, recheck: bool = False) -> Status:
        """Return where the fleet stands: one query. With `recheck` each tenant is asked, and the copy is set right."""
        with self.ground() as ground:
            positions = ground.positions(recheck=recheck)
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

    def upgrade(self, target: str = "head", **how: Unpack[How]) -> Report:
        """Bring tenants up to `target`: what they share first, then the reference, then wave after wave.

        `how` are `selection`, `options` and `listener`. Each tenant is one transaction, or the steps that its revisions
        declare. A run that was stopped or killed is gone on with by `resume`, or by another `upgrade`.

        Raises:
            MigrationRefusedError: The plan destroys data, which was not allowed, or reaches out of tenants' schemas.
            UnknownTenantError: A selected tenant is not there.
        """
        return self._run("upgrade", target, **how)

    def downgrade(self, target: str, **how: Unpack[How]) -> Report:
        """Take tenants back to `target`; the reference goes along where all tenants do. Raises as `upgrade`."""
        return self._run("downgrade", target, **how)

    def stamp(self, target: str, **how: Unpack[How]) -> Report:
        """Write into tenants' version tables that they are at `target`, and run nothing there.

        A mark of an interrupted revision is taken away. Where all tenants are stamped, the reference is upgraded: it
        has to have the tables that they have already. Raises as `upgrade`.
        """
        return self._run("stamp", target, **how)

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
        A relative target is reckoned from where each tenant was then. Raises `UnknownRunError` where there is none, or
        it succeeded; and as `upgrade`.
        """
        with self.ground() as ground:
            run = _one_run(ground, run_id)
            if run.state in ("succeeded", "running"):
                said = "is running" if run.state == "running" else "succeeded: there is nothing to resume"
                raise UnknownRunError(run.run_id, f"run {run.run_id} {said}")
            left = [
                _Left(outcome["generation"], outcome["tenant_id"], tuple(outcome["from_heads"]))
                for outcome in ledger.outcomes(ground.connection, run.run_id)
                if outcome["state"] in ("failed", "not_attempted")
            ]
            uncompared = ledger.uncompared(ground.connection)
            target = _resumed_target(ground, run, left)
        selection = Selection(
            canary=tuple(run.options.get("canary", ())),
            wave_size=run.options.get("wave_size"),
            shared_only=bool(run.options.get("shared_only")),
            generations=frozenset(one.generation for one in left).union(uncompared),
        )
        kept = {name: value for name, value in run.options.items() if name in Options.__dataclass_fields__}
        options = options or Options(**{**kept, **changed})
        how = How(selection=selection, options=options, listener=listener)
        return self._run(run.action, target, resumes=run.run_id, **how)

    def _selection(self) -> Selection:
        return Selection(canary=tuple(self.settings.canary))

    def _run(self, action: Any, target: str, *, resumes: int | None = None, **how: Unpack[How]) -> Report:
        selection, options = how.get("selection") or self._selection(), how.get("options") or Options()
        with self.ground() as ground:
            run = FleetRun(ground, selection, options, how.get("listener", unheard))
            return run.run(action, target, resumes=resumes)


def _known(known: dict[str, Position], tenant_id: str) -> Position:
    if tenant_id not in known:
        raise UnknownTenantError(tenant_id)
    return known[tenant_id]


def _one_run(ground: Ground, run_id: int | None) -> Run:
    found = ledger.runs(ground.connection, run_id=run_id, limit=1)
    if not found:
        raise UnknownRunError(run_id)
    return found[0]


def _resumed_target(ground: Ground, run: Run, left: list[_Left]) -> str:
    """Return where a run goes on to: no tenant that came a part of the way is led further than it was to go.

    Raises `RevisionError` where tenants were to go to several places, and some have come a part of the way.
    """
    if not depends_on_place(run.target):
        return run.target
    action: Any = run.action
    shared_only = bool(run.options.get("shared_only"))
    compiler = ground.shared_compiler if shared_only and ground.shared_compiler else ground.compiler
    left = [one for one in left if shared_only or one.generation != SHARED]  # which else goes to its heads
    goals: dict[str, list[str]] = {}
    for one in left:
        with suppress(RevisionError):  # it was blocked then, and is again
            end = compiler.scripts.route(action, one.heads, run.target).end
            goals.setdefault(words(action, end), []).append(one.tenant_id)
    if len(goals) == 1:
        return next(iter(goals))
    stand = {position.target.generation: position.heads or () for position in ground.positions()}
    stand |= {t.generation: ground.where(t).heads or () for t in (ground.reference, ground.shared) if t is not None}
    if all(stand.get(one.generation, one.heads) == one.heads for one in left):
        return run.target
    shown = "; ".join(f"{', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''} to {goal}" for goal, ids in goals.items())
    raise RevisionError(
        f"run {run.run_id} went to {run.target!r}, which is not the same place for all, and some tenants have come a "
        f"part of the way; {run.action} each to where it was to go ({shown}), one place after the other"
    )
