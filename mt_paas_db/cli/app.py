"""The commands about the installation, and the way in and out of every command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

import mt_paas_db
from mt_paas_db.cli import screen
from mt_paas_db.cli.audit import audit
from mt_paas_db.cli.capacity import parse_size
from mt_paas_db.cli.capacity import show as show_capacity
from mt_paas_db.cli.cell import cell_app
from mt_paas_db.cli.exit_codes import FAILED, OK, USAGE
from mt_paas_db.cli.failure import complain, print_document, report
from mt_paas_db.cli.isolation import isolation_app
from mt_paas_db.cli.limit import limit, usage
from mt_paas_db.cli.metrics import metrics
from mt_paas_db.cli.migrate import migrate_app
from mt_paas_db.cli.options import JsonOption, ModelsOption, opened
from mt_paas_db.cli.pgbouncer import pgbouncer_app
from mt_paas_db.cli.pooler import pooler_app
from mt_paas_db.cli.tenant import tenant_app

if TYPE_CHECKING:
    from mt_paas_db.core.checks import Report

# Click's UsageError. Newer releases of Typer carry a Click of their own, under a private name; the public
# BadParameter leads to it in all of them.
_BadCommandLine: type[Exception] = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "UsageError")

app = typer.Typer(
    help="Keep the tenants of one service in PostgreSQL: a schema each, a role each. "
    "Settings come from MT_PAAS_DB_* in the environment.",
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(tenant_app, name="tenant")
app.add_typer(cell_app, name="cell")
app.add_typer(migrate_app, name="migrate")
app.add_typer(isolation_app, name="isolation")
app.add_typer(pgbouncer_app, name="pgbouncer")
app.add_typer(pooler_app, name="pooler")
app.command()(audit)
app.command()(metrics)
tenant_app.command()(limit)
tenant_app.command()(usage)


def run(arguments: Sequence[str]) -> int:
    """Run one command, print its result or its error, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal that cannot show Korean is no failure
    try:
        code = _run(arguments, as_json="--json" in arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has had enough, as in `| head`; what is still in the buffer must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _run(arguments: Sequence[str], *, as_json: bool) -> int:
    try:
        with get_command(app).make_context("mt-paas-db", list(arguments)) as context:
            context.command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        raise
    except _BadCommandLine as error:
        return _usage(error, as_json=as_json)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=as_json)
    return OK


def _usage(error: Any, *, as_json: bool) -> int:
    command = error.ctx.command_path if error.ctx else "mt-paas-db"
    said = error.format_message().rstrip(".")
    complain(f"{said}. See `{command} --help`", type_="UsageError", as_json=as_json)
    return USAGE


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mt-paas-db {mt_paas_db.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def init(models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """Create this installation's roles and catalog, or upgrade them; a second run changes nothing."""
    with opened(models=models, needs_models=True) as manager:
        installation = manager.init()
        cluster = manager.settings.home_cluster
    if as_json:
        print_document({"installation": installation.model_dump(mode="json")})
        return
    screen.say(
        f"installation {installation.name!r} is ready on cluster {cluster!r}, "
        f"its catalog at version {installation.catalog_version}"
    )
    screen.record(
        {
            "shared schemas": ", ".join(installation.shared_schemas) or "none",
            "names in SQL": "opaque" if installation.opaque_names else "readable",
            "cache bound": f"{installation.cache_bound_s} s",
        }
    )


@app.command()
def doctor(
    ready: Annotated[bool, typer.Option("--ready", help="Only whether sessions can be served now.")] = False,
    capacity: Annotated[bool, typer.Option("--capacity", help="How many more tenants there is room for.")] = False,
    budget: Annotated[
        int | None,
        typer.Option("--budget", metavar="N", min=1, help="With --capacity: the server connections of PgBouncer."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="N", min=1, help="With --capacity: how many processes the service has."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", callback=parse_size, help="With --capacity: the server's memory."),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option("--disk", metavar="SIZE", callback=parse_size, help="With --capacity: room for the database."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Examine the server, its roles, rights and pooler; say what is wrong and what mends it."""
    if capacity:
        if ready:
            raise typer.BadParameter("--ready and --capacity are two questions; ask one")
        _capacity(budget, processes, memory, disk, as_json=as_json)
        return
    if any(given is not None for given in (budget, processes, memory, disk)):
        raise typer.BadParameter("--budget, --processes, --memory and --disk belong to --capacity")
    with opened() as manager:
        found = manager.readiness() if ready else manager.doctor()
    if as_json:
        print_document(found.as_dict())
    else:
        _show_report(found, ready=ready)
    if not found.ok:
        raise typer.Exit(FAILED)


def _capacity(budget: int | None, processes: int | None, memory: Any, disk: Any, *, as_json: bool) -> None:
    with opened() as manager:
        found = manager.capacity(budget=budget, processes=processes, memory_bytes=memory, disk_bytes=disk)
    if as_json:
        print_document(found.as_dict())
    else:
        show_capacity(found)
    if found.more_tenants == 0:
        raise typer.Exit(FAILED)


_STYLES = {"ok": "green", "error": "red", "warning": "yellow", "skipped": "yellow", "info": ""}


def _show_report(found: Report, *, ready: bool) -> None:
    for result in found.results:
        severities = {str(finding.severity) for finding in result.findings}
        mark = "skipped" if result.skipped is not None else "ok"
        mark = next((s for s in ("error", "warning", "info") if s in severities), mark)
        screen.say(f"{mark:<8} {result.title}", style=_STYLES[mark])
        if result.skipped is not None:
            screen.say(f"         {result.skipped}")
        for finding in result.findings:
            screen.say(f"         {finding.message}")
            if finding.mend:
                screen.say(f"         to mend it: {finding.mend}")
    screen.say(_verdict(found, ready=ready), style="bold")


def _verdict(found: Report, *, ready: bool) -> str:
    severities = [str(finding.severity) for finding in found.findings()]
    errors, warnings = severities.count("error"), severities.count("warning")
    skipped = sum(result.skipped is not None for result in found.results)
    counts = [_counted(len(found.results), "check")]
    counts += [_counted(number, word) for number, word in ((errors, "error"), (warnings, "warning")) if number]
    counts += [f"{skipped} skipped"] if skipped else []
    verdict = ("" if found.ok else "not ") + ("ready" if ready else "ok")
    return f"{verdict}{', as far as could be seen' if skipped and found.ok else ''}: {', '.join(counts)}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
