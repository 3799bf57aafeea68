"""What stands on the server in a tenant's transaction, and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

from mt_paas_db.isolation.audit.client.bench import ONE, Bench, Examined, Seen, Standing, refused
from mt_paas_db.isolation.client import ANSWERS


def _strange(bench: Bench, at: Standing, *, timeout_s: float | None = None) -> Iterator[str]:
    """Yield what is not this tenant's."""
    if at.role != bench.tenant.placement.role_name:
        yield f"the role is {at.role!r}"
    if at.tenant != bench.tenant.tenant_id:
        yield f"mt_paas.tenant is {at.tenant!r}"
    if timeout_s is not None and at.timeout != round(timeout_s * 1_000):
        yield f"statement_timeout is {at.timeout} ms, and {timeout_s * 1_000:.0f} ms was asked for"


def begins_pinned(bench: Bench) -> Examined:
    """Look before the first statement."""
    with bench.session() as seen:
        at = seen.standing()
        for what in _strange(bench, at):
            yield "client-role", f"before the first statement {what}"
        wanted = [bench.tenant.placement.schema_name, *bench.shared, "pg_temp"]
        if at.names != wanted:
            yield "client-path", f"search_path is {at.path!r}, and not {', '.join(wanted)}"


def keeps_the_pin(bench: Bench) -> Examined:
    """Roll a savepoint back that stands before everything else."""
    with bench.session() as seen:
        savepoint = seen.session.begin_nested()
        seen.session.execute(ONE)
        savepoint.rollback()
        for what in _strange(bench, seen.standing()):
            yield "client-savepoint", f"after ROLLBACK TO SAVEPOINT {what}"


def pins_again(bench: Bench) -> Examined:
    """Go on in a session whose transaction was ended."""
    with bench.session() as seen:
        for end in ("rollback", "commit", "rollback"):
            seen.session.execute(ONE)
            getattr(seen.session, end)()
            for what in _strange(bench, seen.standing()):
                yield "client-next", f"in the transaction after {end.upper()} {what}"


def pins_its_own(bench: Bench) -> Examined:
    """Have another session opened between a session and its first statement, and a connection lost before it."""
    mine, other = bench.patience_s * 0.7, bench.patience_s * 0.9
    with bench.session(statement_timeout_s=mine) as seen, ExitStack() as stack:
        if bench.resolution.limits.max_sessions != 1:  # or it would wait for this one
            stack.enter_context(bench.session(statement_timeout_s=other))
        for what in _strange(bench, seen.standing(), timeout_s=mine):
            yield "client-pin", f"after another session was opened {what}"
    with bench.session(statement_timeout_s=mine) as seen:
        bench.cut(seen.driver)
        with suppress(*ANSWERS):
            seen.session.execute(ONE)
        seen.session.invalidate()
    with bench.session(statement_timeout_s=other) as seen:
        for what in _strange(bench, seen.standing(), timeout_s=other):
            yield "client-pin", f"on a connection made after a loss {what}"


def ends_by_itself(bench: Bench) -> Examined:
    """End the transaction where the client does not see it: only what is transaction-local ends with it."""
    with bench.session() as seen:
        driver = seen.driver
        bench.send(driver, "COMMIT")
        at = seen.standing(driver)
        if not bench.own_login:
            left = [f"the role is {at.role!r}"] if at.role != at.login else []
            left += [f"search_path is {at.path!r}"] if bench.tenant.placement.schema_name in at.names else []
            left += [f"mt_paas.tenant is {at.tenant!r}"] if at.tenant else []
            if left:
                yield "client-outlives", "after a COMMIT by SQL " + ", ".join(left)
        if not refused(lambda: seen.session.execute(ONE)):
            yield "client-guard", "a statement was sent after the transaction had been ended by SQL"


def ends_as_the_tenant(bench: Bench) -> Examined:
    """See how transactions end: the whole of it as the tenant, at once, and with nothing left open."""
    with bench.session() as seen:
        for end in ("COMMIT", "ROLLBACK"):
            seen.session.execute(ONE)
            driver = seen.driver
            with seen.sent(driver) as messages:
                getattr(seen.session, end.lower())()
            if seen.in_transaction(driver):
                yield "client-open", f"after the session's {end} the connection is still in its transaction"
            first = messages[0].partition(b";")[0].decode() if messages else "nothing"
            if first != end:
                yield "client-commit", f"{first} was sent before {end}"


def leaves_nothing(bench: Bench) -> Examined:
    """Leave a setting on the connection, by SQL text and below SQLAlchemy, and look who finds it."""

    def by_text(seen: Seen) -> None:
        seen.leave(seen.session.connection().exec_driver_sql)

    def on_the_driver(seen: Seen) -> None:
        taken = seen.session.connection().connection.driver_connection
        seen.leave(lambda statement: bench.send(taken, statement))

    for how, leave in (("SQL text", by_text), ("whoever takes the driver's connection", on_the_driver)):
        with bench.session() as seen:
            leave(seen)
            driver = seen.driver
            seen.session.commit()
            at = seen.standing(driver)
            if at.left:
                bench.send(driver, "RESET ALL")
                yield "client-residue", f"a setting that {how} has left stands after COMMIT"


CHECKS = (
    begins_pinned,
    keeps_the_pin,
    pins_again,
    pins_its_own,
    ends_by_itself,
    ends_as_the_tenant,
    leaves_nothing,
)
