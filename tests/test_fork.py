"""A process is forked with an open cache, in the middle of what its threads do; a thread dies in the middle of a call."""

from __future__ import annotations

import asyncio
import os
import sys
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


def test_a_fork_while_the_first_connection_is_made(postgres_stack, monkeypatch):
    """SQLAlchemy learns then what its database is, once for an engine: the fork waits until it knows."""
    with postgres_stack.cache() as cache:
        dialect, begun = cache._connections.driver.engine.dialect, threading.Event()
        initialize = dialect.initialize

        def slowly(connection):
            begun.set()
            time.sleep(0.5)
            initialize(connection)

        monkeypatch.setattr(dialect, "initialize", slowly)
        first = threading.Thread(target=cache.open, args=("dm:1",))
        first.start()
        assert begun.wait(10)
        assert in_a_child(lambda: cache.open("dm:2").append({"content": "a"})) == 0
        first.join()
        assert cache.get("dm:2").history() == [{"content": "a"}]


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

        connection = hot.connection_pool.get_connection()
        hot.connection_pool.release(connection)
        monkeypatch.setattr(connection, "read_response", ends)
        with pytest.raises(SystemExit):
            hot.execute_command("ECHO", "somebody else's")
        monkeypatch.undo()
        monkeypatch.setattr(hot.connection_pool.connection_class, "can_read", lambda *_: False)
        assert session.append({"content": "b"})[0].data == {"content": "b"}
        assert session.history() == [{"content": "a"}, {"content": "b"}]


class Ends:
    """A trace function that ends its thread at the n-th line of redis-py where it sends or reads."""

    SENDING = frozenset({"_send_command_parse_response", "send_command", "send_packed_command"})
    READING = frozenset({"parse_response", "read_response"})

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self, frame, event, _argument):
        code = frame.f_code
        if "redis" not in code.co_filename or code.co_name not in self.SENDING | self.READING:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                sys.settrace(None)
                raise SystemExit
        return self


def test_a_thread_ends_at_any_line(one_stack, monkeypatch):
    """Wherever it ends in the middle of a request, the next one gets its own reply, and it happened or not."""
    with one_stack.cache(max_connections=1) as cache:
        session, hot = cache.open("dm:1"), cache._connections._hot
        monkeypatch.setattr(hot.connection_pool.connection_class, "can_read", lambda *_: False)
        at, ended = 0, True
        while ended:
            at += 1
            session.append({"content": "warm"}, id="warm")
            ends = Ends(at)
            sys.settrace(ends)
            try:
                session.append({"content": str(at)}, id=str(at))
                ended = False
            except SystemExit:
                ended = True
            finally:
                sys.settrace(None)
            tag = f"tag {at}".encode()
            assert hot.execute_command("ECHO", tag) == tag
            assert session.append({"content": str(at)}, id=str(at))[0].data == {"content": str(at)}
        assert at > 10
        said = [one["content"] for one in session.history() if one["content"] != "warm"]
        assert said == [str(n) for n in range(1, at + 1)]
