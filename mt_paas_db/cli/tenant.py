"""``mt-paas-db tenant ...``: the lifecycle, one command a verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mt_paas_db.catalog.identifiers import Tier, parse_name
from mt_paas_db.catalog.values import Event, SuspensionReason, Tenant, TenantState
from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import FAILED, PARTLY
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import (
    JsonOption,
    ModelsOption,
    NoteOption,
    ScriptsOption,
    TenantArgument,
    opened,
    parse_text,
    whoami,
)
from mt_paas_db.cli.progress import bar
from mt_paas_db.cli.text import printable

_EVENTS_OF_ONE_TENANT = 10

tenant_app = typer.Typer(help="Create, look at and change tenants.", rich_markup_mode=None)
alias_app = typer.Typer(help="Host names and old names that lead to a tenant.", rich_markup_mode=None)
tenant_app.add_typer(alias_app, name="alias")


@tenant_app.command()
def create(
    tenant_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="a-z, 0-9 and hyphens, as a host name.")
    ] = None,
    display_name: Annotated[
        str | None,
        typer.Option("--name", metavar="DISPLAY", callback=parse_text, help="What people read; the id if left out."),
    ] = None,
    aliases: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME", help="A host name or old name; repeatable.")
    ] = None,
    models: ModelsOption = None,
    scripts: ScriptsOption = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME|FILE.sql", help="What writes the first rows; before MT_PAAS_DB_SEED."),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--from-file", metavar="FILE.csv", help="Create many: columns id, name, aliases; UTF-8."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="With --from-file: how many at a time.")] = 4,
    tier: Annotated[
        Tier | None,
        typer.Option(help="What keeps it apart: a role, or a login of its own. MT_PAAS_DB_TIER if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant with its role, schema, tables and first rows; it is active at once.

    One whose creation was interrupted is completed. With a file, those that are there already are left alone.
    """
    if from_file is not None:
        if tenant_id or display_name or aliases:
            raise typer.BadParameter("--from-file says which tenants; give no ID, --name or --alias beside it")
        _create_many(from_file, jobs=jobs, tier=tier, models=models, scripts=scripts, seed=seed, as_json=as_json)
        return
    if tenant_id is None:
        raise typer.BadParameter("an ID is missing, or --from-file")
    with opened(models=models, scripts=scripts, seed=seed, needs_models=True) as manager:
        tenant = manager.create(tenant_id, display_name=display_name, aliases=aliases or [], tier=tier, actor=whoami())
    _answer(tenant, f"tenant {tenant.tenant_id!r} is {tenant.state}, its schema {_schema(tenant)!r}", as_json)


def _create_many(
    path: Path,
    *,
    jobs: int,
    tier: Tier | None,
    models: str | None,
    scripts: str | None,
    seed: str | None,
    as_json: bool,
) -> None:
    from mt_paas_db.core.bulk import read_file

    wanted = read_file(path)
    with opened(models=models, scripts=scripts, seed=seed, needs_models=True) as manager, bar() as progress:
        done = manager.create_many(wanted, jobs=jobs, tier=tier, actor=whoami(), progress=progress)
    if as_json:
        print_document(done.as_dict())
    else:
        for tenant_id, error in done.failed:
            screen.say(f"{tenant_id}: {error}", style="red")
        screen.say(f"{len(done.created)} created, {len(done.existing)} were there, {len(done.failed)} failed")
    if not done.ok:
        raise typer.Exit(PARTLY if done.created or done.existing else FAILED)


