"""Redis is away: histories come from SQL where that is allowed, marked stale; nothing else does."""

from __future__ import annotations

import pytest
from conftest import Stack, binary_of
from doors import DOORS, opener
from servers import RedisServer

from sessioncache import (
    HotTierUnavailable,
    SessionDeleted,
    SessionMoved,
    SessionNotFound,
    StaleHistory,
)

KEY = "telegram:dm:42"
QUICK = {"redis_timeout": 2.0, "timeout": 2.0}


def says(content: str) -> dict:
    return {"role": "user", "content": content}


@pytest.fixture(params=DOORS)
def away(request, tmp_path):
    """A door over a Redis that can go and come back with its data."""
    server = RedisServer(binary_of("valkey9"), appendonly="yes", appendfsync="always").start()
    stack = Stack("own", server, server.url, f"sqlite:///{tmp_path}/store.db")
    with opener(stack, request.param, **QUICK) as door:
        yield server, door
    server.close()


def test_every_history_is_served_and_marked(away):
    """What SQL has, each kind of it marked; afterwards all is fresh at once, and nothing stale was kept."""
    server, door = away
    cache = door(stale_reads=True)
    session = cache.open(KEY, owner="alice")
    session.append([says("a"), says("b"), says("c")])
    cache.flush()
    session.append(says("pending"))
    assert not session.messages().stale
    assert type(session.history()) is list
    server.kill()

    three = [says("a"), says("b"), says("c")]
    assert session.messages().stale
    assert session.history() == three
    assert isinstance(session.history(2), StaleHistory)
    assert session.history(2) == three[1:]
    assert [one.data for one in session.messages(before=session.messages()[1].seq)] == three[:1]
    assert isinstance(session.context(), StaleHistory)
    assert session.context() == three
    assert [(one.data, one.stale) for one in session.iterate(page=2)] == [(one, True) for one in three]
    assert cache.read(session.session_id, owner="alice").stale
    assert cache.read(session.session_id).data() == three
    assert cache.get(KEY, owner="alice").stale
    assert cache.get(KEY).history() == three
    assert cache._state.counters.snapshot()["stale_reads"] > 0

    server.start()
    assert session.history() == [*three, says("pending")]
    assert type(session.history()) is list
    assert not session.messages().stale
    assert not any(one.stale for one in session.iterate())
    assert not cache.get(KEY).stale
    assert session.append(says("d"))[0].data == says("d")


def test_nothing_is_kept_near(away):
    """A stale read leaves the near copy as it was."""
    server, door = away
    cache = door(stale_reads=True)
    session = cache.open(KEY)
    session.append(says("a"))
    cache.flush()
    cache._state.near.drop(KEY)
    server.kill()
    assert session.history() == [says("a")]
    assert cache._state.near.get(KEY) is None


def test_without_the_setting_it_is_an_error(away):
    """As ever."""
    server, door = away
    cache = door()
    session = cache.open(KEY)
    session.append(says("a"))
    cache.flush()
    server.kill()
    for call in (
        session.history, session.messages, session.context, lambda: list(session.iterate()), lambda: cache.get(KEY),
        lambda: cache.read(session.session_id),
    ):  # fmt: skip
        with pytest.raises(HotTierUnavailable):
            call()


def test_whatever_changes_something_is_an_error(away):
    """Also what would read first: nothing is changed on the ground of a stale view."""
    server, door = away
    cache = door(stale_reads=True)
    session = cache.open(KEY)
    session.append([says(str(n)) for n in range(5)])
    cache.flush()
    server.kill()
    shown = []
    for call in (
        lambda: session.append(says("b")), session.pop, session.reset, session.clear, session.delete,
        lambda: session.cap(2, archive=shown.append), lambda: cache.open(KEY), lambda: cache.ensure(KEY),
        lambda: cache.get(KEY).append(says("b")),
    ):  # fmt: skip
        with pytest.raises(HotTierUnavailable):
            call()
    assert shown == []


def test_whose_it_is_not_and_what_is_gone_is_not_shown(away):
    """Owners are kept apart, deleted stays deleted, a handle shows its own session; what SQL does not know is no news."""
    server, door = away
    cache = door(stale_reads=True)
    session = cache.open(KEY, owner="alice")
    session.append(says("first"))
    second = session.reset()
    second.append(says("second"))
    gone = cache.open("gone")
    gone.append(says("gone"))
    taken = cache.create("taken")
    cache.open("taker").switch(taken.session_id)
    gone.delete()
    cache.flush()
    pending = cache.open("pending")
    pending.append(says("pending"))
    server.kill()

    assert session.history() == [says("first")]
    assert second.history() == [says("second")]
    with pytest.raises(SessionDeleted):
        gone.history()
    with pytest.raises(SessionMoved):
        taken.history()
    for call in (
        lambda: cache.get(KEY, owner="bob"), lambda: cache.read(second.session_id, owner="bob"),
        lambda: cache.read(gone.session_id),
    ):  # fmt: skip
        with pytest.raises(SessionNotFound):
            call()
    for call in (
        pending.history, lambda: cache.get("pending"), lambda: cache.read(pending.session_id), lambda: cache.get("gone"),
    ):  # fmt: skip
        with pytest.raises(HotTierUnavailable):
            call()
