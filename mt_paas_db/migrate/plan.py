"""What a run would do, decided before anything is sent. Pure: positions and scripts in, a `Plan` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mt_paas_db.errors import ConfigurationError, MigrationRefusedError, RevisionError, UnknownTenantError
from mt_paas_db.migrate.hazards import hazards
from mt_paas_db.migrate.ledger import Position
from mt_paas_db.migrate.message import REFERENCE, SHARED, Target
from mt_paas_db.migrate.script import Action, Heads, Mark, Script
from mt_paas_db.migrate.squawk import LintWarning

CANARY = "canary"
REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tenants a run is for, and in which waves.

    Attributes:
        tenants: Only these ids; all where empty.
        canary: The ids of the first wave; a failure among them ends the run whatever the error budget.
        wave: ``canary`` or ``rest``: only that one.
        wave_size: How many tenants make up a wave after the canaries; all of them where left out.
        shared_only: Only what all tenants share, and no tenant.
        generations: Only these tenants; what `resume` leaves to do.
    """

    tenants: tuple[str, ...] = ()
    canary: tuple[str, ...] = ()
    wave: str | None = None
    wave_size: int | None = None
    shared_only: bool = False
    generations: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if self.wave not in (None, CANARY, REST):
            raise ConfigurationError(f"there is no wave {self.wave!r}; there are {CANARY} and {REST}")
        if self.wave == CANARY and not self.canary:
            raise ConfigurationError("no canaries are named; set MT_PAAS_DB_CANARY, or name them with --canary")
        if self.wave_size is not None and self.wave_size < 1:
            raise ConfigurationError(f"wave_size must be at least 1, not {self.wave_size}")

    @property
    def whole(self) -> bool:
        """Whether the run is for the whole fleet."""
        return not self.tenants and self.wave is None and self.generations is None and not self.shared_only

    def as_dict(self) -> dict[str, Any]:
        """Return what a run that is resumed has to know of it, as plain values."""
        return {"canary": list(self.canary), "wave_size": self.wave_size, "shared_only": self.shared_only}


class Move(NamedTuple):
    """A tenant that is to be migrated. Waves count from 1; 0 is what goes before all tenants."""

    target: Target
    heads: Heads
    wave: int


class Blocked(NamedTuple):
    """A tenant that cannot be migrated from where it stands."""

    target: Target
    heads: Heads
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
        first: What goes before the tenants, in order: what they share, then the reference.
        scripts: What is done from each starting point.
        moves: The tenants to migrate, in the order of their waves.
        settled: How many tenants are where they should be, or beyond.
        dangers: What is refused: statements that destroy data, or reach outside a tenant's schema.
        warnings: What a linter says of the SQL, and what looks wrong in the project.
    """

    action: Action
    destination: str
    first: tuple[Move, ...]
    first_scripts: Mapping[int, Script]
    scripts: Mapping[Heads, Script]
    moves: tuple[Move, ...]
    settled: int
    blocked: tuple[Blocked, ...]
    dangers: tuple[Danger, ...] = ()
    warnings: tuple[Warned, ...] = ()
    canaries: int = 0
    total: int = 0
    whole: bool = True

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.first and not self.moves and not self.blocked

    def all_scripts(self) -> list[Script]:
        """Return every script once."""
        return [*self.first_scripts.values(), *self.scripts.values()]

    def check(self, *, allow_destructive: bool) -> None:
        """Raise `MigrationRefusedError` where the plan must not be carried out."""
        outside = [danger for danger in self.dangers if danger.kind != "destructive"]
        if outside:
            raise MigrationRefusedError(
                "these revisions reach outside a tenant's schema, and would do so once for each tenant; shared tables "
                "have revisions of their own, in the folder `shared` beside `versions`",
                [str(danger) for danger in outside],
            )
        lost = [danger for danger in self.dangers if danger.kind == "destructive"]
        if lost and not allow_destructive:
            raise MigrationRefusedError(
                "the plan destroys data; if that is meant, say --allow-destructive (alembic: -x allow-destructive=yes)",
                [str(danger) for danger in lost],
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, for JSON."""
        waves = Counter(move.wave for move in self.moves)
        starts = Counter(move.heads for move in self.moves)
        first = {move.target.generation: move for move in self.first}
        return {
            "action": self.action,
            "target": self.destination,
            "tenants": {
                "total": self.total,
                "to_migrate": len(self.moves),
                "settled": self.settled,
                "blocked": len(self.blocked),
            },
            "first": [
                {"what": first[key].target.tenant_id, **_script(script)} for key, script in self.first_scripts.items()
            ],
            "from": [{"tenants": starts[start], **_script(script)} for start, script in self.scripts.items()],
            "waves": [
                {
                    "wave": wave,
                    "canary": bool(self.canaries) and wave == 1,
                    "tenants": [move.target.tenant_id for move in self.moves if move.wave == wave],
                }
                for wave in sorted(waves)
            ],
            "blocked": [
                {"tenant_id": b.target.tenant_id, "heads": list(b.heads), "reason": b.reason} for b in self.blocked
            ],
            "dangers": [danger._asdict() for danger in self.dangers],
            "warnings": [warning._asdict() for warning in self.warnings],
        }


class Danger(NamedTuple):
    """A statement of the plan that is refused."""

    kind: str
    revision: str
    what: str
    statement: str

    def __str__(self) -> str:
        return f"revision {self.revision} {self.what}: {' '.join(self.statement.split())[:160]}"


class Warned(NamedTuple):
    """Something to think of before the plan is carried out."""

    rule: str
    revision: str | None
    message: str
    help: str | None = None


