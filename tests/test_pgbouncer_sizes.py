"""How a budget of server connections is divided among cells, in numbers. Files: tests/test_pgbouncer_config.py."""

from __future__ import annotations

from itertools import product

import pytest

from mt_paas_db.core.capacity import default_budget
from mt_paas_db.pooler.sizes import Cell, Sizes, divide
from mt_paas_db.telemetry.backend import CELL_BYTES, MB, TABLE_BYTES_AT_MOST


def cells(shared: int, own: int = 0, tenants: int = 64) -> list[Cell]:
    return [Cell(f"c{n}", f"svc_app_{n}", tenants, False) for n in range(shared)] + [
        Cell(f"svc_app_{100 + n}", f"svc_app_{100 + n}", 1, True) for n in range(own)
    ]


@pytest.mark.parametrize("budget", [1, 2, 7, 90, 997])
@pytest.mark.parametrize("shared", [0, 1, 2, 5, 40])
def test_shares_keep_to_the_budget(budget: int, shared: int) -> None:
    for own, uniform in product((0, 1, 12, 200), (False, True)):
        check_shares(divide(budget, cells(shared, own), tables=20, uniform=uniform), cells(shared, own), budget)


def check_shares(sizes: Sizes, fleet: list[Cell], budget: int) -> None:
    together = sum(map(sizes.of, fleet)) + sizes.reserve
    assert sizes.certain == (together <= budget)
    assert all(sizes.of(cell) >= 1 for cell in fleet)
    assert sizes.certain or together - sizes.reserve >= len(fleet) > budget - sizes.reserve
    assert sizes.shared >= sizes.own  # default_pool_size bounds the own logins' pools too


def test_no_more_is_left_unused_than_division_leaves() -> None:
    fleet = cells(7, 3)
    sizes = divide(97, fleet, tables=20)
    assert 97 - sum(map(sizes.of, fleet)) - sizes.reserve < 7


def test_the_reserve_costs_no_cell_half_of_its_share() -> None:
    few = divide(33, cells(16), tables=20)
    assert (few.shared, few.reserve, few.certain) == (2, 1, True)
    many = divide(64, cells(16), tables=20)
    assert (many.shared, many.reserve, many.certain) == (3, 6, True)


@pytest.mark.parametrize(
    ("tenants", "tables", "lifetime_s"),
    [(64, 20, 3600), (90, 20, 3600), (91, 20, 600), (64, 200, 600), (8, 200, 3600), (1_000, 1, 3600), (1_000, 0, 3600)],
)
def test_backends_that_many_tables_fill_live_shorter(tenants: int, tables: int, lifetime_s: int) -> None:
    assert divide(20, cells(1, tenants=tenants), tables=tables).server_lifetime_s == lifetime_s


def test_the_sizes_are_those_that_the_documentation_states() -> None:
    assert CELL_BYTES == 48 * MB
    assert round(20 * TABLE_BYTES_AT_MOST / MB, 2) == 0.53


def test_a_server_keeps_what_it_reserves() -> None:
    assert default_budget(max_connections=100, reserved=3) == 92
    assert default_budget(max_connections=5, reserved=3) == 1
