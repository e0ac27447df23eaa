"""How far an append has got when it returns: four levels, on real servers, with a replica that is held back."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from conftest import HOT, Stack, binary_of
from doors import DOORS, opener
from servers import RedisServer
from sqlalchemy import create_engine, text

from sessioncache import (
    AsyncSessionCache,
    DurabilityNotReached,
    DurabilityUnavailable,
    InvalidInput,
    Replicated,
    SessionDeleted,
    StoreUnavailable,
    Synced,
)

KEY = "telegram:dm:42"
HELLO = {"role": "user", "content": "hello"}
SOON = 0.3  # seconds after which a test gives up waiting for what does not come
LONG = 20.0  # seconds in which what comes has come


@dataclass
class Pair:
    """A primary and its replica."""

    primary: RedisServer
    replica: RedisServer

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """The replica takes nothing meanwhile."""
        self.replica.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.replica.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def pair_of(binary: str) -> Iterator[Pair]:
    primary = RedisServer(binary, port=str(free_port()), bind="127.0.0.1", **{"repl-diskless-sync-delay": "0"})
    replica = RedisServer(binary, replicaof=f"127.0.0.1 {primary.options['port']}")
    try:
        primary.start()
        replica.start()
        deadline = time.monotonic() + LONG
        with redis.Redis.from_url(primary.url) as client:
            while client.info("replication").get("slave0", {}).get("state") != "online":
                assert time.monotonic() < deadline, "the replica does not come"
                time.sleep(0.02)
        yield Pair(primary, replica)
    finally:
        replica.close()
        primary.close()


@pytest.fixture(scope="module", params=list(HOT))
def pair(request) -> Iterator[Pair]:
    """Each hot tier, with a replica."""
    with pair_of(binary_of(request.param)) as servers:
        yield servers


@pytest.fixture
def replicated(pair, tmp_path) -> Iterator[Stack]:
    """A stack over such a pair, empty."""
    yield Stack("pair", pair.primary, pair.primary.url, f"sqlite:///{tmp_path}/store.db")
    with redis.Redis.from_url(pair.primary.url) as client:
        client.flushall()


@pytest.fixture(params=DOORS)
def door(request, replicated):
    """Opens caches over such a pair by either door."""
    with opener(replicated, request.param) as opened:
        yield opened


def contents(session) -> list[str]:
    return [one["content"] for one in session.history()]


def levels(records) -> set[str | None]:
    return {one.durability for one in records}


def test_a_level_that_is_reached_stands_in_the_records(door):
    """Of one message, of a batch, and of a turn's; what is read says nothing of it, and is equal all the same."""
    session = door().open(KEY)
    assert levels(session.append(HELLO)) == {"cached"}
    assert levels(session.append([HELLO, HELLO], durability=Replicated(1, LONG))) == {"replicated"}
    assert levels(session.append(HELLO, durability="stored")) == {"stored"}
    with session.turn() as turn:
        written = turn.append(HELLO, id="mine", durability=Replicated(1, LONG))
    assert levels(written) == {"replicated"}
    assert list(session.messages(limit=1)) == written
    assert levels(session.messages()) == {None}
    assert session.append([], durability=Replicated(3, LONG)) == []


def test_a_replica_held_back_is_told_and_nothing_is_lost(door, pair):
    """In time, with the records of what was accepted; once it is back, the same append succeeds."""
    session = door().open(KEY)
    session.append(HELLO, durability=Replicated(1, LONG))
    with pair.held_back():
        with pytest.raises(DurabilityNotReached, match="0 of 1 replicas") as told:
            session.append({"content": "held"}, id="held", durability=Replicated(1, SOON))
        assert [(one.id, one.durability) for one in told.value.records] == [("held", "cached")]
        assert told.value.durability == "replicated"
        assert contents(session) == ["hello", "held"]
    assert session.append({"content": "held"}, id="held", durability=Replicated(1, LONG)) == told.value.records
    assert contents(session) == ["hello", "held"]


