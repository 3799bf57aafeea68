"""Cells while they serve: a tenant moves, a cell is split or rotated, and no session fails.

Broken twins: the former login loses the role at once; a closed tenant loses it only from the login of its placement.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import make_url, text

from mt_paas_db.core import TenantManager, standing
from mt_paas_db.core.cell_plan import divide
from mt_paas_db.core.settling import Settled
from mt_paas_db.errors import (
    CellError,
    CellFullError,
    ConfigurationError,
    LockedError,
    PlacementChangedError,
    TenancyError,
    TenantSuspendedError,
    UnknownCellError,
)
from tests.fleet import PASSWORD, Service
from tests.ground_truth import rows
from tests.test_cells import SECRET, cells, create, members, note
from tests.test_killed import Plan, Scene
from tests.versions import init_version_4

BOUND_S = 1


@pytest.fixture
def manager(service: Service) -> TenantManager:
    """A manager of an installation whose cells hold four tenants, and whose processes remember for a second."""
    made = service.manager(cell_size=4)
    made.init()
    forget_after(service, BOUND_S)
    return made


def forget_after(service: Service, seconds: int) -> None:
    with service.superuser() as su:
        su.execute("UPDATE mt_paas.installation SET cache_bound_s = %s", (seconds,))


def login(manager: TenantManager, tenant_id: str) -> str:
    return manager.get(tenant_id).placement.login_role


def role(manager: TenantManager, tenant_id: str) -> str:
    return manager.get(tenant_id).placement.role_name


def may_take(service: Service, manager: TenantManager, tenant_id: str) -> list[str]:
    """Return the logins that may take the tenant's role."""
    wanted = role(manager, tenant_id)
    return sorted(name for name, roles in members(service).items() if wanted in roles)


class Traffic:
    """Sessions of two tenants without a pause, in a process that remembers for as long as it may."""

    def __init__(self, manager: TenantManager, *tenants: str) -> None:
        self.errors: list[Exception] = []
        self.logins: dict[str, list[str]] = {tenant: [] for tenant in tenants}
        self._manager = manager
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(tenant,)) for tenant in tenants]

    def _work(self, tenant: str) -> None:
        while not self._over.is_set():
            try:
                used = note(self._manager, tenant)
            except Exception as error:  # whatever it is, it is the test's finding
                self.errors.append(error)
            else:
                if used not in self.logins[tenant][-1:]:
                    self.logins[tenant].append(used)
            time.sleep(0.01)

    @contextmanager
    def flowing(self) -> Iterator[Traffic]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
            time.sleep(0.3)
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()


# -- move


def test_a_tenant_moves_and_no_session_fails(service: Service, manager: TenantManager) -> None:
    create(manager, "hallym", "korea")
    with Traffic(service.manager(cell_size=4), "hallym", "korea").flowing() as traffic:
        time.sleep(0.2)
        done = manager.cells.move("hallym")
    assert traffic.errors == []
    assert traffic.logins == {"hallym": [service.login, login(manager, "hallym")], "korea": [service.login]}
    assert (done.moved, done.done, done.dropped) == (("hallym",), True, ())
    assert [(stray.tenant_id, stray.login) for stray in done.revoked] == [("hallym", service.login)]
    assert members(service) == {
        service.login: [role(manager, "korea")],
        login(manager, "hallym"): [role(manager, "hallym")],
    }
    assert manager.doctor().ok
    moved, settled = reversed(manager.events("hallym", limit=2))
    assert (moved.action, moved.detail["from"], moved.detail["to"]) == ("move", "default", done.cells[0].name)
    assert (settled.action, settled.detail) == ("settle", {"login": service.login})


def test_a_former_login_that_loses_the_role_at_once_fails_sessions(service: Service, manager: TenantManager) -> None:
    """The broken twin, and what a process is told that remembers what is no longer so."""
    create(manager, "hallym")
    warm = service.manager()
    note(warm, "hallym")
    manager.cells.move("hallym", wait=False)
    with service.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET placed_at = now() - interval '1 hour'")
    manager.cells.settle()
    with pytest.raises(PlacementChangedError):
        note(warm, "hallym")
    assert note(warm, "hallym") == login(manager, "hallym")


