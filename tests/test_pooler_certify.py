"""`mt-paas-db pooler certify` on real poolers in every mode, on none, and on some that are made to do wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import URL, make_url

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ServerUnavailableError
from mt_paas_db.pooler import certify as package
from mt_paas_db.pooler.certify import Certificate, certify
from mt_paas_db.pooler.certify.traces import Trace, traces
from tests.fleet import PASSWORD, Service
from tests.ground_truth import server_state
from tests.servers import PgBouncer
from tests.servers.processes import free_port
from tests.servers.wire import Wire

SESSION_STATE = {"set", "role", "held cursor", "listen", "advisory lock", "prepare"}

PREPARES = (1, 21)
TRACKS_INTERVALS = (1, 20)

Start = Callable[..., PgBouncer]


@pytest.fixture
def service(service: Service, manager: TenantManager) -> Service:
    return service


@pytest.fixture
def start(service: Service) -> Iterator[Start]:
    """Start PgBouncers for the test."""
    with ExitStack() as stack:

        def run(**options: Any) -> PgBouncer:
            try:
                made = service.server.pooler(users={service.login: PASSWORD}, **options)
            except LookupError as error:
                pytest.skip(str(error))
            return stack.enter_context(made)

        yield run


def through(service: Service, port: int) -> URL:
    return make_url(f"postgresql://{service.login}:{PASSWORD}@127.0.0.1:{port}/{service.database}")


def verdicts(found: Certificate) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def of(found: Certificate, verdict: str) -> set[str]:
    return {name for name, said in verdicts(found).items() if said == verdict}


def residue(service: Service) -> list[Any]:
    """What is left on the server connections of the service's login, as far as another session can see it."""
    with service.superuser() as su:
        return su.execute(
            "SELECT l.locktype, a.state FROM pg_stat_activity a JOIN pg_locks l USING (pid)"
            " WHERE a.usename = %s AND (l.locktype = 'advisory' OR a.state <> 'idle')",
            (service.login,),
        ).fetchall()


@pytest.mark.parametrize("pool_size", [1, 2, 5])
def test_transaction_mode(service: Service, start: Start, pool_size: int) -> None:
    pooler = start(pool_size=pool_size)
    found = certify(through(service, pooler.port))
    assert (found.mode, found.fit, found.version) == ("transaction", True, pooler.version)
    assert found.left == 0
    assert residue(service) == []
    tracked = pooler.version >= TRACKS_INTERVALS
    prepares = pooler.version >= PREPARES and found.named_statements
    expected = SESSION_STATE | (set() if tracked else {"parameter IntervalStyle"})
    assert of(found, "leaks") == expected | (set() if prepares else {"named statements"})
    assert of(found, "refused") == {"temporary table", "options"}
    assert of(found, "unsafe") == of(found, "blind") == set()
    assert found.pooler == f"pgbouncer:{'.'.join(map(str, pooler.version[:2]))}"


def test_prepared_statements_follow_where_the_pooler_tracks_them(service: Service, start: Start) -> None:
    pooler = start(pool_size=2)
    if pooler.version < PREPARES:
        assert certify(through(service, pooler.port)).named_statements is False
        return
    for setting, follow in (("0", False), ("100", True)):
        with service.server.pooler(
            users={service.login: PASSWORD}, pool_size=2, options={"max_prepared_statements": setting}
        ) as told:
            assert certify(through(service, told.port)).named_statements is follow


@pytest.mark.parametrize("pool_size", [1, 5])
def test_session_mode(service: Service, start: Start, pool_size: int) -> None:
    pooler = start(pool_mode="session", pool_size=pool_size)
    found = certify(through(service, pooler.port))
    assert (found.mode, found.fit, found.left) == ("session", True, 0)
    assert of(found, "leaks") == set()
    assert any("pool_mode = transaction" in line for line in found.advice)


def test_session_mode_that_clears_nothing_leaks_to_the_next_client(service: Service, start: Start) -> None:
    pooler = start(pool_mode="session", pool_size=5, options={"server_reset_query": ""})
    found = certify(through(service, pooler.port))
    assert found.mode == "session"
    assert of(found, "leaks") >= SESSION_STATE - {"role"}
    assert found.left == 0


def test_statement_mode_is_not_fit(service: Service, start: Start) -> None:
    found = certify(through(service, start(pool_mode="statement", pool_size=2).port))
    assert (found.mode, found.fit, found.left) == ("statement", False, 0)
    assert any("pool_mode = transaction" in line for line in found.advice)


def test_no_pooler(service: Service) -> None:
    before = server_state(service)
    found = certify(through(service, service.server.port))
    assert (found.mode, found.fit, found.version, found.left) == ("direct", True, None, 0)
    assert of(found, "leaks") == of(found, "unsafe") == set()
    assert found.named_statements is True
    assert found.pooler == "direct"
    assert server_state(service) == before


