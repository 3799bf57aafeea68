"""Several tenants' transactions in one message: each stays its own, and what stops one stops none before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mt_paas_db.migrate import apply, message
from mt_paas_db.migrate.apply import Application, BusyError, MovedError, StatementError, Tried
from mt_paas_db.migrate.direct import connect
from mt_paas_db.migrate.message import Patience, Target
from mt_paas_db.migrate.plan import Move
from mt_paas_db.migrate.queue import Pace, Queue
from mt_paas_db.migrate.script import Item, Mark, Part, Script
from tests.armada import ADD_ONLINE, ADD_TITLE, QUICK, Armada
from tests.fleet import Service

ADD, FILL = "ALTER TABLE note ADD COLUMN title text", "UPDATE note SET title = (10 / worth)::text"


def script(*statements: str, alone: bool = False, reason: str | None = None) -> Script:
    items = tuple(Item(statement, alone) for statement in statements)
    return Script("upgrade", ("a1",), ("a2",), (Part("a2", ("a2",), items, reason),))


class Yard:
    """Schemas with a table and a version table, as tenants have them, and one connection that may change them."""

    def __init__(self, service: Service, connection: psycopg.Connection[Any]) -> None:
        self.service, self.connection = service, connection
        self.application = Application(connection, owner=f"{service.name}_owner", patience=Patience(0.2))

    def target(self, name: str, versions: str = "('a1')") -> Target:
        target = Target(7, name, "active", "main", f"{self.service.name}_{name}", None)
        rows = f"INSERT INTO alembic_version VALUES {versions}; " if versions else ""
        self.execute(
            f"BEGIN; SET LOCAL ROLE {self.service.name}_owner; CREATE SCHEMA {target.schema};"
            f" SET LOCAL search_path = {target.schema}; CREATE TABLE note (worth int DEFAULT 5);"
            f" INSERT INTO note VALUES (5); {message.version_table(target)}; {rows} COMMIT"
        )
        return target

    def targets(self, *names: str) -> list[Target]:
        return [self.target(name) for name in names]

    def execute(self, statements: str) -> None:
        with self.service.superuser() as superuser:
            superuser.execute(statements.encode())

    def send(self, targets: list[Target], script: Script) -> list[Tried]:
        def record(target: Target) -> apply.Record:
            return lambda heads: [f"SELECT {ord(target.tenant_id)} AS seconds, {heads[0][1:]} AS ended_at"]

        return self.application.carry_out_each(targets, script, [record(target) for target in targets])

    def found(self, target: Target) -> tuple[list[str], bool]:
        """What the version table says, and whether the change is there."""
        with self.service.superuser() as superuser:
            heads = superuser.execute(f"SELECT version_num FROM {target.versions} ORDER BY 1".encode()).fetchall()
            column = f"SELECT FROM pg_attribute WHERE attrelid = '{target.schema}.note'::regclass AND attname = 'title'"
            return [head for (head,) in heads], superuser.execute(column.encode()).rowcount == 1


AFTER = (["a2"], True)
BEFORE = (["a1"], False)


@pytest.fixture
def yard(service: Service) -> Iterator[Yard]:
    with service.superuser() as superuser:
        superuser.execute(
            f"CREATE ROLE {service.name}_owner; GRANT ALL ON DATABASE {service.database} TO PUBLIC".encode()
        )
    with ExitStack() as stack:
        dsn = service.server.dsn(service.database)
        made = connect(dsn, owner=f"{service.name}_owner", entry="main")
        stack.callback(made.close)
        yield Yard(service, made)


def test_each_is_a_transaction_with_a_record_of_its_own(yard: Yard) -> None:
    targets = yard.targets("a", "b", "c")
    tried = yard.send(targets, script(ADD, FILL))
    assert [one.recorded for one in tried] == [(ord("a"), 2), (ord("b"), 2), (ord("c"), 2)]
    assert [yard.found(target) for target in targets] == [AFTER] * 3


def test_one_that_fails_undoes_none_and_lets_none_follow(yard: Yard) -> None:
    targets = yard.targets("a", "b", "c", "d")
    yard.execute(f"UPDATE {targets[2].schema}.note SET worth = 0")
    tried = yard.send(targets, script(ADD, FILL))
    assert [type(one.error) for one in tried] == [type(None), type(None), StatementError]
    error = tried[2].error
    assert isinstance(error, StatementError)
    assert (error.error.sqlstate, error.label, error.text) == ("22012", "statement", FILL)
    assert [yard.found(target) for target in targets] == [AFTER, AFTER, BEFORE, BEFORE]
    assert [one.error for one in yard.send(targets[3:], script(ADD))] == [None]  # the connection is of use


@pytest.mark.parametrize(
    ("versions", "otherwise"),
    [
        ("('a0')", ""),
        ("", ""),
        ("('a1'), ('b1')", ""),
        ("('b1'), ('a1')", ""),
        ("('a1')", "COMMENT ON TABLE {versions} IS '" + str(Mark("a2", 1, "x")) + "'"),
        ("('a1')", "DROP TABLE {versions}"),
        ("('a1')", "DROP SCHEMA {schema} CASCADE"),
    ],
    ids=["elsewhere", "at no revision", "at another besides", "behind another", "half way", "no table", "no schema"],
)
def test_one_that_stands_elsewhere_is_not_touched(yard: Yard, versions: str, otherwise: str) -> None:
    first, last = yard.targets("a", "c")
    moved = yard.target("b", versions)
    if otherwise:
        yard.execute(otherwise.format(versions=moved.versions, schema=moved.schema))
    before = yard.found(moved) if "DROP" not in otherwise else None
    tried = yard.send([first, moved, last], script(ADD))
    assert [type(one.error) for one in tried] == [type(None), MovedError]
    assert (yard.found(first), yard.found(last)) == (AFTER, BEFORE)
    assert before is None or yard.found(moved) == before


def test_without_its_guard_one_at_no_revision_would_get_the_second(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: an UPDATE finds no row, and nobody hears of it."""
    really = message.guard
    monkeypatch.setattr(message, "guard", lambda *about: [next(iter(really(*about)))])
    target = yard.target("a", "")
    assert [one.error for one in yard.send([target], script(ADD))] == [None]
    assert yard.found(target) == ([], True)


