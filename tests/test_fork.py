"""A process is forked with an open cache, in the middle of what its threads do; a thread dies in the middle of a call."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
import warnings

import pytest
from children import fork_while_threads_work, processes

from sessioncache import AsyncSessionCache, ConfigurationError

FORKS = 6


def test_parent_and_children_go_on_at_once(some_stack):
    """Nobody reads another's reply, nobody waits for a lock of a thread that is not there, nothing is lost."""
    with processes(1) as pool:
        assert pool.submit(fork_while_threads_work, some_stack.settings(), FORKS).result() == []
    with some_stack.cache() as cache:
        cache.flush()
        for name in [f"child {n}" for n in range(FORKS)] + [f"thread {n}" for n in range(4)]:
            words = [one["content"] for one in cache.get(name).history()]
            assert words == [f"{name} {n}" for n in range(len(words))]
            shared = [one["content"] for one in cache.get("shared").history()]
            assert [word for word in shared if word.startswith(name + " ")] == words


def in_a_child(work) -> int:
    """The exit code of a forked child that does this: 0 if it raised nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, of a process with threads
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the exit code tells
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_counts_from_zero_and_keeps_nothing_near(one_stack):
    """What `stats` says is of the process that asks."""
    with one_stack.cache() as cache:
        session = cache.open("dm:1")
        session.append({"content": "a"})
        assert session.history() == [{"content": "a"}]

        def child():
            assert cache.stats().counters["appends"] == 0
            assert cache._state.near.get("dm:1") is None
            session.append({"content": "b"})

        assert in_a_child(child) == 0
        assert session.history() == [{"content": "a"}, {"content": "b"}]
        assert cache.stats().counters["appends"] == 1


def test_a_child_that_leaves_the_block_ends_no_turn_of_its_parent(one_stack):
    """The parent's turn is the parent's."""
    with one_stack.cache() as cache:
        right = cache.open("dm:1").turn()
        with right as mine:
            assert in_a_child(lambda: right.__exit__(None, None, None)) == 0
            mine.append({"content": "a"})


def test_a_child_of_the_awaiting_door_is_told(one_stack):
    """Its sockets are the parent's, and so is its event loop: an error, and the parent goes on unharmed."""

    async def work() -> None:
        async with AsyncSessionCache(settings=one_stack.settings()) as cache:
            session = await cache.open("dm:1")
            await session.append({"content": "a"})

            async def use() -> None:
                with pytest.raises(ConfigurationError, match="in the child"):
                    await session.append({"content": "b"})
                await cache.close()

            assert in_a_child(lambda: asyncio.run(use())) == 0
            assert await session.history() == [{"content": "a"}]
            await session.append({"content": "c"})
            assert await session.history() == [{"content": "a"}, {"content": "c"}]

    asyncio.run(work())


def test_a_reply_that_nobody_read_is_never_the_next_callers(one_stack, monkeypatch):
    """A thread ends between sending and reading: its connection is closed, also where the reply is still to come."""
    with one_stack.cache(max_connections=1) as cache:
        session, hot = cache.open("dm:1"), cache._connections._hot
        session.append({"content": "a"})

        def ends(*_: object, **__: object) -> None:
            raise SystemExit

        monkeypatch.setattr(hot, "parse_response", ends)
        with pytest.raises(SystemExit):
            hot.execute_command("ECHO", "somebody else's")
        monkeypatch.undo()
        monkeypatch.setattr(hot.connection_pool.connection_class, "can_read", lambda *_: False)
        assert session.append({"content": "b"})[0].data == {"content": "b"}
        assert session.history() == [{"content": "a"}, {"content": "b"}]


def test_threads_that_die_anywhere_harm_nobody(one_stack):
    """Exceptions are thrown into threads at any moment; every other call gets its own reply, then and afterwards."""
    with one_stack.cache() as cache:
        wrong: list[str] = []

        def talk(name: str) -> None:
            session = cache.open(name)
            for n in range(10_000):
                (record,) = session.append({"content": f"{name} {n}"})
                if record.data["content"] != f"{name} {n}":
                    wrong.append(name)

        def dies(name: str) -> None:
            try:
                talk(name)
            except SystemExit:
                return

        for n in range(60):
            threads = [threading.Thread(target=dies, args=(f"dm:{n}-{m}",)) for m in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(0.002 + n * 0.0002)
            for thread in threads:
                while thread.is_alive():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
                    thread.join(0.05)
            tags = [f"tag {m}".encode() for m in range(4)]
            assert [cache._connections._hot.execute_command("ECHO", tag) for tag in tags] == tags
        assert wrong == []
        assert cache.open("dm:last").append({"content": "a"})[0].data == {"content": "a"}
