"""What nothing holds gets through. Of what something holds, tests/test_mutants.py shows the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mt_paas_db.isolation.attack import Attack, Weakness
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.verdict import Verdict
from tests.fleet import Service
from tests.mutants.ground import WeakGround, WeakGrounds
from tests.mutants.table import ELSEWHERE
from tests.servers import PostgresServer
from tests.servers.supply import Supply


@pytest.fixture(scope="module")
def grounds(server: PostgresServer) -> Iterator[WeakGrounds]:
    with ExitStack() as stack:
        yield WeakGrounds(server, stack)


OPEN = [attack for attack in CATALOGUE if not attack.broken and not ELSEWHERE & set(attack.needs)]


@pytest.mark.parametrize("attack", OPEN, ids=lambda attack: attack.key)
def test_what_nothing_holds_gets_through(grounds: WeakGrounds, attack: Attack) -> None:
    finding = grounds.of(Weakness.NONE, attack).try_(attack)

    assert finding.verdict is Verdict.OPEN, str(finding)


def test_hidden_values_are_asked_for_by_their_index_whatever_the_planner_knows(server: PostgresServer) -> None:
    """With statistics any index that leads with the tenant is as good to it, and by another nothing is proven."""
    (attack,) = (one for one in CATALOGUE if one.key == "B1-hidden-values")
    with ExitStack() as stack:
        ground = WeakGrounds(server, stack).of(Weakness.NONE, attack)
        ground.try_(attack)  # makes the tables
        with ground.service.superuser() as su:
            su.execute("VACUUM (ANALYZE)")
        finding = ground.try_(attack)

    assert finding.verdict is Verdict.HELD, str(finding)


def test_names_of_prepared_transactions_are_open_to_all(supply: Supply) -> None:
    """On a server that allows them, which few do."""
    try:
        server = supply.own(fsync="off", max_prepared_transactions="5")
    except LookupError as error:
        pytest.skip(str(error))
    (attack,) = (one for one in CATALOGUE if one.key == "C10-prepared-transactions")
    with server, ExitStack() as stack:
        finding = WeakGrounds(server, stack).of(Weakness.NONE, attack).try_(attack)
        assert finding.verdict is Verdict.OPEN, str(finding)
        assert finding.seen


@pytest.mark.contrib
def test_statement_statistics_are_shown_to_who_may_read_all(supply: Supply) -> None:
    """On a server that has loaded the extension; without the right, the texts of others are held back."""
    try:
        server = supply.own(fsync="off", shared_preload_libraries="pg_stat_statements")
    except LookupError as error:
        pytest.skip(str(error))

    def install(service: Service) -> None:
        with service.superuser() as su:
            su.execute(b"CREATE SCHEMA statistics; GRANT USAGE ON SCHEMA statistics TO PUBLIC")
            su.execute(b"CREATE EXTENSION pg_stat_statements SCHEMA statistics")

    (attack,) = (one for one in CATALOGUE if one.key == "D9-statement-statistics")
    with ExitStack() as stack:
        try:
            stack.enter_context(server)
        except RuntimeError as error:
            if 'could not access file "pg_stat_statements"' not in str(error):
                raise
            pytest.skip("this server was packaged without pg_stat_statements")
        found = [
            WeakGround(server, weakness, stack, prepare=install).try_(attack)
            for weakness in (Weakness.NONE, attack.broken)
        ]
    assert [finding.verdict for finding in found] == [Verdict.HELD, Verdict.LEAKED], found
