"""A process killed at any step leaves nothing, or a tenant that the next call completes.

A child of its own is killed with SIGKILL before its first statement or COMMIT, the next before its second, and so
on until one gets through. What each left is looked at by a superuser, and then completed by another process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, event
from sqlalchemy.orm import Session

from mt_paas_db.catalog.settings import Settings
from mt_paas_db.catalog.values import Tenant
from mt_paas_db.core import TenantManager
from mt_paas_db.errors import TenantNotReadyError, TenantSuspendedError, UnknownTenantError
from tests.fingerprint import fingerprint, strays
from tests.fleet import Service
from tests.histories import in_one_transaction, in_steps
from tests.models import Base, Note

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.test_killed", "mt_paas_db.core.manager", "psycopg"])

ABSENT = "absent"


def first_note(session: Session, tenant: Tenant) -> None:
    session.add(Note(body=f"welcome, {tenant.display_name}"))


@dataclass(frozen=True)
class Plan:
    """What a process is told about its tenants; it must travel to another process."""

    models: Any = None
    script_location: str | None = None
    seed: Callable[[Session, Tenant], None] | None = None

    def manager(self, settings: Settings) -> TenantManager:
        return TenantManager(settings, models=self.models, script_location=self.script_location, seed=self.seed)


def act_and_die(settings: Settings, plan: Plan, verb: str, words: dict[str, Any], at: int) -> None:
    """Be the child: call `verb`, and die before the statement or COMMIT number `at`."""
    steps = count(1)

    def step(*_: Any) -> None:
        if next(steps) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)
    attrgetter(verb)(plan.manager(settings))(**words)


@dataclass
class Scene:
    """One service in which children die, what a superuser sees of it, and a process that comes later."""

    service: Service
    plan: Plan
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = self.service.settings(**self.options)
        self.manager = self.plan.manager(self.settings)
        self.service.managers.append(self.manager)
        self.manager.init()
        self.connection = self.service.superuser()

    def kill_at_each_step(self, verb: str, words: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Call `verb` in a child that is killed, one step later each time, at last not at all; yield after each."""
        for at in count(1):
            child = _processes.Process(target=act_and_die, args=(self.settings, self.plan, verb, words(), at))
            child.start()
            child.join(60)
            assert child.exitcode in (0, -signal.SIGKILL), f"at step {at} the child ended with {child.exitcode}"
            self._wait_for_its_backends()
            yield
            if child.exitcode == 0:
                assert at > 9, "the child was through before it could be killed"
                return

    def _wait_for_its_backends(self) -> None:
        """The server notices that a client is gone when it next reads from it."""
        for _ in range(2_000):
            if not self.connection.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' "
                "AND pid <> pg_backend_pid() AND usename = current_user"
            ).fetchone():
                return
            self.connection.execute("SELECT pg_sleep(0.005)")
        raise AssertionError("the killed process's transaction is still open")

    def state(self, tenant_id: str) -> str:
        row = self.connection.execute("SELECT state FROM mt_paas.tenant WHERE tenant_id = %s", (tenant_id,)).fetchone()
        return str(row[0]) if row else ABSENT

    def serves(self, tenant_id: str) -> bool:
        try:
            with self.manager.get_session(tenant_id) as session:
                session.connection()
        except (UnknownTenantError, TenantNotReadyError, TenantSuspendedError):
            return False
        return True

    def tables_of(self, tenant_id: str) -> int:
        schema = self.manager.get(tenant_id).placement.schema_name
        row = self.connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = %s", (schema,)).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def opened(service: Service) -> Iterator[Callable[[Plan], Scene]]:
    scenes: list[Scene] = []

    def open_scene(plan: Plan) -> Scene:
        scenes.append(Scene(service, plan))
        return scenes[-1]

    yield open_scene
    for scene in scenes:
        scene.connection.close()


# -- creation


