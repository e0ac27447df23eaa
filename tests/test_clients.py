"""The clients built here: what they answer, beside redis-py's own, and what becomes of a connection that is interrupted."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha1

import pytest
import redis
import redis.asyncio
from trouble import Rung

from sessioncache.clients import exchanged, exchanged_awaited, packed
from sessioncache.drivers import Blocking
from sessioncache.durability import Wait
from sessioncache.flow import Evaluate
from sessioncache.pools import awaiting_client, blocking_client
from sessioncache.scripts import Script

COMMANDS = [
    ("EVALSHA", "a" * 40, 2, "key", "another {key}", b"\x00\xff\r\n", "ä\x00", 10**15, -1, 0.5, ""),
    ("CONFIG GET", "maxmemory"),
    ("PING",),
]
ASKED = (
    ("RPUSH", "list", "a", b"\x00", 1),
    ("LRANGE", "list", 0, -1),
    ("HSET", "hash", "field", "value"),
    ("HGETALL", "hash"),
    ("HGET", "list", "field"),  # of a wrong type
    ("EVALSHA", "f" * 40, 0),  # no such script
    ("ZADD", "sorted", 1, "one"),
    ("ZRANGE", "sorted", 0, -1, "WITHSCORES"),
    ("CONFIG GET", "maxmemory"),
    ("EXISTS", "list", "nothing"),
)
NOTHING = Script("nothing", TEXT := "return {'ok'}", sha1(TEXT.encode(), usedforsecurity=False).hexdigest())


@contextmanager
def blocking(stack):
    client = blocking_client(stack.settings())
    yield client
    client.connection_pool.disconnect()


@asynccontextmanager
async def awaiting(stack):
    client = awaiting_client(stack.settings())
    yield client
    await client.connection_pool.disconnect()


def shown(replies):
    return [(type(one), str(one)) if isinstance(one, Exception) else one for one in replies]


def test_commands_are_packed_as_redis_py_packs_them():
    """Byte for byte."""
    plain = redis.asyncio.UnixDomainSocketConnection(path="nowhere")
    assert packed(COMMANDS) == b"".join(part for command in COMMANDS for part in plain.pack_command(*command))


def test_replies_are_those_of_a_pipeline(one_stack):
    """Of the same types, errors in their places; of INFO the facts."""
    with one_stack.raw() as raw, blocking(one_stack) as client:
        expected = shown(exchanged(raw, ASKED))
        raw.flushdb()
        assert shown(exchanged(client, ASKED)) == expected
        assert exchanged(client, [("INFO", "server")])[0]["run_id"] == raw.info("server")["run_id"]


def test_awaited_replies_are_those_of_a_pipeline(one_stack):
    """The same."""

    async def asked() -> None:
        plain = redis.asyncio.Redis.from_url(one_stack.redis_url)
        async with awaiting(one_stack) as client:
            expected = shown(await exchanged_awaited(plain, ASKED))
            await plain.flushdb()
            assert shown(await exchanged_awaited(client, ASKED)) == expected
            (info,) = await exchanged_awaited(client, [("INFO", "server")])
            assert info["run_id"] == (await plain.info("server"))["run_id"]
        await plain.aclose()

    asyncio.run(asked())


@pytest.mark.parametrize("number", range(3))
def test_no_reply_is_left_for_the_next_command(one_stack, monkeypatch, number):
    """Whatever is raised between two replies, and is no end of the process."""
    with blocking(one_stack) as client:
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        read, calls = connection.read_response, iter(range(10))

        def interrupted():
            if next(calls) == number:
                raise Rung
            return read()

        with monkeypatch.context() as during:
            during.setattr(connection, "read_response", interrupted)
            with pytest.raises(Rung):
                client.replies([("ECHO", "a"), ("BLPOP", "nothing", 0.2), ("ECHO", "b")])
        assert client.execute_command("ECHO", "c") == b"c"
        assert client.execute_command("ECHO", "d") == b"d"


@pytest.mark.parametrize("number", range(3))
def test_no_reply_is_left_for_the_next_command_awaited(one_stack, monkeypatch, number):
    """The same."""

    async def asked() -> None:
        async with awaiting(one_stack) as client:
            connection = await client.connection_pool.get_connection()
            await client.connection_pool.release(connection)
            read, calls = connection.read_response, iter(range(10))

            async def interrupted():
                if next(calls) == number:
                    raise Rung
                return await read()

            with monkeypatch.context() as during:
                during.setattr(connection, "read_response", interrupted)
                with pytest.raises(Rung):
                    await client.replies([("ECHO", "a"), ("BLPOP", "nothing", 0.2), ("ECHO", "b")])
            assert await client.execute_command("ECHO", "c") == b"c"
            assert await client.execute_command("ECHO", "d") == b"d"

    asyncio.run(asked())


@pytest.mark.parametrize("asked", ["send_command", "read_response"])
def test_no_reply_to_a_wait_is_left_for_the_next_command(one_stack, monkeypatch, asked):
    """Where Redis is asked on the connection that ran a script: an interruption after the command went out."""
    request = Evaluate(NOTHING, (), (), Wait(("WAIT", 1), (), (1,), 0.2, 0.2))
    with blocking(one_stack) as client:
        driver = Blocking(client, None, None, None, 1.0)
        client.execute_command("SCRIPT LOAD", NOTHING.text)
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        act, calls = getattr(connection, asked), iter(range(10))

        def interrupted(*arguments, **options):
            last = next(calls) == 1  # the wait, after the script
            if last and asked == "read_response":
                raise Rung
            reply = act(*arguments, **options)
            if last:
                raise Rung
            return reply

        with monkeypatch.context() as during:
            during.setattr(connection, asked, interrupted)
            with pytest.raises(Rung):
                driver.perform(request)
        assert client.execute_command("ECHO", "c") == b"c"
        assert client.execute_command("ECHO", "d") == b"d"


def test_an_error_reply_is_not_kept(one_stack):
    """Nor the command that met it, which may be as large as a message may be."""
    with blocking(one_stack) as client, collector_off():
        try:
            client.execute_command("HGET", "key")
        except redis.ResponseError as error:
            kept = weakref.ref(error)
        assert kept() is None
        replies = client.replies((("HGET", "key"), ("PING",)))
        kept = weakref.ref(replies[0])
        del replies
        assert kept() is None


def test_an_awaited_error_reply_is_not_kept(one_stack):
    """The same by awaiting."""

    async def work() -> None:
        async with awaiting(one_stack) as client:
            try:
                await client.execute_command("HGET", "key")
            except redis.ResponseError as error:
                kept = weakref.ref(error)
            assert kept() is None
            replies = await client.replies((("HGET", "key"), ("PING",)))
            kept = weakref.ref(replies[0])
            del replies
            assert kept() is None

    with collector_off():
        asyncio.run(work())


@contextmanager
def collector_off():
    gc.disable()
    yield
    gc.enable()


def test_tasks_share_the_connections_that_there_are(one_stack):
    """As many as are allowed, each given back, the last one first; one that waits in vain is told."""

    async def asked() -> None:
        settings = one_stack.settings(max_connections=2, redis_timeout=1.0)
        client = awaiting_client(settings)
        pool = client.connection_pool
        ids = await asyncio.gather(*(client.execute_command("CLIENT", "ID") for _ in range(20)))
        assert 1 <= len({*ids}) <= 2
        one, other = await pool.get_connection(), await pool.get_connection()
        with pytest.raises(redis.ConnectionError, match="No connection became free"):
            await pool.get_connection()
        await pool.release(one)
        await pool.release(other)
        assert await pool.get_connection() is other
        await pool.disconnect()

    asyncio.run(asked())


def test_a_connection_that_is_to_be_made_anew_is(one_stack):
    """What redis-py says of a connection that Redis is about to end."""

    async def asked() -> None:
        async with awaiting(one_stack) as client:
            before = await client.execute_command("CLIENT", "ID")
            connection = await client.connection_pool.get_connection()
            if not hasattr(connection, "mark_for_reconnect"):
                return  # redis-py 5 has none of these
            connection.mark_for_reconnect()
            await client.connection_pool.release(connection)
            assert await client.execute_command("CLIENT", "ID") != before

    asyncio.run(asked())
