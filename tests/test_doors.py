"""What an application sees, through both doors, on every stack, hot and cold, before and after a flush."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from conftest import BETWEEN
from doors import DOORS, opener
from sqlalchemy import create_engine

from sessioncache import (
    Backpressure,
    InvalidInput,
    InvalidKey,
    SessionCache,
    SessionDeleted,
    SessionMoved,
    SessionNotFound,
    VersionConflict,
)

KEY = "telegram:dm:42"
TALK = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "content": [{"type": "text", "text": "forty-two"}]},
]


@pytest.fixture(params=DOORS)
def open_door(request, stack):
    """Opens caches of one kind, as servers of their own, and closes them."""
    with opener(stack, request.param) as door:
        yield door


@pytest.fixture(params=BETWEEN)
def between(request):
    """What happens to a session between a write and a read."""

    def happen(cache, key=KEY):
        if "flushed" in request.param:
            cache.flush(key)
        if "evicted" in request.param:
            cache.evict(key)

    return happen


def test_history_comes_back_as_it_was_appended(open_door, between):
    """Equal, of the same types and key order, from either tier and any server."""
    ours, theirs = open_door(), open_door()
    session = ours.open(KEY, owner="alice")
    records = session.append(TALK[0]) + session.append(TALK[1:])
    between(ours)
    for cache in (ours, theirs):
        again = cache.get(KEY)
        assert again.session_id == session.session_id
        assert again.owner == "alice"
        assert again.history() == TALK
        assert [list(message) for message in again.history()] == [list(message) for message in TALK]
        assert list(again.messages()) == records
        assert again.history(limit=2) == TALK[-2:]
        assert again.history(limit=0) == []


def test_records_say_when_and_where(open_door, between):
    """Seqs grow, ids differ, times are aware UTC and recent."""
    cache = open_door()
    session = cache.open(KEY)
    session.append(TALK)
    between(cache)
    records = session.messages()
    assert [one.seq for one in records] == sorted({one.seq for one in records})
    assert len({one.id for one in records}) == len(TALK)
    now = datetime.now(UTC)
    assert all(timedelta(0) <= now - one.created_at < timedelta(minutes=1) for one in records)


def test_several_servers_write_one_session(open_door):
    """Each sees what the others wrote, at once, in one order."""
    sessions = [open_door().open(KEY) for _ in range(3)]
    for turn in range(12):
        sessions[turn % 3].append({"role": "user", "content": str(turn)})
        assert [one["content"] for one in sessions[(turn + 1) % 3].history()] == [str(n) for n in range(turn + 1)]


def test_a_repeated_message_id_adds_nothing(open_door, between):
    """The first record comes back, whatever became of the hot copy; also within a batch that has new ones."""
    cache = open_door()
    session = cache.open(KEY)
    first = session.append({"content": "a"}, id="telegram-1")
    between(cache)
    assert session.append({"content": "a"}, id="telegram-1") == first
    both = session.append([{"content": "a"}, {"content": "b"}], id=["telegram-1", "telegram-2"])
    assert both[0] == first[0]
    between(cache)
    assert session.history() == [{"content": "a"}, {"content": "b"}]
    cache.flush()
    cache.evict(KEY)
    assert list(session.messages()) == both


def test_a_forgotten_message_id_is_found_when_draining(open_door):
    """A repeat older than the remembered ops shows twice for a while, and once when it is drained."""
    cache = open_door(keep_ops=4)
    session = cache.open(KEY)
    session.append({"content": "a"}, id="telegram-1")
    session.append([{"content": str(n)} for n in range(3)])
    for n in range(5):
        session.append({"content": str(n)}, id=f"other-{n}")
    session.append({"content": "a"}, id="telegram-1")
    cache.flush()
    assert [one.id for one in session.messages()].count("telegram-1") == 1
    assert len(session.history()) == 9


def test_a_message_id_is_of_one_session(open_door, between):
    """The next session under the same key takes the same ids anew."""
    cache = open_door()
    cache.open(KEY).append({"content": "old"}, id="telegram-1")
    between(cache)
    cache.delete(KEY)
    between(cache)
    fresh = cache.open(KEY)
    fresh.append({"content": "new"}, id="telegram-1")
    between(cache)
    assert fresh.history() == [{"content": "new"}]
    cache.flush()
    cache.evict(KEY)
    assert fresh.history() == [{"content": "new"}]


def test_ids_that_look_like_ours_are_just_ids(open_door, between):
    """A caller's id is never taken for another one."""
    session = open_door().open(KEY)
    ids = ["msg-000000000042.1", "msg-000000000042", "msg-000000000042.0", "msg-000000000042.10"]
    for name in ids:
        session.append({"content": name}, id=name)
        between(open_door())
    assert [one["content"] for one in session.history()] == ids


