"""Models to DDL: a tenant gets exactly what SQLAlchemy would make by itself, and what is shared is made once.

Long because of the models in it, which hold all that may go wrong when DDL is written down to be sent later.
"""

from __future__ import annotations

import enum
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import DOMAIN, ENUM, JSONB, TSTZRANGE, UUID, ExcludeConstraint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase

from mt_paas_db.core import TenantManager
from mt_paas_db.core.models import Models, metadata_of
from mt_paas_db.errors import ConfigurationError, ProvisioningError
from tests.fleet import Service
from tests.ground_truth import server_state
from tests.models import Base

_FINGERPRINTS = {
    "columns": """
        SELECT c.relname, c.relkind::text, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid),
               col_description(c.oid, a.attnum)
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = %(s)s::regnamespace AND c.relkind IN ('r', 'v', 'S', 'p')""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')
          FROM pg_constraint WHERE connamespace = %(s)s::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %(s)s",
    "types": """
        SELECT t.typname, t.typtype::text, t.typnotnull, t.typdefault,
               (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid)
          FROM pg_type t WHERE t.typnamespace = %(s)s::regnamespace AND t.typtype IN ('e', 'd')""",
    "tables": """
        SELECT c.relname, c.relkind::text, obj_description(c.oid), c.reloptions, s.seqstart, s.seqincrement, s.seqmax
          FROM pg_class c LEFT JOIN pg_sequence s ON s.seqrelid = c.oid
         WHERE c.relnamespace = %(s)s::regnamespace AND c.relkind IN ('r', 'v', 'S', 'p')""",
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = %(s)s::regnamespace",
    "triggers": """
        SELECT t.tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = %(s)s::regnamespace AND NOT t.tgisinternal""",
}


def fingerprint(service: Service, schema: str) -> dict[str, list[str]]:
    """Describe everything in a schema, without the schema's name."""
    with service.superuser() as connection:
        connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
        return {
            what: sorted(str(row).replace(schema, "<schema>") for row in connection.execute(query, {"s": schema}))
            for what, query in _FINGERPRINTS.items()
        }


def reference(service: Service, metadata: MetaData) -> dict[str, list[str]]:
    """Describe what SQLAlchemy makes of `metadata` by itself, on a connection of its own."""
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA by_sqlalchemy")
        connection.exec_driver_sql("SET search_path = by_sqlalchemy")
        metadata.create_all(connection)
    engine.dispose()
    return fingerprint(service, "by_sqlalchemy")


def provision(service: Service, models: Any, **options: Any) -> TenantManager:
    manager = service.manager(models=models, **options)
    manager.init()
    return manager


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Decorated(TypeDecorator[Colour]):
    impl = Enum(Colour, name="colour")
    cache_ok = True


def rich() -> MetaData:
    """Return models with all that may go wrong when DDL is written down to be sent later."""
    metadata = MetaData()
    colour = Enum(Colour, name="colour", metadata=metadata)
    awkward = ENUM("it's", 'a "quote"', "50%", "%s", "%(x)s", "{x}", ":x", "a;b", "한글", "\\n", name="Awkward Labels")
    numbers = Sequence("Number Range", metadata=metadata, start=100, increment=5)
    person = Table(
        "user",  # a reserved word
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("select", String(20), nullable=False, server_default="it's 100%"),
        Column("Mixed Case", Text, comment="50% of :these {are} 'odd'; -- really"),
        Column("a%b", Integer, server_default=text("100 % 7")),
        Column("이름", Text, server_default="한림 :name \\ $$"),
        Column("colour", colour, nullable=False, server_default="red"),
        Column("awkward", awkward, server_default="50%"),
        Column("several", ARRAY(colour)),
        Column("number", Integer, numbers, server_default=numbers.next_value()),
        Column("document", JSONB, server_default=text("""'{"a": [1, 2]}'::jsonb""")),
        Column("key", UUID(as_uuid=True), server_default=func.gen_random_uuid()),
        Column("amount", Numeric(12, 2), Computed("number * 1.5")),
        CheckConstraint("\"select\" NOT LIKE '%;%' AND number % 2 >= 0", name="odd ; check"),
        UniqueConstraint("select", "Mixed Case", name="both"),
        comment="100% -- a 'comment' with ; and $$ and \\ and :colon",
    )
    Table(
        "Child",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),  # a serial
        Column("parent", ForeignKey("Child.id", ondelete="CASCADE")),
        Column("owner", BigInteger, ForeignKey(person.c.id), index=True),
        Column("colour", colour),  # the same type again
        Column("email", DOMAIN("email", Text, check=text("VALUE ~ '^[^@%]+@.+$'"), metadata=metadata)),
        Column("during", TSTZRANGE),
        ExcludeConstraint(("during", "&&"), using="gist", name="no overlap"),
    )
    # Each refers to the other.
    Table(
        "hen",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("egg", ForeignKey("egg.id", use_alter=True, name="hen_egg")),
    )
    Table("egg", metadata, Column("id", Integer, primary_key=True), Column("hen", ForeignKey("hen.id")))
    Index("partial", person.c.number, unique=True, postgresql_where=text("\"select\" LIKE 'a%'"))
    Index("by expression", func.lower(person.c["Mixed Case"]))
    Index("documents", person.c.document, postgresql_using="gin")
    return metadata


