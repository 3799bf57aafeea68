"""Candidates: values that a column of some type might take, those that carry a canary first.

Long because of the types that PostgreSQL has. Pure, but for a look at today's date: checks against the clock want
days on both sides of it.
"""

from __future__ import annotations

import inspect
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice, pairwise
from typing import Any

from sqlalchemy import Dialect, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractMultiRange, AbstractRange
from sqlalchemy.types import TypeDecorator, TypeEngine

from mt_paas_db.isolation.rows.canary import Canary, Digits
from mt_paas_db.isolation.rows.exemplar import Words, exemplars
from mt_paas_db.isolation.rows.mining import NO_HINTS, Hints

_WHOLE = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
_MOST_OF_A_SOURCE = 8


@dataclass(frozen=True)
class Choice:
    """The values that are tried for one column, best first.

    Attributes:
        bearing: Values with a canary.
        plain: Values without one, for what refuses canaries.
        certain: Whether the type takes each of these; if not, the server is asked.
    """

    bearing: tuple[Any, ...] = ()
    plain: tuple[Any, ...] = ()
    certain: bool = True

    @property
    def values(self) -> tuple[Any, ...]:
        return self.bearing + self.plain


@dataclass(frozen=True)
class Cell:
    """One row's place in a column.

    Attributes:
        canary: Whose row it is.
        place: ``table.column``.
        n: The row's number, from 1.
        base: The server's type, below domains and without length: ``character varying``.
        length: Of a character or bit type, if it has one.
        precision: Of a numeric, if it has one; and its scale.
        hints: What the checks on this column say.
        dialect: The connection's.
    """

    canary: Canary
    place: str
    n: int
    base: str
    dialect: Dialect
    length: int | None = None
    precision: int | None = None
    scale: int = 0
    hints: Hints = field(default=NO_HINTS)


def choose(type_: TypeEngine[Any], cell: Cell) -> Choice:
    """Return the candidates for a cell of a column of this SQLAlchemy type."""
    type_ = type_._variant_mapping.get("postgresql", type_)
    for kinds, make in _BY_TYPE:
        if isinstance(type_, kinds):
            return make(type_, cell)
    return _unknown(type_, cell)


# -- texts


def _texts(_: Any, cell: Cell) -> Choice:
    canary, place, n, hints = cell.canary, cell.place, cell.n, cell.hints
    limit = cell.length

    def padded(length: int) -> str | None:
        return f"{canary.tag}{n:0{length - len(canary.tag)}d}" if length >= len(canary.tag) + len(str(n)) else None

    def counted(length: int) -> str | None:
        number = str(canary.number(place, n, digits=10))
        return number.zfill(length) if length >= len(number) else str(n).zfill(length)

    short = f"{canary.tag}{n}"
    number = str(canary.number(place, n, digits=10))
    full = canary.text(place, n)
    best = canary.text(place, n, length=limit)
    words = Words(
        (*(word for word in (full, short, short.upper()) if word), canary.tag, canary.tag.upper(), number),
        (padded, lambda length: (padded(length) or "").upper() or None, counted),
        n,
    )
    bearing = [
        *([best] if best else []),
        short,
        short.upper(),
        *(exemplar for pattern in hints.patterns for exemplar in exemplars(pattern, words)),
        *(_like(pattern, word) for pattern in hints.likes for word in (best or short, short, short.upper())),
        *(text for length in hints.lengths if (text := padded(length))),
        f"{canary.tag}@example.com" if n == 1 else f"{canary.tag}-{n}@example.com",
        f"https://example.com/{short}",
        *(joined for text in hints.texts for joined in (f"{text}{short}", f"{short}{text}")),
        number,
    ]
    plain = [
        *_rotated(hints.texts, n),
        *(text for length in hints.lengths if (text := counted(length))),
        str(n),
        chr(ord("a") + n % 26),
        "",
    ]
    fits: Callable[[str], bool] = lambda text: "\0" not in text and (limit is None or len(text) <= limit)  # noqa: E731
    return Choice(_unique(filter(fits, bearing)), _unique(filter(fits, plain)))


