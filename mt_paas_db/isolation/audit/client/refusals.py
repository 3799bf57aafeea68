"""What the client must refuse by itself, before the server is asked or whatever it answers."""

from __future__ import annotations

import time
import unicodedata
from contextlib import suppress
from contextvars import Context

from sqlalchemy import Column, Integer, MetaData, Table, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import registry

from mt_paas_db.catalog.identifiers import parse_name
from mt_paas_db.errors import TenancyError
from mt_paas_db.isolation.audit.client.bench import NOBODY, ONE, Bench, Examined, refused
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.session import context
from mt_paas_db.session.guard import bind
from mt_paas_db.session.orm import TenantSession


class _Thing:
    """What is loaded to be handed to a stranger; no table stands behind it."""


registry().map_imperatively(_Thing, Table("mt_paas_probe", MetaData(), Column("id", Integer, primary_key=True)))


def no_default(bench: Bench) -> Examined:
    """Ask for a transaction, and for the tenant in force, where there is none."""
    with bench.engine.connect() as connection:
        if not refused(connection.begin):
            yield "client-default", "a transaction begins on an engine that was given no tenant"
    if not refused(lambda: Context().run(context.current_tenant)):
        yield "client-default", "there is a tenant in force where none was put"


def no_other_transactions(bench: Bench) -> Examined:
    """Ask for what cannot carry a pin."""
    with bench.session() as seen:
        engine = seen.engine
    with engine.connect() as connection:
        for asked in (engine, connection):
            if not refused(lambda asked=asked: asked.execution_options(isolation_level="AUTOCOMMIT")):  # type: ignore[misc]
                yield "client-autocommit", f"AUTOCOMMIT is taken by the {type(asked).__name__.lower()}"
    with engine.connect() as connection:
        if not refused(connection.begin_twophase):
            yield "client-two-phase", "a two-phase transaction begins, without a pin"
            with suppress(*ANSWERS):
                connection.invalidate()


def refusals_stop(bench: Bench) -> Examined:
    """Begin with a pin that the server refuses, and go on."""
    with bind(bench.engine, bench.stranger).connect() as connection:
        for act in (connection.begin, lambda: connection.execute(ONE)):
            try:
                act()
            except ANSWERS:
                continue
            yield "client-refusal", "a transaction goes on whose pin the server has refused"
            connection.invalidate()
            return


def one_engine(bench: Bench) -> Examined:
    """Ask a session for another engine than its tenant's."""
    with bench.session() as seen:
        other = bind(bench.engine, bench.stranger)
        if not refused(lambda: seen.session.get_bind(bind=other)):
            yield "client-engine", "a session takes another engine than its tenant's"


def a_session_each(bench: Bench) -> Examined:
    """Open two sessions, one after the other."""
    with bench.session() as seen:
        first = seen.session
    with bench.session() as seen:
        if seen.session is first:
            yield "client-session", "two sessions are one, with the objects in it"


def objects_of_its_own(bench: Bench) -> Examined:
    """Hand an object of this tenant's to a session of another's."""
    with bench.session() as seen:
        first = seen.session
        thing = first.scalars(select(_Thing).from_statement(text("SELECT 1 AS id"))).one()
        first.expunge(thing)
        stranger = TenantSession(seen.engine, pin=bench.stranger)
        if not (refused(lambda: stranger.add(thing)) and refused(lambda: stranger.merge(thing))):
            yield "client-objects", "a session takes an object that another tenant's session has loaded"
        with suppress(SQLAlchemyError, TenancyError):
            stranger.close()


def context_in_force(bench: Bench) -> Examined:
    """Use a session, and open one, where another tenant is in force; look what is in force afterwards."""
    with bench.session() as seen:
        seen.session.execute(ONE)
        with context.tenant_context(NOBODY):
            if not refused(lambda: seen.session.execute(ONE)):
                yield "client-context", "a session is used while another tenant is in force"
        found = context.tenant_in_force()
    if found is not None:
        context._current.set(None)
        yield "client-context", f"tenant {found!r} is in force after its block"
        return

    def opens() -> None:
        with bench.session():
            pass

    with context.tenant_context(NOBODY):
        if not refused(opens):
            yield "client-context", "a session is opened while another tenant is in force"


def names_as_they_are(bench: Bench) -> Examined:
    """Ask for spellings of a tenant's name that are not it, and for names that differ in their last letter."""
    name = bench.tenant.tenant_id
    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in name)
    assert unicodedata.normalize("NFKC", wide) == name
    for spelt in (name.upper(), f" {name}", f"{name}\n", wide, f"{name}\u0301", "", name.ljust(254, "a")):
        if not refused(lambda spelt=spelt: bench.manager.get_session(spelt)):  # type: ignore[misc]
            yield "client-names", f"{spelt[:80]!r} is taken for a name"
    for long in (name.ljust(63, "a"), name.ljust(63, "b"), name.ljust(64, "a"), name.ljust(253, "a")):
        looked_up = bench.manager.get_session(long)._name
        if looked_up != long:
            yield "client-names", f"another name is looked up than the {len(long)} letters that were asked for"


def remembered_as_it_is(bench: Bench) -> Examined:
    """Look at what the process remembers of the tenant, and for how long."""
    name, door = parse_name(bench.tenant.tenant_id), bench.manager._door
    if bench.is_async:
        return  # the memory is the process's, and was looked at
    door.resolve(name)
    remembered = door.resolver.remembered(name)
    if remembered is None:
        return
    resolution = remembered.resolution
    if (resolution.tenant_id, resolution.generation) != (bench.tenant.tenant_id, bench.tenant.generation):
        yield "client-memory", f"{name!r} leads to {resolution.tenant_id!r} (generation {resolution.generation})"
    bound_s = min(bench.manager.settings.cache_ttl_s, resolution.cache_bound_s)
    if remembered.expires_at > time.monotonic() + bound_s:
        yield "client-memory", f"where a tenant lives is remembered for longer than {bound_s:g} s"


CHECKS = (
    a_session_each,
    no_default,
    no_other_transactions,
    refusals_stop,
    one_engine,
    objects_of_its_own,
    context_in_force,
    names_as_they_are,
    remembered_as_it_is,
)
