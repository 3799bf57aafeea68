"""What a tenant's revision should not do unasked: destroy data, open rows, or act outside the tenant's schema.

A look at the text of statements, also inside DO blocks and the strings that those EXECUTE. It warns of what people
write; it is no wall against code that hides what it does (a function that drops tables is not looked into).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mt_paas_db.migrate.statements import Name, Reader, Token, statements, tokens

_SERVERS_OWN = frozenset({"pg_temp", "pg_catalog"})
_BOOKKEEPING = "alembic_version"
_UNKNOWN = "…"
"""Stands for what EXECUTE puts together while it runs."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """`what` is for people: "drops table note"."""

    kind: Literal["destructive", "shared", "other_schema"]
    what: str
    statement: str


def hazards(statements: Iterable[str], *, shared_schemas: Collection[str]) -> list[Hazard]:
    """Return what is hazardous in `statements`, in their order. A statement may be so in several ways.

    "shared" is a change of an object, or of rows, in one of `shared_schemas`: it would happen once per tenant.
    "other_schema" is DDL on an object with any other schema's name: a tenant's revision names none. Raises
    `ValueError` for text that cannot be read.
    """
    found = []
    for statement in statements:
        single = list(_single(statement))
        if loss := _lost(single):
            found.append(Hazard("destructive", loss, statement))
        changed = _changed(single)
        for schema, name in dict.fromkeys([*changed, *_written(single)]):
            what = f"{schema}.{name}" if name else f"schema {schema}"
            if schema in shared_schemas:
                found.append(Hazard("shared", f"changes {what}, which is shared, once per tenant", statement))
            elif schema and schema not in _SERVERS_OWN and (schema, name) in changed:
                found.append(Hazard("other_schema", f"changes {what}, outside the tenant's schema", statement))
    return found


def destructive(statement: str) -> str | None:
    """Return what data `statement` destroys, or opens to other tenants, in words, or None.

    Dropping a type or a domain counts with CASCADE only: without, the server refuses while a column has the type.
    What holds no rows may go (indexes, constraints, views, functions), and so may Alembic's own version table.
    """
    return _lost(_single(statement))


def ddl_targets(statement: str) -> list[Name]:
    """Return the objects that DDL creates, changes, drops, comments, grants rights on or attaches something to.

    As (schema or None, name), a schema itself as (its name, ""). For an index, a trigger or a policy it is the table.
    What is only referred to or read is no target.
    """
    return _changed(_single(statement))


# -- single statements -------------------------------------------------------------------------------------------------

# What comes before a statement in PL/pgSQL's blocks, branches and loops.
_OPENERS = frozenset({"begin", "then", "else", "loop", ">>"})


def _single(sql: str) -> Iterator[Sequence[Token]]:
    """Yield the tokens of each statement of `sql`; of a DO block, those of each statement in it."""
    for statement in statements(sql):
        if Reader(statement.tokens).take("do"):
            yield from _block(statement.tokens)
        else:
            yield statement.tokens


def _block(do: Sequence[Token]) -> Iterator[Sequence[Token]]:
    language, body = "plpgsql", ""
    for before, token in pairwise(do):
        if _is(before, "language"):
            language = token.text.lower()
        elif token.kind == "string":
            body = token.text
    if language != "plpgsql":
        return
    line: list[Token] = []
    for token in [*tokens(body), Token("symbol", ";", len(body))]:
        if not _is(token, ";"):
            line.append(token)
            continue
        # CASE has a THEN and an ELSE too, so any of these places may be where the statement begins.
        for start in [0, *(at + 1 for at, each in enumerate(line) if _is(each, *_OPENERS))]:
            if Reader(line[start:]).take("execute"):
                yield from _executed(line[start + 1 :])
            yield line[start:]
        line = []


def _executed(expression: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield the statements in the text that EXECUTE is given, as far as it is written down."""
    text = ""
    for token in expression:
        if _is(token, "into", "using"):
            break
        if token.kind == "string":
            text += re.sub(r"%(?:[0-9]+\$)?-?[0-9]*[IsL]", f'"{_UNKNOWN}"', token.text)
        elif text and token.kind in ("word", "identifier", "parameter") and not text.endswith(_UNKNOWN + '"'):
            text += f'"{_UNKNOWN}"'
    try:
        found = list(_single(text))
    except ValueError:  # a literal that is put together too
        return
    yield from found


def _is(token: Token, *words: str) -> bool:
    return token.kind in ("word", "symbol") and token.text in words


# -- what is lost ------------------------------------------------------------------------------------------------------

_HOLDS_DATA = ("table", "materialized view", "schema", "sequence", "database")
_TAKES_COLUMNS_ALONG = ("type", "domain", "extension", "collation")


