"""Both drivers behind the pooler, with the options that the library would give them."""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import URL

from mt_paas_db.pooler.certify.client import Clock, connect_arguments
from mt_paas_db.pooler.certify.verdict import Check
from mt_paas_db.session.pooler import PoolerProfile

_TURNS = 8  # psycopg prepares what it has seen five times, asyncpg at once


@dataclass(frozen=True, slots=True)
class Tries:
    """Bound statements in transactions, on one connection or on two in turn."""

    url: URL
    clock: Clock
    profile: PoolerProfile
    connections: int

    def psycopg(self) -> Check:
        """Try psycopg."""
        options = self.profile.connect_args("psycopg")
        name, title = "psycopg", f"psycopg with {_shown(options)}"
        try:
            arguments = {**connect_arguments(self.url), "connect_timeout": max(2, round(self.clock.left())), **options}
            with ExitStack() as stack:
                opened = [stack.enter_context(psycopg.connect(**arguments)) for _ in range(self.connections)]
                for turn in range(_TURNS):
                    for connection in opened:
                        with connection.transaction():
                            found = connection.execute("SELECT %s::int + 1, %s::text", (turn, "한림")).fetchone()
                        if found != (turn + 1, "한림"):
                            return Check(name, title, "unsafe", f"answered {found}")
        except psycopg.Error as error:
            return Check(name, title, "unsafe", str(error).strip().splitlines()[0])
        return self._fine(name, title)

    def asyncpg(self) -> Check:
        """Try asyncpg, where it is installed."""
        options = self.profile.connect_args("asyncpg")
        options.pop("prepared_statement_cache_size", None)  # SQLAlchemy's
        name, title = "asyncpg", f"asyncpg with {_shown(options)}"
        if importlib.util.find_spec("asyncpg") is None:
            return Check(name, title, "skipped", "asyncpg is not installed")
        try:
            wrong = asyncio.run(self._asyncpg(options, self.clock.left(10)))
        except TimeoutError:
            return Check(name, title, "unsafe", "no answer in time")
        except Exception as error:  # the driver's errors have no base that its connecting keeps to
            return Check(name, title, "unsafe", (str(error).strip() or type(error).__name__).splitlines()[0])
        return self._fine(name, title) if wrong is None else Check(name, title, "unsafe", f"answered {wrong}")

    async def _asyncpg(self, options: dict[str, Any], seconds: float) -> tuple[Any, ...] | None:
        import asyncpg

        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        opened: list[Any] = []
        try:
            async with asyncio.timeout(seconds):
                for _ in range(self.connections):
                    opened.append(await asyncpg.connect(dsn, **options))  # noqa: PERF401  (what is open must be closed)
                for turn in range(_TURNS):
                    for connection in opened:
                        async with connection.transaction():
                            found = tuple(await connection.fetchrow("SELECT $1::int + 1, $2::text", turn, "한림"))
                        if found != (turn + 1, "한림"):
                            return found
            return None
        finally:
            for connection in opened:
                connection.terminate()

    def _fine(self, name: str, title: str) -> Check:
        return Check(name, title, "ok", f"{_TURNS * self.connections} transactions")


def _shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "its defaults"
