"""What a hydration, a sweep and a hold cost, counted: requests, commands, statements; never timed."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from sessioncache import ops
from sessioncache.connect import BlockingConnections
from sessioncache.flow import Command, Evaluate, Transact
from workers.schedule import Schedule


@contextmanager
def requests(cache):
    """The requests of a cache's flows, as they are made: the verb of a script, or the kind of another request."""
    seen, driver = [], cache._connections.driver
    perform = driver.perform

    def see(request):
        seen.append(request.script.verb if isinstance(request, Evaluate) else type(request))
        return perform(request)

    driver.perform = see
    yield seen
    driver.perform = perform


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
    """One lease, one look whether anything waits, one transaction, one publish; besides, what asked for it, twice."""
    with some_stack.cache() as cache:
        cache.open("k").append([{"content": str(n)} for n in range(length)])
        cache.flush("k")
        cache.evict("k")
        with requests(cache) as seen, statements(cache._connections.driver.engine) as sent:
            session = cache.get("k")
        assert seen == ["open", "lease", Command, Transact, "publish", "open"]
        assert len([one for one in sent if one.startswith("SELECT")]) <= 6
        assert len(session.history()) == length


def test_a_dirty_session_is_drained_and_its_lease_taken_anew(one_stack):
    """The time that draining took is not taken from the load's."""
    with one_stack.cache() as cache:
        cache.open("k").append([{"content": str(n)} for n in range(5)])
        cache.evict("k")
        with requests(cache) as seen:
            assert len(cache.get("k").history()) == 5
        assert seen[:2] == ["open", "lease"]
        # The read is a script with LRANGE beside it.
        assert seen[-6:] == ["ack", "lease", Transact, "publish", "open", Command]


def test_hydrating_on_request_looks_once_before(one_stack):
    """As an operator does it."""
    with one_stack.cache() as cache:
        cache.open("k").append({"content": "a"})
        cache.flush("k")
        for was_hot, asked in ((True, ["look"]), (False, ["look", "lease", Command, Transact, "publish", "look"])):
            with requests(cache) as seen:
                assert cache._run(ops.hydrate(cache._state, "k")).was_hot is was_hot
            assert seen == asked
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
        assert schedule.tick()
        with statements(connections.driver.engine) as sent:
            before = raw.info("stats")["total_commands_processed"]
            assert schedule.tick()
            asked = raw.info("stats")["total_commands_processed"] - before
        assert sent == []
        assert partitions <= asked <= partitions + 10
    schedule._queue.close()
    connections.close()
