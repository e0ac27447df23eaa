"""Read-through: from the hot copy to the caller; what a miss is, `hydration` says.

*A read* is one round trip: where the session stands, and the messages or what is newer than this process has. Below the
hot window it drains the key, pages from SQL, and reads again to see that nothing moved meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from sessioncache.elements import decoded, in_order, is_sound, seq_of
from sessioncache.errors import HydrationTimeout
from sessioncache.flow import Flow, Pause, Transact
from sessioncache.hot import reading
from sessioncache.hot.reading import Found
from sessioncache.hydration import FIRST_WAIT, LONGEST_WAIT, drop_garbage, noted, warm
from sessioncache.keys import SessionKeys
from sessioncache.near import Copy, copied
from sessioncache.op import new_op_id
from sessioncache.records import Messages
from sessioncache.repeat import pauses
from sessioncache.state import State
from sessioncache.store import load
from sessioncache.write_behind import drain_key

T = TypeVar("T")


class View(NamedTuple):
    """The messages of a session as of one version; ``session_id`` is ``""`` for a key without one.

    Attributes:
        fresh: those that can be read among the newest messages, where they had to be decoded anyway; for one caller (I8).
        among: how many newest ones that were.
    """

    session_id: str
    revision: str
    total: int
    consolidated_seq: int
    messages: Messages
    fresh: list[dict[str, Any]] | None = None
    among: int = 0


def standing(state: State, keys: SessionKeys) -> Flow[Found]:
    """Where a key stands, without its messages."""
    return warm(state, keys, lambda: reading.read(state, keys, 0, None, new_op_id()))


def read(
    state: State, keys: SessionKeys, limit: int | None = None, *, access: bool = True, headers: bool = True
) -> Flow[View]:
    """The newest ``limit`` messages (None: all) of a key's current session, as of some instant of this call.

    Without ``access`` it is a look: of a session that is hot no access is noted, and its TTL is left as it is. Without
    ``headers`` only what messages hold is looked at, and may be shown; when records are wanted, the rest is.
    """
    wanted = _Wanted(state, keys, limit, access, headers)
    return state.traced("read", _newest(wanted), {"partition": keys.partition}, _told)


def _told(view: View) -> dict[str, str | int]:
    return {"session_id": view.session_id, "messages": len(view.messages)}


@dataclass(slots=True)
class _Wanted:
    """What one call reads, and what it counts as, once: what its first look carried, or that it missed."""

    state: State
    keys: SessionKeys
    limit: int | None
    access: bool
    headers: bool
    counted: bool = False

    def is_(self, name: str) -> None:
        """Count it, unless it is."""
        if not self.counted:
            self.counted = True
            self.state.counters.add(name)

    def of(self, total: int) -> int:
        """How many messages that are, where there are so many."""
        return total if self.limit is None else min(self.limit, total)


def _newest(wanted: _Wanted) -> Flow[View]:
    state, keys, limit = wanted.state, wanted.keys, wanted.limit
    begun = time.perf_counter()
    near = state.near.get(keys.session_key)
    have = near if near is not None and near.covers(limit) else None
    deadline, waits = time.monotonic() + state.settings.hydration_timeout, None
    while True:
        found = yield from _read(wanted, -1 if limit is None else limit, have)
        copy, fresh = yield from _received(wanted, found, have)
        if copy is not None and copy.length < wanted.of(copy.total):
            copy, fresh = (yield from _with_older(wanted, copy)), None
        if copy is not None:
            state.near.put(keys.session_key, copy)
            state.counters.observe("read_seconds", time.perf_counter() - begun)
            return View(
                found.session_id, found.revision, copy.total, found.consolidated_seq, copy.newest(limit), fresh,
                len(found.elements),
            )  # fmt: skip
        if time.monotonic() > deadline:
            raise _kept_changing(keys)
        have, waits = None, waits or pauses(FIRST_WAIT, LONGEST_WAIT)
        yield Pause(next(waits))


def _read(wanted: _Wanted, want: int, have: Copy | None) -> Flow[Found]:
    op_id, state, keys = new_op_id(), wanted.state, wanted.keys
    attempt = partial(reading.read, state, keys, want, have, op_id, access=wanted.access)
    return warm(state, keys, attempt, missed=partial(wanted.is_, "reads_missed"))


def _received(wanted: _Wanted, found: Found, have: Copy | None) -> Flow[tuple[Copy | None, list[dict[str, Any]] | None]]:
    """What was read as a near copy, None where it is garbage, which goes then; and what is new, decoded, if wanted."""
    base = have if found.delta else None
    fresh = None if wanted.headers else decoded(found.elements)
    headed = _headed(found, base) if wanted.headers else (base.headed if base else 0)
    if headed is None or not (fresh is not None or is_sound(found.elements)):
        yield from drop_garbage(wanted.state, wanted.keys)
        return None, None
    wanted.is_("reads_delta" if found.delta else "reads_full")
    if base is not None:
        return wanted.state.near.extend(base, found.version, found.elements, headed), fresh
    return copied(found.session_id, found.revision, found.version, found.total, found.elements, headed), fresh


def _headed(found: Found, base: Copy | None) -> int | None:
    """How many headers are in order, of what was had and what was found: all, else None."""
    if base is None:
        return len(found.elements) if in_order(found.elements, -1, found.version) else None
    after = seq_of(base.raw[base.headed - 1]) if base.headed else -1
    unseen = base.raw[base.headed : base.length] + found.elements
    return base.headed + len(unseen) if in_order(unseen, after, found.version) else None


def _with_older(wanted: _Wanted, copy: Copy) -> Flow[Copy | None]:
    """A copy of the hot window with what lies below it, paged from SQL; None if that moved meanwhile, or it is garbage.

    It is true as of the copy's version if session id and revision are still the same: then only appends came since.
    """
    state, keys, hot = wanted.state, wanted.keys, copy.raw[: copy.length]
    if not in_order(hot, -1, copy.version):
        yield from drop_garbage(state, keys)
        return None
    yield from drain_key(state, keys.session_key)
    # Without a hot one: what came since the copy's version comes with the second look, and not from SQL.
    missing, before = wanted.of(copy.total) - copy.length, seq_of(hot[0]) if hot else copy.version + 1
    work = partial(load.older, session_id=copy.session_id, before=before, limit=missing)
    raw = noted(state, (yield Transact(work, writes=False))) + hot
    state.counters.add("sql_pages")
    whole = copied(copy.session_id, copy.revision, copy.version, copy.total, raw, len(raw))
    found = yield from _read(wanted, 0, whole)
    if not hot:
        yield from reading.evict(state, keys)  # it was brought for a change that needed no messages; the next read does
    # Fewer than are missing: the store's count is wrong, or rows were removed by hand; these are all there are.
    if (found.session_id, found.revision) != (copy.session_id, copy.revision):
        return None
    return (yield from _received(wanted, found, whole))[0] if found.delta else whole


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
