"""What was found out about a pooler, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mt_paas_db.session.pooler import PoolerProfile

Mode = Literal["direct", "session", "transaction", "statement", "unknown"]
"""`unknown` where it refuses the simple protocol, in which it is asked."""

Verdict = Literal["ok", "leaks", "refused", "unsafe", "blind", "skipped"]
"""`leaks`: another client gets to see it. `refused`: the pooler or the server says no, which is safe. `unsafe`: what
sessions rest on does not hold. `blind`: the check could not see what it had itself left, and so proves nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: Stable, for machines.
        title: What it is about, for people.
        verdict: What came of it.
        detail: What was seen.
        cover: What in this library, or who, deals with a leak; None where nothing does.
    """

    name: str
    title: str
    verdict: Verdict
    detail: str
    cover: str | None = None

    @property
    def finding(self) -> bool:
        """Whether sessions are not safe with it."""
        return self.verdict in ("unsafe", "blind") or (self.verdict == "leaks" and self.cover is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The verdict on one DSN.

    Attributes:
        mode: How it really behaves.
        version: PgBouncer's, where it says so.
        named_statements: Whether the protocol's prepared statements follow their client; None where it was not tried.
        checks: What was tried.
        left: Traces that could not be cleared from a server connection before the time was up; all of them harmless.
        seconds: How long it took.
    """

    mode: Mode
    version: tuple[int, ...] | None
    named_statements: bool | None
    checks: tuple[Check, ...]
    left: int
    seconds: float

    @property
    def fit(self) -> bool:
        """Whether tenant sessions may go this way."""
        return self.mode not in ("statement", "unknown") and not any(check.finding for check in self.checks)

    @property
    def pooler(self) -> str:
        """The value of the setting `pooler` that fits."""
        if self.mode == "direct":
            return "direct"
        return "pgbouncer" if self.version is None else f"pgbouncer:{'.'.join(map(str, self.version[:2]))}"

    @property
    def advice(self) -> tuple[str, ...]:
        """What the operator should do, a line each."""
        lines = []
        if self.mode == "statement":
            lines.append("set pool_mode = transaction: statement mode cannot carry a transaction")
        if self.mode == "session":
            lines.append(
                "set pool_mode = transaction: in session mode each client holds a server connection for as long as it "
                "is connected, so that nothing is pooled"
            )
        if self.mode in ("direct", "session", "transaction"):
            lines.append(f"use POOLER={self.pooler}")
        lines += [f"{check.title}: {check.detail}" for check in self.checks if check.finding]
        return tuple(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        profile = PoolerProfile.parse(self.pooler)
        return {
            "fit": self.fit,
            "mode": self.mode,
            "version": None if self.version is None else ".".join(map(str, self.version)),
            "named_statements": self.named_statements,
            "pooler": self.pooler,
            "connect_args": {driver: profile.connect_args(driver) for driver in ("psycopg", "asyncpg")},
            "checks": [
                {
                    "name": check.name,
                    "title": check.title,
                    "verdict": check.verdict,
                    "detail": check.detail,
                    "cover": check.cover,
                    "finding": check.finding,
                }
                for check in self.checks
            ],
            "advice": list(self.advice),
            "left": self.left,
            "seconds": round(self.seconds, 2),
        }
