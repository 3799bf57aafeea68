"""The examination: runs the checks, all or the quick ones, and answers whatever they meet."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mt_paas_db.catalog.credentials import CredentialProvider
from mt_paas_db.catalog.settings import Settings
from mt_paas_db.core.admin import Admin
from mt_paas_db.core.checks import CHECKS, Check, Finding, Report, Result, Severity
from mt_paas_db.core.patient import CannotLookError, Patient
from mt_paas_db.errors import TenancyError
from mt_paas_db.session.door import Door

# In the order in which they look: what connects comes before what is asked over it.
# isort: off
from mt_paas_db.core import checkup_connection  # noqa: F401
from mt_paas_db.core import checkup_admin, checkup_login, checkup_roles, checkup_tenants, checkup_own_logins  # noqa: F401
from mt_paas_db.core import checkup_cells  # noqa: F401
# isort: on


def examine(door: Door, admin: Admin, settings: Settings, credentials: CredentialProvider) -> Report:
    """Run every check. Raises nothing for what is wrong with servers, rights or the catalog: that is a finding."""
    return _run(Patient(door, settings, admin, credentials), CHECKS.values())


def readiness(door: Door, settings: Settings) -> Report:
    """Run the quick checks, which need the app DSN alone. Raises as little as `examine`."""
    return _run(Patient(door, settings), (c for c in CHECKS.values() if c.quick))


def _run(patient: Patient, checks: Iterable[Check]) -> Report:
    results: list[Result] = []
    try:
        for one in checks:
            try:
                with patient.looked_at():
                    findings = tuple(one.look(patient))
                results.append(Result(one.id, one.title, findings))
            except CannotLookError as reason:
                results.append(Result(one.id, one.title, (), skipped=str(reason)))
            except (TenancyError, SQLAlchemyError, psycopg.Error) as error:
                results.append(Result(one.id, one.title, (Finding(Severity.ERROR, _told(error)),)))
    finally:
        patient.close()
    return Report(tuple(results))


def _told(error: TenancyError | SQLAlchemyError | psycopg.Error) -> str:
    """Return an error's own words, without the statement and the link that SQLAlchemy adds."""
    if isinstance(error, TenancyError):
        return str(error)
    said = error.orig if isinstance(error, DBAPIError) else next(iter(error.args), "")
    lines = str(said).strip().splitlines()
    return lines[0] if lines else type(error).__name__
