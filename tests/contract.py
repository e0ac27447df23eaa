"""What a session is, as tests that any implementation of it can be run against.

An implementation is bound by a test module that subclasses `Contract` and `Refusals`, in classes whose names begin with
``Test``, and gives these fixtures:

``open_door(**settings)``
    opens a cache "as a server of its own": several of them share their sessions and nothing else. It has the names of
    `SessionCache`, called without ``await`` (`doors.Awaited` does that for coroutines). It is empty at the start of each
    test and is closed after it. The settings asked for are ``window``, ``hold`` and ``reset``, as in `Settings`.
``between(cache, key=KEY)``
    what happens to a session between a write and a read: nothing, its hot copy goes, it is drained, or both. The suite is
    run with each of them; whatever happened, the results are the same.
``lose_turn(key=KEY)``
    ends the turn that is taken under a key, as when its holder stalls.

`Contract` is for every pairing of doors and stores; `Refusals` says what is refused, for which one of each will do.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sessioncache import (
    ConfigurationError,
    Erased,
    InvalidInput,
    InvalidKey,
    InvalidMessage,
    SessionCacheError,
    SessionDeleted,
    SessionExists,
    SessionMoved,
    SessionNotFound,
    TurnLost,
    TurnTimeout,
    Usage,
    VersionConflict,
)

KEY, OTHER, THIRD, FOURTH = "telegram:dm:42", "telegram:dm:43", "web:44", "group:45"
EDGES = {
    "integers": [2**64 - 1, -(2**63), 9007199254740993, 0],
    "floats": [1.0, 0.1, -0.0, 1e300, 5e-324],
    "others": [True, False, None, "", [], {}],
    "text": "nul \x00 line \u2028 👩‍👩‍👧‍👦 \U0010ffff \r\n\t",
    "order": {"z": 1, "a": {"y": 1, "b": 2}},
}
BEGINS = {
    "owner": "alice", "title": "Trip", "display_name": "Ann", "platform": "telegram", "chat_type": "dm",
    "origin": {"chat_id": "42", "user_id": "7", **EDGES}, "metadata": {"goal_state": {"goal": "Rome"}, **EDGES},
}  # fmt: skip


def said(*contents, role="user"):
    """Messages that say this."""
    return [{"role": role, "content": content} for content in contents]


def contents(messages):
    """What messages, or records of them, say."""
    return [getattr(one, "data", one)["content"] for one in messages]


def known(info):
    """What is known of a session, but for what a mere look at it may move."""
    return replace(info, version=None, last_accessed=info.created_at)


def standing(cache, session):
    """All that a refused call must leave as it is: what is pending, what is stored, and what the session is."""
    stats = cache.stats()
    stored = stats.dirty, stats.pending, stats.sessions, stats.messages, stats.dead
    info = session.refresh()
    return stored, list(session.messages()), known(info), info.version


def changes(message_id, earlier):
    """Every change that a caller may ask of a session, by name."""
    return {
        "edit": lambda session, **terms: session.edit(message_id, {"content": "late"}, **terms),
        "remove": lambda session, **terms: session.remove(message_id, **terms),
        "append": lambda session, **terms: session.append({"content": "late"}, **terms),
        "append with an id": lambda session, **terms: session.append({"content": "late"}, id="late", **terms),
        "pop": lambda session, **terms: session.pop(**terms),
        "truncate": lambda session, **terms: session.truncate(1, **terms),
        "clear": lambda session, **terms: session.clear(**terms),
        "replace": lambda session, **terms: session.replace(said("late", "later"), **terms),
        "update": lambda session, **terms: session.update(title="late", metadata={"late": 1}, **terms),
        "record_usage": lambda session, **terms: session.record_usage(input_tokens=1, **terms),
        "switch": lambda session, **terms: session.switch(earlier, **terms),
        "reset": lambda session, **terms: session.reset(title="late", **terms),
        "delete": lambda session, **terms: session.delete(**terms),
    }


READS = {
    "history": lambda session: session.history(),
    "messages": lambda session: session.messages(limit=1),
    "page": lambda session: session.messages(before=2, limit=1),
    "iterate": lambda session: list(session.iterate()),
    "refresh": lambda session: session.refresh(),
}


def take_turn(session, **terms):
    """Take the turn in a session and end it at once."""
    with session.turn(**terms):
        pass


def take_hold(session, *name, **terms):
    """Hold a session's key for a moment."""
    with session.hold(*name, **terms):
        pass


