"""What watches a manager's sessions, where there is somebody to tell.

`Telemetry.watching()` is what a session pays for when there is nobody: the look at an attribute and at the clock.
A provider that is set later is noticed within a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from mt_paas_db.errors import TenancyError, TenantError
from mt_paas_db.telemetry import metrics
from mt_paas_db.telemetry.instruments import SCOPE, Instruments, Source, instruments_of
from mt_paas_db.telemetry.metrics import Kind, Metric, Reading
from mt_paas_db.telemetry.providers import meter_provider, tracer_provider

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_LOOK_AGAIN_S = 1.0
_MOST_LABELS = 20_000
"""Sets of labels that a probe keeps ready; there are as many as cells, and as tenants where they are a label."""

_Key = tuple[str, tuple[str, ...], str | None]
"""A metric's name, the values of its labels, and the tenant where it is one of them."""

SPAN = "mt_paas_db.session"


class Telemetry:
    """One manager's: what there is to record into, and what there is to observe.

    Attributes:
        probe: What records; None where nobody listens.
    """

    def __init__(self, *, installation: str, tenant_label: bool) -> None:
        self.probe: Probe | None = None
        self._installation = installation
        self._tenant_label = tenant_label
        self._sources: list[Source] = []
        self._started: list[Callable[[Probe], None]] = []
        self._look_at = 0.0

    def observe(self, source: Source) -> None:
        """Ask `source` for its readings whenever somebody collects, as long as this manager is there."""
        self._sources.append(source)

    def when_watching(self, start: Callable[[Probe], None]) -> None:
        """Call `start` once somebody listens, with what records."""
        self._started.append(start)

    def readings(self, metric: Metric) -> Iterable[Reading]:
        """Yield what is to be observed of `metric`, with the installation among the labels."""
        mine = (metrics.INSTALLATION, self._installation)
        for source in (*self._sources, *([self.probe] if self.probe is not None else ())):
            for reading in source.readings() if metric in source.observes else ():
                if reading.metric is metric:
                    yield Reading(metric, (mine, *reading.labels), reading.value)

    def watching(self) -> Probe | None:
        """Return the probe, made as soon as the process has a provider; None until then."""
        if self.probe is None and time.monotonic() >= self._look_at:
            self._look()
        return self.probe

    def forked(self) -> None:
        """Begin anew in a child: what was counted is the parent's, which goes on telling it."""
        if self.probe is not None:
            self.probe.forked()

    def _look(self) -> None:
        self._look_at = time.monotonic() + _LOOK_AGAIN_S
        meters, tracers = meter_provider(), tracer_provider()
        if meters is None and tracers is None:
            return
        instruments = instruments_of(meters) if meters is not None else None
        if instruments is not None:
            instruments.sources.add(self)
        tracer = tracers.get_tracer(SCOPE) if tracers is not None else None
        self.probe = Probe(instruments, tracer, self._installation, tenant_label=self._tenant_label)
        for start in self._started:
            start(self.probe)


class Probe:
    """Records what happens to a manager's sessions. Safe for threads."""

    observes = frozenset(metric for metric in metrics.METRICS if metric.kind in (Kind.COUNTER, Kind.UP_DOWN))

    def __init__(
        self, instruments: Instruments | None, tracer: Tracer | None, installation: str, *, tenant_label: bool
    ) -> None:
        self.tracer = tracer
        self._instruments = instruments
        self._installation = installation
        self._tenant_label = tenant_label
        self._labels: dict[_Key, dict[str, str]] = {}
        self._lock = threading.Lock()
        self._counts: dict[_Key, tuple[Metric, float]] = {}

    def session(self, name: str, flavour: str) -> SessionWatch:
        """Return what watches the session that is being opened for the tenant called `name`."""
        return SessionWatch(self, name, flavour)

    def refused(self, error: BaseException, tenant: str) -> None:
        """Count a session, or a later transaction of one, that was refused because of its tenant."""
        self.add(metrics.REFUSALS, 1, (type(error).__name__,), tenant)

    def pinned(self, cell: str, flavour: str, seconds: float, tenant: str) -> None:
        """Record how long the server took to begin a pinned transaction."""
        self.add(metrics.PIN_DURATION, seconds, (cell, flavour), tenant)

    def on_checkout(self, cell: str, waited_s: float) -> None:
        """Record how long a session waited for its connection."""
        self.add(metrics.WAIT_TIME, waited_s, (cell,))

    def on_timeout(self, cell: str, waited_s: float) -> None:
        """Record that a session waited in vain."""
        self.add(metrics.WAIT_TIME, waited_s, (cell,))
        self.add(metrics.TIMEOUTS, 1, (cell,))

    def on_open(self, cell: str, seconds: float) -> None:
        """Record how long it took to open a connection."""
        self.add(metrics.CREATE_TIME, seconds, (cell,))

    def on_close(self, cell: str) -> None:
        """Count a pooled connection that was closed."""
        self.add(metrics.CLOSED, 1, (cell,))

    def looked_up(self, *, hit: bool) -> None:
        """Count an answer to where a tenant lives."""
        self.add(metrics.LOOKUPS, 1, ("hit" if hit else "miss",))

    def add(self, metric: Metric, value: float, labels: tuple[str, ...], tenant: str | None = None) -> None:
        """Record or count `value`; `labels` are the values of the metric's, in their order, after the installation."""
        if self._instruments is None:
            return
        key = (metric.name, labels, tenant if self._tenant_label and metric.per_tenant else None)
        if metric.kind is Kind.HISTOGRAM:
            ready = self._labels.get(key)
            if ready is None:
                if len(self._labels) >= _MOST_LABELS:
                    self._labels.clear()
                ready = self._labels[key] = {metrics.INSTALLATION: self._installation, **_named(metric, *key[1:])}
            self._instruments[metric].record(value, ready)
            return
        with self._lock:
            counted = self._counts.get(key)
            self._counts[key] = (metric, value if counted is None else counted[1] + value)

    def forked(self) -> None:
        """See `Telemetry.forked`."""
        self._lock = threading.Lock()
        self._counts = {}

    def readings(self) -> Iterator[Reading]:
        """Yield what was counted so far."""
        with self._lock:
            counts = list(self._counts.items())
        for (_, labels, tenant), (metric, value) in counts:
            yield Reading(metric, tuple(_named(metric, labels, tenant).items()), value)


