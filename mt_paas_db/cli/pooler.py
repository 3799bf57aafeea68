"""``mt-paas-db pooler``: what stands between an application and its server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import FAILED
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import JsonOption

if TYPE_CHECKING:
    from sqlalchemy import URL

    from mt_paas_db.pooler.certify import Certificate

pooler_app = typer.Typer(help="Find out what a pooler does.", rich_markup_mode=None)

_STYLES = {"ok": "green", "refused": "green", "leaks": "yellow", "skipped": "yellow"}


@pooler_app.callback()
def _root() -> None:
    pass


@pooler_app.command()
def certify(
    dsn: Annotated[
        str | None, typer.Argument(metavar="[DSN]", help="Through the pooler; the app DSN of the settings if left out.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=5, max=600, help="How long it may take.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Find out, as an ordinary login, which mode a pooler is in, what leaks through it, and which settings fit."""
    from mt_paas_db.pooler.certify import certify as look

    url, cluster = _target(dsn)
    found = look(url, cluster=cluster, timeout_s=timeout)
    if as_json:
        print_document(found.as_dict())
    else:
        _show(found)
    if not found.fit:
        raise typer.Exit(FAILED)


def _target(dsn: str | None) -> tuple[URL, str]:
    from mt_paas_db.catalog.credentials import cluster_url, dsn_url, settings_credentials

    if dsn is not None:
        url = dsn_url(dsn, called="the DSN given")
        return url, url.host or "the default host"
    import mt_paas_db

    settings = mt_paas_db.load_settings()
    return cluster_url(settings_credentials(settings), settings.home_cluster, "app"), settings.home_cluster


def _show(found: Certificate) -> None:
    version = "" if found.version is None else f", PgBouncer {'.'.join(map(str, found.version))}"
    screen.say(f"mode: {found.mode}{version}", style="bold")
    for check in found.checks:
        style = "red" if check.finding else _STYLES[check.verdict]
        screen.say(f"{check.verdict:<8} {check.title}: {check.detail}", style=style)
        if check.verdict == "leaks" and check.cover is not None:
            screen.say(f"         covered by {check.cover}")
    if found.left:
        screen.say(
            f"on {found.left} server connections something harmless was left that could not be reached again",
            style="yellow",
        )
    screen.say("fit for tenant sessions" if found.fit else "NOT fit for tenant sessions", style="bold")
    for line in found.advice:
        screen.say(f"         {line}")
