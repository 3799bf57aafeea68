"""Every attack can fail: on the ground that lacks what holds it, it gets through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mt_paas_db.isolation.attack import Attack, Weakness
from mt_paas_db.isolation.attacks.a_escape import XML
from mt_paas_db.isolation.attacks.a_transaction import BEFORE_18
from mt_paas_db.isolation.attacks.c_statements import TWO_PHASE
from mt_paas_db.isolation.attacks.d_catalogs import STATEMENT_STATISTICS
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.verdict import Verdict
from tests.fleet import Service
from tests.servers import PostgresServer
from tests.servers.supply import Supply
from tests.weakened import WeakGround, WeakGrounds


@pytest.fixture(scope="module")
def grounds(server: PostgresServer) -> Iterator[WeakGrounds]:
    with ExitStack() as stack:
        yield WeakGrounds(server, stack)


_BY_DISTRIBUTIONS = {XML, BEFORE_18}
"""What a server that a distribution packages has, in the version that CI runs."""

_ON_A_SHARED_SERVER = [
    pytest.param(attack, id=attack.key, marks=pytest.mark.contrib if _BY_DISTRIBUTIONS & set(attack.needs) else ())
    for attack in CATALOGUE
    if not {TWO_PHASE, STATEMENT_STATISTICS} & set(attack.needs)
]


@pytest.mark.parametrize("attack", _ON_A_SHARED_SERVER)
def test_it_gets_through_where_it_is_not_held(grounds: WeakGrounds, attack: Attack) -> None:
    finding = grounds.of(attack).try_(attack)
    if finding.verdict is Verdict.NOT_RUN:
        pytest.skip(finding.reason)

    assert finding.verdict in {Verdict.LEAKED, Verdict.OPEN}, str(finding)


def test_names_of_prepared_transactions_are_open_to_all(supply: Supply) -> None:
    """On a server that allows them, which few do."""
    try:
        server = supply.own(fsync="off", max_prepared_transactions="5")
    except LookupError as error:
        pytest.skip(str(error))
    (attack,) = (one for one in CATALOGUE if one.key == "C10-prepared-transactions")
    with server, ExitStack() as stack:
        finding = WeakGrounds(server, stack).of(attack).try_(attack)
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
