"""Text of others, made safe for a terminal."""

from __future__ import annotations

import unicodedata

# Directional overrides and isolates: they can make a line read as something it is not.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(value: str, *, keep_lines: bool = False) -> str:
    r"""Return `value` with control characters written as ``\x1b``: a display name must not steer a terminal."""
    return "".join(char if (char == "\n" and keep_lines) or not _steers(char) else ascii(char)[1:-1] for char in value)


def _steers(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in _BIDI
