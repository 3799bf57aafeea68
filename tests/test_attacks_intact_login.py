"""The whole catalogue at tier `login`, on every driver, direct and through PgBouncer: its promises are kept.

And what tier `role` does not promise and gets through there, is held here: the same attack, seen to succeed beside.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mt_paas_db.isolation.attack import Attack
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Verdict
from tests.conftest import looking_up_bouncer_for
from tests.mutants.ground import standing_suite
from tests.servers import PostgresServer

ROUTES = [Route("psycopg"), Route("psycopg_async"), Route("asyncpg"), Route("psycopg", pooled=True)]

_GAINED = [one for one in CATALOGUE if one.promises["login"].held and not one.promises["role"].held]


@pytest.fixture(scope="module")
def suite(server: PostgresServer) -> Iterator[Suite]:
    with standing_suite(server, looking_up_bouncer_for, tier="login") as standing:
        yield standing


@pytest.fixture(scope="module")
def at_tier_role(server: PostgresServer) -> Iterator[Suite]:
    with standing_suite(server, None) as standing:
        yield standing


@pytest.mark.in_turn(direct=1, pooled=0)
@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("attack", CATALOGUE, ids=lambda attack: attack.key)
def test_a_promise_is_kept(suite: Suite, attack: Attack, route: Route) -> None:
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    finding = suite.try_(Case(attack, route, "login"))

    if attack.promises["login"].held:
        assert finding.verdict in {Verdict.HELD, Verdict.NOT_RUN}, str(finding)
    else:
        assert finding.verdict in {Verdict.OPEN, Verdict.HELD, Verdict.NOT_RUN}, str(finding)


def test_the_pooler_knows_the_tenants_logins(suite: Suite) -> None:
    """Or nothing above ran through it."""
    finding = suite.try_(Case(_GAINED[0], Route("psycopg", pooled=True), "login"))
    assert finding.verdict is not Verdict.NOT_RUN, str(finding)


@pytest.mark.parametrize("attack", _GAINED, ids=lambda attack: attack.key)
def test_what_is_gained_over_tier_role(suite: Suite, at_tier_role: Suite, attack: Attack) -> None:
    direct = Route("psycopg")
    before = at_tier_role.try_(Case(attack, direct, "role"))
    assert before.verdict is Verdict.OPEN, str(before)
    after = suite.try_(Case(attack, direct, "login"))
    assert after.verdict is Verdict.HELD, str(after)
