"""The ground an attack runs on: tenants of the suite's own, filled with canaries, and gone afterwards.

Four stories are told on it: an *attacker*, a *victim*, and an *heir* whose id belonged to a *former* tenant that
was deleted. Their ids hold the run's number, and the run holds an advisory lock for as long as it lasts; a later
run that finds such tenants and gets their lock knows that the earlier one was killed, and removes them. A tenant
without both marks, the form of the id and the display name, is never touched.
"""

# ruff: noqa: S608  # names and values in composed SQL pass quoted() and sql.Literal

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg import sql
from sqlalchemy import Connection, MetaData, NullPool, create_engine, func, select
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.credentials import cluster_url
from mt_paas_db.catalog.identifiers import InstallationRoles
from mt_paas_db.catalog.queries import query
from mt_paas_db.catalog.values import Tenant, TenantState
from mt_paas_db.core.manager import TenantManager
from mt_paas_db.core.placement import make_room
from mt_paas_db.errors import MissingRightsError, PlacementChangedError, TenancyError
from mt_paas_db.isolation.attack import Tier
from mt_paas_db.isolation.rows import Canaries, Canary
from mt_paas_db.isolation.shared import (
    SharedProbe,
    SharedTable,
    declared_tables,
    delete_rows,
    drop_probe,
    make_probe,
    runs_with_probes,
    shared_schemas,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ACTOR = "isolation suite"
_DISPLAY_NAME = "mt_paas_db isolation suite"
_OURS = re.compile(r"mt-isolation-([0-9a-f]{8})-[a-z0-9-]+")

LABELS = ("attacker", "victim", "former", "heir")

Fill = Callable[..., object]
"""Writes a canary into every table of a tenant: takes a session and the canary, and, where rows are to be added to
those that are there, ``first``, the number of the only row to write."""


_TENANTS = 16
"""How many there are at once, at most, in a run of the attacks."""


@dataclass(frozen=True, slots=True)
class Party:
    """One of the ground's tenants. `label` is that of its canary; `schema` is also its role's name; `login` is who
    connects, at tier `login` for this tenant alone.
    """

    label: str
    tenant_id: str
    schema: str
    role: str
    generation: int
    login: str


@dataclass(frozen=True, slots=True)
class Truth:
    """What there is in a tenant's schema, as the owner sees it: rows by table as a checksum, and objects."""

    rows: tuple[tuple[str, int, str], ...]
    objects: tuple[str, ...]

    def difference(self, later: Truth) -> list[str]:
        """Return what is different later, a line each."""
        was, now = ({name: rest for name, *rest in truth.rows} for truth in (self, later))
        changed = [f"rows of {name}" for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
        changed += [f"new: {thing}" for thing in sorted(set(later.objects) - set(self.objects))]
        return changed + [f"gone: {thing}" for thing in sorted(set(self.objects) - set(later.objects))]


@dataclass
class Ground:
    """The suite's tenants on one installation. Made by `laid`.

    Attributes:
        manager: The user's manager, whose lifecycle made the tenants.
        metadata: The user's models.
        run: Eight hexadecimal digits in all ids of this run.
        canaries: Everybody's canaries, by label.
        tier: That of the tenants.
        admin: The admin's connection, autocommitting, acting as the owner role: the ground truth.
        attacker, victim, heir: The tenants. The former one is gone; only its canary is left.
        tables: The tables that each of them has.
        probe: One of them, in whose rows, written as text, a canary shows.
        guarded: Whether that one has a guard.
        shared: The suite's own shared tables; None where the installation has no shared schema.
        shared_tables: All tables in which tenants share rows: the user's, and the suite's own. Parents come first.
        former_large_object: The number of a large object that the former tenant had; 0 where it may have none.
    """

    manager: TenantManager
    metadata: MetaData
    run: str
    canaries: Canaries
    admin: Connection
    fill: Fill
    tier: Tier = "role"
    attacker: Party = field(init=False)
    victim: Party = field(init=False)
    heir: Party = field(init=False)
    former: Party = field(init=False)
    tables: tuple[str, ...] = field(init=False, default=())
    probe: str = field(init=False, default="")
    guarded: bool = field(init=False, default=False)
    shared: SharedProbe | None = field(init=False, default=None)
    shared_tables: tuple[SharedTable, ...] = field(init=False, default=())
    former_large_object: int = field(init=False, default=0)

    def party(self, label: str) -> Party:
        """Return the tenant whose canary has this label."""
        found: Party = getattr(self, label)
        return found

    def create(self, label: str, *, tenant: str | None = None) -> Party:
        """Create a tenant of this run and fill it with the canary of `label`."""
        made = self.bear(tenant or label)
        place = made.placement
        party = Party(label, made.tenant_id, place.schema_name, place.role_name, made.generation, place.login_role)
        self.refill(party)
        return party

    def bear(self, name: str) -> Tenant:
        """Create a tenant of this run, with what the service gives a new one and no canary; its id ends in `name`."""
        return self.manager.create(
            f"mt-isolation-{self.run}-{name}", display_name=_DISPLAY_NAME, tier=self.tier, actor=ACTOR
        )

    def refill(self, party: Party) -> None:
        """Write the party's canary into its tables, as the tenant itself."""
        try:
            self._fill(party)
        except PlacementChangedError:  # this process remembered an earlier tenant of this id; now it knows
            self._fill(party)

    def fill_more(self, session: Session, canary: Canary, number: int) -> None:
        """Write one more row into every table, in a session of any tenant; `number` tells rows of a canary apart."""
        self.fill(session, canary, first=number)

    def _fill(self, party: Party) -> None:
        with self.manager.get_session(party.tenant_id) as session:
            self.fill(session, self.canaries[party.label])
            if self.shared is not None:
                self.shared.fill(session, self.canaries[party.label], party.generation)

    @contextmanager
    def passing(self, label: str, name: str) -> Iterator[Party]:
        """Create one more tenant for the block, with the canary of `label`; its id ends in `name`."""
        party = self.create(label, tenant=name)
        try:
            yield party
        finally:
            self.remove(party.tenant_id)

    def remove(self, tenant_id: str) -> None:
        """Delete a tenant of the suite's own, whatever its state. Its rows in the suite's shared tables stay."""
        _remove(self.manager, self.admin, self.metadata, self.manager.get(tenant_id))

    # -- ground truth and preparations

    def as_owner(self, *statements: str) -> list[Any]:
        """Execute statements as the owner role, each committed at once; return the last one's rows."""
        rows: list[Any] = []
        for statement in statements:
            result = self.admin.exec_driver_sql(statement, execution_options={"no_parameters": True})
            rows = list(result) if result.returns_rows else []
        return rows

    def truth(self, party: Party) -> Truth:
        """Return what there is in a tenant's schema now."""
        schema = {"schema": party.schema}
        tables = list(self.admin.execute(query("isolation", "tables"), schema).scalars())
        counts = [
            sql.SQL(
                "SELECT {name}, count(*), md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {table} t"
            ).format(name=sql.Literal(name), table=sql.Identifier(party.schema, name))
            for name in tables
        ]
        counts += [
            sql.SQL(
                "SELECT {name}, count(*), md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) "
                "FROM " + table.name + " t WHERE " + table.of(party.generation)
            ).format(name=sql.Literal(table.name))
            for table in self.shared_tables
        ]
        rows = self.as_owner(sql.SQL(" UNION ALL ").join(counts).as_string(None)) if counts else []
        objects = tuple(self.admin.execute(query("isolation", "objects"), schema).scalars())
        return Truth(tuple((str(name), int(count), str(digest)) for name, count, digest in rows), objects)

    def mend(self, party: Party) -> None:
        """Put back a party's rows after something got through to them."""
        for table in reversed(self.metadata.sorted_tables):
            if table.schema is None and table.name in self.tables:
                self.as_owner(f"DELETE FROM {quoted(party.schema)}.{quoted(table.name)}")
        delete_rows(self.admin, self.shared_tables, party.generation)
        self.refill(party)

    def _survey(self) -> None:
        """See where canaries stand: `tables` are the tenants' own, `probe` one in whose rows a canary shows."""
        self.tables = tuple(self.admin.execute(query("isolation", "tables"), {"schema": self.victim.schema}).scalars())
        for name in self.tables:
            rows = self.as_owner(f"SELECT t::text FROM {quoted(self.victim.schema)}.{quoted(name)} t")
            if self.victim.label in self.canaries.found_in([str(row[0]) for row in rows]):
                self.probe = name
                qualified = f"{quoted(self.victim.schema)}.{quoted(name)}"
                self.guarded = self.admin.execute(query("isolation", "guarded"), {"table": qualified}).scalar_one()
                return
        raise LookupError(
            "no table of the models shows a canary: none has rows with a column of text, bytes or JSON. "
            "Give the suite a factory for one of them"
        )


@contextmanager
def laid(manager: TenantManager, metadata: MetaData, *, fill: Fill, tier: Tier = "role") -> Iterator[Ground]:
    """Make the suite's tenants for the block, and remove them afterwards, also those that a killed run left.

    Args:
        manager: A manager of an initialised installation, with an admin DSN.
        metadata: The models that `fill` fills.
        fill: Writes a canary into every table of a tenant.
        tier: What keeps the tenants apart.

    Raises:
        ConfigurationError: Tier `login`, and there are no credentials for such logins.
        MissingRightsError: The admin may not create roles; nothing was created.
        CatalogMissingError: Nobody has run `init`.
        ProvisioningError: As `TenantManager.create`.
    """
    url = cluster_url(manager._credentials, manager.settings.home_cluster, "admin")
    engine = create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as admin:
            admin.exec_driver_sql("SET lock_timeout = '10s'")
            if not admin.execute(query("isolation", "may_create_roles")).scalar_one():
                raise MissingRightsError(
                    manager.settings.home_cluster,
                    "the isolation suite makes tenants of its own, and the admin DSN's role may not create roles; "
                    "give it one that may, as `mt-paas-db init` needs",
                )
            known = manager.list()  # says whether there is an installation
            run = secrets.token_hex(4)
            admin.execute(query("isolation", "take_run"), {"run": run})
            owner = InstallationRoles(manager.settings.installation).owner
            admin.exec_driver_sql(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)).as_string(None))
            schemas = shared_schemas(admin)
            _clear(manager, admin, metadata, schemas, known)
            canaries = Canaries.of(LABELS, seed=int(run, 16))  # of this run, so that one beside it is not mistaken
            ground = Ground(manager, metadata, run, canaries, admin, fill, tier)
            try:
                if schemas:
                    ground.shared = make_probe(admin, schemas[0], run)
                    ground.shared_tables = (*declared_tables(metadata).values(), *ground.shared.tables)
                _people(ground)
                yield ground
            finally:
                _remove_all(manager, admin, metadata, _of_run(manager.list(), run))
                drop_probe(admin, schemas[:1], run)
    finally:
        engine.dispose()


