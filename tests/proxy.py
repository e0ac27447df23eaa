"""A proxy before a Redis on a unix socket: counts round trips and bytes, and loses replies after they were executed."""

from __future__ import annotations

import contextlib
import selectors
import socket
import tempfile
import threading
from pathlib import Path


class Proxy:
    """Listens on a unix socket of its own and forwards to ``target``.

    Attributes:
        trips: round trips: how often a client spoke after the server had.
        connections: how many were opened.
        up, down: bytes from clients, and to them.
        lose: a word; the reply to the next request that holds it is swallowed and its connection cut.
        swallow: the same, but the connection is left open, silent.
        refuse: a word; the next request that holds it is not forwarded, and its connection cut.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.trips = self.connections = self.up = self.down = 0
        self.lose: bytes | None = None
        self.swallow: bytes | None = None
        self.refuse: bytes | None = None
        self.lost = threading.Event()
        self.directory = tempfile.TemporaryDirectory(prefix="sc-proxy-")
        self.url = f"unix://{self.directory.name}/proxy.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.directory.name}/proxy.sock")
        self._listener.listen(256)
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    @property
    def bytes(self) -> int:
        """What went through, in both directions."""
        return self.up + self.down

    def _spawn(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self.connections += 1
                self._spawn(self._forward, client)

    def _forward(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.target))
        # Whoever goes without a word ends it, as one who says goodbye does.
        with client, server, contextlib.suppress(ConnectionError), selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            request, spoke = b"", None
            while not self._closing.is_set():
                for key, _ in selector.select(0.05):
                    data = key.fileobj.recv(1 << 20)
                    if not data:
                        return
                    if key.fileobj is client:
                        if spoke != "client":
                            self.trips += 1
                            request = b""
                        request += data
                        if self._refuses(request):
                            return
                        self.up += len(data)
                        server.sendall(data)
                    elif self._loses(request):
                        return
                    elif not self._swallows(request):
                        self.down += len(data)
                        client.sendall(data)
                    spoke = "client" if key.fileobj is client else "server"

    def _loses(self, request: bytes) -> bool:
        if self.lose is None or self.lose not in request:
            return False
        self.lose = None
        self.lost.set()
        return True

    def _swallows(self, request: bytes) -> bool:
        if self.swallow is None or self.swallow not in request:
            return False
        self.swallow = None
        self.lost.set()
        return True

    def _refuses(self, request: bytes) -> bool:
        if self.refuse is None or self.refuse not in request:
            return False
        self.refuse = None
        self.lost.set()
        return True

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        self.directory.cleanup()
