"""The pools built here: which connection they take, and when they make another."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from queue import Empty, Full

import pytest
import redis
from trouble import Rung

from sessioncache.pools import Free, blocking_client


def test_free_connections_are_taken_from_the_end():
    """The last one given back first; there is a bound, and a wait has an end."""
    free = Free(3)
    for one in "abc":
        free.put_nowait(one)
    with pytest.raises(Full):
        free.put_nowait("d")
    assert free.get(timeout=0.01) == "c"
    free.put_nowait("e")
    assert [free.get(), free.get(), free.get()] == ["e", "b", "a"]
    start = time.monotonic()
    with pytest.raises(Empty):
        free.get(timeout=0.05)
    assert time.monotonic() - start >= 0.04


def test_a_connection_that_the_server_closed_is_not_used(one_stack):
    """Another one is made before anything is sent: nothing is tried twice."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open("k")
        session.append({"content": "a"})
        raw.client_kill_filter(_type="normal", skipme=True)
        session.append({"content": "b"})
        assert session.history() == [{"content": "a"}, {"content": "b"}]
        assert cache._state.counters.snapshot()["retries"] == 0


def test_one_connection_serves_call_after_call(one_stack):
    """Many calls of one thread leave one connection, not one for each that is allowed."""
    with one_stack.cache(queue_url="redis://127.0.0.1:1/0") as cache, one_stack.raw() as raw:
        session = cache.open("k")
        before = len(raw.client_list())
        for n in range(20):
            session.append({"content": str(n)})
        assert len(raw.client_list()) == before


def test_a_wait_ends_in_its_time_also_where_others_are_faster():
    """Who waits is woken in vain time and again, until whoever was faster keeps what there was."""
    free, over, waits = Free(1), time.monotonic() + 1.0, []
    free.put_nowait("one")

    def wait() -> None:
        while (begun := time.monotonic()) < over:
            with suppress(Empty):
                free.put_nowait(free.get(timeout=0.02))
            waits.append(time.monotonic() - begun)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(8)]
    for one in threads:
        one.start()
    while time.monotonic() < over + 0.5:
        with suppress(Empty):
            kept = free.get(timeout=0.01)
            sum(range(2000))  # what it is used for
            if time.monotonic() < over:
                free.put_nowait(kept)
    for one in threads:
        one.join(10)
    assert not any(one.is_alive() for one in threads)
    assert waits


def test_a_connection_that_was_greeted_in_part_is_greeted_anew(one_stack, monkeypatch):
    """Whatever interrupts: else it would speak to the first database, and under no name."""
    client = blocking_client(replace(one_stack.settings(), redis_url=one_stack.redis_url + "?db=1"))
    with monkeypatch.context() as during:
        during.setattr(redis.UnixDomainSocketConnection, "send_command", _rung)
        with pytest.raises(Rung):
            client.execute_command("ECHO", "a")
    assert b" db=1 " in client.execute_command("CLIENT", "INFO")
    client.connection_pool.disconnect()


def _rung(*_, **__):
    raise Rung
