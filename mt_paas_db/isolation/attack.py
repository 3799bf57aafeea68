"""What an attack is, as a value: what it does, what each tier promises, what it needs, and how it is carried out.

An attack is a plain function written once for a blocking `Channel`; the channel carries it to every driver and
route. Its docstring says what the attacker, or the bug, does. It returns nothing: what it sees goes through the
channel's observer, which knows everybody's canaries.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mt_paas_db.isolation.channel import Channel

Tier = Literal["role", "login"]
"""As `mt_paas_db.catalog.identifiers.Tier` spells them."""

TIERS: tuple[Tier, ...] = ("role", "login")

RUN_TIERS: tuple[Tier, ...] = TIERS
"""Those that an installation can have, and that are therefore carried out and documented."""

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "A": "Context switch and role escape",
        "B": "Row policies, shared tables and oracles",
        "C": "Session residue, pools and prepared statements",
        "D": "Catalogs and the server's facilities",
        "E": "Ownership, definitions and migrations",
        "F": "Identifiers and lifecycle",
        "G": "SQLAlchemy, context variables and caches",
        "CVE": "Published vulnerabilities",
        "M": "Sequences of steps",
    }
)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a tier promises of an attack: that it is held, or why that is not promised."""

    held: bool
    because: str = ""

    def __str__(self) -> str:
        return "held" if self.held else f"not promised: {self.because}"


HELD = Promise(held=True)


def not_promised(because: str) -> Promise:
    """Return a promise that is none. `because` is what the tier lacks, in one sentence without a full stop."""
    return Promise(held=False, because=because)


class Weakness(enum.Flag):
    """A deliberate weakening, in which an attack is known to leak; several can be combined with ``|``.

    They are carried out in this library's own tests only. Here they say what holds an attack: take it away, and
    the attack gets through.
    """

    NONE = 0
    """Nothing is weakened: the attack gets through as things are, and no promise says otherwise."""
    INHERIT = enum.auto()
    """The login role has the rights of all tenants' roles without taking any."""
    SEARCH_PATH_ONLY = enum.auto()
    """The pin takes no role: the login may do everything, and only the path tells tenants apart."""
    NO_CLIENT_GUARD = enum.auto()
    """The client sends a statement without looking at the connection first."""
    NO_SCRUB = enum.auto()
    """COMMIT and ROLLBACK are sent bare: what a session left on the connection stays there."""
    RAW_UNNOTED = enum.auto()
    """Nobody notes who takes the DBAPI connection from below a session."""
    SESSION_LEVEL = enum.auto()
    """The pin is made by SET instead of SET LOCAL, and outlives its transaction."""
    NO_PATH = enum.auto()
    """The pin sets no path: the connection's own decides."""
    PATH_WITHOUT_TEMP_LAST = enum.auto()
    """The path does not name pg_temp, which is then searched first."""
    TEMP_ALLOWED = enum.auto()
    """Everybody may make temporary tables."""
    STRAY_GRANT = enum.auto()
    """The victim's schema and tables are granted to PUBLIC."""
    LOGIN_SUPERUSER = enum.auto()
    """The login role is a superuser."""
    LOGIN_PATH = enum.auto()
    """The login role's default path leads into the victim's schema."""
    LAZY_PIN = enum.auto()
    """The pin is sent before the first statement instead of with BEGIN, so that a savepoint can stand before it."""
    SWITCH_IN_TRANSACTION = enum.auto()
    """A transaction is not ended with its session; the next tenant's pin is sent into it."""
    ROLE_BACK_BEFORE_COMMIT = enum.auto()
    """The role is given back before COMMIT, which then runs without it."""
    TWO_PHASE_ALLOWED = enum.auto()
    """Two-phase transactions begin without a pin."""
    DEFINER_WITHOUT_PATH = enum.auto()
    """A function that runs with its owner's rights looks its tables up on the caller's path."""
    NAMES_FOLDED = enum.auto()
    """Names from outside are folded and normalised before they are looked up, as if that were kind."""
    NAMES_CUT = enum.auto()
    """Long ids are cut before they are looked up, so that two of them lead to one tenant."""
    REUSED_SCHEMA = enum.auto()
    """A tenant that is created anew under an old id gets what the earlier one has left."""
    CREATE_ALLOWED = enum.auto()
    """Tenants may create functions in their own schema."""
    OWN_TABLES = enum.auto()
    """A tenant's tables belong to its own role."""
    PUBLIC_EXECUTE = enum.auto()
    """Everybody may execute what functions the owner role makes."""
    OPEN_POLICY = enum.auto()
    """The policy of tables that tenants share lets every row through."""
    ANY_ENGINE = enum.auto()
    """A session runs on whatever engine a statement asks for."""
    REFUSAL_SWALLOWED = enum.auto()
    """A transaction whose pin was refused begins without it."""
    SESSION_KEPT = enum.auto()
    """One session serves all tenants in turn, with the objects in it."""
    NO_STAMP = enum.auto()
    """Objects do not know whose they are."""
    NO_CONTEXT_CHECK = enum.auto()
    """Nobody compares a session's tenant with the one in force."""
    CONTEXT_KEPT = enum.auto()
    """The tenant in force stays so after its block."""
    NO_POLICY = enum.auto()
    """Shared tables have no row security."""
    NO_FORCE = enum.auto()
    """The owner of shared tables is not under their policies."""
    CONTEXT_BY_SETTING = enum.auto()
    """Policies believe the setting mt_paas.tenant, which everybody may set."""
    UNLED_KEYS = enum.auto()
    """Keys, foreign keys and exclusions of shared tables do not lead with the tenant column."""
    SHARED_RIGHTS = enum.auto()
    """Tenants have all rights on shared tables, partitions included."""
    NO_GUARD = enum.auto()
    """Tenants' own tables have no guard."""
    MONITORING = enum.auto()
    """Tenants' roles may read all statistics (pg_read_all_stats)."""
    LARGE_OBJECTS_OPEN = enum.auto()
    """Large objects are read without asking for rights (lo_compat_privileges)."""
    AUTOCOMMIT_ALLOWED = enum.auto()
    """A connection may be told to autocommit."""
    DEFAULT_TENANT = enum.auto()
    """Where no tenant is named, the last one who was is meant."""
    PUBLIC_ON_PATH = enum.auto()
    """The path names the schema public behind the tenant's own."""
    PUBLIC_TABLE = enum.auto()
    """The schema public is open, and a table with rows of the victim stands in it."""
    GUARD_OF_ROLE = enum.auto()
    """The guards of the victim's tables hold for its own role alone, not for everybody."""
    UNLED_INDEX = enum.auto()
    """An index of a shared table does not lead with the tenant column."""


