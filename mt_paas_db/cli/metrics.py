"""`mt-paas-db metrics`: the fleet's figures as Prometheus reads them, once or served on loopback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mt_paas_db.cli.failure import print_document
from mt_paas_db.cli.options import JsonOption, opened

if TYPE_CHECKING:
    from mt_paas_db.telemetry.exposition import Family


def parse_listen(value: str | None) -> str | None:
    """Return an address of this machine alone, as ``127.0.0.1:9187``."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        raise typer.BadParameter("it serves on loopback only: 127.0.0.1:PORT, localhost:PORT or [::1]:PORT")
    if not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise typer.BadParameter(f"{port!r} is no port; use 0 to 65535, where 0 chooses a free one")
    return value


def metrics(
    tenants: Annotated[
        int, typer.Option("--tenants", metavar="N", min=0, max=1_000, help="Also the sizes of the N largest tenants.")
    ] = 0,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="ADDRESS:PORT", callback=parse_listen, help="Serve /metrics there until Ctrl-C."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print figures of the whole fleet in Prometheus' text format, or serve them."""
    from mt_paas_db.telemetry.exposition import render

    with opened() as manager:
        if listen is not None:
            from mt_paas_db.cli.metrics_server import serve

            host, _, port = listen.rpartition(":")
            serve(host.strip("[]"), int(port), lambda: render(manager.metrics(tenants=tenants)))
            return
        families = manager.metrics(tenants=tenants)
    if as_json:
        print_document(_document(families))
    else:
        sys.stdout.write(render(families))


def _document(families: tuple[Family, ...]) -> dict[str, object]:
    return {
        "metrics": [
            {"name": family.name, "labels": dict(sample.labels), "value": sample.value}
            for family in families
            for sample in family.samples
        ]
    }
