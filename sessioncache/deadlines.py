"""Deadlines of what is awaited: each request has its time, and one timer of the event loop is set for all of them.

A timer for each costs as much as to pack, send and read it. All have the same time, so whichever began first is over first.
What becomes of one whose time is over is `asyncio.timeout`'s business, so that a cancellation is told apart from it.

Assumes one event loop at a time; another one begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Deadlines:
    """Gives each request so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open: dict[asyncio.Timeout, float] = {}

    async def within(self, awaited: Awaitable[T]) -> T:
        """What is awaited.

        Raises:
            TimeoutError: its time is over.
        """
        async with asyncio.timeout(None) as timeout:
            self._watch(timeout, asyncio.get_running_loop())
            try:
                return await awaited
            finally:
                self._open.pop(timeout, None)

    def _watch(self, timeout: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._loop, self._timer, self._open = loop, None, {}
        self._open[timeout] = deadline = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        for timeout, deadline in list(self._open.items()):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._look, loop)
                return
            del self._open[timeout]
            timeout.reschedule(now)