def test_a_large_batch_again_after_the_copy_vanished(open_door, between):
    """Each message has its first record, however many they are."""
    cache = open_door()
    session = cache.open(KEY)
    session.append([{"content": f"before {n}"} for n in range(30)])
    sent, ids = [{"content": str(n)} for n in range(150)], [f"id-{n}" for n in range(150)]
    first = session.append(sent, id=ids)
    session.append({"content": "after"})
    between(cache)
    assert session.append(sent, id=ids, expected_version=first[0].seq - 1) == first
    assert len(session.history()) == 181


def test_expected_version(open_door, between):
    """An append at another version than the expected one is refused, and says which it is."""
    cache = open_door()
    session = cache.open(KEY)
    version = session.append({"content": "a"})[-1].seq
    between(cache)
    with pytest.raises(VersionConflict) as conflict:
        session.append({"content": "b"}, expected_version=version - 1)
    assert (conflict.value.expected, conflict.value.current) == (version - 1, version)
    session.append({"content": "b"}, expected_version=version)
    assert session.history() == [{"content": "a"}, {"content": "b"}]


def test_open_and_get(open_door):
    """`open` makes what `get` does not find."""
    cache = open_door()
    with pytest.raises(SessionNotFound):
        cache.get(KEY)
    session = cache.open(KEY)
    assert session.history() == []
    assert open_door().open(KEY).session_id == cache.get(KEY).session_id == session.session_id


def test_an_owner_sees_only_its_own(open_door, between):
    """Another owner's session is not found, and nothing is created."""
    cache = open_door()
    session = cache.open(KEY, owner="alice")
    between(cache)
    for call in (cache.open, cache.get):
        with pytest.raises(SessionNotFound):
            call(KEY, owner="bob")
    assert cache.delete(KEY, owner="bob") is False
    assert cache.get(KEY, owner="alice").session_id == session.session_id


def test_deleted_stays_deleted(open_door, between):
    """From every tier at once; late writers and readers are told; the key goes on with a new session and version."""
    cache, late = open_door(), open_door()
    session = cache.open(KEY)
    old = session.append(TALK)
    theirs = late.get(KEY)
    assert cache.delete(KEY) is True
    between(cache)
    for call in (theirs.history, theirs.messages, lambda: theirs.append({"content": "late"})):
        with pytest.raises(SessionDeleted):
            call()
    with pytest.raises(SessionNotFound):
        late.get(KEY)
    assert cache.delete(KEY) is False
    fresh = cache.open(KEY)
    between(cache)
    with pytest.raises(SessionDeleted):
        theirs.append({"content": "late"})
    assert fresh.history() == []
    assert fresh.append({"content": "new"})[0].seq > old[-1].seq
    cache.flush()
    cache.evict(KEY)
    assert cache.get(KEY).history() == [{"content": "new"}]
    assert session.delete() is False


def test_a_session_that_is_not_current_is_not_written(open_door):
    """A handle of an ended session raises; nothing shows in the new one (I6)."""
    cache = open_door()
    session = cache.open(KEY)
    session.append({"content": "old"})
    cache.delete(KEY)
    fresh = cache.open(KEY)
    fresh.append({"content": "new"})
    for n in range(3):
        with pytest.raises((SessionDeleted, SessionMoved)):
            session.append({"content": f"late {n}"})
    assert fresh.history() == [{"content": "new"}]


def test_below_the_hot_window(open_door, between):
    """A history longer than the hot window is read whole, from both tiers, dirty or not."""
    cache = open_door(window=10)
    session = cache.open(KEY)
    sent = [{"content": str(n)} for n in range(64)]
    session.append(sent[:40])
    between(cache)
    session.append(sent[40:])
    between(cache)
    other = open_door(window=10, near_sessions=0)
    for reader in (session, other.get(KEY), cache.get(KEY)):
        assert reader.history() == sent
        assert reader.history(limit=25) == sent[-25:]
        assert reader.history(limit=7) == sent[-7:]
    session.append({"content": "more"})
    assert session.history() == [*sent, {"content": "more"}]


