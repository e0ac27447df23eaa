"""The conversation layer of a session, as tests in the manner of `contract`: sources, contexts, consolidation, titles."""

from __future__ import annotations

import pytest
from contract import KEY, OTHER, THIRD, said

from sessioncache import (
    HookFailed,
    InvalidInput,
    InvalidKey,
    SessionMoved,
    SessionNotFound,
    SessionSource,
    VersionConflict,
    build_session_key,
)

TURNS = [
    message for n in range(6) for message in (*said(f"question {n}"), *said(f"answer {n}", role="assistant"))
]  # fmt: skip
GROUP = SessionSource(
    platform="telegram", chat_id="-100", chat_name="Trip\nplans", chat_type="group", user_id="7", user_name="Ann"
)


class Conversation:
    """Every operation gives the same results, through either door, from either tier and either kind of store."""

    def test_opening_a_source(self, open_door, between):
        """A source is a key, and says where the session comes from; what is given beside it counts more."""
        cache = open_door()
        session = cache.open(GROUP, title="Plans")
        key = build_session_key(GROUP)
        assert (session.key, key) == (key, "agent:main:telegram:group:-100:7")
        between(cache, key)
        info = session.refresh()
        assert SessionSource.from_dict(info.origin) == GROUP
        assert (info.platform, info.chat_type, info.display_name, info.title) == (
            "telegram",
            "group",
            "Trip plans",
            "Plans",
        )
        for call in (cache.open, cache.ensure, cache.get):
            assert call(GROUP).session_id == session.session_id
        dm = cache.create(SessionSource(platform="signal", chat_id="9"), platform="other", session_id="mine")
        assert (dm.key, dm.info.platform, dm.info.display_name) == ("agent:main:signal:dm:9", "other", None)
        fresh = session.reset()
        assert (fresh.info.origin, fresh.info.display_name) == (info.origin, "Trip plans")
        with pytest.raises(SessionNotFound):
            cache.get(SessionSource(platform="signal", chat_id="8"))
        with pytest.raises(InvalidKey):
            cache.open(SessionSource(platform="signal", chat_id="8" * 600))

    @pytest.mark.parametrize(
        ("settings", "ends"),
        [
            ({}, "group:c:t"),
            ({"thread_sessions_per_user": True}, "group:c:t:u"),
            ({"group_sessions_per_user": False, "thread_sessions_per_user": True}, "group:c:t"),
        ],
    )
    def test_keys_follow_the_settings(self, open_door, settings, ends):
        """Both behaviours of threads, and whether a group is one conversation or one for each user."""
        cache = open_door(namespace="shop", **settings)
        source = SessionSource(platform="x", chat_type="group", chat_id="c", thread_id="t", user_id="u")
        assert cache.open(source).key == f"agent:shop:x:{ends}"

    def test_contexts(self, open_door, between):
        """The newest messages from a user turn on, as a model is sent them; nothing is deleted."""
        cache = open_door()
        session = cache.open(KEY)
        session.append([{**one, "internal": 1} for one in TURNS])
        session.append({"role": "assistant", "content": "/help", "_command": True})
        between(cache)
        assert session.context() == TURNS
        assert session.context(max_messages=4) == TURNS[-2:]
        assert session.context(max_tokens=25, count_tokens=lambda text: len(text) // 2 + 2) == TURNS[-2:]
        assert session.context(max_bytes=150) == TURNS[-2:]
        assert session.context(max_messages=0) == session.context(max_messages=-1) == TURNS
        stamped = session.context(include_timestamps=True)
        assert all(one["content"].startswith("[Message Time: 20") for one in stamped[::2])
        assert stamped[1::2] == TURNS[1::2]
        assert len(session.history()) == 13
        cut = session.append(
            [*said("look"), {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, *said("go")]
        )
        between(cache)
        assert session.context(max_messages=3) == [*said("look"), *said("go")]
        answer = {"role": "tool", "tool_call_id": "c", "content": "stopped"}
        assert session.context(max_messages=4, interrupted="stopped")[2] == answer
        session.reset()
        with pytest.raises(SessionMoved):
            session.context()
        assert cut[0].data == said("look")[0]

    def test_consolidating(self, open_door, between):
        """A context begins after the pointer, also when messages go; the summary is in the metadata; clear drops both."""
        cache, other = open_door(), open_door()
        session = cache.open(KEY, metadata={"goal_state": "g"})
        records = session.append(TURNS)
        version = session.consolidate(records[5].seq, summary={"text": "so far"})
        between(cache)
        info = other.get(KEY).info
        assert (info.version, info.consolidated_seq) == (version, records[5].seq)
        assert info.metadata == {"goal_state": "g", "summary": {"text": "so far"}}
        assert session.context() == TURNS[6:]
        assert len(session.history()) == 12
        session.remove(records[0].id)
        session.pop()
        between(cache)
        assert session.context() == TURNS[6:11]
        session.consolidate(records[7].seq)
        assert session.refresh().metadata["summary"] == {"text": "so far"}
        session.consolidate(0)
        between(cache)
        assert session.context() == TURNS[2:11]  # it begins with a user turn
        session.consolidate(records[7].seq)
        session.truncate(3)
        session.append(said("new"))
        between(cache)
        assert session.context() == said("new")
        session.clear()
        between(cache)
        info = session.refresh()
        assert (info.consolidated_seq, info.metadata) == (0, {"goal_state": "g"})

    def test_what_cannot_be_consolidated(self, open_door):
        """A message that is not there yet, another version; nothing changes."""
        session = open_door().open(KEY)
        last = session.append(TURNS)[-1].seq
        for through in (-1, True, "3", 2**60, last + 1):
            with pytest.raises(InvalidInput):
                session.consolidate(through, summary="s")
        with pytest.raises(InvalidInput):
            session.consolidate(last, summary=float("nan"))
        with pytest.raises(VersionConflict):
            session.consolidate(last, expected_version=last + 1)
        info = session.refresh()
        assert (info.version, info.consolidated_seq, info.metadata) == (last, 0, {})

    @pytest.mark.parametrize("window", [100, 4])
    def test_retaining(self, open_door, between, window):
        """The newest messages stay, from a user turn on, in both tiers, also where they are not hot; seqs stay."""
        cache, other = open_door(window=window), open_door(window=window)
        session = cache.open(KEY)
        records = session.append(TURNS)
        session.consolidate(records[8].seq)
        between(cache)
        assert session.retain(12) == session.retain(100) == 12
        assert session.retain(7) == 6
        between(cache)
        assert list(other.get(KEY).messages()) == records[6:]
        assert (session.refresh().message_count, session.info.consolidated_seq) == (6, records[8].seq)
        assert session.append(
            TURNS[0], id=records[0].id
        )  # an id of the library's own making is not remembered as one given
        session.pop()
        cache.flush()
        assert list(cache.read(session.session_id)) == records[6:]
        assert session.retain(1) == 1
        between(cache)
        assert session.history() == said("question 5")
        with pytest.raises(VersionConflict):
            session.retain(0, expected_version=1)
        assert session.retain(0) == 0
        between(cache)
        assert (session.history(), session.refresh().consolidated_seq) == ([], 0)

    @pytest.mark.parametrize("window", [100, 4])
    def test_retaining_without_a_late_user_turn(self, open_door, between, window):
        """[user + 10 assistants], the pointer at 3, 4 stay: the first four, three of them consolidated."""
        cache = open_door(window=window)
        session = cache.open(KEY)
        records = session.append([*said("go"), *said(*map(str, range(10)), role="assistant")])
        session.consolidate(records[2].seq)
        between(cache)
        assert session.retain(4) == 4
        between(cache)
        assert list(session.messages()) == records[:4]
        assert session.refresh().consolidated_seq == records[2].seq
        assert session.context() == said("2", role="assistant")
        cache.flush()
        assert list(cache.read(session.session_id)) == records[:4]

    def test_retaining_nothing_but_orphans(self, open_door, between):
        """Where no message may stay, none does."""
        session = (cache := open_door()).open(KEY)
        session.append([{"role": "tool", "tool_call_id": str(n), "content": "x"} for n in range(5)])
        between(cache)
        assert session.retain(3) == 0
        between(cache)
        assert session.history() == []

    def test_capping(self, open_door, between):
        """Over the limit the newest stay; what goes and is not consolidated is archived first."""
        cache = open_door()
        session = cache.open(KEY)
        records, archived = session.append(TURNS), []
        session.consolidate(records[2].seq)
        between(cache)
        assert session.cap(12, archive=archived.extend) == session.cap(0, archive=archived.extend) == 0
        assert session.cap(-1) == session.cap() == 0
        assert (archived, len(session.history())) == ([], 12)
        assert session.cap(6, archive=archived.extend) == 6
        assert archived == records[3:6]
        between(cache)
        assert list(session.messages()) == records[6:]
        assert session.cap(4) == 2

    def test_an_archive_that_fails_changes_nothing(self, open_door, between):
        """Not even the version."""
        cache = open_door()
        session = cache.open(KEY)
        records = session.append(TURNS)
        between(cache)

        def fail(_records):
            raise OSError("the disk is full")

        with pytest.raises(HookFailed, match="nothing was changed"):
            session.cap(6, archive=fail)
        assert (list(session.messages()), session.refresh().version) == (records, records[-1].seq)

    def test_unique_titles(self, open_door, between):
        """Among the sessions of an owner, ended ones too; a number follows where the title is taken."""
        cache, other = open_door(), open_door()
        first, second = cache.open(KEY, owner="alice"), other.open(OTHER, owner="alice")
        assert first.unique_title("Trip") == first.unique_title("Trip") == "Trip"
        between(cache)
        assert second.unique_title("Trip") == second.unique_title("Trip") == second.unique_title("Trip #2") == "Trip #2"
        assert second.unique_title("trip") == "trip"
        fresh = first.reset()
        assert fresh.unique_title(" Trip\u200b ") == "Trip #2"
        assert fresh.info.title != fresh.refresh().title == "Trip #2"
        assert second.unique_title("Trip #2") == "Trip #3"
        assert cache.open(THIRD, owner="bob").unique_title("Trip") == "Trip"
        long = "x" * 255
        assert cache.open("k1").unique_title(long) == long
        assert [cache.open(f"k{n}").unique_title(long)[-4:] for n in (2, 3)] == ["x #2", "x #3"]
        spaced = "x" * 243 + " " + "y" * 11
        given = [cache.open(f"s{n}").unique_title(spaced) for n in range(3)]
        assert given == [cache.get(f"s{n}").info.title for n in range(3)]
        assert len(set(given)) == 3
        assert [cache.open(f"n{n}").unique_title("N #9999999") for n in range(3)] == [
            "N #9999999", "N #9999999 #2", "N #9999999 #3",
        ]  # fmt: skip
        for bad in ("\u200b", "", None, 5, "x" * 256):
            with pytest.raises(InvalidInput):
                first.unique_title(bad)

    def test_what_a_context_refuses(self, open_door):
        """Each wrong limit, and a counter that counts nothing; whatever a message holds, nothing else is raised."""
        session = open_door().open(KEY)
        odd = [
            5,
            [],
            {},
            None,
            True,
            "x",
            1.5,
            [[]],
            {"type": ["x"]},
            {"type": None, "text": 5},
            {"id": {}, "tool_use_id": []},
        ]
        for one in odd:
            session.append({"role": "assistant", "tool_calls": [one], "content": [one], "name": one, "metadata": one})
            session.append({"role": one, "type": one, "call_id": one, "tool_call_id": one, "media": one, "content": None})
            session.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": one}, one]})
        session.append(said("hello"))
        for limits in ({}, {"max_tokens": 100}, {"max_bytes": 100}, {"interrupted": "x"}, {"include_timestamps": True}):
            assert session.context(**limits)[-1]["content"].endswith("hello")

        def fail(_text):
            raise ZeroDivisionError

        with pytest.raises(HookFailed):
            session.context(max_tokens=5, count_tokens=fail)
        for limits in (
            {"max_messages": 10**5000}, {"max_messages": "x"}, {"max_messages": True}, {"max_tokens": -1},
            {"max_bytes": 1.5},
            {"max_tokens": 5, "count_tokens": lambda _: None}, {"max_tokens": 5, "count_tokens": lambda _: -1},
            {"interrupted": 5}, {"interrupted": b"x"}, {"interrupted": "\ud800"}, {"unknown": 1},
        ):  # fmt: skip
            with pytest.raises(InvalidInput):
                session.context(**limits)
        for bad in (10**5000, -(10**5000), "x", None, 1.5, True):
            for call in (session.retain, session.cap):
                with pytest.raises(InvalidInput):
                    call(bad)
