"""Strings that a regular expression accepts, made of a canary as far as the expression leaves room for one.

Best effort: PostgreSQL's expressions are near enough to Python's for what stands in CHECK constraints, and the
server has the last word on each string.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_PRINTABLE = string.printable[:95]
_POSIX = {"alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "space": " ",
          "xdigit": "0-9a-fA-F", "punct": "!-/:-@", "blank": " "}  # fmt: skip
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdigit,
    "SPACE": str.isspace,
    "WORD": lambda letter: letter.isalnum() or letter == "_",
}
_VARIANTS = 4


@dataclass(frozen=True)
class Words:
    """What to write where an expression leaves room, best first.

    Attributes:
        whole: Words to be written as they are.
        padded: A word of exactly the length that is given; None where it is too short for it.
        n: The row's number, to tell rows apart where there is room for nothing better.
    """

    whole: tuple[str, ...]
    padded: tuple[Callable[[int], str | None], ...]
    n: int

    def fill(self, allowed: str, low: int, high: int, variant: int) -> str:
        """Return a text of `low` to `high` of the allowed characters."""
        candidates = [*self.whole, *(word for pad in self.padded if (word := pad(max(low, 1))))]
        fit = [word for word in candidates if low <= len(word) <= high and set(word) <= set(allowed)]
        if fit and variant < len(fit):
            return fit[variant]
        if not allowed:
            return ""
        count, rest, made = max(low, min(high, 1)), self.n, ""
        while len(made) < count:
            rest, digit = divmod(rest, len(allowed))
            made = allowed[digit] + made
            if not rest and len(made) >= low:
                break
            if rest and len(made) == count < high:
                count += 1
        return made


def exemplars(pattern: str, words: Words) -> list[str]:
    """Return some strings that `pattern` probably accepts; none where it cannot be read."""
    translated = re.sub(r"\[:(\w+):\]", lambda found: _POSIX.get(found[1], ""), pattern)
    translated = re.sub(r"\\[mMyY]|\(\?[a-z]+\)|^\*\*\*[:=]", "", translated)
    try:
        # The parser behind `re`: there is no public one, and a second one would only differ from it.
        tree = import_module("re._parser").parse(translated)
    except (re.error, ImportError, OverflowError, RecursionError):
        return []
    found: dict[str, None] = {}
    for variant in range(_VARIANTS):
        made = _Writer(words, variant).text(tree)
        found[made] = None
        if not translated.startswith("^"):
            found.update(dict.fromkeys(f"{word}{made}" for word in words.whole))
        if not translated.endswith("$"):
            found.update(dict.fromkeys(f"{made}{word}" for word in words.whole))
    return list(found)


@dataclass
class _Writer:
    words: Words
    variant: int

    def text(self, tree: Any) -> str:
        return "".join(self._node(str(operator), argument) for operator, argument in tree)

    def _node(self, operator: str, argument: Any) -> str:
        match operator:
            case "LITERAL":
                return chr(argument)
            case "IN" | "ANY" | "NOT_LITERAL":
                return self.words.fill(_allowed(operator, argument), 1, 1, self.variant)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return self._repeat(*argument)
            case "SUBPATTERN":
                return self.text(argument[-1])
            case "ATOMIC_GROUP":
                return self.text(argument)
            case "BRANCH":
                return self.text(argument[1][(self.words.n - 1 + self.variant) % len(argument[1])])
            case _:  # anchors, assertions and back references: the server will say
                return ""

    def _repeat(self, low: int, high: Any, tree: Any) -> str:
        most = min(int(high), 200)
        nodes = list(tree)
        if len(nodes) == 1 and str(nodes[0][0]) in ("IN", "ANY", "NOT_LITERAL"):
            return self.words.fill(_allowed(str(nodes[0][0]), nodes[0][1]), low, most, self.variant)
        return "".join(self.text(tree) for _ in range(min(most, low + (self.words.n + self.variant) % 3)))


def _allowed(operator: str, argument: Any) -> str:
    if operator == "ANY":
        return _PRINTABLE
    if operator == "NOT_LITERAL":
        return _PRINTABLE.replace(chr(argument), "")
    items = [(str(kind), what) for kind, what in argument]
    negated = any(kind == "NEGATE" for kind, _ in items)
    return "".join(letter for letter in _PRINTABLE if any(_members(letter, items)) != negated)


def _members(letter: str, items: list[tuple[str, Any]]) -> Iterator[bool]:
    for kind, what in items:
        if kind == "LITERAL":
            yield letter == chr(what)
        elif kind == "RANGE":
            yield what[0] <= ord(letter) <= what[1]
        elif kind == "CATEGORY":
            name = str(what).removeprefix("CATEGORY_")
            member = _CATEGORIES.get(name.removeprefix("NOT_"))
            yield member is not None and member(letter) != name.startswith("NOT_")
