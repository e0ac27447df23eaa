"""How a lane is drained: when it pauses, in how few requests, and that no partition is passed over; never timed."""

from __future__ import annotations

from collections import deque
from itertools import islice

import pytest
from requested import ALONE, kinds, requests

from sessioncache import write_behind
from sessioncache.flow import Command, Pause, Ring, Transact


def drain_lane(cache):
    """What a job does."""
    return cache._run(write_behind.drain_lane(cache._state, 0, 1, lambda: False)).ops


def drain_batch(cache, line):
    """One batch of these partitions."""
    return cache._run(write_behind.drain_batch(cache._state, line, "due"))


@pytest.mark.parametrize(("bound", "keys", "each"), [("batch", 2, 15), ("claim", 30, 1), ("batch_bytes", 2, 15)])
def test_a_lane_pauses_where_a_batch_took_all_there_was(one_stack, bound, keys, each):
    """What is left for want of room is taken at once, whichever bound it met; where nothing was left it waits a little."""
    limits = {"batch": 10, "claim": 10, "batch_bytes": 5000}
    with one_stack.cache(**ALONE, **{bound: limits[bound]}) as cache:
        sessions = [cache.open(str(number)) for number in range(keys)]
        cache.flush()
        for session in sessions:
            for number in range(each):
                session.append({"content": f"{number}" * 400})
        with requests(cache) as seen:
            assert drain_lane(cache) == 30
        found = kinds(seen)
        last = max(at for at, one in enumerate(found) if one is Transact)
        assert found.count(Transact) >= 3
        assert Pause not in found[:last]
        assert Pause in found[last:]


def test_little_in_many_partitions_takes_few_requests(one_stack):
    """One claim, then twice as many at once and so on; all acks at once. Each log is read by its partition's script."""
    with one_stack.cache(partitions=64, lanes=1) as cache:
        for _ in range(2):  # the first round brings the scripts to Redis
            for number in range(200):
                cache.open(str(number)).append({"content": "a"})
            with requests(cache) as seen:
                drained = drain_batch(cache, deque(range(64)))
            assert drained.keys == 200
            assert not drained.more
        found = kinds(seen)
        assert (found.count("claim"), found.count(Command), found.count(Transact)) == (2, 7, 1)
        assert len(found) - found.count("peek") == 10
        assert found.count("peek") <= 64


def test_every_partition_has_its_turn(one_stack):
    """Where there is no room for what was claimed, it is given back, and its partition is the next one.

    So is one that gave as many keys as it was asked for, which were fewer because of others.
    """
    with one_stack.cache(partitions=7, lanes=1, batch=20) as cache:
        space, few = cache._state.keyspace, iter(range(1))
        for name in map(str, range(60)):
            if space.of(name).partition or next(few, None) is not None:
                cache.open(name).append([{"content": "a"}] * 5)
        line, turns, more = deque(range(7)), [], True
        while more:
            with requests(cache) as seen:
                more = drain_batch(cache, line).more
            turns += [int(one.keys[0].split("{")[1][:3]) for one in seen if kinds([one]) == ["peek"]]
        assert {*turns[:8]} == {*range(7)}
        assert cache.stats().pending == 0


def names_in(cache, partition, count):
    """So many session keys of a partition."""
    space = cache._state.keyspace
    return list(islice((name for name in map(str, range(10**6)) if space.of(name).partition == partition), count))


def batches(cache, partitions, most=50):
    """What each batch drains, until nothing is left."""
    line, found = deque(range(partitions)), []
    while len(found) < most:
        found.append(drain_batch(cache, line).ops)
        if not cache.stats().pending:
            break
    return found


@pytest.mark.parametrize(("partitions", "where", "batch", "count", "most"), [(64, 40, 1000, 200, 4), (16, 10, 100, 100, 3)])
def test_a_partition_with_much_is_drained_alone(one_stack, partitions, where, batch, count, most):
    """Wherever it stands in the line: not a few keys of it in each batch."""
    with one_stack.cache(partitions=partitions, lanes=1, batch=batch) as cache:
        for name in names_in(cache, where, count):
            cache.open(name)
        found = batches(cache, partitions)
        assert sum(found) == count
        assert len(found) <= most


