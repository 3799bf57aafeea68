"""A runner killed at any point: whoever comes next ends what it began, and nothing is applied twice.

The history has every kind of revision, and each of its steps adds one to every row: a step that was lost or repeated
shows in the sum. Runners die for good, by SIGKILL; their workers are left to notice.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

from mt_paas_db.migrate import apply, ledger, message
from mt_paas_db.migrate.apply import Application
from mt_paas_db.migrate.ground import Ground
from mt_paas_db.migrate.message import Statement
from mt_paas_db.migrate.migrator import Assignment, Migrator
from mt_paas_db.migrate.online import Order, run_online
from mt_paas_db.migrate.plan import Selection
from mt_paas_db.migrate.report import unheard
from mt_paas_db.migrate.runner import Runner
from tests.armada import QUICK, Armada
from tests.fleet import Service
from tests.histories import History

pytestmark = pytest.mark.own_processes

TALLY = """
op.create_table("tally", sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Integer, nullable=False))
op.execute("INSERT INTO tally SELECT n, 0 FROM generate_series(1, 5) n")
"""

IN_ONE = """
op.add_column("tally", sa.Column("one", sa.Text))
op.execute("UPDATE tally SET x = x + 1")
"""

IN_STEPS = """
op.add_column("tally", sa.Column("two", sa.Text))
op.execute("UPDATE tally SET x = x + 1")
with op.get_context().autocommit_block():
    op.create_index("tally_two", "tally", ["two"], postgresql_concurrently=True)
op.create_index("tally_x", "tally", ["x"])
op.execute("UPDATE tally SET x = x + 1")
"""

IN_BATCHES = """
with op.get_context().autocommit_block():
    op.execute("UPDATE tally SET x = x + 1 WHERE id <= 2")
    op.execute("UPDATE tally SET x = x + 1 WHERE id = 3")
    op.execute("UPDATE tally SET x = x + 1 WHERE id > 3")
"""

ONLINE = """
bind = op.get_bind()
op.add_column("tally", sa.Column("three", sa.Integer))
for (id_,) in bind.execute(sa.text("SELECT id FROM tally")).all():
    bind.execute(sa.text("UPDATE tally SET x = x + 1, three = :id WHERE id = :id"), {"id": id_})
"""

INCREMENTS = 5

ONLINE_IN_STEPS = """
op.get_bind()
with op.get_context().autocommit_block():
    op.create_index("tally_x", "tally", ["x"], postgresql_concurrently=True)
    op.execute("ALTER TYPE mood ADD VALUE 'bored'")
