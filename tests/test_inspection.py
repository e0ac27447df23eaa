"""What an operator sees of a session, who is no reader of it: where it stands in both tiers, whatever stands there."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sentinels import until

from sessioncache import SessionNotFound, StoreUnavailable, inspection
from sessioncache.flow import Evaluate, Transact, run
from sessioncache.hot import draining

KEY = "telegram:dm:42"
ALONE = {"queue_url": "redis://127.0.0.1:1/0"}


def everything(raw) -> dict:
    """Every Redis key but for those that end within a minute, with what it holds and when it ends."""
    return {name: (raw.dump(name), raw.pexpiretime(name)) for name in raw.keys("*") if not 0 <= raw.pttl(name) < 60_000}


def inspected(cache, name, owner=None):
    return cache._run(inspection.inspect(cache._state, name, owner))


def test_where_a_session_stands(some_stack):
    """Hot and pending, then drained, then evicted; the store follows."""
    with some_stack.cache(**ALONE) as cache:
        session = cache.open(KEY, owner="alice", title="Plans")
        session.append([{"content": "a"}, {"content": "b"}])
        one = inspected(cache, KEY)
        assert (one.session_key, one.partition) == (KEY, cache._state.keyspace.partition_of(KEY))
        assert (one.session_id, one.is_current, one.version) == (session.session_id, True, 3)
        assert (one.hot.copy, one.hot.messages, one.hot.pending) == ("hot", 2, 3)
        assert one.hot.pending_bytes > 0
        assert 3000 < one.hot.ttl < 4000
        assert 0 <= one.hot.oldest_pending < 60
        assert one.hot.due <= 0
        assert (one.hot.dead, one.hot.lease, one.hot.turn, one.hot.holds) == (0, 0, 0, {})
        assert replace(one.info, last_accessed=None) == replace(session.refresh(), last_accessed=None)
        assert (one.stored.version, one.stored.sessions, one.stored.info) == (None, 0, None)
        cache.flush()
        one = inspected(cache, KEY)
        assert (one.hot.pending, one.hot.pending_bytes, one.hot.oldest_pending, one.hot.due) == (0, 0, 0, None)
        assert (one.stored.version, one.stored.current, one.stored.sessions) == (3, session.session_id, 1)
        assert one.stored.info.message_count == 2
        cache.evict(KEY)
        one = inspected(cache, KEY)
        assert (one.hot.copy, one.hot.ttl, one.hot.messages, one.hot.info) == ("none", None, 0, None)
        assert (one.session_id, one.version, one.info.title, one.info.owner) == (session.session_id, 3, "Plans", "alice")


def test_an_inspection_changes_nothing(one_stack):
    """Neither a TTL nor an access, nor does it bring in what is not hot, or drain what waits."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        cache.open(KEY).append({"content": "a"})
        cache.open("cold").append({"content": "a"})
        cache.flush("cold")
        cache.evict("cold")
        before = everything(raw)
        time.sleep(0.01)
        with one_stack.cache(**ALONE) as other:
            for name in (KEY, "cold", cache.past("cold")[0].session_id):
                inspected(other, name)
            with pytest.raises(SessionNotFound):
                inspected(other, "nothing")
        assert everything(raw) == before


def test_newest_messages_are_a_look(one_stack):
    """Of a hot session neither TTL nor access change; a cold one is brought in, as by any reader."""
    with one_stack.cache(**ALONE, touch=0.01) as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        session.append([{"content": str(n)} for n in range(5)])
        before = everything(raw)
        time.sleep(0.05)
        with one_stack.cache(**ALONE, touch=0.01) as other:
            info, found = other._run(inspection.newest(other._state, KEY, None, 2))
            assert (info.session_id, found.data()) == (session.session_id, [{"content": "3"}, {"content": "4"}])
            assert everything(raw) == before
            cache.evict(KEY)
            _, found = other._run(inspection.newest(other._state, KEY, None, 9))
            assert len(found) == 5
            session.history()
            assert everything(raw)[cache._state.keyspace.of(KEY).meta.encode()] != before


def test_one_round_trip_to_each_tier(one_stack):
    """However much stands there."""
    with one_stack.cache(**ALONE) as cache:
        cache.open(KEY).append([{"content": "a"}] * 500)
        asked = []

        def count(request):
            asked.append(type(request))
            return cache._connections.driver.perform(request)

        run(inspection.inspect(cache._state, KEY), count)
        assert asked == [Evaluate, Transact]


