"""Which OpenTelemetry providers a process has, found without loading OpenTelemetry.

A provider is set by code that has imported the API, so that an API which nobody imported has none. Asking the API for
its provider also makes the one that the environment names (``OTEL_PYTHON_METER_PROVIDER``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

# What the API answers while nobody has set one. Should a release rename them, we record into nothing.
_NOBODYS = frozenset({"_ProxyMeterProvider", "ProxyTracerProvider", "NoOpMeterProvider", "NoOpTracerProvider"})


def meter_provider() -> MeterProvider | None:
    """Return the process's meter provider; None where there is none."""
    found: MeterProvider | None = _provider("opentelemetry.metrics", "get_meter_provider")
    return found


def tracer_provider() -> TracerProvider | None:
    """Return the process's tracer provider; None where there is none."""
    found: TracerProvider | None = _provider("opentelemetry.trace", "get_tracer_provider")
    return found


def _provider(module: str, get: str) -> Any:
    function = getattr(sys.modules.get(module), get, None)  # another thread may be importing it
    provider = function() if function is not None else None
    return None if type(provider).__name__ in _NOBODYS else provider


def traceparent() -> str | None:
    """Return the W3C trace context of the span in force, as ``00-<trace>-<span>-<flags>``; None where there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not hasattr(trace, "get_current_span"):
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
