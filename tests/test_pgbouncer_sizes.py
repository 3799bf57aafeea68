"""How a budget of server connections is divided among cells, in numbers. Files: tests/test_pgbouncer_config.py."""

from __future__ import annotations

from itertools import product

import pytest

from mt_paas_db.pooler.sizes import Cell, Sizes, default_budget, divide


def cells(shared: int, own: int = 0, tenants: int = 64) -> list[Cell]:
    return [Cell(f"c{n}", f"svc_app_{n}", tenants, False) for n in range(shared)] + [
        Cell(f"svc_app_{100 + n}", f"svc_app_{100 + n}", 1, True) for n in range(own)
    ]


@pytest.mark.parametrize("budget", [1, 2, 7, 90, 997])
@pytest.mark.parametrize("shared", [0, 1, 2, 5, 40])
def test_shares_keep_to_the_budget(budget: int, shared: int) -> None:
    for own, uniform in product((0, 1, 12, 200), (False, True)):
        check_shares(divide(budget, cells(shared, own), uniform=uniform), cells(shared, own), budget)


def check_shares(sizes: Sizes, fleet: list[Cell], budget: int) -> None:
    together = sum(map(sizes.of, fleet)) + sizes.reserve
    assert sizes.certain == (together <= budget)
    assert all(sizes.of(cell) >= 1 for cell in fleet)
    assert sizes.certain or together - sizes.reserve >= len(fleet) > budget - sizes.reserve
    assert sizes.shared >= sizes.own  # default_pool_size bounds the own logins' pools too


def test_no_more_is_left_unused_than_division_leaves() -> None:
    fleet = cells(7, 3)
    sizes = divide(97, fleet)
    assert 97 - sum(map(sizes.of, fleet)) - sizes.reserve < 7


def test_the_reserve_costs_no_cell_half_of_its_share() -> None:
    few = divide(33, cells(16))
    assert (few.shared, few.reserve, few.certain) == (2, 1, True)
    many = divide(64, cells(16))
    assert (many.shared, many.reserve, many.certain) == (3, 6, True)


def test_backends_of_a_full_cell_live_shorter() -> None:
    assert divide(20, cells(1, tenants=64)).server_lifetime_s == 3600
    assert divide(20, cells(1, tenants=1000)).server_lifetime_s == 600


def test_a_server_keeps_what_it_reserves() -> None:
    assert default_budget(max_connections=100, reserved=3) == 92
    assert default_budget(max_connections=5, reserved=3) == 1
