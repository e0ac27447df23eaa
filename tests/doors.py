"""The awaiting door, called like the blocking one, so that one test serves both."""

from __future__ import annotations

import asyncio
import inspect

from sessioncache import AsyncSession, AsyncSessionCache


class Awaited:
    """Calls the coroutines of what it wraps on an event loop of its own."""

    def __init__(self, target: AsyncSessionCache | AsyncSession, runner: asyncio.Runner) -> None:
        self._target, self._runner = target, runner

    def __getattr__(self, name: str):
        value = getattr(self._target, name)
        if not inspect.iscoroutinefunction(value):
            return value

        def call(*arguments, **named):
            result = self._runner.run(value(*arguments, **named))
            return Awaited(result, self._runner) if isinstance(result, AsyncSession) else result

        return call
