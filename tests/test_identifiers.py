"""Names: whatever the border lets in is a name that the server takes as it is, and nobody else's.

Long because of its lists of what must be refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from mt_paas_db.catalog.identifiers import (
    MAX_IDENTIFIER_BYTES,
    InstallationName,
    InstallationRoles,
    SqlName,
    TenantId,
    parse_installation,
    parse_name,
    parse_sql_name,
    parse_tenant_id,
    tenant_sql_name,
)
from mt_paas_db.errors import InvalidIdentifierError
from mt_paas_db.session.context import tenant_context
from tests.servers import PostgresServer

PARSERS: list[Callable[[object], str]] = [parse_tenant_id, parse_name, parse_installation, parse_sql_name]
ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"

# Every one of these must be refused as a tenant id, and most as anything at all.
HOSTILE = [
    "",
    " ",
    "hallym ",
    " hallym",
    "hallym\n",
    "hallym\r\n",
    "\nhallym",
    "hallym\x00",
    "hal\x00lym",
    "hallym\t",
    "Hallym",
    "HALLYM",
    'hallym"',
    '"hallym"',
    "hallym'",
    "hallym'; DROP SCHEMA public CASCADE; --",
    'hallym"; SET ROLE postgres; --',
    "hallym; select 1",
    "hallym,public",
    "hallym/*",
    "hallym$$",
    "hallym\\",
    "hallym%00",
    "hallym:name",
    "hallym{owner}",
    "../hallym",
    "hallym/..",
    "한림",
    "ｈａｌｌｙｍ",  # full-width letters
    "hаllym",  # a Cyrillic letter that looks like an a
    "hallym\u200b",  # zero width space
    "hallym\u00ad",  # soft hyphen
    "hallym‐korea",  # U+2010, a hyphen that is not one
    "hallym\u2028",
    "café",
    unicodedata.normalize("NFD", "café"),
    "ſeoul",  # long s: its upper case is an ASCII S
    "\u212aorea",  # Kelvin sign: its lower case is an ASCII k
    "hallym\u0131",
    "１２３",
    "٣",
    "-hallym",
    "hallym-",
    "hal--lym",
    "xn--hallym",
    "-",
    "--",
    "pg-catalog",
    "pg-",
    "pg",
    "public",
    "none",
    "default",
    "user",
    "current-user",
    "session-user",
    "current-role",
    "information-schema",
    "mt-paas",
    "localhost",
    "a" * 64,
    "a" * 10_000,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_tenant_id_refuses(value: str) -> None:
    with pytest.raises(InvalidIdentifierError) as caught:
        parse_tenant_id(value)
    assert caught.value.value == value
    assert caught.value.kind == "tenant id"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, 1, 1.5, b"hallym", ["hallym"], object(), True])
@pytest.mark.parametrize("parse", PARSERS)
def test_what_is_no_string_is_refused(parse: Callable[[object], str], value: object) -> None:
    with pytest.raises(InvalidIdentifierError, match="expected a string"):
        parse(value)


@pytest.mark.parametrize(
    "value",
    ["hallym", "a", "0", "9", "42", "seoul-national", "a-b-c-1", "x" * 63, "pgadmin", "publico", "my-pg-1"],
)
def test_a_tenant_id_accepts(value: str) -> None:
    assert parse_tenant_id(value) == value


@pytest.mark.parametrize("value", ["Hallym", "HALLYM", "Seoul-National"])
def test_upper_case_is_refused_with_a_hint_and_not_folded(value: str) -> None:
    with pytest.raises(InvalidIdentifierError, match=re.escape(f"did you mean {value.lower()!r}")):
        parse_tenant_id(value)


@pytest.mark.parametrize("value", ["\u212aorea", "HALL_YM", "Hallym "])
def test_no_hint_is_given_where_the_folded_text_is_refused_too(value: str) -> None:
    with pytest.raises(InvalidIdentifierError) as caught:
        parse_tenant_id(value)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["hallym", "chat.hallym.ac.kr", "tenant_hallym", "hallym_univ", "a", "a.b-c_d", "x" * 253]
)
def test_a_name_to_ask_for_may_be_a_host_name_or_an_old_name(value: str) -> None:
    assert parse_name(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "a.",
        ".a",
        "_a",
        "a_",
        "a\n",
        "Chat.hallym.ac.kr",
        "chat hallym",
        "a\x00b",
        "x" * 254,
        "한림.kr",
        "a:80",
        "a'b",
        'a"b',
        "a;b",
        "a/b",
    ],
)
def test_a_name_to_ask_for_refuses(value: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        parse_name(value)


@pytest.mark.parametrize("value", ["llm_chatbot", "a", "a1", "x" * 20])
def test_an_installation_accepts(value: str) -> None:
    assert parse_installation(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1a",
        "_a",
        "a_",
        "a__b",
        "llm-chatbot",
        "LLM",
        "pg_x",
        "pg",
        "mt_paas",
        "public",
        "information_schema",
        "x" * 21,
        "a\n",
        "a b",
        "앱",
        'a"b',
    ],
)
def test_an_installation_refuses(value: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        parse_installation(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "pg_temp",
        "pg_x",
        "public",
        "mt_paas",
        "information_schema",
        "none",
        "1a",
        "a-b",
        "A",
        "a\n",
        "x" * 64,
        "공유",
        '"a"',
        "a, b",
    ],
)
def test_a_shared_schema_refuses(value: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        parse_sql_name(value)


@given(st.text(max_size=80))
@example("hallym\n")
@example("ſeoul")
@example("\u212aorea")
@settings(max_examples=500)
def test_no_text_is_let_in_that_would_have_to_be_folded_or_trimmed(text: str) -> None:
    for parse in PARSERS:
        try:
            parsed = parse(text)
        except InvalidIdentifierError as error:
            assert error.value == text  # noqa: PT017  (both ways out are looked at)
            continue
        assert parsed == text
        assert parsed == parsed.strip().lower() == unicodedata.normalize("NFKC", parsed)
        assert re.fullmatch(r"[a-z0-9_.-]+", parsed)


def _accepted_by(parse: Callable[[object], str]) -> Callable[[str], bool]:
    def accepted(text: str) -> bool:
        try:
            parse(text)
        except InvalidIdentifierError:
            return False
        return True

    return accepted


_is_id = _accepted_by(parse_tenant_id)


def tenant_ids() -> st.SearchStrategy[TenantId]:
    """Ids that the parser takes, of all lengths, above all those where names are cut."""
    text = st.text(ID_ALPHABET, min_size=1, max_size=63) | st.text(ID_ALPHABET, min_size=40, max_size=63)
    return text.map(lambda t: re.sub("-+", "-", t).strip("-")).filter(_is_id).map(TenantId)


def installations() -> st.SearchStrategy[InstallationName]:
    """Installation names that the parser takes."""
    text = st.text("abcxyz0189_", max_size=19).map(lambda t: "i" + re.sub("_+", "_", t).rstrip("_"))
    return text.filter(_accepted_by(parse_installation)).map(InstallationName)


# A bigint sequence draws them.
GENERATIONS = st.integers(1, 50) | st.integers(1, 2**63 - 1)

Derive = Callable[[InstallationName, TenantId, int], str]


def assert_names_hold(
    derive: Derive, installation: InstallationName, first: tuple[TenantId, int], second: tuple[TenantId, int]
) -> None:
    """The property: two tenants of an installation, the same id or not, have two names fit for the server."""
    names = [derive(installation, *first), derive(installation, *second)]
    for name in names:
        assert len(name.encode()) <= MAX_IDENTIFIER_BYTES
        assert re.fullmatch(r"[a-z_][a-z0-9_]*", name)
        assert not name.startswith("pg_")
        assert name not in _roles(installation)
    if first[1] != second[1]:
        assert names[0] != names[1]


def _roles(installation: InstallationName) -> set[SqlName]:
    roles = InstallationRoles(installation)
    return {roles.owner, roles.group, roles.login, roles.reference}


def ours(installation: InstallationName, tenant_id: TenantId, generation: int) -> str:
    return tenant_sql_name(installation, tenant_id, generation)


def opaque(installation: InstallationName, tenant_id: TenantId, generation: int) -> str:
    return tenant_sql_name(installation, tenant_id, generation, opaque=True)


def naive(installation: InstallationName, tenant_id: TenantId, generation: int) -> str:
    """The broken twin: no generation, and the server's own cut at 63 bytes."""
    return f"{installation}_{tenant_id.replace('-', '_')}"[:MAX_IDENTIFIER_BYTES]


