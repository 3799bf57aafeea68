"""django-tenants: a schema for each tenant, in a minimal project as its documentation sets one up.

One connection stays open (``CONN_MAX_AGE=None``), as the other libraries' pools keep one. ``other`` and ``beside`` are
the same database through a pooler, as two more processes would have it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import make_url

from benchmarks.attacked.orm import raw_execute
from benchmarks.attacked.subject import Address, Handles, fetched, quoted

_MODELS = {
    "customers": """\
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    name = models.CharField(max_length=100)


class Domain(DomainMixin):
    pass
""",
    "shop": """\
from django.db import models


class Note(models.Model):
    body = models.TextField()

    class Meta:
        db_table = "note"
""",
}
_PROCESSES = ("default", "other", "beside")


def _set_up(url: str) -> None:
    """Write the project, configure Django with it, and migrate what tenants share."""
    folder = Path(tempfile.mkdtemp(prefix="mt_paas_bench_"))
    for app, models in _MODELS.items():
        (folder / app / "migrations").mkdir(parents=True)
        for package in (folder / app, folder / app / "migrations"):
            (package / "__init__.py").touch()
        (folder / app / "models.py").write_text(models)
    sys.path.insert(0, str(folder))
    shared, tenants = ["django_tenants", "django.contrib.contenttypes", "customers"], ["shop"]
    import_module("django.conf").settings.configure(
        SECRET_KEY="not-a-secret",
        DATABASES={name: _database(url) for name in _PROCESSES},
        DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"],
        SHARED_APPS=shared,
        TENANT_APPS=tenants,
        INSTALLED_APPS=shared + tenants,
        TENANT_MODEL="customers.Client",
        TENANT_DOMAIN_MODEL="customers.Domain",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    import_module("django").setup()
    call_command = import_module("django.core.management").call_command
    call_command("makemigrations", "customers", "shop", verbosity=0)
    call_command("migrate_schemas", shared=True, verbosity=0)


def _database(url: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    parts = make_url(url)
    return {
        "ENGINE": "django_tenants.postgresql_backend", "NAME": parts.database, "USER": parts.username,
        "PASSWORD": parts.password, "HOST": parts.host, "PORT": str(parts.port), "CONN_MAX_AGE": None,
        "OPTIONS": options or {},
    }  # fmt: skip


class DjangoSession:
    """Django's connection, which is the thread's, as `subject.Session` has it."""

    def __init__(self, connection: Any, alias: str) -> None:
        self._connection = connection
        self._alias = alias
        self._notes = import_module("shop.models").Note.objects.using(alias)

    def run(self, statement: str) -> list[str]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return fetched(cursor)

    def raw(self, statement: str) -> list[str]:
        self._connection.ensure_connection()
        return raw_execute(self._connection.connection, statement)

    def kept(self) -> Callable[[str], list[str]]:
        cursor = self._connection.cursor()

        def execute(statement: str) -> list[str]:
            cursor.execute(statement)
            return fetched(cursor)

        return execute

    def notes(self) -> list[str]:
        return list(self._notes.all().values_list("body", flat=True))

    def first(self, *, deferred: bool) -> Any:
        notes = self._notes.order_by("id")
        return (notes.only("id") if deferred else notes).first()

    def save(self, note: Any) -> None:
        note.save()

    def attempt(self, statement: str) -> None:
        atomic = import_module("django.db.transaction").atomic
        try:
            with atomic(self._alias), atomic(self._alias):
                self.run(statement)
        except import_module("django.db.utils").Error:
            return

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()


class DjangoTenants:
    filters = False
    disclaims: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: str, options: dict[str, Any], alias: str = "default") -> None:
        if alias == "default":
            _set_up(url)
        self._url, self._options, self._alias = url, options, alias
        self._twins = iter(_PROCESSES[1:])
        self._utils = import_module("django_tenants.utils")
        self._connections = import_module("django.db").connections
        core = import_module("django.core.exceptions")
        self.answers: tuple[type[BaseException], ...] = (
            import_module("django.db.utils").Error, core.ValidationError, core.ObjectDoesNotExist,
            import_module("psycopg").Error,
        )  # fmt: skip

    def create(self, tenant: str) -> None:
        self._utils.get_tenant_model()(schema_name=tenant, name=tenant).save(verbosity=0)

    def delete(self, tenant: str) -> None:
        self._utils.get_tenant_model().objects.get(schema_name=tenant).delete(force_drop=True)

    @contextmanager
    def session(self, tenant: str) -> Iterator[DjangoSession]:
        with self._utils.schema_context(tenant, database=self._alias):
            yield DjangoSession(self._connections[self._alias], self._alias)

    @contextmanager
    def nobody(self) -> Iterator[DjangoSession]:
        yield DjangoSession(self._connections[self._alias], self._alias)

    @contextmanager
    def pool_connection(self) -> Iterator[Callable[[str], list[str]]]:
        self._connections[self._alias].ensure_connection()
        yield lambda statement: raw_execute(self._connections[self._alias].connection, statement)

    def address(self, tenant: str) -> Address:
        return Address(f"{quoted(tenant)}.note")

    def handles(self, tenant: str) -> Handles:
        return Handles(schema=tenant)

    def look_alikes(self, tenant: str) -> list[str]:
        return []

    def twin(self, url: str, options: dict[str, Any]) -> DjangoTenants:
        alias = next(self._twins)
        self._connections[alias].settings_dict.update(_database(url, options))
        return DjangoTenants(url, options, alias)

    def refresh(self) -> None:
        self._connections[self._alias].close()
