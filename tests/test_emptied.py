"""Redis is emptied, or another one stands in its place, while servers hold handles and near copies: they go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from conftest import binary_of
from doors import opener
from servers import RedisServer

from sessioncache import SessionMoved, Settings, VersionConflict

KEY = "telegram:dm:42"


@dataclass
class Place:
    """Two servers of one kind over a Redis that can be emptied."""

    redis_url: str
    database_url: str
    empty: Callable[[], None]
    one: Any = None
    two: Any = None

    def settings(self, **changes: Any) -> Settings:
        """As they are."""
        return Settings(redis_url=self.redis_url, database_url=self.database_url, **changes)


def texts(session: Any) -> list[str]:
    return [one["content"] for one in session.history()]


@pytest.fixture(params=[("FLUSHALL", "blocking"), ("replaced", "awaiting")], ids="-".join)
def at(request: pytest.FixtureRequest, tmp_path) -> Iterator[Place]:
    """Emptied in each way, seen through each door."""
    how, door = request.param
    server = RedisServer(binary_of("valkey9")).start()

    def empty() -> None:
        if how == "replaced":
            server.kill()
            server.start()
        else:
            with redis.Redis.from_url(server.url) as raw:
                raw.flushall()

    place = Place(server.url, f"sqlite:///{tmp_path}/store.db", empty)
    with closing(server), opener(place, door) as opened:
        place.one, place.two = opened(), opened()
        yield place


CHANGES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "append": (lambda one: one.append({"content": "c"}), ["a", "b", "c"]),
    "pop": (lambda one: one.pop(), ["a"]),
    "truncate": (lambda one: one.truncate(1), ["a"]),
    "replace": (lambda one: one.replace([{"content": "z"}]), ["z"]),
    "edit": (lambda one: one.edit("mine", {"content": "e"}), ["a", "e"]),
    "update": (lambda one: one.update(title="t"), ["a", "b"]),
    "usage": (lambda one: one.record_usage(input_tokens=1), ["a", "b"]),
    "clear": (lambda one: one.clear(), []),
}


def test_all_is_in_sql(at):
    """Each kind of call through a warm handle hydrates and goes on; versions continue; the other server sees the same."""
    for name, (change, expected) in CHANGES.items():
        mine = at.one.open(name, owner="alice")
        mine.append([{"content": "a"}, {"content": "b"}], id=["first", "mine"])
        theirs = at.two.get(name)
        assert texts(mine) == texts(theirs) == ["a", "b"]
        at.one.flush()
        version = mine.update(metadata={"n": 1})
        at.one.flush()
        at.empty()
        change(mine)
        assert texts(mine) == texts(theirs) == expected, name
        assert mine.update(metadata={"n": 2}) > version
        assert theirs.append({"content": "last"})[0].seq > version
        assert at.two.flush().left == 0
        at.empty()
        assert texts(at.two.get(name, owner="alice")) == [*expected, "last"]


def test_some_was_only_in_redis(at):
    """It is lost, and no near copy shows it any more; versions continue after SQL's; a repeat of it is new."""
    mine, theirs = at.one.open(KEY), at.two.open(KEY)
    (first,) = mine.append({"content": "a"})
    at.one.flush()
    (lost,) = mine.append({"content": "b"}, id="mine")
    assert texts(mine) == texts(theirs) == ["a", "b"]
    at.empty()
    with pytest.raises(VersionConflict):
        mine.append({"content": "never"}, expected_version=lost.seq)
    (new,) = theirs.append({"content": "c"})
    assert new.seq > first.seq
    assert texts(mine) == texts(theirs) == ["a", "c"]
    mine.append({"content": "b"}, id="mine")
    assert texts(theirs) == texts(mine) == ["a", "c", "b"]
    assert at.one.flush().left == 0
    at.empty()
    records = at.two.get(KEY).messages()
    assert [record.data["content"] for record in records] == ["a", "c", "b"]
    assert [record.seq for record in records] == sorted({record.seq for record in records})
    assert at.one.stats().dead == 0


def test_the_session_was_only_in_redis(at):
    """Its handles say that it is not current; the key can be opened anew, and nothing of the old shows in it."""
    mine, theirs = at.one.open(KEY), at.two.open(KEY)
    mine.append({"content": "a"})
    assert texts(theirs) == ["a"]
    at.empty()
    for call in (lambda: mine.append({"content": "b"}), theirs.history, lambda: mine.update(title="t")):
        with pytest.raises(SessionMoved):
            call()
    again = at.two.open(KEY)
    again.append({"content": "new"})
    assert texts(again) == texts(at.one.get(KEY)) == ["new"]
    assert again.session_id != mine.session_id
    assert at.one.flush().left == 0
    assert at.one.stats().dead == 0


def test_it_is_emptied_again_and_again(at):
    """Between any two calls: what was in SQL by then is read, in order, once."""
    mine, expected = at.one.open(KEY), []
    at.one.flush()
    for number in range(6):
        mine.append({"content": str(number)}, id=f"id {number}")
        at.one.flush(KEY)
        if number % 2:
            at.empty()
        mine.append({"content": str(number)}, id=f"id {number}")
        at.two.flush(KEY)
        at.empty()
        expected.append(str(number))
        assert texts(mine) == expected
    assert texts(at.two.get(KEY)) == expected