op.execute("UPDATE tally SET x = x + 1")
"""


def history(folder: Path) -> History:
    """Every kind of revision."""
    return History(folder).add("a1", TALLY)


def grow(made: History) -> None:
    made.add("a2", IN_ONE, after="a1").add("a3", IN_STEPS, after="a2")
    made.add("a4", IN_BATCHES, after="a3").add("a5", ONLINE, after="a4")


@pytest.fixture
def launch(service: Service, tmp_path: Path) -> Callable[[int], Armada]:
    """Launch a fleet of so many tenants, all at the first revision of a history that has four more."""

    def launch(tenants: int) -> Armada:
        made = history(tmp_path / "history")
        armada = Armada.launch(service, tmp_path, *(f"t{n:02}" for n in range(tenants)), history=made)
        grow(made)
        return armada

    return launch


def tenants(armada: Armada) -> list[str]:
    with armada.service.superuser() as connection:
        return [row[0] for row in connection.execute("SELECT tenant_id FROM mt_paas.tenant ORDER BY 1").fetchall()]


def assert_whole(armada: Armada, *, head: str = "a5", increments: int = INCREMENTS) -> None:
    """Every tenant is at the head, each step was applied once, the structure is right, nothing is left behind."""
    for tenant in (*tenants(armada), "(reference)"):
        assert armada.heads(tenant) == (head,)
        assert armada.ask(tenant, "SELECT DISTINCT x FROM tally") == [(increments,)], tenant
        assert armada.ask(tenant, "SELECT obj_description('alembic_version'::regclass)") == [(None,)]
    found = list(armada.fleet().verify())
    assert [one.verdict for one in found] == ["same"] * len(found)
    assert not any(one.copy_differs for one in found)
    with armada.service.superuser() as connection:
        assert connection.execute("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").fetchall() == []
    assert_quiet(armada)


def assert_quiet(armada: Armada, wait_s: float = 10) -> None:
    """No connection for migrations is open any more, and so no lock is held."""
    deadline = time.monotonic() + wait_s
    with armada.service.superuser() as connection:
        while time.monotonic() < deadline:
            left = connection.execute(
                "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'mt_paas_db migrate'"
            ).fetchall()
            if not left:
                break
            time.sleep(0.02)
        assert left == []
        assert (
            connection.execute(
                "SELECT * FROM pg_locks WHERE locktype = 'advisory' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchall()
            == []
        )


def forked(work: Callable[[], object]) -> int:
    """Do `work` in a child that ends with it; return its process id. It must be waited for."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; return its exit status, or the signal that killed it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def processes_with(word: str) -> list[int]:
    """The processes that were started with this word in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


# -- at each step


@dataclass
class Abattoir:
    """Runners that are killed at a point of their way, one for each tenant."""

    armada: Armada
    ground: Ground
    assignment: Assignment

    @classmethod
    @contextmanager
    def open(cls, armada: Armada) -> Iterator[Abattoir]:
        with armada.fleet().ground() as ground:
            ground.plan("upgrade", "head", Selection())  # has all compiled before anyone dies
            run_id = ledger.begin_run(
                ground.connection,
                action="upgrade",
                target="a5",
                actor=None,
                options={},
                ways=[],
                resumes=None,
                outcomes=[(position.target, 1, position.heads, "compiled") for position in ground.positions()],
            )
            yield cls(
                armada,
                ground,
                Assignment("upgrade", "a5", run_id, ground.home, ground.direct, QUICK, ground.shared_schemas),
            )

    def kill(self, tenant: str, arm: Callable[[], object]) -> bool:
        """Migrate a tenant in a child that `arm` makes fall; return whether it fell."""
        position = next(p for p in self.ground.positions() if p.target.tenant_id == tenant)

        def work() -> None:
            migrator = Migrator(self.assignment)
            arm()
            assert migrator.migrate(position.target, ("a1",), self.ground.compiler, attempts=1) is None
            assert [outcome.state for _, outcome in migrator.settle()] == ["migrated"]

        code = ended(forked(work))
        assert code in (0, -signal.SIGKILL), code
        return code != 0


def fall() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(at: int) -> None:
    """Fall before the message number `at` is sent, or the statement beside the messages."""
    numbers = count(1)
    send, execute = Application._send, psycopg.Connection.execute

    def sent(self: Application, statements: Any) -> Any:
        if next(numbers) == at:
            fall()
        return send(self, statements)

    def executed(self: psycopg.Connection[Any], *args: Any, **kw: Any) -> Any:
        if next(numbers) == at:
            fall()
        return execute(self, *args, **kw)

    Application._send = sent  # type: ignore[method-assign]
    psycopg.Connection.execute = executed  # type: ignore[method-assign]


def after(at: int) -> None:
    """Fall when the message number `at` was sent, and its answer is not there yet."""
    numbers = count(1)

    def exchanging(pgconn: Any, text: bytes) -> Any:
        if next(numbers) == at:
            pgconn.send_query(text)
            pgconn.flush()
            fall()
        return exchange(pgconn, text)

    exchange = apply.exchange
    apply.exchange = exchanging


@pytest.mark.parametrize("where", [before, after])
def test_killed_at_each_step(launch: Callable[[int], Armada], where: Callable[[int], None]) -> None:
    armada = launch(28)
    fallen = 0
    with Abattoir.open(armada) as abattoir:
        for at, tenant in enumerate(tenants(armada), 1):
            if not abattoir.kill(tenant, partial(where, at)):
                break
            fallen += 1
        else:
            pytest.fail("there are more steps than tenants")
    assert fallen >= 8
    report = armada.fleet().upgrade(options=replace(QUICK, busy_s=20.0))
    assert report.ok, report
    assert_whole(armada)


def test_killed_with_several_under_way(launch: Callable[[int], Armada]) -> None:
    """Tenants that share a message are transactions each: the server goes on with them, and none is done twice."""
    armada = launch(12)
    with Abattoir.open(armada) as abattoir:
        plan = abattoir.ground.plan("upgrade", "a2", Selection())
        assignment = replace(abattoir.assignment, destination="a2", options=replace(QUICK, jobs=1))

        def work(several: int) -> None:
            exchange = apply.exchange

            def exchanging(pgconn: Any, text: bytes) -> Any:
                if text.count(b"BEGIN") == several:
                    pgconn.send_query(text)
                    pgconn.flush()
                    fall()
                return exchange(pgconn, text)

            apply.exchange = exchanging
            Runner(assignment, plan, listener=unheard).tenants(abattoir.ground.compiler)

        for several in (4, 2, 2):
            assert ended(forked(partial(work, several))) == -signal.SIGKILL
    report = armada.fleet().upgrade("a2", options=replace(QUICK, busy_s=20.0))
    assert report.ok, report
    assert_whole(armada, head="a2", increments=1)


def test_without_marks_a_kill_repeats_what_was_done(
    launch: Callable[[int], Armada], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the above: a runner that leaves no marks must be seen to apply something twice."""
    monkeypatch.setattr(message, "note", lambda target, _mark: Statement("version", "SELECT 1"))
    monkeypatch.setattr(message, "guard", lambda *_: [])
    armada = launch(8)
    with Abattoir.open(armada) as abattoir:
        for at, tenant in enumerate(tenants(armada), 1):
            abattoir.kill(tenant, partial(after, at))
    armada.fleet().upgrade(options=replace(QUICK, busy_s=20.0, max_failures=99))
    sums = {armada.ask(tenant, "SELECT max(x) FROM tally")[0][0] for tenant in tenants(armada)}
    assert max(sums) > INCREMENTS or any(one.verdict != "same" for one in armada.fleet().verify())


