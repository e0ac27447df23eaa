"""The hot tier: one function for each script, from typed arguments to typed replies.

Every function is a flow. A script that finds no valid hot copy answers *miss*, which is ``None`` here; what to do about
it is the business of `read_through`. Each script is idempotent by op id, token or nature, so `repeat` may send it again.

Assumes that `Settings` and `Keyspace` are the same on every server; `startup` makes sure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sessioncache import scripts
from sessioncache.errors import Backpressure, InvalidKey
from sessioncache.flow import Flow, Ring
from sessioncache.keys import PartitionKeys, SessionKeys, check_session_key
from sessioncache.near import Copy
from sessioncache.repeat import evaluate
from sessioncache.snapshot import Snapshot
from sessioncache.state import State, ms

log = logging.getLogger("sessioncache.hot")


def _ring(state: State, keys: SessionKeys, nobody_was_about: int) -> Flow[None]:
    if nobody_was_about:
        yield Ring(state.lane_of(keys.partition))


def _five(keys: SessionKeys) -> tuple[str, ...]:
    return keys.meta, keys.history, keys.pending, keys.dirty, keys.wake


@dataclass(frozen=True, slots=True)
class Moved:
    """Another session, or none (``""``), is current; ``deleted`` is the id that was deleted last, ``""`` if unknown."""

    current: str
    deleted: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The key's version is another than the expected one."""

    version: int


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append was answered: seq and milliseconds of each message, in order, and where the session stands now."""

    before: int
    version: int
    revision: str
    total: int
    stamps: list[tuple[int, int]]


def _full(keys: SessionKeys, pending: int) -> Backpressure:
    return Backpressure(
        f"{pending} ops of session key {keys.session_key!r} wait for the store, as many as max_pending allows; "
        "see that workers run and the database is up, then try again."
    )


def append(
    state: State,
    keys: SessionKeys,
    session_id: str,
    expected_version: int | None,
    items: Sequence[tuple[str, bytes]],
) -> Flow[Appended | Moved | Conflict | None]:
    r"""Append messages, each an op id and ``<message id>\n<msgpack>``."""
    settings = state.settings
    reply = yield from evaluate(
        state, scripts.APPEND, _five(keys), state.ttl_ms(), ms(settings.wake), settings.max_pending, settings.window,
        settings.window_bytes, settings.keep_ops, keys.session_key, session_id,
        "" if expected_version is None else expected_version, *(part for item in items for part in item),
    )  # fmt: skip
    match reply[0]:
        case b"miss":
            return None
        case b"moved":
            return Moved(reply[1].decode(), reply[2].decode())
        case b"conflict":
            return Conflict(int(reply[1]))
        case b"full":
            raise _full(keys, reply[1])
    _, before, version, revision, total, nobody, *stamps = reply
    yield from _ring(state, keys, nobody)
    pairs = [(int(stamps[at]), int(stamps[at + 1])) for at in range(0, len(stamps), 2)]
    return Appended(int(before), int(version), revision.decode(), int(total), pairs)


def start(
    state: State, keys: SessionKeys, expected_id: str, session_id: str, op_id: str, owner: str, payload: bytes
) -> Flow[str | Moved | None]:
    """Start a session; its id, once it is current."""
    settings = state.settings
    reply = yield from evaluate(
        state, scripts.START, _five(keys), state.ttl_ms(), ms(settings.wake), settings.max_pending, settings.keep_ops,
        keys.session_key, expected_id, session_id, op_id, owner, payload,
    )  # fmt: skip
    match reply[0]:
        case b"miss":
            return None
        case b"moved":
            return Moved(reply[1].decode())
        case b"full":
            raise _full(keys, reply[1])
    yield from _ring(state, keys, reply[3])
    return session_id


def delete(state: State, keys: SessionKeys, session_id: str, op_id: str) -> Flow[bool | Moved | None]:
    """Delete the current session; True once it is done."""
    settings = state.settings
    reply = yield from evaluate(
        state, scripts.DELETE, _five(keys), ms(settings.unknown_ttl), ms(settings.wake), settings.max_pending,
        settings.keep_ops, keys.session_key, session_id, op_id,
    )  # fmt: skip
    match reply[0]:
        case b"miss":
            return None
        case b"moved":
            return Moved(reply[1].decode(), reply[2].decode())
        case b"full":
            raise _full(keys, reply[1])
    yield from _ring(state, keys, reply[1])
    return True


@dataclass(frozen=True, slots=True)
class Found:
    """A valid hot copy: where the session stands (``session_id`` is ``""`` for none), and all or the newer messages."""

    delta: bool
    session_id: str
    version: int
    revision: str
    total: int
    owner: str
    elements: list[bytes]


def read(state: State, keys: SessionKeys, want: int, have: Copy | None, op_id: str) -> Flow[Found | None]:
    """Read the newest ``want`` messages (-1: all that are hot), or those that came after ``have``."""
    settings = state.settings
    known = (have.session_id, have.revision, have.version, have.total) if have else ("", "", "", "")
    reply = yield from evaluate(
        state, scripts.READ, _five(keys), state.ttl_ms(), ms(settings.wake), settings.max_pending, ms(settings.touch),
        op_id, keys.session_key, want, *known,
    )  # fmt: skip
    if reply[0] == b"miss":
        return None
    kind, session_id, version, revision, total, owner, nobody, *elements = reply
    yield from _ring(state, keys, nobody)
    return Found(
        kind == b"delta",
        session_id.decode(),
        int(version),
        revision.decode(),
        int(total),
        owner.decode(),
        elements,
    )


def lease(state: State, keys: SessionKeys, token: str) -> Flow[bool | None]:
    """True: the right to hydrate is ours; False: somebody else's; None: there is nothing to hydrate."""
    four = (keys.meta, keys.history, keys.pending, keys.lease)
    reply = yield from evaluate(state, scripts.LEASE, four, token, ms(state.settings.lease))
    return None if reply[0] == b"have" else bool(reply[0] == b"ours")


