"""OpenTelemetry's instruments for our metrics: one set for each provider, shared by all managers of a process.

The SDK keeps one instrument of a name, and the callbacks of its first: so the managers are the sources of one callback,
and what two of them observe under the same labels is added up.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from mt_paas_db.telemetry.metrics import METRICS, Kind, Metric, Reading

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

SCOPE = "mt_paas_db"
"""The instrumentation scope: the name under which a view or a sampler finds what is ours."""


class Source(Protocol):
    """Something that can be observed: a manager's memory, its pools. `observes` are the metrics that it knows of."""

    @property
    def observes(self) -> frozenset[Metric]: ...

    def readings(self) -> Iterable[Reading]:
        """Return what there is to say now. Called by the thread that collects."""
        ...


class Manager(Protocol):
    """All the sources of a manager."""

    def readings(self, metric: Metric) -> Iterable[Reading]:
        """Return what there is to say of `metric` now."""
        ...


class Instruments:
    """The instruments of one meter provider, by the metric's name."""

    def __init__(self, provider: MeterProvider) -> None:
        self.sources: WeakSet[Manager] = WeakSet()
        meter = provider.get_meter(SCOPE)
        self._made = {metric.name: self._make(meter, metric) for metric in METRICS}

    def __getitem__(self, metric: Metric) -> Any:
        return self._made[metric.name]

    def _make(self, meter: Meter, metric: Metric) -> Any:
        said: dict[str, Any] = {"name": metric.name, "unit": metric.unit, "description": metric.says}
        match metric.kind:
            case Kind.HISTOGRAM:
                return meter.create_histogram(**said, explicit_bucket_boundaries_advisory=metric.bounds)
            case Kind.COUNTER:
                return meter.create_observable_counter(**said, callbacks=[self._observe(metric)])
            case Kind.UP_DOWN:
                return meter.create_observable_up_down_counter(**said, callbacks=[self._observe(metric)])
            case Kind.GAUGE:
                return meter.create_observable_gauge(**said, callbacks=[self._observe(metric)])

    def _observe(self, metric: Metric) -> Callable[[Any], Iterator[Any]]:
        from opentelemetry.metrics import Observation

        def observe(_options: Any) -> Iterator[Any]:
            sums: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
            for source in list(self.sources):
                for reading in source.readings(metric):
                    sums[reading.labels] += reading.value
            for labels, value in sums.items():
                yield Observation(value, dict(labels))

        return observe


_lock = threading.Lock()
_known: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments_of(provider: MeterProvider) -> Instruments:
    """Return the instruments of `provider`, made when they are first asked for."""
    with _lock:
        known = _known.get(provider)
        if known is None:
            known = _known[provider] = Instruments(provider)
        return known
