"""Reads the predicates of row policies, as the server prints them. Pure.

A context that is asked for in a scalar sub-select is asked for once a query; a bare call is made for every row.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_CONTEXT = re.compile(r"current_setting\(|mt_paas\.|\b(?:current|session)_user\b|\bcurrent_role\b", re.IGNORECASE)
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()]|[A-Za-z_][\w$]*|\.|.", re.DOTALL)


def depends_on_context(*predicates: str | None) -> bool:
    """Return whether any of the predicates asks who is asking."""
    return any(_CONTEXT.search(_without_literals(predicate)) for predicate in predicates if predicate)


def calls_per_row(predicate: str, functions: Collection[str]) -> list[str]:
    """Return the calls of `current_setting` and of `functions` that stand in no sub-select, as they are written.

    `functions` are names as SQL writes them, with their schemas.
    """
    wanted = {"current_setting", "pg_catalog.current_setting", *functions}
    tokens = _TOKEN.findall(predicate)
    found: list[str] = []
    opened: list[bool] = []  # whether each open parenthesis begins a sub-select
    at = 0
    while at < len(tokens):
        piece = tokens[at]
        if piece == "(":
            opened.append(_word_after(tokens, at + 1) in {"SELECT", "WITH"})
        elif piece == ")" and opened:
            opened.pop()
        elif not any(opened):
            name, after = _name_at(tokens, at)
            if name in wanted and after < len(tokens) and tokens[after] == "(":
                end = _closing(tokens, after)
                found.append("".join(tokens[at : end + 1]))
                at = end
            elif after > at:
                at = after - 1
        at += 1
    return found


def asked_once(predicate: str, functions: Collection[str]) -> str:
    """Return the predicate with each call of `calls_per_row` in a scalar sub-select."""
    for call in dict.fromkeys(calls_per_row(predicate, functions)):
        predicate = predicate.replace(call, f"(SELECT {call})")
    return predicate


def _without_literals(predicate: str) -> str:
    return re.sub(r"'(?:[^']|'')*'", "''", predicate)


def _name_at(tokens: list[str], at: int) -> tuple[str, int]:
    """Return the name, with its schema, that begins at `at`, and where it ends."""
    if not _is_name(tokens[at]):
        return "", at
    end = at + 1
    while end + 1 < len(tokens) and tokens[end] == "." and _is_name(tokens[end + 1]):
        end += 2
    return "".join(tokens[at:end]), end


def _is_name(token: str) -> bool:
    return token[0].isalpha() or token[0] in '_"'


def _word_after(tokens: list[str], at: int) -> str:
    return next((token.upper() for token in tokens[at:] if not token.isspace()), "")


def _closing(tokens: list[str], at: int) -> int:
    depth = 0
    for place in range(at, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[place], 0)
        if depth == 0:
            return place
    return len(tokens) - 1