# -- at random


def test_killed_at_random(launch: Callable[[int], Armada]) -> None:
    """Runners die one after the other, each somewhere on its way through the tenants, until twenty are dead."""
    armada = launch(16)
    word = armada.service.name
    chance = random.Random(4)
    killed = 0
    with Abattoir.open(armada) as abattoir:
        plan = abattoir.ground.plan("upgrade", "a5", Selection())
        options = replace(QUICK, busy_s=20.0, max_failures=99)

        def work() -> None:
            os.environ["MT_PAAS_KILLED"] = word
            assignment = replace(abattoir.assignment, options=replace(options, jobs=1 + killed % 3))
            Runner(assignment, plan, listener=unheard).tenants(abattoir.ground.compiler)

        while killed < 20:
            pid = forked(work)
            # A process to run revisions takes half a second to begin: some die before, some after.
            time.sleep(chance.uniform(0, 0.2) if killed % 2 else chance.uniform(0.4, 1.0))
            os.kill(pid, signal.SIGKILL)
            if ended(pid) == 0:
                break  # all is done
            killed += 1
    assert killed >= 10
    report = armada.fleet().upgrade(options=options)
    assert report.ok, report
    assert_whole(armada)
    assert processes_with(word) == []


# -- online


def test_a_worker_killed_at_each_statement(service: Service, tmp_path: Path) -> None:
    """A revision that runs online in steps: each of its statements and commits is some worker's last."""
    made = History(tmp_path / "history").add("a1", TALLY + "op.execute(\"CREATE TYPE mood AS ENUM ('calm')\")")
    armada = Armada.launch(service, tmp_path, *(f"t{n:02}" for n in range(30)), history=made)
    made.add("a2", ONLINE_IN_STEPS, after="a1")
    fallen = 0
    with Abattoir.open(armada) as abattoir:
        for at, tenant in enumerate(tenants(armada), 1):
            if not online_until(abattoir, tenant, at):
                break
            fallen += 1
        else:
            pytest.fail("there are more steps than tenants")
    assert fallen >= 8
    report = armada.fleet().upgrade(options=replace(QUICK, busy_s=20.0))
    assert report.ok, report
    assert_whole(armada, head="a2", increments=1)


