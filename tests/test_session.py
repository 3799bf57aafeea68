"""What a tenant's session does, on every driver, direct and through PgBouncer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError, InternalError, InvalidRequestError, OperationalError
from sqlalchemy.orm import Session

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import (
    ConfigurationError,
    InvalidIdentifierError,
    TenantSuspendedError,
    UnknownTenantError,
)
from tests.fleet import Runner, Service
from tests.models import Mood, Note, Remark


def probe(session: Session) -> tuple[str, str, str]:
    """Return role, path and tenant setting as the server sees them."""
    row = session.execute(
        text("SELECT current_user, current_setting('search_path'), current_setting('mt_paas.tenant')")
    ).one()
    return (row[0], row[1], row[2])


def test_the_pin_sets_role_path_and_tenant(runner: Runner) -> None:
    role = runner.manager.get("hallym").placement.role_name

    seen = runner.run("hallym", probe)

    assert seen == (role, f"{role}, pg_temp", "hallym")


def test_each_tenant_sees_its_own_rows_on_one_shared_connection(runner: Runner) -> None:
    for tenant in ("hallym", "korea") * 3:
        runner.run(tenant, lambda session, body=tenant: session.add(Note(body=body)))  # type: ignore[misc]

    for tenant in ("hallym", "korea"):
        bodies = runner.run(tenant, lambda session: session.scalars(select(Note.body)).all())
        assert bodies == [tenant] * 3


def test_the_transaction_after_commit_and_after_rollback_is_pinned_again(runner: Runner) -> None:
    def scenario(session: Session) -> list[Any]:
        seen = [probe(session)]
        session.commit()
        seen.append(probe(session))
        session.rollback()
        seen.append(probe(session))
        return seen

    seen = runner.run("korea", scenario)

    assert len(set(seen)) == 1
    assert seen[0][2] == "korea"


def test_savepoints_keep_the_pin(runner: Runner) -> None:
    def scenario(session: Session) -> int | None:
        session.add(Note(body="kept"))
        session.flush()
        with pytest.raises(DBAPIError), session.begin_nested():
            session.add(Note(body="lost"))
            session.flush()
            session.execute(text("SELECT 1/0"))
        assert probe(session)[2] == "hallym"
        with session.begin_nested():
            session.add(Note(body="also kept"))
        return session.scalar(select(func.count()).select_from(Note))

    assert runner.run("hallym", scenario) == 2


def test_nothing_persists_on_the_connection(runner: Runner, fleet: Service) -> None:
    runner.run("hallym", lambda session: session.execute(select(Note)).all())

    assert connection_at_rest(runner) == {
        "current_user": fleet.login,
        "search_path": 'pg_catalog, "$user", pg_temp',
        "tenant": "",
    }


def connection_at_rest(runner: Runner) -> dict[str, str]:
    """Look at the pooled connection between transactions, past SQLAlchemy and the guard."""
    query = (
        "SELECT current_user, current_setting('search_path') AS search_path, "
        "coalesce(current_setting('mt_paas.tenant', true), '') AS tenant"
    )
    engines = runner.manager._door.engines
    if not runner.route.is_async:
        with engines.blocking("main").connect() as connection:
            driver: Any = connection.connection.driver_connection
            row = driver.execute(query).fetchone()
        return dict(zip(("current_user", "search_path", "tenant"), row, strict=True))

    async def look() -> dict[str, str]:
        async with engines.asyncio("main").connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            if runner.route.driver == "asyncpg":
                return dict(await driver.fetchrow(query))
            row = await (await driver.execute(query)).fetchone()
            return dict(zip(("current_user", "search_path", "tenant"), row, strict=True))

    found: dict[str, str] = runner.await_(look)
    return found


def test_leaving_the_block_commits(runner: Runner) -> None:
    runner.run("hallym", lambda session: session.add(Note(body="x")))

    assert runner.run("hallym", lambda session: session.scalar(select(func.count()).select_from(Note))) == 1


def test_an_exception_rolls_back(runner: Runner) -> None:
    def scenario(session: Session) -> None:
        session.add(Note(body="x"))
        session.flush()
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        runner.run("hallym", scenario)

    assert runner.run("hallym", lambda session: session.scalar(select(func.count()).select_from(Note))) == 0


def test_commit_false_rolls_back_what_was_not_committed(runner: Runner) -> None:
    def scenario(session: Session) -> None:
        session.add(Note(body="by itself"))
        session.commit()
        session.add(Note(body="left open"))
        session.flush()

    runner.run("hallym", scenario, commit=False)

    assert runner.run("hallym", lambda s: s.scalars(select(Note.body)).all()) == ["by itself"]


def test_objects_stay_readable_after_the_block(runner: Runner) -> None:
    def scenario(session: Session) -> Note:
        note = Note(body="x", mood=Mood.eager, tags={"a": 1})
        session.add(note)
        return note

    note = runner.run("hallym", scenario)

    assert (note.body, note.mood, note.tags) == ("x", Mood.eager, {"a": 1})


def test_a_read_only_session_cannot_write(runner: Runner) -> None:
    def write(session: Session) -> None:
        session.add(Note(body="x"))
        session.flush()

    with pytest.raises((InternalError, DBAPIError), match="read-only transaction"):
        runner.run("hallym", write, read_only=True)

    assert runner.run("hallym", lambda s: s.scalars(select(Note)).all(), read_only=True) == []


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_isolation_level_holds_in_each_transaction(runner: Runner, level: str) -> None:
    def scenario(session: Session) -> list[str]:
        show = text("SHOW transaction_isolation")
        first = session.execute(show).scalar_one()
        session.commit()
        return [first, session.execute(show).scalar_one()]

    assert runner.run("hallym", scenario, isolation_level=level) == [level.lower()] * 2
    assert runner.run("hallym", scenario)[0] == "read committed"


def test_the_isolation_level_may_be_chosen_as_sqlalchemy_does(runner: Runner) -> None:
    def scenario(session: Session) -> str:
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        assert probe(session)[2] == "hallym"
        return str(session.execute(text("SHOW transaction_isolation")).scalar_one())

    assert runner.run("hallym", scenario) == "serializable"
    assert (
        runner.run("hallym", lambda s: s.execute(text("SHOW transaction_isolation")).scalar_one()) == "read committed"
    )


def test_the_statement_timeout_holds_and_ends_with_the_session(runner: Runner) -> None:
    with pytest.raises((OperationalError, DBAPIError), match="statement timeout"):
        runner.run("hallym", lambda s: s.execute(text("SELECT pg_sleep(20)")), statement_timeout_s=0.05)

    assert runner.run("hallym", lambda s: s.execute(text("SHOW statement_timeout")).scalar_one()) == "0"


def test_rows_can_be_streamed(runner: Runner) -> None:
    def scenario(session: Session) -> list[int]:
        query = text("SELECT g FROM generate_series(1, 2500) g").execution_options(
            stream_results=True, max_row_buffer=100
        )
        return [row[0] for row in session.execute(query)]

    assert runner.run("hallym", scenario) == list(range(1, 2501))


def test_many_rows_relationships_and_json(runner: Runner) -> None:
    def write(session: Session) -> None:
        session.add_all(
            Note(body=f"n{i}", tags={"i": i}, remarks=[Remark(body=f"r{i}{j}") for j in range(2)]) for i in range(300)
        )

    runner.run("hallym", write)

    def read(session: Session) -> tuple[int, list[str]]:
        note = session.scalars(select(Note).where(Note.tags["i"].as_integer() == 7)).one()
        return session.scalar(select(func.count()).select_from(Remark)) or 0, [r.body for r in note.remarks]

    assert runner.run("hallym", read) == (600, ["r70", "r71"])


def test_an_alias_opens_the_tenant(runner: Runner) -> None:
    runner.manager.add_alias("hallym", "chat.hallym.ac.kr")

    assert runner.run("chat.hallym.ac.kr", probe)[2] == "hallym"


def test_an_unknown_tenant_is_refused(runner: Runner) -> None:
    with pytest.raises(UnknownTenantError) as refused:
        runner.run("yonsei", probe)

    assert refused.value.tenant_id == "yonsei"


def test_a_malformed_id_is_refused_before_anything_is_sent(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.manager._door, "resolver", None)

    with pytest.raises(InvalidIdentifierError):
        runner.run('hallym"; DROP SCHEMA korea', probe)


def test_a_suspension_reaches_a_warm_process_at_its_next_transaction(runner: Runner, manager: TenantManager) -> None:
    def scenario(session: Session) -> None:
        assert probe(session)[2] == "hallym"
        session.commit()
        manager.suspend("hallym", reason="payment")
        with pytest.raises(TenantSuspendedError) as refused:
            probe(session)
        assert refused.value.reason == "payment"

    runner.run("hallym", scenario)

    with pytest.raises(TenantSuspendedError):
        runner.run("hallym", probe)
    assert runner.run("korea", probe)[2] == "korea"
    manager.resume("hallym")
    assert runner.run("hallym", probe)[2] == "hallym"


def test_a_session_context_is_used_once(fleet: Service) -> None:
    door = fleet.manager().get_session("hallym")
    with door:
        pass

    with pytest.raises(ConfigurationError, match="entered once"), door:
        pass


def test_bad_options_are_refused_at_once(fleet: Service) -> None:
    manager = fleet.manager()

    for options in ({"isolation_level": "AUTOCOMMIT"}, {"isolation_level": "CHAOS"}, {"statement_timeout_s": 0}):
        with pytest.raises(ConfigurationError):
            manager.get_session("hallym", **options)


def test_the_usage_of_the_design_runs_as_written(fleet: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    import mt_paas_db
    from mt_paas_db import tenant_session
    from mt_paas_db.core import default

    monkeypatch.setattr(default, "_manager", None)
    mt_paas_db.configure(fleet.manager())

    with tenant_session("hallym") as session:
        session.add(Note(body="from a blocking session"))

    async def coroutine() -> list[str]:
        async with tenant_session("hallym") as session:
            bodies = list((await session.scalars(select(Note.body))).all())
        await default.default_manager().aio.close()
        return bodies

    assert asyncio.run(coroutine()) == ["from a blocking session"]


def test_one_manager_serves_several_event_loops(fleet: Service) -> None:
    manager = fleet.manager()

    async def work() -> str:
        async with manager.get_session("hallym") as session:
            tenant = (await session.execute(text("SELECT current_setting('mt_paas.tenant')"))).scalar_one()
        await manager.aio.close()
        return str(tenant)

    assert [asyncio.run(work()) for _ in range(2)] == ["hallym"] * 2


def test_threads_share_a_manager(fleet: Service) -> None:
    manager = fleet.manager(pool_size=2)
    wrong: list[object] = []

    def work(tenant: str) -> None:
        for _ in range(20):
            with manager.get_session(tenant) as session:
                seen = probe(session)
                if seen[2] != tenant:
                    wrong.append((tenant, seen))

    threads = [threading.Thread(target=work, args=(tenant,)) for tenant in ("hallym", "korea") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_tenant_engine_serves_core_code(fleet: Service) -> None:
    with fleet.manager().get_session("hallym") as session:
        engine = session.get_bind()
        assert isinstance(engine, Engine)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT current_setting('mt_paas.tenant')")).scalar_one() == "hallym"


def test_a_closed_session_stays_closed(runner: Runner) -> None:
    kept: list[Session] = []
    runner.run("hallym", kept.append)

    def late(_session: Session) -> None:
        with pytest.raises(InvalidRequestError):
            kept[0].execute(text("SELECT 1"))

    runner.run("korea", late)


def test_a_read_only_tenant_takes_read_only_sessions(runner: Runner, fleet: Service) -> None:
    with fleet.superuser() as su:
        su.execute("UPDATE mt_paas.tenant SET state = 'read_only' WHERE tenant_id = 'hallym'")

    with pytest.raises(DBAPIError, match="read-only transaction"):
        runner.run("hallym", lambda session: session.add(Note(body="x")))
    with pytest.raises(DBAPIError, match="must be set before any query"):
        runner.run("hallym", lambda session: session.execute(text("SET TRANSACTION READ WRITE")))
    assert runner.run("hallym", lambda session: session.scalars(select(Note)).all()) == []
