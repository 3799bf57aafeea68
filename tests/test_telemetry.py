"""What a process tells OpenTelemetry of its sessions, and that it tells nothing where nobody listens."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import PoolExhaustedError, TenantSuspendedError, UnknownTenantError
from mt_paas_db.session.engines import LOOKING_UP
from mt_paas_db.telemetry import metrics, probe
from mt_paas_db.telemetry.backend import BACKEND_BYTES, TABLE_BYTES
from tests.fleet import Route, Runner, Service
from tests.models import Base

pytest.importorskip("opentelemetry.sdk", reason="the dev dependency group is not installed")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

Labels = dict[str, Any]


class Listener:
    """OpenTelemetry's SDK, in memory, as the process's providers."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def points(self, metric: metrics.Metric) -> list[tuple[Labels, Any]]:
        """Return labels and data point of all that was recorded of `metric`."""
        data = self._reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), point)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric.name
            for point in found.data.data_points
        ]

    def values(self, metric: metrics.Metric, label: str | None = None) -> dict[str, float]:
        """Return counts by the value of `label`; of a histogram, how often something was recorded."""
        sums: dict[str, float] = {}
        for labels, point in self.points(metric):
            key = str(labels.get(label, "")) if label else ""
            sums[key] = sums.get(key, 0) + (point.count if metric.kind is metrics.Kind.HISTOGRAM else point.value)
        return sums


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    made = Listener()
    monkeypatch.setattr(probe, "meter_provider", lambda: made.meters)
    monkeypatch.setattr(probe, "tracer_provider", lambda: made.tracers)
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


ONE = text("SELECT 1")


def test_a_session_is_counted_timed_and_spanned(fleet: Service, listener: Listener) -> None:
    manager = fleet.manager()
    with manager.get_session("hallym") as session:
        session.execute(ONE)
        assert listener.values(metrics.SESSION_ACTIVE) == {"": 1}
        with trace.get_tracer("t", tracer_provider=listener.tracers).start_as_current_span("inside"):
            pass
    with manager.get_session("hallym", commit=False) as session:
        session.execute(ONE)
    with pytest.raises(ZeroDivisionError), manager.get_session("korea"):
        1 / 0  # noqa: B018

    assert listener.values(metrics.SESSION_DURATION, metrics.OUTCOME) == {
        "committed": 1, "rolled_back": 1, "failed": 1,
    }  # fmt: skip
    assert listener.values(metrics.SESSION_ACTIVE) == {"": 0}
    assert listener.values(metrics.PIN_DURATION) == {"": 2}  # the third sent nothing
    assert listener.values(metrics.LOOKUPS, metrics.RESULT) == {"hit": 1, "miss": 2}
    assert listener.values(metrics.REMEMBERED, metrics.CELL) == {"default": 2}
    (labels, _), *_ = listener.points(metrics.SESSION_ACTIVE)
    assert labels == {
        metrics.INSTALLATION: fleet.name, metrics.CELL: "default", metrics.TIER: "role", metrics.FLAVOUR: "blocking",
    }  # fmt: skip

    inside, first, second, third = listener.spans
    assert [span.name for span in (first, second, third)] == [probe.SPAN] * 3
    assert inside.parent is not None
    assert inside.parent.span_id == first.context.span_id
    assert first.attributes is not None
    assert first.attributes[metrics.TENANT] == "hallym"
    assert first.attributes[metrics.CELL] == "default"
    assert first.attributes[metrics.OUTCOME] == "committed"
    assert third.status.status_code is trace.StatusCode.ERROR
    assert not trace.get_current_span().get_span_context().is_valid


def test_tenants_are_labels_only_where_the_setting_says_so(fleet: Service, listener: Listener) -> None:
    for wanted in (False, True):
        with fleet.manager(metrics_tenant_label=wanted).get_session("hallym") as session:
            session.execute(ONE)
        seen = {
            metric.name
            for metric in metrics.METRICS
            for labels, _ in listener.points(metric)
            if "hallym" in labels.values()
        }
        assert seen == ({metric.name for metric in metrics.METRICS if metric.per_tenant} - {metrics.REFUSALS.name}
                        if wanted else set())  # fmt: skip


def test_refusals_are_counted_by_their_error_at_the_door_and_at_the_pin(fleet: Service, listener: Listener) -> None:
    manager, other = fleet.manager(), fleet.manager()
    with manager.get_session("korea") as session:
        session.execute(ONE)
    other.suspend("korea", reason="payment")
    for asked, error in (("nobody", UnknownTenantError), ("korea", TenantSuspendedError)):
        with pytest.raises(error), manager.get_session(asked) as session:  # korea is remembered: the server refuses it
            session.execute(ONE)
    with pytest.raises(TenantSuspendedError), manager.get_session("korea"):
        pass

    assert listener.values(metrics.REFUSALS, metrics.ERROR) == {"UnknownTenantError": 1, "TenantSuspendedError": 2}
    outcomes = listener.values(metrics.SESSION_DURATION, metrics.OUTCOME)
    assert outcomes == {"committed": 1, "refused": 2, "failed": 1}
    assert listener.values(metrics.SESSION_ACTIVE) == {"": 0}
    refused = listener.spans[1]
    assert refused.attributes is not None
    assert refused.attributes[metrics.ERROR] == "UnknownTenantError"
    assert any("nobody" in str((event.attributes or {}).get("exception.message")) for event in refused.events)


