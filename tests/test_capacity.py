"""How many more tenants there is room for: a pure model, over figures measured or said to be unknown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_paas_db.core.capacity import CELL_BYTES, Capacity, Limit, Measured, capacity
from tests.fleet import Service
from tests.test_cli import CommandLine, bare, mt

__all__ = ["bare", "mt"]

GIB = 1024**3

FLEET = Measured(
    tenants=1_000, largest_cell=64, version=18, connections=40, max_connections=200, reserved=3, pool_size=15,
    cell_size=64, max_tenants=64, locks=64 * 200, tables=20_000, relations=60_000, bytes=2 * GIB,
    database_bytes=3 * GIB, catalogs_bytes=GIB, shared_buffers_bytes=GIB, processes=4, tenant_bytes=400_000,
    memory_bytes=16 * GIB, disk_bytes=100 * GIB,
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
        for name in ("tenants", "largest_cell", "connections", "locks", "tables", "bytes", "shared_buffers_bytes")
    },
    tenant_bytes=st.none() | st.integers(0, 10**7),
    memory_bytes=st.none() | st.integers(0, 2**40),
    processes=st.none() | st.integers(1, 1_000),
    cell_size=st.integers(1, 10**4),
    max_tenants=st.none() | st.integers(1, 10**4),
)


@given(figures)
def test_the_tightest_comes_first_and_nothing_is_negative(measured: Measured) -> None:
    found: Capacity = capacity(measured)
    known = [limit.more_tenants for limit in found.limits if limit.more_tenants is not None]
    assert known == sorted(known)
    assert found.more_tenants == (known[0] if known else None)
    assert min(known, default=0) >= 0
    if known:
        assert found.limits[0].more_tenants == known[0]


@given(figures, st.sampled_from(["locks", "memory_bytes"]), st.integers(1, 10**6))
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
    document = mt.json("doctor", "--capacity", "--memory", "16GB")
    assert document["measured"]["memory_bytes"] == 16 * GIB
    assert document["more_tenants"] > 0
    assert [limit["id"] for limit in document["limits"] if not limit["known"]] == ["disk"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--memory", "16GB"),
        ("--capacity", "--ready"),
        ("--capacity", "--memory", "much"),
        ("--capacity", "--disk", "0"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(bare: CommandLine, arguments: tuple[str, ...]) -> None:
    bare("doctor", *arguments, code=2)