def assert_creation_survives(scene: Scene, *, leaves: set[str]) -> None:
    """Where a child leaves nothing, the next child is the next call; what it leaves half made is completed here."""
    name = "한림대학교"
    whole = fingerprint(scene.service, scene.manager.create("undisturbed", display_name=name, aliases=["u.ac.kr"]))
    numbers, seen = count(1), set()
    tenant_id = f"k{next(numbers)}"

    def words() -> dict[str, Any]:
        return {"tenant_id": tenant_id, "display_name": name, "aliases": [f"{tenant_id}.ac.kr"]}

    for _ in scene.kill_at_each_step("create", words):
        state = scene.state(tenant_id)
        seen.add(state)
        assert strays(scene.service) == set()
        assert scene.serves(tenant_id) == (state == "active")
        if state == ABSENT:
            continue
        if state != "active":
            scene.manager.create(**words())
        tenant = scene.manager.get(tenant_id)
        assert tenant.aliases == (f"{tenant_id}.ac.kr",)
        assert fingerprint(scene.service, tenant) == whole
        assert scene.serves(tenant_id)
        tenant_id = f"k{next(numbers)}"
    assert seen == leaves


def test_creation_from_models(opened: Callable[[Plan], Scene]) -> None:
    assert_creation_survives(opened(Plan(models=Base, seed=first_note)), leaves={ABSENT, "active"})


def test_creation_from_revisions_in_one_transaction(opened: Callable[[Plan], Scene], tmp_path: Path) -> None:
    plan = Plan(script_location=in_one_transaction(tmp_path / "history").location)
    assert_creation_survives(opened(plan), leaves={ABSENT, "active"})


def test_creation_from_revisions_in_steps(opened: Callable[[Plan], Scene], tmp_path: Path) -> None:
    plan = Plan(script_location=in_steps(tmp_path / "history").location)
    assert_creation_survives(opened(plan), leaves={ABSENT, "provisioning", "active"})


# -- deletion

MANY = MetaData()
for _number in range(120):
    Table(f"t{_number:03}", MANY, Column("id", Integer, primary_key=True, autoincrement=False))


def test_deletion(opened: Callable[[Plan], Scene]) -> None:
    """While a child leaves the tenant archived, the next child is the next call."""
    scene = opened(Plan(models=MANY))
    seen, tables = set(), set()
    state = ABSENT

    def words() -> dict[str, Any]:
        if state == ABSENT:
            scene.manager.create("hallym")
            scene.manager.archive("hallym")
        return {"tenant_id": "hallym", "confirm": "hallym"}

    for _ in scene.kill_at_each_step("delete", words):
        state = scene.state("hallym")
        seen.add(state)
        assert strays(scene.service) == set()
        assert not scene.serves("hallym")
        if state == "archived":
            assert scene.tables_of("hallym") == 120
        elif state == "deleting":
            tables.add(scene.tables_of("hallym"))
            scene.manager.delete("hallym", confirm="hallym")
            state = scene.state("hallym")
            assert strays(scene.service) == set()
    assert state == ABSENT
    assert seen == {"archived", "deleting", ABSENT}
    assert {0, 120} < tables, "no child died between two batches"


# -- the other states: one transaction each


@pytest.mark.parametrize(
    ("before", "verb", "after"),
    [
        ("active", "suspend", "suspended"),
        ("active", "read_only", "read_only"),
        ("active", "archive", "archived"),
        ("read_only", "resume", "active"),
        ("suspended", "resume", "active"),
    ],
)
def test_a_move_is_whole_or_was_not(opened: Callable[[Plan], Scene], before: str, verb: str, after: str) -> None:
    scene = opened(Plan(models=Base, seed=first_note))
    manager = scene.manager
    ways: dict[str, Callable[[str], Tenant]] = {
        "active": manager.get,
        "suspended": manager.suspend,
        "read_only": manager.read_only,
        "archived": manager.archive,
    }
    for tenant_id in ("hallym", "before", "after"):
        manager.create(tenant_id)
    ways[before]("hallym")
    whole = {before: shape(scene, ways[before]("before")), after: shape(scene, ways[after]("after"))}
    seen = set()
    for _ in scene.kill_at_each_step(verb, lambda: {"tenant_id": "hallym"}):
        state = scene.state("hallym")
        seen.add(state)
        assert shape(scene, manager.get("hallym")) == whole[state]
        assert scene.serves("hallym") == (state in ("active", "read_only"))
    assert seen == {before, after}


def shape(scene: Scene, tenant: Tenant) -> dict[str, list[str]]:
    """The fingerprint, without rows (the seed names the tenant) and the catalog's note of what was withheld."""
    parts = fingerprint(scene.service, tenant)
    return {part: rows for part, rows in parts.items() if not part.startswith(("rows of", "catalog"))}