def test_the_window_is_bounded_in_bytes_too(open_door, stack):
    """The oldest go first, the newest always stays."""
    cache = open_door(window_bytes=1100)
    session = cache.open(KEY)
    sent = [{"content": str(n) * 300} for n in range(9)]
    session.append(sent)
    with stack.raw() as raw:
        (name,) = raw.scan_iter("*:history:*")
        assert raw.llen(name) == 3
        session.append({"content": "x" * 5000})
        assert raw.llen(name) == 1
    assert session.history() == [*sent, {"content": "x" * 5000}]


def test_callers_cannot_damage_a_cache(open_door):
    """What a caller does to what it got changes nothing for anybody (I8)."""
    cache = open_door()
    session = cache.open(KEY)
    message = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    records = session.append(message)
    message["content"][0]["text"] = records[0].data["role"] = "changed"
    session.history()[0]["content"].clear()
    session.messages()[0].data.clear()
    assert session.history() == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


def test_a_sequence_of_records_does_not_move(open_door):
    """What was read stays as it was, while others append."""
    session = open_door().open(KEY)
    session.append(TALK)
    before = session.messages()
    session.append({"content": "more"})
    after = session.messages()
    assert (len(before), len(after)) == (4, 5)
    assert before[-1] == after[3]
    assert list(before[1:3]) == list(after)[1:3]
    with pytest.raises(IndexError):
        before[4]


def test_backpressure(open_door):
    """A full pending log refuses the write, which leaves nothing behind, and takes it once it was drained."""
    cache = open_door(max_pending=5)
    session = cache.open(KEY)
    session.append([{"content": str(n)} for n in range(4)])
    with pytest.raises(Backpressure, match="max_pending"):
        session.append({"content": "no"})
    cache.flush(KEY)
    session.append({"content": "yes"})
    assert [one["content"] for one in session.history()] == ["0", "1", "2", "3", "yes"]


def test_nothing_to_append(open_door):
    """An empty list is no op."""
    session = open_door().open(KEY)
    assert session.append([]) == []
    assert session.history() == []


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True])
def test_limits_are_counts(open_door, limit):
    """Anything else is refused."""
    session = open_door().open(KEY)
    with pytest.raises(InvalidInput):
        session.history(limit=limit)


@pytest.mark.parametrize(
    "ids", [5, {"a", "b"}, ["a"], ["a", "a"], ["a", ""], ["a", "x" * 256], ["a", "b\n"], "a", ["a", 5]]
)
def test_message_ids_are_checked(open_door, ids):
    """One for each message, all different, 1 to 255 characters."""
    session = open_door().open(KEY)
    with pytest.raises(InvalidKey):
        session.append([{"content": "a"}, {"content": "b"}], id=ids)
    assert session.history() == []


def test_stats(open_door):
    """Dirty sessions, pending ops and their age; then what the store has."""
    cache = open_door()
    cache.open(KEY).append(TALK)
    before = cache.stats()
    assert (before.dirty, before.pending, before.sessions, before.messages, before.dead) == (1, 5, 0, 0, 0)
    assert 0 <= before.oldest_pending < 60
    assert cache.flush().ops == 5
    after = cache.stats()
    assert (after.dirty, after.pending, after.oldest_pending, after.sessions, after.messages) == (0, 0, 0, 1, 4)
    assert after.counters["messages_appended"] == 4


def test_the_age_of_a_backlog_that_begins_with_a_batch(open_door, stack):
    """The first op of a group has an age like any other; what is no op before it does not hide it."""
    cache = open_door()
    session = cache.open(KEY)
    cache.flush()
    session.append(TALK)
    assert 0 <= cache.stats().oldest_pending < 60
    with stack.raw() as raw:
        raw.lpush(cache._state.keyspace.of(KEY).pending, b"garbage")
        assert 0 < cache.stats().oldest_pending < 60


def test_clients_handed_in_stay_the_callers(one_stack):
    """They are used, and still open afterwards."""
    engine = create_engine(one_stack.database_url)
    with one_stack.raw() as client:
        with SessionCache(client, engine, settings=one_stack.settings()) as cache:
            cache.open(KEY).append(TALK)
            assert cache.flush().ops == 5
        assert client.ping()
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM messages").scalar() == 4
    engine.dispose()
