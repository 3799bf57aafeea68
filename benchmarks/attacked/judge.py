"""From what was seen to a verdict, with its evidence."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.attacked.script import Attack
from benchmarks.attacked.stage import ACME, BETA, DENIED, NotApplicableError, Stage, Trial, refused

Verdict = Literal["held", "leaked", "not applicable", "unclear"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one attack. `disclaimed` is what the documentation says where it does not promise to stop it."""

    attack: str
    title: str
    verdict: Verdict
    evidence: tuple[str, ...]
    disclaimed: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(stage: Stage, attack: Attack) -> Finding:
    """Carry `attack` out, and say what came of it."""
    verdict, evidence = _verdict(stage, attack)
    disclaimed = stage.subject.disclaims.get(attack.name)
    return Finding(attack.name, attack.title, verdict, tuple(dict.fromkeys(evidence)), disclaimed)


def _verdict(stage: Stage, attack: Attack) -> tuple[Verdict, list[str]]:
    try:
        trials, damage = stage.carry_out(attack.carry_out, BETA)
        leaks = [leak for trial in trials if (leak := _leak(trial))] + ([damage] if damage else [])
        if leaks:
            return "leaked", leaks
        controls = stage.carry_out(attack.carry_out, ACME)[0] if attack.aimed else trials
    except NotApplicableError as error:
        return "not applicable", [str(error)]
    except Exception:
        return "unclear", [traceback.format_exc()]
    proofs = []
    for number, trial in enumerate(trials):
        control = controls[number] if number < len(controls) else None
        proof = _proof(stage, trial, control if attack.aimed else None)
        if proof is None:
            return "unclear", [f"nothing shows that it was reached: saw {trial.seen}, error {trial.error!r}"]
        proofs.append(proof)
    return "held", proofs


def _leak(trial: Trial) -> str | None:
    if not trial.foreign:
        return None
    bearing = next(text for text in trial.seen if any(f"canary_{label}_" in text for label in trial.foreign))
    return f"{trial.viewer} read {bearing[:120]!r}"


def _proof(stage: Stage, trial: Trial, control: Trial | None) -> str | None:
    """Return how it is known that a trial without a leak has reached what it attacks.

    `control` is the same on the attacker's own rows: what reaches those, and the foreign ones not, is held.
    """
    reachable = control is None or control.viewer in control.labels
    refusal = refused(trial, stage.subject.answers)
    if refusal is not None:  # a refused right shows that the place is there; anything else might be a wrong name
        return f"refused: {refusal}" if reachable or f"({DENIED})" in refusal else None
    if trial.error is not None:
        return None
    if trial.viewer in trial.labels:
        return f"{trial.viewer} read its own rows and no others"
    if trial.answered and (stage.subject.filters or (control is not None and reachable)):
        return "no row was returned"
    return None
