"""Connections: a process's clients, and the driver that performs flows over them, blocking or awaiting.

Construction does no I/O. What is built here from URLs is closed here; clients handed in stay the caller's. The first
flow of a process is preceded by `startup`. Redis clients built here never re-send a command by themselves: flows do,
because they know what is idempotent. A forked child gets connections and locks of its own before it goes on; those of the
parent are left as they are.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from functools import partial
from typing import TypeVar

import redis
import redis.asyncio
from sqlalchemy import Engine, QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from sessioncache import doctor, startup
from sessioncache.config import Settings
from sessioncache.diagnosis import Finding
from sessioncache.drivers import Awaiting, Blocking, FirstTransaction, Gate
from sessioncache.errors import ConfigurationError
from sessioncache.flow import Flow, arun, run
from sessioncache.nudge import Nudger
from sessioncache.pools import awaiting_client, blocking_client
from sessioncache.reports import Kind, Reporter
from sessioncache.state import State
from sessioncache.store import engine as engines
from sessioncache.store.check import check, check_schema

T = TypeVar("T")
H = TypeVar("H", redis.Redis, redis.asyncio.Redis)


class NoBell:
    """For clients handed in without a ``queue_url``: nobody to ring for; the schedule finds the work."""

    def ring(self, lane: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""


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


_all: weakref.WeakSet[BlockingConnections] = weakref.WeakSet()
_all_awaiting: weakref.WeakSet[AwaitingConnections] = weakref.WeakSet()
# Kept for ever in a forked child: to let go of them would close them on the parent's event loop, which is shared.
_of_parent: list[AwaitingConnections] = []


def _before_fork() -> None:
    for connections in list(_all):
        connections.pause()


def _after_fork_in_parent() -> None:
    for connections in list(_all):
        connections.driver.gate.open()


def _after_fork_in_child() -> None:
    _of_parent.extend(_all_awaiting)
    for connections in list(_all):
        connections.renew()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


class BlockingConnections:
    """Runs flows by blocking. Safe to use from any thread, and after a fork."""

    def __init__(
        self,
        settings: Settings,
        hot: redis.Redis | None = None,
        engine: Engine | None = None,
        *,
        kind: Kind = "server",
    ) -> None:
        _both_or_neither(hot, engine)
        self.settings, self.state = settings, State.of(settings)
        self._owned = hot is None
        self._hot = _binary(hot or blocking_client(settings))
        self._engine = engines.prepared(engine or engines.blocking(settings))
        self._bell = _bell(settings, self.state, handed_in=not self._owned)
        self.reporter = Reporter(self.state, kind, hot)
        first = FirstTransaction(partial(check, partitions=settings.partitions))
        self.driver = Blocking(self._hot, self._engine, self._bell, first, settings.redis_timeout)
        self._started = False
        _all.add(self)

    def pause(self) -> None:
        """Before a fork: let transactions on an SQLite file end, and close them; elsewhere, let the first one end.

        A child that inherits one has its locks too, and nobody to give them back. In the first one SQLAlchemy learns what
        its database is, once for an engine.
        """
        sqlite = self._engine.dialect.name == "sqlite" and isinstance(self._engine.pool, QueuePool)
        if sqlite or not self.driver.first.done:
            self.driver.gate.close(self.settings.database_timeout)
        if sqlite:
            self._engine.dispose()

    def renew(self) -> None:
        """Go on in a forked child: what a thread of the parent held at that moment is free here, and no socket is shared.

        A client handed in renews itself; the engine's pool is renewed by `store.engine`.
        """
        self.driver.gate = Gate()
        self.state.renew()
        self._bell.renew()
        self.reporter.renew()
        if self._owned:
            self._hot = self.driver.hot = blocking_client(self.settings)

    def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        if not self._started:
            run(startup.start(self.state), self.driver.perform)
            self._started = True
        self.reporter.run()
        return run(flow, self.driver.perform)

    def run_apart(self, flow: Flow[T]) -> T:
        """The result of a flow that looks itself for what the tiers are laid out; only the schema is checked."""
        first, driver = FirstTransaction(check_schema), self.driver
        apart = Blocking(driver.hot, driver.engine, driver.bell, first, driver.patience)
        return run(flow, apart.perform)

    def doctor(self) -> list[Finding]:
        """What an examination of the tiers finds, also where `run` refuses to start."""
        return run(doctor.examine(self.state, has_queue=not isinstance(self._bell, NoBell)), self.driver.perform)

    def settle(self) -> None:
        """Send what nudges wait: for a process that may end without further notice."""
        self._bell.close()

    def close(self) -> None:
        """Send what nudges wait, and close what was opened here. A flow that runs after that opens it again."""
        self.settle()
        self.reporter.close()
        if self._owned:
            self._hot.connection_pool.disconnect()
            self._engine.dispose()


class AwaitingConnections:
    """Runs flows by awaiting, on one event loop; never in a forked child, whose sockets would be the parent's too."""

    def __init__(
        self, settings: Settings, hot: redis.asyncio.Redis | None = None, engine: AsyncEngine | None = None
    ) -> None:
        _both_or_neither(hot, engine)
        self.settings, self.state = settings, State.of(settings)
        self._owned = hot is None
        self._hot = _binary(hot or awaiting_client(settings))
        self._engine = engine or engines.awaiting(settings)
        engines.prepared(self._engine.sync_engine)
        self._bell = _bell(settings, self.state, handed_in=not self._owned)
        # Of a client that awaits nothing is known that could be written to from a thread: then nothing is reported.
        self._reporter = Reporter(self.state, "server", None) if self._owned else None
        first = FirstTransaction(partial(check, partitions=settings.partitions))
        self.driver = Awaiting(self._hot, self._engine, self._bell, first, settings.redis_timeout)
        self._started = False
        self._pid = os.getpid()
        _all_awaiting.add(self)

    async def run(self, flow: Flow[T]) -> T:
        """The result of a flow.

        Raises:
            ConfigurationError: this is a forked child of the process that opened them.
        """
        if os.getpid() != self._pid:
            raise ConfigurationError("This AsyncSessionCache was opened before the process forked; open one in the child.")
        if not self._started:
            await arun(startup.start(self.state), self.driver.perform)
            self._started = True
        if self._reporter:
            self._reporter.run()
        return await arun(flow, self.driver.perform)

    async def doctor(self) -> list[Finding]:
        """What an examination of the tiers finds, also where `run` refuses to start."""
        return await arun(doctor.examine(self.state, has_queue=not isinstance(self._bell, NoBell)), self.driver.perform)

    async def close(self) -> None:
        """Send what nudges wait, and close what was opened here; nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        try:
            await asyncio.to_thread(self._settle)
        finally:  # also where the caller is cancelled
            if self._owned:
                await self._hot.connection_pool.disconnect()
                await self._engine.dispose()

    def _settle(self) -> None:
        self._bell.close()
        if self._reporter:
            self._reporter.close()
