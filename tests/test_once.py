"""Point 6: every op takes effect once, in order (I3), whatever is lost, repeated or overtaken."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from children import drain_slowly
from sqlalchemy import create_engine, text

from sessioncache import CorruptLog, SessionCache, SessionDeleted, write_behind
from sessioncache.flow import Transact
from sessioncache.hot import writing
from sessioncache.hot.change import Change
from sessioncache.op import new_op_id
from workers import jobs

KEY = "telegram:dm:42"


def rows(stack):
    """What SQL has: (session key, seq, content), in order."""
    engine = create_engine(stack.database_url)
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT session_key, seq, text FROM messages JOIN sessions USING (session_id) ORDER BY session_key, seq")
        ).all()
    engine.dispose()
    return found


def contents(stack):
    return [row[2] for row in rows(stack)]


@pytest.fixture
def unsure(stack, proxy):
    """A cache behind a proxy that can lose replies."""
    between = proxy(stack.server.socket)
    settings = replace(stack.settings(), redis_url=between.url, redis_timeout=0.5)
    with SessionCache(settings=settings) as cache:
        yield cache, between


@pytest.mark.parametrize("way", ["lose", "swallow"])
@pytest.mark.parametrize("hot", ["hot", "vanished", "flushed and vanished"])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_lost_reply_is_no_second_message(stack, unsure, way, hot, count):
    """The reply to an append is lost after execution and the client repeats it, also when the hot copy vanished between."""
    cache, between = unsure
    session = cache.open(KEY)
    session.append({"content": "first"})
    sent = [{"content": f"unique {n}"} for n in range(count)]

    def vanish():
        between.lost.wait(5)
        with stack.cache() as operator:
            if hot == "flushed and vanished":
                operator.flush()
            operator.evict(KEY)

    thread = threading.Thread(target=vanish if hot != "hot" else between.lost.wait)
    setattr(between, way, b"unique 0")
    if hot == "hot":
        records = session.append(sent)
    else:
        original, waited = cache._run.__self__.driver.perform, []

        def perform(request):
            if between.lost.is_set() and not waited:
                waited.append(thread.join())
            return original(request)

        cache._run.__self__.driver.perform = perform
        thread.start()
        records = session.append(sent)
        assert waited
    assert between.lost.is_set()
    assert cache.stats().counters["retries"] >= 1
    assert session.history() == [{"content": "first"}, *sent]
    assert [one.seq for one in records] == [one.seq for one in session.messages()][1:]
    cache.flush()
    assert contents(stack) == ["first", *(one["content"] for one in sent)]


@pytest.mark.parametrize("verb", [b"start", b"delete"])
def test_a_lost_reply_to_another_op(stack, unsure, verb):
    """Start and delete are as idempotent as append."""
    cache, between = unsure
    keys = cache._state.keyspace.of(KEY)
    between.lose = keys.pending.encode() if verb == b"start" else b"nothing yet"
    session = cache.open(KEY)
    session.append({"content": "a"})
    between.lose = keys.pending.encode()
    if verb == b"delete":
        assert session.delete() is True
    cache.flush()
    assert contents(stack) == ([] if verb == b"delete" else ["a"])


def test_a_job_delivered_twice(stack, monkeypatch):
    """The second delivery finds nothing to do."""
    for name, value in {"REDIS_URL": stack.redis_url, "DATABASE_URL": stack.database_url, "LINGER": "0.1"}.items():
        monkeypatch.setenv(f"SESSIONCACHE_{name}", value)
    jobs.connections.cache_clear()
    with stack.cache() as cache:
        cache.open(KEY).append([{"content": str(n)} for n in range(50)])
        partition = cache._state.keyspace.of(KEY).partition
        assert jobs.drain_lane("sc", partition % 4, 4) == 51
        assert jobs.drain_lane("sc", partition % 4, 4) == 0
    jobs.connections().close()
    jobs.connections.cache_clear()
    assert contents(stack) == [str(n) for n in range(50)]


def test_two_drainers_at_once(stack):
    """Both at the same logs, all the time, while others write."""
    keys = [f"k{n}" for n in range(5)]
    done = threading.Event()

    def drain():
        with stack.cache() as drainer:
            while not done.is_set():
                drainer.flush()

    drainers = [threading.Thread(target=drain) for _ in range(2)]
    for thread in drainers:
        thread.start()
    with stack.cache() as cache:
        sessions = [cache.open(key) for key in keys]
        for n in range(60):
            for session in sessions:
                session.append([{"content": f"{n}"}, {"content": f"{n}b"}])
        done.set()
        for thread in drainers:
            thread.join()
        cache.flush()
        assert cache.stats().dead == 0
    assert [(row[0], row[2]) for row in rows(stack)] == [(k, f"{n}{b}") for k in keys for n in range(60) for b in ("", "b")]


def test_a_drainer_that_is_overtaken(stack):
    """It reads the log, sleeps, and commits after another has drained the same ops and more."""
    read, go = threading.Event(), threading.Event()
    with stack.cache() as cache:
        session = cache.open(KEY)
        session.append([{"content": str(n)} for n in range(10)])
        slow = threading.Thread(target=drain_slowly, args=(stack.settings(), KEY, 0.0, read.set, go.wait))
        slow.start()
        assert read.wait(10)
        cache.flush()
        session.append([{"content": str(n)} for n in range(10, 20)])
        cache.flush()
        session.append([{"content": str(n)} for n in range(20, 30)])
        go.set()
        slow.join()
        expected = [{"content": str(n)} for n in range(30)]
        assert session.history() == expected
        cache.flush()
        cache.evict(KEY)
        assert session.history() == expected
    assert contents(stack) == [str(n) for n in range(30)]


def test_an_op_of_a_later_version_stops_its_key_alone(stack, caplog):
    """Loud, never skipped, and no other key waits."""
    with stack.cache() as cache, stack.raw() as raw:
        cache.open("bad").append({"content": "a"})
        keys = cache._state.keyspace.of("bad")
        raw.rpush(keys.pending, b"9 AAAAAAAAAAAAAAAA 0 5 retitle s\n")
        for n in range(10):
            cache.open(f"k{n}").append({"content": "b"})
        for lane in range(4):
            cache._run(write_behind.drain_lane(cache._state, lane, 4, lambda: False))
        assert {row[0] for row in rows(stack)} == {"bad", *(f"k{n}" for n in range(10))}
        with pytest.raises(CorruptLog, match="upgrade"):
            cache.flush()
        assert raw.llen(keys.pending) == 1
        assert (cache.stats().dirty, cache.stats().dead) == (1, 0)
        assert any(record.levelname == "ERROR" and record.session_key == "bad" for record in caplog.records)


def test_what_moves_while_sql_is_paged_is_read_anew(stack):
    """Deleted and opened again between the page and its check: nothing of the old session shows (I6)."""
    with stack.cache(window=5, near_sessions=0) as cache, stack.cache(window=5) as other:
        session = cache.open(KEY)
        session.append([{"content": f"old {n}"} for n in range(20)])
        perform, moved = cache._connections.driver.perform, []

        def move(request):
            reply = perform(request)
            if isinstance(request, Transact) and "limit" in getattr(request.work, "keywords", {}) and not moved:
                moved.append(other.delete(KEY))
                other.open(KEY).append([{"content": f"new {n}"} for n in range(20)])
            return reply

        cache._connections.driver.perform = move
        with pytest.raises(SessionDeleted):
            session.history()
        assert moved == [True]
        assert [one["content"] for one in cache.get(KEY).history()] == [f"new {n}" for n in range(20)]


def test_batches_are_bounded_in_bytes(stack):
    """Large messages in many sessions: several transactions, none much over the bound, nothing left."""
    with stack.cache(batch_bytes=100_000) as cache:
        for n in range(40):
            cache.open(f"k{n}").append([{"content": "x" * 20_000}, {"content": "y" * 20_000}])
        sizes = []
        perform = cache._connections.driver.perform

        def measured(request):
            if isinstance(request, Transact) and request.writes:
                logs = request.work.keywords["logs"]
                sizes.append(sum(len(op.payload) for log in logs for op in log.ops))
            return perform(request)

        cache._connections.driver.perform = measured
        cache.flush()
        assert max(sizes) < 150_000
        assert len(sizes) > 12
        assert cache.stats().pending == 0
    assert len(rows(stack)) == 80


def test_flush_and_reads_end_while_others_write(stack):
    """They go as far as the logs reached when they began."""
    done = threading.Event()

    def write():
        with stack.cache(window=20, max_pending=10**6) as other:
            session = other.open(KEY)
            while not done.is_set():
                session.append([{"content": "x"}] * 5)
                time.sleep(0.01)

    writers = [threading.Thread(target=write) for _ in range(2)]
    with stack.cache(window=20, near_sessions=0, hydration_timeout=20.0) as cache:
        session = cache.open(KEY)
        session.append([{"content": "first"}] * 100)
        for thread in writers:
            thread.start()
        start = time.monotonic()
        try:
            for _ in range(3):
                cache.flush()
                cache.flush(KEY)
                assert len(session.history()) >= 100
            assert time.monotonic() - start < 60
        finally:
            done.set()
            for thread in writers:
                thread.join()


def test_a_repeat_in_the_same_log_is_skipped(stack):
    """Redis forgot the op and took it again before it was drained."""
    with stack.cache() as cache, stack.raw() as raw:
        session = cache.open(KEY)
        session.append({"content": "a"}, id="one")
        keys = cache._state.keyspace.of(KEY)
        element = raw.lindex(keys.pending, -1)
        version, rest = element.split(b" ", 1)
        raw.rpush(keys.pending, b"%d %b" % (int(version) + 7, rest))
        cache.flush()
        cache.evict(KEY)
        assert session.history() == [{"content": "a"}]
        assert cache.stats().pending == 0


@pytest.mark.parametrize("ids", [None, ["one", "two"]])
def test_a_log_with_a_delete_delivered_again(stack, ids):
    """What was applied before the delete is known though its message is gone: a repeat, no dead letter."""
    with stack.cache() as cache, stack.raw() as raw:
        session = cache.open(KEY)
        session.append([{"content": "a"}, {"content": "b"}], id=ids)
        keys = cache._state.keyspace.of(KEY)
        cache._run(writing.delete(cache._state, keys, Change(session.session_id, new_op_id()), if_current=True))
        log = raw.lrange(keys.pending, 0, -1)
        assert cache.flush().ops == 4
        raw.rpush(keys.pending, *log)
        raw.zadd(keys.dirty, {KEY: 0})
        assert cache.flush().ops == 4
        assert cache.stats().dead == 0
        assert contents(stack) == []


def test_an_op_for_a_deleted_session_is_a_dead_letter(stack):
    """It waited in a log that came back from a snapshot; it is kept, apart, and never revives the session (I6)."""
    with stack.cache() as cache, stack.raw() as raw:
        session = cache.open(KEY)
        session.append({"content": "a"})
        cache.flush()
        keys = cache._state.keyspace.of(KEY)
        session.append({"content": "late"})
        log = raw.lrange(keys.pending, 0, -1)
        raw.delete(keys.pending, keys.dirty, keys.meta, keys.history)
        cache.delete(KEY)
        cache.flush()
        raw.delete(keys.meta)
        raw.rpush(keys.pending, *log)
        raw.zadd(keys.dirty, {KEY: 0})
        cache.flush()
        assert cache.stats().dead == 1
        (letter,) = raw.lrange(keys.dead, 0, -1)
        assert b"session_deleted" in letter
        assert letter.endswith(log[0])
        assert contents(stack) == []
        with pytest.raises(LookupError):
            cache.get(KEY)