def test_a_span_says_the_sqlstate_and_no_values(fleet: Service, listener: Listener) -> None:
    with pytest.raises(DBAPIError), fleet.manager().get_session("hallym") as session:
        session.execute(text("SELECT CAST(:given AS integer)"), {"given": "a secret"})
    (span,) = listener.spans
    assert span.attributes is not None
    assert span.attributes["db.response.status_code"] == "22P02"
    assert "a secret" not in span.to_json()


def test_every_route_records(runner: Runner, route: Route, listener: Listener) -> None:
    assert runner.run("hallym", lambda session: session.scalars(select(1)).one()) == 1
    flavour = "asyncio" if route.is_async else "blocking"
    assert listener.values(metrics.SESSION_DURATION, metrics.FLAVOUR) == {flavour: 1}
    assert listener.values(metrics.PIN_DURATION, metrics.FLAVOUR) == {flavour: 1}
    assert [span.name for span in listener.spans] == [probe.SPAN]


def test_a_session_ended_in_another_context_leaves_no_complaint(
    fleet: Service, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """As a web framework does with a generator: it is entered in one thread's context and left in another's."""
    door = fleet.manager().get_session("hallym")
    in_a_thread(door.__enter__)
    in_a_thread(lambda: door.__exit__(None, None, None))
    assert len(listener.spans) == 1
    assert caplog.records == []


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_two_managers_share_the_instruments(fleet: Service, listener: Listener) -> None:
    for manager in (fleet.manager(), fleet.manager()):
        with manager.get_session("hallym"):
            pass
    assert listener.values(metrics.LOOKUPS, metrics.RESULT) == {"miss": 2}
    assert listener.values(metrics.REMEMBERED) == {"": 2}


def test_the_pool_is_observed(fleet: Service, listener: Listener) -> None:
    manager = fleet.manager(pool_size=1, pool_timeout_s=0.05)
    with manager.get_session("hallym") as session:
        session.execute(ONE)
        with pytest.raises(PoolExhaustedError), manager.get_session("korea") as second:
            second.execute(ONE)
        assert listener.values(metrics.CONNECTIONS, metrics.STATE) == {"used": 1, "idle": 0}
    with manager.get_session("korea") as session:
        session.execute(ONE)
    assert listener.values(metrics.CONNECTIONS, metrics.STATE) == {"used": 0, "idle": 1}
    assert listener.values(metrics.CONNECTIONS_MAX) == {"": 1}
    assert listener.values(metrics.TIMEOUTS, metrics.POOL) == {fleet.login: 1}
    assert listener.values(metrics.WAIT_TIME, metrics.POOL) == {fleet.login: 3, LOOKING_UP: 2}
    assert listener.values(metrics.CREATE_TIME, metrics.POOL) == {fleet.login: 1, LOOKING_UP: 1}
    assert listener.values(metrics.PENDING) == {"": 0}
    assert listener.values(metrics.TOUCHED, metrics.POOL) == {fleet.login: 2}
    held = BACKEND_BYTES + 2 * len(Base.metadata.tables) * TABLE_BYTES
    assert listener.values(metrics.BACKEND_MEMORY) == {"": held}
    manager.close()
    assert listener.values(metrics.CLOSED, metrics.POOL) == {fleet.login: 1, LOOKING_UP: 1}
    assert listener.values(metrics.CONNECTIONS) in ({}, {"": 0})


def test_a_cell_that_needs_a_place_evicts_another(fleet: Service, listener: Listener) -> None:
    fleet.manager(login_secret="x" * 40).create("snu", tier="login")
    manager = fleet.manager(pool_size=1, login_secret="x" * 40)
    for tenant_id in ("hallym", "snu"):
        with manager.get_session(tenant_id) as session:
            session.execute(ONE)
    assert listener.values(metrics.EVICTIONS) == {"": 1}


def test_a_provider_that_is_set_later_is_noticed(
    fleet: Service, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    monkeypatch.setattr(probe, "meter_provider", lambda: None)
    monkeypatch.setattr(probe, "tracer_provider", lambda: None)
    manager = fleet.manager()
    visit(manager)
    monkeypatch.setattr(probe, "tracer_provider", lambda: listener.tracers)
    visit(manager)
    assert listener.spans == []  # it looks once a second
    monkeypatch.setattr(probe, "_LOOK_AGAIN_S", 0)
    manager._door.telemetry._look_at = 0
    visit(manager)
    assert len(listener.spans) == 1


def test_a_fork_counts_from_nothing(fleet: Service, listener: Listener) -> None:
    """Also where another thread of the parent's was counting at that moment."""
    manager = fleet.manager()
    with manager.get_session("hallym"):
        watching = manager._door.telemetry.probe
        assert watching is not None
        counted = sorted(reading.metric.name for reading in watching.readings())
        with watching._lock, manager._door.resolver._lock, manager._door.limits._lock:
            child = os.fork()
        if child == 0:  # pragma: no cover  (another process)
            code = 1
            try:
                before = list(watching.readings())
                visit(manager)
                active = {reading.value for reading in watching.readings() if reading.metric is metrics.SESSION_ACTIVE}
                code = 0 if (before, active) == ([], {0}) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sorted(reading.metric.name for reading in watching.readings()) == counted != []


def visit(manager: TenantManager) -> None:
    with manager.get_session("hallym"):
        pass


def test_nothing_is_loaded_and_nothing_recorded_where_nobody_listens() -> None:
    code = (
        "import sys; from mt_paas_db.telemetry.probe import Telemetry; "
        "t = Telemetry(installation='x', tenant_label=False); "
        "assert t.watching() is None; "
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')]; "
        "import opentelemetry.metrics, opentelemetry.trace; t._look_at = 0; assert t.watching() is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
