"""Cells: as many tenants as fit share a login; the next one gets another, and who connects as it reaches no more.

Broken twins: a size that is decided without the lock, and passwords that ignore which login they are for.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import make_url, select, text

from mt_paas_db.catalog import credentials, registry
from mt_paas_db.catalog.credentials import login_url, settings_credentials
from mt_paas_db.catalog.identifiers import Tier
from mt_paas_db.core import NewTenant, TenantManager, provision
from mt_paas_db.errors import ConfigurationError, ServerUnavailableError, TenancyError
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Verdict
from tests.fleet import PASSWORD, Service
from tests.ground_truth import rows, server_state
from tests.models import Note

SECRET = "s" * 32


@pytest.fixture
def small(service: Service) -> TenantManager:
    """A manager of an initialised installation whose cells hold two tenants."""
    made = service.manager(cell_size=2)
    made.init()
    return made


def create(manager: TenantManager, *tenant_ids: str) -> None:
    for tenant_id in tenant_ids:
        manager.create(tenant_id)


def cells(manager: TenantManager) -> dict[str, list[str]]:
    """Return the tenants of each cell by its login."""
    found: dict[str, list[str]] = {}
    for tenant in manager.list():
        found.setdefault(tenant.placement.login_role, []).append(tenant.tenant_id)
    return found


def members(service: Service) -> dict[str, list[str]]:
    """Return the roles that each login may take, as the server says."""
    found = rows(
        service,
        "SELECT l.rolname, array_agg(r.rolname::text ORDER BY r.rolname) FROM pg_auth_members m "
        "JOIN pg_roles l ON l.oid = m.member JOIN pg_roles r ON r.oid = m.roleid "
        "WHERE starts_with(l.rolname, %s) GROUP BY 1",
        service.login,
    )
    return dict(found)


def note(manager: TenantManager, tenant_id: str) -> str:
    """Write a note in a session of the tenant, and return who connected."""
    with manager.get_session(tenant_id) as session:
        session.add(Note(body=tenant_id))
        return str(session.execute(text("SELECT session_user")).scalar_one())


# -- placement


def test_a_small_fleet_has_one_cell_and_no_configuration(service: Service, manager: TenantManager) -> None:
    create(manager, "hallym", "korea", "snu")
    assert cells(manager) == {service.login: ["hallym", "korea", "snu"]}
    assert {tenant.placement.cell for tenant in manager.list()} == {"default"}
    assert manager.settings.cell_size == 64


def test_who_finds_no_room_gets_a_new_cell(service: Service, small: TenantManager) -> None:
    create(small, "a", "b", "c", "d", "e")
    first, second, third = cells(small).items()
    assert (first, second[1], third[1]) == ((service.login, ["a", "b"]), ["c", "d"], ["e"])
    assert [small.get(t).placement.tier for t in "abcde"] == [Tier.ROLE] * 5
    roles = {tenant.tenant_id: tenant.placement.role_name for tenant in small.list()}
    assert members(service) == {login: [roles[t] for t in found] for login, found in cells(small).items()}
    for tenant_id in "abcde":
        assert note(small, tenant_id) == small.get(tenant_id).placement.login_role
    assert small.doctor().ok


def test_what_create_returns_is_what_the_catalog_says(small: TenantManager) -> None:
    for tenant_id in "abc":
        assert small.create(tenant_id) == small.get(tenant_id)
    assert small.create("d", aliases=["dd"]) == small.get("dd")


def test_the_login_of_a_cell_is_like_the_first_one(service: Service, small: TenantManager) -> None:
    create(small, "a", "b", "c")
    login = small.get("c").placement.login_role
    attributes = (
        "SELECT rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, "
        "rolconfig, "
        "has_database_privilege(oid, current_database(), 'CONNECT'), "
        "has_database_privilege(oid, current_database(), 'TEMP') "
        "FROM pg_roles WHERE rolname = %s"
    )
    assert rows(service, attributes, login) == rows(service, attributes, service.login)
    asks = "SELECT has_schema_privilege(%s, 'mt_paas', 'USAGE')"
    assert rows(service, asks, login) == [(False,)]  # the catalog is asked over the app DSN


def test_room_is_found_again_where_a_tenant_was_deleted(small: TenantManager) -> None:
    create(small, "a", "b", "c", "d")
    first = small.get("a").placement
    small.archive("a")
    create(small, "e")  # one that is archived may come back
    assert small.get("e").placement.cell not in {small.get(t).placement.cell for t in "abcd"}
    small.delete("a", confirm="a")
    create(small, "f", "g")
    assert small.get("f").placement.cell == small.get("e").placement.cell  # the newest first
    assert (small.get("g").placement.cell, small.get("g").placement.login_role) == (first.cell, first.login_role)


def test_a_tenant_with_a_login_of_its_own_takes_no_room(service: Service, small: TenantManager) -> None:
    own = service.manager(cell_size=2, login_secret=SECRET)
    own.create("own", tier="login")
    create(own, "a", "b", "c")
    assert sorted(map(len, cells(own).values())) == [1, 1, 2]


def _crowd(manager: TenantManager, number: int) -> Counter[str]:
    """Create tenants from as many threads at once, and return how many are in each cell."""
    start = threading.Barrier(number)

    def one(index: int) -> None:
        start.wait()
        manager.create(f"t{index}")

    with ThreadPoolExecutor(number) as pool:
        for done in [pool.submit(one, index) for index in range(number)]:
            done.result()
    return Counter(tenant.placement.cell for tenant in manager.list())


def test_creators_at_once_fill_each_cell_to_its_size_exactly(service: Service, small: TenantManager) -> None:
    assert sorted(_crowd(small, 8).values()) == [2, 2, 2, 2]
    assert sorted(map(len, members(service).values())) == [2, 2, 2, 2]


def test_without_the_lock_they_would_not(small: TenantManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: everybody counts before anybody has committed. The grant of the group would stop them too."""
    monkeypatch.setattr(provision, "join_group", lambda *_: None)
    meet = threading.Barrier(4)
    counted = registry.place_tenant

    def together(*arguments: Any, **options: Any) -> Any:
        found = counted(*arguments, **options)
        meet.wait(10)
        return found

    monkeypatch.setattr(registry, "place_tenant", together)
    assert max(_crowd(small, 4).values()) > 2


