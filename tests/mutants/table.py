"""The table of mutants: what is broken, which layers mask that and are peeled off, and how the audit names it."""

from __future__ import annotations

from dataclasses import dataclass

from mt_paas_db.isolation.attack import Attack, Weakness
from mt_paas_db.isolation.attacks.c_statements import TWO_PHASE
from mt_paas_db.isolation.attacks.d_catalogs import STATEMENT_STATISTICS
from mt_paas_db.isolation.catalogue import CATALOGUE

W = Weakness

ELSEWHERE = {TWO_PHASE, STATEMENT_STATISTICS}
"""Needs of attacks that are tried on a server of their own: tests/test_attacks_broken.py."""


def words(weakness: Weakness) -> str:
    """Return the names of what is broken, as in ``login path, inherit``."""
    return ", ".join((one.name or "").lower().replace("_", " ") for one in weakness)


@dataclass(frozen=True)
class Mutant:
    """One layer broken.

    Attributes:
        broken: What is broken; `Weakness` says how.
        rules: By which the audit names it. Each is silent where `broken` alone is whole again.
        peeled: The layers that mask it, broken too.
        keys: The attacks that must get through; where left out, those that the catalogue says are held by just these.
    """

    broken: Weakness
    rules: tuple[str, ...]
    peeled: Weakness = W.NONE
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in the table."""
        return words(self.broken) + (f" (peeled: {words(self.peeled)})" if self.peeled else "")

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """The attacks that must get through, and be held where `broken` alone is whole again."""
        both = self.broken | self.peeled
        return tuple(
            one
            for one in CATALOGUE
            if (one.key in self.keys if self.keys else one.broken == both) and not ELSEWHERE & set(one.needs)
        )


MUTANTS = (
    # -- the pin, and what a transaction is
    Mutant(W.SEARCH_PATH_ONLY, ("client-role",), peeled=W.NO_PATH | W.LOGIN_PATH),
    Mutant(W.NO_PATH, ("client-path",), peeled=W.SEARCH_PATH_ONLY | W.LOGIN_PATH),
    Mutant(W.PATH_WITHOUT_TEMP_LAST, ("client-path",), peeled=W.TEMP_ALLOWED),
    Mutant(W.PUBLIC_ON_PATH, ("client-path",), peeled=W.PUBLIC_TABLE),
    Mutant(W.LAZY_PIN, ("client-role", "client-savepoint"), peeled=W.INHERIT),
    Mutant(W.SWITCH_IN_TRANSACTION, ("client-open",)),
    Mutant(W.ROLE_BACK_BEFORE_COMMIT, ("client-commit",), peeled=W.INHERIT),
    Mutant(W.AUTOCOMMIT_ALLOWED, ("client-autocommit",), peeled=W.INHERIT | W.NO_CLIENT_GUARD),
    Mutant(W.TWO_PHASE_ALLOWED, ("client-two-phase",), peeled=W.INHERIT | W.NO_CLIENT_GUARD),
    Mutant(W.DEFAULT_TENANT, ("client-default",), peeled=W.NO_CLIENT_GUARD),
    Mutant(W.REFUSAL_SWALLOWED, ("client-refusal",), peeled=W.NO_CLIENT_GUARD | W.STRAY_GRANT),
    Mutant(W.NO_CLIENT_GUARD, ("client-guard",), peeled=W.REFUSAL_SWALLOWED | W.STRAY_GRANT),
    # -- what is left behind
    Mutant(W.NO_SCRUB, ("client-residue",)),
    Mutant(W.RAW_UNNOTED, ("client-residue",)),
    Mutant(W.RAW_UNNOTED, ("client-residue",), peeled=W.SEARCH_PATH_ONLY | W.NO_PATH),
    # -- names, sessions, objects
    Mutant(W.NAMES_FOLDED, ("client-names",)),
    Mutant(W.NAMES_CUT, ("client-names",)),
    Mutant(W.ANY_ENGINE, ("client-engine",)),
    Mutant(W.SESSION_KEPT, ("client-session",)),
    Mutant(W.NO_STAMP, ("client-objects",)),
    Mutant(W.NO_CONTEXT_CHECK, ("client-context",)),
    Mutant(W.CONTEXT_KEPT, ("client-context",)),
    # -- roles and rights
    Mutant(W.INHERIT, ("login-inherits",)),
    Mutant(W.LOGIN_SUPERUSER, ("role-powers",)),
    Mutant(W.LOGIN_PATH, ("login-path",), peeled=W.INHERIT),
    Mutant(W.LOGIN_PATH, ("login-path",), peeled=W.STRAY_GRANT),
    Mutant(W.STRAY_GRANT, ("public-rights",)),
    Mutant(W.SHARED_RIGHTS, ("public-rights",)),
    Mutant(W.SHARED_RIGHTS, ("public-rights",), peeled=W.NO_POLICY),
    Mutant(W.TEMP_ALLOWED, ("database-rights",), peeled=W.PATH_WITHOUT_TEMP_LAST),
    Mutant(W.PUBLIC_TABLE, ("public-schema", "public-object"), peeled=W.PUBLIC_ON_PATH),
    Mutant(W.CREATE_ALLOWED, ("tenant-create",)),
    Mutant(W.OWN_TABLES, ("object-owner",)),
    Mutant(W.PUBLIC_EXECUTE, ("default-execute",)),
    Mutant(W.DEFINER_WITHOUT_PATH, ("definer-path",), peeled=W.TEMP_ALLOWED),
    Mutant(W.MONITORING, ("predefined-role",)),
    Mutant(W.LARGE_OBJECTS_OPEN, ("large-object-compat",)),
    Mutant(W.REUSED_SCHEMA, ("large-object",)),
    # -- row policies
    Mutant(W.NO_POLICY, ("rls-off",)),
    Mutant(W.NO_POLICY, ("rls-off",), peeled=W.INHERIT),
    Mutant(W.NO_FORCE, ("rls-not-forced",)),
    Mutant(W.OPEN_POLICY, ("policy-open",)),
    Mutant(W.OPEN_POLICY, ("policy-open",), peeled=W.TEMP_ALLOWED),
    Mutant(W.CONTEXT_BY_SETTING, ("context-setting",)),
    Mutant(W.UNLED_KEYS, ("unique-not-led", "fk-not-led", "exclusion-not-led")),
    Mutant(W.UNLED_INDEX, ("index-not-led",), keys=("B1-hidden-values",)),
    Mutant(W.NO_GUARD, ("guard-missing",)),
    Mutant(W.GUARD_OF_ROLE, ("policy-role",), keys=("B3-guarded-rows",)),
)
