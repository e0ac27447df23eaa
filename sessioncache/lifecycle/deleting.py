"""Deleting: in every tier, at once for whoever opens, reads or appends, and out of every list when the call returns.

A deletion is an op of the key that the session belongs to; draining it leaves a tombstone, which refuses whatever comes
late (I6). Where the database is away, the op stands, what is hot is gone, and the call raises `StoreUnavailable`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from sessioncache import dead, flushing, hooks, hydration, read_through
from sessioncache.errors import HydrationTimeout, SessionNotFound, StoreUnavailable
from sessioncache.flow import Call, Flow, Progress, Transact, unseen
from sessioncache.hot import writing
from sessioncache.hot.change import Busy, Change, Moved
from sessioncache.keys import check_name
from sessioncache.lifecycle.handle import Handle, not_current
from sessioncache.lifecycle.moving import located
from sessioncache.lifecycle.opening import get_session
from sessioncache.op import new_op_id
from sessioncache.state import State
from sessioncache.store import place
from sessioncache.write_behind import drain_key

PAGE = 100


def delete_session(state: State, handle: Handle, expected_version: int | None = None) -> Flow[bool]:
    """Delete the handle's session, current or not; False if it was deleted already.

    Raises:
        VersionConflict, TurnLost: the terms do not hold; nothing was written.
        SessionMoved, SessionDeleted: there are terms, but the session is not current any more.
        StoreUnavailable: it is deleted, but stands in lists until the database is back.
    """
    if (yield from delete_current(state, handle, handle.change(expected_version))):
        return True
    if expected_version is not None or handle.turn:
        now = yield from read_through.standing(state, handle.keys)
        raise (yield from not_current(state, handle, Moved(now.session_id)))
    return (yield from delete_by_id(state, handle.session_id, None))


def delete_current(state: State, handle: Handle, terms: Change) -> Flow[bool]:
    """Delete the handle's session if it is current, and the terms hold."""
    attempt = partial(writing.delete, state, handle.keys, terms, if_current=True)
    reply = yield from hydration.warm(state, handle.keys, attempt, window=0)
    state.near.drop(handle.keys.session_key)
    if isinstance(reply, Moved | Busy):
        return False
    yield from _drain_deleted(state, handle.session_id, handle.keys.session_key)
    yield from tell_deleted(state, handle.session_id, handle.keys.session_key, handle.owner)
    return True


def _drain_deleted(state: State, session_id: str, session_key: str) -> Flow[None]:
    """Bring a deletion to the store."""
    try:
        yield from drain_key(state, session_key)
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"Session {session_id} is deleted, but stands in lists until what waits for the database is drained: {error}"
        ) from error


def delete_key(state: State, session_key: str, owner: str | None) -> Flow[bool]:
    """Delete the current session of a key; False if there is none, or it is another owner's."""
    while True:
        try:
            opening = yield from get_session(state, session_key, owner, window=0)
        except SessionNotFound:
            return False
        if (yield from delete_current(state, opening.handle, opening.handle.change())):
            return True


def delete_by_id(state: State, session_id: str, owner: str | None) -> Flow[bool]:
    """Delete any session; False if it is unknown, deleted already, or another owner's."""
    deadline = time.monotonic() + state.settings.hydration_timeout
    while time.monotonic() < deadline:
        try:
            found = yield from located(state, session_id, owner)
        except SessionNotFound:
            return False
        keys, terms = state.keyspace.of(found.session_key), Change(session_id, new_op_id())
        yield from hydration.warm(state, keys, partial(writing.delete, state, keys, terms, if_current=False), window=0)
        state.near.drop(found.session_key)
        yield from _drain_deleted(state, session_id, found.session_key)
        now: place.Place | None = yield Transact(partial(place.place, session_id=session_id), writes=False)
        if now is None or now.deleted:
            yield from tell_deleted(state, session_id, found.session_key, found.owner)
            return True
    raise HydrationTimeout(f"Session {session_id} kept moving between keys while it was deleted; try again.")


def tell_deleted(state: State, session_id: str, session_key: str, owner: str | None) -> Flow[bool]:
    """Call ``on_delete``, if the settings name one; whether they do.

    Raises:
        HookFailed: it raised; the session is deleted all the same.
    """
    if state.settings.on_delete:
        yield Call(hooks.resolved(state.settings.on_delete), (session_id, session_key, owner or None))
    return bool(state.settings.on_delete)


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased of an owner."""

    sessions: int
    messages: int
    dead_letters: int


def delete_owner(state: State, owner: str, progress: Progress = unseen) -> Flow[Erased]:
    """Erase everything of an owner: sessions, current or not, what is pending, dead letters.

    ``progress`` is told the sessions erased, and how many there are. Broken off anywhere, it is simply called again.

    Raises:
        StoreUnavailable: the database is away; call it again.
    """
    check_name(owner, "owner")
    yield from flushing.settle(state)
    erased = messages = 0
    seen: set[str] = set()
    while True:
        owned: list[tuple[str, bool]] = yield Transact(partial(place.owned, owner=owner), writes=False)
        seen.update(session_id for session_id, _ in owned)
        live = [session_id for session_id, deleted in owned if not deleted]
        if not live:
            break
        of = erased + len(live)
        for session_id in live:
            found: place.Place | None = yield Transact(partial(place.place, session_id=session_id), writes=False)
            if (yield from delete_by_id(state, session_id, owner)):
                erased, messages = erased + 1, messages + (found.message_count if found else 0)
            progress(erased, of)
    dead_letters = yield from dead.forget(state, lambda letter: letter.session_id in seen)
    yield Transact(partial(place.forget_owner, owner=owner), writes=True)
    return Erased(erased, messages, dead_letters)
