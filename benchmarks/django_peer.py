"""django-tenants: a minimal project in a temporary folder, with the same tables and the same change.

It runs in an environment of its own; `benchmarks.django_worker` is the other side. Each order is a process, and what it
times is the command alone, without Python's and Django's start.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from psycopg import sql
from sqlalchemy import make_url

from benchmarks.fleet_history import UNDO
from benchmarks.peers import python_with
from benchmarks.raw_libpq import Libpq
from tests.fleet import Service
from tests.servers import PostgresServer

VERSIONS = {"django-tenants": "4.0.1", "django": "5.2"}

_REPOSITORY = Path(__file__).resolve().parent.parent

_SETTINGS = """\
SECRET_KEY = "not-a-secret"
USE_TZ = True
DATABASES = {{"default": {database!r}}}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
SHARED_APPS = ["django_tenants", "django.contrib.contenttypes", "customers"]
TENANT_APPS = ["shop"]
INSTALLED_APPS = SHARED_APPS + TENANT_APPS
TENANT_MODEL = "customers.Client"
TENANT_DOMAIN_MODEL = "customers.Domain"
TENANT_MULTIPROCESSING_MAX_PROCESSES = {jobs}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

_CUSTOMERS = """\
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    name = models.CharField(max_length=100)


class Domain(DomainMixin):
    pass
"""

_SHOP = """\
import os

from django.db import models
from django.db.models.functions import Now

CHANGED = os.environ["STAGE"] == "2"


def table(number):
    name = f"t{{number:02}}"
    fields = {{
        "__module__": __name__,
        "title": models.CharField(max_length=200),
        "body": models.TextField(),
        "created_at": models.DateTimeField(db_default=Now()),
    }}
    options = {{"app_label": "shop", "db_table": name}}
    if number:
        fields["parent"] = models.ForeignKey(f"T{{number - 1:02}}", models.PROTECT, null=True)
    elif CHANGED:
        fields["note"] = models.CharField(max_length=200, null=True)
        options["indexes"] = [models.Index(fields=["note"], name="t00_note")]
    fields["Meta"] = type("Meta", (), options)
    return type(name.upper(), (models.Model,), fields)


for number in range({tables}):
    table(number)
"""


def django_python() -> Path:
    """Return the interpreter of django-tenants' environment. Raises `LookupError` where it cannot be had."""
    packages = {**VERSIONS, "psycopg[binary]": metadata.version("psycopg")}
    return python_with([f"{name}=={version}" for name, version in packages.items()])


@dataclass
class DjangoTenants:
    """The project, in a database of its own on the same server. `schemas` are its tenants'."""

    python: Path
    folder: Path
    server: PostgresServer
    database: str
    jobs: int
    stage: int
    schemas: list[str] = field(default_factory=list)

    @classmethod
    def begin(
        cls, python: Path, folder: Path, service: Service, *, tables: int, jobs: int, stage: int = 1
    ) -> DjangoTenants:
        """Write the project, and migrate what its tenants share. At stage 2 its models have the change already."""
        database = f"{service.name}_django"
        with service.superuser("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        peer = cls(python, folder, service.server, database, jobs, stage)
        url = make_url(service.server.dsn(database))
        options = {"ENGINE": "django_tenants.postgresql_backend", "NAME": database, "USER": url.username,
                   "HOST": url.host, "PORT": str(url.port)}  # fmt: skip
        files = {
            "project.py": _SETTINGS.format(database=options, jobs=jobs),
            "customers/models.py": _CUSTOMERS,
            "shop/models.py": _SHOP.format(tables=tables),
        }
        for name, body in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body)
        for app in ("customers", "shop"):
            (folder / app / "migrations").mkdir()
            for package in (folder / app, folder / app / "migrations"):
                (package / "__init__.py").touch()
        peer._do("begin")
        return peer

    def create(self, number: int) -> list[float]:
        """Make `number` more tenants with all tables, one after the other; return the seconds of each."""
        names = [f"tenant{len(self.schemas) + n:04}" for n in range(number)]
        took_s: list[float] = self._do("create", names=names)
        self.schemas += names
        return took_s

    def change(self) -> None:
        """Write the migration of the change."""
        self.stage = 2
        self._do("change")

    def migrate(self, executor: str) -> float:
        """Run ``migrate_schemas`` for all tenants; return the seconds it took."""
        took_s: float = self._do("migrate", executor=executor)
        return took_s

    def reset(self) -> None:
        """Undo the change. Raises `RuntimeError` where a tenant does not have it."""
        forget = "DELETE FROM django_migrations WHERE app = 'shop' AND name LIKE '0002%'"
        messages = [f'BEGIN; SET LOCAL search_path = "{schema}"; {UNDO}; {forget}; COMMIT' for schema in self.schemas]
        with Libpq(self.server.dsn(self.database), jobs=self.jobs) as libpq:
            libpq.send(messages)

    def _do(self, what: str, **details: Any) -> Any:
        done = subprocess.run(
            [self.python, "-m", "benchmarks.django_worker", json.dumps({"do": what, **details})],
            cwd=self.folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, self._path())), "STAGE": str(self.stage)},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"django-tenants could not {what}:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def _path(self) -> Sequence[Path]:
        return (self.folder, _REPOSITORY)
