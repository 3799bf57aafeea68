"""Shared tables on the isolation suite's ground: the user's own and the suite's, attacked, mended, and gone again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKeyConstraint, Identity, PrimaryKeyConstraint, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import TenancyError
from mt_paas_db.isolation.attack import Attack
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.ground import Ground
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.run import Case, Suite
from mt_paas_db.isolation.verdict import Finding, Verdict
from mt_paas_db.policies import reference, shared, tenant_column
from tests.fleet import Service
from tests.ground_truth import state_but_for_the_log

ROOT = Path(__file__).resolve().parents[1]
SHARED = "mt_test_suite"


class Base(DeclarativeBase):
    pass


class Draft(Base):
    __tablename__ = "draft"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    body: Mapped[str]


class Plan(Base):
    __tablename__ = "plan"
    __table_args__ = ({"schema": SHARED, "info": reference()},)
    name: Mapped[str] = mapped_column(primary_key=True)


class Account(Base):
    __tablename__ = "account"
    __table_args__ = (PrimaryKeyConstraint("customer", "id"), {"schema": SHARED, "info": shared("customer")})
    customer: Mapped[int] = tenant_column()
    id: Mapped[int] = mapped_column(Identity())
    name: Mapped[str]


class Usage(Base):
    __tablename__ = "usage"
    __table_args__ = (
        PrimaryKeyConstraint("tenant", "id"),
        ForeignKeyConstraint(["tenant", "account_id"], [f"{SHARED}.account.customer", f"{SHARED}.account.id"]),
        {"schema": SHARED, "info": shared()},
    )
    tenant: Mapped[int] = tenant_column()
    id: Mapped[int] = mapped_column(Identity())
    account_id: Mapped[int]
    amount: Mapped[int]


@pytest.fixture
def sharing(service: Service) -> TenantManager:
    """A manager of models with shared tables, in which a tenant of the user's own has a row."""
    manager = service.manager(models=Base, shared_schemas=(SHARED,))
    manager.init()
    manager.create("hallym")
    with manager.get_session("hallym") as session:
        session.add(Account(name="hallym's"))
    return manager


def named(key: str) -> Attack:
    (found,) = (attack for attack in CATALOGUE if attack.key == key)
    return found


def tried(suite: Suite, key: str) -> Finding:
    return suite.try_(Case(named(key), Route("psycopg"), "role"))


def rows_of_hallym(manager: TenantManager) -> int:
    with manager.get_session("hallym") as session:
        return session.scalar(select(func.count()).select_from(Account)) or 0


def test_the_users_shared_tables_are_filled_attacked_and_emptied(service: Service, sharing: TenantManager) -> None:
    before = state_but_for_the_log(service)
    with Suite(sharing) as suite:
        names = [table.name for table in suite.ground.shared_tables]
        assert names[:2] == [f'"{SHARED}"."account"', f'"{SHARED}"."usage"']
        for table in suite.ground.shared_tables:
            where = table.of(suite.ground.victim.generation)
            ((count,),) = suite.ground.as_owner(f"SELECT count(*) FROM {table.name} WHERE {where}")
            assert count >= 1, table.name
        for key in ("B15-shared-rows", "B15-shared-writes"):
            finding = tried(suite, key)
            assert finding.verdict is Verdict.HELD, str(finding)
    assert state_but_for_the_log(service) == before
    assert rows_of_hallym(sharing) == 1
    with service.superuser() as su:
        assert su.execute(f"SELECT count(*) FROM {SHARED}.account".encode()).fetchall() == [(1,)]


@pytest.mark.parametrize("table", ["account", "usage"])
def test_a_users_table_without_row_security_is_a_leak(service: Service, sharing: TenantManager, table: str) -> None:
    with service.superuser() as su:
        su.execute(f"ALTER TABLE {SHARED}.{table} DISABLE ROW LEVEL SECURITY".encode())
    with Suite(sharing) as suite:
        finding = tried(suite, "B15-shared-rows")
    assert finding.verdict is Verdict.LEAKED
    assert any(table in line for line in finding.seen)


def test_what_was_changed_of_shared_rows_is_seen_and_mended(sharing: TenantManager) -> None:
    with Suite(sharing) as suite:
        ground = suite.ground
        before = {name: count for name, count, _ in ground.truth(ground.victim).rows}

        def write(c: Any) -> None:
            with c.trying("delete") as trial:
                c.ground.as_owner(f"DELETE FROM {SHARED}.usage WHERE tenant = {c.target.generation}")
                trial.reach("done")

        attack = named("B15-shared-writes")
        made = type(attack)(**{**{name: getattr(attack, name) for name in attack.__slots__}, "carry_out": write})
        finding = suite.try_(Case(made, Route("psycopg"), "role"))
        assert finding.verdict is Verdict.LEAKED
        assert any("usage" in line for line in finding.seen)
        assert {name: count for name, count, _ in ground.truth(ground.victim).rows} == before


def test_without_a_shared_schema_it_is_said(service: Service, manager: TenantManager) -> None:
    with Suite(manager, service.models) as suite:
        finding = tried(suite, "B15-shared-rows")
        guarded = tried(suite, "B3-guarded-rows")
    assert (finding.verdict, guarded.verdict) == (Verdict.NOT_RUN, Verdict.NOT_RUN)
    assert "MT_PAAS_DB_SHARED_SCHEMAS" in finding.reason
    assert "MT_PAAS_DB_GUARDS" in guarded.reason


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from mt_paas_db import TenantManager
from mt_paas_db.isolation.run import Suite
from tests.test_isolation_shared import Base
with Suite(TenantManager(models=Base), Base):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_shared_is_removed_by_the_next(service: Service, sharing: TenantManager) -> None:
    before = state_but_for_the_log(service)
    environment = {**os.environ, **service.environment(), "MT_PAAS_DB_SHARED_SCHEMAS": f'["{SHARED}"]'}
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(path=[str(ROOT)])], env=environment, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert state_but_for_the_log(service) != before
    with Suite(sharing):
        pass
    assert state_but_for_the_log(service) == before
    with service.superuser() as su:
        assert su.execute(f"SELECT count(*) FROM {SHARED}.usage".encode()).fetchall() == [(0,)]


def test_a_probe_is_removed_also_where_no_tenant_was_made(
    service: Service, sharing: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_but_for_the_log(service)

    def fail(_ground: Ground, _label: str, **_: Any) -> None:
        raise TenancyError("no tenant could be made")

    with monkeypatch.context() as patch:
        patch.setattr(Ground, "create", fail)
        with pytest.raises(TenancyError, match="no tenant"), Suite(sharing):
            pass
    assert state_but_for_the_log(service) == before
