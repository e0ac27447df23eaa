"""Changes of a session: one function for each script. What the terms refuse, `change` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from sessioncache import scripts
from sessioncache.errors import HotTierUnavailable, InvalidInput
from sessioncache.flow import Flow
from sessioncache.hot.change import Arguments, Busy, Change, Moved, change, ring
from sessioncache.info import Info, from_meta
from sessioncache.keys import SessionKeys
from sessioncache.message import stamped
from sessioncache.state import State, ms

# Fields of a meta hash: the metadata names of a session and our own.
MAX_FIELDS = 1024


class Appended(NamedTuple):
    """What an append was answered: the elements of its messages, in order, and where the session stood and stands.

    ``waited``: what Redis said to ``terms.wait``.
    """

    before: int
    version: int
    revision: str
    elements: list[bytes]
    waited: object


def append(
    state: State, keys: SessionKeys, terms: Change, kind: str, op_ids: Sequence[str], messages: Sequence[bytes]
) -> Flow[Appended | Moved | Busy | None]:
    r"""Append messages, each ``<message id>\n<msgpack>``, under an op id each; ``terms.op_id`` is not used."""
    window = state.settings.window, state.settings.window_bytes
    parts: Iterable[str | bytes] = chain.from_iterable(zip(op_ids, messages, strict=True))
    reply = yield from change(state, scripts.APPEND, keys, terms, kind, *window, *parts)
    if not isinstance(reply, list):
        return reply
    _, before, version, revision, _, nobody, *stamps = reply
    if nobody:
        yield ring(state, keys)
    waited = stamps.pop() if terms.wait else None
    return Appended(int(before), int(version), revision.decode(), stamped(stamps, messages), waited)


def replace(
    state: State, keys: SessionKeys, terms: Change, items: Sequence[bytes]
) -> Flow[tuple[int, int] | Moved | Busy | None]:
    r"""Replace all messages by others, each ``<message id>\n<msgpack>``; the version before theirs, and the time."""
    settings = state.settings
    reply = yield from change(
        state, scripts.REPLACE, keys, terms, settings.window, settings.window_bytes, *items
    )  # fmt: skip
    if not isinstance(reply, list):
        return reply
    if reply[2]:
        yield ring(state, keys)
    return int(reply[1]), int(reply[3])


def pop(state: State, keys: SessionKeys, terms: Change) -> Flow[bytes | Moved | Busy | None]:
    """Remove the newest message; its element, ``b""`` if there was none.

    Raises:
        HotTierUnavailable: an answer was lost, and it is not known any more what was removed.
    """
    reply = yield from change(state, scripts.POP, keys, terms)
    if not isinstance(reply, list):
        return reply
    if reply[0] == b"forgotten":
        raise HotTierUnavailable("The newest message was removed, but Redis's answer was lost; read the history.")
    if reply[1]:
        yield ring(state, keys)
    return bytes(reply[2]) if reply[2:] else b""


def truncate(state: State, keys: SessionKeys, terms: Change, kind: str, left: int) -> Flow[int | Moved | Busy | None]:
    """Keep the first ``left`` messages; how many are left."""
    reply = yield from change(state, scripts.TRUNCATE, keys, terms, kind, left)
    if not isinstance(reply, list):
        return reply
    if reply[1]:
        yield ring(state, keys)
    return int(reply[2])


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages that stay, of those that were seen.

    Attributes:
        revision, consolidated_seq: as they were seen.
        first, last, seen: seq and message id of the first that stays, of the last, and of the last one seen.
        gone: how many of those seen go.
    """

    revision: str
    consolidated_seq: int
    first: tuple[int, str]
    last: tuple[int, str]
    seen: tuple[int, str]
    gone: int


def retain(state: State, keys: SessionKeys, terms: Change, kept: Stretch) -> Flow[int | Changed | Moved | Busy | None]:
    """Keep a stretch of the messages that were seen, and what came since; how many are left."""
    ends = (kept.first, kept.last, kept.seen)
    payload = "\n".join(f"{seq} {message_id}" for seq, message_id in ends)
    seqs = (seq for seq, _ in ends)
    seen = (kept.revision, kept.consolidated_seq)
    reply = yield from change(state, scripts.RETAIN, keys, terms, *seen, *seqs, kept.gone, payload)
    if not isinstance(reply, list):
        return reply
    if reply[0] == b"changed":
        return Changed()
    if reply[1]:
        yield ring(state, keys)
    return int(reply[2])


@dataclass(frozen=True, slots=True)
class Changed:
    """Other messages stand under another revision by now."""


