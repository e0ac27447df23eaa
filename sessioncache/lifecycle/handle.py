"""Handles: which session a caller means, and what it is told when that is not current any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sessioncache import hydration, read_through
from sessioncache.arguments import number
from sessioncache.durability import Wait
from sessioncache.errors import (
    SessionCacheError,
    SessionDeleted,
    SessionMoved,
    StoreUnavailable,
)
from sessioncache.flow import Flow, Transact
from sessioncache.hot.change import Busy, Change, Moved
from sessioncache.hot.reading import Found
from sessioncache.keys import SessionKeys
from sessioncache.op import new_op_id
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Handle:
    """Which session a caller means: its key, its id and its owner (``""`` for none), and the turn it holds, if any."""

    keys: SessionKeys
    session_id: str
    owner: str
    turn: str = ""

    def change(self, expected_version: int | None = None, wait: Wait | None = None) -> Change:
        """A new change of this session, and what Redis is asked after it.

        Raises:
            InvalidInput: no version.
        """
        if expected_version is not None:
            number(expected_version, "expected_version")
        return Change(self.session_id, new_op_id(), expected_version, self.turn, wait=wait)


def changed(
    state: State, handle: Handle, attempt: Callable[[], Flow[T | Moved | Busy | None]], *, window: int | None = None
) -> Flow[T]:
    """What a change of the handle's session was answered.

    Raises:
        SessionMoved, SessionDeleted: the session is not current any more; nothing was written.
    """
    reply: Any = yield from hydration.warm(state, handle.keys, attempt, window=window)
    if isinstance(reply, Moved):
        raise (yield from not_current(state, handle, reply))
    found: T = reply
    return found


def standing(state: State, handle: Handle) -> Flow[Found]:
    """Where the handle's session stands.

    Raises:
        SessionMoved, SessionDeleted: it is not current any more.
    """
    found = yield from read_through.standing(state, handle.keys)
    if found.session_id != handle.session_id:
        raise (yield from not_current(state, handle, Moved(found.session_id)))
    return found


def not_current(state: State, handle: Handle, moved: Moved) -> Flow[SessionCacheError]:
    """The error for a handle whose session is not current any more."""
    if moved.deleted == handle.session_id or (yield from _is_deleted(state, handle)):
        return gone(handle)
    return elsewhere(handle, moved.current)


def gone(handle: Handle) -> SessionDeleted:
    """The error for a handle whose session was deleted."""
    return SessionDeleted(f"Session {handle.session_id} was deleted; open() makes a new one under its key.")


def elsewhere(handle: Handle, current: str) -> SessionMoved:
    """The error for a handle whose session is not current, but another one, or none."""
    now = f"{current} is" if current else "its key has none"
    return SessionMoved(
        f"Session {handle.session_id} is not current any more; {now}. open() gives the current one, read() this one.",
        session_id=handle.session_id,
        current=current,
    )


def _is_deleted(state: State, handle: Handle) -> Flow[bool]:
    try:
        yield from drain_key(state, handle.keys.session_key)
        return bool((yield Transact(partial(load.is_deleted, session_id=handle.session_id), writes=False)))
    except StoreUnavailable:
        return False