def _people(ground: Ground) -> None:
    if ground.tier == "role":  # who attacks is to share a login with who is attacked, where a cell holds them all
        make_room(ground.manager._changes, _TENANTS)
    ground.attacker = ground.create("attacker")
    ground.victim = ground.create("victim")
    ground.former = ground.create("former", tenant="heir")
    ground.former_large_object = _large_object(ground)
    ground.remove(ground.former.tenant_id)
    ground.heir = ground.create("heir")
    ground._survey()


def _large_object(ground: Ground) -> int:
    """Let the former tenant make a large object with its canary; 0 where it may not."""
    content = (ground.canaries["former"].text("large object", 1) or "").encode()
    try:
        with ground.manager.get_session(ground.former.tenant_id) as session:
            return int(session.execute(select(func.lo_from_bytea(0, content))).scalar_one())
    except DBAPIError:
        return 0


def leftovers(tenants: Sequence[Tenant]) -> dict[str, list[Tenant]]:
    """Return the tenants that runs of the suite have made, by run. Pure."""
    found: dict[str, list[Tenant]] = {}
    for tenant in tenants:
        match = _OURS.fullmatch(tenant.tenant_id)
        if match and tenant.display_name == _DISPLAY_NAME:
            found.setdefault(match[1], []).append(tenant)
    return found


