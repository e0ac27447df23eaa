"""One timer for many requests, each of which ends in its time, as with a timer of its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from sessioncache.deadlines import Deadlines


async def at_last(outcome: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return outcome


def timers(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the timers of a loop were to ring that are set from now on."""
    found: list[float] = []
    call_at = loop.call_at

    def counted(when, *arguments, **options):
        found.append(when)
        return call_at(when, *arguments, **options)

    monkeypatch.setattr(loop, "call_at", counted)
    return found


def test_one_timer_serves_many_requests(monkeypatch):
    """In turn and at once."""

    async def work() -> None:
        deadlines, set_ = Deadlines(60.0), timers(asyncio.get_running_loop(), monkeypatch)
        for n in range(100):
            assert await deadlines.within(asyncio.sleep(0, n)) == n
        await asyncio.gather(*(deadlines.within(asyncio.sleep(0)) for _ in range(100)))
        assert len(set_) == 1

    asyncio.run(work())


def test_each_ends_in_its_time():
    """Those that take too long, whenever they began; others are not touched, nor are later ones."""

    async def work() -> None:
        deadlines, loop = Deadlines(0.2), asyncio.get_running_loop()

        async def late(after: float) -> float:
            await asyncio.sleep(after)
            begun = loop.time()
            with pytest.raises(TimeoutError):
                await deadlines.within(asyncio.sleep(60))
            return loop.time() - begun

        quick = asyncio.gather(*(deadlines.within(at_last("done", 0)) for _ in range(3)))
        took = await asyncio.gather(*(late(n * 0.05) for n in range(8)))
        assert await quick == ["done"] * 3
        assert min(took) >= 0.199
        assert await deadlines.within(at_last("again", 0)) == "again"

    asyncio.run(work())


def test_a_cancellation_is_no_timeout():
    """Whoever cancels the task, while it waits or when its time is over, is heard; nothing stays watched."""

    async def work() -> None:
        deadlines = Deadlines(0.05)
        task = asyncio.create_task(deadlines.within(asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def stubborn() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            asyncio.current_task().cancel()
            await asyncio.sleep(60)

        task = asyncio.create_task(deadlines.within(stubborn()))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not deadlines._open

    asyncio.run(work())


def test_another_loop_begins_anew():
    """A timer of a loop that is gone is not waited for."""
    deadlines = Deadlines(0.05)
    asyncio.run(deadlines.within(asyncio.sleep(0)))

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await deadlines.within(asyncio.sleep(60))

    asyncio.run(work())