@dataclass(frozen=True, slots=True)
class Need:
    """Something that an attack cannot do without. A deployment may switch it off with a reason.

    Attributes:
        name: What a deployment calls it in `requirements`.
        lacking: Says why a channel does not have it; None where it has.
    """

    name: str
    lacking: Callable[[Channel], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One entry of the catalogue. Made by the `attack` decorator.

    Attributes:
        id: The channel's stable number, ``A1`` to ``G9``, or a CVE's. Several attacks may share one.
        name: Tells the attacks of one id apart: lower case, hyphens.
        title: One line for a table.
        does: What the attacker or the bug does.
        sql: The SQL at its heart, for the page; ``{target}`` is the attacked tenant's schema.
        why_held: What holds it.
        remains: What it may still do or learn where it is held; empty for nothing.
        source: Where it can be read up.
        promises: What each tier promises.
        broken: The weakening in which it leaks.
        needs: What it cannot do without.
        carry_out: The attack itself.
    """

    id: str
    name: str
    title: str
    does: str
    sql: str
    why_held: str
    remains: str
    source: str
    promises: Mapping[Tier, Promise]
    broken: Weakness
    needs: tuple[Need, ...]
    carry_out: Callable[[Channel], None]

    @property
    def key(self) -> str:
        """The unique name, as in ``A1-qualified-names``."""
        return f"{self.id}-{self.name}"

    @property
    def family(self) -> str:
        """The key in `FAMILIES`."""
        return "CVE" if self.id.startswith("CVE") else self.id[0]


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """An id of the catalogue that is no attack on this library, and why."""

    id: str
    title: str
    because: str

    @property
    def family(self) -> str:
        """The key in `FAMILIES`."""
        return "CVE" if self.id.startswith("CVE") else self.id[0]


def attack(
    id_: str,
    name: str,
    *,
    title: str,
    sql: str,
    why_held: str,
    source: str,
    broken: Weakness,
    remains: str = "",
    role: Promise = HELD,
    login: Promise = HELD,
    needs: tuple[Need, ...] = (),
) -> Callable[[Callable[[Channel], None]], Attack]:
    """Make the decorated function an `Attack`; its docstring becomes `Attack.does`."""

    def make(carry_out: Callable[[Channel], None]) -> Attack:
        return Attack(
            id=id_,
            name=name,
            title=title,
            does=inspect.cleandoc(carry_out.__doc__ or ""),
            sql=inspect.cleandoc(sql),
            why_held=inspect.cleandoc(why_held),
            remains=inspect.cleandoc(remains),
            source=inspect.cleandoc(source),
            promises=MappingProxyType({"role": role, "login": login}),
            broken=broken,
            needs=needs,
            carry_out=carry_out,
        )

    return make
