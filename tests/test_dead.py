"""Dead letters: what the store refuses is set aside alone, is told of, and can be retried or dropped."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from contract import contents, said
from sqlalchemy import create_engine, text

from sessioncache import (
    Backpressure,
    DeadLetter,
    HotTierUnavailable,
    InvalidInput,
    SessionDeleted,
    SessionMoved,
    commit,
    dead,
    write_behind,
)
from sessioncache.hot import writing
from sessioncache.hot.change import Change
from sessioncache.op import new_op_id

KEY = "telegram:dm:42"
TRIGGER = "WHEN NEW.{column} = 'poison' BEGIN SELECT RAISE(ABORT, 'refused'); END"
REFUSE = {
    "sqlite": (
        "CREATE TRIGGER refuse_message BEFORE INSERT ON messages " + TRIGGER.format(column="text"),
        "CREATE TRIGGER refuse_start BEFORE INSERT ON sessions " + TRIGGER.format(column="title"),
        "CREATE TRIGGER refuse_title BEFORE UPDATE ON sessions " + TRIGGER.format(column="title"),
    ),
    "postgresql": (
        "ALTER TABLE messages ADD CONSTRAINT refuse_message CHECK (text <> 'poison')",
        "ALTER TABLE sessions ADD CONSTRAINT refuse_title CHECK (title <> 'poison')",
    ),
}
MEND = {
    "sqlite": ("DROP TRIGGER refuse_message", "DROP TRIGGER refuse_start", "DROP TRIGGER refuse_title"),
    "postgresql": (
        "ALTER TABLE messages DROP CONSTRAINT refuse_message",
        "ALTER TABLE sessions DROP CONSTRAINT refuse_title",
    ),
}


@pytest.fixture
def poisoned(some_stack):
    """A store that refuses what is called poison, and what makes it take it."""
    engine = create_engine(some_stack.database_url)
    kind = engine.dialect.name

    def ask(statements):
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    with some_stack.cache() as cache:
        assert cache.count() == 0
    ask(REFUSE[kind])
    yield lambda: ask(MEND[kind])
    engine.dispose()


@contextmanager
def cold(cache, key=KEY):
    """Everything drained and nothing hot, then as it was read back."""
    cache.flush()
    cache.evict(key)
    yield cache.get(key)


@pytest.mark.parametrize("at", [0, 7, 19])
def test_the_culprit_alone(some_stack, poisoned, at, caplog):
    """Of twenty appends one is refused: it alone is set aside, with its reason; the rest is stored, in order."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        for n in range(20):
            session.append(said("poison" if n == at else str(n)))
        others = {key: cache.open(key) for key in ("a", "b", "c")}
        for other in others.values():
            other.append(said("fine"))
        flushed = cache.flush()
        assert (flushed.left, flushed.stopped, cache.stats().dead) == (0, {}, 1)
        kept = [str(n) for n in range(20) if n != at]
        assert contents(session.history()) == kept
        with cold(cache) as again:
            assert (contents(again.history()), again.info.message_count) == (kept, 19)
        assert all(other.history() == said("fine") for other in others.values())
        (letter,) = cache.dead_letters()
        assert (letter.session_key, letter.session_id, letter.kind) == (KEY, session.session_id, "append")
        assert letter.message == {"role": "user", "content": "poison"}
        assert letter.reason in {"23514", "SQLITE_CONSTRAINT_TRIGGER"}
        assert "poison" not in caplog.text + repr(letter.to_dict()["reason"])
        assert any(record.levelname == "ERROR" and record.session_key == KEY for record in caplog.records)
        assert json.loads(json.dumps(letter.to_dict()))["message"] == letter.message
        session.append(said("and on"))
        assert contents(session.history()) == [*kept, "and on"]