def _like(pattern: str, word: str) -> str:
    return pattern.replace("%", word, 1).replace("%", "").replace("_", "x")


def _bytes(_: Any, cell: Cell) -> Choice:
    text = (cell.canary.text(cell.place, cell.n) or "").encode()
    mark = f"-{cell.canary.tag}-{cell.n}".encode()
    exact = [mark.rjust(length, b"0") for length in cell.hints.lengths if length >= len(mark)]
    small = [cell.n.to_bytes(length) for length in cell.hints.lengths]
    return Choice(_unique([text, *exact]), _unique([*small, bytes([cell.n % 256]), b""]))


# -- numbers


def _numbers(type_: Any, cell: Cell) -> Choice:
    whole = cell.base in _WHOLE or isinstance(type_, types.Integer)
    limit = _limit(cell)
    convert: Callable[[Decimal], Any] = (
        int if whole else (float if isinstance(type_, types.Numeric | types.Float) and not type_.asdecimal else Decimal)
    )
    step = (
        Decimal(1) if whole else Decimal(1).scaleb(-min(cell.scale or 2, 2) if cell.precision is None else -cell.scale)
    )

    def all_of(numbers: Iterable[Decimal]) -> tuple[Any, ...]:
        fit = (
            number for number in numbers if abs(number) < limit and (not whole or number == number.to_integral_value())
        )
        return _unique(convert(number) for number in fit)

    return Choice(all_of(_own_numbers(cell, whole=whole)), all_of(_near(cell, step)))


def _limit(cell: Cell) -> Decimal:
    if cell.base in _WHOLE:
        return Decimal(_WHOLE[cell.base])
    if cell.precision is not None:
        return Decimal(10) ** (cell.precision - cell.scale)
    return Decimal(10) ** 16


def _own_numbers(cell: Cell, *, whole: bool) -> Iterator[Decimal]:
    if cell.base in ("smallint", "real", "oid"):
        return
    kinds: tuple[Digits, ...] = (10,) if cell.base in ("integer", "money") else (16, 10)
    for digits in kinds:
        for part in range(3):
            yield Decimal(cell.canary.number(cell.place, cell.n, digits=digits, part=part))
    if not whole and cell.precision is not None:
        for digits in kinds:
            yield Decimal(cell.canary.number(cell.place, cell.n, digits=digits)).scaleb(-cell.scale)


def _near(cell: Cell, step: Decimal) -> Iterator[Decimal]:
    """Yield numbers near those of the checks, and small ones."""
    n, known = cell.n, sorted(cell.hints.numbers)
    for low, high in pairwise(known):
        yield ((low + high) / 2).quantize(step) + n * step
        yield low + n * step
        yield from (low + n, low + high * n, high + low * n)  # the latter two for remainders
    for number in known:
        yield from (
            number + (n - 1) * step,
            number - (n - 1) * step,
            number + n,
            number - n,
            number,
            number + 1,
            number - 1,
        )
        yield from (-number - n, number * (n + 1))
    if step < 1:  # parts of a whole, that add up
        half = Decimal("0.5")
        yield from (half + n * step, half - n * step)
    yield from (Decimal(n), n * step, Decimal(0), Decimal(1), Decimal(-n), Decimal(n % 7))


# -- times


def _days(_: Any, cell: Cell) -> Choice:
    n = cell.n
    today = datetime.now(UTC).date()
    written = [_parsed(date, text[:10]) for text in cell.hints.texts]
    around = [known + timedelta(days=shift) for known in written if known for shift in (n, -n, n - 1, 1 - n)]
    plain = [*around, today - timedelta(days=n), today + timedelta(days=n), date(2000, 1, 1) + timedelta(days=n), today]
    return Choice(tuple(cell.canary.day(n, part=part) for part in range(3)), _unique(plain))


