"""The life of a session, where it went wrong once: each of these failed before what it names was mended."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import create_engine, select, text

from sessioncache import (
    AsyncSessionCache,
    InvalidInput,
    InvalidMessage,
    SessionDeleted,
    SessionExists,
    SessionMoved,
    SessionNotFound,
    TurnLost,
    TurnTimeout,
    VersionConflict,
    hydration,
    info,
)
from sessioncache.conversation import policy
from sessioncache.hot import reading, writing
from sessioncache.hot.reading import Begin
from sessioncache.lifecycle.opening import NO_POLICY, details
from sessioncache.op import new_op_id
from sessioncache.schema import sessions

KEY = "telegram:dm:42"


def contents(cache, key=KEY):
    """What stands, hot and then cold."""
    hot = [one["content"] for one in cache.get(key).history()]
    cache.flush(key)
    cache.evict(key)
    assert [one["content"] for one in cache.get(key).history()] == hot
    return hot


def says(*words):
    return [{"content": word} for word in words]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda one: one.pop(), ["b"]),
        (lambda one: one.truncate(1), ["b"]),
        (lambda one: one.clear(), []),
        (lambda one: one.replace(says("d")), ["d"]),
        (lambda one: one.remove(one.messages()[0].id), ["c"]),
    ],
)
def test_a_replace_and_another_change_in_one_batch(stack, change, left):
    """What a replace is known by is not taken by the messages that it brought."""
    with stack.cache() as cache:
        session = cache.open(KEY)
        session.append(says("a"))
        session.replace(says("b", "c"))
        change(session)
        assert contents(cache) == left
        assert cache.stats().dead == 0


def opening(cache, begin, verb="open"):
    """Send the script of an opening, as often as a lost reply makes it repeat."""
    state, keys = cache._state, cache._state.keyspace.of(KEY)
    rows = policy.rows(NO_POLICY, datetime.now(UTC))
    attempt = partial(reading.open_session, state, keys, verb, "", begin, rows)
    return cache._run(hydration.warm(state, keys, attempt))


@pytest.mark.parametrize("between", ["deleted", "reset", "switched", "nothing"])
@pytest.mark.parametrize("verb", ["open", "create"])
def test_a_repeated_opening_answers_for_its_own_session(some_stack, between, verb):
    """What it began may be gone by then: it never comes back, and nothing is written under no session."""
    with some_stack.cache() as cache:
        earlier = cache.open(KEY)
        cache.delete(KEY)
        begin = Begin("s1", new_op_id(), details(title="t").payload, info.fields({"title": "t"}))
        assert opening(cache, begin, verb).why == "new"
        session = cache.get(KEY)
        if between == "deleted":
            session.append(says("a"))
            cache.delete(KEY)
        elif between == "reset":
            session.reset()
        elif between == "switched":
            cache.flush()
            cache.open("other").switch("s1")
        again = opening(cache, begin, verb)
        if between == "nothing":
            assert (again.why, again.info.session_id) == ("new", "s1")
        else:
            assert again.why == "again"
        with pytest.raises((SessionMoved, SessionDeleted)):
            earlier.append(says("late"))
        assert cache.flush().stopped == {}
        assert cache.stats().dead == 0


def test_a_repeated_reset_after_a_deletion(some_stack):
    """Its answer was lost, and what it began was deleted since: the caller is told, and gets no handle to nothing."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        terms = session._handle.change()
        attempt = partial(writing.start, cache._state, session._handle.keys, terms, "s2", b"\x80", {})
        cache._run(attempt())
        cache.delete(KEY)
        assert cache._run(attempt()).current == ""


def test_many_ids_in_one_append(one_stack):
    """Each is remembered beside the hot copy: a thousand at most; they are repeats all the same."""
    with one_stack.cache() as cache:
        session = cache.open(KEY)
        ids = [f"id{n}" for n in range(1000)]
        first = session.append([{"content": one} for one in ids], id=ids)
        assert session.append([{"content": one} for one in ids], id=ids) == first
        with pytest.raises(InvalidMessage, match="at most 1000"):
            session.append([{"content": "x"}] * 1001, id=[f"x{n}" for n in range(1001)])
        assert len(session.history()) == 1000


def test_terms_hold_wherever_the_session_is(some_stack):
    """A version that moved on, a turn that was lost: of a switch, and of a deletion after a reset."""
    with some_stack.cache(hold=0.2) as cache:
        session = cache.open(KEY)
        fresh = session.reset()
        version = fresh.info.version
        fresh.append(says("a"))
        with pytest.raises(VersionConflict):
            fresh.switch(session.session_id, expected_version=version)
        with pytest.raises(SessionMoved):
            session.delete(expected_version=1)
        other = cache.open("other")
        with fresh.turn() as mine, some_stack.raw() as raw:
            raw.delete(mine._handle.keys.turn)
            with pytest.raises(TurnLost):
                mine.switch(other.session_id)
            with pytest.raises(TurnLost):
                mine.append(says("b"))
            assert cache.get("other").session_id == other.session_id
            newer = fresh.reset()
            with pytest.raises(SessionMoved):
                mine.delete()
        assert newer.delete()


