"""Read-through: from the hot copy to the caller; what a miss is, `hydration` says.

*A read* is one round trip: where the session stands, and the messages or what is newer than this process has. Below the
hot window it drains the key, pages from SQL, and reads again to see that nothing moved meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from sessioncache.errors import HydrationTimeout
from sessioncache.flow import Flow, Pause, Transact
from sessioncache.hot import reading
from sessioncache.hot.reading import Found
from sessioncache.hydration import FIRST_WAIT, LONGEST_WAIT, attempted, drop_garbage, noted, warm
from sessioncache.keys import SessionKeys
from sessioncache.message import Messages, is_sound
from sessioncache.near import Copy
from sessioncache.op import new_op_id
from sessioncache.repeat import pauses
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """The messages of a session as of one version; ``session_id`` is ``""`` for a key without one."""

    session_id: str
    revision: str
    total: int
    consolidated_seq: int
    messages: Messages


@dataclass(slots=True)
class _Outcome:
    """What one call that reads counts as, once: what its first look carried, or that it missed."""

    state: State
    counted: bool = False

    def is_(self, name: str) -> None:
        """Count it, unless it is."""
        if not self.counted:
            self.counted = True
            self.state.counters.add(name)


def standing(state: State, keys: SessionKeys) -> Flow[Found]:
    """Where a key stands, without its messages."""
    return warm(state, keys, lambda: reading.read(state, keys, 0, None, new_op_id()))


def read(state: State, keys: SessionKeys, limit: int | None = None, *, access: bool = True) -> Flow[View]:
    """The newest ``limit`` messages (None: all) of a key's current session, as of some instant of this call.

    Without ``access`` it is a look: of a session that is hot no access is noted, and its TTL is left as it is.
    """
    return state.traced("read", _newest(state, keys, limit, access=access), {"partition": keys.partition}, _told)


def _told(view: View) -> dict[str, str | int]:
    return {"session_id": view.session_id, "messages": len(view.messages)}


def _newest(state: State, keys: SessionKeys, limit: int | None, *, access: bool) -> Flow[View]:
    begun = time.perf_counter()
    near = state.near.get(keys.session_key)
    have = near if near is not None and near.covers(limit) else None
    deadline, waits = time.monotonic() + state.settings.hydration_timeout, pauses(FIRST_WAIT, LONGEST_WAIT)
    outcome = _Outcome(state)
    while True:
        found = yield from _read(state, keys, -1 if limit is None else limit, have, outcome, access=access)
        copy = yield from _received(state, keys, found, have, outcome)
        if copy is not None and copy.length < _wanted(copy.total, limit):
            copy = yield from _with_older(state, keys, _wanted(copy.total, limit), copy, outcome, access=access)
        if copy is not None:
            state.near.put(keys.session_key, copy)
            state.counters.observe("read_seconds", time.perf_counter() - begun)
            return View(found.session_id, found.revision, copy.total, found.consolidated_seq, copy.newest(limit))
        if time.monotonic() > deadline:
            raise _kept_changing(keys)
        have = None
        yield Pause(next(waits))


def _wanted(total: int, limit: int | None) -> int:
    return total if limit is None else min(limit, total)


def _read(state: State, keys: SessionKeys, want: int, have: Copy | None, outcome: _Outcome, *, access: bool) -> Flow[Found]:
    op_id = new_op_id()

    def look() -> Flow[Found | None]:
        found = yield from attempted(state, keys, lambda: reading.read(state, keys, want, have, op_id, access=access))
        if found is None:
            outcome.is_("reads_missed")
        return found

    return (yield from warm(state, keys, look))


def _received(state: State, keys: SessionKeys, found: Found, have: Copy | None, outcome: _Outcome) -> Flow[Copy | None]:
    """What was read as a near copy; None where it is garbage, which goes then."""
    after = _seq(have.raw[have.length - 1]) if found.delta and have is not None and have.length else -1
    if not is_sound(found.elements, after, found.version):
        yield from drop_garbage(state, keys)
        return None
    outcome.is_("reads_delta" if found.delta else "reads_full")
    if found.delta and have is not None:
        return state.near.extend(have, found.version, found.elements)
    size = sum(map(len, found.elements))
    length = len(found.elements)
    return Copy(found.session_id, found.revision, found.version, found.total, found.elements, length, size)


def _seq(sound: bytes) -> int:
    return int(sound.split(b" ", 1)[0])


def _with_older(
    state: State, keys: SessionKeys, wanted: int, copy: Copy, outcome: _Outcome, *, access: bool
) -> Flow[Copy | None]:
    """A copy of the hot window with what lies below it, paged from SQL; None if that moved meanwhile.

    It is true as of the copy's version if session id and revision are still the same: then only appends came since.
    """
    yield from drain_key(state, keys.session_key)
    missing = wanted - copy.length
    before = _seq(copy.raw[0]) if copy.length else None
    work = partial(load.older, session_id=copy.session_id, before=before, limit=missing)
    page = noted(state, (yield Transact(work, writes=False)))
    state.counters.add("sql_pages")
    raw = page + copy.raw[: copy.length]
    size = copy.size + sum(map(len, page))
    whole = Copy(copy.session_id, copy.revision, copy.version, copy.total, raw, len(raw), size)
    found = yield from _read(state, keys, 0, whole, outcome, access=access)
    if not copy.length:
        yield from reading.evict(state, keys)  # it was brought for a change that needed no messages; the next read does
    # Fewer than are missing: the store's count is wrong, or rows were removed by hand; these are all there are.
    if (found.session_id, found.revision) != (copy.session_id, copy.revision):
        return None
    return (yield from _received(state, keys, found, whole, outcome)) if found.delta else whole


@dataclass(frozen=True, slots=True)
class Page:
    """Which messages: those with a seq above ``after`` or, if that is None, below ``before``; at most ``limit`` of them.

    From above ``after`` they are the oldest, below ``before`` the newest.
    """

    before: int | None = None
    after: int | None = None
    limit: int | None = None

    def load(self, connection: Connection, session_id: str) -> list[bytes]:
        """The elements of the page, oldest first, from the store."""
        limit = load.EVERY if self.limit is None else self.limit
        if self.after is not None:
            return load.newer(connection, session_id, self.after, limit)
        return load.older(connection, session_id, self.before, limit)


def page(state: State, keys: SessionKeys, wanted: Page) -> Flow[View]:
    """A page of a key's current session, from SQL, as of some instant of this call."""
    deadline, waits = time.monotonic() + state.settings.hydration_timeout, pauses(FIRST_WAIT, LONGEST_WAIT)
    while True:
        first = yield from standing(state, keys)
        yield from drain_key(state, keys.session_key)
        elements = noted(state, (yield Transact(partial(wanted.load, session_id=first.session_id), writes=False)))
        state.counters.add("sql_pages")
        then = yield from standing(state, keys)
        if (then.session_id, then.revision) == (first.session_id, first.revision):
            return View(
                then.session_id, then.revision, then.total, then.consolidated_seq, Messages(elements, 0, len(elements))
            )
        if time.monotonic() > deadline:
            raise _kept_changing(keys)
        yield Pause(next(waits))


def has_message(state: State, keys: SessionKeys, session_id: str, message_id: str) -> Flow[bool]:
    """Whether the store has a message, once what is pending is in it."""
    yield from drain_key(state, keys.session_key)
    work = partial(load.has_message, session_id=session_id, message_id=message_id)
    return bool((yield Transact(work, writes=False)))


def _kept_changing(keys: SessionKeys) -> HydrationTimeout:
    return HydrationTimeout(f"Session key {keys.session_key!r} kept changing below its hot window; try again.")
