"""Deadlines of what is awaited: each request has its time, and one timer of the event loop is set for all of them.

A timer for each, and an `asyncio.timeout` around each, take as long as to pack, send and read it. All have the same time,
so whichever began first is over first. What is done to one whose time is over is what `asyncio.timeout` does: its task is
cancelled, and that is taken back; who else cancels it meanwhile is told apart by their number, and heard.

Assumes one event loop at a time, where another one begins anew, and one request of a task at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlines:
    """Gives each request so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        # By the task that awaits: until when, or None once that is over.
        self._open: dict[asyncio.Task[Any], float | None] = {}

    async def within(self, awaited: Awaitable[T]) -> T:
        """What is awaited.

        Raises:
            TimeoutError: its time is over.
        """
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # requests are awaited in tasks
        before = task.cancelling()
        self._watch(task, asyncio.get_running_loop())
        try:
            return await awaited
        except asyncio.CancelledError as error:
            if self._open.get(task, 0.0) is None and task.cancelling() <= before + 1:
                raise TimeoutError from error
            raise
        finally:
            if self._open.pop(task, 0.0) is None:
                task.uncancel()

    def _watch(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._loop, self._timer, self._open = loop, None, {}
        self._open[task] = deadline = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        for task, deadline in list(self._open.items()):
            if deadline is None:
                continue
            if deadline > now:
                self._timer = loop.call_at(deadline, self._look, loop)
                return
            self._open[task] = None
            task.cancel()
