"""What a process counts and measures, and how others learn of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
import weakref
from dataclasses import replace

import pytest
import redis
import redis.asyncio
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from test_fork import in_a_child
from test_workers import until

from sessioncache import AsyncSessionCache, ConfigurationError, InvalidMessage, SessionCache
from sessioncache.flow import Pause
from sessioncache.metrics import BOUNDS, NAMES, Counters
from sessioncache.rates import hit_ratio
from sessioncache.reports import Report, fleet


def reports(cache) -> list[Report]:
    """What the processes of a cache's servers told."""
    return cache._run(fleet(cache._state))


def reporters() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "sessioncache-reporter"]


@pytest.mark.parametrize("name", BOUNDS)
def test_a_value_is_in_the_bucket_whose_bound_it_does_not_exceed(name):
    """A bound belongs to its bucket; what is above all bounds is in one of its own."""
    counters = Counters()
    for value in (*BOUNDS[name], 0, BOUNDS[name][-1] * 2):
        counters.observe(name, value)
    found = counters.histograms()[name]
    assert found.counts == (2, *[1] * (len(BOUNDS[name]) - 1), 1)
    assert found.sum == pytest.approx(sum(BOUNDS[name]) + BOUNDS[name][-1] * 2)
    assert list(found.bounds) == sorted(set(found.bounds))
    assert found.count == len(BOUNDS[name]) + 2


def test_what_is_measured_is_what_succeeded(some_stack):
    """As many values as there were appends, hydrations and transactions; reads in the time they took."""
    with some_stack.cache(batch=10) as cache:
        session = cache.open("dm:1")
        session.append([{"content": str(n)} for n in range(25)])
        session.append([])
        with pytest.raises(InvalidMessage):
            session.append({"content": b"bytes"})
        cache.flush()
        cache.evict("dm:1")
        begun = time.perf_counter()
        assert len(session.history()) == 25
        took = time.perf_counter() - begun
        counters, measured = cache._state.counters.snapshot(), cache._state.counters.histograms()
        assert measured["append_seconds"].count == counters["appends"] == 1
        assert measured["hydrate_seconds"].count == counters["hydrations"] == 2
        assert measured["drain_seconds"].count == measured["batch_ops"].count == counters["transactions"]
        assert measured["batch_ops"].sum == counters["ops_drained"] == 26
        assert measured["read_seconds"].count == 1
        assert 0 < measured["hydrate_seconds"].sum < 1000
        assert 0 < measured["read_seconds"].sum <= took
        assert counters["misses"] == 2


