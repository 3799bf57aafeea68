"""How an error leaves the command line: a line on stderr, a document on stdout, an exit code.

Needs neither Typer nor Rich, for the case that they are missing.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from mt_paas_db.cli.exit_codes import exit_code
from mt_paas_db.cli.text import printable
from mt_paas_db.errors import TenancyError


def report(error: BaseException, *, as_json: bool) -> int:
    """Say what happened and return the exit code.

    An error that nobody foresaw also shows its traceback, on stderr: it has to be mended by a programmer.
    """
    if not isinstance(error, (TenancyError, KeyboardInterrupt)) and _driver_message(error) is None:
        traceback.print_exception(error, file=sys.stderr)
    facts = dict(error.__dict__) if isinstance(error, TenancyError) else {}
    complain(_message(error), type_=type(error).__name__, facts=facts, as_json=as_json)
    return exit_code(error)


def complain(message: str, *, type_: str, facts: dict[str, Any] | None = None, as_json: bool) -> None:
    """Print an error; with `as_json` also as the one document on stdout."""
    print(f"error: {printable(message, keep_lines=True)}", file=sys.stderr)
    if as_json:
        print_document({"error": {**(facts or {}), "type": type_, "message": message}})


def print_document(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command on stdout."""
    # Korean stays readable where the terminal can show it; escapes keep it JSON where it cannot.
    unicode_out = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, ensure_ascii=not unicode_out, indent=2, default=str))
    sys.stdout.flush()


def _message(error: BaseException) -> str:
    if isinstance(error, TenancyError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what was under way is done or undone as a whole"
    return _driver_message(error) or f"unexpected {type(error).__name__}: {error}"


def _driver_message(error: BaseException) -> str | None:
    """Return what the server or driver said, without the statement that SQLAlchemy prints beside it."""
    said = getattr(error, "orig", None) or (error if hasattr(error, "sqlstate") else None)
    if said is None:
        return None
    lines = str(said).strip().splitlines()
    return f"the server refused or was lost: {lines[0] if lines else type(said).__name__}"
