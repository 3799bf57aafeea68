"""What a shared table's keys give away is named, with a statement that mends it; strict mode refuses it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    text,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mt_paas_db.core.models import Models
from mt_paas_db.errors import ConfigurationError
from mt_paas_db.policies import Finding, advice, own, reference, shared, tenant_column
from mt_paas_db.policies.declarations import declaration_of
from tests.fleet import Service

S = "mt_test_advice"


def tenant() -> Column[int]:
    return Column("tenant", BigInteger, server_default=text("mt_paas.tenant()"), nullable=False)


def table(*parts: Any, name: str = "usage", info: Any = None, metadata: MetaData | None = None) -> Table:
    """Return a shared table with a tenant column, an id, and two columns more."""
    columns = (tenant(), Column("id", Integer, Identity(), nullable=False), Column("a", Text), Column("b", Integer))
    return Table(name, metadata or MetaData(), *columns, *parts, schema=S, info=shared() if info is None else info)


def key() -> PrimaryKeyConstraint:
    return PrimaryKeyConstraint("tenant", "id")


FAULTS: list[tuple[str, Any, str]] = [
    ("primary key usage_pkey", lambda: [PrimaryKeyConstraint("id")], "ADD PRIMARY KEY (tenant, id)"),
    ("primary key pk", lambda: [PrimaryKeyConstraint("id", "tenant", name="pk")], "PRIMARY KEY (tenant, id)"),
    ("unique key usage_a_b_key", lambda: [UniqueConstraint("a", "b")], "ADD UNIQUE (tenant, a, b)"),
    (
        "unique key u",
        lambda: [UniqueConstraint("a", "tenant", name="u", deferrable=True)],
        "ADD CONSTRAINT u UNIQUE (tenant, a) DEFERRABLE",
    ),
    ("unique index i", lambda: [Index("i", "a", unique=True)], "CREATE UNIQUE INDEX i ON mt_test_advice.usage (tenant"),
    (
        "index i",
        lambda: [Index("i", text("lower(a)"), postgresql_where=text("b > 0"))],
        "(tenant, lower(a)) WHERE b > 0",
    ),
    ("index i", lambda: [Index("i", "b", "tenant")], "(tenant, b)"),
    (
        "exclusion constraint usage_b_excl",
        lambda: [ExcludeConstraint((Column("b", Integer), "="), using="btree")],
        "EXCLUDE USING btree (tenant WITH =, b WITH =)",
    ),
]


@pytest.mark.parametrize(("what", "parts", "mended"), FAULTS, ids=[f"{n}-{f[0]}" for n, f in enumerate(FAULTS)])
def test_a_key_that_is_not_led_by_the_tenant(service: Service, what: str, parts: Any, mended: str) -> None:
    given = parts()
    made = table(*given, *([] if isinstance(given[0], PrimaryKeyConstraint) else [key()]))
    (finding,) = advice(made)
    assert finding.table == f"{S}.usage"
    assert finding.what.startswith(f"{what} does not lead with 'tenant'")
    assert mended in " ".join(finding.mend.split())
    carry_out(service, [made], finding)


def carry_out(service: Service, tables: list[Table], finding: Finding) -> None:
    """Make the tables, mend them, and look whether all keys and indexes are led by the tenant column."""
    service.manager(shared_schemas=(S,)).init()
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        tables[0].metadata.create_all(connection)
        connection.exec_driver_sql(finding.mend)
        leads = connection.execute(
            text(
                "SELECT i.indexrelid::regclass::text, a.attname FROM pg_index i"
                "  JOIN pg_class c ON c.oid = i.indrelid"
                "  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]"
                " WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relname <> 'plan'"
            ),
            {"schema": S},
        ).all()
    engine.dispose()
    assert leads
    assert {lead for _, lead in leads} == {"tenant"}


def test_a_foreign_key_between_shared_rows(service: Service) -> None:
    metadata = MetaData()
    plan = Table("plan", metadata, Column("id", Integer, primary_key=True), schema=S, info=reference())
    target = table(key(), UniqueConstraint("tenant", "a"), metadata=metadata)
    parts = [
        PrimaryKeyConstraint("tenant", "id"),
        ForeignKeyConstraint(["a"], [target.c.a], ondelete="CASCADE", name="by_a"),
        ForeignKeyConstraint(["tenant", "b"], [target.c.tenant, target.c.id]),
        ForeignKeyConstraint(["b"], [plan.c.id]),  # to what all read
    ]
    source = table(*parts, name="item", metadata=metadata)
    (finding,) = advice(source)
    assert finding.what == f"foreign key by_a does not include 'tenant': it reaches other tenants' rows of '{S}.usage'"
    assert finding.mend == (
        f"ALTER TABLE {S}.item DROP CONSTRAINT by_a, ADD CONSTRAINT by_a "
        f"FOREIGN KEY (tenant, a) REFERENCES {S}.usage (tenant, a) ON DELETE CASCADE"
    )
    source.constraints.discard(next(c for c in source.constraints if c.name == "by_a"))
    mend = finding.mend.replace("DROP CONSTRAINT by_a, ", "")
    carry_out(service, [source], Finding(finding.table, finding.what, mend))


@pytest.mark.parametrize("info", [{}, own(), reference()])
def test_a_foreign_key_from_elsewhere_to_rows_of_one_tenant(info: dict[str, Any]) -> None:
    metadata = MetaData()
    table(key(), metadata=metadata)
    where: dict[str, Any] = {"schema": S} if info == reference() else {}
    leads = ForeignKeyConstraint(["a", "b"], [f"{S}.usage.tenant", f"{S}.usage.id"])
    columns = (Column("a", BigInteger), Column("b", Integer))
    (finding,) = advice(Table("note", metadata, *columns, leads, info=info, **where))
    assert "leads to rows of 'mt_test_advice.usage', of which each belongs to one tenant" in finding.what


def test_what_is_as_it_should_be() -> None:
    metadata = MetaData()
    good = table(key(), UniqueConstraint("tenant", "a"), Index("i", "tenant", "b"), metadata=metadata)
    assert advice(good) == []
    assert (
        advice(Table("note", metadata, Column("id", Integer, primary_key=True), Column("a", Text, unique=True))) == []
    )
    assert advice(table(PrimaryKeyConstraint("id"), name="plan", info=reference())) == []


def test_a_default_that_is_missing(service: Service) -> None:
    bare = Column("tenant", BigInteger, nullable=False)
    made = Table("usage", MetaData(), bare, Column("id", Integer), key(), schema=S, info=shared())
    (finding,) = advice(made)
    assert "has no default" in finding.what
    carry_out(service, [made], finding)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"info": shared()}, "names no schema"),
        ({"info": reference()}, "names no schema"),
        ({"info": own(), "schema": S}, "leave the schema out"),
        ({"info": shared(), "schema": S}, "has no column 'tenant'"),
        ({"info": shared("id"), "schema": S}, "must be BIGINT NOT NULL"),
        ({"info": shared("n"), "schema": S}, "must be BIGINT NOT NULL"),
        ({"info": {"mt_paas_db": "shared"}, "schema": S}, r"is for shared\(\)"),
    ],
)
def test_declarations_that_cannot_be(parts: dict[str, Any], said: str) -> None:
    columns = (Column("id", Integer, primary_key=True), Column("n", BigInteger))
    made = Table("usage", MetaData(), *columns, **parts)
    with pytest.raises(ConfigurationError, match=said):
        declaration_of(made)
    with pytest.raises(ConfigurationError, match=said):
        Models(made.metadata, shared_schemas=(S,))


# -- what is unsaid


@pytest.fixture
def base() -> Iterator[type[DeclarativeBase]]:
    class Base(DeclarativeBase):
        pass

    class Silent(Base):
        __tablename__ = "silent"
        __table_args__ = ({"schema": S},)
        id: Mapped[int] = mapped_column(primary_key=True)

    class Quiet(Base):
        __tablename__ = "quiet"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Usage(Base):
        __tablename__ = "usage"
        __table_args__ = ({"schema": S, "info": shared()},)
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant: Mapped[int] = tenant_column()

    class Said(Base):
        __tablename__ = "said"
        __table_args__ = ({"info": {**own(), "more": 1}},)
        id: Mapped[int] = mapped_column(primary_key=True)

    del Silent, Quiet, Usage, Said
    yield Base
    Base.registry.dispose()


def test_it_is_listed_once(base: type[DeclarativeBase], caplog: pytest.LogCaptureFixture) -> None:
    silent = f"in shared schemas, to be read by all tenants, as nothing is declared: {S}.silent; "
    silent += "say reference() or shared()"
    found = f"{S}.usage: primary key usage_pkey does not lead with 'tenant': it tells tenants of each other's rows; "
    found += f"ALTER TABLE {S}.usage DROP CONSTRAINT usage_pkey; ALTER TABLE {S}.usage ADD PRIMARY KEY (tenant, id)"
    with caplog.at_level(logging.INFO, "mt_paas_db.policies"):
        for _ in range(3):
            Models(base.metadata, shared_schemas=(S,))
        assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
            ("WARNING", silent),
            ("INFO", "each tenant's own, as nothing is declared: quiet"),
            ("WARNING", found),
        ]
        Table("later", base.metadata, Column("id", Integer, ForeignKey(f"{S}.silent.id"), primary_key=True))
        Models(base.metadata, shared_schemas=(S,))
        assert "quiet, later" in caplog.text or "later, quiet" in caplog.text


def test_strict_refuses_it(base: type[DeclarativeBase]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Models(base.metadata, shared_schemas=(S,), strict=True)
    lines = str(caught.value).splitlines()[1:]
    assert [line.strip().split(":")[0] for line in lines] == [f"{S}.silent", "quiet", f"{S}.usage"]


def test_strict_takes_what_says_everything() -> None:
    metadata = MetaData()
    table(key(), metadata=metadata)
    Table("note", metadata, Column("id", Integer, primary_key=True), info=own())
    Models(metadata, shared_schemas=(S,), strict=True)