def online_until(abattoir: Abattoir, tenant: str, at: int) -> bool:
    """Be the worker that carries out `a2`; return whether it fell, before the statement or commit number `at`."""
    position = next(p for p in abattoir.ground.positions() if p.target.tenant_id == tenant)
    order = Order(
        dsn=abattoir.ground.direct.dsn(position.target.entry),
        owner=abattoir.ground.direct.roles.owner,
        target=position.target,
        action="upgrade",
        start=("a1",),
        destination="a2",
        end=("a2",),
        patience=QUICK.patience,
        per_revision=False,
        allow_destructive=False,
        shared_schemas=(),
        at_home=True,
        final=True,
    )

    def work() -> None:
        numbers = count(1)

        def step(*_: Any) -> None:
            if next(numbers) == at:
                fall()

        event.listen(Engine, "before_cursor_execute", step)
        event.listen(Engine, "commit", step)
        answer = run_online(abattoir.ground.scripts, order)
        assert answer.failure is None, answer

    code = ended(forked(work))
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def test_a_worker_killed_alone_is_replaced(launch: Callable[[int], Armada], tmp_path: Path) -> None:
    armada = launch(3)
    flag = tmp_path / "flag"
    flag.touch()
    dies = f"""
    bind = op.get_bind()
    op.execute("UPDATE tally SET x = x + 1")
    import os, pathlib
    if pathlib.Path({str(flag)!r}).exists():
        if bind.execute(sa.text("SELECT current_schema()")).scalar() == {armada.schema("t01")!r}:
            pathlib.Path({str(flag)!r}).unlink()
            os.kill(os.getpid(), 9)
    """
    armada.history.add("a6", dies, after="a5")
    report = armada.fleet().upgrade(options=QUICK)
    assert report.ok, report
    assert not flag.exists()
    with armada.service.superuser() as connection:
        attempts = dict(
            connection.execute("SELECT tenant_id, attempts FROM mt_paas.outcome WHERE generation > 0").fetchall()
        )
    assert attempts["t01"] == 2
    assert_whole(armada, head="a6", increments=INCREMENTS + 1)


def test_a_worker_that_always_dies_fails_its_tenant(launch: Callable[[int], Armada]) -> None:
    armada = launch(2)
    dies = f"""
    import os
    if op.get_bind().execute(sa.text("SELECT current_schema()")).scalar() == {armada.schema("t01")!r}:
        os._exit(3)
    """
    armada.history.add("a6", dies, after="a5")
    report = armada.fleet().upgrade(options=replace(QUICK, attempts=2))
    assert (report.migrated, report.failed) == (1, 1)
    assert report.failures[0].message is not None
    assert "ended with 3" in report.failures[0].message
    assert armada.heads("t00") == ("a6",)
    assert armada.heads("t01") == ("a4",)  # where its revisions that need a connection begin
    assert_quiet(armada)


@pytest.mark.parametrize("statement", ["UPDATE tally SET x = x + 1", "SELECT 1"])
def test_what_cannot_be_told_apart_is_left_to_a_person(
    launch: Callable[[int], Armada], statement: str, tmp_path: Path
) -> None:
    """A revision that runs online, and has committed something by itself, is never run again."""
    armada = launch(1)
    flag = tmp_path / "flag"
    flag.touch()
    dies = f"""
    import os, pathlib
    op.get_bind()
    with op.get_context().autocommit_block():
        op.execute({statement!r})
        if pathlib.Path({str(flag)!r}).exists() and op.get_bind().execute(sa.text(
            "SELECT current_schema() = '{armada.schema("t00")}'")).scalar():
            os._exit(3)
    """
    armada.history.add("a6", dies, after="a5")
    fleet = armada.fleet()
    assert fleet.upgrade(options=replace(QUICK, attempts=1)).failed == 1
    flag.unlink()
    report = armada.fleet().resume()
    if statement == "SELECT 1":
        assert report.ok
        return
    assert report.failures[0].message is not None
    assert "stamp a6 --tenant t00" in report.failures[0].message
    assert armada.ask("t00", "SELECT DISTINCT x FROM tally") == [(INCREMENTS + 1,)]
    assert fleet.stamp("a6", selection=Selection(tenants=("t00",)), options=QUICK).ok
    assert_whole_but_reference(armada)


def assert_whole_but_reference(armada: Armada) -> None:
    assert armada.heads("t00") == ("a6",)
    assert armada.ask("t00", "SELECT obj_description('alembic_version'::regclass)") == [(None,)]
    assert [one.verdict for one in armada.fleet().verify()] == ["same"]
