"""Point 3: what one call costs, counted by a proxy."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from doors import Awaited
from sentinels import until

from sessioncache import AsyncSessionCache, SessionCache


@pytest.fixture(params=["blocking", "awaiting"])
def counted(request, stack, proxy):
    """A cache behind a proxy, and the proxy."""
    counter = proxy(stack.server.socket)
    runner = asyncio.Runner()
    # Nudges go out behind the caller's back, over a connection of their own.
    settings = replace(stack.settings(), redis_url=counter.url, queue_url=stack.redis_url)
    cache = (
        SessionCache(settings=settings)
        if request.param == "blocking"
        else Awaited(AsyncSessionCache(settings=settings), runner)
    )
    yield cache, counter
    cache.close()
    runner.close()


@pytest.mark.parametrize("count", [1, 2, 100, 3000])
def test_an_append_of_any_batch_is_one_round_trip(counted, count):
    """Warm session, any number of messages: one."""
    cache, counter = counted
    session = cache.open("k")
    session.append({"content": "first"})
    before = counter.trips
    session.append([{"content": str(n)} for n in range(count)])
    assert counter.trips - before == 1


def test_what_an_append_of_one_message_takes(counted, stack):
    """One script of 13 commands besides INFO, and less than a kilobyte besides the message."""
    cache, counter = counted
    session, message = cache.open("k"), {"content": "x" * 400}
    session.append(message)
    until(lambda: cache._state.counters.snapshot()["nudges"])
    with stack.raw() as raw:
        before, sent = ran(raw), counter.up + counter.down
        session.append(message)
        assert ran(raw) - before <= 13
        assert counter.up + counter.down - sent < 400 + 1000


def ran(raw):
    """How many commands Redis has run, in scripts too; scripts themselves and INFO do not count."""
    told = raw.info("commandstats")
    return sum(one["calls"] for name, one in told.items() if not name.startswith(("cmdstat_eval", "cmdstat_info")))


@pytest.mark.parametrize("length", [1, 10, 5000])
def test_a_read_of_any_history_is_one_round_trip(counted, stack, length):
    """Warm session, any length within the hot window, read for the first time or again: one."""
    cache, counter = counted
    with stack.cache() as writer:
        writer.open("k").append([{"content": str(n)} for n in range(length)])
        session = cache.get("k")
        session.history(limit=1)
        for read in (session.history, session.messages, session.history, lambda: session.history(limit=3)):
            before = counter.trips
            read()
            assert counter.trips - before == 1


def test_opening_what_is_warm_is_one_round_trip(counted):
    """`open` and `get` of a session that is hot."""
    cache, counter = counted
    cache.open("k")
    for call in (cache.open, cache.get):
        before = counter.trips
        call("k")
        assert counter.trips - before == 1


CHANGES = {
    "pop": lambda one: one.pop(),
    "truncate": lambda one: one.truncate(50),
    "clear": lambda one: one.clear(),
    "replace": lambda one: one.replace([{"content": str(n)} for n in range(500)]),
    "edit": lambda one: one.edit("mine", {"content": "edited"}),
    "remove": lambda one: one.remove("mine"),
    "update": lambda one: one.update(title="t", metadata={"a": 1, "b": None}, important=True),
    "record_usage": lambda one: one.record_usage(input_tokens=1, estimated_cost=0.5, model="m"),
    "reset": lambda one: one.reset(title="fresh"),
    "refresh": lambda one: one.refresh(),
    "page of what is new": lambda one: one.messages(limit=5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_warm_session_is_one_round_trip(counted, change):
    """Each of them, also where it removes hundreds of messages, and again."""
    cache, counter = counted
    for key in ("a", "b"):  # Redis is sent the text of a script once
        session = cache.open(key)
        session.append({"content": "mine"}, id="mine")
        session.append([{"content": str(n)} for n in range(300)])
        before = counter.trips
        CHANGES[change](session)
        used = counter.trips - before
    assert used == 1


@pytest.mark.parametrize("door", [SessionCache, AsyncSessionCache])
def test_construction_does_no_io(door, stack, proxy):
    """Not even a connection."""
    counter = proxy(stack.server.socket)
    door.from_url(counter.url, stack.database_url)
    assert (counter.connections, counter.trips) == (0, 0)


def test_what_is_new_is_all_that_travels(counted, stack):
    """Reading again after two messages transfers two, however long the history is."""
    cache, _ = counted
    with stack.cache() as writer:
        long = writer.open("k")
        long.append([{"content": "x" * 400} for _ in range(2000)])
        session = cache.get("k")
        assert len(session.messages()) == 2000
        long.append([{"content": "new"}] * 2)
        with stack.raw() as raw:
            before = raw.info("stats")["total_net_output_bytes"]
            assert len(session.messages()) == 2002
            assert raw.info("stats")["total_net_output_bytes"] - before < 20_000


def test_an_unknown_key_costs_one_look_up_for_a_while(stack):
    """Not one for each request."""
    with stack.cache() as cache:
        for _ in range(10):
            with pytest.raises(LookupError):
                cache.get("nobody")
        assert cache.stats().counters["sql_loads"] == 1
