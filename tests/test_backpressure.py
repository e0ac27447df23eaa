"""What waits for the store has bounds; what becomes of a write that meets one; and what is counted is what waits."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection
from contextlib import contextmanager, suppress

import pytest
import redis
from doors import opener
from sentinels import until
from sqlalchemy import create_engine, text

from sessioncache import (
    Backpressure,
    ConfigurationError,
    SessionCache,
    Settings,
    StoreUnavailable,
)
from sessioncache.connect import BlockingConnections
from sessioncache.write_behind import drain_some

HELLO = {"role": "user", "content": "hello"}
# What makes each bound the one that is met, once something waits.
BOUNDS = {
    "max_pending": {"max_pending": 4},
    "max_pending_bytes": {"max_pending_bytes": 600},
    "max_pending_age": {"max_pending_age": 0.3},
    "max_backlog": {"max_backlog": 4},
    "max_backlog_bytes": {"max_backlog_bytes": 600},
    "max_backlog_age": {"max_backlog_age": 0.3},
}
# Without a queue nobody is nudged: nothing is drained but by the test.
ALONE = {"partitions": 1, "lanes": 1, "queue_url": "redis://127.0.0.1:1/0"}


@pytest.fixture
def door(some_stack):
    """Opens caches over each stack by another door, with one partition and nobody who drains."""
    with opener(some_stack, "awaiting" if "postgres" in some_stack.name else "blocking", **ALONE) as opened:
        yield opened


def appended_until_refused(session) -> tuple[int, Backpressure]:
    """How many single messages were taken."""
    deadline = time.monotonic() + 20
    for count in range(10_000):
        try:
            session.append(HELLO)
        except Backpressure as refused:
            return count, refused
        assert time.monotonic() < deadline, "it is never refused"
        time.sleep(0.02)
    raise AssertionError


def counts(raw: redis.Redis) -> dict[str, tuple[int, int]]:
    """What is counted: ops and bytes, in all and for each key; the sum must be right."""
    (names,) = [raw.hgetall("sc:{000}:backlog")]
    found = {name.decode(): tuple(map(int, value.split())) for name, value in names.items()}
    total = found.pop("total", (0, 0))
    assert total == tuple(map(sum, zip((0, 0), *found.values(), strict=True)))
    return {name.removeprefix("="): value for name, value in found.items()}


def waiting(raw: redis.Redis) -> tuple[dict[str, tuple[int, int]], dict[str, float]]:
    """What waits: ops and bytes of each log, and when its first op was accepted."""
    prefix = "sc:{000}:pending:"
    logs = {name.decode().removeprefix(prefix): raw.lrange(name, 0, -1) for name in raw.scan_iter(f"{prefix}*")}
    sizes = {key: (len(log), sum(map(len, log))) for key, log in logs.items()}
    return sizes, {key: float(log[0].split(b" ")[3]) for key, log in logs.items()}


def assert_exact(raw: redis.Redis, retried: Collection[str] = ()) -> None:
    """What is counted is what waits; a retried dead letter is older than the time that it waits."""
    sizes, since = waiting(raw)
    assert counts(raw) == sizes
    oldest = {key.decode(): score for key, score in raw.zrange("sc:{000}:oldest", 0, -1, withscores=True)}
    assert set(oldest) == set(since)
    assert all(oldest[key] == since[key] for key in since if key not in retried)
    assert all(since[key] <= oldest[key] <= time.time() * 1000 for key in since)


@contextmanager
def store_away(stack):
    """A store that cannot be written to for a while."""
    engine = create_engine(stack.database_url)
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE" if sqlite else "LOCK TABLE routes IN ACCESS EXCLUSIVE MODE"))
        yield
    engine.dispose()


@pytest.mark.parametrize("bound", BOUNDS)
def test_each_bound_refuses_and_lets_go(door, some_stack, bound):
    """It names the bound and what waits; a key's is that key's alone, a partition's everybody's; drained, it is over."""
    cache = door(**BOUNDS[bound])
    session = cache.open("a")
    taken, refused = appended_until_refused(session)
    assert refused.bound == bound
    assert bound in str(refused)
    assert "workers" in str(refused)
    with some_stack.raw() as raw:
        sizes, _ = waiting(raw)
        own, all_ = sizes["a"], tuple(map(sum, zip(*sizes.values(), strict=True)))
        found = own if bound.startswith("max_pending") else all_
        if bound.endswith("age"):
            assert 0.3 <= refused.waiting < 30
        else:
            assert refused.waiting == found[bound.endswith("bytes")]
        assert len(session.history()) == taken
        if bound.startswith("max_pending"):
            cache.open("b")
        else:
            with pytest.raises(Backpressure, match=bound):
                cache.open("b")
        cache.flush()
        assert not raw.exists("sc:{000}:backlog", "sc:{000}:oldest", "sc:{000}:dirty")
    assert session.append(HELLO)[0].seq
    cache.flush()
    another = cache.open("c")
    if not bound.endswith("age"):  # which is met by whoever is slow
        another.append(HELLO)


CHANGES = {
    "append": lambda one: one.append(HELLO),
    "replace": lambda one: one.replace([HELLO]),
    "pop": lambda one: one.pop(),
    "truncate": lambda one: one.truncate(1),
    "clear": lambda one: one.clear(),
    "edit": lambda one: one.edit("mine", HELLO),
    "remove": lambda one: one.remove("mine"),
    "update": lambda one: one.update(title="t"),
    "record_usage": lambda one: one.record_usage(input_tokens=1),
    "reset": lambda one: one.reset(),
    "archive": lambda one: one.archive(),
}


@pytest.mark.parametrize("bound", ["max_pending", "max_backlog_bytes"])
def test_whatever_is_logged_is_refused_but_a_deletion(one_stack, bound):
    """Every change, and nothing of it is written; reading goes on, and deleting, which makes room."""
    with one_stack.cache(**ALONE, **BOUNDS[bound], touch=0.0) as cache, one_stack.raw() as raw:
        session = cache.open("a")
        session.append(HELLO, id="mine")
        appended_until_refused(session)
        before = session.history(), raw.lrange("sc:{000}:pending:a", 0, -1)
        for name, change in CHANGES.items():
            with pytest.raises(Backpressure):
                change(session)
            assert (session.history(), raw.lrange("sc:{000}:pending:a", 0, -1)) == before, name
        assert cache.get("a").session_id == session.session_id
        assert session.delete()
        assert cache.stats().pending == 0
        assert_exact(raw)


@pytest.mark.parametrize("policy", ["raise", "wait", "through"])
def test_what_never_fits_is_refused_at_once(one_stack, policy):
    """A batch larger than the bound: there is nothing to wait for."""
    with one_stack.cache(**ALONE, max_pending=4, backpressure=policy, backpressure_wait=60.0) as cache:
        session = cache.open("a")
        cache.flush()
        begun = time.monotonic()
        with pytest.raises(Backpressure, match="max_pending"):
            session.append([HELLO] * 5)
        assert time.monotonic() - begun < 30
        assert session.history() == []


@pytest.mark.parametrize("bound", ["max_pending", "max_pending_age", "max_backlog"])
def test_waiting_finds_the_room_that_another_makes(door, some_stack, bound):
    """The write goes through as soon as somebody has drained."""
    cache = door(**BOUNDS[bound], backpressure="wait", backpressure_wait=60.0)
    session = cache.open("a")
    if bound.endswith("age"):
        cache.flush()
        session.append([HELLO] * 3)
        time.sleep(0.4)
    else:
        session.append([HELLO] * 3)
    with some_stack.cache(**ALONE) as other:

        def drain() -> None:
            until(lambda: cache._state.counters.snapshot()["backpressure"])
            other.flush()

        drainer = threading.Thread(target=drain)
        drainer.start()
        session.append({"content": "late"})
        drainer.join()
        assert other.stats().pending == 1
    assert len(session.history()) == 4
    assert cache.stats().counters["backpressure"] > 0


def test_waiting_ends_with_its_deadline(door):
    """Nobody drains: it raises when the time is up, and nothing is written."""
    session = door(max_pending=2, backpressure="wait", backpressure_wait=0.5).open("a")
    session.append(HELLO)
    begun = time.monotonic()
    with pytest.raises(Backpressure, match="max_pending"):
        session.append(HELLO)
    assert time.monotonic() - begun >= 0.5
    assert len(session.history()) == 1


@pytest.mark.parametrize("bound", BOUNDS)
def test_writing_through_drains_what_is_in_the_way(door, some_stack, bound):
    """No worker, no bell: a writer never stands still, and everything is in order in the end."""
    cache = door(**BOUNDS[bound], backpressure="through", batch=3)
    sessions = [cache.open(key) for key in "ab"]
    for n in range(12):
        for session in sessions:
            session.append({"content": str(n)})
        if bound.endswith("age"):
            time.sleep(0.05)
    with some_stack.raw() as raw:
        assert_exact(raw)
        assert cache.stats().counters["ops_drained"] > 0
    cache.flush()
    for key in "ab":
        cache.evict(key)
        assert [one["content"] for one in cache.get(key).history()] == [str(n) for n in range(12)]


def test_writing_through_passes_over_what_is_no_session_key(door, some_stack, caplog):
    """Garbage that somebody put among the oldest keys by hand is warned of."""
    cache = door(max_backlog=4, backpressure="through")
    with some_stack.raw() as raw:
        raw.zadd(cache.settings.prefix + ":{000}:oldest", {b"\xff\xfe": 1, b"": 2})
        session = cache.open("a")
        for _ in range(6):
            session.append(HELLO)
        assert len(session.history()) == 6
    assert "is none; remove it" in caplog.text


@pytest.mark.parametrize("bound", ["max_pending", "max_backlog"])
def test_writing_through_with_the_store_away_raises(door, some_stack, bound):
    """With the reason; when it is back, the same write goes through."""
    cache = door(**BOUNDS[bound], backpressure="through", database_timeout=1.0)
    session = cache.open("a")
    for _ in range(3):
        session.append(HELLO)
    with store_away(some_stack):
        with pytest.raises(Backpressure, match=bound) as refused:
            session.append({"content": "late"}, id="late")
        assert isinstance(refused.value.__cause__, StoreUnavailable)
        assert len(session.history()) == 3
    session.append({"content": "late"}, id="late")
    assert len(session.history()) == 4


@pytest.mark.parametrize(
    ("bounds", "batch"), [({"max_backlog": 50}, 7), ({"max_backlog_bytes": 5000}, 7), ({"max_pending": 20}, 3)]
)
def test_many_writers_at_once_stay_within_the_bounds(one_stack, bounds, batch):
    """Ops never pass a bound; bytes at most by one call. What was taken waits, and nothing else."""
    taken: list[int] = []
    messages = [{"content": "x" * 50}] * batch

    def write(cache: SessionCache, key: str) -> None:
        session = cache.open(key)
        with suppress(Backpressure):
            while True:
                taken.append(len(session.append(messages)))

    with one_stack.cache(**ALONE, **bounds) as one, one_stack.cache(**ALONE, **bounds) as two, one_stack.raw() as raw:
        keys = ["a", "b", "c"]
        for key in keys:
            one.open(key)
        writers = [threading.Thread(target=write, args=(cache, key)) for cache in (one, two) for key in keys]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        sizes, _ = waiting(raw)
        assert sum(ops for ops, _ in sizes.values()) == sum(taken) + len(keys)
        assert_exact(raw)
        ops, size = (sum(column) for column in zip(*sizes.values(), strict=True))
        largest = max(len(one) for key in keys for one in raw.lrange(f"sc:{{000}}:pending:{key}", 0, -1))
        if "max_backlog" in bounds:
            assert 50 - batch < ops <= 50
        elif "max_pending" in bounds:
            assert all(20 - batch < ops <= 20 for ops, _ in sizes.values())
        else:
            assert 5000 <= size < 5000 + batch * largest
        one.flush()
        assert not raw.exists("sc:{000}:backlog", "sc:{000}:oldest")


def _delete_ttl_keys(raw: redis.Redis) -> None:
    for name in raw.scan_iter("sc:*"):
        if raw.ttl(name) >= 0:
            raw.delete(name)


def _drain_some(cache: SessionCache, key: str) -> None:
    """One batch, that is: a part of a log."""
    connections = cache._connections
    assert isinstance(connections, BlockingConnections)
    connections.run(drain_some(connections.state, [connections.state.keyspace.of(key)]))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_counted_is_what_waits(one_stack, seed):
    """After every step of anything that writes a log or takes from it, to the op and the byte; in the end it is nothing."""
    chance, retried = random.Random(seed), set[str]()
    engine = create_engine(one_stack.database_url)
    with one_stack.cache(**ALONE, batch=4, touch=0.01) as cache, one_stack.raw() as raw:
        cache.stats()
        with engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE TRIGGER no BEFORE INSERT ON messages WHEN NEW.text = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
                )
            )
        steps = [
            *(lambda one, change=change: change(one) for change in CHANGES.values()),
            lambda one: one.append([{"content": "é" * chance.randrange(300)}] * chance.randrange(1, 7)),
            lambda one: one.append({"content": "bad"}),
            lambda one: one.delete(),
            lambda one: one.history(),
            lambda one: cache.flush(one.key),
            lambda one: _drain_some(cache, one.key),
            lambda one: _drain_some(cache, one.key),
            lambda one: retried.add(one.key) or cache.retry_dead(cache.dead_letters(one.key)[:3]),
            lambda one: cache.evict(one.key),
            lambda one: raw.rpush(f"sc:{{000}}:pending:{one.key}", "no op") and cache.flush(one.key),
            lambda _: _delete_ttl_keys(raw),
        ]  # fmt: skip
        for _ in range(120):
            chance.choice(steps)(cache.open(chance.choice("abc")))
            assert_exact(raw, retried)
            retried &= set(counts(raw))
        cache.flush()
        assert not raw.exists("sc:{000}:backlog", "sc:{000}:oldest", "sc:{000}:dirty")
    engine.dispose()


def test_counts_mend_themselves(one_stack):
    """Logs that were not counted, and counts without a log, as versions side by side may leave them.

    Never below zero, and right again when the logs are empty.
    """
    with one_stack.cache(**ALONE, max_backlog=100, batch=4) as cache, one_stack.raw() as raw:
        session = cache.open("a")
        session.append([HELLO] * 5)
        raw.delete("sc:{000}:backlog", "sc:{000}:oldest")
        session.append(HELLO)
        assert counts(raw)["a"][0] == 1
        _drain_some(cache, "a")
        assert counts(raw) == {"a": (0, 0)}
        assert raw.llen("sc:{000}:pending:a") == 1
        _drain_some(cache, "a")
        assert not raw.exists("sc:{000}:backlog", "sc:{000}:oldest")
        raw.hset("sc:{000}:backlog", mapping={"total": "100 9000", "=gone": "100 9000"})
        raw.zadd("sc:{000}:oldest", {"gone": 1})
        session.append(HELLO)
        with pytest.raises(Backpressure, match="max_backlog"):
            session.append(HELLO)
        cache.flush()
        assert not raw.exists("sc:{000}:backlog", "sc:{000}:oldest")
        session.append(HELLO)
        assert_exact(raw)


def test_a_full_redis_counts_down(one_stack):
    """What is drained at `maxmemory` is counted, though counting needs memory."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        session = cache.open("a")
        session.append([HELLO] * 50)
        cache.open("b").append(HELLO)
        try:
            raw.config_set("maxmemory", 1)
            assert cache.flush("a").ops == 51
            assert_exact(raw)
        finally:
            raw.config_set("maxmemory", 0)


def test_a_policy_that_is_none_is_refused():
    """With the names there are."""
    with pytest.raises(ConfigurationError, match="raise, wait, through"):
        Settings(backpressure="drop")
    with pytest.raises(ConfigurationError, match="backpressure_wait"):
        Settings(backpressure_wait=0)
