"""Steps of a tenant's session: what its code does by and by."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from mt_paas_db.errors import TenancyError, TenantMismatchError
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.machine.faults import AstrayError, LeakError
from mt_paas_db.isolation.machine.frame import Frame, step
from mt_paas_db.isolation.machine.model import Life
from mt_paas_db.isolation.machine.reads import READS, as_rows, change, put_in, take_out
from mt_paas_db.isolation.machine.strays import STRAYS
from mt_paas_db.isolation.machine.table import Note
from mt_paas_db.isolation.machine.visit import Visit
from mt_paas_db.session.context import tenant_context


class Sessions(Frame):
    """Sessions are named by numbers, tenants by colours."""

    @step
    def open(self, n: int, color: str) -> None:
        """Open a session of a tenant, as number `n`. One that is suspended or gone is refused, now or later."""
        life = self.tenants.now[color]
        try:
            self.visits[n] = self.enter(life)
        except TenancyError as error:
            self.observer.show_error(life.label, error)
            if life.state == "active":
                raise AstrayError(f"{life} gets no session: {error}") from error

    @step
    def close(self, n: int, how: str) -> None:
        """Let the session's block end: by ``commit``, or because something was raised in it (``raise``)."""
        visit = self.visits.pop(n)
        if how == "raise":
            try:
                self.leave(visit, LookupError("the service's own"))
            except ANSWERS as error:
                self.observer.show_error(visit.life.label, error)
                if not visit.lost:
                    raise AstrayError(f"{visit.life} cannot close: {error}") from error
            visit.ended(committed=False)
            return
        self._committed(visit, lambda: self.leave(visit))

    @step
    def commit(self, n: int) -> None:
        """Commit; the session goes on with another transaction."""
        visit = self.visits[n]
        self._committed(visit, visit.session.commit)

    def _committed(self, visit: Visit, act: Any) -> None:
        wrote = visit.busy
        try:
            act()
        except ANSWERS as error:
            self.observer.show_error(visit.life.label, error)
            if visit.sound and wrote:
                raise AstrayError(f"{visit.life} cannot commit: {error}") from error
            self.rolled_back(visit)
        else:
            visit.ended(committed=True)

    @step
    def rollback(self, n: int) -> None:
        """Roll back; the session goes on with another transaction."""
        self.rolled_back(self.visits[n])

    @step
    def savepoint(self, n: int) -> None:
        """Set a savepoint."""
        visit = self.visits[n]
        if self.begun(visit):
            nested = self.said(visit, "a savepoint", visit.session.begin_nested)
            if nested is not None:
                visit.saved(nested)

    @step
    def release(self, n: int) -> None:
        """Release the innermost savepoint."""
        visit = self.visits[n]
        visit.nested[-1].commit()
        visit.released()

    @step
    def back(self, n: int) -> None:
        """Roll back to the innermost savepoint."""
        visit = self.visits[n]
        visit.nested[-1].rollback()
        visit.went_back()

    @step
    def read(self, n: int, via: str) -> None:
        """Read all rows of the machine's table: exactly those that the tenant wrote."""
        visit = self.visits[n]
        if self.begun(visit):
            self._read(visit, via)

    def _read(self, visit: Visit, via: str) -> None:
        found = self.said(visit, f"rows by {via}", lambda: READS[via](visit.session))
        if found is not None:
            rows = as_rows(found)
            self.observer.show(visit.life.label, f"rows by {via}", rows)
            self.compare(visit.life, rows, visit.sees, "reads")
            visit.notes = [note for note in found if isinstance(note, Note)][:1] or visit.notes

    @step
    def insert(self, n: int, via: str) -> None:
        """Insert a row under a key never used before."""
        self._insert(self.visits[n], via)

    def _insert(self, visit: Visit, via: str) -> None:
        key = self.number()
        if self.begun(visit):
            row = self.tenants.row(visit.life, key)
            self.said(visit, "an insert", lambda: put_in(visit.session, key, row, via=via))
            visit.draft.write(key, row)

    @step
    def update(self, n: int, which: int, via: str) -> None:
        """Update one of the rows that the session sees and no other has in hand; insert one where there is none."""
        visit = self.visits[n]
        key = self._mine(visit, which)
        if key is None:
            self._insert(visit, via)
        elif self.begun(visit):
            row = self.tenants.row(visit.life, self.number())
            found = self.said(visit, "an update", lambda: change(visit.session, key, row, via=via))
            if found != 1:
                raise LeakError(f"{visit.life} finds {found} rows of its own under {key}")
            visit.draft.write(key, row)

    @step
    def delete_row(self, n: int, which: int, via: str) -> None:
        """Delete one of the rows that the session sees and no other has in hand; insert one where there is none."""
        visit = self.visits[n]
        key = self._mine(visit, which)
        if key is None:
            self._insert(visit, via)
        elif self.begun(visit):
            found = self.said(visit, "a delete", lambda: take_out(visit.session, key, via=via))
            if found != 1:
                raise LeakError(f"{visit.life} finds {found} rows of its own under {key}")
            visit.draft.write(key, None)

    def _mine(self, visit: Visit, which: int) -> int | None:
        """Return the key of a row that the session may write without waiting for another."""
        others = {
            key
            for other in self.visits.values()
            if other is not visit and other.life is visit.life
            for key in other.draft.touched
        }
        keys = sorted(visit.sees.keys() - others)
        return keys[which % len(keys)] if keys else None

    @step
    def violate(self, n: int, which: int, via: str) -> None:
        """Insert a row under a key that is taken. After an ORM flush that failed, the session is rolled back."""
        visit = self.visits[n]
        key = self._mine(visit, which)
        if key is None:
            self._insert(visit, via)
            return
        if not self.begun(visit):
            return
        visit.session.expunge_all()  # or the session itself would warn
        row = self.tenants.row(visit.life, self.number())
        try:
            put_in(visit.session, key, row, via=via)
        except IntegrityError as error:
            self.observer.show_error(visit.life.label, error)
        else:
            raise LeakError(f"{visit.life} has a row under {key}, and could insert another")
        if via != "orm":
            visit.failed = True
        elif visit.nested:
            visit.nested[-1].rollback()
            visit.went_back()
        else:
            self.rolled_back(visit)

    @step
    def stray(self, n: int, name: str, color: str) -> None:
        """Send a statement of `STRAYS`, by mistake. Another tenant in it is that of `color`."""
        visit = self.visits[n]
        stray, other = STRAYS[name], self.tenants.now[color]
        if not self.begun(visit):
            return
        statement = stray.text.format(own=visit.life.schema, other=other.schema, n=self.number())
        try:
            result: Any = visit.session.execute(text(statement))
            answer = list(result) if result.returns_rows else []
        except ANSWERS as error:
            self.observer.show_error(visit.life.label, error)
            visit.failed = True
            # Of a tenant that was closed under it the server refuses more: its role cannot be taken again, say.
            if stray.effect != "refused" and visit.life.state == "active":
                raise AstrayError(f"{visit.life}: {statement} was refused: {error}") from error
            return
        self.observer.show(visit.life.label, name, answer)
        match stray.effect:
            case "refused":
                raise LeakError(f"{visit.life} was not refused: {statement}")
            case "sways":
                visit.swayed = len(visit.nested)
            case "commits" | "rolls back":
                if stray.effect == "commits":
                    visit.draft.commit(visit.life)
                visit.draft.drop()
                visit.over = True

    @step
    def peek(self, n: int) -> None:
        """Read a first row of a server-side cursor, and abandon it."""
        visit = self.visits[n]
        if not self.begun(visit):
            return
        result = self.said(visit, "a cursor", lambda: self._stream(visit))
        if result is not None:
            visit.kept.append(result)
            row = self.said(visit, "a first row", lambda: result.fetchone())
            self.observer.show(visit.life.label, "a first row", row)
            if row is not None and visit.sees.get(row[0]) != (row[1], row[2]):
                raise LeakError(f"{visit.life} reads {row}; it wrote {visit.sees.get(row[0])}")

    def _stream(self, visit: Visit) -> Any:
        return visit.session.connection().execute(
            select(Note.id, Note.body, Note.mood), execution_options={"stream_results": True, "max_row_buffer": 1}
        )

    @step
    def hand_over(self, n: int, other: int) -> None:
        """Merge an object that session `other` has loaded into session `n` of another tenant: refused."""
        visit, giver = self.visits[n], self.visits[other]
        if not self.begun(visit):
            return
        try:
            visit.session.merge(giver.notes[0])
        except TenantMismatchError as error:
            self.observer.show_error(visit.life.label, error)
        else:
            raise LeakError(f"a session of {visit.life} took an object of {giver.life}")

    @step
    def read_under(self, n: int, outer: str, inner: str) -> None:
        """Read while other tenants' contexts are in force, one in the other; only the innermost counts."""
        visit = self.visits[n]
        if not self.begun(visit):
            return
        names = [self.tenants.now[color].tenant_id for color in (outer, inner)]
        with tenant_context(names[0]):
            with tenant_context(names[1]):
                self._read_as(visit, self.tenants.now[inner])
            self._read_as(visit, self.tenants.now[outer])

    def _read_as(self, visit: Visit, in_force: Life) -> None:
        if in_force.tenant_id == visit.life.tenant_id:
            self._read(visit, "core")
            return
        try:
            found = READS["core"](visit.session)
        except TenantMismatchError as error:
            self.observer.show_error(visit.life.label, error)
        else:
            self.observer.show(visit.life.label, "rows under another's context", found)
            raise LeakError(f"a session of {visit.life} was served while {in_force} was in force")

    def read_at_last(self, life: Life) -> None:
        """Let a tenant read its rows in a session of its own. Raises `MachineError` unless it can."""
        for _ in range(2):  # what the process remembers of a tenant that was created anew costs one try
            visit = self.enter(life)
            try:
                if self.begun(visit):
                    self._read(visit, "core")
                    return
            finally:
                self.rolled_back(visit)
                self.leave(visit)
        raise AstrayError(f"{life} is active and was refused twice")
