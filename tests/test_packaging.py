"""What users get: the wheel's contents, its work in an environment that has nothing else, and the cost of an import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mt_paas_db
from tests.fleet import Service

ROOT = Path(__file__).resolve().parents[1]

# What pip prints when it cannot reach the index at all, as opposed to not finding something there.
OUT_OF_REACH = re.compile(r"connection broken by|Failed to establish a new connection|Name or service not known")

# The core of the demo, as a user's script: two tenants, rows in each, and a look at the neighbour's.
SCRIPT = """
import json, sys
from pathlib import Path

import mt_paas_db
from mt_paas_db import TenantManager, configure, tenant_session
from sqlalchemy import Identity, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    body: Mapped[str]

manager = configure(TenantManager(models=Base))
manager.init()
schemas = {name: manager.create(name).placement.schema_name for name in ("hallym", "korea")}
for name in schemas:
    with tenant_session(name) as session:
        session.add(Note(body=f"written by {name}"))
read = {}
for name in schemas:
    with tenant_session(name) as session:
        read[name] = list(session.scalars(select(Note.body)))
try:
    with tenant_session("hallym") as session:
        refused = session.execute(text(f'SELECT body FROM "{schemas["korea"]}".note')).all()
except ProgrammingError as error:
    refused = error.orig.sqlstate
manager.close()
json.dump({
    "from": str(Path(mt_paas_db.__file__).parent),
    "version": mt_paas_db.__version__,
    "read": read,
    "refused": str(refused),
}, sys.stdout)
"""


def quietly(command: list[str | Path], **options: object) -> str:
    """Run `command` and return its output; raises with both streams when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    printed: str = done.stdout
    return printed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, so that this one is whole too."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package, reason="the dev dependency group is not installed")
    folder = tmp_path_factory.mktemp("dist")
    quietly([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    quietly([sys.executable, "-m", "venv", folder])
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", f"mt_paas_db[binary] @ {wheel.as_uri()}"], capture_output=True, text=True
    )
    if done.returncode and OUT_OF_REACH.search(done.stderr):
        pytest.skip("the package index is out of reach")
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.packaging
def test_the_wheel_carries_the_package_its_sql_and_its_migrations(wheel: Path) -> None:
    resources = "mt_paas_db/_resources"
    places = {"mt_paas_db": "mt_paas_db", "sql": f"{resources}/sql", "migrations": f"{resources}/migrations"}
    expected = {
        f"{place}/{path.relative_to(ROOT / folder)}"
        for folder, place in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "mt_paas_db/py.typed" in expected
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected


@pytest.mark.packaging
def test_the_wheel_serves_tenants_from_an_empty_environment(
    clean_python: Path, service: Service, tmp_path: Path
) -> None:
    script = tmp_path / "service.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MT_PAAS_", "PYTHON", "COV"))}
    # -P: nothing of the folder it runs in is importable, and so nothing of the checkout.
    printed = quietly([clean_python, "-P", script], cwd=tmp_path, env=environment | service.environment())
    said = json.loads(printed)
    assert Path(said["from"]).is_relative_to(clean_python.parents[1])
    assert said["version"] == mt_paas_db.__version__
    assert said["read"] == {"hallym": ["written by hallym"], "korea": ["written by korea"]}
    assert said["refused"] == "42501", "insufficient_privilege was expected from the server"


def test_an_import_loads_no_driver_no_orm_and_no_command_line() -> None:
    modules = quietly([sys.executable, "-c", "import sys, mt_paas_db; print(*sys.modules)"], cwd=ROOT).split()
    assert "mt_paas_db" in modules
    heavy = {"sqlalchemy", "alembic", "typer", "rich", "click", "psycopg", "asyncpg", "pydantic"}
    assert heavy & set(modules) == set()


def test_every_public_name_is_there() -> None:
    assert set(mt_paas_db.__all__) == {*mt_paas_db._HOME, "__version__"}
    for name in mt_paas_db.__all__:
        assert getattr(mt_paas_db, name) is not None
    assert set(mt_paas_db.__all__) <= set(dir(mt_paas_db))


def test_type_checkers_see_the_public_names() -> None:
    """The names are loaded lazily, so that only the ``if TYPE_CHECKING`` block tells a type checker of them."""
    told = re.findall(r"^    from (\S+) import (\w+) as \2$", Path(mt_paas_db.__file__).read_text(), re.MULTILINE)
    assert {name: home for home, name in told} == mt_paas_db._HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tenant_sesion'"):
        mt_paas_db.tenant_sesion  # noqa: B018


def test_an_index_out_of_reach_is_recognised(tmp_path: Path) -> None:
    """On a port nobody listens on; a package that an index does not have must not look the same."""
    pip = [sys.executable, "-m", "pip", "--isolated", "download", "--no-deps", "--dest", str(tmp_path)]
    unreachable = subprocess.run(
        [*pip, "--retries", "1", "--index-url", "http://127.0.0.1:9/simple", "greenlet"], capture_output=True, text=True
    )
    absent = subprocess.run(
        [*pip, "--no-index", "--find-links", str(tmp_path), "greenlet"], capture_output=True, text=True
    )
    assert (unreachable.returncode, absent.returncode) == (1, 1)
    assert OUT_OF_REACH.search(unreachable.stderr)
    assert not OUT_OF_REACH.search(absent.stderr)


@pytest.mark.packaging
def test_the_command_says_which_extra_it_lacks(clean_python: Path) -> None:
    done = subprocess.run([clean_python.with_name("mt-paas-db"), "init"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "mt_paas_db[cli]" in done.stderr
    assert "Traceback" not in done.stderr