def _moments(type_: Any, cell: Cell) -> Choice:
    n, aware = cell.n, bool(getattr(type_, "timezone", False)) or cell.base.endswith("with time zone")
    zone = UTC if aware else None
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=zone)
    written = [_parsed(datetime, text) for text in cell.hints.texts]
    around = [
        (known if known.tzinfo else known.replace(tzinfo=UTC)).astimezone(UTC).replace(tzinfo=zone) + shift
        for known in written
        if known
        for shift in (timedelta(days=n), timedelta(days=-n), timedelta(seconds=n), timedelta())
    ]
    plain = [
        *around,
        now - timedelta(days=n),
        now + timedelta(days=n),
        datetime(2000, 1, 1, tzinfo=zone) + timedelta(n),
    ]
    return Choice(tuple(cell.canary.moment(n, part=part, aware=aware) for part in range(3)), _unique(plain))


def _times(type_: Any, cell: Cell) -> Choice:
    zone = UTC if getattr(type_, "timezone", False) or cell.base.endswith("with time zone") else None
    own = [cell.canary.time_of_day(cell.n, part=part).replace(tzinfo=zone) for part in range(3)]
    written = [_parsed(time, text) for text in cell.hints.texts]
    plain = [
        *(known for known in written if known),
        *(time(hour, cell.n % 60, tzinfo=zone) for hour in (0, 9, 12, 18, 23)),
    ]
    return Choice(tuple(own), _unique(plain))


def _spans(_: Any, cell: Cell) -> Choice:
    n = cell.n
    plain = (timedelta(seconds=n), timedelta(minutes=n), timedelta(hours=n), timedelta(days=n), timedelta())
    return Choice(tuple(cell.canary.span(n, part=part) for part in range(3)), plain)


def _parsed(kind: Any, text: str) -> Any:
    try:
        return kind.fromisoformat(text)
    except ValueError:
        return None


# -- one of a few, and structures


def _members(type_: Any, cell: Cell) -> Choice:
    return Choice(plain=_rotated(list(type_.enum_class or type_.enums), cell.n))


def _truths(_: Any, cell: Cell) -> Choice:
    return Choice(plain=_rotated((True, False), cell.n))


def _documents(_: Any, cell: Cell) -> Choice:
    text, keys = cell.canary.text(cell.place, cell.n), cell.hints.texts
    bearing: list[Any] = [{"canary": text}, {**dict.fromkeys(keys, text), "canary": text}]
    bearing += [{**dict.fromkeys(keys, cell.n), "canary": text}, [text], text]
    return Choice(_unique(bearing), ({}, [], cell.n))


def _uuids(type_: Any, cell: Cell) -> Choice:
    own, other = cell.canary.uuid(cell.place, cell.n), uuid.UUID(int=cell.n)
    as_text = getattr(type_, "as_uuid", True) is False
    return Choice((str(own),) if as_text else (own,), (str(other),) if as_text else (other,))


def _arrays(type_: Any, cell: Cell) -> Choice:
    items = choose(type_.item_type, cell)

    def nested(row: list[Any]) -> list[Any]:
        for _ in range((type_.dimensions or 1) - 1):
            row = [row]
        return row

    sizes = [1, 2, *(length for length in cell.hints.lengths if length <= 50)]
    bearing, plain = (
        [nested([value] * size) for value in islice(values, 4) for size in sizes]
        for values in (items.bearing, items.plain)
    )
    return Choice(_unique(bearing), _unique([*plain, []]), items.certain)


