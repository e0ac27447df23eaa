"""What workers serve over HTTP: ``/metrics`` for Prometheus, ``/livez`` and ``/readyz`` for whoever restarts and routes.

Guarantees: only GET and HEAD of these three; every answer comes within a few seconds, whichever tier is away; that of
``/livez`` waits for no tier and for no other request. A connection that has not asked after `ASKING_SECONDS`, or not ended
after `LONGEST_SECONDS`, is closed, however its client drips; `LINE` are open at once, and the next one takes the place of
the oldest that has not asked. `MOST` requests look at the tiers or wait for that look; others are told to come again (503).
No session key, owner, message or secret is in an answer.

Assumes that only the inside network reaches it: it asks nobody who they are.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from socketserver import TCPServer
from typing import Any

from sessioncache.addresses import http_address
from sessioncache.config import Settings
from sessioncache.errors import ConfigurationError
from sessioncache.reports import Report
from workers.probe import Probe, Sight

log = logging.getLogger("workers.endpoint")

ASKING_SECONDS = 2.0
LONGEST_SECONDS = 15.0
# How often, in seconds, it is seen whose time is over.
TURN_SECONDS = 0.2
MOST = 8
LINE = 64
# How many may knock while one is let in: a client of which the system drops the knock tries again a second later.
KNOCKING = 512
JSON = "application/json"

Answer = tuple[HTTPStatus, str, bytes]


class Endpoint:
    """Answers requests in threads of its own, until it is closed.

    Raises:
        ConfigurationError: the address cannot be served, or the package prometheus-client is missing.
    """

    def __init__(
        self, settings: Settings, alive: Callable[[], dict[str, str]], own: Callable[[Sequence[Report]], list[Report]]
    ) -> None:
        """``alive``: what is wrong with the supervisor, by name; ``own``: its report and, of those given, its workers'."""
        self._settings, self._alive, self._own = settings, alive, own
        self._prometheus = import_module("sessioncache.prometheus")
        self._server = _server(settings.http, self._answer)
        self._probe, self._looking = Probe(settings), threading.Semaphore(MOST)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(TURN_SECONDS,), name="endpoint")
        self._thread.start()
        host, port = self._server.server_address[:2]
        log.info("metrics, liveness and readiness on http://%s:%d", f"[{host!s}]" if ":" in str(host) else host, port)

    def close(self) -> None:
        """Answer what was asked, and end."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._probe.close()

    def _answer(self, path: str) -> Answer:
        match path.partition("?")[0]:
            case "/metrics":
                return self._looked(lambda sight: (HTTPStatus.OK, self._prometheus.CONTENT_TYPE, self._metrics(sight)))
            case "/livez":
                return _verdict("alive", self._alive())
            case "/readyz":
                return self._looked(lambda sight: _verdict("ready", self._not_ready(sight)))
        return HTTPStatus.NOT_FOUND, JSON, b'{"paths": ["/metrics", "/livez", "/readyz"]}\n'

    def _looked(self, answer: Callable[[Sight], Answer]) -> Answer:
        """What is answered after a look at the tiers; a refusal where too many wait for one."""
        if not self._looking.acquire(blocking=False):
            return _verdict("ready", {"endpoint": "Too many ask at once, and a tier is slow to answer; ask again."})
        try:
            return answer(self._probe.look())
        finally:
            self._looking.release()

    def _metrics(self, sight: Sight) -> bytes:
        own = self._own(sight.processes or [])
        processes = [self._prometheus.Process(one.name, one.counters, one.histograms) for one in own]
        found = [
            *self._prometheus.process_metrics("process", processes),
            *self._prometheus.system_metrics(sight.values, sight.kinds(), sight.tiers),
        ]
        exposed: bytes = self._prometheus.exposition(found)
        return exposed

    def _not_ready(self, sight: Sight) -> dict[str, str]:
        lag, bound = sight.values.get("oldest_pending_seconds", 0.0), self._settings.ready_lag
        late = {"lag": f"The oldest op has waited for SQL for {lag:.1f} s, longer than ready_lag ({bound:g} s)."}
        return {**sight.wrong, **(late if lag > bound else {})}


def _verdict(name: str, wrong: Mapping[str, str]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
    return status, JSON, json.dumps({name: not wrong, "wrong": wrong}).encode() + b"\n"


def _server(address: str, answer: Callable[[str], Answer]) -> _Server:
    host, port = http_address(address)
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _Server(family, where[:2], answer)
    except OSError as error:
        raise ConfigurationError(f"http cannot be served on {address}: {error.strerror}; give it a free port.") from error


@dataclass(slots=True, eq=False)
class _Client:
    """A connection that is open: since when (monotonic seconds), and whether its request has come."""

    socket: socket.socket
    since: float = field(default_factory=time.monotonic)
    asked: bool = False

    def is_over(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() - self.since > (LONGEST_SECONDS if self.asked else ASKING_SECONDS)


class _Server(TCPServer):
    """Serves `LINE` connections, each in a thread, and closes those whose time is over."""

    def __init__(self, family: socket.AddressFamily, where: Any, answer: Callable[[str], Answer]) -> None:
        self.address_family, self.allow_reuse_address = family, True
        self.request_queue_size, self._answer = KNOCKING, answer
        # Those that lost their place to others may still look at the tiers.
        self._pool = ThreadPoolExecutor(LINE + MOST, thread_name_prefix="endpoint")
        self._open: dict[socket.socket, _Client] = {}
        super().__init__(where, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, in the place of another where there is none."""
        while len(self._open) >= LINE:
            self._end(min(self._clients(), key=lambda one: (one.asked, one.since)))
        self._open[request] = _Client(request)
        self._pool.submit(self._serve, request, client_address)

    def answer(self, request: socket.socket, path: str) -> Answer:
        """What a client that has asked is told."""
        client = self._open.get(request)
        if client:
            client.asked = True
        return self._answer(path)

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("a client went away: %s", type(error).__name__)
        except Exception:
            log.exception("a request could not be answered")
        finally:
            self._open.pop(request, None)
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Several times a second: end connections whose time is over."""
        for client in self._clients():
            if client.is_over():
                self._end(client)

    def server_close(self) -> None:
        """End connections, and wait for the threads."""
        super().server_close()
        for client in self._clients():
            self._end(client)
        self._pool.shutdown()

    def _clients(self) -> list[_Client]:
        return list(self._open.values())

    def _end(self, client: _Client) -> None:
        """Give its place away; its thread finds it closed."""
        self._open.pop(client.socket, None)
        _shut(client.socket)


def _shut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("a connection had ended by itself")


class _Handler(BaseHTTPRequestHandler):
    """One request for each connection."""

    timeout = 5.0
    server_version, sys_version = "sessioncache", ""

    def do_GET(self) -> None:
        """Answer."""
        self._send(body=True)

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        status, kind, content = self.server.answer(self.connection, self.path)  # type: ignore[attr-defined]  # it is a _Server
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Requests are told of at DEBUG alone."""
        log.debug(format, *args)
