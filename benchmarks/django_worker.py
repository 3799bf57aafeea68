"""Carries out one order in django-tenants' environment; imports nothing of ours. Prints one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any


def begin() -> None:
    """Make the first migrations, and migrate the shared schema."""
    from django.core.management import call_command  # type: ignore[import-not-found]

    call_command("makemigrations", "customers", "shop", verbosity=0)
    call_command("migrate_schemas", shared=True, verbosity=0)


def change() -> None:
    """Make the migration of what the models have got since."""
    from django.core.management import call_command

    call_command("makemigrations", "shop", verbosity=0)


def create(names: Sequence[str]) -> list[float]:
    """Make tenants, each with its schema and tables."""
    from django_tenants.utils import get_tenant_model  # type: ignore[import-not-found]

    took_s = []
    for name in names:
        began = time.perf_counter()
        get_tenant_model()(schema_name=name, name=name).save(verbosity=0)
        took_s.append(time.perf_counter() - began)
    return took_s


def migrate(executor: str) -> float:
    """Migrate all tenants."""
    from django.core.management import call_command

    began = time.perf_counter()
    call_command("migrate_schemas", tenant=True, executor=executor, verbosity=0)
    return time.perf_counter() - began


def main(order: dict[str, Any]) -> Any:
    """Set Django up, and do what the order says."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "project"
    import django  # type: ignore[import-not-found]

    django.setup()
    work = {"begin": begin, "change": change, "create": create, "migrate": migrate}[order.pop("do")]
    return work(**order)  # type: ignore[operator]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
