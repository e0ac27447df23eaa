"""Point 5: however many miss at once, one of them loads from SQL (I7)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from children import processes, read_at_once
from conftest import THE_OTHER_LATER

from sessioncache import AsyncSessionCache, HydrationTimeout, StoreUnavailable
from sessioncache.flow import Transact
from sessioncache.scripts import LEASE

KEY = "group:cold"


@THE_OTHER_LATER
def test_one_load_for_160_readers(some_stack):
    """8 processes of 20 readers, threads in four and tasks in four, one cold session: one SQL load."""
    settings = some_stack.settings()
    with some_stack.cache() as cache:
        cache.open(KEY).append([{"content": str(n)} for n in range(150)])
        cache.flush()
        cache.evict(KEY)
    with processes(8) as pool:
        at = time.time() + 6
        pending = [pool.submit(read_at_once, settings, KEY, at, tasks=n % 2 == 0) for n in range(8)]
        results = [one.result() for one in pending]
    assert [length for _, found in results for length in found] == [150] * 160
    assert sum(loads for loads, _ in results) == 1


def test_waiters_give_up_at_their_deadline(one_stack):
    """Somebody else holds the lease and does not come back: an error of its own, in time."""
    with one_stack.cache(hydration_timeout=0.5) as cache, one_stack.raw() as raw:
        cache.open(KEY).append({"content": "a"})
        cache.evict(KEY)
        keys = cache._state.keyspace.of(KEY)
        raw.eval(LEASE.text, 4, keys.meta, keys.history, keys.pending, keys.lease, "somebody", 60_000)
        start = time.monotonic()
        with pytest.raises(HydrationTimeout, match="hydration_timeout"):
            cache.get(KEY)
        assert time.monotonic() - start < 3


def test_a_lease_ends_by_itself(one_stack):
    """Its holder died: the next reader hydrates when the lease is over."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        cache.open(KEY).append({"content": "a"})
        cache.evict(KEY)
        keys = cache._state.keyspace.of(KEY)
        raw.eval(LEASE.text, 4, keys.meta, keys.history, keys.pending, keys.lease, "somebody", 700)
        assert cache.get(KEY).history() == [{"content": "a"}]


def test_a_lease_is_given_back_when_the_store_fails(one_stack, tmp_path):
    """The next reader need not wait for its end."""
    with one_stack.cache() as cache:
        cache.open(KEY).append({"content": "a"})
        cache.flush()
        cache.evict(KEY)
        broken = replace(one_stack.settings(), database_url=f"sqlite:///{tmp_path}/missing/store.db")
        with type(cache)(settings=broken) as other, one_stack.raw() as raw:
            with pytest.raises(StoreUnavailable):
                other.get(KEY)
            assert not list(raw.scan_iter("*:lease:*"))
        assert cache.get(KEY).history() == [{"content": "a"}]


def test_a_cancelled_reader_gives_its_lease_back(one_stack):
    """A task that is cancelled while it hydrates holds up nobody."""
    with one_stack.cache() as cache:
        cache.open(KEY).append({"content": "a"})
        cache.flush()
        cache.evict(KEY)

    async def cancel_in_the_middle() -> None:
        async with AsyncSessionCache(settings=one_stack.settings()) as other:
            await other.stats()
            loading, perform = asyncio.Event(), other._connections.driver.perform

            async def slowly(request):
                if isinstance(request, Transact):
                    loading.set()
                    await asyncio.sleep(30)
                return await perform(request)

            other._connections.driver.perform = slowly
            reader = asyncio.create_task(other.get(KEY))
            await loading.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    asyncio.run(cancel_in_the_middle())
    with one_stack.raw() as raw, one_stack.cache() as cache:
        assert not list(raw.scan_iter("*:lease:*"))
        assert cache.get(KEY).history() == [{"content": "a"}]
