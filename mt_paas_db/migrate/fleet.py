"""The fleet's migrations, as verbs: status, plan, upgrade, downgrade, stamp, verify, and the log of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.errors import UnknownRunError, UnknownTenantError
from mt_paas_db.migrate import ledger
from mt_paas_db.migrate.direct import Direct
from mt_paas_db.migrate.ground import Ground, opened
from mt_paas_db.migrate.ledger import Position, Run
from mt_paas_db.migrate.plan import Plan, Selection
from mt_paas_db.migrate.report import Listener, Options, Report, unheard
from mt_paas_db.migrate.run import FleetRun
from mt_paas_db.migrate.script import Action
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.migrate.status import Status
from mt_paas_db.migrate.verify import Verified, verify


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
            MigrationRefusedError: The plan destroys data, which was not allowed, or reaches out of tenants' schemas.
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
        selection, options = selection or self._selection(), options or Options()
        with self.ground() as ground:
            return FleetRun(ground, selection, options, listener).run(action, target, resumes=resumes)


def _known(known: dict[str, Position], tenant_id: str) -> Position:
    if tenant_id not in known:
        raise UnknownTenantError(tenant_id)
    return known[tenant_id]


def _one_run(ground: Ground, run_id: int | None) -> Run:
    found = ledger.runs(ground.connection, run_id=run_id, limit=1)
    if not found:
        raise UnknownRunError(run_id)
    return found[0]