def _lost(single: Iterable[Sequence[Token]]) -> str | None:
    return ", ".join(dict.fromkeys(loss for one in single for loss in _losses(one))) or None


def _losses(statement: Sequence[Token]) -> Iterator[str]:
    reader = Reader(statement)
    if reader.take("drop"):
        yield from _dropped(reader)
    elif reader.take("truncate"):
        reader.take("table")
        yield from (f"empties table {_shown(name)}" for name in reader.names())
    elif reader.take("alter", "table"):
        table = _altered(reader)
        for action in _actions(reader):
            if column := _dropped_part(action, "column"):
                yield f"drops column {_shown(table)}.{column}"
            elif action.take("disable", "row") or action.take("no", "force", "row"):
                yield f"takes row security from {_shown(table)}"
    elif reader.take("alter", "type"):
        composite = reader.name()
        for action in _actions(reader):
            if action.see("drop", "attribute") and (attribute := _dropped_part(action, "attribute")):
                yield f"drops attribute {_shown(composite)}.{attribute}"
    elif not reader.take("create"):
        yield from _opened(statement)
        for at, token in enumerate(statement):
            if _is(token, "delete") and (deletion := Reader(statement[at + 1 :])).take("from"):
                name = next(iter(deletion.names()), None)
                if name and name[1] != _BOOKKEEPING and not deletion.find("where"):
                    yield f"deletes all rows of {_shown(name)}"


# Functions of the catalog, and what a call of theirs does to the rows of its first argument.
_OPENING = {"unprotect": "takes the guard from {}", "share_read_only": "opens all rows of {} to all tenants"}


def _opened(statement: Sequence[Token]) -> Iterator[str]:
    for at in range(len(statement) - 4):
        schema, dot, function, bracket, table = statement[at : at + 5]
        if schema.kind == "string" or schema.text != "mt_paas" or not _is(dot, ".") or not _is(bracket, "("):
            continue
        if does := _OPENING.get(function.text):
            yield does.format(table.text if table.kind == "string" else _UNKNOWN)


def _dropped(reader: Reader) -> Iterator[str]:
    if reader.take("owned"):
        yield "drops all that a role owns"
        return
    kind = next((kind for kind in (*_HOLDS_DATA, *_TAKES_COLUMNS_ALONG) if reader.take(*kind.split())), None)
    if kind is None:
        return
    reader.take("if", "exists")
    names = [name for name in reader.names() if name[1] != _BOOKKEEPING or kind != "table"]
    if kind in _HOLDS_DATA:
        yield from (f"drops {kind} {_shown(name)}" for name in names)
    elif reader.find("cascade"):
        yield from (f"drops {kind} {_shown(name)} and the columns that have it" for name in names)


def _dropped_part(action: Reader, kind: str) -> str | None:
    """Return the column or attribute that an action of ALTER drops."""
    if not action.take("drop") or action.see("constraint"):
        return None
    action.take(kind)
    action.take("if", "exists")
    name = action.name()
    return name[1] if name else None


def _actions(reader: Reader) -> Iterator[Reader]:
    """Yield the actions of an ALTER, which commas separate."""
    action: list[Token] = []
    for token, depth in reader.rest():
        if depth == 0 and _is(token, ","):
            yield Reader(action)
            action = []
        else:
            action.append(token)
    yield Reader(action)


def _shown(name: Name | None) -> str:
    return ".".join(part for part in name if part) if name else _UNKNOWN


# -- what is changed ---------------------------------------------------------------------------------------------------

_ADJECTIVES = ("or", "replace", "global", "local", "temp", "temporary", "unlogged", "unique", "constraint", "recursive")
_ON_A_TABLE = ("trigger", "policy", "rule")
_KINDS = (
    *("table", "foreign table", "view", "materialized view", "sequence", "index", "type", "domain", "statistics"),
    *("function", "procedure", "routine", "aggregate", "collation", "conversion", "operator class", "operator family"),
    *("text search configuration", "text search dictionary", "text search parser", "text search template", "extension"),
)


def _changed(single: Iterable[Sequence[Token]]) -> list[Name]:
    return list(dict.fromkeys(target for one in single for target in _targets(Reader(one))))


def _targets(reader: Reader) -> Iterator[Name]:
    match reader.take_any(("create", "drop", "alter", "grant", "revoke", "comment", "security", "reindex", "refresh")):
        case "create":
            yield from _created(reader)
        case "drop":
            yield from _named(reader)
        case "alter":
            yield from _of_alter(reader)
        case "grant" | "revoke":
            if reader.find("on"):
                yield from _granted(reader)
        case "comment" | "security":
            if reader.find("on"):
                yield from _commented(reader)
        case "reindex" | "refresh":
            if reader.see("("):
                reader.skip()
            yield from _named(reader)


