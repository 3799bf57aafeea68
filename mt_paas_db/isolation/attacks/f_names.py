"""Family F: identifiers, and tenants that come and go."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from dataclasses import replace

from mt_paas_db.errors import InvalidIdentifierError, UnknownTenantError
from mt_paas_db.isolation.attack import Weakness, attack
from mt_paas_db.isolation.attacks.a_escape import UNDEFINED_TABLE, literal
from mt_paas_db.isolation.channel import DENIED, Channel
from mt_paas_db.isolation.ground import quoted

NO_SUCH_OBJECT = "42704"

ELSEWHERE = "mt_isolation_elsewhere"
"""A table that no tenant's schema has."""

_REFUSED = (InvalidIdentifierError, UnknownTenantError)


def _asked_as(c: Channel, name: str) -> None:
    """Ask for a session by `name`, as a request would; whatever comes is seen by the attacker."""
    asked = replace(c.me, tenant_id=name)
    with c.trying(f"session of {name!r}", refusals=_REFUSED), c.client(asked) as client:
        client.send(c.read())


@attack(
    "F1",
    "cut-names",
    title="Have an id that equals another's in all the bytes that a name keeps",
    sql='SET search_path = "<64 bytes>"  -- PostgreSQL cuts it at 63, with a notice at most',
    why_held="""
    Names end in a generation that is never used twice, and are cut before it. Ids are looked up whole; longer ones are
    refused.
    """,
    source="PostgreSQL documentation, 4.1.1 Identifiers and Key Words, NAMEDATALEN.",
    broken=Weakness.NAMES_CUT,
)
def cut_names(c: Channel) -> None:
    """Two customers have long names that begin alike, or somebody chooses one so."""
    room = 63 - len(f"mt-isolation-{c.ground.run}-") - 1
    with c.ground.passing(c.target.label, "l" * room + "b"), c.ground.passing("attacker", "l" * room + "a") as mine:
        with c.trying("session of the longer id"), c.client(mine) as client:
            client.send(c.read())
        _asked_as(c, mine.tenant_id + "b")
    # Longer than a name: what is behind the 63rd byte is cut, and leads to the whole name's schema.
    long = c.target.schema.ljust(63, "_")
    for text in (long, long + "behind"):
        c.trial(
            f"SELECT set_config('search_path', {literal(text)}, true)", c.read(), by="raw", refusals=(UNDEFINED_TABLE,)
        )


@attack(
    "F2",
    "letter-case",
    title="Write another's name in capitals",
    sql="SELECT set_config('search_path', 'T_VICTIM', true); SELECT * FROM note",
    why_held="Nothing is folded on the way to a tenant; in SQL, where unquoted names are, rights decide.",
    source="PostgreSQL documentation, 4.1.1 Identifiers and Key Words.",
    broken=Weakness.STRAY_GRANT,
)
def letter_case(c: Channel) -> None:
    """A header says VICTIM, a comparison says that this is nobody, and the database says that it is somebody."""
    for name in (c.target.tenant_id.upper(), c.target.tenant_id.capitalize()):
        _asked_as(c, name)
    upper = literal(c.target.schema.upper())
    c.trial(f"SELECT set_config('search_path', {upper}, true)", c.read(), by="raw", refusals=(UNDEFINED_TABLE, DENIED))


@attack(
    "F3",
    "lists-and-quotes",
    title="Put a list, a quote or a statement where a name belongs",
    sql="SELECT set_config('search_path', 'missing, {target}', true); SELECT * FROM note",
    why_held="A name is parsed once, at the border, and quoted wherever it stands; what is no name is refused.",
    source="PostgreSQL documentation, 20.11.1 search_path: names that do not exist are skipped.",
    broken=Weakness.STRAY_GRANT,
)
def lists_and_quotes(c: Channel) -> None:
    """A tenant's id from a request goes into a path, or into SET ROLE, as text."""
    target, schema = c.target.tenant_id, c.target.schema
    for name in (
        f"{c.me.tenant_id},{target}",
        f"missing, {target}",
        f'{c.me.tenant_id}"; SET ROLE "{c.target.role}"; --',
        f"{c.me.tenant_id}'; RESET ROLE; --",
        f"{target}\0",
        f" {target}",
        f"{target}\n",
    ):
        _asked_as(c, name)
    for path in (f"missing, {schema}", f'"missing", "{schema}"'):
        c.trial(
            f"SELECT set_config('search_path', {literal(path)}, true)",
            c.read(),
            by="raw",
            refusals=(UNDEFINED_TABLE, DENIED),
        )


@attack(
    "F3",
    "missing-table",
    title="Ask for a table that one's own schema lacks",
    sql="SELECT * FROM note  -- not there yet, or not any more; with public behind the path, its table of that name",
    why_held="""
    The path holds the tenant's schema, the shared ones and pg_temp. The schema public is closed, and nothing is in it.
    """,
    source="PostgreSQL documentation, 5.10 Schemas, Usage Patterns; CVE-2018-1058.",
    broken=Weakness.PUBLIC_ON_PATH | Weakness.PUBLIC_TABLE,
)
def missing_table(c: Channel) -> None:
    """A tenant is a revision behind, and public has a table of that name from the time before there were tenants."""
    for by in ("run", "send", "raw"):
        c.trial(f"SELECT * FROM {ELSEWHERE}", by=by, refusals=(UNDEFINED_TABLE,))


