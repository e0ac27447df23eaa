"""The life of a session: open, get, append, read, delete.

Each change is one script on a warm session (one round trip), and an op in the pending log; each is idempotent by its op
id, so a repeat after a lost reply gets the first answer again (I3). A handle is bound to one session id: whatever
becomes current under its key later, its calls raise rather than touch that (I6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from os import urandom
from typing import Any, cast

import msgpack

from sessioncache import hot, read_through
from sessioncache.errors import (
    InvalidInput,
    InvalidKey,
    InvalidMessage,
    SessionCacheError,
    SessionDeleted,
    SessionMoved,
    SessionNotFound,
    StoreUnavailable,
    VersionConflict,
)
from sessioncache.flow import Flow, Transact
from sessioncache.keys import SessionKeys, check_name
from sessioncache.message import Messages, Record, element, encode, record
from sessioncache.op import message_ids, new_op_id, op_id_of
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key


@dataclass(frozen=True, slots=True)
class Handle:
    """Which session a caller means: its key, its id and its owner (``""`` for none)."""

    keys: SessionKeys
    session_id: str
    owner: str


def new_session_id() -> str:
    """A session id that nobody else has; it sorts by the second it was made in."""
    return f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{urandom(6).hex()}"


def open_session(state: State, session_key: str, owner: str | None) -> Flow[Handle]:
    """The current session of a key, or a new one.

    Raises:
        SessionNotFound: the current session is another owner's.
    """
    keys = state.keyspace.of(session_key)
    named = "" if owner is None else check_name(owner, "owner")
    session_id, op_id = new_session_id(), new_op_id()
    begins = msgpack.packb({"owner": named} if named else {})
    while True:
        found = yield from read_through.standing(state, keys)
        if found.session_id:
            return _owned(keys, found, owner)
        start = partial(hot.start, state, keys, "", session_id, op_id, named, begins)
        if isinstance((yield from read_through.warm(state, keys, start)), str):
            return Handle(keys, session_id, named)


def get_session(state: State, session_key: str, owner: str | None) -> Flow[Handle]:
    """The current session of a key.

    Raises:
        SessionNotFound: there is none, or it is another owner's.
    """
    keys = state.keyspace.of(session_key)
    if owner is not None:
        check_name(owner, "owner")
    found = yield from read_through.standing(state, keys)
    if not found.session_id:
        raise _not_found(keys)
    return _owned(keys, found, owner)


def _owned(keys: SessionKeys, found: hot.Found, owner: str | None) -> Handle:
    if owner is not None and found.owner != owner:
        raise _not_found(keys)
    return Handle(keys, found.session_id, found.owner)


def _not_found(keys: SessionKeys) -> SessionNotFound:
    return SessionNotFound(f"There is no session under {keys.session_key!r}; open() makes one.")


def append(
    state: State,
    handle: Handle,
    messages: dict[str, Any] | Sequence[dict[str, Any]],
    ids: str | Sequence[str] | None,
    expected_version: int | None,
) -> Flow[list[Record]]:
    """Append one message or several, all or none of them; their records, in order.

    Raises:
        InvalidMessage, InvalidKey: a message or an id is refused; nothing was written.
        SessionMoved, SessionDeleted: the handle's session is not current any more.
        VersionConflict: the key's version is not ``expected_version``.
        Backpressure: the pending log is full.
    """
    packed = [encode(one, state.settings.max_message_bytes) for one in _as_list(messages)]
    if sum(map(len, packed)) > max(state.settings.batch_bytes, state.settings.max_message_bytes):
        raise InvalidMessage(f"One append takes at most batch_bytes ({state.settings.batch_bytes}); append in pieces.")
    names, op_ids = _names(handle.session_id, ids, len(packed))
    items = [(op_id, name.encode() + b"\n" + one) for op_id, name, one in zip(op_ids, names, packed, strict=True)]
    if not items:
        return []
    expected = _checked_version(expected_version)

    attempt = partial(hot.append, state, handle.keys, handle.session_id, expected, items)
    reply = cast("hot.Appended | hot.Moved | hot.Conflict", (yield from read_through.warm(state, handle.keys, attempt)))
    if isinstance(reply, hot.Moved):
        raise (yield from _not_current(state, handle, reply))
    if isinstance(reply, hot.Conflict):
        raise VersionConflict(
            f"The version is {reply.version}, not {expected}; read again and decide anew.",
            expected=int(expected or 0),
            current=reply.version,
        )
    stamped = zip(reply.stamps, names, packed, strict=True)
    elements = [element(seq, at_ms, name, one) for (seq, at_ms), name, one in stamped]
    state.counters.add("appends")
    state.counters.add("messages_appended", len(elements))
    _extend_near(state, handle, reply, elements)
    return [record(one) for one in elements]


def _as_list(messages: dict[str, Any] | Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    if isinstance(messages, dict):
        return [messages]
    if isinstance(messages, list | tuple):
        return messages
    raise InvalidMessage(f"append takes a message or a list of messages, not {type(messages).__name__}.")


def _names(session_id: str, ids: str | Sequence[str] | None, count: int) -> tuple[list[str], list[str]]:
    """Message ids and op ids; messages without ids of their own share one op id."""
    if ids is None:
        op_id = new_op_id()
        return message_ids(op_id, count), [op_id] * count
    if not isinstance(ids, str | list | tuple):
        raise InvalidKey(f"id takes a message id or a list of them, not {type(ids).__name__}.")
    names = [check_name(one, "message id") for one in ([ids] if isinstance(ids, str) else ids)]
    if len(names) != count or len(set(names)) != count:
        raise InvalidKey(f"{count} messages need {count} different ids, not {len(set(names))}.")
    return names, [op_id_of(session_id, name) for name in names]


def _checked_version(expected: int | None) -> int | None:
    if expected is not None and (type(expected) is not int or expected < 0):
        raise InvalidInput(f"expected_version is an integer from 0, not {expected!r}.")
    return expected


def _extend_near(state: State, handle: Handle, reply: hot.Appended, elements: list[bytes]) -> None:
    """Extend the near copy by one's own append, if nothing came between."""
    near = state.near.get(handle.keys.session_key)
    if near is None or (near.session_id, near.revision) != (handle.session_id, reply.revision):
        return
    if near.version == reply.before and reply.version == reply.before + len(elements):
        state.near.put(handle.keys.session_key, state.near.extend(near, reply.version, elements))


