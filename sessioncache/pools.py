"""Pools of Redis connections and clients over them, from addresses: a server, or the primary that Sentinels name.

A pool has a bound and callers wait for a connection; behind Sentinels too, where redis-py's own pool would refuse them.
Each new connection asks the Sentinels anew, one after the other, each for its share of the time of a command. Nothing is
sent again by redis-py: `repeat` does that.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress
from queue import Empty, Full
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AwaitingRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from sessioncache.addresses import masked
from sessioncache.bounded import AWAITING, BLOCKING, Asking, AwaitedPrimary, Primary
from sessioncache.clients import AwaitingClient, BlockingClient
from sessioncache.config import Settings
from sessioncache.errors import ConfigurationError
from sessioncache.sentinel import Deployment, deployment

_TCP_ONLY = frozenset({"socket_keepalive", "socket_connect_timeout"})
# How many things one Sentinel may keep waiting for: a connection, a greeting, an answer.
_WAITS = 3


class Free:
    """Free connections, which a pool takes as from a queue: the last one given back first. Safe to use from any thread.

    Who finds one takes it without a lock, because a list is appended to and popped from at once; only who finds none waits.
    """

    def __init__(self, most: int) -> None:
        self.queue: list[Any] = []
        self._most, self._waiting, self._given = most, 0, threading.Condition()

    def put_nowait(self, connection: Any) -> None:
        """Give one back, or None for one that is still to be made."""
        if len(self.queue) >= self._most:
            raise Full
        self.queue.append(connection)
        if self._waiting:
            with self._given:
                self._given.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - as queues have it
        """Take one, or wait for it, so many seconds at most."""
        try:
            return self.queue.pop()
        except IndexError:
            return self._waited_for(timeout if block else 0)

    def _waited_for(self, timeout: float | None) -> Any:
        taken: list[Any] = []
        with self._given:
            self._waiting += 1  # before the first look: what is given after that look is told of
            try:
                if not self._given.wait_for(lambda: self._take(taken), timeout):
                    raise Empty
            finally:
                self._waiting -= 1
        return taken[0]

    def _take(self, taken: list[Any]) -> bool:
        with suppress(IndexError):
            taken.append(self.queue.pop())
        return bool(taken)


class BlockingPool(redis.BlockingConnectionPool):
    """A pool that takes no connection back whose reply may be unread because its thread was interrupted."""

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection that is ready; `release` gives it back."""
        if self.pid != os.getpid():
            self._checkpid()
        try:
            connection = self.pool.get(timeout=self.timeout) or self.make_connection()  # type: ignore[no-untyped-call]
        except Empty:
            raise redis.ConnectionError("No connection became free in time.") from None
        try:
            connection.connect()
            if _is_stale(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            connection.disconnect()  # it may have been greeted in part
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back, closed if this thread is ending."""
        error = sys.exception()
        if error is not None and not isinstance(error, Exception):
            connection.disconnect()
        # redis-py 5 has no connections that are to be made anew.
        if connection.pid == os.getpid() and not getattr(connection, "should_reconnect", bool)():
            self.pool.put_nowait(connection)
        else:
            super().release(connection)  # type: ignore[no-untyped-call]


def _is_stale(connection: Any) -> bool:
    """Whether the server closed it, or left something unread in it, since it was used last."""
    try:
        return bool(connection.can_read())
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return True


def blocking_client(settings: Settings) -> BlockingClient:
    """The client of a blocking door.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    return BlockingClient(connection_pool=blocking_pool(settings))


def blocking_pool(settings: Settings) -> BlockingPool:
    """The pool of a blocking door.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    options = {"retry": Retry(NoBackoff(), 0), "queue_class": Free, **_patient(settings)}
    pool: BlockingPool = _pool(BlockingPool, "redis_url", settings.redis_url, BLOCKING, settings, options)
    return pool


class AwaitingPool(redis.asyncio.ConnectionPool):
    """A pool whose connections are waited for, by a semaphore, and which itself keeps those that are free.

    redis-py's own waits by a condition, which in Python 3.11 wakes nobody else when the task that it woke is cancelled. To
    its books every connection is in use.
    """

    def __init__(self, timeout: float, **options: Any) -> None:
        super().__init__(**options)
        self._timeout, self._free = timeout, asyncio.Semaphore(self.max_connections)
        self._idle: list[Any] = []

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection that is ready; `release` gives it back."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            connection = self._idle.pop() if self._idle else self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._free.release()
            raise
        try:
            if getattr(connection, "should_reconnect", bool)():  # redis-py 5 has none that are to be made anew
                await connection.disconnect()
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError as error:
            raise redis.ConnectionError("No connection became free in time.") from error

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        self._idle.append(connection)
        self._free.release()


def awaiting_client(settings: Settings) -> AwaitingClient:
    """The client of an awaiting door. Whoever awaits it bounds how long a command takes, once for all its waits.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    return AwaitingClient(connection_pool=awaiting_pool(settings))


def awaiting_pool(settings: Settings) -> AwaitingPool:
    """The pool of an awaiting door.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    options = {"retry": AwaitingRetry(NoBackoff(), 0), **_patient(settings), "socket_timeout": None}
    pool: AwaitingPool = _pool(AwaitingPool, "redis_url", settings.redis_url, AWAITING, settings, options)
    return pool


def queue_pool(settings: Settings) -> redis.ConnectionPool:
    """RQ's own pool, whose timeouts it changes; it takes what connections it needs.

    Raises:
        ConfigurationError: the URL cannot be used.
    """
    url = settings.queue_url or settings.redis_url
    pool: redis.ConnectionPool = _pool(
        redis.ConnectionPool, "queue_url", url, BLOCKING, settings, {"retry": Retry(NoBackoff(), 0)}
    )
    return pool


def _patient(settings: Settings) -> dict[str, Any]:
    return {
        "max_connections": settings.max_connections,
        "timeout": settings.redis_timeout,
        "socket_keepalive": True,
        "socket_read_size": 2**17,
    }


def _pool(kind: Any, name: str, url: str, classes: Any, settings: Settings, options: dict[str, Any]) -> Any:
    patience, scheme = settings.redis_timeout, url.partition("://")[0]
    options = {"socket_timeout": patience, "socket_connect_timeout": patience, **options}
    options = {key: value for key, value in options.items() if scheme != "unix" or key not in _TCP_ONLY}
    parse = redis.connection.parse_url if classes is BLOCKING else redis.asyncio.connection.parse_url
    try:
        found = deployment(url)
        told = {**options, **parse(found.url if found else url), "connection_class": classes[scheme]}
        if found:
            told["connection_pool"] = _primary(found, told, patience, Primary if classes is BLOCKING else AwaitedPrimary)
        pool = kind(**told)
        pool.make_connection()  # connects nothing yet, but takes every option of the URL
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{name} cannot be used: {masked(url)}; check hosts, port and options.") from error
    return pool


def _primary(found: Deployment, told: dict[str, Any], patience: float, kind: type[Asking]) -> Asking:
    """Who asks the Sentinels; these are spoken to as Redis is, in what concerns TLS."""
    tls = {key: value for key, value in told.items() if key.startswith("ssl_")}
    tls |= {"ssl": True} if found.url.startswith("rediss") else {}
    share = patience / (_WAITS * len(found.sentinels))
    times = {"socket_timeout": share, "socket_connect_timeout": share, "retry": told["retry"]}
    return kind(found, {**times, **found.credentials, **tls})
