"""The awaiting door, called like the blocking one, so that one test serves both; and how either is opened over a stack."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sessioncache import AsyncSession, AsyncSessionCache, SessionCache

DOORS = ["blocking", "awaiting"]


class Awaited:
    """Calls the coroutines of what it wraps on an event loop of its own."""

    def __init__(self, target: AsyncSessionCache | AsyncSession, runner: asyncio.Runner) -> None:
        self._target, self._runner = target, runner

    def __getattr__(self, name: str):
        value = getattr(self._target, name)
        if inspect.isasyncgenfunction(value):
            return lambda *arguments, **named: self._each(value(*arguments, **named))
        if name in {"hold", "turn"}:
            return lambda *arguments, **named: self._right(value(*arguments, **named))
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *arguments, **named: self._wrapped(self._runner.run(value(*arguments, **named)))

    def _wrapped(self, result: Any) -> Any:
        return Awaited(result, self._runner) if isinstance(result, AsyncSession) else result

    def _each(self, items: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items, items)

        while (item := self._runner.run(following())) is not items:
            yield item

    @contextmanager
    def _right(self, right: Any) -> Iterator[Any]:
        async def begin() -> Any:
            return await right.__aenter__()

        async def end() -> None:
            await right.__aexit__(None, None, None)

        value = self._runner.run(begin())
        try:
            yield self._wrapped(value)
        finally:
            self._runner.run(end())


@contextmanager
def opener(stack: Any, kind: str, **defaults: Any) -> Iterator[Callable[..., Any]]:
    """Opens caches of one kind over a stack, as servers of their own, and closes them."""
    opened: list[Any] = []
    with asyncio.Runner() as runner:

        def door(**changes: Any) -> Any:
            settings = stack.settings(**defaults, **changes)
            blocking = kind == "blocking"
            cache = SessionCache(settings=settings) if blocking else Awaited(AsyncSessionCache(settings=settings), runner)
            opened.append(cache)
            return cache

        try:
            yield door
        finally:
            for cache in opened:
                cache.close()
