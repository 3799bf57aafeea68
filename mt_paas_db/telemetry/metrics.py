"""The metrics of a process, as values: name, kind, unit, labels. Pure; docs/reference/metrics.md is held to it.

Names with ``db.client`` are those of OpenTelemetry's semantic conventions for database clients; what these have no
word for begins with ``mt_paas_db``. A tenant's id is a label only where the setting `metrics_tenant_label` says so:
ten thousand tenants would be ten thousand time series of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """OpenTelemetry's instruments. All but histograms are observable: we count, and are asked when somebody collects.

    To record a value takes the SDK some 20 us (benchmarks/telemetry.py), to count one takes us less than one.
    """

    COUNTER = "counter"
    UP_DOWN = "up-down counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


INSTALLATION = "mt_paas_db.installation"
CELL = "mt_paas_db.cell"
TIER = "mt_paas_db.tier"
FLAVOUR = "mt_paas_db.flavour"
OUTCOME = "mt_paas_db.outcome"
TENANT = "mt_paas_db.tenant.id"
RESULT = "mt_paas_db.result"
ERROR = "error.type"
POOL = "db.client.connection.pool.name"
STATE = "db.client.connection.state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `unit` is UCUM's; `bounds` are those of a histogram's buckets, in its unit.

    `per_tenant` says that the setting `metrics_tenant_label` adds the tenant's id to its labels.
    """

    name: str
    kind: Kind
    unit: str
    says: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    per_tenant: bool = False


# A pin takes about a tenth of a millisecond on a server that is near, a session what the service does in it.
_SHORT_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_LONG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

SESSION_DURATION = Metric(
    name="mt_paas_db.session.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    says="From the opening of a tenant's session to its end; counts the sessions by how they ended.",
    labels=(INSTALLATION, CELL, TIER, FLAVOUR, OUTCOME),
    bounds=_LONG_S,
    per_tenant=True,
)
SESSION_ACTIVE = Metric(
    name="mt_paas_db.session.active",
    kind=Kind.UP_DOWN,
    unit="{session}",
    says="Sessions that are open now, whether or not they hold a connection.",
    labels=(INSTALLATION, CELL, TIER, FLAVOUR),
    per_tenant=True,
)
REFUSALS = Metric(
    name="mt_paas_db.session.refusals",
    kind=Kind.COUNTER,
    unit="{refusal}",
    says="Sessions and transactions that were refused because of their tenant, by the error that said so.",
    labels=(INSTALLATION, ERROR),
    per_tenant=True,
)
PIN_DURATION = Metric(
    name="mt_paas_db.pin.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    says="The message that begins a transaction and takes the tenant's role, until the server has answered it.",
    labels=(INSTALLATION, CELL, FLAVOUR),
    bounds=_SHORT_S,
    per_tenant=True,
)
LOOKUPS = Metric(
    name="mt_paas_db.catalog.lookups",
    kind=Kind.COUNTER,
    unit="{lookup}",
    says="Answers to where a tenant lives: a `hit` was remembered, a `miss` was asked of the catalog.",
    labels=(INSTALLATION, RESULT),
)
REMEMBERED = Metric(
    name="mt_paas_db.catalog.remembered",
    kind=Kind.GAUGE,
    unit="{tenant}",
    says="Tenants that this process remembers, by cell.",
    labels=(INSTALLATION, CELL),
)

CONNECTIONS = Metric(
    name="db.client.connection.count",
    kind=Kind.UP_DOWN,
    unit="{connection}",
    says="Connections for tenants that the process has, by what they do.",
    labels=(INSTALLATION, POOL, STATE),
)
CONNECTIONS_MAX = Metric(
    name="db.client.connection.max",
    kind=Kind.UP_DOWN,
    unit="{connection}",
    says="The process's budget of connections, which all cells share (setting pool_size).",
    labels=(INSTALLATION,),
)
PENDING = Metric(
    name="db.client.connection.pending_requests",
    kind=Kind.UP_DOWN,
    unit="{request}",
    says="Sessions that wait for a connection now.",
    labels=(INSTALLATION, POOL),
)
TIMEOUTS = Metric(
    name="db.client.connection.timeouts",
    kind=Kind.COUNTER,
    unit="{timeout}",
    says="Sessions that got no connection in time: `PoolExhaustedError`.",
    labels=(INSTALLATION, POOL),
)
WAIT_TIME = Metric(
    name="db.client.connection.wait_time",
    kind=Kind.HISTOGRAM,
    unit="s",
    says="Waiting for a place among the process's connections; 0 where there was one. Opening it is not counted.",
    labels=(INSTALLATION, POOL),
    bounds=(0.0, *_SHORT_S, 30.0),
)
CREATE_TIME = Metric(
    name="db.client.connection.create_time",
    kind=Kind.HISTOGRAM,
    unit="s",
    says="Opening a connection; counts those that were opened.",
    labels=(INSTALLATION, POOL),
    bounds=_LONG_S,
)
CLOSED = Metric(
    name="mt_paas_db.connection.closed",
    kind=Kind.COUNTER,
    unit="{connection}",
    says="Pooled connections that were closed: for another cell, for their age, or as they were broken.",
    labels=(INSTALLATION, POOL),
)
EVICTIONS = Metric(
    name="mt_paas_db.connection.evictions",
    kind=Kind.COUNTER,
    unit="{connection}",
    says="Those of them that were closed for another cell; many of them mean a budget that is too small.",
    labels=(INSTALLATION,),
)
TOUCHED = Metric(
    name="mt_paas_db.connection.tenants",
    kind=Kind.GAUGE,
    unit="{tenant}",
    says="Distinct tenants that the open connections of a pool have served, added up over connections.",
    labels=(INSTALLATION, POOL),
)
BACKEND_MEMORY = Metric(
    name="mt_paas_db.backend.memory",
    kind=Kind.GAUGE,
    unit="By",
    says="Estimate of what the server's backends behind these connections hold; absent where no models are known.",
    labels=(INSTALLATION, POOL),
)

METRICS: tuple[Metric, ...] = (
    SESSION_DURATION,
    SESSION_ACTIVE,
    REFUSALS,
    PIN_DURATION,
    WAIT_TIME,
    CREATE_TIME,
    CONNECTIONS,
    CONNECTIONS_MAX,
    PENDING,
    TIMEOUTS,
    CLOSED,
    EVICTIONS,
    TOUCHED,
    BACKEND_MEMORY,
    LOOKUPS,
    REMEMBERED,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is observed of one metric when somebody collects."""

    metric: Metric
    labels: tuple[tuple[str, str], ...]
    value: float
