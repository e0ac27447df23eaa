"""Sessions by their ids: read one that is not current, switch to it, resume it, fork it, create one of a given id.

A session belongs to one key at a time. To bring it under a key: note that key's version and revision and drain it; where
the session belongs to another key, write ``leave`` there, which changes that key's revision, and drain that; claim the
session's row, if nothing changed that was looked at; write ``switch`` only if the revision is still the noted one. Whoever
crashes between leaves it current under one key or under none (I6).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from zlib import crc32

from sqlalchemy import Connection

from sessioncache import hydration, read_through
from sessioncache.arguments import number
from sessioncache.errors import (
    CorruptLog,
    HotTierRefused,
    HydrationTimeout,
    SessionExists,
    SessionNotFound,
    StoreRefused,
    TurnLost,
    VersionConflict,
)
from sessioncache.flow import Flow, Pause, Transact
from sessioncache.flushing import dirty_of
from sessioncache.hot import leases, writing
from sessioncache.hot.change import Change, Moved
from sessioncache.hot.reading import Found
from sessioncache.keys import SessionKeys, check_name
from sessioncache.lifecycle.handle import Handle, not_current, standing
from sessioncache.lifecycle.opening import Opening, get_session
from sessioncache.lifecycle.stale import stored, unless_away
from sessioncache.message import instant, milliseconds
from sessioncache.op import new_op_id
from sessioncache.records import Messages
from sessioncache.repeat import pauses
from sessioncache.state import State
from sessioncache.store import place
from sessioncache.store.place import Claim, Place
from sessioncache.store.plan import SWITCHED
from sessioncache.write_behind import drain_key


def time_now() -> datetime:
    """The time, to the millisecond as every other in the store."""
    return instant(milliseconds(datetime.now(UTC)))


_OWN_ID = re.compile(r"\d{8}_\d{6}_([0-9a-f]{8})[0-9a-f]{12}")


def located(state: State, session_id: str, owner: str | None, *, by_caller: bool = True) -> Flow[Place]:
    """Where a session stands, once what is pending under its key is in the store.

    An id that was made here tells the CRC-32 of its first key, so that one that is still pending is found.

    Raises:
        SessionNotFound: it is unknown, deleted, or another owner's.
    """
    check_name(session_id, "session id")
    if by_caller and owner is not None:
        check_name(owner, "owner")
    found = yield from _place(session_id)
    if found is None:
        with suppress(CorruptLog, StoreRefused):  # it may be another owner's; whose it is not is told nothing
            yield from drain_first_key(state, session_id)
        found = yield from _place(session_id)
    before = None
    while found is not None and _is_whose(found, owner) and found.session_key != before:
        before = found.session_key
        yield from drain_key(state, before)
        found = yield from _place(session_id)
    if found is None or found.deleted or not _is_whose(found, owner):
        raise not_found(session_id)
    return found


def not_found(session_id: str) -> SessionNotFound:
    """The error for an id that is unknown, deleted, or another owner's."""
    return SessionNotFound(f"There is no session of id {session_id!r}; past() and list() give the ids that there are.")


def _is_whose(found: Place, owner: str | None) -> bool:
    return owner is None or found.owner == owner


def _place(session_id: str) -> Flow[Place | None]:
    found: Place | None = yield Transact(partial(place.place, session_id=session_id), writes=False)
    return found


def drain_first_key(state: State, session_id: str) -> Flow[None]:
    """Drain the key that an id made here began under, if it is dirty."""
    for session_key in (yield from first_keys(state, session_id)):
        yield from drain_key(state, session_key)


def first_keys(state: State, session_id: str) -> Flow[list[str]]:
    """The dirty keys that an id made here may have begun under: one, but for a coincidence.

    Raises:
        LayoutMismatch: Redis is laid out for another number of partitions; they are elsewhere.
    """
    own = _OWN_ID.fullmatch(session_id)
    if own is None:
        return []
    crc = int(own[1], 16)
    try:
        names = yield from dirty_of(state, [crc % state.settings.partitions])
    except HotTierRefused:  # the index is of a wrong type, which the doctor tells: nothing of that partition can be drained
        return []
    return [session_key for session_key in names if crc32(session_key.encode()) == crc]


def read(state: State, session_id: str, owner: str | None, limit: int | None, before: int | None) -> Flow[Messages]:
    """The newest ``limit`` messages of any session, of those with a seq below ``before``; nothing is cached.

    Raises:
        SessionNotFound: it is unknown, deleted, or another owner's.
    """
    wanted = read_through.Page(
        before=None if before is None else number(before, "before"),
        limit=None if limit is None else number(limit, "limit"),
    )
    fresh = _read(state, session_id, owner, wanted)
    return (yield from unless_away(state, fresh, lambda: _read_stale(session_id, owner, wanted)))


def _read_stale(session_id: str, owner: str | None, wanted: read_through.Page) -> Flow[Messages | None]:
    found = yield from stored(session_id, wanted)
    if found is not None and (found.info is None or owner not in (None, found.info.owner)):
        raise not_found(session_id)
    return None if found is None else found.messages


def _read(state: State, session_id: str, owner: str | None, wanted: read_through.Page) -> Flow[Messages]:
    while True:
        found = yield from located(state, session_id, owner)
        work = partial(_page_if_there, session_id=session_id, session_key=found.session_key, wanted=wanted)
        elements: list[bytes] | None = yield Transact(work, writes=False)
        if elements is not None:
            return Messages(hydration.noted(state, elements), 0, len(elements))


