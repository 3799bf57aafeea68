"""The checks: each leaves something, looks for it through other clients, and clears it away."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from mt_paas_db.pooler.certify.client import Client, NoAnswerError, RefusedError
from mt_paas_db.pooler.certify.party import PID, Party
from mt_paas_db.pooler.certify.traces import PARAMETERS, SCRUB, Trace, unless_missing
from mt_paas_db.pooler.certify.verdict import Check, Mode

_TRIES = 4
_STATEMENT = "SELECT pg_catalog.pg_backend_pid(), 7"


def check_message(party: Party) -> Check:
    """Whether one message may hold several statements: the pin travels in BEGIN's."""
    name, title = "message", "several statements in one message"
    try:
        answers = party.client(0).ask("SELECT 1;SELECT 2")
    except (RefusedError, NoAnswerError) as error:
        return Check(name, title, "unsafe", f"refused ({error}), so that no transaction can be pinned")
    if answers != [[("1",)], [("2",)]]:
        return Check(name, title, "unsafe", f"answered {answers}, so that no transaction can be pinned")
    return Check(name, title, "ok", "each is answered")


def check_pin(party: Party, token: str) -> Check:
    """Whether what is SET LOCAL in BEGIN's message holds in its transaction, and nowhere else."""
    name, title = "pin", "SET LOCAL in BEGIN's message"
    setting = "pg_catalog.current_setting('mt_paas_certify.pin', true)"
    path = "pg_catalog.current_setting('search_path')"
    try:
        usual = party.client(0).one(f"SELECT {path}")
        numbers = party.active[:1] if party.alone else party.active[:2]
        for turn in range(3):
            marks = {number: f"{token}{turn}{number}" for number in numbers}
            for number, mark in marks.items():
                party.client(number).ask(
                    f"BEGIN;SET LOCAL mt_paas_certify.pin='{mark}';SET LOCAL search_path=pg_catalog,pg_temp;SELECT 1"
                )
            for number, mark in marks.items():
                found = party.client(number).one(f"SELECT {setting}, {path}")
                if found != (mark, "pg_catalog, pg_temp"):
                    return Check(name, title, "unsafe", f"a transaction that was pinned to {mark!r} found {found}")
            for number in numbers:
                party.client(number).ask("COMMIT" if turn else "ROLLBACK")
            for number in party.active:
                after = party.client(number).one(f"SELECT {setting}, {path}")
                if after[0] or after[1] != usual[0]:
                    return Check(name, title, "unsafe", f"after its end {after} was found")
    except (RefusedError, NoAnswerError) as error:
        return Check(name, title, "unsafe", f"failed: {error}")
    finally:
        party.end_transactions()
    return Check(name, title, "ok", "holds in its transaction and nowhere else")


def check_trace(party: Party, trace: Trace, mode: Mode) -> Check:
    """Whether another client meets what one has left."""

    def verdict(kind: str, detail: str) -> Check:
        return Check(trace.name, trace.title, kind, detail, trace.cover if kind == "leaks" else None)  # type: ignore[arg-type]

    look = f"SELECT pg_catalog.pg_backend_pid(), {trace.seen}"
    if party.client(0).one(look)[1] != "f":
        return verdict("blind", "the check takes a connection without it for one that has it")
    try:
        pid = party.client(0).one(f"{trace.leave};{PID}")[0]
    except RefusedError as error:
        return verdict("refused", str(error))
    assert pid is not None
    party.left(pid, trace.clear, trace.seen)
    # In a message of its own: a LISTEN begins with the end of the transaction.
    own = [party.client(0).one(look) for _ in range(_TRIES)]
    if all(found != "t" for served_by, found in own if served_by == pid):
        return verdict("blind", "the check did not see what it had left itself")
    met = False
    others = party.active[1:]
    for attempt in range(_TRIES if others else 0):
        other, found = party.client(others[attempt % len(others)]).one(look)
        if found == "t":
            return verdict("leaks", f"another client met it{trace.remedy}")
        met = met or other == pid
    if mode == "session":
        other, found = party.renew(0).one(look)
        if found == "t":
            return verdict("leaks", "the next client met it; set server_reset_query = DISCARD ALL")
        met = met or other == pid
    if met:
        return verdict("ok", "the pooler had cleared it away")
    if mode in ("transaction", "statement"):
        return verdict("skipped", "no other client was given that server connection, so that nothing can be said")
    return verdict("ok", "no other client is given that server connection")