def test_rights_holds_and_dead_letters(one_stack):
    """The turn, holds with their names, a claim, and those dead letters of the partition that are this key's."""
    with one_stack.cache(**ALONE, partitions=1, lanes=1) as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        for n in range(25):
            raw.rpush("sc:{000}:dead", f"1 23505 {KEY if n % 5 == 0 else KEY + '0'}\n1 op".encode() + b"\n\x00\xff")
        with session.turn(), session.hold("subagent one"), cache.open("other").hold("x"):
            cache._run(draining.claim(cache._state, [cache._state.keyspace.of_partition(0)], 10, "due"))
            one = inspected(cache, KEY).hot
            assert 0 < one.turn <= cache.settings.hold
            (name,) = one.holds
            assert name.startswith("subagent one ")
            assert 0 < one.holds[name] <= cache.settings.hold
            assert 0 < one.due <= cache.settings.visibility
            assert one.dead == 5
        one = inspected(cache, KEY).hot
        assert (one.turn, one.holds) == (0, {})


def test_a_session_by_its_id(one_stack):
    """Current, ended, not in SQL yet, deleted, never there."""
    with one_stack.cache(**ALONE) as cache:
        first = cache.open(KEY, owner="alice")
        first.append({"content": "a"})
        one = inspected(cache, first.session_id)
        assert (one.session_key, one.session_id, one.is_current, one.info.owner) == (KEY, first.session_id, True, "alice")
        second = cache.get(KEY).reset()
        cache.flush()
        one = inspected(cache, first.session_id)
        assert (one.session_id, one.is_current, one.info.end_reason) == (first.session_id, False, "session_reset")
        assert (one.hot.info.session_id, one.stored.sessions) == (second.session_id, 2)
        assert inspected(cache, second.session_id).is_current
        cache.delete_session(first.session_id)
        for gone in (first.session_id, "20200101_000000_00000000" + "0" * 12, "never"):
            with pytest.raises(SessionNotFound):
                inspected(cache, gone)
        assert inspected(cache, KEY, "alice").is_current
        for name in (KEY, second.session_id):
            with pytest.raises(SessionNotFound):
                inspected(cache, name, "bob")


def test_a_key_without_a_session(one_stack):
    """One whose session ended is told of, with how many it had; one whose session was deleted is not there."""
    with one_stack.cache(**ALONE) as cache:
        cache.open("deleted")
        cache.delete("deleted")
        cache.flush()
        with pytest.raises(SessionNotFound):
            inspected(cache, "deleted")
        cache.open("a").append({"content": "1"})
        moved = cache.get("a").session_id
        cache.open("b").switch(moved)
        cache.flush()
        assert inspected(cache, moved).session_key == "b"
    with one_stack.cache(**ALONE, prune_after=0.01, hold=0.001) as cache, one_stack.raw() as raw:
        until(lambda: raw.info("server")["uptime_in_seconds"])  # a Redis that just started may have lost holds
        cache.open(KEY).append({"content": "1"})
        ended = cache.get(KEY).session_id
        cache.flush()
        until(lambda: cache.keep_house() and cache.flush() and inspected(cache, KEY).info is None)
        one = inspected(cache, KEY)
        assert (one.session_id, one.info, one.stored.sessions) == (None, None, 1)
        one = inspected(cache, ended)
        assert (one.session_id, one.is_current, one.info.end_reason) == (ended, False, "pruned")


def test_while_the_store_is_away(one_stack):
    """What Redis knows is shown; what only SQL would know is an error."""
    with one_stack.cache(**ALONE) as cache:
        session = cache.open(KEY)

        def without_the_store(request):
            if isinstance(request, Transact):
                raise StoreUnavailable("away")
            return cache._connections.driver.perform(request)

        one = run(inspection.inspect(cache._state, KEY), without_the_store)
        assert (one.session_id, one.stored) == (session.session_id, None)
        with pytest.raises(StoreUnavailable):
            run(inspection.inspect(cache._state, "cold"), without_the_store)


@pytest.mark.parametrize(
    "kind", ["meta", "history", "pending", "lease", "turn", "dirty", "backlog", "oldest", "dead", "holds"]
)
def test_keys_of_wrong_types(one_stack, kind):
    """One of them at a time: it counts for nothing, all else is shown."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        session = cache.open(KEY, owner="alice")
        session.append({"content": "a"})
        cache.flush()
        session.append({"content": "b"})
        name = getattr(cache._state.keyspace.of(KEY), kind)
        raw.delete(name)
        raw.rpush(name, "x") if kind in {"lease", "turn"} else raw.set(name, "x")
        one = inspected(cache, KEY)
        assert one.session_id == session.session_id
        assert one.hot.copy == ("other" if kind in {"meta", "history"} else "hot")
        assert one.hot.pending == (0 if kind == "pending" else 1)


def test_garbage_in_a_hot_copy(one_stack):
    """No valid hot copy; the store is asked, and the garbage left where it is."""
    with one_stack.cache(**ALONE) as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        cache.flush()
        raw.hset(cache._state.keyspace.of(KEY).meta, "created_ms", "x")
        one = inspected(cache, KEY)
        assert (one.hot.copy, one.session_id) == ("other", session.session_id)
