"""Keeping house: clean-up, archive, prune, retention; what they leave alone; the jobs and the schedule."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from clock import Clock
from test_workers import until, workers

from sessioncache import Kept, SessionCache, SessionDeleted, SessionMoved, housekeeping
from workers import jobs
from workers.schedule import Schedule

DAY = 86_400.0
deleted: list[tuple[str, str, str | None]] = []


def note(session_id: str, session_key: str, owner: str | None) -> None:
    """Be `on_delete`."""
    deleted.append((session_id, session_key, owner))


@pytest.fixture
def clock(some_stack, monkeypatch):
    """Our own time, until a test moves it."""
    raw = some_stack.raw()
    while not raw.info("server")["uptime_in_seconds"]:
        time.sleep(0.05)
    yield Clock(monkeypatch, raw, datetime.now(UTC))
    raw.close()


AGES = {"empty_after": 3600.0, "archive_after": 30 * DAY, "prune_after": 90 * DAY, "retention": 180 * DAY}


@pytest.fixture
def cache(some_stack, clock):
    """A cache whose workers would keep house."""
    deleted.clear()
    with some_stack.cache(hold=0.2, on_delete="test_housekeeping:note", **AGES) as cache:
        yield cache


def opened(cache, clock, key, *, days, messages=1, **update):
    """A session that was used so many days ago, in SQL and nowhere else."""
    now = clock.now
    clock.set(now - timedelta(days=days))
    session = cache.open(key, owner="alice")
    if messages:
        session.append([{"content": "a"}] * messages)
    if update:
        session.update(**update)
    cache.flush(key)
    cache.evict(key)
    clock.set(now)
    return session


def states(cache) -> dict[str, str]:
    """What became of each key's sessions."""
    found = cache.list(archived=None, ended=None, limit=1000, fresh=True).sessions
    return {one.info.key: one.info.end_reason or ("archived" if one.info.archived else "live") for one in found}


def test_each_chore(cache, clock):
    """Empty ones go, old ones are archived, idle ones end, ended ones go; the rest stays; a second run finds nothing."""
    opened(cache, clock, "empty", days=1, messages=0)
    opened(cache, clock, "young", days=0.01, messages=0)
    opened(cache, clock, "old", days=40)
    opened(cache, clock, "recent", days=10)
    opened(cache, clock, "idle", days=100)
    retired = opened(cache, clock, "retired", days=300)
    clock.set(clock.now - timedelta(days=200))
    fresh = cache.get("retired").reset()
    clock.set(clock.now + timedelta(days=200))
    fresh.append({"content": "b"})
    cache.flush()
    cache.evict("retired")
    before = states(cache)
    assert cache.keep_house(dry_run=True) == Kept(deleted=1, archived=2, pruned=1, retired=1)
    assert states(cache) == before
    assert deleted == []
    assert cache.keep_house() == Kept(deleted=1, archived=2, retired=1, left=1)  # what was just archived is dirty
    cache.flush()
    assert cache.keep_house() == Kept(pruned=1)
    assert states(cache) == {"young": "live", "old": "archived", "recent": "live", "idle": "pruned", "retired": "live"}
    assert {key for _, key, _ in deleted} == {"empty", "retired"}
    assert {owner for *_, owner in deleted} == {"alice"}
    assert retired.session_id in {session_id for session_id, *_ in deleted}
    assert cache.keep_house() == Kept()
    assert cache.open("idle").history() == []
    assert cache.get("old").history() == [{"content": "a"}]


def test_what_is_left_alone(cache, clock):
    """Dirty, held, important (archive), suspended (prune) sessions, and those used since SQL heard of them."""
    for days, name in [(1, "empty"), (40, "old"), (100, "idle")]:
        count = int(name != "empty")
        opened(cache, clock, f"{name} dirty", days=days, messages=count)
        cache.get(f"{name} dirty").update(title="t")
        opened(cache, clock, f"{name} held", days=days, messages=count)
        opened(cache, clock, f"{name} used", days=days, messages=count)
    opened(cache, clock, "important", days=40, important=True)
    opened(cache, clock, "suspended", days=100, suspended=True, important=True)
    used = [cache.get(f"{name} used") for name in ("empty", "old", "idle")]
    held = [cache.get(f"{name} held").hold("x") for name in ("empty", "old", "idle")]
    for one in used:
        one.append({"content": "b"})
    with held[0], held[1], held[2]:
        kept = cache.keep_house()
    assert (kept.deleted, kept.archived, kept.pruned, kept.retired, kept.failed) == (0, 0, 0, 0, {})
    assert set(states(cache).values()) == {"live"}


def test_a_message_that_comes_first_wins(cache, clock):
    """Something was written between the look and the act: nothing is done, and nothing lost."""
    session, read = opened(cache, clock, "k", days=1, messages=0), []
    plain = housekeeping.reading.look

    def look(state, keys):
        found = yield from plain(state, keys)
        if found and not read:
            read.append(session.append({"content": "new"}))
        return found

    housekeeping.reading.look = look
    try:
        assert cache.keep_house().deleted == 0
    finally:
        housekeeping.reading.look = plain
    assert read
    assert session.history() == [{"content": "new"}]


def test_it_brings_no_history_into_redis(cache, clock, some_stack):
    """A run over many old sessions leaves no copy of them behind."""
    for n in range(5):
        opened(cache, clock, f"old{n}", days=40, messages=50)
    assert cache.keep_house().archived == 5
    with some_stack.raw() as raw:
        cache.flush()
        assert raw.keys("sc:*:history:*") + raw.keys("sc:*:meta:*") == []


