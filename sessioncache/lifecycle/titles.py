"""Titles that are unique among the sessions of an owner.

One process at a time gives titles that begin alike to an owner's sessions, and what it gave is in the store before the next
one begins, unless the store is away. Titles that were set otherwise count as far as the store has them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from functools import partial
from secrets import token_hex

from sessioncache import info
from sessioncache.errors import InvalidInput, TurnTimeout
from sessioncache.flow import Flow, Pause, Transact
from sessioncache.hot import leases
from sessioncache.lifecycle.details import update
from sessioncache.lifecycle.handle import Handle
from sessioncache.repeat import pauses
from sessioncache.state import State
from sessioncache.store import find
from sessioncache.write_behind import drain_key

# How long one process may take, in seconds, and how long the next one waits for it; besides what a write may wait for room.
EXCLUSIVE, TIMEOUT = 10.0, 15.0

_NUMBERED = re.compile(r"(.*?)(?: #([1-9][0-9]{0,5}))?", re.DOTALL)


def unique_title(state: State, handle: Handle, title: object, expected_version: int | None) -> Flow[str]:
    """Give the session a title that no other session of its owner has: this one, or with ``#2``, ``#3`` … after it.

    Raises:
        InvalidInput: the title is refused, or nothing of it can be seen; nothing was written.
        TurnTimeout: another server gave such titles to this owner's sessions all the time.
        StoreUnavailable: the database is away; it may have the title all the same.
        SessionMoved, SessionDeleted, VersionConflict, TurnLost, Backpressure: as for `append`.
    """
    wanted = info.clean_title(title)
    if not wanted:
        raise InvalidInput("A unique title needs a character that can be seen.")
    key, token = state.keyspace.titles(handle.owner, _base(wanted)), token_hex(8)
    yield from _take(state, key, token)
    try:
        work = partial(find.titles, owner=handle.owner or None, base=_base(wanted), besides=handle.session_id)
        given = numbered(wanted, (yield Transact(work, writes=False)))
        yield from update(state, handle, {"title": given}, expected_version)
        yield from drain_key(state, handle.keys.session_key)
    finally:
        yield from leases.exclusive(state, key, token, 0)
    return given


def _take(state: State, key: str, token: str) -> Flow[None]:
    room = state.settings.backpressure_wait if state.settings.backpressure == "wait" else 0.0
    deadline, waits = time.monotonic() + TIMEOUT + room, pauses()
    while not (yield from leases.exclusive(state, key, token, EXCLUSIVE + room)):
        if time.monotonic() > deadline:
            raise TurnTimeout("Another server gave titles to sessions of this owner all the time; try again.")
        yield Pause(next(waits))


def _base(title: str) -> str:
    """What a number is put after: cut, so that there is room for one."""
    found = _NUMBERED.fullmatch(title)
    return (found[1] if found and found[1] else title)[: info.MAX_TITLE_CHARACTERS - len(" #9999999")].rstrip()


def numbered(title: str, taken: Collection[str]) -> str:
    """The title itself, if it is free; else its base with the number after the highest one that is taken."""
    if title not in taken:
        return title
    base = _base(title)
    numbers = [int(match[2] or 1) for name in taken if (match := _NUMBERED.fullmatch(name)) and match[1] == base]
    return f"{base} #{max(numbers, default=1) + 1}"
