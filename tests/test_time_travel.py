"""Points 4 and 7: reset policies, holds and what is told before a reset, by a clock that the test moves."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from clock import Clock

from sessioncache import Info, ResetPolicies, SessionCache, SessionMoved
from workers import jobs

KEY = "telegram:dm:42"
NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")

told: list[Info] = []


def berlin(*parts):
    """A time there."""
    return datetime(*parts, tzinfo=BERLIN)


def note(info: Info) -> None:
    """Be `on_expiring`."""
    told.append(info)


@pytest.fixture
def clock(some_stack, monkeypatch):
    """Noon of an ordinary day, in a year that our own clock does not show."""
    raw = some_stack.raw()
    while not raw.info("server")["uptime_in_seconds"]:  # policies wait for holds that were lost, whole seconds
        time.sleep(0.05)
    yield Clock(monkeypatch, raw, NOON)
    raw.close()


@pytest.fixture
def door(some_stack):
    """Opens caches whose policies need not wait for holds that were lost."""
    opened = []

    def make(reset=None, **changes):
        changes = {"hold": 0.2, **changes}
        cache = some_stack.cache(reset="" if reset is None else ResetPolicies.parse(reset).to_json(), **changes)
        opened.append(cache)
        return cache

    yield make
    for cache in opened:
        cache.close()


@pytest.fixture(params=["hot", "cold"])
def settle(request):
    """What lies between a write and the next opening."""

    def do(cache):
        if request.param == "cold":
            cache.flush(KEY)
            cache.evict(KEY)

    return do


def test_idle(clock, door, settle):
    """Strictly after so many minutes without a message or usage; once, for one opener, who learns why."""
    ours, theirs = door({"mode": "idle", "idle_minutes": 60}), door({"mode": "idle", "idle_minutes": 60})
    session = ours.open(KEY, owner="alice", title="Trip", platform="telegram", origin={"chat": 1}, display_name="Al")
    session.append({"content": "a"})
    session.record_usage(input_tokens=1)
    clock.forward(minutes=60)
    settle(ours)
    assert not ours.open(KEY).was_reset
    clock.forward(milliseconds=1)
    settle(ours)
    fresh = theirs.open(KEY)
    assert (fresh.was_reset, fresh.reset_reason, fresh.had_activity) == (True, "idle", True)
    assert fresh.session_id != session.session_id
    kept = fresh.info
    assert (kept.owner, kept.platform, kept.origin, kept.display_name) == ("alice", "telegram", {"chat": 1}, "Al")
    assert (kept.title, kept.usage.total_tokens, kept.message_count, kept.metadata) == (None, 0, 0, {})
    settle(ours)
    assert not ours.open(KEY).was_reset
    assert ours.open(KEY).session_id == fresh.session_id
    with pytest.raises(SessionMoved):
        session.append({"content": "late"})
    assert fresh.history() == []
    assert ours.read(session.session_id).data() == [{"content": "a"}]
    ended = {one.session_id: one for one in ours.past(KEY)}[session.session_id]
    assert (ended.end_reason, ended.ended_at, ended.title) == ("session_reset", clock.now, "Trip")
    settle(ours)
    assert ours.open(KEY).info.display_name == "Al"


def test_only_messages_and_usage_are_activity(clock, door, settle):
    """Openings, reads, renames and events do not keep a session; a message or usage does."""
    cache = door({"mode": "idle", "idle_minutes": 60})
    session = cache.open(KEY)
    for act, keeps in [
        (lambda one: one.append({"content": "a"}), True),
        (lambda one: one.record_usage(output_tokens=1), True),
        (lambda one: one.replace([{"content": "b"}]), True),
        (lambda one: one.update(title="t", metadata={"a": 1}, important=True), False),
        (lambda one: one.append({"content": "e"}, activity=False), False),
        (lambda one: one.history(), False),
        (lambda _: cache.open(KEY), False),
    ]:
        clock.forward(minutes=40)
        act(session)
        settle(cache)
        clock.forward(minutes=40)
        now = cache.open(KEY)
        assert now.was_reset is not keeps
        session = now


def test_a_session_without_activity(clock, door, settle):
    """Its opener learns that the old one was not used."""
    cache = door({"mode": "idle", "idle_minutes": 1})
    cache.open(KEY)
    clock.forward(minutes=2)
    settle(cache)
    fresh = cache.open(KEY)
    assert (fresh.was_reset, fresh.had_activity) == (True, False)


@pytest.mark.parametrize(
    ("last", "before", "after"),
    [
        (berlin(2026, 3, 28, 12), berlin(2026, 3, 29, 3, 59, 59), berlin(2026, 3, 29, 4)),
        (berlin(2026, 10, 24, 12), berlin(2026, 10, 25, 3, 59, 59), berlin(2026, 10, 25, 4)),
        (berlin(2026, 5, 5, 4), berlin(2026, 5, 6, 3, 59, 59), berlin(2026, 5, 6, 4)),
    ],
)
def test_daily(clock, door, settle, last, before, after):
    """At four in the morning there, also in the nights in which an hour is left out or comes twice."""
    cache = door({"mode": "daily", "at_hour": 4, "zone": "Europe/Berlin"})
    clock.set(last)
    cache.open(KEY).append({"content": "a"})
    clock.set(before)
    settle(cache)
    assert not cache.open(KEY).was_reset
    clock.set(after)
    settle(cache)
    assert cache.open(KEY).reset_reason == "daily"
    assert not cache.open(KEY).was_reset


@pytest.mark.parametrize(("day", "hours"), [(berlin(2026, 3, 28, 4), 23), (berlin(2026, 10, 24, 4), 25)])
def test_a_day_of_another_length(clock, door, day, hours):
    """Between two boundaries lie 23 or 25 hours when the clocks change."""
    cache = door({"mode": "daily", "at_hour": 4, "zone": "Europe/Berlin"})
    clock.set(day)
    cache.open(KEY).append({"content": "a"})
    clock.forward(hours=hours, seconds=-1)
    assert not cache.open(KEY).was_reset
    clock.forward(seconds=1)
    assert cache.open(KEY).was_reset


def test_both_and_precedence(clock, door, settle):
    """Idle is tested first; the platform's policy counts, else that of the chat type, else the default."""
    policy = {
        "default": {"mode": "both", "idle_minutes": 600, "at_hour": 4},
        "by_platform": {"web": {"mode": "none"}},
        "by_type": {"group": {"mode": "idle", "idle_minutes": 30}},
    }
    cache = door(policy)
    kinds = {
        "plain": {},
        "web": {"platform": "web", "chat_type": "group"},
        "group": {"platform": "x", "chat_type": "group"},
    }
    for key, kind in kinds.items():
        cache.open(key, **kind).append({"content": "a"})
    clock.forward(minutes=31)
    settle(cache)
    assert {key: cache.open(key).reset_reason for key in kinds} == {"plain": None, "web": None, "group": "idle"}
    clock.set(NOON + timedelta(hours=16, minutes=1))
    settle(cache)
    assert cache.open("plain").reset_reason == "idle"
    assert cache.open("web").reset_reason is None
    clock.set(datetime(2026, 5, 6, 3, 0, tzinfo=UTC))
    cache.open("late").append({"content": "a"})
    clock.set(datetime(2026, 5, 6, 4, 0, tzinfo=UTC))
    assert cache.open("late").reset_reason == "daily"