class Contract:
    """Every operation gives the same results, through either door, from either tier and either kind of store."""

    def test_opening(self, open_door, between):
        """`open` and `ensure` make what is missing and leave alone what is there; `get` only finds; all agree on it."""
        cache, other = open_door(), open_door()
        for key in (KEY, OTHER):
            with pytest.raises(SessionNotFound):
                cache.get(key)
        session = cache.open(KEY, **BEGINS)
        assert (session.key, session.owner, session.was_reset, session.had_activity) == (KEY, "alice", False, False)
        info = session.info
        assert {name: getattr(info, name) for name in BEGINS} == BEGINS
        assert repr(info.origin) == repr(BEGINS["origin"])
        assert all(repr(info.metadata[name]) == repr(value) for name, value in BEGINS["metadata"].items())
        assert (info.message_count, info.usage, info.last_message_at, info.parent_id) == (0, Usage(), None, None)
        between(cache)
        for call in (cache.get, other.get, other.open, other.ensure):
            again = call(KEY, owner="alice")
            assert (again.session_id, again.was_reset, again.reset_reason) == (session.session_id, False, None)
            assert known(again.info) == known(info)
            assert repr(again.info.origin) == repr(info.origin)
            assert repr(again.info.metadata) == repr(info.metadata)
        untouched = other.ensure(KEY, title="another", metadata={"another": 1}, platform="web")
        assert known(untouched.info) == known(info)
        plain = other.ensure(OTHER)
        assert (plain.owner, plain.info.metadata, plain.info.origin, plain.history()) == (None, {}, None, [])
        between(other, OTHER)
        assert known(cache.open(OTHER, title="late").info) == known(plain.info)

    def test_creating(self, open_door, between):
        """`create` begins what `open` would, under the caller's id if there is one; no id or key is given twice."""
        cache, other = open_door(), open_door()
        ours = cache.create(KEY, **BEGINS)
        theirs = other.create(OTHER, session_id="an id: of mine", **BEGINS)
        assert theirs.session_id == "an id: of mine"
        assert {name: getattr(theirs.info, name) for name in BEGINS} == BEGINS
        same = dict.fromkeys(("created_at", "updated_at"), ours.info.created_at)
        assert known(replace(theirs.info, **same, session_id=ours.session_id, key=KEY)) == known(replace(ours.info, **same))
        theirs.append(said("a"))
        for key in (KEY, OTHER):
            between(cache, key)
        for call in (lambda: cache.create(KEY), lambda: other.create(OTHER, session_id="unused")):
            with pytest.raises(SessionExists):
                call()
        assert contents(cache.read("an id: of mine")) == ["a"]
        assert cache.delete(OTHER)
        between(cache, OTHER)
        assert cache.create(OTHER, session_id="unused").session_id == "unused"

    def test_an_id_is_given_once(self, open_door):
        """Nobody begins another session with it, nor gets that one, be it current, ended or deleted."""
        cache, other = open_door(), open_door()
        session = cache.create(KEY, session_id="mine")
        session.append(said("a"))
        for _ in range(3):
            with pytest.raises(SessionExists):
                other.create(OTHER, session_id="mine")
            with pytest.raises(SessionNotFound):
                other.get(OTHER)
            cache.flush()
            with suppress(SessionMoved):
                session.reset()
        assert contents(cache.read("mine")) == ["a"]
        assert cache.delete_session("mine")
        with pytest.raises(SessionExists):
            other.create(OTHER, session_id="mine")

    def test_resetting(self, open_door, between):
        """The old one ends and is still read; the new one keeps what names it, starts at zero, and is told about once."""
        cache, late = open_door(), open_door()
        old = cache.open(KEY, **BEGINS)
        old.append(said("a", "b"))
        old.record_usage(input_tokens=5, estimated_cost=0.5, model="m")
        old.update(archived=True, important=True)
        stream = late.get(KEY)
        between(cache)
        time.sleep(0.002)
        fresh = old.reset()
        assert (fresh.was_reset, fresh.reset_reason, fresh.had_activity) == (True, "reset", True)
        for session in (fresh, late.open(KEY)):
            info = session.info
            kept = ("owner", "display_name", "platform", "chat_type", "origin")
            assert [getattr(info, name) for name in kept] == [BEGINS[name] for name in kept]
            assert (info.title, info.metadata, info.usage, info.message_count) == (None, {}, Usage(), 0)
            assert (info.archived, info.important, info.suspended, info.last_message_at) == (False, False, False, None)
            assert session.session_id == fresh.session_id
            between(cache)
        assert not late.open(KEY).was_reset
        with pytest.raises(SessionMoved) as moved:
            stream.append(said("late"))
        assert (moved.value.session_id, moved.value.current) == (old.session_id, fresh.session_id)
        assert fresh.history() == []
        assert contents(late.read(old.session_id)) == ["a", "b"]
        time.sleep(0.002)
        last = fresh.reset(title="next", platform="web", metadata={"a": 1}, origin={"chat_id": "1"})
        assert (last.reset_reason, last.had_activity) == ("reset", False)
        between(cache)
        info = late.get(KEY).info
        assert (info.owner, info.title, info.platform, info.metadata) == ("alice", "next", "web", {"a": 1})
        assert (info.display_name, info.chat_type, info.origin) == ("Ann", "dm", {"chat_id": "1"})
        past = {one.session_id: one for one in cache.past(KEY)}
        assert list(past) == [last.session_id, fresh.session_id, old.session_id]
        assert past[last.session_id].end_reason is past[last.session_id].ended_at is None
        for one in (old, fresh):
            assert past[one.session_id].end_reason == "session_reset"
            assert past[one.session_id].ended_at >= past[one.session_id].created_at
        assert (past[old.session_id].usage.input_tokens, past[old.session_id].message_count) == (5, 2)
        assert cache.past(KEY, owner="bob") == []
        assert [one.session_id for one in cache.past(KEY, limit=1)] == [last.session_id]

    def test_switching_and_resuming(self, open_door, between):
        """An earlier session goes on where it was; what was current ends; the same id is no change."""
        cache, other = open_door(), open_door()
        first = cache.open(KEY, owner="alice", title="first")
        first.append(said("a", "b"))
        second = first.reset(title="second")
        newest = second.append(said("c"))[-1]
        between(cache)
        time.sleep(0.002)
        back = second.switch(first.session_id)
        assert (back.session_id, back.was_reset, back.info.title) == (first.session_id, False, "first")
        assert (back.info.ended_at, back.info.end_reason, back.owner) == (None, None, "alice")
        assert back.info.last_message_at <= newest.created_at < back.info.updated_at
        with pytest.raises(SessionMoved) as moved:
            second.history()
        assert moved.value.current == first.session_id
        assert back.append(said("d"))[0].seq > newest.seq
        version = back.refresh().version
        for same in (back.switch(first.session_id), cache.resume(first.session_id, owner="alice")):
            assert same.session_id == first.session_id
        assert back.refresh().version == version
        between(cache)
        assert contents(first.history()) == contents(other.get(KEY).history()) == ["a", "b", "d"]
        assert {one.end_reason for one in cache.past(KEY)} == {None, "session_switch"}
        again = other.resume(second.session_id)
        between(cache)
        assert contents(again.history()) == contents(second.history()) == ["c"]
        assert cache.delete(KEY)
        between(cache)
        assert contents(cache.resume(first.session_id, owner="alice").history()) == ["a", "b", "d"]
        for session_id in (second.session_id, "unknown"):
            for call in (first.switch, cache.resume):
                with pytest.raises(SessionNotFound):
                    call(session_id)
        assert cache.get(KEY).session_id == first.session_id

    def test_switching_to_the_session_of_another_key(self, open_door, between):
        """It comes along and is no longer that key's, whose handles are told; nothing shows under two keys."""
        cache, other = open_door(), open_door()
        here, there = cache.open(KEY, owner="alice"), cache.open(OTHER, owner="alice")
        here.append(said("here"))
        there.append(said("there"))
        between(cache)
        between(cache, OTHER)
        moved = here.switch(there.session_id)
        assert (moved.key, moved.session_id) == (KEY, there.session_id)
        between(cache)
        for call in (there.history, lambda: there.append(said("late")), there.refresh):
            with pytest.raises(SessionMoved):
                call()
        with pytest.raises(SessionNotFound):
            other.get(OTHER)
        assert other.past(OTHER) == []
        assert {one.session_id for one in other.past(KEY)} == {here.session_id, there.session_id}
        moved.append(said("more"))
        assert contents(other.get(KEY).history()) == ["there", "more"]
        fresh = other.open(OTHER, owner="alice")
        assert fresh.session_id not in {here.session_id, there.session_id}
        assert (fresh.was_reset, fresh.history()) == (False, [])

    def test_forking(self, open_door, between):
        """The same messages up to a seq, the same names, counters at zero; both go on apart."""
        cache, other = open_door(), open_door()
        source = cache.open(KEY, **BEGINS)
        records = source.append(said("a", "b", "c", "d"), id=["m-1", "m-2", "m-3", "m-4"])
        source.record_usage(input_tokens=5)
        source.update(important=True, archived=True)
        before = known(source.refresh())
        between(cache)
        fork = source.fork(OTHER, through=records[1].seq)
        between(cache, OTHER)
        for session in (fork, other.get(OTHER, owner="alice")):
            info = session.info
            assert {name: getattr(info, name) for name in BEGINS} == BEGINS
            assert (info.parent_id, info.usage, info.message_count) == (source.session_id, Usage(), 2)
            assert (info.important, info.archived, info.last_message_at) == (False, False, records[1].created_at)
            assert list(session.messages()) == records[:2]
        assert fork.info.created_at >= before.created_at
        assert fork.append(said("a"), id="m-1") == records[:1]
        assert fork.append(said("new"), id="m-4")[0].seq > records[1].seq
        between(cache, OTHER)
        assert contents(other.get(OTHER).history()) == ["a", "b", "new"]
        assert list(source.messages()) == records
        assert known(source.refresh()) == before
        with pytest.raises(SessionExists):
            cache.fork(source.session_id, OTHER)
        source.reset()
        whole = other.fork(source.session_id, THIRD, owner="alice")
        assert list(whole.messages()) == records
        assert other.fork(source.session_id, FOURTH, through=0).history() == []
        with pytest.raises(SessionNotFound):
            cache.fork("unknown", "web:46")

    @pytest.mark.parametrize("window", [3, 1000])
    def test_changing_messages(self, open_door, between, window):
        """Edit, remove, pop, truncate, clear and replace, also below the hot window: what is left, and how much."""
        cache, other = open_door(window=window), open_door(window=window, near_sessions=0)
        session = cache.open(KEY)
        session.update(metadata={"summary": "so far", "goal_state": "g"})
        records = session.append(said(*"abcdef"), id=[f"m-{n}" for n in range(6)])
        expected = list("abcdef")

        def look():
            between(cache)
            assert contents(session.history()) == contents(other.get(KEY).history()) == expected
            assert session.refresh().message_count == len(expected)

        look()
        assert session.edit("m-0", said("A")[0]) is True
        assert session.edit("m-4", said("E")[0]) is True
        expected[0], expected[4] = "A", "E"
        look()
        edited = session.messages()
        assert [(one.seq, one.id, one.created_at) for one in edited] == [(r.seq, r.id, r.created_at) for r in records]
        assert session.remove("m-1") is True
        assert session.remove("m-4") is True
        expected = ["A", "c", "d", "f"]
        look()
        assert [call("m-1") for call in (session.remove, lambda name: session.edit(name, {}))] == [False, False]
        assert session.pop() == records[5]
        expected.pop()
        look()
        assert session.truncate(3) == session.truncate(10**6) == 3
        assert session.truncate(1) == 1
        expected = ["A"]
        look()
        session.append(said("g", "h", "i"))
        expected += ["g", "h", "i"]
        assert [contents([session.pop()]) for _ in range(4)] == [["i"], ["h"], ["g"], ["A"]]
        assert session.pop() is None
        expected = []
        look()
        replaced = session.replace(said("r", "s", "t", "u"))
        expected = ["r", "s", "t", "u"]
        look()
        assert list(session.messages()) == replaced
        assert replaced[0].seq > records[-1].seq
        session.clear()
        expected = []
        look()
        assert session.info.metadata == {"goal_state": "g"}
        assert session.replace([]) == []
        assert session.truncate(0) == 0
        look()

    def test_repeated_ids(self, open_door, between):
        """A message that came before adds nothing, also when it was edited, removed, cleared or replaced since."""
        cache, other = open_door(), open_door()
        session = cache.open(KEY)
        names = ["m-1", "m-2", "m-3", "m-4"]
        first = session.append(said(*"abcd"), id=names)

        def again(expected):
            between(cache)
            for one, data in zip(first, said(*"abcd"), strict=True):
                repeat = other.get(KEY).append(data, id=one.id)
                assert [(r.seq, r.id) for r in repeat] == [(one.seq, one.id)]
            assert [r.seq for r in session.append(said(*"abcd"), id=names)] == [one.seq for one in first]
            assert contents(session.history()) == expected

        again(["a", "b", "c", "d"])
        session.remove("m-2")
        again(["a", "c", "d"])
        session.pop()
        again(["a", "c"])
        session.edit("m-1", said("A")[0])
        session.truncate(1)
        again(["A"])
        session.clear()
        again([])
        session.replace(said("x"))
        again(["x"])
        both = session.append(said("a", "new"), id=["m-1", "m-5"])
        assert both[1].seq > first[-1].seq
        cache.flush()
        cache.evict(KEY)
        assert contents(session.history()) == ["x", "new"]

    def test_paging(self, open_door, between):
        """Backwards by seq and forwards by iterator, across the edge of the hot window, with gaps, current or not."""
        cache, other = open_door(window=3), open_door(window=3)
        session = cache.open(KEY, owner="alice")
        sent = [{"content": f"text {n}", "n": n} for n in range(10)]
        records = session.append(sent[:7]) + session.append(sent[7:])
        session.remove(records[4].id)
        del records[4]
        between(cache)
        for reader in (session, other.get(KEY)):
            pages, before = [], None
            while page := list(reader.messages(before=before, limit=4)):
                pages = page + pages
                before = page[0].seq
            assert pages == records
            assert list(reader.messages()) == records
            assert list(reader.messages(limit=5)) == records[-5:]
            assert list(reader.messages(before=records[5].seq)) == records[:5]
            assert list(reader.messages(before=2**53, limit=2)) == records[-2:]
            assert list(reader.messages(before=0)) == list(reader.messages(limit=0)) == []
            assert list(reader.iterate()) == list(reader.iterate(page=2)) == records
            assert list(reader.iterate(after=records[3].seq, page=1)) == records[4:]
            assert list(reader.iterate(after=records[-1].seq)) == []
        session.reset()
        between(cache)
        by_id = session.session_id
        assert list(other.read(by_id)) == records
        assert list(other.read(by_id, owner="alice", limit=2)) == records[-2:]
        assert list(other.read(by_id, before=records[5].seq, limit=2)) == records[3:5]
        assert list(other.read(by_id, limit=0)) == []

    def test_reading_by_id_caches_nothing(self, open_door):
        """A session that is read by its id does not become hot."""
        cache = open_door()
        session = cache.open(KEY)
        session.append(said("a"))
        cache.evict(KEY)
        assert contents(cache.read(session.session_id)) == ["a"]
        assert cache.evict(KEY) is False
        assert contents(cache.get(KEY).history()) == ["a"]
        assert cache.evict(KEY) is True

    def test_updating(self, open_door, between):
        """What is given changes, what is not stays; metadata merge by name, also when two servers set different ones."""
        cache, other = open_door(), open_door()
        session, theirs = cache.open(KEY, **BEGINS), other.get(KEY)
        session.append(said("a"))
        expected = session.refresh()

        def look(**changed):
            nonlocal expected
            expected = replace(expected, **changed)
            between(cache)
            for one in (session.refresh(), theirs.refresh(), cache.get(KEY).info):
                assert known(one) == known(expected)

        version = session.update(title="  Another\ttrip \n")
        assert session.refresh().version == version
        look(title="Another trip")
        session.update(metadata={"mine": {"a": [1, None]}, "order": None})
        theirs.update(metadata={"theirs": EDGES, "text": "short", "unknown": None})
        merged = {**BEGINS["metadata"], "mine": {"a": [1, None]}, "theirs": EDGES, "text": "short"}
        del merged["order"]
        look(metadata=merged)
        assert repr(theirs.info.metadata["theirs"]) == repr(EDGES)
        session.update(metadata=dict.fromkeys(merged))
        look(metadata={})
        session.update(display_name="Bob", origin={"chat_id": "9", "more": EDGES})
        look(display_name="Bob", origin={"chat_id": "9", "more": EDGES})
        assert repr(session.info.origin) == repr({"chat_id": "9", "more": EDGES})
        session.update(title="", display_name="")
        look(title=None, display_name=None)
        session.update(important=True, suspended=True)
        look(important=True, suspended=True)
        session.update(important=False, suspended=False, metadata={})
        look(important=False, suspended=False)
        version = theirs.archive()
        assert session.refresh().version == version
        look(archived=True)
        assert cache.open(KEY).session_id == session.session_id
        session.archive(archived=False)
        look(archived=False)
        session.update(title="x" * 255)
        look(title="x" * 255)

    def test_usage(self, open_door, between):
        """Counts and costs add up exactly, whoever adds them; the last prompt and the labels are as given last."""
        cache, other = open_door(), open_door()
        sessions = cache.open(KEY), other.open(KEY)
        for turn in range(10):
            each = {"output_tokens": 2, "cache_read_tokens": 3, "cache_write_tokens": 4, "estimated_cost": 0.1}
            version = sessions[turn % 2].record_usage(input_tokens=1, last_prompt_tokens=turn, **each)
            assert turn % 3 or sessions[0].refresh().version == version
            if turn % 4 == 3:
                between(cache)
        expected = Usage(10, 20, 30, 40, 9, 1.0)
        assert sessions[0].refresh().usage == sessions[1].refresh().usage == expected
        assert (expected.total_tokens, sessions[0].info.usage.cost_status) == (100, "unknown")
        sessions[0].record_usage(
            cost_status="estimated", cost_source="list", model="m", provider="p", base_url="https://x/"
        )
        sessions[1].record_usage(estimated_cost=1e-9, model="n")
        between(cache)
        labels = {
            "cost_status": "estimated",
            "cost_source": "list",
            "model": "n",
            "provider": "p",
            "base_url": "https://x/",
        }
        assert cache.get(KEY).info.usage == Usage(10, 20, 30, 40, 9, 1.000000001, **labels)
        sessions[0].record_usage(last_prompt_tokens=0)
        sessions[1].record_usage(output_tokens=0)
        between(cache)
        assert cache.get(KEY).info.usage == Usage(10, 20, 30, 40, 0, 1.000000001, **labels)
        sessions[0].record_usage(input_tokens=2**40, last_prompt_tokens=2**40, estimated_cost=1_000_000)
        between(cache)
        most = cache.get(KEY).info.usage
        assert (most.input_tokens, most.last_prompt_tokens) == (2**40 + 10, 2**40)
        assert most.estimated_cost == 1_000_001.000000001
        assert sessions[0].info.message_count == 0

    def test_times(self, open_door, between):
        """Aware UTC; messages and usage are activity, renaming and opening are not; messages alone have a last time."""
        cache = open_door()
        session = cache.open(KEY)

        def after(change, *moved):
            before = session.refresh()
            time.sleep(0.002)
            answer = change()
            between(cache)
            now = session.refresh()
            for name in ("created_at", "updated_at", "last_message_at"):
                assert (getattr(now, name) != getattr(before, name)) == (name in moved), name
            return answer, now

        (record,), info = after(lambda: session.append({"content": "a"}, id="m-1"), "updated_at", "last_message_at")
        assert info.updated_at == info.last_message_at == record.created_at
        (record,), info = after(lambda: session.append(said("b"), activity=False), "last_message_at")
        assert info.last_message_at == record.created_at
        after(lambda: session.append({"content": "a"}, id="m-1"))
        after(lambda: session.record_usage(input_tokens=1), "updated_at")
        after(lambda: session.replace(said("c", "d")), "updated_at", "last_message_at")
        for change in (
            lambda: session.update(title="new", metadata={"a": 1}),
            session.archive,
            lambda: cache.open(KEY),
            session.history,
            lambda: session.edit(session.messages()[0].id, {"content": "e"}),
        ):
            after(change)
        accessed = session.refresh().last_accessed
        time.sleep(0.002)
        assert cache.get(KEY).info.last_accessed > accessed
        info = session.refresh()
        now = datetime.now(UTC)
        for moment in (info.created_at, info.updated_at, info.last_message_at, info.last_accessed):
            assert moment.utcoffset() == timedelta(0)
            assert now - timedelta(minutes=1) < moment <= now + timedelta(milliseconds=1)
        assert info.created_at < info.updated_at <= info.last_accessed

    def test_what_is_known_is_the_same_in_either_tier(self, open_door):
        """After each change: hot, brought back from what is pending, brought back from the store, and as it is listed."""
        cache = open_door()
        session = cache.open(KEY, **BEGINS)
        steps = (
            lambda: session.append(said(*"abc"), id=["m-1", "m-2", "m-3"]),
            lambda: session.append(said("d"), activity=False),
            lambda: session.update(title="new", metadata={"a": EDGES, "text": None}, important=True),
            lambda: session.record_usage(input_tokens=3, estimated_cost=0.1, model="m", last_prompt_tokens=7),
            lambda: session.edit("m-1", {"content": "e"}),
            lambda: session.remove("m-2"),
            session.pop,
            lambda: session.truncate(1),
            session.clear,
            lambda: session.replace(said("x")),
            lambda: session.replace([]),
            lambda: session.update(title="", suspended=True, archived=True),
        )
        for step in steps:
            step()
            hot = session.refresh()
            cache.evict(KEY)
            assert known(cache.get(KEY).info) == known(hot)
            cache.flush()
            cache.evict(KEY)
            cold = cache.get(KEY).info
            assert known(cold) == known(hot)
            assert cold.version == hot.version
            (listed,) = cache.past(KEY)
            assert known(listed) == known(hot)
            assert listed.version is None

    def test_an_empty_origin_is_the_same_in_either_tier(self, open_door):
        """As it is when it was never given, or as an object without names; but the same."""
        cache = open_door()
        session = cache.open(KEY, origin={})
        session.update(origin={})
        hot = session.refresh().origin
        cache.flush()
        assert cache.past(KEY)[0].origin == hot
        cache.evict(KEY)
        assert session.refresh().origin == hot

    def test_policies_and_holds(self, open_door, between):
        """Platform before chat type before default; suspended before all; a hold keeps its key; one opener is told."""
        idle, never = {"mode": "idle", "idle_minutes": 0.002}, {"mode": "none"}
        policies = {"by_platform": {"web": idle, "cli": never}, "by_type": {"group": idle, "dm": never}}
        cache = open_door(hold=1.0, reset=json.dumps(policies))
        other = open_door(hold=1.0, reset=json.dumps(policies))
        kinds = {
            "platform": ("web", "dm"), "type": ("x", "group"), "none": ("cli", "group"), "default": ("x", "y"),
            "held": ("web", "group"), "ensured": ("web", "dm"), "quiet": ("web", "dm"), "suspended": ("cli", "dm"),
        }  # fmt: skip
        first = {
            key: cache.open(key, platform=platform, chat_type=chat_type) for key, (platform, chat_type) in kinds.items()
        }
        for key in ("platform", "none", "held", "ensured", "quiet"):
            first[key].append(said("a"))
        first["suspended"].record_usage(output_tokens=1)
        first["suspended"].update(suspended=True, title="old")
        for key in kinds:
            between(cache, key)
        with first["held"].hold("indexer"), other.get("suspended").hold("indexer", ttl=0.5), other.get("held").hold("b"):
            time.sleep(0.13)
            first["quiet"].append(said("event"), activity=False)
            first["ensured"].update(title="renamed")
            for key in ("ensured", "suspended"):
                assert cache.get(key).session_id == cache.ensure(key).session_id == first[key].session_id
            opened = {key: cache.open(key, title="new") for key in kinds if key != "ensured"}
            reasons = {key: session.reset_reason for key, session in opened.items()}
            assert reasons == {
                "platform": "idle", "type": "idle", "quiet": "idle", "suspended": "suspended",
                "none": None, "default": None, "held": None,
            }  # fmt: skip
        had = {key: session.had_activity for key, session in opened.items() if session.was_reset}
        assert had == {"platform": True, "type": False, "quiet": True, "suspended": True}
        assert [opened[key].info.title for key in ("platform", "suspended", "held")] == ["new", "new", None]
        assert other.open("ensured").reset_reason == "idle"
        for key in kinds:
            between(cache, key)
        again = other.get("suspended")
        assert (again.session_id, again.was_reset, again.info.suspended) == (opened["suspended"].session_id, False, False)
        assert other.open("suspended").session_id == again.session_id
        assert other.open("held").reset_reason == "idle"
        for key in ("platform", "quiet"):
            with pytest.raises(SessionMoved):
                first[key].append(said("late"))
            assert other.past(key)[-1].end_reason == "session_reset"

    def test_turns(self, open_door, between, lose_turn):
        """One server has the turn; others may write without one; a turn that was lost writes nothing, whatever it tries."""
        cache, other = open_door(), open_door()
        earlier = cache.open(KEY, owner="alice")
        session = earlier.reset()
        theirs = other.get(KEY)
        with session.turn(timeout=1) as mine:
            (record,) = mine.append(said("mine"))
            with pytest.raises(TurnTimeout):
                take_turn(theirs, timeout=0)
            theirs.append(said("theirs"))
            between(cache)
            assert (mine.key, mine.session_id, mine.owner) == (KEY, session.session_id, "alice")
            assert mine.edit(record.id, {"content": "edited"}) is True
            mine.update(title="mine")
            lose_turn()
            between(cache)
            before = standing(other, theirs)
            with theirs.turn(timeout=0) as winner:
                for name, change in changes(record.id, earlier.session_id).items():
                    with pytest.raises(TurnLost):
                        pytest.fail(f"{name} gave {change(mine)!r}")
                assert standing(other, theirs)[1:] == before[1:]
                winner.append(said("winner"))
            assert contents(mine.history()) == ["edited", "theirs", "winner"]
        take_turn(theirs, timeout=0)
        with theirs.turn() as mine:
            fresh = mine.reset()
            with pytest.raises(SessionMoved):
                mine.append(said("late"))
            take_turn(fresh, timeout=0)
        with pytest.raises(SessionMoved):
            take_turn(session)

    def test_expected_versions(self, open_door, between):
        """Every change is refused at another version, and says which it is; at this one it happens."""
        cache = open_door()
        earlier = cache.open(KEY)
        session = earlier.reset()
        records = session.append(said(*"abcdef"))
        for name, change in changes(records[2].id, earlier.session_id).items():
            between(cache)
            version = session.refresh().version
            before = standing(cache, session)
            for wrong in (version - 1, version + 1, 0):
                with pytest.raises(VersionConflict) as conflict:
                    pytest.fail(f"{name} gave {change(session, expected_version=wrong)!r}")
                assert (conflict.value.expected, conflict.value.current) == (wrong, version)
            assert standing(cache, session) == before
            answer = change(session, expected_version=version)
            if name in {"switch", "reset"}:
                session = answer
                session.append(said("more"))
            assert answer or name == "clear", name
        with pytest.raises(SessionNotFound):
            cache.get(KEY)

    def test_finding(self, open_door, between):
        """Lists by owner, platform, time, flags and prefix; newest activity first; page by page; with title and preview."""
        cache, other = open_door(), open_door()
        sessions = {}
        for key, owner, platform, text in (
            ("a:1", "alice", "telegram", "the first   invoice\n" + "x" * 200),
            ("a:2", "alice", "web", "a second invoice"),
            ("a:3", "alice", "web", "nothing to see"),
            ("b:1", "bob", "web", "an invoice of bob"),
            ("a:4", "alice", "telegram", "archived"),
            ("a:5", "alice", "telegram", "ended"),
        ):
            time.sleep(0.002)
            sessions[key] = cache.open(key, owner=owner, platform=platform, title=f"Title {key}")
            sessions[key].append([*said("hello", role="assistant"), *said(text, "more")])
        sessions["a:2"].update(important=True)
        sessions["a:4"].archive()
        time.sleep(0.002)
        sessions["a:5b"] = sessions["a:5"].reset()
        for key in ("a:1", "a:2", "a:3", "a:4", "a:5", "b:1"):
            between(cache, key)

        def keys(**asked):
            return [one.info.key for one in other.list(fresh=True, **asked).sessions]

        assert keys() == ["a:5", "b:1", "a:3", "a:2", "a:1"]
        assert keys(owner="alice") == ["a:5", "a:3", "a:2", "a:1"]
        assert keys(owner="alice", platform="telegram") == ["a:5", "a:1"]
        assert keys(owner="alice", archived=True) == ["a:4"]
        assert keys(owner="alice", archived=None) == ["a:5", "a:4", "a:3", "a:2", "a:1"]
        assert keys(important=True) == ["a:2"]
        assert keys(key_prefix="b:") == keys(owner="bob") == ["b:1"]
        assert keys(ended=True) == ["a:5"]
        assert keys(owner="carol") == keys(active_within=timedelta(0)) == []
        assert len(keys(active_within=timedelta(minutes=5))) == 5
        page = other.list(owner="alice", limit=3)
        rest = other.list(owner="alice", limit=3, cursor=page.cursor)
        assert [one.info.key for one in page.sessions + rest.sessions] == ["a:5", "a:3", "a:2", "a:1"]
        assert (page.cursor is None, rest.cursor) == (False, None)
        first = rest.sessions[0]
        assert (first.info.title, first.info.message_count, first.info.owner) == ("Title a:1", 3, "alice")
        assert first.preview.startswith("the first invoice xxx")
        assert (len(first.preview), first.preview[-1]) == (120, "…")
        assert page.sessions[0].preview == ""
        assert (other.count(), other.count(owner="alice"), other.count(platform="web", owner="alice")) == (5, 4, 2)
        assert other.count(owner="carol") == 0
        assert [other.has_any(owner=owner) for owner in ("alice", "carol")] == [True, False]
        assert other.has_any(owner="bob", besides=sessions["b:1"].session_id) is False
        fresh = sessions["b:1"].reset()
        between(cache, "b:1")
        assert other.has_any(owner="bob", besides=fresh.session_id, fresh=True) is True

    def test_previews(self, open_door, between):
        """The first text of the user, else of the assistant; the application may shorten what a subagent reported."""
        cache = open_door()
        cache.open(KEY).append(said("first answer", role="assistant"))
        report = {"role": "user", "content": "long report", "injected_event": "subagent_result"}
        cache.open(OTHER).append([*said("answer", role="assistant"), report])
        blocks = [{"type": "image", "url": "x"}, {"type": "text", "text": "two"}, {"type": "text", "text": " blocks "}]
        cache.open(THIRD).append([{"role": "user", "content": None}, {"role": "user", "content": blocks}])
        for key in (KEY, OTHER, THIRD):
            between(cache, key)
        page = cache.list(fresh=True, summarize=lambda message: "short " + message["content"])
        shown = {one.info.key: one.preview for one in page.sessions}
        assert shown == {KEY: "first answer", OTHER: "short long report", THIRD: "two blocks"}

    def test_searching(self, open_door, between):
        """All words, in messages and titles, of one owner; nothing in a query is an operator; what went is not found."""
        cache, other = open_door(), open_door()
        ours, theirs = cache.open(KEY, owner="alice", title="Summer plans"), cache.open(OTHER, owner="bob")
        (record, *_) = ours.append(said("The Invoice is paid", "你好世界", "Äpfel OR pears"), id=["m-1", "m-2", "m-3"])
        theirs.append(said("another invoice"))
        for key in (KEY, OTHER):
            between(cache, key)
        (hit,) = other.search("paid INVOICE", owner="alice", fresh=True)
        assert (hit.seq, hit.message_id, hit.info.session_id) == (record.seq, "m-1", ours.session_id)
        assert "Invoice" in hit.snippet

        def found(query, **asked):
            return [one.message_id or one.snippet for one in other.search(query, fresh=True, **asked)]

        assert len(found("invoice")) == 2
        assert len(found("invoice", limit=1)) == 1
        assert found("好世", owner="alice") == ["m-2"]
        assert found("äpfel", owner="alice") == ["m-3"]
        assert found("summer", owner="alice") == ["Summer plans"]
        assert found('"paid -invoice !', owner="alice") == ["m-1"]
        for query in ("", "  ", "invo*", "paid OR nothing", "NOT", "apfel", "a:b & | (", "title:x"):
            assert found(query, owner="alice") == []
        assert found("summer", owner="bob") == []
        ours.edit("m-1", {"role": "user", "content": "settled"})
        ours.remove("m-2")
        ours.update(title="Winter")
        between(cache)
        assert [found(word, owner="alice") for word in ("paid", "settled", "好世", "summer", "winter")] == [
            [], ["m-1"], [], [], ["Winter"],
        ]  # fmt: skip
        old = ours.reset()
        between(cache)
        assert found("settled", owner="alice") == ["m-1"]
        assert cache.delete_session(ours.session_id, owner="alice")
        assert other.search("settled", owner="alice") == []
        assert old.history() == []

    def test_deleting(self, open_door, between):
        """In every tier, current or not, stored yet or not: once, for good, and by its id nowhere any more."""
        cache, other = open_door(), open_door()
        old = cache.open(KEY, **BEGINS)
        old.append(said("old"), id="m-1")
        session = old.reset()
        session.append(said("new"))
        between(cache)
        assert other.delete_session(old.session_id) is True
        assert other.delete_session(old.session_id) is False
        assert contents(session.history()) == ["new"]
        assert cache.delete(KEY) is True
        assert [cache.delete(KEY), other.delete_session(session.session_id), session.delete()] == [False] * 3
        assert other.delete(OTHER) is False
        between(cache)
        for gone in (old, session):
            for call in (
                lambda: other.read(gone.session_id), lambda: other.resume(gone.session_id),  # noqa: B023 - called at once
                lambda: other.fork(gone.session_id, OTHER),  # noqa: B023 - as above
            ):  # fmt: skip
                with pytest.raises(SessionNotFound):
                    call()
        assert other.past(KEY) == []
        assert (other.list(ended=None, archived=None).sessions, other.count(), other.has_any()) == ([], 0, False)
        fresh = cache.open(KEY)
        assert (fresh.was_reset, fresh.owner, fresh.info.title, fresh.info.origin) == (False, None, None, None)
        with pytest.raises(SessionNotFound):
            fresh.switch(old.session_id)
        assert fresh.append(said("again"), id="m-1")[0].seq > 1
        between(cache)
        assert contents(other.get(KEY).history()) == ["again"]
        assert fresh.delete() is True
        with pytest.raises(SessionNotFound):
            other.get(KEY)

    def test_deleting_an_owner(self, open_door, between):
        """Everything of that owner, pending or stored, current or ended, and nothing of another."""
        cache, other = open_door(), open_door()
        mine = [cache.open(key, owner="alice") for key in (KEY, OTHER)]
        for session in mine:
            session.append(said("a", "b"))
        mine.append(mine[0].reset())
        bobs = cache.open("bobs", owner="bob")
        theirs = cache.open(THIRD, owner="bob")
        theirs.append(said("c"))
        nobodys = cache.open(FOURTH)
        nobodys.append(said("d"))
        for key in (KEY, OTHER, THIRD):
            between(cache, key)
        assert other.delete_owner("alice") == Erased(sessions=3, messages=4, dead_letters=0)
        assert other.delete_owner("alice") == other.delete_owner("carol") == Erased(0, 0, 0)
        for session in mine:
            with pytest.raises(SessionDeleted):
                session.append(said("late"))
        between(cache)
        with pytest.raises(SessionNotFound):
            cache.get(KEY)
        assert cache.get("bobs").session_id == bobs.session_id
        assert (other.has_any(owner="alice"), other.count(), other.past(KEY)) == (False, 3, [])
        assert contents(theirs.history() + nobodys.history()) == ["c", "d"]

    def test_owners(self, open_door, between):
        """Another owner's session is not found, by its key or its id, in any call that takes one; nothing becomes of it."""
        cache = open_door()
        old = cache.open(KEY, owner="alice")
        old.append(said("secret"))
        session = old.reset()
        (record,) = session.append(said("secret"))
        bobs, nobodys = cache.open(OTHER, owner="bob"), cache.open(THIRD)
        for key in (KEY, OTHER, THIRD):
            between(cache, key)
        cache.flush()
        before = standing(cache, session)
        calls = [lambda call=call: call(KEY, owner="bob") for call in (cache.open, cache.get, cache.ensure)]
        for session_id in (old.session_id, session.session_id):
            calls += [
                lambda one=session_id: bobs.switch(one),
                lambda one=session_id: nobodys.switch(one),
                lambda one=session_id: cache.resume(one, owner="bob"),
                lambda one=session_id: cache.fork(one, FOURTH, owner="bob"),
                lambda one=session_id: cache.read(one, owner="bob"),
                lambda one=session_id: cache.read(one, owner="bob", before=record.seq, limit=1),
            ]
            assert cache.delete_session(session_id, owner="bob") is False
        for call in calls:
            with pytest.raises(SessionNotFound):
                pytest.fail(f"it gave {call()!r}")
        assert cache.delete(KEY, owner="bob") is False
        assert cache.past(KEY, owner="bob") == []
        assert cache.search("secret", owner="bob", fresh=True) == []
        assert [one.info.key for one in cache.list(owner="bob", ended=None).sessions] == [OTHER]
        with pytest.raises(SessionNotFound):
            cache.get(FOURTH)
        assert standing(cache, session) == before
        assert cache.get(OTHER).session_id == bobs.session_id
        assert cache.get(THIRD).session_id == nobodys.session_id

    def test_handles_of_what_is_not_current(self, open_door, between):
        """Every change and every read of a session that was reset, then deleted, is refused and writes nothing."""
        cache, late = open_door(), open_door()
        earlier = cache.open(KEY)
        session = earlier.reset()
        (record,) = session.append(said("a"), id="m-1")
        handles = late.get(KEY), cache.get(KEY)
        fresh = session.reset()
        fresh.append(said("fresh"))
        between(cache)
        before = standing(cache, fresh)
        calls = {**changes(record.id, earlier.session_id), **READS, "turn": take_turn}
        del calls["delete"]
        for handle in handles:
            for name, call in calls.items():
                with pytest.raises(SessionMoved) as moved:
                    pytest.fail(f"{name} gave {call(handle)!r}")
                assert (moved.value.session_id, moved.value.current) == (session.session_id, fresh.session_id), name
        assert standing(cache, fresh)[1:] == before[1:]
        assert contents(cache.read(session.session_id)) == ["a"]
        assert session.delete() is True
        between(cache)
        before = standing(cache, fresh)
        for handle in handles:
            for name, call in calls.items():
                with pytest.raises(SessionDeleted):
                    pytest.fail(f"{name} gave {call(handle)!r}")
        assert standing(cache, fresh)[1:] == before[1:]

    def test_private_copies(self, open_door):
        """What a caller does to what it gave or got changes nothing for anybody."""
        cache, other = open_door(), open_door()
        given = {"metadata": {"a": {"b": [1]}}, "origin": {"c": {"d": [1]}}}
        session = cache.open(KEY, title="t", **given)
        message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
        (record,) = session.append(message)
        expected, text = known(session.refresh()), json.dumps(message)

        def spoil(value):
            for item in list(value.values() if isinstance(value, dict) else value):
                if isinstance(item, dict | list):
                    spoil(item)
            value.clear()

        infos = [session.info, session.refresh(), cache.get(KEY).info, other.open(KEY).info, cache.past(KEY)[0]]
        infos += [cache.list(fresh=True).sessions[0].info, *(hit.info for hit in cache.search("hello"))]
        histories = [session.history(), other.get(KEY).history(), cache.read(session.session_id).data()]
        records = [record, session.messages()[0], cache.get(KEY).messages()[0], *session.iterate()]
        assert len(infos) == 7
        expected = replace(expected, metadata={"a": {"b": [1]}}, origin={"c": {"d": [1]}})
        for value in [*given.values(), *(part for info in infos for part in (info.metadata, info.origin)), message,
                      *histories, *(one.data for one in records)]:  # fmt: skip
            spoil(value)
        for one in (session, cache.get(KEY), other.get(KEY)):
            assert known(one.refresh()) == expected
            assert json.dumps(one.history()[0]) == json.dumps(one.messages()[0].data) == text
        session.edit(record.id, edited := {"content": ["a"]})
        session.update(metadata=(changed := {"n": {"m": 1}}))
        spoil(edited)
        spoil(changed)
        assert session.history() == [{"content": ["a"]}]
        assert session.refresh().metadata["n"] == {"m": 1}

    def test_flushing_and_closing(self, open_door):
        """Everything acknowledged is in the store, and the count of it was told; nothing is left."""
        cache = open_door()
        for key in (KEY, OTHER, THIRD):
            cache.open(key).append(said("a", "b"))
        one = cache.flush(KEY)
        assert (one.ops, one.left, cache.stats().pending) == (3, 0, 6)
        none = cache.flush(timeout=0)
        assert none.ops + none.left == 6
        done = cache.close(flush=True, timeout=10)
        assert (done.ops, done.left) == (none.left, 0)
        fresh = open_door()
        assert (fresh.stats().pending, fresh.stats().messages) == (0, 6)
        assert fresh.flush() == fresh.flush(KEY)
        assert contents(fresh.get(THIRD).history()) == ["a", "b"]


