"""Canaries: what a tenant's values look like, so that each is recognised wherever it turns up.

A tenant has a *tag*, four letters that hardly occur together otherwise, and ranges of its own: numbers, days,
times of day, lengths of time, UUIDs, network and hardware addresses. Each is far from what services write, and
wide enough to tell rows apart. `mt_paas_db.isolation.rows.scan` finds them again.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

TAG_LETTERS = "jkqvwxz"
TAG_LENGTH = 4

Digits = Literal[10, 16]
"""How many digits a number has that can carry a canary; 16 are still exact in a double."""

# The smallest number of each kind, and how many tenants there is room for. Seconds and microseconds since 1970,
# the numbers most often seen in logs, lie outside.
NUMBERS: dict[Digits, tuple[int, int]] = {
    10: (1_000_000_000, 60_000),
    16: (2_000_000_000_000_000, 700_000_000_000),
}
NUMBERS_EACH = 10_000

FIRST_DAY = date(2200, 1, 1).toordinal()
DAYS_EACH = 100
DAY_SLOTS = (date(9800, 1, 1).toordinal() - FIRST_DAY) // DAYS_EACH

MICROSECONDS_EACH = 1_000
TIME_SLOTS = 86_400_000_000 // MICROSECONDS_EACH

FIRST_SPAN = 100_000_000  # days
SPAN_SLOTS = 80_000

_PARTS = 3
_PLACES = 29


def digest(*parts: object) -> int:
    """Return 256 bits that depend on `parts` alone."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest())


@dataclass(frozen=True, slots=True)
class Canary:
    """One tenant's canary. Every method is pure: the same place and row number give the same value.

    A *place* says where the value stands (``note.body``), ``n`` which row it is, from 1. ``part`` is 0, 1 or 2: the
    values of a higher part are greater, for columns that must be in order.

    Attributes:
        label: The tenant, as it was named to `Canaries.of`.
        tag: Four letters.
        slots: Which of the possible ranges is this tenant's, by kind.
        prefix: The first six bytes of each of its UUIDs.
    """

    label: str
    tag: str
    slots: tuple[tuple[str, int], ...]
    prefix: bytes

    def slot(self, kind: str) -> int:
        """Return the number of this tenant's range of `kind`."""
        return dict(self.slots)[kind]

    @property
    def network(self) -> str:
        """The first 48 bits of its IPv6 addresses: a local network of its own (RFC 4193)."""
        bits = self.slot("network")
        return f"fd{bits & 0xFF:02x}:1{bits >> 8 & 0xFFF:03x}:1{bits >> 20 & 0xFFF:03x}"

    def text(self, place: str, n: int, *, length: int | None = None) -> str | None:
        """Return the canary as text of at most `length` characters; None where so few cannot be recognised."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")
        forms = (f"canary-{slug}-{self.tag}-{place}-{n}", f"canary-{self.tag}-{n}", f"{self.tag}{n}")
        return next((form for form in forms if length is None or len(form) <= length), None)

    def number(self, place: str, n: int, *, digits: Digits, part: int = 0) -> int:
        """Return a number of its own with exactly `digits` digits."""
        first, _ = NUMBERS[digits]
        spread = part * (NUMBERS_EACH // _PARTS) + digest(place) % _PLACES * 100 + n
        return first + self.slot(f"number{digits}") * NUMBERS_EACH + spread % NUMBERS_EACH

    def uuid(self, place: str, n: int) -> uuid.UUID:
        """Return a UUID (version 4 by its form)."""
        rest = digest(place) & 0xFFF
        return uuid.UUID(hex=f"{self.prefix.hex()}4{rest:03x}8{rest:03x}{n & 0xFFFF_FFFF_FFFF:012x}")

    def day(self, n: int, *, part: int = 0) -> date:
        """Return a day between the years 2200 and 9800."""
        within = 5 + 30 * part + n % 30  # away from the ends, which a time zone may move
        return date.fromordinal(FIRST_DAY + self.slot("day") * DAYS_EACH + within)

    def moment(self, n: int, *, part: int = 0, aware: bool = True) -> datetime:
        """Return a time on one of its days, in UTC where `aware`."""
        noon = datetime.combine(self.day(n, part=part), time(12), tzinfo=UTC if aware else None)
        return noon + timedelta(seconds=n // 30)

    def time_of_day(self, n: int, *, part: int = 0) -> time:
        """Return a time of day, known by its microseconds."""
        microseconds = self.slot("time") * MICROSECONDS_EACH + part * 300 + n % 300
        return (datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).time()

    def span(self, n: int, *, part: int = 0) -> timedelta:
        """Return a length of time of nine digits of days."""
        return timedelta(days=FIRST_SPAN + self.slot("span") * NUMBERS_EACH + part * 3_000 + n % 3_000)

    def address(self, place: str, n: int) -> str:
        """Return an IPv6 address in its own network."""
        return f"{self.network}::{digest(place) % 0xFFFF:x}:{n & 0xFFFF:x}"

    def hardware(self, n: int) -> str:
        """Return a locally administered MAC address."""
        octets = (self.slot("hardware") << 8 | n & 0xFF).to_bytes(5)
        return ":".join(f"{octet:02x}" for octet in (2, *octets))