def test_many_at_once_by_create_many(small: TenantManager) -> None:
    done = small.create_many([NewTenant(f"t{number}") for number in range(7)], jobs=4)
    assert done.ok
    assert sorted(Counter(t.placement.cell for t in done.created).values()) == [1, 2, 2, 2]


def test_a_first_cell_beyond_the_size_goes_on(service: Service, manager: TenantManager) -> None:
    create(manager, "a", "b", "c")
    small = service.manager(cell_size=2)
    create(small, "d")
    assert cells(small)[service.login] == ["a", "b", "c"]
    for tenant_id in "abcd":
        note(small, tenant_id)


# -- credentials


def test_a_password_is_of_one_login_and_one_purpose(service: Service) -> None:
    settings = service.settings()
    provider = settings_credentials(settings)

    def password(login: str, *, secret: bool = False, tier: Tier = Tier.ROLE) -> str:
        chosen = settings.model_copy(update={"login_secret": SecretStr(SECRET)}) if secret else settings
        return str(login_url(chosen, provider, "main", login, tier=tier).password)

    first, second = password("x_app_1"), password("x_app_2")
    assert len({first, second, password("x_app_1", secret=True), PASSWORD}) == 4
    assert first == password("x_app_1")
    assert first != credentials.login_password(PASSWORD, "x_app_1")  # what a secret of the same text would give
    assert password("x_app_1", secret=True) == password("x_app_1", secret=True, tier=Tier.LOGIN)
    with pytest.raises(ConfigurationError, match="MT_PAAS_DB_LOGIN_SECRET"):
        password("x_app_1", tier=Tier.LOGIN)


