"""How much waits for the store: asked in few round trips, whatever stands where a log should."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sentinels import until

from sessioncache import HotTierRefused
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
