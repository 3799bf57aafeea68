"""SQL text as PostgreSQL reads it: tokens, statements, and what a runner must know of one statement.

Not a parser: enough of the lexical rules that no literal, comment or quoted name is taken for a keyword, and none
hides one. Text is read with ``standard_conforming_strings`` on, the server's default. Every function raises
`ValueError` for a literal, comment or quoted name that does not end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Name = tuple[str | None, str]
"""A schema, where one is written, and a name in it."""


class Token(NamedTuple):
    """`text` is what is meant: folded if unquoted, without quotes and escapes if quoted. `position` counts from 0."""

    kind: Literal["word", "identifier", "string", "number", "parameter", "symbol"]
    text: str
    position: int


# Characters beyond ASCII belong to names, whatever Unicode calls them: the server looks at bytes.
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\n\r\f\v]++|--[^\n\r]*+)
    |(?P<comment>/\*)
    |(?P<string>(?P<prefix>[bBeEnNxX]|[uU]&)?')
    |(?P<identifier>(?P<escaped>[uU]&)?")
    |(?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_\x80-\U0010ffff]*+)?\$)
    |(?P<word>[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_$\x80-\U0010ffff]*+)
    |(?P<parameter>\$[0-9]++)
    |(?P<number>0[xXoObB][0-9A-Fa-f_]++|(?:[0-9][0-9_]*+(?:\.(?!\.)[0-9_]*+)?|(?<!\.)\.[0-9][0-9_]*+)(?:[eE][+-]?[0-9]++)?)
    |(?P<symbol>(?:(?!--|/\*)[+\-*/<>=~!@\#%^&|`?])++|::|:=|.)""",
    re.VERBOSE | re.DOTALL,
)
_WHITE_SPACE = " \t\n\r\f\v"
_COMMENT_MARK = re.compile(r"/\*|\*/")
_PLAIN = re.compile(r"'((?:[^']|'')*+)'")
_ESCAPED = re.compile(r"'((?:[^'\\]|''|\\.)*+)'", re.DOTALL)
_NAME = re.compile(r'"((?:[^"]|"")*+)"')
_CONTINUED = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+[\n\r])*+(?=')")
_ESCAPE = re.compile(r"''|\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{1,3})|(.))", re.DOTALL)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UESCAPE = re.compile(r"uescape", re.IGNORECASE)
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def tokens(sql: str) -> Iterator[Token]:
    """Yield the tokens of `sql`, without white space and comments."""
    at = 0
    while (start := _after_blanks(sql, at)) < len(sql):
        found = _TOKEN.match(sql, start)
        assert found is not None  # its last alternative takes any character
        at = found.end()
        match found.lastgroup:
            case "string":
                prefix = (found["prefix"] or "").lower()
                text, at = _string(sql, at - 1, _ESCAPED if prefix == "e" else _PLAIN, start)
                if prefix == "u&":
                    text, at = _unicode(sql, text, at)
                yield Token("string", text, start)
            case "identifier":
                if (quoted := _NAME.match(sql, at - 1)) is None:
                    raise _endless("quoted name", start)
                text, at = quoted[1].replace('""', '"'), quoted.end()
                if found["escaped"]:
                    text, at = _unicode(sql, text, at)
                yield Token("identifier", text, start)
            case "dollar":
                end = sql.find(found[0], at)
                if end < 0:
                    raise _endless(f"string {found[0]}", start)
                yield Token("string", sql[at:end], start)
                at = end + len(found[0])
            case "word":
                yield Token("word", found[0].translate(_LOWER), start)
            case "number" | "parameter" | "symbol" as kind:
                yield Token(kind, found[0], start)


def _endless(what: str, position: int) -> ValueError:
    return ValueError(f"the {what} that begins at character {position} of the SQL text does not end")


def _after_blanks(sql: str, at: int) -> int:
    """Return the position behind the white space and comments at `at`."""
    while (found := _TOKEN.match(sql, at)) and found.lastgroup in ("blank", "comment"):
        at = found.end() if found.lastgroup == "blank" else _after_comment(sql, at)
    return at


def _after_comment(sql: str, start: int) -> int:
    depth = 0
    for mark in _COMMENT_MARK.finditer(sql, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    raise _endless("comment", start)


def _string(sql: str, at: int, rule: re.Pattern[str], start: int) -> tuple[str, int]:
    """Return what the string says whose quote opens at `at`, behind a prefix at `start`, and where it ends."""
    pieces = []
    while piece := rule.match(sql, at):
        at = piece.end()
        pieces.append(_ESCAPE.sub(_meant, piece[1]) if rule is _ESCAPED else piece[1].replace("''", "'"))
        # Behind a line break a string goes on, by the rules it began with: E'a', a line break, '\'' is one string.
        if not (further := _CONTINUED.match(sql, at)):
            return "".join(pieces), at
        at = further.end()
    raise _endless("string", start)


def _meant(escape: re.Match[str]) -> str:
    if escape[0] == "''":
        return "'"
    if digits := escape[1] or escape[2] or escape[3]:
        return chr(_code_point(digits))
    return chr(int(escape[4], 8)) if escape[4] else _CONTROLS.get(escape[5], escape[5])


def _code_point(digits: str) -> int:
    code = int(digits, 16)
    if code > 0x10FFFF:
        raise ValueError(f"U+{digits} is no character")
    return code


def _unicode(sql: str, text: str, at: int) -> tuple[str, int]:
    r"""Replace the escapes of ``U&"d\0061t"``, or of ``U&"d!0061t" UESCAPE '!'``; return that, and where it ends."""
    sign = "\\"
    if clause := _UESCAPE.match(sql, _after_blanks(sql, at)):
        quote = _after_blanks(sql, clause.end())
        if sql[quote : quote + 1] == "'":
            sign, at = _string(sql, quote, _PLAIN, quote)
    one = re.escape(sign)
    escape = re.compile(rf"{one}(?:{one}|([0-9A-Fa-f]{{4}})|\+([0-9A-Fa-f]{{6}}))")
    return escape.sub(lambda found: chr(_code_point(found[1] or found[2])) if found.lastindex else sign, text), at


class Statement(NamedTuple):
    """One of a text's statements, without its semicolon; `text` has the comments before it too."""

    text: str
    tokens: list[Token]


def statements(sql: str) -> Iterator[Statement]:
    """Yield the statements of `sql`; what is nothing but comments is left out.

    A semicolon in parentheses (CREATE RULE) or in a routine's ``BEGIN ATOMIC ... END`` ends no statement.
    """
    begin, depth, blocks = 0, 0, 0
    read: list[Token] = []
    for token in tokens(sql):
        word = token.text if token.kind in ("word", "symbol") else ""
        if word == ";" and depth <= 0 and blocks <= 0:
            if read:
                yield Statement(sql[begin : token.position].strip(_WHITE_SPACE), read)
            begin, depth, blocks, read = token.position + 1, 0, 0, []
            continue
        previous = read[-1].text if read else ""
        if word in ("(", ")"):
            depth += 1 if word == "(" else -1
        elif word == "atomic" and previous == "begin" and _makes_routine(read):
            blocks += 1
        elif blocks > 0 and word in ("case", "end") and previous not in (".", "as"):
            blocks += 1 if word == "case" else -1
        read.append(token)
    if read:
        yield Statement(sql[begin:].strip(_WHITE_SPACE), read)


def split(sql: str) -> list[str]:
    """Return the texts of `statements`."""
    return [statement.text for statement in statements(sql)]


def _makes_routine(read: Sequence[Token]) -> bool:
    first, *others = (token.text for token in read[:4])
    return first == "create" and not {"function", "procedure"}.isdisjoint(others)


class Reader:
    """A place in a statement's tokens, moved from left to right."""

    def __init__(self, read: Iterable[Token]) -> None:
        self._tokens = list(read)
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._tokens)

    def see(self, *words: str) -> bool:
        """Return whether these words or symbols come next."""
        ahead = self._tokens[self._at : self._at + len(words)]
        return [t.text for t in ahead if t.kind in ("word", "symbol")] == list(words)

    def take(self, *words: str) -> bool:
        """Move behind `words` if they come next; return whether they did."""
        if found := self.see(*words):
            self._at += len(words)
        return found

    def take_any(self, words: Iterable[str]) -> str | None:
        """Move behind whichever of `words` comes next, and return it."""
        return next((word for word in words if self.take(word)), None)

    def take_all(self, words: Iterable[str]) -> None:
        """Move behind any number of `words`, in any order."""
        words = tuple(words)
        while self.take_any(words):
            pass

    def skip(self) -> Token | None:
        """Move behind the next token, or behind the parentheses that open here; return the token."""
        depth = 0
        first = self._tokens[self._at] if self else None
        while self:
            depth += self.see("(") or self.see("[")
            depth -= self.see(")") or self.see("]")
            self._at += 1
            if depth <= 0:
                break
        return first

    def find(self, *words: str) -> bool:
        """Move behind the next `words` that stand in no parentheses; return whether there are any."""
        while self:
            if self.take(*words):
                return True
            if self.see(")"):
                return False
            self.skip()
        return False

    def rest(self) -> Iterator[tuple[Token, int]]:
        """Move to the end; yield each token and in how many parentheses it stands."""
        depth = 0
        while self:
            depth -= self.see(")") or self.see("]")
            yield self._tokens[self._at], depth
            depth += self.see("(") or self.see("[")
            self._at += 1

    def parts(self) -> list[str]:
        """Move behind a name with dots and return what they separate."""
        parts: list[str] = []
        while self and self._tokens[self._at].kind in ("word", "identifier"):
            parts.append(self._tokens[self._at].text)
            self._at += 1
            if not self.take("."):
                break
        return parts

    def name(self) -> Name | None:
        """Move behind a name, with or without a schema (and a database), and return it."""
        parts = self.parts()
        if not parts:
            return None
        return (parts[-2] if len(parts) > 1 else None), parts[-1]

    def names(self) -> list[Name]:
        """Move behind names with commas between them, arguments or columns in parentheses behind each, or ``*``."""
        found: list[Name] = []
        while True:
            self.take("only")
            if (name := self.name()) is None:
                return found
            found.append(name)
            self.take("*")
            if self.see("("):
                self.skip()
            if not self.take(","):
                return found


def ends_transaction(sql: str) -> bool:
    """Return whether any statement of `sql` begins, ends or prepares a transaction. Savepoints do not."""
    return any(_controls_transaction(Reader(statement.tokens)) for statement in statements(sql))


def _controls_transaction(reader: Reader) -> bool:
    if reader.take("rollback"):
        reader.take_any(("work", "transaction"))
        return not reader.see("to")
    return any(reader.see(word) for word in ("begin", "commit", "end", "abort")) or any(
        reader.see(word, "transaction") for word in ("start", "prepare")
    )


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """What CREATE INDEX CONCURRENTLY builds; without a `name` the server makes one."""

    name: str | None
    table: str
    schema: str | None


def concurrent_index(statement: str) -> IndexBuild | None:
    """Return what `statement` builds if it is CREATE INDEX CONCURRENTLY. A failed build leaves an INVALID index."""
    reader = Reader(tokens(statement))
    if not (reader.take("create", "index", "concurrently") or reader.take("create", "unique", "index", "concurrently")):
        return None
    reader.take("if", "not", "exists")
    name = None if reader.see("on") else reader.name()
    if not reader.take("on"):
        return None
    reader.take("only")
    table = reader.name()
    return IndexBuild(name=name[1] if name else None, table=table[1], schema=table[0]) if table else None


def idempotent_outside_transaction(statement: str) -> frozenset[str]:
    """Return the SQLSTATEs by which the server says that `statement` was carried out before.

    For what runs in no transaction, and may have been done without having been recorded. Empty for all else, and for
    an index without a name: the server would build a second one. Two answers need a look at the server too: 42P07 is
    also said of an INVALID index, and 42P01 also of a table that does not exist.
    """
    if build := concurrent_index(statement):
        return frozenset({"42P07"} if build.name else ())
    reader = Reader(tokens(statement))
    if reader.take("drop", "index", "concurrently"):
        return frozenset({"42704"})
    if reader.take("alter", "type") and reader.name() and reader.take("add", "value"):
        return frozenset({"42710"})
    if reader.take("alter", "table"):
        reader.take("if", "exists")
        reader.take("only")
        reader.name()
        reader.take("*")
        if reader.take("detach", "partition") and reader.name() and reader.see("concurrently"):
            return frozenset({"42P01"})
    return frozenset()