def add_ddl(metadata: MetaData, statement: str, moment: str = "after_create") -> None:
    event.listen(metadata, moment, DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:Computed column:sqlalchemy.exc.SAWarning")  # 2.1 says so before PostgreSQL 18
def test_a_tenant_gets_what_sqlalchemy_would_make(service: Service) -> None:
    metadata = rich()
    manager = provision(service, metadata)
    schemas = [manager.create(tenant_id).placement.schema_name for tenant_id in ("hallym", "korea")]
    expected = reference(service, metadata)
    assert all(len(rows) > 0 for what, rows in expected.items() if what not in ("functions", "triggers"))
    for schema in schemas:
        assert fingerprint(service, schema) == expected
    for tenant_id in ("hallym", "korea"):
        with manager.get_session(tenant_id) as session:
            session.execute(text("INSERT INTO \"user\" (several, awkward) VALUES ('{red,blue}', '한글')"))
            row = session.execute(text('SELECT "select", "이름", "a%b", number, amount, id FROM "user"')).one()
            assert tuple(row) == ("it's 100%", "한림 :name \\ $$", 2, 100, 150, 1)


def test_functions_triggers_and_views_of_the_models_events_are_made(service: Service) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, Identity(), primary_key=True), Column("shout", Text))
    add_ddl(
        metadata, "CREATE FUNCTION suffix() RETURNS text LANGUAGE sql AS $$ SELECT '50%; '::text $$", "before_create"
    )
    add_ddl(
        metadata,
        "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS $body$\n"
        "BEGIN -- a comment; with a semicolon\n  NEW.shout := upper(NEW.shout) || '%'; RETURN NEW;\nEND $body$",
    )
    add_ddl(metadata, "CREATE TRIGGER louder BEFORE INSERT ON thing FOR EACH ROW EXECUTE FUNCTION louder();")
    add_ddl(metadata, "CREATE VIEW loud AS SELECT shout FROM thing WHERE shout LIKE '%!%'")
    manager = provision(service, metadata)
    schema = manager.create("hallym").placement.schema_name
    assert fingerprint(service, schema) == reference(service, metadata)
    with manager.get_session("hallym") as session:
        session.execute(text("INSERT INTO thing (shout) VALUES ('hey!')"))
        assert session.execute(text("SELECT shout FROM loud")).scalar_one() == "HEY!%"


def test_a_statement_may_end_in_a_comment(service: Service) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, primary_key=True))
    add_ddl(metadata, "CREATE VIEW one AS SELECT 1 AS a -- the first")
    add_ddl(metadata, "CREATE VIEW two AS SELECT 2 AS a -- the second")
    schema = provision(service, metadata).create("hallym").placement.schema_name
    assert fingerprint(service, schema) == reference(service, metadata)


def test_types_of_two_tenants_are_two_types(service: Service) -> None:
    manager = provision(service, Base)
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    with service.superuser() as connection:
        row = connection.execute(
            "SELECT count(DISTINCT oid), count(DISTINCT typnamespace) FROM pg_type WHERE typname = 'mood'"
        ).fetchone()
    assert row == (2, 2)


def test_models_without_tables_make_an_empty_tenant(service: Service) -> None:
    manager = provision(service, MetaData())
    schema = manager.create("hallym").placement.schema_name
    assert all(rows == [] for rows in fingerprint(service, schema).values())
    with manager.get_session("hallym") as session:
        assert session.execute(text("SELECT current_user")).scalar_one() == schema


