"""The attacks: what a bug of the application, or SQL injected into a statement, does through a library's session.

`aimed` ones have a target. They are carried out twice, once on the attacker's own rows: only if that reaches them does
a refusal of the foreign ones say anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.attacked.stage import ACME, BETA, NOBODY, UNDEFINED, NotApplicableError, Stage
from benchmarks.attacked.subject import literal, quoted

NO_CURSOR, NO_SCHEMA, DUPLICATE, INVALID = "34000", "3F000", "23505", "22023"
FAILED_TRANSACTION, NO_TRANSACTION = "25P02", "25P01"


@dataclass(frozen=True)
class Attack:
    """One row of the table."""

    name: str
    title: str
    aimed: bool
    carry_out: Callable[[Stage], None]


ATTACKS: list[Attack] = []


def attack(title: str, *, aimed: bool = False) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Enter the decorated function, named by its own name."""

    def enter(function: Callable[[Stage], None]) -> Callable[[Stage], None]:
        ATTACKS.append(Attack(function.__name__.replace("_", "-"), title, aimed, function))
        return function

    return enter


# -- what a statement names


@attack("Name the neighbour's rows in a query", aimed=True)
def named_read(s: Stage) -> None:
    with s.trying(), s.open(ACME) as mine:
        mine.run(s.address(s.target).select())


@attack("Name the neighbour's rows in UPDATE and INSERT", aimed=True)
def named_write(s: Stage) -> None:
    with s.trying(), s.open(ACME) as mine:
        mine.run(s.address(s.target).update(s.canary(ACME)))
    with s.trying(), s.open(ACME) as mine:
        mine.run(s.address(s.target).insert(77, s.canary(ACME)) + " RETURNING body")


@attack("Name them on a raw DBAPI cursor of the session", aimed=True)
def raw_cursor(s: Stage) -> None:
    with s.trying(), s.open(ACME) as mine:
        mine.raw(s.address(s.target).select())


@attack("Inject into one SELECT: UNION, set_config, a query inside a function's argument", aimed=True)
def injected_select(s: Stage) -> None:
    query = s.address(s.target).select()
    hidden = literal(f"SELECT array_to_tsvector(ARRAY[body]) FROM ({query}) AS rows")
    handles = s.handles(s.target)
    settings = [("search_path", handles.schema), ("role", handles.role), handles.setting or ("", None)]
    with s.trying(), s.open(ACME) as mine:
        mine.run(f"SELECT body FROM note WHERE id = -1 UNION ALL {query}")
    for name, value in settings:
        if value is not None:
            with s.trying(), s.open(ACME) as mine:
                taken = f"(SELECT set_config({literal(name)}, {literal(value)}, true) AS taken) AS first"
                mine.run(f"SELECT word FROM {taken}, ts_stat({hidden} || left(taken, 0))")


# -- the tenant's context, changed by SQL


@attack("SET search_path to the neighbour's schema", aimed=True)
def path_by_statement(s: Stage) -> None:
    schema = quoted(s.handle("schema", s.target))
    for scope in ("", "LOCAL "):
        with s.trying(UNDEFINED), s.open(ACME) as mine:
            kept = mine.kept()
            kept(f"SET {scope}search_path = {schema}")
            kept(s.own_rows)


@attack("The same by set_config() and in a DO block", aimed=True)
def path_by_function(s: Stage) -> None:
    schema = literal(s.handle("schema", s.target))
    call = f"set_config('search_path', {schema}, false)"
    for change in (f"SELECT {call} IS NULL", f"DO $$ BEGIN PERFORM {call}; END $$"):
        with s.trying(UNDEFINED), s.open(ACME) as mine:
            kept = mine.kept()
            kept(change)
            kept(s.own_rows)


@attack("RESET ROLE, then name the neighbour's rows", aimed=True)
def reset_role(s: Stage) -> None:
    s.handle("role", s.target)
    for statement in ("RESET ROLE", "SET ROLE NONE"):
        with s.trying(), s.open(ACME) as mine:
            mine.run(statement)
            mine.run(s.address(s.target).select())


@attack("SET ROLE to the neighbour's role", aimed=True)
def role_by_statement(s: Stage) -> None:
    role = s.handle("role", s.target)
    for change in (f"SET LOCAL ROLE {quoted(role)}", f"SELECT set_config('role', {literal(role)}, true) IS NULL"):
        with s.trying(), s.open(ACME) as mine:
            mine.run(change)
            mine.run(s.address(s.target).select())