def _ranges(type_: Any, cell: Cell) -> Choice:
    n, canary, place = cell.n, cell.canary, cell.place
    kind = cell.base.replace("multirange", "range")
    ends: tuple[Any, Any]
    match kind:
        case "int4range" | "int8range" | "numrange":
            low: Any = canary.number(place, 2 * n, digits=10 if kind == "int4range" else 16)
            low, step = (Decimal(low), Decimal(1)) if kind == "numrange" else (low, 1)
            ends = (low, low + step)
            small = (low * 0 + 2 * n, low * 0 + 2 * n + 1)
        case "daterange":
            ends = (canary.day(n), canary.day(n) + timedelta(days=1))
            small = (date(2000, 1, 1) + timedelta(n), date(2000, 1, 2) + timedelta(n))
        case _:
            start = canary.moment(n, aware=kind == "tstzrange")
            ends = (start, start + timedelta(seconds=1))
            now = datetime(2000, 1, 1, n % 24, tzinfo=start.tzinfo) + timedelta(n)
            small = (now, now + timedelta(seconds=1))
    made = [postgresql.Range(*pair) for pair in (ends, small)]
    if isinstance(type_, AbstractMultiRange):
        return Choice(([made[0]],), ([made[1]],))
    return Choice((made[0],), (made[1],))


def _addresses(_: Any, cell: Cell) -> Choice:
    address, mask = cell.canary.address(cell.place, cell.n), "/128" if cell.base == "cidr" else ""
    return Choice((address + mask,), (f"10.0.{cell.n // 256 % 256}.{cell.n % 256}" + ("/32" if mask else ""),))


def _simple(*, bearing: Callable[[Cell], Any] | None = None, plain: Callable[[Cell], Any] | None = None) -> Any:
    def make(_: Any, cell: Cell) -> Choice:
        return Choice((bearing(cell),) if bearing else (), (plain(cell),) if plain else (), certain=False)

    return make


# -- types of the user's own


def _domains(type_: Any, cell: Cell) -> Choice:
    return choose(type_.data_type, cell)


def _decorated(type_: TypeDecorator[Any], cell: Cell) -> Choice:
    """Try what the decorator says it takes, then what its column holds, then everything."""
    takes = [*_declared(type_)]
    sources: list[TypeEngine[Any] | Choice] = [
        *(_SOURCES[kind] for kind in takes if kind in _SOURCES),
        *(Choice(plain=_rotated(list(kind), cell.n)) for kind in takes if issubclass(kind, Enum)),
        type_.impl_instance,
        *_SOURCES.values(),
    ]
    found = [source if isinstance(source, Choice) else choose(source, cell) for source in sources]
    bound = _bound_by(type_, cell)
    bearing = (value for choice in found for value in islice(filter(bound, choice.bearing), _MOST_OF_A_SOURCE))
    plain = (value for choice in found for value in islice(filter(bound, choice.plain), _MOST_OF_A_SOURCE))
    return Choice(_unique(bearing), _unique(plain), certain=False)


def _declared(type_: TypeDecorator[Any]) -> Iterator[type]:
    """Yield the Python types that a decorator names as those it takes."""
    try:
        hints = typing.get_type_hints(type(type_).process_bind_param)
        _, first, *_ = inspect.signature(type(type_).process_bind_param).parameters
        yield from _classes(hints.get(first))
    except (NameError, TypeError, ValueError):
        pass
    for base in getattr(type(type_), "__orig_bases__", ()):
        for argument in typing.get_args(base):
            yield from _classes(argument)
    if "python_type" in vars(type(type_)):
        yield from _classes(type_.python_type)


