"""What a person reads of the fleet's migrations, on stdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mt_paas_db.cli import screen
from mt_paas_db.cli.text import printable

if TYPE_CHECKING:
    from mt_paas_db.migrate.ledger import Run
    from mt_paas_db.migrate.plan import Plan
    from mt_paas_db.migrate.report import Report
    from mt_paas_db.migrate.script import Heads, Script
    from mt_paas_db.migrate.scripts import Scripts
    from mt_paas_db.migrate.status import Status
    from mt_paas_db.migrate.verify import Verified

_IDS_IN_A_LINE = 8


# -- status


def show_status(status: Status, scripts: Scripts, *, tenants: bool) -> None:
    """Print where the fleet stands; with `tenants` also where each does."""
    total = sum(number for _, number in status.places)
    screen.record(
        {
            "history": "; ".join(_described(scripts, revision) for revision in status.heads),
            "tenants": f"{total}, {status.behind} of them elsewhere" if status.behind else f"{total}, all at the head",
            "reference": place(status.reference),
            "shared": "no revisions" if status.shared is None else place(status.shared),
        }
    )
    if total:
        screen.say("")
        rows = [(str(number), "; ".join(_described(scripts, r) for r in h) or place(h)) for h, number in status.places]
        screen.table(("tenants", "at"), rows)
    if tenants and total:
        screen.say("")
        screen.table(("tenant", "at"), [(tenant_id, place(heads)) for tenant_id, heads in status.tenants])


def place(heads: Heads | Sequence[str]) -> str:
    """Return where something stands, in a word."""
    return ", ".join(heads) or "before the first revision"


def _described(scripts: Scripts, revision: str) -> str:
    from mt_paas_db.migrate.project import doc_of

    doc = doc_of(scripts, revision)
    if doc is None:
        return f"{revision} (not in these revisions)"
    return f"{revision} ({doc})" if doc else revision


# -- plan


def show_plan(plan: Plan, *, with_sql: bool) -> None:
    """Print what a run would do."""
    counts = f"{_tenants(len(plan.moves))} to migrate, {plan.settled} there already"
    blocked = f", {len(plan.blocked)} that cannot be migrated" if plan.blocked else ""
    screen.say(f"{plan.action} to {plan.destination}: {counts}{blocked}", style="bold")
    for move in plan.first:
        _show_script(f"first, {move.target.tenant_id}", plan.first_scripts[move.target.generation], with_sql=with_sql)
    starts = Counter(move.heads for move in plan.moves)
    for start, script in plan.scripts.items():
        _show_script(_tenants(starts[start]), script, with_sql=with_sql)
    for line in _waves(plan):
        screen.say(line)
    for target, heads, reason in plan.blocked:
        screen.say(f"cannot be migrated: {target.tenant_id} at {place(heads)}: {reason}", style="red")
    for warning in plan.warnings:
        about = f"revision {warning.revision}, {warning.rule}" if warning.revision else warning.rule
        screen.say(f"warning: {about}: {warning.message}", style="yellow")
        if warning.help:
            screen.say(f"  {warning.help}")
    for danger in plan.dangers:
        what = "destroys data" if danger.kind == "destructive" else "reaches outside a tenant's schema"
        screen.say(f"{what}: {danger}", style="red")


def _show_script(who: str, script: Script, *, with_sql: bool) -> None:
    screen.say(f"{who}: from {place(script.start)} to {place(script.end)}")
    if script.action == "stamp":
        return
    for part, way in zip(script.parts, script.ways(), strict=True):
        why = f": {way['reason']}" if way.get("reason") else ""
        screen.say(f"  {part.revision}  {way['way']}{why}")
        for item in part.items if with_sql else ():
            for number, line in enumerate(f"{item.text};".splitlines()):
                alone = "  -- outside a transaction" if item.alone and number == 0 else ""
                screen.say(f"      {line}{alone}")


def _waves(plan: Plan) -> Iterator[str]:
    waves: dict[int, list[str]] = {}
    for move in plan.moves:
        waves.setdefault(move.wave, []).append(move.target.tenant_id)
    for number, ids in waves.items():
        canary = ", canaries" if plan.canaries and number == 1 else ""
        more = f" and {len(ids) - _IDS_IN_A_LINE} more" if len(ids) > _IDS_IN_A_LINE else ""
        yield f"wave {number}{canary}: {_tenants(len(ids))}: {', '.join(ids[:_IDS_IN_A_LINE])}{more}"


# -- runs


def show_report(report: Report) -> None:
    """Print how a run ended."""
    for failure in report.failures:
        code = f" [{failure.sqlstate}]" if failure.sqlstate else ""
        screen.say(f"{failure.tenant_id}: {_line(failure.message)}{code}", style="red")
        if failure.statement:
            screen.say(f"  in: {_line(failure.statement)}")
    if len(report.failures) < report.failed:
        screen.say(f"and {report.failed - len(report.failures)} more; `mt-paas-db migrate show --failed` has them all")
    run = "no run" if report.run_id is None else f"run {report.run_id}"
    why = f": {report.message}" if report.message else ""
    screen.say(f"{run}, {report.action} to {report.target}: {report.state}{why}", style="bold")
    unverified = "" if report.verified or not report.migrated or report.action == "stamp" else ", not verified"
    screen.say(
        f"{report.migrated} migrated{unverified}, {report.unchanged} unchanged, {report.failed} failed, "
        f"{report.not_attempted} not attempted, in {report.seconds:.1f} s"
    )


def show_verified(found: Sequence[Verified]) -> None:
    """Print what differs, and the sum."""
    for one in found:
        if one.copy_differs:
            screen.say(f"{one.tenant_id}: the catalog had it elsewhere than {place(one.heads)}", style="yellow")
        if one.ok:
            continue
        detail = f": {one.detail}" if one.detail else ""
        where = f" at {place(one.heads)}" if one.verdict == "elsewhere" else ""
        screen.say(f"{one.tenant_id}: {one.verdict}{where}{detail}", style="red")
        for difference in one.differences:
            for line in str(difference).splitlines():
                screen.say(f"  {line}")
    verdicts = Counter(one.verdict for one in found)
    sums = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    screen.say(f"{_tenants(len(found))}{': ' if sums else ''}{sums}", style="bold")


def show_runs(runs: Sequence[Run]) -> None:
    """Print a line for each run."""
    screen.table(
        ("run", "began", "action", "target", "state", "migrated", "failed", "left", "by"),
        [
            (
                str(run.run_id),
                run.started_at.isoformat(sep=" ", timespec="seconds"),
                run.action,
                run.target,
                run.state,
                str(run.migrated),
                str(run.failed),
                str(run.not_attempted),
                run.actor,
            )
            for run in runs
        ],
    )


def show_run(run: Run, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Print a run and its outcomes."""
    ended = run.ended_at.isoformat(sep=" ", timespec="seconds") if run.ended_at else "-"
    why = f": {run.message}" if run.message else ""
    resumes = {} if run.resumes is None else {"goes on with": f"run {run.resumes}"}
    screen.record(
        {
            "run": f"{run.run_id}, {run.action} to {run.target}",
            **resumes,
            "state": f"{run.state}{why}",
            "began": run.started_at.isoformat(sep=" ", timespec="seconds"),
            "ended": ended,
            "by": run.actor,
            "options": ", ".join(f"{name}: {value}" for name, value in run.options.items()),
        }
    )
    for way in run.ways:
        screen.say("")
        screen.say(f"from {place(way['start'])} to {place(way['end'])}")
        for step in way["revisions"]:
            screen.say(f"  {step['revision']}  {step['way']}{': ' + step['reason'] if step['reason'] else ''}")
    if outcomes:
        screen.say("")
        screen.table(
            ("wave", "tenant", "state", "from", "to", "attempts", "seconds", "what happened"),
            [
                (
                    str(one["wave"]),
                    one["tenant_id"],
                    one["state"] + (" (not verified)" if _unverified(run, one) else ""),
                    place(one["from_heads"]),
                    place(one["to_heads"]),
                    str(one["attempts"]),
                    "-" if one["seconds"] is None else f"{one['seconds']:.2f}",
                    _line(one["message"]) + (f" [{one['sqlstate']}]" if one["sqlstate"] else ""),
                )
                for one in outcomes
            ],
        )


def _unverified(run: Run, outcome: Mapping[str, Any]) -> bool:
    # What goes before the tenants is what they are compared with.
    return run.action != "stamp" and outcome["wave"] > 0 and outcome["state"] == "migrated" and not outcome["verified"]


def plain_run(run: Run) -> dict[str, Any]:
    """Return a run as plain values, for JSON."""
    return run._asdict() | {
        "started_at": run.started_at.isoformat(),
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
    }


def plain_outcome(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return an outcome as plain values, for JSON."""
    ended_at = outcome["ended_at"]
    return {**outcome, "ended_at": ended_at.isoformat() if ended_at else None}


def _line(text: str | None) -> str:
    return " ".join(printable(text or "", keep_lines=True).split())


def _tenants(number: int) -> str:
    return f"{number} tenant{'' if number == 1 else 's'}"