def test_many_threads_write_the_same_ddl() -> None:
    """SQLAlchemy 2.0 changes a MetaData while it writes it down, for each dialect anew."""
    for _ in range(20):
        metadata = rich()
        barrier = threading.Barrier(8)

        def write(metadata: MetaData = metadata, barrier: threading.Barrier = barrier) -> str:
            models = Models(metadata, shared_schemas=())
            dialect = create_engine("postgresql+psycopg://").dialect
            barrier.wait(10)
            return models.tenant_ddl(dialect)

        with ThreadPoolExecutor(8) as pool:
            written = {future.result() for future in [pool.submit(write) for _ in range(8)]}
        assert len(written) == 1
        assert "CREATE TABLE" in written.pop()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY ON thing (id)",
        "VACUUM",
        "CREATE TABLE public.stray (a int)",
        "SELECT 1/0",
        "GRANT ALL ON thing TO no_such_role",
        "SYNTAX ERROR",
    ],
)
def test_ddl_that_the_server_refuses_makes_no_tenant(service: Service, statement: str) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, primary_key=True))
    add_ddl(metadata, statement)
    manager = provision(service, metadata)
    before = {**server_state(service), "event": None}
    with pytest.raises(ProvisioningError) as caught:
        manager.create("hallym")
    assert caught.value.tenant_id == "hallym"
    assert {**server_state(service), "event": None} == before


# -- what is shared


def catalogue() -> MetaData:
    """Return models with shared tables and types, in two shared schemas, and a tenant's own that use them."""
    metadata = MetaData()
    grade = ENUM("gold", "50%", name="grade", schema="types", metadata=metadata)
    unused_by_tables = ENUM("a", "b", name="only_in_arrays", schema="types", metadata=metadata)
    Table(
        "country",
        metadata,
        Column("code", String(2), primary_key=True),
        Column("grade", grade, server_default="50%"),
        schema="reference",
        comment="100% shared",
    )
    Table(
        "city",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("country", ForeignKey("reference.country.code"), index=True),
        schema="reference",
    )
    Table(
        "visit",
        metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("city", ForeignKey("reference.city.id")),
        Column("grade", grade),
        Column("several", ARRAY(unused_by_tables)),
        Column("mood", Enum("calm", "eager", name="mood")),
    )
    return metadata


SHARED = {"shared_schemas": ("reference", "types")}


def test_shared_tables_and_types_are_made_once_whatever_the_number_of_tenants(service: Service) -> None:
    metadata = catalogue()
    manager = provision(service, metadata, **SHARED)
    schemas = [manager.create(tenant_id).placement.schema_name for tenant_id in ("hallym", "korea")]
    manager.init()
    with service.superuser() as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE tableowner = %s AND schemaname <> 'mt_paas' ORDER BY 1, 2",
            (f"{service.name}_owner",),
        ).fetchall()
        types = connection.execute(
            "SELECT typnamespace::regnamespace::text, typname FROM pg_type WHERE typtype = 'e' ORDER BY 1, 2"
        ).fetchall()
    assert tables == sorted([("reference", "city"), ("reference", "country"), *((s, "visit") for s in schemas)])
    assert types == sorted([("types", "grade"), ("types", "only_in_arrays"), *((s, "mood") for s in schemas)])
    with service.superuser() as connection:
        connection.execute("INSERT INTO reference.country VALUES ('kr'); INSERT INTO reference.city VALUES (1, 'kr')")
    for tenant_id in ("hallym", "korea"):
        with manager.get_session(tenant_id) as session:
            session.execute(text("INSERT INTO visit (city, grade, several, mood) VALUES (1, 'gold', '{a,b}', 'calm')"))
            joined = text("SELECT country, visit.grade FROM visit JOIN city ON city.id = visit.city")
            assert tuple(session.execute(joined).one()) == ("kr", "gold")
            # The shared table's column is of the very type that the tenant's is.
            country = metadata.tables["reference.country"]
            assert session.execute(select(country.c.code).where(country.c.grade == "50%")).scalar_one() == "kr"


def test_the_path_of_a_tenant_is_its_schema_the_shared_ones_and_pg_temp(service: Service) -> None:
    manager = provision(service, catalogue(), **SHARED)
    schema = manager.create("hallym").placement.schema_name
    with manager.get_session("hallym") as session:
        path = session.execute(text("SHOW search_path")).scalar_one()
    assert path.replace('"', "").replace(" ", "").split(",") == [schema, "reference", "types", "pg_temp"]