def _classes(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        yield hint
    elif isinstance(origin := typing.get_origin(hint), type):
        if issubclass(origin, Mapping):
            yield dict
        else:
            yield from (part for argument in typing.get_args(hint) for part in _classes(argument))
    else:
        yield from (part for argument in typing.get_args(hint) for part in _classes(argument))


def _bound_by(type_: TypeDecorator[Any], cell: Cell) -> Callable[[Any], bool]:
    """Return whether the decorator turns a value into one that fits its column."""
    processor = type_.dialect_impl(cell.dialect).bind_processor(cell.dialect)

    def bound(value: Any) -> bool:
        if processor is None:
            return True
        try:
            made = processor(value)
        except Exception:  # the user's own code, given what it may not take
            return False
        too_long = isinstance(made, str) and cell.length is not None and len(made) > cell.length
        return made is not None and not too_long

    return bound


def _unknown(type_: TypeEngine[Any], cell: Cell) -> Choice:
    """Guess for a type that only its own library knows: the server tells which guesses it takes."""
    n, text = cell.n, cell.canary.text(cell.place, cell.n)
    dimensions = getattr(type_, "dim", None) or cell.length or next(map(int, cell.hints.numbers), 0) or 3
    numbers = [float(n + i) for i in range(min(int(dimensions), 20_000))]
    written = "[" + ",".join(f"{number:g}" for number in numbers) + "]"
    bearing: list[Any] = [text, f"{cell.canary.tag}{n}", f"<canary>{text}</canary>", f'{{"canary": "{text}"}}']
    bearing += [str(cell.canary.uuid(cell.place, n)), cell.canary.number(cell.place, n, digits=10)]
    try:
        processor = type_.dialect_impl(cell.dialect).bind_processor(cell.dialect)
        plain: list[Any] = [written, numbers]
        if processor is not None and hasattr(type_, "dim"):
            plain.reverse()
    except Exception:  # the library's own code
        plain = [written]
    return Choice(_unique(bearing), _unique([*plain, str(n), n, "", f"({n},{n})"]), certain=False)


# -- parts


def _rotated(values: Iterable[Any], n: int) -> tuple[Any, ...]:
    listed = list(values)
    start = (n - 1) % len(listed) if listed else 0
    return tuple(listed[start:] + listed[:start])


def _unique(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple({repr(value): value for value in values if value is not None}.values())


_SOURCES: dict[type, TypeEngine[Any]] = {
    str: types.Text(),
    dict: types.JSON(),
    bytes: types.LargeBinary(),
    int: types.BigInteger(),
    Decimal: types.Numeric(),
    float: types.Float(),
    uuid.UUID: types.Uuid(),
    datetime: types.DateTime(timezone=True),
    date: types.Date(),
    time: types.Time(),
    timedelta: types.Interval(),
    bool: types.Boolean(),
}

# The first that fits: an Enum is a String, an Interval a TypeDecorator.
_BY_TYPE: tuple[tuple[Any, Callable[[Any, Cell], Choice]], ...] = (
    (types.Enum, _members),
    (postgresql.DOMAIN, _domains),
    ((types.Interval, postgresql.INTERVAL), _spans),
    (TypeDecorator, _decorated),
    (types.Boolean, _truths),
    (types.DateTime, _moments),
    (types.Date, _days),
    (types.Time, _times),
    (types.JSON, _documents),
    (types.ARRAY, _arrays),
    (types.Uuid, _uuids),
    (types.LargeBinary, _bytes),
    ((types.Numeric, types.Float, types.Integer), _numbers),
    (types.String, _texts),
    ((AbstractRange, AbstractMultiRange), _ranges),
    ((postgresql.INET, postgresql.CIDR), _addresses),
    (postgresql.MACADDR, _simple(bearing=lambda cell: cell.canary.hardware(cell.n))),
    (postgresql.MACADDR8, _simple(plain=lambda cell: f"02:00:00:ff:fe:00:00:{cell.n % 256:02x}")),
    (postgresql.HSTORE, _simple(bearing=lambda cell: {"canary": cell.canary.text(cell.place, cell.n)})),
    ((postgresql.TSVECTOR, postgresql.TSQUERY), _simple(bearing=lambda cell: f"{cell.canary.tag}{cell.n}")),
    (postgresql.OID, _simple(plain=lambda cell: cell.n)),
    (postgresql.REGCLASS, _simple(plain=lambda _: "pg_class")),
    (postgresql.BIT, _simple(plain=lambda cell: f"{cell.n:b}"[-(cell.length or 64) :].zfill(cell.length or 1))),
)