@attack("SET the library's own setting to the neighbour's id", aimed=True)
def setting_by_statement(s: Stage) -> None:
    name, value = s.handle("setting", s.target)
    for scope in ("", "LOCAL "):
        with s.trying(), s.open(ACME) as mine:
            mine.run(f"SET {scope}{name} = {literal(value)}")
            mine.run(s.address(s.target).select())


# -- transactions


@attack("A textual COMMIT in the middle of the work")
def commit_inside(s: Stage) -> None:
    with s.trying(UNDEFINED, NO_TRANSACTION), s.open(ACME) as mine:
        mine.run("COMMIT")
        mine.run(s.own_rows)
    with s.trying(UNDEFINED, NO_TRANSACTION), s.open(ACME) as mine:
        mine.run("COMMIT")
        mine.notes()


@attack("Go on after commit(), while another tenant had the connection")
def commit_and_go_on(s: Stage) -> None:
    with s.trying(UNDEFINED), s.open(ACME) as mine:
        mine.notes()
        mine.commit()
        with s.open(BETA) as theirs:
            theirs.inner.notes()
        mine.notes()


@attack("Go on after an error and rollback()")
def rollback_and_go_on(s: Stage) -> None:
    with s.open(ACME) as mine:
        with s.trying(UNDEFINED):
            mine.run("SELECT * FROM there_is_no_such_table")
        mine.rollback()
        with s.trying(UNDEFINED):
            mine.notes()
        with s.trying(UNDEFINED):
            mine.run(s.own_rows)


@attack("Go on after an error in a savepoint")
def savepoint_and_go_on(s: Stage) -> None:
    with s.trying(UNDEFINED), s.open(ACME) as mine:
        mine.attempt("SELECT * FROM there_is_no_such_table")
        mine.notes()
        mine.run(s.own_rows)


# -- what stays on a pooled connection


@attack("A connection at rest, after a session that ended well, used without a tenant")
def at_rest(s: Stage) -> None:
    with s.open(ACME) as mine:
        mine.notes()
    with s.trying(UNDEFINED, viewer=NOBODY), s.nobody() as nobody:
        nobody.run(s.own_rows)


@attack("The same after a session that ended in an error")
def at_rest_after_an_error(s: Stage) -> None:
    with s.trying(UNDEFINED), s.open(ACME) as mine:
        mine.run("SELECT * FROM there_is_no_such_table")
    with s.trying(UNDEFINED, viewer=NOBODY), s.nobody() as nobody:
        nobody.run(s.own_rows)


@attack("The same after the application has SET its own tenant for the connection")
def left_setting(s: Stage) -> None:
    handles = s.handles(ACME)
    name, value = handles.setting or ("", "")
    changes = [f"SET search_path = {quoted(handles.schema)}"] if handles.schema else []
    changes += [f"SET ROLE {quoted(handles.role)}"] if handles.role else []
    changes += [f"SET {name} = {literal(value)}"] if name else []
    with s.trying(UNDEFINED), s.open(ACME) as mine:
        for change in changes:
            mine.run(change)
        mine.notes()
    with s.trying(UNDEFINED, viewer=NOBODY), s.nobody() as nobody:
        nobody.run(s.own_rows)


@attack("A temporary table of the same name, open to all, left on the connection")
def temporary_table(s: Stage) -> None:
    with s.trying(), s.open(ACME) as mine:
        mine.run("CREATE TEMP TABLE note AS SELECT * FROM note")
        mine.run("GRANT ALL ON pg_temp.note TO PUBLIC")
    with s.trying(viewer=BETA), s.open(BETA) as theirs:
        theirs.notes()


@attack("A WITH HOLD cursor, left on the connection")
def held_cursor(s: Stage) -> None:
    with s.trying(), s.open(ACME) as mine:
        mine.run("DECLARE left_over CURSOR WITH HOLD FOR SELECT body FROM note")
        mine.notes()
    with s.trying(NO_CURSOR, viewer=BETA), s.open(BETA) as theirs:
        theirs.run("FETCH ALL FROM left_over")


