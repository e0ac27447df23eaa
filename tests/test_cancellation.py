"""A task is cancelled at any await: nobody reads another's reply, nothing stays behind, nothing is swallowed."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sessioncache import (
    AsyncSession,
    AsyncSessionCache,
    SessionDeleted,
    SessionExists,
    SessionMoved,
    SessionNotFound,
    VersionConflict,
)

CONNECTIONS = 3
MOST = 2000
WAYS = ["waiting", "answered"]


def says(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


class Cancelled:
    """Awaits a coroutine, and has its task cancelled at the n-th suspension: while it waits, or when the answer came."""

    def __init__(self, coroutine: Awaitable[Any], at: int, way: str) -> None:
        self.coroutine, self.at, self.way, self.count = coroutine, at, way, 0

    @property
    def was(self) -> bool:
        return self.count >= self.at

    def __await__(self) -> Iterator[Any]:
        inner, send, value = self.coroutine.__await__(), "send", None
        while True:
            try:
                waits_for = getattr(inner, send)(value)
            except StopIteration as done:
                return done.value
            self.count += 1
            if self.count == self.at:
                self._cancel(waits_for)
            try:
                send, value = "send", (yield waits_for)
            except BaseException as error:  # noqa: BLE001 - all of it goes on to the coroutine
                send, value = "throw", error

    def _cancel(self, waits_for: Any) -> None:
        task = asyncio.current_task()
        if self.way == "answered" and waits_for is not None:
            waits_for.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)

    async def result(self) -> Any:
        return await self


@dataclass
class Scene:
    """A session of three messages, in a cache of few connections."""

    cache: AsyncSessionCache
    session: AsyncSession
    key: str
    ended: str = ""
    called: list[str] = field(default_factory=list)


async def _turn(at: Scene) -> None:
    async with at.session.turn(timeout=5) as mine:
        await mine.append(says("d"), id="m-d")


async def _hold(at: Scene) -> None:
    async with at.session.hold("test"):
        await at.session.refresh()


async def _all(at: Scene) -> list[str]:
    return [one.data["content"] async for one in at.session.iterate(page=2)]


OLD, MORE = list("abc"), list("abcd")


@dataclass
class Case:
    """A call, and which histories there may be after it was cancelled, and after it was made again to its end."""

    call: Callable[[Scene], Awaitable[Any]]
    may_be: list[list[str]]
    at_last: list[list[str]]
    cold: bool = False
    step: int = 1


CASES = {
    "append": Case(lambda at: at.session.append(says("d"), id="m-d"), [OLD, MORE], [MORE]),
    "append to a cold one": Case(lambda at: at.session.append(says("d"), id="m-d"), [OLD, MORE], [MORE], cold=True),
    "messages": Case(lambda at: at.session.messages(), [OLD], [OLD]),
    "messages of a cold one": Case(lambda at: at.session.messages(), [OLD], [OLD], cold=True),
    "page": Case(lambda at: at.session.messages(before=1000), [OLD], [OLD], step=2),
    "iterate": Case(_all, [OLD], [OLD], step=3),
    "context": Case(lambda at: at.session.context(), [OLD], [OLD]),
    "open a cold one": Case(lambda at: at.cache.open(at.key), [OLD], [OLD], cold=True),
    "refresh": Case(lambda at: at.session.refresh(), [OLD], [OLD]),
    "update": Case(lambda at: at.session.update(title="t"), [OLD], [OLD]),
    "pop": Case(lambda at: at.session.pop(expected_version=4), [OLD, OLD[:2]], [OLD[:2]]),
    "truncate": Case(lambda at: at.session.truncate(1), [OLD, OLD[:1]], [OLD[:1]]),
    "replace": Case(lambda at: at.session.replace([says("x")]), [OLD, ["x"]], [["x"]]),
    "reset": Case(lambda at: at.session.reset(), [OLD, []], [[]]),
    "switch": Case(lambda at: at.session.switch(at.ended), [OLD, ["z"]], [["z"]], step=6),
    "delete": Case(lambda at: at.session.delete(), [OLD, []], [[]], step=2),
    "fork": Case(lambda at: at.session.fork(at.key + " fork"), [OLD], [OLD], step=8),
    "turn": Case(_turn, [OLD, MORE], [MORE]),
    "turn in a cold one": Case(_turn, [OLD, MORE], [MORE], cold=True),
    "hold": Case(_hold, [OLD], [OLD]),
    "flush": Case(lambda at: at.cache.flush(), [OLD], [OLD], step=2),
    "read": Case(lambda at: at.cache.read(at.session.session_id), [OLD], [OLD], step=2),
    "list": Case(lambda at: at.cache.list(fresh=True), [OLD], [OLD], step=3),
    "stats": Case(lambda at: at.cache.stats(), [OLD], [OLD], step=2),
}


QUICK = [
    "append",
    "messages",
    "context",
    "refresh",
    "update",
    "pop",
    "truncate",
    "replace",
    "reset",
    "hold",
    "turn",
]


async def _scene(cache: AsyncSessionCache, key: str, case: Case) -> Scene:
    session = await cache.open(key)
    if case is CASES["switch"]:
        await session.append(says("z"))
        ended, session = session.session_id, await session.reset()
    else:
        ended = ""
    await session.append([says(word) for word in OLD])
    if case.cold:
        await cache.flush(key)
        await cache.evict(key)
        cache._state.near.drop(key)
    return Scene(cache, session, key, ended)


async def _found(cache: AsyncSessionCache, key: str) -> list[str]:
    try:
        return [one["content"] for one in await (await cache.get(key)).history()]
    except SessionNotFound:
        return []


async def _check_books(cache: AsyncSessionCache, raw) -> None:
    """Every connection answers to what it is asked; no right is left, nothing is in use."""
    hot, engine = cache._connections._hot, cache._connections._engine
    for _ in range(500):  # what is given back behind a cancelled block may still be on its way
        left = [name for kind in ("lease", "turn") for name in raw.scan_iter(f"*:{kind}:*")] + list(raw.keys("*:holds"))
        left += set(hot.connection_pool._in_use_connections) - set(hot.connection_pool._idle)
        left += ["a connection to SQL"] * engine.sync_engine.pool.checkedout()
        if not left:
            break
        await asyncio.sleep(0.01)
    assert not left
    pool = hot.connection_pool
    assert len(pool._idle) == len({*pool._idle})
    assert pool._free._value == CONNECTIONS
    tags = [f"tag {n}".encode() for n in range(2 * CONNECTIONS)]
    assert await asyncio.gather(*(hot.execute_command("ECHO", tag) for tag in tags)) == tags
    assert len(hot.connection_pool._in_use_connections) <= CONNECTIONS


async def _at_every_suspension(stack, case: Case, way: str) -> None:
    async with AsyncSessionCache(settings=stack.settings(max_connections=CONNECTIONS)) as cache:
        with stack.raw() as raw:
            for n in range(1 + WAYS.index(way) * case.step // 2, MOST, case.step):
                if not await _is_cancelled(cache, raw, case, n, way):
                    return
    raise AssertionError("it never ran through")


async def _is_cancelled(cache: AsyncSessionCache, raw, case: Case, at: int, way: str) -> bool:
    scene = await _scene(cache, f"dm:{at}", case)
    cancelled = Cancelled(case.call(scene), at, way)
    task = asyncio.create_task(cancelled.result())
    await asyncio.wait([task], timeout=30)
    assert task.cancelled() == cancelled.was, "a cancellation was swallowed, or came by itself"
    if not task.cancelled():
        task.result()
    await _check_books(cache, raw)
    assert await _found(cache, scene.key) in case.may_be
    with suppress(SessionMoved, SessionExists, SessionDeleted, VersionConflict):
        await case.call(scene)
    await _check_books(cache, raw)
    assert await _found(cache, scene.key) in case.at_last
    return cancelled.was


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", QUICK)
def test_a_call_is_cancelled_at_any_await(one_stack, name, way):
    """It happened or not, whole; connections, leases, turns and holds are free; made again it comes to its end."""
    asyncio.run(_at_every_suspension(one_stack, CASES[name], way))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(set(CASES) - set(QUICK)))
def test_a_call_that_asks_sql_is_cancelled_at_any_await(some_stack, name, way):
    """The same, of calls with many requests; and no thread of a database connection stays."""
    before = threading.active_count()
    asyncio.run(_at_every_suspension(some_stack, CASES[name], way))
    end = time.monotonic() + 10  # the thread of a connection that was closed last may still be about to end
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_a_cancelled_transaction_is_rolled_back_at_once(one_stack):
    """SQLite keeps the lock of a closed connection while anything refers to a statement, as what was cancelled does."""

    async def work() -> None:
        async with AsyncSessionCache(settings=one_stack.settings()) as cache:
            for at in range(1, 45):
                session = await cache.open(f"dm:{at}")
                await session.append(says("a"))
                task = asyncio.create_task(Cancelled(session.messages(before=1000), at, "waiting").result())
                await asyncio.wait([task])
                flushing = asyncio.create_task(cache.flush(session.key))
                await asyncio.wait([flushing], timeout=4)  # below the time that a lock is waited for
                assert flushing.done()
                flushing.result()

    gc.disable()
    try:
        asyncio.run(work())
    finally:
        gc.enable()


def test_whoever_waits_for_a_connection_is_woken(one_stack):
    """The task that a free connection was for is cancelled: the next one gets it, at once and not at its timeout."""

    async def work() -> None:
        async with AsyncSessionCache(settings=one_stack.settings(max_connections=1, redis_timeout=20, timeout=60)) as cache:
            await cache.stats()
            pool, loop = cache._connections._hot.connection_pool, asyncio.get_running_loop()
            first, second, third = (asyncio.create_task(cache.stats()) for _ in range(3))
            await asyncio.sleep(0)

            def when_woken() -> None:
                if any(one.done() for one in pool._free._waiters or ()):
                    second.cancel()
                elif not second.done():
                    loop.call_soon(when_woken)

            when_woken()
            done, _ = await asyncio.wait([first, second, third], timeout=10)
            assert done == {first, second, third}
            assert second.cancelled()

    asyncio.run(work())


def test_a_thousand_cancellations_leave_the_pool_as_it_was(some_stack):
    """Tasks fight for few connections and are cancelled at random, some twice: every reply is its own, none is lost."""
    chance = random.Random(7)

    async def talk(session: AsyncSession) -> None:
        for n in range(3):
            tag = f"{session.key} {n} {chance.random()}"
            (record,) = await session.append(says(tag))
            assert record.data["content"] == tag
            assert all(one.data["content"].startswith(session.key + " ") for one in await session.messages(5))

    async def work() -> None:
        async with AsyncSessionCache(
            settings=some_stack.settings(max_connections=CONNECTIONS, redis_timeout=20.0, timeout=60.0)
        ) as cache:
            sessions = [await cache.open(f"dm:{n}") for n in range(10)]
            cancelled = 0
            while cancelled < 1000:
                tasks = [asyncio.create_task(talk(session)) for session in sessions for _ in range(3)]
                for one in chance.sample(tasks, 25):
                    for _ in range(chance.choice([0, 0, 1, 2])):
                        await asyncio.sleep(0)
                    one.cancel()
                    if chance.random() < 0.3:
                        asyncio.get_running_loop().call_soon(one.cancel)
                for one in asyncio.as_completed(tasks):
                    with suppress(asyncio.CancelledError):
                        await one
                cancelled += sum(one.cancelled() for one in tasks)
            with some_stack.raw() as raw:
                await _check_books(cache, raw)
            assert cache._state.counters.snapshot()["retries"] == 0

    asyncio.run(work())


@pytest.mark.parametrize("way", ["timeout", "wait_for"])
def test_a_time_limit_of_the_callers_own_holds(one_stack, proxy, way):
    """Redis is silent: the caller is told in its own time, by a TimeoutError, and the next call gets its own reply."""

    async def limited(coroutine: Awaitable[Any]) -> Any:
        if way == "wait_for":
            return await asyncio.wait_for(coroutine, 1)
        async with asyncio.timeout(1):
            return await coroutine

    async def work() -> None:
        between = proxy(one_stack.server.socket)
        limits = {"max_connections": 1, "redis_timeout": 20, "timeout": 60}
        settings = replace(one_stack.settings(**limits), redis_url=between.url)
        async with AsyncSessionCache(settings=settings) as cache:
            session = await cache.open("dm:1")
            between.swallow = b"m-1"
            with pytest.raises(TimeoutError):
                await limited(session.append(says("a"), id="m-1"))
            assert between.lost.is_set()
            assert asyncio.current_task().cancelling() == 0
            assert [one.id for one in await limited(session.append(says("a"), id="m-1"))] == ["m-1"]
            assert await limited(session.history()) == [says("a")]

    asyncio.run(work())
