"""Tenants that come and go: at each beat one is created, the one before suspended, and the one before that deleted."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import SecretStr

from benchmarks.scaling.ground import make_models
from benchmarks.scaling.load import kind_of
from mt_paas_db.catalog.settings import load_settings
from mt_paas_db.core import ClusterSettings, TenantManager

_HANDS = 4  # at once, so that a slow step does not hold the next beat up


@dataclass
class Churned:
    """What was done, in milliseconds by verb, and what failed."""

    took_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"took_ms": dict(self.took_ms), "errors": dict(self.errors), "error": self.error}


def admin_of(spec: Mapping[str, Any]) -> TenantManager:
    """Return a manager that makes and ends tenants of the models that the fleet has."""
    cluster = ClusterSettings(app_dsn=SecretStr(spec["app_dsn"]), admin_dsn=SecretStr(spec["admin_dsn"]))
    settings = load_settings(installation=spec["installation"], clusters={"main": cluster}, **spec["settings"])
    return TenantManager(settings, models=make_models(spec["tables"]))


def churn(manager: TenantManager, *, prefix: str, rate: float, seconds: float) -> Churned:
    """Create, suspend and delete `rate` tenants a second each, for `seconds`; then delete those that are left.

    A step is due when it is due, however long the one before takes; a tenant's own steps follow one another. The three
    kinds come in turn, a third of a beat apart: who buys, who does not pay and who leaves have not agreed on a moment.
    """
    found = Churned()

    def step(verb: str, work: Callable[[], object], after: Future[None] | None) -> None:
        if after is not None:
            after.result()
        began = time.perf_counter()
        try:
            work()
        except Exception as error:
            found.errors[kind_of(error)] += 1
            found.error = found.error or f"{verb}: {type(error).__name__}: {error}"
        else:
            found.took_ms[verb].append((time.perf_counter() - began) * 1000)

    last: dict[str, Future[None]] = {}
    ids = [f"{prefix}-{number}" for number in range(max(1, round(rate * seconds)))]

    def delete(tenant_id: str) -> None:
        manager.archive(tenant_id)
        manager.delete(tenant_id, confirm=tenant_id)

    verbs: list[tuple[str, Callable[[str], object]]] = [
        ("create", manager.create),
        ("suspend", manager.suspend),
        ("delete", delete),
    ]
    began = time.perf_counter()
    with ThreadPoolExecutor(_HANDS) as hands:
        for beat in range((len(ids) + len(verbs) - 1) * len(verbs)):
            due = began + beat / rate / len(verbs)
            time.sleep(max(0.0, due - time.perf_counter()))
            turn, age = divmod(beat, len(verbs))
            verb, work = verbs[age]
            if 0 <= turn - age < len(ids):
                tenant_id = ids[turn - age]
                last[tenant_id] = hands.submit(step, verb, partial(work, tenant_id), last.get(tenant_id))
    return found
