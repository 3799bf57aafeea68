"""Tier `login` where the admin is no superuser, as on managed servers: the whole life of a tenant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import select

from mt_paas_db.core import TenantManager
from mt_paas_db.isolation.audit import Severity, audit
from tests.fleet import PASSWORD, Service
from tests.models import Note
from tests.test_tier_login import SECRET, ask, login_of


@pytest.fixture
def manager(service: Service) -> Iterator[TenantManager]:
    with service.managed() as role:
        settings = service.settings().clusters["main"]
        assert settings.app_dsn is not None
        admin = service.server.dsn(service.database, user=role, password=PASSWORD)
        cluster = {"app_dsn": settings.app_dsn.get_secret_value(), "admin_dsn": admin}
        made = service.manager(clusters={"main": cluster}, login_secret=SECRET, tier="login")
        made.init()
        yield made


def test_the_whole_life(service: Service, manager: TenantManager) -> None:
    for tenant_id in ("hallym", "korea"):
        manager.create(tenant_id)
    login, dsn = login_of(manager), manager.dsn("hallym")
    with manager.get_session("hallym") as session:
        session.add(Note(body="kept"))
    with suppress(psycopg.OperationalError), psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT body FROM note").fetchall() == [("kept",)]
        manager.suspend("hallym")  # which ends it
        assert not ask(service, "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", login)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    manager.resume("hallym")
    manager.read_only("hallym")
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM note")
    manager.resume("hallym")
    with manager.get_session("hallym") as session:
        assert list(session.scalars(select(Note.body))) == ["kept"]
    findings = [f for f in audit(manager).findings if f.severity is not Severity.INFO and "release" not in f.id]
    assert [f.id for f in findings if f.id != "server-advisory"] == []
    assert [f.message for r in manager.doctor().results if r.id != "server.version" for f in r.findings] == []
    manager.archive("hallym")
    manager.delete("hallym", confirm="hallym")
    assert (
        ask(service, "SELECT count(*) FROM pg_roles WHERE rolname IN (%s, %s)", login, f"{service.name}_hallym_1") == 0
    )


def test_the_admin_keeps_no_right_of_a_tenants_login(service: Service, manager: TenantManager) -> None:
    """To end its backends the admin takes the role for a moment; on 16 and later CREATEROLE's own membership stays."""
    manager.create("hallym")
    manager.suspend("hallym")
    inherits = ask(
        service,
        "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid "
        "WHERE r.rolname = %s AND coalesce((to_jsonb(m) ->> 'inherit_option')::bool, true)",
        login_of(manager),
    )
    assert inherits == 0
