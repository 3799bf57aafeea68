"""How many more tenants there is room for: a pure model, over figures measured or said to be unknown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_paas_db.core.capacity import Capacity, Limit, Measured, capacity
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.telemetry.backend import CELL_BYTES
from tests.fleet import Service
from tests.test_cli import CommandLine, bare, mt

__all__ = ["bare", "mt"]

GIB = 1024**3

FLEET = Measured(
    tenants=1_000, largest_cell=64, cells=16, own_logins=0, version=18, connections=40, max_connections=200, reserved=3,
    pooler="direct", pooling="process", tier="role", pool_size=15, cell_size=64, max_tenants=64, locks=64 * 200,
    tables=20_000, relations=60_000, bytes=2 * GIB, database_bytes=3 * GIB, catalogs_bytes=GIB,
    shared_buffers_bytes=GIB, processes=4, tenant_bytes=400_000, memory_bytes=16 * GIB, disk_bytes=100 * GIB,
)  # fmt: skip


def limits(**changes: Any) -> dict[str, Limit]:
    return {limit.id: limit for limit in capacity(dataclasses.replace(FLEET, **changes)).limits}


def more(id_: str, **changes: Any) -> int | None:
    limit = limits(**changes)[id_]
    assert limit.known
    return limit.more_tenants


def test_the_limits_follow_from_the_figures() -> None:
    assert more("locks", locks=30_000) == 500  # 10,000 places left, 20 tables each
    assert more("locks") == 0  # 20,000 tables, 12,800 places
    assert more("memberships") is None
    assert more("memberships", version=15, cell_size=1_000, largest_cell=300) == 100
    assert more("memberships", version=18, cell_size=1_000, largest_cell=300) == 366
    assert more("remembered") == 49_000
    assert more("cell") is None  # 25.6 MB
    assert more("cell", tenant_bytes=1_000_000) == 0
    assert more("cell", tenant_bytes=1_000_000, largest_cell=10) == CELL_BYTES // 1_000_000 - 10
    assert more("cell", tenant_bytes=1_000_000, max_tenants=40) is None
    assert more("memory") is None
    assert more("memory", processes=None, memory_bytes=4 * GIB, max_connections=400) == 0
    assert more("disk") == 97 * GIB // -(-3 * GIB // 1_000)
    assert "10 more processes" in limits()["connections"].why


def test_behind_pgbouncer_its_budget_bounds_the_server() -> None:
    pooled: dict[str, Any] = {"pooler": "pgbouncer", "max_tenants": None, "memory_bytes": 5 * GIB}
    found = limits(**pooled)
    assert "more processes" not in found["connections"].why
    for id_ in ("connections", "memory"):
        assert "192" in found[id_].why
        assert "without --budget" in found[id_].why
    assert found["memory"].more_tenants == 0  # 192 backends of 27.6 MB each, whatever the processes have
    given = limits(**pooled, budget=60)
    assert "60 backends (PgBouncer's budget, as given)" in given["memory"].why
    assert given["memory"].more_tenants is None
    assert "PgBouncer has 60, as given" in given["connections"].why
    assert "more than the server gives" in limits(**pooled, budget=300)["connections"].why
    assert limits(**pooled, budget=300)["memory"].why.startswith("197 backends")


def test_without_pools_pool_size_bounds_nothing() -> None:
    found = limits(pooling="none", max_tenants=1)
    assert "pool_size" not in found["connections"].why
    assert "room for 157 more" in found["connections"].why
    assert found["memory"].why.startswith("197 backends (all the server allows), each at its fullest with 1 tenants")
    assert "places" not in found


@pytest.mark.parametrize(
    ("changes", "bound", "room"),
    [
        ({}, 15, 0),  # 16 cells
        ({"pool_size": 20}, 20, 4 * 64 + 24),
        ({"pool_size": 16}, 16, 24),
        ({"pool_size": 20, "own_logins": 10}, 20, 4 * 64),  # 6 shared cells of 165 are full
        ({"pool_size": 20, "tier": "login"}, 20, 4),
        ({"pooler": "pgbouncer"}, 15, 0),
        ({"pool_size": 30, "pooler": "pgbouncer", "budget": 20}, 20, 4 * 64 + 24),
        ({"pooling": "none", "pooler": "pgbouncer"}, 192, 176 * 64 + 24),
    ],
)
def test_more_cells_than_places_take_connections_from_each_other(
    changes: dict[str, Any], bound: int, room: int
) -> None:
    found = limits(**changes)["places"]
    assert (found.bound, found.used, found.unit, found.more_tenants) == (bound, 16, "cells", room)
    assert found.advisory
    assert f"{bound * (1 if 'tier' in changes else 64):,} tenants" in found.why


def test_tools_and_comfort_do_not_decide() -> None:
    full = capacity(dataclasses.replace(FLEET, tenants=10_000, cells=157, tables=200_000, tenant_bytes=1_000_000))
    assert [limit.id for limit in full.passed] == ["locks", "places", "cell"]
    assert full.tightest is not None
    assert full.tightest.id == "disk"
    assert full.more_tenants == full.tightest.more_tenants
    assert {limit["id"] for limit in full.as_dict()["limits"] if limit["advisory"]} == {
        "locks", "memberships", "remembered", "places", "cell"
    }  # fmt: skip
    anything = capacity(dataclasses.replace(FLEET, tables=200_000, disk_bytes=None))
    assert (anything.tightest, anything.more_tenants) == (None, None)
    assert capacity(dataclasses.replace(FLEET, disk_bytes=FLEET.database_bytes)).more_tenants == 0


@pytest.mark.parametrize("name", ["tenant_bytes", "memory_bytes", "disk_bytes", "database_bytes"])
def test_what_is_not_known_is_said_and_not_guessed(name: str) -> None:
    nothing: dict[str, Any] = {name: None}
    found = capacity(dataclasses.replace(FLEET, **nothing, unknown=((name, "nobody told"),)))
    unknown = [limit for limit in found.limits if not limit.known]
    assert unknown
    assert found.limits[-len(unknown) :] == tuple(unknown)
    for limit in unknown:
        assert (limit.bound, limit.used, limit.more_tenants) == (None, None, None)
        assert "nobody told" in limit.why


def test_a_fleet_without_tenants_has_no_figures_for_each() -> None:
    empty = limits(tenants=0, largest_cell=0, tables=0, relations=0, tenant_bytes=None)
    assert empty["locks"].more_tenants is None
    assert not empty["disk"].known
    assert not empty["cell"].known


figures = st.builds(
    dataclasses.replace,
    st.just(FLEET),
    **{
        name: st.integers(0, 10**7)
        for name in (
            "tenants",
            "largest_cell",
            "cells",
            "connections",
            "locks",
            "tables",
            "bytes",
            "shared_buffers_bytes",
        )
    },
    tenant_bytes=st.none() | st.integers(0, 10**7),
    memory_bytes=st.none() | st.integers(0, 2**40),
    processes=st.none() | st.integers(1, 1_000),
    cell_size=st.integers(1, 10**4),
    max_tenants=st.none() | st.integers(1, 10**4),
    pooler=st.sampled_from(["direct", "pgbouncer"]),
    pooling=st.sampled_from(["process", "none"]),
    own_logins=st.integers(0, 100),
    tier=st.sampled_from(["role", "login"]),
    budget=st.none() | st.integers(1, 1_000),
)


@given(figures)
def test_the_tightest_comes_first_and_nothing_is_negative(measured: Measured) -> None:
    found: Capacity = capacity(measured)
    for advisory in (True, False):
        known = [i.more_tenants for i in found.limits if i.advisory == advisory and i.more_tenants is not None]
        assert known == sorted(known)
        assert min(known, default=0) >= 0
    assert found.more_tenants == (known[0] if known else None)
    if known:
        assert found.limits[0].more_tenants == known[0]


@given(figures, st.sampled_from(["disk_bytes", "memory_bytes"]), st.integers(1, 10**6))
def test_more_of_something_never_makes_room_for_less(measured: Measured, name: str, by: int) -> None:
    if getattr(measured, name) is None:
        return
    before = capacity(measured).more_tenants
    after = capacity(dataclasses.replace(measured, **{name: getattr(measured, name) + by})).more_tenants
    assert after is None or (before is not None and after >= before)


def test_a_tenant_is_measured_on_a_fresh_backend(fleet: Service) -> None:
    found = fleet.manager().capacity(disk_bytes=10 * GIB).measured
    assert (found.tenants, found.largest_cell) == (2, 2)
    assert found.tables == 2 * len(fleet.models.metadata.tables)
    assert found.tenant_bytes is not None
    assert 5_000 < found.tenant_bytes / len(fleet.models.metadata.tables) < 100_000
    assert found.memory_bytes is None or found.memory_bytes > 2**28
    with fleet.superuser() as su:
        row = su.execute("SHOW max_connections").fetchone()
    assert row is not None
    assert found.max_connections == int(row[0])


def test_the_settings_say_through_what_sessions_go(fleet: Service) -> None:
    direct = fleet.manager().capacity().measured
    assert (direct.cells, direct.own_logins, direct.tier) == (1, 0, "role")
    assert (direct.pooler, direct.pooling, direct.max_tenants, direct.budget) == ("direct", "process", 64, None)
    assert fleet.manager(pooling="none").capacity().measured.max_tenants == 1
    cluster = fleet.settings().clusters["main"].model_dump() | {"pooler": "pgbouncer:1.24"}
    behind = fleet.manager(clusters={"main": cluster}).capacity(budget=60).measured
    assert (behind.pooler, behind.max_tenants, behind.budget) == ("pgbouncer", None, 60)
    with pytest.raises(ConfigurationError, match="POOLER=pgbouncer"):
        fleet.manager().capacity(budget=60)


def test_one_tenant_is_not_enough_to_measure(service: Service) -> None:
    manager = service.manager()
    manager.init()
    manager.create("hallym")
    found = manager.capacity().measured
    assert found.tenant_bytes is None
    assert "two tenants" in dict(found.unknown)["tenant_bytes"]


def test_an_admin_who_may_not_look_is_told_what_is_missing(service: Service) -> None:
    with service.managed() as admin:
        dsn = service.server.dsn(service.database, user=admin, password="not-a-secret")
        settings = service.settings()
        cluster = settings.clusters["main"].model_dump() | {"admin_dsn": dsn}
        manager = service.manager(clusters={"main": cluster})
        manager.init()
        for tenant_id in ("hallym", "korea"):
            manager.create(tenant_id)
        found = manager.capacity()
    assert {"tenant_bytes", "memory_bytes"} <= dict(found.measured.unknown).keys()
    assert {limit.id for limit in found.limits if not limit.known} == {"cell", "memory", "disk"}


def test_guarded_tables_are_measured_too(service: Service) -> None:
    manager = service.manager(guards=True)
    manager.init()
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    found = manager.capacity().measured
    assert found.tenant_bytes is not None
    assert found.tenant_bytes > 5_000


def test_the_command_shows_every_limit(mt: CommandLine) -> None:
    for tenant_id in ("hallym", "korea"):
        mt("tenant", "create", tenant_id)
    shown = mt("doctor", "--capacity", "--memory", "16GB", "--disk", "100 GB", "--processes", "4").out
    for limit in capacity(FLEET).limits:
        assert f"\n{limit.id}" in shown
    assert "(advisory)" in shown
    assert "more tenants, by disk" in shown
    document = mt.json("doctor", "--capacity", "--memory", "16GB")
    assert document["measured"]["memory_bytes"] == 16 * GIB
    assert document["more_tenants"] is None
    assert [limit["id"] for limit in document["limits"] if not limit["known"]] == ["disk"]


def test_room_for_none_is_a_failure_and_an_advisory_limit_is_not(
    mt: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MT_PAAS_DB_CELL_SIZE", "1")
    monkeypatch.setenv("MT_PAAS_DB_POOL_SIZE", "1")
    for tenant_id in ("hallym", "korea"):
        mt("tenant", "create", tenant_id)
    assert "no room left by places: advisory" in mt("doctor", "--capacity").out
    assert "room for 0 more tenants, by disk" in mt("doctor", "--capacity", "--disk", "1MB", code=1).out
    mt("doctor", "--capacity", "--budget", "60", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--memory", "16GB"),
        ("--budget", "60"),
        ("--capacity", "--ready"),
        ("--capacity", "--memory", "much"),
        ("--capacity", "--disk", "0"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(bare: CommandLine, arguments: tuple[str, ...]) -> None:
    bare("doctor", *arguments, code=2)
