"""Serves `/metrics` over HTTP on loopback: a few threads, one look at the database at a time, clean on Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any

from mt_paas_db.cli.text import printable
from mt_paas_db.errors import ConfigurationError, TenancyError
from mt_paas_db.telemetry.exposition import CONTENT_TYPE

MOST_REQUESTS = 8
"""Requests under way at once; one more is answered 503. A Prometheus sends one at a time."""

_REQUEST_TIMEOUT_S = 10.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a request under way keeps no Ctrl-C waiting
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], text: Callable[[], str]) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        self.room = threading.BoundedSemaphore(MOST_REQUESTS)
        self._text = text
        self._asking = threading.Lock()
        super().__init__(address, _Handler)

    def text(self) -> str:
        """Return the metrics, asking the database for one request at a time."""
        with self._asking:
            return self._text()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a request where there is room, and refuse it where there is none."""
        if not self.room.acquire(blocking=False):
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT_S
    server_version = "mt-paas-db"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "the metrics are at /metrics\n")
            return
        try:
            text = self.server.text()
        except Exception as error:  # whatever it was: the next scrape may succeed
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"error: {printable(line)}", file=sys.stderr)
            said = line if isinstance(error, TenancyError) else "the metrics could not be read; see stderr"
            self._answer(500, f"{said}\n")
            return
        self._answer(200, text, CONTENT_TYPE)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, code: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Scrapes are not logged."""


def serve(host: str, port: int, text: Callable[[], str]) -> None:
    """Serve what `text` returns until Ctrl-C; says on stderr where. Raises `ConfigurationError` for a port in use."""
    try:
        server = _Server((host, port), text)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from error
    with server:
        shown = f"[{host}]" if ":" in host else host
        print(f"serving http://{shown}:{server.server_address[1]}/metrics; Ctrl-C ends it", file=sys.stderr, flush=True)
        server.serve_forever(poll_interval=0.2)