def test_a_tenants_table_goes_before_a_shared_one_of_the_same_name(service: Service) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, primary_key=True), schema="reference")
    Table("thing", metadata, Column("id", Integer, primary_key=True))
    manager = provision(service, metadata, shared_schemas=("reference",))
    manager.create("hallym")
    with service.superuser() as connection:
        connection.execute("INSERT INTO reference.thing VALUES (1), (2)")
    with manager.get_session("hallym") as session:
        assert session.execute(text("SELECT count(*) FROM thing")).scalar_one() == 0
        assert session.execute(text("SELECT count(*) FROM reference.thing")).scalar_one() == 2


def test_a_table_that_is_shared_later_is_made_by_the_next_init(service: Service) -> None:
    manager = provision(service, catalogue(), **SHARED)
    manager.create("hallym")
    metadata = catalogue()
    Table("language", metadata, Column("code", String(2), primary_key=True), schema="reference")
    provision(service, metadata, **SHARED)
    with manager.get_session("hallym") as session:
        assert session.execute(text("SELECT count(*) FROM language")).scalar_one() == 0


@pytest.mark.parametrize(
    "type_",
    [
        Enum(Colour, name="colour"),
        ARRAY(Enum(Colour, name="colour")),
        String().with_variant(ENUM(Colour, name="colour"), "postgresql"),
        DOMAIN("colour", Text),
        Decorated(),
    ],
    ids=["enum", "array", "variant", "domain", "decorated"],
)
def test_a_shared_table_needs_shared_types(type_: Any) -> None:
    """Else SQLAlchemy makes one per tenant, which hides the one that the shared table uses."""
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, primary_key=True), Column("hue", type_.copy()), schema="reference")
    with pytest.raises(ConfigurationError, match=r"'hue'.*'reference\.thing'.*'colour'.*schema=\"reference\""):
        Models(metadata, shared_schemas=("reference",))


def test_a_shared_table_needs_shared_sequences() -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, Sequence("numbers"), primary_key=True), schema="reference")
    with pytest.raises(ConfigurationError, match="sequence 'numbers'"):
        Models(metadata, shared_schemas=("reference",))


def test_a_shared_table_may_use_a_type_that_is_no_type_of_the_servers(service: Service) -> None:
    """Or one that somebody else makes."""
    metadata = MetaData()
    Table(
        "thing",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("colour", Enum(Colour, name="colour", native_enum=False)),
        Column("made", ENUM("a", name="int4", create_type=False)),
        schema="reference",
    )
    manager = provision(service, metadata, shared_schemas=("reference",))
    manager.create("hallym")
    with manager.get_session("hallym") as session:
        assert session.execute(text("SELECT count(colour) FROM thing")).scalar_one() == 0


def test_shared_tables_are_what_sqlalchemy_would_make(service: Service) -> None:
    """With names from a convention, a key both ways, and a sequence."""

    def conventional(schema: str) -> MetaData:
        metadata = MetaData(
            schema=schema, naming_convention={"fk": "the_%(column_0_name)s", "ix": "by_%(column_0_name)s"}
        )
        numbers = Sequence("numbers", metadata=metadata, start=7)
        Table(
            "hen",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("egg", ForeignKey(f"{schema}.egg.id", use_alter=True), index=True),
            Column("number", Integer, server_default=numbers.next_value()),
            Column("colour", Enum(Colour, name="colour", schema=schema)),
            Column("several", ARRAY(Enum("a", "b", name="letter", schema=schema))),
            comment="100%",
        )
        Table("egg", metadata, Column("id", Integer, primary_key=True), Column("hen", ForeignKey(f"{schema}.hen.id")))
        return metadata

    manager = provision(service, conventional("reference"), shared_schemas=("reference",))
    manager.create("hallym")
    manager.init()
    engine = create_engine(service.server.dsn(service.database).replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA by_sqlalchemy")
        conventional("by_sqlalchemy").create_all(connection)
    engine.dispose()
    assert fingerprint(service, "reference") == fingerprint(service, "by_sqlalchemy")


def test_a_shared_table_that_refers_to_a_tenants_is_refused(service: Service) -> None:
    """There is one of it, and as many of the other as there are tenants."""
    metadata = MetaData()
    Table("own", metadata, Column("id", Integer, primary_key=True))
    Table(
        "thing",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("own", ForeignKey("own.id")),
        schema="reference",
    )
    with pytest.raises(ConfigurationError, match=r"'reference\.thing'.*'own'"):
        service.manager(models=metadata, shared_schemas=("reference",))


def test_what_is_imported_after_the_manager_was_made_is_looked_at_too(service: Service) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("own", ForeignKey("own.id"), primary_key=True), schema="reference")
    manager = service.manager(models=metadata, shared_schemas=("reference",))
    before = server_state(service)
    with pytest.raises(ConfigurationError, match="own"):  # it may yet come
        manager.init()
    Table("own", metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match="has a foreign key to 'own'"):
        manager.init()
    assert server_state(service) == before