def test_a_call_that_waits_for_a_hydration_misses_once(one_stack, monkeypatch):
    """However often it looks, or the hit ratio would be that of the looks."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open("dm:1")
        session.append({"content": "a"})
        cache.evict("dm:1")
        before = cache.stats().counters
        lease, driver, waits = cache._state.keyspace.of("dm:1").lease, cache._connections.driver, []
        perform = driver.perform

        def another_gives_up(request):
            waits.extend([request] if isinstance(request, Pause) else [])
            if len(waits) == 3:
                raw.delete(lease)
            return perform(request)

        raw.set(lease, f"{raw.info('server')['run_id']}:another", px=60_000)
        monkeypatch.setattr(driver, "perform", another_gives_up)
        assert session.history() == [{"content": "a"}]
        after = cache.stats().counters
        assert after["hydration_waits"] - before["hydration_waits"] > 1
        assert after["misses"] - before["misses"] == 1


def outcomes(cache, load) -> tuple[dict[str, int], float | None]:
    """What a load adds to the counters, and the hit ratio of it alone."""
    before = cache.stats().counters
    load()
    did = {name: count - before[name] for name, count in cache.stats().counters.items()}
    return {name: did[name] for name in ("reads_delta", "reads_full", "reads_missed", "misses")}, hit_ratio(did)


def counted(delta=0, full=0, missed=0, misses=0) -> dict[str, int]:
    return {"reads_delta": delta, "reads_full": full, "reads_missed": missed, "misses": misses}


def test_reads_that_all_miss_have_no_hits(one_stack):
    """Ten reads, each after its copy went: the hit ratio is 0, not one half."""
    with one_stack.cache() as cache:
        session = cache.open("dm:1")
        session.append({"content": "a"})

        def load():
            for _ in range(10):
                cache.evict("dm:1")
                assert len(session.history()) == 1

        assert outcomes(cache, load) == (counted(missed=10, misses=10), 0.0)


def test_appends_that_miss_are_no_reads(one_stack):
    """Ten reads of a hot copy and ten appends without one: every read hit."""
    with one_stack.cache() as cache:
        session, other = cache.open("dm:1"), cache.open("dm:2")
        session.append({"content": "a"})

        def load():
            for _ in range(10):
                assert len(session.history()) == 1
                cache.evict("dm:2")
                other.append({"content": "b"})

        assert outcomes(cache, load) == (counted(delta=9, full=1, misses=10), 1.0)


def test_a_read_below_the_window_counts_once(one_stack):
    """It looks twice, and the first look says what it is; a page that is asked for is from SQL alone."""
    with one_stack.cache(window=4, near_sessions=0) as cache, one_stack.raw() as raw:
        session = cache.open("dm:1")
        session.append([{"content": str(n)} for n in range(20)])
        cache.flush()
        cache.evict("dm:1")
        assert outcomes(cache, lambda: session.history(20)) == (counted(missed=1, misses=1), 0.0)
        assert outcomes(cache, lambda: session.history(20)) == (counted(full=1), 1.0)
        assert outcomes(cache, lambda: session.messages(before=10))[0] == counted()
        raw.lset(cache._state.keyspace.of("dm:1").history, 0, b"garbage")
        assert outcomes(cache, lambda: session.history(20)) == (counted(missed=1, misses=1), 0.0)


def test_a_process_reports_what_it_counted(one_stack):
    """Another one reads it; where nothing is new, nothing is told; whoever closes takes it back, index and all."""
    with one_stack.cache(report=1.0) as cache, one_stack.cache(report=0) as watcher, one_stack.raw() as raw:
        cache.open("dm:1").append([{"content": "hidden"}, {"content": "b"}])
        until(lambda: cache.stats().counters["nudges"])  # sent behind the caller's back
        until(lambda: [one.counters for one in reports(watcher)] == [cache.stats().counters])
        (found,) = reports(watcher)
        assert (found.kind, found.pid, found.host) == ("server", os.getpid(), os.uname().nodename)
        assert found.name == f"{found.host}:{found.pid}:{found.name.rpartition(':')[2]}"
        assert found.counters == cache.stats().counters
        assert found.histograms["append_seconds"].count == 1
        assert abs(found.at_ms - time.time() * 1000) < 60_000
        assert 0 < found.at_ms - found.started_ms < 60_000
        key = f"sc:process:{found.name}"
        assert 0 < raw.pttl(key) <= 4000
        assert 0 < raw.pttl("sc:processes") <= 3_600_000
        assert raw.zscore("sc:processes", found.name) == found.at_ms
        text = raw.get(key).decode()
        assert not any(word in text for word in ("hidden", "dm:1", *one_stack.redis_url.split("/")[-1:]))
        until(lambda: not raw.exists(key))  # nothing is new
        cache.get("dm:1").history()
        until(lambda: reports(watcher))
    with one_stack.raw() as raw:
        assert raw.keys("sc:process*") == []
        assert reporters() == []


def test_no_report_before_the_first_interval(one_stack):
    """Nor any without one; a wrong interval is refused."""
    with one_stack.cache(report=600) as cache, one_stack.cache(report=0) as silent, one_stack.raw() as raw:
        cache.open("dm:1").append({"content": "a"})
        assert len(reporters()) == 1
        silent.get("dm:1").append({"content": "a"})
        assert len(reporters()) == 1
        time.sleep(0.3)  # nothing is to come
        assert raw.keys("sc:process*") == []
    assert reporters() == []
    with pytest.raises(ConfigurationError, match="report"):
        one_stack.settings(report=601)


def test_the_awaiting_door_reports_too(one_stack):
    """From a thread, over a connection of its own."""

    async def work() -> None:
        async with AsyncSessionCache(settings=one_stack.settings(report=0.5)) as cache:
            await (await cache.open("dm:1")).append({"content": "a"})
            with one_stack.raw() as raw:
                await asyncio.to_thread(until, lambda: raw.exists("sc:processes"))
            assert [one.pid for one in await cache._run(fleet(cache._state))] == [os.getpid()]

    asyncio.run(work())
    assert reporters() == []
    with one_stack.raw() as raw:
        assert raw.keys("sc:process*") == []


@pytest.mark.parametrize("report", [600, 0.1])
def test_a_cache_that_is_dropped_leaves_no_reporter(one_stack, report):
    """Without close(), thirty of them: no thread, no connection, no report, whatever the interval."""
    with one_stack.cache() as cache:
        cache.open("dm:1")
    with one_stack.raw() as raw:
        caches = [one_stack.cache(report=report) for _ in range(30)]
        for cache in caches:
            cache.get("dm:1")
        until(lambda: report > 1 or raw.zcard("sc:processes") == 30)
        assert len(reporters()) == 30
        for cache in caches:  # what else an owner of a cache would have to close
            cache._connections._engine.dispose()
        dropped = [weakref.ref(cache._connections) for cache in caches]
        del cache, caches
        gc.collect()
        assert not [one for one in dropped if one() is not None]
        until(lambda: not reporters())
        assert raw.keys("sc:process*") == []
        assert len(raw.client_list()) == 1


def test_a_cache_that_is_used_after_close_reports_again(one_stack):
    """It opens its connections again, and the reporter with them; closed again, that ends."""
    cache = one_stack.cache(report=0.1)
    for _ in range(2):
        cache.open("dm:1").append({"content": "a"})
        until(lambda: reports(cache))
        cache.close()
        assert reporters() == []
        with one_stack.raw() as raw:
            assert raw.keys("sc:process*") == []


def test_clients_handed_in(one_stack):
    """A blocking client serves for the reports; of an awaiting one there are none."""
    settings = replace(one_stack.settings(report=0.5), redis_url="redis://localhost:1/0")
    engine = create_engine(one_stack.database_url)
    with one_stack.raw() as client, SessionCache(client, engine, settings=settings) as cache:
        cache.open("dm:1")
        until(lambda: reports(cache))

    async def work() -> None:
        client, engine = redis.asyncio.Redis.from_url(one_stack.redis_url), create_async_engine(driver)
        async with AsyncSessionCache(client, engine, settings=settings) as cache:
            await cache.open("dm:1")
            assert reporters() == []
        await client.aclose()
        await engine.dispose()

    driver = one_stack.database_url.replace("sqlite:", "sqlite+aiosqlite:")
    asyncio.run(work())
    engine.dispose()


def test_a_child_reports_as_a_process_of_its_own(one_stack):
    """It has a name and a thread of its own, and takes back no report of its parent's."""
    with one_stack.cache(report=0.5) as cache, one_stack.raw() as raw:
        cache.open("dm:1")
        until(lambda: raw.keys("sc:process:*"))

        def child():
            mine = cache._connections.reporter.name
            deadline = time.monotonic() + 30
            while not [one for one in reports(cache) if one.name == mine and one.pid == os.getpid()]:
                assert time.monotonic() < deadline
                cache.get("dm:1").history()
                time.sleep(0.02)
            cache._connections.reporter.close()
            assert mine not in [one.name for one in reports(cache)]

        assert in_a_child(child) == 0
        cache.get("dm:1").history()
        until(lambda: [one.pid for one in reports(cache)] == [os.getpid()])