def test_without_a_password_there_is_none_for_cells(service: Service) -> None:
    dsn = make_url(service.server.dsn(service.database)).set(username=service.login, password=None)
    bare = service.settings(clusters={"main": {"app_dsn": dsn.render_as_string()}})
    url = login_url(bare, settings_credentials(bare), "main", "x_app_1", tier=Tier.ROLE)
    assert (url.username, url.password) == ("x_app_1", None)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_init_brings_cells_to_the_credentials_that_hold_now(service: Service, secret: str | None) -> None:
    """After the app login's password was changed, or a secret was set."""
    old = service.manager(cell_size=1)
    old.init()
    create(old, "a", "b")
    if secret is None:
        password = "another-one"
        with service.superuser() as su:
            su.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(service.login), sql.Literal(password))
            )
    else:
        password = PASSWORD
    dsn = make_url(service.server.dsn(service.database)).set(username=service.login, password=password)
    clusters = {
        "main": {
            "app_dsn": dsn.render_as_string(hide_password=False),
            "admin_dsn": service.server.dsn(service.database),
        }
    }
    new = service.manager(clusters=clusters, cell_size=1, login_secret=secret)
    with pytest.raises(ServerUnavailableError, match=new.get("b").placement.login_role):
        note(new, "b")
    note(new, "a")
    new.init()
    note(new, "b")
    state = server_state(service)
    new.init()
    assert server_state(service) == state


def test_a_wrong_password_of_one_cell_leaves_the_others_alone(service: Service, small: TenantManager) -> None:
    create(small, "a", "b", "c")
    login = small.get("c").placement.login_role
    with service.superuser() as su:
        su.execute(sql.SQL("ALTER ROLE {} PASSWORD 'another'").format(sql.Identifier(login)))
    with pytest.raises(ServerUnavailableError, match=login) as caught:
        note(small, "c")
    assert caught.value.cluster == "main"
    assert "another" not in str(caught.value)
    for tenant_id in "ab":
        note(small, tenant_id)
    small.init()
    note(small, "c")


def test_a_cells_role_that_was_dropped(service: Service, small: TenantManager) -> None:
    create(small, "a", "b", "c")
    login = small.get("c").placement.login_role
    with service.superuser() as su:
        su.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(login)))
    cold = service.manager(cell_size=2)
    with pytest.raises(TenancyError, match=login):
        note(cold, "c")
    note(cold, "a")
    assert any(login in finding.message for finding in cold.doctor().findings())


def test_no_password_is_in_catalog_or_log(service: Service, small: TenantManager) -> None:
    create(small, "a", "b", "c")
    login = small.get("c").placement.login_role
    settings = service.settings()
    derived = str(login_url(settings, settings_credentials(settings), "main", login, tier=Tier.ROLE).password)
    with service.superuser() as su:
        for (table,) in su.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'mt_paas'").fetchall():
            for (row,) in su.execute(f"SELECT t::text FROM mt_paas.{table} t".encode()).fetchall():
                assert derived not in row
                assert PASSWORD not in row


def test_data_is_where_the_tenant_is(small: TenantManager) -> None:
    create(small, "a", "b", "c")
    for tenant_id in "abc":
        note(small, tenant_id)
    for tenant_id in "abc":
        with small.get_session(tenant_id) as session:
            assert session.scalars(select(Note.body)).all() == [tenant_id]


def test_the_isolation_suite_attacks_within_a_cell_also_in_a_large_fleet(service: Service) -> None:
    """Its tenants share a login, so that what is open at tier `role` shows; and that is not the first cell's here."""
    manager = service.manager(cell_size=16)
    manager.init()
    create(manager, "a")
    with Suite(manager, service.models, steps=0) as suite:
        ground = suite.ground
        logins = {ground.attacker.login, ground.victim.login, ground.heir.login}
        assert len(logins) == 1
        assert logins != {service.login}
        direct = Route("psycopg")
        with suite.channel(direct).at_rest() as ask:
            assert ask("SELECT session_user") == [(ground.attacker.login,)]
        found = {a.key: suite.try_(Case(a, direct, "role")) for a in CATALOGUE if a.family == "A"}
    assert [finding for finding in found.values() if finding.failed] == []
    assert Verdict.OPEN in {finding.verdict for finding in found.values()}  # as within the first cell
