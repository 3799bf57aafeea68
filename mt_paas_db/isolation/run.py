"""The suite: carries the catalogue out on every route of an installation, and judges what was seen.

A verdict is never written down beforehand. A real run on the victim comes first. What learned nothing is then carried
out on the attacker's own tenant: only if the same steps bring the attacker's own canary there, or the server said a
refusal that the attack had named, is it held. Otherwise it may have been a slip of the pen that was refused.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from sqlalchemy import MetaData
from sqlalchemy.orm import Session

import mt_paas_db
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.core.models import metadata_of
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.attack import RUN_TIERS, Attack, Tier
from mt_paas_db.isolation.catalogue import CATALOGUE, NOT_APPLICABLE
from mt_paas_db.isolation.channel import Channel, Trace
from mt_paas_db.isolation.ground import Fill, Ground, laid
from mt_paas_db.isolation.machine import case as machine
from mt_paas_db.isolation.machine.tenants import Tenants
from mt_paas_db.isolation.requirements import Off, Requirements
from mt_paas_db.isolation.route import ROUTES, NoRouteError, Route
from mt_paas_db.isolation.rows import Canary, Factory, Filler
from mt_paas_db.isolation.shared import declared_tables
from mt_paas_db.isolation.verdict import Finding, Report, Verdict

Listener = Callable[[Finding], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One attack on one route at one tier: a line of the report, a test of the pytest plugin."""

    attack: Attack
    route: Route
    tier: Tier

    def __str__(self) -> str:
        tier = "" if self.tier == "role" else f"-{self.tier}"
        return f"{self.attack.key}-{self.route}{tier}"


def cases(
    *, attacks: Sequence[Attack] = CATALOGUE, routes: Sequence[Route] = ROUTES, tiers: Sequence[Tier] = ("role",)
) -> list[Case]:
    """Return all cases, route by route, so that a route's connections are made once."""
    return [Case(attack, route, tier) for tier in tiers for route in routes for attack in attacks]


