"""Inspection: what an operator sees of one session, who is no reader of it.

`inspect` says where a session key, or a session id, stands in both tiers. It changes nothing: what is not hot stays so,
what is pending waits on. `newest` reads messages; it notes no access and slides no TTL, but it brings in a session that is
not hot, as any reader does.

Guarantees: one round trip to each tier for a session key; bounded work; another owner's session is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sessioncache import hydration, read_through
from sessioncache.errors import SessionNotFound, StoreUnavailable
from sessioncache.flow import Flow, Transact
from sessioncache.hot import inspecting, reading
from sessioncache.hot.inspecting import Standing as Hot
from sessioncache.info import Info
from sessioncache.keys import check_name, check_session_key
from sessioncache.lifecycle.moving import first_keys
from sessioncache.records import Messages
from sessioncache.state import State
from sessioncache.store import place
from sessioncache.store.standing import Standing as Stored
from sessioncache.store.standing import standing


@dataclass(frozen=True, slots=True)
class Inspected:
    """Where a session stands.

    Attributes:
        session_id: the session that was asked for, or is current; None where the key has none, or it cannot be told.
        is_current: whether it is current under the key.
        version: the key's, as Redis has it, or, for a session that is not hot, SQL.
        info: what is known of the session: from Redis where that has it, else from SQL.
        hot: the key in Redis.
        stored: the key in SQL; None while that is away.
    """

    session_key: str
    partition: int
    session_id: str | None
    is_current: bool
    version: int | None
    info: Info | None
    hot: Hot
    stored: Stored | None


def inspect(state: State, name: str, owner: str | None = None) -> Flow[Inspected]:
    """Where the session stands that a key, or else an id, names.

    Raises:
        InvalidKey: it cannot be either.
        SessionNotFound: there is neither, or it is another owner's.
        StoreUnavailable: the database is away, and Redis has nothing of it.
    """
    check_session_key(name)
    if owner is not None:
        check_name(owner, "owner")
    found = yield from _of_key(state, name, None)
    if not _is_known(found):
        session_key = yield from _key_of(state, name)
        if session_key is None:
            raise _not_found(name)
        found = yield from _of_key(state, session_key, name)
    if owner is not None and (found.info is None or found.info.owner != owner):
        raise _not_found(name)
    return found


def _not_found(name: str) -> SessionNotFound:
    return SessionNotFound(f"There is no session under the key, or of the id, {name!r}; see sessioncache ls.")


def _of_key(state: State, session_key: str, session_id: str | None) -> Flow[Inspected]:
    keys = state.keyspace.of(session_key)
    hot = yield from inspecting.inspect(state, keys)
    try:
        work = partial(standing, session_key=session_key, session_id=session_id)
        stored: Stored | None = yield Transact(work, writes=False)
    except StoreUnavailable:
        if hot.info is None and not hot.pending:
            raise
        stored = None
    current = _current(hot, stored)
    wanted = session_id or current
    known = (one.info for one in (hot, stored) if one is not None and one.info is not None)
    info = next((one for one in known if one.session_id == wanted), None)
    version = hot.info.version if hot.info else stored.version if stored else None
    return Inspected(session_key, keys.partition, wanted, wanted == current, version, info, hot, stored)


def _current(hot: Hot, stored: Stored | None) -> str | None:
    """The id of the key's current session: Redis says it, if it has a valid hot copy, else SQL does."""
    if hot.copy == "hot":
        return hot.info.session_id if hot.info else None
    return stored.current if stored else None


def _is_known(found: Inspected) -> bool:
    waits = found.hot.pending or found.hot.dead or found.hot.holds
    return bool(found.session_id or waits or (found.stored and found.stored.sessions))


def _key_of(state: State, session_id: str) -> Flow[str | None]:
    """The key that a session id stands under, in SQL or, before it got there, in Redis."""
    known: place.Place | None = yield Transact(partial(place.place, session_id=session_id), writes=False)
    if known is not None:
        return None if known.deleted else known.session_key
    for session_key in (yield from first_keys(state, session_id)):
        hot = yield from inspecting.inspect(state, state.keyspace.of(session_key))
        if hot.info is not None and hot.info.session_id == session_id:
            return session_key
    return None


def newest(state: State, session_key: str, owner: str | None, limit: int) -> Flow[tuple[Info, Messages]]:
    """The current session of a key, and its newest ``limit`` messages; no access is noted.

    Raises:
        InvalidKey: the key cannot be one.
        SessionNotFound: there is none, or it is another owner's.
    """
    keys = state.keyspace.of(session_key)
    while True:
        looked = yield from hydration.warm(state, keys, partial(reading.look, state, keys))
        if looked.info is None or owner not in (None, looked.info.owner):
            raise SessionNotFound(f"There is no session under the key {session_key!r}; see sessioncache ls.")
        view = yield from read_through.read(state, keys, limit, access=False)
        if view.session_id == looked.info.session_id:
            return looked.info, view.messages
