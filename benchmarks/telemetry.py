"""What it costs a process to tell of its sessions, and what it costs where nobody listens.

CPU of the client, not time on the clock: what is added is added there. The cases take turns in one process, in an order
that changes; a ratio is taken within a round, and the bar is the median of the rounds' ratios. *Hooks taken out* is
the same library with the door as it would be without telemetry; the one look at an attribute that beginning a
transaction takes is in all cases.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from types import TracebackType
from typing import Any
from unittest import mock

from sqlalchemy import select

from benchmarks.cores import clients_apart, keep_servers
from benchmarks.ground import Ground, Note, prepared_ground
from benchmarks.report import Bar, Result, Row, environment
from benchmarks.session import at_least, server_version
from mt_paas_db.core import TenantManager
from mt_paas_db.session.door import Door, TenantSessionContext
from mt_paas_db.session.orm import TenantSession
from mt_paas_db.telemetry import probe
from tests.fleet import ROUTES

SUMMARY = "CPU of a session: nobody listens, metrics, metrics and spans, names for the server"

LIMIT = 1.01
OUT, OFF = "hooks taken out", "nobody listens"

_ROUNDS, _FULL_ROUNDS = 60, 400
_TURN = 50
_BUDGET_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=at_least(1), help=f"{_ROUNDS}, or {_FULL_ROUNDS} with --full")
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")


class _Bare(TenantSessionContext):
    """The door as it would be without telemetry."""

    __slots__ = ()

    def __enter__(self) -> TenantSession:
        self._use_once()
        return self._open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(commit=kind is None and self._commit)


def _bare_memory(door: Door, name: Any, requires: Any) -> Any:
    resolved = door.resolver.remembered(name)
    return resolved if resolved is None or requires is None or resolved.has(requires) else None


def run(options: argparse.Namespace) -> Result:
    """Measure all cases. Raises `LookupError` without a PostgreSQL, or without OpenTelemetry's SDK."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError as error:
        raise LookupError("opentelemetry-sdk is not installed; it is in the dependency group dev") from error
    meters, tracers = MeterProvider([InMemoryMetricReader()]), TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    with prepared_ground(tenants=4, major=options.pg) as ground, clients_apart([]) as core:
        cases = {
            OUT: _listening(ground),
            OFF: _listening(ground),
            "metrics": _listening(ground, meters),
            "metrics and spans": _listening(ground, meters, tracers),
            "application_name": _listening(ground, name_tenant="application_name"),
            "comment": _listening(ground, name_tenant="comment"),
        }
        try:
            keep_servers([ground.server.pid], core)
            cpu_us = _measure(ground, cases, options.rounds or (_FULL_ROUNDS if options.full else _ROUNDS))
            version = server_version(ground)
        finally:
            for manager in cases.values():
                manager.close()
    meters.shutdown()
    tracers.shutdown()
    ratios = {
        case: statistics.median(mine / its for mine, its in zip(took, cpu_us[OUT], strict=True))
        for case, took in cpu_us.items()
    }
    return Result(
        name="telemetry",
        environment=environment(postgresql=version),
        rows=[Row.of(case, took, unit="us") for case, took in cpu_us.items()],
        bars=[Bar(f"{OFF} / {OUT}", round(ratios[OFF], 3), LIMIT)],
        remarks=[f"  {case} / {OUT}: {ratio:.3f}" for case, ratio in ratios.items() if case not in (OUT, OFF)],
    )


def _listening(ground: Ground, meters: Any = None, tracers: Any = None, **options: Any) -> TenantManager:
    """Return a manager that has these providers, whatever the process has."""
    manager = ground.manager(ROUTES[0], cache_ttl_s=3_600.0, **options)
    telemetry = manager._door.telemetry
    with (
        mock.patch.object(probe, "meter_provider", return_value=meters),
        mock.patch.object(probe, "tracer_provider", return_value=tracers),
    ):
        telemetry.watching()
    assert (telemetry.probe is None) == (meters is None and tracers is None)
    return manager


def _measure(ground: Ground, cases: dict[str, TenantManager], rounds: int) -> dict[str, list[float]]:
    """Return, for each case, the CPU that a session took in each round, in microseconds."""
    for case, manager in cases.items():
        _turn(ground, case, manager, 200)
    took: dict[str, list[float]] = {case: [] for case in cases}
    order = list(cases)
    ends = time.monotonic() + _BUDGET_S
    gc.collect()
    gc.freeze()
    for done in range(rounds):
        if done and time.monotonic() > ends:
            break
        random.shuffle(order)
        for case in order:
            took[case].append(_turn(ground, case, cases[case], _TURN))
    gc.unfreeze()
    return took


def _turn(ground: Ground, case: str, manager: TenantManager, sessions: int) -> float:
    kind: type[TenantSessionContext] = _Bare if case == OUT else TenantSessionContext
    patch = mock.patch.object(Door, "_remembered", _bare_memory) if case == OUT else mock.patch.dict({})
    statement = select(Note).where(Note.id == 1)
    door = manager._door
    with patch:
        started = time.process_time_ns()
        for number in range(sessions):
            tenant_id = ground.tenants[number % len(ground.tenants)]
            made = kind(
                door, tenant_id, read_only=False, isolation_level=None, statement_timeout_s=None,
                expire_on_commit=True, commit=True,
            )  # fmt: skip
            with made as session:
                session.scalars(statement).one()
        return (time.process_time_ns() - started) / sessions / 1_000
