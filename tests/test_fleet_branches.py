"""Histories with branches, labels, dependencies and several heads: as stock Alembic on one schema, or refused.

Stock Alembic is asked where it would go, on SQLite, for every place and every way to name a target; and some of it is
carried out by a fleet, whose tenants must come out as the schema that Alembic migrated alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from string import Template
from textwrap import indent

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text

from mt_paas_db.errors import RevisionError
from mt_paas_db.migrate.online import Order, run_online
from mt_paas_db.migrate.script import Action, Heads, depends_on_place, words
from mt_paas_db.migrate.scripts import Route, Scripts
from tests.armada import QUICK, Armada
from tests.fleet import Service
from tests.histories import History

# Revision, what it follows, its labels, what it depends on.
HISTORIES: dict[str, list[tuple[str, str | tuple[str, ...] | None, str | None, str | tuple[str, ...] | None]]] = {
    "branches": [
        ("a1", None, None, None),
        ("b2", "a1", "bee", None),
        ("b3", "b2", None, None),
        ("c2", "a1", "sea", None),
        ("c3", "c2", None, None),
    ],
    "dependencies": [
        ("a1", None, "ay", None),
        ("a2", "a1", None, None),
        ("a3", "a2", None, None),
        ("b1", None, "bee", None),
        ("b2", "b1", None, "a2"),
        ("b3", "b2", None, None),
    ],
    "a merge": [
        ("a1", None, None, None),
        ("b2", "a1", "bee", None),
        ("c2", "a1", "sea", None),
        ("d3", ("b2", "c2"), None, None),
        ("d4", "d3", None, None),
    ],
    "roots": [
        ("a1", None, "ay", None),
        ("a2", "a1", None, None),
        ("b1", None, "bee", None),
        ("b2", "b1", None, None),
        ("c1", None, "sea", ("a2", "b1")),
    ],
}

BOTH = ("a1", "a2", "b2", "c2", "heads", "bee@head", "sea@head", "a1+1")
UP = (*BOTH, "head", "+1", "+2", "b3", "d3", "c1", "ay@head", "bee@+1", "sea@+1", "bee@+2", "bee@heads")
DOWN = (
    *BOTH,
    "base",
    "-1",
    "-2",
    "b1",
    "bee@base",
    "sea@base",
    "ay@base",
    "bee@-1",
    "sea@-1",
    "ay@-1",
    "bee@a1",
    "b2-1",
)
TARGETS: dict[Action, tuple[str, ...]] = {
    "upgrade": UP,
    "downgrade": DOWN,
    "stamp": ("base", "heads", "a1", "b2", "c2", "bee@head"),
}

REVISION = """\
from alembic import op

revision = {revision!r}
down_revision = {after!r}
branch_labels = {label!r}
depends_on = {needs!r}


def upgrade():
{up}


def downgrade():
{down}
"""

ENV = """\
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""

Answer = tuple[Heads, list[str]]


def write(folder: Path, name: str, up: str, down: str) -> History:
    """Write a history each of whose revisions does the same, about itself."""
    history = History(folder)
    for number, (revision, after, label, needs) in enumerate(HISTORIES[name]):
        bodies = {"up": up, "down": down}
        known = {"revision": revision, "bind": "op.get_bind()" if number % 2 else ""}
        filled = {way: indent(Template(body).substitute(known), "    ") for way, body in bodies.items()}
        made = REVISION.format(revision=revision, after=after, label=label, needs=needs, **filled)
        (history.folder / "versions" / f"{revision}.py").write_text(made)
    (history.folder / "env.py").write_text(ENV)
    return history


def noted(folder: Path, name: str) -> Scripts:
    """A history whose revisions note that they were run."""
    note = "op.execute(\"INSERT INTO log VALUES ('{}$revision')\")"
    return Scripts(write(folder, name, note.format("+"), note.format("-")).location)


def stock(connection: Connection, location: str, action: Action, target: str) -> None:
    config = Config()
    config.set_main_option("script_location", location)
    config.attributes["connection"] = connection
    getattr(command, action)(config, target)