def uncut(installation: InstallationName, tenant_id: TenantId, generation: int) -> str:
    """Another broken twin: the generation stands where the server cuts it off."""
    return f"{installation}_{tenant_id.replace('-', '_')}_{generation}"


def prefix(installation: InstallationName, tenant_id: TenantId, generation: int) -> str:
    """A third: the generation without a separator runs into a slug that ends in a digit."""
    return f"{installation}_{tenant_id.replace('-', '_')[:20]}{generation}"


PAIRS = {"first": st.tuples(tenant_ids(), GENERATIONS), "second": st.tuples(tenant_ids(), GENERATIONS)}


@pytest.mark.parametrize("derive", [ours, opaque])
def test_derived_names_are_fit_and_never_shared_between_generations(derive: Derive) -> None:
    @given(installation=installations(), **PAIRS)
    @settings(max_examples=300, deadline=None)
    @example(
        installation=InstallationName("x" * 20),
        first=(TenantId("y" * 63), 2**63 - 1),
        second=(TenantId("y" * 63), 2**63 - 2),
    )
    @example(installation=InstallationName("a"), first=(TenantId("b-1"), 2), second=(TenantId("b"), 12))
    @example(installation=InstallationName("a"), first=(TenantId("b-1"), 1), second=(TenantId("b"), 11))
    def holds(installation: InstallationName, first: tuple[TenantId, int], second: tuple[TenantId, int]) -> None:
        assert_names_hold(derive, installation, first, second)

    holds()