def test_reports_that_cannot_be_written(one_stack, own_server, caplog):
    """Are counted, told of once, and keep nobody waiting; when Redis is back there is one again."""
    server = own_server()
    settings = replace(one_stack.settings(report=0.5, redis_timeout=0.5), redis_url=server.url)
    with SessionCache(settings=settings) as cache:
        cache.open("dm:1")
        until(lambda: reports(cache))
        server.kill()
        cache._state.counters.add("retries")
        until(lambda: cache._state.counters.snapshot()["reports_failed"] > 2)
        server.start()
        until(lambda: [cache.open("dm:1").history(), *reports(cache)][1:])
    assert sum("cannot be reported" in one.message for one in caplog.records) == 1


@pytest.mark.parametrize(
    "text", [b"\xff", b"7", b"{}", b'{"counters": [], "histograms": {}}', b'{"counters": {"appends": "x"}}'],
)  # fmt: skip
def test_what_is_no_report_is_left_out(one_stack, text):
    """Whoever wrote it, the others are seen."""
    with one_stack.cache(report=0.5) as cache, one_stack.raw() as raw:
        cache.open("dm:1")
        until(lambda: reports(cache))
        raw.zadd("sc:processes", {b"\xfeodd": 10**15, "none": 10**14})
        raw.set("sc:process:none", text)
        cache.get("dm:1").history()
        until(lambda: reports(cache))
        assert [one.pid for one in reports(cache)] == [os.getpid()]


def test_reports_are_bounded(one_stack):
    """A thousand names, the newest ones; the oldest are forgotten by the next report."""
    with one_stack.cache(report=0.5) as cache, one_stack.raw() as raw:
        now_ms = time.time() * 1000
        raw.zadd("sc:processes", {f"gone:{n}": now_ms - 3_700_000 + n for n in range(500)})
        text = json.dumps({"kind": "server", "host": "h", "pid": 1, "version": "0", "age_ms": 1, "counters": {},
                           "histograms": {}})  # fmt: skip
        for n in range(1200):
            raw.set(f"sc:process:h:{n}", text, px=60_000)
            raw.zadd("sc:processes", {f"h:{n}": now_ms - 1000 + n / 10})
        cache.open("dm:1")
        until(lambda: raw.zcard("sc:processes") == 1201)
        found = reports(cache)
        assert len(found) == 1000
        assert found[0].pid in {1, os.getpid()}
        assert found == sorted(found, key=lambda one: one.at_ms, reverse=True)
        assert set(found[-1].counters) == set(NAMES)
