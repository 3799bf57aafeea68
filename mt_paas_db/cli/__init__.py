"""The command line ``mt-paas-db``: parse, call `TenantManager`, print."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mt_paas_db.cli.failure import report
from mt_paas_db.errors import MissingExtraError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Reads ``sys.argv`` where `arguments` are left out.

    Typer and Rich are an extra, so the commands are imported here: without them the answer is what to
    install, not a traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from mt_paas_db.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        return report(MissingExtraError("mt-paas-db", "cli"), as_json="--json" in given)
    return run(given)
