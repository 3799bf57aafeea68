"""``mt-paas-db tenant limit`` and ``tenant usage``: what tenants may use, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from mt_paas_db.cli import screen
from mt_paas_db.cli.exit_codes import FAILED
from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import JsonOption, TenantArgument, opened, whoami
from mt_paas_db.cli.sizes import parse_size, show_size

T = TypeVar("T")

_NONE = "none"


def _or_none(parse: Callable[[str], T], value: str) -> T | None:
    if value == _NONE:
        return None
    try:
        return parse(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is no number; or write {_NONE}") from None


def limit(
    tenant_id: TenantArgument,
    sessions: Annotated[
        str | None, typer.Option(metavar="N|none", help="Sessions at once, in each process of the service.")
    ] = None,
    statement_timeout: Annotated[
        str | None, typer.Option(metavar="SECONDS|none", help="How long one of its statements may run.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="SIZE|none", help="What its schema may take on disk, as in 10GB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set what a tenant may use at most, or show it; `none` takes a limit away."""
    given: dict[str, Any] = {}
    if sessions is not None:
        given["sessions"] = _or_none(int, sessions)
    if statement_timeout is not None:
        given["statement_timeout_s"] = _or_none(float, statement_timeout)
    if storage is not None:
        given["storage_bytes"] = _or_none(parse_size, storage)
    with opened() as manager:
        limits = manager.set_limits(tenant_id, **given, actor=whoami()) if given else manager.limits(tenant_id)
    if as_json:
        print_document({"tenant": tenant_id, "limits": limits.model_dump(mode="json")})
        return
    timeout, size = limits.statement_timeout_s, limits.storage_bytes
    screen.record(
        {
            "sessions at once, a process": "no limit" if limits.max_sessions is None else str(limits.max_sessions),
            "a statement": "no limit" if timeout is None else f"{timeout:g} s",
            "storage": "no limit" if size is None else show_size(size),
        }
    )


def usage(
    tenant_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this tenant's.")] = None,
    enforce: Annotated[
        bool, typer.Option("--enforce", help="Make active tenants read-only that are over their quota.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how much storage tenants take, and who is over the quota; exit 1 where somebody is."""
    with opened() as manager:
        found = manager.usage(tenant_id, enforce=enforce)
    if as_json:
        print_document({"tenants": [one.as_dict() for one in found]})
    else:
        screen.table(
            ("tenant", "state", "takes", "may take", ""),
            [
                (
                    one.tenant_id,
                    str(one.state),
                    show_size(one.used_bytes),
                    "-" if one.quota_bytes is None else show_size(one.quota_bytes),
                    ("over, read-only now" if one.closed else "over") if one.over else "",
                )
                for one in found
            ],
        )
    if any(one.over for one in found):
        raise typer.Exit(FAILED)
