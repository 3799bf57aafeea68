"""Several clients of one pooler, and which server connection serves whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from sqlalchemy import URL

from mt_paas_db.pooler.certify.client import Client, Clock, NoAnswerError, RefusedError
from mt_paas_db.pooler.certify.verdict import Mode

PID = "SELECT pg_catalog.pg_backend_pid()"

_ROUNDS = 4
_CLEARINGS = 10
_SHORT_S = 1.5  # an answer that waits for somebody else's transaction does not come


@dataclass(slots=True)
class Party:
    """Three clients, opened again when they were lost.

    `dirty` are the server connections on which something was left, with what clears it there: the statements, and a
    boolean expression that is true until they have worked.
    """

    url: URL
    clock: Clock
    clients: list[Client] = field(default_factory=list)
    dirty: dict[str, dict[str, str]] = field(default_factory=dict)
    alone: bool = False
    """Whether one client's transaction leaves no server connection for another."""
    active: tuple[int, ...] = (0, 1, 2)
    """Who can be served while the others are connected: in session mode no more than the pool has connections."""

    @classmethod
    @contextmanager
    def gathered(cls, url: URL, clock: Clock) -> Iterator[Party]:
        """Open the clients for the block. Raises `psycopg.OperationalError` where the first cannot connect."""
        party = cls(url, clock)
        try:
            for _ in range(3):
                party.clients.append(Client.open(url, clock))
            yield party
        finally:
            for client in party.clients:
                client.close()

    def give(self, clock: Clock) -> None:
        """Let all go by another clock from now on."""
        self.clock = clock
        for client in self.clients:
            client.clock = clock

    def client(self, number: int) -> Client:
        """Return a client, opened anew where it was lost."""
        if self.clients[number].closed:
            self.clients[number].close()
            self.clients[number] = Client.open(self.url, self.clock)
        return self.clients[number]

    def renew(self, number: int) -> Client:
        """Disconnect a client, and connect in its place."""
        self.clients[number].close()
        return self.client(number)

    def pid(self, number: int, *, most_s: float | None = None) -> str:
        """Return which process serves this client's next statement."""
        (pid,) = self.client(number).one(PID, most_s=most_s)
        assert pid is not None
        return pid

    # -- the mode

    def mode(self) -> Mode:
        """Return how the pooler really behaves, by who is served by which server connection, and when."""
        seen = [{self.pid(0)}]
        for number in (1, 2):
            try:
                seen.append({self.pid(number, most_s=2 * _SHORT_S)})
            except NoAnswerError:  # although nobody does anything
                self.active = tuple(range(number))
                return "session"
        try:
            whole = self._transaction_holds()
        except (RefusedError, NoAnswerError):
            whole = False
        if not whole:
            return "statement"
        for _ in range(_ROUNDS):
            for number in range(3):
                seen[number].add(self.pid(number))
        if any(len(pids) > 1 for pids in seen) or len(set().union(*seen)) < 3 or self._moves():
            return "transaction"
        made_up = any(str(client.announced_pid) not in pids for client, pids in zip(self.clients, seen, strict=True))
        return "session" if made_up or self._is_handed_on() else "direct"

    def _transaction_holds(self) -> bool:
        """Whether a transaction stays on one server connection, which nobody else gets; note whether it is the last."""
        first = self.client(0)
        first.ask("BEGIN")
        try:
            mark = first.one("SELECT pg_catalog.pg_backend_pid(), pg_catalog.now()")
            try:
                other = self.pid(1, most_s=_SHORT_S)
            except NoAnswerError:
                self.alone = True
                other = ""
            again = first.one("SELECT pg_catalog.pg_backend_pid(), pg_catalog.now()")
            return first.in_transaction and again == mark and other != mark[0]
        finally:
            if not first.closed:
                first.ask("COMMIT")

    def _moves(self) -> bool:
        """Whether a client's server connection is given to another's transaction while it sends nothing."""
        before = self.pid(0)
        taken = set()
        with self.holding(1, 2) as held:
            taken = {client.one(PID)[0] for client in held}
            try:
                after = self.pid(0, most_s=_SHORT_S)
            except NoAnswerError:
                return False  # slow, or a pool of two, which three clients would have shared by now
        return before in taken or after != before

    def _is_handed_on(self) -> bool:
        """Whether a new client gets a server connection that one who has gone had used."""
        before = self.pid(2)
        self.renew(2)
        return self.pid(2) == before

    @contextmanager
    def holding(self, *numbers: int) -> Iterator[list[Client]]:
        """Let these clients begin transactions, as far as there are server connections; yield those that did."""
        held = []
        try:
            for number in numbers:
                client = self.client(number)
                try:
                    client.ask(f"BEGIN;{PID}", most_s=_SHORT_S)
                    held.append(client)
                except NoAnswerError:
                    self.alone = True
                    break
            yield held
        finally:
            for client in held:
                if not client.closed:
                    client.ask("ROLLBACK")

    def end_transactions(self) -> None:
        """Roll back what is open; a client that cannot is closed."""
        for client in self.clients:
            if not client.closed and client.in_transaction:
                try:
                    client.ask("ROLLBACK")
                except (RefusedError, NoAnswerError):
                    client.close()

    # -- clearing up

    def left(self, pid: str, clear: str, seen: str) -> None:
        """Note that something was left on a server connection."""
        self.dirty.setdefault(pid, {})[clear] = seen

    def clear(self) -> int:
        """Clear what was left, wherever it can be reached; return on how many server connections it is still."""
        for attempt in range(_CLEARINGS):
            if not self.dirty:
                break
            try:
                self._clear_once(hold=attempt >= _CLEARINGS // 2)
                self._forget_ended()
            except (RefusedError, NoAnswerError, psycopg.OperationalError):
                continue
        return len(self.dirty)

    def _forget_ended(self) -> None:
        """Forget server connections that have ended, and what was left on them with it."""
        if self.dirty:
            pids = ", ".join(f"({int(pid)})" for pid in self.dirty)
            running = "SELECT pid FROM pg_catalog.pg_stat_activity"
            gone = f"SELECT pid FROM (VALUES {pids}) AS left_on(pid) WHERE pid NOT IN ({running})"
            for (pid,) in self.client(self.active[0]).ask(gone)[-1]:
                self.dirty.pop(str(pid), None)

    def _clear_once(self, *, hold: bool) -> None:
        """Clear through each client in turn; with `hold` the others hold on to theirs, so that more are reached."""
        for number in self.active:
            if hold and not self.alone:
                with self.holding(*(other for other in self.active if other != number)) as held:
                    for client in (*held, self.client(number)):
                        self._clear_through(client)
                        if client in held:
                            client.ask("COMMIT;BEGIN")
            else:
                self._clear_through(self.client(number))

    def _clear_through(self, client: Client) -> None:
        """Look what is left on this client's server connection, and clear that. The next round sees whether it went.

        A LISTEN ends with its transaction, so that the message which clears cannot look too.
        """
        work = {clear: seen for left in self.dirty.values() for clear, seen in left.items()}
        if not work:
            return
        pid, *still = client.one(f"{PID}, {', '.join(work.values())}")
        if pid not in self.dirty:
            return
        present = [clear for clear, there in zip(work, still, strict=True) if there == "t"]
        self.dirty[pid] = {clear: seen for clear, seen in self.dirty[pid].items() if clear in present}
        if not self.dirty[pid]:
            del self.dirty[pid]
        if present:
            client.ask(";".join(present))
