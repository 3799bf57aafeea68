"""``mt-paas-db pgbouncer``: its configuration from the catalog, and its reload."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import FAILED
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import JsonOption, complain_line

if TYPE_CHECKING:
    from mt_paas_db.pooler.config import Configuration
    from mt_paas_db.pooler.operator import Operator
    from mt_paas_db.pooler.reload import Reloaded

pgbouncer_app = typer.Typer(
    help="Write PgBouncer's files from the catalog, and reload it.", no_args_is_help=True, rich_markup_mode=None
)


def _parse_version(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d+(\.\d+){1,2}", value):
        raise typer.BadParameter("use a version, as in 1.24")
    return value


def _parse_auth(value: str) -> str:
    if value not in ("userlist", "query"):
        raise typer.BadParameter("use userlist or query")
    return value


AdminDsnOption = Annotated[
    str | None,
    typer.Option(
        "--admin-dsn",
        metavar="DSN",
        help="PgBouncer's console, as one of its admin_users; before MT_PAAS_DB_CLUSTERS__<NAME>__CONSOLE_DSN.",
    ),
]


@pgbouncer_app.command()
def config(
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the files go.")],
    budget: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Server connections in all; what the server can give where left out."),
    ] = None,
    clients: Annotated[int, typer.Option(metavar="N", min=1, help="Client connections in all.")] = 1000,
    port: Annotated[
        int | None, typer.Option(metavar="P", min=1, max=65535, help="Where it listens; the app DSN's, or 6432.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="On which address.")] = "127.0.0.1",
    auth: Annotated[
        str, typer.Option(metavar="HOW", callback=_parse_auth, help="userlist, or query: logins are looked up.")
    ] = "userlist",
    version: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y", callback=_parse_version, help="PgBouncer's; asked of a running one where left out."
        ),
    ] = None,
    seen_as: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where PgBouncer sees DIR, if it is mounted elsewhere.")
    ] = None,
    include: Annotated[
        str | None, typer.Option(metavar="FILE", help="Your own settings, which PgBouncer reads after these.")
    ] = None,
    admin_dsn: AdminDsnOption = None,
    reload: Annotated[bool, typer.Option("--reload", help="Then as by `pgbouncer reload`.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print what would change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that were not written here.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write pgbouncer.ini and userlist.txt for the fleet's cells, with pools that share a budget of connections."""
    from mt_paas_db.pooler.config import Wishes
    from mt_paas_db.pooler.files import changed, diff, write

    if dry_run and reload:
        raise typer.BadParameter("--dry-run writes nothing that --reload could read")
    how: Literal["userlist", "query"] = "query" if auth == "query" else "userlist"
    operator = _operator(admin_dsn)
    made = operator.configure(
        out,
        Wishes(
            budget=budget,
            clients=clients,
            listen_addr=listen,
            port=port,
            auth=how,
            version=None if version is None else tuple(int(part) for part in version.split(".")),
            seen_as=seen_as,
            include=include,
        ),
    )
    if dry_run:
        names, shown = [file.name for file in changed(out, made.files)], diff(out, made.files)
    else:
        names, shown = [file.name for file in write(out, made.files, force=force)], None
    reloaded = operator.reload(out) if reload else None
    for line in (*made.problems, *made.notes):
        complain_line(line)
    if as_json:
        print_document(
            {
                **made.as_dict(),
                "folder": str(out),
                "changed": names,
                **({"diff": shown} if shown is not None else {}),
                **({"reload": reloaded.as_dict()} if reloaded else {}),
            }
        )
    elif shown is not None:
        print(shown, end="")
    else:
        _show(made, out, names)
        if reloaded is not None:
            _show_reloaded(reloaded)
    if made.problems or (reloaded is not None and not reloaded.ok):
        raise typer.Exit(FAILED)


@pgbouncer_app.command()
def reload(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", exists=True, file_okay=False, help="The files, to see that they are in force."),
    ] = None,
    admin_dsn: AdminDsnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a running PgBouncer read its files again, and see that what they say is in force."""
    reloaded = _operator(admin_dsn).reload(out)
    if as_json:
        print_document(reloaded.as_dict())
    else:
        _show_reloaded(reloaded)
    if not reloaded.ok:
        raise typer.Exit(FAILED)


def _operator(admin_dsn: str | None) -> Operator:
    import mt_paas_db
    from mt_paas_db.catalog.credentials import settings_credentials
    from mt_paas_db.pooler.operator import Operator

    settings = mt_paas_db.load_settings()
    return Operator(settings, settings_credentials(settings), console_dsn=admin_dsn)


def _show(made: Configuration, out: Path, names: list[str]) -> None:
    rows: list[list[Any]] = [
        [login.cell.name, login.cell.login, str(login.cell.tenants), str(made.sizes.of(login.cell))]
        for login in made.fleet.logins
    ]
    screen.table(["cell", "login", "tenants", "connections"], rows)
    screen.say(
        f"{made.sizes.budget} server connections in all, {made.sizes.reserve} of them to be borrowed; "
        f"{made.sizes.clients} clients"
    )
    screen.say(f"{', '.join(names)} written to {out}" if names else f"{out} is as it should be")


def _show_reloaded(reloaded: Reloaded) -> None:
    for line in reloaded.ignored:
        screen.say(f"not in force  {line}", style="red")
    for cell in reloaded.missing:
        screen.say(
            f"unknown login {cell.login!r} of cell {cell.name!r}; run `mt-paas-db pgbouncer config` and reload again",
            style="red",
        )
    if reloaded.pool_mode != "transaction":
        screen.say(f"not in force  pool_mode: {reloaded.pool_mode}, and tenant sessions want transaction", style="red")
    for line in reloaded.restart:
        screen.say(f"needs a restart  {line}", style="yellow")
    if reloaded.ok:
        screen.say(f"PgBouncer {'.'.join(map(str, reloaded.version))} has read its files")
