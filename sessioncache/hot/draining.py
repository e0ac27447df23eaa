"""Draining, the hot tier's half: claim dirty keys, look at their logs, acknowledge what the store has; the backlog."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sessioncache import scripts
from sessioncache.errors import HotTierRefused, InvalidKey, LayoutMismatch
from sessioncache.flow import Flow
from sessioncache.hot.change import full, log_keys, ring
from sessioncache.keys import PartitionKeys, SessionKeys, check_session_key
from sessioncache.repeat import ask, ask_each, evaluate
from sessioncache.state import State, ms

log = logging.getLogger("sessioncache.hot")


def claim(state: State, partition: PartitionKeys, limit: int, mode: str) -> Flow[list[str]]:
    """Session keys to drain, taken for ``visibility``; ``mode`` as in claim.lua."""
    settings = state.settings
    keys = (partition.dirty, partition.wake)
    claimed = evaluate(state, scripts.CLAIM, keys, limit, ms(settings.visibility), ms(settings.wake), mode)
    return session_keys((yield from _of_right_type(claimed, partition)) or [])


def oldest(state: State, partition: PartitionKeys, limit: int) -> Flow[list[str]]:
    """The session keys of a partition whose first op has waited longest."""
    (members,) = yield from ask(state, (("ZRANGE", partition.oldest, 0, limit - 1),))
    return session_keys(members)


def _of_right_type(asked: Flow[Any], partition: PartitionKeys) -> Flow[Any]:
    """What a script answers about a partition; None, with a warning, where its keys are of other types."""
    try:
        return (yield from asked)
    except HotTierRefused as error:
        if "WRONGTYPE" not in str(error):
            raise
        log.warning(
            "partition %d cannot be drained: %s is of a wrong type; rename it", partition.partition, partition.dirty
        )
        return None


def session_keys(members: Sequence[bytes]) -> list[str]:
    """Those that are session keys; whatever else somebody put there by hand is passed over, with a warning."""
    found = []
    for member in members:
        try:
            found.append(check_session_key(member.decode()))
        except (UnicodeDecodeError, InvalidKey):
            log.warning("an index of session keys holds %r, which is none; remove it with ZREM", member[:100])
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
    keys: list[str] = [partition.dirty, partition.dead, partition.backlog, partition.oldest]
    args: list[str | bytes | int] = []
    for one in acks:
        keys += one.keys.pending, one.keys.meta, one.keys.history, one.keys.lease
        args += one.keys.session_key, one.version, int(one.drop), len(one.refused), len(one.applied)
        args += (part for pair in one.refused for part in pair)
        args += one.applied
    removed: list[int] = yield from evaluate(state, scripts.ACK, tuple(keys), *args)
    return removed


def layout(state: State, version: int, partitions: int, *, record: bool) -> Flow[tuple[int, int] | None]:
    """Layout version and partitions that Redis was laid out for; None where nothing is recorded.

    Raises:
        LayoutMismatch: what is recorded cannot be read.
    """
    keys = (state.keyspace.layout,)
    reply = yield from evaluate(state, scripts.LAYOUT, keys, version, partitions, int(record))
    try:
        return (int(reply[0]), int(reply[1])) if reply else None
    except (ValueError, TypeError):
        raise LayoutMismatch(
            f"What {state.keyspace.layout} says of the layout cannot be read; set its fields version and partitions with "
            "HSET, to what the table layout in the database says."
        ) from None


def lengths(state: State, keys: Sequence[SessionKeys]) -> Flow[list[int]]:
    """How many ops stand in the pending logs of session keys; 0 for what is no list."""
    found = yield from ask_each(state, tuple(("LLEN", key.pending) for key in keys))
    return [0 if isinstance(length, HotTierRefused) else int(length) for length in found]


def bury(state: State, keys: SessionKeys, element: bytes) -> Flow[bool]:
    """Move what is no op from a pending log to the dead letters; whether it was there."""
    seven = (keys.pending, keys.dirty, keys.dead, keys.meta, keys.history, keys.backlog, keys.oldest)
    return bool((yield from evaluate(state, scripts.BURY, seven, keys.session_key, element)))


def requeue(state: State, keys: SessionKeys, kind: str, elements: Sequence[bytes]) -> Flow[bool | None]:
    """Put a group of ops at the end of a pending log, with new versions; False for a start where there is a session.

    Raises:
        Backpressure: too much waits for the store.
    """
    settings = state.settings
    reply = yield from evaluate(
        state, scripts.REQUEUE, log_keys(keys), ms(settings.wake), state.bounds, keys.session_key, kind, *elements
    )
    match reply[0]:
        case b"miss":
            return None
        case b"full":
            raise full(settings, keys, reply)
        case b"ok":
            yield from ring(state, keys, reply[1])
    return bool(reply[0] == b"ok")


def forget_dead(state: State, partition: PartitionKeys, letters: Sequence[bytes]) -> Flow[int]:
    """Remove dead letters; how many there were."""
    return int((yield from evaluate(state, scripts.FORGET_DEAD, (partition.dead,), *letters)))
