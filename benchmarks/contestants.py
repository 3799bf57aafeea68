"""Whom the isolation benchmark attacks: versions, and the configuration that each one's documentation shows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from benchmarks.django_peer import VERSIONS as DJANGO
from benchmarks.peers import PEERS, is_made, python_with
from benchmarks.tier_ground import tier_options, tiers_here

OURS = "mt_paas_db"


@dataclass(frozen=True)
class Contestant:
    """One column of the table.

    Attributes:
        name: Its heading.
        subject: ``module:class`` in `benchmarks.attacked`.
        packages: Versions by distribution, for its environment; empty for what needs none besides this process's own.
        driver: For the options that a pooler needs.
        configuration: What was done, in one sentence for the page.
        options: Of the subject.
        words: Powers of its login role.
        without_pooler: Why it is not attacked behind PgBouncer; empty where it is.
    """

    name: str
    subject: str
    packages: Mapping[str, str]
    driver: str
    configuration: str
    options: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    without_pooler: str = ""

    def python(self) -> str:
        """Return its interpreter. Raises `LookupError` where its packages cannot be had."""
        return str(python_with(self._wanted)) if self.packages else sys.executable

    @property
    def made(self) -> bool:
        """Whether its environment is there already."""
        return not self.packages or is_made(self._wanted)

    @property
    def _wanted(self) -> list[str]:
        return [f"{name}=={version}" for name, version in self.packages.items()]


def contestants() -> list[Contestant]:
    """Return all, ours first."""
    base = {"sqlalchemy[asyncio]": metadata.version("sqlalchemy"), "psycopg[binary]": metadata.version("psycopg")}
    fastapi = {"fastapi-tenancy[postgres]": PEERS["fastapi-tenancy"], **base, "asyncpg": "0.31.0"}
    return [
        *(_ours(tier, guards=guards) for tier in tiers_here() for guards in (False, True)),
        Contestant(
            "fastapi-tenancy, schema", "fastapi_tenancy:SchemaIsolation", fastapi, "asyncpg",
            '`isolation_strategy="schema"`, sessions by `isolation_provider.get_session`; `enable_soft_delete=False`,'
            " so that a tenant's data can be deleted",
        ),
        Contestant(
            "fastapi-tenancy, rls", "fastapi_tenancy:RowIsolation", fastapi, "asyncpg",
            '`isolation_strategy="rls"`, the policy of its documentation, enabled and forced',
        ),
        Contestant(
            "sqlalchemy-tenants", "sqlalchemy_tenants:SqlalchemyTenants",
            {"sqlalchemy-tenants": PEERS["sqlalchemy-tenants"], **base}, "psycopg",
            "`@with_rls`, a role for each tenant, the function and the policy of its Alembic hook; the login owns the"
            " table and has CREATEROLE, which `create_tenant` needs", words="CREATEROLE",
        ),
        Contestant(
            "django-tenants", "django_tenants:DjangoTenants", {**DJANGO, **base}, "psycopg",
            "`django_tenants.postgresql_backend`, `TenantSyncRouter`, work in `schema_context`; `CONN_MAX_AGE=None`, so"
            " that a connection outlives a request, as in the others' pools; `TENANT_LIMIT_SET_CALLS` off",
        ),
        Contestant(
            "SQLAlchemy, SET search_path", "plain:Plain", {}, "psycopg",
            'a schema for each tenant, `SET search_path = "tenant"` after each begin, the name quoted, `public` not'
            " on the path",
        ),
    ]  # fmt: skip


def _ours(tier: str, *, guards: bool) -> Contestant:
    words = {
        "role": "a role and a schema for each tenant; sessions log in as a role that has no rights of its own",
        "login": "the same, and each tenant's sessions log in as a role of its own",
    }
    return Contestant(
        f"{OURS}, tier {tier}" + (", guards" if guards else ""), "ours:Ours", {}, "psycopg",
        words[tier] + ("; `guards=True`: restrictive row policies on each tenant's tables" if guards else ""),
        tier_options(tier, guards=guards), "CREATEROLE",
        "" if tier == "role" else "the pooler would have to know each tenant's password",
    )  # fmt: skip
