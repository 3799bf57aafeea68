"""The scanner: whose canaries appear in a value, a text, an error, a log line, or anything that holds these."""

from __future__ import annotations

import logging
import re
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.isolation.rows.canary import (
    DAY_SLOTS,
    DAYS_EACH,
    FIRST_DAY,
    FIRST_SPAN,
    MICROSECONDS_EACH,
    NUMBERS,
    NUMBERS_EACH,
    SPAN_SLOTS,
    TAG_LENGTH,
    TAG_LETTERS,
    TIME_SLOTS,
    Canary,
    digest,
)

_SLOTS = {
    **{f"number{digits}": slots for digits, (_, slots) in NUMBERS.items()},
    "day": DAY_SLOTS,
    "time": TIME_SLOTS,
    "span": SPAN_SLOTS,
    "network": 1 << 32,
    "hardware": 1 << 32,
}

# A letter before it, as in the middle of a word, means that it is no tag; the "n" of an escaped "\n" is no such letter.
_START = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))"
_TAG = re.compile(rf"(?:(?<![A-Za-z])|(?<=\\[nrt]))([{TAG_LETTERS}]{{{TAG_LENGTH}}})(?![A-Za-z])", re.IGNORECASE)
_NUMBER = re.compile(_START + r"(?<!\.)(\d+)(?:\.(\d+))?(?![0-9A-Za-z])")
_DAY = re.compile(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)|\((\d{4}), (\d{1,2}), (\d{1,2})")
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)\.(\d{6})|time\((\d{1,2}), (\d{1,2}), (\d{1,2}), (\d{1,6})")
_SPAN = re.compile(r"(?<!\d)(\d{9}) days?|days=(\d{9})(?!\d)|(?<![\dA-Za-z])P(\d{9})D")
_UUID = re.compile(r"(?=([0-9a-f]{8})-?([0-9a-f]{4})-?4[0-9a-f]{3}-?8)", re.IGNORECASE)
_NETWORK = re.compile(r"fd[0-9a-f]{2}:1[0-9a-f]{3}:1[0-9a-f]{3}", re.IGNORECASE)
_HARDWARE = re.compile(r"02((?::[0-9a-f]{2}){4}):", re.IGNORECASE)

_DEPTH = 24
"""How deep objects may hold one another; an error and its causes hold a dozen."""


@dataclass(frozen=True)
class Canaries:
    """One canary for each tenant, unlike each other; made by `Canaries.of`."""

    by_label: Mapping[str, Canary]
    seed: int = 0
    _finders: list[Callable[[str], Iterator[str]]] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, labels: Iterable[str], *, seed: int = 0) -> Canaries:
        """Return a canary for each label; the same labels and seed give the same canaries, in any process.

        Raises `ConfigurationError` where a label is given twice.
        """
        return cls({}, seed).plus(*labels)

    def plus(self, *labels: str) -> Canaries:
        """Return these canaries and more, for tenants that come later. Raises `ConfigurationError` as `of`."""
        made = dict(self.by_label)
        for label in labels:
            if label in made:
                raise ConfigurationError(f"there is a canary for {label!r} already; a tenant needs one of its own")
            made[label] = self._make(label, made.values())
        return Canaries(made, self.seed)

    def _make(self, label: str, others: Iterable[Canary]) -> Canary:
        others = list(others)
        named = "\0".join([label, *(other.label for other in others)]).lower()

        def unlike(kind: str, choose: Callable[[int], Any], taken: set[Any]) -> Any:
            for attempt in range(10_000):
                found = choose(digest(self.seed, label, kind, attempt))
                if found not in taken:
                    return found
            raise ConfigurationError(f"there are too many tenants to tell apart by their canaries: {len(others)}")

        taken_tags = {other.tag for other in others} | {found.lower() for found in _TAG.findall(named)}
        slots = {
            kind: unlike(kind, lambda bits, many=many: bits % many, {other.slot(kind) for other in others})  # type: ignore[misc]
            for kind, many in _SLOTS.items()
        }
        prefix = unlike("uuid", lambda bits: bits.to_bytes(32)[:6], {other.prefix for other in others})
        return Canary(label, unlike("tag", _tag, taken_tags), tuple(slots.items()), prefix)

    def __getitem__(self, label: str) -> Canary:
        return self.by_label[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_label)

    def __len__(self) -> int:
        return len(self.by_label)

    def found_in(self, anything: object) -> frozenset[str]:
        """Return the labels of the tenants whose canaries appear in `anything`.

        That may be a text (also with bytes in hexadecimal or base64), a number, a date, bytes, a UUID, a mapping or
        sequence, an error with its causes and the server's fields, a log record, or any object, which is looked
        at by its attributes and its ``repr``. Nothing is consumed: generators and cursors are left alone.
        """
        return frozenset(self._found(anything, set(), _DEPTH))

    # -- values

    def _found(self, value: Any, seen: set[int], depth: int) -> Iterator[str]:
        match value:
            case None | bool():
                return
            case str():
                yield from self._in_text(value)
            case bytes() | bytearray() | memoryview():
                raw = bytes(value)
                yield from self._in_text(raw.decode("latin-1"))
                yield from (label for label, canary in self.by_label.items() if canary.prefix in raw)
            case int() | float() | Decimal():
                # An enum or a subclass says more than its digits, but not less.
                yield from self._in_text(f"{value:f}" if isinstance(value, Decimal) else str(abs(value)))
            case date() | time() | uuid.UUID():
                yield from self._in_text(str(value))
            case timedelta():
                yield from self._days(value.days)
            case _ if depth and id(value) not in seen:
                seen.add(id(value))
                for part in _parts(value):
                    yield from self._found(part, seen, depth - 1)

    # -- texts

    def _in_text(self, text: str) -> Iterator[str]:
        for found in _TAG.findall(text):
            yield from self._one("tag", found.lower())
        for whole, fraction in _NUMBER.findall(text):
            yield from self._number(whole)
            yield from self._number(whole + fraction)
        for parts in _DAY.findall(text):
            yield from self._day(*(int(part) for part in parts if part))
        for parts in _TIME.findall(text):
            hours, minutes, seconds, microseconds = (int(part) for part in parts if part)
            passed = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + microseconds
            yield from self._one("time", passed // MICROSECONDS_EACH)
        for parts in _SPAN.findall(text):
            yield from self._days(int("".join(parts)))
        for parts in _UUID.findall(text):
            yield from self._one("prefix", "".join(parts).lower())
        for found in _NETWORK.findall(text):
            yield from self._one("network", found.lower())
        for found in _HARDWARE.findall(text):
            yield from self._one("hardware", int(found.replace(":", ""), 16))
        if self._encoded:
            for found in self._encoded_pattern.findall(text):
                yield self._encoded[found]

    def _number(self, digits: str) -> Iterator[str]:
        for count, (first, _) in NUMBERS.items():
            if len(digits) == count:
                yield from self._one(f"number{count}", (int(digits) - first) // NUMBERS_EACH)

    def _day(self, year: int, month: int, day: int) -> Iterator[str]:
        try:
            found = date(year, month, day).toordinal()
        except ValueError:
            return
        yield from self._one("day", (found - FIRST_DAY) // DAYS_EACH)

    def _days(self, days: int) -> Iterator[str]:
        yield from self._one("span", (days - FIRST_SPAN) // NUMBERS_EACH)

    def _one(self, kind: str, key: object) -> Iterator[str]:
        label = self._index.get((kind, key))
        if label is not None:
            yield label

    @cached_property
    def _index(self) -> dict[tuple[str, object], str]:
        index: dict[tuple[str, object], str] = {}
        for label, canary in self.by_label.items():
            index.update(dict.fromkeys(canary.slots, label))
            index["tag", canary.tag] = index["prefix", canary.prefix.hex()] = label
            index["network", canary.network] = label
        return index

    @cached_property
    def _encoded(self) -> dict[str, str]:
        """What is seen of ``-tag-`` in hexadecimal, and in base64 wherever it begins."""
        found: dict[str, str] = {}
        for label, canary in self.by_label.items():
            needle = f"-{canary.tag}-".encode()
            found[needle.hex()] = found[needle.hex().upper()] = label
            for before in range(3):
                for encode in (b64encode, urlsafe_b64encode):
                    text = encode(bytes(before) + needle).decode()
                    found[text[-(-before * 8 // 6) : (before + len(needle)) * 8 // 6]] = label
        return found

    @cached_property
    def _encoded_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._encoded)))


def _tag(bits: int) -> str:
    letters = []
    for _ in range(TAG_LENGTH):
        bits, letter = divmod(bits, len(TAG_LETTERS))
        letters.append(TAG_LETTERS[letter])
    return "".join(letters)


def _parts(value: Any) -> Iterator[Any]:
    """Yield what `value` holds, and its text."""
    if isinstance(value, Mapping):
        yield from list(value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from list(value)
    elif isinstance(value, Enum):
        yield value.value
    else:
        if isinstance(value, logging.LogRecord):
            yield value.getMessage()
        for show in (str, repr):
            with suppress(Exception):  # an object that cannot be shown shows nothing
                yield show(value)
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[Any]:
    if isinstance(value, BaseException):
        yield value.args
        yield value.__cause__
        yield value.__context__
        diagnosis = getattr(value, "diag", None)  # psycopg's: properties, which no dictionary shows
        for name in dir(diagnosis):
            if name.startswith(("message_", "context", "internal_", "schema_", "table_", "column_", "constraint_")):
                yield getattr(diagnosis, name)
    if isinstance(value, type) or callable(value):
        return
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        yield {name: part for name, part in own.items() if not str(name).startswith("_sa_")}
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            part = getattr(value, name, None)
            if not callable(part):
                yield part
