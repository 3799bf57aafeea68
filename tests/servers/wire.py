"""A TCP proxy before PostgreSQL or PgBouncer that counts round trips on the wire.

What is a round trip? The conversation goes in turns: the client sends, then waits, the server answers. One
round trip is one turn of the client: all messages that it sends until it has got everything it asked for.
So Parse, Bind, Describe, Execute and Sync sent together are one, as is one Query with five statements in
it, and a pipeline of several Syncs that no answer is waited for in between; whereas a BEGIN that is answered
before the next statement is sent is one of its own.

"Everything it asked for" is read off the protocol (PostgreSQL's "Message Formats"), not off the timing of
packets: Query, Sync and FunctionCall are each owed a ReadyForQuery; a Flush, a request for a password and
the start of a COPY from the client are answered by any message. What a server sends unasked (notices,
parameter changes) begins no turn, nor does a message that arrives in several packets. A client that sends
on when all is answered is taken to have waited.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.servers.processes import free_port

_TLS_OR_GSS = frozenset({80877103, 80877104})
_OWED_READY = frozenset({"Q", "S", "F"})
_ASKS_THE_CLIENT = frozenset({"R", "G", "W"})  # Authentication..., CopyInResponse, CopyBothResponse


@dataclass
class Count:
    """What went over the wire.

    Attributes:
        turns: The client's turns, each as the type letters of its messages: ``["Q", "PBDES", "Q"]``.
        ready: How many ReadyForQuery the server sent.
    """

    turns: list[str] = field(default_factory=list)
    ready: int = 0

    @property
    def round_trips(self) -> int:
        return len(self.turns)


class Wire:
    """The proxy, on a free loopback port; `upstream` is the server's port. Use it by ``with``.

    `alter` changes what clients send, to the same length: a pooler that does something wrong.
    """

    def __init__(self, upstream: int, *, alter: Callable[[bytes], bytes] = bytes) -> None:
        self.port = free_port()
        self._alter = alter
        self._upstream = upstream
        self._counts: list[Count] = []
        self._fault: str | None = None
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @contextmanager
    def counting(self) -> Iterator[Count]:
        """Count what goes over all connections during the block.

        A message is counted before it is passed on, so that what the client has an answer to is counted.
        Raises `RuntimeError` where a connection could not be read, as one with TLS.
        """
        count = Count()
        self._counts.append(count)
        try:
            yield count
        finally:
            self._counts.remove(count)
        if self._fault is not None:
            raise RuntimeError(self._fault)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self._started.set()
        await self._stop.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        talk = Conversation(self)
        pumps = [
            asyncio.ensure_future(_pump(reader, upstream_writer, talk.from_client, self._alter)),
            asyncio.ensure_future(_pump(upstream_reader, writer, talk.from_server)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # the proxy stops
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            writer.close()
            upstream_writer.close()

    def turn_begins(self) -> None:
        for count in self._counts:
            count.turns.append("")

    def client_sends(self, letter: str) -> None:
        for count in self._counts:
            if count.turns:
                count.turns[-1] += letter

    def server_is_ready(self) -> None:
        for count in self._counts:
            count.ready += 1

    def cannot_read(self, why: str) -> None:
        self._fault = why


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    look: Callable[[bytes], None],
    alter: Callable[[bytes], bytes] = bytes,
) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            look(data)
            writer.write(alter(data))
            await writer.drain()


class Conversation:
    """One connection: cuts both streams into messages and says whose turn it is."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._started = False  # before the startup message, messages carry no type letter
        self._asked_for_tls = False
        self._owed = 0
        self._flushed = False
        self._client_may_send = True

    def from_client(self, data: bytes) -> None:
        self._from_client += data
        for letter in self._client_letters():
            if self._client_may_send:
                self._client_may_send = False
                self._wire.turn_begins()
            self._wire.client_sends(letter)
            self._owed += letter in _OWED_READY
            self._flushed = letter == "H" or (self._flushed and letter not in _OWED_READY)

    def from_server(self, data: bytes) -> None:
        if self._asked_for_tls:
            self._asked_for_tls = False
            if data[:1] != b"N":
                self._wire.cannot_read("the server speaks TLS or GSS; let the client ask for sslmode=disable")
            data = data[1:]
            self._client_may_send = True
        self._from_server += data
        for letter in _letters(self._from_server):
            if letter == "Z":
                self._owed = max(0, self._owed - 1)
                self._wire.server_is_ready()
            if self._owed == 0 or self._flushed or letter in _ASKS_THE_CLIENT:
                self._client_may_send = True

    def _client_letters(self) -> Iterator[str]:
        buffer = self._from_client
        while not self._started and len(buffer) >= 8:
            length, code = int.from_bytes(buffer[:4]), int.from_bytes(buffer[4:8])
            if len(buffer) < length:
                return
            del buffer[:length]
            self._asked_for_tls = code in _TLS_OR_GSS
            self._started = not self._asked_for_tls
            yield "?"
        if self._started:
            yield from _letters(buffer)


def _letters(buffer: bytearray) -> Iterator[str]:
    """Take whole messages off `buffer` and yield their type letters."""
    while len(buffer) >= 5:
        length = 1 + int.from_bytes(buffer[1:5])
        if len(buffer) < length:
            return
        letter = chr(buffer[0])
        del buffer[:length]
        yield letter
