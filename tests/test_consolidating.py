"""What others do while a history is cut down: each race as one schedule, and archives of both kinds."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from contract import contents, said
from contract_conversation import TURNS

from sessioncache import (
    AsyncSessionCache,
    HookFailed,
    InvalidInput,
    SessionCache,
    SessionMoved,
    TurnTimeout,
    VersionConflict,
)
from sessioncache.lifecycle import titles

KEY = "telegram:dm:42"


@pytest.mark.parametrize("then", ["nothing", "flush", "evict"])
def test_what_is_appended_while_an_archive_runs_stays(some_stack, then):
    """It is neither archived nor dropped, also where the hot copy goes, and what else has to go is archived too."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session, archived = cache.open(KEY), []
        records = session.append(TURNS)

        def archive(going):
            archived.extend(going)
            if len(archived) == 6:
                other.get(KEY).append(said("late"))
                {"nothing": lambda _: None, "flush": other.flush, "evict": other.evict}[then](KEY)

        gone = 8 if then == "evict" else 6
        assert session.cap(6, archive=archive) == gone
        assert archived == records[:gone]
        left = [*contents(TURNS[gone:]), "late"]
        assert contents(session.history()) == contents(other.get(KEY).history()) == left
        cache.flush()
        cache.evict(KEY)
        assert contents(session.history()) == left
        assert session.refresh().message_count == len(left)


@pytest.mark.parametrize("change", ["remove", "replace", "edit"])
def test_what_is_changed_while_an_archive_runs_is_looked_at_again(some_stack, change):
    """What then goes is archived as it is then, and nothing twice; nothing goes that was not."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session, archived = cache.open(KEY), []
        records = session.append(TURNS)
        changes = {
            "remove": lambda one: one.remove(records[0].id),
            "replace": lambda one: one.replace([*said("other"), *TURNS[1:]]),
            "edit": lambda one: one.edit(records[0].id, said("other")[0]),
        }

        def archive(going):
            archived.append(contents(going))
            if len(archived) == 1:
                changes[change](other.get(KEY))

        gone = session.cap(6, archive=archive)
        again = {"remove": [], "edit": [["other"]], "replace": [["other", *contents(TURNS[1:6])]]}
        assert archived == [contents(TURNS[:6]), *again[change]]
        assert gone == (5 if change == "remove" else 6)
        assert contents(session.history()) == contents(TURNS[6:])


def test_two_that_cap_at_once_drop_once(some_stack):
    """Whoever comes second finds nothing over the limit any more."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session, second = cache.open(KEY), []
        records = session.append(TURNS)
        gone = session.cap(6, archive=lambda _: second.append(other.get(KEY).cap(6)))
        assert (gone, second) == (0, [6])
        assert list(session.messages()) == records[6:]


def test_a_session_that_is_reset_while_an_archive_runs_keeps_its_messages(some_stack):
    """The cap says that the session has moved; nothing of either is dropped."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session = cache.open(KEY)
        records = session.append(TURNS)
        with pytest.raises(SessionMoved):
            session.cap(6, archive=lambda _: other.get(KEY).reset().append(said("new")))
        assert list(cache.read(session.session_id)) == records
        assert contents(cache.get(KEY).history()) == ["new"]


def test_a_version_that_has_passed(some_stack):
    """A retain for a version does not happen at another one, though its messages are the same."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        version = session.append(TURNS)[-1].seq
        session.update(title="Trip")
        for cut in (session.retain, session.cap):
            with pytest.raises(VersionConflict):
                cut(6, expected_version=version)
        assert len(session.history()) == 12
        assert session.retain(6, expected_version=version + 1) == 6


def test_an_awaited_archive(one_stack):
    """A coroutine is awaited on the loop of whoever caps; what it raises changes nothing."""

    async def capped():
        async with AsyncSessionCache(settings=one_stack.settings()) as cache:
            session, archived = await cache.open(KEY), []
            records = await session.append(TURNS)

            async def fail(_records):
                await asyncio.sleep(0)
                raise OSError

            async def archive(going):
                await asyncio.sleep(0)
                archived.extend(going)

            with pytest.raises(HookFailed):
                await session.cap(6, archive=fail)
            assert len(await session.history()) == 12
            assert await session.cap(6, archive=archive) == 6
            assert archived == records[:6]

    asyncio.run(capped())


