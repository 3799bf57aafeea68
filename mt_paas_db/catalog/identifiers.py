"""Names: parsed once at the border, and derived from there; nothing else makes an SQL name.

A *tenant id* is public and global (``hallym``); a *name* is what a caller may use to ask for a tenant:
its id, or an alias such as a host name or an old name; an *installation* is one service's use of the
library. Role and schema names derive from installation, id and generation, and are never parsed back:
the catalog stores them.

PostgreSQL cuts identifiers at 63 *bytes* without an error (NAMEDATALEN, "Identifiers and Key Words" in
its manual), so two long names can be one. All names here are ASCII, and their length is bounded.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from mt_paas_db.errors import InvalidIdentifierError

TenantId = NewType("TenantId", str)
"""A validated tenant id: 1 to 63 characters, usable as a host name's label (RFC 1123)."""

TenantName = NewType("TenantName", str)
"""A validated id or alias: what ``tenant_session`` takes."""

InstallationName = NewType("InstallationName", str)
"""A validated installation name: 1 to 20 characters of ``a-z``, ``0-9`` and ``_``."""

SqlName = NewType("SqlName", str)
"""A validated SQL identifier of at most 63 bytes, lower case ASCII; still to be quoted where used."""

MAX_IDENTIFIER_BYTES = 63


class Tier(StrEnum):
    """What keeps a tenant apart: a role that a shared login takes, or a login and connections of its own."""

    ROLE = "role"
    LOGIN = "login"


_TENANT_ID = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?!-))*(?<!-)")
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_INSTALLATION = re.compile(r"[a-z](?:[a-z0-9_]*[a-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9_.-]+")
_SQL_NAME = re.compile(r"[a-z_][a-z0-9_]*")

# Words that lead to another revision with each release.
_MOVING = frozenset({"head", "heads", "base", "current"})

# Words that PostgreSQL reads as something else where a role or schema is expected, our own control
# schema, and the suffixes of the installation's own roles.
_RESERVED = frozenset(
    {"public", "none", "default", "user", "current-user", "current-role", "session-user", "information-schema"}
    | {"pg", "mt-paas", "owner", "tenant", "app", "localhost"}
)


def parse_tenant_id(value: object) -> TenantId:
    """Return `value` as a tenant id, or raise `InvalidIdentifierError` saying why it is none.

    Allowed: 1 to 63 characters of ``a-z``, ``0-9`` and single hyphens inside, not a reserved word and
    not beginning with ``pg-``. Nothing is folded or trimmed: a caller that sends ``Hallym`` has a bug
    that folding would hide.
    """
    text = _plain_text("tenant id", value, max_length=63)
    if not _TENANT_ID.fullmatch(text):
        hint = f"; did you mean {text.lower()!r}?" if _TENANT_ID.fullmatch(text.lower()) else ""
        raise InvalidIdentifierError(
            "tenant id", value, f"use a-z, 0-9 and single hyphens between them, as in a host name{hint}"
        )
    if text in _RESERVED or text.startswith("pg-"):
        raise InvalidIdentifierError("tenant id", value, "the word is reserved")
    return TenantId(text)


def parse_name(value: object) -> TenantName:
    """Return `value` as a name to ask for: an id, a host name (``chat.hallym.ac.kr``) or an old name
    (``tenant_hallym``); or raise `InvalidIdentifierError`.

    Allowed: 1 to 253 characters of ``a-z``, ``0-9``, ``.``, ``_`` and ``-``, beginning and ending with a
    letter or digit.
    """
    text = _plain_text("tenant name", value, max_length=253)
    if not _ALIAS.fullmatch(text):
        hint = f"; did you mean {text.lower()!r}?" if _ALIAS.fullmatch(text.lower()) else ""
        raise InvalidIdentifierError(
            "tenant name", value, f"use a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends{hint}"
        )
    return TenantName(text)


def parse_installation(value: object) -> InstallationName:
    """Return `value` as an installation name, or raise `InvalidIdentifierError`.

    Allowed: 1 to 20 characters of ``a-z``, ``0-9`` and ``_``, beginning with a letter, not beginning with
    ``pg_``: it stands at the head of every role and schema name.
    """
    text = _plain_text("installation name", value, max_length=20)
    if not _INSTALLATION.fullmatch(text) or "__" in text:
        raise InvalidIdentifierError(
            "installation name",
            value,
            "use a-z, 0-9 and single underscores, a letter first, as in llm_chatbot",
        )
    if text.startswith("pg_") or text in {"pg", "mt_paas", "public", "information_schema"}:
        raise InvalidIdentifierError("installation name", value, "the word is reserved")
    return InstallationName(text)


def parse_sql_name(value: object) -> SqlName:
    """Return `value` as the name of a shared schema or a role, or raise `InvalidIdentifierError`.

    Allowed: 1 to 63 characters of ``a-z``, ``0-9`` and ``_``, no digit first, not beginning with ``pg_``.
    """
    text = _plain_text("SQL name", value, max_length=MAX_IDENTIFIER_BYTES)
    if not _SQL_NAME.fullmatch(text):
        raise InvalidIdentifierError("SQL name", value, "use a-z, 0-9 and '_', a letter first")
    if text.startswith("pg_") or text in {"public", "mt_paas", "information_schema", "none"}:
        raise InvalidIdentifierError("SQL name", value, "the word is reserved")
    return SqlName(text)


