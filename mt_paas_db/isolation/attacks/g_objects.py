"""Family G, second part: objects that outlive a session, and come into another tenant's."""

# ruff: noqa: S608  # attacks are SQL text; names and values in it pass quoted() and literal()

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import ForeignKey, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    make_transient,
    make_transient_to_detached,
    mapped_column,
    relationship,
    scoped_session,
)
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.orm.exc import DetachedInstanceError

from mt_paas_db.errors import PlacementChangedError, TenantMismatchError
from mt_paas_db.isolation.attack import Need, Weakness, attack, not_promised
from mt_paas_db.isolation.attacks.e_definitions import content
from mt_paas_db.isolation.channel import Channel
from mt_paas_db.isolation.ground import Party, quoted
from mt_paas_db.isolation.route import ROUTES

ONCE = Need(
    "one_route",
    lambda c: None if c.route == ROUTES[0] else f"no driver or pooler has a part in it: carried out on {ROUTES[0]}",
)
"""Of what makes and deletes tenants, and is therefore slow."""


class Base(DeclarativeBase):
    """Of models of the suite's own, whose rows have the same keys in every tenant."""


class Author(Base):
    __tablename__ = "mt_isolation_author"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "mt_isolation_book"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    author_id: Mapped[int] = mapped_column(ForeignKey("mt_isolation_author.id"))
    title: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="books")


@contextmanager
def shelves(c: Channel, *more: Party) -> Iterator[None]:
    """Give the attacker, the target and `more` an author and a book each, for the block."""
    parties = {party.schema: party for party in (c.me, c.target, *more)}
    try:
        for schema, party in parties.items():
            author, book = f"{quoted(schema)}.mt_isolation_author", f"{quoted(schema)}.mt_isolation_book"
            c.ground.as_owner(
                f"CREATE TABLE {author} (id int PRIMARY KEY, name text NOT NULL)",
                f"CREATE TABLE {book} (id int PRIMARY KEY, author_id int REFERENCES {author}, title text NOT NULL)",
                f"INSERT INTO {author} VALUES (1, {content(c, party, 'name')})",
                f"INSERT INTO {book} VALUES (1, 1, {content(c, party, 'title')})",
            )
        yield
    finally:
        for schema in parties:
            c.ground.as_owner(
                f"DROP TABLE IF EXISTS {quoted(schema)}.mt_isolation_book",
                f"DROP TABLE IF EXISTS {quoted(schema)}.mt_isolation_author",
            )


def told(thing: Author | Book | None) -> dict[str, Any]:
    """Return what an object holds in memory; loads nothing."""
    return {} if thing is None else {k: v for k, v in vars(thing).items() if isinstance(v, str | int)}


def _kept(c: Channel, party: Party, **options: Any) -> Author:
    """Return an author as a session of the party has left it, which is closed."""
    with c.client(party, commit=True, **options) as client:
        author: Author = client.call(lambda session: session.get(Author, 1))
    return author


@attack(
    "G4",
    "identity-map",
    title="Get from the identity map what another tenant's session has loaded",
    sql="session.get(Note, 1)  -- after another tenant's session loaded its note 1, with expire_on_commit=False",
    why_held="A session belongs to one tenant for life. A closed one is over, and is not opened again.",
    source="SQLAlchemy documentation, Session Basics, Is the Session a cache?; expire_on_commit.",
    broken=Weakness.SESSION_KEPT,
)
def identity_map(c: Channel) -> None:
    """Rows of two tenants have the same key; what is in memory already is not looked up again."""
    with shelves(c):
        for expire in (False, True):
            with c.trying(f"expire_on_commit={expire}"):
                author = _kept(c, c.target, expire_on_commit=expire)
                c.show(c.target, "object", told(author))
                with c.client() as me:
                    c.show(c.me, "object", told(me.call(lambda s: s.get(Author, 1))))
                    me.call(lambda s: [told(author) for author in s.scalars(select(Author))])


@attack(
    "G4",
    "session-after-its-end",
    title="Use a session that a registry has kept after its block",
    sql="scoped_session(...)  -- without remove(): the next request in the thread gets the session of the last one",
    why_held="A tenant session that was closed raises at whatever would send something, and holds no objects.",
    source="SQLAlchemy documentation, Contextual/Thread-local Sessions; Session, close_resets_only.",
    broken=Weakness.SESSION_KEPT,
)
def session_after_its_end(c: Channel) -> None:
    """A global, a cache or a registry keeps a session; the next request finds it there."""
    with shelves(c), c.trying("scoped_session", refusals=(InvalidRequestError,)):
        kept: list[Session] = []
        registry: scoped_session[Session] = scoped_session(lambda: kept[0], scopefunc=lambda: 0)  # type: ignore[arg-type]
        with c.client(c.target, commit=True) as them:
            kept.append(them.session)
            author = them.call(lambda _: registry.get(Author, 1))
        try:
            c.show(c.target, "object", told(author))
            c.show(c.me, "object", told(registry.get(Author, 1)))
        finally:
            registry.registry.clear()


