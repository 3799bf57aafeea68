"""Models with all that makes a table difficult to fill, one difficulty or two to a table."""

from __future__ import annotations

import base64
import enum
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    PickleType,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import (
    BIT,
    CIDR,
    DATERANGE,
    DOMAIN,
    INET,
    INT4RANGE,
    INT8MULTIRANGE,
    JSON,
    JSONB,
    MACADDR,
    NUMRANGE,
    TSQUERY,
    TSRANGE,
    TSTZRANGE,
    TSVECTOR,
    ExcludeConstraint,
)
from sqlalchemy.types import UserDefinedType


class Colour(enum.Enum):
    red = "r"
    blue = "b"


class Sealed(TypeDecorator[str]):
    """Stands for an encrypted column: takes text, stores bytes that do not show it."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:
        return None if value is None else base64.b64encode(value.encode()[::-1])

    def process_result_value(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else base64.b64decode(value)[::-1].decode()


class Undeclared(TypeDecorator[Any]):
    """Takes a mapping and says so nowhere."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return ";".join(f"{key}={value[key]}" for key in sorted(value.keys())) if value is not None else None


class Cents(TypeDecorator[Decimal]):
    """Money kept as a whole number."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Any) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: Any) -> Decimal | None:
        return None if value is None else Decimal(value) / 100


class Instant(TypeDecorator[datetime]):
    """A time kept as seconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else int(value.timestamp())

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)


class Hue(TypeDecorator[Colour]):
    impl = Enum(Colour, name="hue")
    cache_ok = True