def test_one_that_another_runner_has(yard: Yard) -> None:
    targets = yard.targets("a", "b", "c")
    other = connect(yard.service.server.dsn(yard.service.database), owner=f"{yard.service.name}_owner", entry="main")
    with other:
        Application(other, owner=f"{yard.service.name}_owner", patience=Patience()).take(targets[1])
        tried = yard.send(targets, script(ADD))
    assert [type(one.error) for one in tried] == [type(None), BusyError]
    assert [yard.found(target) for target in targets] == [AFTER, BEFORE, BEFORE]


def test_a_lock_that_is_not_to_be_had(yard: Yard) -> None:
    targets = yard.targets("a", "b", "c")
    with psycopg.connect(yard.service.server.dsn(yard.service.database)) as reader:
        reader.execute(f"SELECT FROM {targets[1].schema}.note".encode())
        tried = yard.send(targets, script(ADD))
    error = tried[-1].error
    assert isinstance(error, StatementError)
    assert (len(tried), error.error.sqlstate) == (2, "55P03")
    assert tried[-1].seconds >= 0.2
    assert [yard.found(target) for target in targets] == [AFTER, BEFORE, BEFORE]


def test_a_connection_that_is_lost_midway(yard: Yard) -> None:
    """The answers to what was committed are lost with it: who asks again finds it done."""
    targets = yard.targets("a", "b", "c")
    yard.execute(f"UPDATE {targets[1].schema}.note SET worth = 0")
    kill = "SELECT pg_terminate_backend(pg_backend_pid()) FROM note WHERE worth = 0"
    yard.execute(f"ALTER ROLE {yard.service.name}_owner SUPERUSER")
    with pytest.raises(psycopg.OperationalError):
        yard.send(targets, script(kill, ADD))
    assert [yard.found(target) for target in targets] == [AFTER, BEFORE, BEFORE]


