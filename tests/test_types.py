"""Types that exist once per tenant schema: ENUM, DOMAIN and composite, on one connection that tenants share.

Their OIDs differ from tenant to tenant, so that a statement prepared for one does not fit the next.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from mt_paas_db.session.dialects import asyncpg as asyncpg_dialect
from mt_paas_db.session.dialects import psycopg as psycopg_dialect
from tests.fleet import ROUTES, Route, Runner, Service
from tests.models import Mood, Note

DDL = """
CREATE DOMAIN {s}.grade AS text CHECK (VALUE IN ('A', 'B'));
CREATE TYPE {s}.spot AS (x int, y int);
CREATE TABLE {s}.thing (id int PRIMARY KEY, mood {s}.mood, grade {s}.grade, place {s}.spot, moods {s}.mood[]);
"""
ROUNDS = 8  # psycopg prepares at the sixth use of a text, asyncpg at the first


@pytest.fixture
def things(fleet: Service, manager: Any) -> None:
    with fleet.superuser() as su:
        for tenant_id in ("hallym", "korea"):
            schema = manager.get(tenant_id).placement.schema_name
            su.execute(f"SET ROLE {fleet.name}_owner")  # the owner's tables are granted by default privileges
            su.execute(DDL.format(s=schema))


def use_the_types(session: Session) -> tuple[Any, ...]:
    session.execute(text("DELETE FROM thing"))
    session.execute(
        text(
            "INSERT INTO thing VALUES (1, CAST(:mood AS mood), CAST(:grade AS grade), CAST(ROW(1, 2) AS spot),"
            " CAST(ARRAY['calm','eager'] AS mood[]))"
        ),
        {"mood": "eager", "grade": "A"},
    )
    session.commit()
    row = session.execute(
        text("SELECT mood, grade, place::text, moods::text[] FROM thing WHERE mood = CAST(:mood AS mood)"),
        {"mood": "eager"},
    ).one()
    whole = session.execute(text("SELECT place, moods, mood FROM thing")).one()
    assert whole[2] == "eager"
    return tuple(row)


def test_types_of_each_tenant_work_on_a_shared_connection(runner: Runner, things: None) -> None:
    for _ in range(ROUNDS):
        for tenant_id in ("hallym", "korea"):
            assert runner.run(tenant_id, use_the_types) == ("eager", "A", "(1,2)", ["calm", "eager"])


def use_the_orm(session: Session) -> list[str]:
    session.add(Note(body="x", mood=Mood.eager))
    session.commit()
    return [str(note.mood) for note in session.query(Note).filter(Note.mood == Mood.eager).limit(1)]


def test_orm_enums_work_on_a_shared_connection(runner: Runner) -> None:
    for _ in range(ROUNDS):
        for tenant_id in ("hallym", "korea"):
            assert runner.run(tenant_id, use_the_orm) == ["Mood.eager"]


@pytest.mark.parametrize("route", [r for r in ROUTES if not r.pooled], ids=str)
def test_prepared_statements_are_on(runner: Runner, route: Route) -> None:
    """The types work although statements are prepared, not because they are not."""
    names = "SELECT count(*) FROM pg_prepared_statements"
    for _ in range(ROUNDS):
        runner.run("hallym", use_the_orm)

    assert runner.run("hallym", lambda session: session.execute(text(names)).scalar_one()) > 0


@pytest.mark.parametrize("route", [r for r in ROUTES if not r.pooled], ids=str)
def test_twin_with_statements_shared_by_all_tenants_the_types_fail(
    runner: Runner, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    if route.driver == "asyncpg":
        monkeypatch.setattr(asyncpg_dialect.PinnedAsyncpg, "_enter", lambda *_: None)
    else:
        monkeypatch.setattr(psycopg_dialect.TenantPrepareManager, "key", lambda self, query: (query.query, query.types))

    refusals = ("cached plan must not change", "cached statement plan", "cannot cast", "but expression is of type")
    with pytest.raises(Exception, match="|".join(refusals)):
        for _ in range(ROUNDS):
            for tenant_id in ("hallym", "korea"):
                runner.run(tenant_id, use_the_orm)
