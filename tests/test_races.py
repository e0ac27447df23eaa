"""What random operations at once have found, each as one schedule: another server acts between two requests of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event

from sessioncache import SessionCache, SessionDeleted, SessionExists, SessionMoved, SessionNotFound, scripts
from sessioncache.flow import Evaluate
from sessioncache.store import place

KEY, OTHER, FREE = "telegram:dm:42", "telegram:dm:43", "telegram:dm:44"
SENT = [{"content": "a"}, {"content": "b"}, {"content": "c"}]


def after(cache: SessionCache, what: object, act: Callable[[], object]) -> list:
    """Let another act once, after the first request of this cache for a script or a piece of work that took effect."""
    perform, acted = cache._connections.driver.perform, []

    def hooked(request):
        reply = perform(request)
        asked = request.script if isinstance(request, Evaluate) else getattr(getattr(request, "work", None), "func", None)
        done = not isinstance(reply, list) or reply[:1] not in ([b"miss"], [b"changed"])
        if asked is what and done and not acted:
            acted.append(True)
            acted.append(act())
        return reply

    cache._connections.driver.perform = hooked
    return acted


@pytest.mark.parametrize("then", ["pop", "truncate", "clear", "remove", "replace"])
def test_a_replace_and_a_removal_in_one_batch(stack, then):
    """Messages of a replace that go before it was drained stop nothing: both are in SQL."""
    with stack.cache() as cache:
        session = cache.open(KEY)
        records = session.replace(SENT)
        {
            "pop": session.pop,
            "truncate": lambda: session.truncate(2),
            "clear": session.clear,
            "remove": lambda: session.remove(records[2].id),
            "replace": lambda: session.replace(SENT[:2]),
        }[then]()
        left = [] if then == "clear" else SENT[:2]
        assert cache.flush().left == 0
        cache.evict(KEY)
        assert session.history() == left


BRINGS = {
    "switch": lambda cache, old: cache.get(KEY).switch(old),
    "resume": lambda cache, old: cache.resume(old),
    "fork": lambda cache, old: cache.fork(old, FREE),
    "create of an id": lambda cache, _: cache.create(FREE, session_id="mine"),
}


@pytest.mark.parametrize("others", ["reset", "delete and open", "delete"])
@pytest.mark.parametrize("name", BRINGS)
def test_another_session_comes_right_after_one_was_brought(some_stack, name, others):
    """Whoever brought it is told that it is not current any more, and never gets a handle of another session (I6)."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        ended = cache.open(KEY)
        ended.append(SENT)
        ended.reset()
        key = FREE if name in {"fork", "create of an id"} else KEY

        def act() -> None:
            session = other.get(key)
            if others == "reset":
                session.reset()
            else:
                session.delete()
                if others == "delete and open":
                    other.open(key, owner="bob")

        acted = after(cache, scripts.SWITCH, act)
        with pytest.raises((SessionMoved, SessionDeleted)):
            assert BRINGS[name](cache, ended.session_id) is None
        assert acted


def test_a_key_is_deleted_while_it_is_reset(some_stack):
    """There always was a session to delete: what is current goes, and the call says so."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        session = cache.open(KEY)
        acted = after(cache, scripts.OPEN, lambda: other.get(KEY).reset())
        assert cache.delete(KEY) is True
        assert acted
        with pytest.raises(SessionNotFound):
            other.get(KEY)
        assert other.read(session.session_id).data() == []


@pytest.mark.parametrize("call", ["edit", "remove"])
def test_a_message_below_the_window_while_its_session_is_deleted(some_stack, call):
    """It is not said that there is no such message, but that the session was deleted."""
    with some_stack.cache(window=2) as cache, some_stack.cache(window=2) as other:
        session = cache.open(KEY)
        session.append(SENT, id=["x", "y", "z"])
        acted = after(cache, scripts.EDIT, lambda: other.delete(KEY))
        with pytest.raises(SessionDeleted):
            session.edit("x", SENT[0]) if call == "edit" else session.remove("x")
        assert acted[1] is True


@pytest.mark.parametrize("stands", ["current", "ended", "deleted"])
def test_a_session_is_created_with_an_id_that_is_taken(stack, stands):
    """It exists, or did: nothing is taken from the key that has it (I6)."""
    with stack.cache() as cache:
        session = cache.open(KEY)
        session.append(SENT)
        cache.flush()
        if stands != "current":
            session.reset() if stands == "ended" else session.delete()
        with pytest.raises(SessionExists):
            cache.create(OTHER, session_id=session.session_id)
        with pytest.raises(SessionNotFound):
            cache.get(OTHER)
        if stands == "current":
            assert session.history() == SENT
        if stands != "deleted":
            assert cache.resume(session.session_id).key == KEY


def test_two_servers_create_one_id(some_stack):
    """One of them has created it; to the other one it exists."""
    with some_stack.cache() as cache, some_stack.cache() as other:
        acted = after(cache, place.reserve, lambda: other.create(FREE, session_id="mine", title="theirs"))
        with pytest.raises(SessionExists):
            cache.create(FREE, session_id="mine", title="ours")
        assert acted
        assert other.get(FREE).info.title == "theirs"


def test_a_session_is_deleted_while_it_is_forked(stack):
    """A fork has all messages, or is refused: never a part of them."""
    with stack.cache() as cache, stack.cache() as other:
        session = cache.open(KEY)
        session.append(SENT)
        cache.flush()
        engine, begun, deleting = cache._connections.driver.engine, [], threading.Thread(target=other.delete, args=(KEY,))

        @event.listens_for(engine, "after_cursor_execute")
        def _between(_connection, _cursor, statement, *_rest) -> None:
            if statement.startswith("INSERT INTO sessions") and "SELECT" in statement and not begun:
                begun.append(True)
                deleting.start()
                deleting.join(1)  # where the database lets it pass

        try:
            forked = cache.fork(session.session_id, FREE)
            assert forked.history() == SENT
        except SessionNotFound:
            pass
        finally:
            deleting.join()
        assert begun