def test_another_owners_stopped_key(some_stack):
    """It is not named to others, and keeps nobody from lists, or from erasing what is theirs."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        secret = cache.open("agent:alice-secret", owner="alice")
        secret.append(says("a"))
        cache.flush()
        secret.append(says("b"))
        raw.lset(secret._handle.keys.pending, 0, "9 AAAAAAAAAAAAAAAA 0 5 retitle s\n")
        mine = cache.open("mine", owner="bob")
        mine.append(says("c"))
        for call in (cache.read, cache.resume, cache.info, lambda one, **named: cache.fork(one, "new", **named)):
            with pytest.raises(SessionNotFound) as caught:
                call(secret.session_id, owner="bob")
            assert "secret" not in str(caught.value)
        with pytest.raises(SessionNotFound):
            mine.switch(secret.session_id)
        assert not cache.delete_session(secret.session_id, owner="bob")
        assert [one.info.key for one in cache.list(owner="bob", fresh=True).sessions] == ["mine"]
        assert cache.delete_owner("bob").sessions == 1
        assert cache.flush(timeout=5).stopped.keys() == {"agent:alice-secret"}
        raw.delete(secret._handle.keys.pending)


def test_names_in_one_batch(some_stack):
    """Changed before a reset, they are kept; cleared after it, they stay cleared; a name may be "0", an origin empty."""
    with some_stack.cache() as cache:
        first = cache.open(KEY, display_name="X", title="0", platform="0", origin={})
        first.update(display_name="Y")
        second = first.reset()
        assert second.info.display_name == "Y"
        second.update(display_name="")
        third = second.reset(title="0")
        for _ in range(2):
            found = cache.get(KEY).info
            assert (found.display_name, found.title, found.platform, found.origin) == (None, "0", "0", {})
            cache.flush()
            cache.evict(KEY)
        assert {one.session_id: one.display_name for one in cache.past(KEY)} == {
            first.session_id: "Y",
            second.session_id: None,
            third.session_id: None,
        }


def test_counters_do_not_overflow(some_stack):
    """Refused before anything is written, in the script that knows the sum."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        session = cache.open(KEY)
        raw.hset(session._handle.keys.meta, "input_tokens", 2**52)
        with pytest.raises(InvalidInput, match="2\\*\\*52"):
            session.record_usage(input_tokens=1, output_tokens=1)
        assert session.refresh().usage.output_tokens == 0
        assert raw.llen(session._handle.keys.pending) == 1


def test_many_names(one_stack):
    """Refused wherever they come from; names that are there may be changed and removed."""
    with one_stack.cache() as cache:
        names = {f"n{n}": n for n in range(900)}
        with pytest.raises(InvalidInput, match="at most 900"):
            cache.open(KEY, metadata={**names, "more": 1})
        session = cache.open(KEY, metadata=names)
        session.update(metadata=dict.fromkeys(names, "x"))
        with pytest.raises(InvalidInput, match="too many names"):
            session.update(metadata={f"m{n}": n for n in range(200)})
        session.record_usage(input_tokens=1)
        session.update(metadata=dict.fromkeys(names))
        assert session.refresh().metadata == {}


def test_what_is_resumed_stays(some_stack):
    """A suspended session that is brought back is not suspended; one of another owner's key is not brought back."""
    with some_stack.cache() as cache:
        session = cache.open(KEY, owner="alice")
        session.update(suspended=True)
        session.reset()
        back = cache.resume(session.session_id, owner="alice")
        assert not back.info.suspended
        assert cache.open(KEY).session_id == session.session_id
        with pytest.raises(InvalidInput, match="keeps the owner"):
            back.reset(owner="bob")
        back.reset()
        cache.delete(KEY)
        cache.open(KEY, owner="bob").append(says("bob's"))
        with pytest.raises(SessionExists, match="another owner"):
            cache.resume(session.session_id, owner="alice")
        assert contents(cache) == ["bob's"]


def test_a_corrupt_message_does_not_keep_its_session(some_stack):
    """It can be reset and deleted, though its history cannot be read."""
    engine = create_engine(some_stack.database_url)
    with some_stack.cache() as cache:
        for key, act in [
            ("a", lambda one: one.reset()),
            ("b", lambda one: one.delete()),
            ("c", lambda _: cache.delete("c")),
        ]:
            session = cache.open(key)
            session.append(says("a"))
            cache.flush()
            cache.evict(key)
            with engine.begin() as connection:
                connection.execute(text("UPDATE messages SET body = '{'"))
            assert act(session)
            assert cache.open(key).history() == []
    engine.dispose()


