"""Read-through: from the hot copy to the caller, and from the store to the hot copy on a miss.

*A read* is one round trip: where the session stands, and the messages or what is newer than this process has. Below the
hot window it drains the key, pages from SQL, and reads again to see that nothing moved meanwhile.

*A miss* takes the lease or waits for its holder (I7); drains the key first, so that SQL alone is the truth (I4); loads
one snapshot; publishes it if the lease is still ours under the same run and the log is still empty. Appends cannot slip
in meanwhile: without a valid hot copy they miss too (I5).

*A write* that is refused because too much waits for the store is tried again as the policy says (`pressure`).

*Garbage* in a hot copy, whoever wrote it, makes it a miss: it is dropped and brought back from the store, counted and
warned of (I1). A message that the store itself cannot give back is a hole (`message`), which spoils no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from sessioncache.errors import Backpressure, HotTierFull, HydrationTimeout, SessionCacheError
from sessioncache.flow import Flow, Interrupted, Pause, Transact
from sessioncache.hot import reading
from sessioncache.hot.reading import Found
from sessioncache.hot.server import server_facts
from sessioncache.keys import SessionKeys
from sessioncache.message import HOLE, Messages, is_sound
from sessioncache.near import Copy
from sessioncache.op import new_op_id
from sessioncache.pressure import Relief
from sessioncache.repeat import pauses
from sessioncache.snapshot import Snapshot
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key

T = TypeVar("T")

log = logging.getLogger("sessioncache.read_through")

FIRST_WAIT = 0.004
LONGEST_WAIT = 0.05
# So many copies may vanish during one call before it is asked why.
LOSSES = 2


@dataclass(frozen=True, slots=True)
class View:
    """The messages of a session as of one version; ``session_id`` is ``""`` for a key without one."""

    session_id: str
    revision: str
    total: int
    consolidated_seq: int
    messages: Messages


def standing(state: State, keys: SessionKeys) -> Flow[Found]:
    """Where a key stands, without its messages."""
    return warm(state, keys, lambda: reading.read(state, keys, 0, None, new_op_id()))


def read(state: State, keys: SessionKeys, limit: int | None = None) -> Flow[View]:
    """The newest ``limit`` messages (None: all) of a key's current session, as of some instant of this call."""
    near = state.near.get(keys.session_key)
    have = near if near is not None and near.covers(limit) else None
    deadline, waits = time.monotonic() + state.settings.hydration_timeout, pauses(FIRST_WAIT, LONGEST_WAIT)
    while True:
        found = yield from _read(state, keys, -1 if limit is None else limit, have)
        copy = yield from _received(state, keys, found, have)
        if copy is not None and copy.length < _wanted(copy.total, limit):
            copy = yield from _with_older(state, keys, _wanted(copy.total, limit), copy)
        if copy is not None:
            state.near.put(keys.session_key, copy)
            return View(found.session_id, found.revision, copy.total, found.consolidated_seq, copy.newest(limit))
        if time.monotonic() > deadline:
            raise _kept_changing(keys)
        have = None
        yield Pause(next(waits))


def _wanted(total: int, limit: int | None) -> int:
    return total if limit is None else min(limit, total)


def _read(state: State, keys: SessionKeys, want: int, have: Copy | None) -> Flow[Found]:
    op_id = new_op_id()
    found = yield from warm(state, keys, lambda: reading.read(state, keys, want, have, op_id))
    state.counters.add("reads_delta" if found.delta else "reads_full")
    return found


def _received(state: State, keys: SessionKeys, found: Found, have: Copy | None) -> Flow[Copy | None]:
    """What was read as a near copy; None where it is garbage, which goes then."""
    after = _seq(have.raw[have.length - 1]) if found.delta and have is not None and have.length else -1
    if not is_sound(found.elements, after, found.version):
        yield from _drop_garbage(state, keys)
        return None
    if found.delta and have is not None:
        return state.near.extend(have, found.version, found.elements)
    size = sum(map(len, found.elements))
    length = len(found.elements)
    return Copy(found.session_id, found.revision, found.version, found.total, found.elements, length, size)


def _seq(sound: bytes) -> int:
    return int(sound.split(b" ", 1)[0])


def _drop_garbage(state: State, keys: SessionKeys) -> Flow[None]:
    state.counters.add("corrupt_elements")
    log.warning(
        "a hot copy holds what cannot be read; it is brought back from the store", extra={"session_key": keys.session_key}
    )
    state.near.drop(keys.session_key)
    yield from reading.evict(state, keys)


def holes(elements: list[bytes]) -> int:
    """How many of these sound elements are holes."""
    return sum(one.endswith(HOLE) and one.index(b"\n") == len(one) - 2 for one in elements)


