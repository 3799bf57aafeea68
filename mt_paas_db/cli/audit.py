"""``mt-paas-db audit``: what would let tenants reach each other, for people, for CI and for code hosts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import FAILED, REFUSED
from mt_paas_db.cli.failure import complain, print_document
from mt_paas_db.cli.options import JsonOption, opened

if TYPE_CHECKING:
    from mt_paas_db.isolation.audit import Finding, Ignore, Report

_SHOWN_OF_A_RULE = 20


def _parse_severity(value: str) -> str:
    from mt_paas_db.isolation.audit import Severity

    if value not in list(Severity):
        raise typer.BadParameter(f"there is no severity {value!r}; one of {', '.join(Severity)}")
    return value


def audit(
    severity: Annotated[
        str,
        typer.Option(metavar="LEVEL", callback=_parse_severity, help="Only what is as bad as this, or worse."),
    ] = "info",
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE[:GLOB] # WHY", help="Accept findings of a rule, for some objects; repeatable."),
    ] = None,
    ignore_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, readable=True, help="The same, one a line."),
    ] = None,
    sarif: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the findings as SARIF 2.1.0, too.")
    ] = None,
    no_sessions: Annotated[
        bool, typer.Option("--no-sessions", help="Look at servers alone; open no tenant's sessions to watch them.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Print the statements that mend what was found.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="With --fix: execute those that only take rights away.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --apply: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for whatever would let tenants reach each other: rights, roles, policies, functions, dependencies."""
    from mt_paas_db.isolation.audit import Severity, apply_mends, script
    from mt_paas_db.isolation.audit import audit as look

    if (apply and not fix) or (yes and not apply):
        raise typer.BadParameter("--apply goes with --fix, and --yes with --apply")
    ignores = list(_ignores(ignore or [], ignore_file))
    threshold = Severity(severity)
    applied: list[Finding] = []
    with opened() as manager:
        report = look(manager, ignores=ignores, sessions=not no_sessions).at_least(threshold)
        question = _question(report) if apply and not yes else None
        confirmed = question is None or _confirmed(question, as_json=as_json)
        if apply and confirmed:
            applied = apply_mends(manager, report)
            report = look(manager, ignores=ignores, sessions=not no_sessions).at_least(threshold)
    if not confirmed:
        complain(f"{question} not confirmed, nothing was changed; add --yes", type_="NotConfirmed", as_json=as_json)
        raise typer.Exit(REFUSED)
    if sarif is not None:
        _write_sarif(report, sarif)
    if as_json:
        print_document(_document(report, fix=fix, applied=applied if apply else None))
    elif fix and not apply:
        print(script(report), end="")
    else:
        _show(report, applied=applied if apply else None)
    if not report.clean:
        raise typer.Exit(FAILED)


def _ignores(lines: list[str], file: Path | None) -> Iterator[Ignore]:
    from mt_paas_db.isolation.audit import Ignore, parse_ignores

    yield from map(Ignore.parse, lines)
    if file is not None:
        try:
            yield from parse_ignores(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise typer.BadParameter(f"{file} is not UTF-8 text") from None


def _question(report: Report) -> str | None:
    """Return what is to be confirmed; None where nothing would be done."""
    from mt_paas_db.isolation.audit.fixing import mends

    number = sum(finding.safe for finding in mends(report))
    return f"execute {number} statement{'' if number == 1 else 's'} that take rights away?" if number else None


def _confirmed(question: str, *, as_json: bool) -> bool:
    """Ask. Nobody who could answer is a no."""
    asks = not as_json and sys.stdin is not None and sys.stdin.isatty()
    return asks and typer.confirm(question, err=True)


def _write_sarif(report: Report, path: Path) -> None:
    from mt_paas_db.isolation.audit import as_sarif

    try:
        path.write_text(json.dumps(as_sarif(report), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}") from error


def _document(report: Report, *, fix: bool, applied: list[Finding] | None) -> dict[str, Any]:
    from mt_paas_db.isolation.audit import script

    document = report.as_dict()
    if fix:
        document["script"] = script(report)
    if applied is not None:
        document["applied"] = [finding.mend for finding in applied]
    return document


def _show(report: Report, *, applied: list[Finding] | None) -> None:
    for finding in applied or ():
        screen.say(f"done: {finding.mend}", style="green")
    if report.findings:
        screen.table(["severity", "rule", "finding", "to mend it"], list(_rows(report)))
    for one in report.blind:
        screen.say(f"not looked at: {one}", style="yellow")
    for line in report.unused:
        screen.say(f"ignored, but not found: {line}", style="yellow")
    screen.say(_verdict(report), style="bold")


def _rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    for (_, rule_id), several in groupby(report.findings, key=lambda finding: (finding.severity, finding.id)):
        found = list(several)
        for finding in found[:_SHOWN_OF_A_RULE]:
            yield str(finding.severity), rule_id, finding.message, finding.mend or ""
        if len(found) > _SHOWN_OF_A_RULE:
            rest = len(found) - _SHOWN_OF_A_RULE
            yield str(found[0].severity), rule_id, f"... and {rest} more; --json lists all", ""


def _verdict(report: Report) -> str:
    counts = [f"{number} {word}" for word, number in report.counts().items() if number]
    counts += [f"{len(report.ignored)} accepted"] if report.ignored else []
    seen = ", as far as could be seen" if report.blind and report.clean else ""
    where = ", ".join(f"{server.tenants} tenants on {server.cluster}" for server in report.servers)
    return f"{'' if report.clean else 'not '}clean{seen}: {', '.join(counts) or 'nothing found'} ({where})"
