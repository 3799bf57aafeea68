"""What a loading process can be told to do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from benchmarks.scaling.doors import Way, open_way
from benchmarks.scaling.load import Picks, Sample, closed_loop, open_loop


class Orders:
    """One way at a time: `open` it, load it, `close` it. Its connections stay open in between."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._way: Way | None = None

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

    @property
    def _opened(self) -> Way:
        assert self._way is not None
        return self._way

    def _loaded(self, load: Coroutine[Any, Any, Sample]) -> dict[str, Any]:
        return self._runner.run(load).as_dict()
