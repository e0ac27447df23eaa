"""Draining, the hot tier's half: claim dirty keys, look at their logs, acknowledge what the store has; the backlog."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sessioncache import scripts
from sessioncache.errors import HotTierRefused, InvalidKey, LayoutMismatch
from sessioncache.flow import Flow
from sessioncache.hot.change import full, ring
from sessioncache.keys import PartitionKeys, SessionKeys, check_session_key
from sessioncache.repeat import ask, ask_each, evaluate, evaluate_each
from sessioncache.state import State, ms

log = logging.getLogger("sessioncache.hot")


def claim(state: State, partitions: Sequence[PartitionKeys], limit: int, mode: str) -> Flow[list[list[str]]]:
    """Session keys of each of these partitions to drain, taken for ``visibility``; ``mode`` as in claim.lua.

    Of a partition whose keys are of other types there are none, with a warning.
    """
    args = limit, ms(state.settings.visibility), ms(state.settings.wake), mode
    found = yield from evaluate_each(state, scripts.CLAIM, [((one.dirty, one.wake), args) for one in partitions])
    return [session_keys(_of_right_type(reply, one)) for one, reply in zip(partitions, found, strict=True)]


def oldest(state: State, partition: PartitionKeys, limit: int) -> Flow[list[str]]:
    """The session keys of a partition whose first op has waited longest."""
    (members,) = yield from ask(state, (("ZRANGE", partition.oldest, 0, limit - 1),))
    return session_keys(members)


def _of_right_type(claimed: Any, partition: PartitionKeys) -> Sequence[bytes]:
    if not isinstance(claimed, HotTierRefused):
        found: list[bytes] = claimed
        return found
    if "WRONGTYPE" not in str(claimed):
        raise claimed
    log.warning("partition %d cannot be drained: %s is of a wrong type; rename it", partition.partition, partition.dirty)
    return []


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


def ack(state: State, acks: Sequence[Ack]) -> Flow[int]:
    """Remove from pending logs what the store has; the number of ops removed."""
    of_partitions: dict[int, list[Ack]] = {}
    for one in acks:
        of_partitions.setdefault(one.keys.partition, []).append(one)
    asked = [_asked(state.keyspace.of_partition(partition), some) for partition, some in of_partitions.items()]
    removed = 0
    for reply in (yield from evaluate_each(state, scripts.ACK, asked)):
        if isinstance(reply, HotTierRefused):
            raise reply
        removed += sum(reply)
    return removed


def _asked(partition: PartitionKeys, acks: Sequence[Ack]) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
    keys: list[str] = [partition.dirty, partition.dead, partition.backlog, partition.oldest]
    args: list[str | int] = []
    for one in acks:
        keys += one.keys.pending, one.keys.meta, one.keys.history, one.keys.lease
        args += one.keys.session_key, one.version, int(one.drop), len(one.refused), len(one.applied)
        args += (part for pair in one.refused for part in pair)
        args += one.applied
    return tuple(keys), tuple(args)


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
        state, scripts.REQUEUE, keys.logging, ms(settings.wake), state.bounds, keys.session_key, kind, *elements
    )
    match reply[0]:
        case b"miss":
            return None
        case b"full":
            raise full(settings, keys, reply)
        case b"ok":
            if reply[1]:
                yield ring(state, keys)
    return bool(reply[0] == b"ok")


def forget_dead(state: State, partition: PartitionKeys, letters: Sequence[bytes]) -> Flow[int]:
    """Remove dead letters; how many there were."""
    return int((yield from evaluate(state, scripts.FORGET_DEAD, (partition.dead,), *letters)))