def _clear(
    manager: TenantManager, admin: Connection, metadata: MetaData, schemas: Sequence[str], known: Sequence[Tenant]
) -> None:
    """Remove what killed runs have left; leave alone what belongs to a run that is going on."""
    for run in leftovers(known).keys() | runs_with_probes(admin, schemas):
        if admin.execute(query("isolation", "take_run"), {"run": run}).scalar_one():
            _remove_all(manager, admin, metadata, _of_run(manager.list(), run))
            drop_probe(admin, schemas, run)
            admin.execute(query("isolation", "leave_run"), {"run": run})


def _of_run(tenants: Sequence[Tenant], run: str) -> list[Tenant]:
    return leftovers(tenants).get(run, [])


def _remove_all(manager: TenantManager, admin: Connection, metadata: MetaData, tenants: Sequence[Tenant]) -> None:
    """Remove them all, also where one of them cannot be; raises the first error afterwards."""
    errors: list[TenancyError] = []
    for tenant in tenants:
        try:
            _remove(manager, admin, metadata, tenant)
        except TenancyError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _remove(manager: TenantManager, admin: Connection, metadata: MetaData, tenant: Tenant) -> None:
    delete_rows(admin, declared_tables(metadata).values(), tenant.generation)
    if tenant.state not in (TenantState.ARCHIVED, TenantState.PROVISIONING, TenantState.DELETING):
        manager.archive(tenant.tenant_id, actor=ACTOR)
    manager.delete(tenant.tenant_id, confirm=tenant.tenant_id, actor=ACTOR)


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return sql.Identifier(name).as_string(None)