def test_a_login_that_may_make_temporary_tables_is_a_finding(service: Service, start: Start) -> None:
    with service.superuser() as su:
        su.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(
            sql.Identifier(service.database), sql.Identifier(service.login)
        ))  # fmt: skip
    found = certify(through(service, start().port))
    assert not found.fit
    (finding,) = (check for check in found.checks if check.finding)
    assert (finding.name, finding.verdict) == ("temporary table", "leaks")
    assert "take TEMP" in finding.detail
    assert found.left == 0


def test_a_pooler_without_the_simple_protocol_is_not_fit(service: Service, start: Start) -> None:
    """The pin travels in BEGIN's message."""
    found = certify(through(service, start(options={"disable_pqexec": "1"}).port), timeout_s=20)
    assert not found.fit


# -- twins: poolers, and checks, that are broken on purpose


def test_a_pooler_that_makes_the_pin_last_is_not_fit(service: Service, start: Start) -> None:
    pooler = start()
    with Wire(pooler.port, alter=lambda sent: sent.replace(b"SET LOCAL ", b"SET       ")) as wire:
        found = certify(through(service, wire.port))
    assert verdicts(found)["pin"] == "unsafe"
    assert not found.fit


def test_a_pooler_that_drops_the_pin_is_not_fit(service: Service, start: Start) -> None:
    pooler = start()
    with Wire(pooler.port, alter=lambda sent: sent.replace(b"mt_paas_certify.pin=", b"mt_paas_certify.nip=")) as wire:
        assert verdicts(certify(through(service, wire.port)))["pin"] == "unsafe"


BLINDED: dict[str, Callable[[Trace], Trace]] = {
    "sees nothing": lambda trace: replace(trace, seen="false"),
    "sees it everywhere": lambda trace: replace(trace, seen="true"),
    "leaves nothing": lambda trace: replace(trace, leave="SELECT 1"),
}


@pytest.mark.parametrize("blinded", list(BLINDED))
def test_a_check_that_cannot_see_is_red(
    service: Service, start: Start, monkeypatch: pytest.MonkeyPatch, blinded: str
) -> None:
    """Each trace's own check: one that is blind would call every pooler safe."""
    spoil = BLINDED[blinded]
    monkeypatch.setattr(package, "traces", lambda token, login: tuple(map(spoil, traces(token, login))))
    found = certify(through(service, start().port))
    # A table could not be made in any case, and that is seen by the error.
    seen_by_error = {"temporary table"} if blinded == "sees nothing" else set()
    assert of(found, "blind") == SESSION_STATE | {"temporary table"} - seen_by_error
    assert not found.fit


# -- faults, and the command


def test_a_pooler_that_does_not_answer(service: Service) -> None:
    """libpq says what happened in its first line, and asks in its last."""
    with pytest.raises(ServerUnavailableError, match="cannot look at the pooler") as refused:
        certify(through(service, free_port()), timeout_s=5)
    assert "Connection refused; check the DSN" in str(refused.value)
    assert "\t" not in str(refused.value)


def test_it_ends_in_time_where_nobody_serves(service: Service, start: Start) -> None:
    """All server connections are taken by somebody who does not let go."""
    import time

    import psycopg

    pooler = start(pool_size=1)
    with psycopg.connect(through(service, pooler.port).render_as_string(hide_password=False)) as busy:
        busy.execute("SELECT 1")
        began = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            certify(through(service, pooler.port), timeout_s=5)
        assert time.monotonic() - began < 10


def test_the_command(
    service: Service, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typer", reason="extra 'cli' is not installed")
    from mt_paas_db.cli.app import run

    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    assert run(["pooler", "certify", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["mode"], document["fit"], document["pooler"]) == ("direct", True, "direct")
    pooler = start(pool_mode="statement")
    dsn = through(service, pooler.port).render_as_string(hide_password=False)
    assert run(["pooler", "certify", dsn]) == 1
    assert "NOT fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("not a DSN", "is not a URL; write postgresql://user:password@host/database"),
        ("mysql://x/y", "is for 'mysql'; only postgresql:// will do"),
        ("postgresql://u:very-secret@host", "names no database"),
    ],
)
def test_a_dsn_that_is_none_is_called_what_it_is(capsys: pytest.CaptureFixture[str], dsn: str, said: str) -> None:
    pytest.importorskip("typer", reason="extra 'cli' is not installed")
    from mt_paas_db.cli.app import run

    assert run(["pooler", "certify", dsn]) == 2
    assert capsys.readouterr().err == f"error: the DSN given {said}\n"
