"""What tests run in other processes."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context

from sqlalchemy import Engine, event

from sessioncache import AsyncSessionCache, SessionCache, write_behind
from sessioncache.commit import commit
from sessioncache.config import Settings
from sessioncache.connect import BlockingConnections
from sessioncache.flow import Request, Transact
from sessioncache.hot import draining
from sessioncache.op import parse
from sessioncache.process import end_with_parent
from sessioncache.store import load
from sessioncache.store.planned import Log


@contextmanager
def processes(count: int):
    """A pool of fresh processes, which end with the test."""
    setup = partial(end_with_parent, os.getpid())
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=setup) as pool:
        yield pool


def history(settings: Settings, key: str) -> list[dict]:
    """Read one session, as a server that never saw it before."""
    with SessionCache(settings=settings) as cache:
        return cache.get(key).history()


def count_loads(engine: Engine) -> list[str]:
    """The statements that read messages, as they are sent."""
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _see(_connection, _cursor, statement, *_rest) -> None:
        if "FROM messages \n" in statement and "body" in statement:
            seen.append(statement)

    return seen


def read_at_once(settings: Settings, key: str, at: float, *, tasks: bool) -> tuple[int, list[int]]:
    """Twenty readers of one session, all at the same moment: statements that read messages, and lengths found."""
    return asyncio.run(_tasks(settings, key, at)) if tasks else _threads(settings, key, at)


def _threads(settings: Settings, key: str, at: float) -> tuple[int, list[int]]:
    found: list[int] = []
    with SessionCache(settings=settings) as cache:
        cache.stats()  # opens connections, so that all readers start together
        seen = count_loads(cache._connections.driver.engine)

        def read() -> None:
            time.sleep(max(0, at - time.time()))
            found.append(len(cache.get(key).history()))

        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return len(seen), found


async def _tasks(settings: Settings, key: str, at: float) -> tuple[int, list[int]]:
    async with AsyncSessionCache(settings=settings) as cache:
        await cache.stats()
        seen = count_loads(cache._connections.driver.engine.sync_engine)

        async def read() -> int:
            await asyncio.sleep(max(0, at - time.time()))
            return len(await (await cache.get(key)).history())

        found = await asyncio.gather(*(read() for _ in range(20)))
    return len(seen), list(found)


def drain_forever(settings: Settings) -> None:
    """Be a drainer that never stops by itself."""
    end_with_parent(os.getppid())
    connections = BlockingConnections(settings)
    while True:
        connections.run(write_behind.drain_lane(connections.state, 0, 1, lambda: False))


def drain_slowly(settings: Settings, key: str, pause: float, read: Callable[[], None], go: Callable[[], None]) -> None:
    """Be a drainer that sleeps between reading the log and committing it."""
    connections = BlockingConnections(settings)
    state = connections.state
    keys = state.keyspace.of(key)

    def flow():
        (elements,) = yield from draining.peek(state, [keys], 1000, 2**20)
        read()
        time.sleep(pause)
        go()
        yield from commit(state, [Log(key, [parse(one) for one in elements])])

    connections.run(flow())
    connections.close()


def append_many(settings: Settings, keys: list[str], count: int, name: str) -> int:
    """Append to each session in turn; the number of messages acknowledged."""
    with SessionCache(settings=settings) as cache:
        sessions = [cache.open(key) for key in keys]
        for n in range(count):
            for session in sessions:
                session.append({"role": "user", "content": f"{name} {n}"})
    return count * len(keys)


def fork_while_threads_work(settings: Settings, rounds: int) -> list[str]:
    """Fork in the middle of what threads do with a cache; every child uses it too. What went wrong, in parent or children.

    Threads and children append to sessions of their own, and to one that all of them share, and read them back.
    """
    wrong: list[str] = []
    stop = threading.Event()

    def work(name: str, rounds: int | None = None) -> None:
        try:
            own, shared, done = cache.open(name), cache.open("shared"), 0
            while not stop.is_set() and done != rounds:
                own.append({"content": f"{name} {done}"})
                shared.append({"content": f"{name} {done}"})
                done += 1
                assert own.history(3) == [{"content": f"{name} {n}"} for n in range(done)][-3:]
                assert any(one["content"] == f"{name} {done - 1}" for one in shared.history())
                if done % 5 == 0:
                    cache.flush(name)
                    cache.evict(name)
        except BaseException as error:  # noqa: BLE001 - told to the parent
            wrong.append(f"{name}: {type(error).__name__}: {error}")

    with SessionCache(settings=settings) as cache:
        cache.stats()  # SQLAlchemy learns what its database is with the first connection; no fork may interrupt that
        threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for number in range(rounds):
            wrong += _forked(partial(work, f"child {number}", 6), wrong)
        stop.set()
        for thread in threads:
            thread.join()
    return wrong


CHILD_SECONDS = 60


def _forked(work: Callable[[], None], wrong: list[str]) -> list[str]:
    """Do it in a forked child; what went wrong."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        wrong.clear()
        work()
        os.write(writing, "\n".join(wrong).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        if not select.select([told], [], [], CHILD_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return ["a child never came to its end"]
        os.waitpid(pid, 0)
        return told.read().splitlines()


def hydrate_and_hang(settings: Settings, keys: list[str], parent: int) -> None:
    """Take the lease of every key, and hang in the load: to be killed there."""
    end_with_parent(parent)
    cache = SessionCache(settings=settings)
    perform = cache._connections.driver.perform

    def hang(request: Request) -> object:
        if isinstance(request, Transact) and request.work.func is load.snapshot:
            time.sleep(600)
        return perform(request)

    cache.stats()
    cache._connections.driver.perform = hang
    threads = [threading.Thread(target=cache.get, args=(key,), daemon=True) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_all(settings: Settings, keys: list[str], readers: int, seed: int) -> tuple[dict[str, int], list[str], float]:
    """Threads that read all sessions, each in an order of its own: counters, what was wrong, and the longest wait."""
    wrong: list[str] = []
    waits = [0.0]

    def read(chance: random.Random) -> None:
        for key in chance.sample(keys, len(keys)):
            start = time.monotonic()
            try:
                found = [one["content"] for one in cache.get(key).history()]
            except Exception as error:  # noqa: BLE001 - told to the test
                found = [repr(error)]
            waits.append(time.monotonic() - start)
            if found != [f"{key} {n}" for n in range(len(found) or 1)]:
                wrong.append(f"{key}: {found[:2]}")

    with SessionCache(settings=settings) as cache:
        threads = [threading.Thread(target=read, args=(random.Random(seed * readers + n),)) for n in range(readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return cache._state.counters.snapshot(), wrong, max(waits)
