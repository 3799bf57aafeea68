"""The whole catalogue on an intact installation, on every driver, direct and through PgBouncer: promises are kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mt_paas_db.isolation.attack import Attack
from mt_paas_db.isolation.attacks.trials import GUARDS
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.route import ROUTES, Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Verdict
from tests.conftest import bouncer_for
from tests.mutants.ground import standing_suite
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def suite(server: PostgresServer) -> Iterator[Suite]:
    with standing_suite(server, bouncer_for) as standing:
        yield standing


@pytest.fixture(scope="module")
def guarded_suite(server: PostgresServer) -> Iterator[Suite]:
    """The same with guards: for what they hold, and for nothing else, which they might hide."""
    with standing_suite(server, bouncer_for, guards=True) as standing:
        yield standing


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("attack", CATALOGUE, ids=lambda attack: attack.key)
def test_a_promise_is_kept(request: pytest.FixtureRequest, attack: Attack, route: Route) -> None:
    if route.driver == "asyncpg":
        pytest.importorskip("asyncpg", reason="extra 'asyncpg' is not installed")
    suite: Suite = request.getfixturevalue("guarded_suite" if GUARDS in attack.needs else "suite")
    finding = suite.try_(Case(attack, route, "role"))

    if attack.promises["role"].held:
        assert finding.verdict in {Verdict.HELD, Verdict.NOT_RUN}, str(finding)
    else:
        assert finding.verdict in {Verdict.OPEN, Verdict.HELD, Verdict.NOT_RUN}, str(finding)
