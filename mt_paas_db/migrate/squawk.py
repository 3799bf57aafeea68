"""What squawk, a linter for PostgreSQL migrations, says of a plan's SQL: locks, rewrites, lost data. Optional.

Its program comes from PyPI's ``squawk-cli``. ``-- squawk-ignore`` comments in the SQL count. So does a project's
``.squawk.toml``, but for what is passed here: the rules that are left out, the transaction, the server's version.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

NOT_OURS = (
    "require-timeout-settings",  # the runner sets lock_timeout and statement_timeout itself
    "prefer-robust-stmts",  # IF NOT EXISTS hides drift; what may be done already is known by its SQLSTATE
    # Matters of taste in types and names: they take no lock, rewrite nothing and lose nothing.
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "prefer-text-field",
    "prefer-timestamp-tz",
    "ban-char-field",
    "require-enum-value-ordering",
)
"""The rules that `lint` leaves out by default."""

FAILED = "squawk-failed"
_SYNTAX = "syntax-error"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LintWarning:
    """`statement` is the index of the one that is meant. The rule is `FAILED` where squawk itself did not work."""

    rule: str
    message: str
    help: str | None
    statement: int


class _SquawkFailedError(Exception):
    """With what squawk said."""


def squawk_available() -> str | None:
    """Return the path of the program: the one beside this interpreter, else the one on PATH, else None."""
    return shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")


def lint(
    statements: Sequence[str],
    *,
    in_transaction: bool,
    pg_version: tuple[int, int] | None,
    exclude: Collection[str] = NOT_OURS,
) -> list[LintWarning]:
    """Return what squawk says of `statements`, in their order, which are read as one script.

    `in_transaction` says whether they run in one. Takes half a minute at most, and never raises for what squawk does:
    a failure of its own is a warning too.
    """
    options = [f"--exclude={','.join(exclude)}"] if exclude else []
    options.append("--assume-in-transaction" if in_transaction else "--no-assume-in-transaction")
    if pg_version is not None:
        options.append(f"--pg-version={pg_version[0]}.{pg_version[1]}")
    try:
        found = _said(statements, options)
        unread = {warning.statement for warning in found if warning.rule == _SYNTAX}
        if unread:  # one statement that squawk cannot read keeps it silent about all others
            kept = ["" if at in unread else statement for at, statement in enumerate(statements)]
            found += (warning for warning in _said(kept, options) if warning.rule != _SYNTAX)
    except _SquawkFailedError as error:
        return [LintWarning(FAILED, str(error), None, 0)]
    return sorted(found, key=lambda warning: warning.statement)


def _said(statements: Sequence[str], options: Sequence[str]) -> list[LintWarning]:
    # Its lines end where Python's do not always, and the other way round: let there be one kind of line only.
    texts = ["\n".join(statement.splitlines()) + "\n;\n" for statement in statements]
    first_lines = [0, *accumulate(text.count("\n") for text in texts)][: len(texts)]
    try:
        return [
            LintWarning(
                rule=str(each["rule_name"]),
                message=str(each["message"]),
                help=each["help"],
                statement=max(bisect_right(first_lines, each["line"]) - 1, 0),
            )
            for each in _run("".join(texts), options)
        ]
    except (KeyError, TypeError) as error:
        raise _SquawkFailedError(f"its report has another form than expected: {error!r}") from error


def _run(script: str, options: Sequence[str]) -> Any:
    program = squawk_available()
    if program is None:
        raise _SquawkFailedError("squawk is not installed: pip install 'mt_paas_db[lint]'")
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the text of the statements is its standard input
            [program, "--reporter=json", *options],
            input=script.encode(errors="replace"),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _SquawkFailedError(f"{type(error).__name__}: {error}") from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise _SquawkFailedError(f"exit status {done.returncode}: {said}") from error