def test_a_repeat_waits_as_truly_as_the_first(door, pair):
    """Also from a server that wrote nothing since, whose connections have nothing of their own to wait for."""
    session, other = door().open(KEY), door().get(KEY)
    session.append(HELLO, durability=Replicated(1, LONG))
    with pair.held_back():
        session.append({"content": "held"}, id="held")
        for _ in range(2):
            with pytest.raises(DurabilityNotReached):
                other.append({"content": "held"}, id="held", durability=Replicated(1, SOON))
    assert levels(other.append({"content": "held"}, id="held", durability=Replicated(1, LONG))) == {"replicated"}


def test_waiting_outlasts_the_time_of_one_reply(door, pair):
    """A timeout longer than `redis_timeout` is waited for in steps, on one connection."""
    session = door(redis_timeout=1.0, timeout=1.0).open(KEY)
    session.append(HELLO, durability=Replicated(1, LONG))
    with pair.held_back():
        begun = time.monotonic()
        with pytest.raises(DurabilityNotReached):
            session.append(HELLO, durability=Replicated(1, 2.5))
        assert time.monotonic() - begun >= 2.5
    assert contents(session) == ["hello"] * 2


def test_more_replicas_than_there_are(door):
    """Are never reached: that is told, not passed over."""
    session = door().open(KEY)
    with pytest.raises(DurabilityNotReached, match="1 of 2 replicas"):
        session.append(HELLO, durability=Replicated(2, 2.0))  # the one there is may be slow to say so


def test_what_is_refused_is_not_waited_for(door, pair):
    """A session that is not current any more is told at once, whatever the replica does."""
    session = door().open(KEY)
    session.delete()
    with pair.held_back():
        begun = time.monotonic()
        with pytest.raises(SessionDeleted):
            session.append(HELLO, durability=Replicated(1, LONG))
        assert time.monotonic() - begun < LONG


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize("command", [b"EVALSHA", b"WAIT"])
def test_a_lost_answer_is_asked_for_again(pair, replicated, proxy, kind, command):
    """Of the script or of the wait: on another connection, truly, and nothing is there twice."""
    lossy = proxy(pair.primary.socket)
    stack = Stack("lossy", pair.primary, lossy.url, replicated.database_url)
    with opener(stack, kind, queue_url=replicated.redis_url) as door:
        session = door().open(KEY)
        session.append(HELLO, durability=Replicated(1, LONG))
        lossy.lose = command
        assert levels(session.append({"content": "again"}, durability=Replicated(1, LONG))) == {"replicated"}
        assert lossy.lost.is_set()
        assert contents(session) == ["hello", "again"]


def test_an_append_cancelled_while_it_waits_leaves_no_reply_behind(pair, replicated):
    """The only connection there is serves the next call with that one's own answers."""

    async def scene() -> None:
        settings = replicated.settings(max_connections=1, redis_timeout=5.0, queue_url="redis://127.0.0.1:1/0")
        async with AsyncSessionCache(settings=settings) as cache:
            session = await cache.open(KEY)
            with pair.held_back():
                waiting = asyncio.create_task(session.append(HELLO, durability=Replicated(1, LONG)))
                deadline = time.monotonic() + LONG
                with replicated.raw() as raw:
                    while not raw.info("clients")["blocked_clients"]:
                        assert time.monotonic() < deadline, "it does not wait"
                        await asyncio.sleep(0.01)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                for n in range(3):
                    (record,) = await session.append({"content": str(n)})
                    assert record.data == {"content": str(n)}
            assert [one["content"] for one in await session.history()] == ["hello", "0", "1", "2"]

    asyncio.run(scene())