def test_a_session_with_much_does_not_fall_behind_others(one_stack):
    """Where every other partition has a little in each batch, its log is read as far as there is room."""
    with one_stack.cache(partitions=64, lanes=1) as cache:
        others = [cache.open(names_in(cache, at, 1)[0]) for at in range(64) if at != 40]
        cache.flush()
        long, left = cache.open(names_in(cache, 40, 1)[0]), cache._state.keyspace.of(names_in(cache, 40, 1)[0]).pending
        for _ in range(30):
            long.append([{"content": "a"}] * 100)
        line, count = deque(range(64)), 0
        with one_stack.raw() as raw:
            while raw.exists(left):
                for one in others:
                    one.append({"content": "b"})
                drain_batch(cache, line)
                count += 1
        assert count <= 8


def test_a_lost_claim_hides_few_keys(one_stack):
    """One request takes no more than ``claim`` of them, of however many partitions."""
    with one_stack.cache(partitions=16, lanes=1) as cache:
        for number in range(600):
            cache.open(str(number))
        taken, driver = [], cache._connections.driver
        perform = driver.perform

        def see(request):
            reply = perform(request)
            if kinds([request]) == ["claim"]:
                taken.append(len(reply))
            elif isinstance(request, Command) and request.commands[0][-1] == "due":
                taken.append(sum(map(len, reply)))
            return reply

        driver.perform = see
        assert drain_lane(cache) == 600
        assert 0 < max(taken) <= 100


def test_a_lane_that_is_told_to_stop_while_it_pauses_begins_no_batch(one_stack):
    """A worker that is ending leaves what came meanwhile to another."""
    with one_stack.cache(**ALONE) as cache:
        session = cache.open("k")
        paused = []

        def stop():
            if not paused and kinds(seen)[-1:] == [Pause]:
                session.append({"content": "a"})
                paused.append(True)
            return bool(paused)

        with requests(cache) as seen:
            cache._run(write_behind.drain_lane(cache._state, 0, 1, stop))
        assert kinds(seen)[-2:] == ["append", Ring]
        assert cache.stats().pending == 1


def test_garbage_between_ops_is_no_pause(one_stack):
    """What stands behind it is taken at once."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        session = cache.open("k")
        for number in range(20):
            session.append({"content": "a"})
            raw.rpush(cache._state.keyspace.of("k").pending, f"garbage {number}")
        with requests(cache) as seen:
            assert drain_lane(cache) == 21
        found = kinds(seen)
        last = max(at for at, one in enumerate(found) if one is Transact)
        assert found[:last].count(Pause) <= 1


def test_scripts_that_redis_forgot_are_sent_again(one_stack):
    """Also those of a pipeline."""
    with one_stack.cache(partitions=16, lanes=1) as cache, one_stack.raw() as raw:
        for _ in range(2):
            for number in range(40):
                cache.open(str(number)).append({"content": "a"})
            raw.script_flush()
            assert drain_batch(cache, deque(range(16))).keys == 40
        assert cache.stats().pending == 0


def test_a_partition_that_cannot_be_drained_keeps_no_other_from_it(one_stack, caplog):
    """Whatever stands in the place of its keys; it is told of."""
    with one_stack.cache(partitions=4, lanes=1) as cache, one_stack.raw() as raw:
        for number in range(20):
            cache.open(str(number))
        broken = cache._state.keyspace.of_partition(2)
        lost = raw.zcard(broken.dirty)
        raw.delete(broken.dirty)
        raw.set(broken.dirty, "x")
        drained = drain_batch(cache, deque(range(4)))
        assert 0 < drained.ops == 20 - lost < 20
        assert "partition 2 cannot be drained" in caplog.text
