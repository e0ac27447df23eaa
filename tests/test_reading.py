"""Reads: what is read beside the script is what it saw; each caller has messages of its own; what near copies take."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from dataclasses import asdict, replace
from functools import partial
from sys import getsizeof

import msgpack
import pytest

from sessioncache import HydrationTimeout, SessionCache, SessionMoved, elements, near, read_through, records, scripts
from sessioncache.flow import Command
from sessioncache.hot import reading
from sessioncache.hydration import warm
from sessioncache.message import element, encode

KEY = "telegram:dm:42"
MANY = 2 * reading.FEW


def said(first: int, count: int, session: str = "a") -> list[dict]:
    """So many messages."""
    return [{"role": "user", "content": f"{session} {n}"} for n in range(first, first + count)]


def in_between(cache: SessionCache, act) -> list:
    """Let another act once, between a read's script and the command beside it; what this cache asked since, by name."""
    perform, asked = cache._connections.driver.perform, []

    def hooked(request):
        beside = isinstance(request, Command) and request.commands[0][0] == "EVALSHA"
        asked.append("beside" if beside else getattr(request, "script", None))
        if not beside or asked.count("beside") > 1:
            return perform(request)
        first, *rest = request.commands
        reply = perform(Command((first,)))
        act()
        return reply + perform(Command(tuple(rest)))

    cache._connections.driver.perform = hooked
    return asked


CHANGES = {
    "append": lambda session: session.append(said(MANY, 3)),
    "edit": lambda session: session.edit("mine", {"content": "edited"}),
    "pop and append": lambda session: (session.pop(), session.append(said(MANY, 1))),
    "remove and append": lambda session: (session.remove("mine"), session.append(said(MANY, 1))),
    "truncate": lambda session: session.truncate(3),
    "clear": lambda session: session.clear(),
    "replace": lambda session: session.replace(said(500, MANY)),
    "title": lambda session: session.update(title="t"),
}