class Suite:
    """The isolation suite on one installation. Use it by ``with``: its tenants live for the block.

    Args:
        manager: Of an initialised installation, with an admin DSN.
        metadata: The models; those of the manager where left out.
        requirements: What is switched off, and why.
        routes: Drivers and ways to try; what is not there is reported as not run.
        tiers: Those to try, each on tenants of its own; the manager's setting where left out.
        pooler: A URL whose host and port are a PgBouncer's, where the settings have none.
        factories: Values that the filler cannot guess, by table (`rows.Factories`).
        rows: How many rows each table of each tenant gets.
        steps: How many steps the state machine takes on each route; 0 leaves it out.
        seed: The same one takes the same steps.

    Raises:
        ConfigurationError: There are no models, or a requirement has no such name.
        RowsError: On entering: a table cannot be filled. Others as `ground.laid` says.
    """

    def __init__(
        self,
        manager: TenantManager,
        metadata: Any = None,
        *,
        requirements: Mapping[str, Off] | None = None,
        routes: Sequence[Route] = ROUTES,
        tiers: Sequence[Tier] | None = None,
        pooler: str | None = None,
        factories: Mapping[str, Factory] | None = None,
        rows: int = 3,
        steps: int = machine.STEPS,
        seed: int = 0,
    ) -> None:
        tiers = (manager.settings.tier.value,) if tiers is None else tiers
        if unknown := set(tiers) - set(RUN_TIERS):
            raise ConfigurationError(f"no installation has the tier {', '.join(sorted(unknown))}")
        self.manager = manager
        self.metadata = _metadata(manager, metadata)
        self.requirements = Requirements.of(requirements or {}, known=_known_names())
        self.routes = tuple(routes)
        self.tiers = tuple(tiers)
        self.pooler = pooler
        self.steps = steps
        self.seed = seed
        self._factories = factories
        self._rows = rows
        self._stack = ExitStack()
        self._grounds: dict[Tier, Ground] = {}
        self._channels: dict[tuple[Route, Tier], Channel] = {}

    def __enter__(self) -> Self:
        fill = self._filler()
        try:
            for tier in self.tiers:
                ground = laid(self.manager, self.metadata, fill=fill, tier=tier)
                self._grounds[tier] = self._stack.enter_context(ground)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            self._stack.callback(channel.close)
        self._stack.close()

    def _filler(self) -> Fill:
        shared = self.manager.settings.shared_schemas
        filler = Filler(
            self.metadata, shared_schemas=shared, factories=self._factories, writable=declared_tables(self.metadata)
        )
        # The state machine empties a tenant's tables before it writes the same rows again; shared ones it leaves alone.
        own = Filler(self.metadata, shared_schemas=shared, factories=self._factories)

        def fill(session: Session, canary: Canary, first: int | None = None) -> None:
            if first is None:
                filler.fill(session, canary, rows=self._rows)
            else:
                own.fill(session, canary, rows=1, first=first)

        return fill

    @property
    def ground(self) -> Ground:
        """The suite's tenants of its first tier. Raises `ConfigurationError` outside the block."""
        return self.ground_of(self.tiers[0])

    def ground_of(self, tier: Tier) -> Ground:
        """The suite's tenants of a tier. Raises `ConfigurationError` outside the block, and for another tier."""
        if tier not in self._grounds:
            raise ConfigurationError(
                f"the isolation suite is used inside `with Suite(..., tiers=...) as suite:`, and for its tiers; "
                f"there are no tenants of tier {tier!r}"
            )
        return self._grounds[tier]

    def channel(self, route: Route, tier: Tier = "role") -> Channel:
        """Return the channel of a route, made when it is first needed. Raises `NoRouteError`."""
        found = self._channels.get((route, tier))
        if found is None:
            found = self._channels[route, tier] = Channel(self.ground_of(tier), route, pooler=self.pooler)
        return found

    @cached_property
    def machine_tenants(self) -> Tenants:
        """The state machine's tenants, made when they are first needed; the same for all routes."""
        return Tenants(self.ground)

    def take_steps(self, route: Route) -> Finding:
        """Carry out the state machine on a route and judge it."""
        return machine.sequences(self, route, steps=self.steps, seed=self.seed)

    def try_(self, case: Case) -> Finding:
        """Carry out one case and judge it."""
        started = time.monotonic()
        verdict, reason, seen = self._judge(case)
        attack = case.attack
        return Finding(
            id=attack.id,
            key=attack.key,
            title=attack.title,
            family=attack.family,
            tier=case.tier,
            route=case.route,
            verdict=verdict,
            reason=reason,
            seen=seen,
            seconds=round(time.monotonic() - started, 4),
        )

    def run(self, attacks: Sequence[Attack] = CATALOGUE, *, progress: Listener = lambda _: None) -> Report:
        """Carry out `attacks` on every route and the state machine after them, and say what is not applicable.

        `progress` is told each finding.
        """
        started = time.monotonic()
        findings: list[Finding] = []
        for case in cases(attacks=attacks, routes=self.routes, tiers=self.tiers):
            findings.append(self.try_(case))
            progress(findings[-1])
        for route in self.routes if self.steps else ():
            findings.append(self.take_steps(route))
            progress(findings[-1])
        findings += not_applicable(self.tiers)
        return Report(
            findings=tuple(findings),
            switched_off=tuple((name, off.reason) for name, off in self.requirements.switched_off.items()),
            facts=self.facts(),
            seconds=time.monotonic() - started,
        )

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return where the suite runs."""
        version = self.ground.admin.exec_driver_sql("SHOW server_version").scalar_one()
        return (
            ("installation", self.manager.settings.installation),
            ("PostgreSQL", str(version)),
            ("mt_paas_db", mt_paas_db.__version__),
            ("tables of a tenant", str(len(self.ground.tables))),
        )

    def _judge(self, case: Case) -> tuple[Verdict, str, tuple[str, ...]]:
        attack, promise = case.attack, case.attack.promises[case.tier]
        names = (attack.id, attack.key, *(need.name for need in attack.needs))
        if (why := self.requirements.why_not(case.route, names)) is not None:
            return Verdict.NOT_RUN, why, ()
        try:
            channel = self.channel(case.route, case.tier)
        except NoRouteError as error:
            return Verdict.NOT_RUN, str(error), ()
        for need in attack.needs:
            if (lack := need.lacking(channel)) is not None:
                return Verdict.NOT_RUN, f"{need.name}: {lack}", ()
        trace, seen = self._carry_out(channel, attack)
        if seen:
            return (Verdict.LEAKED if promise.held else Verdict.OPEN), str(promise), tuple(seen)
        if trace.crash is not None:
            return Verdict.ASTRAY, "".join(traceback.format_exception(trace.crash)[-3:]).strip(), ()
        if stray := self._astray(channel, attack, trace):
            return Verdict.ASTRAY, stray, ()
        return Verdict.HELD, "" if promise.held else f"{promise}; yet it did not get through here", ()

    def _carry_out(self, channel: Channel, attack: Attack) -> tuple[Trace, list[str]]:
        """Carry an attack out on the victim; return what came of it, and what it saw or changed of others."""
        ground = channel.ground
        others = (ground.victim, ground.heir)
        before = [ground.truth(party) for party in others]
        trace = channel.carry_out(attack, ground.victim)
        seen = [str(sighting) for sighting in channel.observer.foreign]
        for party, truth in zip(others, before, strict=True):
            changed = truth.difference(ground.truth(party))
            seen += [f"changed of {party.label}: {what}" for what in changed]
            if changed:
                ground.mend(party)
        return trace, list(dict.fromkeys(seen))

    def _astray(self, channel: Channel, attack: Attack, trace: Trace) -> str:
        """Return which trials are not proven to have reached anything, and what answered them; empty if all are."""
        if not trace.trials:
            return "nothing was tried"
        if all(trial.proven for trial in trace.trials):
            return ""
        ground = channel.ground
        before = ground.truth(ground.attacker)
        mirror = channel.carry_out(attack, ground.attacker)
        if before != ground.truth(ground.attacker):
            ground.mend(ground.attacker)
        found = [f"{s.viewer} on its own tenant: {s}" for s in channel.observer.foreign]
        works = {trial.name for trial in mirror.trials if trial.saw_own}
        works |= {
            trial.name
            for position, trial in enumerate(trace.trials)
            if position < len(mirror.trials) and mirror.trials[position].saw_own
        }
        for trial in trace.trials:
            if not (trial.proven or trial.name in works):
                answer = f"{type(trial.error).__name__}: {trial.error}" if trial.error else "no error"
                found.append(f"not proven: {trial.name}; on the victim: {answer.splitlines()[0]}")
        if mirror.crash is not None:
            found.append("".join(traceback.format_exception(mirror.crash)[-3:]).strip())
        return "\n".join(found)


def not_applicable(tiers: Iterable[Tier] = ("role",)) -> Iterator[Finding]:
    """Yield a finding for each id of the catalogue that is no attack on this library."""
    for tier in tiers:
        for entry in NOT_APPLICABLE:
            yield Finding(
                entry.id, entry.id, entry.title, entry.family, tier, None, Verdict.NOT_APPLICABLE, entry.because
            )


def _known_names() -> set[str]:
    needs = {need.name for attack in CATALOGUE for need in attack.needs}
    return needs | set(machine.NAMES) | {attack.id for attack in CATALOGUE} | {attack.key for attack in CATALOGUE}


def _metadata(manager: TenantManager, given: Any) -> MetaData:
    if given is not None:
        return metadata_of(given)
    if manager._models is None:
        raise ConfigurationError("the isolation suite fills the service's models, and was given none; name them")
    return manager._models._metadata
