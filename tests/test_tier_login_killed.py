"""Tier `login`: a process killed at any step of a verb leaves nothing that calling it again does not complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fleet import Service
from tests.histories import in_steps
from tests.models import Base
from tests.test_killed import ABSENT, Plan, Scene
from tests.test_tier_login import SECRET


@pytest.fixture
def opened(service: Service) -> Iterator[Callable[[Plan], Scene]]:
    scenes: list[Scene] = []

    def open_scene(plan: Plan) -> Scene:
        scenes.append(Scene(service, plan, {"login_secret": SECRET, "tier": "login"}))
        return scenes[-1]

    yield open_scene
    for scene in scenes:
        scene.connection.close()


def logins(scene: Scene) -> tuple[set[str], set[str]]:
    """Return the own logins that the server has, and those of the catalog's tenants."""
    found = scene.connection.execute(
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (f"{scene.service.login}_",)
    ).fetchall()
    known = scene.connection.execute("SELECT name FROM mt_paas.cell WHERE name = login_role").fetchall()
    cells = scene.connection.execute("SELECT cell FROM mt_paas.tenant").fetchall()
    assert sorted(known) == sorted(cells)
    return {name for (name,) in found}, {name for (name,) in known}


def connects(scene: Scene, dsn: str) -> bool:
    try:
        with psycopg.connect(dsn) as connection:
            connection.execute("SELECT count(*) FROM note")
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("way", ["models", "steps"])
def test_creation(opened: Callable[[Plan], Scene], tmp_path: Path, way: str) -> None:
    plan = Plan(models=Base) if way == "models" else Plan(script_location=in_steps(tmp_path / "history").location)
    scene, number, seen = opened(plan), 1, set()

    def words() -> dict[str, Any]:
        return {"tenant_id": f"k{number}"}

    for _ in scene.kill_at_each_step("create", words):
        tenant_id = f"k{number}"
        state = scene.state(tenant_id)
        seen.add(state)
        found, known = logins(scene)
        assert found == known
        assert scene.serves(tenant_id) == (state == "active")
        if state == ABSENT:
            continue
        if state != "active":
            scene.manager.create(tenant_id)
        with psycopg.connect(scene.manager.dsn(tenant_id)) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (
                scene.manager.get(tenant_id).placement.role_name,
            )
        number += 1
    assert seen == {ABSENT, "active"} | ({"provisioning"} if way == "steps" else set())


def test_suspension(opened: Callable[[Plan], Scene]) -> None:
    """Suspended is what the catalog says only once the login is locked; a backend that is left, the doctor finds."""
    scene, seen = opened(Plan(models=Base)), set()
    scene.manager.create("hallym")
    dsn = scene.manager.dsn("hallym")
    library = psycopg.connect(dsn, autocommit=True)
    for _ in scene.kill_at_each_step("suspend", lambda: {"tenant_id": "hallym"}):
        state = scene.state("hallym")
        seen.add(state)
        assert connects(scene, dsn) == (state == "active")
        assert scene.serves("hallym") == (state == "active")
        if state == "active":
            continue
        with suppress(psycopg.OperationalError):
            library.execute("SELECT 1")
            said = [f.message for result in scene.manager.doctor().results for f in result.findings]
            assert any("is still connected" in message for message in said)
        scene.manager.resume("hallym")
        assert connects(scene, dsn)
        library.close()
        library = psycopg.connect(dsn, autocommit=True)
    library.close()
    assert seen == {"active", "suspended"}


def test_deletion(opened: Callable[[Plan], Scene]) -> None:
    scene, state = opened(Plan(models=Base)), ABSENT

    def words() -> dict[str, Any]:
        if state == ABSENT:
            scene.manager.create("hallym")
            scene.manager.archive("hallym")
        return {"tenant_id": "hallym", "confirm": "hallym"}

    for _ in scene.kill_at_each_step("delete", words):
        state = scene.state("hallym")
        found, known = logins(scene)
        assert found == known
        if state == "deleting":
            scene.manager.delete("hallym", confirm="hallym")
            state = scene.state("hallym")
            assert logins(scene) == (set(), set())
    assert state == ABSENT