@pytest.mark.parametrize("use", ["history", "messages"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("limit", [None, MANY - 10])
def test_what_is_written_in_between(some_stack, change, use, limit):
    """The read gives the messages before the change or those after it, never a mixture; the next one those after it."""
    with some_stack.cache() as writer, some_stack.cache() as cache:
        session = writer.open(KEY)
        session.append(said(0, 5))
        session.append({"role": "user", "content": "first"}, id="mine")
        session.append(said(6, MANY - 6))
        seen = [session.history(limit)]
        reader = cache.get(KEY)

        def act() -> None:
            CHANGES[change](session)
            seen.append(session.history(limit))

        asked = in_between(cache, act)
        found = reader.history(limit) if use == "history" else reader.messages(limit).data()
        assert found in seen
        assert asked.count("beside") == 1
        assert (scripts.READ in asked) == (change != "title")
        assert reader.history(limit) == reader.messages(limit).data() == seen[1]


@pytest.mark.parametrize("others", ["switch", "evict", "expire"])
def test_the_hot_copy_goes_in_between(some_stack, others):
    """Another session's messages are never given as this one's (I6), and no part as the whole (I5)."""
    with some_stack.cache() as writer, some_stack.cache() as cache, some_stack.raw() as raw:
        old = writer.open(KEY)
        old.append(said(0, MANY, "old"))
        session = old.reset()
        session.append(said(0, MANY, "new"))
        reader = cache.get(KEY)

        def act() -> None:
            if others == "switch":
                assert session.switch(old.session_id).history() == said(0, MANY, "old")
            elif others == "evict":
                assert writer.evict(KEY)
            else:
                raw.delete(cache._state.keyspace.of(KEY).history)

        in_between(cache, act)
        if others == "switch":
            with pytest.raises(SessionMoved):
                reader.history()
        else:
            assert reader.history() == said(0, MANY, "new")


def test_a_script_that_is_not_there(some_stack):
    """It is sent, and the read goes on; so does one where a key is of a wrong type."""
    with some_stack.cache(near_sessions=0) as cache, some_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said(0, MANY))
        raw.script_flush()
        assert session.history() == said(0, MANY)
        cache.flush()
        history = cache._state.keyspace.of(KEY).history
        raw.delete(history)
        raw.set(history, "x")
        assert session.history() == said(0, MANY)


def test_a_full_read_is_one_round_trip_and_no_script_passes_it_on(some_stack):
    """Not even of many messages; few are passed on by the script."""
    with some_stack.cache(near_sessions=0) as cache:
        session = cache.open(KEY)
        session.append(said(0, MANY))
        session.messages()  # Redis knows the script from now on
        asked = in_between(cache, lambda: None)
        session.history()
        session.messages()
        session.history(reading.FEW)
        assert asked == ["beside", "beside", scripts.READ]


@pytest.mark.parametrize("near_sessions", [0, 10])
def test_every_caller_has_copies_of_its_own(some_stack, near_sessions):
    """Whether they were decoded to see that they are sound, or for this caller (I8)."""
    with some_stack.cache(near_sessions=near_sessions) as cache:
        session = cache.open(KEY)
        session.append([{"content": [{"type": "text", "text": "a"}]}] * 3)
        for read in (session.history, lambda: session.messages().data(), lambda: [one.data for one in session.messages()]):
            for _ in range(3):
                found = read()
                assert found == [{"content": [{"type": "text", "text": "a"}]}] * 3
                found[0]["content"][0]["text"] = "spoiled"
                found[1].clear()
                found.pop()
        kept = session.messages()
        for one in kept:
            one.data.clear()
        assert [one.data for one in kept] == kept.data() == session.history()


def test_headers_are_looked_at_when_records_are_wanted(some_stack):
    """A header that was altered harms no history, and is brought back for whoever asks for records."""
    with some_stack.cache() as cache, some_stack.cache() as other, some_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said(0, 3))
        history = cache._state.keyspace.of(KEY).history
        head, _, packed = raw.lindex(history, 1).partition(b"\n")
        for wrong in (b"x" + head, b"9" + head, b"2" + head[1:], head.replace(b" ", b"  ")):
            raw.lset(history, 1, wrong + b"\n" + packed)
            reader = other.get(KEY)
            assert reader.history() == reader.history() == said(0, 3)
            before = other.stats().counters["corrupt_elements"]
            assert [one.seq for one in reader.messages()] == [2, 3, 4]
            assert other.stats().counters["corrupt_elements"] == before + 1
            assert raw.lindex(history, 1) == head + b"\n" + packed
            other._state.near.drop(KEY)