def test_a_cancelled_turn_is_given_back(some_stack):
    """By whatever moment it was cancelled, another takes it at once."""

    async def work():
        async with AsyncSessionCache(settings=some_stack.settings()) as cache:
            session = await cache.open(KEY)

            async def answer():
                async with session.turn(timeout=5):
                    await asyncio.sleep(1)

            for pause in (0, 0.001, 0.002, 0.005, 0.05):
                task = asyncio.create_task(answer())
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                async with session.turn(timeout=0.5) as mine:
                    await mine.append(says("a"))
                    with pytest.raises(TurnTimeout):
                        async with session.turn(timeout=0):
                            pass

    asyncio.run(work())


@pytest.mark.parametrize(
    ("title", "kept"),
    [
        ("a\x00b\u200bc\u2066d\u061ce", "abcde"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("👩\u200d💻 ❤\ufe0f", "👩\u200d💻 ❤\ufe0f"),
        ("a\nb\tc", "a b c"),
        ("\u200c\u200d\ufe0f", None),
        ("\u115f\u3164\u180e", None),
        ("\U000e0041\U000e0042", None),
        (" \t ", None),
        ("x" * 255, "x" * 255),
    ],
)
def test_titles(one_stack, title, kept):
    """What is not seen goes, what joins stays, and what is nothing then is none."""
    with one_stack.cache() as cache:
        session = cache.open(KEY, title="before")
        session.update(title=title)
        assert session.refresh().title == kept
        assert cache.open("other", title=title).info.title == kept
        with pytest.raises(InvalidInput, match="255"):
            session.update(title="x" * 256)


def test_goals(one_stack):
    """`goal_state`, or what older applications called it."""
    with one_stack.cache() as cache:
        assert cache.open("a", metadata={"thread_goal": "old"}).info.goal == "old"
        assert cache.open("b", metadata={"thread_goal": "old", "goal_state": "new"}).info.goal == "new"
        assert cache.open("c").info.goal is None
        summarized = cache.open("d", metadata={"summary": "s", "goal_state": "g"})
        summarized.clear()
        assert summarized.refresh().metadata == {"goal_state": "g"}
        with pytest.raises(InvalidInput, match="cannot begin with mood"):
            cache.open("e", mood="good")


def test_a_flush_with_a_deadline_says_what_is_left(one_stack, tmp_path):
    """With the database away it tries until then, and raises nothing; a wrong deadline is refused."""
    with one_stack.cache() as cache:
        cache.open(KEY).append(says("a"))
        driver = cache._connections.driver
        engine, driver.engine = driver.engine, create_engine(f"sqlite:///{tmp_path}/none/a.db")
        report = cache.flush(timeout=0.2)
        assert (report.ops, report.left) == (0, 2)
        assert cache.stats().sessions is None
        driver.engine = engine
        for wrong in (-1, float("nan"), "x", True):
            with pytest.raises(InvalidInput, match="timeout"):
                cache.flush(timeout=wrong)
        assert cache.flush(timeout=5).ops == 2


def test_a_flush_counts_what_it_drained_before_the_database_went_away(one_stack, tmp_path):
    """Batches that were committed count, though the next one found no database."""
    with one_stack.cache(batch=2) as cache:
        session = cache.open(KEY)
        for n in range(5):
            session.append(says(str(n)))
        driver, transact = cache._connections.driver, cache._connections.driver._transact
        engine = driver.engine

        def once(request):
            result = transact(request)
            driver.engine = create_engine(f"sqlite:///{tmp_path}/none/a.db")
            return result

        driver._transact = once
        report = cache.flush(timeout=2.0)
        assert (report.ops, report.left) == (2, 4)
        driver.engine = engine


def test_a_copy_without_messages_does_not_stay(some_stack):
    """What a deletion brought hot without the messages makes one read look in SQL, not every one."""
    with some_stack.cache() as cache, some_stack.cache() as other, some_stack.cache() as third:
        old = cache.open(KEY)
        session = old.reset()
        session.append([{"content": str(n)} for n in range(50)])
        cache.flush()
        cache.evict(KEY)
        assert cache.delete_session(old.session_id)
        for server, pages in ((other, 1), (third, 0)):
            assert len(server.get(KEY).history()) == 50
            assert server.stats().counters["sql_pages"] == pages


def test_what_a_tombstone_keeps(some_stack):
    """Nothing that was said, or that says how: of all columns that may be empty, what refuses late writers."""
    with some_stack.cache() as cache:
        words = {"title": "Trip", "display_name": "Ann", "platform": "telegram", "chat_type": "dm"}
        session = cache.open(KEY, owner="alice", origin={"a": 1}, metadata={"b": 2}, **words)
        session.append([{"content": "secret"}])
        used = {"model": "m", "provider": "p", "base_url": "https://x", "cost_source": "s", "cost_status": "estimated"}
        session.record_usage(input_tokens=1, **used)
        session.delete()
    engine = create_engine(some_stack.database_url)
    with engine.connect() as connection:
        row = connection.execute(select(sessions)).mappings().one()
        kept = {name for name, value in row.items() if value is not None and sessions.c[name].nullable}
    engine.dispose()
    assert kept == {"session_key", "owner", "last_message_at", "ended_at", "end_reason", "state"}
