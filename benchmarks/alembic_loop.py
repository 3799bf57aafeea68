"""Stock Alembic, one schema after the other: ``alembic.command.upgrade`` for each, as its cookbook shows it."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence

from alembic import command
from alembic.config import Config
from sqlalchemy import make_url


def upgrade_each(location: str, dsn: str, schemas: Sequence[str]) -> list[float]:
    """Upgrade each schema to the head, all in this process; return the seconds that each took."""
    config = Config()
    url = make_url(dsn).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    config.set_main_option("script_location", location)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    took_s = []
    for schema in schemas:
        config.cmd_opts = Namespace(x=[f"schema={schema}"])
        began = time.perf_counter()
        command.upgrade(config, "head")
        took_s.append(time.perf_counter() - began)
    return took_s
