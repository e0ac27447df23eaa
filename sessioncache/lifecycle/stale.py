"""Reading while Redis is away: what SQL has of a session, marked stale, where the setting ``stale_reads`` allows it.

Guarantees: without the setting nothing of this happens (I9); what is read is of the session that was asked for and of
its owner (I6); what SQL does not know is never said not to be, because it may be pending: then the error of Redis stands;
nothing is kept, so that the next read after Redis is back is as true as ever.

Assumes that what is read here is shown and not acted on: whoever changes anything reads the hot tier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from sessioncache.errors import HotTierUnavailable
from sessioncache.flow import Flow, Transact
from sessioncache.info import Info
from sessioncache.lifecycle.handle import Handle, elsewhere, gone
from sessioncache.read_through import Page, View
from sessioncache.records import Messages
from sessioncache.state import State
from sessioncache.store import find, load

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """What SQL has of a session; ``info`` is None for one that was deleted."""

    info: Info | None
    elements: list[bytes]

    @property
    def messages(self) -> Messages:
        """Its messages, marked."""
        return Messages(self.elements, 0, len(self.elements), stale=True)


def unless_away(state: State, fresh: Flow[T], instead: Callable[[], Flow[T | None]]) -> Flow[T]:
    """What ``fresh`` finds, or, where Redis is away and stale reads are allowed, what ``instead`` does.

    Raises:
        HotTierUnavailable: Redis is away, and stale reads are not allowed or find nothing.
    """
    return _or_stale(state, fresh, instead) if state.settings.stale_reads else fresh


def _or_stale(state: State, fresh: Flow[T], instead: Callable[[], Flow[T | None]]) -> Flow[T]:
    try:
        return (yield from fresh)
    except HotTierUnavailable:
        found = yield from instead()
        if found is None:
            raise
        state.counters.add("stale_reads")
        return found


def stored(session_id: str, wanted: Page | None) -> Flow[Stored | None]:
    """A session and its messages, as SQL has them; None for one that SQL does not know."""
    found: Stored | None = yield Transact(partial(_stored, session_id=session_id, wanted=wanted), writes=False)
    return found


def _stored(connection: Connection, session_id: str, wanted: Page | None) -> Stored | None:
    known = find.one(connection, session_id)
    if known is None:
        return Stored(None, []) if load.is_deleted(connection, session_id) else None
    return Stored(known, wanted.load(connection, session_id) if wanted else [])


def view(handle: Handle, wanted: Page) -> Flow[View | None]:
    """A page of the handle's session, current or not: SQL is the last to learn which is.

    Raises:
        SessionDeleted, SessionMoved: it was deleted, or is another key's.
    """
    found = yield from stored(handle.session_id, wanted)
    if found is None:
        return None
    if found.info is None:
        raise gone(handle)
    known = found.info
    if known.key != handle.keys.session_key or (known.owner or "") != handle.owner:
        raise elsewhere(handle, "")
    return View(handle.session_id, "", known.message_count, known.consolidated_seq, found.messages)


def current(session_key: str) -> Flow[Info | None]:
    """The session that is current under a key, as far as SQL knows."""
    found: Info | None = yield Transact(partial(_current, session_key=session_key), writes=False)
    return found


def _current(connection: Connection, session_key: str) -> Info | None:
    session_id = load.current(connection, session_key)
    return find.one(connection, session_id) if session_id else None
