"""Connections: a process's clients, and the driver that performs flows over them, blocking or awaiting.

Construction does no I/O. What is built here from URLs is closed here; clients handed in stay the caller's. The first
flow of a process is preceded by `startup`. Redis clients built here never re-send a command by themselves: flows do,
because they know what is idempotent.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AwaitingRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from sessioncache import startup
from sessioncache.config import Settings, masked
from sessioncache.drivers import Awaiting, Blocking, FirstTransaction
from sessioncache.errors import ConfigurationError
from sessioncache.flow import Flow, arun, run
from sessioncache.nudge import Nudger
from sessioncache.state import State
from sessioncache.store import engine as engines
from sessioncache.store.check import check

T = TypeVar("T")
H = TypeVar("H", redis.Redis, redis.asyncio.Redis)


class NoBell:
    """For clients handed in without a ``queue_url``: nobody to ring for; the schedule finds the work."""

    def ring(self, lane: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _pool_options(settings: Settings, retry: object) -> dict[str, Any]:
    return {
        "max_connections": settings.max_connections,
        "timeout": settings.redis_timeout,
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        "socket_keepalive": True,
        "retry": retry,
    }


def _without_unix_options(url: str, options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if not url.startswith("unix://") or key not in _TCP_ONLY}


_TCP_ONLY = frozenset({"socket_keepalive", "socket_connect_timeout"})


def _both_or_neither(hot: object, engine: object) -> None:
    if (hot is None) != (engine is None):
        raise ConfigurationError("Hand in both the Redis client and the engine, or neither.")


def _binary(hot: H) -> H:
    """The client itself, if it gives bytes."""
    if hot.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError("The Redis client decodes responses, but messages are binary; use decode_responses=False.")
    return hot


def _bell(settings: Settings, state: State, *, handed_in: bool) -> Nudger | NoBell:
    return NoBell() if handed_in and not settings.queue_url else Nudger(settings, state.counters)


class BlockingConnections:
    """Runs flows by blocking. Safe to use from any thread."""

    def __init__(self, settings: Settings, hot: redis.Redis | None = None, engine: Engine | None = None) -> None:
        _both_or_neither(hot, engine)
        self.settings, self.state = settings, State.of(settings)
        self._owned = hot is None
        self._hot = _binary(hot or _blocking_hot(settings))
        self._engine = engines.prepared(engine or engines.blocking(settings))
        self._bell = _bell(settings, self.state, handed_in=not self._owned)
        first = FirstTransaction(partial(check, partitions=settings.partitions))
        self.driver = Blocking(self._hot, self._engine, self._bell, first)
        self._lock, self._started = threading.Lock(), False

    def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        if not self._started:
            with self._lock:
                if not self._started:
                    run(startup.start(self.state), self.driver.perform)
                    self._started = True
        return run(flow, self.driver.perform)

    def settle(self) -> None:
        """Send what nudges wait: for a process that may end without further notice."""
        self._bell.close()

    def close(self) -> None:
        """Send what nudges wait, and close what was opened here."""
        self.settle()
        if self._owned:
            self._hot.connection_pool.disconnect()
            self._engine.dispose()


class AwaitingConnections:
    """Runs flows by awaiting, on one event loop."""

    def __init__(
        self, settings: Settings, hot: redis.asyncio.Redis | None = None, engine: AsyncEngine | None = None
    ) -> None:
        _both_or_neither(hot, engine)
        self.settings, self.state = settings, State.of(settings)
        self._owned = hot is None
        self._hot = _binary(hot or _awaiting_hot(settings))
        self._engine = engine or engines.awaiting(settings)
        engines.prepared(self._engine.sync_engine)
        self._bell = _bell(settings, self.state, handed_in=not self._owned)
        first = FirstTransaction(partial(check, partitions=settings.partitions))
        self.driver = Awaiting(self._hot, self._engine, self._bell, first)
        self._lock, self._started = asyncio.Lock(), False

    async def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        if not self._started:
            async with self._lock:
                if not self._started:
                    await arun(startup.start(self.state), self.driver.perform)
                    self._started = True
        return await arun(flow, self.driver.perform)

    async def close(self) -> None:
        """Send what nudges wait, and close what was opened here."""
        await asyncio.to_thread(self._bell.close)
        if self._owned:
            await self._hot.connection_pool.disconnect()
            await self._engine.dispose()


def _blocking_hot(settings: Settings) -> redis.Redis:
    return redis.Redis(connection_pool=_pool(redis.BlockingConnectionPool, settings, Retry(NoBackoff(), 0)))


def _awaiting_hot(settings: Settings) -> redis.asyncio.Redis:
    pool = _pool(redis.asyncio.BlockingConnectionPool, settings, AwaitingRetry(NoBackoff(), 0))
    return redis.asyncio.Redis(connection_pool=pool)


def _pool(kind: Any, settings: Settings, retry: object) -> Any:
    url = settings.redis_url
    try:
        pool = kind.from_url(url, **_without_unix_options(url, _pool_options(settings, retry)))
        pool.make_connection()  # connects nothing yet, but takes every option of the URL
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"redis_url cannot be used: {masked(url)}; check port and options.") from error
    return pool