def _script(script: Script) -> dict[str, Any]:
    return {
        "start": list(script.start),
        "end": list(script.end),
        "way": script.way,
        "revisions": script.ways(),
        "statements": [{"sql": item.text, "alone": item.alone} for part in script.parts for item in part.items],
        "transactions": sum(not step.alone for step in script.steps()) if script.way == "compiled" else None,
    }


def make_plan(
    action: Action,
    destination: str,
    positions: Iterable[Position],
    *,
    first: Sequence[tuple[Target, Script]],
    compile_from: Callable[[Heads], Script],
    marks_of: Callable[[Sequence[Target]], Mapping[int, Mark]],
    selection: Selection,
    shared_schemas: Collection[str] = (),
) -> Plan:
    """Return the plan for tenants at `positions`.

    `compile_from` returns the script from a starting point, or raises `RevisionError`: its tenants are blocked.
    `marks_of` returns what interrupted revisions have left on tenants that are where they should be: those are
    blocked, too, as the revision is not on their way. `first` is what goes before, with scripts that may be empty.
    Raises `UnknownTenantError` for a selected tenant that is not there.
    """
    everyone = list(positions)
    chosen = _chosen(everyone, selection)
    scripts: dict[Heads, Script] = {}
    faults: dict[Heads, str] = {}
    canary: list[Move] = []
    rest: list[Move] = []
    blocked: list[Blocked] = []
    settled: list[tuple[Target, Heads]] = []
    for target, heads in chosen:
        assert heads is not None  # whoever reads positions asks the tenant where the catalog does not know
        if heads not in scripts and heads not in faults:
            try:
                scripts[heads] = compile_from(heads)
            except RevisionError as error:
                faults[heads] = str(error)
        if heads in faults:
            blocked.append(Blocked(target, heads, faults[heads]))
        elif not scripts[heads].parts:
            settled.append((target, heads))
        else:
            (canary if target.tenant_id in selection.canary else rest).append(Move(target, heads, 1))
    marks = marks_of([target for target, _ in settled])
    blocked += [
        Blocked(target, heads, interrupted(marks[target.generation]))
        for target, heads in settled
        if target.generation in marks
    ]
    moves = [*canary, *_waves(rest, selection.wave_size, after=1 if canary else 0)]
    wanted = {move.heads for move in moves}
    used = {start: script for start, script in sorted(scripts.items()) if start in wanted}
    before = [(target, script) for target, script in first if script.parts]
    return Plan(
        action=action,
        destination=destination,
        first=tuple(Move(target, script.start, 0) for target, script in before),
        first_scripts={target.generation: script for target, script in before},
        scripts=used,
        moves=tuple(moves),
        settled=len(settled) - len(marks),
        blocked=tuple(blocked),
        dangers=tuple(_dangers([*before, *((None, s) for s in used.values())], shared_schemas)),
        canaries=len(canary),
        total=len(chosen),
        whole=selection.whole,
    )


def interrupted(mark: Mark) -> str:
    """Return why one whose way has nothing left to do is not where it should be."""
    return (
        f"a run was stopped inside revision {mark.revision}, or is there now; `mt-paas-db migrate resume` that run, or "
        "finish the revision by hand and stamp the tenant"
    )


def _chosen(positions: Sequence[Position], selection: Selection) -> Sequence[Position]:
    known = {position.target.tenant_id for position in positions}
    for tenant_id in (*selection.tenants, *(selection.canary if selection.generations is None else ())):
        if tenant_id not in known:
            raise UnknownTenantError(tenant_id)
    chosen: Sequence[Position] = [] if selection.shared_only else positions
    if selection.generations is not None:
        chosen = [p for p in chosen if p.target.generation in selection.generations]
    if selection.tenants:
        chosen = [p for p in chosen if p.target.tenant_id in selection.tenants]
    if selection.wave is not None:
        wanted = selection.wave == CANARY
        chosen = [p for p in chosen if (p.target.tenant_id in selection.canary) is wanted]
    return chosen


def _waves(moves: Sequence[Move], size: int | None, *, after: int) -> list[Move]:
    per_wave = size or max(1, len(moves))
    return [move._replace(wave=after + 1 + number // per_wave) for number, move in enumerate(moves)]


def _dangers(scripts: Iterable[tuple[Target | None, Script]], shared_schemas: Collection[str]) -> Iterable[Danger]:
    """Yield each danger once, though several starting points lead through its revision."""
    seen: set[Danger] = set()
    for target, script in scripts:
        for part in script.parts:
            for hazard in hazards((item.text for item in part.items), shared_schemas=shared_schemas):
                # Shared tables are in shared schemas; and the reference holds no data.
                harmless = {SHARED: ("shared", "other_schema"), REFERENCE: ("destructive",)}
                if target is not None and hazard.kind in harmless.get(target.generation, ()):
                    continue
                danger = Danger(hazard.kind, part.revision, hazard.what, hazard.statement)
                if danger not in seen:
                    seen.add(danger)
                    yield danger


def not_known(scripts: Iterable[Script]) -> Iterable[Warned]:
    """Return a warning for each revision whose statements the plan has not seen."""
    reasons = {part.revision: part.reason for script in scripts for part in script.parts if part.reason}
    for revision in reasons:
        yield Warned(
            "online",
            revision,
            "it runs online: whether it destroys data is not known before it runs",
            "each statement is looked at when it is sent, on the reference first; without --allow-destructive the run "
            "ends there",
        )


def lint_warnings(revision: str, found: Iterable[LintWarning]) -> Iterable[Warned]:
    """Return what the linter found in a revision, as warnings of a plan."""
    return [Warned(warning.rule, revision, warning.message, warning.help) for warning in found]