def _page_if_there(
    connection: Connection, session_id: str, session_key: str, wanted: read_through.Page
) -> list[bytes] | None:
    now = place.place(connection, session_id)
    return wanted.load(connection, session_id) if now and not now.deleted and now.session_key == session_key else None


@dataclass(frozen=True, slots=True)
class Target:
    """A key, and which session shall be current under it.

    Attributes:
        owner: whose the session must be: ``""`` nobody's, None anybody's.
        checked: raises if what is current now does not allow it.
    """

    keys: SessionKeys
    session_id: str
    owner: str | None
    checked: Callable[[Found], Flow[None]]
    expected_version: int | None = None
    turn: str = ""


def bring(state: State, target: Target) -> Flow[Opening]:
    """Make a session the current one of a key.

    Raises:
        SessionNotFound: it is unknown, deleted, or another owner's.
        HydrationTimeout: others kept changing the key.
    """
    deadline, waits = time.monotonic() + state.settings.hydration_timeout, pauses()
    while time.monotonic() < deadline:
        now = yield from read_through.standing(state, target.keys)
        yield from target.checked(now)
        if now.session_id == target.session_id or (yield from _brought(state, target, now)):
            state.near.drop(target.keys.session_key)
            return (yield from _opened(state, target))
        yield Pause(next(waits))
    raise HydrationTimeout(
        f"Session key {target.keys.session_key!r} kept changing while a session was brought to it; try again."
    )


def _opened(state: State, target: Target) -> Flow[Opening]:
    """The session that was brought, unless others have moved on since."""
    try:
        opening = yield from get_session(state, target.keys.session_key, None)
    except SessionNotFound:
        current = ""
    else:
        current = opening.handle.session_id
        if current == target.session_id:
            return opening
    raise (yield from not_current(state, Handle(target.keys, target.session_id, ""), Moved(current)))


def _brought(state: State, target: Target, now: Found) -> Flow[bool]:
    """One try, with the key as it stands now; False if it did not stand still."""
    session_key = target.keys.session_key
    yield from drain_key(state, session_key)
    seen = yield from located(state, target.session_id, target.owner, by_caller=False)
    left_by = ""
    if seen.session_key != session_key:
        left_by = yield from _let_go(state, seen.session_key, target.session_id)
    wanted = Claim(target.session_id, session_key, now.version, seen, left_by)
    last_seq: int | None = yield Transact(partial(place.claim, wanted=wanted, now=time_now()), writes=True)
    if last_seq is None:
        return False
    terms = Change(now.session_id, new_op_id(), target.expected_version, target.turn)
    attempt = partial(writing.switch, state, target.keys, terms, now.revision, target.session_id, last_seq)
    return (yield from hydration.warm(state, target.keys, attempt)) is True


def _let_go(state: State, session_key: str, session_id: str) -> Flow[str]:
    """Write under a key that a session leaves it, and drain that; the op id."""
    keys, terms = state.keyspace.of(session_key), Change(session_id, new_op_id())
    yield from hydration.warm(state, keys, partial(writing.leave, state, keys, terms, SWITCHED))
    state.near.drop(session_key)
    yield from drain_key(state, session_key)
    return terms.op_id


def switch(state: State, handle: Handle, session_id: str, expected_version: int | None) -> Flow[Opening]:
    """Make an earlier session, of this key or of another, the current one; the handle's own ends.

    Raises:
        SessionNotFound: it is unknown, deleted, or another owner's.
        SessionMoved, SessionDeleted: the handle's session is not current any more.
        VersionConflict, TurnLost: the terms do not hold.
    """
    check_name(session_id, "session id")
    expected = handle.change(expected_version).expected_version

    def checked(now: Found) -> Flow[None]:
        if now.session_id != handle.session_id:
            raise (yield from not_current(state, handle, Moved(now.session_id)))
        if expected is not None and now.version != expected:
            raise VersionConflict(
                f"The version is {now.version}, not {expected}; read again and decide anew.",
                expected=expected,
                current=now.version,
            )
        if handle.turn and (yield from _turn(state, handle)) != "ours":
            raise TurnLost(
                f"The turn in {handle.keys.session_key!r} ran out, or another server has it; nothing was written."
            )

    if session_id == handle.session_id:
        yield from checked((yield from standing(state, handle)))
        return (yield from _opened(state, Target(handle.keys, session_id, None, checked)))
    return (yield from bring(state, Target(handle.keys, session_id, handle.owner, checked, expected, handle.turn)))


def resume(state: State, session_id: str, owner: str | None) -> Flow[Opening]:
    """Make a session the current one of its key again; whatever is current there ends.

    Raises:
        SessionNotFound: it is unknown, deleted, or another owner's.
    """
    found = yield from located(state, session_id, owner)
    theirs = partial(_must_be_the_same_owners, session_id=session_id, owner=found.owner)
    return (yield from bring(state, Target(state.keyspace.of(found.session_key), session_id, owner, theirs)))


def _turn(state: State, handle: Handle) -> Flow[str]:
    """Whether the handle's turn is still its own, which then lasts a moment longer."""
    return leases.turn(state, handle.keys, "keep", handle.turn, state.settings.hold, handle.session_id)


def _must_be_the_same_owners(now: Found, session_id: str, owner: str) -> Flow[None]:
    yield from ()
    if now.session_id and now.owner != owner:
        raise SessionExists(
            f"The key of session {session_id} has a session of another owner by now; fork it under another."
        )
