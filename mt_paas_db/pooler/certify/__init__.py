"""`mt-paas-db pooler certify`: what a pooler really does, found out by an ordinary login.

By behaviour, not by name or version: several clients leave things on server connections and look whether others meet
them. Every check first sees, through the client that left it, what it is to look for, so that one that is blind says so
instead of passing. What was left is cleared from every server connection that can be reached.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

import psycopg
from sqlalchemy import URL

from mt_paas_db.errors import ConfigurationError, PoolerConsoleError, ServerUnavailableError
from mt_paas_db.pooler.certify.checks import (
    check_message,
    check_named_statements,
    check_options,
    check_parameters,
    check_pin,
    check_trace,
)
from mt_paas_db.pooler.certify.client import Clock, NoAnswerError, RefusedError
from mt_paas_db.pooler.certify.drivers import Tries
from mt_paas_db.pooler.certify.party import Party
from mt_paas_db.pooler.certify.traces import traces
from mt_paas_db.pooler.certify.verdict import Certificate, Check, Mode
from mt_paas_db.pooler.console import open_console
from mt_paas_db.session.pooler import PoolerProfile

__all__ = ["Certificate", "Check", "certify"]

DEFAULT_TIMEOUT_S = 60.0
_FOR_CLEARING_S = 10.0


def certify(url: URL, *, cluster: str = "main", timeout_s: float = DEFAULT_TIMEOUT_S) -> Certificate:
    """Return what stands between `url` and the server, and whether tenant sessions may go that way.

    Opens up to five connections, for `timeout_s` seconds at most; commits transactions that write nothing.

    Raises `ServerUnavailableError` where it cannot connect, or the pooler stops answering.
    """
    began = time.monotonic()
    last_s = min(_FOR_CLEARING_S, timeout_s / 4)  # for clearing up, and as much for the drivers
    try:
        with Party.gathered(url, Clock.of(timeout_s - 2 * last_s)) as party:
            try:
                mode, named, checks = _look(party)
            finally:
                party.give(Clock.of(last_s))
                left = party.clear()
        version = None if mode == "direct" else _version(url, cluster)
        found = Certificate(
            mode=mode, version=version, named_statements=named, checks=tuple(checks), left=left, seconds=0
        )
        if mode != "statement":
            tries = Tries(
                url, Clock.of(last_s), PoolerProfile.parse(found.pooler), connections=min(2, len(party.active))
            )
            checks += [tries.psycopg(), tries.asyncpg()]
    except (psycopg.OperationalError, NoAnswerError, RefusedError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ServerUnavailableError(
            cluster, f"cannot look at the pooler: {lines[0].strip()}; check the DSN, and that pooler and server run"
        ) from error
    return replace(found, checks=tuple(checks), seconds=time.monotonic() - began)


def _look(party: Party) -> tuple[Mode, bool | None, list[Check]]:
    """Return the mode, whether named statements follow their client, and the checks."""
    message = check_message(party)
    checks = [message]
    named: bool | None = None
    try:
        mode = party.mode()
    except RefusedError:
        if not message.finding:
            raise
        return "unknown", None, checks
    token = secrets.token_hex(8)
    if mode == "statement":
        checks.append(Check("pin", "SET LOCAL in BEGIN's message", "unsafe", "no transaction is carried"))
    else:
        checks.append(check_pin(party, token))
    if not message.finding:  # the rest is sent that way too
        login = party.url.username or party.client(0).one("SELECT session_user")[0] or ""
        checks += [check_trace(party, trace, mode) for trace in traces(token, login)]
        checks += check_parameters(party)
        statements, named = check_named_statements(party, token, mode)
        checks.append(statements)
    checks.append(check_options(party))
    return mode, named, checks


def _version(url: URL, cluster: str) -> tuple[int, ...] | None:
    try:
        with open_console(url, cluster, timeout_s=3) as console:
            return console.version()
    except (PoolerConsoleError, ConfigurationError):
        return None
