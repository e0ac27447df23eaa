"""A Redis that gives trouble: stands in front of a real one and answers as it is told, or not at all."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
import weakref
from collections.abc import Callable

from proxy import Proxy

# What becomes of a request: called with the client's and the server's socket and the request; False ends the connection.
Trouble = Callable[[socket.socket, socket.socket, bytes], bool]


class Rung(Exception):
    """What a handler of signals may raise, wherever it interrupts."""


def answers(reply: str) -> Trouble:
    """An error reply; nothing is executed."""

    def trouble(client: socket.socket, _server: socket.socket, _request: bytes) -> bool:
        client.sendall(f"{reply}\r\n".encode())
        return True

    return trouble


def cut_before(_client: socket.socket, _server: socket.socket, _request: bytes) -> bool:
    """The connection ends; nothing is executed."""
    return False


def cut_after(_client: socket.socket, server: socket.socket, request: bytes) -> bool:
    """It is executed, and the connection ends without a reply."""
    _executed(server, request)
    return False


def half(client: socket.socket, server: socket.socket, request: bytes) -> bool:
    """It is executed; half of the reply comes, then the connection ends."""
    reply = _executed(server, request)
    client.sendall(reply[: len(reply) // 2])
    return False


def never(_client: socket.socket, _server: socket.socket, _request: bytes) -> bool:
    """Nothing is executed, nothing comes, and the connection stays."""
    return True


class Late:
    """It is executed; half of the reply comes, the rest when it is asked for on the same connection, or never."""

    def __init__(self) -> None:
        self.rest: weakref.WeakKeyDictionary[socket.socket, bytes] = weakref.WeakKeyDictionary()

    def __call__(self, client: socket.socket, server: socket.socket, request: bytes) -> bool:
        if client not in self.rest:
            reply = _executed(server, request)
            self.rest[client] = reply[len(reply) // 2 :]
            client.sendall(reply[: len(reply) // 2])
        else:
            with contextlib.suppress(OSError):
                client.sendall(self.rest[client])
        return True


def trickle(client: socket.socket, server: socket.socket, request: bytes) -> bool:
    """It is executed; the reply comes byte by byte, each of them in good time, for longer than anybody waits."""
    for byte in _executed(server, request):
        client.sendall(bytes([byte]))
        time.sleep(0.1)
    return False


def tardy(client: socket.socket, server: socket.socket, request: bytes) -> bool:
    """It is executed; the reply comes late, but not too late."""
    time.sleep(0.3)
    client.sendall(_executed(server, request))
    return True


def _executed(server: socket.socket, request: bytes) -> bytes:
    server.sendall(request)
    return server.recv(1 << 20)


class TroubledRedis(Proxy):
    """Forwards to ``target`` what does not hold ``word``; what does is the business of ``trouble``, so many ``times``.

    Attributes:
        met: how often it was.
    """

    word, times, met = b"", 0, 0
    trouble: Trouble

    def give(self, trouble: Trouble, word: bytes, times: int) -> None:
        """Give trouble from now on."""
        self.trouble, self.word, self.times, self.met = trouble, word, times, 0

    def _forward(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.target))
        with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(ConnectionError):
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while not self._closing.is_set():
                for key, _ in selector.select(0.05):
                    data = key.fileobj.recv(1 << 20)
                    if not data or not self._passed(key.fileobj, client, server, data):
                        return

    def _passed(self, source: socket.socket, client: socket.socket, server: socket.socket, data: bytes) -> bool:
        if source is server:
            client.sendall(data)
        elif self.times > 0 and self.word in data:
            self.times -= 1
            self.met += 1
            return self.trouble(client, server, data)
        else:
            server.sendall(data)
        return True