def test_suspended_begins_afresh(clock, door, settle):
    """Whatever the policy, also while it is held; `get` and `ensure` leave it."""
    cache = door()
    session = cache.open(KEY)
    session.append({"content": "a"})
    session.update(suspended=True)
    settle(cache)
    with session.hold("indexer"):
        assert cache.get(KEY).session_id == cache.ensure(KEY).session_id == session.session_id
        fresh = cache.open(KEY)
    assert (fresh.reset_reason, fresh.info.suspended) == ("suspended", False)


def test_holds_beat_policies(clock, door, settle):
    """While one is alive; by session key; it renews itself, and it ends by itself if its process dies."""
    cache = door({"mode": "idle", "idle_minutes": 1})
    session = cache.open(KEY)
    with session.hold("indexer", ttl=0.2), cache.open("other").hold("other"):
        clock.forward(hours=1)
        time.sleep(1.0)  # the renewals go on, by the clock that stands
        settle(cache)
        assert not cache.open(KEY).was_reset
    assert cache.open(KEY).was_reset
    right = cache.open(KEY).hold("dies", ttl=0.2)
    right._run(right._right.take())
    clock.forward(hours=1)
    assert cache.open(KEY).was_reset


def test_a_hold_that_cannot_be_asked_for_counts(clock, door, some_stack):
    """Somebody put another type there: held."""
    cache = door({"mode": "idle", "idle_minutes": 1})
    cache.open(KEY)
    clock.forward(hours=1)
    holds = cache._state.keyspace.of(KEY).holds
    with some_stack.raw() as raw:
        raw.set(holds, "nonsense")
        assert not cache.open(KEY).was_reset
        raw.delete(holds)
    assert cache.open(KEY).was_reset


def test_after_a_restart_policies_wait(own_server, tmp_path):
    """Redis has been up for less than a hold may last: holds may have been lost."""
    url = own_server().url
    reset = '{"mode": "idle", "idle_minutes": 0.001}'
    settings = {"redis_url": url, "database_url": f"sqlite:///{tmp_path}/a.db", "reset": reset}
    with SessionCache.from_url(**settings, hold=3600) as patient, SessionCache.from_url(**settings, hold=0.1) as hasty:
        patient.open(KEY)
        time.sleep(0.1)
        assert not patient.open(KEY).was_reset
        deadline = time.monotonic() + 10
        while not hasty.open(KEY).was_reset:
            assert time.monotonic() < deadline


def test_told_once_before_the_reset(clock, door, some_stack, monkeypatch):
    """Each session that is about to be reset, once; after new activity once more; held ones not."""
    told.clear()
    reset = {"mode": "idle", "idle_minutes": 60}
    cache = door(reset, on_expiring="test_time_travel:note", expiring_ahead=600)
    now = datetime.now(UTC)
    for key, minutes in {"soon": 55, "over": 90, "held": 58, "later": 20}.items():
        clock.set(now - timedelta(minutes=minutes))
        cache.open(key, owner="alice").append({"content": "a"})
    clock.set(now)
    jobs.connections.cache_clear()
    monkeypatch.setattr(jobs, "settings_from", lambda _: cache.settings)
    try:
        cache.flush()
        with cache.get("held").hold("indexer"):
            assert jobs.tell_expiring(cache.settings.prefix) == 2
        assert {one.key for one in told} == {"soon", "over"}
        assert {one.owner for one in told} == {"alice"}
        cache.flush()
        assert jobs.tell_expiring(cache.settings.prefix) == 1
        for key in ("soon", "over", "held"):
            cache.evict(key)
        cache.flush()
        assert jobs.tell_expiring(cache.settings.prefix) == 0
        clock.set(now - timedelta(minutes=52))
        cache.get("soon").append({"content": "b"})
        cache.flush()
        clock.set(now)
        assert jobs.tell_expiring(cache.settings.prefix) == 1
        assert [one.key for one in told][2:] == ["held", "soon"]
        assert cache.open("over").was_reset
        assert not cache.open("soon").was_reset
    finally:
        jobs.connections().close()
        jobs.connections.cache_clear()