def _named(reader: Reader) -> Iterator[Name]:
    """Yield what stands behind DROP, or behind ALTER up to its actions."""
    if reader.take("schema"):
        reader.take_all(("concurrently", "if", "exists"))
        yield from ((name, "") for _, name in reader.names())
    elif reader.take_any(_ON_A_TABLE):
        if reader.find("on"):
            yield from reader.names()[:1]
    elif any(reader.take(*kind.split()) for kind in _KINDS):
        reader.take("concurrently")
        reader.take("if", "exists")
        yield from reader.names()


def _created(reader: Reader) -> Iterator[Name]:
    reader.take_all(_ADJECTIVES)
    if reader.take("schema"):
        reader.take("if", "not", "exists")
        if not reader.take("authorization") and (name := reader.name()):
            yield name[1], ""
    elif reader.take("index"):
        if reader.find("on"):
            yield from reader.names()[:1]
    elif reader.take("rule"):
        if reader.find("to"):
            yield from reader.names()[:1]
    elif reader.take("statistics"):
        if reader.find("from"):
            yield from reader.names()[:1]
    elif reader.take_any(_ON_A_TABLE):
        if reader.find("on"):
            yield from reader.names()[:1]
    elif kind := next((kind for kind in _KINDS if reader.take(*kind.split())), None):
        reader.take("if", "not", "exists")
        name = reader.name()
        if kind == "extension":
            yield (_schema_of_extension(reader), name[1] if name else _UNKNOWN)
            return
        if name:
            yield name
        if kind.endswith("table"):
            yield from _parents(reader)


def _schema_of_extension(reader: Reader) -> str | None:
    schema = reader.name() if reader.find("schema") else None
    return schema[1] if schema else None


def _parents(reader: Reader) -> Iterator[Name]:
    """Yield the tables that a new table becomes a part of: reading them reads it."""
    if reader.take("partition", "of"):
        yield from reader.names()[:1]
        return
    while reader:
        if reader.take("inherits", "("):
            yield from reader.names()
            return
        if reader.see("as"):
            return
        reader.skip()


def _altered(reader: Reader) -> Name | None:
    reader.take("if", "exists")
    reader.take("only")
    name = reader.name()
    reader.take("*")
    return name


def _of_alter(reader: Reader) -> Iterator[Name]:
    if reader.take("default", "privileges"):
        if reader.find("in", "schema"):
            yield from ((name, "") for _, name in reader.names())
        return
    name = None
    for name in _named(reader):
        yield name
    if name is None:
        return
    for action in _actions(reader):
        if action.take("set", "schema"):
            if schema := action.name():
                yield schema[1], name[1]
        elif action.take_any(("attach", "detach")):
            if action.take("partition"):
                yield from action.names()[:1]
        else:
            action.take("no")
            if action.take("inherit"):
                yield from action.names()[:1]


def _granted(reader: Reader) -> Iterator[Name]:
    if reader.take("all"):
        if reader.find("in", "schema"):
            yield from ((name, "") for _, name in reader.names())
    elif reader.take("schema"):
        yield from ((name, "") for _, name in reader.names())
    elif not reader.take_any(("database", "foreign", "language", "large", "parameter", "tablespace")):
        reader.take_any(("table", "sequence", "function", "procedure", "routine", "type", "domain"))
        yield from reader.names()


def _commented(reader: Reader) -> Iterator[Name]:
    if reader.take("column"):
        if len(parts := reader.parts()) > 1:
            yield (parts[-3] if len(parts) > 2 else None), parts[-2]
    elif reader.take("constraint"):
        if reader.find("on"):
            reader.take("domain")
            yield from reader.names()[:1]
    else:
        yield from _named(reader)


def _written(single: Iterable[Sequence[Token]]) -> list[Name]:
    """Return the tables whose rows are changed."""
    return [name for one in single for name in _rows_of(one)]


def _rows_of(statement: Sequence[Token]) -> Iterator[Name]:
    start = Reader(statement)
    if start.take("create"):
        return
    if start.take("truncate"):
        start.take("table")
        yield from start.names()
    elif start.take("copy"):
        table = start.names()[:1]
        if start.see("from"):
            yield from table
    for at, token in enumerate(statement):
        if not _is(token, "insert", "update", "delete", "merge"):
            continue
        reader = Reader(statement[at + 1 :])
        # What follows in FOR UPDATE and DO UPDATE is a keyword, and so names no schema.
        if _is(token, "update") or reader.take_any(("into", "from")):
            yield from reader.names()[:1]
