"""Redis behind Sentinels: found, followed when the primary changes, and what a lagging replica loses is known."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
import redis
from conftest import binary_of
from doors import DOORS, Awaited, opener
from sentinels import SERVICE, Deployment, until
from servers import python
from sqlalchemy import create_engine, text

from sessioncache import AsyncSessionCache, ConfigurationError, HotTierUnavailable, SessionCache, Settings
from sessioncache.addresses import masked
from sessioncache.commit import commit
from sessioncache.config import as_environment
from sessioncache.hot import draining
from sessioncache.nudge import enqueue, queue_connection
from sessioncache.op import readable
from sessioncache.sentinel import deployment
from sessioncache.store.planned import Log

KEYS = [f"telegram:dm:{n}" for n in range(6)]


def test_an_address_behind_sentinels():
    """Hosts with and without ports, service, database, credentials of both kinds, options; secrets are not shown."""
    url = "rediss+sentinel://al:p%40ss@a:1,b,[::1]:3/my%20chat/2?sentinel_password=s3cret&sentinel_username=s&ssl_cert_reqs=none"
    found = deployment(url)
    assert found.sentinels == (("a", 1), ("b", 26379), ("::1", 3))
    assert (found.service, found.credentials) == ("my chat", {"username": "s", "password": "s3cret"})
    assert found.url == "rediss://al:p%40ss@primary/2?ssl_cert_reqs=none"
    assert not any(secret in masked(url) for secret in ("p%40ss", "s3cret"))
    assert deployment("redis://localhost/0") is None


@pytest.mark.parametrize("kind", [SessionCache, AsyncSessionCache])
@pytest.mark.parametrize("url", [
    "redis+sentinel://a:1", "redis+sentinel://a:1//0", "redis+sentinel:///chat/0", "redis+sentinel://a:1,/chat/0",
    "redis+sentinel://a:no/chat/0", "redis+sentinel://a:1/chat/x", "redis+sentinel://al:hunter2@a:1/chat/x",
    "redis+sentinel://a:1/chat/0?sentinel_port=3", "redis+sentinel://a:1/chat/0?nonsense=hunter2",
])  # fmt: skip
def test_an_address_that_cannot_be_used(kind, url):
    """Refused before anything is connected, in a sentence without secrets; as the queue's too."""
    for name in ("redis_url", "queue_url"):
        with pytest.raises(ConfigurationError, match=name) as refused:
            kind.from_url(database_url="sqlite:///nowhere.db", **{"redis_url": "redis://a", name: url})
        assert "hunter2" not in str(refused.value).replace("nonsense=hunter2", "")


@pytest.fixture
def pair():
    """A primary, its replica and one Sentinel."""
    with closing(Deployment(binary_of("valkey9"), 1, 1)) as made:
        yield made.start()


@pytest.mark.parametrize("door", DOORS)
def test_the_primary_is_found_and_followed(pair, tmp_path, door):
    """Through more callers than connections; when the primary is made a replica, its READONLY leads to the new one."""

    class Place:
        def settings(self, **changes):
            return Settings(redis_url=pair.url, database_url=f"sqlite:///{tmp_path}/store.db", **changes)

    with opener(Place(), door, max_connections=2) as opened, pair.primary.client() as old, pair.replica.client() as new:
        cache = opened()
        session = cache.open("k")
        session.append({"content": "a"})
        _at_once(cache, 12)
        until(lambda: new.info("replication")["master_repl_offset"] == old.info("replication")["master_repl_offset"])
        new.execute_command("REPLICAOF", "NO", "ONE")
        pair.primary.follow(pair.replica)
        with _sentinel(pair) as sentinel:
            sentinel.sentinel_remove(SERVICE)
            sentinel.sentinel_monitor(SERVICE, "127.0.0.1", pair.replica.port, 1)
        session.append({"content": "b"}, id="mine")
        _at_once(cache, 12)
        assert [one["content"] for one in session.history()] == ["a", "b"]
        assert new.exists(*new.keys("*history:k")) == 1
        settings = Settings(redis_url=pair.url)
        with closing(queue_connection(settings)) as queue:
            assert enqueue(queue, settings, 0) or new.llen("rq:queue:sessioncache")
        with _sentinel(pair) as sentinel:
            sentinel.sentinel_remove(SERVICE)
        with opener(Place(), door, redis_timeout=0.5, timeout=1.0) as others:
            nobody, began = others(), time.monotonic()
            with pytest.raises(HotTierUnavailable, match="No Sentinel names a primary"):
                nobody.open("k")
            assert time.monotonic() - began < 20


