"""Everything that a session allows, by many servers at once: Redis, SQL and what each writer was told agree exactly."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

import pytest
from chaos import KEYS, drain_until, failures, live, plain, ready
from children import processes
from conftest import Stack, binary_of
from replay import Replay, taken
from servers import RedisServer
from sqlalchemy import create_engine, text
from test_workers import workers

from sessioncache import SessionCache, SessionNotFound

log = logging.getLogger("chaos")

# Small windows and short lives, so that every path is taken often.
SMALL = {
    "partitions": 8, "lanes": 2, "window": 25, "keep_ops": 128, "ttl": 2.0, "ttl_jitter": 0.5, "unknown_ttl": 0.3,
    "touch": 0.7, "batch": 150, "hydration_timeout": 20.0,
    # SQLite's lock is not fair: with so many who want it, on a busy machine, one waits for long.
    "database_timeout": 40.0, "lease": 50.0, "visibility": 60.0,
}  # fmt: skip
THREADS = 8


@pytest.fixture
def recorded(some_stack):
    """A stack whose Redis keeps every write it made, in order."""
    options = {"appendonly": "yes", "appendfsync": "no", "auto-aof-rewrite-percentage": "0"}
    server = RedisServer(binary_of(some_stack.name.partition("-")[0]), **options).start()
    yield replace(some_stack, server=server, redis_url=server.url)
    server.close()


@contextmanager
def vanishing(stack: Stack, end: float):
    """Hot copies vanish at random, whole or in part, until then."""
    chance = random.Random(stack.name)
    with stack.cache(**SMALL) as cache, stack.raw() as raw:

        def vanish() -> None:
            while time.time() < end:
                time.sleep(chance.uniform(0, 0.08))
                keys = cache._state.keyspace.of(chance.choice(KEYS))
                raw.delete(*chance.choice([[keys.meta, keys.history], [keys.meta], [keys.history]]))

        thread = threading.Thread(target=vanish)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@contextmanager
def rq_workers(stack: Stack, _pool: ProcessPoolExecutor, _end: float):
    """Worker processes as in production."""
    with workers(stack.settings(**SMALL), "--processes", "2"):
        yield


@contextmanager
def plain_drainers(stack: Stack, pool: ProcessPoolExecutor, end: float):
    """Drainers that are there at once."""
    draining = pool.submit(drain_until, stack.settings(**SMALL), end)
    yield
    draining.result()


def live_at_once(stack: Stack, servers: int, seconds: float, drainers: Callable) -> tuple[list, float]:
    """What the calls of so many servers were."""
    with processes(servers + 1) as pool:
        wait([pool.submit(ready, 1.0) for _ in range(servers + 1)])
        end = time.time() + seconds
        with vanishing(stack, end), drainers(stack, pool, end):
            running = [pool.submit(live, stack.settings(**SMALL), f"s{n}", THREADS, end) for n in range(servers)]
            return [call for one in running for call in one.result()]


def agree(stack: Stack, calls: list) -> Counter:
    """Compare Redis, SQL and what each writer was told; how often what was compared."""
    unexpected = failures(calls)
    assert not unexpected, f"{len(unexpected)} of {len(calls)} calls, the first:\n{unexpected[0]}"
    given_up = [call for call in calls if call.error == "HydrationTimeout"]
    assert len(given_up) <= len(calls) / 200, given_up[:3]
    with stack.cache(**SMALL) as cache:
        cache.flush()
        stats = cache.stats()
        assert (stats.pending, stats.dirty) == (0, 0)
        ops, dead = taken(stack.server.directory)
        assert not dead
        assert stats.dead == 0
        replay = Replay(ops, calls)
        replay.compare_store(stack.database_url)
        replay.compare_told()
        _compare_reads(stack, cache, replay)
    wrong = Counter(sentence.partition(":")[0] for sentence in replay.wrong)
    assert not replay.wrong, "\n\n".join([f"{dict(wrong)}", *replay.wrong[:12]])
    done = Counter(f"{call.name} {call.error}".strip() for call in calls)
    log.info("%d calls, %d ops: %s; not judged: %d", len(calls), len(ops), dict(done), replay.checked["reads not judged"])
    return replay.checked


def _compare_reads(stack: Stack, cache: SessionCache, replay: Replay) -> None:
    """Hot, cold and by id, each session reads as it was played; so does what is known of it."""
    with stack.cache(**SMALL) as cold:
        for session_id, life in replay.lives.items():
            if session_id in replay.told_deleted or life.deleted_at:
                with pytest.raises(SessionNotFound):
                    cache.read(session_id)
            else:
                replay.check([plain(one) for one in cache.read(session_id)] == life.messages, "read by id", session_id)
        for key, current in replay.current.items():
            if not current[-1]:
                with pytest.raises(SessionNotFound):
                    cache.get(key)
                continue
            life, hot = replay.lives[current[-1]], cache.get(key)
            assert hot.session_id == life.session_id
            found, known = [plain(one) for one in hot.messages()], hot.refresh()
            cache.evict(key)
            again = cold.get(key)
            replay.check(found == life.messages, "read hot", key)
            replay.check([plain(one) for one in again.messages()] == life.messages, "read cold", key)
            same = replace(again.info, last_accessed=known.last_accessed, version=known.version)
            replay.check(same == known, "known hot and cold", known, same)


@pytest.mark.timeout(120)
def test_everything_at_once(recorded):
    """Two servers of eight threads for four seconds, a drainer, and hot copies that vanish."""
    checked = agree(recorded, live_at_once(recorded, 2, 4.0, plain_drainers))
    assert sum(checked.values()) > 100


@pytest.mark.long
@pytest.mark.timeout(400)
def test_everything_at_once_for_long(recorded):
    """Four servers of eight threads for thirty seconds, two workers, and hot copies that vanish."""
    checked = agree(recorded, live_at_once(recorded, 4, 30.0, rq_workers))
    assert sum(checked.values()) > 100


@pytest.mark.parametrize("some_stack", ["valkey9-sqlite"], indirect=True)
@pytest.mark.timeout(120)
def test_the_comparison_sees_what_does_not_agree(recorded):
    """One increment less, one message less, one that nobody sent, another answer: each is found."""
    calls = live_at_once(recorded, 1, 4.0, plain_drainers)
    agree(recorded, calls)
    with recorded.cache(**SMALL) as cache:
        cache.flush()  # Reading a session that nobody touched for a while logs a touch.
    ops, _ = taken(recorded.server.directory)
    usage = next(at for at, call in enumerate(calls) if call.name == "usage" and not call.error)
    append = next(call for call in calls if call.name == "append" and not call.error)
    spoilt = [
        (ops, [*calls[:usage], *calls[usage + 1 :]], recorded.database_url),
        (ops, [replace(call, told=call.told[:-1]) if call is append else call for call in calls], recorded.database_url),
    ]
    for some, theirs, url in spoilt:
        replay = Replay(some, theirs)
        replay.compare_store(url)
        assert not replay.wrong
        replay.compare_told()
        assert replay.wrong
    engine = create_engine(recorded.database_url)
    replay = Replay(ops, calls)
    counted = "SELECT session_id FROM sessions WHERE input_tokens > 0 AND NOT deleted LIMIT 1"
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE sessions SET input_tokens = input_tokens - 1 WHERE session_id = ({counted})"))
        connection.execute(text("DELETE FROM messages WHERE rowid = (SELECT max(rowid) FROM messages)"))
    engine.dispose()
    replay.compare_store(recorded.database_url)
    kinds = {sentence.partition(":")[0] for sentence in replay.wrong}
    assert kinds == {"usage", "the messages of a session", "message_count"}
