"""Steps of the world around sessions: tenants' lifecycle, accidents, migrations, the service's own tables."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy import text

from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.machine.faults import LeakError
from mt_paas_db.isolation.machine.frame import Frame, step
from mt_paas_db.isolation.machine.tenants import read, texts
from mt_paas_db.isolation.machine.visit import Visit


class Around(Frame):
    """What happens to tenants, connections, the pooler and the tables, with sessions open."""

    # -- tenants

    @step
    def suspend(self, color: str) -> None:
        """Suspend a tenant. Its open transactions go on; its next ones are refused."""
        self.tenants.suspend(self.tenants.now[color])

    @step
    def resume(self, color: str) -> None:
        """Resume a suspended tenant."""
        self.tenants.resume(self.tenants.now[color])

    @step
    def delete(self, color: str) -> None:
        """Delete a tenant. Sessions of it may be open, without a transaction."""
        self.tenants.delete(self.tenants.now[color])

    @step
    def create(self, color: str) -> None:
        """Create a tenant under the id of one that was deleted."""
        self.tenants.create(color)

    @step
    def migrate(self, color: str) -> None:
        """Change the machine's table in one tenant's schema, by DDL as the owner."""
        self.tenants.migrate(self.tenants.now[color])

    # -- the service's own tables

    @step
    def fill(self, color: str, commit: bool) -> None:  # noqa: FBT001  # a line of a script
        """Write a row into every table of the service's models, read all of them back, and commit or roll back."""
        life, number = self.tenants.now[color], self.number()
        visit = self.enter(life)
        try:
            if not self.begun(visit):
                return
            canary = self.tenants.canaries[life.label]
            self.said(visit, "rows of the models", lambda: self.ground.fill_more(visit.session, canary, number))
            found = self._tables(visit)
            if commit:
                visit.session.commit()
                self.tenants.filled(life, found)
        finally:
            visit.session.rollback()
            self.leave(visit)

    @step
    def read_tables(self, n: int) -> None:
        """Read every table of the service's models: exactly what the tenant has there."""
        visit = self.visits[n]
        if self.begun(visit):
            found = self.said(visit, "the service's tables", lambda: self._tables(visit))
            if found is not None and found != visit.life.tables:
                changed = [name for name in found if found[name] != visit.life.tables.get(name)]
                raise LeakError(f"{visit.life} reads other rows than it wrote in {', '.join(changed)}")

    def _tables(self, visit: Visit) -> dict[str, tuple[str, ...]]:
        found = {name: texts(visit.session.execute(text(read(name)))) for name in self.ground.tables}
        self.observer.show(visit.life.label, "the service's tables", found)
        return found

    # -- accidents

    @step
    def kill(self, n: int) -> None:
        """Terminate the backend of a session's transaction."""
        visit = self.visits[n]
        pid = visit.session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        self.watch.terminate(int(pid))
        visit.draft.drop()
        visit.lost = self._losses = True

    @step
    def kill_at_rest(self) -> None:
        """Terminate the backends of the connections at rest."""
        self._losses = True
        for resting in list(self.pool.rest()):
            self.watch.terminate(resting.pid)

    @step
    def reconnect(self, hard: bool) -> None:  # noqa: FBT001  # a line of a script
        """Let PgBouncer leave its server connections: as they become free, or (`hard`) at once with its clients'."""
        self.watch.reconnect(hard=hard)
        if hard:
            self._losses = True
            for visit in self.visits.values():
                if visit.busy:
                    visit.draft.drop()
                    visit.lost = True

    @step
    def cancel(self, n: int, turns: int) -> None:
        """Cancel the task of a session, some turns of the event loop into a statement; its block ends by that."""
        visit = self.visits[n]
        if self.begun(visit):
            self.pool.wait(_cancelled(visit.async_session.execute(text("SELECT pg_sleep(10)")), turns))
        del self.visits[n]
        self.leave(visit, asyncio.CancelledError())
        visit.ended(committed=False)

    @step
    def cancel_closing(self, n: int, turns: int) -> None:
        """Cancel the task of a session while its block ends with a commit, which may have come about or not."""
        visit = self.visits.pop(n)
        life, before, after = visit.life, visit.life.rows, visit.sees
        self.pool.wait(_cancelled(visit.door.__aexit__(None, None, None), turns))
        found = self.tenants.truth([life])[life.schema] if life.state != "gone" else {}
        if found not in (before, after):
            self.compare(life, found, after, "has in its schema")
        visit.ended(committed=False)
        life.rows = found


async def _cancelled(work: Any, turns: int) -> None:
    """Begin `work` as a task and cancel it after so many turns of the event loop; wait for whatever it leaves going.

    It has one turn at least: a task that is cancelled before it has begun would never have come to this work.
    """
    others = asyncio.all_tasks()
    task = asyncio.ensure_future(work)
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    if turns % 2:
        await asyncio.sleep(0.002)  # until the server has it
    task.cancel()
    with suppress(asyncio.CancelledError, *ANSWERS):
        await task
    left = asyncio.all_tasks() - others - {task}
    await asyncio.gather(*left, return_exceptions=True)
