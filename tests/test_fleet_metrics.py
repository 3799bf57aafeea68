"""`mt-paas-db metrics`: what Prometheus' own parser reads is what the server has."""

from __future__ import annotations

import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_paas_db.cli.metrics_server import MOST_REQUESTS, _Server
from mt_paas_db.core.fleet_metrics import FLEET
from mt_paas_db.telemetry.exposition import CONTENT_TYPE, Family, render
from mt_paas_db.telemetry.metrics import METRICS
from tests.fleet import Service
from tests.test_cli import CommandLine, bare, mt

__all__ = ["bare", "mt"]

parser = pytest.importorskip("prometheus_client.parser", reason="the dev dependency group is not installed")

ROOT = Path(__file__).resolve().parents[1]

Read = dict[str, list[tuple[dict[str, str], float]]]


def read(text: str) -> Read:
    """Return what Prometheus reads."""
    families = list(parser.text_string_to_metric_families(text))
    return {family.name: [(sample.labels, sample.value) for sample in family.samples] for family in families}


@given(st.text(), st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_a_label_holds_is_read_as_it_was(label: str, says: str, value: float) -> None:
    label = label.replace("\r", "")  # the parser reads lines as Python does: a lone \r would end one
    text = render([Family.of("some_name", "gauge", says, [({"a": label, "b": ""}, value)])])
    assert text.splitlines(keepends=True)[-1].endswith("\n")
    if not set(text) & set("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"):  # the same
        assert read(text) == {"some_name": [({"a": label, "b": ""}, value)]}


def one(connection: Any, statement: str, *values: Any) -> Any:
    return connection.execute(statement.encode(), values or None).fetchone()[0]


def test_what_is_printed_is_what_the_server_has(
    mt: CommandLine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MT_PAAS_DB_LOGIN_SECRET", "x" * 40)
    for name, tier in (("hallym", "role"), ("korea", "role"), ("snu", "login")):
        mt("tenant", "create", name, "--tier", tier)
    mt("tenant", "suspend", "korea")
    with service.manager(login_secret="x" * 40).get_session("hallym") as session:
        session.connection()
        printed = mt("metrics", "--tenants", "2")
    seen = read(printed.out)
    assert printed.out.startswith("# HELP mt_paas_db_tenants ")
    assert set(seen) <= set(FLEET)
    assert {name: {key for labels, _ in samples for key in labels} for name, samples in seen.items()} == {
        name: set(FLEET[name][1]) for name in seen
    }
    tenants = {(labels["tier"], labels["state"]): value for labels, value in seen["mt_paas_db_tenants"]}
    assert tenants == {("role", "active"): 1, ("role", "suspended"): 1, ("login", "active"): 1}
    connections = {labels["login_role"]: value for labels, value in seen["mt_paas_db_connections"]}
    assert connections[service.login] >= 1
    assert sorted(connections.values())[0] == 0  # snu's own login, which nobody uses
    assert seen["mt_paas_db_membership_strays"] == [({}, 0)]
    with service.superuser() as su:
        roles = one(su, "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s)", f"{service.name}_")
        most = one(su, "SHOW max_connections")
    assert seen["mt_paas_db_roles"] == [({}, roles)]
    assert seen["mt_paas_db_server_connections_max"] == [({}, int(most))]
    assert len(seen["mt_paas_db_tenant_size_bytes"]) == 2
    assert "mt_paas_db_tenant_size_bytes" not in mt("metrics").out
    assert "hallym" not in mt("metrics").out

    with service.superuser() as su:  # somebody grants by hand what the lifecycle took
        role = one(su, "SELECT role_name FROM mt_paas.tenant WHERE tenant_id = 'korea'")
        su.execute(f'GRANT "{role}" TO "{service.login}"'.encode())
    assert read(mt("metrics").out)["mt_paas_db_membership_strays"] == [({}, 1)]
    assert {"name": "mt_paas_db_membership_strays", "labels": {}, "value": 1} in mt.json("metrics")["metrics"]


def test_revisions_behind_are_counted_from_the_furthest(mt: CommandLine, service: Service) -> None:
    for name in ("hallym", "korea", "snu"):
        mt("tenant", "create", name)
    with service.superuser() as su:
        su.execute(
            "INSERT INTO mt_paas.revision_set (heads, applied) VALUES ('{r1}', '{r1}'), ('{r3}', '{r1,r2,r3}');"
            "DELETE FROM mt_paas.tenant_revision;"
            "INSERT INTO mt_paas.tenant_revision (generation, heads)"
            " SELECT generation, CASE tenant_id WHEN 'hallym' THEN '{r1}'::text[] ELSE '{r3}' END"
            " FROM mt_paas.tenant WHERE tenant_id <> 'snu'"
        )
    seen = read(mt("metrics").out)
    behind = {labels["heads"]: value for labels, value in seen["mt_paas_db_revision_behind"]}
    tenants = {labels["heads"]: value for labels, value in seen["mt_paas_db_revision_tenants"]}
    assert behind == {"r1": 2, "r3": 0}
    assert tenants == {"r1": 1, "r3": 1, "unknown": 1}


@pytest.mark.parametrize("address", ["0.0.0.0:9187", "example.org:80", "127.0.0.1:x", "127.0.0.1", "127.0.0.1:70000"])
def test_it_listens_on_loopback_only(bare: CommandLine, address: str) -> None:
    assert "--listen" in bare("metrics", "--listen", address, code=2).err


def test_metrics_are_served_until_ctrl_c(mt: CommandLine, service: Service) -> None:
    process = mt.in_a_process("metrics", "--listen", "127.0.0.1:0")
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said
        with urllib.request.urlopen(f"{found[0]}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert "mt_paas_db_server_roles" in read(answer.read().decode())
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{found[0]}/", timeout=30)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def stuck() -> Iterator[tuple[Any, threading.Event]]:
    """A server whose look at the database takes until the event is set."""
    go_on = threading.Event()

    def text() -> str:
        go_on.wait(30)
        return "done 1\n"

    with _Server(("127.0.0.1", 0), text) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, go_on
        finally:
            go_on.set()
            server.shutdown()
            thread.join()


def test_requests_under_way_are_bounded(stuck: tuple[Any, threading.Event]) -> None:
    server, go_on = stuck
    url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
    answers: list[int] = []

    def ask() -> None:
        with urllib.request.urlopen(url, timeout=30) as answer:
            answers.append(answer.status)

    askers = [threading.Thread(target=ask) for _ in range(MOST_REQUESTS)]
    for asker in askers:
        asker.start()
    deadline = time.monotonic() + 10
    while server.room._value and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(url, timeout=30)
    go_on.set()
    for asker in askers:
        asker.join()
    assert answers == [200] * MOST_REQUESTS


def test_a_database_that_is_down_is_said_and_the_next_scrape_may_succeed(bare: CommandLine) -> None:
    assert "no installation" in bare("metrics", code=1).err


# -- the reference


def rows(heading: str) -> dict[str, list[str]]:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    part = re.search(rf"<!-- {heading} -->\n((?:\|.*\n)+)", page)
    assert part, heading
    lines = re.findall(r"^\| `([a-z_.]+)` \|(.*)\|$", part[1], re.M)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in lines}


def test_the_reference_has_every_metric_of_a_process() -> None:
    def labels(metric: Any) -> str:
        shown = [f"`{label}`" for label in metric.labels[1:]]
        return ", ".join([*shown, *(["(tenant)"] if metric.per_tenant else [])]) or "none"

    expected = {m.name: [str(m.kind), f"`{m.unit}`", labels(m), m.says] for m in METRICS}
    assert rows("process") == expected


def test_the_reference_has_every_metric_of_the_fleet() -> None:
    expected = {
        name: [", ".join(f"`{label}`" for label in labels) or "none", says] for name, (says, labels) in FLEET.items()
    }
    assert rows("fleet") == expected