@pytest.mark.parametrize("read", [lambda one: one.history(), lambda one: one.messages().data(), lambda one: one.history(4)])
def test_what_is_appended_while_older_ones_are_read_comes_once(some_stack, monkeypatch, read):
    """Where the hot copy was brought without messages: SQL has the new one by then, and Redis has it too."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session, late = cache.open(KEY), [{"content": "late"}]
        session.append(said(0, 5))
        cache.flush()
        cache.evict(KEY)
        state, keys, driver = cache._state, cache._state.keyspace.of(KEY), cache._connections.driver
        cache._run(warm(state, keys, partial(reading.look, state, keys), window=0))
        perform, asked = driver.perform, []

        def see(request):
            reply = perform(request)
            asked.append(request)
            if len(asked) == 1:
                other.get(KEY).append(late)
                other.flush()
            return reply

        monkeypatch.setattr(driver, "perform", see)
        first = read(session)
        assert first in (said(0, 5), said(0, 5) + late, said(1, 4) + late, said(2, 3) + late)
        assert len({one["content"] for one in first}) == len(first)
        assert cache.stats().counters["corrupt_elements"] == 0
        assert session.history() == session.messages().data() == said(0, 5) + late


def test_history_below_the_window(some_stack):
    """Also where what is hot was read without a look at its headers, and one of them is garbage."""
    with some_stack.cache(window=MANY) as cache, some_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said(0, 2 * MANY))
        history = cache._state.keyspace.of(KEY).history
        raw.lset(history, 0, b"x" + raw.lindex(history, 0))
        assert session.history() == said(0, 2 * MANY)
        assert session.history() == session.messages().data() == said(0, 2 * MANY)


def test_a_record_is_a_value():
    """It is read when it is asked for, and compares, copies, pickles and shows itself as if it always had been there."""
    raw = element(7, 1_790_000_000_000, "m", encode({"content": "a"}, 100))
    assert records.record(raw) == records.record(raw) == next(iter(records.Messages([raw], 0, 1)))
    for again in (copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), replace):
        assert again(records.record(raw)) == records.record(raw)
    found = records.record(raw, durability="cached")
    assert (found.durability, found.stale, found.readable) == ("cached", False, True)
    assert list(asdict(found)) == ["seq", "id", "created_at", "data", "stale", "readable", "durability"]
    assert "seq=7, id='m'" in repr(found)
    assert found.data is found.data
    with pytest.raises(AttributeError):
        found.seq = 8
    with pytest.raises(AttributeError, match="nothing"):
        found.nothing  # noqa: B018 - asked for in vain


@pytest.mark.parametrize("size", [0, 100, 400, 479, 480, 1_000, 4_000, 60_000])
def test_what_a_near_copy_takes_is_counted(size):
    """With what Python needs for each object, of small messages and large ones."""
    raw = [bytes(size) for _ in range(1_000)]
    taken = sum(map(getsizeof, raw)) + getsizeof(raw)
    counted = near.copied("s", "r", 1, len(raw), raw, 0).size
    assert 0.97 * taken <= counted <= 1.03 * taken + 24 * len(raw)


def test_elements_with_holes_and_garbage():
    """A hole is nothing, garbage is known among good ones, and is nothing when it is read all the same."""
    good, hole = element(1, 5, "m", encode({"n": 1}, 100)), element(2, 5, "m", elements.HOLE)
    assert elements.decoded([good, hole, good]) == [{"n": 1}] * 2
    assert elements.readable([good, hole, good]) == [{"n": 1}, None, {"n": 1}]
    assert elements.decoded([]) == elements.readable([]) == []
    for bad in (b"", b"x", good[:-1], good + b"x", b"3 5 m\n\x01", hole + elements.HOLE):
        assert elements.decoded([good, bad, hole]) is None
        assert elements.readable([good, bad, hole]) == [{"n": 1}, None, None]


def test_headers_are_looked_at_once(some_stack, monkeypatch):
    """Also after an append of one's own: a read looks at what is new, however long the history is."""
    looked = []
    seen = read_through.in_order
    monkeypatch.setattr(
        read_through, "in_order", lambda elements, *ends: looked.append(len(elements)) or seen(elements, *ends)
    )
    with some_stack.cache() as cache:
        session = cache.open("k")
        session.append([{"content": str(n)} for n in range(50)])
        assert len(session.messages()) == 50
        session.append({"content": "mine"})
        session.history()
        assert len(session.messages()) == 51
    assert looked == [50, 1]


def test_of_an_invalid_copy_nothing_is_sent(some_stack, proxy):
    """After Redis came back every copy is invalid, and whoever waits for another one to hydrate asks again and again."""
    between = proxy(some_stack.server.socket)
    settings = some_stack.settings(hydration_timeout=1.0)
    with some_stack.cache() as other, SessionCache(settings=replace(settings, redis_url=between.url)) as cache:
        session = other.open("k")
        session.append([{"content": "x" * 1000} for _ in range(1000)])
        other.flush("k")
        session.messages()  # Where Redis does not know the script yet, the command beside it sends all, once.
        keys, run = other._state.keyspace.of("k"), other._connections.run
        mine = cache.get("k")
        with some_stack.raw() as raw:
            raw.hset(keys.meta, "run", "another")
            assert run(reading.lease(other._state, keys, "A" * 16))
            before = between.down
            with pytest.raises(HydrationTimeout):
                mine.history()
            assert between.down - before < 100_000
            assert not raw.exists(keys.history)


def test_records_are_not_decoded_all_at_once(some_stack):
    """To see that they are sound: messages of many small parts take many times their size as objects."""
    with some_stack.cache(near_sessions=0) as cache:
        session = cache.open("k")
        parts = [{"type": "tool", "n": n} for n in range(60)]
        for _ in range(4):
            session.append([{"content": "", "parts": parts} for _ in range(500)])
        session.messages(1)
        tracemalloc.start()
        try:
            found = session.messages()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * len(found) * len(msgpack.packb(parts))