def _named(metric: Metric, labels: tuple[str, ...], tenant: str | None) -> dict[str, str]:
    """Return labels by their names. A tenant that is not known has no cell, and so no such label."""
    named = {name: said for name, said in zip(metric.labels[1:], labels, strict=True) if said}
    return named if tenant is None else {**named, metrics.TENANT: tenant}


class Pinned(Protocol):
    """What a watch has to know of a session's pin."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def cell(self) -> str: ...
    @property
    def tier(self) -> str: ...


class SessionWatch:
    """One session, from the door to its end: a span in force for the block, its time, its outcome."""

    __slots__ = ("_active", "_flavour", "_probe", "_span", "_started", "_tenant", "_token")

    def __init__(self, probe: Probe, name: str, flavour: str) -> None:
        self._probe = probe
        self._flavour = flavour
        self._tenant = name
        self._active: tuple[str, str, str] | None = None
        self._span: Any = None
        self._token: Any = None
        if probe.tracer is not None:
            from opentelemetry import context, trace

            # The conventions want the system on spans of a database client; the rest is ours to name.
            labels = {metrics.TENANT: name, metrics.FLAVOUR: flavour, "db.system.name": "postgresql"}
            self._span = probe.tracer.start_span(SPAN, attributes=labels, record_exception=False)
            self._token = context.attach(trace.set_span_in_context(self._span))
        self._started = time.perf_counter()

    def opened(self, pin: Pinned) -> None:
        """The session is there."""
        self._tenant = pin.tenant_id
        self._active = (pin.cell, str(pin.tier), self._flavour)
        self._probe.add(metrics.SESSION_ACTIVE, 1, self._active, self._tenant)
        if self._span is not None:
            labels = {metrics.TENANT: pin.tenant_id, metrics.CELL: pin.cell, metrics.TIER: str(pin.tier)}
            self._span.set_attributes(labels)

    def refused(self, error: BaseException) -> None:
        """The session was not opened."""
        if isinstance(error, TenantError):
            self._probe.refused(error, self._tenant)
            self.ended("refused", error)
        else:
            self.ended("failed", error)

    @contextmanager
    def ending(self, error: BaseException | None, *, commit: bool) -> Iterator[None]:
        """Watch the block in which the session ends; `error` is what it was left with."""
        try:
            yield
        except BaseException as failure:
            self.ended("failed", failure)
            raise
        if error is not None:
            self.ended("failed", error)
        else:
            self.ended("committed" if commit else "rolled_back")

    def ended(self, outcome: str, error: BaseException | None = None) -> None:
        """The session is over: `committed`, `rolled_back`, `failed` or `refused`."""
        seconds = time.perf_counter() - self._started
        if self._active is not None:
            self._probe.add(metrics.SESSION_ACTIVE, -1, self._active, self._tenant)
        where = self._active or ("", "", self._flavour)
        self._probe.add(metrics.SESSION_DURATION, seconds, (*where, outcome), self._tenant)
        if self._span is not None:
            self._end_span(outcome, error)

    def _end_span(self, outcome: str, error: BaseException | None) -> None:
        from opentelemetry import context, trace

        span = self._span
        span.set_attribute(metrics.OUTCOME, outcome)
        if error is not None:
            span.set_attribute(metrics.ERROR, type(error).__name__)
            sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
            if isinstance(sqlstate, str):
                span.set_attribute("db.response.status_code", sqlstate)
            if isinstance(error, TenancyError):
                span.record_exception(error)
            else:  # SQLAlchemy's errors carry the statement and its values: a tenant's data
                span.add_event("exception", {"exception.type": type(error).__qualname__})
            span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        # A generator's block may be left in another context than it was entered in (a thread pool's, say), where the
        # span was never in force, and its token means nothing.
        if trace.get_current_span() is span:
            context.detach(self._token)
        span.end()