def publish(state: State, keys: SessionKeys, token: str, copy: Snapshot) -> Flow[str]:
    """``ok``, ``lost`` (the lease is not ours any more) or ``dirty`` (ops came in: drain and load again)."""
    four = (keys.meta, keys.history, keys.pending, keys.lease)
    ttl_ms = state.ttl_ms() if copy.session_id else ms(state.settings.unknown_ttl)
    ops = ";".join(" ".join(f"{op_id}:{version}" for op_id, version in group) for group in copy.ops)
    reply = yield from evaluate(
        state, scripts.PUBLISH, four, token, ttl_ms, copy.session_id, copy.version, token, copy.total, copy.owner,
        copy.created_ms, copy.updated_ms, copy.accessed_ms, ops, *copy.elements,
    )  # fmt: skip
    verdict: str = reply.decode()
    return verdict


def release(state: State, keys: SessionKeys, token: str) -> Flow[None]:
    """Give the lease back, if it is still ours."""
    yield from evaluate(state, scripts.RELEASE, (keys.lease,), token)


def evict(state: State, keys: SessionKeys) -> Flow[bool]:
    """Drop the hot copy; True if there was one."""
    return bool((yield from evaluate(state, scripts.EVICT, (keys.meta, keys.history))))


def claim(state: State, partition: PartitionKeys, limit: int, mode: str) -> Flow[list[str]]:
    """Session keys to drain, taken for ``visibility``; ``mode`` as in claim.lua."""
    settings = state.settings
    keys = (partition.dirty, partition.wake)
    reply = yield from evaluate(state, scripts.CLAIM, keys, limit, ms(settings.visibility), ms(settings.wake), mode)
    return _session_keys(reply)


def _session_keys(members: Sequence[bytes]) -> list[str]:
    """Those that are session keys; whatever else somebody put there by hand is passed over, with a warning."""
    found = []
    for member in members:
        try:
            found.append(check_session_key(member.decode()))
        except (UnicodeDecodeError, InvalidKey):
            log.warning("a dirty index holds %r, which is no session key; remove it with ZREM", member[:100])
    return found


def peek(state: State, keys: Sequence[SessionKeys], max_ops: int, max_bytes: int) -> Flow[list[list[bytes]]]:
    """The heads of the pending logs of session keys of one partition, in whole groups."""
    pending = tuple(key.pending for key in keys)
    logs: list[list[bytes]] = yield from evaluate(state, scripts.PEEK, pending, max_ops, max_bytes)
    return logs


@dataclass(frozen=True, slots=True)
class Ack:
    """What the store says of one key's log: ops it has, ops it refused with a reason (by name), the key's version there.

    ``drop``: the hot copy does not tell what the store has.
    """

    keys: SessionKeys
    applied: list[str]
    refused: list[tuple[str, str]]
    version: int
    drop: bool


def ack(state: State, partition: PartitionKeys, acks: Sequence[Ack]) -> Flow[list[int]]:
    """Remove from pending logs what the store has; the number of ops removed from each."""
    keys: list[str] = [partition.dirty, partition.dead]
    args: list[str | bytes | int] = []
    for one in acks:
        keys += one.keys.pending, one.keys.meta, one.keys.history, one.keys.lease
        args += one.keys.session_key, one.version, int(one.drop), len(one.refused), len(one.applied)
        args += (part for pair in one.refused for part in pair)
        args += one.applied
    removed: list[int] = yield from evaluate(state, scripts.ACK, tuple(keys), *args)
    return removed


def layout(state: State, version: int, partitions: int, *, record: bool) -> Flow[tuple[int, int] | None]:
    """Layout version and partitions that Redis was laid out for; None where nothing is recorded."""
    keys = (state.keyspace.layout,)
    reply = yield from evaluate(state, scripts.LAYOUT, keys, version, partitions, int(record))
    return (int(reply[0]), int(reply[1])) if reply else None


def schedule(state: State, token: str, turn: float) -> Flow[bool]:
    """Whether this process runs the schedule for the next ``turn`` seconds; 0 gives it back."""
    return bool((yield from evaluate(state, scripts.SCHEDULE, (state.keyspace.schedule,), token, round(turn * 1000))))


@dataclass(frozen=True, slots=True)
class Backlog:
    """The backlog of one partition, with the names of some of its dirty session keys.

    ``overdue``: for how long a key has been due, in seconds; 0 or less if none is.
    """

    dirty: int
    dead: int
    now_ms: int
    overdue: float
    session_keys: list[str]


def stats(state: State, partition: PartitionKeys, limit: int) -> Flow[Backlog]:
    """The backlog of a partition."""
    reply = yield from evaluate(state, scripts.STATS, (partition.dirty, partition.dead), limit)
    dirty, dead, now_ms, since_ms, *session_keys = reply
    overdue = (int(now_ms) - int(since_ms)) / 1000
    return Backlog(dirty, dead, int(now_ms), overdue, _session_keys(session_keys))