class Point(UserDefinedType[str]):
    """A type of which SQLAlchemy knows nothing but the name."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "point"


class Xml(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xml"


def everything() -> MetaData:
    """Return models that the filler fills without being told anything."""
    metadata = MetaData()
    _types(metadata)
    _checks(metadata)
    _keys(metadata)
    _references(metadata)
    _oddities(metadata)
    return metadata


def _types(metadata: MetaData) -> None:
    Table(
        "types", metadata,
        Column("id", Integer, primary_key=True),
        Column("text", Text), Column("short", String(12)), Column("tiny", String(2)), Column("fixed", String(8)),
        Column("whole", Integer), Column("small", SmallInteger), Column("big", BigInteger),
        Column("exact", Numeric(12, 2)), Column("narrow", Numeric(5, 3)), Column("loose", Numeric),
        Column("deep", Numeric(14, 8)), Column("real", Float(24)), Column("double", Double),
        Column("rough", Numeric(20, 4, asdecimal=False)),
        Column("yes", Boolean), Column("bytes", LargeBinary), Column("key", Uuid),
        Column("key_text", Uuid(as_uuid=False)),
        Column("document", JSONB), Column("old_document", JSON), Column("pickled", PickleType),
        Column("words", ARRAY(Text)), Column("numbers", ARRAY(BigInteger)),
        Column("grid", ARRAY(Integer, dimensions=2)),
        Column("keys", ARRAY(Uuid)), Column("short_words", ARRAY(String(10))),
        Column("day", Date), Column("at", DateTime(timezone=True)), Column("local", DateTime), Column("time", Time),
        Column("lasted", Interval),
        Column("colour", Enum(Colour, name="colour")), Column("plain_enum", Enum("a", "b", native_enum=False)),
        Column("colours", ARRAY(Enum(Colour, name="colour"))),
        Column("varchar_enum", Enum(Colour, native_enum=False, create_constraint=True, name="varchar_enum")),
        Column("address", INET), Column("network", CIDR), Column("hardware", MACADDR), Column("bits", BIT(6)),
        Column("search", TSVECTOR), Column("query", TSQUERY),
        Column("during", TSTZRANGE), Column("local_during", TSRANGE), Column("days", DATERANGE),
        Column("counts", INT4RANGE),
        Column("amounts", NUMRANGE), Column("many", INT8MULTIRANGE),
        Column("sealed", Sealed), Column("undeclared", Undeclared), Column("cents", Cents), Column("instant", Instant),
        Column("hue", Hue), Column("point", Point), Column("xml", Xml),
    )  # fmt: skip


def _checks(metadata: MetaData) -> None:
    email = DOMAIN("email", Text, check=text("VALUE ~ '^[^@ ]+@[^@ ]+[.][a-z]+$'"), metadata=metadata)
    percent = DOMAIN("percent", Numeric(5, 2), check=text("VALUE BETWEEN 0 AND 100"), not_null=True, metadata=metadata)
    Table(
        "checks", metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("status", Text, nullable=False), Column("age", Integer, nullable=False),
        Column("rating", SmallInteger, nullable=False), Column("code", String(9), nullable=False, unique=True),
        Column("pin", String(6), nullable=False), Column("password", Text, nullable=False),
        Column("phone", Text, nullable=False), Column("handle", String(30), nullable=False, unique=True),
        Column("mail", email, nullable=False), Column("percent", percent), Column("value", email),
        Column("url", Text, nullable=False), Column("hash", LargeBinary, nullable=False),
        Column("starts", Date, nullable=False), Column("ends", Date, nullable=False),
        Column("low", Integer, nullable=False), Column("middle", Integer, nullable=False),
        Column("high", Integer, nullable=False),
        Column("born", Date, nullable=False), Column("share", Numeric, nullable=False),
        Column("rest", Numeric, nullable=False),
        Column("kind", String(10), nullable=False), Column("detail", Text), Column("options", JSONB, nullable=False),
        Column("tags", ARRAY(Text), nullable=False), Column("since", DateTime(timezone=True), nullable=False),
        Column("upper", Text, nullable=False), Column("year", Integer, nullable=False),
        Column("even", Integer, nullable=False),
        Column("either", Text), Column("other", Text), Column("named", Text, nullable=False),
        Column("quantity", Integer, nullable=False), Column("price", Integer, nullable=False),
        Column("total", Integer, Computed("quantity * price", persisted=True)),
        CheckConstraint("status IN ('new', 'it''s done', '50%')"), CheckConstraint("age >= 0 AND age < 150"),
        CheckConstraint("rating BETWEEN 1 AND 5"), CheckConstraint("code ~ '^[A-Z]{3}-[0-9]{2,5}$'"),
        CheckConstraint("length(pin) = 6 AND pin ~ '^[0-9]+$'"), CheckConstraint("char_length(password) >= 40"),
        CheckConstraint("phone ~ '^[+][0-9]{1,3}( [0-9]+)+$'"), CheckConstraint("handle ~ '^[a-z][a-z0-9_]{2,29}$'"),
        CheckConstraint("url LIKE 'https://%'"), CheckConstraint("octet_length(hash) = 32"),
        CheckConstraint("ends > starts"), CheckConstraint("low < middle AND middle < high"),
        CheckConstraint("born < CURRENT_DATE"), CheckConstraint("share + rest = 1"),
        CheckConstraint("share > 0 AND share < 1"),
        CheckConstraint("(kind = 'text') = (detail IS NOT NULL)"), CheckConstraint("kind IN ('text', 'none')"),
        CheckConstraint("jsonb_typeof(options) = 'object' AND options ? 'limit' AND (options->>'limit')::int > 0"),
        CheckConstraint("cardinality(tags) BETWEEN 2 AND 4"), CheckConstraint("since < '2020-01-01'"),
        CheckConstraint("upper = upper(upper) AND upper <> ''"), CheckConstraint("year >= 1900 AND year <= 2100"),
        CheckConstraint("even % 2 = 0"), CheckConstraint("num_nonnulls(either, other) = 1"),
        CheckConstraint("total >= 100 AND total < 1000"),
        CheckConstraint("named = 'a' OR named LIKE 'b-%' OR named IS NULL"),
    )  # fmt: skip


def _keys(metadata: MetaData) -> None:
    number = Sequence("ticket", metadata=metadata, start=100)
    Table(
        "keys", metadata,
        Column("a", String(5), primary_key=True), Column("b", Integer, primary_key=True, autoincrement=False),
        Column("colour", Enum(Colour, name="colour"), nullable=False), Column("yes", Boolean, nullable=False),
        Column("mail", Text, nullable=False), Column("deleted", Boolean, nullable=False),
        Column("ticket", BigInteger, number, server_default=number.next_value(), nullable=False),
        UniqueConstraint("a", "colour"), UniqueConstraint("colour", "yes"),
    )  # fmt: skip
    keys = metadata.tables["keys"]
    Index("keys_mail", func.lower(keys.c.mail), unique=True)
    Index("keys_live", keys.c.deleted, unique=True, postgresql_where=text("NOT deleted"))
    Table("singleton", metadata, Column("id", Integer, primary_key=True), CheckConstraint("id = 1"))
    Table(
        "by_uuid",
        metadata,
        Column("id", Uuid, primary_key=True, default=uuid.uuid4, server_default=func.gen_random_uuid()),
    )
    Table("by_always", metadata, Column("id", BigInteger, Identity(always=True), primary_key=True), Column("t", Text))
    Table(
        "by_day",
        metadata,
        Column("day", Date, primary_key=True),
        Column("colour", Enum(Colour, name="colour"), primary_key=True),
    )
    Table("keyless", metadata, Column("line", Text, nullable=False), Column("at", DateTime, server_default=func.now()))
    Table(
        "booking", metadata,
        Column("id", Integer, primary_key=True), Column("during", TSTZRANGE, nullable=False),
        ExcludeConstraint(("during", "&&"), using="gist"),
    )  # fmt: skip
    Table(
        "defaults", metadata,
        Column("id", Integer, primary_key=True),
        Column("made_by", Text, server_default=text("current_setting('mt_paas.tenant')")),
        Column("state", Text, default="python", nullable=False), Column("born", Date, default=date.today),
    )  # fmt: skip


def _references(metadata: MetaData) -> None:
    Table(
        "tree", metadata,
        Column("id", Integer, primary_key=True), Column("parent_id", ForeignKey("tree.id")), Column("name", Text),
    )  # fmt: skip
    Table(
        "rooted",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("root_id", ForeignKey("rooted.id"), nullable=False),
    )
    Table(
        "account", metadata,
        Column("region", String(20), primary_key=True), Column("no", Integer, primary_key=True, autoincrement=False),
        Column("title", Text, nullable=False),
    )  # fmt: skip
    Table(
        "invoice", metadata,
        Column("id", Integer, primary_key=True), Column("region", String(20), nullable=False),
        Column("account_no", Integer, nullable=False), Column("payer_no", Integer), Column("before_id", Integer),
        ForeignKeyConstraint(["region", "account_no"], ["account.region", "account.no"]),
        ForeignKeyConstraint(["region", "payer_no"], ["account.region", "account.no"]),
        ForeignKeyConstraint(["region", "before_id"], ["invoice.region", "invoice.id"]),
        UniqueConstraint("region", "id"), CheckConstraint("account_no <> payer_no"),
    )  # fmt: skip
    Table(
        "account_invoice", metadata,
        Column("region", String(20), primary_key=True), Column("no", Integer, primary_key=True),
        Column("invoice_id", ForeignKey("invoice.id", ondelete="CASCADE"), primary_key=True),
        ForeignKeyConstraint(["region", "no"], ["account.region", "account.no"]),
        ForeignKeyConstraint(["region", "invoice_id"], ["invoice.region", "invoice.id"]),
    )  # fmt: skip
    # A cycle by use_alter, one cut by NULL, and one that only deferral allows.
    Table(
        "hen",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("egg_id", ForeignKey("egg.id", use_alter=True, name="hen_egg")),
    )
    Table(
        "egg", metadata, Column("id", Integer, primary_key=True), Column("hen_id", ForeignKey("hen.id"), nullable=False)
    )
    Table(
        "husband", metadata,
        Column("id", Integer, primary_key=True),
        Column(
            "wife_id",
            ForeignKey("wife.id", use_alter=True, name="h_w", deferrable=True, initially="DEFERRED"),
            nullable=False,
            unique=True,
        ),
    )  # fmt: skip
    Table(
        "wife", metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("husband_id", ForeignKey("husband.id", deferrable=True), nullable=False, unique=True),
    )  # fmt: skip
    # Inheritance by joined tables, and by one.
    Table(
        "person",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("type", String(20)),
        Column("studio", Text),
        Column("grade", Integer),
    )
    Table(
        "student",
        metadata,
        Column("id", ForeignKey("person.id"), primary_key=True),
        Column("no", String(20), unique=True, nullable=False),
    )
    Table(
        "friendship",
        metadata,
        Column("a", ForeignKey("person.id"), primary_key=True),
        Column("b", ForeignKey("person.id"), primary_key=True),
        CheckConstraint("a <> b"),
    )
    Table(
        "plan_choice",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("plan", ForeignKey("reference.plan.name"), nullable=False),
    )
    Table("plan", metadata, Column("name", Text, primary_key=True), schema="reference")


def _oddities(metadata: MetaData) -> None:
    Table(
        "Odd Table", metadata,
        Column("Mixed Case", Integer, primary_key=True, key="renamed"), Column("a%b", Text),
        Column("select", Text), Column("이름", String(40)),
        CheckConstraint("\"Mixed Case\" > 5 AND \"a%b\" LIKE '%\\%%'"), schema=None,
    )  # fmt: skip
    Table(
        "measure", metadata,
        Column("at", Date, primary_key=True), Column("value", Integer),
        postgresql_partition_by="RANGE (at)",
    )  # fmt: skip
    _after(metadata, "CREATE TABLE measure_1 PARTITION OF measure FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
    # A trigger that says nothing of columns: canaries are given up one by one.
    Table(
        "watched",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", Text),
        Column("size", Integer, nullable=False),
    )
    _after(
        metadata,
        """CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN IF NEW.size > 1000 THEN RAISE EXCEPTION 'too big'; END IF; RETURN NEW; END $$""",
    )
    _after(metadata, "CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch()")
    # A product that overflows: no name in the error either.
    Table(
        "product", metadata,
        Column("id", Integer, primary_key=True), Column("x", Integer, nullable=False),
        Column("y", Integer, nullable=False),
        Column("xy", Integer, Computed("x * y", persisted=True)),
    )  # fmt: skip
    # A constraint that only the server knows.
    Table("migrated", metadata, Column("id", Integer, primary_key=True), Column("level", Text))
    _after(metadata, "ALTER TABLE migrated ADD CHECK (level IN ('low', 'high')), ALTER level SET NOT NULL")
    Table("people", metadata, Column("id", Integer, primary_key=True), Column("studio", Text), info={"is_view": True})
    _after(metadata, "DROP TABLE people")
    _after(metadata, "CREATE VIEW people AS SELECT id, studio FROM person")


def _after(metadata: MetaData, statement: str) -> None:
    event.listen(metadata, "after_create", DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]
