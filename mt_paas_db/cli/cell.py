"""``mt-paas-db cell ...``: who connects as which login, and how that is changed while they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import PARTLY
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import JsonOption, TenantArgument, opened, whoami
from mt_paas_db.cli.progress import bar

if TYPE_CHECKING:
    from mt_paas_db.core.settling import Settled

cell_app = typer.Typer(help="Groups of tenants that share a login role and its connections.", rich_markup_mode=None)

CellArgument = Annotated[str, typer.Argument(metavar="CELL", help="The cell's name, as `cell list` shows it.")]
NoWaitOption = Annotated[
    bool,
    typer.Option("--no-wait", help="Leave it to `cell settle` to take memberships back once nobody needs them."),
]


@cell_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the cells, the oldest first."""
    with opened() as manager:
        loads, size = manager.cells.list(), manager.settings.cell_size
    if as_json:
        print_document({"cell_size": size, "cells": [load.model_dump(mode="json") for load in loads]})
        return
    screen.table(
        ("cell", "cluster", "login", "tenants", "settling"),
        [
            (
                load.cell.name,
                load.cell.cluster,
                load.cell.login_role,
                "its own" if load.cell.tier == "login" else f"{load.tenants} of {size}",
                str(load.strays or "-"),
            )
            for load in loads
        ],
    )


@cell_app.command()
def show(cell: CellArgument, as_json: JsonOption = False) -> None:
    """Show a cell, its tenants, and who has left it and is still settling."""
    with opened() as manager:
        found = manager.cells.show(cell)
    if as_json:
        print_document(
            {
                "cell": found.load.model_dump(mode="json"),
                "tenants": [tenant.tenant_id for tenant in found.tenants],
                "settling": [
                    {"tenant_id": stray.tenant_id, "due_at": stray.due_at.isoformat()} for stray in found.strays
                ],
            }
        )
        return
    screen.record(
        {
            "cell": found.load.cell.name,
            "cluster": found.load.cell.cluster,
            "login": found.load.cell.login_role,
            "since": found.load.created_at.isoformat(sep=" ", timespec="seconds"),
            "tenants": ", ".join(tenant.tenant_id for tenant in found.tenants) or "none",
            "settling": ", ".join(stray.tenant_id for stray in found.strays) or "none",
        }
    )


@cell_app.command()
def move(
    tenant_id: TenantArgument,
    to: Annotated[str, typer.Option("--to", metavar="CELL|new", help="Where to; `new` makes a cell.")] = "new",
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move a tenant to another cell while it serves."""
    with opened() as manager, bar() as progress:
        done = manager.cells.move(tenant_id, to, actor=whoami(), wait=not no_wait, progress=progress)
    _answer(done, as_json, in_time=not no_wait)


@cell_app.command()
def split(cell: CellArgument, no_wait: NoWaitOption = False, as_json: JsonOption = False) -> None:
    """Move half of a cell's tenants to a new cell, or more to several, until none is over the size."""
    with opened() as manager, bar() as progress:
        done = manager.cells.split(cell, actor=whoami(), wait=not no_wait, progress=progress)
    _answer(done, as_json, in_time=not no_wait)


@cell_app.command()
def rotate(cell: CellArgument, no_wait: NoWaitOption = False, as_json: JsonOption = False) -> None:
    """Give a cell a new login with new credentials, and drop the former one; or set the password that is known."""
    with opened() as manager, bar() as progress:
        done = manager.cells.rotate(cell, actor=whoami(), wait=not no_wait, progress=progress)
    _answer(done, as_json, in_time=not no_wait)


@cell_app.command()
def settle(as_json: JsonOption = False) -> None:
    """Take back the memberships that nobody needs any more, and drop logins without a cell."""
    with opened() as manager, bar() as progress:
        done = manager.cells.settle(progress=progress)
    _answer(done, as_json)


def _answer(done: Settled, as_json: bool, *, in_time: bool = True) -> None:
    """Print what was done; `in_time`: what is left is not what was asked for."""
    if as_json:
        print_document(done.as_dict())
    else:
        for cell in done.cells:
            screen.say(f"cell {cell.name!r} connects as {cell.login_role!r}")
        if done.moved:
            screen.say(f"moved: {', '.join(done.moved)}")
        for stray in done.revoked:
            screen.say(f"login {stray.login!r} no longer reaches tenant {stray.tenant_id!r}")
        for login in done.dropped:
            screen.say(f"login {login!r} is dropped")
        for stray in done.waiting:
            at = stray.due_at.isoformat(sep=" ", timespec="seconds")
            why = "that is being changed" if stray.due else f"until {at}"
            screen.say(f"login {stray.login!r} still reaches tenant {stray.tenant_id!r}, {why}", style="yellow")
        for login in done.in_use:
            screen.say(f"login {login!r} has a transaction open, and is dropped another time", style="yellow")
        if not done.done:
            screen.say("`mt-paas-db cell settle` completes it")
        elif not (done.cells or done.moved or done.revoked or done.dropped):
            screen.say("nothing to settle")
    if in_time and not done.done:
        raise typer.Exit(PARTLY)
