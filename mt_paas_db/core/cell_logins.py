"""Login roles of cells: each like the first one's, but that it asks the catalog nothing."""

from __future__ import annotations

from psycopg.sql import Literal
from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog import registry
from mt_paas_db.catalog.identifiers import SqlName, Tier
from mt_paas_db.catalog.registry import sqlstate_of
from mt_paas_db.catalog.values import Cell
from mt_paas_db.core.admin import ROLE_EXISTS, AdminTransaction, Named
from mt_paas_db.errors import MissingRightsError

_NAME_ATTEMPTS = 5


def make_cell(step: AdminTransaction) -> Cell:
    """Make a cell on the home cluster, with a login role of its own that may connect. Acts as the owner, and ends so.

    Raises as `make_login`.
    """
    number, login = make_login(step)
    cell = Cell(name=f"cell_{number}", cluster=step.cluster, login_role=login)
    registry.run(step.connection, "insert_cell", **cell.model_dump())
    return cell


def make_login(step: AdminTransaction) -> tuple[int, SqlName]:
    """Make a login role for a cell; return its number and name. Acts as the owner, and ends so.

    Raises:
        ConfigurationError: The provider's DSN for it names another user.
        MissingRightsError: It may not connect: this admin cannot grant that.
    """
    for attempt in range(_NAME_ATTEMPTS):
        number = registry.next_generation(step.connection)
        login = step.roles.another_login(number)
        try:
            step.run_all(("before_role", {}), *step.by_oneself(*_made(step, login)), ("with_role", {}))
        except DBAPIError as error:
            if sqlstate_of(error) not in ROLE_EXISTS or attempt == _NAME_ATTEMPTS - 1:
                raise
            step.run("without_role")  # what was left of a database that was dropped
            continue
        break
    if not step.ask("may_connect", login=login):
        raise MissingRightsError(
            step.cluster,
            f"the new login {login!r} may not connect to database {step.oneself.database!r}; use an admin DSN of the "
            "database's owner or of a superuser",
        )
    return number, login


def keep_login(step: AdminTransaction, cell: Cell) -> None:
    """Give a cell's login what it is to have; make one that was lost, without its tenants. Acts as the admin."""
    login = cell.login_role
    there = step.ask("role_exists", role=login)
    step.run_all(*(_kept(step, login) if there else _made(step, login)))


def set_password(step: AdminTransaction, cell: Cell) -> None:
    """Set the password that a cell's login has by the present credentials. Acts as the admin."""
    step.run_all(*_password(step, cell.login_role))


def _made(step: AdminTransaction, login: str) -> list[Named]:
    return [
        ("create_login", {"login": login}),
        ("comment_login", {"login": login, "description": Literal(registry.LOGIN_OF_A_CELL)}),
        *_kept(step, login),
    ]


def _kept(step: AdminTransaction, login: str) -> list[Named]:
    return [
        ("login_inherits_nothing", {"login": login}),
        ("login_path", {"login": login}),
        ("login_connects", {"database": step.oneself.database, "login": login}),
        *_password(step, login),
    ]


def _password(step: AdminTransaction, login: str) -> list[Named]:
    password = step.password_of(step.cluster, login, tier=Tier.ROLE)
    return [] if password is None else [step.set_password(login, password, stable=True)]