def _sentinel(pair):
    return redis.Redis(port=pair.ports[0])


def _at_once(cache, count: int) -> None:
    async def tasks():
        await asyncio.gather(*(cache._target.open(f"k{at}") for at in range(count)))

    if isinstance(cache, SessionCache):
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda at: cache.open(f"k{at}"), range(count)))
    else:
        cache._runner.run(tasks())


class Books:
    """What was acknowledged, by key, in order."""

    def __init__(self) -> None:
        self.told: dict[str, list[str]] = defaultdict(list)
        self.errors = 0

    def write(self, sessions: dict, phase: str) -> None:
        """Five messages for each session, each repeated under its id until it is acknowledged."""
        for key, session in sessions.items():
            for number in range(5):
                word = f"{phase} {number}"
                self._until_acknowledged(session, word)
                self.told[key].append(word)

    def _until_acknowledged(self, session, word: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                session.append({"content": word}, id=word)
            except HotTierUnavailable:
                self.errors += 1
                assert time.monotonic() < deadline
            else:
                return


def _rows(database_url: str) -> dict[tuple[str, int], str]:
    """All messages in SQL, by session key and seq."""
    engine = create_engine(database_url)
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT session_key, seq, text FROM messages JOIN sessions USING (session_id) ORDER BY session_key, seq")
        )
        rows = {(row[0], row[1]): row[2] for row in found}
    engine.dispose()
    return rows


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_lagging_replica_becomes_the_primary(tmp_path, caplog):
    """Nothing that SQL had is lost or overwritten; versions given out twice are given anew, with a warning and a count.

    What only the old primary knew is lost, and it alone. Writers of both doors and the workers go on by themselves.
    """
    with closing(Deployment(binary_of("valkey9"), 3, 2)) as made, asyncio.Runner() as runner:
        made.start()
        settings = Settings(redis_url=made.url, database_url=f"sqlite:///{tmp_path}/store.db", timeout=3.0, linger=0.1)
        writer, other = SessionCache(settings=settings), Awaited(AsyncSessionCache(settings=settings), runner)
        sessions = {key: (writer if at % 2 else other).open(key) for at, key in enumerate(KEYS)}
        books = Books()
        books.write(sessions, "both")
        for key in KEYS[:3]:
            writer.flush(key)
        with made.primary.client() as raw:
            raw.set("mark", 1)
            assert raw.wait(1, 20_000) == 1
        made.replica.hold_back()
        books.write(sessions, "in SQL")
        assert writer.flush().left == 0
        had = _rows(settings.database_url)
        books.write(sessions, "in Redis")
        zombie = _what_a_worker_holds(writer, KEYS[0])

        made.primary.kill()
        books.write(sessions, "after")
        writer._connections.run(commit(writer._state, zombie))
        writer.flush()

        assert books.errors > 0  # the outage was seen, and told
        _nothing_is_lost_that_sql_had(had, _rows(settings.database_url), books, writer)
        assert writer.stats().counters["renumbered"] == 5
        assert "Redis came back older than the store: 5 ops got new versions" in caplog.text
        environment = {**as_environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)}
        worker = python("-m", "workers", "--log-level", "WARNING", env=environment)
        try:
            books.write(sessions, "by workers")
            until(lambda: writer.stats().pending == 0)
        finally:
            worker.terminate()
            worker.wait(30)
            other.close()
            writer.close()


def _what_a_worker_holds(cache: SessionCache, key: str) -> list[Log]:
    """What a worker has read of a log, and will put into SQL after Redis has changed."""
    (elements,) = cache._connections.run(draining.peek(cache._state, [cache._state.keyspace.of(key)], 100, 10**6))
    return [Log(key, readable(elements))]


def _nothing_is_lost_that_sql_had(had, has, books: Books, writer: SessionCache) -> None:
    assert {place: has.get(place) for place in had} == had
    lost = set()
    for key in KEYS:
        rows = [word for (row_key, _), word in has.items() if row_key == key]
        with SessionCache(settings=replace(writer.settings)) as fresh:
            read = fresh.get(key)
            assert [one["content"] for one in read.history()] == rows
            seqs = [record.seq for record in read.messages()]
        assert seqs == sorted(set(seqs))
        assert len(rows) == len(set(rows))
        lost |= {(key, word) for word in books.told[key] if word not in rows}
        survived = [word for word in books.told[key] if word in rows]
        assert sorted(rows, key=survived.index) == survived
        if key != KEYS[0]:
            assert rows == survived
    assert not {word for _, word in lost} & set(had.values())
    assert lost == {(key, f"in Redis {number}") for key in KEYS[1:] for number in range(5)}