@pytest.mark.parametrize("kind", DOORS)
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_synced_is_on_disk(kind, appendfsync, tmp_path):
    """Where the server has WAITAOF and an append-only file; a killed server has it when it comes back."""
    server = RedisServer(binary_of("valkey9"), appendonly="yes", appendfsync=appendfsync).start()
    stack = Stack("synced", server, server.url, f"sqlite:///{tmp_path}/store.db")
    try:
        with opener(stack, kind) as door:
            session = door().open(KEY)
            assert levels(session.append(HELLO, id="mine", durability=Synced(timeout=LONG))) == {"synced"}
            assert levels(session.append(HELLO, id="mine", durability="synced")) == {"synced"}
            server.kill()
            server.start()
            assert contents(door().get(KEY)) == ["hello"]
            with pytest.raises(DurabilityNotReached, match="0 of 1 replicas"):
                session.append(HELLO, durability=Synced(1, SOON))
            assert contents(session) == ["hello"] * 2
    finally:
        server.close()


def test_synced_without_a_file_is_refused_before_anything_is_written(door):
    """By a Redis that has no WAITAOF, and by one without an append-only file."""
    session = door().open(KEY)
    with pytest.raises(DurabilityUnavailable, match=r"7\.2"):
        session.append(HELLO, durability="synced")
    assert session.history() == []


@pytest.mark.parametrize("kind", DOORS)
def test_stored_is_in_sql(some_stack, kind):
    """When the call returns; a repeat too; with ids and without."""
    with opener(some_stack, kind) as door:
        session = door().open(KEY)
        session.append(HELLO)
        assert levels(session.append([HELLO] * 3, durability="stored")) == {"stored"}
        for _ in range(2):
            session.append(HELLO, id="mine", durability="stored")
        engine = create_engine(some_stack.database_url)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM messages")) == 5
        engine.dispose()


@pytest.mark.parametrize("kind", DOORS)
def test_stored_with_the_store_away_is_told(one_stack, kind, tmp_path):
    """It is accepted; the same append succeeds when the store is back, and adds nothing."""
    file = Path(one_stack.database_url.removeprefix("sqlite:///"))
    with opener(one_stack, kind, database_timeout=0.2) as door:
        session = door().open(KEY)
        session.append(HELLO, durability="stored")
        locker = create_engine(f"sqlite:///{file}")
        with locker.connect() as connection:
            connection.execute(text("BEGIN IMMEDIATE"))
            for _ in range(2):
                with pytest.raises(DurabilityNotReached, match="stored") as told:
                    session.append({"content": "away"}, id="away", durability="stored")
                assert isinstance(told.value.__cause__, StoreUnavailable)
            assert [one.id for one in told.value.records] == ["away"]
            assert contents(session) == ["hello", "away"]
        locker.dispose()
        assert levels(session.append({"content": "away"}, id="away", durability="stored")) == {"stored"}
        assert contents(session) == ["hello", "away"]


def test_what_the_store_set_aside_is_not_stored(one_stack):
    """A message that becomes a dead letter on the way is not called stored; one that was removed since is."""
    with one_stack.cache() as cache:
        session = cache.open(KEY)
        session.append(HELLO, id="first", durability="stored")
        engine = create_engine(one_stack.database_url)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE TRIGGER no BEFORE INSERT ON messages WHEN NEW.message_id = 'bad' "
                    "BEGIN SELECT RAISE(ABORT, 'no'); END"
                )
            )
        for _ in range(2):
            with pytest.raises(DurabilityNotReached, match="dead_letters"):
                session.append({"content": "bad"}, id="bad", durability="stored")
        session.remove("first")
        assert levels(session.append(HELLO, id="first", durability="stored")) == {"stored"}
        engine.dispose()


@pytest.mark.parametrize("level", ["Cached", "", None, 1, ["cached"], Replicated(0), Synced(-1), Synced(0, -1.0)])
def test_a_level_that_is_none_is_refused(one_stack, level):
    """With the names there are; nothing is written."""
    with one_stack.cache() as cache:
        session = cache.open(KEY)
        with pytest.raises(InvalidInput):
            session.append(HELLO, durability=level)
        assert session.history() == []
