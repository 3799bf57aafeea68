"""The raw limit: messages of the simple protocol, sent by bare libpq from as many threads as connections.

libpq waits without Python's lock, and the text is made before, so that between two messages there is next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from psycopg import pq


class Libpq:
    """Connections that `first` was sent on. Close them by ``with``."""

    def __init__(self, dsn: str, *, jobs: int, first: str = "") -> None:
        self._connections: list[pq.abc.PGconn] = [pq.PGconn.connect(dsn.encode()) for _ in range(jobs)]
        for connection in self._connections:
            if connection.status != pq.ConnStatus.OK:
                raise RuntimeError(connection.get_error_message())
            if first:
                _execute(connection, first.encode())

    def __enter__(self) -> Libpq:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.finish()

    def send(self, messages: Sequence[str]) -> float:
        """Send all messages, each connection the next one that is left; return the seconds it took.

        Raises `RuntimeError` with what the server said of the first that failed.
        """
        todo: SimpleQueue[bytes] = SimpleQueue()
        for message in messages:
            todo.put(message.encode())
        failures: list[Exception] = []
        threads = [threading.Thread(target=_work, args=(c, todo, failures)) for c in self._connections]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - began
        if failures:
            raise failures[0]
        return took_s


def _work(connection: pq.abc.PGconn, todo: SimpleQueue[bytes], failures: list[Exception]) -> None:
    try:
        while not failures:
            _execute(connection, todo.get_nowait())
    except Empty:
        return
    except Exception as error:
        failures.append(error)


def _execute(connection: pq.abc.PGconn, message: bytes) -> None:
    result = connection.exec_(message)
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY):
        raise RuntimeError(f"{result.get_error_message()}\nin: {message.decode()[:500]}")
