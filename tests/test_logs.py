"""The tenant in force on log records."""

from __future__ import annotations

import asyncio
import io
import logging
import logging.config
import threading
from collections.abc import Iterator

import pytest

from mt_paas_db import TenantLogFilter, current_tenant, tenant_context
from tests.fleet import Service


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    """What a handler writes that is configured as services do."""
    stream = io.StringIO()
    logger = logging.getLogger("service")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"tenant": {"()": "mt_paas_db.TenantLogFilter"}},
            "formatters": {"plain": {"format": "%(tenant_id)s %(message)s"}},
            "handlers": {
                "told": {
                    "class": "logging.StreamHandler",
                    "stream": stream,
                    "filters": ["tenant"],
                    "formatter": "plain",
                }
            },
            "loggers": {"service": {"handlers": ["told"], "level": "INFO"}},
        }
    )
    yield stream
    logger.handlers.clear()


below = logging.getLogger("service.chat")


def test_a_record_says_whose_it_is(told: io.StringIO) -> None:
    below.info("before")
    with tenant_context("hallym"):
        below.info("outer")
        with tenant_context("korea"):
            below.info("inner")
        thread = threading.Thread(target=below.info, args=("in a new thread",))
        thread.start()
        thread.join()
    below.info("after")
    assert told.getvalue().splitlines() == [
        "- before", "hallym outer", "korea inner", "- in a new thread", "- after",
    ]  # fmt: skip


def test_tasks_keep_theirs_apart(told: io.StringIO) -> None:
    async def serve(tenant_id: str) -> None:
        with tenant_context(tenant_id):
            await asyncio.sleep(0)
            below.info("for %s", tenant_id)

    async def both() -> None:
        await asyncio.gather(serve("hallym"), serve("korea"))

    asyncio.run(both())
    assert sorted(told.getvalue().splitlines()) == ["hallym for hallym", "korea for korea"]


def test_within_a_session_it_is_the_context_that_counts(fleet: Service, told: io.StringIO) -> None:
    manager = fleet.manager()
    with tenant_context("hallym"), manager.get_session(current_tenant()):
        below.info("both")
    with manager.get_session("hallym"):
        below.info("a session alone")
    assert told.getvalue().splitlines() == ["hallym both", "- a session alone"]


def test_a_record_that_names_a_tenant_keeps_it_and_none_is_dropped(told: io.StringIO) -> None:
    with tenant_context("hallym"):
        below.info("moved", extra={"tenant_id": "korea"})
    assert told.getvalue() == "korea moved\n"
    assert TenantLogFilter().filter(logging.makeLogRecord({}))
