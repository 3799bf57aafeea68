"""What a CHECK expression tells of the values it would accept, without understanding it.

The server deparses every constraint in one form, so that its constants can be told from its names. They, and their
neighbours, are where the values that pass are found; the server itself says which do pass (`solver`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

_CONSTANT = re.compile(
    r"(?P<operator>!?~~?\*?)?\s*'(?P<text>(?:[^']|'')*)'|(?<![\w.\"])(?P<number>\d+(?:\.\d+)?)(?![\w\"])"
)
_LONGEST = 10_000


@dataclass(frozen=True)
class Hints:
    """Constants of the checks that a column stands in.

    Attributes:
        texts: String constants that are compared with.
        numbers: Numbers, also those written as strings.
        patterns: Regular expressions.
        likes: Patterns of LIKE.
    """

    texts: tuple[str, ...] = ()
    numbers: tuple[Decimal, ...] = ()
    patterns: tuple[str, ...] = ()
    likes: tuple[str, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Numbers that may be meant as a length, and their neighbours; none for most columns."""
        whole = [int(number) for number in self.numbers if number == number.to_integral_value()]
        return sorted({length for k in whole for length in (k - 1, k, k + 1) if 0 < length <= _LONGEST})


NO_HINTS = Hints()


def mine(expressions: Iterable[str]) -> Hints:
    """Return the constants of some expressions as the server deparses them."""
    texts: dict[str, None] = {}
    numbers: dict[Decimal, None] = {}
    patterns: dict[str, None] = {}
    likes: dict[str, None] = {}
    for expression in expressions:
        for found in _CONSTANT.finditer(expression):
            if found["number"]:
                numbers[Decimal(found["number"])] = None
                continue
            text, operator = found["text"].replace("''", "'"), found["operator"] or ""
            if "~~" in operator:
                likes[text] = None
            elif "~" in operator:
                patterns[text] = None
            else:
                texts[text] = None
                try:
                    number = Decimal(text)
                except InvalidOperation:
                    continue
                if number.is_finite():
                    numbers[number] = None
    return Hints(tuple(texts), tuple(numbers), tuple(patterns), tuple(likes))
