"""Opening: the current session of a key, or a new one, as the reset policy says; create, and reset.

The policy is evaluated by the script that opens, by Redis's clock, so that servers that race reset once. The daily
boundaries are computed here, around our clock; if Redis's is days away, around Redis's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from os import urandom
from typing import Any, TypedDict, Unpack, cast
from zlib import crc32

from sessioncache import hydration, info
from sessioncache.conversation import policy
from sessioncache.conversation.key import build_session_key
from sessioncache.conversation.source import SessionSource
from sessioncache.errors import InvalidInput, SessionExists, SessionNotFound
from sessioncache.flow import Flow
from sessioncache.hot import reading, writing
from sessioncache.hot.change import Moved
from sessioncache.hot.reading import Begin, Refused
from sessioncache.hot.writing import Opened
from sessioncache.info import Info
from sessioncache.keys import SessionKeys, check_name
from sessioncache.lifecycle import stale
from sessioncache.lifecycle.handle import Handle, changed, not_current
from sessioncache.message import instant
from sessioncache.op import new_op_id
from sessioncache.state import State

FOUND, NEW = "found", "new"
MAX_ORIGIN_NAME = 1000
_NAMES = ("chat_name", "user_name", "chat_topic")
NO_POLICY = policy.ResetPolicies()


@dataclass(frozen=True, slots=True)
class Opening:
    """A session that was opened.

    Attributes:
        reason: why it began: ``idle``, ``daily``, ``suspended`` or ``reset``; None if it was found, or replaces none.
        had_activity: whether the session that it replaced had messages or had used tokens.
        stale: whether it was found in SQL alone, because Redis was away.
    """

    handle: Handle
    info: Info
    reason: str | None = None
    had_activity: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Details:
    """What a session begins with, checked: columns of the store."""

    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def payload(self) -> bytes:
        """What the pending log carries of it."""
        return info.packed(dict(self.columns))

    @property
    def owner(self) -> str:
        """The owner, ``""`` for none."""
        return str(self.columns.get("owner", ""))


class Begins(TypedDict, total=False):
    """What a session may begin with; what is not given, or None, stays out of it."""

    owner: str | None
    title: str | None
    display_name: str | None
    platform: str | None
    chat_type: str | None
    model: str | None
    provider: str | None
    base_url: str | None
    origin: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


def details(**begins: Unpack[Begins]) -> Details:
    """What a session begins with, checked.

    Raises:
        InvalidInput: a value is refused.
    """
    unknown = sorted(set(begins) - set(_CHECKS))
    if unknown:
        raise InvalidInput(f"A session cannot begin with {', '.join(unknown)}; it can with: {', '.join(_CHECKS)}.")
    columns = {name: _CHECKS[name](value) for name, value in begins.items() if value is not None}
    return Details({name: value for name, value in columns.items() if value != ""})


def addressed(state: State, where: str | SessionSource, begins: Begins) -> tuple[str, Details]:
    """The session key of a source, or the key itself; and what a session begins with there, checked.

    A source is the origin of a session that begins there (its names cut at 1,000 characters: others chose them), and gives
    its platform, chat type and display name, unless those are given.

    Raises:
        InvalidInput: a value is refused, or the key would be too long.
    """
    if not isinstance(where, SessionSource):
        return where, details(**begins)
    names = {name: value[:MAX_ORIGIN_NAME] for name in _NAMES if (value := getattr(where, name))}
    known: Begins = {"origin": {**where.to_dict(), **names}, "platform": where.platform, "chat_type": where.chat_type}
    if name := info.clean_title((where.chat_name or "")[: info.MAX_TITLE_CHARACTERS]):
        known["display_name"] = name
    given = {name: value for name, value in begins.items() if value is not None}
    return key_of(state, where), details(**cast("Begins", {**known, **given}))


def key_of(state: State, where: str | SessionSource) -> str:
    """The session key of a source, as the settings say, or the key itself.

    Raises:
        InvalidKey: the key would be too long.
    """
    if not isinstance(where, SessionSource):
        return where
    settings = state.settings
    return build_session_key(
        where,
        namespace=settings.namespace,
        group_sessions_per_user=settings.group_sessions_per_user,
        thread_sessions_per_user=settings.thread_sessions_per_user,
        canonical_aliases=settings.canonical_aliases,
    )


def _metadata(value: object) -> dict[str, Any]:
    return info.without_none(info.metadata(value))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    **{name: partial(check_name, what=name) for name in ("owner", *info.NAMES, "model", "provider", "base_url")},
    "title": info.clean_title,
    "origin": partial(info.json_object, what="origin"),
    "metadata": _metadata,
}


def new_session_id(session_key: str) -> str:
    """A session id that nobody else has. It sorts by the second it was made in, and tells the CRC-32 of its first key."""
    return f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{crc32(session_key.encode()):08x}{urandom(6).hex()}"


def open_session(state: State, session_key: str, begins: Details, verb: str, *, window: int | None = None) -> Flow[Opening]:
    """Open a session; ``verb`` is ``open``, ``ensure``, ``create`` or ``get`` (see open.lua).

    Raises:
        SessionNotFound: there is none, or it is another owner's.
        SessionExists: create, but there is one.
    """
    keys = state.keyspace.of(session_key)
    begin = Begin(new_session_id(session_key), new_op_id(), begins.payload, info.fields(begins.columns))
    around = datetime.now(UTC)
    while True:
        rows = policy.rows(state.policies, around)
        attempt = partial(reading.open_session, state, keys, verb, begins.owner, begin, rows)
        reply = cast("Opened | Refused", (yield from hydration.warm(state, keys, attempt, window=window)))
        if isinstance(reply, Opened):
            return opened(keys, reply)
        if reply.why == "there":
            raise SessionExists(
                f"There is a session under {session_key!r} already; open() gives it, reset() begins another."
            )
        if reply.why == "again":
            begin = replace(begin, session_id=new_session_id(session_key), op_id=new_op_id())
        elif reply.why == "clock":
            around = instant(reply.at_ms)
        else:
            raise _not_yours(session_key)


def _not_yours(session_key: str) -> SessionNotFound:
    return SessionNotFound(
        f"There is no session under {session_key!r} that is yours to use; open() makes one where none is."
    )


def shown(state: State, session_key: str, owner: str | None) -> Flow[Opening]:
    """The current session of a key, or where Redis is away and stale reads are allowed, the one that SQL knows.

    Raises:
        SessionNotFound: there is none, or it is another owner's.
    """
    fresh = get_session(state, session_key, owner)
    return stale.unless_away(state, fresh, lambda: _stale(state.keyspace.of(session_key), owner))


def _stale(keys: SessionKeys, owner: str | None) -> Flow[Opening | None]:
    found = yield from stale.current(keys.session_key)
    if found is None:
        return None
    if owner not in (None, found.owner):
        raise _not_yours(keys.session_key)
    return Opening(Handle(keys, found.session_id, found.owner or ""), found, stale=True)


def get_session(state: State, session_key: str, owner: str | None, *, window: int | None = None) -> Flow[Opening]:
    """The current session of a key, whatever the policy says.

    Raises:
        SessionNotFound: there is none, or it is another owner's.
    """
    return open_session(state, session_key, details(owner=owner), "get", window=window)


def opened(keys: SessionKeys, reply: Opened) -> Opening:
    """What a caller gets of a session that was opened."""
    snapshot = reply.info
    reason = None if reply.why in (FOUND, NEW) else reply.why
    return Opening(Handle(keys, snapshot.session_id, snapshot.owner or ""), snapshot, reason, reply.had_activity)


def reset(state: State, handle: Handle, begins: Details, expected_version: int | None) -> Flow[Opening]:
    """End the handle's session and begin another, which keeps owner, origin, names and kinds.

    Raises:
        SessionMoved, SessionDeleted: it is not current any more.
        VersionConflict, TurnLost: the terms do not hold.
    """
    if begins.owner not in ("", handle.owner):
        raise InvalidInput("A reset keeps the owner; delete the session and open() one for another owner.")
    session_id, fields = new_session_id(handle.keys.session_key), info.fields(begins.columns)
    terms = handle.change(expected_version)
    attempt = partial(writing.start, state, handle.keys, terms, session_id, begins.payload, fields)
    reply = yield from changed(state, handle, attempt, window=0)
    state.near.drop(handle.keys.session_key)
    return opened(handle.keys, reply)


def refresh(state: State, handle: Handle) -> Flow[Info]:
    """What is known of the handle's session now.

    Raises:
        SessionMoved, SessionDeleted: it is not current any more.
    """
    keys = handle.keys
    nothing = Begin("", new_op_id(), b"", {})
    attempt = partial(reading.open_session, state, keys, "get", "", nothing, policy.rows(NO_POLICY, datetime.now(UTC)))
    reply = cast("Opened | Refused", (yield from hydration.warm(state, keys, attempt)))
    current = reply.info.session_id if isinstance(reply, Opened) else ""
    if isinstance(reply, Opened) and current == handle.session_id:
        return reply.info
    raise (yield from not_current(state, handle, Moved(current)))
