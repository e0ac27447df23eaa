"""A Redis at ``maxmemory``: which eviction policies are refused, and that nothing is lost, half-written or stuck."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import redis
from conftest import binary_of
from doors import opener
from servers import RedisServer

from sessioncache import HotTierFull, SessionCache, Settings, UnsafeEviction
from sessioncache.connect import BlockingConnections
from sessioncache.hot.server import eviction_refusal, server_facts
from sessioncache.write_behind import drain_lane

MEMORY = 32 * 2**20
LARGE = 512 * 2**10


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_policy_that_evicts_everything_is_refused_at_start(some_stack, policy):
    """Nothing is written, whatever the bound; `allow_eviction` starts all the same; the sentence says what to do."""
    with some_stack.raw() as raw:
        raw.config_set("maxmemory-policy", policy)
        try:
            with some_stack.cache() as cache, pytest.raises(UnsafeEviction, match="volatile-lru or noeviction"):
                cache.open("k")
            assert not raw.keys("sc:*")
            with some_stack.cache(allow_eviction=True) as cache:
                cache.open("k").append({"content": "a"})
        finally:
            raw.config_set("maxmemory-policy", "noeviction")


def test_what_a_server_says_of_itself(some_stack):
    """One INFO: enough to tell policy, bound and role, on Redis and Valkey; the rule on policies, also on those to come."""
    connections = BlockingConnections(some_stack.settings())
    try:
        facts = connections.run(server_facts(connections.state))
    finally:
        connections.close()
    with some_stack.raw() as raw:
        info = raw.info()
    assert (facts.run_id, facts.role, facts.policy, facts.maxmemory) == (info["run_id"], "master", "noeviction", 0)
    assert facts.product == ("valkey" if some_stack.name.startswith("valkey") else "redis")
    assert facts.used > 100_000
    assert {facts.append_only, facts.append_failed, facts.snapshot_failed, facts.cluster} == {False}
    assert facts.version
    for policy, refused in [("allkeys-lrm", True), ("allkeys-new", True), ("volatile-ttl", False), ("", False)]:
        assert bool(eviction_refusal(replace(facts, policy=policy))) == refused


class Filled:
    """A Redis of 32 MB that is full of what is not in SQL yet; who wrote it, and what was acknowledged."""

    def __init__(self, server, cache) -> None:
        self.server, self.cache = server, cache
        self.told: dict[str, list[str]] = {}
        self.sessions: dict[str, Any] = {}

    def fill(self) -> None:
        """Append to one session after the other until Redis refuses."""
        with pytest.raises(HotTierFull, match="maxmemory"):
            for number in range(200):
                key = f"k{number // 5}"
                if key not in self.sessions:
                    session = self.cache.open(key)
                    self.sessions[key], self.told[key] = session, []
                text_ = f"{number} ".ljust(LARGE, "x")
                self.sessions[key].append({"role": "user", "content": text_})
                self.told[key].append(text_)

    def complete(self) -> bool:
        """Whether every session holds what was acknowledged, and no more, as another server reads it."""
        return all([one["content"] for one in self.cache.get(key).history()] == words for key, words in self.told.items())


def _places(*pairs: tuple[str, str]) -> list[Any]:
    """Policies and doors, on Valkey, and on Redis 7 where there is time."""
    redis_7 = [pytest.param(("redis7", *pair), marks=pytest.mark.long, id=f"redis7-{pair[0]}") for pair in pairs]
    return [*(pytest.param(("valkey9", *pair), id="-".join(pair)) for pair in pairs), *redis_7]


@pytest.fixture(params=_places(("noeviction", "blocking"), ("volatile-lru", "awaiting")))
def full(request, tmp_path):
    """Full, under each policy that may be."""
    name, policy, door = request.param
    server = RedisServer(binary_of(name), maxmemory="32mb", **{"maxmemory-policy": policy}).start()

    class Place:
        def settings(self, **changes: Any) -> Settings:
            return Settings(redis_url=server.url, database_url=f"sqlite:///{tmp_path}/store.db", report=0, **changes)

    with closing(server), opener(Place(), door, hydration_timeout=30.0, near_sessions=0) as opened:
        filled = Filled(server, opened())
        filled.fill()
        yield filled


def _kept(raw: redis.Redis) -> dict[bytes, Any]:
    """Everything in Redis but leases, the doorbell and the queue; a hot copy that was evicted is not a change."""
    readers = {
        b"list": lambda key: raw.lrange(key, 0, -1),
        b"hash": raw.hgetall,
        b"zset": lambda key: raw.zrange(key, 0, -1),
    }
    return {key: readers[raw.type(key)](key) for key in raw.keys("sc:*") if raw.type(key) in readers}


def _unchanged(before: dict[bytes, Any], after: dict[bytes, Any]) -> bool:
    gone = before.keys() - after.keys()
    hot = all(b":history:" in key or b":meta:" in key for key in gone)
    return hot and all(before[key] == value for key, value in after.items())


def _refused(change: Any, session: Any) -> bool:
    try:
        change(session)
    except HotTierFull:
        return True
    return False


CHANGES = {
    "append": lambda one: one.append({"content": "a"}),
    "a batch": lambda one: one.append([{"content": str(n)} for n in range(2500)]),
    "replace": lambda one: one.replace([{"content": "b"}]),
    "pop": lambda one: one.pop(),
    "truncate": lambda one: one.truncate(1),
    "clear": lambda one: one.clear(),
    "update": lambda one: one.update(title="t", metadata={"a": 1}),
    "usage": lambda one: one.record_usage(input_tokens=1),
    "reset": lambda one: one.reset(),
    "delete": lambda one: one.delete(),
}


def test_a_full_redis_loses_nothing_and_serves_again(full):
    """Nothing pending is evicted, opening is refused whole, no lease stays; a flush empties it, and everything goes on."""
    with redis.Redis.from_url(full.server.url) as raw:
        for call in (full.cache.open, full.cache.create, full.cache.ensure):
            before, began = _kept(raw), time.monotonic()
            if _refused(call, f"new {call}"[:80]):
                assert _unchanged(before, _kept(raw))
            assert time.monotonic() - began < 10
        assert raw.keys("*:lease:*") == []
        assert full.cache.stats().pending >= 20
        flushed = full.cache.flush()
        assert (flushed.left, flushed.stopped) == (0, {})
        assert raw.keys("*:pending:*") == []
        assert full.complete()
        for key, one in full.sessions.items():
            one.append({"content": "after"})
            full.told[key].append("after")
        assert full.complete()
        assert full.cache.stats().dead == 0


@pytest.mark.parametrize("full", _places(("noeviction", "blocking")), indirect=True)
def test_what_a_full_redis_refuses_it_refuses_whole(full):
    """Every change and every hydration: `HotTierFull`, and not a byte of log, history or meta is another.

    Reads work, and so do a flush and what a worker does.
    """
    with redis.Redis.from_url(full.server.url) as raw:
        session, cold = full.sessions["k0"], full.sessions["k1"]
        cold.history()
        assert full.cache.evict("k1")
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] - 2 * LARGE)  # no buffer decides whether it is full
        for name, change in CHANGES.items():
            for one in (session, cold):
                before = _kept(raw)
                assert _refused(change, one), name
                assert _unchanged(before, _kept(raw)), name
        assert _refused(lambda one: one.history(), cold)
        assert raw.keys("*:lease:*") == []
        assert [one["content"] for one in session.history()] == full.told["k0"]
        assert full.cache.flush("k1").left == 0
        drained = full.cache._connections.run(drain_lane(full.cache._state, 0, 1, lambda: False))
        assert (drained.ops > 0, drained.stopped) == (True, {})
        raw.config_set("maxmemory", MEMORY)
        assert full.complete()


def test_a_copy_that_redis_evicts_at_once(own_server, tmp_path):
    """Where there is no room for a history beside what is pending: `HotTierFull` soon, not loads until the time is over."""
    server = own_server(maxmemory="32mb", **{"maxmemory-policy": "volatile-lru"})
    settings = Settings(redis_url=server.url, database_url=f"sqlite:///{tmp_path}/store.db", near_sessions=0)
    with SessionCache(settings=settings) as cache, redis.Redis.from_url(server.url) as raw:
        cold = cache.open("cold")
        cold.append([{"content": "x" * LARGE} for _ in range(16)])
        cache.flush()
        cache.evict("cold")
        while raw.info("memory")["used_memory"] < MEMORY - 5 * LARGE:
            raw.rpush("pending of others", "y" * LARGE)
        loads = cache.stats().counters["sql_loads"]
        began = time.monotonic()
        with pytest.raises(HotTierFull, match="evicts"):
            cold.history()
        assert time.monotonic() - began < 10
        assert cache.stats().counters["sql_loads"] - loads <= 5
        assert raw.keys("*:lease:*") == []
        raw.delete("pending of others")
        assert len(cold.history()) == 16
