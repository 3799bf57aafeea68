"""A tenant that becomes read-only while a run is under way: what its migration makes is withheld like all else."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.armada import NOTE, QUICK, Armada
from tests.fleet import Service


@pytest.fixture
def armada(service: Service, tmp_path: Path) -> Armada:
    return Armada.launch(service, tmp_path, "hallym", "korea", "snu")


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("late", [False, True], ids=["before its turn", "in its turn"])
def test_a_tenant_becomes_read_only_meanwhile(armada: Armada, *, late: bool, online: bool) -> None:
    """Its new table is withheld whenever that is, and it is compared as what it is."""
    body = NOTE.replace('"note"', '"fresh"') + '\nop.execute("SELECT pg_sleep(0.7)")'
    armada.history.add("a2", ("op.get_bind()\n" if online else "") + body, after="a1")
    manager, schema = armada.manager(), armada.schema("korea")

    def change() -> None:
        deadline = time.monotonic() + 20
        before = "hallym" if late else "(reference)"  # one job: hallym, korea ...
        while armada.heads(before) != ("a2",) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        manager.read_only("korea")

    changing = threading.Thread(target=change)
    changing.start()
    report = armada.fleet().upgrade(options=replace(QUICK, jobs=1))
    changing.join()
    assert report.ok, report
    may = "SELECT array_agg(has_table_privilege('{}', t, 'INSERT')) FROM unnest('{{note,fresh}}'::text[]) t"
    assert armada.ask("korea", may.format(schema)) == [([False, False],)]
    manager.resume("korea")
    assert armada.ask("korea", may.format(schema)) == [([True, True],)]
    assert [found.verdict for found in armada.fleet().verify()] == ["same"] * 3
