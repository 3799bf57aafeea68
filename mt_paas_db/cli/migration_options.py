"""What the commands of ``migrate`` can be told, in groups: a command takes a whole group as its ``**given``.

Typer wants a parameter of the function for each option, and seven commands would repeat the same dozen. So a group is
a `TypedDict`, its keys the options, and `with_options` writes them into the command's signature.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, get_args, get_type_hints

import typer

from mt_paas_db.catalog.identifiers import parse_tenant_id
from mt_paas_db.cli.options import JsonOption, whoami

if TYPE_CHECKING:
    from mt_paas_db.migrate.plan import Selection

Command = TypeVar("Command", bound=Callable[..., None])


class Common(TypedDict):
    """Of every command."""

    scripts: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The service's Alembic revisions; before MT_PAAS_DB_SCRIPT_LOCATION, and that before alembic.ini.",
        ),
    ]
    as_json: JsonOption


class Which(TypedDict):
    """Which tenants, in which waves."""

    tenant: Annotated[list[str] | None, typer.Option("--tenant", metavar="ID", help="Only this tenant; repeatable.")]
    canary: Annotated[
        list[str] | None,
        typer.Option("--canary", metavar="ID", help="One of the first wave; repeatable; before MT_PAAS_DB_CANARY."),
    ]
    wave: Annotated[str | None, typer.Option(metavar="canary|rest", help="Only the canaries, or only the others.")]
    wave_size: Annotated[int | None, typer.Option(min=1, help="Tenants a wave after the canaries; all if left out.")]
    shared: Annotated[bool | None, typer.Option("--shared", help="Only what all tenants share, and no tenant.")]


class How(TypedDict):
    """How a run goes about it; `Options` in the API. What is left out is as there."""

    jobs: Annotated[int | None, typer.Option(min=1, help="Connections that work at the same time; 4 if left out.")]
    lock_timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How long to wait for a lock; 2 if left out.")
    ]
    statement_timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="How long a statement may run; for ever if left out."),
    ]
    attempts: Annotated[
        int | None, typer.Option(min=1, help="How often to try a tenant that is locked; 6 if left out.")
    ]
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="How many tenants may fail before the run stops; 0 if left out.")
    ]
    no_verify: Annotated[
        bool | None, typer.Option("--no-verify", help="Do not compare each tenant's structure with the reference.")
    ]
    allow_destructive: Annotated[
        bool | None, typer.Option("--allow-destructive", help="Carry out a plan that destroys data.")
    ]


class Look(Common, Which):
    """What a plan can be told."""


class Run(Common, Which, How):
    """What a run can be told."""


class Again(Common, How):
    """What a run that is gone on with can be told."""


def with_options(command: Command) -> Command:
    """Replace a command's ``**given: Unpack[Group]`` by the options of the group, each None or False if left out."""
    hints = get_type_hints(command, include_extras=True)
    plain = inspect.signature(command)
    parameters = []
    for parameter in plain.parameters.values():
        annotation = hints[parameter.name]
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter.replace(annotation=annotation))
            continue
        (group,) = get_args(annotation)
        for name, option in get_type_hints(group, include_extras=True).items():
            default = False if name == "as_json" else None
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, kind, default=default, annotation=option))
    command.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


NEGATIVE = {"ignore_unknown_options": True}
"""Context settings of a command whose target may be ``-1``, which is no option."""


def parse_target(value: str | None) -> str | None:
    """Return a target as given, ``-1`` too; what looks like an option is one that does not exist."""
    if value is not None and value.startswith("-") and not re.fullmatch(r"-\d+", value):
        raise typer.BadParameter(f"there is no option {value}")
    return value


def selection(given: Mapping[str, Any], *, canaries: tuple[str, ...]) -> Selection:
    """Return which tenants are meant. `canaries` are those of the settings."""
    from mt_paas_db.migrate.plan import Selection

    tenants = tuple(map(parse_tenant_id, given["tenant"] or ()))
    if given["shared"] and (tenants or given["wave"]):
        raise typer.BadParameter("--shared is for no tenant; leave --tenant and --wave out")
    return Selection(
        tenants=tenants,
        canary=tuple(map(parse_tenant_id, given["canary"] or ())) or canaries,
        wave=given["wave"],
        wave_size=given["wave_size"],
        shared_only=bool(given["shared"]),
    )


def told(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of `Options` that the command was given, and who gives it."""
    values = {
        "jobs": given["jobs"],
        "lock_timeout_s": given["lock_timeout"],
        "statement_timeout_s": given["statement_timeout"],
        "attempts": given["attempts"],
        "max_failures": given["max_failures"],
        "verify": False if given["no_verify"] else None,
        "allow_destructive": given["allow_destructive"] or None,
        "actor": whoami(),
    }
    return {name: value for name, value in values.items() if value is not None}