def messages(state: State, handle: Handle, limit: int | None) -> Flow[Messages]:
    """The newest ``limit`` messages (None: all) of the handle's session.

    Raises:
        SessionMoved, SessionDeleted: the handle's session is not current any more.
    """
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidInput(f"limit is an integer from 0, or None for all, not {limit!r}.")
    view = yield from read_through.read(state, handle.keys, limit)
    if view.session_id != handle.session_id:
        raise (yield from _not_current(state, handle, hot.Moved(view.session_id)))
    return view.messages


def _not_current(state: State, handle: Handle, moved: hot.Moved) -> Flow[SessionCacheError]:
    if moved.deleted == handle.session_id or not moved.current or (yield from _is_deleted(state, handle)):
        return SessionDeleted(f"Session {handle.session_id} was deleted; open() makes a new one under its key.")
    return SessionMoved(
        f"Session {handle.session_id} is not current any more; {moved.current} is. open() gives that one.",
        session_id=handle.session_id,
        current=moved.current,
    )


def _is_deleted(state: State, handle: Handle) -> Flow[bool]:
    try:
        yield from drain_key(state, handle.keys.session_key)
        return bool((yield Transact(partial(load.is_deleted, session_id=handle.session_id), writes=False)))
    except StoreUnavailable:
        return False


def delete_session(state: State, handle: Handle) -> Flow[bool]:
    """Delete the handle's session; False if it was not current any more."""
    attempt = partial(hot.delete, state, handle.keys, handle.session_id, new_op_id())
    reply = yield from read_through.warm(state, handle.keys, attempt)
    state.near.drop(handle.keys.session_key)
    return reply is True


def delete_key(state: State, session_key: str, owner: str | None) -> Flow[bool]:
    """Delete the current session of a key; False if there is none, or it is another owner's."""
    try:
        handle = yield from get_session(state, session_key, owner)
    except SessionNotFound:
        return False
    return (yield from delete_session(state, handle))
