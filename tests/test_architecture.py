"""What the house promises of itself: its floors, its two doors that are one, its error tree."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

import mt_paas_db
from mt_paas_db import errors
from mt_paas_db.core import AsyncTenantManager, TenantManager, default
from mt_paas_db.errors import TenancyError

ROOT = Path(__file__).resolve().parents[1]

# -- floors


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="the dev dependency group is not installed")
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """A copy of the package that a test may spoil."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "mt_paas_db", tmp_path / "mt_paas_db")
    return tmp_path


def test_the_floors_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


# One violation for each contract of pyproject.toml: a contract added there needs one here.
PLANTED = {
    "mt_paas_db/session/pin.py": "import mt_paas_db.core",
    "mt_paas_db/catalog/identifiers.py": "import mt_paas_db.catalog.registry",
    "mt_paas_db/core/transitions.py": "import alembic",
    "mt_paas_db/errors.py": "import sqlalchemy",
}


def test_each_contract_catches_a_planted_violation(copied_tree: Path) -> None:
    for path, line in PLANTED.items():
        with (copied_tree / path).open("a") as module:
            module.write(f"\n{line}\n")
    done = lint_imports(copied_tree)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"Contracts: 0 kept, {len(contracts)} broken." in done.stdout, done.stdout


def test_a_room_without_a_floor_is_caught(copied_tree: Path) -> None:
    (copied_tree / "mt_paas_db" / "attic").mkdir()
    (copied_tree / "mt_paas_db" / "attic" / "__init__.py").touch()
    done = lint_imports(copied_tree)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mt_paas_db.attic" in done.stdout


def test_every_room_is_a_package() -> None:
    """Without its ``__init__.py`` a folder still imports, but linters and type checkers walk past it."""
    rooms = {path.parent for path in (ROOT / "mt_paas_db").rglob("*.py")}
    assert [str(room.relative_to(ROOT)) for room in sorted(rooms) if not (room / "__init__.py").exists()] == []


# -- two doors that are one


def verbs(door: type) -> dict[str, Any]:
    found = inspect.getmembers(door, inspect.isfunction)
    return {name: function for name, function in found if not name.startswith("_")}


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


VERBS = sorted(verbs(TenantManager))


def test_both_doors_have_the_same_verbs() -> None:
    assert sorted(verbs(AsyncTenantManager)) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_and_returns_the_same_at_both_doors(verb: str) -> None:
    blocking, asynchronous = verbs(TenantManager)[verb], verbs(AsyncTenantManager)[verb]
    assert shape(asynchronous) == shape(blocking)
    assert inspect.signature(asynchronous).return_annotation == inspect.signature(blocking).return_annotation
    assert inspect.iscoroutinefunction(asynchronous) == (verb not in {"get_session", "raw_connection", "pool_status"})


def call_with_marks(function: Any) -> tuple[Any, dict[str, object]]:
    """Call `function` with an object of its own for each parameter; return the result and those objects."""
    parameters = inspect.signature(function).parameters.values()
    marks: dict[str, object] = {p.name: object() for p in parameters}
    positional = [marks[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY]
    by_name = {p.name: marks[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    return function(*positional, **by_name), marks


def assert_received(method: Any, verb: str, marks: dict[str, object]) -> None:
    method.assert_called_once()
    call = method.call_args
    received = inspect.signature(verbs(TenantManager)[verb]).bind(None, *call.args, **call.kwargs).arguments
    received.pop("self")
    assert received == marks


# close is the one verb that differs: each door closes the pools of its own kind.
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "close"])
def test_the_asyncio_door_passes_every_argument_on(verb: str) -> None:
    manager = create_autospec(TenantManager, instance=True)
    result, marks = call_with_marks(getattr(AsyncTenantManager(manager), verb))
    if inspect.isawaitable(result):

        async def wait() -> Any:
            return await result

        result = asyncio.run(wait())
    method = getattr(manager, verb)
    assert_received(method, verb, marks)
    if verb != "delete":  # returns None
        assert result is method.return_value


def test_tenant_session_takes_what_get_session_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shape(mt_paas_db.tenant_session) == shape(TenantManager.get_session)[1:]
    manager = create_autospec(TenantManager, instance=True)
    monkeypatch.setattr(default, "_manager", manager)
    result, marks = call_with_marks(mt_paas_db.tenant_session)
    assert_received(manager.get_session, "get_session", marks)
    assert result is manager.get_session.return_value


# -- errors

ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, TenancyError) and error.__module__ == errors.__name__
]
SAMPLES: dict[str, Any] = {
    "int": 7,
    "float": 1.5,
    "tuple[str, ...]": ("active", "suspended"),
    "tuple[tuple[str, int], ...]": (("advisor_app", 7),),
}


def sample(error: type[TenancyError]) -> TenancyError:
    """Return an instance, made with a value of the right type for each parameter."""
    if error.__init__ is Exception.__init__:
        return error("some message")
    parameters = inspect.signature(error).parameters.values()
    values = {p.name: SAMPLES.get(str(p.annotation), f"some {p.name}") for p in parameters}
    positional = [values[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return error(*positional, **{p.name: values[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY})


def drawn_tree() -> Iterator[tuple[str, str | None, list[str]]]:
    """Yield name, parent and own attributes of each error that the module's docstring draws."""
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"^    ((?:[│ ]   )*(?:[├└]── )?)(\w+Error)\b(.*)$", line)
        if branch:
            del path[len(branch[1]) // 4 :]
            facts = re.findall(r"(?<!\S)\.(\w+)", branch[3])
            yield branch[2], path[-1] if path else None, facts
            path.append(branch[2])


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    real = {
        error.__name__: next((b.__name__ for b in error.__bases__ if issubclass(b, TenancyError)), None)
        for error in ERRORS
    }
    assert {name: parent for name, parent, _ in drawn_tree()} == real


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_has_the_facts_that_the_docstring_names(error: type[TenancyError]) -> None:
    facts = {name: own for name, _, own in drawn_tree()}
    promised = [fact for cls in error.__mro__ for fact in facts.get(cls.__name__, [])]
    assert [fact for fact in promised if not hasattr(sample(error), fact)] == []


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_survives_pickling(error: type[TenancyError]) -> None:
    made = sample(error)
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is error
    assert str(again) == str(made)
    assert again.args == made.args
    assert vars(again) == vars(made)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_says_what_it_means(error: type[TenancyError]) -> None:
    assert (error.__dict__.get("__doc__") or "").strip()
    assert str(sample(error)).strip()