def test_it_moves_to_a_cell_with_room_and_back(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcde")
    second = manager.get("e").placement
    assert manager.cells.move("a", second.cell).done
    assert manager.get("a").placement.login_role == second.login_role
    assert manager.cells.move("a", "default").done
    assert may_take(service, manager, "a") == [service.login]
    note(manager, "a")


def test_what_cannot_be_moved(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcde")
    with pytest.raises(CellFullError, match="MT_PAAS_DB_CELL_SIZE") as full:
        manager.cells.move("e", "default")
    assert (full.value.cell, full.value.size) == ("default", 4)
    with pytest.raises(UnknownCellError, match="cell list"):
        manager.cells.move("e", "nowhere")
    own = service.manager(login_secret=SECRET, cell_size=4)
    placement = own.create("own", tier="login").placement
    with pytest.raises(CellError, match="own"):
        own.cells.move("own", "new")
    with pytest.raises(CellError, match="own"):
        own.cells.move("e", placement.cell)
    with service.superuser() as su, su.transaction():
        su.execute("SELECT FROM mt_paas.tenant WHERE tenant_id = 'e' FOR UPDATE")
        with pytest.raises(LockedError, match="'e'"):
            manager.cells.move("e")
    with pytest.raises(CellError, match="fewer than two"):
        manager.cells.split(manager.get("e").placement.cell)
    assert manager.cells.settle() == Settled()
    assert manager.events("e", limit=1)[0].outcome == "failed"


def test_a_move_that_was_killed_is_completed_by_the_same_call(service: Service, manager: TenantManager) -> None:
    """Killed after the switch, while it waited."""
    create(manager, "a", "b")

    def dies(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manager.cells.move("a", progress=dies)
    here = manager.get("a").placement
    assert may_take(service, manager, "a") == sorted([service.login, here.login_role])
    assert manager.cells.move("a").cells[0].name == here.cell
    assert may_take(service, manager, "a") == [here.login_role]


def test_settle_takes_back_what_is_due_and_leaves_what_is_not(service: Service, manager: TenantManager) -> None:
    create(manager, "a", "b")
    forget_after(service, 60)
    waits = manager.cells.move("a", wait=False)
    assert [stray.tenant_id for stray in waits.waiting] == ["a"]
    assert not waits.done
    assert manager.cells.settle().waiting == waits.waiting
    shown = manager.cells.show("default")
    assert (shown.load.tenants, shown.load.strays, shown.strays) == (1, 1, waits.waiting)
    forget_after(service, BOUND_S)
    time.sleep(BOUND_S)
    with service.superuser() as su, su.transaction():
        su.execute("SELECT FROM mt_paas.tenant WHERE tenant_id = 'a' FOR UPDATE")
        assert [stray.tenant_id for stray in manager.cells.settle().waiting] == ["a"]
    assert [stray.tenant_id for stray in manager.cells.settle().revoked] == ["a"]
    assert manager.cells.settle() == Settled()


def test_a_tenant_that_moved_again_keeps_what_processes_may_remember(service: Service, manager: TenantManager) -> None:
    create(manager, "a", "b")
    forget_after(service, 60)
    manager.cells.move("a", wait=False)
    second = login(manager, "a")
    manager.cells.move("a", "default", wait=False)
    assert may_take(service, manager, "a") == sorted([service.login, second])
    assert manager.cells.settle().revoked == ()


def served(service: Service, manager: TenantManager, *tenants: str) -> list[str]:
    """Return the login of each tenant, by which one that has yet to remember anything is served."""
    cold = service.manager()
    logins = [login(manager, tenant) for tenant in tenants]
    for tenant, here in zip(tenants, logins, strict=True):
        assert here in may_take(service, manager, tenant)
        assert note(cold, tenant) == here
    cold.close()
    return logins


def assert_settles(service: Service, scene: Scene) -> None:
    """Once nobody can remember what was, each login reaches the tenants of its cell, and there is no other login."""
    with service.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET placed_at = now() - interval '1 hour'")
    assert scene.manager.cells.settle().done
    here = {name: [role(scene.manager, t) for t in tenants] for name, tenants in cells(scene.manager).items()}
    assert members(service) == here
    of_cells = {load.cell.login_role for load in scene.manager.cells.list()}
    assert {name for (name,) in rows(service, LOGINS, service.login)} == of_cells
    assert scene.manager.doctor().ok
    scene.connection.close()


LOGINS = "SELECT rolname FROM pg_roles WHERE rolname ~ (%s || '(_[0-9]+)?$')"


def test_a_move_killed_at_any_step_is_whole_or_was_not(service: Service) -> None:
    """However it ends, the tenant is served by the login of its placement; the same call, or settle, completes it."""
    scene = Scene(service, Plan(models=service.models))
    create(scene.manager, "a", "b")
    seen = set()
    for _ in scene.kill_at_each_step("cells.move", lambda: {"tenant_id": "b", "wait": False}):
        seen.update(served(service, scene.manager, "b"))
    assert len(seen) == 2
    assert len(scene.manager.cells.list()) == 2
    assert_settles(service, scene)


def test_a_split_killed_at_any_step_leaves_every_tenant_in_one_cell(service: Service) -> None:
    """Some have moved, in whole transactions; none is lost, and settle takes back what they have left behind."""
    service.manager().init()
    large = service.manager(cell_size=4)
    create(large, "a", "b", "c")
    forget_after(service, 3600)
    scene = Scene(service, Plan(models=service.models), {"cell_size": 1})
    seen = set()

    def words() -> dict[str, Any]:
        for tenant in "bc":
            large.cells.move(tenant, "default", wait=False)
        return {"cell": "default", "wait": False}

    for _ in scene.kill_at_each_step("cells.split", words):
        seen.add(len(set(served(service, scene.manager, "a", "b", "c"))))
    assert seen == {1, 2, 3}
    assert_settles(service, scene)


def test_a_rotation_killed_at_any_step_is_whole_or_was_not(service: Service) -> None:
    service.manager().init()
    create(service.manager(cell_size=1), "a", "b")
    forget_after(service, 3600)
    scene = Scene(service, Plan(models=service.models))
    cell, former = scene.manager.get("b").placement.cell, login(scene.manager, "b")
    seen = set()
    for _ in scene.kill_at_each_step("cells.rotate", lambda: {"cell": cell, "wait": False}):
        seen.update(served(service, scene.manager, "b"))
        assert scene.manager.get("b").placement.cell == cell
    assert former in seen
    assert len(seen) > 1
    assert_settles(service, scene)


# -- closed in the grace period


CLOSING = ["suspend", "maintenance", "archive"]


@pytest.mark.parametrize("verb", CLOSING)
def test_a_tenant_closed_while_it_moves_is_closed_to_every_login(
    service: Service, manager: TenantManager, verb: str
) -> None:
    create(manager, "a", "b")
    forget_after(service, 60)
    warm = service.manager()
    note(warm, "a")
    manager.cells.move("a", wait=False)
    note(warm, "a")  # by the former login
    getattr(manager, verb)("a")
    assert may_take(service, manager, "a") == []
    with pytest.raises(TenancyError):
        note(warm, "a")
    if verb == "suspend":
        with pytest.raises(TenantSuspendedError):
            note(warm, "a")
        manager.resume("a")
        assert note(warm, "a") == login(manager, "a")
        assert may_take(service, manager, "a") == [login(manager, "a")]


def test_who_closes_the_placements_login_alone_leaves_a_door_open(
    service: Service, manager: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin."""
    whole = standing.leave
    monkeypatch.setattr(
        standing, "leave", lambda step, tenant, logins=None: whole(step, tenant, [tenant.placement.login_role])
    )
    create(manager, "a", "b")
    forget_after(service, 60)
    warm = service.manager()
    note(warm, "a")
    manager.cells.move("a", wait=False)
    manager.suspend("a")
    assert may_take(service, manager, "a") == [service.login]
    note(warm, "a")


def test_a_closed_tenant_moves_without_being_opened(service: Service, manager: TenantManager) -> None:
    create(manager, "a", "b")
    manager.suspend("a")
    manager.cells.move("a", wait=False)
    assert may_take(service, manager, "a") == []
    manager.resume("a")
    assert may_take(service, manager, "a") == [login(manager, "a")] != [service.login]
    note(manager, "a")


# -- split


@pytest.mark.parametrize(
    ("tenants", "size", "expected"),
    [(0, 4, []), (1, 4, []), (2, 4, [1]), (3, 4, [1]), (4, 4, [2]), (5, 4, [2]), (11, 4, [4, 3]), (200, 64, [50] * 3)],
)
def test_how_a_cell_is_divided(tenants: int, size: int, expected: list[int]) -> None:
    assert divide(tenants, size) == expected
    assert not expected or tenants - sum(expected) <= size


def test_a_cell_is_split_and_no_session_fails(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcd")
    with Traffic(service.manager(cell_size=4), "a", "d").flowing() as traffic:
        done = manager.cells.split("default")
    assert traffic.errors == []
    assert done.moved == ("c", "d")
    assert sorted(cells(manager).values()) == [["a", "b"], ["c", "d"]]
    assert members(service) == {name: [role(manager, t) for t in here] for name, here in cells(manager).items()}
    assert manager.doctor().ok


def test_a_cell_far_beyond_the_size_is_split_into_several(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcd")
    small = service.manager(cell_size=1)
    assert len(small.cells.split("default").cells) == 3
    assert sorted(cells(small).values()) == [["a"], ["b"], ["c"], ["d"]]
    assert sorted(map(len, members(service).values())) == [1, 1, 1, 1]


# -- rotate


def test_a_cell_gets_a_new_login_and_no_session_fails(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcdef")
    before = manager.get("e").placement
    with Traffic(service.manager(cell_size=4), "a", "e").flowing() as traffic:
        time.sleep(0.1)
        done = manager.cells.rotate(before.cell)
    after = manager.get("e").placement
    assert traffic.errors == []
    assert traffic.logins["e"] == [before.login_role, after.login_role]
    assert after.cell == before.cell
    assert after.login_role != before.login_role
    assert (done.moved, done.dropped, done.done) == (("e", "f"), (before.login_role,), True)
    assert rows(service, "SELECT FROM pg_roles WHERE rolname = %s", before.login_role) == []
    assert members(service)[after.login_role] == [role(manager, "e"), role(manager, "f")]
    assert manager.doctor().ok
    create(manager, "g")
    assert login(manager, "g") == after.login_role


def test_a_former_login_with_a_transaction_open_is_dropped_another_time(
    service: Service, manager: TenantManager
) -> None:
    create(manager, *"abcde")
    former = manager.get("e").placement
    with manager.get_session("e") as session:
        session.execute(text("SELECT 1"))
        done = manager.cells.rotate(former.cell)
        assert (done.in_use, done.dropped, done.done) == ((former.login_role,), (), False)
        session.execute(text("SELECT 1"))  # goes on to its end
    assert rows(service, "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", former.login_role) == [(False,)]
    manager.close()
    assert manager.cells.settle().dropped == (former.login_role,)


def test_an_empty_cell_is_rotated_at_once(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcde")
    former = manager.get("e").placement
    manager.archive("e")
    manager.delete("e", confirm="e")
    assert manager.cells.rotate(former.cell).dropped == (former.login_role,)


def test_the_first_cells_password_is_set_in_place_and_those_derived_from_it(
    service: Service, manager: TenantManager
) -> None:
    create(manager, *"abcde")
    cluster = {
        "app_dsn": service.server.dsn(service.database, user=service.login, password="changed"),
        "admin_dsn": service.server.dsn(service.database),
    }
    changed = service.manager(clusters={"main": cluster}, cell_size=4)
    assert changed.cells.rotate("default").cells[0].login_role == service.login
    for tenant_id in "ae":
        note(changed, tenant_id)
    with pytest.raises(TenancyError):
        note(service.manager(), "a")


def test_a_login_that_the_provider_knows_is_set_in_place(service: Service, manager: TenantManager) -> None:
    create(manager, *"abcde")
    placement = manager.get("e").placement
    settings = service.settings(cell_size=4)
    of_the_settings = manager._credentials

    def provide(entry: str, purpose: Any, /) -> str | None:
        if entry == f"main/{placement.login_role}":
            return service.server.dsn(service.database, user=placement.login_role, password="provided")
        return of_the_settings(entry, purpose)

    knowing = TenantManager(settings, models=service.models, credentials=provide)
    service.managers.append(knowing)
    knowing.cells.rotate(placement.cell)
    assert knowing.get("e").placement == placement
    assert note(knowing, "e") == placement.login_role
    with pytest.raises(TenancyError, match=placement.login_role):
        note(service.manager(), "e")


def test_a_password_that_is_not_there_cannot_be_set(service: Service, manager: TenantManager) -> None:
    app = make_url(service.server.dsn(service.database)).set(username=service.login, password=None)
    cluster = {"app_dsn": app.render_as_string(), "admin_dsn": service.server.dsn(service.database)}
    bare = service.manager(clusters={"main": cluster})
    with pytest.raises(ConfigurationError, match="no password"):
        bare.cells.rotate("default")


# -- around


def test_an_admin_that_is_no_superuser_can_do_it_all(service: Service) -> None:
    with service.managed() as admin:
        dsn = service.server.dsn(service.database, user=admin, password=PASSWORD)
        cluster = {"app_dsn": service.server.dsn(service.database, user=service.login, password=PASSWORD)}
        manager = service.manager(clusters={"main": {**cluster, "admin_dsn": dsn}}, cell_size=2)
        manager.init()
        forget_after(service, BOUND_S)
        create(manager, "a", "b", "c")
        assert manager.cells.move("a", manager.get("c").placement.cell).done
        former = login(manager, "c")
        manager.close()
        assert manager.cells.rotate(manager.get("c").placement.cell).dropped == (former,)
        assert len(manager.cells.split(manager.get("c").placement.cell).moved) == 1
        manager.suspend("a")
        manager.resume("a")
        for tenant_id in "abc":
            note(manager, tenant_id)
        assert manager.doctor().ok


def test_a_catalog_of_the_version_before_has_one_cell_and_says_so(service: Service) -> None:
    init_version_4(service.manager())
    manager = service.manager(cell_size=1)
    create(manager, "a", "b")
    assert cells(manager) == {service.login: ["a", "b"]}
    for verb in (manager.cells.list, manager.cells.settle, lambda: manager.cells.split("default")):
        with pytest.raises(ConfigurationError, match="mt-paas-db init"):
            verb()


def test_a_role_that_only_looks_like_a_login_is_left_alone(service: Service, manager: TenantManager) -> None:
    with service.superuser() as su:
        su.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"{service.login}_4711")))
    assert manager.cells.settle().dropped == ()