def test_what_was_appended_at_once_goes_together(some_stack, poisoned):
    """All or nothing also when it is refused; a replace too."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        session.append(said("first"))
        session.append(said("a", "poison", "c"))
        session.append(said("last"))
        with cold(cache) as again:
            assert contents(again.history()) == ["first", "last"]
        assert [one.message["content"] for one in cache.dead_letters()] == ["a", "poison", "c"]
        session = cache.get(KEY)
        session.replace(said("b", "poison"))
        session.append(said("after"))
        with cold(cache) as again:
            assert contents(again.history()) == ["first", "last", "after"]
        assert [one.kind for one in cache.dead_letters()][3:] == ["replace", "append", "append"]


def test_a_refused_start_takes_its_session_along(some_stack, poisoned):
    """The session before it is current again; whoever holds the refused one is told, and its ops are dead letters too."""
    with some_stack.cache() as cache:
        old = cache.open(KEY)
        old.append(said("old"))
        cache.flush()
        refused = old.reset(title="poison")
        refused.append(said("new"))
        refused.update(metadata={"a": 1})
        cache.flush()
        assert [one.reason for one in cache.dead_letters()][1:] == ["session_missing"] * 2
        with pytest.raises((SessionMoved, SessionDeleted)):
            refused.append(said("late"))
        assert cache.get(KEY).session_id == old.session_id
        assert cache.get(KEY).history() == said("old")
        again = cache.get(KEY).append(said("more"))
        assert again
        with cold(cache) as stands:
            assert stands.history() == said("old", "more")


def test_retrying(some_stack, poisoned):
    """Once the cause is mended they come at the end, in their order, once; what is still refused is a letter again."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        session.append(said("a"))
        session.append(said("poison"), id="telegram-7")
        session.append(said("b", "poison"))
        session.update(title="poison")
        session.append(said("z"))
        cache.flush()
        letters = cache.dead_letters(KEY)
        assert [one.kind for one in letters] == ["append", "append", "append", "update"]
        assert cache.retry_dead(letters[:1]) == 1
        cache.flush()
        assert len(cache.dead_letters()) == 4
        poisoned()
        letters = cache.dead_letters()
        assert cache.retry_dead(letters) == 4
        assert cache.retry_dead(letters) == 0  # they are letters no more; queued again, they are repeats
        cache.flush()
        assert cache.dead_letters() == []
        with cold(cache) as again:
            assert sorted(contents(again.history())) == sorted(["a", "z", "poison", "b", "poison"])
            assert contents(again.history())[:2] == ["a", "z"]
            assert again.info.title == "poison"
            assert again.append(said("poison"), id="telegram-7")
            assert len(again.history()) == 5


def planted(raw, keys, more: tuple[bytes, ...] = ()) -> None:
    """Make dead letters of everything that is pending."""
    letters = [b"5 22001 " + KEY.encode() + b"\n" + one for one in (*raw.lrange(keys.pending, 0, -1), *more)]
    raw.rpush(keys.dead, *letters)
    raw.delete(keys.pending, keys.dirty, keys.backlog, keys.oldest, keys.meta, keys.history)


def test_many_are_tried_at_once(one_stack, monkeypatch):
    """Of one key, in their order, what was appended at once still together, garbage left; without loading the history."""
    monkeypatch.setattr(dead, "TOGETHER", 10)
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said("first"))
        cache.flush()
        keys = cache._state.keyspace.of(KEY)
        for n in range(40):
            session.append(said(str(n), f"{n} too") if n % 3 == 0 else said(str(n)))
        planted(raw, keys, (b"garbage",))
        before = cache.stats().counters
        assert cache.retry_dead(cache.dead_letters()) == 54
        after = cache.stats().counters
        assert after["hydrations"] - before["hydrations"] <= 6
        cache.flush()
        with cold(cache) as again:
            words = [word for n in range(40) for word in ([str(n), f"{n} too"] if n % 3 == 0 else [str(n)])]
            assert contents(again.history()) == ["first", *words]
        assert [one.reason for one in cache.dead_letters()] == ["22001"]
        assert cache.dead_letters()[0].op_id == ""


def test_retrying_without_room(one_stack):
    """What finds no room stays a letter, whole; with room it is queued."""
    with one_stack.cache(max_pending=2) as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        keys = cache._state.keyspace.of(KEY)
        cache.flush()
        session.append(said("1"))
        session.append(said("2"))
        planted(raw, keys)
        cache.get(KEY).append(said("0"))
        with pytest.raises(Backpressure):
            cache.retry_dead(cache.dead_letters())
        assert len(cache.dead_letters()) == 2
        assert raw.llen(keys.pending) == 1
        cache.flush()
        assert cache.retry_dead(cache.dead_letters()) == 2
        with cold(cache) as again:
            assert contents(again.history()) == ["0", "1", "2"]
        assert cache.dead_letters() == []