@dataclass(frozen=True, slots=True)
class Below:
    """A message is not hot, but may be in the store, as of this revision."""

    revision: str


@dataclass(frozen=True, slots=True)
class Edited:
    """Seq and milliseconds of the message; 0 where only the store knows them. ``found`` is False for an unknown message."""

    found: bool
    seq: int = 0
    at_ms: int = 0


def edit(
    state: State, keys: SessionKeys, terms: Change, kind: str, message_id: str, packed: bytes, seen_under: str
) -> Flow[Edited | Below | Moved | Busy | None]:
    """Edit or remove one message; ``seen_under`` is the revision under which the store had it, ``""`` if not asked."""
    reply = yield from change(state, scripts.EDIT, keys, terms, kind, message_id, packed, seen_under)
    if not isinstance(reply, list):
        return reply
    if reply[0] == b"none":
        return Edited(found=False)
    if reply[0] == b"below":
        return Below(reply[1].decode())
    if reply[1]:
        yield ring(state, keys)
    return Edited(found=True, seq=int(reply[2] or 0), at_ms=int(reply[3] or 0))


def update(
    state: State, keys: SessionKeys, terms: Change, payload: bytes, triples: Arguments, *, activity: bool
) -> Flow[int | Moved | Busy | None]:
    """Change fields of meta, as triples of verb, field and value; the version.

    Raises:
        InvalidInput: there would be too many fields, a counter would pass 2**52, or a seq lies beyond the version.
    """
    reply = yield from change(state, scripts.UPDATE, keys, terms, payload, int(activity), MAX_FIELDS, *triples)
    if not isinstance(reply, list):
        return reply
    if reply[0] == b"large":
        raise InvalidInput(
            f"The metadata would have too many names (about {MAX_FIELDS} at most: keep them in fewer objects), "
            "or a counter would pass 2**52; nothing was written."
        )
    if reply[0] == b"beyond":
        raise InvalidInput(f"There is no message of this seq yet: the version is {int(reply[1])}; nothing was written.")
    if reply[1]:
        yield ring(state, keys)
    return int(reply[2])


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, and why it is current: ``found``, ``new``, or the reason of a reset."""

    why: str
    had_activity: bool
    info: Info


def start(
    state: State, keys: SessionKeys, terms: Change, session_id: str, payload: bytes, fields: Mapping[str, bytes | str]
) -> Flow[Opened | Moved | Busy | None]:
    """End the current session and begin another."""
    reply = yield from change(state, scripts.START, keys, terms, session_id, payload, *_flat(fields))
    if not isinstance(reply, list):
        return reply
    if reply[1]:
        yield ring(state, keys)
    return Opened("reset", reply[2] == b"1", info_of(keys, reply[3:]))


def _flat(fields: Mapping[str, bytes | str]) -> list[bytes | str]:
    return [part for pair in fields.items() for part in pair]


def info_of(keys: SessionKeys, flat: Sequence[bytes]) -> Info:
    """The session in fields of meta, from a flat reply.

    Raises:
        ValueError, KeyError, OverflowError: it is garbage; see `hydration.warm`.
    """
    return from_meta(keys.session_key, {flat[at].decode(): flat[at + 1] for at in range(0, len(flat), 2)})


def switch(
    state: State, keys: SessionKeys, terms: Change, revision: str, session_id: str, last_seq: int
) -> Flow[bool | Moved | Busy | None]:
    """Make an earlier session the current one; False if the revision is another one by now."""
    reply = yield from change(state, scripts.SWITCH, keys, terms, session_id, last_seq, revision)
    if not isinstance(reply, list):
        return reply
    if reply[0] == b"changed":
        return False
    if reply[1]:
        yield ring(state, keys)
    return True


def leave(state: State, keys: SessionKeys, terms: Change, reason: str) -> Flow[bool | Moved | Busy | None]:
    """Say that a session is not this key's any more."""
    unknown_ms = ms(state.settings.unknown_ttl)
    reply = yield from change(state, scripts.LEAVE, keys, terms, reason, unknown_ms)
    if not isinstance(reply, list):
        return reply
    if reply[1]:
        yield ring(state, keys)
    return True


def delete(state: State, keys: SessionKeys, terms: Change, *, if_current: bool) -> Flow[bool | Moved | Busy | None]:
    """Delete a session of this key; whether it was the current one."""
    unknown_ms = ms(state.settings.unknown_ttl)
    reply = yield from change(state, scripts.DELETE, keys, terms, unknown_ms, int(if_current))
    if not isinstance(reply, list):
        return reply
    if reply[1]:
        yield ring(state, keys)
    return bool(reply[2] == b"1")