def noted(state: State, elements: list[bytes]) -> list[bytes]:
    """Elements that the store gave, once what it cannot give back is counted."""
    state.counters.add("corrupt_elements", holes(elements))
    return elements


def _with_older(state: State, keys: SessionKeys, wanted: int, copy: Copy) -> Flow[Copy | None]:
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
    found = yield from _read(state, keys, 0, whole)
    if not copy.length:
        yield from reading.evict(state, keys)  # it was brought for a change that needed no messages; the next read does
    # Fewer than are missing: the store's count is wrong, or rows were removed by hand; these are all there are.
    if (found.session_id, found.revision) != (copy.session_id, copy.revision):
        return None
    return (yield from _received(state, keys, found, whole)) if found.delta else whole


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


def warm(state: State, keys: SessionKeys, attempt: Callable[[], Flow[T | None]], *, window: int | None = None) -> Flow[T]:
    """What ``attempt`` finds in a valid hot copy, hydrating as often as it misses; with at most ``window`` messages.

    Raises:
        HydrationTimeout: there was no valid hot copy within ``hydration_timeout``.
        HotTierFull: Redis has no room for one, or evicts it at once.
        Backpressure: too much waits for the store, and the policy found no room.
    """
    deadline = time.monotonic() + state.settings.hydration_timeout
    waits, losses, relief = pauses(FIRST_WAIT, LONGEST_WAIT), Losses(), Relief(state, keys)
    while True:
        try:
            reply = yield from attempted(state, keys, attempt)
        except Backpressure as refused:
            yield from relief.find(refused)
            deadline = time.monotonic() + state.settings.hydration_timeout
            continue
        if reply is not None:
            return reply
        state.counters.add("misses")
        if time.monotonic() > deadline:
            raise HydrationTimeout(
                f"Session key {keys.session_key!r} was not hydrated within {state.settings.hydration_timeout} s; "
                "see whether the database is slow, or raise hydration_timeout."
            )
        yield from losses.looked_at(state, keys)
        if not (yield from _hydrate(state, keys, state.settings.window if window is None else window, losses)):
            state.counters.add("hydration_waits")
            yield Pause(next(waits))


@dataclass(slots=True)
class Losses:
    """Copies this call brought, and lost; how many keys Redis had evicted when that was looked at."""

    copies: int = 0
    evicted: int | None = None

    def looked_at(self, state: State, keys: SessionKeys) -> Flow[None]:
        """Nothing, unless one copy after the other goes and Redis evicts meanwhile: bringing more would not help."""
        if self.copies < LOSSES:
            return
        evicted = (yield from server_facts(state)).evicted
        if self.evicted is not None and evicted > self.evicted:
            raise HotTierFull(
                f"Redis has reached maxmemory and evicts the copy of session key {keys.session_key!r} as soon as it is "
                "brought back; flush, or give it more memory."
            )
        self.evicted = evicted


def attempted(state: State, keys: SessionKeys, attempt: Callable[[], Flow[T | None]]) -> Flow[T | None]:
    """What ``attempt`` finds in a valid hot copy; None for none, also where it was garbage, which goes then."""
    try:
        return (yield from attempt())
    except SessionCacheError:
        raise
    except (ValueError, KeyError, OverflowError):
        yield from _drop_garbage(state, keys)
        return None


def _hydrate(state: State, keys: SessionKeys, window: int, losses: Losses) -> Flow[bool]:
    """Bring the hot copy back, if nobody else is at it; True if there may be one now."""
    token = new_op_id()
    try:
        ours = yield from reading.lease(state, keys, token)
    except Interrupted:  # it may be ours all the same
        yield from reading.release(state, keys, token)
        raise
    if not ours:
        return ours is None
    losses.copies += 1
    try:
        return (yield from _load_and_publish(state, keys, token, window))
    except (SessionCacheError, Interrupted):
        yield from reading.release(state, keys, token)
        raise


def _load_and_publish(state: State, keys: SessionKeys, token: str, window: int) -> Flow[bool]:
    settings = state.settings
    work = partial(
        load.snapshot,
        session_key=keys.session_key,
        window=window,
        window_bytes=settings.window_bytes,
        keep_ops=settings.keep_ops,
    )
    verdict = "dirty"
    while verdict == "dirty":
        yield from drain_key(state, keys.session_key)
        if not (yield from reading.lease(state, keys, token)):  # again ours, and for its full time
            return False
        snapshot: Snapshot = yield Transact(work, writes=False)
        noted(state, snapshot.elements)
        state.counters.add("sql_loads")
        verdict = yield from reading.publish(state, keys, token, snapshot)
    state.counters.add("hydrations", int(verdict == "ok"))
    return verdict == "ok"