def test_retrying_a_session(some_stack, poisoned):
    """A start is only retried where no session is current; then its ops find it."""
    with some_stack.cache() as cache:
        session = cache.open(KEY, title="poison")
        session.append(said("a"))
        cache.flush()
        assert [one.kind for one in cache.dead_letters()] == ["start", "append"]
        poisoned()
        other = cache.open(KEY)
        other.append(said("live"))
        assert cache.retry_dead(cache.dead_letters()) == 1
        cache.flush()
        assert "session_missing" in {one.reason for one in cache.dead_letters()}
        assert other.history() == said("live")
        other.delete()
        assert cache.retry_dead(sorted(cache.dead_letters(), key=lambda one: one.kind != "start")) == 2
        cache.flush()
        assert cache.dead_letters() == []
        assert (cache.get(KEY).session_id, cache.get(KEY).history()) == (session.session_id, said("a"))


def test_dropping(some_stack, poisoned):
    """They go, others stay; what is no dead letter is refused."""
    with some_stack.cache() as cache:
        for key in ("a", "b"):
            session = cache.open(key)
            for n in range(3):
                session.append([*said("poison"), {"n": n}])
        cache.flush()
        assert (len(cache.dead_letters()), len(cache.dead_letters("a")), len(cache.dead_letters(limit=4))) == (12, 6, 4)
        assert cache.drop_dead(cache.dead_letters("a")) == 6
        assert cache.drop_dead([]) == cache.retry_dead([]) == 0
        assert {one.session_key for one in cache.dead_letters()} == {"b"}
        assert cache.drop_dead(cache.dead_letters("b")) == 6
        for bad in ([b"x"], ["a"], [None]):
            for call in (cache.drop_dead, cache.retry_dead):
                with pytest.raises(InvalidInput):
                    call(bad)
        for bad in (0, -1, "a", True):
            with pytest.raises(InvalidInput):
                cache.dead_letters(limit=bad)


@pytest.mark.parametrize("element", [b"garbage", b"", b"\xff\xfe", b"9 AAAAAAAAAAAAAAAA x", b"1 2 3 4 5"])
@pytest.mark.parametrize("where", ["head", "middle", "tail"])
def test_what_is_no_op_is_a_dead_letter(one_stack, element, where, caplog):
    """It spoils itself alone."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        keys = cache._state.keyspace.of(KEY)
        session.append(said("a"))
        session.append(said("b", "c"))
        if where == "head":
            raw.lpush(keys.pending, element)
        else:
            session.append(said("d")) if where == "middle" else None
            raw.rpush(keys.pending, element)
        if where == "middle":
            last = raw.lindex(keys.pending, -2)
            raw.lrem(keys.pending, -1, last)
            raw.rpush(keys.pending, last)
        for lane in range(4):
            cache._run(write_behind.drain_lane(cache._state, lane, 4, lambda: False))
        (letter,) = cache.dead_letters()
        assert (letter.reason, letter.session_key, letter.kind, letter.message) == ("corrupt", KEY, "", None)
        assert letter.raw.endswith(b"\n" + element)
        assert cache.retry_dead([letter]) == 0
        assert cache.stats().dirty == 0
        with cold(cache) as again:
            assert contents(again.history()) == ["a", "b", "c"] + ["d"] * (where == "middle")
        assert any(record.levelname == "ERROR" and record.session_key == KEY for record in caplog.records)
        assert cache.drop_dead([letter]) == 1


def test_a_payload_that_cannot_be_read(one_stack):
    """Of a message, an update, a start: it is set aside, and what follows is stored."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        keys = cache._state.keyspace.of(KEY)
        session.append(said("a"))
        for kind in (b"append", b"update"):
            raw.rpush(keys.pending, b"7 %b 0 5 %b %b\nm\n\xc1" % (new_op_id().encode(), kind, session.session_id.encode()))
        raw.hset(keys.meta, "version", 8)
        session.append(said("b"))
        cache.flush()
        assert [(one.reason, one.message) for one in cache.dead_letters()] == [("payload", None)] * 2
        with cold(cache) as again:
            assert contents(again.history()) == ["a", "b"]