@pytest.mark.parametrize("derive", [naive, uncut, prefix])
def test_the_property_finds_a_broken_derivation(derive: Derive) -> None:
    @given(installation=installations(), **PAIRS)
    @settings(max_examples=300, database=None, deadline=None)
    @example(installation=InstallationName("a"), first=(TenantId("b-1"), 1), second=(TenantId("b-1"), 2))
    @example(installation=InstallationName("x" * 20), first=(TenantId("y" * 63), 1), second=(TenantId("y" * 63), 2))
    @example(installation=InstallationName("a"), first=(TenantId("b1"), 1), second=(TenantId("b"), 11))
    def holds(installation: InstallationName, first: tuple[TenantId, int], second: tuple[TenantId, int]) -> None:
        assert_names_hold(derive, installation, first, second)

    with pytest.raises((AssertionError, ExceptionGroup)):
        holds()


def test_an_opaque_name_says_nothing_of_the_tenant() -> None:
    installation = parse_installation("chat")
    names = {tenant_sql_name(installation, parse_tenant_id("hallym"), 7, opaque=True) for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"chat_[0-9a-f]{12}_7", name) for name in names)


@pytest.mark.parametrize("generation", [0, -1, -(2**63)])
def test_a_generation_is_positive(generation: int) -> None:
    with pytest.raises(InvalidIdentifierError, match="positive"):
        tenant_sql_name(parse_installation("chat"), parse_tenant_id("hallym"), generation)


@given(tenant_ids())
@settings(max_examples=300)
def test_an_id_is_a_host_names_label_and_a_name_to_ask_for(tenant_id: TenantId) -> None:
    # RFC 1123, 2.1: letters, digits and hyphens, no hyphen at an end, at most 63.
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", tenant_id)
    assert tenant_id.encode("idna").decode() == tenant_id
    assert str(parse_name(tenant_id)) == tenant_id
    assert parse_name(f"{tenant_id}.example.org") == f"{tenant_id}.example.org"
    with tenant_context(tenant_id) as entered:
        assert entered == tenant_id


@given(text=st.text(ID_ALPHABET + "_.", min_size=1, max_size=70))
@settings(max_examples=300)
def test_an_accepted_id_is_never_one_of_the_reserved(text: str) -> None:
    assume(_is_id(text))
    assert not text.startswith("pg-")
    assert "--" not in text


@pytest.fixture(scope="module")
def superuser(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def notices(superuser: psycopg.Connection[Any]) -> list[str]:
    heard: list[str] = []
    superuser.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
    return heard


def _name_on_server(connection: psycopg.Connection[Any], name: str) -> tuple[list[str], list[str]]:
    """Make a role and a schema of this name, and return how the server calls them."""
    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        roles = connection.execute("SELECT rolname FROM pg_roles WHERE oid >= 16384 ORDER BY oid DESC LIMIT 1")
        schemas = connection.execute("SELECT nspname FROM pg_namespace ORDER BY oid DESC LIMIT 1")
        return [r[0] for r in roles], [r[0] for r in schemas]


@given(installation=installations(), tenant_id=tenant_ids(), generation=GENERATIONS)
@example(installation=InstallationName("x" * 20), tenant_id=TenantId("y" * 63), generation=2**63 - 1)
@example(installation=InstallationName("user"), tenant_id=TenantId("select"), generation=1)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_server_calls_a_tenant_exactly_so(
    superuser: psycopg.Connection[Any],
    notices: list[str],
    installation: InstallationName,
    tenant_id: TenantId,
    generation: int,
) -> None:
    name = tenant_sql_name(installation, tenant_id, generation)
    assert _name_on_server(superuser, name) == ([name], [name])
    assert notices == []
    # No quoting needed for its letters: folding gives the same name back.
    assert superuser.execute("SELECT lower(%s) = %s", (name, name)).fetchone() == (True,)


def test_the_server_cuts_a_name_of_64_bytes_and_says_so(superuser: psycopg.Connection[Any], notices: list[str]) -> None:
    """The test above can fail: this is what it listens for."""
    name = "t" * 64
    assert _name_on_server(superuser, name) == ([name[:63]], [name[:63]])
    assert any("truncated" in line for line in notices)
    notices.clear()


@given(value=st.from_regex(r"[a-z_][a-z0-9_]{0,62}", fullmatch=True))
@example(value="select")
@example(value="user")
@example(value="_")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_server_calls_a_shared_schema_exactly_so(
    superuser: psycopg.Connection[Any], notices: list[str], value: str
) -> None:
    try:
        name = parse_sql_name(value)
    except InvalidIdentifierError:
        assume(False)
    assert _name_on_server(superuser, name) == ([name], [name])
    assert notices == []