@tenant_app.command("list")
def list_(
    state: Annotated[TenantState | None, typer.Option(help="Only tenants in this state.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tenants in the order of their ids."""
    with opened() as manager:
        tenants = manager.list(state=state)
    if as_json:
        print_document({"tenants": [tenant.model_dump(mode="json") for tenant in tenants]})
        return
    screen.table(
        ("tenant", "state", "name", "schema", "also called"),
        [(t.tenant_id, _state(t), t.display_name, _schema(t), ", ".join(t.aliases)) for t in tenants],
    )


@tenant_app.command()
def show(tenant_id: TenantArgument, as_json: JsonOption = False) -> None:
    """Show a tenant and what happened to it last."""
    with opened() as manager:
        tenant = manager.get(tenant_id)
        events = manager.events(tenant.tenant_id, limit=_EVENTS_OF_ONE_TENANT)
    if as_json:
        print_document({"tenant": tenant.model_dump(mode="json"), "events": _plain(events)})
        return
    screen.record(
        {
            "tenant": tenant.tenant_id,
            "name": tenant.display_name,
            "state": f"{_state(tenant)} since {_time(tenant.state_changed_at)}",
            "also called": ", ".join(tenant.aliases) or "-",
            "schema, role": _schema(tenant),
            "lives on": f"cluster {tenant.placement.cluster}, cell {tenant.placement.cell}",
            "tier": f"{tenant.placement.tier}, connects as {tenant.placement.login_role}",
            "created": _time(tenant.created_at),
        }
    )
    screen.say("")
    _show_events(events)


@tenant_app.command()
def suspend(
    tenant_id: TenantArgument,
    reason: Annotated[SuspensionReason, typer.Option(help="What its sessions are told.")] = SuspensionReason.OTHER,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Suspend a tenant: the server refuses its role from the next transaction on. Data stays."""
    with opened() as manager:
        tenant = manager.suspend(tenant_id, reason=reason, note=note, actor=whoami())
    _answer_state(tenant, as_json)


@tenant_app.command("read-only")
def read_only(tenant_id: TenantArgument, note: NoteOption = None, as_json: JsonOption = False) -> None:
    """Let a tenant be read and not written: its role loses what it may write."""
    with opened() as manager:
        tenant = manager.read_only(tenant_id, note=note, actor=whoami())
    _answer_state(tenant, as_json)


@tenant_app.command()
def maintenance(tenant_id: TenantArgument, note: NoteOption = None, as_json: JsonOption = False) -> None:
    """Close a tenant for maintenance; the server refuses its role."""
    with opened() as manager:
        tenant = manager.maintenance(tenant_id, note=note, actor=whoami())
    _answer_state(tenant, as_json)


@tenant_app.command()
def resume(tenant_id: TenantArgument, note: NoteOption = None, as_json: JsonOption = False) -> None:
    """Make a suspended, read-only or closed tenant active again."""
    with opened() as manager:
        tenant = manager.resume(tenant_id, note=note, actor=whoami())
    _answer_state(tenant, as_json)


@tenant_app.command()
def archive(tenant_id: TenantArgument, note: NoteOption = None, as_json: JsonOption = False) -> None:
    """Take a tenant out of service and keep its data; only then can it be deleted."""
    with opened() as manager:
        tenant = manager.archive(tenant_id, note=note, actor=whoami())
    _answer_state(tenant, as_json)


@tenant_app.command()
def restore(tenant_id: TenantArgument, note: NoteOption = None, as_json: JsonOption = False) -> None:
    """Take an archived tenant back into service."""
    with opened() as manager:
        tenant = manager.restore(tenant_id, note=note, actor=whoami())
    _answer_state(tenant, as_json)


@tenant_app.command()
def rename(
    tenant_id: TenantArgument,
    new_id: Annotated[str, typer.Argument(metavar="NEW_ID")],
    as_json: JsonOption = False,
) -> None:
    """Change a tenant's id. Schema and role stay; the old id leads to the tenant for ever."""
    with opened() as manager:
        tenant = manager.rename(tenant_id, new_id, actor=whoami())
    _answer(tenant, f"the tenant is called {tenant.tenant_id!r} now, its schema is still {_schema(tenant)!r}", as_json)


@alias_app.command("add")
def add_alias(
    tenant_id: TenantArgument, name: Annotated[str, typer.Argument(metavar="NAME")], as_json: JsonOption = False
) -> None:
    """Let a host name or an old name lead to a tenant."""
    with opened() as manager:
        tenant = manager.add_alias(tenant_id, name, actor=whoami())
    _answer(tenant, f"{name!r} leads to tenant {tenant.tenant_id!r}", as_json)


@alias_app.command("release")
def release_alias(
    tenant_id: TenantArgument, name: Annotated[str, typer.Argument(metavar="NAME")], as_json: JsonOption = False
) -> None:
    """Take an alias away; it can be given to another tenant after twice the cache bound."""
    with opened() as manager:
        tenant = manager.release_alias(tenant_id, name, actor=whoami())
    _answer(tenant, f"{name!r} no longer leads to tenant {tenant.tenant_id!r}", as_json)


@tenant_app.command()
def delete(
    tenant_id: TenantArgument,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The id once more; asked for on a terminal, demanded elsewhere."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Drop an archived tenant with all its data. One whose deletion was interrupted is deleted to the end."""
    with opened() as manager:
        if confirm is None and sys.stdin is not None and sys.stdin.isatty():
            confirm = _typed_again(manager.get(tenant_id))
        with bar() as progress:
            manager.delete(tenant_id, confirm=confirm, actor=whoami(), progress=progress)
    if as_json:
        print_document({"deleted": confirm})
    else:
        screen.say(f"tenant {confirm!r} is deleted, with its schema and role")


def _typed_again(tenant: Tenant) -> str:
    """Return what is typed at the terminal; the question goes to stderr, stdout is for the answer."""
    print(
        f"This drops schema {_schema(tenant)!r} with all data of tenant {tenant.tenant_id!r} "
        f"({printable(tenant.display_name)}).\nType the tenant's id to go on: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().rstrip("\n")


@tenant_app.command()
def events(
    tenant_id: Annotated[str | None, typer.Argument(metavar="ID", help="Only this tenant's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show the lifecycle log, newest first: who did what, when, and how it ended."""
    name = None if tenant_id is None else parse_name(tenant_id)
    with opened() as manager:
        found = manager.events(name, limit=limit)
    if as_json:
        print_document({"events": _plain(found)})
    else:
        _show_events(found)


def _answer(tenant: Tenant, line: str, as_json: bool) -> None:
    if as_json:
        print_document({"tenant": tenant.model_dump(mode="json")})
    else:
        screen.say(line)


def _answer_state(tenant: Tenant, as_json: bool) -> None:
    _answer(tenant, f"tenant {tenant.tenant_id!r} is {_state(tenant)}", as_json)


def _show_events(events: Sequence[Event]) -> None:
    screen.table(
        ("at", "action", "tenant", "outcome", "by", "detail"),
        [
            (
                _time(event.at),
                event.action,
                event.tenant_id,
                event.outcome,
                event.actor,
                ", ".join(f"{key}: {value}" for key, value in event.detail.items()),
            )
            for event in events
        ],
    )


def _plain(events: Sequence[Event]) -> list[dict[str, object]]:
    return [event.model_dump(mode="json") for event in events]


def _state(tenant: Tenant) -> str:
    return f"{tenant.state} ({tenant.state_reason})" if tenant.state_reason else str(tenant.state)


def _schema(tenant: Tenant) -> str:
    return tenant.placement.schema_name


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")