def deep(levels):
    """Lists within lists."""
    value = 0
    for _ in range(levels):
        value = [value]
    return value


def circle():
    """An object that holds itself."""
    value = {}
    value["again"] = value
    return value


class Refusals:
    """Bad input is refused with its own error, which is a sentence, and nothing is written."""

    @pytest.fixture
    def cache(self, open_door):
        """One cache."""
        return open_door()

    @pytest.fixture
    def session(self, cache):
        """A session with something in it."""
        session = cache.open(KEY, owner="alice", title="Trip", metadata={"a": 1})
        session.append(said("a", "b", "c"), id=["m-1", "m-2", "m-3"])
        session.record_usage(input_tokens=1)
        return session

    def refused(self, cache, session, calls, error=InvalidInput):
        """Each of these calls is refused, and nothing comes of it, be it pending or stored."""
        cache.flush()
        before = standing(cache, session)
        for n, call in enumerate(calls):
            with pytest.raises(error, match=r"\w+ .*[.]") as refused:
                pytest.fail(f"call {n} gave {call()!r}")
            assert isinstance(refused.value, ValueError | ConfigurationError)
        assert standing(cache, session) == before
        with pytest.raises(SessionNotFound):
            cache.get(OTHER)

    @pytest.mark.parametrize("huge", [2**63, 10**5000], ids=["beyond 64 bit", "beyond what Python writes"])
    def test_huge_counts(self, cache, session, huge):
        """Limits and positions are at most 2**53, tokens 2**40."""
        self.refused(cache, session, self.counting(cache, session, huge))

    def test_counts(self, cache, session):
        """Limits, positions, tokens and versions are whole numbers from 0."""
        for bad in (-1, 1.0, float("inf"), float("nan"), True, "1", b"1", [1]):
            every = changes("m-1", session.session_id).values()
            versions = [lambda change=change, bad=bad: change(session, expected_version=bad) for change in every]
            self.refused(cache, session, self.counting(cache, session, bad) + versions)

    def counting(self, cache, session, bad):
        """Every call that takes a count, with this one."""
        by_id = session.session_id
        return [
            lambda: session.history(limit=bad), lambda: session.messages(limit=bad), lambda: session.messages(before=bad),
            lambda: session.messages(limit=1, before=bad), lambda: list(session.iterate(after=bad)),
            lambda: list(session.iterate(page=bad)), lambda: session.truncate(bad),
            lambda: session.fork(OTHER, through=bad), lambda: cache.fork(by_id, OTHER, through=bad),
            lambda: cache.read(by_id, limit=bad), lambda: cache.read(by_id, before=bad), lambda: cache.past(KEY, limit=bad),
            lambda: cache.list(limit=bad), lambda: cache.search("a", limit=bad),
            lambda: session.record_usage(input_tokens=bad), lambda: session.record_usage(last_prompt_tokens=bad),
            lambda: session.record_usage(output_tokens=1, cache_read_tokens=bad),
        ]  # fmt: skip

    def test_least_counts(self, cache, session):
        """Pages hold one at least, those of lists and searches a thousand at most."""
        calls = [lambda: list(session.iterate(page=0))]
        for bad in (0, 1001):
            calls += [lambda bad=bad: cache.list(limit=bad), lambda bad=bad: cache.search("a", limit=bad)]
        self.refused(cache, session, [*calls, lambda: cache.past(KEY, limit=0)])

    def test_costs(self, cache, session):
        """A cost is a number from 0, and one that can be added up."""
        for bad in (-0.1, float("nan"), float("inf"), 1.8e7, True, "1"):
            self.refused(cache, session, [lambda bad=bad: session.record_usage(input_tokens=1, estimated_cost=bad)])

    def test_huge_costs(self, cache, session):
        """Also where no float holds it."""
        self.refused(cache, session, [lambda: session.record_usage(input_tokens=1, estimated_cost=10**400)])

    def test_times(self, cache, session):
        """Holds and turns last as long as the setting ``hold`` at most; a wait is a number from 0."""
        calls = [lambda: take_turn(session, timeout=-1), lambda: take_turn(session, timeout="1")]
        for bad in (-1, 0.01, 3600.1, 10**400, float("nan"), float("inf"), True, "1"):
            calls += [lambda bad=bad: take_hold(session, "a", ttl=bad), lambda bad=bad: take_turn(session, ttl=bad)]
        self.refused(cache, session, calls)

    def test_huge_times(self, cache, session):
        """A wait that no float holds."""
        self.refused(cache, session, [lambda: take_turn(session, timeout=10**400)])

    def test_the_time_of_a_flush(self, cache, session):
        """It is a number, too."""
        for bad in ("1", float("nan"), 10**400, True):
            self.refused(cache, session, [lambda bad=bad: cache.flush(timeout=bad)])

    def test_names(self, cache, session):
        """Ids, owners, platforms and labels are 1 to 255 characters without control characters."""
        for bad in ("", "x" * 256, "a\nb", "\ud800", 5):
            self.refused(cache, session, self.naming(cache, session, bad))

    def naming(self, cache, session, bad):
        """Every call that takes a name, with this one."""
        by_id = session.session_id
        calls = [
            lambda: cache.create(OTHER, session_id=bad), lambda: cache.read(bad), lambda: cache.resume(bad),
            lambda: cache.fork(bad, OTHER), lambda: session.switch(bad), lambda: cache.delete_session(bad),
            lambda: cache.delete_owner(bad), lambda: session.edit(bad, {}), lambda: session.remove(bad),
            lambda: session.append({"content": "a"}, id=bad), lambda: session.append(said("a", "b"), id=["m-4", bad]),
            lambda: take_hold(session, bad), lambda: session.record_usage(input_tokens=1, model=bad),
            lambda: session.record_usage(base_url=bad), lambda: session.update(title="x", metadata={bad: 1}),
            lambda: cache.has_any(besides=bad), lambda: cache.search("a", owner=bad), lambda: cache.list(owner=bad),
            lambda: cache.list(platform=bad), lambda: cache.count(owner=bad), lambda: cache.past(KEY, owner=bad),
            lambda: cache.read(by_id, owner=bad), lambda: cache.resume(by_id, owner=bad),
            lambda: cache.fork(by_id, OTHER, owner=bad), lambda: cache.delete_session(by_id, owner=bad),
        ]  # fmt: skip
        begin = cache.open, cache.ensure, cache.create
        for name in ("owner", "platform", "chat_type", "display_name"):
            calls += [lambda call=call, name=name: call(OTHER, **{name: bad}) for call in begin]
            calls.append(lambda name=name: session.reset(**{name: bad}))
        return [*calls, lambda: session.update(display_name=bad)] if bad else calls

    def test_keys(self, cache, session):
        """A session key is 1 to 512 bytes of UTF-8 without control characters, in every call that takes one."""
        for bad in ("", "x" * 513, "é" * 257, "a\nb", None, b"a"):
            every = (
                cache.open, cache.ensure, cache.create, cache.get, cache.past, cache.delete, cache.evict, session.fork,
                lambda key: cache.create(key, session_id="mine"), lambda key: cache.fork(session.session_id, key),
            )  # fmt: skip
            self.refused(cache, session, [lambda call=call, bad=bad: call(bad) for call in every], InvalidKey)

    def test_unknown_ids(self, cache, session):
        """There is no such session, message or page."""
        cache.flush()
        before = standing(cache, session)
        for unknown in ("unknown", "20260101_000000_0123456789abcdef0123"):
            for call in (cache.read, cache.resume, session.switch, lambda one: cache.fork(one, OTHER)):
                with pytest.raises(SessionNotFound, match="no session"):
                    call(unknown)
            assert cache.delete_session(unknown) is False
            assert (session.edit(unknown, {}), session.remove(unknown)) == (False, False)
        assert standing(cache, session) == before
        self.refused(cache, session, [lambda bad=bad: cache.list(cursor=bad) for bad in ("unknown", "", "W10=", 5)])

    def test_titles_over_the_limit(self, cache, session):
        """Refused, not cut; so is what is no text."""
        for bad in ("x" * 256, "\x00" + "é" * 256, "\ud800", 5, b"title", ["title"]):
            every = (
                session.reset, lambda **title: cache.open(OTHER, **title), lambda **title: cache.ensure(OTHER, **title),
                lambda **title: cache.create(OTHER, **title), lambda **title: session.update(metadata={"b": 1}, **title),
            )  # fmt: skip
            self.refused(cache, session, [lambda call=call, bad=bad: call(title=bad) for call in every])

    def test_titles_that_are_cleaned(self, cache, session):
        """Characters that are not seen go, joiners stay; where nothing is left, there is no title."""
        for given, left in (
            ("a\x00b\x1b[31m\x7f\x9fc\u200b\u2060\ufeff\u00add\u202e\u2066e", "ab[31mcde"),
            (" a\n\r\tb\u2028c ", "a b c"),
            ("👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧"),
            ("नही\u200cं", "नही\u200cं"),
            ("x" * 255 + "\x00\u200b" * 50, "x" * 255),
            ("\u200b\x00 \n", None),
            ("\u200d\u200c", None),
            ("", None),
        ):
            session.update(title="before")
            session.update(title=given)
            assert session.refresh().title == left
            begun = cache.open(OTHER, title=given)
            assert begun.info.title == left
            for key in (KEY, OTHER):
                cache.flush(key)
                cache.evict(key)
                assert cache.get(key).info.title == left
            begun.delete()

    def test_a_mark_of_direction_in_a_title(self, session):
        """The Arabic letter mark goes, as the other marks of direction do."""
        session.update(title="a\u061cb")
        assert session.refresh().title == "ab"

    def test_metadata_that_json_cannot_say(self, cache, session):
        """In metadata and origin, when a session begins and later; also what is too deep or too large."""
        for bad in (
            {"a": {1}}, {"a": b"x"}, {"a": [float("nan")]}, {"a": float("-inf")}, {"a": {1: 2}}, {1: "a"}, {"a": deep(101)},
            {"a": "x" * 65_536}, {"a": 2**64}, {"a": "\ud800"}, {"a": (1,)}, {"a": object()}, circle(), ["a"], "a", 5,
        ):  # fmt: skip
            every = (
                session.reset, lambda **given: cache.open(OTHER, **given), lambda **given: cache.ensure(OTHER, **given),
                lambda **given: cache.create(OTHER, **given), lambda **given: session.update(title="new", **given),
                lambda **given: cache.create(OTHER, session_id="mine", **given),
            )  # fmt: skip
            calls = [lambda call=call, bad=bad: call(metadata=bad) for call in every]
            self.refused(cache, session, calls + [lambda call=call, bad=bad: call(origin=bad) for call in every])

    def test_too_many_names(self, cache, session):
        """Metadata has about 1,000 names, however they come."""
        many = {f"name {n}": n for n in range(1100)}
        calls = [
            lambda: session.update(metadata=many), lambda: cache.open(OTHER, metadata=many),
            lambda: cache.create(OTHER, session_id="mine", metadata=many), lambda: session.reset(metadata=many),
        ]  # fmt: skip
        self.refused(cache, session, calls)

    def test_flags(self, cache, session):
        """Flags are True or False, in changes and in what a list asks for; a span of time is one from 0."""
        calls = [lambda: session.archive(archived=1)]
        calls += [lambda name=name: session.update(**{name: 1}) for name in ("archived", "important", "suspended")]
        calls += [lambda name=name: cache.list(**{name: "yes"}) for name in ("archived", "important", "ended")]
        calls += [lambda bad=bad: cache.list(active_within=bad) for bad in (5, "1 h", timedelta(-1))]
        self.refused(cache, session, calls)

    def test_messages(self, cache, session):
        """All of a batch or none, also in a replacement and in an edit."""
        bad = {"content": [{"data": b"x"}]}
        calls = [
            lambda: session.append(bad), lambda: session.append([*said("a"), bad]), lambda: session.edit("m-1", bad),
            lambda: session.replace([*said("a"), bad]), lambda: session.append("text"), lambda: session.replace("text"),
            lambda: session.replace([None]), lambda: session.edit("m-1", None), lambda: session.edit("m-1", said("a")),
            lambda: session.append({"content": 5}), lambda: session.append({"content": "x" * 2**20}),
        ]  # fmt: skip
        self.refused(cache, session, calls, InvalidMessage)

    def test_queries(self, cache, session):
        """A query is a text of at most 1,000 characters."""
        self.refused(cache, session, [lambda bad=bad: cache.search(bad) for bad in (None, 5, b"a", ["a"], "x" * 1001)])

    def test_policies(self, cache, session, open_door):
        """A bad hour, zone, pause, mode or name is found when the cache is made."""
        for bad in (
            {"mode": "daily", "at_hour": 24}, {"mode": "daily", "at_hour": -1}, {"mode": "daily", "at_hour": 1.5},
            {"mode": "daily", "zone": "Mars/Phobos"}, {"mode": "daily", "zone": "../UTC"}, {"mode": "weekly"},
            {"mode": "idle", "idle_minutes": 0}, {"mode": "both", "idle_minutes": -5}, {"mode": "idle", "minutes": 5},
            {"by_platform": {"": {"mode": "idle"}}}, {"by_type": {"dm": "idle"}}, [], 5,
        ):  # fmt: skip
            self.refused(cache, session, [lambda bad=bad: open_door(reset=json.dumps(bad))], ConfigurationError)

    def test_the_id_of_a_session_that_is_pending(self, cache, session):
        """It was given, though it is not stored yet; nobody can begin another session with it."""
        with pytest.raises(SessionExists):
            cache.create(OTHER, session_id=session.session_id)
        cache.flush()
        cache.evict(KEY)
        assert contents(cache.get(KEY).history()) == ["a", "b", "c"]

    def test_resuming_where_another_owner_is_by_now(self, cache, session):
        """A key that is another owner's stays so, whoever resumes what was there before."""
        session.reset().delete()
        theirs = cache.open(KEY, owner="bob")
        with suppress(SessionCacheError):
            cache.resume(session.session_id, owner="alice")
        assert cache.get(KEY, owner="bob").session_id == theirs.session_id

    def test_deleting_at_another_version(self, cache, session):
        """Also where the version is another one because the session ended."""
        version = session.refresh().version
        cache.get(KEY).reset()
        with suppress(VersionConflict, SessionMoved):
            pytest.fail(f"it gave {session.delete(expected_version=version)}")
        assert contents(cache.read(session.session_id)) == ["a", "b", "c"]

    def test_switching_without_the_turn(self, cache, session, lose_turn):
        """Whoever lost the turn takes no session from another key either."""
        there = cache.open(OTHER, owner="alice")
        with session.turn() as mine:
            lose_turn()
            with pytest.raises(TurnLost):
                mine.switch(there.session_id)
        assert cache.get(OTHER).session_id == there.session_id
        assert cache.get(KEY).session_id == session.session_id

    def test_forking_by_a_handle_of_what_is_not_current(self, session):
        """Every call of such a handle is refused; `SessionCache.fork` forks any session."""
        fresh = session.reset()
        with pytest.raises(SessionMoved):
            session.fork(OTHER)
        fresh.delete()
        with pytest.raises(SessionDeleted):
            fresh.fork(OTHER)

    def test_archiving_at_a_version(self, session):
        """Every change takes an expected version."""
        version = session.refresh().version
        with pytest.raises(VersionConflict):
            session.archive(expected_version=version - 1)
        assert session.archive(expected_version=version) > version
