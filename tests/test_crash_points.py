"""What takes several requests may end after any of them: a session is current under one key or none, nothing is lost.

The flow is driven by hand. *Dies*: nothing comes after that request, as when the process is killed. *Interrupted*: the
request was made, but its caller is gone, and the flow may clean up. What comes of a tier that does not answer, for these
calls and all others, `test_nth_failure` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from conftest import THE_OTHER_LATER
from sqlalchemy import create_engine, text

from sessioncache import Session, SessionCache, SessionExists, SessionNotFound
from sessioncache.flow import Flow, Interrupted, run
from sessioncache.lifecycle import deleting, forking, moving, opening

KEY, OTHER, FREE, OWNER = "telegram:dm:42", "telegram:dm:43", "telegram:dm:44", "alice"
FEW = {"partitions": 2, "lanes": 1}
MOST = 60


@dataclass
class Scene:
    """Two keys: the first has an ended session before its current one, and something is pending for each."""

    cache: SessionCache
    ended: Session
    session: Session
    theirs: Session

    @property
    def state(self):
        return self.cache._state

    def expected(self) -> dict[str, list[str]]:
        """What was acknowledged, by session id."""
        return {
            self.ended.session_id: ["old 0", "old 1"],
            self.session.session_id: ["new 0", "new 1", "new 2"],
            self.theirs.session_id: ["theirs 0", "theirs 1"],
        }


def scene(cache: SessionCache) -> Scene:
    ended = cache.open(KEY, owner=OWNER)
    ended.append({"content": "old 0"})
    cache.flush()
    ended.append({"content": "old 1"})
    session = ended.reset()
    session.append({"content": "new 0"})
    theirs = cache.open(OTHER, owner=OWNER)
    theirs.append({"content": "theirs 0"})
    cache.flush(OTHER)
    theirs.append({"content": "theirs 1"})
    session.append([{"content": "new 1"}, {"content": "new 2"}])
    return Scene(cache, ended, session, theirs)


def _none() -> opening.Details:
    return opening.details(owner=OWNER)


@dataclass(frozen=True)
class Case:
    """A call, as a flow and through the door, and which session is current under which key once it has succeeded."""

    flow: Callable[[Scene], Flow]
    again: Callable[[Scene], object]
    brings: Callable[[Scene], tuple[str, str]] | None = None
    deletes: tuple[str, ...] = ()


def _handle(session: Session):
    return session._handle


CASES = {
    "switch": Case(
        lambda at: moving.switch(at.state, _handle(at.session), at.ended.session_id, None),
        lambda at: at.cache.get(KEY).switch(at.ended.session_id),
        lambda at: (KEY, at.ended.session_id),
    ),
    "switch to another key's": Case(
        lambda at: moving.switch(at.state, _handle(at.session), at.theirs.session_id, None),
        lambda at: at.cache.get(KEY).switch(at.theirs.session_id),
        lambda at: (KEY, at.theirs.session_id),
    ),
    "resume": Case(
        lambda at: moving.resume(at.state, at.ended.session_id, OWNER),
        lambda at: at.cache.resume(at.ended.session_id, owner=OWNER),
        lambda at: (KEY, at.ended.session_id),
    ),
    "fork": Case(
        lambda at: forking.fork(at.state, at.session.session_id, FREE, OWNER, None),
        lambda at: at.cache.fork(at.session.session_id, FREE, owner=OWNER),
        lambda _: (FREE, ""),
    ),
    "create of an id": Case(
        lambda at: forking.create(at.state, FREE, "mine", _none()),
        lambda at: at.cache.create(FREE, session_id="mine", owner=OWNER),
        lambda _: (FREE, "mine"),
    ),
    "delete the current one": Case(
        lambda at: deleting.delete_session(at.state, _handle(at.session)),
        lambda at: at.session.delete(), None, ("session",),
    ),
    "delete an ended one": Case(
        lambda at: deleting.delete_by_id(at.state, at.ended.session_id, OWNER),
        lambda at: at.cache.delete_session(at.ended.session_id, owner=OWNER), None, ("ended",),
    ),
    "delete an owner": Case(
        lambda at: deleting.delete_owner(at.state, OWNER),
        lambda at: at.cache.delete_owner(OWNER), None, ("session", "ended", "theirs"),
    ),
}  # fmt: skip


class Counting:
    """Performs requests up to one of them, and counts them."""

    def __init__(self, cache: SessionCache, end: int, way: str) -> None:
        self.perform, self.end, self.way, self.count, self.hit = cache._connections.driver.perform, end, way, 0, False

    def __call__(self, request):
        self.count += 1
        reply = self.perform(request)
        if self.count == self.end and self.way == "interrupted":
            raise Interrupted
        return reply


def dies(flow: Flow, perform: Callable, end: int) -> None:
    """Perform so many requests, and no more: nothing of the flow runs after that."""
    request = next(flow)
    for _ in range(end - 1):
        request = flow.send(perform(request))
    perform(request)
    _killed.append(flow)  # a flow that is collected would be closed, and could clean up


_killed: list[Flow] = []


def drained(stack) -> None:
    """What workers do, once the leases of the dead have ended."""
    with stack.raw() as raw:
        raw.delete(*raw.keys("sc:*:lease:*"), "nothing")
    with stack.cache(**FEW) as worker:
        worker.flush()


def currents(stack) -> dict[str, str]:
    """The current session of each key, by SQL."""
    engine = create_engine(stack.database_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT session_key, session_id FROM routes WHERE session_id IS NOT NULL")).all()
        belongs = dict(connection.execute(text("SELECT session_id, session_key FROM sessions")).all())
    engine.dispose()
    assert all(belongs[session_id] == key for key, session_id in rows)
    return dict(rows)


def texts(messages) -> list[str]:
    return [one.data["content"] for one in messages]


def judge(stack, at: Scene, gone: set[str]) -> None:
    """No session is current under two keys, by SQL and by Redis; what was acknowledged stands, but for what is gone."""
    routes = currents(stack)
    assert len(set(routes.values())) == len(routes)
    with stack.cache(**FEW) as cold:
        for key in (KEY, OTHER, FREE):
            try:
                current = cold.get(key)
            except SessionNotFound:
                assert key not in routes
                continue
            assert current.session_id == routes[key]
            hot = texts(current.messages())
            cold.evict(key)
            assert texts(cold.get(key).messages()) == hot == texts(cold.read(current.session_id))
        for session_id, words in at.expected().items():
            if session_id not in gone:
                assert texts(cold.read(session_id)) == words
        assert cold.stats().dead == 0


# Those of many requests, which take most of the time, are long proofs on both stacks.
OF_MANY = {"fork", "delete an owner", "create of an id", "switch to another key's"}


@THE_OTHER_LATER
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in OF_MANY)) for name in CASES])
def test_its_process_dies_after_any_request(some_stack, name):
    """Drained, the sessions are where they were or where they should be; the call succeeds when it is repeated."""
    _after_any_request(some_stack, CASES[name], "dies")


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_it_is_cut_short_at_any_request(one_stack, name):
    """The same, where the caller is cancelled."""
    _after_any_request(one_stack, CASES[name], "interrupted")


def _after_any_request(stack, case: Case, way: str) -> None:
    end, judged, over = 0, 0, False
    while not over:
        end += 1
        assert end < MOST
        _emptied(stack)
        with stack.cache(**FEW) as cache:
            at = scene(cache)
            flow, counting = case.flow(at), Counting(cache, end, way)
            try:
                if way == "dies":
                    dies(flow, counting, end)
                else:
                    run(flow, counting)
                    over = counting.count < end
            except StopIteration:
                over = True
            except Interrupted:
                counting.hit = True
            if counting.hit or over or way == "dies":
                judged += 1
                drained(stack)
                _judge_and_repeat(stack, at, case)
    assert judged > 1


def _judge_and_repeat(stack, at: Scene, case: Case) -> None:
    deleted = {getattr(at, name).session_id for name in case.deletes}
    gone = {session_id for session_id in deleted if _is_gone(at, session_id)}
    judge(stack, at, gone)
    with stack.cache(**FEW) as server:
        again = replace(at, cache=server)
        already = _already(again, case)
        with suppress(SessionExists if already else ()):
            case.again(again)
        drained(stack)
        judge(stack, again, deleted)
        assert all(_is_gone(again, session_id) for session_id in deleted)
        if case.brings is not None:
            key, session_id = case.brings(again)
            current = server.get(key)
            assert session_id in {"", current.session_id}
            assert texts(current.messages()) == at.expected().get(current.session_id, texts(current.messages()))
            if key == FREE and not session_id:
                assert texts(current.messages()) == at.expected()[at.session.session_id]


def _already(at: Scene, case: Case) -> bool:
    """Whether what is to be current under a free key is there: whoever repeats is told that it exists."""
    key = case.brings(at)[0] if case.brings else ""
    with suppress(SessionNotFound):
        return key == FREE and bool(at.cache.get(FREE))
    return False


def _is_gone(at: Scene, session_id: str) -> bool:
    try:
        at.cache.read(session_id)
    except SessionNotFound:
        return True
    return False


def _emptied(stack) -> None:
    with stack.raw() as raw:
        raw.flushall()
    engine = create_engine(stack.database_url)
    with stack.cache(**FEW) as cache:
        cache.stats()  # sets an empty file up
    with engine.begin() as connection:
        for table in ("messages", "applied_ops", "sessions", "routes"):
            connection.execute(text(f"DELETE FROM {table}"))
    engine.dispose()