class Oracle:
    """Stock Alembic on a database in memory."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.engine = create_engine("sqlite://")

    def ask(self, action: Action, start: Heads, target: str) -> Answer | None:
        """Where it leads, and through what; None where Alembic refuses."""
        with self.engine.connect() as connection:
            for statement in (
                "DROP TABLE IF EXISTS log",
                "DROP TABLE IF EXISTS alembic_version",
                "CREATE TABLE log (x text)",
                "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
                *(f"INSERT INTO alembic_version VALUES ('{head}')" for head in start),
            ):
                connection.execute(text(statement))
            connection.commit()
            try:
                stock(connection, self.scripts.location, action, target)
            except Exception:  # Alembic has several for it, and a bare assertion
                return None
            heads = connection.execute(text("SELECT version_num FROM alembic_version ORDER BY 1")).scalars()
            return tuple(heads), list(connection.execute(text("SELECT x FROM log")).scalars())


def shown(route: Route) -> list[str]:
    return [f"{'+' if step.is_upgrade else '-'}{step.revision.revision}" for step in route.steps]


def ours(scripts: Scripts, action: Action, start: Heads, target: str) -> Answer | None:
    try:
        route = scripts.route(action, start, scripts.resolve(target))
    except RevisionError:
        return None
    return route.end, [] if action == "stamp" else shown(route)


def places(scripts: Scripts) -> Iterator[Heads]:
    """Every place that some way leads to."""
    seen: set[Heads] = {()}
    left: list[Heads] = [()]
    while left:
        start = left.pop()
        yield start
        for action, target in ways("upgrade", "downgrade"):
            if (found := ours(scripts, action, start, target)) and found[0] not in seen:
                seen.add(found[0])
                left.append(found[0])


def ways(*actions: Action) -> Iterable[tuple[Action, str]]:
    return [(action, target) for action in actions for target in TARGETS[action]]


@pytest.mark.filterwarnings("ignore:downgrade -1 from multiple heads")
@pytest.mark.parametrize("name", HISTORIES)
def test_every_way_is_alembics(tmp_path: Path, name: str) -> None:
    scripts = noted(tmp_path / "history", name)
    oracle = Oracle(scripts)
    asked = 0
    for start in places(scripts):
        for action, target in ways(*TARGETS):
            expected = oracle.ask(action, start, target)
            assert ours(scripts, action, start, target) == expected, (start, action, target)
            asked += expected is not None
    assert asked > 100


@pytest.mark.filterwarnings("ignore:downgrade -1 from multiple heads")
@pytest.mark.parametrize("name", HISTORIES)
def test_a_way_that_was_begun_is_gone_on_with(tmp_path: Path, name: str) -> None:
    """Wherever it was left: fixed, a destination leads through what is left, and then nowhere."""
    scripts = noted(tmp_path / "history", name)
    for start in places(scripts):
        for action, target in ways("upgrade", "downgrade"):
            try:
                route = scripts.route(action, start, scripts.resolve(target))
            except RevisionError:
                continue
            fixed = words(action, route.end)
            for done, there in enumerate((start, *route.heads)):
                rest = scripts.route(action, there, fixed)
                case = (start, action, target, there)
                assert sorted(shown(rest)) == sorted(shown(route)[done:]), case
                assert rest.end == route.end, case
            assert shown(scripts.route(action, start, fixed)) == shown(route)
            assert not depends_on_place(fixed)


# -- carried out

BODIES = {
    "compiled": "op.execute('{} TABLE t_$revision')",
    "online": "op.get_bind().exec_driver_sql('{} TABLE t_$revision')",
    "some of each": """\
$bind
op.execute('{} TABLE t_$revision')
with op.get_context().autocommit_block():
    op.execute('VACUUM pg_class')
""",
}

JOURNEYS: dict[str, tuple[tuple[Action, str], ...]] = {
    "branches": (
        ("downgrade", "sea@-1"),
        ("downgrade", "bee@a1"),
        ("upgrade", "bee@+1"),
        ("upgrade", "heads"),
        ("downgrade", "c2"),
        ("downgrade", "base"),
        ("upgrade", "bee@head"),
    ),
    "dependencies": (
        ("downgrade", "bee@-1"),
        ("downgrade", "bee@base"),
        ("downgrade", "ay@a1"),
        ("upgrade", "bee@head"),
        ("upgrade", "heads"),
    ),
    "a merge": (("downgrade", "-1"), ("downgrade", "bee@a1"), ("upgrade", "sea@head"), ("upgrade", "head")),
}


@pytest.mark.filterwarnings("ignore:downgrade -1 from multiple heads")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("branches", "online"),
        ("branches", "some of each"),
        ("dependencies", "compiled"),
        ("dependencies", "some of each"),
        ("a merge", "online"),
    ],
)
def test_a_fleet_goes_where_one_schema_goes(service: Service, tmp_path: Path, name: str, kind: str) -> None:
    body = BODIES[kind]
    history = write(
        tmp_path / "history", name, body.format("CREATE").replace("$revision'", "$revision ()'"), body.format("DROP")
    )
    armada = Armada.launch(service, tmp_path, "hallym", history=history)
    alone = f"{service.name}_alone"
    with service.superuser() as connection:
        connection.execute(f'CREATE SCHEMA "{alone}" AUTHORIZATION "{service.name}_owner"'.encode())
    url = service.server.dsn(service.database).replace("postgresql://", "postgresql+psycopg://", 1)
    options = f"-c role={service.name}_owner -c search_path={alone},pg_temp"
    engine = create_engine(url, connect_args={"options": options}, poolclass=NullPool)

    def found(schema: str) -> list[tuple[str, ...]]:
        with service.superuser() as connection:
            tables = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1"
            heads = f'SELECT version_num FROM "{schema}".alembic_version ORDER BY 1'
            return [*connection.execute(tables, (schema,)), *connection.execute(heads.encode())]

    for action, target in (("upgrade", "heads"), *JOURNEYS[name]):
        with engine.connect() as one:
            stock(one, history.location, action, target)
        report = getattr(armada.fleet(), action)(target, options=replace(QUICK, allow_destructive=True))
        assert report.ok, (action, target, report)
        for tenant in ("hallym", "(reference)"):
            assert found(armada.schema(tenant)) == found(alone), (action, target, tenant)
    assert [one.verdict for one in armada.fleet().verify()] == ["same"]


def test_who_did_not_come_to_the_end_did_not_succeed(service: Service, tmp_path: Path) -> None:
    """Even where the server refused nothing."""
    armada = Armada.launch(service, tmp_path, "hallym", history=write(tmp_path / "history", "roots", "pass", "pass"))
    with armada.fleet().ground() as ground:
        (position,) = ground.positions()
        order = Order(
            dsn=service.server.dsn(service.database),
            owner=f"{service.name}_owner",
            target=position.target,
            action="downgrade",
            start=position.heads or (),
            destination=words("downgrade", position.heads or ()),
            end=("a1",),
            patience=QUICK.patience,
            per_revision=False,
            allow_destructive=True,
            shared_schemas=(),
            at_home=False,
            final=False,
        )
        answer = run_online(ground.scripts, order)
    assert answer.failure == "failed"
    assert "led to" in str(answer.message)
