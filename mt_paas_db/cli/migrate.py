"""``mt-paas-db migrate ...``: the fleet's migrations, one command a verb."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from mt_paas_db.catalog.identifiers import parse_tenant_id
from mt_paas_db.cli import migration_screens as screens
from mt_paas_db.cli.exit_codes import FAILED, INTERRUPTED, OK, PARTLY, REFUSED
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.migration_options import (
    NEGATIVE,
    Again,
    Common,
    Look,
    Run,
    parse_target,
    selection,
    told,
    with_options,
)
from mt_paas_db.cli.options import opened_fleet
from mt_paas_db.cli.progress import bar, run_bar
from mt_paas_db.errors import MigrationRefusedError

if TYPE_CHECKING:
    from mt_paas_db.migrate.report import Report
    from mt_paas_db.migrate.script import Action

_TARGET_HELP = "A revision, part of its id, head, heads, base, or so many steps: +1, -1."
Target = Annotated[str, typer.Argument(metavar="TARGET", callback=parse_target, help=_TARGET_HELP)]
RunArgument = Annotated[int | None, typer.Argument(metavar="RUN", help="Its number; the last one if left out.")]

migrate_app = typer.Typer(help="Migrate all tenants to a revision.", rich_markup_mode=None)


@migrate_app.command()
@with_options
def status(
    tenants: Annotated[bool, typer.Option("--tenants", help="Where each tenant stands, too.")] = False,
    recheck: Annotated[bool, typer.Option("--recheck", help="Ask each tenant, and set the catalog right.")] = False,
    **given: Unpack[Common],
) -> None:
    """Show where the tenants stand, and how many are behind."""
    with opened_fleet(given["scripts"]) as fleet:
        found = fleet.status(recheck=recheck)
        scripts = fleet.scripts
    if given["as_json"]:
        document = found.as_dict()
        print_document(document if tenants else {key: value for key, value in document.items() if key != "tenants"})
    else:
        screens.show_status(found, scripts, tenants=tenants)


@migrate_app.command(context_settings=NEGATIVE)
@with_options
def plan(
    target: Target = "head",
    downgrade: Annotated[bool, typer.Option("--downgrade", help="What a downgrade would do.")] = False,
    stamp: Annotated[bool, typer.Option("--stamp", help="What a stamp would do.")] = False,
    no_lint: Annotated[bool, typer.Option("--no-lint", help="Do not ask squawk about the SQL.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Show the SQL.")] = False,
    allow_destructive: Annotated[
        bool, typer.Option("--allow-destructive", help="Do not call a plan refused because it destroys data.")
    ] = False,
    **given: Unpack[Look],
) -> None:
    """Show what an upgrade would do, and do nothing."""
    if downgrade and stamp:
        raise typer.BadParameter("--downgrade and --stamp exclude each other")
    action: Action = "downgrade" if downgrade else "stamp" if stamp else "upgrade"
    with opened_fleet(given["scripts"]) as fleet:
        chosen = selection(given, canaries=fleet.settings.canary)
        found = fleet.plan(target, action=action, selection=chosen, with_lint=not no_lint)
    if given["as_json"]:
        print_document(found.as_dict())
    else:
        screens.show_plan(found, with_sql=sql)
    try:
        found.check(allow_destructive=allow_destructive)
    except MigrationRefusedError:  # the dangers are among what was shown
        raise typer.Exit(REFUSED) from None


@migrate_app.command(context_settings=NEGATIVE)
@with_options
def upgrade(target: Target = "head", **given: Unpack[Run]) -> None:
    """Bring all tenants up to a revision: the shared tables first, then the reference, then wave after wave."""
    _run("upgrade", target, given)


@migrate_app.command(context_settings=NEGATIVE)
@with_options
def downgrade(target: Target, **given: Unpack[Run]) -> None:
    """Take all tenants back to a revision."""
    _run("downgrade", target, given)


@migrate_app.command(context_settings=NEGATIVE)
@with_options
def stamp(target: Target, **given: Unpack[Run]) -> None:
    """Write down that all tenants are at a revision, and run nothing there."""
    _run("stamp", target, given)


@migrate_app.command()
@with_options
def resume(run_id: RunArgument = None, **given: Unpack[Again]) -> None:
    """Go on with a run that was stopped, interrupted or killed, as it was told; options change that."""
    with opened_fleet(given["scripts"]) as fleet, run_bar() as listener:
        report = fleet.resume(run_id, listener=listener, **told(given))
    _answer(report, given)


@migrate_app.command()
@with_options
def verify(
    tenant_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Only these tenants.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Connections that work at the same time.")] = 4,
    **given: Unpack[Common],
) -> None:
    """Compare each tenant with the reference, object by object."""
    from mt_paas_db.core.progress import Progress

    chosen = tuple(map(parse_tenant_id, tenant_ids or ()))
    with opened_fleet(given["scripts"]) as fleet, bar() as show_progress:
        found = list(
            fleet.verify(
                chosen, jobs=jobs, listener=lambda done, total: show_progress(Progress("verifying", done, total))
            )
        )
    all_same = all(one.ok for one in found)
    if given["as_json"]:
        print_document({"ok": all_same, "tenants": [one.as_dict() for one in found]})
    else:
        screens.show_verified(found)
    if not all_same:
        raise typer.Exit(FAILED)


@migrate_app.command()
@with_options
def runs(limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20, **given: Unpack[Common]) -> None:
    """List the runs, newest first."""
    with opened_fleet(given["scripts"]) as fleet:
        found = fleet.runs(limit=limit)
    if given["as_json"]:
        print_document({"runs": [screens.plain_run(run) for run in found]})
    else:
        screens.show_runs(found)


@migrate_app.command()
@with_options
def show(
    run_id: RunArgument = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only the tenants that failed.")] = False,
    **given: Unpack[Common],
) -> None:
    """Show a run, and what became of each tenant in it."""
    with opened_fleet(given["scripts"]) as fleet:
        run, outcomes = fleet.show(run_id)
    if failed:
        outcomes = [outcome for outcome in outcomes if outcome["state"] == "failed"]
    if given["as_json"]:
        print_document({"run": screens.plain_run(run), "outcomes": [screens.plain_outcome(one) for one in outcomes]})
    else:
        screens.show_run(run, outcomes)


def _run(action: Action, target: str, given: Any) -> None:
    from mt_paas_db.migrate.report import Options

    with opened_fleet(given["scripts"]) as fleet, run_bar() as listener:
        verb = {"upgrade": fleet.upgrade, "downgrade": fleet.downgrade, "stamp": fleet.stamp}[action]
        chosen = selection(given, canaries=fleet.settings.canary)
        report = verb(target, selection=chosen, options=Options(**told(given)), listener=listener)
    _answer(report, given)


def _answer(report: Report, given: Any) -> None:
    if given["as_json"]:
        print_document(report.as_dict())
    else:
        screens.show_report(report)
    if not report.ok:
        same = f" --scripts {shlex.quote(given['scripts'])}" if given["scripts"] else ""
        print(f"to go on with it: mt-paas-db migrate resume {report.run_id}{same}", file=sys.stderr)
    raise typer.Exit(_exit_code(report))


def _exit_code(report: Report) -> int:
    if report.ok:
        return OK
    if report.state == "interrupted":
        return INTERRUPTED
    return PARTLY if report.migrated else FAILED
