"""What a hydration, a sweep and a hold cost, counted: requests, commands, statements; never timed."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager

import pytest
from requested import ALONE, kinds, requests
from sentinels import until
from sqlalchemy import event

from sessioncache import LayoutMismatch, ops, serving
from sessioncache.connect import BlockingConnections
from sessioncache.flow import Command, Transact
from workers.schedule import Schedule


@contextmanager
def statements(engine):
    """The statements that a database is sent."""
    seen: list[str] = []

    def see(_connection, _cursor, statement, *_rest):
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


@pytest.mark.parametrize("length", [1, 150])
def test_a_clean_session_is_hydrated_in_few_requests(some_stack, length):
    """A lease, a look whether anything waits, the lease anew, a transaction, publish; besides, what asked for it, twice."""
    with some_stack.cache() as cache:
        cache.open("k").append([{"content": str(n)} for n in range(length)])
        cache.flush("k")
        cache.evict("k")
        with requests(cache) as seen, statements(cache._connections.driver.engine) as sent:
            session = cache.get("k")
        assert kinds(seen) == ["open", "lease", Command, "lease", Transact, "publish", "open"]
        assert len([one for one in sent if one.startswith("SELECT")]) <= 6
        assert len(session.history()) == length


def test_a_dirty_session_is_drained_and_its_lease_taken_anew(one_stack):
    """The time that draining took is not taken from the load's."""
    with one_stack.cache() as cache:
        cache.open("k").append([{"content": str(n)} for n in range(5)])
        cache.evict("k")
        with requests(cache) as seen:
            session = cache.get("k")
        assert kinds(seen)[:2] == ["open", "lease"]
        assert kinds(seen)[-5:] == ["ack", "lease", Transact, "publish", "open"]
        assert len(session.history()) == 5


def test_hydrating_on_request_looks_once_before(one_stack):
    """As an operator does it."""
    with one_stack.cache() as cache:
        cache.open("k").append({"content": "a"})
        cache.flush("k")
        for was_hot, asked in ((True, ["look"]), (False, ["look", "lease", Command, "lease", Transact, "publish", "look"])):
            with requests(cache) as seen:
                assert cache._run(ops.hydrate(cache._state, "k")).was_hot is was_hot
            assert kinds(seen) == asked
            cache.evict("k")


@pytest.mark.parametrize("partitions", [1, 64, 1000])
def test_an_idle_sweep_asks_one_command_for_each_partition(one_stack, partitions):
    """Nothing for each session, and nothing of the database."""
    settings = one_stack.settings(partitions=partitions, lanes=1)
    connections = BlockingConnections(settings)
    schedule = Schedule(connections, threading.Event())
    with one_stack.cache(partitions=partitions, lanes=1) as cache, one_stack.raw() as raw:
        for number in range(20):
            cache.open(str(number))
        cache.flush()
        cache._connections.settle()  # nudges are sent behind the caller's back
        assert schedule.tick()
        with statements(connections.driver.engine) as sent:
            before = raw.info("stats")["total_commands_processed"]
            assert schedule.tick()
            asked = raw.info("stats")["total_commands_processed"] - before
        assert sent == []
        assert partitions <= asked <= partitions + 10
    schedule._queue.close()
    connections.close()


def serve(cache):
    """What a job does."""
    return cache._run(serving.serve_lane(cache._state, 0, 1, lambda: False)).ops


def test_a_second_job_of_a_lane_ends_at_once(one_stack):
    """It asks once; the worker is free for another lane. When the first one is over, however it ended, a job drains."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        cache.open("k").append({"content": "a"})
        right = cache._state.keyspace.lane(0, 1)
        raw.set(right, "another", px=60_000)
        with requests(cache) as seen:
            assert serve(cache) == 0
        assert kinds(seen) == ["exclusive"]
        assert cache.stats().pending == 2
        raw.pexpire(right, 1)
        until(lambda: serve(cache) == 2)
        assert not raw.exists(right)


def test_a_lane_is_free_before_its_doorbell_is_let_go(one_stack):
    """Whoever rings after that finds nobody who serves it, and is heard."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        with requests(cache) as seen:
            assert serve(cache) == 1
        assert kinds(seen)[0] == "exclusive"
        assert kinds(seen)[-2:] == ["exclusive", "claim"]
        assert not raw.exists(cache._state.keyspace.of("k").wake)
        session.append({"content": "a"})
        assert serve(cache) == 1


def test_a_job_that_fails_lets_go_of_its_lane(one_stack):
    """The next one need not wait for a slice."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        cache.open("k")
        raw.hset(cache._state.keyspace.layout, "partitions", 5)
        with pytest.raises(LayoutMismatch):
            serve(cache)
        assert not raw.exists(cache._state.keyspace.lane(0, 1))


@pytest.fixture
def strict(one_stack):
    """A cache whose policy ends every session that nobody holds, one that holds them, and a plain client.

    Redis has run for longer than the first one's holds may last: it believes that there are no others.
    """
    idle = '{"default": {"mode": "idle", "idle_minutes": 0.00001}}'
    strictly = one_stack.cache(reset=idle, hold=1.0, **ALONE)
    with strictly as cache, one_stack.cache(**ALONE) as holder, one_stack.raw() as raw:
        until(lambda: raw.info("server")["uptime_in_seconds"] > 1)
        yield cache, holder, raw


def calls(raw, command):
    """How often a command was called so far, by scripts too."""
    return raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_who_holds_a_key_is_found_without_looking_at_all_holds(strict):
    """However many others are held, also keys that begin alike; as soon as a hold is let go, the policy goes on."""
    cache, holder, raw = strict
    others = [holder.open(name).hold("b") for name in ("a", "ab", "a ", "b", "aa", *(f"other {n}" for n in range(30)))]
    mine = holder.open("a b")
    with ExitStack() as stack:
        for one in others:
            stack.enter_context(one)
        with mine.hold("second"):
            with mine.hold("first"):
                pass
            before = calls(raw, "zrangebyscore"), calls(raw, "zrangebylex")
            assert not cache.open("a b").was_reset
            assert (calls(raw, "zrangebyscore"), calls(raw, "zrangebylex")) == (before[0], before[1] + 1)
        assert cache.open("a b").was_reset
        assert not cache.open("a ").was_reset
    keys = cache._state.keyspace.of("a b")
    assert not raw.exists(keys.holds, keys.held)


def test_holds_that_only_one_index_has_count_all_the_same(strict):
    """An earlier release wrote one of them, or a hand did: all are looked at, until the next hold mends that."""
    cache, holder, raw = strict
    keys = cache._state.keyspace.of("old")
    holder.open("old")
    raw.zadd(keys.holds, {"old\nindexer token": 9e15})
    assert not cache.open("old").was_reset
    with holder.open("old").hold("x"):
        assert raw.zrange(keys.held, 0, -1) == sorted(raw.zrange(keys.holds, 0, -1))
    assert not cache.open("old").was_reset
    raw.zrem(keys.holds, "old\nindexer token")
    assert cache.open("old").was_reset
    with holder.open("old").hold("x"):
        pass
    assert not raw.exists(keys.holds, keys.held)


def test_what_has_ended_goes_from_both_indexes(strict):
    """Processes that died left them."""
    cache, holder, raw = strict
    keys = cache._state.keyspace.of("k")
    session = holder.open("k")
    gone = {f"k\nn {n}": n for n in range(2500)}
    raw.zadd(keys.holds, gone)
    raw.zadd(keys.held, dict.fromkeys(gone, 0))
    assert cache.open("k").was_reset
    with session.hold("x"):
        assert raw.zcard(keys.holds) == raw.zcard(keys.held) == 1
