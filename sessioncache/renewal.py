"""Rights that end by themselves, kept while a block of code runs: the context managers behind holds and turns.

Guarantee: while the block runs and Redis answers, the right is renewed several times within the time it lasts, from a
thread or a task of its own; when the block or the process ends, so does the right. A renewal that fails is tried again at
the next one; whoever lost a turn finds out at the next change, which is refused.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from sessioncache.errors import SessionCacheError
from sessioncache.flow import Flow, Run, RunAwaited

log = logging.getLogger("sessioncache.renewal")

T = TypeVar("T")

# How often a right is renewed within the time it lasts.
TIMES = 3


@dataclass(frozen=True, slots=True)
class Right:
    """How a right is taken, kept and ended, and how long it lasts unless it is kept, in seconds."""

    take: Callable[[], Flow[Any]]
    keep: Callable[[], Flow[Any]]
    end: Callable[[], Flow[Any]]
    ttl: float


def _failed(error: SessionCacheError) -> None:
    log.warning("a hold or turn could not be renewed, it is tried again: %s", error)


def _not_ended(error: SessionCacheError) -> None:
    log.warning("a hold or turn could not be given back, it ends by itself: %s", error)


class BlockingRight(Generic[T]):
    """``with`` gives ``value`` and keeps the right until the block ends."""

    def __init__(self, run: Run, right: Right, value: T) -> None:
        self._run, self._right, self._value = run, right, value
        self._over, self._pid = threading.Event(), os.getpid()
        self._thread = threading.Thread(target=self._keep, name="sessioncache-renewal", daemon=True)

    def __enter__(self) -> T:
        try:
            self._run(self._right.take())
        except BaseException:
            self._end()
            raise
        self._thread.start()
        return self._value

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if os.getpid() == self._pid:  # a forked child that leaves the block ends nothing of its parent's
            self._over.set()
            self._thread.join()
            self._end()

    def _end(self) -> None:
        try:
            self._run(self._right.end())
        except SessionCacheError as error:
            _not_ended(error)

    def _keep(self) -> None:
        while not self._over.wait(self._right.ttl / TIMES):
            try:
                self._run(self._right.keep())
            except SessionCacheError as error:
                _failed(error)


class AwaitingRight(Generic[T]):
    """``async with`` gives ``value`` and keeps the right until the block ends."""

    def __init__(self, run: RunAwaited, right: Right, value: T) -> None:
        self._run, self._right, self._value = run, right, value
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> T:
        try:
            await self._run(self._right.take())
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._end()))
            raise
        self._task = asyncio.create_task(self._keep(), name="sessioncache-renewal")
        return self._value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await asyncio.shield(asyncio.ensure_future(self._left()))

    async def _left(self) -> None:
        if self._task is not None:
            await self._task  # a renewal under way ends first; it is not cut off
        await self._end()

    async def _end(self) -> None:
        try:
            await self._run(self._right.end())
        except SessionCacheError as error:
            _not_ended(error)

    async def _keep(self) -> None:
        while not await self._is_over(self._right.ttl / TIMES):
            try:
                await self._run(self._right.keep())
            except SessionCacheError as error:
                _failed(error)

    async def _is_over(self, seconds: float) -> bool:
        """Whether the block ended within so many seconds."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return False
        return True