# -- what is refused


def test_strays_are_refused_by_name() -> None:
    metadata = catalogue()
    Table("lost", metadata, Column("id", Integer, primary_key=True), schema="nowhere")
    with pytest.raises(ConfigurationError, match="nowhere") as caught:
        Models(metadata, shared_schemas=("reference", "types"))
    assert "reference" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="public"):
        Models(MetaDataOf("public"), shared_schemas=())


def MetaDataOf(schema: str) -> MetaData:  # noqa: N802
    """Return models whose tables all have a schema, as ``MetaData(schema=...)`` gives them."""
    metadata = MetaData(schema=schema)
    Table("thing", metadata, Column("id", Integer, primary_key=True))
    return metadata


def test_a_type_of_an_undeclared_schema_is_refused(service: Service) -> None:
    """It would be looked for, or made, where no tenant may look."""
    metadata = MetaData()
    stray = ENUM("a", name="stray", schema="nowhere")
    Table("thing", metadata, Column("id", Integer, primary_key=True), Column("stray", stray))
    before = server_state(service)
    with pytest.raises(ConfigurationError, match="nowhere"):
        service.manager(models=metadata)
    assert server_state(service) == before


def test_a_type_of_an_undeclared_schema_that_no_table_uses_is_refused(service: Service) -> None:
    metadata = MetaData()
    ENUM("a", name="stray", schema="nowhere", metadata=metadata)
    manager = provision(service, metadata)
    before = {**server_state(service), "event": None}
    with pytest.raises(ConfigurationError, match="nowhere"):
        manager.create("hallym")
    assert {**server_state(service), "event": None} == before


@pytest.mark.parametrize("key", [None, "missing.id"], ids=["no type", "no table"])
def test_models_that_cannot_be_written_down_make_no_tenant(service: Service, key: str | None) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, primary_key=True), Column("a", *([ForeignKey(key)] if key else [])))
    provision(service, MetaData())
    manager = service.manager(models=metadata)
    before = {**server_state(service), "event": None}
    with pytest.raises(ConfigurationError, match="thing"):
        manager.create("hallym")
    assert {**server_state(service), "event": None} == before
    (event_,) = manager.events("hallym")
    assert (event_.action, event_.outcome) == ("create", "failed")


def test_shared_models_that_cannot_be_written_down_change_nothing(service: Service) -> None:
    metadata = MetaData()
    Table("thing", metadata, Column("id", Integer, primary_key=True), Column("a"), schema="reference")
    before = server_state(service)
    with pytest.raises(ConfigurationError, match="thing"):
        service.manager(models=metadata, shared_schemas=("reference",)).init()
    assert server_state(service) == before


@pytest.mark.parametrize("models", [None, 1, "tests.models:Base", object(), Table, [Base.metadata]])
def test_what_has_no_metadata_is_refused(models: Any) -> None:
    with pytest.raises(ConfigurationError, match="MetaData"):
        metadata_of(models)


def test_metadata_is_taken_from_a_base_or_as_it_is() -> None:
    class Other(DeclarativeBase):
        pass

    assert metadata_of(Other) is Other.metadata
    assert metadata_of(Other.metadata) is Other.metadata


def test_the_fingerprint_tells_two_tables_apart(service: Service) -> None:
    """The comparison above can fail."""
    with service.superuser() as connection:
        for schema, kind in (("one", "int"), ("two", "bigint")):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            connection.execute(
                sql.SQL("CREATE TABLE {}.t (a " + cast("Any", kind) + ")").format(sql.Identifier(schema))
            )
    assert fingerprint(service, "one") != fingerprint(service, "two")


def test_a_session_cannot_make_what_the_models_make(service: Service) -> None:
    """``create_all`` in a session is for the owner, and the server says so."""
    manager = provision(service, Base)
    manager.create("hallym")
    metadata = MetaData()
    Table("mine", metadata, Column("id", Integer, primary_key=True))
    with manager.get_session("hallym", commit=False) as session, pytest.raises((DBAPIError, psycopg.Error)) as caught:
        metadata.create_all(session.connection())
    error = getattr(caught.value, "orig", None) or caught.value
    assert isinstance(error, psycopg.errors.InsufficientPrivilege)