def check_parameters(party: Party) -> Iterator[Check]:
    """Whether each client keeps its own value of what the server reports."""
    for name, values in PARAMETERS.items():
        title = f"a client's own {name}"
        if len(party.active) < 2:
            yield Check(f"parameter {name}", title, "skipped", "the pool serves one client at a time")
            continue
        changed = f"(SELECT setting <> reset_val FROM pg_catalog.pg_settings WHERE name = '{name}')"
        show = f"SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('{name}')"
        try:
            for number, value in enumerate(values):
                pid, _ = party.client(number).ask(f"SET {name} = '{value}';{show}")[-1][0]
                assert pid is not None
                party.left(pid, f"RESET {name}", changed)
            found = [party.client(number).one(show)[1] for _ in range(2) for number in range(2)]
            for number in range(2):
                party.client(number).ask(f"RESET {name}")
        except RefusedError as error:
            yield Check(f"parameter {name}", title, "refused", str(error))
            continue
        if found == list(values) * 2:
            yield Check(f"parameter {name}", title, "ok", "kept apart")
        else:
            yield Check(
                f"parameter {name}", title, "leaks", f"two clients that set {list(values)} found {found}", SCRUB
            )


def check_options(party: Party) -> Check:
    """What becomes of `options` at the start of a connection."""
    name, title = "options", "options at the start of a connection"
    ask = "SELECT pg_catalog.current_setting('mt_paas_certify.option', true)"
    try:
        client = Client.open(party.url, party.clock, options="-c mt_paas_certify.option=here")
    except psycopg.OperationalError as error:
        last = str(error).strip().splitlines()[-1]
        return Check(name, title, "refused", f"{last}; set such things by ALTER ROLE")
    try:
        if client.one(ask)[0] == "here":
            return Check(name, title, "ok", "applied")
        return Check(name, title, "ok", "accepted, and ignored: what a client asks for there does not happen")
    except NoAnswerError:
        return Check(name, title, "skipped", "no answer: the pool serves no more clients")
    finally:
        client.close()


def check_named_statements(party: Party, token: str, mode: Mode) -> tuple[Check, bool | None]:
    """Whether a named statement of the protocol follows its client, and belongs to it alone."""
    name, title = "named statements", "prepared statements of the protocol"
    if mode == "statement" or len(party.active) < 2:
        return Check(name, title, "skipped", "the pool carries no transactions of two clients"), None
    mine = f"mt_paas_certify_named_{token}"
    clear = (
        unless_missing(f"DEALLOCATE {mine}", "invalid_sql_statement_name"),
        f"EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = '{mine}')",
    )
    prepared: list[Client] = []
    try:
        for number in (0, 1):  # each its own, of the same name and another text
            client = party.client(number)
            client.ask("BEGIN")
            (pid,) = client.one(PID)
            assert pid is not None
            party.left(pid, *clear)
            try:
                client.prepare(mine, f"{_STATEMENT} + {number}")
                prepared.append(client)
            finally:
                if not client.closed:
                    client.ask("ROLLBACK")
        for _ in range(_TRIES):
            with party.holding(*party.active[2:]):  # takes the connection that was used last, so that others must serve
                for number in (1, 0) if not party.alone else ():
                    if party.client(number).execute_prepared(mine)[1] != str(7 + number):
                        return Check(name, title, "leaks", "a client executed another's"), False
            for number in (0, 1):
                if party.client(number).execute_prepared(mine)[1] != str(7 + number):
                    return Check(name, title, "leaks", "a client executed another's"), False
    except (RefusedError, NoAnswerError) as error:
        return (
            Check(name, title, "leaks", f"they do not follow their client ({error})", "drivers that name none"),
            False,
        )
    finally:
        for client in prepared:
            if not client.closed:
                try:
                    client.close_prepared(mine)
                except (RefusedError, NoAnswerError, psycopg.Error):  # libpq before 17; cleared by SQL
                    continue
    return Check(name, title, "ok", "they follow their client"), True