@attack("Two applications behind PgBouncer in transaction mode, on one server connection")
def through_a_pooler(s: Stage) -> None:
    here, there = s.behind_a_pooler()
    try:
        with s.open(ACME, at=here) as mine:
            with s.trying(UNDEFINED):
                kept = mine.kept()
                mine.notes()
                mine.commit()
            with s.trying(UNDEFINED, viewer=BETA), s.open(BETA, at=there) as theirs:
                theirs.notes()
            with s.trying(UNDEFINED):
                kept(s.own_rows)
                mine.commit()
            with s.trying(UNDEFINED):
                mine.notes()
        with s.trying(UNDEFINED, viewer=NOBODY), s.nobody(at=there) as nobody:
            nobody.run(s.own_rows)
    finally:
        here.refresh()
        there.refresh()


# -- no tenant


@attack("Forget the tenant")
def no_tenant(s: Stage) -> None:
    with s.trying(UNDEFINED, viewer=NOBODY), s.nobody() as nobody:
        nobody.run(s.own_rows)
    with s.trying(UNDEFINED, viewer=NOBODY), s.nobody() as nobody:
        nobody.notes()


@attack("Forget the tenant, and name somebody's rows")
def no_tenant_by_name(s: Stage) -> None:
    with s.trying(viewer=NOBODY), s.nobody() as nobody:
        nobody.run(s.address(BETA).select())


@attack("Take a raw DBAPI connection from the pool, and name somebody's rows")
def raw_connection(s: Stage) -> None:
    with s.trying(viewer=NOBODY), s.subject.pool_connection() as execute:
        s.see(execute(s.address(BETA).select()))


# -- objects and blocks


@attack("Hand an object of one tenant to another's session")
def object_handed_over(s: Stage) -> None:
    with s.open(ACME) as mine:
        note = mine.first(deferred=False)
    with s.trying(DUPLICATE, viewer=BETA), s.open(BETA) as theirs:
        theirs.save(note)
        theirs.notes()


@attack("Read an object's missing attribute while another tenant is in force")
def late_load(s: Stage) -> None:
    with s.open(ACME) as mine:
        note = mine.first(deferred=True)
    with s.trying(), s.open(BETA):
        s.see([str(note.body)])


@attack("Open another tenant's block inside a block, and go on with the first")
def nested_blocks(s: Stage) -> None:
    with s.trying(), s.open(ACME) as mine:
        kept = mine.kept()
        with s.open(BETA) as theirs:
            theirs.inner.notes()
        kept(s.own_rows)
        mine.notes()


@attack("Suspend a generator inside a tenant's block")
def suspended_generator(s: Stage) -> None:
    def rows() -> object:
        with s.open(ACME) as mine:
            yield from mine.inner.notes()

    with s.trying(viewer=BETA), s.open(BETA) as theirs:
        stream = rows()
        next(stream)  # type: ignore[call-overload]
        try:
            theirs.notes()
        finally:
            stream.close()  # type: ignore[attr-defined]


# -- ids and lifecycle


@attack("Sign up under an id that looks like a neighbour's, or like SQL")
def look_alike_ids(s: Stage) -> None:
    ids = [f'{BETA}"', f"{ACME}, {BETA}", f'{BETA}"; SELECT body FROM note; --', BETA.upper(), f" {BETA}", f"{BETA}\n"]
    for tenant in [*ids, *s.subject.look_alikes(BETA)]:
        with s.trying(UNDEFINED, NO_SCHEMA, INVALID, viewer=tenant):
            s.subject.create(tenant)
            try:
                with s.open(tenant) as mine:
                    mine.notes()
                s.fill(tenant)
                with s.open(tenant) as mine:
                    mine.notes()
            finally:
                s.subject.delete(tenant)


@attack("Two ids that agree in their first 63 bytes")
def long_ids(s: Stage) -> None:
    first, second = "a" * 63 + "first", "a" * 63 + "second"
    with s.trying(UNDEFINED, NO_SCHEMA, "42710", "42622", "22001", "42P06", "42704", viewer=second):
        s.subject.create(first)
        try:
            s.fill(first)
            s.subject.create(second)
            with s.open(second) as mine:
                mine.notes()
        finally:
            s.subject.delete(first)


@attack("Delete a tenant, and create one under the same id")
def created_again(s: Stage) -> None:
    old, new = "comet", "successor"
    s.subject.create(old)
    s.fill(old)
    s.subject.delete(old)
    s.subject.refresh()
    with s.trying(viewer=new):
        s.subject.create(old)
        try:
            with s.open(old) as mine:
                mine.notes()
                mine.run(s.address(old).insert(500, s.canary(new)))
                mine.notes()
        finally:
            s.subject.delete(old)


__all__ = ["ATTACKS", "Attack", "NotApplicableError"]
