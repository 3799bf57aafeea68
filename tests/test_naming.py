"""The server can be told whose a statement is: it shows in pg_stat_activity, and is gone with the transaction."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Integer, bindparam, insert, select, text
from sqlalchemy.orm import Session

from mt_paas_db.session import naming
from mt_paas_db.telemetry.sqlcomment import commented, sqlcomment
from tests.conftest import bouncer_for
from tests.fleet import ROUTES, Route, Runner, Service
from tests.models import Note

NAMES = ("application_name", "comment", "traced_comment")


@pytest.mark.parametrize("name_tenant", NAMES)
def test_the_server_shows_the_tenant_while_its_transaction_lasts(
    fleet: Service, route: Route, name_tenant: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr(naming, "traceparent", lambda: trace)
    pooler = request.getfixturevalue("pgbouncer") if route.pooled else None
    runner = Runner(fleet.manager(pooler=pooler, pool_size=1, name_tenant=name_tenant, **route.options), route)

    def look(session: Session) -> tuple[str, str]:
        pid = session.execute(text("SELECT pg_backend_pid() WHERE :percent <> ''"), {"percent": "100 %"}).scalar_one()
        with fleet.superuser() as su:
            asked = su.execute("SELECT application_name, query FROM pg_stat_activity WHERE pid = %s", [pid])
            application_name, query = asked.fetchone() or ("", "")
        return str(application_name), str(query)

    application = f"application='{fleet.name}'"
    expected = {
        "comment": f" /*{application},tenant='hallym'*/",
        "traced_comment": f" /*{application},tenant='hallym',traceparent='{trace}'*/",
    }
    try:
        for _ in range(2):
            application_name, query = runner.run("hallym", look)
            if name_tenant == "application_name":
                assert application_name == "hallym"
                assert "/*" not in query
            else:
                assert application_name != "hallym"
                assert query.endswith(expected[name_tenant])
        assert "korea" in "".join(runner.run("korea", look))
        with fleet.superuser() as su:  # what the connection, idle now, is called
            names = su.execute("SELECT application_name FROM pg_stat_activity WHERE usename = %s", [fleet.login])
            assert {"hallym", "korea"}.isdisjoint(name for (name,) in names.fetchall())
    finally:
        runner.close()


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.pooled], indirect=True, ids=str)
@pytest.mark.parametrize("name_tenant", ["comment", "traced_comment"])
def test_statements_of_every_kind_bear_it(fleet: Service, route: Route, name_tenant: str) -> None:
    """Placeholders, per cents, many rows at once, and text that is sent as it is."""
    runner = Runner(fleet.manager(name_tenant=name_tenant, **route.options), route)

    def work(session: Session) -> list[Any]:
        session.execute(insert(Note), [{"body": f"{number} %"} for number in range(3)])
        assert session.execute(text("SELECT '100 %' WHERE 7 % 4 = 3")).scalar_one() == "100 %"
        assert session.connection().exec_driver_sql("SELECT 7 % 4", execution_options={"no_parameters": True}).one()
        assert session.execute(select(bindparam("x", 7, type_=Integer) % 4)).scalar_one() == 3
        return list(session.scalars(select(Note.body).order_by(Note.body)))

    try:
        for _ in range(3):
            assert runner.run("hallym", work)[0] == "0 %"
    finally:
        runner.close()


def test_a_statement_with_a_comment_is_left_alone() -> None:
    comment = sqlcomment(tenant="hallym")
    assert commented("SELECT 1", comment) == "SELECT 1 /*tenant='hallym'*/"
    for statement in ("SELECT 1 /* mine */", "SELECT 1 -- mine"):
        assert commented(statement, comment) == statement
    assert sqlcomment(tenant=None) == ""
    assert commented("SELECT 1", "") == "SELECT 1"


@given(st.dictionaries(st.sampled_from(["tenant", "application", "traceparent"]), st.text(min_size=1), min_size=1))
def test_no_value_ends_the_comment_and_each_can_be_read_back(fields: dict[str, str]) -> None:
    try:
        written = sqlcomment(**fields)
    except UnicodeEncodeError:  # half a character: no text
        return
    inside = written.removeprefix("/*").removesuffix("*/")
    assert "*/" not in inside
    assert "/*" not in inside
    assert written.isascii()
    pairs = [pair.split("=") for pair in inside.split(",")]
    assert [key for key, _ in pairs] == sorted(fields)
    assert {key: unquote(value[1:-1]) for key, value in pairs} == fields


def test_behind_a_pooler_the_next_client_has_its_own_name_again(fleet: Service) -> None:
    with bouncer_for(fleet) as pooler:
        named = fleet.manager(pooler=pooler, name_tenant="application_name")
        plain = fleet.manager(pooler=pooler)
        with named.get_session("hallym") as session:
            assert session.execute(text("SHOW application_name")).scalar_one() == "hallym"
        with plain.get_session("hallym") as session:
            assert session.execute(text("SHOW application_name")).scalar_one() != "hallym"