def parse_tier(value: object) -> Tier:
    """Return `value` as a tier of trust. Raises `InvalidIdentifierError` for what is none."""
    try:
        return Tier(value)  # type: ignore[arg-type]
    except ValueError:
        raise InvalidIdentifierError("tier", value, f"there are {' and '.join(Tier)}") from None


def parse_revisions(value: object) -> tuple[str, ...]:
    """Return one id of an Alembic revision, or those of a list, tuple or set: each once, sorted.

    Raises `InvalidIdentifierError` for what is none. Allowed: whole ids of letters, digits, ``_``, ``.`` and ``-``,
    but not ``head`` and other words that mean another revision with each release.
    """
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple | set | frozenset):
        raise InvalidIdentifierError("revision id", value, "use a text, or a list of them")
    for revision in listed:
        if not isinstance(revision, str):
            raise InvalidIdentifierError("revision id", revision, "it is no text; put it in quotes")
        if not _REVISION.fullmatch(revision):
            raise InvalidIdentifierError("revision id", revision, "use letters, digits, '_', '.' and '-'")
        if revision in _MOVING:
            raise InvalidIdentifierError(
                "revision id", revision, "it moves with each release; name the revision by its id"
            )
    return tuple(sorted(set(listed)))


def parse_display_name(value: object) -> str:
    """Return `value` as a display name, or raise `InvalidIdentifierError`.

    Any Unicode of 1 to 200 characters that a person can read: no control characters, no lone surrogates.
    """
    return parse_line("display name", value, max_length=200)


def parse_line(kind: str, value: object, *, max_length: int) -> str:
    """Return `value` as a line that a person can read, or raise `InvalidIdentifierError` that calls it `kind`."""
    if not isinstance(value, str) or not 1 <= len(value) <= max_length:
        raise InvalidIdentifierError(kind, value, f"use a text of 1 to {max_length} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise InvalidIdentifierError(kind, value, "it contains characters that cannot be shown")
    return value


def _plain_text(kind: str, value: object, *, max_length: int) -> str:
    if not isinstance(value, str):
        raise InvalidIdentifierError(kind, value, f"expected a string, got {type(value).__name__}")
    if not value:
        raise InvalidIdentifierError(kind, value, "it is empty")
    if not value.isascii():
        raise InvalidIdentifierError(kind, value, "only ASCII is allowed; use the display name for the rest")
    if len(value) > max_length:
        raise InvalidIdentifierError(kind, value, f"it has {len(value)} characters, at most {max_length} are allowed")
    return value


def tenant_sql_name(
    installation: InstallationName, tenant_id: TenantId, generation: int, *, opaque: bool = False
) -> SqlName:
    """Return the name that the tenant's role and schema share: ``<installation>_<slug>_<generation>``.

    The generation is drawn from a sequence that never repeats within the installation, so the name is
    new for ever, whatever happens to the slug: hyphens become underscores, and the slug is cut where
    63 bytes would be exceeded. `opaque` puts 48 random bits in the slug's place, for those who do not
    want customers' names in the system catalogs (they cannot be hidden from other roles there).

    Two installations on one server can derive the same name (``a`` + ``b-c`` and ``a_b`` + ``c``);
    the server's unique index on role names then refuses the second, and the caller draws a new generation.
    """
    if generation < 1:
        raise InvalidIdentifierError("generation", generation, "it must be positive")
    slug = secrets.token_hex(6) if opaque else tenant_id.replace("-", "_")
    suffix = f"_{generation}"
    room = MAX_IDENTIFIER_BYTES - len(installation) - len(suffix) - 1
    return SqlName(f"{installation}_{slug[:room]}{suffix}")


@dataclass(frozen=True, slots=True)
class InstallationRoles:
    """The cluster-wide roles of one installation (roles are shared by all databases of a server)."""

    installation: InstallationName

    @property
    def owner(self) -> SqlName:
        """Owns every object and runs DDL; cannot log in; never used by sessions."""
        return SqlName(f"{self.installation}_owner")

    @property
    def group(self) -> SqlName:
        """Carries the grants on shared tables; every tenant role is a member."""
        return SqlName(f"{self.installation}_tenant")

    @property
    def login(self) -> SqlName:
        """What the pool of the first cell connects as; has no rights of its own."""
        return SqlName(f"{self.installation}_app")

    def another_login(self, number: int) -> SqlName:
        """What the pool of another cell, or of one tenant of tier `login`, connects as.

        `number` is drawn from the generations, so that no login ever has the name of a former one. No tenant's role can
        be called so (``app``).
        """
        return SqlName(f"{self.login}_{number}")

    @property
    def pooler(self) -> SqlName:
        """Whom PgBouncer logs in as to look logins up; may call one function, and nothing else."""
        return SqlName(f"{self.installation}_pooler")

    @property
    def reference(self) -> SqlName:
        """A role and schema as a tenant's, that migrations come to and tenants are compared with; never sold."""
        return SqlName(f"{self.installation}_reference")
