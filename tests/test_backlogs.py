"""How much waits for the store: asked in few round trips, whatever stands where a log should."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from sentinels import until

from sessioncache import HotTierRefused, ops
from sessioncache.flow import Command, Transact, run
from sessioncache.hot import draining
from sessioncache.repeat import ask

ALONE = {"queue_url": "redis://127.0.0.1:1/0"}


@contextmanager
def of_a_wrong_type(cache, raw, session_key):
    """A string where the pending log of a session key stood."""
    log, aside = cache._state.keyspace.of(session_key).pending, "aside"
    raw.rename(log, aside)
    raw.set(log, "x")
    yield
    raw.delete(log)
    raw.rename(aside, log)


def test_logs_of_a_wrong_type_count_for_nothing(one_stack):
    """What is no list has no ops; the lengths of the others are told."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        cache.open("a").append({"content": "1"})
        cache.open("b").append([{"content": "1"}, {"content": "2"}])
        keys = [cache._state.keyspace.of(name) for name in ("a", "b", "none")]
        with of_a_wrong_type(cache, raw, "a"):
            assert cache._run(draining.lengths(cache._state, keys)) == [0, 3, 0]
            with pytest.raises(HotTierRefused, match=r"LLEN .*:pending:a: WRONGTYPE"):
                cache._run(ask(cache._state, tuple(("LLEN", one.pending) for one in keys)))
        assert cache._run(draining.lengths(cache._state, keys)) == [2, 3, 0]


def test_a_flush_says_what_is_left_besides_a_log_of_a_wrong_type(one_stack):
    """It stops its own key, which is told; what is left of the others is counted."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        for name in "abcde":
            cache.open(name).append({"content": name})
        with of_a_wrong_type(cache, raw, "c"):
            flushed = cache.flush(timeout=5)
            assert (flushed.ops, flushed.left) == (8, 0)
            assert list(flushed.stopped) == ["c"]
            assert "WRONGTYPE" in flushed.stopped["c"]
        assert cache.flush().ops == 2


def test_housekeeping_goes_on_besides_a_log_of_a_wrong_type(one_stack):
    """Its session is told of as one that could not be looked after; the others are looked after."""
    with one_stack.cache(**ALONE, empty_after=0.001, hold=0.001) as cache, one_stack.raw() as raw:
        sessions = {name: cache.open(name).session_id for name in "abc"}
        cache.flush()
        until(lambda: raw.info("server")["uptime_in_seconds"])  # a Redis that just started may have lost holds
        raw.set(cache._state.keyspace.of("b").pending, "x")
        kept = cache.keep_house()
        assert kept.deleted == 2
        assert list(kept.failed) == [sessions["b"]]
        raw.delete(cache._state.keyspace.of("b").pending)
        assert cache.keep_house().deleted == 1


def test_backlogs_of_partitions(one_stack):
    """Keys, ops, bytes, age and dead letters of each, as redis-cli would count them; nothing where nothing waits."""
    with one_stack.cache(**ALONE, partitions=4, lanes=2) as cache, one_stack.raw() as raw:
        for n in range(12):
            cache.open(str(n)).append([{"content": "x" * n}] * n)
        raw.rpush("sc:{002}:dead", "letter", "letter")
        time.sleep(0.05)
        space, found = cache._state.keyspace, cache._run(ops.backlogs(cache._state))
        assert [one.partition for one in found] == [0, 1, 2, 3]
        for one in found:
            logs = [
                raw.lrange(space.of(str(n)).pending, 0, -1)
                for n in range(12)
                if space.partition_of(str(n)) == one.partition
            ]
            assert logs
            assert one.dirty == len(logs)
            assert one.pending == sum(map(len, logs))
            assert one.pending_bytes == sum(len(element) for log in logs for element in log)
            assert one.dead == (2 if one.partition == 2 else 0)
            assert 0.05 <= one.oldest_pending < 60
            assert 0.05 <= one.overdue < 60
        stats = cache.stats()
        assert (stats.dirty, stats.dead) == (12, 2)
        assert (stats.pending, stats.pending_bytes) == tuple(
            sum(getattr(one, name) for one in found) for name in ("pending", "pending_bytes")
        )
        assert stats.oldest_pending >= max(one.oldest_pending for one in found)
        cache.flush()
        nothing = [ops.PartitionBacklog(n, 0, 0, 0, 0.0, 0.0, 2 if n == 2 else 0) for n in range(4)]
        assert cache._run(ops.backlogs(cache._state)) == nothing


def test_a_claimed_key_is_not_overdue(one_stack):
    """Its due time is ahead; what waits in it still waits."""
    with one_stack.cache(**ALONE, partitions=1, lanes=1) as cache:
        cache.open("k")
        time.sleep(0.02)
        assert cache._run(ops.overdue_lanes(cache._state))[0] >= 0.02
        cache._run(draining.claim(cache._state, [cache._state.keyspace.of_partition(0)], 10, "due"))
        (one,) = cache._run(ops.backlogs(cache._state))
        assert (one.overdue, one.pending) == (0.0, 1)
        assert one.oldest_pending >= 0.02
        assert cache._run(ops.overdue_lanes(cache._state)) == {0: 0.0}


@pytest.mark.parametrize("kind", ["dirty", "oldest", "backlog", "dead"])
def test_what_cannot_be_read_counts_for_nothing(one_stack, kind):
    """A key of a wrong type, in one partition of many: all else is told."""
    with one_stack.cache(**ALONE, partitions=4, lanes=2) as cache, one_stack.raw() as raw:
        for n in range(12):
            cache.open(str(n))
        whole = cache.stats()
        broken = cache._state.keyspace.of("0")
        raw.delete(getattr(broken, kind))
        raw.set(getattr(broken, kind), "x")
        found = cache._run(ops.backlogs(cache._state))
        one = found[broken.partition]
        expected = {
            "dirty": (0, 0, 0),
            "oldest": (one.dirty, one.dirty, 0),
            "backlog": (one.dirty, 0, 1),
            "dead": (one.dirty, one.dirty, 1),
        }
        assert (one.dirty, one.pending, int(one.oldest_pending > 0)) == expected[kind]
        others = [other.dirty for other in found if other is not one]
        assert all(others)
        assert cache.stats().dirty == sum(others) + one.dirty
        assert whole.dirty == 12
        raw.set(broken.pending, "x")
        cache.stats()


def test_stats_ask_redis_once(one_stack):
    """However many partitions and dirty keys there are."""
    with one_stack.cache(**ALONE, partitions=1000, lanes=4) as cache:
        for n in range(20):
            cache.open(str(n))
        asked = []

        def count(request):
            asked.append(type(request))
            return perform(request)

        perform = cache._connections.driver.perform
        assert run(ops.stats(cache._state), count).dirty == 20
        assert asked == [Command, Transact]
        asked.clear()
        assert len(run(ops.overdue_lanes(cache._state), count)) == 4
        assert asked == [Command]