@attack(
    "G4",
    "open-session",
    title="Read an object from the identity map of another tenant's open session",
    sql="open_session_of_another.get(Note, 1)  -- loaded before: no statement is sent",
    why_held="Nothing holds what is in the program's memory already.",
    remains="The next statement in that session is refused, where the attacker's own tenant is in force (G3).",
    source="SQLAlchemy documentation, Session.get: an object in the identity map is returned without a statement.",
    broken=Weakness.NONE,
    role=not_promised("what a program holds in memory is read without a statement, which is what could be refused"),
    login=not_promised("what a program holds in memory is read without a statement, which is what could be refused"),
)
def open_session(c: Channel) -> None:
    """A session is a global while two requests run; one of them reads the other's objects."""
    with shelves(c), c.trying("get"), c.client(c.target) as them:
        author = them.call(lambda s: s.get(Author, 1))
        c.show(c.target, "object", told(author))
        c.show(c.me, "object", told(them.session.get(Author, 1)))


def _modified(author: Author) -> Author:
    for name in ("id", "name"):
        flag_modified(author, name)
    return author


def _transient(author: Author) -> Author:
    make_transient(author)
    return author


def _again_detached(author: Author) -> Author:
    make_transient(author)
    make_transient_to_detached(author)
    return author


HAND_OVERS: dict[str, Callable[[Session, Author], object]] = {
    "add": lambda session, author: session.add(_modified(author)),
    "add_all": lambda session, author: session.add_all([_modified(author)]),
    "merge": lambda session, author: session.merge(author),
    "merge, load=False": lambda session, author: _modified(session.merge(author, load=False)),
    "cascade": lambda session, author: session.add(Book(id=2, title="mine", author=_modified(author))),
    "bulk_save_objects": lambda session, author: session.bulk_save_objects([_modified(author)]),
    "make_transient": lambda session, author: session.merge(_transient(author)),
    "make_transient_to_detached": lambda session, author: session.add(_again_detached(author)),
    "delete": lambda session, author: session.delete(author),
}


@attack(
    "G5",
    "foreign-objects",
    title="Hand an object of another tenant's to one's own session",
    sql="session.add(note_of_another); session.merge(note_of_another)  -- UPDATE note SET ... with the other's values",
    why_held="An object knows the tenant that loaded or saved it; another tenant's session refuses it.",
    remains="Values that a program copies by hand, field by field, are its own doing.",
    source="SQLAlchemy documentation, State Management: merge copies, add attaches, whatever database it came from.",
    broken=Weakness.NO_STAMP,
)
def foreign_objects(c: Channel) -> None:
    """An object from a cache, a queue or a global is saved: its values go into the row with the same key."""
    with shelves(c):
        for name, hand_over in HAND_OVERS.items():
            author = _kept(c, c.target)
            with c.trying(name, refusals=(TenantMismatchError,)), c.client() as me:
                hand_over(me.session, author)
                me.session.flush()
                me.send("SELECT name FROM mt_isolation_author")


@attack(
    "G5",
    "lazy-load",
    title="Lazily load from an object whose session is over",
    sql="note_of_another.remarks  -- in a session of one's own: SELECT * FROM remark WHERE note_id = 1",
    why_held="An object without a session loads nothing, and no other tenant's session takes it.",
    source="SQLAlchemy documentation, Lazy Loading; Error Messages, Parent instance is not bound to a Session.",
    broken=Weakness.NO_STAMP,
)
def lazy_load(c: Channel) -> None:
    """A template is rendered when the session is closed, or within the next request's one."""
    with shelves(c):
        author = _kept(c, c.target)
        with c.trying("without a session", refusals=(DetachedInstanceError,)), c.client():
            c.show(c.me, "objects", [told(book) for book in author.books])
        with c.trying("in the next session", refusals=(TenantMismatchError,)) as trial, c.client() as me:
            me.call(lambda s: s.enable_relationship_loading(author))
            books = [told(book) for book in author.books]
            c.show(c.me, "objects", books)
            trial.reach("it has loaded")
            if books and c.target is not c.me:
                c.learned(f"{c.target.label}'s author got the attacker's books")


@attack(
    "G5",
    "earlier-tenant",
    title="Save an object of an earlier tenant of the same id",
    sql="session.merge(note_of_the_earlier_tenant)  -- the tenant was deleted, and created anew under its id",
    why_held="An object remembers the generation, which is never used again, not the id alone.",
    source="PostgreSQL has no notion of it; the catalog of this library numbers tenants.",
    broken=Weakness.NO_STAMP,
    needs=(ONCE,),
)
def earlier_tenant(c: Channel) -> None:
    """A process that runs on holds objects of a customer that left; another one has taken the name."""
    with c.ground.passing(c.target.label, "again") as earlier, shelves(c, earlier):
        author = _kept(c, earlier)
    with c.ground.passing(c.me.label, "again") as later, shelves(c, later):
        with suppress(PlacementChangedError), c.client(later):
            pass  # what the process remembers of the id leads to the earlier tenant, once
        with c.trying("merge", refusals=(TenantMismatchError,)), c.client(later) as me:
            me.call(lambda s: s.merge(author) and None)
            me.session.flush()
            me.send("SELECT name FROM mt_isolation_author")
