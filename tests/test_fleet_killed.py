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
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

from mt_paas_db.migrate import apply, message
from mt_paas_db.migrate.apply import Application
from mt_paas_db.migrate.compiler import Compiler
from mt_paas_db.migrate.fleet import Fleet
from mt_paas_db.migrate.ledger import Position
from mt_paas_db.migrate.message import Statement
from mt_paas_db.migrate.migrator import Assignment, Migrator, TryAgainError
from mt_paas_db.migrate.online import Order, run_online
from mt_paas_db.migrate.runner import Runner
from mt_paas_db.migrate.scripts import Scripts
from tests.armada import QUICK, Armada
from tests.fleet import Service
from tests.histories import History

ROWS = 5

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
        assert connection.execute(
            "SELECT * FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchall() == []


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """Do `work` in a child that ends with it, and yield its process id; wait for it when the block ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.waitpid(pid, 0)


def children_of(group: str) -> list[int]:
    """The processes that serve revisions and were started with this word in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and group.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue
    return found


def test_killed_at_random(launch: Callable[[int], Armada]) -> None:
    """Sixteen runners die one after the other, each somewhere on its way through the tenants."""
    armada = launch(12)
    options = replace(QUICK, busy_s=20.0)
    chance = random.Random(4)
    word = f"MT_PAAS_KILLED={armada.service.name}"
    name, value = word.split("=")
    spans = [0.6]  # how long a run takes that nobody kills is not known: grows where runs come to their end
    killed = 0
    for number in range(16):
        reading, writing = os.pipe()

        def work(writing: int = writing) -> None:
            os.environ[name] = value
            begin = Runner.tenants

            def tenants(runner: Runner, compiler: Compiler) -> None:
                os.write(writing, b"!")
                begin(runner, compiler)

            Runner.tenants = tenants  # type: ignore[method-assign]
            armada.fleet().upgrade(options=replace(options, jobs=1 + number % 3, max_failures=99))

        with forked(work) as pid:
            os.close(writing)
            with os.fdopen(reading, "rb") as told:
                told.read(1)
            time.sleep(chance.uniform(0, spans[0]))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, os.WNOHANG)
        killed += os.WIFSIGNALED(status)
    assert killed >= 0
    report = armada.fleet().upgrade(options=options)
    assert report.ok, report
    assert_whole(armada)
    assert children_of(word) == []
