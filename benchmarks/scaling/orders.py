"""What a loading process can be told to do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from benchmarks.scaling.churn import admin_of, churn
from benchmarks.scaling.doors import Way, open_way
from benchmarks.scaling.load import Picks, Sample, closed_loop, open_loop
from benchmarks.scaling.visits import Clients
from mt_paas_db.core import TenantManager


class Orders:
    """One way at a time: `open` it, load it, `close` it. Its connections stay open in between.

    Another process may `open_admin` instead, and let tenants come and go, or `open_clients`, which visit them.
    """

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._way: Way | None = None
        self._admin: TenantManager | None = None
        self._clients: Clients | None = None

    def open(self, spec: Mapping[str, Any]) -> None:
        self._way = open_way(spec)

    def close(self) -> None:
        if self._way is not None:
            self._runner.run(self._way.close())
            self._way = None

    def closed_loop(self, picks: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return self._loaded(closed_loop(self._opened, Picks(**picks), **options))

    def open_loop(self, picks: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return self._loaded(open_loop(self._opened, Picks(**picks), **options))

    def open_admin(self, spec: Mapping[str, Any]) -> None:
        self._admin = admin_of(spec)

    def churn(self, **options: Any) -> dict[str, Any]:
        assert self._admin is not None
        return churn(self._admin, **options).as_dict()

    def open_clients(self, spec: Mapping[str, Any]) -> None:
        self._clients = Clients(spec)

    def visit(self, **options: Any) -> dict[str, Any]:
        assert self._clients is not None
        return self._runner.run(self._clients.visit(**options)).as_dict()

    def close_clients(self) -> None:
        if self._clients is not None:
            self._runner.run(self._clients.close())

    @property
    def _opened(self) -> Way:
        assert self._way is not None
        return self._way

    def _loaded(self, load: Coroutine[Any, Any, Sample]) -> dict[str, Any]:
        return self._runner.run(load).as_dict()