def test_many_ask_for_one_title_at_once(some_stack):
    """Twelve servers give the same title to sessions of one owner: each gets another number."""
    settings = some_stack.settings()

    def entitled(number: int) -> str:
        with SessionCache(settings=settings) as cache:
            return cache.open(f"k{number}", owner="alice").unique_title("Trip")

    with ThreadPoolExecutor(12) as pool:
        given = sorted(pool.map(entitled, range(12)))
    assert given == sorted(["Trip", *(f"Trip #{number}" for number in range(2, 13))])


def test_a_title_is_waited_for_with_a_deadline(one_stack, monkeypatch):
    """Another server gives titles all the time; a dead one's right ends by itself."""
    monkeypatch.setattr(titles, "TIMEOUT", 0.2)
    with one_stack.cache() as cache, one_stack.raw() as raw:
        session = cache.open(KEY, owner="alice")
        key = cache._state.keyspace.titles("alice", "Trip")
        raw.set(key, "another", px=60_000)
        with pytest.raises(TurnTimeout):
            session.unique_title("Trip")
        raw.pexpire(key, 100)
        monkeypatch.setattr(titles, "TIMEOUT", 5)
        assert session.unique_title("Trip") == "Trip"
        assert not raw.exists(key)


@pytest.mark.parametrize("cut", ["retain", "cap"])
def test_a_late_repeat_at_a_boundary(some_stack, cut):
    """A repeat of an old message is found when draining; what stays is what was told, in both tiers."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        session.append(said("r", role="assistant"), id=["m1"])
        for n in range(70):
            session.append(said(str(n), role="assistant"))
        session.append(said("q"))
        session.append(said("r", role="assistant"), id=["m1"])
        for n in range(5):
            session.append(said(f"n{n}", role="assistant"))
        if cut == "retain":
            assert session.retain(2) == 2
        else:
            assert session.cap(2) == 75
        for look in (lambda: None, cache.flush, lambda: cache.evict(KEY)):
            look()
            assert contents(session.history()) == ["q", "n0"]


def test_one_message_that_is_a_repeat(some_stack):
    """It is not told as kept and then gone, nor brought back with all before it."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        session.append(said("hello"), id=["m1"])
        for n in range(70):
            session.append(said(str(n), role="assistant"))
        session.append(said("hello"), id=["m1"])
        left = session.retain(1)
        cache.flush()
        cache.evict(KEY)
        assert len(session.history()) == left == 1


def test_what_is_consolidated_no_more_is_archived(some_stack):
    """Somebody moves the pointer back while the archive runs: what goes is archived all the same."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session, archived = cache.open(KEY), []
        records = session.append(TURNS)
        session.consolidate(records[5].seq)

        def archive(going):
            archived.extend(going)
            if len(archived) <= 2:
                other.get(KEY).consolidate(0)

        assert session.cap(4, archive=archive) == 8
        assert sorted(one.seq for one in archived) == [one.seq for one in records[:8]]


def test_an_archive_that_gives_a_future(one_stack):
    """It is waited for: what it raises changes nothing."""

    async def capped():
        loop = asyncio.get_running_loop()
        async with AsyncSessionCache(settings=one_stack.settings()) as cache:
            session = await cache.open(KEY)
            await session.append(TURNS)

            def fail():
                raise OSError

            with pytest.raises(HookFailed):
                await session.cap(6, archive=lambda _: loop.run_in_executor(None, fail))
            assert len(await session.history()) == 12

    asyncio.run(capped())


def test_a_cap_at_another_version_archives_nothing(some_stack):
    """The version is looked at before the archive, and again by the op."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session, archived = cache.open(KEY), []
        version = session.append(TURNS)[-1].seq
        for bad, error in ((1, VersionConflict), ("x", InvalidInput), (10**5000, InvalidInput)):
            with pytest.raises(error):
                session.cap(4, archive=archived.extend, expected_version=bad)
        with pytest.raises(VersionConflict):
            session.retain(100, expected_version=1)
        assert archived == []
        with pytest.raises(VersionConflict):
            session.cap(4, archive=lambda _: other.get(KEY).update(title="t"), expected_version=version)
        assert len(session.history()) == 12


def test_a_stray_result_takes_nobodys_words_along(some_stack):
    """A result without a call at the end is left out of a context, and a retain keeps what users said."""
    with some_stack.cache() as cache:
        session = cache.open(KEY)
        session.append([*TURNS, *said("last"), {"role": "tool", "tool_call_id": "gone", "content": "x"}])
        assert session.context() == [*TURNS, *said("last")]
        assert session.retain(13) == 12
        assert contents(session.history())[0] == "question 1"
        assert session.context()[-1] == said("last")[0]
