"""A server that is not ours."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import psycopg
import pytest
from sqlalchemy import make_url

from tests.servers.postgres import PostgresServer


class ExternalServer(PostgresServer):
    """The server of ``MT_PAAS_TEST_DSN``, which we neither start nor stop."""

    def __init__(self, dsn: str) -> None:
        super().__init__(None)
        self._url = make_url(dsn).set(drivername="postgresql")
        self.port = self._url.port or 5432

    @property
    def version(self) -> str:
        """What the server says it is. Raises `psycopg.OperationalError` where it does not answer."""
        with psycopg.connect(self._url.render_as_string(hide_password=False), connect_timeout=5) as connection:
            return str(connection.info.parameter_status("server_version"))

    def dsn(self, database: str = "postgres", *, user: str | None = None, password: str | None = None) -> str:
        url = self._url.set(database=database)
        if user is not None:
            url = url.set(username=user, password=password)
        return url.render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start(self) -> None:
        pytest.skip("the server of MT_PAAS_TEST_DSN is not ours to start")

    def shut_down(self, *, immediately: bool = False) -> None:
        pytest.skip("the server of MT_PAAS_TEST_DSN is not ours to stop")
