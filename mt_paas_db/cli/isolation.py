"""``mt-paas-db isolation ...``: the proof, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import FAILED
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import JsonOption, ModelsOption, opened

if TYPE_CHECKING:
    from mt_paas_db import TenantManager
    from mt_paas_db.isolation.attack import Attack
    from mt_paas_db.isolation.requirements import Off
    from mt_paas_db.isolation.verdict import Finding, Report

isolation_app = typer.Typer(help="Prove that no tenant reaches another.", rich_markup_mode=None)

_STYLES = {"held": "green", "leaked": "bold red", "astray": "bold red", "open": "yellow"}


@isolation_app.callback()
def _root() -> None:
    pass


@isolation_app.command()
def run(
    dsn: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An admin's DSN: the suite makes a database and an installation of its own there, and drops both. "
            "Without it, the installation of MT_PAAS_DB_* is used.",
        ),
    ] = None,
    models: ModelsOption = None,
    pooler: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="MT_PAAS_DB_ISOLATION_POOLER", help="A PgBouncer before that database; host and port."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="An attack's id, key or family; repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--off", metavar="NAME=REASON", help="Switch a requirement off, with the reason; repeatable."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            envvar="MT_PAAS_DB_ISOLATION_STEPS",
            help="How many steps the state machine takes on each route; 0 leaves it out.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The state machine takes the same steps for the same one.")
    ] = 0,
    tiers: Annotated[
        list[Tier] | None,
        typer.Option("--tier", help="Tenants of which tier to try; repeatable. MT_PAAS_DB_TIER if left out."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as one HTML page.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JUnit XML.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Carry out every attack, and random sequences of steps, on tenants of the suite's own, and say what was held.

    Exits with 1 if a promise was broken, or an attack proved nothing.
    """
    from mt_paas_db.isolation.machine import case as machine
    from mt_paas_db.isolation.run import Suite

    attacks, requirements = _chosen(only or []), _switched_off(without or [])
    if steps is None:
        steps = machine.STEPS if not only or set(only) & {machine.ID, machine.KEY, machine.FAMILY} else 0
    with (
        _manager(dsn, models) as manager,
        redirect_stdout(sys.stderr),
        Suite(
            manager,
            requirements=requirements,
            pooler=pooler,
            tiers=[tier.value for tier in tiers] if tiers else None,
            steps=steps,
            seed=seed,
        ) as suite,
    ):
        report = suite.run(attacks, progress=lambda finding: _failure(finding, as_json=as_json))
    _write(report, html=html, junit=junit)
    if as_json:
        print_document(report.as_dict())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(FAILED)


@contextmanager
def _manager(dsn: str | None, models: str | None) -> Iterator[TenantManager]:
    if dsn is None:
        with opened(models=models, needs_models=True) as manager:
            yield manager
        return
    from mt_paas_db.core.models import load_models
    from mt_paas_db.isolation.own import own_installation
    from mt_paas_db.isolation.sample import SAMPLE

    if models is not None:
        sys.path.insert(0, str(Path.cwd()))
    with redirect_stdout(sys.stderr):
        metadata = load_models(models) if models is not None else SAMPLE
    with own_installation(dsn, metadata) as manager:
        yield manager


def _chosen(only: list[str]) -> list[Attack]:
    from mt_paas_db.isolation.catalogue import CATALOGUE
    from mt_paas_db.isolation.machine import case as machine

    for name in only:
        if name not in (machine.ID, machine.KEY, machine.FAMILY) and not any(
            name in (attack.id, attack.key, attack.family) for attack in CATALOGUE
        ):
            raise typer.BadParameter(f"--only {name}: there is no such attack; docs/reference/attacks.md lists them")
    return [a for a in CATALOGUE if not only or {a.id, a.key, a.family} & set(only)]


def _switched_off(given: list[str]) -> dict[str, Off]:
    from mt_paas_db.isolation.requirements import off

    found = {}
    for text in given:
        name, _, reason = text.partition("=")
        found[name] = off(reason)
    return found


def _failure(finding: Finding, *, as_json: bool) -> None:
    if finding.failed and not as_json:
        print(f"error: {finding}", file=sys.stderr)


def _write(report: Report, *, html: Path | None, junit: Path | None) -> None:
    from mt_paas_db.isolation import html as html_report
    from mt_paas_db.isolation import junit as junit_report

    if html is not None:
        html.write_text(html_report.html(report), encoding="utf-8")
    if junit is not None:
        junit.write_text(junit_report.junit(report), encoding="utf-8")


def _show(report: Report) -> None:
    routes = sorted({str(finding.route) for finding in report.findings if finding.route})
    by_attack: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in report.findings:
        if finding.route is not None:
            by_attack.setdefault((finding.key, finding.tier), {})[str(finding.route)] = finding
    rows = [[*attack, *(str(found[route].verdict) for route in routes)] for attack, found in by_attack.items()]
    screen.table(("attack", "tier", *routes), rows)
    for verdict in ("open", "not run", "not applicable"):
        reasons: dict[str, list[str]] = {}
        for finding in report.findings:
            if finding.verdict == verdict:
                keys = reasons.setdefault(finding.reason, [])
                if finding.key not in keys:
                    keys.append(finding.key)
        for reason, keys in reasons.items():
            screen.say(f"{verdict}: {_few(keys)}: {reason}", style=_STYLES.get(verdict, ""))
    for name, why in report.switched_off:
        screen.say(f"switched off: {name}: {why}", style="yellow")
    counts = ", ".join(f"{number} {verdict}" for verdict, number in report.counts().items() if number)
    facts = ", ".join(f"{name} {value}" for name, value in report.facts)
    screen.say(f"{'held' if report.ok else 'NOT HELD'}: {counts} in {report.seconds:.1f} s ({facts})", style="bold")


def _few(keys: list[str]) -> str:
    return ", ".join(keys) if len(keys) <= 4 else f"{len(keys)} attacks"
