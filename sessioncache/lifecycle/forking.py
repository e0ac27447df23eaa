"""Sessions that begin in SQL: one of an id that the caller gives, and a copy of another one.

The row is made first, ended from the beginning, and then brought under its key, as `moving` brings any: whoever crashes
between leaves a row that no key has.
"""

from __future__ import annotations

from functools import partial

from sessioncache import read_through
from sessioncache.arguments import number
from sessioncache.errors import SessionExists, SessionNotFound
from sessioncache.flow import Flow, Transact
from sessioncache.hot.reading import Found
from sessioncache.keys import check_name
from sessioncache.lifecycle.handle import Handle, standing
from sessioncache.lifecycle.moving import Target, bring, drain_first_key, located, time_now
from sessioncache.lifecycle.opening import Details, Opening, new_session_id
from sessioncache.state import State
from sessioncache.store import load, place


def _must_be_free(now: Found, session_key: str) -> Flow[None]:
    yield from ()
    if now.session_id:
        raise SessionExists(f"There is a session under {session_key!r} already; delete it, or take another key.")


def create(state: State, session_key: str, session_id: str, begins: Details) -> Flow[Opening]:
    """Begin a session with an id of the caller's, under a key that has none.

    Raises:
        SessionExists: the key has a session, or the id was given before.
    """
    keys = state.keyspace.of(session_key)
    check_name(session_id, "session id")
    free = partial(_must_be_free, session_key=session_key)
    now = yield from read_through.standing(state, keys)
    yield from _must_be_free(now, session_key)
    yield from drain_first_key(state, session_id)  # an id that was made here may not be stored yet
    columns = {"metadata": None, **begins.columns}
    work = partial(place.reserve, session_id=session_id, session_key=session_key, columns=columns, now=time_now())
    if not (yield Transact(work, writes=True)):
        raise SessionExists(f"There is, or was, a session of id {session_id!r}; take another id.")
    return (yield from bring(state, Target(keys, session_id, begins.owner, free)))


def fork_current(state: State, handle: Handle, session_key: str, through: int | None) -> Flow[Opening]:
    """The same with the handle's session.

    Raises:
        SessionMoved, SessionDeleted: it is not current any more.
    """
    yield from standing(state, handle)
    return (yield from fork(state, handle.session_id, session_key, None, through))


def fork(state: State, session_id: str, session_key: str, owner: str | None, through: int | None) -> Flow[Opening]:
    """Begin a session under a new key with the messages of another one up to a seq (None: all).

    Raises:
        SessionNotFound: the other one is unknown, deleted, or another owner's.
        SessionExists: the key has a session.
    """
    keys = state.keyspace.of(session_key)
    last = load.EVERY if through is None else number(through, "through")
    found = yield from located(state, session_id, owner)
    now = yield from read_through.standing(state, keys)
    yield from _must_be_free(now, session_key)
    forked = new_session_id(session_key)
    work = partial(
        place.fork, parent_id=session_id, session_id=forked, session_key=session_key, owner=found.owner or None,
        through=last, now=time_now(),
    )  # fmt: skip
    if not (yield Transact(work, writes=True)):
        raise SessionNotFound(f"Session {session_id} was deleted meanwhile.")
    free = partial(_must_be_free, session_key=session_key)
    return (yield from bring(state, Target(keys, forked, found.owner, free)))