@pytest.mark.parametrize(
    "alone",
    [
        script("SET lock_timeout = 5"),
        script("CREATE TEMP TABLE t ()"),
        script("VACUUM note", alone=True),
        script("CREATE INDEX CONCURRENTLY ON note (worth)", alone=True),
        script(reason="it asks for a connection"),
        replace(script(), action="stamp"),
        replace(script(), parts=()),
    ],
    ids=["leaves a setting", "leaves a table", "no transaction", "steps", "online", "stamp", "nothing"],
)
def test_what_goes_alone(alone: Script) -> None:
    assert not Application.goes_together(alone)
    assert Application.goes_together(script(ADD))


# -- how many at once


def moves(*heads: str, entry: str = "main") -> list[Move]:
    return [Move(Target(n, f"t{n}", "active", entry, f"s{n}", None), (head,), 1) for n, head in enumerate(heads, 1)]


def taken(queue: Queue, most: int) -> list[int]:
    return [job.move.target.generation for job in queue.take(most, wait=False)]


def test_who_starts_from_one_place_goes_together() -> None:
    queue = Queue([*moves("a1", "a1", "a1", "b1", "a1"), *moves("a1", entry="other"), *moves(*["c1"] * 20)], takers=1)
    assert [taken(queue, 8) for _ in range(4)] == [[1, 2, 3], [4], [5], [1]]


def test_towards_the_end_each_takes_a_share() -> None:
    queue = Queue(moves(*["a1"] * 20), takers=2)
    shares = []
    while share := taken(queue, 8):
        shares.append(len(share))
    assert shares == [6, 4, 3, 2, 2, 1, 1, 1]


def test_who_was_not_tried_is_next_and_who_was_waits() -> None:
    queue = Queue(moves(*["a1"] * 9), takers=1)
    jobs = queue.take(4, wait=False)
    queue.untried(jobs[2:])
    queue.again(jobs[1], 60.0)
    assert taken(queue, 4) == [3, 4, 5, 6]
    assert taken(queue, 9) == [7, 8, 9]
    assert taken(queue, 9) == []  # the other is not to be had yet
    queue.close()
    assert taken(queue, 9) == []


def test_the_pace() -> None:
    pace = Pace()
    sizes = []
    for _ in range(5):
        sizes.append(pace.most)
        pace.took(pace.most, 0.001 * pace.most)
    assert sizes == [1, 2, 4, 8, 8]
    pace.took(8, 0.2)  # 25 ms each
    assert pace.most == 2
    pace.took(2, 10.0)
    assert pace.most == 1
    pace.took(1, 0.001)
    assert pace.most == 2
    pace.stumbled()
    assert pace.most == 1


# -- a fleet


def test_a_failure_stops_those_that_were_sent_with_it(service: Service, tmp_path: Path) -> None:
    """One connection: the first alone, then two together. The second of these is not attempted."""
    names = ("t1", "t2", "t3", "t4")
    armada = Armada.launch(service, tmp_path, *names)
    armada.history.add("a2", ADD_TITLE, after="a1")
    yard = f'"{armada.schema("t2")}".note'
    with service.superuser() as superuser:
        superuser.execute(f"ALTER TABLE {yard} ADD COLUMN title text".encode())
    one = replace(QUICK, jobs=1)
    report = armada.fleet().upgrade(options=one)
    assert armada.outcomes(report.run_id) == {
        "t1": "migrated", "t2": "failed", "t3": "not_attempted", "t4": "not_attempted",
    }  # fmt: skip
    with service.superuser() as superuser:
        superuser.execute(f"ALTER TABLE {yard} DROP COLUMN title".encode())
    armada.history.add("a3", ADD_ONLINE, after="a2")  # which cannot go together
    report = armada.fleet().upgrade(options=one)
    assert report.migrated == 4
    assert {armada.heads(name) for name in names} == {("a3",)}
