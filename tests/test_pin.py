"""The pin's text: pure, exact, and closed to anything that this library did not write."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_paas_db.catalog.values import Placement, Resolution, TenantState
from mt_paas_db.errors import ConfigurationError, InvalidIdentifierError
from mt_paas_db.session.pin import PinOptions, make_pin
from mt_paas_db.session.pooler import PoolerProfile, parse_pgbouncer_version


def resolution(*, name: str = "svc_hallym_1", tenant_id: str = "hallym", shared: tuple[str, ...] = ()) -> Resolution:
    return Resolution(
        tenant_id=tenant_id,
        generation=1,
        state=TenantState.ACTIVE,
        state_reason=None,
        placement=Placement(
            cluster="main",
            credentials="main",
            cell="default",
            login_role="svc_app",
            schema_name=name,
            role_name=name,
        ),
        shared_schemas=shared,
        cache_bound_s=60,
    )


def test_one_message_begins_and_pins() -> None:
    pin = make_pin(resolution(shared=("ref", "types")), asked_as="hallym", options=PinOptions())

    assert pin.begin_message().decode().split(";") == [
        "BEGIN",
        'SET LOCAL ROLE "svc_hallym_1"',
        'SET LOCAL search_path="svc_hallym_1","ref","types",pg_temp',
        "SET LOCAL mt_paas.tenant='hallym'",
        "SELECT 1/pg_catalog.has_schema_privilege('svc_hallym_1','USAGE')::int",
    ]


def test_the_schema_is_verified_always_where_a_shared_one_could_answer_and_else_when_asked() -> None:
    alone = make_pin(resolution(), asked_as="hallym", options=PinOptions())
    beside_shared = make_pin(resolution(shared=("ref",)), asked_as="hallym", options=PinOptions())
    read_only = make_pin(resolution(), asked_as="hallym", options=PinOptions(read_only=True))

    assert b"has_schema_privilege" in alone.begin_message(verify=True)
    assert b"has_schema_privilege" not in alone.begin_message(verify=False)
    for pin in (beside_shared, read_only):
        assert b"has_schema_privilege" in pin.begin_message(verify=False)


def test_options_become_part_of_the_message() -> None:
    options = PinOptions(read_only=True, isolation_level="SERIALIZABLE", statement_timeout_s=1.5)

    message = make_pin(resolution(), asked_as="hallym", options=options).begin_message().decode()

    assert message.startswith("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;")
    assert ";SET LOCAL statement_timeout=1500;" in message


def test_public_is_never_on_the_path_and_pg_temp_is_last() -> None:
    message = make_pin(resolution(), asked_as="hallym", options=PinOptions()).begin_message().decode()

    path = message.split("search_path=")[1].split(";")[0]
    assert "public" not in path
    assert path.endswith(",pg_temp")


@given(st.text(min_size=1, max_size=80))
def test_a_catalog_that_was_tampered_with_reaches_no_sql(text: str) -> None:
    for made in (resolution(name=text), resolution(tenant_id=text), resolution(shared=(text,))):
        try:
            message = make_pin(made, asked_as="x", options=PinOptions()).begin_message().decode()
        except InvalidIdentifierError:
            continue
        # What passes is made of characters that mean nothing in SQL, quoted.
        assert set(text) <= set(f"{string.ascii_lowercase}{string.digits}-_")
        assert message.count(";") == 4


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), 3e6])
def test_timeouts_that_mean_nothing_are_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError):
        PinOptions(statement_timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("direct", PoolerProfile("direct")),
        ("pgbouncer", PoolerProfile("pgbouncer")),
        ("pgbouncer:1.18", PoolerProfile("pgbouncer", (1, 18))),
        ("pgbouncer:1.24.1", PoolerProfile("pgbouncer", (1, 24, 1))),
    ],
)
def test_a_pooler_setting_is_read(setting: str, expected: PoolerProfile) -> None:
    assert PoolerProfile.parse(setting) == expected


@pytest.mark.parametrize("setting", ["", "odyssey", "direct:1", "pgbouncer:new", "pgbouncer:"])
def test_another_pooler_setting_is_refused_or_has_no_version(setting: str) -> None:
    if setting == "pgbouncer:":
        assert PoolerProfile.parse(setting).version is None
        return
    with pytest.raises(ConfigurationError):
        PoolerProfile.parse(setting)


def test_behind_pgbouncer_no_driver_names_its_statements() -> None:
    profile = PoolerProfile.parse("pgbouncer:1.24")

    assert profile.connect_args("psycopg") == {"prepare_threshold": None}
    assert profile.connect_args("asyncpg") == {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    assert PoolerProfile.parse("direct").connect_args("asyncpg") == {}


def test_pgbouncers_answer_is_parsed() -> None:
    assert parse_pgbouncer_version("PgBouncer 1.18.0") == (1, 18, 0)
    with pytest.raises(ConfigurationError):
        parse_pgbouncer_version("PostgreSQL 15.1")