@attack(
    "F4",
    "reserved-words",
    title="Use a word that PostgreSQL reads as something else",
    sql='SET LOCAL ROLE "none"; SELECT * FROM {target}.note  -- even quoted, it is RESET ROLE',
    why_held="Such words are no tenant ids; and what they lead to, the login, has no rights.",
    source="PostgreSQL documentation, SET ROLE; CREATE ROLE.",
    broken=Weakness.INHERIT,
)
def reserved_words(c: Channel) -> None:
    """A customer is called none, public or current_user."""
    for name in ("none", "public", "default", "current-user", "session-user", "pg-temp", "information-schema", ""):
        _asked_as(c, name)
    for statement in ('SET LOCAL ROLE "none"', "SELECT set_config('role', 'none', true)"):
        c.trial(statement, c.read(c.target), by="raw", refusals=(DENIED,))


@attack(
    "F5",
    "look-alikes",
    title="Write another's name in letters that look like it",
    sql="-- a session of 'ｖictim' (full width), 'vıctim' (dotless), 'victim' followed by U+200B",
    why_held="Ids are ASCII; nothing else is folded into it.",
    source="Unicode Technical Standard 39; PostgreSQL documentation, lower() folds by the database's locale.",
    broken=Weakness.NAMES_FOLDED,
)
def look_alikes(c: Channel) -> None:
    """One part of a system normalises a name, and another does not."""
    target = c.target.tenant_id
    full_width = "".join(chr(ord(letter) + 0xFEE0) if letter.isalnum() else letter for letter in target)
    for name in (full_width, f"{target}\u200b", f"\ufeff{target}", target.replace("i", "\u0131"), target + "\u0301"):
        _asked_as(c, name)


@attack(
    "F6",
    "renamed-schema",
    title="Have an open transaction while schemas are renamed",
    sql="ALTER SCHEMA {target} RENAME TO ...  -- while a session is in a transaction, or at its next one",
    why_held="The library renames ids, never schemas; and the role has no rights on what is there then.",
    source="PostgreSQL documentation, ALTER SCHEMA: it waits for no reader.",
    broken=Weakness.STRAY_GRANT,
)
def renamed_schema(c: Channel) -> None:
    """Somebody swaps two schemas by hand, to put a restored copy in place."""
    for level in ("READ COMMITTED", "REPEATABLE READ"):
        with c.trying(level, refusals=(DENIED, UNDEFINED_TABLE)), c.client(isolation_level=level) as me:
            me.send(c.read())
            with _swapped(c):
                me.send(c.read())


class _swapped:  # noqa: N801  # read as a word of the sentence
    """Swap the attacker's and the target's schemas for the block."""

    def __init__(self, c: Channel) -> None:
        self._c = c

    def _swap(self) -> None:
        mine, theirs = quoted(self._c.me.schema), quoted(self._c.target.schema)
        aside = quoted(f"{self._c.me.schema[:50]}_aside")
        if mine != theirs:
            self._c.ground.as_owner(
                f"ALTER SCHEMA {theirs} RENAME TO {aside}",
                f"ALTER SCHEMA {mine} RENAME TO {theirs}",
                f"ALTER SCHEMA {aside} RENAME TO {mine}",
            )

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


@attack(
    "F7",
    "created-anew",
    title="Be created under the id of a tenant that was deleted",
    sql="SELECT * FROM note; SELECT lo_get(<a large object of the former tenant's>)",
    why_held="""
    Schema and role are named with a generation that is never used again. Deletion drops the former one's schema, its
    role and its large objects.
    """,
    source="PostgreSQL documentation, DROP OWNED; Large Objects belong to a role, and to no schema.",
    broken=Weakness.REUSED_SCHEMA,
)
def created_anew(c: Channel) -> None:
    """A customer leaves, and another one takes the name."""
    heir = c.ground.heir
    with c.trying("rows", viewer=heir), c.client(heir) as client:
        for table in c.ground.tables:
            client.send(f"SELECT t::text FROM {quoted(table)} t")
    with c.trying("large object", viewer=heir, refusals=(NO_SUCH_OBJECT, DENIED)) as trial, c.client(heir) as client:
        if not c.ground.former_large_object:
            trial.reach("the former tenant could have none")
        client.send(f"SELECT convert_from(lo_get({c.ground.former_large_object}), 'UTF8')")
    with c.trying("the former role", refusals=(NO_SUCH_OBJECT, "22023", DENIED)), c.client() as me:
        me.raw(f"SET ROLE {quoted(c.ground.former.role)}")
        me.raw(c.read(c.ground.former))