def test_a_refused_key_starves_no_other(some_stack, poisoned):
    """Its log alone fills many batches: all others are drained all the same, and it too but for what is refused."""
    with some_stack.cache(batch=20) as cache:
        bad = cache.open("bad")
        for n in range(60):
            bad.append(said("poison" if n % 3 == 0 else str(n)))
        for key in map(str, range(30)):
            cache.open(key).append([{"content": "a"}, {"content": "b"}])
        cache.flush()
        stats = cache.stats()
        assert (stats.dirty, stats.pending, stats.dead, stats.messages) == (0, 0, 20, 100)
        assert contents(bad.history()) == [str(n) for n in range(60) if n % 3]


def test_a_log_delivered_again_makes_no_second_letter(some_stack, poisoned):
    """Whoever refused it died before the ack: the next one refuses it again, and the books are the same."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said("poison"))
        session.append(said("b"))
        keys = cache._state.keyspace.of(KEY)
        log = raw.lrange(keys.pending, 0, -1)
        cache.flush()
        raw.rpush(keys.pending, *log)
        raw.zadd(keys.dirty, {KEY: 0})
        cache.flush()
        letters = cache.dead_letters()
        assert {one.raw.partition(b"\n")[2] for one in letters} == {log[1]}
        assert cache.stats().pending == 0
        with cold(cache) as again:
            assert contents(again.history()) == ["b"]


def test_what_comes_too_late_names_its_reason(some_stack):
    """An op for a deleted session."""
    with some_stack.cache() as cache, some_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said("a"))
        keys = cache._state.keyspace.of(KEY)
        late = raw.lrange(keys.pending, 1, -1)
        cache._run(writing.delete(cache._state, keys, Change(session.session_id, new_op_id()), if_current=True))
        cache.flush()
        raw.rpush(keys.pending, *(one.replace(b"1", b"9", 1) for one in late))
        raw.rpush(keys.pending, b"12 %b 0 5 event %b\nmine\n\x80" % (new_op_id().encode(), session.session_id.encode()))
        raw.zadd(keys.dirty, {KEY: 0})
        cache.flush()
        (letter,) = cache.dead_letters(KEY)
        assert isinstance(letter, DeadLetter)
        assert (letter.reason, letter.message_id, letter.message) == ("session_deleted", "mine", {})


def told_of(caplog) -> list[tuple[str, int, str]]:
    return [(one.session_key, one.ops, one.reason) for one in caplog.records if "dead letters" in one.message]


def test_every_letter_is_counted_and_told_of(one_stack, caplog):
    """One that came for a deleted session too, and two for one that never was: whatever the reason."""
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open(KEY)
        session.append(said("a"))
        cache.flush()
        keys = cache._state.keyspace.of(KEY)
        session.delete()
        cache.flush()
        for version, session_id in ((12, session.session_id), (13, "none"), (14, "none")):
            names = new_op_id().encode(), session_id.encode()
            raw.rpush(keys.pending, b"%d %b 0 5 event %b\nm%d\n\x80" % (version, *names, version))
        raw.zadd(keys.dirty, {KEY: 0})
        cache.flush()
        assert (len(cache.dead_letters()), cache.stats().counters["dead_letters"]) == (3, 3)
    assert told_of(caplog) == [(KEY, 1, "session_deleted"), (KEY, 2, "session_missing")]


@pytest.mark.usefixtures("poisoned")
def test_a_letter_whose_ack_fails_is_counted_once(some_stack, caplog, monkeypatch):
    """The store has refused it by then; the next drain meets it again, and only moves it."""
    acknowledge = commit.acknowledge

    def fail(_state, _outcomes):
        monkeypatch.setattr(commit, "acknowledge", acknowledge)
        raise HotTierUnavailable("away")
        yield

    with some_stack.cache() as cache:
        session = cache.open(KEY)
        cache.flush()
        session.append(said("poison"))
        monkeypatch.setattr(commit, "acknowledge", fail)
        with pytest.raises(HotTierUnavailable):
            cache.flush()
        assert cache.stats().dead == 0
        cache.flush()
        assert (cache.stats().dead, cache.stats().counters["dead_letters"]) == (1, 1)
    assert [told[:2] for told in told_of(caplog)] == [(KEY, 1)]
