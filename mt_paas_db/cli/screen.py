"""What a person reads on stdout: tables, records, lines.

Rich keeps colour out of pipes and out of terminals that set NO_COLOR. All text goes in as `Text`, never as
markup: a tenant may be called ``[red]``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mt_paas_db.cli.text import printable

_GAP = 2
_NARROWEST_COLUMN = 8
_ROWS_AT_ONCE = 200


def say(line: str, *, style: str = "") -> None:
    """Print a line."""
    _console().print(Text(printable(line), style=style), soft_wrap=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` under `headings`, in columns; the first of thousands appear at once.

    Widths are cells, not characters: Korean takes two each. A terminal folds what is too long for it; a
    pipe has no width to fold at, and gets a line a row.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    if sys.stdout.isatty():
        _fold(headings, cells, widths)
        return
    for row in (headings, *cells):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print((" " * _GAP).join(padded).rstrip())


def _fold(headings: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    """Print on a terminal, in pieces: Rich lays out a whole table before it prints the first row."""
    console = _console()
    fitted = fit(widths, room=console.width - _GAP * (len(widths) - 1))
    for start in range(0, max(len(cells), 1), _ROWS_AT_ONCE):
        piece = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=start == 0)
        for heading, width in zip(headings, fitted, strict=True):
            piece.add_column(Text(heading), width=width, overflow="fold", header_style="bold")
        for row in cells[start : start + _ROWS_AT_ONCE]:
            piece.add_row(*map(Text, row))
        console.print(piece)


def record(fields: dict[str, str]) -> None:
    """Print named values, one a line."""
    console = _console()
    width = max(map(cell_len, fields))
    for name, value in fields.items():
        console.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", printable(value)), soft_wrap=True)


def fit(widths: Sequence[int], *, room: int) -> list[int]:
    """Return `widths` with the widest columns narrowed, to 8 cells at least, until all fit into `room`."""
    fitted = list(widths)
    while sum(fitted) > room and max(fitted) > _NARROWEST_COLUMN:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
