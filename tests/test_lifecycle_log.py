"""The lifecycle log: who did what, when, and how it ended; kept, whatever becomes of the tenant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    IllegalTransitionError,
    InvalidIdentifierError,
    NameReservedError,
    UnknownTenantError,
)
from tests.fleet import Service


def test_the_log_says_who_did_what_when_and_with_what_outcome(service: Service, manager: TenantManager) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    made = manager.create("hallym", actor="kim")
    manager.add_alias("hallym", "chat.hallym.ac.kr", actor="lee")
    manager.release_alias("hallym", "chat.hallym.ac.kr", actor="lee")
    manager.suspend("hallym", reason="payment", note="unpaid since March", actor="billing")
    with pytest.raises(IllegalTransitionError):
        manager.suspend("hallym", actor="billing")
    manager.resume("hallym")
    manager.rename("hallym", "hallym-univ", actor="kim")
    with pytest.raises(UnknownTenantError):
        manager.suspend("nobody", actor="kim")
    events = manager.events()
    assert [(e.action, e.actor, e.outcome) for e in reversed(events)] == [
        ("create", "kim", "done"),
        ("add_alias", "lee", "done"),
        ("release_alias", "lee", "done"),
        ("suspend", "billing", "done"),
        ("suspend", "billing", "failed"),
        ("resume", "postgres", "done"),
        ("rename", "kim", "done"),
        ("suspend", "kim", "failed"),
    ]
    assert all(began < e.at < began + timedelta(minutes=1) for e in events)
    assert [e.event_id for e in events] == sorted((e.event_id for e in events), reverse=True)
    assert all(e.generation == made.generation for e in events if e.outcome == "done")
    by_action = {e.action: e for e in reversed(events) if e.outcome == "done"}
    assert by_action["suspend"].detail == {"reason": "payment", "note": "unpaid since March"}
    assert by_action["rename"].detail["to"] == "hallym-univ"
    assert by_action["add_alias"].detail["alias"] == "chat.hallym.ac.kr"
    failed = events[0]
    assert (failed.tenant_id, failed.detail["error"]) == ("nobody", "UnknownTenantError")
    assert "nobody" in failed.detail["message"]
    assert [e.tenant_id for e in manager.events("nobody")] == ["nobody"]
    assert manager.events(limit=2) == events[:2]


_CHANGES_OF_THE_LOG = """
UPDATE mt_paas.event SET actor = 'nobody'
UPDATE mt_paas.event SET outcome = 'done' WHERE false
DELETE FROM mt_paas.event
DELETE FROM mt_paas.event WHERE false
TRUNCATE mt_paas.event
TRUNCATE mt_paas.event, mt_paas.tenant CASCADE
MERGE INTO mt_paas.event USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE
INSERT INTO mt_paas.event SELECT * FROM mt_paas.event ON CONFLICT (event_id) DO UPDATE SET actor = 'nobody'
"""


@pytest.mark.parametrize("role", ["owner", "superuser"])
def test_the_log_is_append_only(fleet: Service, manager: TenantManager, role: str) -> None:
    before = manager.events()
    with fleet.superuser() as connection:
        if role == "owner":
            connection.execute(f'SET ROLE "{fleet.name}_owner"'.encode())
        for statement in _CHANGES_OF_THE_LOG.strip().splitlines():
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(statement.encode())
                pytest.fail(f"allowed: {statement}")
            # 428C9: the number of a line is the server's to give, so that no line can be put in another's place.
            assert caught.value.sqlstate in {"42501", "428C9"}, statement
    assert manager.events() == before


def test_the_log_is_found_by_any_name_of_the_tenant(fleet: Service, manager: TenantManager) -> None:
    manager.add_alias("hallym", "chat.hallym.ac.kr")
    manager.rename("hallym", "hallym-univ")
    with pytest.raises(NameReservedError):
        manager.create("hallym")  # tried under its name, by another
    with pytest.raises(IllegalTransitionError):
        manager.resume("hallym-univ")
    done = ["rename", "add_alias", "create"]
    for name in ("hallym", "hallym-univ", "chat.hallym.ac.kr"):
        assert [e.action for e in manager.events(name) if e.outcome == "done"] == done
    assert [e.action for e in manager.events("hallym")] == ["create", *done]
    assert [e.action for e in manager.events("hallym-univ")] == ["resume", *done]
    assert [e.action for e in manager.events("korea")] == ["create"]
    with pytest.raises(InvalidIdentifierError):
        manager.events("Hallym")


def test_the_log_outlives_the_tenant(fleet: Service, manager: TenantManager) -> None:
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    events = manager.events("hallym")
    assert [e.action for e in events] == ["delete", "delete", "archive", "create"]
    assert [e.outcome for e in events] == ["done", "started", "done", "done"]
