"""The suite in a test module of one's own.

.. code-block:: python

    from mt_paas_db.isolation.suite import IsolationSuite, off

    class TestIsolation(IsolationSuite):
        manager = my_service.manager
        metadata = Base.metadata
        requirements = {"pgbouncer": off("we connect directly")}

Every attack on every route is a test of its own, with the attack's name, and so is the state machine on every route.
What is missing or switched off is skipped, with the reason. Needs the extra ``isolation``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from mt_paas_db.core.default import default_manager
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.isolation.attack import Tier
from mt_paas_db.isolation.machine import case as machine
from mt_paas_db.isolation.requirements import Off, off
from mt_paas_db.isolation.route import ROUTES, Route
from mt_paas_db.isolation.rows import Factory
from mt_paas_db.isolation.run import Case, Suite, cases
from mt_paas_db.isolation.verdict import Finding, Verdict

POOLER = "MT_PAAS_DB_ISOLATION_POOLER"
"""Environment variable with a PgBouncer's URL, where the settings call the app DSN direct."""

STEPS = "MT_PAAS_DB_ISOLATION_STEPS"
"""Environment variable with the number of the state machine's steps on each route; 0 leaves it out."""

FINDINGS = pytest.StashKey[list[Finding]]()
_SUITE = pytest.StashKey[Suite]()


class IsolationSuite:
    """Base of a test class. What it lacks comes from ``MT_PAAS_DB_*`` in the environment.

    Attributes:
        manager: A `TenantManager`, or what makes one when it is called.
        metadata: A `MetaData` or declarative base; the manager's models where left out.
        requirements: What is switched off, by name.
        factories: Values that cannot be guessed, by table.
        pooler: A PgBouncer's URL; from the environment where left out.
        rows: How many rows each table of each tenant gets.
        steps: How many steps the state machine takes on each route; from the environment where left out.
        seed: The same one takes the same steps.
        tiers: Those to try: ``("role",)``, ``("login",)`` or both; each has tenants of its own.
    """

    manager: ClassVar[TenantManager | Callable[[], TenantManager] | None] = None
    metadata: ClassVar[Any] = None
    requirements: ClassVar[Mapping[str, Off]] = {}
    factories: ClassVar[Mapping[str, Factory] | None] = None
    pooler: ClassVar[str | None] = None
    rows: ClassVar[int] = 3
    steps: ClassVar[int | None] = None
    seed: ClassVar[int] = 0
    tiers: ClassVar[Sequence[Tier]] = ("role",)

    @pytest.fixture
    def isolation(self, request: pytest.FixtureRequest) -> Suite:
        """The suite; its tenants are made for the first test of the class, and removed after the last."""
        node = request.node.getparent(pytest.Class)
        suite: Suite | None = node.stash.get(_SUITE, None)
        if suite is None:
            suite = node.stash[_SUITE] = self._suite().__enter__()
            node.addfinalizer(lambda: suite.__exit__(None, None, None))
        return suite

    def _suite(self) -> Suite:
        manager = type(self).manager
        if manager is None:
            manager = default_manager()
        elif not isinstance(manager, TenantManager):
            manager = manager()
        return Suite(
            manager,
            self.metadata,
            requirements=self.requirements,
            factories=self.factories,
            pooler=self.pooler or os.environ.get(POOLER),
            rows=self.rows,
            steps=self.steps if self.steps is not None else int(os.environ.get(STEPS) or machine.STEPS),
            seed=self.seed,
            tiers=self.tiers,
        )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each attack on each route at each tier."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", cases(tiers=self.tiers), ids=str)

    def test_attack(self, isolation: Suite, case: Case, pytestconfig: pytest.Config) -> None:
        _judge(isolation.try_(case), pytestconfig)

    @pytest.mark.parametrize("route", ROUTES, ids=str)
    def test_state_machine(self, isolation: Suite, route: Route, pytestconfig: pytest.Config) -> None:
        if not isolation.steps:
            pytest.skip("no steps were asked for")
        _judge(isolation.take_steps(route), pytestconfig)


def _judge(finding: Finding, config: pytest.Config) -> None:
    """Keep a finding for the summary, and let the test come to what it says."""
    config.stash.setdefault(FINDINGS, []).append(finding)
    if finding.verdict is Verdict.NOT_RUN:
        pytest.skip(finding.reason)
    if finding.failed:
        pytest.fail(str(finding), pytrace=False)


__all__ = ["IsolationSuite", "off"]