def test_a_resumed_session_is_not_retired(cache, clock):
    """It ended long ago, but somebody brings it back just now: it stays."""
    old = opened(cache, clock, "k", days=300)
    clock.set(clock.now - timedelta(days=200))
    cache.get("k").reset()
    cache.flush()
    clock.set(clock.now + timedelta(days=200))
    back = cache.resume(old.session_id)
    assert cache.keep_house().retired == 0
    assert back.history() == [{"content": "a"}]


def test_a_run_that_breaks_off_goes_on(cache, clock, monkeypatch):
    """In slices, each from where the last one ended; also past sessions that it had to leave."""
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    for n in range(7):
        opened(cache, clock, f"old{n}", days=40 + n)
    with cache.get("old3").hold("x"), cache.get("old5").hold("x"):
        kept, place, runs = 0, None, 0
        while runs == 0 or place is not None:
            ticks = iter((0.0, 0.0, 9.0, 9.0))
            monkeypatch.setattr(housekeeping.time, "monotonic", lambda ticks=ticks: next(ticks, 9.0))
            found = cache._run(housekeeping.keep_house(cache._state, place=place, seconds=1))
            monkeypatch.undo()
            kept, place, runs = kept + found.archived, found.place, runs + 1
            monkeypatch.setattr(housekeeping, "BATCH", 2)
    assert kept == 5
    assert runs >= 3


def test_one_that_cannot_be_read_stops_no_other(cache, clock, some_stack):
    """Its log holds nonsense: it is named, the others are done."""
    opened(cache, clock, "bad", days=40)
    opened(cache, clock, "good", days=40)
    keys = cache._state.keyspace.of("bad")
    with some_stack.raw() as raw:
        raw.hset(keys.meta, "run", "nonsense")
        raw.rpush(keys.pending, "nonsense")
        assert cache.keep_house().archived == 1
        raw.delete(keys.pending, keys.meta)
    assert cache.keep_house().archived == 1


def test_workers_keep_house(some_stack):
    """The schedule enqueues it, first at once; a worker does it."""
    with some_stack.cache() as cache:
        cache.open("k")
        cache.flush()
    settings = some_stack.settings(empty_after=0.01, hold=0.1, lanes=1)
    with workers(settings, "--processes", "1"), some_stack.cache() as cache:
        until(lambda: cache.count() == 0)


def test_the_schedule_enqueues_chores_once(one_stack):
    """One job of a kind waits at a time; none where the settings ask for none."""
    from sessioncache.connect import BlockingConnections

    for changes, names in [
        ({}, []),
        ({"prune_after": 1.0}, [jobs.KEEP_HOUSE]),
        ({"on_expiring": "a:b"}, [jobs.TELL_EXPIRING]),
    ]:
        connections = BlockingConnections(one_stack.settings(housekeeping=0.001, sweep=0.001, **changes))
        schedule = Schedule(connections, threading.Event())
        for _ in range(3):
            assert schedule.tick()
            time.sleep(0.01)
        found = [job.func_name for job in schedule_jobs(schedule)]
        assert found == names
        schedule._give_back()
        schedule._queue.flushall()
        schedule._queue.close()
        connections.close()


def schedule_jobs(schedule):
    """The jobs that wait."""
    from rq import Queue
    from rq.serializers import JSONSerializer

    return Queue(schedule._settings.queue, connection=schedule._queue, serializer=JSONSerializer).jobs


@pytest.mark.parametrize("place", [["nothing", 0, ""], [1], "deleted", ["deleted", "x", ""], ["deleted", 0, None]])
def test_a_place_that_is_none_is_refused(one_stack, monkeypatch, place):
    """Whatever a job's arguments say, it can do nothing else."""
    from sessioncache import ConfigurationError

    monkeypatch.setattr(jobs, "settings_from", lambda _: one_stack.settings())
    jobs.connections.cache_clear()
    with pytest.raises(ConfigurationError):
        jobs.keep_house("sc", place)
    jobs.connections().close()
    jobs.connections.cache_clear()


def test_the_hook_is_called_for_each_deletion(cache):
    """By key, by session, by id, of an owner; a session that is not there calls nothing."""
    first = cache.open("a", owner="alice")
    assert cache.delete("a")
    assert not cache.delete("a")
    second = cache.open("b")
    second.append({"content": "x"})
    assert second.delete()
    assert not second.delete()
    third = cache.open("c", owner="bob")
    assert cache.delete_session(third.session_id, owner="bob")
    fourth = cache.open("d", owner="eve")
    assert cache.delete_owner("eve").sessions == 1
    ids = [first.session_id, second.session_id, third.session_id, fourth.session_id]
    assert [(one[0], one[1]) for one in deleted] == list(zip(ids, "abcd", strict=True))
    for session in (first, second, third, fourth):
        with pytest.raises((SessionDeleted, SessionMoved)):
            session.append({"content": "late"})


def test_close_flushes(some_stack):
    """With a deadline; it says what is left."""
    cache = some_stack.cache()
    for n in range(20):
        cache.open(f"k{n}").append({"content": "a"})
    assert cache.flush(timeout=0).left == 40
    report = cache.close(flush=True, timeout=30)
    assert (report.ops, report.left) == (40, 0)
    assert SessionCache.close(some_stack.cache()) is None
