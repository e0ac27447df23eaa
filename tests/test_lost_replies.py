"""A reply is lost after its script was executed, and the client asks again: once done, and rightly answered (I3).

For every call that changes something, and every script that it sends; whatever happens to the hot copy in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from conftest import THE_OTHER_LATER
from sqlalchemy import create_engine, text

from sessioncache import HotTierUnavailable, Session, SessionCache, SessionNotFound, scripts

KEY, OTHER, FREE, OWNER = "telegram:dm:42", "telegram:dm:43", "telegram:dm:44", "alice"
SENT = [{"content": f"m{n}"} for n in range(5)]
IDS = [f"m{n}" for n in range(5)]
M = ["m0", "m1", "m2", "m3", "m4"]
NEW = [{"content": "new 0"}, {"content": "new 1"}]


@dataclass
class Place:
    """Where a reply gets lost.

    Attributes:
        cache: behind the proxy; operator: before it.
        session: the current one of `KEY`, with five messages, usage and a summary; ended: one before it, with one message.
        other: the current one of `OTHER`, with one message.
        forgets: whether the hot copy, with what it was answered last, vanishes.
    """

    cache: SessionCache
    operator: SessionCache
    session: Session
    ended: Session
    other: Session
    version: int
    forgets: bool = False

    def stored(self) -> list[Any]:
        """The messages of the session as they stand in SQL."""
        return list(self.operator.read(self.session.session_id))

    def current(self, key: str = KEY) -> str:
        """The id of the current session, ``""`` for none."""
        try:
            return self.operator.get(key).session_id
        except SessionNotFound:
            return ""


@dataclass(frozen=True)
class Case:
    """A call, the script whose reply is lost, whether the answer is right, and what the session then holds (None: gone)."""

    script: scripts.Script
    act: Callable[[Place], Any]
    right: Callable[[Place, Any], bool]
    holds: list[str] | None


def _replaced(at: Place, answer: Any) -> bool:
    return answer == at.stored() and [one.data for one in answer] == NEW


def _appended(at: Place, answer: Any) -> bool:
    return answer == at.stored()[5:] and [one.data for one in answer] == NEW


def _popped(at: Place, answer: Any) -> bool:
    return answer is HotTierUnavailable or (answer.id == "m4" and answer.data == SENT[4])


def _once(at: Place, answer: Any) -> bool:
    info = at.operator.get(KEY).info
    used = info.usage
    tokens = (used.input_tokens, used.output_tokens, used.estimated_cost)
    return answer == at.version + 1 and tokens == (110, 5, 0.25) and info.metadata == {"summary": "s"}


def _updated(at: Place, answer: Any) -> bool:
    info = at.operator.get(KEY).info
    return answer == at.version + 1 and (info.title, info.metadata) == ("t", {"summary": "s", "a": 1})


def _cleared(at: Place, answer: Any) -> bool:
    return answer is None and at.operator.get(KEY).info.metadata == {}


def _begun(reason: str) -> Callable[[Place, Any], bool]:
    def right(at: Place, answer: Any) -> bool:
        told = (answer.was_reset, answer.reset_reason, answer.had_activity, answer.owner)
        if at.forgets:  # what it was answered went with the hot copy: why it began, and what it replaced, is not known
            told = (True, reason, True, answer.owner)
        ids = {one.session_id for one in at.operator.past(KEY)}
        current = at.current() == answer.session_id
        return (
            told == (True, reason, True, OWNER)
            and current
            and ids == {at.session.session_id, at.ended.session_id, at.current()}
        )

    return right


def _is_new(at: Place, answer: Any) -> bool:
    once = [one.session_id for one in at.operator.past(FREE)] == [answer.session_id]
    return once and not answer.was_reset and at.current(FREE) == answer.session_id and answer.info.title == "t"


def _is_current(which: str, key: str, words: list[str]) -> Callable[[Place, Any], bool]:
    def right(at: Place, answer: Any) -> bool:
        named = which in {"session", "ended", "other"}
        wanted = getattr(at, which).session_id if named else which or answer.session_id
        said = [one["content"] for one in answer.history()]
        return answer.session_id == wanted == at.current(key) and answer.key == key and said == words

    return right


def _deleted(which: str) -> Callable[[Place, Any], bool]:
    def right(at: Place, answer: Any) -> bool:
        gone = getattr(at, which).session_id
        with pytest.raises(SessionNotFound):
            at.operator.read(gone)
        return answer is True and at.current() != gone

    return right


def _erased(at: Place, answer: Any) -> bool:
    return (answer.sessions, answer.messages, answer.dead_letters) == (3, 7, 0) and at.current() == ""


def _suspended(at: Place) -> Session:
    return at.cache.open(KEY)


def _in_turn(at: Place) -> list[Any]:
    with at.session.turn(timeout=3) as mine:
        records = mine.append(NEW)
    with at.operator.get(KEY).turn(timeout=0):  # it was given back
        return records


def _while_held(at: Place) -> list[Any]:
    with at.session.hold("indexer"):
        return at.session.append(NEW)


CASES = {
    "append": Case(scripts.APPEND, lambda at: at.session.append(NEW), _appended, [*M, "new 0", "new 1"]),
    "append with ids": Case(
        scripts.APPEND, lambda at: at.session.append(NEW, id=["x", "y"]), _appended, [*M, "new 0", "new 1"]
    ),
    "append at a version": Case(
        scripts.APPEND, lambda at: at.session.append(NEW, expected_version=at.version), _appended, [*M, "new 0", "new 1"]
    ),
    "pop": Case(scripts.POP, lambda at: at.session.pop(), _popped, M[:4]),
    "truncate": Case(scripts.TRUNCATE, lambda at: at.session.truncate(2), lambda _, answer: answer == 2, M[:2]),
    "retain": Case(scripts.RETAIN, lambda at: at.session.retain(2), lambda _, answer: answer == 2, M[3:]),
    "clear": Case(scripts.TRUNCATE, lambda at: at.session.clear(), _cleared, []),
    "replace": Case(scripts.REPLACE, lambda at: at.session.replace(NEW), _replaced, ["new 0", "new 1"]),
    "edit": Case(
        scripts.EDIT, lambda at: at.session.edit("m1", {"content": "other"}), lambda _, answer: answer is True,
        ["m0", "other", *M[2:]],
    ),
    "remove": Case(scripts.EDIT, lambda at: at.session.remove("m1"), lambda _, answer: answer is True, ["m0", *M[2:]]),
    "update": Case(scripts.UPDATE, lambda at: at.session.update(title="t", metadata={"a": 1}), _updated, M),
    "usage": Case(
        scripts.UPDATE, lambda at: at.session.record_usage(input_tokens=10, output_tokens=5, estimated_cost=0.25), _once, M
    ),
    "reset": Case(scripts.START, lambda at: at.session.reset(), _begun("reset"), M),
    "open when due": Case(scripts.OPEN, _suspended, _begun("suspended"), M),
    "open a new key": Case(scripts.OPEN, lambda at: at.cache.open(FREE, title="t"), _is_new, M),
    "ensure a new key": Case(scripts.OPEN, lambda at: at.cache.ensure(FREE, title="t"), _is_new, M),
    "create": Case(scripts.OPEN, lambda at: at.cache.create(FREE, title="t"), _is_new, M),
    "create of an id": Case(
        scripts.SWITCH, lambda at: at.cache.create(FREE, session_id="mine"), _is_current("mine", FREE, []), M
    ),
    "switch": Case(
        scripts.SWITCH, lambda at: at.session.switch(at.ended.session_id), _is_current("ended", KEY, ["old"]), M
    ),
    "switch to another key's: leave": Case(
        scripts.LEAVE, lambda at: at.session.switch(at.other.session_id), _is_current("other", KEY, ["theirs"]), M
    ),
    "switch to another key's: switch": Case(
        scripts.SWITCH, lambda at: at.session.switch(at.other.session_id), _is_current("other", KEY, ["theirs"]), M
    ),
    "resume": Case(
        scripts.SWITCH, lambda at: at.cache.resume(at.ended.session_id), _is_current("ended", KEY, ["old"]), M
    ),
    "fork": Case(scripts.SWITCH, lambda at: at.session.fork(FREE), _is_current("", FREE, M), M),
    "delete": Case(scripts.DELETE, lambda at: at.session.delete(), _deleted("session"), None),
    "delete a key": Case(scripts.DELETE, lambda at: at.cache.delete(KEY), _deleted("session"), None),
    "delete an ended one": Case(
        scripts.DELETE, lambda at: at.cache.delete_session(at.ended.session_id), _deleted("ended"), M
    ),
    "delete an owner": Case(scripts.DELETE, lambda at: at.cache.delete_owner(OWNER), _erased, None),
    "flush": Case(scripts.ACK, lambda at: at.cache.flush(), lambda _, answer: answer.left <= 4, M),
    "take a turn": Case(scripts.TURN, _in_turn, _appended, [*M, "new 0", "new 1"]),
    "hold": Case(scripts.HOLD, _while_held, _appended, [*M, "new 0", "new 1"]),
}  # fmt: skip
BETWEEN = ["hot", "silent", "vanished", "flushed and vanished", "others wrote"]


@pytest.fixture
def at(some_stack, proxy):
    """Sessions, and a cache behind a proxy that can lose replies; every script is known to Redis."""
    between = proxy(some_stack.server.socket)
    patient = some_stack.cache(redis_timeout=20.0, timeout=20.0)  # a busy machine is none of its troubles
    with patient as operator, some_stack.raw() as raw:
        for script in vars(scripts).values():
            if isinstance(script, scripts.Script):
                raw.script_load(script.text)
        ended = operator.open(KEY, owner=OWNER)
        ended.append({"content": "old"})
        ended.reset().append(SENT, id=IDS)
        other = operator.open(OTHER, owner=OWNER)
        other.append({"content": "theirs"})
        operator.flush()
        settings = replace(some_stack.settings(), redis_url=between.url, redis_timeout=0.5)
        with SessionCache(settings=settings) as cache:
            session = cache.get(KEY)
            session.record_usage(input_tokens=100)
            version = session.update(metadata={"summary": "s"})
            yield Place(cache, operator, session, ended, other, version), between


def _in_between(place: Place, between, how: str) -> Callable[[], None]:
    """What happens after the loss and before the repeat."""

    def happen() -> None:
        if how == "flushed and vanished":
            place.operator.flush()
        if "vanished" in how:
            for key in (KEY, OTHER, FREE):
                place.operator.evict(key)
        if how == "others wrote":
            for key in (KEY, OTHER, FREE):
                if place.current(key):
                    theirs = place.operator.get(key)
                    theirs.append({"content": "others"})
                    theirs.pop()

    original, happened = place.cache._connections.driver.perform, []

    def perform(request):
        if between.lost.is_set() and not happened:
            happened.append(True)
            happen()
        return original(request)

    place.cache._connections.driver.perform = perform
    return lambda: bool(happened)


@THE_OTHER_LATER
@pytest.mark.parametrize("how", BETWEEN)
@pytest.mark.parametrize("name", CASES)
def test_once_and_rightly_answered(some_stack, at, name, how):
    """The call happens exactly once, and says so; only a pop may say that it does not know any more what it removed."""
    place, between = at
    case = CASES[name]
    if name == "open when due":
        place.version = place.operator.get(KEY).update(suspended=True)
    assert place.current(FREE) == ""  # from now on it is known that there is none: the first script does it
    place.forgets = "vanished" in how
    happened = _in_between(place, between, how)
    setattr(between, "swallow" if how == "silent" else "lose", case.script.sha.encode())
    try:
        answer: Any = case.act(place)
    except HotTierUnavailable:
        assert name == "pop"
        answer = HotTierUnavailable
    assert between.lost.is_set()
    assert happened()
    place.operator.flush()
    stats = place.operator.stats()
    assert (stats.pending, stats.dead) == (0, 0)
    assert case.right(place, answer), answer
    engine = create_engine(some_stack.database_url)
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT text FROM messages WHERE session_id = :id ORDER BY seq"), {"id": place.session.session_id}
        )
        stored = [row[0] for row in rows]
    engine.dispose()
    assert stored == (case.holds or [])
    if case.holds is not None:
        assert [one.data["content"] for one in place.cache.read(place.session.session_id)] == case.holds
    if place.current() == place.session.session_id:
        assert place.cache.get(KEY).history() == [{"content": one} for one in case.holds]
