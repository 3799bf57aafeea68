"""Tables of plain text: aligned on a terminal and in a file, also where Korean is twice as wide as Latin."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from unicodedata import combining, east_asian_width

_GAP = "  "


def width_of(line: str) -> int:
    """Return how many terminal columns `line` takes."""
    return sum(_width(character) for character in line)


def _width(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def wrap(line: str, width: int) -> list[str]:
    """Break `line` at blanks into lines of at most `width` columns; a longer word is cut."""
    lines = [""]
    for word in line.split():
        while width_of(word) > width:
            room = width - width_of(lines[-1]) - bool(lines[-1])
            head = _fitting(word, room if room > width // 2 else width)
            _append(lines, head, width)
            word = word[len(head) :]
        if word:
            _append(lines, word, width)
    return lines


def _fitting(word: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(word):
        taken += _width(character)
        if taken > width:
            return word[: max(index, 1)]
    return word


def _append(lines: list[str], word: str, width: int) -> None:
    if not lines[-1]:
        lines[-1] = word
    elif width_of(lines[-1]) + 1 + width_of(word) <= width:
        lines[-1] += f" {word}"
    else:
        lines.append(word)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, shares: Sequence[int] | None = None) -> str:
    """Return a table whose columns are as wide as their cells.

    Args:
        header: The columns' names.
        rows: Cells; a row has as many as `header`.
        shares: How the terminal's width is divided among the columns that may wrap; 0 for one that may not.
    """
    widths = [max(width_of(row[column]) for row in (header, *rows)) for column in range(len(header))]
    if shares is not None:
        rigid = sum(width for width, share in zip(widths, shares, strict=True) if not share)
        room = max(60, _terminal_width() - rigid - len(_GAP) * (len(header) - 1))
        widths = [
            min(width, room * share // sum(shares)) if share else width
            for width, share in zip(widths, shares, strict=True)
        ]
    lines: list[str] = []
    for number, row in enumerate((header, *rows)):
        cells = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, cells))):
            parts = [cell[line] if line < len(cell) else "" for cell in cells]
            lines.append(_GAP.join(_padded(part, width) for part, width in zip(parts, widths, strict=True)).rstrip())
        if number == 0:
            lines.append(_GAP.join("-" * width for width in widths))
    return "\n".join(lines)


def _padded(part: str, width: int) -> str:
    return part + " " * (width - width_of(part))


def _terminal_width() -> int:
    return min(200, shutil.get_terminal_size((150, 40)).columns)
