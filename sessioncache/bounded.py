"""Redis connections that keep a deadline, and that leave a server which is the primary no more.

redis-py bounds each connect, send and read by itself; together they may take many times as long, and a reply that
trickles has no bound at all. `within` gives all that one request does in this thread a common deadline: looking up the
name, connecting, greeting, sending and reading. `deadlines` gives the same to what awaits.

A connection whose server says READONLY is closed: the next one asks the name service or the Sentinels anew. Connections
outside `within` are as redis-py makes them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError

from sessioncache.sentinel import Deployment

# So many seconds are not worth a system call: the socket's own timeout does, as long as hardly any time has gone.
AT_ONCE = 0.01

_thread = threading.local()


class within:  # noqa: N801 - said as a verb: with within(seconds)
    """What this thread asks of Redis in this block takes so many seconds at most."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        _thread.until = time.monotonic() + self._seconds

    def __exit__(self, *_: object) -> None:
        _thread.until = None


def left() -> float | None:
    """Seconds until the deadline of this thread; None without one.

    Raises:
        OSError: it is over.
    """
    until: float | None = getattr(_thread, "until", None)
    if until is None:
        return None
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise OSError("the time for this request is over")  # redis-py 8 stumbles over TimeoutError on a unix socket
    return seconds


def is_no_primary(error: Exception) -> bool:
    """Whether an error reply says that this server is a replica; Redis 6 hides that in the text of a script's error."""
    return isinstance(error, ReadOnlyError | MasterDownError) or "-READONLY " in str(error)


class _Timed:
    """A socket that sends and receives within the deadline of the thread that does it."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._asked = self._set = plain.gettimeout()
        # Asked for before every request: found here at once. Without TLS nothing is ever pending.
        self.fileno, self.pending = plain.fileno, getattr(plain, "pending", int)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def settimeout(self, seconds: float | None) -> None:
        self._asked = self._set = seconds
        self._plain.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        self._narrow()
        self._plain.sendall(data)

    def recv_into(self, *arguments: Any) -> int:
        self._narrow()
        return self._plain.recv_into(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        self._narrow()
        return self._plain.recv(*arguments)

    def _narrow(self) -> None:
        until, wanted = getattr(_thread, "until", None), self._asked
        if until is not None and (wanted is None or until - time.monotonic() <= wanted - AT_ONCE):
            wanted = left()
        if wanted != self._set:
            self._plain.settimeout(wanted)
            self._set = wanted


def _in_time(connect: Callable[[], socket.socket]) -> socket.socket:
    """A new socket: of a thread of its own, because nothing else bounds the look-up of a name."""
    seconds, made = left(), Future[socket.socket]()
    if seconds is None:
        return connect()
    threading.Thread(target=_settle, args=(made, connect), name="sessioncache-connect", daemon=True).start()
    try:
        return made.result(seconds)
    except TimeoutError:
        made.add_done_callback(_discard)
        raise OSError("connecting took too long") from None


def _settle(made: Future[socket.socket], connect: Callable[[], socket.socket]) -> None:
    try:
        made.set_result(connect())
    except BaseException as error:  # noqa: BLE001 - raised by whoever waits
        made.set_exception(error)


def _discard(made: Future[socket.socket]) -> None:
    if made.exception() is None:
        made.result().close()


class _Bounded:
    """What a blocking connection does otherwise."""

    _sock: Any

    def connect(self) -> None:
        if self._sock is None:  # else nothing is to do, which redis-py finds out through its retries
            super().connect()  # type: ignore[misc]  # the connection's own

    def _connect(self) -> Any:
        return _Timed(_in_time(super()._connect))  # type: ignore[misc]  # the connection's own

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except ResponseError as error:
            if is_no_primary(error):
                self.disconnect()  # type: ignore[attr-defined]
            raise


class _Awaited:
    """What an awaiting connection does otherwise."""

    async def connect(self) -> None:
        """As above."""
        if not self.is_connected:  # type: ignore[attr-defined]
            await super().connect()  # type: ignore[misc]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]
        except ResponseError as error:
            if is_no_primary(error):
                await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise


class Asking:
    """Where the primary of a service is, from Sentinels that are asked anew each time; who knew it last is asked first."""

    is_master, check_connection = True, False

    def __init__(self, found: Deployment, options: dict[str, Any]) -> None:
        self.service_name, self._sentinels, self._options = found.service, list(found.sentinels), options

    def _first(self, knew: Any) -> None:
        options = knew.connection_pool.connection_kwargs
        first = (options["host"], options["port"])
        self._sentinels = [first, *(one for one in self._sentinels if one != first)]


class Primary(Asking):
    """For blocking connections."""

    def get_master_address(self) -> tuple[str, int]:
        """Host and port; redis-py's connections call this."""
        asked = redis.sentinel.Sentinel(self._sentinels, sentinel_kwargs=self._options)
        try:
            found: tuple[str, int] = asked.discover_master(self.service_name)
            self._first(asked.sentinels[0])
        finally:
            for one in asked.sentinels:
                one.close()
        return found


class AwaitedPrimary(Asking):
    """For awaiting connections."""

    async def get_master_address(self) -> tuple[str, int]:
        """Host and port; redis-py's connections call this."""
        asked = redis.asyncio.sentinel.Sentinel(self._sentinels, sentinel_kwargs=self._options)
        try:
            found: tuple[str, int] = await asked.discover_master(self.service_name)
            self._first(asked.sentinels[0])
        finally:
            for one in asked.sentinels:
                await one.aclose()
        return found


class Direct(_Bounded, redis.Connection):
    """By host and port."""


class DirectTLS(_Bounded, redis.SSLConnection):
    """By host and port, encrypted."""


class Local(_Bounded, redis.UnixDomainSocketConnection):
    """By a unix socket."""


class Managed(_Bounded, redis.sentinel.SentinelManagedConnection):
    """To the primary that Sentinels name."""


class ManagedTLS(_Bounded, redis.sentinel.SentinelManagedSSLConnection):
    """To the primary that Sentinels name, encrypted."""


class AwaitedDirect(_Awaited, redis.asyncio.Connection):
    """By host and port."""


class AwaitedDirectTLS(_Awaited, redis.asyncio.SSLConnection):
    """By host and port, encrypted."""


class AwaitedLocal(_Awaited, redis.asyncio.UnixDomainSocketConnection):
    """By a unix socket."""


class AwaitedManaged(_Awaited, redis.asyncio.sentinel.SentinelManagedConnection):
    """To the primary that Sentinels name."""


class AwaitedManagedTLS(_Awaited, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    """To the primary that Sentinels name, encrypted."""


BLOCKING = {"redis": Direct, "rediss": DirectTLS, "unix": Local, "redis+sentinel": Managed, "rediss+sentinel": ManagedTLS}
AWAITING = {
    "redis": AwaitedDirect,
    "rediss": AwaitedDirectTLS,
    "unix": AwaitedLocal,
    "redis+sentinel": AwaitedManaged,
    "rediss+sentinel": AwaitedManagedTLS,
}
